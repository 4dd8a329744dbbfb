"""Pulls models from the Hub into the user's cache: whole and checked, or not at all.

    pulled = pull(parse_address("hf:owner/name"), say=print)
    Bundle.open(pulled.folder)

First bundle.json is read and checked; it names the files, their sizes and their hashes, and nothing else is fetched but
the card, the licence and pictures. What was fetched is opened as a bundle before it gets its name, and an interrupted
pull goes on where it stopped.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsmap.common.atomic import rename_no_replace, sync_folder, sync_tree
from dsmap.common.notify import Notify
from dsmap.common.state_files import write_state
from dsmap.common.text import printable
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import Bundle, file_sha256
from dsmap.runtime.bundle.card import SAMPLES
from dsmap.runtime.bundle.manifest import MANIFEST, MAX_MANIFEST_BYTES, File, Manifest, read_manifest
from dsmap.runtime.hub.address import HubAddress
from dsmap.runtime.hub.cache import PulledModel, discard_unfinished, find_pulled, lock_repo, remember_pull
from dsmap.runtime.hub.client import Count, Hub, HubListing

DEFAULT_LIMIT = 1 << 30
"""Bytes of a model that are fetched without being asked for: twice the published network in three precisions."""
_DOCUMENTS = re.compile(r"README\.md|LICEN[CS]E(\.(md|txt))?", re.ASCII)
_PICTURES = re.compile(rf"{SAMPLES}/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}\.(jpg|jpeg|png|webp)", re.ASCII)
MAX_DOCUMENT, MAX_PICTURE, _MAX_PICTURES = 1 << 20, 4 << 20, 32
_PICTURE_BEGINS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE | re.ASCII)  # on Windows

Progress = Callable[[int, int], None]
"""Called with the bytes that are here, and those of the whole model."""


@dataclass(frozen=True, kw_only=True)
class OfferedModel:
    """A model on the Hub that was looked at: its bundle.json has passed the checks, its graphs are not here."""

    listing: HubListing
    manifest: Manifest
    manifest_bytes: bytes
    extras: dict[str, int]
    """The card, the licence and pictures, with their sizes; these may be missing."""

    @property
    def graphs(self) -> list[File]:
        """The files that bundle.json names, each once."""
        return list(dict.fromkeys(self.manifest.files()))

    @property
    def bytes(self) -> int:
        """Of all that a pull fetches."""
        return len(self.manifest_bytes) + sum(file.bytes for file in self.graphs) + sum(self.extras.values())


def look_at(hub: Hub, address: HubAddress, folder: Path, *, bundle_sha256: str | None = None) -> OfferedModel:
    """Reads and checks the bundle.json of a model on the Hub, which is written into `folder`.

    Raises InputError for a model that is none, that names files outside of its folder, or whose bundle.json is not
    that of `bundle_sha256`; else as `Hub.resolve`.
    """
    listing = hub.resolve(address)
    data = hub.read(listing, MANIFEST, limit=MAX_MANIFEST_BYTES)
    got = hashlib.sha256(data).hexdigest()
    if bundle_sha256 not in (None, got):
        raise InputError(
            f"{MANIFEST} of {listing.address} has the SHA-256 {got[:16]}..., expected {bundle_sha256[:16]}...",
            f"{hub.host} does not have the model that this dsmap knows by that name. Do not use it.",
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_state(folder / MANIFEST, data)
    manifest = read_manifest(folder)
    extras = _extras(listing)
    _check_names(listing.address, [*(file.path for file in set(manifest.files())), *extras, MANIFEST])
    return OfferedModel(listing=listing, manifest=manifest, manifest_bytes=data, extras=extras)


def pull(
    address: HubAddress,
    *,
    bundle_sha256: str | None = None,
    limit: int = DEFAULT_LIMIT,
    say: Notify = lambda _line: None,
    progress: Progress = lambda _have, _all: None,
) -> PulledModel:
    """Brings what `address` means now into the cache, unless it is there, and remembers that it means this commit.

    `bundle_sha256`: what bundle.json has to be. `limit`: most bytes of the model. `say` gets a line before anything
    large is fetched. Raises InputError for a model that is not there, is larger than `limit` or fails a check,
    DsmapError where the Hub cannot be reached, breaks off or sends what it did not promise, or the disk is full.
    """
    hub = Hub()
    with lock_repo(address.repo, say) as folder:
        commit = hub.resolve(address).address.revision
        here = find_pulled(address.at(commit), bundle_sha256=bundle_sha256)
        if here is not None:
            remember_pull(here, address.revision)
            say(f"{here.pinned} is in the cache")
            return here
        part = folder / f"{commit}.part"
        offered = look_at(hub, address.at(commit), part, bundle_sha256=bundle_sha256)
        _check_size(offered, limit, folder)
        count = len(offered.graphs) + len(offered.extras) + 1
        say(f"pulling {address} from {hub.host}: {offered.bytes / 1e6:.1f} MB in {count} files, commit {commit}")
        try:
            files = _fetch_all(hub, offered, part, progress)
            Bundle.read(part)
        except InputError:  # it is here, and is not what it should be: nothing to go on from
            shutil.rmtree(part, ignore_errors=True)
            raise
        except OSError as error:
            raise DsmapError(
                f"cannot write to {folder}: {error.strerror}", "Free disk space, then try again."
            ) from error
        pulled = PulledModel(
            repo=address.repo,
            commit=commit,
            endpoint=hub.endpoint,
            bundle_sha256=hashlib.sha256(offered.manifest_bytes).hexdigest(),
            files=files,
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        _publish(part, pulled, address.revision)
        discard_unfinished(address.repo)  # of commits that nobody waits for any more
        return pulled


def _fetch_all(hub: Hub, offered: OfferedModel, part: Path, progress: Progress) -> dict[str, int]:
    """Fetches every file into `part`; gives their sizes. A graph with a wrong hash is thrown away."""
    listing, have = offered.listing, 0
    files = {MANIFEST: len(offered.manifest_bytes)}

    def count(more: int) -> None:
        nonlocal have
        have += more
        progress(have, offered.bytes)

    for path, limit in offered.extras.items():
        is_picture = path.startswith(f"{SAMPLES}/")
        data = hub.read(listing, path, limit=limit, elsewhere=is_picture)
        if is_picture and not _PICTURE_BEGINS.match(data):
            continue
        (part / path).parent.mkdir(mode=0o700, exist_ok=True)
        write_state(part / path, data)
        files[path] = len(data)
        count(len(data))
    for file in offered.graphs:
        target = part / file.path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _fetch_graph(hub, listing, file, target, count)
        files[file.path] = file.bytes
    return files


def _fetch_graph(hub: Hub, listing: HubListing, file: File, target: Path, count: Count) -> None:
    """Fetches one file; from its beginning, where what an earlier try has left turns out not to fit."""
    goes_on = target.exists()
    hub.fetch(listing, file.path, target, size=file.bytes, count=count)
    if (got := file_sha256(target)) == file.sha256:
        return
    target.unlink()
    count(-file.bytes)
    if goes_on:
        _fetch_graph(hub, listing, file, target, count)
        return
    raise DsmapError(
        printable(f"{hub.host} sent a {file.path} with the SHA-256 {got[:16]}..., expected {file.sha256[:16]}..."),
        "It was thrown away. Try again; if it stays so, do not use this model.",
    )


def _publish(part: Path, pulled: PulledModel, revision: str) -> None:
    """Gives the finished folder its name. Files of an earlier pull that went wrong are left behind."""
    for path in [path for path in part.rglob("*") if path.is_file()]:
        if path.relative_to(part).as_posix() not in pulled.files:
            path.unlink()
    sync_tree(part)
    if pulled.folder.exists():  # and has no record
        raise InputError(f"{pulled.folder} is there, and was not pulled", "Move it away, then try again.")
    remember_pull(pulled, revision)
    rename_no_replace(part, pulled.folder)
    sync_folder(pulled.folder.parent)


def _extras(listing: HubListing) -> dict[str, int]:
    """The card, the licence and pictures of a listing, with the sizes to allow."""
    found: dict[str, int] = {}
    for path, size in sorted(listing.files.items()):
        most = MAX_DOCUMENT if _DOCUMENTS.fullmatch(path) else MAX_PICTURE if _PICTURES.fullmatch(path) else 0
        pictures = sum(name.startswith(f"{SAMPLES}/") for name in found)
        if most and 0 < (size if size is not None else most) <= most and pictures < _MAX_PICTURES:
            found[path] = size if size is not None else most
    return found


def _check_names(address: HubAddress, paths: list[str]) -> None:
    """Raises InputError for a path that is not one of a file below the folder, on any system, or is there twice."""
    seen: set[str] = set()
    for path in paths:
        parts = path.split("/")
        odd = any(not part or part[0] == "." or part[-1] in " ." or _RESERVED.fullmatch(part) for part in parts)
        if odd or re.search(r'[\\:*?"<>|]', path) or path.casefold() in seen:
            why = "twice" if path.casefold() in seen else "which is not a file of its folder"
            raise InputError(
                printable(f"{MANIFEST} of {address} names {path[:200]!r}, {why}"), "It is malicious: do not use it."
            )
        seen.add(path.casefold())
    for path in seen:  # a file where another needs a folder
        if any(other.startswith(f"{path}/") for other in seen):
            raise InputError(printable(f"{MANIFEST} of {address} names {path[:200]!r}, a folder"), "Do not use it.")


def _check_size(offered: OfferedModel, limit: int, folder: Path) -> None:
    """Raises InputError for a model above the limit, or above what the disk has room for."""
    if offered.bytes > limit:
        raise InputError(
            f"{offered.listing.address} has {offered.bytes / 1e9:.2f} GB, expected at most {limit / 1e9:.2f} GB",
            f"If you want it: dsmap models pull {offered.listing.address} --limit {-(-offered.bytes // 10**9)}",
        )
    free = shutil.disk_usage(folder).free
    if offered.bytes > free:
        raise InputError(
            f"{offered.listing.address} has {offered.bytes / 1e6:.0f} MB; {free / 1e6:.0f} MB are free at {folder}",
            "Free disk space, or set DSMAP_CACHE to a folder elsewhere.",
        )
    for file in offered.graphs:
        said = offered.listing.files.get(file.path, None)
        if file.path not in offered.listing.files:
            raise InputError(f"{offered.listing.address} lacks {printable(file.path)}", "It is incomplete.")
        if said not in (None, file.bytes):
            raise InputError(
                printable(f"{file.path} of {offered.listing.address} has {said} bytes, expected {file.bytes}"),
                "It is damaged: ask its owner to push it again.",
            )


def is_extra(path: str) -> bool:
    """Whether a file that bundle.json does not name belongs to a model: the card, the licence, or a picture."""
    return bool(_DOCUMENTS.fullmatch(path) or _PICTURES.fullmatch(path))
