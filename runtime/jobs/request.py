"""Requests: what to translate, how, and into which files, resolved and checked before any work.

    request = resolve_request(["clips/"], Path("results"), model=ModelOptions(domain="winter"))
    report = run_request(request)  # see `batch`

A request holds plain values, paths and arrays, and can be pickled: another process that sees the same files can run it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dsmap.common.output_files import check_outputs
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.jobs.manifest import expand_manifests
from dsmap.runtime.jobs.options import ModelOptions, StyleOptions, VideoOptions
from dsmap.runtime.jobs.piped import check_piped_jobs, check_pipes
from dsmap.runtime.jobs.plan import Job, check_jobs_apart, files_left_out, plan_jobs
from dsmap.runtime.jobs.report_file import check_report_format, is_of_interrupted_run
from dsmap.runtime.jobs.stored import as_place
from dsmap.runtime.open_model import open_model
from dsmap.runtime.refine.learnt import check_has_refiner
from dsmap.runtime.styles.resolver import ResolvedStyle, StyleResolver
from dsmap.runtime.styles.style_path import StylePlan, plan_style_path
from dsmap.runtime.video.addresses import with_passwords
from dsmap.runtime.video.animation_writer import ANIMATION_SUFFIXES
from dsmap.runtime.video.encoders import default_suffix
from dsmap.runtime.video.sequence_reader import is_sequence as is_sequence_source
from dsmap.runtime.video.sequence_writer import is_sequence


@dataclass(frozen=True, kw_only=True)
class RequestedStyle:
    """The style, or how it changes over time: codes, and images as the arrays that the model reads a style from."""

    fixed: ResolvedStyle
    path: StylePlan | None = None
    spread: float = 1.0
    """Of random styles that are drawn later, see `random_code`."""

    def __str__(self) -> str:
        """As the user wrote it, on one line."""
        return str(self.path) if self.path else self.fixed.written

    @property
    def is_default(self) -> bool:
        """Whether it is the domain's mean."""
        return self.path is None and self.fixed.source is None

    @property
    def note(self) -> str:
        """For a name that is also a file's: which of the two is used, and how to write the other; else empty."""
        return f" (of the model; the file is .{os.sep}{self.fixed.written})" if self.fixed.shadows_file else ""

    def images(self) -> list[tuple[Path, str]]:
        """The image files whose styles are taken, and what to call them."""
        if self.path is not None:
            return [(path, "a style image") for path in self.path.images()]
        return [(self.fixed.source, "the --style image")] if isinstance(self.fixed.source, Path) else []


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """Everything that a run needs to know, as `resolve_request` has checked it."""

    jobs: tuple[Job, ...]
    """At least one. Addresses include their passwords."""
    bundle: Bundle
    """The model, opened; its files are read when it is loaded."""
    model: ModelOptions
    style: RequestedStyle
    options: VideoOptions
    report: Path | None = None
    """The JSON file for the numbers of the run."""
    files_left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """For each folder among the inputs, the files that are not translated: their number by kind."""

    @property
    def domain(self) -> str:
        """The domain to translate to."""
        return self.bundle.manifest.domain_named(self.model.domain)


def resolve_request(
    sources: Sequence[str],
    output: Path | None = None,
    *,
    model: ModelOptions,
    style: StyleOptions | None = None,
    options: VideoOptions | None = None,
    report: Path | None = None,
    password_env: str | None = None,
) -> VideoRequest:
    """Resolve what a user asks for. Reads folders, the model's bundle.json and style images; opens no inputs.

    `sources`, `output`: see `plan_jobs`. `password_env`: the environment variable with the password of an address.
    Raises InputError, in the words of the command's options, for everything that is wrong before an input is opened:
    an unknown model, domain or style, an input that does not exist, an output that is an input or another output or a
    file of the model, an option that would have no effect.
    """
    options = options or VideoOptions()
    if model.tile and options.refine == "auto" and options.height is None:
        options = replace(options, refine="off")  # stripes are for the full size
    check_pipes(sources, output, options)
    bundle = open_model(model.model, model.remote)
    domain = bundle.manifest.domain_named(model.domain)
    model = replace(model, domain=domain)
    if model.strength != 1:
        bundle.manifest.need_styles("--strength")
    requested = _resolve_style(style or StyleOptions(), bundle, domain)
    output, listed = as_place(output), expand_manifests(sources)
    outputs = {place: one.output for place, one in enumerate(listed) if one.output is not None}
    sources = [one.source for one in listed]
    sources = with_passwords(sources, password_env, "--password-env")
    # A codec is for videos: where one was chosen, animated images become videos too.
    suffix, animations_stay = default_suffix(options.codec), options.codec == "auto"
    jobs = tuple(plan_jobs(sources, output, domain, suffix=suffix, animations_stay=animations_stay, outputs=outputs))
    check_piped_jobs(jobs, output)
    request = VideoRequest(
        jobs=jobs,
        bundle=bundle,
        model=model,
        style=requested,
        options=options,
        report=report,
        files_left_out={folder: dict(kinds) for folder, kinds in files_left_out(sources).items()},
    )
    _check_options_have_effect(request)
    _check_names(request)
    return request


def _resolve_style(options: StyleOptions, bundle: Bundle, domain: str) -> RequestedStyle:
    if options.style is not None and options.seed is not None:
        raise InputError("--style and --seed cannot be used together", "choose one: an image's style, or a random one")
    resolver = StyleResolver(bundle.manifest, domain, options.spread)
    if not options.changes_over_time:
        if options.style is None:
            return RequestedStyle(fixed=resolver.resolve(options.seed, "--seed"), spread=options.spread)
        return RequestedStyle(fixed=resolver.resolve(options.style, "--style"), spread=options.spread)
    if options.style is not None or options.seed is not None:
        raise InputError(
            "--style or --seed was passed with a style over time",
            "use one of them, or --style-from and --style-to, or --style-cycle",
        )
    path = plan_style_path(
        resolver,
        style_from=options.style_from,
        style_to=options.style_to,
        cycle=options.style_cycle,
        seconds=options.style_period,
    )
    return RequestedStyle(fixed=resolver.resolve(None), path=path, spread=options.spread)


def _check_names(request: VideoRequest) -> None:
    """No output may be an input or another output: --overwrite is for earlier results. Raises InputError."""
    jobs, report = request.jobs, request.report
    closed = request.bundle.closed_folders
    inputs = check_jobs_apart(jobs, request.style.images(), closed)
    if report is None:
        return
    check_report_format(report)
    if any(job.writes(report) for job in jobs):
        raise InputError(f"--report {report} is the name of a result", "give the report another name")
    closed += [(folder, "the folder for unfinished parts") for job in jobs for folder in job.own_folders()]
    files = [(path, name) for path, name in inputs if not path.is_dir()]
    options = request.options
    interrupted = not options.overwrite and is_of_interrupted_run(report)
    if interrupted and not options.resume:
        raise InputError(
            f"--report {report} is that of an interrupted run",
            "pass --resume to continue it, or --overwrite to start over",
        )
    overwrite = options.overwrite or interrupted
    check_outputs({"--report": report}, files, closed=closed, overwrite=overwrite)


def _check_options_have_effect(request: VideoRequest) -> None:
    """Every option that was passed must have an effect on at least one job. Raises InputError."""
    options = request.options
    videos = [job for job in request.jobs if job.kind == "video"]
    read = [job for job in request.jobs if job.kind in ("video", "frame")]
    images = (*ANIMATION_SUFFIXES, ".png")
    encoded = [job for job in videos if not is_sequence(job.output) and job.output.suffix.lower() not in images]
    sequences = [job for job in videos if isinstance(job.source, str) and is_sequence_source(job.source)]
    usual = {"codec": "auto", "audio": "copy", "hwaccel": "off"}
    uses: list[tuple[str, Any, Sequence[Job], str]] = [
        *((name, getattr(options, name), read, "videos") for name in ("start", "end", "frames", "programme")),
        *(
            (name, getattr(options, name), encoded, "videos that are encoded")
            for name in ("codec", "crf", "preset", "audio")
        ),
        ("rate", options.rate, sequences, "image sequences"),
        ("hwaccel", options.hwaccel, [job for job in read if job not in sequences], "videos"),
        ("deinterlace", options.deinterlace or None, [job for job in read if job not in sequences], "videos"),
        ("stabilize", request.model.stabilize or None, videos, "videos"),
        ("style-from, --style-to or --style-cycle", request.style.path, videos, "videos"),
    ]
    for name, value, jobs, what in uses:
        if value is not None and value != usual.get(name) and not jobs:
            only = request.jobs[0]
            there = f"{only.output.name} is one image" if only.kind == "frame" else "there are none"
            raise InputError(f"--{name} is for {what}, and {there}", "leave it out")
    if not options.upscale and options.height is None:
        raise InputError("--no-upscale needs --height, which was not passed", "pass --height, or leave it out")
    if options.refine != "auto" and not options.upscale:
        raise InputError("--refine does not go with --no-upscale", "leave one of them out")
    if options.refine == "learnt":
        check_has_refiner(request.bundle.manifest, request.domain)
        if request.model.strength != 1:
            raise InputError("--refine learnt is for translations at --strength 1", "pass --refine guided")
