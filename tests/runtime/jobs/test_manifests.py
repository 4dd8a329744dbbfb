"""Lists of inputs: text, CSV, JSON lines and Parquet."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import InputError
from dsmap.runtime.jobs.manifest import expand_manifests
from dsmap.runtime.jobs.options import ModelOptions
from dsmap.runtime.jobs.request import resolve_request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "sub/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rgb(tmp_path / name, np.zeros((16, 16, 3), np.uint8))
    return tmp_path


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    columns = list(rows[0])
    text = {
        ".txt": "# clips\n\n" + "\n".join(row["input"] for row in rows),
        ".csv": "\n".join(",".join(row) for row in [columns, *(list(row.values()) for row in rows)]),
        ".jsonl": "\n".join(map(json.dumps, rows)),
    }[path.suffix]
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_every_format_lists_the_same(folder, suffix):
    path = write(folder / f"list{suffix}", [{"input": "a.png"}, {"input": "sub/a.png"}])
    assert [one.source for one in expand_manifests([str(path)])] == [str(folder / "a.png"), str(folder / "sub/a.png")]


def test_outputs_have_the_names_that_are_listed(folder, tiny_bundle):
    rows = [{"input": "a.png", "output": "x/first.png"}, {"input": "sub/a.png", "output": "second.png"}]
    path = write(folder / "list.csv", rows)
    request = resolve_request(
        [str(path), str(folder / "b.png")], folder / "out", model=ModelOptions(domain="winter", model=tiny_bundle)
    )
    assert [job.output.relative_to(folder / "out").as_posix() for job in request.jobs] == [
        "x/first.png",
        "second.png",
        "b-winter.png",
    ]


@pytest.mark.parametrize(
    ("name", "text", "fact"),
    [
        ("l.txt", "a.png\nb.png\na.png", "l.txt lists the input a.png twice, as 1 and 3"),
        ("l.csv", "input,output\na.png,x.png\nb.png,x.png", "l.csv lists the output x.png twice, as 2 and 3"),
        ("l.txt", "a.png\nsub/a.png", "would both become"),
        ("l.txt", "# none", "l.txt lists no inputs"),
        ("l.csv", "path\na.png", "l.csv has no column input"),
        ("l.jsonl", '{"input": "a.png"', "l.jsonl, 1: not JSON"),
        ("l.parquet", "no parquet", "l.parquet is not a Parquet file"),
        ("l.txt", "gone.png", "gone.png does not exist"),
    ],
)
def test_what_is_wrong_with_a_list(folder, tiny_bundle, name, text, fact):
    (folder / name).write_text(text)
    with pytest.raises(InputError) as caught:
        resolve_request([str(folder / name)], folder / "out", model=ModelOptions(domain="winter", model=tiny_bundle))
    assert fact in caught.value.fact
