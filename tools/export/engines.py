"""The options of `dsmap-export` about engines, and the bar that follows their builds."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dsmap.errors import InputError
from dsmap.export.request import DEFAULT_SIZES, EngineRequest
from dsmap.tools.shared.progress import Bar, bar
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.export.engines import EngineJob
    from dsmap.runtime.engines.progress import BuildProgress


def parse_engines(
    kind: str,
    sizes: str | None,
    gpu_arch: str | None,
    max_batch: int | None,
    level: int | None,
    timing_cache: Path | None,
) -> EngineRequest | None:
    """The engines to build; None for "none". Raises InputError for an unknown kind and for options without effect."""
    if kind != "none":
        return EngineRequest(
            kind=kind,
            sizes=sizes or DEFAULT_SIZES,
            gpu_arch=gpu_arch,
            max_batch=1 if max_batch is None else max_batch,
            level=level,
            timing_cache=timing_cache,
        )
    given = {"--sizes": sizes, "--gpu-arch": gpu_arch, "--max-batch": max_batch, "--opt-level": level,
             "--timing-cache": timing_cache}  # fmt: skip
    for flag, value in given.items():
        if value is not None:
            raise InputError(f"{flag} has no effect without --engine", "Add --engine rtx or tensorrt.")
    return None


class EngineBar:
    """A progress bar that appears with the first build; lines go above it. Nothing is drawn without a terminal."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._begun = False
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def say(self, line: str) -> None:
        """Print a line."""
        say(line) if self._bar is None else self._bar.say(line)

    def follow(self, job: "EngineJob") -> "BuildProgress":
        """Show the build of one engine."""
        from dsmap.runtime.engines.progress import PROGRESS_STEPS

        if not self._begun:
            self._begun = True
            self._bar = self._stack.enter_context(bar(title=True, count=False, text=True, clock="elapsed"))
        drawn = self._bar
        if drawn is None:
            return lambda phase, step, steps: None
        drawn.begin(job.title, total=PROGRESS_STEPS)
        return lambda phase, step, steps: drawn.update(step, total=steps, text=phase[:40])
