"""Checks of NVIDIA GPUs: the driver, the CUDA libraries and TensorRT. All are optional."""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.doctor import Finding, absent, first_line, install, ok, warning
from dsmap.runtime.system.subprocess_call import isolated

_NVIDIA, _DISPLAY_CLASSES = "0x10de", ("0x03",)
_SMI_SECONDS = 10.0
_NO_KERNELS = "it has no kernels for compute capability"
_NEW_DRIVER = "on Ubuntu: sudo ubuntu-drivers install, then restart (others: nvidia.com/drivers)"
# Of cuda.h: what the driver's own answers mean, and what is done about them.
_NO_DEVICE = 100
_DRIVER_FAULTS = {
    803: ("the driver's kernel module and its library are of different versions", "sudo reboot"),
    802: ("the GPUs' switch is not ready", "sudo systemctl restart nvidia-fabricmanager"),
    999: ("the driver does not start", "sudo modprobe nvidia_uvm"),
}
# A graph that gives back what it got, in ONNX's own encoding: opset 13, one float, one node.
_IDENTITY = bytes.fromhex(
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a0208"
    "01620f0a0179120a0a08080112040a02080142040a00100d"
)


def check_gpu() -> Finding:
    """The GPUs that this process may use, with name, memory and compute capability, or why there are none."""
    driver = _driver_version()
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        return _without_driver(first_line(error))
    if code := cuda.cuInit(0):
        if code == _NO_DEVICE:
            return absent("an NVIDIA driver is installed, but this process may use no GPU", driver=driver)
        told, command = _DRIVER_FAULTS.get(code, ("the driver does not start", "nvidia-smi"))
        return warning(f"{told} (cuInit gave {code})", command, driver=driver)
    gpus = list(_gpus(cuda))
    if not gpus:
        return absent("an NVIDIA driver is installed, but this process may use no GPU", driver=driver)
    told = "; ".join(
        f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB, compute capability {gpu['capability']}" for gpu in gpus
    )
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    runs = f"{version.value // 1000}.{version.value % 1000 // 10}"
    wsl = ", WSL" if Path("/dev/dxg").exists() else ""
    return ok(f"{told}; driver {driver or 'unknown'}{wsl}, CUDA up to {runs}", gpus=gpus, driver=driver, cuda=runs)


def _gpus(cuda: Any) -> "list[dict[str, Any]]":
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    gpus = []
    for index in range(count.value):
        device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, len(name), device)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # ... and MINOR
        told = name.value.decode(errors="replace")
        gpus.append({"name": told, "memory_bytes": memory.value, "capability": f"{major.value}.{minor.value}"})
    return gpus


def _driver_version() -> str | None:
    """From the kernel module, else from nvidia-smi."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        text = ""
    if match := re.search(r"Kernel Module\D*(\d+\.[\d.]+)", text):
        return match[1]
    if (smi := shutil.which("nvidia-smi")) is None:
        return None
    command = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def _without_driver(reason: str) -> Finding:
    """The driver's library is missing, which is only wrong where there is a GPU."""
    if cards := pci_cards():
        if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
            return warning(
                f"there is an NVIDIA GPU ({cards[0]}), but not in this container", "docker run --gpus all ..."
            )
        return warning(
            f"there is an NVIDIA GPU ({cards[0]}) without its driver ({reason})",
            _NEW_DRIVER,
        )
    if Path("/dev/dxg").exists():
        return absent("WSL without an NVIDIA driver: install it in Windows, not in Linux")
    return absent("no NVIDIA driver or GPU; the model runs on the CPU")


def pci_cards(devices: Path = Path("/sys/bus/pci/devices")) -> list[str]:
    """NVIDIA's display devices that the bus shows, driver or not, such as "PCI 10de:2335"."""
    found = []
    for device in sorted(devices.glob("*")):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
            if vendor == _NVIDIA and kind.startswith(_DISPLAY_CLASSES):
                found.append(f"PCI 10de:{(device / 'device').read_text().strip().removeprefix('0x')}")
        except OSError:
            continue
    return found


def check_cuda() -> Finding:
    """Whether ONNX Runtime's CUDA provider runs, and which Python bindings to CUDA work."""
    from dsmap.runtime.backends.onnxruntime_session import OLD_DRIVER
    from dsmap.runtime.engines.tensorrt_api import current_architecture

    gpu = current_architecture() is not None
    provider = install.owners(r"onnxruntime-gpu", "onnxruntime")
    bindings = [f"{found.name} {found.version}" for found in install.installed(r"cuda-python|pycuda")]
    bindings = bindings or [f"{found.name} {found.version}" for found in install.installed("cuda-bindings")]
    if not provider:
        if bindings and gpu:
            return _check_bindings(bindings, "")
        told = "onnxruntime-gpu is not installed"
        if bindings:
            return absent(f"{told}; {', '.join(bindings)} needs a GPU")
        without = tuple(package.name for package in install.owners(r"onnxruntime", "onnxruntime"))
        return absent(f"{told}; it is for NVIDIA GPUs", install.install("gpu", without=without) if gpu else "")
    title = f"{provider[0].name} {provider[0].version}"
    if not gpu:
        return absent(f"{title} is installed, but there is no GPU: it runs on the CPU")
    outcome = isolated("dsmap.runtime.doctor.gpu:try_provider", 60, nested=True)
    if outcome.value is not True:
        # ONNX Runtime names the missing library in its log only.
        lost = re.search(r"(lib\w[\w.+-]*\.so[\w.]*|\w+\.dll): cannot open", outcome.said)
        reason = f"{lost[1]} is missing" if lost else outcome.ended or first_line(outcome.value)
        other = "tensorrt" if reason.startswith(_NO_KERNELS) else "gpu"
        advice = _NEW_DRIVER if OLD_DRIVER in reason else install.install(other)
        return warning(f"{title}: CUDA does not run: {reason}", advice)
    return _check_bindings(bindings, f"{title} runs on CUDA")


def _check_bindings(bindings: list[str], told: str) -> Finding:
    """cuda-python and PyCUDA: whether those that are installed reach the GPU."""
    facts = [told] if told else []
    if not bindings:
        return ok("; ".join([*facts, "neither cuda-python nor PyCUDA is installed"]))
    for title in bindings:
        name = "pycuda" if title.startswith("pycuda") else "cuda-python"
        outcome = isolated("dsmap.runtime.doctor.gpu:try_binding", 30, nested=True, name=name)
        value: dict[str, str] = outcome.value or {"fact": f"{title}: {outcome.ended}"}
        if "fact" in value:
            again = install.install_again(title.partition(" ")[0])
            return warning("; ".join([*facts, value["fact"]]), value.get("advice", again))
        facts.append(value["binding"])
    return ok("; ".join(facts))


def try_provider() -> bool | str:
    """Whether ONNX Runtime runs a graph on CUDA, or why not."""
    import onnxruntime

    from dsmap.runtime.backends.onnxruntime_cuda import has_kernels, missing_library
    from dsmap.runtime.backends.onnxruntime_session import one_line
    from dsmap.runtime.engines.tensorrt_api import current_architecture

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    if reason := missing_library(Path(onnxruntime.__file__).parent / "capi"):
        return reason
    capability = current_architecture()
    if capability is not None and not has_kernels(onnxruntime.__version__, capability):
        return f"{_NO_KERNELS} {capability}"
    try:  # without the fallback, which hides the reason
        session = onnxruntime.InferenceSession(_IDENTITY, providers=["CUDAExecutionProvider"], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own exception types share no base but Exception
        return one_line(error)
    return session.get_providers()[0] == "CUDAExecutionProvider" or "it runs on the CPU instead"


def try_binding(name: str) -> dict[str, str]:
    """The binding's name and version, or the fact and the advice of why it does not work."""
    from dsmap.runtime.cuda.bindings import load_cuda

    try:
        return {"binding": load_cuda(name).binding}
    except DsmapError as error:
        return {"fact": error.fact, "advice": error.advice}


def check_tensorrt() -> Finding:
    """Both flavours of TensorRT: what is installed, and whether it has its libraries."""
    from dsmap.runtime.engines.tensorrt_api import current_architecture

    gpu, bring = current_architecture(), install.install("rtx")
    if not install.installed(r"tensorrt(-.*)?"):
        told = "not installed; it runs the network fastest on this GPU" if gpu else "not installed; for NVIDIA GPUs"
        return absent(told, bring if gpu else "")
    found, refusals = [], []
    for flavour in ("tensorrt", "rtx"):
        outcome = isolated("dsmap.runtime.doctor.gpu:load_flavour", 30, nested=True, name=flavour)
        value: dict[str, Any] = outcome.value or {"fact": f"{flavour}: {outcome.ended}", "advice": bring}
        if "title" in value:
            found.append(value)
        elif not value["fact"].endswith("is not installed"):
            refusals.append(value)
    titles = ", ".join(value["title"] for value in found)
    if refusals and not found:
        return warning(refusals[0]["fact"], refusals[0]["advice"], flavours=[])
    if not found:
        return absent("its parts are installed, but no module tensorrt or tensorrt_rtx", bring)
    rest = "" if gpu else "; builds engines, which need a GPU to run" if found[-1]["name"] == "rtx" else "; no GPU here"
    also = f" (not {refusals[0]['fact']})" if refusals else ""
    return ok(f"{titles}{rest}{also}", flavours=found)


def load_flavour(name: str) -> dict[str, str]:
    """One flavour of TensorRT: its name, version and title, or the fact and advice of why not."""
    from dsmap.runtime.engines.tensorrt_api import load_trt

    try:
        flavour = load_trt(name)
    except DsmapError as error:
        return {"fact": error.fact, "advice": error.advice}
    return {"name": flavour.name, "version": flavour.version, "title": flavour.title}
