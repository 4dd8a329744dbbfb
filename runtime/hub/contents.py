"""Tells which files belong to a shared model besides its bundle.json: graphs, the card, the licence, sample images."""

import re

from dsmap.runtime.bundle.card import SAMPLES

GRAPH_SUFFIX = ".onnx"
MAX_DOCUMENT, MAX_IMAGE, MAX_IMAGES = 1 << 20, 4 << 20, 32
"""Bytes of a card or a licence, bytes of an image, and how many images."""
_MAX_NAME = 255  # bytes of a file's or a folder's name, on common systems
_DOCUMENTS = re.compile(r"README\.md|LICEN[CS]E(\.(md|txt))?", re.ASCII)
_IMAGES = re.compile(rf"{SAMPLES}/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}\.(jpg|jpeg|png|webp)", re.ASCII)
_IMAGE_BEGINS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE | re.ASCII)  # on Windows


def is_extra(path: str) -> bool:
    """Whether a file that bundle.json does not name belongs to a model: the card, the licence, or an image."""
    return most_bytes(path) > 0


def is_image(path: str) -> bool:
    """Whether `path` is where a model has its sample images."""
    return _IMAGES.fullmatch(path) is not None


def most_bytes(path: str) -> int:
    """How large such a file may be; 0 for every other file."""
    return MAX_DOCUMENT if _DOCUMENTS.fullmatch(path) else MAX_IMAGE if is_image(path) else 0


def begins_as_image(data: bytes) -> bool:
    """Whether `data` begins as a JPEG, PNG or WebP image does."""
    return _IMAGE_BEGINS.match(data) is not None


def is_portable(path: str) -> bool:
    """Whether `path` is that of a file below a folder, with a name that every system takes."""
    for part in path.split("/"):
        if not part or part[0] == "." or part[-1] in " ." or _RESERVED.fullmatch(part):
            return False
        if len(part.encode(errors="replace")) > _MAX_NAME:
            return False
    return re.search(r'[\\:*?"<>|]', path) is None
