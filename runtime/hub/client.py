"""Reads from the Hugging Face Hub with bounds on everything: whatever a server sends, it is never more than was asked.

    hub = Hub()
    listing = hub.resolve(address)                         # the commit, and its files with their sizes
    data = hub.read(listing, "bundle.json", limit=8 << 20)
    hub.fetch(listing, "decoder.winter.onnx", path, size=1034736)        # goes on where it was interrupted

huggingface_hub has the token, the proxy, the endpoint (HF_ENDPOINT), the offline mode (HF_HUB_OFFLINE) and the meaning
of error codes. Its own downloads take what the server sends, to the last byte, and begin again after an interruption,
so that files are read here.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from dsmap import __version__
from dsmap.common.strict_json import parse_json
from dsmap.common.text import without_passwords
from dsmap.errors import DsmapError
from dsmap.runtime.hub.address import HubAddress, is_commit
from dsmap.runtime.hub.client_errors import HubError, explained_for, missing_package, odd_answer
from dsmap.runtime.hub.deadline import opened_within
from dsmap.runtime.hub.settings import check_endpoint, check_token, is_web_address

Count = Callable[[int], None]
"""Called with the number of bytes that have come since the last call."""
_MAX_LISTING = 16 << 20
_REDIRECTS = 5
_TRIES = 5  # without a single byte in between
_PAUSE = 0.1  # seconds, doubled from try to try
_SECONDS = 10.0  # without a byte
_HEAD_SECONDS = 60.0  # for all headers of an answer
_MAX_SECONDS = 120.0  # for a small file: others wait for the lock meanwhile


@dataclass(frozen=True)
class HubListing:
    """One commit of a model on the Hub."""

    address: HubAddress
    """With the commit as its revision."""
    files: Mapping[str, int | None]
    """Sizes in bytes by path, as far as the server tells them: only a hint."""


class Hub:
    """The Hub that HF_ENDPOINT names, or huggingface.co. Raises DsmapError where huggingface_hub is not installed."""

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before it is imported
        try:
            check_endpoint(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")  # it is imported with this
            from huggingface_hub import constants, get_token, utils
        except ImportError as error:
            raise missing_package() from error
        check_token(get_token())
        self.offline: bool = constants.HF_HUB_OFFLINE
        self._address: str = constants.ENDPOINT
        self._utils: Any = utils

    @property
    def endpoint(self) -> str:
        """Its address, such as https://huggingface.co, without user and password: for messages and records."""
        parts = urlsplit(self._address)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def host(self) -> str:
        """For messages."""
        return urlsplit(self.endpoint).netloc

    def resolve(self, address: HubAddress) -> HubListing:
        """The commit that `address` means now, and its files.

        Raises InputError for a model or revision that is not there, or that its owner has to open, DsmapError where
        the Hub cannot be reached.
        """
        revision = quote(address.revision, safe="")
        url = f"{self._address}/api/models/{address.repo}/revision/{revision}?blobs=true"
        what = f"what {self.host} says of {address}"
        tree = parse_json(self._read(url, address, _MAX_LISTING, what), what=what, advice="Try again later.")
        try:
            commit = tree["sha"]
            files = {str(one["rfilename"]): one.get("size") for one in tree["siblings"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise odd_answer(self.host, "no list of files") from error
        if not isinstance(commit, str) or not is_commit(commit):
            raise odd_answer(self.host, "no commit")
        if is_commit(address.revision) and commit != address.revision:
            raise odd_answer(self.host, f"the commit {commit} for {address.revision}")
        sizes = {name: size if isinstance(size, int) else None for name, size in files.items()}
        return HubListing(address.at(commit), sizes)

    def read(self, listing: HubListing, path: str, *, limit: int, elsewhere: bool = False) -> bytes:
        """A small file, of at most `limit` bytes; without `elsewhere` from the Hub itself. Raises as `resolve`.

        The Hub keeps texts itself, and everything else with others, whose word counts for nothing without a hash.
        """
        what = f"{path} of {listing.address}"
        return self._read(self._url(listing, path), listing.address, limit, what, elsewhere=elsewhere)

    def fetch(self, listing: HubListing, path: str, to: Path, *, size: int, count: Count = lambda _bytes: None) -> None:
        """Downloads a file of exactly `size` bytes to `to`, from the Hub or where that sends us.

        What is in `to` already is taken for the beginning. Its hash is the caller's to check. Raises as `resolve`;
        what has come until then stays in `to`.
        """
        have = to.stat().st_size if to.exists() else 0
        if have > size:
            to.unlink()
            have = 0
        count(have)
        tries = 0
        while have < size or not to.exists():
            before = have
            try:
                with explained_for(listing.address, self.endpoint):
                    have = self._append(self._url(listing, path), to, have, size, count)
            except DsmapError as error:
                have = to.stat().st_size if to.exists() else 0
                tries = 0 if have > before else tries + 1
                if error.exit_code != DsmapError.exit_code or tries >= _TRIES or not getattr(error, "passing", False):
                    raise
                time.sleep(_PAUSE * 2**tries)

    def _append(self, url: str, to: Path, have: int, size: int, count: Count) -> int:
        """One request for the rest of a file. Gives its size then, which is less where the connection ended early."""
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._get(url, headers, elsewhere=True) as response:
            if have and response.status_code != 206:  # this server begins again
                count(-have)
                have = 0
            elif have and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
                raise odd_answer(self.host, "another part of the file than was asked for")
            with to.open("ab" if have else "wb") as file:
                for chunk in response.iter_raw():
                    if have + len(chunk) > size:
                        raise odd_answer(self.host, f"more than the {size} bytes that {to.name} has")
                    file.write(chunk)
                    have += len(chunk)
                    count(len(chunk))
        if have < size:
            raise odd_answer(self.host, f"{have} bytes of {to.name}, expected {size}", passing=True)
        return have

    def _read(self, url: str, address: HubAddress, limit: int, what: str, *, elsewhere: bool = False) -> bytes:
        """A small file, in several tries where the Hub is busy. A network that is not there is told at once."""
        import httpx2

        for tried in range(1, _TRIES):
            try:
                return self._read_once(url, address, limit, what, elsewhere)
            except HubError as error:
                if not error.passing or isinstance(error.__cause__, httpx2.TransportError):
                    raise
            time.sleep(_PAUSE * 2**tried)
        return self._read_once(url, address, limit, what, elsewhere)

    def _read_once(self, url: str, address: HubAddress, limit: int, what: str, elsewhere: bool) -> bytes:
        until = time.monotonic() + _MAX_SECONDS
        with explained_for(address, self.endpoint), self._get(url, {}, elsewhere=elsewhere) as response:
            data = bytearray()
            for chunk in response.iter_raw():
                if time.monotonic() > until:
                    raise odd_answer(self.host, f"{what} for more than {_MAX_SECONDS:.0f} s")
                data += chunk
                if len(data) > limit:
                    raise odd_answer(self.host, f"more than {limit} bytes as {what}")
            expected = response.headers.get("Content-Length", str(len(data)))
            if expected != str(len(data)):
                raise odd_answer(self.host, f"{len(data)} bytes as {what}, expected {expected}")
        return bytes(data)

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str], *, elsewhere: bool) -> Iterator[Any]:
        """A GET request, its redirections followed: to another server only with `elsewhere`, and without the token."""
        utils, home = self._utils, _origin(self._address)
        own = utils.build_hf_headers(library_name="dsmap", library_version=__version__)
        for _ in range(_REDIRECTS):
            sent = {"Accept-Encoding": "identity", **own, **headers}
            if _origin(url) != home:
                sent.pop("authorization", None)
            asked = utils.get_session().stream("GET", url, headers=sent, follow_redirects=False, timeout=_SECONDS)
            late = odd_answer(self.host, f"headers without end for {_HEAD_SECONDS:g} s")
            with opened_within(asked, _HEAD_SECONDS, late) as response:
                if not response.has_redirect_location:
                    if response.is_error:
                        utils.hf_raise_for_status(_without_body(response))
                    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
                        raise odd_answer(self.host, f"a compressed answer ({encoding[:40]}), which was not asked for")
                    yield response
                    return
                location = response.headers["Location"]
            url = self._redirected(url, location)
            if not elsewhere and _origin(url) != home:
                raise odd_answer(self.host, f"a redirection to another server, {_origin(url)}")
        raise odd_answer(self.host, f"more than {_REDIRECTS} redirections")

    def _redirected(self, url: str, location: str) -> str:
        """Where `location` leads from `url`: to an address that is one, and not from https to http."""
        try:
            target = urljoin(url, location)
            if is_web_address(target) and not (target.startswith("http:") and url.startswith("https:")):
                return target
        except ValueError:
            pass
        raise odd_answer(self.host, f"a redirection to {without_passwords(location)[:200]}")

    def _url(self, listing: HubListing, path: str) -> str:
        return f"{self._address}/{listing.address.repo}/resolve/{listing.address.revision}/{quote(path)}"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port not in (None, {"http": 80, "https": 443}.get(parts.scheme)) else ""
    return f"{parts.scheme}://{(parts.hostname or '').lower()}{port}"


def _without_body(response: Any) -> Any:
    """An error, as its headers tell it. huggingface_hub would read its text to the end, which need not come."""
    import httpx2

    told = {name: value for name, value in response.headers.items() if name.lower().startswith("x-error-")}
    return httpx2.Response(response.status_code, headers=told, content=b"", request=response.request)
