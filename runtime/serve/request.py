"""What a server is asked to do: the model, where it listens, who may use it, and its limits."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from dsmap.common.files import read_regular
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import Bundle

_SHORTEST_TOKEN = 16
_TOKEN_FILE_BYTES = 4096
_MB, _GB = 1 << 20, 1 << 30


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What one client, and all of them together, may use up."""

    image_bytes: int = 64 * _MB
    """Of an uploaded image."""
    video_bytes: int = 2 * _GB
    """Of an uploaded video."""
    pixels: int = 40_000_000
    """Of an image or a frame of a video; checked before it is decoded."""
    video_seconds: float = 1800.0
    """Of a video, by its own clock. Frames are limited too: 60 for each of these seconds."""
    job_seconds: float = 7200.0
    """That a job may take; then it is cancelled."""
    jobs: int = 8
    """Waiting and running at once."""
    disk_bytes: int = 20 * _GB
    """Of all uploads and results together."""
    disk_reserve: int = _GB
    """That stays free on the disk."""
    keep_seconds: float = 3600.0
    """Before a result is deleted."""
    idle_seconds: float = 30.0
    """Without a byte, after which an upload is given up."""

    @property
    def video_frames(self) -> int:
        """Of a video."""
        return int(self.video_seconds * 60)


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """Everything that a server needs to know. Raises InputError for an open address without a token."""

    bundle: Bundle
    host: str = "127.0.0.1"
    """The address to listen on; other than this machine's own needs a token."""
    port: int = 8000
    """0: any free one."""
    token: str | None = field(default=None, repr=False)
    """What clients must know; None: whoever reaches the address may use the server."""
    allow_hosts: tuple[str, ...] = ()
    """Further names that the server is reached by, such as that of a proxy in front of it."""
    sessions: int = 2
    """Translators at once: live viewers and images that are being translated."""
    backend: str = "auto"
    precision: str = "auto"
    cuda_binding: str = "auto"
    trust_engines: bool = False
    limits: ServeLimits = ServeLimits()

    def __post_init__(self) -> None:
        if self.token is not None and (len(self.token) < _SHORTEST_TOKEN or not _is_plain(self.token)):
            raise InputError(
                f"the token has {len(self.token)} characters, expected at least {_SHORTEST_TOKEN} letters and digits",
                "Use a longer one; openssl rand -hex 16 makes one.",
            )
        if self.token is None and not is_loopback(self.host):
            raise InputError(
                f"--host {self.host} lets other machines in, and there is no token",
                "Set the environment variable DSMAP_TOKEN (openssl rand -hex 16 makes one), or leave out --host.",
            )


def read_token(token: str | None, file: Path | None) -> str | None:
    """`token`, or the text of `file`, which is how containers get secrets. Raises InputError for both of them, and for
    a file that is empty or cannot be read."""
    if file is None:
        return token
    if token is not None:
        raise InputError("a token and a token file were both given", "Pass one: --token (DSMAP_TOKEN) or --token-file.")
    text = read_regular(file, limit=_TOKEN_FILE_BYTES, what="the token file").decode("utf-8", "replace").strip()
    if not text:
        raise InputError(f"the token file {file} is empty", "Put a token there; openssl rand -hex 16 makes one.")
    return text


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_plain(token: str) -> bool:
    """Whether it can stand in a header as it is."""
    return token.isascii() and token.isprintable() and " " not in token
