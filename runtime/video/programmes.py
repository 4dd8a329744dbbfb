"""Choosing a programme of a transport stream: a multiplex contains several, each with video and sound.

PyAV does not expose libav's programmes, so the tables that list them are read from the file: see `transport_tables`.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.container import InputContainer
from av.stream import Disposition, Stream

from dsmap.errors import InputError
from dsmap.runtime.video.transport_tables import tables_in
from dsmap.runtime.video.trim import is_cover

_READ_BYTES = 16 << 20  # the tables come several times a second
_END_BYTES = 2 << 20


@dataclass(frozen=True, kw_only=True)
class Programme:
    """A programme: its number and name, and the ids of its streams."""

    number: int
    name: str = ""
    streams: frozenset[int] = frozenset()

    def __str__(self) -> str:
        """For messages."""
        return f"{self.number} ({self.name})" if self.name else str(self.number)


def programmes_of(path: Path) -> tuple[Programme, ...]:
    """The programmes of the transport stream in `path`, in its order; empty where its tables list none."""
    with path.open("rb") as file:
        tables = tables_in(file.read(_READ_BYTES))
    return tuple(
        Programme(number=number, name=tables.names.get(number, ""), streams=frozenset(tables.streams.get(number, ())))
        for number in tables.pmt_pids
    )


def choose_programme(
    container: InputContainer, path: Path | None, number: int | None, name: str
) -> tuple[Programme | None, tuple[Programme, ...]]:
    """The programme with this number, or the first with a video, and the others. None: there is only one.

    Raises InputError, calling the source `name`, where there is no such programme, or no video in it.
    """
    known = programmes_of(path) if path is not None and container.format.name == "mpegts" else ()
    if number is None and len(known) < 2:
        return None, ()
    if not known:
        raise InputError(f"{name} is not a transport stream with programmes", "leave out --programme")
    videos = {stream.id for stream in container.streams.video if not is_cover(stream)}
    seen = [one for one in known if one.streams & videos]
    choice = f"choose one of {', '.join(map(str, seen))}" if seen else "pass a recording with a video"
    if number is None:
        chosen = seen[0] if seen else None
    elif not (chosen := next((one for one in known if one.number == number), None)):
        raise InputError(f"{name} has no programme {number}", choice)
    elif chosen not in seen:
        raise InputError(f"programme {chosen} of {name} has no video", choice)
    return chosen, tuple(one for one in known if one is not chosen)


def announced_later(container: InputContainer, path: Path | None, programme: Programme | None) -> int:
    """How many streams of a transport stream are announced only after its beginning, so that they cannot be read."""
    if path is None or container.format.name != "mpegts":
        return 0
    announced = [programme] if programme else programmes_of(path)
    ids = {stream.id for stream in container.streams}
    return len(frozenset().union(*(one.streams for one in announced)) - ids)


def codecs_that_change(container: InputContainer, path: Path | None) -> dict[int, tuple[str, str]]:
    """Streams of a transport stream, by id, whose codec differs at its end, with the first and the last codec.

    libav keeps decoding with the first one: joined recordings lose video or sound there without an error.
    """
    if path is None or container.format.name != "mpegts":
        return {}
    with path.open("rb") as file:
        begin = tables_in(file.read(_READ_BYTES)).codecs
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        end = tables_in(file.read(_END_BYTES), to_the_end=True).codecs
    first_and_last = {one: (begin[one][0], end[one][1]) for one in begin if one in end}
    return {one: codecs for one, codecs in first_and_last.items() if codecs[0] != codecs[1]}


def companions_of(container: InputContainer, stream: Stream) -> frozenset[int]:
    """The indexes of the streams in `stream`'s programme, by libav's own table; all streams where there is none.

    PyAV exposes that table only through its choice of the best related stream: each stream is made the best in turn.
    """
    found = {stream.index}
    for kind in ("video", "audio", "subtitle", "data"):
        streams = [one for one in container.streams if one.type == kind]
        kept = [one.disposition for one in streams]
        for one in streams:
            for other in streams:
                other.disposition = Disposition.default if other is one else Disposition.hearing_impaired
            best = container.streams.best(kind, related=stream)
            if best is not None and best.index == one.index:
                found.add(one.index)
        for one, disposition in zip(streams, kept, strict=True):
            one.disposition = disposition
    return frozenset(found)
