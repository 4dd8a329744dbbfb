"""Addresses of videos: recognising and checking them, and showing them without their secrets."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from dsmap.errors import InputError

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "srt", "tcp", "rtp")
WEB = ("http", "https")

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_ALMOST_ADDRESS = re.compile(rf"\W*({'|'.join(SCHEMES)})\s*:", re.IGNORECASE)
_NO_SCHEME = re.compile(r"[^\s/\\:@]{2,}:[^@]*@[^@]+")  # USER:PASSWORD@HOST; two letters at least: C:\ is no user
_ADVICE = "in a user name or password write / as %2F, ? as %3F, # as %23, [ as %5B, ] as %5D, @ as %40 and % as %25"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Timeouts, in seconds, and how often to try again."""

    open_seconds: float = 10.0
    """To connect, and again for the first packets."""
    read_seconds: float = 10.0
    """Without data, after which the connection counts as broken."""
    frame_seconds: float = 20.0
    """For the first frame, and between two: a stream that sends data for so long and no frame has failed."""
    tries: int = 5
    """Consecutive attempts to reconnect."""
    first_pause: float = 0.5
    """Before the first attempt; each later pause is twice as long."""
    longest_pause: float = 8.0


class _Parts(NamedTuple):
    """The parts of an address that may be shown."""

    scheme: str
    host: str
    """With the port; empty where it cannot be distinguished from a password."""
    path: str
    has_query: bool


def is_address(source: str | Path) -> bool:
    """Whether `source` is an address (`scheme://...`) and not a path."""
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def scheme_of(address: str) -> str:
    """In lower case; empty if `address` is not an address."""
    return address.partition("://")[0].lower() if is_address(address) else ""


def shown(address: str) -> str:
    """`address` without user name, password and query, which may be secret.

    A password may contain any character, even `/`, `?`, `#`, `[` and `@`: everything up to the last `@` is removed, and
    where that could leave a part of it, everything but the scheme.
    """
    scheme, host, path, has_query = _parts(address)
    return f"{scheme}://{host}{path}{'?...' if has_query else ''}" if host or path else f"{scheme}://..."


def name_of(address: str) -> str:
    """A file name without a suffix for what comes from `address`: the last part of its path, or the host."""
    _, host, path, _ = _parts(address)
    last = Path(unquote(path)).stem or host.partition(":")[0]
    return re.sub(r"[^\w.-]+", "-", last).strip(".-")[:100] or "stream"


def check_address(address: str) -> None:
    """Raise InputError unless `address` is of a supported kind and well formed."""
    scheme = scheme_of(address)
    if scheme not in SCHEMES:
        raise InputError(
            f"{shown(address)}: {scheme or 'this'} is not a supported kind of address",
            f"use one of {', '.join(f'{known}://' for known in SCHEMES)}, or the path of a file",
        )
    if re.search(r"[\x00-\x1f\x7f]", address):
        raise InputError(f"{shown(address)} contains a control character (a line break?)", "type the address again")
    if _has_odd_password(address):
        raise InputError(f"{shown(address)}: its user name or password has a / ? or #, which ends the host", _ADVICE)


def check_not_almost_address(source: str | Path) -> None:
    """Raise InputError for a malformed address (without `scheme://`), which could contain a password."""
    match = _ALMOST_ADDRESS.match(str(source))
    if match and not os.path.lexists(source):
        scheme = match[1].lower()
        raise InputError(
            f"an address that begins with {scheme}: is not written correctly",
            f"write {scheme}://USER:PASSWORD@HOST/..., with two slashes and nothing before it",
        )
    if _NO_SCHEME.match(str(source)) and not os.path.lexists(source):
        raise InputError(
            "there is no such file; it looks like an address with a password but without a scheme",
            "write rtsp://USER:PASSWORD@HOST/... (or http://, ...), or check the spelling",
        )


def advice_for(address: str) -> str:
    """Advice for an address that cannot be opened."""
    advice = "check the address, and that it is that of a video"
    authority = re.split(r"[/?#]", _rest(address), maxsplit=1)[0]
    if "@" in _rest(address)[len(authority) :] or re.search(r"[\[\]].*@|@.*@", authority):
        return f"{advice}; {_ADVICE}"
    return advice


def with_password(address: str, variable: str, option: str) -> str:
    """`address` with the password that the environment variable holds, for its user name. Raises InputError.

    This keeps the password off the command line, which every user of the machine can read.
    """
    password = os.environ.get(variable)
    if not password:
        raise InputError(f"{option}: the environment variable {variable} is not set or empty", "set and export it")
    scheme, _, rest = address.partition("://")
    if scheme.lower() == "srt":
        return f"{address}{'&' if '?' in rest else '?'}passphrase={quote(password, safe='')}"
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if not at or not user or ":" in user:
        fact = "already has a password" if at and ":" in user else "has no user name"
        raise InputError(f"{option} was passed, but {shown(address)} {fact}", f"write {scheme}://USER@HOST/...")
    # FFmpeg decodes %2F and the like for all but RTMP.
    written = password if scheme.lower().startswith("rtmp") else quote(password, safe="")
    if re.search(r"[/?#]", written):
        raise InputError(f"{option}: an {scheme} password cannot contain / ? or #", "choose another password")
    return f"{scheme}://{user}:{written}{rest[len(user) :]}"


def with_passwords(sources: Sequence[str], variable: str | None, option: str) -> list[str]:
    """`sources`, with the environment variable's password inserted into addresses. Raises InputError."""
    if variable is None:
        return list(sources)
    if not any(is_address(source) for source in sources):
        raise InputError(
            f"{option} was passed without an address", "leave it out, or pass an address such as rtsp://..."
        )
    return [with_password(source, variable, option) if is_address(source) else source for source in sources]


def _rest(address: str) -> str:
    return address.partition("://")[2]


def _parts(address: str) -> _Parts:
    match = _ADDRESS.match(address)
    scheme, rest = (match[1], match[2]) if match else ("", "")
    hidden, at, after = rest.rpartition("@")
    if at and re.search(r"[?#]", hidden) and not _has_odd_password(address):
        return _Parts(scheme, "", "", has_query=False)  # the @ may be a query's, and what follows it a password
    after, question, _ = after.partition("?")
    host, slash, path = after.partition("#")[0].partition("/")
    parts = f"{slash}{path}".split("/")
    secret = next((index for index, part in enumerate(parts) if re.search(r"[=&;]", part)), None)
    if secret is not None:  # such as /user=admin&password=...
        parts = [*parts[:secret], "..."]
    return _Parts(scheme, host, "/".join(parts), has_query=bool(question))


def _has_odd_password(address: str) -> bool:
    """Whether the `/`, `?` or `#` after the host belongs to a password, so that it is not the host that precedes it."""
    rest = _rest(address)
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in rest[len(authority) :]:
        return False
    host = authority.rpartition("@")[2]
    return re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?", host) is None
