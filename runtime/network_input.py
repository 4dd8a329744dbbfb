"""Addresses of videos: what they are, how they are shown without their secrets, and how they are opened."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.container import InputContainer

from dsmap.errors import InputError

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "srt", "tcp", "rtp")
WEB = ("http", "https")
# What an address may lead to: never to files of this machine.
_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,srtp,rtmp,rtmps,rtmpt,rtsp,rtsps,srt,crypto,data"

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How long to wait for an address, in seconds, and how often to try again."""

    open_seconds: float = 10.0
    """For the connection and the first packets."""
    read_seconds: float = 10.0
    """Without any data, after which the connection counts as broken."""
    tries: int = 5
    """To connect again, in a row."""
    first_pause: float = 0.5
    """Before the first try; each pause after it is twice as long."""
    longest_pause: float = 8.0


def is_address(source: str | Path) -> bool:
    """Whether `source` is an address (`scheme://...`) and not a path."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def shown(address: str) -> str:
    """`address` without user name, password and query, which hold secrets."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")) + ("?..." if parts.query else "")


def name_of(address: str) -> str:
    """A file name without a suffix for what comes from `address`: the last part of its path, or the host."""
    parts = urlsplit(address)
    last = Path(unquote(parts.path)).stem or parts.netloc.rpartition("@")[2].partition(":")[0]
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "stream"


def open_address(address: str, settings: NetworkSettings) -> InputContainer:
    """Raises InputError when there is no answer, or no video."""
    began = time.monotonic()
    try:
        return av.open(
            address,
            metadata_errors="replace",
            options=_options(urlsplit(address).scheme.lower(), settings),
            timeout=(settings.open_seconds, settings.read_seconds),
        )
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        patience = 0.9 * min(settings.open_seconds, settings.read_seconds)
        silent = isinstance(error, av.error.ExitError | TimeoutError) or time.monotonic() - began > patience
        raise _explained(address, error, silent=silent) from None  # the error's text holds the whole address


def _options(scheme: str, settings: NetworkSettings) -> dict[str, str]:
    patience = str(round(settings.read_seconds * 1_000_000))
    options = {"protocol_whitelist": _PROTOCOLS}
    if scheme in WEB:  # a break within a file is mended by FFmpeg: it asks for the rest of the bytes
        # FFmpeg 8.1 also goes on with connections that the server has closed: the last one covers that.
        options |= dict.fromkeys(("reconnect", "reconnect_streamed", "reconnect_on_network_error"), "1")
        options |= {"reconnect_delay_max": "2", "rw_timeout": patience}  # after a second, it is our turn
    elif scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_transport": "tcp", "timeout": patience}  # over UDP, packets get lost
    elif scheme in ("udp", "rtp", "srt"):
        options |= {"timeout": patience}
    else:
        options |= {"rw_timeout": patience}
    return options


def _explained(address: str, error: BaseException, *, silent: bool) -> InputError:
    name = shown(address)
    if silent:
        return InputError(f"{name} does not answer", "check the address, the network and the sender")
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return InputError(
            f"{name} asks for a user name and a password", "write them as scheme://user:password@host/..."
        )
    reason = getattr(error, "strerror", None) or "it cannot be read"
    return InputError(f"{name} cannot be opened: {reason}", "check the address, and that it is that of a video")
