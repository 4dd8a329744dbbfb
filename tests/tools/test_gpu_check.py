"""The GPU check on machines without a GPU: its steps run with the CPU's backend, and a report is made of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.engines import tensorrt_api as trt
from dsmap.tools.gpu_check import run as gpu_check_run
from dsmap.tools.gpu_check import steps
from dsmap.tools.gpu_check.report import markdown, targets, verdict
from dsmap.tools.gpu_check.run import PAPER, Outcome, Run, Step, facts, plan, run_plan, run_step

CPU = {"runner": "cpu", "settings": {"threads": 1, "frames_at_once": 2}, "seconds": 0.05}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(steps, "WARM_UP_SECONDS", 0.01)
    monkeypatch.setattr(steps, "WARM_UP_FRAMES", 2)


def new_run() -> Run:
    return Run(command="python -m dsmap.tools.gpu_check", facts=facts())


def ran(kind: str, result: dict, model: str = PAPER, runner: str = "tensorrt", **job) -> Outcome:
    step = Step(title=f"{kind} of {runner}, {model}", kind=kind, model=model, runner=runner, job=job)
    return Outcome(step, result, 1.0)


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


def test_the_plan_has_everything_and_the_most_telling_first(tmp_path):
    steps = plan([("summer-winter", tmp_path / "m")], tmp_path / PAPER)
    titles = [step.title for step in steps]
    assert titles[0] == "the GPU and the bindings to CUDA"
    for runner in ("tensorrt", "tensorrt-rtx", "cuda"):
        for model in ("summer-winter", PAPER):
            assert f"{runner} beside the CPU, {model}" in titles
            assert f"speed of {runner}, {model}" in titles
    for words in ("CUDA graphs on and off", "cuda-python and PyCUDA", "torch.compile fp16", "torch eager fp32",
                  "torch eager fp16, channels last", "engines for one size"):  # fmt: skip
        assert any(words in title for title in titles), words
    sizes = {tuple(size) for step in steps for size in step.job.get("sizes", ())}
    assert sizes == {(256, 256), (512, 512), (1280, 720), (1920, 1088)}
    assert titles.index("speed of tensorrt, paper-size") < titles.index(
        "tensorrt-rtx, paper-size: CUDA graphs on and off"
    )
    # Nothing of the paper's size before its bundle.
    made = titles.index("a bundle of the paper's size")
    assert not any(step.needs_paper for step in steps[:made])


def test_a_check_compares_with_the_cpu(tiny_bundle, monkeypatch):
    job = {**CPU, "model": str(tiny_bundle), "cases": [[32, 24, 1, None], [16, 16, 2, 3]]}
    found = steps.check(job)
    assert found["passed"]
    assert [row["psnr_db"] for row in found["rows"]] == [99.0, 99.0]
    assert all(row["same_again"] for row in found["rows"])

    from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU

    class Wrong(OnnxRuntimeCPU):
        def _translate(self, frames_nhwc, style_ns, run):
            return super()._translate(frames_nhwc, style_ns, run) ^ 16

    monkeypatch.setitem(steps.BACKENDS, "wrong", lambda: Wrong)
    found = steps.check({**job, "runner": "wrong"})
    assert not found["passed"]
    assert found["rows"][0]["psnr_db"] < 30


def test_speeds_and_pairs_have_their_numbers(tiny_bundle):
    job = {**CPU, "model": str(tiny_bundle), "sizes": [[32, 32], [16, 16]]}
    rows = steps.speed(job)["rows"]
    assert [row["size"] for row in rows] == ["32x32", "16x16"]
    assert all(len(row["fps_blocks"]) == 5 and row["fps"] > 0 for row in rows)
    assert rows[0]["delay_ms"]["p95"] >= rows[0]["delay_ms"]["p50"] > 0
    (row,) = steps.pair({**job, "sizes": [[16, 16]], "forms": [{"threads": 1}, {"threads": 2}]})["rows"]
    assert len(row["fps"]) == 2
    assert len(row["pairs"]) == 5
    # A size that fails is told, and the others stand.
    found = steps.speed({**job, "sizes": [[16, 16], [2, 2]]})
    assert not found["passed"]
    assert "fps" in found["rows"][0]
    assert "ONNX Runtime stopped" in found["rows"][1]["failed"]


def test_steps_that_end_badly_are_told_and_the_rest_goes_on(tmp_path, monkeypatch):
    def step(title: str, job: dict, **more) -> Step:
        return Step(title=title, job=job, kind="speed", **more)

    run, kept = new_run(), []
    steps = [
        step("unknown", {"step": "no such"}),
        step("without a model", {"step": "check"}),
        step("not wanted", {"step": "machine"}),
        step("of the paper", {"step": "machine"}, needs_paper=True),
    ]
    run_plan(run, steps, 60, ["wanted"], lambda line: None, lambda: kept.append(len(run.outcomes)))
    assert kept == [1, 2, 3, 4]
    assert run.outcomes[0].reason == "KeyError: 'no such'"
    assert [o.word for o in run.outcomes][:3] == ["failed", "failed", "left out"]
    assert run.outcomes[1].reason == "KeyError: 'model'"
    assert run.outcomes[2].reason == "--skip wanted"
    assert not run.passed
    assert run_step(steps[0], 0) == {"failed": "not done after 0 seconds"}
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run_step(steps[0], 10) == {"failed": "its process ended with code 1: no word"}
    late = new_run()
    run_plan(late, steps[:1], 0.001, [], lambda line: None, lambda: None)
    assert late.outcomes[0].reason.startswith("no time left")


def test_what_is_not_installed_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check_run, "run_step", lambda step, timeout: {"failed": "it broke"})
    monkeypatch.setattr(gpu_check_run, "_is_there", lambda module: module == "tensorrt_rtx")
    run = new_run()
    run_plan(run, plan([("tiny", tmp_path)], tmp_path / PAPER), 60, [], lambda line: None, lambda: None)
    reasons = {o.step.title: o.reason for o in run.outcomes}
    assert reasons["tensorrt beside the CPU, tiny"] == "tensorrt is not installed"
    assert reasons["tensorrt-rtx beside the CPU, tiny"] == "it broke"
    assert reasons["a bundle of the paper's size"] == "torch is not installed"
    assert reasons["speed of tensorrt-rtx, paper-size"].startswith("there is no bundle of the paper's size: torch")
    assert reasons["tensorrt-rtx, tiny: cuda-python and PyCUDA"] == "pycuda is not installed"
    assert "tensorrt is not installed" in markdown(run)


def test_the_report_tells_the_numbers(tiny_bundle):
    run = new_run()
    speeds = {"first_frame_seconds": 1.5, "delay_ms": {"p50": 1.0, "p95": 2.0}, "graphs": True, "memory_mb": 500.0}
    stages = {"upload": 0.01, "encoder": 0.2, "mapping": 0.1, "decoder": 0.4, "download": 0.01}
    run.outcomes += [
        ran("machine", {"passed": True, "bindings": {"pycuda": {"left_out": "pycuda is not installed"}}}),
        ran("check", {"passed": True, "rows": [{"size": "256x256", "psnr_db": 61.5}], "description": "TensorRT 11"}),
        ran("speed", {"passed": True, "rows": [{"size": "256x256", "fps": 900.0, "stages_ms": stages, **speeds},
                                               {"size": "1280x720", "fps": 90.0, **speeds}]}),
        ran("speed", {"passed": True, "rows": [{"size": "256x256", "fps": 3000.0, **speeds}]}, batch=4),
        ran("torch", {"passed": True, "rows": [{"size": "256x256", "fps": 400.0, "first_frame_seconds": 30.0}]},
            runner="", form="torch.compile fp16, channels last"),
        ran("pair", {"passed": True, "rows": [{"size": "256x256", "fps": [900, 600], "ratio": 1.5}]}),
    ]  # fmt: skip
    assert run.passed
    assert [(row["wanted"], row["got"], row["met"]) for row in targets(run)] == [
        (800.0, 900.0, True),
        (2.0, 2.25, True),
        (100.0, 90.0, False),
    ]
    text = markdown(run)
    assert verdict(run) == "Every check that ran passed: 6 passed."
    for line in (
        "| check of tensorrt, paper-size | passed | 61.5 | yes |  | TensorRT 11 |",
        "| tensorrt | 256x256 | 900.0 | 1.0 / 2.0 | 500.0 | 1.5 | yes |",
        "| torch.compile fp16, channels last | 256x256 | 400.0 |  |  | 30.0 |  |",
        "| pair of tensorrt, paper-size | 256x256 | 900 | 600 | 1.5 |",
        "| tensorrt, paper-size | 256x256 | 0.01 | 0.2 | 0.1 | 0.4 | 0.01 |",
        "| pycuda | pycuda is not installed |  |  |  |",
    ):
        assert line in text, text
    run.outcomes.append(ran("check", {"passed": False, "rows": [{"size": "256x256", "psnr_db": 12.0}]}))
    assert not run.passed
    assert verdict(run).startswith("NOT PASSED")
    json.dumps(run.as_dict())


def test_a_bundle_of_the_papers_kind_can_be_read_by_the_steps(tiny_bundle, tmp_path, monkeypatch):
    """With graphs that are there: exporting takes a minute."""
    from dsmap.config import ModelConfig
    from dsmap.runtime.bundle.bundle import graph_file
    from dsmap.tools.gpu_check import torch_steps

    tiny = ModelConfig.model_validate(Bundle.read(tiny_bundle).manifest.architecture)
    written = []

    def copy(graph, path, templates):
        written.append(path.name)
        shutil.copy(tiny_bundle / graph_file(graph.component, graph.domain), path)

    monkeypatch.setattr(torch_steps, "ModelConfig", lambda: tiny)
    monkeypatch.setattr(torch_steps, "write_graph", copy)
    assert steps.make_paper({"model": str(tmp_path / PAPER)})["passed"]
    parts = ("content_encoder.summer", "decoder.winter", "mapping.winter", "style_mlp.winter")
    assert sorted(written) == sorted(f"{part}{half}.onnx" for part in parts for half in ("", ".fp16"))
    job = {**CPU, "model": str(tmp_path / PAPER), "one_direction": True, "cases": [[32, 24, 1, None]]}
    assert steps.open_bundle(job).precisions == ("fp32", "fp16")
    half = steps.check({**job, "settings": {"precision": "fp16", "threads": 1}})
    assert (half["precision"], half["passed"]) == ("fp16", True)


def test_torchs_forms_give_frames():
    import numpy as np
    import torch

    from dsmap.config import ModelConfig
    from dsmap.tools.gpu_check.torch_steps import FORMS, translation

    config = ModelConfig(dim=4, n_res=1, mlp_dim=8)
    frames = torch.randint(0, 256, (1, 32, 40, 3), dtype=torch.uint8)
    style = np.zeros((1, config.style_dim), np.float32)
    outputs = {}
    with torch.no_grad():
        for name, (_rewrites, half, compiled) in FORMS.items():
            if not compiled:
                outputs[name] = translation(config, name, style, "cpu")(frames).numpy().astype(int)
                assert outputs[name].shape == (1, 32, 40, 3)
                assert half == ("fp16" in name)
    assert len(outputs) == 2
    assert abs(outputs["torch eager fp32"] - outputs["torch eager fp16, channels last"]).mean() < 2


def test_help_and_the_steps_of_the_check_need_no_torch(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\nimport dsmap.tools.gpu_check.steps, dsmap.tools.gpu_check.report\n"
        "import dsmap.tools.gpu_check; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "fine", done.stderr


def test_the_steps_module_is_what_is_started(tiny_bundle, tmp_path):
    """As `run_step` does it: a process of its own, JSON in and out."""
    job = {**CPU, "step": "check", "model": str(tiny_bundle), "cases": [[16, 16, 1, None]]}
    found = run_step(Step(title="a check", kind="check", job=job), 60)
    assert found["passed"], found
    assert Path(steps.__file__).name == "steps.py"
