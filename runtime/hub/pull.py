"""Pulls models from the Hub into the user's cache: whole and checked, or not at all.

    pulled = pull(parse_address("hf:owner/name"), say=print)
    Bundle.open(pulled.folder)

First bundle.json is read and checked; it names the files, their sizes and their hashes, and nothing else is fetched but
the card, the licence and pictures. What was fetched is opened as a bundle before it gets its name, and an interrupted
pull goes on where it stopped.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsmap.common.atomic import rename_no_replace, sync_folder, sync_tree
from dsmap.common.notify import Notify
from dsmap.common.state_files import write_state
from dsmap.common.strict_json import parse_json
from dsmap.common.text import printable
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import ENGINES, Bundle, file_sha256
from dsmap.runtime.bundle.manifest import ADVICE, MANIFEST, MAX_MANIFEST_BYTES, File, Manifest, parse_manifest
from dsmap.runtime.hub.address import HubAddress
from dsmap.runtime.hub.cache import (
    PulledModel,
    cannot_write,
    check_owned,
    check_states,
    commit_of,
    discard_unfinished,
    find_whole,
    holds,
    lock_repo,
    owned_files,
    remember_pull,
    repo_folder,
)
from dsmap.runtime.hub.client import Count, Hub, HubListing
from dsmap.runtime.hub.contents import GRAPH_SUFFIX, MAX_IMAGES, begins_as_image, is_image, is_portable, most_bytes

DEFAULT_LIMIT = 1 << 30
"""Bytes of a model that are fetched without being asked for: twice the published network in three precisions."""
_NOT_OURS = "It is damaged, or no model for dsmap: ask its owner to push it again."

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


def read_offer(hub: Hub, listing: HubListing, *, bundle_sha256: str | None = None) -> OfferedModel:
    """Reads and checks the bundle.json of a model on the Hub. Nothing is written.

    Raises InputError for a model that is none, that names files outside of its folder, or whose bundle.json is not
    that of `bundle_sha256`; else as `Hub.resolve`.
    """
    data = hub.read(listing, MANIFEST, limit=MAX_MANIFEST_BYTES)
    got = hashlib.sha256(data).hexdigest()
    if bundle_sha256 not in (None, got):
        raise InputError(
            f"{MANIFEST} of {listing.address} has the SHA-256 {got[:16]}..., expected {bundle_sha256[:16]}...",
            f"{hub.host} does not have the model that this dsmap knows by that name. Do not use it.",
        )
    shown = f"{MANIFEST} of {listing.address}"
    with _blamed_on_owner():
        tree = parse_json(data, what=f"the manifest {shown}", advice=ADVICE)
        manifest = parse_manifest(tree, str(listing.address), shown)
    extras = _extras(listing)
    graphs = sorted({file.path for file in manifest.files()})
    _check_names(listing.address, graphs, [*extras, MANIFEST])
    return OfferedModel(listing=listing, manifest=manifest, manifest_bytes=data, extras=extras)


def pull(
    address: HubAddress,
    *,
    bundle_sha256: str | None = None,
    limit: int = DEFAULT_LIMIT,
    say: Notify = lambda _line: None,
    progress: Progress = lambda _have, _total: None,
) -> PulledModel:
    """Brings the model that `address` means now into the cache, if it is not there yet, or not whole any more.

    `bundle_sha256`: what the SHA-256 of its bundle.json has to be. `say` gets a line before anything
    large is fetched. Raises InputError for a model that is not there, is larger than `limit` or fails a check,
    DsmapError where the Hub cannot be reached, breaks off or sends what it did not promise, or the disk is full.
    """
    hub = Hub()
    listing = hub.resolve(address)
    commit = listing.address.revision
    try:
        here = find_whole(listing.address, bundle_sha256=bundle_sha256)
        if (
            here is None or commit_of(address) != commit
        ):  # else there is nothing to write: no lock, a cache may be read-only
            with lock_repo(address.repo, say) as folder:
                here = find_whole(listing.address, bundle_sha256=bundle_sha256)
                check_states(address.repo, commit)
                if here is None:
                    offered = read_offer(hub, listing, bundle_sha256=bundle_sha256)
                    return _bring(hub, offered, address, folder, limit=limit, say=say, progress=progress)
                remember_pull(here, address.revision)
    except OSError as error:
        raise cannot_write(repo_folder(address.repo), error) from error
    say(f"{here.pinned} is in the cache")
    return here


def _bring(
    hub: Hub, offered: OfferedModel, address: HubAddress, folder: Path, *, limit: int, say: Notify, progress: Progress
) -> PulledModel:
    """Fetches what of a model is not in the repository's `folder`. The caller holds the lock."""
    commit = offered.listing.address.revision
    part, place = folder / f"{commit}.part", folder / commit
    adopted = os.path.lexists(place) and _take_over(offered, place, part)
    if adopted:
        files = owned_files(place)
        say(f"{offered.listing.address} is in the cache")
    else:
        _check_size(offered, limit, folder)
        count = len(offered.graphs) + len(offered.extras) + 1
        say(f"pulling {address} from {hub.host}: {offered.bytes / 1e6:.1f} MB in {count} files, commit {commit}")
        files = _fetch_all(hub, offered, part, progress)
        _check_content(offered, part)
    pulled = PulledModel(
        repo=address.repo,
        commit=commit,
        endpoint=hub.endpoint,
        bundle_sha256=hashlib.sha256(offered.manifest_bytes).hexdigest(),
        files=files,
        pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if adopted:
        remember_pull(pulled, address.revision)
    else:
        _publish(part, pulled, address.revision)
    discard_unfinished(address.repo)  # of commits that nobody waits for any more
    return pulled


def _take_over(offered: OfferedModel, place: Path, part: Path) -> bool:
    """Whether the model in `place`, which no record vouches for, is what is offered, and whole.

    If not, what a pull has written there is the beginning of the next. Raises InputError for what is the user's.
    """
    sums = {file.path: file.sha256 for file in offered.graphs}
    sums[MANIFEST] = hashlib.sha256(offered.manifest_bytes).hexdigest()
    if not place.is_symlink() and holds(place, sums):
        return True
    if not os.path.lexists(place.with_name(f"{place.name}.json")):
        raise InputError(f"{place} is there, and was not pulled", "Move it away, then try again.")
    check_owned(place)
    if part.exists():
        shutil.rmtree(part)
    rename_no_replace(place, part)
    return False


def _check_content(offered: OfferedModel, part: Path) -> None:
    """Raises InputError for files that are what was promised, and not a bundle: they are removed."""
    try:
        with _blamed_on_owner():
            Bundle.read(part)
    except InputError as error:
        shutil.rmtree(part, ignore_errors=True)
        fact = error.fact.replace(f"{part}{os.sep}", f"{offered.listing.address}: ")
        raise InputError(fact, error.advice) from error


@contextmanager
def _blamed_on_owner() -> Iterator[None]:
    """Another advice for a bundle that is not ours to export again."""
    try:
        yield
    except InputError as error:
        raise InputError(error.fact, _NOT_OURS if error.advice == ADVICE else error.advice) from error


def _fetch_all(hub: Hub, offered: OfferedModel, part: Path, progress: Progress) -> dict[str, int]:
    """Fetches every file into `part`; gives their sizes. A graph with a wrong hash is thrown away."""
    listing, have = offered.listing, 0
    part.mkdir(mode=0o700, exist_ok=True)
    write_state(part / MANIFEST, offered.manifest_bytes)
    files = {MANIFEST: len(offered.manifest_bytes)}

    def count(more: int) -> None:
        nonlocal have
        have += more
        progress(have, offered.bytes)

    for path, limit in offered.extras.items():
        data = hub.read(listing, path, limit=limit, elsewhere=is_image(path))
        if is_image(path) and not begins_as_image(data):
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
    remember_pull(pulled, revision)
    rename_no_replace(part, pulled.folder)
    sync_folder(pulled.folder.parent)


def _extras(listing: HubListing) -> dict[str, int]:
    """The card, the licence and images of a listing, with the sizes to allow."""
    found: dict[str, int] = {}
    seen: set[str] = set()
    for path, size in sorted(listing.files.items()):
        most = most_bytes(path)
        images = sum(map(is_image, found))
        fits = 0 < (size if size is not None else most) <= most
        if fits and path.casefold() not in seen and (images < MAX_IMAGES or not is_image(path)):
            seen.add(path.casefold())  # one file, on some systems
            found[path] = size if size is not None else most
    return found


def _check_names(address: HubAddress, graphs: list[str], others: list[str]) -> None:
    """Raises InputError for a path that is not one of a file below the folder, on any system, or is there twice.

    `graphs` are those that bundle.json names: ONNX files, and not in the folder of engines, which are code.
    """
    seen: set[str] = set()
    for path in [*others, *graphs]:
        if path.casefold() in seen or (path in graphs and not _is_graph(path)) or not is_portable(path):
            why = "twice" if path.casefold() in seen else "which is not an ONNX file of its folder"
            raise InputError(
                printable(f"{MANIFEST} of {address} names {path[:200]!r}, {why}"), "It is malicious: do not use it."
            )
        seen.add(path.casefold())
    for path in seen:  # a file where another needs a folder
        if any(other.startswith(f"{path}/") for other in seen):
            raise InputError(printable(f"{MANIFEST} of {address} names {path[:200]!r}, a folder"), "Do not use it.")


def _is_graph(path: str) -> bool:
    return path.endswith(GRAPH_SUFFIX) and path.split("/")[0].casefold() != ENGINES


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
