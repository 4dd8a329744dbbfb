"""`translate_videos` and requests: the guarantees of the command, from Python."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import clips
import numpy as np
import pytest

from dsmap.common.images import read_rgb, write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime import translate_video, translate_videos
from dsmap.runtime.jobs.batch import run_request
from dsmap.runtime.jobs.batch_report import (
    BatchEvent,
    JobNotice,
    JobOutcome,
    JobProgress,
    JobSkipped,
    JobStarted,
    ModelLoaded,
)
from dsmap.runtime.jobs.options import ModelOptions, StyleOptions, VideoOptions
from dsmap.runtime.jobs.request import resolve_request
from dsmap.runtime.translator import Translator
from dsmap.runtime.video.reader import VideoReader


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def image(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_rgb(path, np.random.default_rng(5).integers(0, 256, (32, 48, 3), np.uint8))
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """A video, what is none, a folder of images, and an image sequence."""
    clips.make_clip(tmp_path / "a.mp4", frames=4, audio=["aac"])
    (tmp_path / "bad.mp4").write_text("no video")
    for number in (1, 2):
        image(tmp_path / "photos" / f"{number}.png")
        image(tmp_path / "frames" / f"{number:03}.png")
    return [tmp_path / name for name in ("a.mp4", "bad.mp4", "photos", "frames/%03d.png")]


def test_all_kinds_of_inputs_with_a_bad_one(inputs: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    events: list[BatchEvent] = []
    settings = {"domain": "winter", "model": tiny_bundle, "backend": "cpu", "on_event": events.append}
    batch = translate_videos(inputs, tmp_path / "out", **settings, report=tmp_path / "r.json")
    assert [outcome.complete for outcome in batch.outcomes] == [True, False, True, True]
    assert (batch.complete, batch.interrupted, batch.planned, len(batch.errors)) == (False, False, 4, 1)
    assert isinstance(batch.errors[0], InputError)
    assert names(tmp_path / "out") == ["001.png", "002.png", "a-winter.mp4", "photos-winter"]
    assert names(tmp_path / "out" / "photos-winter") == names(tmp_path / "photos")
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(json.dumps(batch.as_dict()))
    assert [type(event) for event in events] == [
        ModelLoaded,
        *(JobStarted, *[JobProgress] * 4, JobOutcome),
        *(JobStarted, JobOutcome),
        *(JobStarted, *[JobProgress] * 2, JobOutcome) * 2,
    ]
    events.clear()
    with pytest.raises(InputError, match="bad"):  # all the others are done
        translate_videos(inputs[:3], tmp_path / "out", **settings, resume=True)
    assert [type(event) for event in events] == [JobSkipped, JobSkipped]


def test_what_is_wrong_is_raised_before_the_model_loads(
    inputs: list[Path], tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Translator, "load", lambda *_args, **_settings: pytest.fail("the model was loaded"))
    settings = {"domain": "winter", "model": tiny_bundle}
    for sources, output, options, fact in [
        (inputs[0], inputs[0], {"overwrite": True}, "is the input itself"),
        (inputs[0], tiny_bundle / "x.mp4", {}, "lies in the model's folder"),
        (tmp_path / "none.mp4", None, {}, "does not exist"),
        (inputs[1], None, {}, "is not a video"),
        (inputs[2], None, {"codec": "hevc"}, "--codec is for videos"),
        (inputs[0], None, {"report": inputs[0]}, "--report"),
        (inputs[0], None, {"style": "no-such-style"}, "no style no-such-style"),
        (inputs[0], None, {"style": StyleOptions(style_from="1")}, "--style-to is missing"),
        (inputs[:2], tmp_path / "one.mp4", {}, "names a file"),
    ]:
        with pytest.raises(InputError) as error:
            translate_videos(sources, output, **settings, **options)
        assert fact in error.value.fact
    assert names(tmp_path) == ["a.mp4", "bad.mp4", "frames", "photos"]


def test_a_request_runs_in_another_process(inputs: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    """The style image is in it, not only its name."""
    snow = image(tmp_path / "snow.png")
    for name in ("here", "there"):
        request = resolve_request(
            [str(inputs[0]), str(inputs[2])],
            tmp_path / name,
            model=ModelOptions(domain="winter", model=tiny_bundle, backend="cpu", stabilize=True),
            style=StyleOptions(style_from=str(snow), style_to="seed:3"),
            options=VideoOptions(codec="lossless", start=0.05),
        )
        if name == "here":
            assert run_request(request).complete
    (tmp_path / "request").write_bytes(pickle.dumps(request))
    snow.unlink()
    code = (
        "import pickle, sys\nfrom dsmap.runtime.jobs.batch import run_request\n"
        "batch = run_request(pickle.load(open(sys.argv[1], 'rb')))\npickle.dumps(batch)\nsys.exit(not batch.complete)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "request"], check=True)
    for ours, theirs in zip(
        *(clips.read(tmp_path / name / "a-winter.mkv").frames for name in ("here", "there")), strict=True
    ):
        assert np.array_equal(ours, theirs)
    photos = [read_rgb(tmp_path / name / "photos-winter" / "1.png") for name in ("here", "there")]
    assert np.array_equal(*photos)


def test_ctrl_c_ends_a_batch_and_resume_goes_on(inputs: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    clips.make_clip(tmp_path / "b.mp4", frames=4)
    settings = {"domain": "winter", "model": tiny_bundle, "backend": "cpu"}
    sources, before = [inputs[0], tmp_path / "b.mp4"], signal.getsignal(signal.SIGINT)

    def press(event: BatchEvent) -> None:
        if isinstance(event, JobOutcome):
            os.kill(os.getpid(), signal.SIGINT)

    settings["report"] = tmp_path / "r.json"
    batch = translate_videos(sources, tmp_path / "out", **settings, on_event=press)
    assert (batch.interrupted, batch.complete, len(batch.outcomes)) == (True, False, 1)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(InputError, match="of an interrupted run") as caught:  # --overwrite would lose what is done
        translate_videos(sources, tmp_path / "out", **settings)
    assert caught.value.advice == "pass --resume to continue it, or --overwrite to start over"
    batch = translate_videos(sources, tmp_path / "out", **settings, resume=True)  # replaces the report
    assert (batch.complete, len(batch.skipped), len(batch.outcomes)) == (True, 1, 1)
    assert json.loads(settings["report"].read_text(encoding="utf-8"))["interrupted"] is False
    with pytest.raises(InputError, match="exists already"):  # that of a finished run stays
        translate_videos(sources, tmp_path / "out", **settings, resume=True)
    assert names(tmp_path / "out") == ["a-winter.mp4", "b-winter.mp4"]


def test_a_single_input_that_fails_raises(inputs: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    def fail(event: BatchEvent) -> None:
        if isinstance(event, JobProgress):
            raise DsmapError("the disk is full", "make room")

    with pytest.raises(DsmapError, match="full"):
        translate_videos(inputs[0], domain="winter", model=tiny_bundle, backend="cpu", on_event=fail)
    assert "a-winter.mp4" not in names(tmp_path)


def test_it_makes_what_a_single_call_makes(inputs: list[Path], tmp_path: Path, tiny_bundle: Path) -> None:
    translator = Translator.load(tiny_bundle, domain="winter", backend="cpu", style=7)
    translate_video(inputs[0], tmp_path / "one.mkv", translator, codec="lossless")
    notices: list[BatchEvent] = []
    settings = {"domain": "winter", "model": tiny_bundle, "backend": "cpu", "style": 7, "codec": "lossless"}
    batch = translate_videos(str(inputs[0]), str(tmp_path / "two.mkv"), **settings, on_event=notices.append)
    assert not [event for event in notices if isinstance(event, JobNotice)]
    assert (batch.facts["style"], batch.facts["model"]) == ("seed:7", "tiny")
    one, two = (clips.read(tmp_path / name).frames for name in ("one.mkv", "two.mkv"))
    assert all(np.array_equal(*pair) for pair in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, "64x48"),
        ({"height": 24}, "64x48, translated at 24 lines and refined, result 64x48"),
        ({"height": 24, "refine": "off"}, "64x48, translated at 24 lines, result 64x48"),
        ({"height": 24, "upscale": False}, "64x48, translated at 24 lines, result 32x24"),
        ({"height": 24, "side_by_side": True}, "64x48, translated at 24 lines and refined, result 128x48"),
        ({"height": 96}, "64x48, enlarged to 96 lines and translated, result 64x48"),
        (
            {"height": 48, "refine": "guided"},
            "64x48, not refined: that needs a --height below the input's",
        ),
        ({"side_by_side": True}, "64x48, result 128x48"),
    ],
)
def test_the_sizes_of_input_and_result_are_said(tmp_path: Path, tiny_bundle: Path, options: dict, sizes: str):
    clips.make_clip(tmp_path / "in.mp4", frames=2)
    events = []
    request = resolve_request(
        [str(tmp_path / "in.mp4")],
        tmp_path / "out.mp4",
        model=ModelOptions(model=tiny_bundle, domain="winter", backend="cpu"),
        options=VideoOptions(**options),
    )
    run_request(request, events.append)
    (loaded,) = (event for event in events if isinstance(event, ModelLoaded))
    assert loaded.lines[0] == f"tiny: summer -> winter, {sizes}, 2 frames"
    if "result" in sizes:
        with VideoReader(tmp_path / "out.mp4") as reader:
            assert sizes.endswith(f"result {reader.width}x{reader.height}")
