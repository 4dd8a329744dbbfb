"""Models that were pulled from the Hub into the user's cache: finding, listing and removing them.

    CACHE/models/OWNER--NAME/COMMIT/           the bundle
    CACHE/models/OWNER--NAME/COMMIT.json       where it came from, and its files (`PulledModel`)
    CACHE/models/OWNER--NAME/COMMIT.part/      a pull that is not finished
    CACHE/models/OWNER--NAME/revisions.json    what branches and tags meant at the last pull

A folder counts as pulled only with its record beside it. What lies here is data: engines beside it are never loaded.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsmap.common.cache_folder import check_private, private_folder, user_cache_folder
from dsmap.common.files import is_regular, read_regular
from dsmap.common.notify import Notify
from dsmap.common.state_files import write_state
from dsmap.common.strict_json import read_json
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import file_sha256
from dsmap.runtime.bundle.manifest import MANIFEST, PULLED_MODELS, read_manifest
from dsmap.runtime.hub.address import SCHEME, HubAddress, is_commit, parse_address
from dsmap.runtime.hub.contents import GRAPH_SUFFIX, is_extra

_REVISIONS = "revisions.json"
_MAX_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class PulledModel:
    """A model in the cache, as its record says."""

    repo: str
    """owner/name."""
    commit: str
    endpoint: str
    """The hub that it came from, such as https://huggingface.co."""
    bundle_sha256: str
    """Of its bundle.json."""
    files: dict[str, int]
    """Paths and bytes of all files."""
    pulled_at: str

    @property
    def folder(self) -> Path:
        """The bundle."""
        return repo_folder(self.repo) / self.commit

    @property
    def pinned(self) -> HubAddress:
        """The model with its commit."""
        return parse_address(f"{SCHEME}{self.repo}@{self.commit}")

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


def models_folder() -> Path:
    """Where pulled models are; it may not exist."""
    return user_cache_folder() / PULLED_MODELS


def repo_folder(repo: str) -> Path:
    """Where the models of the repository `owner/name` are; it may not exist."""
    return models_folder() / repo.replace("/", "--")


def make_repo_folder(repo: str) -> Path:
    """The same, made and private. Raises DsmapError where the cache is not the user's own, or cannot be written to."""
    folder = private_folder(PULLED_MODELS) / repo.replace("/", "--")
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        raise DsmapError(f"{folder} is not a folder", "Remove it.")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def cannot_write(folder: Path, error: OSError) -> DsmapError:
    """For a full disk, and for a cache that is closed."""
    return DsmapError(
        f"cannot write to {folder}: {error.strerror or error}",
        "Free disk space, or set DSMAP_CACHE to a folder that can be written to.",
    )


def find_pulled(address: HubAddress, *, bundle_sha256: str | None = None) -> PulledModel | None:
    """The model that `address` meant when it was last pulled; None if it is not in the cache.

    Raises InputError where its bundle.json is not the one that was pulled, or not the one with `bundle_sha256`.
    """
    check_private(PULLED_MODELS)
    commit = commit_of(address)
    found = _record(repo_folder(address.repo) / f"{commit}.json") if commit else None
    if found is None or not found.folder.is_dir():
        return None
    got = file_sha256(found.folder / MANIFEST) if (found.folder / MANIFEST).is_file() else "none"
    if got != found.bundle_sha256 or bundle_sha256 not in (None, got):
        raise InputError(
            f"{found.folder / MANIFEST} is not the one that was pulled",
            f"Run: dsmap models pull {found.pinned}",
        )
    return found


def find_whole(address: HubAddress, *, bundle_sha256: str | None = None) -> PulledModel | None:
    """As `find_pulled`, with every file read and compared; None for a model that is damaged."""
    try:
        found = find_pulled(address, bundle_sha256=bundle_sha256)
        if found is None or not all(is_regular(found.folder / path) for path in found.files):
            return None
        sums = {file.path: file.sha256 for file in read_manifest(found.folder).files()}
    except InputError:
        return None
    return found if holds(found.folder, sums) else None


def holds(folder: Path, sums: Mapping[str, str]) -> bool:
    """Whether `folder` has all those files, each with its SHA-256; links count for nothing."""
    return all(is_regular(folder / path) and file_sha256(folder / path) == sha256 for path, sha256 in sums.items())


def owned_files(folder: Path) -> dict[str, int]:
    """Paths and bytes of the files in a model's folder that a pull may have written there."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if is_regular(path)}
    ours = {name for name in paths if name == MANIFEST or name.endswith(GRAPH_SUFFIX) or is_extra(name)}
    return {name: paths[name].stat().st_size for name in sorted(ours)}


def check_owned(folder: Path, files: Iterable[str] | None = None) -> None:
    """Raises InputError if `folder` is a link, or holds anything but `files` (None: `owned_files`)."""
    known = {folder / path for path in (owned_files(folder) if files is None else files)}
    for path in sorted(folder.rglob("*")) if not folder.is_symlink() else [folder]:
        if path.is_symlink() or (path not in known and not path.is_dir()):
            raise InputError(f"{path} was not pulled, and would be lost", "Move it away first.")


def check_states(repo: str, commit: str) -> None:
    """Raises InputError where a record's name belongs to a link, a folder or a device."""
    for name in (_REVISIONS, f"{commit}.json"):
        path = repo_folder(repo) / name
        if os.path.lexists(path) and not is_regular(path):
            raise InputError(f"{path} is not a regular file", "Remove it.")


def commit_of(address: HubAddress) -> str | None:
    """The commit that `address` meant when it was last pulled."""
    return address.revision if is_commit(address.revision) else _revisions(address.repo).get(address.revision)


def list_pulled() -> list[PulledModel]:
    """All models in the cache."""
    if not models_folder().is_dir():
        return []
    check_private(PULLED_MODELS)
    found = [_record(path) for path in sorted(models_folder().glob("*/*.json")) if path.name != _REVISIONS]
    return [one for one in found if one is not None and one.folder.is_dir()]


def list_damaged() -> list[PulledModel]:
    """Models in the cache whose record cannot be read, with the files that are there."""
    if not models_folder().is_dir():
        return []
    paths = [path for path in sorted(models_folder().glob("*/*.json")) if is_commit(path.stem)]
    found = []
    for path in paths:
        folder = path.with_suffix("")
        if path.parent.name.count("--") == 1 and _record(path) is None and not folder.is_symlink():
            files = owned_files(folder) if folder.is_dir() else {}
            repo = path.parent.name.replace("--", "/")
            one = PulledModel(repo=repo, commit=path.stem, endpoint="", bundle_sha256="", files=files, pulled_at="")
            found.append(one)
    return found


def pulled_from(folder: Path) -> PulledModel | None:
    """The record of the pulled model in `folder`; None for every other folder."""
    if folder.parent.parent != models_folder():
        return None
    return _record(folder.with_name(f"{folder.name}.json"))


def remember_pull(pulled: PulledModel, revision: str) -> None:
    """Writes the record of a model, and that `revision` means it. Its folder may come after."""
    folder = repo_folder(pulled.repo)
    write_state(folder / f"{pulled.commit}.json", json.dumps(asdict(pulled), indent=1) + "\n")
    if not is_commit(revision):
        revisions = _revisions(pulled.repo) | {revision: pulled.commit}
        write_state(folder / _REVISIONS, json.dumps(revisions, indent=1) + "\n")


def remove_pulled(pulled: PulledModel) -> None:
    """Removes a model from the cache. Raises InputError, and removes nothing, if its folder holds anything else.

    The caller holds the repository's lock.
    """
    known = {pulled.folder / path for path in pulled.files}
    check_owned(pulled.folder, pulled.files)
    check_states(pulled.repo, pulled.commit)
    try:
        for path in known:
            path.unlink(missing_ok=True)
        for place in sorted([path for path in pulled.folder.rglob("*") if path.is_dir()], reverse=True):
            place.rmdir()
        if pulled.folder.is_dir():
            pulled.folder.rmdir()
        pulled.folder.with_name(f"{pulled.commit}.json").unlink()
        _forget(pulled)
    except OSError as error:
        raise DsmapError(f"cannot remove {pulled.folder}: {error.strerror}", "Remove the rest yourself.") from error


def discard_unfinished(repo: str) -> int:
    """Removes what interrupted pulls have left of a repository's models; gives how many there were."""
    found = [path for path in repo_folder(repo).glob("*.part") if is_commit(path.stem) and not path.is_symlink()]
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return len(found)


def _forget(pulled: PulledModel) -> None:
    """Forgets the branches and tags that meant this model."""
    folder = repo_folder(pulled.repo)
    left = {name: commit for name, commit in _revisions(pulled.repo).items() if commit != pulled.commit}
    write_state(folder / _REVISIONS, json.dumps(left, indent=1) + "\n")


def _drop_if_empty(folder: Path) -> None:
    """Removes a repository's folder if it holds no model, and nothing of the user's. The caller holds the lock.

    Who waits for the lock notices that its file is gone, and makes another.
    """
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".lock", _REVISIONS}:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def lock_repo(repo: str, say: Notify = lambda _line: None) -> Iterator[Path]:
    """Waits, with a line, until no other process pulls or removes this repository's models; gives its folder.

    A folder that is empty in the end is removed. Raises DsmapError where the cache cannot be written to.
    """
    from filelock import FileLock, Timeout

    folder = make_repo_folder(repo)
    lock = FileLock(folder / ".lock", fallback_to_soft=False)

    def acquire(timeout: float) -> None:
        try:
            lock.acquire(timeout=timeout)
        except FileNotFoundError:  # who held the lock has just removed the folder
            make_repo_folder(repo)
            acquire(timeout)

    try:
        try:
            acquire(0.05)
        except Timeout:
            say(f"waiting for another process that pulls {repo} ...")
            acquire(-1)
    except OSError as error:
        raise cannot_write(folder / ".lock", error) from error
    try:
        yield folder
    finally:
        _drop_if_empty(folder)
        lock.release()


def _record(path: Path) -> PulledModel | None:
    """A record; None for a file that is none, or that lies where it does not belong."""
    try:
        tree: Any = read_json(path, limit=_MAX_BYTES, what="the record", advice="")
        found = PulledModel(**tree)
        address = found.pinned
        sizes = all(isinstance(name, str) and isinstance(size, int) for name, size in found.files.items())
    except (InputError, TypeError, AttributeError):
        return None
    right = sizes and is_commit(address.revision) and found.folder.with_name(f"{found.commit}.json") == path
    return found if right and all(map(_is_inside, found.files)) else None


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return all(part not in ("", ".", "..") for part in parts) and "\\" not in path and ":" not in path


def _revisions(repo: str) -> dict[str, str]:
    path = repo_folder(repo) / _REVISIONS
    if not path.is_file():
        return {}
    try:
        tree = json.loads(read_regular(path, limit=_MAX_BYTES, what="the revisions"))
        return {str(name): commit for name, commit in tree.items() if is_commit(str(commit))}
    except (ValueError, AttributeError, InputError):
        return {}
