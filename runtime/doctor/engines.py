"""Checks of what runs the network: ONNX Runtime, the model on it, OpenVINO and PyTorch."""

import sys
import time
from pathlib import Path

import dsmap.runtime
from dsmap.errors import DsmapError
from dsmap.runtime.doctor import Finding, absent, failed, first_line, install, ok, warning
from dsmap.runtime.doctor.packages import numpy_first, why_not

ONNXRUNTIME = r"(onnxruntime|ort-nightly)(-.*)?"
_SIDE = 256  # pixels


def fix_onnxruntime() -> str:
    """The command that leaves one ONNX Runtime: of several the one for GPUs, where there is a GPU of that kind."""
    from dsmap.runtime.engines.tensorrt_api import current_architecture

    names = tuple(package.name for package in install.owners(ONNXRUNTIME, "onnxruntime"))
    if len(names) == 1:
        return install.install_again(names[0])
    if "onnxruntime-gpu" in names and current_architecture() is not None:
        return install.install("gpu", without=names)
    # Nobody gets these by way of another package: they were wanted.
    others = {"win32": ("windowsml", "directml"), "linux": ("migraphx",)}.get(sys.platform, ())
    wanted = next((extra for extra in others if f"onnxruntime-{extra}" in names), "cpu")
    return install.install(wanted, without=names)


def check_onnxruntime() -> Finding:
    """That exactly one ONNX Runtime is installed and loads, and which providers were compiled into it."""
    packages = install.owners(ONNXRUNTIME, "onnxruntime")
    names = [f"{package.name} {package.version}" for package in packages]
    try:
        import onnxruntime
    except Exception as error:
        if not packages and isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            return failed("onnxruntime is not installed", install.install("cpu"))
        fact, command = why_not("onnxruntime", packages) or ("", "")
        if not fact and (finding := numpy_first()):
            return finding
        told = fact or f"onnxruntime cannot be imported: {first_line(error)}"
        return failed(told, command or fix_onnxruntime(), packages=names)
    empty = not hasattr(onnxruntime, "InferenceSession")
    if reason := why_not("onnxruntime", packages):
        told = f"the installed onnxruntime is empty: {reason[0]}" if empty else reason[0]
        return (failed if empty else warning)(told, reason[1] or fix_onnxruntime(), packages=names)
    if empty:
        left = "one of two packages was removed"
        return failed(f"the installed onnxruntime is empty: {left}", fix_onnxruntime(), packages=names)
    compiled = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    title = names[0] if names else f"onnxruntime {onnxruntime.__version__}"
    return ok(f"{title}, compiled in: {', '.join(compiled)}", packages=names, providers=compiled)


def check_model(model: str) -> Finding:
    """That the bundle is whole, by every file's hash; for a bundled model, all bundled models."""
    try:
        from dsmap.runtime.bundle.bundle import Bundle
        from dsmap.runtime.bundle.bundled import bundled_models, find_model
    except ImportError as error:
        return numpy_first() or failed(f"the bundle's reader cannot be loaded: {first_line(error)}", "")
    names = bundled_models()
    checked = [model, *(name for name in names if name != model)] if model in names or not names else [model]
    facts = []
    for name in checked:
        try:
            bundle = Bundle.read(find_model(name))
        except DsmapError as error:
            return failed(error.fact, _bring_back(name) if name in names or not names else error.advice)
        size = f"{sum(file.bytes for file in bundle.manifest.files()) / 1e6:.0f} MB"
        named = {domain: " ".join(style.named) for domain, style in bundle.manifest.styles.items()}
        styles = [f"styles of {domain}: {names}" for domain, names in named.items() if names]
        facts.append(", ".join([f"{name}: {' and '.join(bundle.domains)}", *bundle.precisions, size, *styles]))
    return ok("; ".join(facts), folder=str(find_model(model)))


def _bring_back(name: str) -> str:
    """The command that restores a bundled model."""
    source = install.find_source().folder
    folder = (Path(dsmap.runtime.__file__).parent / "models" / name).resolve()
    if source is not None and (source / ".git").exists() and folder.is_relative_to(source):
        return f"git -C {source} checkout -- {folder.relative_to(source)}"
    return install.install_dsmap_again()


def check_session(model: str) -> Finding:
    """That the model really runs: one small frame on ONNX Runtime's CPU provider, and its time."""
    try:
        import numpy as np

        from dsmap.runtime import Translator
        from dsmap.runtime.bundle.bundle import Bundle
        from dsmap.runtime.bundle.bundled import find_model

        domain = Bundle.read(find_model(model)).manifest.targets[-1]
        translator = Translator.load(model, domain=domain, backend="cpu")
        frame_rgb = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
        translator(frame_rgb)  # the first is slower
        began = time.perf_counter()
        out_rgb = translator(frame_rgb)
        seconds = time.perf_counter() - began
    except DsmapError as error:
        return failed(first_line(error.fact, 500), error.advice)
    except ImportError as error:
        return numpy_first() or failed(first_line(error), install.install("cpu"))
    if out_rgb.shape != frame_rgb.shape or not out_rgb.std() > 0:
        return failed(f"the model gave {out_rgb.shape} of one colour for {frame_rgb.shape}", fix_onnxruntime())
    return ok(
        f"{seconds * 1000:.0f} ms for a {_SIDE}x{_SIDE} frame to {domain}; {translator.backend_description}",
        seconds=round(seconds, 4),
        backend=translator.backend_description,
    )


def fix_openvino() -> str:
    """The command that reinstalls OpenVINO."""
    return install.install_again("openvino")


def check_openvino() -> Finding:
    """That OpenVINO loads, and which devices it sees."""
    if not install.installed("openvino"):
        return absent("openvino is not installed; it may be faster on some CPUs")
    try:
        from dsmap.runtime.backends.openvino import import_openvino

        openvino = import_openvino()
        core = openvino.Core()
        seen = {device: str(core.get_property(device, "FULL_DEVICE_NAME")) for device in core.available_devices}
    except DsmapError as error:
        return warning(error.fact, fix_openvino())
    except Exception as error:
        return numpy_first() or warning(f"openvino fails: {first_line(error)}", fix_openvino())
    if not seen:
        return warning("openvino sees no device, not even the CPU", fix_openvino())
    gpu = "" if any(name.startswith("GPU") for name in seen) else "; no Intel GPU"
    told = ", ".join(f"{device} ({' '.join(name.split())})" for device, name in seen.items())
    compare = "compare with: dsmap-bench model"  # neither is faster everywhere, and auto never takes it
    return ok(f"openvino {openvino.__version__.partition('-')[0]} on {told}{gpu}; {compare}", devices=seen)


def fix_torch() -> str:
    """The command that reinstalls PyTorch."""
    return install.install_again("torch")


def check_torch() -> Finding:
    """That PyTorch loads and computes, and on which device `--backend torch` would run."""
    if not install.installed("torch"):
        return absent("torch is not installed; --backend torch and training need it")
    if not install.installed("onnx"):
        return absent("onnx is not installed; --backend torch needs it beside torch", install.install("torch"))
    try:
        from dsmap.runtime.backends.torch.importing import import_torch

        import_torch()
        from dsmap.runtime.backends.torch.devices import try_device

        fact, unused = try_device()
    except DsmapError as error:
        return numpy_first() or warning(error.fact, fix_torch())
    except Exception as error:
        return numpy_first() or warning(f"torch fails: {first_line(error)}", fix_torch())
    return warning(f"{fact}; {unused}", fix_torch()) if unused else ok(f"{fact}: --backend torch")
