"""Models that were pulled from the Hub into the user's cache: finding, listing and removing them.

    CACHE/models/OWNER--NAME/COMMIT/           the bundle
    CACHE/models/OWNER--NAME/COMMIT.json       where it came from, and its files (`PulledModel`)
    CACHE/models/OWNER--NAME/COMMIT.part/      a pull that is not finished
    CACHE/models/OWNER--NAME/revisions.json    what branches and tags meant at the last pull

A folder counts as pulled only with its record beside it. What lies here is data: engines beside it are never loaded.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsmap.common.cache_folder import check_private, private_folder, user_cache_folder
from dsmap.common.files import read_regular
from dsmap.common.notify import Notify
from dsmap.common.state_files import write_state
from dsmap.common.strict_json import read_json
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import file_sha256
from dsmap.runtime.bundle.manifest import MANIFEST
from dsmap.runtime.hub.address import SCHEME, HubAddress, is_commit, parse_address

MODELS = "models"
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
    return user_cache_folder() / MODELS


def repo_folder(repo: str) -> Path:
    """Where the models of the repository `owner/name` are; it may not exist."""
    return models_folder() / repo.replace("/", "--")


def make_repo_folder(repo: str) -> Path:
    """The same, made and private. Raises DsmapError where the cache is not the user's own."""
    folder = private_folder(MODELS) / repo.replace("/", "--")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def find_pulled(address: HubAddress, *, bundle_sha256: str | None = None) -> PulledModel | None:
    """The model that `address` meant when it was last pulled; None if it is not in the cache.

    Raises InputError where its bundle.json is not the one that was pulled, or not the one with `bundle_sha256`.
    """
    check_private(MODELS)
    commit = commit_of(address)
    found = _record(repo_folder(address.repo) / f"{commit}.json") if commit else None
    if found is None or not found.folder.is_dir():
        return None
    got = file_sha256(found.folder / MANIFEST) if (found.folder / MANIFEST).is_file() else "none"
    if got != found.bundle_sha256 or bundle_sha256 not in (None, got):
        raise InputError(
            f"{found.folder / MANIFEST} is not the one that was pulled",
            f"Run: dsmap models remove {found.pinned}, then pull it again.",
        )
    return found


def commit_of(address: HubAddress) -> str | None:
    """The commit that `address` meant when it was last pulled."""
    return address.revision if is_commit(address.revision) else _revisions(address.repo).get(address.revision)


def list_pulled() -> list[PulledModel]:
    """All models in the cache."""
    if not models_folder().is_dir():
        return []
    check_private(MODELS)
    found = [_record(path) for path in sorted(models_folder().glob("*/*.json")) if path.name != _REVISIONS]
    return [one for one in found if one is not None and one.folder.is_dir()]


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
    for path in sorted(pulled.folder.rglob("*")) if not pulled.folder.is_symlink() else [pulled.folder]:
        if path.is_symlink() or (path not in known and not path.is_dir()):
            raise InputError(f"{path} was not pulled, and would be lost", "Move it away first.")
    try:
        for path in known:
            path.unlink(missing_ok=True)
        for place in sorted({parent for path in known for parent in path.parents}, reverse=True):
            if pulled.folder in (place, *place.parents):
                place.rmdir()
        pulled.folder.with_name(f"{pulled.commit}.json").unlink()
        _forget(pulled)
    except OSError as error:
        raise DsmapError(f"cannot remove {pulled.folder}: {error.strerror}", "Remove the rest yourself.") from error


def discard_unfinished(repo: str) -> int:
    """Removes what interrupted pulls have left of a repository's models; gives how many there were."""
    found = [path for path in repo_folder(repo).glob("*.part") if is_commit(path.stem) and not path.is_symlink()]
    for path in found:
        shutil.rmtree(path)
    return len(found)


def _forget(pulled: PulledModel) -> None:
    """Forgets the branches and tags that meant this model."""
    folder = repo_folder(pulled.repo)
    left = {name: commit for name, commit in _revisions(pulled.repo).items() if commit != pulled.commit}
    write_state(folder / _REVISIONS, json.dumps(left, indent=1) + "\n")


def drop_if_empty(repo: str) -> None:
    """Removes a repository's folder if it holds no model any more, and nothing of the user's."""
    folder = repo_folder(repo)
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".lock", _REVISIONS}:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def lock_repo(repo: str, say: Notify = lambda _line: None) -> Iterator[Path]:
    """Waits, with a line, until no other process pulls or removes this repository's models; gives its folder."""
    from filelock import FileLock, Timeout

    folder = make_repo_folder(repo)
    lock = FileLock(folder / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0.05)
    except Timeout:
        say(f"waiting for another process that pulls {repo} ...")
        lock.acquire()
    try:
        yield folder
    finally:
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
    except (ValueError, AttributeError):
        return {}
