"""Random SIGKILLs over real jobs, for as long as one likes: `make test-slow`. $KILLS says how many of each kind."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import clips
import numpy as np
import pytest
from crashes import contents

from dsmap.runtime.bundle.bundle import Bundle
from dsmap.training.checkpoint import load_generators, read_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "25"))
FRAMES = 60


def start(module: str, *arguments: object, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"dsmap.tools.{module}", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def duration(module: str, *arguments: object, folder: Path) -> float:
    """Seconds that the job takes when nobody disturbs it."""
    began = time.monotonic()
    process = start(module, *arguments, folder=folder)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return time.monotonic() - began


def kill_within(seconds: float, process: subprocess.Popen[str]) -> bool:
    """Whether it was still at work."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    process.communicate()
    return False


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "over an earlier result"])
def test_a_video_job_that_is_killed_again_and_again(tmp_path, tiny_bundle, overwrite):
    source = clips.make_clip(tmp_path / "in.mp4", frames=FRAMES, audio=["aac"], audio_seconds=2.0)
    more = ["--overwrite"] if overwrite else []
    arguments = ("video", "in.mp4", "-d", "winter", "--model", tiny_bundle, "-o", "out.mkv")
    limit = duration(*arguments, folder=tmp_path)
    whole, before, moments = clips.read(tmp_path / "out.mkv"), source.read_bytes(), random.Random(3)
    earlier = shutil.copy(tmp_path / "out.mkv", tmp_path / "earlier.mkv")
    for _ in range(KILLS):
        (tmp_path / "out.mkv").unlink(missing_ok=True)
        if overwrite:
            shutil.copy(earlier, tmp_path / "out.mkv")
        process = start(*arguments, *more, folder=tmp_path)
        while kill_within(moments.uniform(0, limit), process):
            assert source.read_bytes() == before
            if (tmp_path / "out.mkv").exists():
                assert len(clips.read(tmp_path / "out.mkv").times) == FRAMES
            process = start(*arguments, *more, "--resume", folder=tmp_path)
        assert process.returncode == 0
        result = clips.read(tmp_path / "out.mkv")
        assert (result.times, result.audio) == (whole.times, whole.audio)
        assert set(contents(tmp_path)) == {"in.mp4", "out.mkv", "earlier.mkv"}
        assert np.abs(result.frames[-1].astype(int) - whole.frames[-1]).mean() < 3


def test_an_export_that_is_killed_again_and_again(tmp_path, checkpoint):
    arguments = ("export", checkpoint, "-o", "model", "--overwrite")
    limit, moments = duration(*arguments, folder=tmp_path), random.Random(4)
    for _ in range(KILLS):
        kill_within(moments.uniform(limit / 2, limit * 1.1), start(*arguments, folder=tmp_path))
        Bundle.read(tmp_path / "model")
        for part in tmp_path.glob(".model.*"):
            shutil.rmtree(part)


def test_a_training_that_is_killed_again_and_again(tmp_path, image_folder):
    options = "--steps 400 --set checkpoint_every=2 --set score_pictures=2 --set log_every=1 --device cpu"
    arguments = ["train", "--data", image_folder, "-o", "run", "--preset", "debug", "--resume", "auto"]
    arguments += options.split()
    moments, last = random.Random(5), 0
    for _ in range(KILLS):
        process = start(*arguments, folder=tmp_path)
        log, size = tmp_path / "run" / "log.jsonl", 0
        size = log.stat().st_size if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.stat().st_size == size):
            time.sleep(0.05)  # until it has done an iteration
        kill_within(moments.uniform(0, 3), process)
        step = last
        for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
            load_generators(read_checkpoint(path))
            step = read_checkpoint(path).step
        assert step >= last
        last = step
    assert last > 0
