"""dsmap-train: two folders of images become a checkpoint.

dsmap-train --data FOLDER -o RUN
dsmap-train --domain summer=photos/summer --domain winter=photos/winter -o RUN --preset lite
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.common.interrupts import stopped_by
from dsmap.common.text import duration
from dsmap.errors import InputError
from dsmap.tools.shared.cli import Debug, Device, Version, explained, new_app, path_given, run
from dsmap.tools.shared.images import Data, DomainFolders, DomainNames, parse_domain_folders, parse_domain_names
from dsmap.tools.shared.panels import HARDWARE, INPUT, MODEL, TRAINING
from dsmap.tools.shared.progress import bar
from dsmap.tools.shared.terminal import report_stop, say

if TYPE_CHECKING:
    from dsmap.training.job import TrainingJob
    from dsmap.training.trainer import TrainProgress

app = new_app()


@app.command(
    help="Train a translation between two domains of unpaired images.",
    epilog="""
    dsmap-train --data FOLDER -o RUN --preset lite
    dsmap-train --domain summer=photos/summer --domain winter=photos/winter -o RUN
    """,
)
@explained
def train(
    out: Annotated[
        Path,
        typer.Option("--output", "-o", parser=path_given, metavar="RUN", help="Run folder: checkpoints, logs."),
    ],
    data: Data = None,
    domain: DomainFolders = None,
    preset: Annotated[
        str,
        typer.Option(metavar="NAME", help="paper (default), summer2winter, lite, debug ...", show_default=False),
    ] = "paper",
    steps: Annotated[int | None, typer.Option(metavar="N", help="Total number of iterations.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="auto|CHECKPOINT", help="Resume from the latest or another checkpoint."),
    ] = None,
    domains: DomainNames = None,
    allow_new_data: Annotated[
        bool,
        typer.Option("--allow-new-data", help="Resume although the images have changed.", rich_help_panel=INPUT),
    ] = False,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Method: dsmap (default) or munit (no mapping).",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = "dsmap",
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|BUNDLE",
            help="Initialise the generators from a run or bundle.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Feature network: auto, vgg16, a SqueezeNet .npz or none.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = "auto",
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Settings that override the preset.", rich_help_panel=TRAINING),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a setting, such as loss.cycle=3.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show settings, checks and a first batch only.", rich_help_panel=TRAINING),
    ] = False,
    device: Device = "auto",
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="auto, fp32 or bf16.", rich_help_panel=HARDWARE),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Compile the networks (default: on a GPU).", rich_help_panel=HARDWARE
        ),
    ] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    folders = parse_domain_folders(domain)
    names = parse_domain_names(domains)
    if folders and names:
        raise InputError("--domain and --domains were both given", "--domain NAME=PATH has the name already.")
    from dsmap.common.output_files import check_run_folder
    from dsmap.common.state_files import check_unlocked
    from dsmap.config import load_train_config, override_key, written_keys
    from dsmap.training import run_settings
    from dsmap.training.checkpoint_folders import check_holds_no_training
    from dsmap.training.datasets import find_domains

    if folders:
        names = (folders[0][0], folders[1][0]) if len(folders) == 2 else None
    overrides = set_ or []
    generators = None
    if start_from is None:
        model = run_settings.model_settings(method, names)
    else:
        from dsmap.tools.shared.generators import read_generators

        run_settings.check_keeps_architecture(start_from, method, overrides)
        generators = read_generators(start_from)
        model = run_settings.initialised_model_settings(generators, names, overrides)
    given = None if features in ("auto", "none") else features
    options = {"steps": steps, "features": given, "precision": precision, "compile": compile_}
    settings = load_train_config(preset, config, overrides, model=model, **options)
    chosen = {*map(override_key, overrides), *written_keys(config)}
    choice = run_settings.choose_features(features, settings, run=out, resumed=resume is not None, chosen=chosen)
    if choice.overrides:
        settings = load_train_config(preset, config, [*overrides, *choice.overrides], model=model, **options)
    found = find_domains(data, folders, names=settings.model.domains)
    check_run_folder(out)
    run_settings.check_run_is_separate(out, found, config, resumed=resume is not None)
    run_settings.check_features_used(given, settings)
    if _is_first_process():
        check_unlocked(out)
        if resume is None and not _is_under_torchrun():  # which may have restarted it: then it goes on there
            check_holds_no_training(out)
        say(*([choice.note] if choice.note else []), "loading torch ...")
    from dsmap.training.job import TrainingJob, TrainRequest

    request = TrainRequest(
        config=settings,
        domains=found,
        run=out,
        device=device,
        resume=resume,
        allow_new_data=allow_new_data,
        start_from=generators,
    )
    job = TrainingJob(request, say)
    if dry_run:
        job.dry_run()
    else:
        _train(job)


def _is_first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started; without torch."""
    return os.environ.get("RANK", "0") == "0"


def _is_under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _train(job: "TrainingJob") -> None:
    """Check, train, and say where the results are."""
    job.check()
    run, steps = job.request.run, job.request.config.steps
    if steps < _FIRST_RESULTS:
        job.say(f"{steps} iterations show that everything works; in their images, noise is expected")
    try:
        with job.trainer() as trainer, _progress(trainer.step, steps, job.is_first) as show:
            last = trainer.train(show)
    except KeyboardInterrupt:
        if job.is_first:
            report_stop(stopped_by(), "continue with --resume auto")
        raise typer.Exit(130) from None
    job.say(f"done: {last}")
    early = " (noise is expected after so few iterations)" if steps < _FIRST_RESULTS else ""
    job.say(f"samples: {run / 'samples'}{early}")
    job.say(f"next: dsmap-export {run} -o BUNDLE")


_LONG = 60.0  # seconds without a line
_FIRST_RESULTS = 2000  # iterations before which nothing can be recognised


class _Speed:
    """Iterations per second and the share of time spent waiting for images, from the second iteration on."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._began: float | None = None  # when the first iteration ended: it may have compiled and warmed up
        self._waited = 0.0

    def update(self, progress: "TrainProgress") -> tuple[float, float]:
        """Both after another iteration."""
        if self._began is None:
            self._began = time.monotonic()
            return 0.0, 0.0
        self._waited += progress.waited
        spent = max(time.monotonic() - self._began, 1e-9)
        return (progress.step - self._start - 1) / spent, min(1.0, self._waited / spent)


@contextmanager
def _progress(start: int, total: int, visible: bool) -> "Iterator[Callable[[TrainProgress], None]]":
    """A live line with losses, iterations per second and the time left at that rate; else a line now and then."""
    if not visible:
        yield lambda _progress: None
        return
    speed = _Speed(start)

    told = time.monotonic()

    def line(progress: "TrainProgress") -> None:
        nonlocal told
        rate, share = speed.update(progress)
        if progress.step % 50 == 0 or progress.step == total or time.monotonic() - told > _LONG:
            told = time.monotonic()
            g, d = progress.losses["generators"], progress.losses["discriminators"]
            say(
                f"step {progress.step}/{total}  {rate:.2f} it/s{_left(progress.step, total, rate)}  "
                f"generators {g:.2f}  discriminators {d:.2f}  waiting for images {share:.0%}"
            )

    # Short enough for a terminal of 80 columns: G and D are the losses.
    with bar(text=True, clock="none", width=6, transient=False) as drawn:
        if drawn is None:
            yield line
            return
        drawn.begin(total=total, completed=start)

        def live(progress: "TrainProgress") -> None:
            rate, share = speed.update(progress)
            g, d = progress.losses["generators"], progress.losses["discriminators"]
            text = f"{rate:.2f} it/s{_left(progress.step, total, rate)}  G {g:.1f}  D {d:.1f}  data {share:.0%}"
            drawn.update(progress.step, text=text)

        yield live


def _left(step: int, total: int, rate: float) -> str:
    """The time left, from the rate that stands beside it."""
    return f", {duration((total - step) / rate)} left" if rate and step < total else ""


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
