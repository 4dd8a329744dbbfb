"""The web page of a server, made when it starts: that of `dsmap web`, without the model."""

from collections.abc import Callable
from pathlib import Path

from dsmap.runtime.serve.request import ServeRequest
from dsmap.runtime.web.site import SiteRequest, build_site

_ON_CPU = ("cpu", "openvino")


def make_site(request: ServeRequest, folder: Path, backend_name: str, notify: Callable[[str], None]) -> Path:
    """Writes the page into the empty folder `folder`.

    `backend_name`: what translates. `notify` gets a line about what takes long, or is missing.
    Raises DsmapError where the disk is full.
    """
    limits = request.limits
    server = {
        "api": "v1",
        "token": request.token is not None,
        "sessions": request.sessions,
        "backend": backend_name,
        "fast": backend_name not in _ON_CPU,
        "image_bytes": limits.image_bytes,
        "video_bytes": limits.video_bytes,
        "pixels": limits.pixels,
        "video_seconds": limits.video_seconds,
    }
    return build_site(SiteRequest(bundle=request.bundle, out=folder, server=server), notify).folder
