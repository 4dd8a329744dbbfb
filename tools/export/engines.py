"""The engines that `dsmap-export` was asked for: checked before anything takes time, and built with a bar."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dsmap.errors import InputError
from dsmap.tools.shared.progress import bar
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.export.engines import BuiltEngine
    from dsmap.runtime.bundle.bundle import Sizes
    from dsmap.runtime.engines.tensorrt_api import Flavour

DEFAULT_SIZES = "256x256:512x512:1920x1088"


class EngineWishes(NamedTuple):
    """What was asked of the engines; TensorRT is there, and builds for these GPUs."""

    flavour: "Flavour"
    architectures: tuple[str, ...]
    sizes: str
    max_batch: int

    def options(self, sizes: "Sizes") -> Any:
        """For a bundle with such sizes. Raises InputError for a profile that its network does not take."""
        from dsmap.export.engines import EngineOptions

        return EngineOptions(self.flavour, self.architectures, self.profile(sizes.multiple_of, sizes.minimum))

    def profile(self, multiple_of: int, minimum: int) -> Any:
        """The size profile; InputError when the network does not take it."""
        from dsmap.runtime.engines.build import SizeProfile

        return SizeProfile.parse(self.sizes, multiple_of=multiple_of, minimum=minimum, max_batch=self.max_batch)


def engine_wishes(engine: str, sizes: str | None, gpu_arch: str | None, max_batch: int | None) -> EngineWishes | None:
    """Checks the engines' options before anything takes time; None when there are to be none."""
    if engine not in ("tensorrt", "rtx", "auto", "none"):
        raise InputError(f"no engine called {engine!r}", "Pass --engine tensorrt, rtx, auto or none.")
    if engine == "none":
        for flag, value in {"--sizes": sizes, "--gpu-arch": gpu_arch, "--max-batch": max_batch}.items():
            if value is not None:
                raise InputError(f"{flag} is about engines, and none are asked for", "Add --engine rtx or tensorrt.")
        return None
    from dsmap.export.engines import parse_gpu_arch
    from dsmap.runtime.engines.tensorrt_api import load_trt

    flavour = load_trt(engine)
    if flavour.note:
        say(f"engines: {flavour.title} ({flavour.note})")
    return EngineWishes(flavour, parse_gpu_arch(gpu_arch, flavour), sizes or DEFAULT_SIZES, max_batch or 1)


def build(folder: Path, engines: EngineWishes) -> "list[BuiltEngine]":
    """Builds with a progress bar, where there is a terminal."""
    from dsmap.export.engines import EngineJob, build_engines
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.engines.progress import PROGRESS_STEPS

    bundle = Bundle.read(folder)
    say(f"building engines with {engines.flavour.title} for GPUs of {', '.join(engines.architectures)}")
    with bar(title=True, count=False, text=True, elapsed=True) as drawn:

        def follow(job: EngineJob) -> Any:
            if drawn is None:
                return lambda phase, step, steps: None
            drawn.begin(job.title, total=PROGRESS_STEPS)
            return lambda phase, step, steps: drawn.update(step, total=steps, text=phase[:40])

        told = say if drawn is None else drawn.say
        return build_engines(bundle, engines.options(bundle.manifest.sizes), told, follow)
