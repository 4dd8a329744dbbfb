"""Uploads in several requests: what has arrived stays when a connection breaks off, and the next one goes on there."""

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.request import ServeLimits
from dsmap.runtime.serve.work_folder import WorkFolder

_KEEP_SECONDS = 900.0  # without a byte, after which an upload is deleted


@dataclass(kw_only=True)
class PartialUpload:
    """A video that arrives in parts."""

    id: str
    folder: Path
    length: int
    """Bytes of the whole."""
    offset: int = 0
    """Bytes that are there."""
    touched: float = field(default_factory=time.monotonic)
    busy: bool = False
    """While a part arrives, or a job is made of it."""

    @property
    def path(self) -> Path:
        """The file that grows."""
        return self.folder / "video"


class PartialUploads:
    """All that have begun. Methods are called from one event loop, and raise RequestError."""

    def __init__(self, limits: ServeLimits, work: WorkFolder) -> None:
        self._limits, self._work = limits, work
        self._uploads: dict[str, PartialUpload] = {}

    def create(self, length: int) -> PartialUpload:
        """Begins one of `length` bytes: 413 too large, 503 too many, 507 no room."""
        if not 0 < length <= self._limits.video_bytes:
            raise RequestError(
                413, f"the upload has {length} bytes, expected 1 to {self._limits.video_bytes}", "Send a smaller file."
            )
        if len(self._uploads) >= self._limits.jobs:
            raise RequestError(
                503, f"the server is busy: {len(self._uploads)} uploads are under way", "Try again later.",
                {"Retry-After": "30"},
            )  # fmt: skip
        promised = sum(upload.length - upload.offset for upload in self._uploads.values())
        self._work.check_room(promised + length)
        upload = PartialUpload(id=secrets.token_urlsafe(16), folder=self._work.new("job"), length=length)
        upload.path.touch(mode=0o600, exist_ok=False)
        self._uploads[upload.id] = upload
        return upload

    def get(self, upload_id: str) -> PartialUpload:
        """404 without it."""
        if upload_id not in self._uploads:
            raise RequestError(404, "there is no such upload", "It may have been deleted: begin again.")
        return self._uploads[upload_id]

    async def append(self, upload: PartialUpload, offset: int, chunks: AsyncIterator[bytes]) -> None:
        """Adds what `chunks` gives, from `offset` on: 409 where the file does not end there, 423 while it is in use.

        What has arrived before an error stays.
        """
        _check_idle(upload)
        if offset != upload.offset:
            raise RequestError(409, f"the upload has {upload.offset} bytes, not {offset}", "Go on from there.")
        upload.busy = True
        try:
            with upload.path.open("ab") as file:
                async for chunk in chunks:
                    file.write(chunk)
                    upload.offset += len(chunk)
                    upload.touched = time.monotonic()
        finally:
            upload.busy = False

    @contextlib.contextmanager
    def taking(self, upload_id: str) -> Iterator[PartialUpload]:
        """One that is all there, for the block alone: 409 for another, 423 while somebody else has it.

        After the block it is forgotten, and its folder is the caller's; it stays when the block raises an error.
        """
        upload = self.get(upload_id)
        if upload.offset < upload.length:
            raise RequestError(409, f"the upload has {upload.offset} of {upload.length} bytes", "Send the rest first.")
        _check_idle(upload)
        upload.busy = True
        try:
            yield upload
            self._uploads.pop(upload.id, None)
        finally:
            upload.busy = False

    async def delete(self, upload: PartialUpload) -> None:
        """Removes it with its file: 423 while it is in use."""
        _check_idle(upload)
        self._uploads.pop(upload.id, None)
        await asyncio.to_thread(shutil.rmtree, upload.folder, ignore_errors=True)

    async def delete_old(self) -> None:
        """Deletes those that nobody continues."""
        now = time.monotonic()
        for upload in list(self._uploads.values()):
            if not upload.busy and now - upload.touched > _KEEP_SECONDS:
                await self.delete(upload)


def _check_idle(upload: PartialUpload) -> None:
    """Raises RequestError (423)."""
    if upload.busy:
        raise RequestError(423, "another request is using this upload", "Wait for it.")
