"""Explains errors of the Hub, and of the way to it, to people."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from dsmap.common.text import printable, without_passwords
from dsmap.errors import DsmapError, InputError, first_line
from dsmap.runtime.hub.address import HubAddress

LOG_IN = "hf auth login (or set HF_TOKEN)"


class HubError(DsmapError):
    """The Hub, or the way to it, has failed."""

    passing = False
    """Whether it may work the next moment."""


def missing_package() -> DsmapError:
    """For a Python without huggingface_hub."""
    return DsmapError("huggingface_hub is not installed", "pip install 'dsmap[hub]'")


def odd_answer(host: str, got: str, *, passing: bool = False) -> HubError:
    """For a server that does not keep to what it is asked, or to what it has said."""
    error = HubError(printable(f"{host} sent {got}"), "Try again; if it stays so, do not use this model.")
    error.passing = passing
    return error


@contextmanager
def explained_for(address: HubAddress, endpoint: str) -> Iterator[None]:
    """Turns errors of huggingface_hub and of the network into ours: InputError for what the user can change."""
    import httpx2
    from huggingface_hub import errors

    host = urlsplit(endpoint).netloc
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise HubError(
            f"{address} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it",
            f"With a network, and without HF_HUB_OFFLINE: dsmap models pull {address}",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refusal(error, address, endpoint) from error
    except httpx2.InvalidURL as error:
        raise odd_answer(host, "an address that is none") from error
    except httpx2.TransportError as error:
        reason = without_passwords(first_line(error)) or type(error).__name__
        trouble = HubError(
            printable(f"cannot reach {host}, or the connection broke: {reason}"),
            "Check the network, then run the same command: what has come is kept.",
        )
        trouble.passing = not isinstance(error, httpx2.UnsupportedProtocol)
        raise trouble from error


def _refusal(error: Any, address: HubAddress, endpoint: str) -> DsmapError:
    """An answer of the Hub that is an error, for people."""
    from huggingface_hub import errors, get_token

    host = urlsplit(endpoint).netloc
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{address} is gated: {host} gives it only to those who have accepted its terms",
            f"Accept them on {endpoint}/{address.repo}, then {LOG_IN}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(
            f"{address.repo} has no revision {address.revision}", f"See {endpoint}/{address.repo}/commits"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        advice = "Check the name." if get_token() else f"Check the name. If it is private: {LOG_IN}."
        return InputError(f"{host} has no model {address.repo}, or does not show it to you", advice)
    if isinstance(error, errors.RemoteEntryNotFoundError):
        path = urlsplit(str(error.response.url)).path.rpartition("/")[2]
        return InputError(
            f"{address} has no {printable(path[:200])}", "It is no model for dsmap, or an incomplete one."
        )
    return _status(error.response.status_code, error.server_message or "", host)


def _status(code: int, said: str, host: str) -> DsmapError:
    shown = f" ({printable(first_line(said)[:200])})" if said else ""
    if code == 401:
        return InputError(f"{host} does not accept your token{shown}", f"Log in again: {LOG_IN}")
    if code == 403:
        return InputError(f"{host} forbids this with your token{shown}", f"Use one that may: {LOG_IN}")
    error = HubError(f"{host} answered {code}{shown}", "Try again later.")
    error.passing = code in (408, 429, 500, 502, 503, 504)
    return error
