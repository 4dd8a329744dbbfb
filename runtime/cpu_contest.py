"""ONNX Runtime or OpenVINO on this CPU: measured once for each model, and remembered in the user's cache."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dsmap import __version__
from dsmap.common.files import read_regular, write_state
from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Backend, BackendSettings, Choice
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.system.cpu import allowed_cores, cpu_name, is_intel

LEAST_GAIN = 1.05
"""OpenVINO is taken when it is faster by that factor: less is within what two runs differ by."""
_FOLDER = "cpu-contest"
_SIDE = 256  # pixels
_ROUNDS = 5
_SECONDS = 3.0  # after which no further round begins


def choose_on_cpu(
    onnxruntime: Callable[[], Backend],
    openvino: Callable[[], Backend],
    bundle: Bundle,
    settings: BackendSettings,
    processor: str | None = None,
) -> Choice:
    """ONNX Runtime, or OpenVINO where it is installed, the CPU is Intel's and this model is faster with it.

    The callables load the backends; OpenVINO's is called only when it may be taken. `processor` is the CPU's name, by
    default this one's. Raises DsmapError when ONNX Runtime does not run: there is nothing to compare with then.
    """
    if out := _ruled_out(processor if processor is not None else cpu_name()):
        return Choice(onnxruntime(), f"OpenVINO: {out}")
    path = _memory_path(bundle, settings, processor)
    speed = _recall(path)
    if speed is not None and speed < LEAST_GAIN:
        return Choice(onnxruntime(), _told(speed))
    plain = onnxruntime() if speed is None else None
    try:
        rival = openvino()
        if plain is not None:
            speed = _speed(plain, rival, bundle)
    except DsmapError as error:
        return Choice(plain or onnxruntime(), f"OpenVINO: {error.fact}")
    assert speed is not None
    if plain is None:
        return Choice(rival, _told(speed))
    _remember(path, speed)
    return Choice(rival if speed >= LEAST_GAIN else plain, _told(speed))


def _ruled_out(processor: str) -> str | None:
    """Why OpenVINO is not even tried; None when it may be."""
    if not is_intel(processor):
        return "not an Intel CPU"
    try:
        found = importlib.util.find_spec("openvino") is not None
    except ValueError:  # a module that was put in place of it
        found = False
    return None if found else "not installed"


def _told(speed: float) -> str:
    if speed >= LEAST_GAIN:
        return f"measured {speed:.2f} times as fast as ONNX Runtime here"
    return f"OpenVINO: measured {speed:.2f} times as fast here"


def _speed(plain: Backend, rival: Backend, bundle: Bundle) -> float:
    """How many times as fast `rival` is: the median over pairs of frames, in turns, after one of each to warm up."""
    sizes = bundle.manifest.sizes
    side = max(sizes.minimum, _SIDE // sizes.multiple_of * sizes.multiple_of)
    frames = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    style = np.zeros((1, bundle.manifest.style_dim), np.float32)

    def seconds(backend: Backend) -> float:
        began = time.perf_counter()
        for wait in [backend.submit(frames, style) for _ in range(backend.in_flight)]:
            wait()
        return time.perf_counter() - began

    began = time.perf_counter()
    seconds(plain), seconds(rival)
    ratios: list[float] = []
    while not ratios or (len(ratios) < _ROUNDS and time.perf_counter() - began < _SECONDS):
        ratios.append(seconds(plain) / seconds(rival))
    return statistics.median(ratios)


def _memory_path(bundle: Bundle, settings: BackendSettings, processor: str | None) -> Path:
    """Where the result is kept: the name is a hash of all that it depends on."""
    from dsmap.runtime.engines.cache import user_cache_folder

    key = {
        "files": [file.sha256 for file in bundle.manifest.files()],
        "precision": settings.precision,
        "frames_at_once": settings.frames_at_once,
        "processor": processor if processor is not None else cpu_name(),
        "threads": settings.threads or allowed_cores() or os.cpu_count(),
        "versions": [__version__, _version("onnxruntime", "onnxruntime-gpu"), _version("openvino")],
    }
    return user_cache_folder() / _FOLDER / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"


def _version(*packages: str) -> str | None:
    """Of the first of the packages that is installed."""
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _recall(path: Path) -> float | None:
    """The speed that was measured before; None when there is none, or it cannot be read."""
    try:
        speed = json.loads(read_regular(path, limit=1 << 16, what="the measurement"))["openvino_speed"]
    except (DsmapError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return speed if isinstance(speed, float) and speed > 0 else None


def _remember(path: Path, speed: float) -> None:
    """Writes the speed down, never through a link. Where it cannot it is measured again next time: no failure."""
    with contextlib.suppress(OSError, DsmapError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_state(path, json.dumps({"openvino_speed": speed}) + "\n")
