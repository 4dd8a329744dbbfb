"""Builds the TensorRT engines of a bundle."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from dsmap.common.notify import Notify
from dsmap.common.output_files import check_folder_writable
from dsmap.errors import InputError
from dsmap.export.request import EngineRequest
from dsmap.runtime.bundle.bundle import ENGINES, TRANSLATING, Bundle, Sizes
from dsmap.runtime.engines.build import build_engine
from dsmap.runtime.engines.build_options import DEFAULT_BUILD, BuildOptions
from dsmap.runtime.engines.lookup import check_engine, trust_fault
from dsmap.runtime.engines.progress import BuildProgress
from dsmap.runtime.engines.sidecars import EngineKey, Sidecar, engine_name, read_sidecar
from dsmap.runtime.engines.size_profile import SizeProfile
from dsmap.runtime.engines.tensorrt_api import (
    DEFAULT_ARCHITECTURES,
    NOT_RTX,
    Flavour,
    architecture_number,
    current_architecture,
    known_architectures,
    load_trt,
)

_STYLE = "style_encoder"


class EngineJob(NamedTuple):
    """An engine to build."""

    component: str
    domain: str
    precision: str
    onnx: Path | bytes
    """The graph: a file, or the checked bytes of one."""

    @property
    def sha256(self) -> str:
        """Of the graph."""
        return hashlib.sha256(self.onnx if isinstance(self.onnx, bytes) else self.onnx.read_bytes()).hexdigest()

    @property
    def title(self) -> str:
        """For messages: "decoder.winter fp16"."""
        return f"{self.component}.{self.domain} {self.precision}"


class EngineOptions(NamedTuple):
    """Engines to build."""

    flavour: Flavour
    architectures: tuple[str, ...]
    """See `parse_gpu_arch`."""
    profile: SizeProfile
    """Sizes of the translated frames."""
    build: BuildOptions = DEFAULT_BUILD


class EngineTarget(NamedTuple):
    """The installed TensorRT and the GPUs to build for. Image sizes are checked against a network by `options`."""

    flavour: Flavour
    architectures: tuple[str, ...]
    sizes: str
    max_batch: int
    build: BuildOptions = DEFAULT_BUILD

    def options(self, sizes: Sizes) -> EngineOptions:
        """Engines for a network with such `sizes`. Raises InputError for frame sizes that it does not accept."""
        profile = SizeProfile.parse(
            self.sizes, multiple_of=sizes.multiple_of, minimum=sizes.minimum, max_batch=self.max_batch
        )
        return EngineOptions(self.flavour, self.architectures, profile, self.build)


class BuiltEngine(NamedTuple):
    """An engine of a bundle."""

    job: EngineJob
    path: Path
    sidecar: Sidecar
    reused: bool
    """Built earlier, and still up to date."""


def resolve_engines(request: EngineRequest) -> EngineTarget:
    """Finds the TensorRT to build with.

    Raises DsmapError if it is not installed, InputError for an unknown GPU and a timing cache for TensorRT for RTX.
    """
    flavour = load_trt(request.kind)
    if request.timing_cache is not None and flavour.name == "rtx":
        # It compiles for the GPU when an engine first runs, and with a cache of timings it does not build without one.
        raise InputError(
            f"{flavour.title} times no kernels when it builds: --timing-cache has no use", "Leave out --timing-cache."
        )
    if request.timing_cache is not None:
        check_folder_writable(request.timing_cache.parent, "--timing-cache")
    build = BuildOptions(level=request.level, timing_cache=request.timing_cache)
    return EngineTarget(flavour, parse_gpu_arch(request.gpu_arch, flavour), request.sizes, request.max_batch, build)


def parse_gpu_arch(text: str | None, flavour: Flavour) -> tuple[str, ...]:
    """Parses `--gpu-arch`: "8.6,8.9", or "current" for the GPU of this machine; None is the flavour's default.

    Returns compute capabilities in ascending order, "current" resolved to a number. Raises InputError for one that the
    flavour does not support, and lists the supported ones.
    """
    known = known_architectures(flavour)
    if text is None:
        text = ",".join(DEFAULT_ARCHITECTURES) if known else "current"
    names = [name.strip() for name in text.split(",")]
    if names == ["current"]:
        return (_gpu_here(flavour),)
    if tuple(names) == DEFAULT_ARCHITECTURES and known:
        return DEFAULT_ARCHITECTURES
    if not known:
        raise InputError(
            f"{flavour.title} builds only for the GPU of this machine, not for --gpu-arch {text}",
            "Pass --gpu-arch current, or --engine rtx.",
        )
    for name in names:
        if name not in known:
            reason = "cannot be combined" if name == "current" else f"not supported by {flavour.title}"
            raise InputError(
                f"--gpu-arch {name or text!r}: {reason}",
                f"Pass one or more of {', '.join(known)} with commas between, or only current, "
                f"or only {DEFAULT_ARCHITECTURES[0]} (that and later; the default).",
            )
    return tuple(sorted(set(names), key=architecture_number))


def _gpu_here(flavour: Flavour) -> str:
    current = current_architecture()
    if current is None:
        raise InputError(
            f"{flavour.title} cannot build for the GPU of this machine: there is no GPU, or no driver",
            "Check with nvidia-smi. TensorRT for RTX (--engine rtx) builds without a GPU if --gpu-arch is a number.",
        )
    if flavour.name == "rtx" and current in NOT_RTX:
        raise InputError(NOT_RTX[current], "Use --engine tensorrt, or --gpu-arch with the GPU to build for.")
    return current


def build_engines(
    bundle: Bundle,
    options: EngineOptions,
    say: Notify,
    progress: Callable[[EngineJob], BuildProgress] | None = None,
) -> list[BuiltEngine]:
    """Builds an engine for every graph of a bundle into the bundle, from its fp16 graphs if it has them, else fp32.

    The engine of the style encoder accepts sides from the minimum to three times those of the training images, since
    the runtime passes it style images in such sizes. See `build_bundle_engines` for `say`, `progress` and errors.
    """
    precision = "fp16" if "fp16" in bundle.precisions else "fp32"
    jobs = [
        EngineJob(component, domain, precision, graph.data)
        for component in TRANSLATING
        for domain in bundle.domains
        if (graph := bundle.graph_data(component, domain, precision)) is not None
    ]
    built = []
    for group, profile in (
        ([job for job in jobs if job.component != _STYLE], options.profile),
        ([job for job in jobs if job.component == _STYLE], _style_profile(bundle.manifest.sizes)),
    ):
        built += build_bundle_engines(
            bundle.folder,
            group,
            profile=profile,
            flavour=options.flavour,
            architectures=options.architectures,
            build=options.build,
            say=say,
            progress=progress,
        )
    return built


def _style_profile(sizes: Sizes) -> SizeProfile:
    low, best, high = (
        -(-side // sizes.multiple_of) * sizes.multiple_of
        for side in (sizes.style_minimum, max(sizes.style_minimum, sizes.trained_at), 3 * sizes.trained_at)
    )
    high = max(high, best)
    text = f"{low}x{low}:{best}x{best}:{high}x{high}"
    return SizeProfile.parse(text, multiple_of=sizes.multiple_of, minimum=sizes.style_minimum)


def _own_folder(engines: Path) -> Path:
    """The bundle's folder for engines, created if missing. Raises InputError if it is a link."""
    with contextlib.suppress(FileExistsError):
        engines.mkdir()
    if engines.is_symlink() or not engines.is_dir():
        kind = "a link" if engines.is_symlink() else "not a folder"
        raise InputError(f"{engines} is {kind}: engines are written into the bundle itself", f"Remove {engines}.")
    return engines


def build_bundle_engines(
    folder: Path,
    jobs: Iterable[EngineJob],
    *,
    profile: SizeProfile,
    flavour: Flavour,
    architectures: tuple[str, ...],
    build: BuildOptions = DEFAULT_BUILD,
    say: Notify,
    progress: Callable[[EngineJob], BuildProgress] | None = None,
) -> list[BuiltEngine]:
    """Builds the engine of every job into `folder`/engines, except those that were built here and are up to date.

    `say` receives a line about each, `progress` makes the callback of each build. Raises as `build_engine`; engines
    built until then stay, and the next call keeps them.
    """
    check_folder_writable(folder, "-o")
    engines = _own_folder(folder / ENGINES)
    built = []
    for job in jobs:
        path = engines / engine_name(job.component, job.domain, job.precision, flavour.name, profile)
        key = EngineKey.of(job.sha256, flavour, architectures, job.precision, profile, build)
        reason = check_engine(path, key, same_architectures=True) or trust_fault(path)
        if reason is None:
            built.append(BuiltEngine(job, path, read_sidecar(path), reused=True))
            say(f"kept {job.title}: {path.name} is up to date")
            continue
        if path.exists():
            say(f"building {job.title} again: {reason}")
        sidecar = build_engine(
            job.onnx,
            path,
            component=job.component,
            domain=job.domain,
            precision=job.precision,
            profile=profile,
            flavour=flavour,
            architectures=architectures,
            build=build,
            progress=progress and progress(job),
        )
        built.append(BuiltEngine(job, path, sidecar, reused=False))
        say(
            f"built {job.title} in {sidecar.build_seconds:.1f} s, {sidecar.bytes / 1e6:.1f} MB: "
            f"{sidecar.layers.describe()}"
        )
    return built
