"""Builds TensorRT engines from ONNX graphs: size profile, precision gate, progress and Ctrl-C.

The graphs' dynamic dimensions are called n, h, w, FACTOR*h or FACTOR*h + MARGIN, with h = H / multiple_of: the names
are read from the file, so every graph of a bundle takes the same profile.
"""

import hashlib
import logging
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from dsmap import __version__
from dsmap.common.output_files import check_folder_writable
from dsmap.common.state_files import write_state
from dsmap.errors import DsmapError
from dsmap.runtime.engines.build_options import DEFAULT_BUILD, BuildOptions
from dsmap.runtime.engines.failures import failure
from dsmap.runtime.engines.layer_statistics import LayerStatistics, layer_statistics
from dsmap.runtime.engines.progress import BuildMonitor, BuildProgress, interrupts
from dsmap.runtime.engines.sidecars import EngineKey, Sidecar, sidecar_path
from dsmap.runtime.engines.size_profile import Size, SizeProfile
from dsmap.runtime.engines.tensorrt_api import Flavour, Log, new_builder, new_network, set_architectures
from dsmap.runtime.engines.trust import remember_engine

_log = logging.getLogger("dsmap")


class SerializedEngine(NamedTuple):
    """An engine as built, and what it holds."""

    data: bytes
    layers: LayerStatistics
    seconds: float


def build_engine(
    onnx: bytes | Path,
    out_path: Path,
    *,
    component: str,
    domain: str,
    precision: str,
    profile: SizeProfile,
    flavour: Flavour,
    architectures: tuple[str, ...],
    build: BuildOptions = DEFAULT_BUILD,
    progress: BuildProgress | None = None,
    option: str = "-o",
) -> Sidecar:
    """Builds the engine of a graph (a file or its bytes), and writes it with its sidecar into the folder of `out_path`.

    The engine is recorded as built here; where that fails, a warning says so.

    Raises DsmapError for a graph that TensorRT or the precision gate refuses and for a full disk, InputError for a
    folder that takes no files (`option` chooses another), KeyboardInterrupt on Ctrl-C. Nothing unfinished is left.
    """
    data = onnx if isinstance(onnx, bytes) else onnx.read_bytes()
    check_folder_writable(out_path.parent, option)
    # An engine holds the weights, and code: with less space than that a build cannot succeed.
    if (free := shutil.disk_usage(out_path.parent).free) < len(data):
        raise _no_space(out_path, len(data), free)
    built = build_plan(
        data,
        f"{component}.{domain}" if isinstance(onnx, bytes) else onnx.name,
        flavour=flavour,
        profile=profile,
        precision=precision,
        architectures=architectures,
        build=build,
        progress=progress,
    )
    sidecar = Sidecar(
        key=EngineKey.of(hashlib.sha256(data).hexdigest(), flavour, architectures, precision, profile, build),
        engine_sha256=hashlib.sha256(built.data).hexdigest(),
        bytes=len(built.data),
        component=component,
        domain=domain,
        layers=built.layers,
        build_seconds=round(built.seconds, 3),
        dsmap_version=__version__,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    # The engine first: until its sidecar follows, an old one's hash does not match it, and it is not used.
    _write_whole(out_path, built.data)
    _write_whole(sidecar_path(out_path), sidecar.model_dump_json(indent=1).encode() + b"\n")
    try:
        remember_engine(sidecar.engine_sha256, out_path)
    except (DsmapError, OSError) as error:
        reason = error.fact if isinstance(error, DsmapError) else error.strerror
        _log.warning(
            "%s: not kept on record as built here (%s); running it needs --trust-engines", out_path.name, reason
        )
    return sidecar


def build_plan(
    onnx: bytes,
    name: str,
    *,
    flavour: Flavour,
    profile: SizeProfile,
    precision: str,
    architectures: tuple[str, ...],
    build: BuildOptions = DEFAULT_BUILD,
    progress: BuildProgress | None = None,
) -> SerializedEngine:
    """Builds the engine of an ONNX file's bytes; `name` is what messages call it.

    Raises DsmapError with TensorRT's reason (OutOfMemoryError where the device is full), or where the graph is not of
    `precision`; KeyboardInterrupt on Ctrl-C; and what `progress` and `build` raise.
    """
    started = time.perf_counter()
    with interrupts() as interrupted:
        monitor = BuildMonitor(progress, interrupted)
        log = Log(flavour)
        builder = new_builder(flavour, log)
        network = new_network(flavour, builder)
        # The network's weights lie in the parser: it has to live until the engine is built.
        parser = flavour.module.OnnxParser(network, log.logger)
        _parse(parser, onnx, f"{flavour.title} cannot read {name}", log)
        layers = layer_statistics(flavour, network)
        layers.check(name, precision)
        monitor.check()
        config = builder.create_builder_config()
        set_architectures(flavour, config, architectures)
        build.apply(flavour.module, config)
        # TensorRT for RTX: without it an engine may allocate while it runs, and no CUDA graph can be captured.
        if flavour.name == "rtx" and (flag := getattr(flavour.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)):
            config.set_flag(flag)
        _add_profile(builder, network, config, profile, name)
        reporter = monitor.for_trt(flavour)  # TensorRT keeps no reference of its own
        config.progress_monitor = reporter
        engine = builder.build_serialized_network(network, config)
        monitor.check()
    if engine is None:
        raise failure(
            f"{flavour.title} cannot build {name}: {log.last_error()}", "Other --sizes or --gpu-arch may work."
        )
    build.keep_timings(config)
    return SerializedEngine(bytes(engine), layers, time.perf_counter() - started)


def _parse(parser: Any, onnx: bytes, failure: str, log: Log) -> None:
    if not parser.parse(onnx):
        raise DsmapError(f"{failure}: {_parser_reason(parser) or log.last_error()}", "Export the bundle again.")


def _parser_reason(parser: Any) -> str:
    """The parser's first error in one line, with the node: later lines of it are about TensorRT's insides."""
    if not parser.num_errors:
        return ""
    error = parser.get_error(0)
    lines = [line.strip() for line in error.desc().splitlines() if line.strip()]
    node = f" (node {error.node_name() or error.node()})" if error.node() >= 0 else ""
    return " ".join(lines[:2])[:400] + node


def _add_profile(builder: Any, network: Any, config: Any, profile: SizeProfile, name: str) -> None:
    shapes = input_shapes(network, profile, name)
    if not shapes:
        return
    added = builder.create_optimization_profile()
    for tensor, (low, best, high) in shapes.items():
        added.set_shape(tensor, low, best, high)
    if config.add_optimization_profile(added) < 0:
        raise DsmapError(f"TensorRT refuses the sizes {profile} for {name}", "Pass others with --sizes.")


def input_shapes(network: Any, profile: SizeProfile, name: str) -> dict[str, list[tuple[int, ...]]]:
    """The smallest, usual and largest shape of every dynamic input of a parsed network.

    Raises DsmapError for a dimension whose name is none of a bundle's.
    """
    corners = ((1, profile.minimum), (profile.max_batch, profile.optimum), (profile.max_batch, profile.maximum))
    shapes = {}
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        dims = [
            length if length >= 0 else tensor.get_dimension_name(axis) or "" for axis, length in enumerate(tensor.shape)
        ]
        if any(isinstance(dim, str) for dim in dims):
            what = f"{name}: {tensor.name}"
            shapes[tensor.name] = [_shape(dims, batch, size, profile.multiple_of, what) for batch, size in corners]
    return shapes


def _shape(dims: list[int | str], batch: int, size: Size, multiple_of: int, what: str) -> tuple[int, ...]:
    """The shape of an input whose dimensions are numbers or names.

    ["n", "8*h", "8*w", 3] -> (1, 256, 256, 3), and ["n", 256, "2*h + 4", "2*w + 4"] -> (1, 256, 68, 68).
    """
    sides = {"h": size.height, "w": size.width}
    shape = []
    for dim in dims:
        if isinstance(dim, int) or dim == "n":
            shape.append(batch if dim == "n" else int(dim))
            continue
        match = re.fullmatch(r"(?:(\d+)\*)?([hw])(?: \+ (\d+))?", dim)
        length, rest = divmod(sides[match[2]] * int(match[1] or 1), multiple_of) if match else (0, 0)
        if match is None or rest or length < 1:
            raise DsmapError(f"{what} has a dimension {dim!r} that no size profile gives", "Export the bundle again.")
        shape.append(length + int(match[3] or 0))
    return tuple(shape)


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a file atomically, never through a link; DsmapError when the disk is full."""
    try:
        write_state(path, data)
    except OSError as error:
        raise _no_space(path, len(data), shutil.disk_usage(path.parent).free, error.strerror or str(error)) from error


def _no_space(path: Path, needed: int, free: int, reason: str = "no space") -> DsmapError:
    sizes = f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB free"
    return DsmapError(
        f"cannot write {path.name} into {path.parent}: {reason}; {sizes}",
        "Make room there, or choose a folder on another disk.",
    )
