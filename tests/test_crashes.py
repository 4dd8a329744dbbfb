"""A process that ends at any moment loses nothing of the user's, leaves no torn result, and can be done again."""

import shutil
from pathlib import Path

import clips
import numpy as np
import pytest
from crashes import Left, contents, crashes
from stand_in import run

FRAMES = 4
ARGUMENTS = ("in.mp4", "-d", "winter", "--codec", "lossless", "-o", "out.mkv")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return clips.make_clip(tmp_path_factory.mktemp("clip") / "in.mp4", frames=FRAMES, audio=["aac"], audio_seconds=0.2)


def template(folder: Path, clip: Path, mode: str) -> Path:
    """What a job begins with: the input, and for `resume` the parts of an interrupted job, for `overwrite` a result."""
    folder.mkdir()
    source = Path(shutil.copy(clip, folder / "in.mp4"))
    (folder / "thesis.txt").write_text("precious")
    if mode == "resume":
        arguments = (source, *ARGUMENTS[1:-1], folder / "out.mkv")
        assert run(*arguments, STAND_IN_CUTS="1", STAND_IN_FAILS_AT=str(FRAMES))[0] == 1
    elif mode == "overwrite":
        clips.make_clip(folder / "out.mkv", frames=FRAMES, colours=[(200, 10, 10)])
    return folder


@pytest.mark.parametrize("mode", ["new", "resume", "overwrite"])
def test_a_video_job_that_ends_before_any_operation(tmp_path, clip, mode):
    begin = template(tmp_path / "template", clip, mode)
    options = {"new": [], "resume": ["--resume"], "overwrite": ["--overwrite"]}[mode]
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
            assert "is there already" in left.told  # it was killed while tidying up
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
