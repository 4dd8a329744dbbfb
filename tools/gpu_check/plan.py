"""The steps of a GPU check, their results, and the facts about the machine."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dsmap import __version__

Job = dict[str, Any]
"""JSON: what a step needs, and what it found."""

SIZES = ((256, 256), (512, 512), (1280, 720), (1920, 1080))
BACKENDS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx", "cuda": "onnxruntime-gpu", "torch": "torch"}
"""The backends that are checked, and what each needs: a module, or for cuda a package."""
_PADDED = {1080: 1088}  # engines take multiples of 8; frames are padded before they reach them
_SECONDS = 1.5  # of each measurement
# Width, height, batch, seed of the style (None: the mean). The first two share an engine, the third wants another.
_CASES = ((256, 256, 1, None), (320, 192, 1, 3), (256, 256, 2, 5), (256, 256, 1, 7))
_WITHIN = ("cuda", "torch")  # the backends that take frames in the memory of the GPU
_CLIP, _CLIP_FRAMES = (1280, 720), 72
_PACKAGES = ("tensorrt", "tensorrt-rtx-cu13", "tensorrt-cu13", "onnxruntime-gpu", "onnxruntime", "cuda-python",
             "cuda-bindings", "pycuda", "torch", "triton", "numpy")  # fmt: skip
_SMI = "name,driver_version,memory.total,clocks.max.sm,power.limit"


@dataclass(frozen=True, kw_only=True)
class GpuStep:
    """One step, which runs in a process of its own."""

    title: str
    kind: str
    """machine, check, video or speed: a function of `steps`, and a part of the report."""
    job: Job = field(default_factory=dict)
    """What the function is given."""
    model: str = ""
    backend: str = ""


@dataclass(frozen=True)
class StepResult:
    """What became of a step."""

    step: GpuStep
    found: Job
    seconds: float

    @property
    def word(self) -> str:
        """passed, failed or left out."""
        if "left_out" in self.found:
            return "left out"
        return "passed" if self.found.get("passed") else "failed"

    @property
    def reason(self) -> str:
        """Why it did not pass, in one line."""
        rows = [row for row in self.found.get("rows", []) if "failed" in row]
        of_rows = "; ".join(f"{row['size']}: {row['failed']}" for row in rows)
        return self.found.get("left_out") or self.found.get("failed") or of_rows or "see its numbers"


@dataclass
class GpuCheckRun:
    """The whole check, as far as it has got."""

    command: str
    facts: Job
    results: list[StepResult] = field(default_factory=list)
    no_gpu: str | None = None
    """Why nothing was run; None where there is a GPU."""

    @property
    def passed(self) -> bool:
        """Every step that ran passed, and at least one backend was checked."""
        checked = any(result.step.kind == "check" and result.word == "passed" for result in self.results)
        return self.no_gpu is None and checked and not any(result.word == "failed" for result in self.results)

    def as_dict(self) -> Job:
        """For JSON."""
        steps = [
            {"title": r.step.title, "outcome": r.word, "seconds": round(r.seconds, 1), "job": r.step.job, **r.found}
            for r in self.results
        ]
        return {"command": self.command, "passed": self.passed, "no_gpu": self.no_gpu, **self.facts, "steps": steps}


def plan(models: Sequence[tuple[str, Path]]) -> list[GpuStep]:
    """Every step, in order: the machine, whether each backend is right, from file to file, how fast each backend is.

    `models`: names and folders.
    """
    sizes = [[width, _PADDED.get(height, height)] for width, height in SIZES]
    steps = [GpuStep(title="the GPU and the bindings to CUDA", kind="machine")]
    for kind, title, backends, of_kind in (
        ("check", "{backend} against the CPU, {model}", BACKENDS, {"cases": [list(case) for case in _CASES]}),
        ("video", "from file to file by {backend}, {model}", _WITHIN, {"size": list(_CLIP), "frames": _CLIP_FRAMES}),
        ("speed", "speed of {backend}, {model}", BACKENDS, {"sizes": sizes, "seconds": _SECONDS}),
    ):
        steps += [
            GpuStep(
                title=title.format(backend=backend, model=name),
                kind=kind,
                job={"model": str(folder), "backend": backend, **of_kind},
                model=name,
                backend=backend,
            )
            for name, folder in models
            for backend in backends
        ]
    return steps


def facts() -> Job:
    """The machine and what is installed."""
    from dsmap.runtime.system.cpu import cpu_name

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "dsmap": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "gpu": _nvidia_smi(),
        "versions": versions,
    }


def _nvidia_smi() -> str | None:
    """nvidia-smi's line about the first GPU; None without one."""
    command = ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return f"{lines[0]} ({_SMI})" if done.returncode == 0 and lines else None
