"""The command `dsmap-video`, run as a person runs it; only the network is replaced (by inverting)."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2  # before av

# isort: split
import av
import clips
import numpy as np
import pytest
from commands import call
from stand_in import assert_refused, held, run

from dsmap.common.images import read_rgb, write_rgb


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clips.make_clip(tmp_path / "clip.mp4", frames=12, audio=["aac"])


@pytest.fixture
def run_here(monkeypatch):
    """Runs the command in this process, for what is refused before the model is loaded; that would be printed."""
    from dsmap.runtime.translator import Translator
    from dsmap.tools import video

    monkeypatch.setattr(Translator, "load", lambda *_, **__: print("loaded"))  # noqa: T201
    return functools.partial(call, video)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, dsmap.tools.video\n"
        "heavy = {'av', 'cv2', 'numpy', 'onnxruntime', 'torch', 'rich.progress'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    best = 9.0
    for _ in range(3):
        before = os.times()
        code = "from dsmap.tools.video import main; main()"
        told = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
        after = os.times()  # the processor's time, which other work on the machine hardly changes
        user, system = after.children_user - before.children_user, after.children_system - before.children_system
        best = min(best, user + system)
    assert "--side-by-side" in told.stdout
    assert best < 0.5


def test_every_option_reaches_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field of the options has another value than without them, and the request is frozen."""
    import dsmap.runtime.jobs.batch
    from dsmap.runtime.jobs.options import ModelOptions, StyleOptions, VideoOptions
    from dsmap.tools.video.command import app

    requests = []
    monkeypatch.setattr("dsmap.runtime.jobs.request.resolve_request", lambda *given, **named: requests.append(named))
    monkeypatch.setattr(dsmap.runtime.jobs.batch, "run_request", lambda *_given: sys.exit(0))
    monkeypatch.setattr("dsmap.tools.video.display.Display", lambda _request, **_how: sys.exit(0))
    line = (
        "a.mp4 -d winter -m other --backend cpu --precision fp16 --cuda-binding pycuda --trust-engines --strength 0.5"
    )
    line += (
        " --stabilize --style snow --seed 3 --style-from 1 --style-to 2 --style-cycle 1,2 --style-period 4 --height 64"
    )
    line += " --style-spread 2"
    line += (
        " --no-upscale --refine guided --side-by-side --start 1 --end 2 --frames 9 --programme 2 --deinterlace --rate 3"
    )
    line += " --codec av1 --crf 5 --preset slow --audio none --overwrite --strip-metadata --resume --report r.json"
    line += " --password-env P --hwaccel auto --streams 1 --tile"
    with pytest.raises(SystemExit):
        app(line.split())
    (named,) = requests
    usual = {"model": ModelOptions(domain=""), "style": StyleOptions(), "options": VideoOptions()}
    for name, defaults in usual.items():
        for field in (field for field in dataclasses.fields(defaults) if field.name != "remote"):  # excludes others
            assert getattr(named[name], field.name) != getattr(defaults, field.name), field.name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(named[name], field.name, None)
    assert (named["report"], named["password_env"]) == (Path("r.json"), "P")


def test_version_and_usage_errors() -> None:
    assert run("--version")[:2] == (0, "dsmap 0.1.0\n")
    assert_refused(run(), 2, "Missing argument 'INPUT")
    assert_refused(run("a.mp4"), 2, "no domain was chosen: the model summer-winter translates to several")
    assert "Pass --domain summer or --domain winter." in run("a.mp4")[2]
    assert "--domain summer" not in run("a.mp4", "--model", "mine")[2]
    assert_refused(run("a.mp4", "-d", "winter", "--hight", "3"), 2, "No such option: --hight")
    result = run("a.mp4", "-d", "winter", "--streams", "9")
    assert_refused(result, 2, "'--streams': must be between 1 and 4")
    result = run("a.mp4", "--domain", "winter", "--height", "3")
    assert_refused(result, 2, "Invalid value for '--height'")
    assert result[2].splitlines()[1].startswith("See ")
    assert result[2].endswith(" --help.\n")


def test_a_file_whose_name_starts_with_a_dash(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-x.mp4").write_text("")
    result = run("-x.mp4", "-d", "winter")
    assert_refused(result, 2, "No such option")
    assert result[2].splitlines()[1] == f"For the file -x.mp4 write .{os.sep}-x.mp4"


@pytest.mark.parametrize("option", ["-o", "-m", "--style", "--report"])
def test_empty_names_are_refused(option: str, tmp_path: Path, monkeypatch) -> None:
    """Path("") is the current folder, which would be translated."""
    monkeypatch.chdir(tmp_path)
    write_rgb(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    assert_refused(run("a.png", "-d", "winter", option, ""), 2, "it is empty")
    assert_refused(run("", "-d", "winter"), 2, "it is empty")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_help_has_examples_and_says_what_auto_does() -> None:
    told = run("--help")[1]
    lines = [line.strip() for line in told.splitlines()]
    assert "dsmap-video holiday.mp4 --domain winter" in lines  # each on a line of its own
    assert "dsmap-video photos/ clip.mkv --domain winter --height 480 -o results" in lines
    assert "fastest" not in told


def test_no_output_may_be_an_input(clip: Path, tmp_path: Path, tiny_bundle: Path, run_here) -> None:
    """Under any spelling, and --overwrite does not change it."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    for path in (tmp_path / "style.png", photos / "a.png", photos / "b.bmp", out / "style.png"):
        write_png(path)
    (tmp_path / "link.mp4").symlink_to(clip)
    (out / "b.bmp.png").symlink_to(tmp_path / "style.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refused(fact: str, *arguments: object) -> None:
        assert_refused(run_here(*arguments, "-d", "winter", "-m", bundle, "--overwrite"), 2, fact)

    style = ("--style", tmp_path / "style.png")
    refused("is the name of a result", clip, "-o", tmp_path / "x.mp4", "--report", photos / ".." / "x.mp4")
    refused("is the input itself", clip, "--report", photos / ".." / "clip.mp4")
    refused("is the input itself", clip, "-o", tmp_path / "link.mp4")
    refused("is the --style image", clip, *style, "--report", photos / ".." / "style.png")
    refused("is the --style image", photos / "a.png", *style, "-o", tmp_path / "style.png")
    refused("is the --style image", photos, *style, "-o", out)  # over the link out/b.bmp.png
    refused("lies in the model's folder", clip, "--report", bundle / "bundle.json")
    refused("lies in the model's folder", photos / "a.png", "-o", bundle / "new.png")
    refused("lies in the model's folder", photos, "-o", bundle)
    refused("an image of the input folder", photos, "-o", tmp_path / "new", "--report", photos / "a.png")
    refused("is the name of a result", photos, "-o", tmp_path / "new", "--report", tmp_path / "new" / "b.bmp.png")
    refused("is the input folder itself", photos, "-o", photos)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def write_png(path: Path) -> None:
    path.write_bytes(cv2.imencode(path.suffix, np.full((16, 24, 3), 9, np.uint8))[1].tobytes())


def test_a_size_that_does_not_fit_is_told_before_the_work(clip: Path, tmp_path: Path) -> None:
    code, out, err = run(clip, "-d", "winter", "--height", "64", STAND_IN_LARGEST="48")
    assert (code, err) == (2, "error: needs about 9 GB\n--height 16\n")
    assert "backend" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def run_code(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_missing_system_libraries_of_opencv_are_named() -> None:
    code = (
        "import typer\nfrom dsmap.tools.shared import cli\napp = cli.new_app()\n"
        "@app.command()\n@cli.explained\ndef go(debug: cli.Debug = False) -> None:\n"
        "    raise ImportError('libGL.so.1: cannot open shared object file')\n"
        "cli.run(app)"
    )
    done = run_code(code)
    assert done.returncode == 1
    assert done.stderr.startswith("error: OpenCV cannot be loaded: libGL.so.1: cannot open")
    assert done.stderr.endswith("apt-get install libgl1 libglib2.0-0\n")


def test_debug_prints_what_is_logged_for_it() -> None:
    code = (
        "import logging, sys, typer\nfrom dsmap.tools.shared import cli\napp = cli.new_app()\n"
        "@app.command()\n@cli.explained\ndef go(debug: cli.Debug = False) -> None:\n"
        "    logging.getLogger('dsmap').debug('234 nodes \\x1b[31m')\n"
        "    logging.getLogger('dsmap').warning('slow')\n"
        "sys.argv[1:] = {}\n"
        "cli.run(app)"
    )
    assert run_code(code.format([])).stderr == "slow\n"
    shown = run_code(code.format(["--debug"])).stderr
    assert shown.splitlines()[0].startswith("234 nodes ")
    assert "\x1b" not in shown
    assert shown.splitlines()[1:] == ["slow"]


@pytest.mark.parametrize(
    ("body", "code"),
    [("raise typer.Exit(3)", 3), ("raise typer.Abort", 130), ("raise KeyboardInterrupt", 130), ("pass", 0)],
)
def test_exit_codes_pass_through(body: str, code: int) -> None:
    head = "import typer\nfrom dsmap.tools.shared import cli\napp = cli.new_app()\n@app.command()\n"
    assert run_code(f"{head}def go() -> None:\n    {body}\ncli.run(app)").returncode == code


def test_a_video_lands_beside_the_input(clip: Path, tmp_path: Path) -> None:
    code, out, err = run(clip, "--domain", "winter", "--report", tmp_path / "report.json")
    result = tmp_path / "clip-winter.mp4"
    assert (code, err) == (0, "")
    assert "summer-winter: summer -> winter, 64x48, 12 frames, 1 audio copied" in out
    assert "backend: stand-in, fp32 (auto)" in out.splitlines()
    assert f"{result}: 12 of 12 done" in out
    assert len(out.splitlines()) == 4  # no bar where there is no terminal (and one line from the stand-in)
    assert clips.read(result).times == clips.read(clip).times
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["model"], report["source"], report["target"]) == ("summer-winter", "summer", "winter")
    assert report["output"] == str(result)
    assert (report["frames"], report["complete"], report["audio_streams"], report["width"]) == (12, True, 1, 64)
    assert {"fps", "seconds", "decode_seconds", "translate_seconds", "encode_seconds", "backend"} <= set(report)


def test_output_names(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert run(clip, "-d", "winter", "-o", tmp_path / "results")[0] == 0
    assert run(clip, "-d", "winter", "-o", tmp_path / "other.mkv", "--side-by-side")[0] == 0
    assert (tmp_path / "results" / "clip-winter.mp4").is_file()
    assert clips.read(tmp_path / "other.mkv").frames[0].shape == (48, 128, 3)


def test_images_and_folders(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    write_rgb(tmp_path / "photos" / "a.png", np.full((16, 24, 3), 200, np.uint8))
    write_rgb(tmp_path / "photos" / "b.jpg", np.full((16, 24, 3), 100, np.uint8))
    assert run(tmp_path / "photos" / "a.png", "-d", "winter", "-o", tmp_path / "one.jpg")[0] == 0
    assert abs(int(read_rgb(tmp_path / "one.jpg")[0, 0, 0]) - 55) < 4
    code, out, _ = run(tmp_path / "photos", "-d", "winter")
    assert (code, "2 of 2 done" in out) == (0, True)
    assert sorted(path.name for path in (tmp_path / "photos-winter").iterdir()) == ["a.png", "b.jpg"]
    (tmp_path / "photos" / "c.jpg").write_bytes(b"broken")
    code, out, err = run(tmp_path / "photos", "-d", "winter", "--overwrite")
    assert (code, "2 of 3 done" in out) == (1, True)
    assert "error: 1 of 3 images could not be translated" in err
    assert "c.jpg" in err


def test_wrong_input_is_told_before_the_model_is_loaded(clip: Path, tmp_path: Path, run_here) -> None:
    winter = ("-d", "winter")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "exists.mp4").write_text("precious")
    (tmp_path / "bad.png").write_text("no image")
    assert_refused(run(tmp_path / "nothing.mp4", *winter), 2, "does not exist")  # a process of its own
    assert_refused(run_here(tmp_path / "text.mp4", *winter), 2, "is not a video")
    assert_refused(run_here(tmp_path / "empty", *winter), 2, "holds no images")
    assert_refused(run_here(tmp_path / "bad.png", *winter), 2, "bad.png")
    assert_refused(run_here(clip, *winter, "-o", tmp_path / "exists.mp4"), 2, "exists already")
    assert_refused(run_here(clip, *winter, "-o", tmp_path / "no" / "out.mp4"), 2, "does not exist")
    assert_refused(run_here(clip, *winter, "-o", clip, "--overwrite"), 2, "is the input itself")
    assert_refused(run_here(clip, *winter, "-o", tmp_path / "out.wmv"), 2, "cannot write a video as .wmv")
    assert_refused(run_here(clip, *winter, "--style", tmp_path / "bad.png"), 2, "bad.png")
    assert_refused(run_here(clip, *winter, "--style", tmp_path / "no.png"), 2, "no.png")
    assert_refused(run_here(clip, *winter, "--style", clip, "--seed", 1), 2, "cannot be used together")
    assert_refused(run_here(clip, *winter, "--report", tmp_path / "no" / "r.json"), 2, "does not exist")
    assert_refused(run_here(clip, *winter, "--report", tmp_path / "exists.mp4"), 2, "exists already")
    assert_refused(run_here(clip, *winter, "--report", clip, "--overwrite"), 2, "is the input itself")
    assert_refused(
        run_here(clip, *winter, "-o", tmp_path / "a.mp4", "--report", tmp_path / "a.mp4"), 2, "is the name of a result"
    )
    assert_refused(run_here(clip, "-d", "spring"), 2, "no domain 'spring'")
    assert (tmp_path / "exists.mp4").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.png",
        "clip.mp4",
        "empty",
        "exists.mp4",
        "text.mp4",
    ]


def test_an_unexpected_failure_is_one_line_and_debug_shows_more(clip: Path, tmp_path: Path) -> None:
    code, _, err = run(clip, "-d", "winter", STAND_IN_FAILS="1")
    assert (code, len(err.splitlines())) == (1, 2)
    assert err.startswith("error: unexpected RuntimeError: no more memory\n")
    assert "--debug" in err
    code, _, err = run(clip, "-d", "winter", "--debug", STAND_IN_FAILS="1")
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("error: unexpected RuntimeError: no more memory\nsecond line\nThe lines above show where.\n")
    assert err.count("no more memory\n") == 1
    code, _, err = run(tmp_path / "missing.mp4", "-d", "winter", "--debug")
    assert (code, "Traceback" in err, err.count("does not exist\n")) == (2, True, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_truncated_video_exits_with_1_and_keeps_what_was_done(tmp_path: Path) -> None:
    source = clips.make_clip(
        tmp_path / "cut.mp4", frames=40, size=(320, 240), container_options={"movflags": "+faststart"}
    )
    clips.truncate(source, 0.6)
    code, _, err = run(source, "-d", "winter", "--report", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 1
    assert f"{report['frames']} of 40 frames" in err
    assert not report["complete"]
    assert len(clips.read(tmp_path / "cut-winter.mp4").times) == report["frames"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_a_playable_file_under_the_final_name(tmp_path: Path, number: int) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=200, audio=["aac"], audio_seconds=6.6)
    arguments = (source, "-d", "winter", "--report", tmp_path / "report.json")
    with held(tmp_path / "hold", 12, *arguments, STAND_IN_SECONDS="0.05") as process:
        process.send_signal(number)
    out, err = process.communicate(timeout=180)
    done = clips.read(tmp_path / "in-winter.mp4")
    assert process.returncode == 130
    assert 0 < len(done.times) < 200
    assert f"{len(done.times)} of 200 done" in out
    assert "What was done is in " in err
    assert done.audio[0][-1][0] <= done.times[-1] + 0.1
    assert json.loads((tmp_path / "report.json").read_text())["interrupted"] is True
    assert not list((tmp_path / "in-winter.mp4.parts").glob(".video.*"))


def test_streams_that_are_left_out_are_named(tmp_path):
    with av.open(str(tmp_path / "two.mkv"), "w") as out:
        streams = [out.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stream in streams:
            for _ in range(3):
                out.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
            out.mux(stream.encode(None))
    code, out_text, error = run(tmp_path / "two.mkv", "--domain", "winter")
    assert code == 0, error
    assert "left out" in out_text
    assert "video" in out_text.split("left out")[1].splitlines()[0]


def test_the_result_has_its_size_in_the_first_line_and_in_the_report(tmp_path: Path) -> None:
    clip = clips.make_clip(tmp_path / "odd.mp4", frames=4, size=(66, 50))
    code, out, err = run(
        clip, "-d", "winter", "--height", "25", "--side-by-side", "--report", tmp_path / "r.json", "--verbose"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()[1:]  # after the stand-in's
    assert (
        lines[0]
        == "summer-winter: summer -> winter, 66x50, translated at 25 lines and refined, result 132x50, 4 frames"
    )
    assert lines[1:3] == ["backend: stand-in, fp32 (auto)", "  stand-in: inverts (for tests)"]
    assert lines[3].endswith("per second), 132x50")
    assert json.loads((tmp_path / "r.json").read_text())["result_size"] == [132, 50]
    smaller = run(clip, "-d", "winter", "--height", "25", "--no-upscale", "--overwrite")[1]
    assert smaller.endswith(", 32x26\n")  # the codec takes even sides
