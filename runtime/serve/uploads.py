"""Reads request bodies into files, bounded: raw bodies, and forms with files (multipart/form-data).

Names that a client gives its files are never used.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Message, Receive

from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.request import ServeLimits
from dsmap.runtime.serve.work_folder import Room, WorkFolder

_MAX_FIELD, _MAX_PARTS, _MAX_HEADER = 1 << 17, 32, 4096  # the longest style code has 98 kB
_SLOWEST = 2048  # bytes a second, on average
_CHECKED_BYTES = 32 << 20  # between two checks of the disk


@dataclass
class Upload:
    """What came with a request."""

    fields: dict[str, str] = field(default_factory=dict)
    """Of the form; empty for a raw body."""
    files: dict[str, Path] = field(default_factory=dict)
    """By the form's names; a raw body has the first of the expected names."""


async def receive_upload(
    request: Request, folder: Path, names: tuple[str, ...], limit: int, limits: ServeLimits, work: WorkFolder
) -> Upload:
    """Reads the body into files in `folder`, which are called as in `names`, and at most `limit` bytes altogether.

    Raises RequestError: 400 damaged form, 408 too slow, 411 or 413 too large, 415 another kind, 507 no room.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    length = _length(request)
    if length is not None and length > limit + _MAX_FIELD:
        raise _too_large(limit)
    if kind == b"application/json":
        raise RequestError(415, "the body is JSON", "Send the file itself, or multipart/form-data.")
    with work.room_for(length or 0) as room:
        body = bounded_body(request, limit + _MAX_FIELD, limits.idle_seconds, work, room)
        if kind == b"multipart/form-data":
            return await _read_form(body, options, folder, names)
        return await _read_raw(body, folder / names[0], names[0])


def bounded_receive(receive: Receive, limit: int, seconds: float) -> Receive:
    """ASGI's `receive` for a body of at most `limit` bytes within `seconds`. It raises RequestError (408, 413)."""
    total, deadline = 0, time.monotonic() + seconds
    ended = False

    async def bounded() -> Message:
        nonlocal total, ended
        if ended:  # only the end of the connection is still to come
            return await receive()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                message = await receive()
        except TimeoutError:
            raise RequestError(408, "the request has stalled", "Send it again.", {"Connection": "close"}) from None
        total += len(message.get("body", b""))
        ended = not message.get("more_body", False)
        if total > limit:
            raise RequestError(
                413, f"the request is larger than {limit >> 10} kB", "Send less.", {"Connection": "close"}
            )
        return message

    return bounded


async def bounded_body(
    request: Request, limit: int, idle: float, work: WorkFolder, room: Room | None = None
) -> AsyncIterator[bytes]:
    """The body, chunk by chunk: at most `limit` bytes, no pause above `idle` seconds. Raises RequestError.

    The caller writes each chunk before it asks for the next; `room` is what was kept for all of them.
    """
    total = checked = 0
    began = time.monotonic()
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(idle):
                chunk = await anext(chunks, None)
            if time.monotonic() - began > idle + total / _SLOWEST:
                raise TimeoutError
        except TimeoutError:
            raise RequestError(408, "the upload has stalled", "Send it again.", {"Connection": "close"}) from None
        if chunk is None:
            return
        total += len(chunk)
        if total > limit:
            raise _too_large(limit)
        if total - checked > _CHECKED_BYTES:
            checked = total
            await asyncio.to_thread(work.check_room)
        yield chunk
        if room is not None:
            room.fill(len(chunk))


async def _read_raw(body: AsyncIterator[bytes], path: Path, name: str) -> Upload:
    size = 0
    with path.open("xb") as file:
        async for chunk in body:
            size += len(chunk)
            file.write(chunk)
    if not size:
        raise RequestError(400, "the body is empty", f"Send the {name} as the body, or in a form.")
    return Upload(files={name: path})


async def _read_form(
    body: AsyncIterator[bytes], options: Mapping[bytes, bytes], folder: Path, names: tuple[str, ...]
) -> Upload:
    reader = _FormReader(folder, names)
    try:
        if not options.get(b"boundary"):
            raise _bad_form("it names no boundary")
        parser = MultipartParser(options[b"boundary"], reader.callbacks())
        async for chunk in body:
            parser.write(chunk)
        parser.finalize()
        if not reader.ended:
            raise _bad_form("it ends too early")
    except FormParserError as error:
        raise _bad_form("it cannot be read") from error
    finally:
        reader.close()
    return reader.upload


class _FormReader:
    """Collects the parts of a form: files of the expected names go to the folder, the others are short fields."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._folder, self._names = folder, names
        self.upload = Upload()
        self.ended = False
        self._header, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._parts = 0
        self._name = ""
        self._file: BinaryIO | None = None
        self._text = b""

    def callbacks(self) -> Any:
        """For the parser."""
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def close(self) -> None:
        """Closes the file of a part that has not ended."""
        if self._file is not None:
            self._file.close()

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _bad_form(f"it has more than {_MAX_PARTS} parts")
        self._headers, self._text = {}, b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name in self.upload.fields or self._name in self.upload.files:
            raise _bad_form(f"{self._name!r} comes twice")
        if b"filename" not in options:
            return
        if self._name not in self._names:
            expected = " or ".join(self._names)
            raise RequestError(422, f"the form has a file {self._name[:100]!r}, expected {expected}", "Rename it.")
        path = self._folder / self._name  # one of ours
        self._file = path.open("xb")
        self.upload.files[self._name] = path

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _MAX_FIELD:
            raise _bad_form(f"the field {self._name[:100]!r} is too long")

    def _on_part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        else:
            self.upload.fields[self._name] = self._text.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self.ended = True

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > _MAX_HEADER:
            raise _bad_form("a header of a part is too long")


def _length(request: Request) -> int | None:
    """What the client announces; uvicorn has checked that it is a number."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413, f"the upload is larger than {limit >> 20} MB", "Send a smaller file.", {"Connection": "close"}
    )


def _bad_form(reason: str) -> RequestError:
    return RequestError(400, f"the form is damaged: {reason}", "Send multipart/form-data.", {"Connection": "close"})
