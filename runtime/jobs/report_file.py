"""The report of a run as a file: JSON, or Parquet where its name ends in .parquet (a row for each input).

Parquet keeps the facts about the run (model, backend, `interrupted`) as JSON in the metadata of its schema, under
"dsmap".
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from dsmap.common.atomic import atomic_write
from dsmap.common.reports import write_report
from dsmap.common.strict_json import read_json
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.batch_report import BatchReport

_MAX_REPORT_BYTES = 64 << 20
_METADATA = b"dsmap"


def check_report_format(path: Path) -> None:
    """Raises InputError where Parquet is asked for and cannot be written."""
    if is_parquet(path) and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{path} needs pyarrow, which is not installed", "pip install 'dsmap[ray]', or write .json")


def is_parquet(path: Path) -> bool:
    """Whether the file is to be Parquet, by its name."""
    return path.suffix.lower() == ".parquet"


def write_batch_report(path: Path, batch: BatchReport) -> None:
    """Writes the report of a run, whole or not at all. Raises DsmapError."""
    advice = "the result itself is done"
    if not is_parquet(path):
        write_report(path, batch.as_dict(), advice)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{key: _cell(value) for key, value in outcome.as_dict().items()} for outcome in batch.outcomes]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in rows])
    run = dict(batch.facts) | {"interrupted": batch.interrupted, "complete": batch.complete}
    table = table.replace_schema_metadata({_METADATA: json.dumps(run)})
    try:
        with atomic_write(path) as beside:
            pq.write_table(table, beside)
    except OSError as error:
        raise DsmapError(f"cannot write {path}: {error.strerror or error}", advice) from error


def is_of_interrupted_run(path: Path) -> bool:
    """Whether the file is the report of a run that was interrupted: the one that resumes it may replace it."""
    try:
        if is_parquet(path):
            return _run_of_parquet(path).get("interrupted") is True
        report = read_json(path, limit=_MAX_REPORT_BYTES, what="the report", advice="")
    except (DsmapError, OSError, ValueError):
        return False
    return isinstance(report, dict) and report.get("interrupted") is True and not {"jobs", "output"}.isdisjoint(report)


def _run_of_parquet(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    return json.loads((pq.read_schema(path).metadata or {}).get(_METADATA, b"{}"))


def _cell(value: Any) -> Any:
    """A value of a column: lists of texts become one text each, so that all rows have the same types."""
    if isinstance(value, list | tuple):
        return "\n".join(map(str, value)) or None
    return value
