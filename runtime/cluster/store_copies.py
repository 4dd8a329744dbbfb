"""A worker's copies, on the disk of its node, of what it reads from and writes to object stores.

    TMPDIR/dsmap-store-1a2b3c4d/source/film.mkv     the input that was fetched last: segments of one film often follow
                                                    one another
    TMPDIR/dsmap-store-1a2b3c4d/result-5e6f7a8b/    a result, until it is sent

The folder is locked while its worker lives. What a worker that was killed has left is removed by the next one there.
"""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dsmap.common.state_files import lock_folder
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.resume import parts_folder
from dsmap.runtime.jobs.stored import StorePath, fetch, is_stored, stored_version

_PREFIX = "dsmap-store-"


class StoreCopies:
    """The copies of one worker. Makes nothing on the disk as long as jobs have files only."""

    def __init__(self) -> None:
        self._held = contextlib.ExitStack()
        self._folder: Path | None = None
        self._source: Path | None = None
        self._version: tuple[str, str] | None = None
        """Of the source: (address, what the store says of its content)."""

    @contextlib.contextmanager
    def of(self, job: Job) -> Iterator[Job]:
        """`job` with files of this node in place of addresses in stores. An output is gone when the block ends.

        Raises InputError, DsmapError.
        """
        if not job.is_stored:
            yield job
            return
        folder = self._folder = self._folder or self._made()
        with tempfile.TemporaryDirectory(prefix="result-", dir=folder) as scratch, _naming_places(job, scratch, folder):
            source, output = job.source, job.output
            if isinstance(source, str) and is_stored(source):
                source = self._fetched(source, folder / "source")
            if is_stored(output):
                output = Path(scratch, output.name)
            yield replace(job, source=source, output=output)

    def close(self) -> None:
        """Removes all copies."""
        self._held.close()

    def _made(self) -> Path:
        try:
            _remove_left(Path(tempfile.gettempdir()))
            new = Path(tempfile.mkdtemp(prefix="dsmap-"))
            self._held.callback(shutil.rmtree, new, ignore_errors=True)
            self._held.enter_context(lock_folder(new))
            named = new.with_name(new.name.replace("dsmap-", _PREFIX, 1))  # from now on it is locked
            new.rename(named)
        except OSError as error:
            raise DsmapError(
                f"cannot write into {tempfile.gettempdir()} on the node {socket.gethostname()}: "
                f"{error.strerror or error}",
                "free space there, or set TMPDIR for Ray's nodes to a larger disk",
            ) from error
        self._held.callback(shutil.rmtree, named, ignore_errors=True)
        return named

    def _fetched(self, address: str, folder: Path) -> Path:
        version = address, stored_version(address)
        if self._source is not None and self._version == version:
            return self._source
        self._source = self._version = None
        shutil.rmtree(folder, ignore_errors=True)  # first: the disk may have no room for two
        folder.mkdir()
        source = folder / StorePath(address).name
        try:
            fetch(address, source)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._source, self._version = source, version
        return source


def _remove_left(place: Path) -> None:
    """Removes the folders of workers that are no more."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, DsmapError):  # InputError: its worker lives
            if folder.is_symlink() or not _is_ours(folder):
                continue
            with lock_folder(folder):
                shutil.rmtree(folder)


def _is_ours(folder: Path) -> bool:
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        return False
    names = {path.name for path in folder.iterdir()}
    return ".lock" in names and all(name in (".lock", "source") or name.startswith("result-") for name in names)


@contextlib.contextmanager
def _naming_places(job: Job, scratch: str, folder: Path) -> Iterator[None]:
    """Errors about files in the worker's folder, which is gone by then, name the disk and whose it is; those about
    parts of another job, which were fetched, the place in the store.
    """
    try:
        yield
    except DsmapError as error:
        if str(folder) not in error.fact:
            raise
        parts = str(parts_folder(Path(scratch, job.output.name)))
        if isinstance(error, InputError) and is_stored(job.output) and parts in error.fact:
            there = str(parts_folder(job.output))
            raise InputError(error.fact.replace(parts, there), error.advice.replace(parts, there)) from error
        fact = error.fact
        for place in (scratch, str(folder / "source"), str(folder)):
            fact = fact.replace(place, str(folder.parent))
        kind = InputError if isinstance(error, InputError) else DsmapError
        raise kind(f"on the node {socket.gethostname()}: {fact}", error.advice) from error
