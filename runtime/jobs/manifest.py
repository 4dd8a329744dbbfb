"""Manifests: lists of inputs, as text, CSV, JSON lines or Parquet.

    clips.txt       an input a line; empty lines and lines that begin with # are left out
    clips.csv       a column `input`, and `output` for names of results where the usual ones will not do
    clips.jsonl     {"input": "a.mp4", "output": "first.mp4"} a line
    clips.parquet   as CSV

Inputs that are relative are relative to the manifest's folder, outputs to the folder of -o, or to the current one.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dsmap.errors import InputError

MANIFEST_SUFFIXES = frozenset({".txt", ".csv", ".jsonl", ".parquet"})
_MAX_BYTES = 256 << 20


class ListedInput(NamedTuple):
    """An input, and the name of its result if it has one of its own."""

    source: str
    output: Path | None = None
    """Where it is relative, to the folder of -o."""


def is_manifest(source: str) -> bool:
    """Whether the file `source` is a list of inputs, by its name."""
    return Path(source).suffix.lower() in MANIFEST_SUFFIXES and Path(source).is_file()


def expand_manifests(sources: Sequence[str]) -> list[ListedInput]:
    """`sources`, with the inputs that manifests among them list in their places.

    Raises InputError for a manifest that cannot be read, lists nothing, or lists an input or an output twice.
    """
    every: list[ListedInput] = []
    for source in sources:
        every += _read(Path(source)) if is_manifest(source) else [ListedInput(source)]
    return every


def _read(path: Path) -> list[ListedInput]:
    listed: list[ListedInput] = []
    seen: dict[tuple[str, str], int] = {}
    for number, row in _rows(path):
        source, output = row.get("input"), row.get("output") or None
        if not isinstance(source, str) or not source.strip() or not isinstance(output, str | None):
            raise InputError(f"{path}, {number}: no input", "every line needs one: see dsmap's docs on manifests")
        for column, value in (("input", source), ("output", output)):
            if value is None:
                continue
            before = seen.setdefault((column, value), number)
            if before != number:
                raise InputError(
                    f"{path} lists the {column} {value} twice, as {before} and {number}",
                    "remove one of them" if column == "input" else "give one of them another name",
                )
        listed.append(ListedInput(_beside(path, source.strip()), None if output is None else Path(output)))
    if not listed:
        raise InputError(f"{path} lists no inputs", "write one a line")
    return listed


def _beside(manifest: Path, source: str) -> str:
    """A relative path is relative to the manifest's folder."""
    return source if "://" in source else str(manifest.parent / source)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line or row, from 1, its columns). Raises InputError."""
    try:
        if path.suffix.lower() == ".parquet":
            yield from enumerate(_parquet_rows(path), start=1)
            return
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is larger than {_MAX_BYTES >> 20} MB", "divide it, or write Parquet")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8", "save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", "check the file") from error
    reader = {".csv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix.lower(), _text_rows)
    yield from reader(path, lines)


def _text_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, {"input": line.strip()}


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines)
    if "input" not in (reader.fieldnames or ()):
        raise InputError(
            f"{path} has no column input", f"its first line is {','.join(reader.fieldnames or ())[:200]!r}"
        )
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, {reader.line_num}: {error}", "write it as CSV") from error


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, {number}: not JSON ({error})", 'write {"input": "a.mp4"} a line') from error
        yield number, row if isinstance(row, dict) else {"input": row}


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"{path} needs pyarrow, which is not installed", "pip install 'dsmap[ray]'") from error
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "input" not in names:
                raise InputError(f"{path} has no column input", f"its columns are {', '.join(names)[:200]}")
            for batch in file.iter_batches(columns=[name for name in ("input", "output") if name in names]):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a Parquet file: {str(error).splitlines()[0]}", "check the file") from error
