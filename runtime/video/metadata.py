"""Metadata of streams and containers that holds for a translation too."""

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.stream import Stream

_STREAM_METADATA = ("language", "title", "handler_name")
# Describes the old file rather than its content.
_TECHNICAL_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")


def describe(metadata: dict[str, str], stream: Stream) -> None:
    """Set an output stream's language and title from `metadata`, and nothing else."""
    known = {key.lower(): text for key, text in metadata.items()}
    if "name" in known:
        known.setdefault("title", known["name"])  # what mp4 calls it
    stream.metadata.clear()
    stream.metadata.update({key: known[key] for key in _STREAM_METADATA if key in known})


def container_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """The part of a file's metadata (title, artist, ...) that holds for its translation too."""
    return {key.lower(): text for key, text in metadata.items() if key.lower() not in _TECHNICAL_METADATA}
