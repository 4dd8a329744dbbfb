"""Lists the checks, in the order in which they are reported, and runs them."""

import importlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from dsmap.runtime.doctor import FAILED, OK, SKIPPED, WARNING, Finding, first_line, not_tried
from dsmap.runtime.doctor.engines import fix_onnxruntime, fix_openvino, fix_torch
from dsmap.runtime.doctor.machine import MORE_MEMORY
from dsmap.runtime.doctor.packages import numpy_first
from dsmap.runtime.doctor.video import fix_av, fix_opencv
from dsmap.runtime.system.subprocess_call import isolated

_NO_MEMORY = re.compile(r"cannot allocate|out of memory|failed to map|bad_alloc|allocat\w+ failed", re.IGNORECASE)
_FIRST = (OK, WARNING)  # what lets the checks that come after it run


@dataclass(frozen=True, kw_only=True)
class DoctorCheck:
    """One check: a function of this package, run in an interpreter of its own."""

    name: str
    """For the report and for `after`."""
    title: str
    target: str
    """module:function, in this package."""
    needed: bool = False
    """Whether the model needs it."""
    seconds: float = 30.0
    """Time limit."""
    after: tuple[str, ...] = ()
    """Checks without which this one would fail."""
    of_model: bool = False
    """Whether the check takes the model."""
    fix: Callable[[], str] | None = None
    """The command for when it crashes or hangs."""


CHECKS = (
    DoctorCheck(name="python", title="Python and dsmap", target="packages:check_python", needed=True),
    DoctorCheck(name="packages", title="packages", target="packages:check_packages", needed=True, seconds=120),
    DoctorCheck(name="opencv", title="OpenCV", target="video:check_opencv", needed=True, fix=fix_opencv),
    DoctorCheck(name="av", title="PyAV", target="video:check_av", needed=True, fix=fix_av),
    DoctorCheck(
        name="onnxruntime", title="ONNX Runtime", target="engines:check_onnxruntime", needed=True, fix=fix_onnxruntime
    ),
    DoctorCheck(name="model", title="model files", target="engines:check_model", needed=True, of_model=True),
    DoctorCheck(
        name="session",
        title="model on the CPU",
        target="engines:check_session",
        needed=True,
        seconds=120,
        after=("opencv", "onnxruntime", "model"),
        of_model=True,
        fix=fix_onnxruntime,
    ),
    DoctorCheck(
        name="encoders",
        title="encoders",
        target="video:check_encoders",
        needed=True,
        seconds=150,
        after=("opencv", "av"),
        fix=fix_av,
    ),
    DoctorCheck(
        name="decoding", title="video decoding", target="video:check_decoding", seconds=90, after=("opencv", "av")
    ),
    DoctorCheck(name="memory", title="memory and cores", target="machine:check_memory", needed=True, of_model=True),
    DoctorCheck(name="cache", title="cache folder", target="machine:check_cache", seconds=90),
    DoctorCheck(name="gpu", title="NVIDIA GPU", target="gpu:check_gpu", fix=lambda: "nvidia-smi"),
    DoctorCheck(name="cuda", title="CUDA libraries", target="gpu:check_cuda", seconds=150),
    DoctorCheck(name="tensorrt", title="TensorRT", target="gpu:check_tensorrt", seconds=90),
    DoctorCheck(name="openvino", title="OpenVINO", target="engines:check_openvino", fix=fix_openvino),
    DoctorCheck(name="other-gpus", title="other GPUs", target="other_gpus:check_other_gpus", seconds=60),
    DoctorCheck(name="torch", title="PyTorch", target="engines:check_torch", seconds=120, fix=fix_torch),
    DoctorCheck(name="cameras", title="cameras", target="devices:check_cameras", after=("opencv",)),
    DoctorCheck(name="display", title="display", target="devices:check_display", after=("opencv",)),
    DoctorCheck(name="training", title="training", target="packages:check_training"),
    DoctorCheck(name="elsewhere", title="other tools", target="packages:check_elsewhere"),
)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """A check and what it found."""

    number: int
    check: DoctorCheck
    finding: Finding
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "number": self.number,
            "name": self.check.name,
            "needed": self.check.needed,
            "seconds": round(self.seconds, 3),
            **self.finding.as_dict(),
        }


def examine(
    model: str, begin: Callable[[int, DoctorCheck], None], checks: tuple[DoctorCheck, ...] = CHECKS
) -> Iterator[CheckResult]:
    """Runs the checks in order; `begin` is called before each. Raises nothing but KeyboardInterrupt."""
    states: dict[str, str] = {}
    for number, check in enumerate(checks, 1):
        begin(number, check)
        began = time.perf_counter()
        missing = next((name for name in check.after if states.get(name, OK) not in _FIRST), None)
        if missing is None:
            finding = run_check(check, model)
        else:
            place, cause = next((i, c) for i, c in enumerate(checks, 1) if c.name == missing)
            finding = not_tried(f"needs {cause.title}, see {place}")
        states[check.name] = finding.state
        yield CheckResult(number=number, check=check, finding=finding, seconds=time.perf_counter() - began)


def run_check(check: DoctorCheck, model: str) -> Finding:
    """Runs one check. A crash, a hang and an exception are findings too; a failed optional check is a warning."""
    target, arguments = "dsmap.runtime.doctor.checkup:run_here", {"model": model} if check.of_model else {}
    try:
        outcome = isolated(target, check.seconds, target=check.target, arguments=arguments)
        finding = Finding(**outcome.value) if outcome.value else _without_answer(check, outcome.ended)
    except Exception as error:  # the doctor itself must not fail, whatever it finds
        finding = Finding(state=FAILED, fact=f"the check failed ({first_line(error)})")
    return finding if check.needed or finding.state != FAILED else replace(finding, state=WARNING)


def _without_answer(check: DoctorCheck, ended: str) -> Finding:
    command = check.fix() if check.fix is not None else ""
    return Finding(state=FAILED, fact=f"the check gave no answer: {ended}", command=command)


def run_here(target: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Runs a check in this process; `run_check` calls it in another."""
    module, _, function = target.partition(":")
    try:
        finding: Finding = getattr(importlib.import_module(f"dsmap.runtime.doctor.{module}"), function)(**arguments)
    except Exception:  # packages that do not fit together raise whatever they like while they are imported
        if (first := numpy_first()) is None:
            raise
        finding = first
    if finding.state == FAILED and _NO_MEMORY.search(finding.fact):
        finding = replace(finding, command=MORE_MEMORY)
    return finding.as_dict()


def runs_the_model(results: list[CheckResult]) -> bool:
    """Whether everything that the model needs works."""
    return all(result.finding.state not in (FAILED, SKIPPED) for result in results if result.check.needed)
