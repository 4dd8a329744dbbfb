"""Checks what huggingface_hub takes from the user's settings without a look: the endpoint and the token."""

from urllib.parse import urlsplit

from dsmap.common.text import printable, without_passwords
from dsmap.errors import InputError
from dsmap.runtime.hub.client_errors import LOG_IN


def is_web_address(text: str) -> bool:
    """Whether `text` is an http or https address with a host, and a port that can be one."""
    if not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        (parts.hostname or "").encode("idna")  # as the network does: refuses names that are too long
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def check_endpoint(text: str) -> None:
    """Raises InputError for an HF_ENDPOINT that is no address."""
    if not is_web_address(text):
        raise InputError(
            f"HF_ENDPOINT is no address of a hub: {printable(without_passwords(text))[:200]!r}",
            "Write it as https://HOST, or unset it for huggingface.co.",
        )


def check_token(token: str | None) -> None:
    """Raises InputError for a token that no request can carry."""
    if token is not None and not (token.isascii() and token.isprintable()):
        raise InputError("your token has characters that no token has", f"Set HF_TOKEN to it again, or {LOG_IN}.")
