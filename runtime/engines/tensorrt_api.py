"""Imports TensorRT, and hides the differences between its flavours and versions.

`tensorrt` (versions 10 and 11) and `tensorrt_rtx` (TensorRT for RTX, which builds engines without a GPU) have the same
Python interface but for what is wrapped here. A leaf: every part may use it, and importing it loads neither.
"""

import ctypes
import functools
import importlib
import re
import sys
from typing import Any, NamedTuple

from dsmap.errors import DsmapError, InputError

INSTALL_RTX = "pip install 'dsmap[rtx]'"
INSTALL_TENSORRT = "pip install 'dsmap[tensorrt]'"
OLDEST_TENSORRT = 10
DEFAULT_ARCHITECTURES = ("8.0+",)
"""What TensorRT for RTX builds for when nothing is said: compute capability 8.0 and every later one."""

_MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_TITLES = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
_INSTALL = {"tensorrt": INSTALL_TENSORRT, "rtx": INSTALL_RTX}


class Flavour(NamedTuple):
    """A TensorRT that is loaded. `module` is the alias that the rest of the code calls `trt`."""

    name: str
    """tensorrt or rtx."""
    version: str
    module: Any
    note: str = ""
    """Why it was taken, where `auto` passed another over."""

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{_TITLES[self.name]} {self.version}"


class Validity(NamedTuple):
    """TensorRT's verdict on an engine's header on this machine."""

    word: str
    """valid, suboptimal, invalid, or unknown (without a GPU, or in a version without this check)."""
    reason: str = ""


def load_trt(wanted: str = "auto") -> Flavour:
    """Imports TensorRT. `auto` takes `tensorrt` where it works (a GPU is needed), else TensorRT for RTX.

    Raises DsmapError where it is missing, has no libraries or is too old, with what to install.
    """
    if wanted in _MODULES:
        return _load(wanted)
    if wanted != "auto":
        raise InputError(f"no TensorRT flavour named {wanted!r}", "Known: auto, tensorrt, rtx.")
    try:
        flavour = _load("tensorrt")
        if current_architecture() is not None:
            return flavour
        refusal = DsmapError(f"{flavour.title} needs a GPU, and this machine has none", INSTALL_RTX)
    except DsmapError as error:
        refusal = error
    try:
        return _load("rtx")._replace(note=refusal.fact)
    except DsmapError as error:
        raise DsmapError(f"{refusal.fact}; {error.fact}", error.advice) from error


def _load(name: str) -> Flavour:
    wanted = _MODULES[name]
    try:
        module = importlib.import_module(wanted)
    except ModuleNotFoundError as error:
        if error.name == wanted:
            raise DsmapError(f"{wanted} is not installed", _INSTALL[name]) from error
        raise _without_libraries(name, str(error)) from error
    except Exception as error:  # the wheels' own loaders also raise OSError, AssertionError and KeyError
        raise _without_libraries(name, str(error) or type(error).__name__) from error
    version = getattr(module, "__version__", None)
    if not hasattr(module, "Builder") or not isinstance(version, str):
        raise _without_libraries(name, "it has no Builder")
    if name == "tensorrt" and int(re.match(r"\d*", version)[0] or 0) < OLDEST_TENSORRT:  # type: ignore[index]
        raise DsmapError(
            f"TensorRT {version} is too old: dsmap needs {OLDEST_TENSORRT} or later",
            f"Update it: {_INSTALL[name]}",
        )
    return Flavour(name, version, module)


def _without_libraries(name: str, reason: str) -> DsmapError:
    fact = f"{_MODULES[name]} is installed, but not its libraries ({' '.join(reason.split())[:160]})"
    if name == "rtx":
        return DsmapError(fact, f"Install it again: {INSTALL_RTX}")
    return DsmapError(
        fact,
        "The tensorrt wheel is a placeholder; NVIDIA's index has the libraries: pip install tensorrt --extra-index-url "
        f"https://pypi.nvidia.com. TensorRT for RTX is on PyPI whole: {INSTALL_RTX}",
    )


class Log:
    """Collects TensorRT's messages instead of printing them. `logger` is the object that TensorRT takes."""

    def __init__(self, flavour: Flavour) -> None:
        self.errors: list[str] = []
        self.logger = _logger(flavour.module)
        self.logger.errors = self.errors

    def last_error(self) -> str:
        """The last error in one line that fits a message."""
        return self.errors[-1][:400] if self.errors else "it gave no reason"


@functools.cache
def _logger(trt: Any) -> Any:
    """The one logger of a flavour: TensorRT keeps the first that it gets, and calls it until the process ends."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


def new_builder(flavour: Flavour, log: Log) -> Any:
    """A builder. Raises DsmapError where TensorRT cannot start: the plain one needs a GPU to build."""
    try:
        return flavour.module.Builder(log.logger)
    except Exception as error:  # pybind11's TypeError, about a null pointer
        raise DsmapError(
            f"{flavour.title} cannot start: {log.last_error()}",
            "Run nvidia-smi to check whether the driver works; TensorRT for RTX (--engine rtx) builds without a GPU.",
        ) from error


def new_network(flavour: Flavour, builder: Any) -> Any:
    """An empty strongly typed network: TensorRT 10 has to be asked for it, later ones and RTX know no other."""
    flag = getattr(flavour.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


NOT_RTX = {"9.0": "TensorRT for RTX refuses its engines on GPUs of compute capability 9.0 (seen with 1.7.1 on an H200)"}
"""GPUs on which TensorRT for RTX builds for minutes what it then does not load, and what to say there."""


def known_architectures(flavour: Flavour) -> dict[str, Any]:
    """Compute capabilities an engine can be built for without that GPU, by name ("8.6"); none for plain TensorRT."""
    members = getattr(flavour.module, "ComputeCapability", None) if flavour.name == "rtx" else None
    found = {}
    for name, value in getattr(members, "__members__", {}).items():
        if match := re.fullmatch(r"SM(\d+)(\d)", name):
            found[f"{match[1]}.{match[2]}"] = value
    return dict(sorted(found.items(), key=lambda item: architecture_number(item[0])))


def set_architectures(flavour: Flavour, config: Any, architectures: tuple[str, ...]) -> None:
    """Sets on a builder config what the engine is for. Plain TensorRT always builds for the GPU at hand."""
    if flavour.name != "rtx" or architectures == DEFAULT_ARCHITECTURES:
        return
    known = known_architectures(flavour)
    # A GPU that the enumeration does not name can still be built for while it is the one at hand.
    values = (
        [known[name] for name in architectures]
        if set(architectures) <= set(known)
        else [flavour.module.ComputeCapability.CURRENT]
    )
    config.num_compute_capabilities = len(values)
    for i, value in enumerate(values):
        if not config.set_compute_capability(value, i):
            raise DsmapError(
                f"{flavour.title} does not build for {', '.join(architectures)}", "Pass others with --gpu-arch."
            )


def architecture_number(name: str) -> tuple[int, ...]:
    """(8, 6) for "8.6" and for "8.6+": to sort and compare."""
    return tuple(int(part) for part in name.rstrip("+").split("."))


def covers(built: tuple[str, ...], wanted: str) -> bool:
    """Whether an engine for `built` runs on a GPU of compute capability `wanted`."""
    return any(
        name == wanted or (name.endswith("+") and architecture_number(wanted) >= architecture_number(name))
        for name in built
    )


_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76  # CU_DEVICE_ATTRIBUTE_...: _COMPUTE_CAPABILITY_MAJOR and _MINOR


def current_architecture() -> str | None:
    """Compute capability of the first GPU that this process may use ("8.9"); None where there is no GPU or driver.

    The driver itself is asked: TensorRT has no call for it.
    """
    driver = _driver()
    numbers = [] if driver is None else [_attribute(*driver, number) for number in (_MAJOR, _MINOR)]
    return None if not numbers or None in numbers else ".".join(map(str, numbers))


def current_device() -> str | None:
    """The identity of that GPU: "NVIDIA H200, 132 multiprocessors, 140 GiB"; None without one."""
    if (driver := _driver()) is None:
        return None
    cuda, device = driver
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    multiprocessors = _attribute(cuda, device, _MULTIPROCESSORS)
    asked = cuda.cuDeviceGetName(name, 256, device) or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    if asked or multiprocessors is None:
        return None
    gib = round(memory.value / (1 << 30))
    return f"{name.value.decode('ascii', 'replace')[:100]}, {multiprocessors} multiprocessors, {gib} GiB"


def _driver() -> tuple[Any, ctypes.c_int] | None:
    """The driver's library and the first GPU; None where there is none."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device = ctypes.c_int()
    return None if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) else (cuda, device)


def _attribute(cuda: Any, device: ctypes.c_int, number: int) -> int | None:
    value = ctypes.c_int()
    return None if cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device) else value.value


def engine_validity(flavour: Flavour, engine: bytes) -> Validity:
    """What TensorRT says of an engine, from its header alone: nothing of it is deserialised."""
    trt, log = flavour.module, Log(flavour)
    if not hasattr(trt.Runtime, "get_engine_validity"):
        return Validity("unknown", f"{flavour.title} has no check of an engine's header")
    runtime = trt.Runtime(log.logger)
    verdict, bits = runtime.get_engine_validity(engine[: runtime.engine_header_size])
    if verdict == trt.EngineValidity.VALID:
        return Validity("valid")
    causes = trt.EngineInvalidityDiagnostics.__members__
    names = [name for name, bit in causes.items() if int(bits) & int(bit)]
    reason = ", ".join(name.lower().replace("_", " ") for name in names) or log.last_error()
    if verdict == trt.EngineValidity.SUBOPTIMAL:
        return Validity("suboptimal", reason)
    # Without a driver every sound header is called invalid, with no cause but the driver's.
    if set(names) <= {"CUDA_ERROR"} and current_architecture() is None:
        return Validity("unknown", "this machine has no GPU")
    return Validity("invalid", reason)
