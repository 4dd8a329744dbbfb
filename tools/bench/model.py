"""Measures the translation of a frame in several forms, in turns, and how close each result is to the first's."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsmap import __version__
from dsmap.common.images import list_images, read_rgb
from dsmap.common.notify import Notify
from dsmap.common.sampling import pick_evenly
from dsmap.common.scratch import scratch_folder
from dsmap.common.text import counted
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.backends.registry import BACKENDS, load_backend
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.system.cpu import allowed_cores, cpu_name
from dsmap.runtime.translator import pad_frames

_WARM_UP = 1
_IMAGES = 4
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "onnx", "numpy")

Frames = npt.NDArray[np.uint8]
Run = Callable[[Frames], Frames]
"""uint8 RGB (1, H, W, 3) -> the same shape, translated."""


class FrameSize(NamedTuple):
    """Pixels."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> "FrameSize":
        """Parses WIDTHxHEIGHT; InputError for anything else."""
        width, cross, height = text.lower().partition("x")
        if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
            raise InputError(f"--size is {text!r}", "Write WIDTHxHEIGHT, such as 256x256.")
        return cls(int(width), int(height))


@dataclass(frozen=True, kw_only=True)
class ModelBenchRequest:
    """How a network or a bundle is measured."""

    size: str
    """WIDTHxHEIGHT of the frames."""
    threads: int | None
    """None: all cores."""
    images: Path | None
    """Folder of images to translate; None: generated ones."""
    rounds: int
    """Timed rounds."""
    skip: tuple[str, ...]
    """Rows with one of these words in their name are left out."""
    trust_engines: bool = False
    """Load a bundle's TensorRT engines, which are code, wherever they were built."""


def measure_network(
    checkpoint: Path | None, preset: str, settings: Sequence[str], request: ModelBenchRequest, say: Notify
) -> dict[str, Any]:
    """Measures the forms of a network (see `Forms`): of a run, or of a preset with fixed random weights."""
    size = FrameSize.parse(request.size)
    say("loading torch ...")
    import torch

    from dsmap.tools.bench.forms import Forms, open_network

    network = open_network(checkpoint, preset, settings)
    config = network.config
    minimum = config.minimum_size
    images, origin = find_images(request.images, size, config.multiple_of, minimum)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    about = facts(size, request.threads, images, origin, say)
    weights = str(checkpoint) if checkpoint is not None else "random"
    say(f"network: width {config.dim}, padding {config.pad_type}, weights {weights}")
    with scratch_folder("bench") as folder:
        forms = Forms(network, folder, images, request.threads, say)
        measured = measure_in_turns(forms.makers(), images, request.rounds, request.skip, say)
    return about | {"weights": weights, "config": config.model_dump(mode="json")} | measured


def measure_bundle(model: str, domain: str | None, request: ModelBenchRequest, say: Notify) -> dict[str, Any]:
    """Measures every backend that runs here with every precision of a bundle; `model` is its name or folder.

    If there are several, the last line says what is fastest here.
    """
    size = FrameSize.parse(request.size)
    bundle = Bundle.read(find_model(model))
    target = domain if domain is not None else bundle.manifest.targets[-1]
    source, sizes = bundle.source_of(target), bundle.manifest.sizes
    images, origin = find_images(request.images, size, sizes.multiple_of, sizes.minimum)
    about = facts(size, request.threads, images, origin, say)
    say(f"bundle: {bundle.manifest.name}, {source} to {target}")
    makers = bundle_makers(bundle, target, request.threads, trust_engines=request.trust_engines)
    measured = measure_in_turns(makers, images, request.rounds, request.skip, say)
    if len(measured["variants"]) > 1:
        say(_fastest(measured["variants"]))
    return about | {"bundle": bundle.manifest.name, "target": target} | measured


def find_images(folder: Path | None, size: FrameSize, multiple_of: int, minimum: int) -> tuple[list[Frames], str]:
    """Frames (H, W, 3) of `size`, cut from the middle of images in `folder` or generated, and "real" or "generated".

    Raises InputError for a size that the network does not take, and a folder without images.
    """
    if any(side % multiple_of or side < minimum for side in size):
        raise InputError(
            f"--size {size.width}x{size.height} does not fit the network",
            f"Use multiples of {multiple_of}, at least {minimum}.",
        )
    if folder is None:
        return [_generated(size, seed) for seed in range(_IMAGES)], "generated"
    paths = list_images(folder)
    if not paths:
        raise InputError(f"no images in {folder}", "Pass a folder with images to --pictures.")
    return [_fitted(read_rgb(path), size) for path in pick_evenly(paths, _IMAGES)], "real"


def measure_in_turns(
    makers: Mapping[str, Callable[[], Run]],
    images: Sequence[Frames],
    rounds: int,
    skip: Sequence[str],
    say: Notify,
) -> dict[str, Any]:
    """Makes and times every form in turns; prints and returns times in seconds and differences from the first.

    Forms with one of the words of `skip` in their name are left out, but never the first; so are those that cannot be
    made, with the reason.
    """
    runs, left_out = _make(makers, skip, say)
    frames = [image[None] for image in images]
    outputs = {name: [run(frame) for frame in frames] for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    say(f"measuring {counted(len(runs), 'form')}, {counted(rounds, 'round')} in turns")
    for i in range(_WARM_UP + rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run(frames[i % len(frames)])
            if i >= _WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    first = next(iter(runs))
    table = [_row(name, first, seconds, outputs) for name in runs]
    _print_table(table, left_out, say)
    return {"rounds": rounds, "variants": table, "left_out": left_out}


def bundle_makers(
    bundle: Bundle, target: str, threads: int | None, *, trust_engines: bool = False
) -> dict[str, Callable[[], Run]]:
    """Every backend with every precision of the bundle, by name; float32 on the CPU first."""
    style = np.asarray(bundle.manifest.styles[target].mean, np.float32)[None]

    def maker(name: str, precision: str) -> Callable[[], Run]:
        def make() -> Run:
            settings = BackendSettings(threads=threads, precision=precision, trust_engines=trust_engines)
            backend = load_backend(name, bundle, target, settings).backend
            return lambda frames: backend.translate(pad_frames(frames, bundle.manifest.sizes), style)

        return make

    names = ["cpu", *(name for name in BACKENDS if name not in ("cpu", "triton"))]
    return {f"{name}, {precision}": maker(name, precision) for name in names for precision in bundle.precisions}


def machine_facts(say: Notify, threads: int | None = None) -> dict[str, Any]:
    """The machine and the versions of packages, printed in two lines."""
    versions = {package: version for package in _PACKAGES if (version := _version(package))}
    threads = threads or allowed_cores() or os.cpu_count() or 1
    say(f"{cpu_name()}, {os.cpu_count()} cores, {threads} threads")
    say(", ".join(f"{package} {version}" for package, version in versions.items()))
    return {
        "dsmap": __version__,
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "python": platform.python_version(),
        "versions": versions,
        "threads": threads,
    }


def facts(size: FrameSize, threads: int | None, images: Sequence[Frames], origin: str, say: Notify) -> dict[str, Any]:
    """The machine, and what is translated on it."""
    machine = machine_facts(say, threads)
    say(f"frames of {size.width}x{size.height}, 8 bits in and out; {len(images)} {origin} images")
    return machine | {
        "size": f"{size.width}x{size.height}",
        "pictures": {"count": len(images), "origin": origin},
    }


def _make(
    makers: Mapping[str, Callable[[], Run]], skip: Sequence[str], say: Notify
) -> tuple[dict[str, Run], list[dict[str, str]]]:
    runs: dict[str, Run] = {}
    left_out = []
    for i, (name, make) in enumerate(makers.items()):
        if i and any(word.lower() in name.lower() for word in skip):
            left_out.append({"name": name, "reason": "--skip"})
            continue
        say(f"preparing {i + 1} of {len(makers)}: {name}")
        try:
            runs[name] = make()
        except DsmapError as error:
            if not i:
                raise  # nothing to compare with
            left_out.append({"name": name, "reason": error.fact})
    return runs, left_out


def _row(
    name: str, first: str, seconds: Mapping[str, list[float]], outputs: Mapping[str, list[Frames]]
) -> dict[str, Any]:
    """A row of the report; a PSNR of None is that of equal frames."""
    pairs = zip(seconds[first], seconds[name], strict=True)
    differences = [a.astype(np.int16) - b for a, b in zip(outputs[first], outputs[name], strict=True)]
    squares = [float(np.square(d.astype(np.float64)).mean()) for d in differences]
    return {
        "name": name,
        "median": statistics.median(seconds[name]),
        "ratio": statistics.median(a / b for a, b in pairs),
        "psnr_db": _decibels(statistics.fmean(squares)),
        "worst_psnr_db": _decibels(max(squares)),
        "largest_difference": int(max(np.abs(d).max() for d in differences)),
        "seconds": seconds[name],
    }


def _print_table(table: Sequence[dict[str, Any]], left_out: Sequence[dict[str, str]], say: Notify) -> None:
    say(f"  {'':42} {'frame':>9} {'speed':>6}  PSNR (worst image)")
    for i, row in enumerate(table):
        same = "equal" if i else "the reference"
        psnr = same if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB ({row['worst_psnr_db']:.1f})"
        say(f"  {row['name']:42} {row['median'] * 1000:6.1f} ms {row['ratio']:6.2f}  {psnr}")
    measured = {_family(row["name"]) for row in table}
    absent = ((_family(row["name"]), row["name"], row["reason"]) for row in left_out)
    lines = ((name if family in measured else family, reason) for family, name, reason in absent)
    for name, reason in dict.fromkeys(lines):  # a backend without any precision takes one line
        say(f"  {name:42} left out: {reason}")


def _family(name: str) -> str:
    """What runs a form, such as the backend of "cuda, fp16"."""
    return name.partition(", ")[0]


def _fastest(rows: Sequence[dict[str, Any]]) -> str:
    """The fastest row in words, with the options that choose it."""
    best = max(rows, key=lambda row: row["ratio"])
    backend, _, precision = best["name"].partition(", ")
    return (
        f"fastest here: {best['name']}, {best['ratio']:.2f} times as fast as {rows[0]['name']}"
        f" (--backend {backend} --precision {precision})"
    )


def _decibels(square: float) -> float | None:
    return round(float(10 * np.log10(255**2 / square)), 2) if square else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _generated(size: FrameSize, seed: int) -> Frames:
    """Soft coloured noise with a little grain, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.uniform(0, 255, (6, 6, 3)).astype(np.float32), tuple(size), interpolation=cv2.INTER_CUBIC)
    return np.clip(soft + rng.normal(0, 8, (size.height, size.width, 3)), 0, 255).astype(np.uint8)


def _fitted(image_rgb: Frames, size: FrameSize) -> Frames:
    """An image scaled to cover `size`, and its middle."""
    height, width = image_rgb.shape[:2]
    factor = max(size.width / width, size.height / height)
    scaled = (max(size.width, round(width * factor)), max(size.height, round(height * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(image_rgb, scaled, interpolation=method))
    top, left = (resized.shape[0] - size.height) // 2, (resized.shape[1] - size.width) // 2
    return np.ascontiguousarray(resized[top : top + size.height, left : left + size.width])
