"""Whole jobs: what is left behind when things go wrong, and what the reports say."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest

from dsmap.common.images import read_rgb, write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.images import translate_folder, translate_image
from dsmap.runtime.jobs.video import JobReport, check_video, translate_video

FASTSTART = {"movflags": "+faststart"}


def same(frame: np.ndarray) -> np.ndarray:
    return frame


def invert(frame: np.ndarray) -> np.ndarray:
    return 255 - frame


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop_after(count: int, presses: int = 1):
    """A translation during which Ctrl-C is pressed at frame `count`, once or more."""
    calls = 0

    def translate(frame: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == count:
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.02)
        if calls >= count:
            time.sleep(0.1)
        return frame

    return translate


def test_height_and_side_by_side(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=4, size=(98, 48), colours=[(40, 200, 60)])
    sizes = set()

    def look(frame: np.ndarray) -> np.ndarray:
        sizes.add(frame.shape)
        return 255 - frame

    for upscale, (height, width) in ((True, (48, 98)), (False, (24, 48))):
        output = tmp_path / f"{upscale}.mp4"
        report = translate_video(source, output, look, height=24, upscale=upscale, side_by_side=True)
        result = clips.read(output).frames[0]
        assert sizes == {(24, 48, 3)}  # 49 wide, made even
        assert (report.width, report.height) == (48, 24)
        assert result.shape == (height, 2 * width, 3)
        assert np.abs(result[12, 10].astype(int) - (40, 200, 60)).max() <= 8
        assert np.abs(result[12, -10].astype(int) - (215, 55, 195)).max() <= 8


def test_the_height_is_that_of_the_upright_image(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=2, size=(64, 32), rotation=90)
    report = translate_video(source, tmp_path / "out.mp4", same, height=32)
    assert (report.width, report.height) == (16, 32)


def test_the_report_adds_up(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=10, audio=["aac", "aac"])
    seen: list[tuple[int, int | None]] = []
    report = translate_video(source, tmp_path / "out.mp4", same, progress=lambda *now: seen.append(now))
    plain = json.loads(json.dumps(report.as_dict()))
    assert seen == [(index, 10) for index in range(1, 11)]
    assert plain["frames"] == plain["frames_expected"] == 10
    assert plain["audio_streams"] == 2
    assert plain["complete"] is True
    assert plain["interrupted"] is False
    for stage in ("decode", "translate", "encode"):
        assert 0 < plain[f"{stage}_seconds"] <= plain["seconds"]
    assert 0 < plain["first_frame_seconds"] < plain["seconds"]
    assert plain["fps"] == pytest.approx(10 / report.seconds, rel=0.1)


@pytest.mark.parametrize(("presses", "least"), [(1, 15), (2, 10)])
def test_ctrl_c_leaves_what_was_done_with_its_audio(tmp_path: Path, presses: int, least: int) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=60, audio=["aac"], audio_seconds=2.0)
    before = signal.getsignal(signal.SIGINT)
    report = translate_video(source, tmp_path / "out.mp4", stop_after(15, presses))  # the second does not wait
    done = clips.read(tmp_path / "out.mp4")
    whole = clips.read(source)
    assert (report.interrupted, report.complete, report.frames_expected) == (True, False, 60)
    assert least <= report.frames == len(done.times) < 60
    assert done.times == whole.times[: len(done.times)]
    assert abs(done.audio[0][-1][0] - done.times[-1]) < Fraction(1, 10)
    assert done.audio[0] == whole.audio[0][: len(done.audio[0])]
    assert names(tmp_path) == ["in.mp4", "out.mp4"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_during_the_first_frame_leaves_nothing(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=5)

    def press(frame: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    report = translate_video(source, tmp_path / "out.mp4", press)
    assert (report.frames, report.interrupted) == (0, True)
    assert names(tmp_path) == ["in.mp4"]


@pytest.mark.parametrize(("suffix", "options"), [(".mp4", FASTSTART), (".mkv", {})])
def test_a_truncated_video_gives_what_decodes(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    clock = {"time_base": Fraction(1, 1000), "pts": [33 * index for index in range(60)]}
    source = clips.make_clip(
        tmp_path / f"in{suffix}", size=(320, 240), audio=["aac"], audio_seconds=2.0, container_options=options, **clock
    )
    clips.truncate(source, 0.6)
    report = translate_video(source, tmp_path / "out.mp4", same)
    done = clips.read(tmp_path / "out.mp4")
    assert not report.complete
    assert not report.interrupted
    assert 0 < report.frames == len(done.times) < 60
    assert report.frames_expected is not None
    assert abs(report.frames_expected - 60) <= (0 if suffix == ".mp4" else 3)
    assert done.audio[0][-1][0] <= done.times[-1] + Fraction(1, 10)


def test_damage_in_the_middle_loses_only_what_is_damaged(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=60, size=(320, 240), container_options=FASTSTART)
    whole = clips.read(source).times
    data = bytearray(source.read_bytes())
    start = data.find(b"mdat") + 4 + (len(data) - data.find(b"mdat")) // 3
    data[start : start + 400] = np.random.default_rng(0).bytes(400)
    source.write_bytes(data)
    report = translate_video(source, tmp_path / "out.mp4", same)
    times = clips.read(tmp_path / "out.mp4").times
    assert report.failed_packets > 0
    assert not report.complete
    assert report.frames == len(times)
    assert report.frames_expected == 60
    assert times[-1] == whole[-1]


def test_a_start_between_keyframes_is_no_damage(tmp_path: Path) -> None:
    clock = {"time_base": Fraction(1, 90000), "pts": [3003 * index for index in range(60)]}
    source = clips.make_clip(tmp_path / "in.ts", size=(320, 240), **clock)
    data = source.read_bytes()
    source.write_bytes(data[len(data) // 4 // 188 * 188 :])
    report = translate_video(source, tmp_path / "out.mp4", same)
    assert report.complete
    assert report.frames == len(clips.read(tmp_path / "out.mp4").times) > 20


def test_a_failing_translation_leaves_nothing(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=5)
    (tmp_path / "out.mp4").write_text("precious")

    def fail(frame: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        translate_video(source, tmp_path / "out.mp4", fail, overwrite=True)
    with pytest.raises(DsmapError, match=r"expected uint8 \(48, 64, 3\)"):
        translate_video(source, tmp_path / "out.mp4", lambda frame: frame[:8], overwrite=True)
    assert (tmp_path / "out.mp4").read_text() == "precious"
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


DISK_FULL = """
import resource, sys
import numpy as np
from dsmap.runtime.jobs.video import translate_video
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
noise = np.random.default_rng(0)
try:
    translate_video(sys.argv[1], sys.argv[2], lambda frame: noise.integers(0, 256, frame.shape, dtype=np.uint8))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=30, size=(160, 120))
    output = tmp_path / f"out{suffix}"
    command = [sys.executable, "-c", DISK_FULL, str(source), str(output)]
    subprocess.run(command, check=True)
    size = output.stat().st_size
    output.unlink()
    for limit in (100, size // 2, size - 20):  # in the header, in the data, and at the very end
        told = subprocess.run([*command, str(limit)], capture_output=True, text=True, check=True)
        assert "DsmapError the disk is full" in told.stdout, (limit, told)
        assert names(tmp_path) == ["in.mp4"]


def test_an_input_that_has_the_unfinished_files_name_survives(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "a.part.mp4", frames=3)
    before = source.read_bytes()
    assert translate_video(source, tmp_path / "a.mp4", same).complete
    assert source.read_bytes() == before
    assert names(tmp_path) == ["a.mp4", "a.part.mp4"]


def test_a_name_taken_during_the_work_is_not_overwritten(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=3)
    output = tmp_path / "out.mp4"

    def take_the_name(frame: np.ndarray) -> np.ndarray:
        output.write_text("precious")
        return frame

    with pytest.raises(DsmapError, match=r"saved as .*out-2\.mp4"):
        translate_video(source, output, take_the_name)
    assert output.read_text() == "precious"
    assert len(clips.read(tmp_path / "out-2.mp4").times) == 3


def test_what_exists_is_only_replaced_when_asked(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=3)
    output = tmp_path / "out.mp4"
    output.write_text("precious")
    with pytest.raises(InputError, match="--overwrite"):
        translate_video(source, output, same)
    assert output.read_text() == "precious"
    assert translate_video(source, output, same, overwrite=True).complete
    assert len(clips.read(output).times) == 3


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("in.mp4", "the input itself"),
        ("link.mp4", "the input itself"),
        ("missing/out.mp4", "does not exist"),
        ("folder.mp4", "is a folder"),
        ("out.avi", "cannot write a video as .avi"),
        ("out", "without a suffix"),
        ("/proc/out.mp4", "cannot write into /proc: it takes no new files"),
    ],
)
def test_a_wrong_output_is_refused_before_any_work(tmp_path: Path, output: str, said: str) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=2)
    (tmp_path / "link.mp4").symlink_to(source)
    (tmp_path / "folder.mp4").mkdir()
    before = source.read_bytes()
    with pytest.raises(InputError, match=said):
        check_video(source, tmp_path / output, overwrite=True)
    assert source.read_bytes() == before
    assert names(tmp_path) == ["folder.mp4", "in.mp4", "link.mp4"]


def test_one_image(tmp_path: Path) -> None:
    write_rgb(tmp_path / "in.png", np.full((40, 61, 3), (200, 100, 50), np.uint8))
    report = translate_image(tmp_path / "in.png", tmp_path / "out.webp", invert, side_by_side=True)
    result = read_rgb(tmp_path / "out.webp")
    assert (report.frames, report.width, report.height, report.complete) == (1, 61, 40, True)
    assert result.shape == (40, 122, 3)
    assert np.abs(result[20, 100].astype(int) - (55, 155, 205)).max() < 8
    with pytest.raises(InputError, match="cannot write an image as"):
        translate_image(tmp_path / "in.png", tmp_path / "out.gif", invert)
    with pytest.raises(InputError, match="--overwrite"):
        translate_image(tmp_path / "in.png", tmp_path / "out.webp", invert)


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    for index, suffix in enumerate((".png", ".jpg", ".webp")):
        write_rgb(folder / f"{index}{suffix}", np.full((16, 24, 3), 50 * index, np.uint8))
    (folder / "readme.txt").write_text("not an image")
    return folder


def test_a_folder_of_images_with_a_broken_one(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    (source / "1b.png").write_bytes(b"broken")
    report = translate_folder(source, tmp_path / "out", invert, height=8, upscale=False)
    assert names(tmp_path / "out") == ["0.png", "1.jpg", "2.webp"]
    assert read_rgb(tmp_path / "out" / "0.png").tolist() == np.full((8, 12, 3), 255).tolist()
    assert (report.frames, report.frames_expected, report.complete) == (3, 4, False)
    assert len(report.failed) == 1
    assert report.failed[0].startswith("1b.png: ")
    with pytest.raises(InputError, match="--overwrite"):
        translate_folder(source, tmp_path / "out", invert)
    assert translate_folder(source, tmp_path / "out", invert, overwrite=True).frames == 3


def test_ctrl_c_in_a_folder_keeps_the_images_that_are_done(tmp_path: Path) -> None:
    report: JobReport = translate_folder(make_folder(tmp_path / "in"), tmp_path / "out", stop_after(2))
    assert (report.interrupted, report.frames, report.frames_expected) == (True, 2, 3)
    assert names(tmp_path / "out") == ["0.png", "1.jpg"]


def test_folders_that_cannot_be_done(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for folder, output, said in [
        (tmp_path / "empty", tmp_path / "out", "holds no images"),
        (source, source, "the input folder itself"),
        (source, tmp_path / "file", "is a file"),
        (source, tmp_path / "a" / "b", "does not exist"),
    ]:
        with pytest.raises(InputError, match=said):
            translate_folder(folder, output, same, overwrite=True)
    assert names(source) == ["0.png", "1.jpg", "2.webp", "readme.txt"]


def test_a_quick_stage_is_not_rounded_to_nothing(tmp_path: Path) -> None:
    """Ten small frames can take a function less than half a millisecond."""
    report = JobReport(
        input=tmp_path,
        output=tmp_path,
        width=1,
        height=1,
        frames=1,
        frames_expected=1,
        seconds=0.25,
        translate_seconds=0.0003,
    )
    assert report.as_dict()["translate_seconds"] == 0.0003
