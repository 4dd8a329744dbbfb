"""dsmap-train: two folders of pictures become a checkpoint.

dsmap-train --data FOLDER -o RUN
dsmap-train --domain summer=photos/summer --domain winter=photos/winter -o RUN --preset lite
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools._cli import Debug, Version, explained, new_app, run
from dsmap.tools._pictures import Data, DomainFolders, DomainNames, parse_domain_folders, parse_domain_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsmap.trainer import Progress

app = new_app()


@app.command()
@explained
def train(
    out: Annotated[Path, typer.Option("--output", "-o", help="The run's folder: config, log, samples, checkpoints.")],
    data: Data = None,
    domain: DomainFolders = None,
    domains: DomainNames = None,
    preset: Annotated[
        str, typer.Option(help="Settings to start from: paper, one of its tasks (summer2winter, ...), lite or debug.")
    ] = "paper",
    config: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Settings laid over the preset.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as loss.cycle=3.")
    ] = None,
    method: Annotated[str, typer.Option(help="dsmap, or munit: no domain-specific mapping.")] = "dsmap",
    steps: Annotated[int | None, typer.Option(help="Iterations in all.")] = None,
    features: Annotated[
        str | None, typer.Option(help="Contextual loss on: vgg16 (needs torchvision) or a SqueezeNet .npz file.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="auto|CHECKPOINT", help="Go on from RUN's latest checkpoint, or from another.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto takes a GPU when there is one.")] = "auto",
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Train a translation between two domains of unpaired pictures."""
    folders = parse_domain_folders(domain)
    names = parse_domain_names(domains)
    if folders and names:
        raise InputError("--domain and --domains were both given", "--domain NAME=PATH has the name already.")
    from dsmap.config import load_train_config
    from dsmap.domains import find_domains

    if folders:
        names = (folders[0][0], folders[1][0]) if len(folders) == 2 else None
    settings = load_train_config(
        preset, config, set_ or [], steps=steps, features=features, model=_model(method, names)
    )
    found = find_domains(data, folders, names=settings.model.domains)
    for side in found:
        typer.echo(f"{side.name}: {len(side.train)} pictures to train on, {len(side.test)} to test on")

    _check_run_folder(out)
    if features is not None and not settings.loss.contextual:
        raise InputError(
            f"--features {features} is given, but loss.contextual is 0", "Leave it out, or --set loss.contextual=1."
        )
    typer.echo("loading torch ...")
    from dsmap.optim import choose_device
    from dsmap.trainer import Trainer

    chosen, reason = choose_device(device)
    trainer = Trainer(settings, found, out, device=chosen, resume=_checkpoint(resume, out), say=typer.echo)
    parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    typer.echo(f"{parameters:.2f} M parameters in the generators; on {chosen} ({reason})")
    typer.echo(f"steps {trainer.step} to {settings.steps}")
    try:
        with _progress(trainer.step, settings.steps) as show:
            last = trainer.train(show)
    except KeyboardInterrupt:
        typer.echo("continue with --resume auto", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"done: {last}")
    typer.echo(f"samples: {out / 'samples'}")
    typer.echo(f"next: dsmap-export {out} -o BUNDLE")


def _check_run_folder(out: Path) -> None:
    """Raises InputError when the run's folder is a file or cannot be written to; it is made later."""
    from dsmap.folders import check_folder_writable

    above = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"cannot write to the run folder {out}: {above} is a file", "Choose another with -o.")
    check_folder_writable(above, "-o")


def _model(method: str, names: tuple[str, str] | None) -> dict[str, object]:
    """The settings of the network that options give."""
    if method not in ("dsmap", "munit"):
        raise InputError(f"no method named {method!r}", "Known methods: dsmap, munit.")
    settings: dict[str, object] = {"domains": list(names)} if names else {}
    return settings | ({"mapping": False} if method == "munit" else {})


def _checkpoint(resume: str | None, out: Path) -> Path | None:
    """The checkpoint that --resume means. `auto` starts anew in a run folder that has none yet."""
    if resume is None:
        return None
    from dsmap.checkpoint import find_checkpoint, list_checkpoints

    if resume != "auto":
        return find_checkpoint(Path(resume))
    if not list_checkpoints(out / "checkpoints"):
        typer.echo(f"--resume auto: no checkpoint in {out} yet, starting at step 0")
        return None
    return find_checkpoint(out)


@contextmanager
def _progress(start: int, total: int) -> "Iterator[Callable[[Progress], None]]":
    """A live line with losses, iterations per second and the time left; plain lines where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console()
    began = time.monotonic()

    def losses(progress: "Progress") -> str:
        rate = (progress.step - start) / max(time.monotonic() - began, 1e-9)
        g, d = progress.losses["generators"], progress.losses["discriminators"]
        return f"{rate:.2f} it/s  generators {g:.2f}  discriminators {d:.2f}"

    if not console.is_terminal:

        def line(progress: "Progress") -> None:
            if progress.step % 50 == 0 or progress.step == total:
                typer.echo(f"step {progress.step}/{total}  {losses(progress)}")

        yield line
        return
    bar = Bar(
        MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"), console=console
    )
    with bar:
        task = bar.add_task("", total=total, completed=start)
        yield lambda progress: bar.update(task, completed=progress.step, description=losses(progress))


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
