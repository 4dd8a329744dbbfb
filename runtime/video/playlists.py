"""Checking playlists (HLS, DASH) from the network before FFmpeg follows them."""

import re
from urllib.parse import urljoin

from dsmap.errors import InputError

MAX_PLAYLIST_BYTES = 16 << 20
"""A day of segments of two seconds, with long signed addresses."""
MAX_VARIANTS = 100
"""Qualities, languages and subtitles of one video; FFmpeg asks for each of them, and keeps kilobytes for each."""
MAX_SEGMENTS = 500_000
"""Of all variants together: a day in ten of them. FFmpeg keeps all of their addresses."""

_VARIANT = re.compile(r"^#EXT-X-STREAM-INF:[^\n]*\n(?:\s*#[^\n]*\n|\s*\n)*\s*([^#\s][^\n]*)", re.MULTILINE)
_NAMED = re.compile(r"#EXT-X-(?:STREAM-INF|I-FRAME-STREAM-INF|MEDIA):|<(?:\w+:)?Representation\b")


def is_playlist(text: str) -> bool:
    """Whether the text begins as a playlist."""
    start = text[:4096].lstrip("\ufeff \t\r\n")
    return start.startswith(("#EXTM3U", "<MPD")) or (start.startswith(("<?xml", "<!--")) and "<MPD" in start)


def variants_of(address: str, text: str) -> list[str]:
    """The addresses of the playlists that an HLS playlist names; none for one of segments."""
    return [urljoin(address, found.strip()) for found in _VARIANT.findall(text.replace("\r\n", "\n"))]


def check_playlist(name: str, text: str, segments: int = 0) -> int:
    """How many segments it names, with the `segments` of others. Raises InputError for too many, or too long a text."""
    streams = len(_NAMED.findall(text))
    segments += text.count("#EXTINF")
    if streams > MAX_VARIANTS:
        raise _refused(name, f"names {streams} streams, expected at most {MAX_VARIANTS}")
    if segments > MAX_SEGMENTS:
        raise _refused(name, f"names more than {MAX_SEGMENTS} segments")
    if len(text) > MAX_PLAYLIST_BYTES:
        raise _refused(name, f"is longer than {MAX_PLAYLIST_BYTES >> 20} MiB")
    return segments


def nested_playlists(name: str) -> InputError:
    """The error for playlists whose variants are such lists again."""
    return _refused(name, "names playlists that name further playlists")


def _refused(name: str, reason: str) -> InputError:
    return InputError(
        f"{name} is a playlist that {reason}",
        "it is damaged, or malicious; pass the address of one of the videos in it",
    )
