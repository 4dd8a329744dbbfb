"""The web page of a server, made when it starts."""

from pathlib import Path

from dsmap.runtime.serve.request import ServeRequest


def build_site(request: ServeRequest, folder: Path) -> Path | None:
    """Writes the page into `folder`; None where there is none."""
    return None
