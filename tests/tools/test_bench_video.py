"""`dsmap-bench video`: every stage is measured, and the numbers fit together."""

import json

import clips
import pytest
from plain_bundle import write_plain_bundle
from typer.testing import CliRunner

from dsmap.runtime.live import working_height
from dsmap.tools.bench import app


def test_stages_apart_and_together(tiny_bundle, tmp_path):
    clip = clips.make_clip(tmp_path / "clip.mp4", frames=30)
    arguments = ["video", str(clip), "-m", str(tiny_bundle), "--backend", "cpu", "--size", "48x32", "--frames", "12"]
    done = CliRunner().invoke(app, [*arguments, "--rounds", "2", "--report", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["frames"], report["width"], report["height"], report["target"]) == (12, 48, 32, "winter")
    assert set(report["fps"]) == {"decode", "translate", "encode", "together"}
    assert len(report["rounds_fps"]) == 2
    for name in ("decode", "translate", "encode"):
        levels = report["milliseconds"][name]
        assert 0 < levels["p50"] <= levels["p90"] <= levels["p99"]
    shares = [one["together"] / min(one["decode"], one["translate"], one["encode"]) for one in report["rounds_fps"]]
    assert report["fps"]["together"] > 0
    assert report["share_of_the_slowest_stage"] == pytest.approx(sum(shares) / 2, rel=0.01)
    assert "% of the slowest stage alone" in done.output


@pytest.mark.parametrize("arguments", [["missing.mp4"], ["--size", "48"], ["--codec", "mpeg2"]])
def test_wrong_input(arguments, tiny_bundle):
    done = CliRunner().invoke(app, ["video", *arguments, "-m", str(tiny_bundle), "--frames", "2", "--rounds", "1"])
    assert done.exit_code == 2, done.output


def test_a_live_session(tiny_bundle, tmp_path):
    clip = clips.make_clip(tmp_path / "clip.mp4", frames=30)
    arguments = ["live", str(clip), "-m", str(tiny_bundle), "--backend", "cpu", "--frames", "15"]
    done = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["frames_displayed"] == 15
    assert report["warm_up_frames"] == 20
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p95"]
    assert "busy" in done.output
    assert report["height"] == 48  # lines: there is no smaller height to choose from


def test_a_live_session_of_a_model_without_styles(tmp_path):
    write_plain_bundle(tmp_path / "plain")
    clip = clips.make_clip(tmp_path / "clip.mp4", frames=30)
    done = CliRunner().invoke(
        app, ["live", str(clip), "-m", str(tmp_path / "plain"), "--backend", "cpu", "--frames", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "2 frames" in done.output


def test_a_live_session_chooses_its_height_as_the_command_does(tiny_bundle, tmp_path, monkeypatch):
    """Without --height the largest that reaches 15 frames a second; and says so, without keys where no window is."""
    monkeypatch.setattr(working_height, "_measured", lambda rgb, translate, lines, clock: lines**2 / 280_000)
    clip = clips.make_clip(tmp_path / "clip.mp4", frames=12, size=(192, 144))
    arguments = ["live", str(clip), "-m", str(tiny_bundle), "--backend", "cpu", "--frames", "2"]
    done = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.output
    assert "\n120 lines, for 15 frames a second\n" in done.output
    assert json.loads((tmp_path / "r.json").read_text())["translated_height"] == 120


def test_refined_results_are_measured(tiny_bundle, tmp_path):
    """In videos as in live sessions: at the size of the clip, and the height is the one asked for."""
    clip = clips.make_clip(tmp_path / "clip.mp4", frames=12, size=(48, 32))
    for name in ("video", "live"):
        arguments = [name, str(clip), "-m", str(tiny_bundle), "--backend", "cpu", "--frames", "4", "--size", "96x64"]
        arguments += ["--height", "32", "--refine", "guided", *(["--rounds", "1"] if name == "video" else [])]
        done = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / f"{name}.json")])
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / f"{name}.json").read_text())
        assert (report["width"], report["height"]) == (96, 64)
        assert (report["translated_width"], report["translated_height"]) == (48, 32)
        assert report["refine"] == "guided"
    parts = report["stages_ms"]
    means = [parts[name]["mean"] for name in ("wait", "translate", "refine", "show")]
    assert parts["refine"]["max"] > 0
    assert sum(means) == pytest.approx(report["latency_ms"]["mean"], abs=0.3)
    assert "exposure" in done.output  # what the delay does not hold


def test_the_height_is_chosen_with_what_refining_takes(tiny_bundle, tmp_path):
    clip = clips.make_clip(tmp_path / "clip.mp4", frames=12, size=(192, 144))
    arguments = ["live", str(clip), "-m", str(tiny_bundle), "--backend", "cpu", "--frames", "2", "--refine", "auto"]
    done = CliRunner().invoke(app, [*arguments, "--target-fps", "240", "--report", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["translated_height"] in (96, 120, 144)
    assert report["height"] == 144
    done = CliRunner().invoke(app, [*arguments, "--target-fps", "20", "--height", "96"])
    assert (done.exit_code, "--target-fps has no effect with --height" in done.output) == (2, True)
