"""A process that ends at any moment loses nothing of the user's, leaves no torn result, and can be done again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import clips
import numpy as np
import pytest
from crashes import Left, contents, crashes
from stand_in import run

from dsmap.runtime.jobs.content_identity import content_identity

FRAMES = 4
ARGUMENTS = ("in.mp4", "-d", "winter", "--codec", "lossless", "-o", "out.mkv")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return clips.make_clip(tmp_path_factory.mktemp("clip") / "in.mp4", frames=FRAMES, audio=["aac"], audio_seconds=0.2)


def template(folder: Path, clip: Path, mode: str) -> Path:
    """What a job begins with: the input, parts of an interrupted job (and what it left), or an earlier result."""
    folder.mkdir()
    source = Path(shutil.copy(clip, folder / "in.mp4"))
    (folder / "thesis.txt").write_text("precious")
    if mode in ("resume", "partial"):
        arguments = (source, *ARGUMENTS[1:-1], folder / "out.mkv")
        assert run(*arguments, STAND_IN_CUTS="1", STAND_IN_FAILS_AT=str(FRAMES))[0] == 1
        if mode == "partial":  # what Ctrl-C leaves under the name
            clips.make_clip(folder / "out.mkv", frames=FRAMES - 1)
            note = {"left": [content_identity(folder / "out.mkv")]}
            (folder / "out.mkv.parts" / "job.json").write_text(json.dumps(note))
    elif mode == "overwrite":
        clips.make_clip(folder / "out.mkv", frames=FRAMES, colours=[(200, 10, 10)])
    return folder


@pytest.mark.parametrize("mode", ["new", "resume", "partial", "overwrite"])
def test_a_video_job_that_ends_before_any_operation(tmp_path, clip, mode):
    begin = template(tmp_path / "template", clip, mode)
    options = {"new": [], "overwrite": ["--overwrite"]}.get(mode, ["--resume"])
    again = ["--resume", "--overwrite"] if mode == "overwrite" else ["--resume"]
    found = crashes(tmp_path / "runs", begin, [*ARGUMENTS, *options], [*ARGUMENTS, *again])
    last, before = found[-1], contents(begin)
    whole = {before.get("out.mkv"), last.files["out.mkv"]}
    for left in found:
        assert left.code == 0, left
        assert mine(left.files) == mine(before), left
        assert left.files.get("out.mkv") in whole, left
        after = contents(left.folder)
        assert set(after) == {"in.mp4", "out.mkv", "thesis.txt"}, left
        assert mine(after) == mine(before), left
        if left.killed and left.files.get("out.mkv") == last.files["out.mkv"] and mode != "overwrite":
            assert "exists and is kept" in left.told  # it was killed while tidying up
    check_results(found)
    check_order(last.operations)
    assert [left.killed for left in found] == [True] * (len(found) - 1) + [False]
    assert len(found) > 12


def mine(files: dict[str, str]) -> tuple[str, str]:
    """Of what the user had."""
    return files["in.mp4"], files["thesis.txt"]


def check_results(found: list[Left]) -> None:
    """Whatever was killed, the same frames and sound come out."""
    expected = clips.read(found[-1].folder / "out.mkv")
    assert len(expected.times) == FRAMES
    for path in {contents(left.folder)["out.mkv"]: left.folder / "out.mkv" for left in found}.values():
        result = clips.read(path)
        assert (result.times, result.audio) == (expected.times, expected.audio)
        assert all(np.array_equal(a, b) for a, b in zip(result.frames, expected.frames, strict=True))


def check_order(operations: list[str]) -> None:
    """What a power cut leaves: the video is on the disk before it has its name, and its name before the parts go."""

    def number(*words: str, after: int = 0) -> int:
        return next(i for i, what in enumerate(operations) if i >= after and all(word in what for word in words))

    noted = number("rename", "job.json")
    flushed = number("fsync", "part.mkv", after=noted)
    named = next(i for i, what in enumerate(operations) if i > flushed and what.startswith(("renameat2", "os.rename")))
    folder = number("fsync", "/place", after=named)
    assert noted < flushed < named < folder < number("os.remove", "journal.json", after=named), operations


EXPORT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import dsmap.export.bundle_writer
from crashes import Snapshots, contents, run_here
from dsmap.runtime.bundle.bundle import Bundle
from traced_graphs import keep_traces

keep_traces(Path({traces!r}))
place = Path({place!r})
taken = Snapshots(place, place.parent / "snapshots")
arguments = [{checkpoint!r}, "-o", "model", "--licence", "new", "--overwrite", "--report", "r.json"]
assert run_here("export", arguments, place) == 0
licences = [Bundle.read(folder / "model").manifest.licence for folder in taken.folders]
reports = [folder / "r.json" for folder in taken.folders if (folder / "r.json").exists()]
assert all(json.loads(path.read_text())["verification"] for path in reports)
print("FOUND", json.dumps([licences, taken.operations, sorted(contents(place))]))
"""


def test_an_export_that_ends_before_any_operation(tmp_path, checkpoint, tiny_bundle, traces):
    place = tmp_path / "place"
    shutil.copytree(tiny_bundle, place / "model")
    told = {"tests": Path(__file__).parent, "place": place, "checkpoint": checkpoint, "traces": traces}
    code = EXPORT.format(**{name: str(path) for name, path in told.items()})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    licences, operations, names = json.loads(done.stdout.rpartition("FOUND ")[2])
    assert set(licences) == {"CC0", "new"}  # one is there at every moment, whole by its hashes
    assert licences == sorted(licences, key=lambda one: one == "new")
    assert all(name.startswith("model/") or name == "r.json" for name in names)
    named = next(i for i, what in enumerate(operations) if what.startswith("renameat2"))
    flushed = {Path(what).name for what in operations[:named] if what.startswith("fsync")}
    assert {Path(name).name for name in names if name.startswith("model/")} <= flushed
    removed = next(i for i, what in enumerate(operations) if what.startswith(("shutil.rmtree", "os.remove model")))
    assert any(what.startswith("fsync") and what.endswith("/place") for what in operations[named:removed])


TRAININGS = """
import json, shutil, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import dsmap.training.trainer
from crashes import Snapshots, contents, run_here
from dsmap.training.checkpoint import load_generators, read_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints

place, data = Path({place!r}), {data!r}
place.mkdir()
arguments = ["--data", data, "-o", "run", "--preset", "debug", "--steps", "3", "--device", "cpu"]
for key in ("checkpoint_every=1", "keep_checkpoints=1", "sample_every=2", "log_every=1", "score_pictures=2"):
    arguments += ["--set", key]
taken = Snapshots(place, place.parent / "snapshots")
assert run_here("train", arguments, place) == 0
steps = []
for folder in taken.folders:
    found = list_checkpoints(folder / "run" / "checkpoints")
    for path in found:
        load_generators(read_checkpoint(path))
    steps.append(read_checkpoint(found[-1]).step if found else 0)
    log = folder / "run" / "log.jsonl"
    for line in log.read_text().splitlines() if log.exists() else ():
        json.loads(line)
changes = [i for i in range(1, len(steps)) if steps[i] != steps[i - 1]]
codes = []
for number in (changes[0], changes[1] - 1, len(steps) - 1):
    folder = taken.folders[number]
    codes.append(run_here("train", [*arguments, "--resume", "auto"], folder))
    codes.append(read_checkpoint(folder / "run").step)
print("FOUND", json.dumps([steps, codes]))
"""


def test_a_training_that_ends_before_any_operation(tmp_path, image_folder):
    code = TRAININGS.format(tests=str(Path(__file__).parent), place=str(tmp_path / "place"), data=str(image_folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps, codes = json.loads(done.stdout.rpartition("FOUND ")[2])
    assert steps == sorted(steps)  # what was saved once is never lost
    assert set(steps) == {0, 1, 2, 3}
    assert codes == [0, 3] * 3
