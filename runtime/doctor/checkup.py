"""The list of checks, in the order in which they are told, and how they are run."""

import importlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from dsmap.runtime.doctor import NOT_TRIED, OK, WARNING, WRONG, Finding, first_line, not_tried
from dsmap.runtime.doctor.engines import mend_onnxruntime, mend_openvino
from dsmap.runtime.doctor.machine import MORE_MEMORY
from dsmap.runtime.doctor.packages import numpy_first
from dsmap.runtime.doctor.video import mend_av, mend_opencv
from dsmap.runtime.system.subprocess_call import isolated

_NO_MEMORY = re.compile(r"cannot allocate|out of memory|failed to map|bad_alloc|allocat\w+ failed", re.IGNORECASE)
_FIRST = (OK, WARNING)  # what lets the checks that come after it run


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: a function of this package, run in an interpreter of its own."""

    name: str
    """For the report and for `after`."""
    title: str
    target: str
    """module:function, in this package."""
    needed: bool = False
    """Whether the model runs only if this does."""
    seconds: float = 30.0
    """After which it is ended."""
    after: tuple[str, ...] = ()
    """Checks without which this one can only fail."""
    of_model: bool = False
    """Whether it is called with the model."""
    mend: Callable[[], str] | None = None
    """The command for when it crashes or hangs."""


CHECKS = (
    Check(name="python", title="Python and dsmap", target="packages:check_python", needed=True),
    Check(name="packages", title="packages", target="packages:check_packages", needed=True, seconds=120),
    Check(name="opencv", title="OpenCV", target="video:check_opencv", needed=True, mend=mend_opencv),
    Check(name="av", title="PyAV", target="video:check_av", needed=True, mend=mend_av),
    Check(
        name="onnxruntime", title="ONNX Runtime", target="engines:check_onnxruntime", needed=True, mend=mend_onnxruntime
    ),
    Check(name="model", title="model files", target="engines:check_model", needed=True, of_model=True),
    Check(
        name="session",
        title="model on the CPU",
        target="engines:check_session",
        needed=True,
        seconds=120,
        after=("opencv", "onnxruntime", "model"),
        of_model=True,
        mend=mend_onnxruntime,
    ),
    Check(
        name="encoders",
        title="encoders",
        target="video:check_encoders",
        needed=True,
        seconds=150,
        after=("opencv", "av"),
        mend=mend_av,
    ),
    Check(name="memory", title="memory and cores", target="machine:check_memory", needed=True, of_model=True),
    Check(name="cache", title="cache folder", target="machine:check_cache", seconds=90),
    Check(name="gpu", title="NVIDIA GPU", target="gpu:check_gpu", mend=lambda: "nvidia-smi"),
    Check(name="cuda", title="CUDA libraries", target="gpu:check_cuda", seconds=150),
    Check(name="tensorrt", title="TensorRT", target="gpu:check_tensorrt", seconds=90),
    Check(name="openvino", title="OpenVINO", target="engines:check_openvino", mend=mend_openvino),
    Check(name="cameras", title="cameras", target="devices:check_cameras", after=("opencv",)),
    Check(name="display", title="display", target="devices:check_display", after=("opencv",)),
    Check(name="training", title="training", target="packages:check_training"),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A check and what it found."""

    number: int
    check: Check
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


def examine(model: str, begin: Callable[[int, Check], None], checks: tuple[Check, ...] = CHECKS) -> Iterator[Result]:
    """Runs the checks one after the other. `begin` is told of each before it runs. It never raises but for Ctrl-C."""
    states: dict[str, str] = {}
    for number, check in enumerate(checks, 1):
        begin(number, check)
        began = time.perf_counter()
        missing = next((name for name in check.after if states.get(name, OK) not in _FIRST), None)
        if missing is None:
            finding = run_check(check, model)
        else:
            place, cause = next((i, c) for i, c in enumerate(checks, 1) if c.name == missing)
            finding = not_tried(f"it needs {cause.title}, see {place}")
        states[check.name] = finding.state
        yield Result(number=number, check=check, finding=finding, seconds=time.perf_counter() - began)


def run_check(check: Check, model: str) -> Finding:
    """One check. What crashes, hangs or raises becomes a finding; what is wrong with optional things, a warning."""
    target, arguments = "dsmap.runtime.doctor.checkup:run_here", {"model": model} if check.of_model else {}
    try:
        outcome = isolated(target, check.seconds, target=check.target, arguments=arguments)
        finding = Finding(**outcome.value) if outcome.value else _without_answer(check, outcome.ended)
    except Exception as error:  # the doctor itself may not fail, whatever it finds
        finding = Finding(state=WRONG, fact=f"the check failed ({first_line(error)})")
    return finding if check.needed or finding.state != WRONG else replace(finding, state=WARNING)


def _without_answer(check: Check, ended: str) -> Finding:
    command = check.mend() if check.mend is not None else ""
    return Finding(state=WRONG, fact=f"the check had no answer: {ended}", command=command)


def run_here(target: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The other side of `run_check`."""
    module, _, function = target.partition(":")
    try:
        finding: Finding = getattr(importlib.import_module(f"dsmap.runtime.doctor.{module}"), function)(**arguments)
    except Exception:  # packages that do not fit together raise whatever they like while they are imported
        if (first := numpy_first()) is None:
            raise
        finding = first
    if finding.state == WRONG and _NO_MEMORY.search(finding.fact):
        finding = replace(finding, command=MORE_MEMORY)
    return finding.as_dict()


def runs_the_model(results: list[Result]) -> bool:
    """Whether all that the model needs was found to work."""
    return all(result.finding.state not in (WRONG, NOT_TRIED) for result in results if result.check.needed)
