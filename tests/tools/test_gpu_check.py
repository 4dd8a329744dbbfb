"""The GPU check on machines without a GPU: its steps run with the CPU's backend, and a report is made of them."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.engines import tensorrt_api as trt
from dsmap.tools.gpu_check import run as gpu_check_run
from dsmap.tools.gpu_check import steps, video_step
from dsmap.tools.gpu_check.plan import GpuCheckRun, GpuStep, StepResult, facts, plan
from dsmap.tools.gpu_check.report import markdown, verdict
from dsmap.tools.gpu_check.run import run_plan, run_step

CPU = {"backend": "cpu", "settings": {"threads": 1, "frames_at_once": 2}, "seconds": 0.05}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(steps, "WARM_UP_SECONDS", 0.01)
    monkeypatch.setattr(steps, "WARM_UP_FRAMES", 2)


def new_run() -> GpuCheckRun:
    return GpuCheckRun(command="python -m dsmap.tools.gpu_check", facts=facts())


def ran(kind: str, found: dict, backend: str = "tensorrt") -> StepResult:
    step = GpuStep(title=f"{kind} of {backend}, m", kind=kind, model="m", backend=backend)
    return StepResult(step, found, 1.0)


def test_without_a_gpu_it_says_so_and_still_writes_a_report(tmp_path):
    if trt.current_architecture() is not None:
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "dsmap.tools.gpu_check", "--out", "report"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no NVIDIA GPU or driver here")
    report = json.loads((tmp_path / "report" / "gpu-check.json").read_text())
    assert (report["passed"], report["steps"]) == (False, [])
    assert report["versions"]["numpy"]
    text = (tmp_path / "report" / "gpu-check.md").read_text()
    assert "Nothing was run: no NVIDIA GPU or driver here." in text
    assert "python -m dsmap.tools.gpu_check --out report" in text


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [(["--seconds", "0"], "--seconds is 0"), (["--model", "no-such"], "no-such"), (["--out", "file"], "is a file")],
)
def test_wrong_input(tmp_path, monkeypatch, capsys, arguments, fact):
    from dsmap.tools.gpu_check import main

    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert fact in capsys.readouterr().err


def test_the_plan_checks_every_backend_before_it_measures(tmp_path):
    steps = plan([("summer-winter", tmp_path / "m"), ("mine", tmp_path / "n")])
    titles = [step.title for step in steps]
    backends = ("tensorrt", "tensorrt-rtx", "cuda", "torch")
    assert titles[0] == "the GPU and the bindings to CUDA"
    for model in ("summer-winter", "mine"):
        for backend in backends:
            assert titles.index(f"{backend} against the CPU, {model}") < titles.index(f"speed of {backend}, {model}")
    assert [step.kind for step in steps] == ["machine", *["check"] * 8, *["video"] * 4, *["speed"] * 8]
    sizes = {tuple(size) for step in steps for size in step.job.get("sizes", ())}
    assert sizes == {(256, 256), (512, 512), (1280, 720), (1920, 1088)}


def test_a_check_compares_with_the_cpu(tiny_bundle, monkeypatch):
    job = {**CPU, "model": str(tiny_bundle), "cases": [[32, 24, 1, None], [16, 16, 2, 3]]}
    found = steps.check(job)
    assert found["passed"]
    assert [row["psnr_db"] for row in found["rows"]] == [99.0, 99.0]
    assert all(row["same_again"] for row in found["rows"])

    from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU

    assert found["said"] == []

    class Wrong(OnnxRuntimeCPU):
        def __init__(self, *args):
            super().__init__(*args)
            logging.getLogger("dsmap").debug("3 nodes on the CPU")

        def _translate(self, frames_nhwc, style_ns, run):
            return super()._translate(frames_nhwc, style_ns, run) ^ 16

    monkeypatch.setitem(steps.BACKENDS, "wrong", lambda: Wrong)
    found = steps.check({**job, "backend": "wrong"})
    assert not found["passed"]
    assert found["rows"][0]["psnr_db"] < 30
    assert found["said"] == ["3 nodes on the CPU"]
    run = new_run()
    run.results.append(ran("check", found))
    assert "- check of tensorrt, m: 3 nodes on the CPU" in markdown(run)


def test_frames_that_differ_when_they_are_repeated_fail_the_check(tiny_bundle, monkeypatch):
    from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU

    class Unsteady(OnnxRuntimeCPU):
        calls = 0

        def _translate(self, frames_nhwc, style_ns, run):
            self.calls += 1
            return super()._translate(frames_nhwc, style_ns, run) ^ (self.calls > 3)

    monkeypatch.setitem(steps.BACKENDS, "unsteady", lambda: Unsteady)
    job = {**CPU, "backend": "unsteady", "model": str(tiny_bundle), "cases": [[16, 16, 1, None]]}
    found = steps.check(job)
    assert found["rows"][0]["psnr_db"] >= steps.MIN_PSNR
    assert not found["passed"]
    reason = StepResult(GpuStep(title="check", kind="check"), found, 1.0).reason
    assert reason.startswith("16x16: the same frames differ when they are repeated (48.1")


def test_lines_of_a_step_join_what_its_check_has_noted(monkeypatch):
    def step(command, **_options):
        Path(command[-1]).write_text(json.dumps({"passed": True, "said": ["3 nodes on the CPU", "without A"]}))
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="building B\nwithout A\n")

    monkeypatch.setattr(gpu_check_run.subprocess, "run", step)
    found = run_step(GpuStep(title="check", kind="check"), 10)
    assert found["said"] == ["3 nodes on the CPU", "without A", "building B"]


def test_the_facts_have_the_versions_of_torch():
    assert "torch" in facts()["versions"]


def test_torch_on_a_cpu_is_left_out(tiny_bundle, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch is on a GPU")
    needed = {"check": {"cases": [[16, 16, 1, None]]}, "video": {"size": [16, 16]}, "speed": {"sizes": [[16, 16]]}}
    for kind, needs in needed.items():
        job = {**CPU, "step": kind, "model": str(tiny_bundle), "backend": "torch", **needs}
        (tmp_path / "job.json").write_text(json.dumps(job))
        steps.main(str(tmp_path / "job.json"), str(tmp_path / "found.json"))
        found = json.loads((tmp_path / "found.json").read_text())
        assert "left_out" in found, found
        assert "on the CPU" in found["left_out"]


def test_speeds_have_their_numbers(tiny_bundle):
    job = {**CPU, "model": str(tiny_bundle), "sizes": [[32, 32], [16, 16]]}
    rows = steps.speed(job)["rows"]
    assert [row["size"] for row in rows] == ["32x32", "16x16"]
    assert all(len(row["fps_blocks"]) == 5 and row["fps"] > 0 for row in rows)
    assert rows[0]["delay_ms"]["p95"] >= rows[0]["delay_ms"]["p50"] > 0
    # A size that fails is reported, and the others stand.
    found = steps.speed({**job, "sizes": [[16, 16], [2, 2]]})
    assert not found["passed"]
    assert "fps" in found["rows"][0]
    assert "ONNX Runtime stopped" in found["rows"][1]["failed"]


def test_videos_are_compared_from_file_to_file(monkeypatch):
    job = {"model": str(find_model("summer-winter")), "backend": "cpu", "size": [128, 96], "frames": 4}
    found = steps.video(job)
    rows = {(row["hwaccel"], row["codec"]): row for row in found["rows"]}
    assert found["passed"]
    assert rows["off", "lossless"]["psnr_db"] == 99.0
    assert rows["off", "h264"]["psnr_db"] > video_step.MIN_CODED_PSNR
    if trt.current_architecture() is None:
        reasons = [
            rows[way]["left_out"] for way in (("cuda", "lossless"), ("off", "h264_nvenc"), ("cuda", "h264_nvenc"))
        ]
        assert set(reasons) == {"Cannot load libcuda.so.1"}
    run = new_run()
    run.results.append(ran("video", found, "cuda"))
    assert "| cuda, m | 128x96 | software | h264 | " in markdown(run)
    monkeypatch.setattr(video_step, "MIN_CODED_PSNR", 98.0)
    found = steps.video(job)
    assert not found["passed"]
    assert "levels from those by software" in ran("video", found).reason


def test_steps_that_end_badly_are_reported_and_the_rest_goes_on(monkeypatch):
    run, saved = new_run(), []
    steps = [
        GpuStep(title="unknown", kind="no such"),
        GpuStep(title="without a model", kind="check"),
        GpuStep(title="not wanted", kind="machine"),
    ]
    run_plan(run, steps, 60, ["wanted"], lambda line: None, lambda: saved.append(len(run.results)))
    assert saved == [1, 2, 3]
    assert run.results[0].reason == "KeyError: 'no such'"
    assert [result.word for result in run.results] == ["failed", "failed", "left out"]
    assert run.results[1].reason == "KeyError: 'model'"
    assert run.results[2].reason == "--skip wanted"
    assert not run.passed
    assert run_step(steps[0], 0) == {"failed": "not done after 0 seconds"}
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run_step(steps[0], 10) == {"failed": "its process ended with code 1: no output"}
    late = new_run()
    run_plan(late, steps[:1], 0.001, [], lambda line: None, lambda: None)
    assert late.results[0].reason.startswith("no time left")


def test_what_is_not_installed_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check_run, "run_step", lambda step, timeout: {"failed": "it broke"})
    monkeypatch.setattr(gpu_check_run, "_module_installed", lambda module: module == "tensorrt_rtx")
    monkeypatch.setattr(gpu_check_run, "_package_installed", lambda package: False)
    run = new_run()
    run_plan(run, plan([("tiny", tmp_path)]), 60, [], lambda line: None, lambda: None)
    reasons = {result.step.title: result.reason for result in run.results}
    assert reasons["tensorrt against the CPU, tiny"] == "tensorrt is not installed"
    assert reasons["tensorrt-rtx against the CPU, tiny"] == "it broke"
    assert reasons["speed of cuda, tiny"] == "onnxruntime-gpu is not installed"
    assert "tensorrt is not installed" in markdown(run)


def test_the_report_has_the_numbers():
    run = new_run()
    speeds = {"first_frame_seconds": 1.5, "delay_ms": {"p50": 1.0, "p95": 2.0}, "graphs": True, "memory_mb": 500.0}
    stages = {"upload": 0.01, "encoder": 0.2, "mapping": 0.1, "decoder": 0.4, "download": 0.01}
    run.results += [
        ran("machine", {"passed": True, "bindings": {"pycuda": {"left_out": "pycuda is not installed"}}}),
        ran("check", {"passed": True, "rows": [{"size": "256x256", "psnr_db": 61.5}], "description": "TensorRT 11"}),
        ran("speed", {"passed": True, "rows": [{"size": "256x256", "fps": 900.0, "stages_ms": stages, **speeds},
                                               {"size": "1280x720", "fps": 90.0, **speeds}]}),
    ]  # fmt: skip
    assert run.passed
    text = markdown(run)
    assert verdict(run) == "Every check that ran passed: 3 passed."
    for line in (
        "| check of tensorrt, m | passed | 61.5 | yes |  | TensorRT 11 |",
        "| tensorrt | 256x256 | 900.0 | 1.0 / 2.0 | 500.0 | 1.5 | yes |",
        "| tensorrt | 1280x720 | 90.0 | 1.0 / 2.0 | 500.0 | 1.5 | yes |",
        "| tensorrt, m | 256x256 | 0.01 | 0.2 | 0.1 | 0.4 | 0.01 |",
        "| pycuda | pycuda is not installed |  |  |  |",
    ):
        assert line in text, text
    run.results.append(ran("speed", {"passed": False, "rows": [{"size": "1920x1088", "failed": "out of memory"}]}))
    assert "| tensorrt | 1920x1088 | failed |  |  |  | out of memory |" in markdown(run)
    run.results.append(ran("check", {"passed": False, "rows": [{"size": "256x256", "psnr_db": 12.0}]}))
    assert not run.passed
    assert verdict(run).startswith("NOT PASSED")
    json.dumps(run.as_dict())


def test_help_and_the_steps_of_the_check_need_no_torch(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\nimport dsmap.tools.gpu_check.steps, dsmap.tools.gpu_check.report\n"
        "import dsmap.tools.gpu_check; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "fine", done.stderr


def test_the_steps_module_is_what_is_started(tiny_bundle, tmp_path):
    """As `run_step` does it: a process of its own, JSON in and out."""
    job = {**CPU, "model": str(tiny_bundle), "cases": [[16, 16, 1, None]]}
    found = run_step(GpuStep(title="a check", kind="check", job=job), 60)
    assert found["passed"], found
    assert Path(steps.__file__).name == "steps.py"
