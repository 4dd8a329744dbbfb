"""Run the steps of a GPU check, each in a process of its own, until the time is over."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from dsmap.common.notify import Notify
from dsmap.common.scratch import scratch_folder
from dsmap.tools.gpu_check.plan import BACKENDS, GpuCheckRun, GpuStep, Job, StepResult

_MIN_SECONDS = 10.0  # with less left no step begins
_MAX_SECONDS = 240.0


def run_plan(
    run: GpuCheckRun,
    steps: Sequence[GpuStep],
    seconds: float,
    skip: Sequence[str],
    say: Notify,
    save: Callable[[], None],
) -> None:
    """Run the steps until `seconds` are over; `save` is called after each. Steps left out are listed with the reason.

    `skip`: steps with one of these words in their title are left out.
    """
    ends = time.monotonic() + seconds
    for number, step in enumerate(steps, 1):
        began = time.monotonic()
        left = ends - began
        reason = _skipped(step, skip) or _missing(step)
        if reason is None and left < _MIN_SECONDS:
            reason = f"no time left of {seconds:.0f} seconds"
        if reason is None:
            say(f"[{number}/{len(steps)}] {step.title} ...")
        found = {"left_out": reason} if reason else run_step(step, min(left, _MAX_SECONDS))
        result = StepResult(step, found, time.monotonic() - began)
        if reason is None:
            say(f"    {result.word}{'' if result.word == 'passed' else ': ' + result.reason}")
        run.results.append(result)
        save()


def run_step(step: GpuStep, timeout: float) -> Job:
    """What a step found, from a process of its own; a crash or a timeout is a finding too."""
    with scratch_folder("gpu-check") as folder:
        job, found = folder / "job.json", folder / "found.json"
        job.write_text(json.dumps({"step": step.kind, **step.job}), encoding="utf-8")
        command = [sys.executable, "-m", "dsmap.tools.gpu_check.steps", str(job), str(found)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {timeout:.0f} seconds"}
        lines = done.stderr.strip().splitlines()
        try:
            result: Job = json.loads(found.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"failed": f"its process ended with code {done.returncode}: {lines[-1] if lines else 'no output'}"}
        notes = [line for line in lines if line.startswith(("building", "without"))]
        said = result.get("said", [])
        return {**result, "said": [*said, *(note for note in notes if note not in said)]} if notes else result


def _skipped(step: GpuStep, skip: Sequence[str]) -> str | None:
    word = next((word for word in skip if word.lower() in step.title.lower()), None)
    return None if word is None else f"--skip {word}"


def _missing(step: GpuStep) -> str | None:
    """What the step needs and the environment lacks; found without importing it."""
    if not step.backend:
        return None
    needed = BACKENDS[step.backend]
    there = _package_installed(needed) if step.backend == "cuda" else _module_installed(needed)
    return None if there else f"{needed} is not installed"


def _package_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _module_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        return False
