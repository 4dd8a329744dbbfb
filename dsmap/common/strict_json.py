"""Strict reading of JSON from others, such as a bundle's manifest or an engine's sidecar.

Refused is what Python's reader accepts and others do not, and what takes unbounded memory or time: duplicate keys, NaN
and infinity, numbers of thousands of digits, lone surrogates, deep nesting, endless files.
"""

import json
import math
from pathlib import Path
from typing import Any

from dsmap.common.files import read_regular
from dsmap.common.text import printable
from dsmap.errors import InputError

MAX_DEPTH = 40
MAX_DIGITS = 20  # of an integer: 64 bits
_MAX_SHOWN = 60  # characters of a key in a message


def read_json(path: Path, *, limit: int, what: str, advice: str) -> Any:
    """The JSON value in the file `path`, which holds at most `limit` bytes.

    `what` names it in errors. Raises InputError with the first fault, and where it is.
    """
    return parse_json(read_regular(path, limit=limit, what=what), what=f"{what} {path}", advice=advice)


def parse_json(data: bytes, *, what: str, advice: str) -> Any:
    """The JSON value in `data`, UTF-8. Raises InputError as `read_json`."""
    try:
        tree = json.loads(data.decode("utf-8"), parse_int=_whole_number, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise InputError(
            f"cannot read {what}: it is nested too deeply, expected at most {MAX_DEPTH} levels", advice
        ) from None
    except ValueError as error:  # of the decoder, the reader and our hooks
        raise InputError(f"cannot read {what}: it is not valid JSON: {printable(error)[:200]}", advice) from error
    if fault := _fault(tree):
        raise InputError(f"cannot read {what}: {fault}", advice)
    return tree


def shown_key(parts: tuple[object, ...]) -> str:
    """A key's place for messages, such as "styles.winter.mean.1", safe to print on a terminal."""
    return ".".join(_cut(str(part)) for part in parts)


def _cut(text: str) -> str:
    return printable(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {_cut(double)!r} occurs twice")
    return tree


def _fault(tree: Any) -> str | None:
    """What is wrong with a value that JSON's grammar allows, and where; None if nothing is."""
    waiting: list[tuple[Any, tuple[object, ...]]] = [([tree], ())]
    while waiting:
        holder, where = waiting.pop()
        if len(where) > MAX_DEPTH:
            return f"{shown_key(where[1:4])}... is nested too deeply, expected at most {MAX_DEPTH} levels"
        named = isinstance(holder, dict)
        for key, value in holder.items() if named else enumerate(holder):
            if named and not _is_text(str(key)):
                return f"{shown_key((*where, key)[1:])}: the key is not valid UTF-8 text"
            if isinstance(value, dict | list):
                waiting.append((value, (*where, key)))
            elif isinstance(value, str) and not _is_text(value):
                return f"{shown_key((*where, key)[1:])}: it is not valid UTF-8 text"
            elif isinstance(value, float) and not math.isfinite(value):
                return f"{shown_key((*where, key)[1:])}: {value} is not a finite number"
    return None


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
