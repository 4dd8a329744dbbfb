"""How `dsmap-video` runs its jobs: the network, one bar each, a summary, and the exit code."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from dsmap.common.reports import write_report
from dsmap.errors import DsmapError, InputError
from dsmap.tools.shared.progress import bar
from dsmap.tools.shared.terminal import note, say, tell
from dsmap.tools.video.plan import Checked, StyleChoice

if TYPE_CHECKING:
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.frame_translator import FrameTranslator
    from dsmap.runtime.jobs.plan import Job
    from dsmap.runtime.jobs.report import JobReport, Progress

INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network runs, and by what."""

    bundle: "Bundle"
    domain: str
    backend: str
    precision: str
    cuda_binding: str
    trust_engines: bool
    strength: float
    stabilize: bool


class Work:
    """The network, loaded for the jobs, and how it does one of them."""

    def __init__(
        self, network: Network, styles: StyleChoice, checked: Sequence[Checked], options: dict[str, Any]
    ) -> None:
        """Loads the network. Raises InputError when a single job's frames do not fit into memory."""
        from dsmap.runtime.translator import Translator

        sizes = [(one.facts.width, one.facts.height) for one in checked if one.facts and one.facts.width]
        self._network, self._styles, self._checked, self._options = network, styles, checked, options
        translator = Translator.load(
            network.bundle,
            domain=network.domain,
            backend=network.backend,
            style=styles.fixed,
            precision=network.precision,
            cuda_binding=network.cuda_binding,
            trust_engines=network.trust_engines,
            for_frames=self._largest(sizes),
        )
        self._translator = translator
        self._frames: FrameTranslator = translator
        if network.strength != 1:
            from dsmap.runtime.styles.strength import StrengthTranslator

            self._frames = StrengthTranslator(translator, network.strength)
        self._style_at = styles.path.load(translator.find_style) if styles.path else None
        if len(checked) == 1 and sizes:  # images of a folder, and several inputs: each before its turn
            self._frames.check_size(sizes[0][1], sizes[0][0])

    def _largest(self, sizes: list[tuple[int, int]]) -> tuple[int, int] | None:
        """(width, height) of the largest frames; None when there is no video. Between two directions, as if twice."""
        if not sizes or all(one.job.kind != "video" for one in self._checked):
            return None
        width, height = max(sizes, key=lambda size: size[0] * size[1])
        return (2 * width if 0 < self._network.strength < 1 else width), height

    def header(self) -> list[str]:
        """What is going to be done, and by what: a few lines."""
        translator = self._translator
        direction = f"{translator.model_name}: {translator.source} -> {translator.target}"
        lines = [f"{direction}, {len(self._checked)} inputs"] if len(self._checked) > 1 else []
        for one in self._checked:
            if one.facts is not None:
                lines.append(f"{one.job.shown if lines else direction}, {_described(one)}")
                lines += [f"  {note}" for note in one.facts.notes]
                if one.facts.left_out:
                    lines.append(f"  left out: {', '.join(one.facts.left_out)}")
        if self._styles.path or self._styles.fixed.source is not None:
            lines.append(f"style: {self._styles}{self._styles.note}")
        backend = f"{translator.backend_name}, {translator.backend_description} ({translator.backend_reason})"
        return [*lines, f"backend: {backend}"]

    def facts(self) -> dict[str, Any]:
        """What ran, for the report."""
        names = ("model_name", "source", "target", "backend_name", "backend_description", "backend_reason", "precision")
        about = {name: getattr(self._translator, name) for name in names}
        named = {"model": about.pop("model_name"), "backend": about.pop("backend_name"), "style": str(self._styles)}
        return named | about

    def run(self, job: "Job", progress: "Progress | None") -> "JobReport":
        """Does one job. Raises what was wrong with its input."""
        from dsmap.runtime.jobs.images import translate_folder, translate_image
        from dsmap.runtime.jobs.video import translate_video

        error = next(one.error for one in self._checked if one.job is job)
        if error is not None:
            raise error
        if job.kind != "video":
            names = ("height", "upscale", "side_by_side", "overwrite", "strip_metadata")
            options = {name: self._options[name] for name in names}
            if job.kind == "picture":
                return translate_image(job.source, job.output, self._frames, **options)
            options["resume"] = self._options["resume"]
            return translate_folder(job.source, job.output, self._frames, **options, progress=progress)
        steady = None
        if self._network.stabilize:
            from dsmap.runtime.stabilization.stabilizer import Stabilizer

            steady = Stabilizer()
        return translate_video(
            job.source,
            job.output,
            self._frames,
            style_at=self._style_at,
            steady=steady,
            made_with=self._made_with(),
            progress=progress,
            tell=note,
            **self._options,
        )

    def _made_with(self) -> dict[str, Any]:
        """What the frames depend on, beside the options of the job."""
        codes = [self._translator.style, *(self._style_at.codes if self._style_at else ())]
        return {
            "model": self._translator.bundle.fingerprint,
            "--domain": self._translator.target,
            "style": [[float(number) for number in code] for code in codes],
            "style over time": str(self._styles.path) if self._styles.path else None,
            "--strength": self._network.strength,
            "--stabilize": self._network.stabilize,
            "--precision": self._translator.precision,
        }


def _described(one: Checked) -> str:
    """What an input holds, in a few words."""
    facts = one.facts
    assert facts is not None
    size = f"{facts.width}x{facts.height}" if facts.width else "each at its own size"
    word = "frames" if one.job.kind == "video" else "pictures"
    parts = [size, *([f"{facts.frames} {word}"] if (facts.frames or 0) > 1 else [])]
    counted = {"audio": facts.audio_streams, "subtitles": facts.subtitle_streams, "chapters": facts.chapters}
    copied = ", ".join(f"{count} {name}" for name, count in counted.items() if count)
    return ", ".join([*parts, *([f"{copied} copied"] if copied else [])])


class Outcome(NamedTuple):
    """What became of a job: its report, or why there is none."""

    job: "Job"
    report: "JobReport | None"
    error: DsmapError | None = None


def run_jobs(
    jobs: "Sequence[tuple[Job, int | None]]", run: "Callable[[Job, Progress | None], JobReport]"
) -> list[Outcome]:
    """Runs jobs, each with the frames it is expected to have, one after the other; each is told when it is done.

    A job of several that fails is told, and the next one goes on; the error of a single one is raised. Ctrl-C ends
    them all: those that did not begin have no outcome.
    """
    from dsmap.common.interrupts import stop_on_signals

    if len(jobs) == 1:
        return [Outcome(jobs[0][0], _run_one(*jobs[0], "", run))]
    outcomes: list[Outcome] = []
    with stop_on_signals() as stop:  # between two jobs as well
        for job, expected in jobs:
            try:
                outcomes.append(Outcome(job, _run_one(job, expected, job.name, run)))
            except DsmapError as error:
                outcomes.append(Outcome(job, None, error))
                tell(f"{job.shown}: {error.fact}", error.advice)
            if stop:
                break
    return outcomes


def _run_one(
    job: "Job", expected: int | None, label: str, run: "Callable[[Job, Progress | None], JobReport]"
) -> "JobReport":
    with _bar(label, expected) as progress:
        report = run(job, progress)
    _tell(report)
    return report


def report_jobs(path: Path, about: dict[str, Any], outcomes: Sequence[Outcome], *, several: bool) -> None:
    """The numbers as JSON: of one job flat, of several in a list. DsmapError when the file cannot be written."""
    told = [_as_dict(outcome) for outcome in outcomes]
    write_report(path, about | (told[0] if told and not several else {"jobs": told}), "the result itself is done")


def conclude(outcomes: Sequence[Outcome], planned: int) -> None:
    """Say what is wrong with the results; exit code 130, 2 or 1 when not everything is whole."""
    if planned > 1:
        _summarise(outcomes, planned)
    for outcome in outcomes:
        if outcome.report is not None and not outcome.report.complete:
            _tell_what_is_missing(outcome.report)
    cut_off = any(outcome.report is not None and outcome.report.interrupted for outcome in outcomes)
    if cut_off or len(outcomes) < planned:
        raise typer.Exit(INTERRUPTED)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if len(errors) == planned and all(isinstance(error, InputError) for error in errors):
        raise typer.Exit(InputError.exit_code)
    if errors or any(outcome.report is None or not outcome.report.complete for outcome in outcomes):
        raise typer.Exit(1)


@contextlib.contextmanager
def _bar(name: str, expected: int | None) -> "Iterator[Progress | None]":
    """A bar with frames per second and time left; nothing when the output is not a terminal."""
    with bar(title=bool(name), text=True) as drawn:
        if drawn is None:
            yield None
            return
        drawn.begin(name, total=expected, text="- fps")

        def update(done: int, total: int | None) -> None:
            speed = f"{drawn.speed:.1f}" if drawn.speed else "-"
            drawn.update(done, total=max(done, total) if total else None, text=f"{speed} fps")

        yield update


def _tell(report: "JobReport") -> None:
    if report.frames and not report.spared:
        say(
            f"{report.output}: {report.frames} of {report.frames_expected or report.frames} done in"
            f" {report.seconds:.1f} s ({report.fps:.1f} per second)"
        )
    for line in report.notes if report.frames_expected != 1 else ():  # of a single image they were told before
        say(f"  {line}")


def _tell_what_is_missing(report: "JobReport") -> None:
    if report.frames == 0 and report.interrupted:
        tell("stopped before the first frame was done", "nothing was written")
    elif report.spared:
        fact = f"{report.output} is still the earlier result; what was done is kept"
        tell("stopped before the end", f"{fact}: the same command with --resume goes on from there")
    elif report.interrupted:
        again = "; the same command with --resume goes on from there" if report.resumable else ""
        tell("stopped before the end", f"{report.output} holds what was done{again}")
    elif report.failed:
        tell(
            f"{len(report.failed)} of {report.frames_expected} images could not be translated:",
            "replace or remove them and run again",
            *report.failed,
        )
    elif report.broken_off:
        tell(report.broken_off, f"{report.output} holds the {report.frames} frames that came")
    elif report.dropped_packets and report.frames == report.frames_expected:
        tell(
            f"the input is damaged: {report.dropped_packets} packets of its sound or subtitles could not be copied",
            f"{report.output} holds the rest and plays; get a whole copy of the input for them",
        )
    else:
        tell(
            f"the input is damaged or cut off: {report.frames} of {report.frames_expected} frames could be translated",
            f"{report.output} holds them and plays; get a whole copy of the input for the rest",
        )


def _summarise(outcomes: Sequence[Outcome], planned: int) -> None:
    whole = sum(outcome.report is not None and outcome.report.complete for outcome in outcomes)
    say(f"{whole} of {planned} inputs done")


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    if outcome.report is not None:
        return outcome.report.as_dict()
    assert outcome.error is not None
    named = {"input": outcome.job.shown, "output": str(outcome.job.output)}
    return named | {"frames": 0, "complete": False, "error": outcome.error.fact}
