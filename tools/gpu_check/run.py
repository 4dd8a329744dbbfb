"""The GPU check's plan and how it is run: one process for each step, the most telling first, until the time is over."""

import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dsmap import __version__
from dsmap.common.notify import Notify

Job = dict[str, Any]

SIZES = ((256, 256), (512, 512), (1280, 720), (1920, 1080))
RUNNERS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx", "cuda": "onnxruntime-gpu"}
"""By name, and what each needs: a module, or for cuda a package."""
PAPER = "paper-size"
_PADDED = {1080: 1088}  # engines take multiples of 8; frames are padded before they reach them
_LEAST_SECONDS = 10.0  # with less left no step begins
_MOST_SECONDS = 240.0
_BLOCK_SECONDS = 1.5
_PACKAGES = ("tensorrt", "tensorrt-rtx-cu13", "tensorrt-cu13", "onnxruntime-gpu", "onnxruntime", "cuda-python",
             "cuda-bindings", "pycuda", "torch", "numpy")  # fmt: skip
_SMI = "name,driver_version,memory.total,clocks.max.sm,power.limit"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process."""

    title: str
    job: Job
    kind: str
    """Which part of the report it belongs to: machine, check, speed, pair, torch or preparation."""
    model: str = ""
    runner: str = ""
    needs_paper: bool = False


@dataclass
class Outcome:
    """What became of a step."""

    step: Step
    result: Job
    seconds: float

    @property
    def word(self) -> str:
        """passed, failed or left out."""
        if "left_out" in self.result:
            return "left out"
        return "passed" if self.result.get("passed") else "failed"

    @property
    def reason(self) -> str:
        """Why it did not pass, in one line."""
        rows = [row for row in self.result.get("rows", []) if "failed" in row]
        of_rows = "; ".join(f"{row['size']}: {row['failed']}" for row in rows)
        return self.result.get("left_out") or self.result.get("failed") or of_rows or "see its numbers"


@dataclass
class Run:
    """The whole check, as far as it is."""

    command: str
    facts: Job
    outcomes: list[Outcome] = field(default_factory=list)
    no_gpu: str | None = None
    """Why nothing was run."""

    @property
    def passed(self) -> bool:
        """Every check that ran passed, and there was one of a runner."""
        checked = any(o.step.kind == "check" and o.word == "passed" for o in self.outcomes)
        return self.no_gpu is None and checked and not any(o.word == "failed" for o in self.outcomes)

    def as_dict(self) -> Job:
        """For JSON."""
        steps = [
            {"title": o.step.title, "outcome": o.word, "seconds": round(o.seconds, 1), "job": o.step.job, **o.result}
            for o in self.outcomes
        ]
        return {"command": self.command, "passed": self.passed, "no_gpu": self.no_gpu, **self.facts, "steps": steps}


def facts() -> Job:
    """The machine and what is installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    from dsmap.runtime.system.cpu import cpu_name

    return {
        "dsmap": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "gpu": _nvidia_smi(),
        "versions": versions,
    }


def plan(models: Sequence[tuple[str, Path]], paper: Path) -> list[Step]:
    """Every step, the most telling first. `models`: names and folders; `paper`: where the paper-size bundle goes."""
    runners = list(RUNNERS)
    trt = runners[:2]
    small, hd = SIZES[:1], SIZES[2:3]
    steps = [Step(title="the GPU and the bindings to CUDA", kind="machine", job={"step": "machine"})]

    def add(kind: str, step: str, title: str, model: str, folder: Path, **job: Any) -> None:
        ours = folder == paper
        full = {"step": step, "model": str(folder), "one_direction": ours, **job}
        full["sizes"] = [[width, _PADDED.get(height, height)] for width, height in job.get("sizes", ())]
        name = job.get("runner", "")
        steps.append(Step(title=title, kind=kind, job=full, model=model, runner=name, needs_paper=ours))

    def check(model: str, folder: Path, cases: Sequence[Sequence[Any]]) -> None:
        for runner in runners:
            add("check", "check", f"{runner} beside the CPU, {model}", model, folder, runner=runner, cases=cases)

    def speed(model: str, folder: Path, of: Sequence[str], **job: Any) -> None:
        for runner in of:
            options = {"sizes": SIZES, "seconds": _BLOCK_SECONDS, "runner": runner, **job}
            add("speed", "speed", f"speed of {runner}, {model}{_about(job)}", model, folder, **options)

    def pair(
        model: str, folder: Path, title: str, sizes: Any, forms: list[Job], of: Sequence[str] = tuple(trt)
    ) -> None:
        for runner in of:
            named = f"{runner}, {model}: {title}"
            options = {"runner": runner, "sizes": sizes, "forms": forms, "seconds": 2 * _BLOCK_SECONDS}
            add("pair", "pair", named, model, folder, **options)

    def in_torch(model: str, folder: Path, form: str, sizes: Any) -> None:
        named = f"{form}, {model}, {', '.join(f'{w}x{h}' for w, h in sizes)}"
        add("torch", "torch", named, model, folder, form=form, sizes=sizes, seconds=_BLOCK_SECONDS)

    compiled, eager_half, eager, compiled_folded = (
        "torch.compile fp16, channels last",
        "torch eager fp16, channels last",
        "torch eager fp32",
        "torch.compile fp16, channels last, rewritten as in the export",
    )
    # Width, height, batch, seed of the style (None: the mean). The first two share an engine, the third wants another.
    cases: list[list[Any]] = [[256, 256, 1, None], [320, 192, 1, 3], [256, 256, 2, 5], [256, 256, 1, 7]]
    for name, folder in models:
        check(name, folder, cases)
    steps.append(Step(title="a bundle of the paper's size", kind="preparation",
                      job={"step": "make paper", "model": str(paper)}))  # fmt: skip
    speed(PAPER, paper, runners)
    in_torch(PAPER, paper, compiled, small)
    in_torch(PAPER, paper, eager_half, SIZES)
    in_torch(PAPER, paper, eager, SIZES)
    for name, folder in models:
        speed(name, folder, runners)
    check(PAPER, paper, [[256, 256, 1, None], [256, 256, 1, 3]])
    on_off = [{"graphs": True}, {"graphs": False}]
    pair(PAPER, paper, "CUDA graphs on and off", small + hd, on_off)
    in_torch(PAPER, paper, compiled, hd)
    for name, folder in models:
        pair(name, folder, "CUDA graphs on and off", small, on_off)
        pair(name, folder, "cuda-python and PyCUDA", small,
             [{"cuda_binding": "cuda-python"}, {"cuda_binding": "pycuda"}])  # fmt: skip
    for title, option in (
        ("ONNX Runtime's CUDA graphs on and off", "graphs"),
        ("channels last and not", "channels_last"),
    ):
        pair(PAPER, paper, title, small, [{option: True}, {option: False}], runners[2:])
    for name, folder in models:
        in_torch(name, folder, compiled, small)
        in_torch(name, folder, eager_half, SIZES)
        in_torch(name, folder, eager, SIZES)
    pair(PAPER, paper, "engines for one size and for many", small, [{"exact": True}, {"exact": False}])
    in_torch(PAPER, paper, compiled_folded, small)
    speed(PAPER, paper, trt, sizes=small, batch=4)
    speed(PAPER, paper, trt, sizes=small, settings={"precision": "fp32"})
    in_torch(PAPER, paper, compiled, SIZES[1:2] + SIZES[3:])
    return steps


def run_plan(
    run: Run, steps: Sequence[Step], seconds: float, skip: Sequence[str], say: Notify, keep: Callable[[], None]
) -> None:
    """Runs the steps until `seconds` are over; `keep` is called after each. What is left out is told, with why."""
    ends = time.monotonic() + seconds
    paper_fails: str | None = None
    for number, step in enumerate(steps, 1):
        began = time.monotonic()
        left = ends - began
        reason = (
            (f"--skip {word}" if (word := _skipped(step, skip)) else None)
            or _missing(step)
            or (paper_fails if step.needs_paper else None)
            or (f"no time left of {seconds:.0f} seconds" if left < _LEAST_SECONDS else None)
        )
        if reason is None:
            say(f"[{number}/{len(steps)}] {step.title} ...")
        result = {"left_out": reason} if reason else run_step(step, min(left, _MOST_SECONDS))
        outcome = Outcome(step, result, time.monotonic() - began)
        if step.kind == "preparation" and outcome.word != "passed":
            paper_fails = f"there is no bundle of the paper's size: {outcome.reason}"
        if reason is None:
            say(f"    {outcome.word}{'' if outcome.word == 'passed' else ': ' + outcome.reason}")
        run.outcomes.append(outcome)
        keep()


def run_step(step: Step, timeout: float) -> Job:
    """A step's result, from a process of its own. Whatever ends that process is told."""
    with tempfile.TemporaryDirectory(prefix="dsmap-gpu-check-") as folder:
        job, result = Path(folder) / "job.json", Path(folder) / "result.json"
        job.write_text(json.dumps(step.job), encoding="utf-8")
        command = [sys.executable, "-m", "dsmap.tools.gpu_check.steps", str(job), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {timeout:.0f} seconds"}
        lines = done.stderr.strip().splitlines()
        try:
            found: Job = json.loads(result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"failed": f"its process ended with code {done.returncode}: {lines[-1] if lines else 'no word'}"}
        said = [line for line in lines if line.startswith(("building", "without"))]
        return {**found, "said": said} if said else found


def _about(job: Job) -> str:
    words = [f"batches of {job['batch']}"] if "batch" in job else []
    words += [str(value) for value in job.get("settings", {}).values()]
    return "".join(f", {word}" for word in words)


def _skipped(step: Step, skip: Sequence[str]) -> str | None:
    return next((word for word in skip if word.lower() in step.title.lower()), None)


def _missing(step: Step) -> str | None:
    """What a step needs and the environment has not; found without importing it."""
    if step.runner == "cuda":
        try:
            importlib.metadata.version(RUNNERS["cuda"])
        except importlib.metadata.PackageNotFoundError:
            return f"{RUNNERS['cuda']} is not installed"
    elif step.runner and not _is_there(RUNNERS[step.runner]):
        return f"{RUNNERS[step.runner]} is not installed"
    needed = {"torch": ("torch",), "preparation": ("torch", "onnx", "onnxscript")}.get(step.kind, ())
    bindings = [form.get("cuda_binding") for form in step.job.get("forms", ())]
    if "pycuda" in bindings:
        needed = ("pycuda", "cuda")
    return next((f"{name} is not installed" for name in needed if not _is_there(name)), None)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        return False


def _nvidia_smi() -> str | None:
    """What nvidia-smi says of the first GPU, in one line; None where there is none."""
    command = ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return f"{lines[0]} ({_SMI})" if done.returncode == 0 and lines else None
