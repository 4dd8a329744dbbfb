"""Makes text from others (file names, stream tags, server messages) safe to show."""

import re
import unicodedata

_HARMLESS = {"\u200d", "\u200c", "\u00ad"}  # joiners and soft hyphens, which names in many scripts and emoji need

# Except in our own advice, "write rtsp://USER:PASSWORD@HOST/...".
_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:(?://|/(?!/)))(?!USER(?::PASSWORD)?@HOST\b)[^\s'\"]*@")

_COPIED = re.compile(
    r"-|(?:apt-get|brew|conda|docker|dsmap[a-z-]*|nvidia-smi|pip|sudo|uv) |export [A-Z_]+="
    r"|(?:\S*[/\\])?python[\d.]*(?:\.exe)? "  # of an environment, by its path
)
_COPIED_LAST = re.compile(r"[/\\=]\S*$|\w\.\w+$")  # a path, an address, a setting
_PLAIN_WORD = re.compile(r"[a-z]+(?:[ ,:;]|$)")  # neither a file's name nor a setting's


def printable(text: object, *, lines: bool = False) -> str:
    r"""`text` with everything escaped that could move a terminal's cursor, change its colours or forge a line.

    Control characters (C0, C1, so every escape sequence), bidirectional overrides, line separators and lone surrogates
    become \x1b, \u202e and the like. With `lines` newlines and tabs stay.
    """
    return "".join(_shown(char, lines) for char in str(text))


def _shown(char: str, lines: bool) -> str:
    if char.isprintable() or char in _HARMLESS or (lines and char in "\n\t"):
        return char
    if unicodedata.category(char) in ("Zs", "Cn", "Co"):  # other spaces; characters newer than this Python; private use
        return char
    return char.encode("ascii", "backslashreplace").decode("ascii") if ord(char) > 0x7F else _escape(char)


def _escape(char: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or f"\\x{ord(char):02x}"


def counted(number: int, what: str) -> str:
    """ "1 round", "2 rounds"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def sentence(text: str) -> str:
    """`text` with a capital first letter and a full stop.

    What people copy stays as it is: a leading path, option or command; no full stop follows a path, or a command or
    option after the last colon.
    """
    if _COPIED.match(text):
        return text
    capital = text[:1].upper() if _PLAIN_WORD.match(text) else text[:1]
    _, colon, last = text.rpartition(": ")
    ends = not text or text[-1] in ".!?:" or _COPIED_LAST.search(text) or (colon and _COPIED.match(last))
    return f"{capital}{text[1:]}{'' if ends else '.'}"


def without_passwords(text: str) -> str:
    """`text` without users and passwords: what stands between `scheme:/` or `scheme://` and a word's last `@`."""
    return _CREDENTIALS.sub(r"\1", text)


def duration(seconds: float) -> str:
    """In words: "40 s", "3 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds, -1 if seconds > 20 else 0)):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
