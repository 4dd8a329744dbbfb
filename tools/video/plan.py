"""What `dsmap-video` was asked for, and everything that can be wrong with it, before the model is loaded."""

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmap.errors import DsmapError, InputError
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.jobs.plan import Job
    from dsmap.runtime.jobs.report import InputFacts
    from dsmap.runtime.styles.resolver import ResolvedStyle
    from dsmap.runtime.styles.style_path import StylePlan


@dataclass(frozen=True, kw_only=True)
class StyleChoice:
    """The style, or how it goes from one to others."""

    fixed: "ResolvedStyle"
    path: "StylePlan | None" = None

    def __str__(self) -> str:
        """One line for people."""
        return str(self.path) if self.path else self.fixed.written

    @property
    def note(self) -> str:
        """For a name that a file has too: which of them it is, and how to have the other; else empty."""
        return f" (of the model; the file is .{os.sep}{self.fixed.written})" if self.fixed.shadows_file else ""

    def images(self) -> list[Path]:
        """The images whose styles are taken."""
        fixed = [self.fixed.source] if isinstance(self.fixed.source, Path) else []
        return fixed + (self.path.images() if self.path else [])


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A job that has been looked at: what is known of its input, or what is wrong with it."""

    job: "Job"
    facts: "InputFacts | None" = None
    error: DsmapError | None = None

    @property
    def frames(self) -> int | None:
        """How many there will be, if that is known."""
        return self.facts.frames if self.facts else None


def seconds_given(text: str | None, option: str) -> Fraction | None:
    """Seconds, exactly, from 83.5, 1:23.5 or 0:01:23.5; InputError that names the option for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text, re.ASCII):
        raise InputError(f"{option} {text} is no time", "Write seconds, such as 83.5, or H:MM:SS.")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def open_bundle(model: str) -> "Bundle":
    """The model, its files not yet read; see `find_model` and `Bundle.open`."""
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.bundle.bundled import find_model

    return Bundle.open(find_model(model))


def choose_style(
    style: str | None,
    seed: int | None,
    style_from: str | None,
    style_to: str | None,
    cycle: Sequence[str],
    period: float | None,
    bundle: "Bundle",
    domain: str,
) -> StyleChoice:
    """The style that the options ask for; its images are read once, before the model loads. Raises InputError."""
    if style is not None and seed is not None:
        raise InputError("--style and --seed cannot be used together", "choose one: an image's style, or a random one")
    from dsmap.runtime.styles.resolver import StyleResolver
    from dsmap.runtime.styles.style_path import plan_style_path

    resolver = StyleResolver(bundle.manifest, domain)
    if style_from is not None or style_to is not None or cycle or period is not None:
        if style is not None or seed is not None:
            raise InputError(
                "--style or --seed was passed with a style over time",
                "use one of them, or --style-from and --style-to, or --style-cycle",
            )
        path = plan_style_path(resolver, style_from=style_from, style_to=style_to, cycle=cycle, seconds=period)
        return StyleChoice(fixed=resolver.resolve(None), path=path)
    return StyleChoice(fixed=resolver.resolve(seed) if style is None else resolver.resolve(style, "--style"))


def plan(sources: Sequence[str], output: Path | None, domain: str, codec: str, password_env: str | None) -> "list[Job]":
    """The jobs; see `plan_jobs` and, for the environment variable, `with_passwords`."""
    from dsmap.runtime.jobs.plan import plan_jobs
    from dsmap.runtime.video.addresses import with_passwords
    from dsmap.runtime.video.encoders import default_suffix

    sources = with_passwords(sources, password_env, "--password-env")
    # A codec is for a video: then an animated image becomes one, too.
    return plan_jobs(sources, output, domain, suffix=default_suffix(codec), animations_stay=codec == "auto")


def tell_left_out(sources: Sequence[str]) -> dict[str, Any]:
    """Says in a line for each folder what of it is left out; gives it for the report, by folder and kind."""
    from dsmap.common.images import left_out_line
    from dsmap.runtime.jobs.plan import files_left_out

    found = files_left_out(sources)
    for folder, kinds in found.items():
        say(left_out_line(kinds, Path(folder)))
    return {"files_left_out": {folder: dict(kinds) for folder, kinds in found.items()}} if found else {}


def result_folders(jobs: "Sequence[Job]") -> AbstractContextManager[None]:
    """Has the folders of the results made; see `make_result_folders`."""
    from dsmap.runtime.jobs.plan import make_result_folders

    return make_result_folders(jobs)


def check_names(
    jobs: "Sequence[Job]", styles: StyleChoice, bundle: Path, report: Path | None, *, overwrite: bool
) -> None:
    """No output may be an input or another output: --overwrite is for earlier results. Raises InputError."""
    from dsmap.common.output_files import check_outputs
    from dsmap.runtime.jobs.plan import check_jobs_apart

    name = "a style image" if styles.path else "the --style image"
    images = [(path, name) for path in styles.images()]
    inputs = check_jobs_apart(jobs, images, bundle)
    if report is None:
        return
    if any(job.writes(report) for job in jobs):
        raise InputError(f"--report {report} is the name of a result", "give the report another name")
    closed = [(bundle, "the model's folder")]
    closed += [(folder, "the folder for unfinished parts") for job in jobs for folder in job.own_folders()]
    files = [(path, name) for path, name in inputs if not path.is_dir()]
    check_outputs({"--report": report}, files, closed=closed, overwrite=overwrite)


def check_use(jobs: "Sequence[Job]", options: dict[str, Any], styles: StyleChoice, *, stabilize: bool) -> None:
    """Every option that was passed means something to one of the jobs at least. Raises InputError."""
    from dsmap.runtime.video.addresses import is_address
    from dsmap.runtime.video.animation_writer import ANIMATION_SUFFIXES
    from dsmap.runtime.video.sequence_writer import is_sequence

    videos = [job for job in jobs if job.kind == "video"]
    images = (*ANIMATION_SUFFIXES, ".png")
    encoded = [job for job in videos if not is_sequence(job.output) and job.output.suffix.lower() not in images]
    sequences = [job for job in videos if isinstance(job.source, str) and not is_address(job.source)]
    usual = {"codec": "auto", "audio": "copy"}
    uses: list[tuple[str, Any, Sequence[Job], str]] = [
        *((name, options[name], videos, "videos") for name in ("start", "end", "frames", "programme")),
        *((name, options[name], encoded, "videos that are encoded") for name in ("codec", "crf", "preset", "audio")),
        ("rate", options["rate"], sequences, "image sequences"),
        ("deinterlace", options["deinterlace"] or None, [job for job in videos if job not in sequences], "videos"),
        ("stabilize", stabilize or None, videos, "videos"),
        ("style-from, --style-to or --style-cycle", styles.path, videos, "videos"),
    ]
    for name, value, of, what in uses:
        if value is not None and value != usual.get(name) and not of:
            raise InputError(f"--{name} is for {what}, and there is none", "leave it out")
    if not options["upscale"] and options["height"] is None:
        raise InputError("--no-upscale is of --height, and that was not passed", "pass --height, or leave it out")


def check_all(jobs: "Sequence[Job]", options: dict[str, Any]) -> list[Checked]:
    """Looks at every input and output. What is wrong with a single job is raised, with one of several told later.

    With --resume, results that are there and whole are not made again.
    """
    from dsmap.runtime.jobs.plan import is_done, tidy_up_after

    left = []
    for job in jobs:
        if options["resume"] and not options["overwrite"] and is_done(job):
            tidy_up_after(job)
            say(f"{job.output} is there already")
        else:
            left.append(job)
    checked = [_checked(job, options) for job in left]
    errors = [one.error for one in checked if one.error is not None]
    if errors and (len(jobs) == 1 or len(errors) == len(checked)):
        raise errors[0]
    return checked


def _checked(job: "Job", options: dict[str, Any]) -> Checked:
    from dsmap.runtime.jobs.images import check_folder, check_image
    from dsmap.runtime.jobs.video import check_video

    try:
        if job.kind == "video":
            return Checked(job=job, facts=check_video(job.source, job.output, **options))
        source, overwrite = Path(job.source), options["overwrite"]
        if job.kind == "folder":
            return Checked(
                job=job, facts=check_folder(source, job.output, overwrite=overwrite, resume=options["resume"])
            )
        facts = check_image(source, job.output, height=options["height"], overwrite=overwrite)
        return Checked(job=job, facts=facts)
    except InputError as error:
        return Checked(job=job, error=error)
