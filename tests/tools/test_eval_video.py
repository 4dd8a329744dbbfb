"""Flicker: numbers with known answers, and the command on real videos."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2  # before av

# isort: split
import clips
import numpy as np
import pytest
from evaluation_helpers import HEIGHT, WIDTH, noisy, pan, texture, write_clip

from dsmap.common.images import read_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.stabilization.flicker import ClipFlicker, FlickerMeter
from dsmap.tools.eval.video import VideoComparison, check_files, measure


def measured(inputs: list[np.ndarray], outputs: list[np.ndarray]) -> ClipFlicker:
    meter = FlickerMeter()
    for pair in zip(inputs, outputs, strict=True):
        meter.add(*pair)
    return meter.result()


def test_flicker_is_measured_without_the_packages_of_training(tmp_path):
    code = (
        "import sys\nfor name in ('torch', 'yaml'): sys.modules[name] = None\n"
        "sys.argv = ['dsmap-eval', 'video', 'a.mp4', 'a.mp4']\nfrom dsmap.tools.eval import main\nmain()"
    )
    write_clip(tmp_path / "a.mp4", pan(4))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "flicker" in done.stdout


def test_a_copy_does_not_flicker():
    found = measured(pan(6), pan(6))
    assert found.flicker == 0
    assert found.input == found.output
    assert found.input_sharpness == found.output_sharpness
    assert found.followed > 0.5
    assert found.input.change < 3  # the flow is nearly right: without it, about 15
    assert (found.frames, len(found.pairs), found.cuts) == (6, 5, ())


def test_a_still_clip_does_not_change_at_all():
    found = measured([texture()] * 4, [255 - texture()] * 4)
    assert found.input == found.output == (0, 0, 0)
    assert found.flicker == 0


def test_brightness_5_up_and_5_down_is_a_change_of_10():
    still = texture()
    blinking = [still + np.uint8(5) if number % 2 else still - np.uint8(5) for number in range(6)]
    found = measured([still] * 6, blinking)
    assert found.flicker == pytest.approx(10, abs=0.01)
    assert found.output.brightness_change == pytest.approx(10, abs=0.01)
    assert found.output.warping_error == pytest.approx((10 / 255) ** 2, rel=0.01)
    assert found.input.change == 0


def test_noise_that_is_added_is_found_again():
    """Two draws of N(0, 3) differ by 2 / sqrt(pi) x 3 = 3.39 on average, and by none in brightness."""
    found = measured([texture()] * 5, noisy([texture()] * 5, 3))
    assert found.flicker == pytest.approx(3.39, abs=0.1)
    assert found.output.brightness_change < 0.2
    assert found.output.warping_error == pytest.approx(2 * 9 / 255**2, rel=0.05)


def test_more_flicker_gives_more_in_a_moving_image_too():
    levels = [measured(pan(5), noisy(pan(5), sigma)).flicker for sigma in (0, 2, 5, 10)]
    assert levels == sorted(levels)
    assert levels[0] == 0
    assert levels[3] > 2 * levels[1] > 1


def test_a_translation_with_more_contrast_and_other_colours_is_not_flicker():
    still = [texture()] * 4
    assert measured(still, [np.ascontiguousarray(255 - frame[:, :, ::-1]) for frame in still]).flicker == 0


def test_a_blur_lowers_the_sharpness():
    found = measured(pan(3), [cv2.blur(frame, (5, 5)) for frame in pan(3)])
    assert found.output_sharpness < 0.5 * found.input_sharpness


def test_a_cut_counts_for_nothing():
    clip = [texture()] * 3 + [texture(seed=1)] * 3
    found = measured(clip, clip)
    assert found.cuts == (3,)
    assert found.pairs[2].flicker is None
    assert found.input.change == 0


def test_what_is_hidden_counts_for_nothing():
    """Behind a square that moves on there is background that was not there before."""
    frames = []
    for number in range(4):
        frames.append(texture(96, 128))
        frames[-1][30:62, 20 + 8 * number : 52 + 8 * number] = texture(32, 32, 5) // 4
    meter = FlickerMeter()
    for frame in frames:
        meter.add(frame, frame)
    assert 0.5 < meter.result().followed < 0.97
    assert meter.result().input.change < 1


@pytest.mark.parametrize(
    ("frames", "fact"),
    [
        ([texture()], "fewer than two frames"),
        ([texture(seed=seed) for seed in range(3)], "none of the 3 frames continues"),
        ([texture(12, 64)] * 2, "the frames are 64x12"),
        ([texture(), texture(40)], r"the input is uint8 \(40, 64, 3\), expected uint8 \(48, 64, 3\)"),
    ],
)
def test_what_cannot_be_measured_is_told(frames, fact):
    with pytest.raises(InputError, match=fact):
        measured(frames, frames)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A clip and translations of it, right and wrong."""
    folder, clip = tmp_path_factory.mktemp("videos"), pan(8)
    write_clip(folder / "in.mp4", clip)
    write_clip(folder / "steady.mp4", clip)
    write_clip(folder / "flickering.mp4", noisy(clip, 8))
    write_clip(folder / "short.mp4", clip[:5])
    write_clip(folder / "late.mp4", clip, offset=30)
    write_clip(folder / "slower.mp4", clip, rate=20)
    write_clip(folder / "larger.mp4", [cv2.resize(frame, (2 * WIDTH, 2 * HEIGHT)) for frame in noisy(clip, 8)])
    write_clip(folder / "wide.mp4", [np.hstack([frame, frame]) for frame in clip])
    write_clip(folder / "tall.mp4", [np.vstack([frame, frame]) for frame in clip])
    return folder


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsmap.tools.eval", "video", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def compared(source: Path, output: Path, **chosen: int | None) -> VideoComparison:
    return measure(source, [("out", output)], **{"height": None, "frames": None} | chosen)[0]


def test_the_command_prints_reports_and_draws(videos, tmp_path):
    pytest.importorskip("matplotlib")
    done = run(videos / "in.mp4", videos / "flickering.mp4", "--report", "r.json", "--plot", "p.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 frames measured at 64x48" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert f"{report['flicker']:+.2f}" in done.stdout
    assert report["flicker"] == pytest.approx(report["out"]["change"] - report["in"]["change"], abs=0.001)
    assert report["flicker"] > 2
    assert [pair["frame"] for pair in report["series"]] == list(range(1, 8))
    assert report["series"][-1]["seconds"] == report["seconds"] == pytest.approx(0.28)
    series = [pair["out"]["warping_error"] for pair in report["series"]]
    assert report["out"]["warping_error"] == pytest.approx(np.mean(series), abs=1e-6)
    image = read_rgb(tmp_path / "p.png")
    assert image.shape[0] > 300
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png", "r.json"]

    with pytest.raises(InputError, match=r"r\.json exists already"):
        check_files(videos / "in.mp4", [videos / "steady.mp4"], report=tmp_path / "r.json", overwrite=False)


def test_a_refusal_is_two_lines(videos, tmp_path):
    done = run(videos / "in.mp4", videos / "wide.mp4", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 2


def test_a_translation_of_another_size_is_brought_to_that_of_the_input(videos):
    found = compared(videos / "in.mp4", videos / "larger.mp4")
    assert (found.width, found.height) == (WIDTH, HEIGHT)
    assert found.flicker.flicker > 1
    lower = compared(videos / "in.mp4", videos / "larger.mp4", height=24, frames=4)
    assert (lower.width, lower.height, lower.flicker.frames) == (32, 24, 4)


def test_the_first_frames_of_a_shorter_one_can_be_measured(videos):
    assert compared(videos / "in.mp4", videos / "short.mp4", frames=5).flicker.frames == 5


@pytest.mark.parametrize(
    ("output", "fact"),
    [
        ("short.mp4", r"short.mp4 has 5 frames and .*in.mp4 has more"),
        ("late.mp4", r"frame 1 is shown after 0.040 s in .*in.mp4 and after 0.070 s in"),
        ("slower.mp4", r"frame 2 is shown after 0.080 s in .* and after 0.100 s"),
        ("wide.mp4", r"in.mp4 is 64x48 and .*wide.mp4 128x48: it looks like a --side-by-side result"),
        ("tall.mp4", "not the same shape"),
        ("gone.mp4", "does not exist"),
    ],
)
def test_what_is_no_translation_of_it_is_refused(videos, output, fact):
    with pytest.raises(InputError, match=fact):
        compared(videos / "in.mp4", videos / output)


def test_names_that_would_lose_something_are_refused(videos, tmp_path):
    source, output = videos / "in.mp4", videos / "steady.mp4"
    for report, plot, fact in [
        (source, None, "is the input itself"),
        (output, None, "is OUT itself"),
        (tmp_path, None, "is a folder"),
        (tmp_path / "gone" / "r.json", None, "does not exist"),
        (tmp_path / "p.png", tmp_path / "p.png", "both name"),
        (None, tmp_path / "p.txt", "cannot draw into p.txt"),
    ]:
        with pytest.raises(InputError, match=fact):
            check_files(source, [output], report=report, plot=plot, overwrite=True)


def test_without_matplotlib_only_the_plot_is_missing(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    check_files(videos / "in.mp4", [videos / "steady.mp4"], report=tmp_path / "r.json", overwrite=False)
    with pytest.raises(DsmapError, match="--plot needs matplotlib") as caught:
        check_files(videos / "in.mp4", [videos / "steady.mp4"], plot=tmp_path / "p.png", overwrite=False)
    assert "pip install 'dsmap[eval]'" in caught.value.advice


def test_help_is_light(tmp_path):
    heavy = ("numpy", "cv2", "av", "matplotlib", "rich.progress")
    code = (
        "import sys; sys.argv = ['x', 'video', '--help']\nfrom dsmap.tools.eval import main\n"
        f"try: main()\nexcept SystemExit as stop: print(stop.code, sorted(set(sys.modules) & set({heavy!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_the_stabilizer_steadies_a_real_clip():
    """Of the shared videos, with a translation that adds noise to its negative."""
    from dsmap.runtime.stabilization.stabilizer import Stabilizer
    from dsmap.runtime.video.frame import Frame
    from dsmap.runtime.video.reader import VideoReader

    random, stabilizer, before, after = np.random.default_rng(0), Stabilizer(), FlickerMeter(), FlickerMeter()
    with VideoReader(clips.shared_videos() / "summer_highway.mp4", height=128) as reader:
        for item in reader:
            if not isinstance(item, Frame):
                continue
            negative = 255 - item.rgb + random.normal(0, 5, item.rgb.shape)
            output = negative.round().clip(0, 255).astype(np.uint8)
            before.add(item.rgb, output)
            after.add(item.rgb, stabilizer(item.rgb, output))
            if item.pts * reader.time_base > 0.5:
                break
    assert after.result().flicker < 0.5 * before.result().flicker
    assert after.result().output.warping_error < 0.5 * before.result().output.warping_error
