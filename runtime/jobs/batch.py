"""Running requests: all inputs are checked, the model is loaded once, then the jobs run one after the other.

report = translate_videos(["clips/", "holiday.mp4"], "results", domain="winter", codec="hevc", resume=True)
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from dsmap.common.interrupts import stop_on_signals
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundled import DEFAULT_MODEL
from dsmap.runtime.jobs.batch_report import (
    BatchReport,
    JobNotice,
    JobOutcome,
    JobProgress,
    JobSkipped,
    JobStarted,
    ModelLoaded,
    OnEvent,
)
from dsmap.runtime.jobs.images import check_folder, check_image, run_folder_job, run_image_job
from dsmap.runtime.jobs.loaded_model import LoadedModel, ModelSummary
from dsmap.runtime.jobs.options import ModelOptions, StyleOptions, VideoOptions
from dsmap.runtime.jobs.piped import check_piped_job
from dsmap.runtime.jobs.plan import Job, is_done, make_result_folders, tidy_up_after
from dsmap.runtime.jobs.report import InputFacts
from dsmap.runtime.jobs.report_file import write_batch_report
from dsmap.runtime.jobs.request import VideoRequest, resolve_request
from dsmap.runtime.jobs.resume import check_unfinished, is_unfinished, parts_folder
from dsmap.runtime.jobs.single_frame import check_single_frame, run_single_frame_job
from dsmap.runtime.jobs.stored import is_stored, stored_exists
from dsmap.runtime.jobs.video import run_video_job
from dsmap.runtime.jobs.video_plan import check_video_job
from dsmap.runtime.refine.choice import MOST_LINES
from dsmap.runtime.video.pipes import is_piped_in

_FULL_SIZE = " (--refine off: at full size)"


class CheckedJob(NamedTuple):
    """A job whose input was opened, with what is known of it or what is wrong with it."""

    job: Job
    facts: InputFacts | None
    error: InputError | None = None


TranslateAll: TypeAlias = Callable[
    [VideoRequest, Sequence[CheckedJob], OnEvent], tuple[list[JobOutcome], dict[str, Any]]
]
"""Runs the checked jobs of a request: gives their outcomes in the same order, and which model ran."""

RunRequest: TypeAlias = Callable[[VideoRequest, OnEvent | None], BatchReport]


def translate_videos(
    sources: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    domain: str | None = None,
    model: str | Path = DEFAULT_MODEL,
    style: str | int | Path | StyleOptions | None = None,
    backend: str = "auto",
    precision: str = "auto",
    cuda_binding: str = "auto",
    streams: int | None = None,
    trust_engines: bool = False,
    strength: float = 1.0,
    stabilize: bool = False,
    remote: str | None = None,
    report: str | Path | None = None,
    password_env: str | None = None,
    on_event: OnEvent | None = None,
    run: RunRequest | None = None,
    **options: Any,
) -> BatchReport:
    """Translate videos, images, folders of either, image sequences and streams, as the command dsmap-video does.

    `sources`: one or several. `output`: a file for one, a folder for several; None: NAME-DOMAIN beside each input.
    `style`: the name of one of the model's, a seed or an image; a `StyleOptions` for one that changes over time.
    The arguments from `domain` to `remote` are those of `ModelOptions`, `options` those of `VideoOptions`. `report`:
    a JSON file for the numbers. `password_env`: the environment variable with the password of an address.
    `on_event` gets every `BatchEvent`. `run`: what runs it; an `OnRay` does on a cluster; None: this process.

    All names, options, inputs and outputs are checked before the model loads. An input that cannot be translated does
    not stop the others: its outcome has the error. Each result appears under its name when it is complete. After an
    interruption, the same call with `resume=True` continues.

    Raises InputError for what is wrong with the arguments, with all inputs, or with the only one; DsmapError when the
    model does not run, when the only input fails, and when the report cannot be written.
    """
    request = resolve_request(
        [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)],
        None if output is None else Path(output),
        model=ModelOptions(
            domain=domain,
            model=model,
            backend=backend,
            precision=precision,
            cuda_binding=cuda_binding,
            streams=streams,
            trust_engines=trust_engines,
            strength=strength,
            stabilize=stabilize,
            remote=remote,
        ),
        style=style if isinstance(style, StyleOptions) else StyleOptions(style=style),
        options=VideoOptions(**options),
        report=None if report is None else Path(report),
        password_env=password_env,
    )
    return (run or run_request)(request, on_event)


def run_request(
    request: VideoRequest, on_event: OnEvent | None = None, *, translate_all: TranslateAll | None = None
) -> BatchReport:
    """Run `request` and write its report. See `translate_videos` for the guarantees and errors.

    `translate_all`: what runs the jobs; None: this process, one after the other.
    """
    if translate_all is None and (stored := next((job for job in request.jobs if job.is_stored), None)):
        place = stored.output if is_stored(stored.output) else stored.shown
        raise InputError(f"{place} is in an object store, which is for --ray", "pass --ray local, or use a local copy")
    translate_all = translate_all or _translated
    emit = on_event or (lambda _event: None)
    left_out = {"files_left_out": request.files_left_out} if request.files_left_out else {}
    with make_result_folders(request.jobs):
        skipped = _skipped(request, emit)
        todo = _checked_jobs(request, [job for job in request.jobs if job not in skipped])
        outcomes, facts = translate_all(request, todo, emit) if todo else ([], {})
    batch = BatchReport(outcomes=tuple(outcomes), skipped=skipped, planned=len(todo), facts=facts | left_out)
    if request.report is not None:
        write_batch_report(request.report, batch)
    return batch


def _skipped(request: VideoRequest, emit: OnEvent) -> tuple[Job, ...]:
    """With `resume`, the jobs whose results exist and are complete."""
    if not request.options.resume or request.options.overwrite:
        return ()
    done = tuple(job for job in request.jobs if is_done(job))
    for job in done:
        tidy_up_after(job)
        emit(JobSkipped(job))
    return done


def _checked_jobs(request: VideoRequest, jobs: Sequence[Job]) -> list[CheckedJob]:
    """Checks every input and output. Raises the InputError of a single job, or the first one if all jobs have one."""
    checked = []
    for job in jobs:
        try:
            checked.append(CheckedJob(job, _facts(job, request.options)))
        except InputError as error:
            if len(request.jobs) == 1:
                raise
            checked.append(CheckedJob(job, None, error))
    errors = [one.error for one in checked if one.error is not None]
    if errors and len(errors) == len(checked):
        raise errors[0]
    return checked


def _facts(job: Job, options: VideoOptions) -> InputFacts:
    if job.is_stored:  # the worker that fetches it sees what it is
        _check_stored(job, options)
        return InputFacts(width=0, height=0, frames=1 if job.kind == "image" else None)
    if is_piped_in(job.source):
        return check_piped_job(job, options)
    if job.kind == "video":
        return check_video_job(job.source, job.output, options)
    if job.kind == "frame":
        return check_single_frame(job.source, job.output, options)
    source = Path(job.source)
    if job.kind == "folder":
        return check_folder(source, job.output, overwrite=options.overwrite, resume=options.resume)
    return check_image(source, job.output, options)


def _check_stored(job: Job, options: VideoOptions) -> None:
    """Raises InputError where the output is there, or parts of it are, and the options do not say what then."""
    output, in_store = job.output, is_stored(job.output)
    unfinished = job.kind == "video" and not options.overwrite and is_unfinished(output)
    if job.kind == "video" and not in_store:
        check_unfinished(output, resume=options.resume, overwrite=options.overwrite)
        if is_unfinished(output):  # what the interrupted job has left there may be replaced
            return
    if unfinished and not options.resume:
        raise InputError(
            f"an interrupted job left finished parts in {parts_folder(output)}",
            "pass --resume to continue, or --overwrite to start over",
        )
    if not options.overwrite and (stored_exists if in_store else Path.exists)(output):
        advice = "pass --overwrite to replace it, or another name with -o"
        if unfinished:
            advice = "the interrupted job was to replace it: pass --overwrite as well"
        raise InputError(f"{output} exists already", advice)


def _translated(
    request: VideoRequest, todo: Sequence[CheckedJob], emit: OnEvent
) -> tuple[list[JobOutcome], dict[str, Any]]:
    """Loads the model and runs the jobs; gives their outcomes, and which model ran."""
    largest = largest_frames(todo)
    with LoadedModel(request, largest=largest) as model:
        facts = todo[0].facts
        if len(todo) == 1 and facts and facts.width:  # images of a folder, and several inputs, are checked one by one
            model.for_images.check_size(facts.height, facts.width)
        emit(ModelLoaded(tuple(described(todo, request, model.summary())), tuple(model.details())))
        if len(todo) == 1:
            outcomes = [run_job(todo[0], request, model, emit)]
            emit(outcomes[0])
        else:
            outcomes = list(_run_several(todo, request, model, emit))
        return outcomes, model.facts()


def largest_frames(todo: Sequence[CheckedJob]) -> tuple[int, int] | None:
    """(width, height) of the largest frames that are known; None without videos."""
    sizes = [(one.facts.width, one.facts.height) for one in todo if one.facts is not None and one.facts.width]
    videos = any(one.job.kind == "video" for one in todo)
    return max(sizes, key=lambda size: size[0] * size[1]) if sizes and videos else None


def _run_several(
    todo: Sequence[CheckedJob], request: VideoRequest, model: LoadedModel, emit: OnEvent
) -> Iterator[JobOutcome]:
    """One after the other; an error ends one of them, Ctrl-C all."""
    with stop_on_signals() as stop:  # also between two jobs
        for one in todo:
            try:
                outcome = run_job(one, request, model, emit)
            except DsmapError as error:
                outcome = JobOutcome(one.job, None, error)
            emit(outcome)
            yield outcome
            if stop:
                break


def run_job(one: CheckedJob, request: VideoRequest, model: LoadedModel, emit: OnEvent) -> JobOutcome:
    """Runs a job of `request`, and emits its start, progress and notices. Raises its error."""
    job, options = one.job, request.options
    facts = one.facts
    emit(JobStarted.of(job, facts))
    if one.error is not None:
        raise one.error

    def progress(done: int, expected: int | None) -> None:
        emit(JobProgress(job, done, expected))

    if job.kind == "video":
        report = run_video_job(
            job.source,
            job.output,
            model.for_videos,
            options,
            made_with=model.fingerprint(),
            progress=progress,
            notify=lambda line: emit(JobNotice(job, line)),
        )
    elif job.kind == "frame":
        report = run_single_frame_job(job.source, job.output, model.for_images, options)
    elif job.kind == "folder":
        report = run_folder_job(Path(job.source), job.output, model.for_images, options, progress=progress)
    else:
        report = run_image_job(Path(job.source), job.output, model.for_images, options)
    return JobOutcome(job, report)


def described(todo: Sequence[CheckedJob], request: VideoRequest, model: ModelSummary) -> Iterator[str]:
    """What will be done, and by what: a few lines for people."""
    if len(todo) > 1:
        yield f"{model.direction}, {len(todo)} inputs"
    for one in todo:
        if one.facts is not None:
            described = _described_input(one.job, one.facts, request.options)
            yield f"{one.job.shown if len(todo) > 1 else model.direction}, {described}"
            yield from (f"  {note}" for note in one.facts.notes)
            if one.facts.left_out:
                yield f"  left out: {', '.join(one.facts.left_out)}"
    if model.facts["refine"] == "learnt" and any(_is_refined(one.facts, request.options) for one in todo):
        yield "refined by the model's refiner"
    yield from model.lines


def _is_refined(facts: InputFacts | None, options: VideoOptions) -> bool:
    """Whether results are; where the size is not known yet, whether options say so."""
    if facts is not None and facts.source_size is not None:
        return options.refines(*facts.source_size)
    return facts is not None and (options.height is not None or options.refine != "auto")


def _described_sizes(facts: InputFacts, options: VideoOptions) -> str:
    """Of the input, then of the translation and the result where one of them differs from it."""
    if facts.source_size is None:
        size = "each at its own size" if (facts.frames or 1) > 1 else "size not known yet"
        return size + _at_any_size(options)
    source, inside = facts.source_size, (facts.width, facts.height)
    result = facts.result_size or options.size_of_result(*source)
    size = "{}x{}".format(*source)
    if inside[1] > source[1]:
        size += f", enlarged to {inside[1]} lines and translated"
    elif inside != source:
        size += f", translated at {inside[1]} lines"
        size += " and refined" if options.refines(*source) else ""
        size += _FULL_SIZE if options.height is None and options.refine == "auto" else ""
    if options.refine in ("guided", "learnt") and not options.refines(*source):
        size += ", not refined: that needs a --height below the input's"
    return size if inside == source == result else size + ", result {}x{}".format(*result)


def _at_any_size(options: VideoOptions) -> str:
    """What is done to inputs whose size is not known, or that have several."""
    if options.height is not None:
        refined = ", and refined if larger" if options.upscale and options.refine != "off" else ""
        return f", translated at {options.height} lines{refined}"
    if options.refine == "off" or not options.upscale:
        return ""
    if options.refine == "auto":
        return f", above {MOST_LINES} lines translated at half of them, {MOST_LINES} at most, and refined{_FULL_SIZE}"
    return f", translated at half the size, {MOST_LINES} lines at most, and refined"


def _described_input(job: Job, facts: InputFacts, options: VideoOptions) -> str:
    size = _described_sizes(facts, options)
    word = "frames" if job.kind == "video" else "images"
    parts = [size, *([f"{facts.frames} {word}"] if (facts.frames or 0) > 1 else [])]
    counted = {"audio": facts.audio_streams, "subtitles": facts.subtitle_streams, "chapters": facts.chapters}
    copied = ", ".join(f"{count} {name}" for name, count in counted.items() if count)
    return ", ".join([*parts, *([f"{copied} copied"] if copied else [])])
