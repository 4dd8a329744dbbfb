"""Addresses of Triton servers: grpc://HOST:8001, or grpcs://HOST:8001 for TLS."""

from typing import NamedTuple
from urllib.parse import urlsplit

from dsmap.common.text import printable
from dsmap.errors import InputError

DEFAULT_PORT = 8001
_EXAMPLE = "grpc://HOST:8001, or grpcs://HOST:8001 for TLS"


class TritonAddress(NamedTuple):
    """Where a server listens for gRPC."""

    target: str
    """HOST:PORT, as gRPC takes it."""
    tls: bool

    def __str__(self) -> str:
        return f"{'grpcs' if self.tls else 'grpc'}://{self.target}"


def parse_address(text: str, option: str = "--remote") -> TritonAddress:
    """The address that a user has written; without a port, Triton's usual one. Raises InputError that names `option`.

    No messages show user names and passwords: they are refused.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number, brackets that do not match
        raise InputError(f"{option} is not a valid address", f"Use {_EXAMPLE}.") from None
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{option} has a user name or a password, which Triton does not take", f"Use {_EXAMPLE}.")
    shown = printable(text)[:200]
    if parts.scheme in ("http", "https"):
        raise InputError(f"{option} {shown} is an HTTP address", f"Triton is reached by gRPC: use {_EXAMPLE}.")
    if parts.scheme not in ("grpc", "grpcs") or not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise InputError(f"{option} {shown} is not the address of a Triton server", f"Use {_EXAMPLE}.")
    if port == 0:
        raise InputError(f"{option} {shown} has port 0, where nothing listens", f"Use {_EXAMPLE}.")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise InputError(f"{option} {shown} is not a valid address", f"Use {_EXAMPLE}.")
    host = f"[{host}]" if ":" in host else host
    return TritonAddress(f"{host}:{DEFAULT_PORT if port is None else port}", parts.scheme == "grpcs")
