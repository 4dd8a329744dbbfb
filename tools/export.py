"""dsmap-export: a checkpoint becomes a bundle that dsmap-video runs.

dsmap-export RUN -o BUNDLE
dsmap-export RUN -o BUNDLE --fp16 --int8 --engine rtx --sizes 256x256:512x512:1920x1088
dsmap-export gen_00200000.pt --official config.yaml --domains summer,winter -o BUNDLE
dsmap-export BUNDLE --engine rtx          engines for a bundle that is there
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from dsmap.errors import InputError
from dsmap.tools._cli import Debug, Version, explained, new_app, run
from dsmap.tools._pictures import Data, DomainFolders, DomainNames, parse_domain_folders, parse_domain_names

if TYPE_CHECKING:
    from dsmap.export.engines import Built
    from dsmap.export.sources import Source
    from dsmap.runtime.bundle import Sizes
    from dsmap.trt import Flavour

DEFAULT_SIZES = "256x256:512x512:1920x1088"

app = new_app()


@app.command()
@explained
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Run folder of dsmap-train, one of its checkpoints, a gen_*.pt, or a bundle (for --engine)."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--output", "-o", help="The bundle's folder.")] = None,
    official: Annotated[
        Path | None,
        typer.Option("--official", metavar="CONFIG.yaml", help="CHECKPOINT is the authors', with this YAML."),
    ] = None,
    domains: DomainNames = None,
    data: Data = None,
    domain: DomainFolders = None,
    live: Annotated[
        bool, typer.Option("--live", help="Export the live weights instead of their moving average.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Of a run folder the checkpoint with the best score, not the latest.")
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Add graphs in half precision, for GPUs (norms stay in float32).")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Add int8 graphs for CPUs, calibrated on pictures of both domains.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Keep a precision that is too far from float32, and say so.")
    ] = False,
    engine: Annotated[
        str, typer.Option(metavar="tensorrt|rtx|auto|none", help="Compile TensorRT engines into the bundle.")
    ] = "none",
    sizes: Annotated[
        str | None,
        typer.Option(metavar="SIZES", help=f"Of the engines: WxH, or min:usual:max. Default: {DEFAULT_SIZES}."),
    ] = None,
    gpu_arch: Annotated[
        str | None,
        typer.Option(metavar="8.6,8.9|current", help="Of the engines: compute capabilities. Default: 8.0 and later."),
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Of the engines: frames at once, at most. Default: 1.")] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="REWRITE", help="Leave a rewrite out: upsampling, tail or scaling. May be repeated."),
    ] = None,
    fused: Annotated[
        bool, typer.Option("--fused", help="Add a graph that holds encoder, mapping and decoder at once.")
    ] = False,
    style_decoder: Annotated[
        bool, typer.Option("--style-decoder", help="Add decoders that take the style code itself.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the bundle folder's name.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "not stated",
    card: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Model card, in place of the short default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write all numbers as JSON.")] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Write a bundle of ONNX files from CHECKPOINT, checked against torch.

    With --data or --domain NAME=PATH the default styles are the means over those pictures, and checks and int8
    calibration use them. Given a bundle and --engine, compile engines for it.
    """
    from dsmap.tools._reports import check_report

    if report is not None:
        check_report(report)
    engines = _engine_wishes(engine, sizes, gpu_arch, max_batch)
    if (checkpoint / "bundle.json").is_file():
        mixed = [
            flag for flag, given in {"-o": out, "--fp16": fp16, "--int8": int8, "--official": official}.items() if given
        ]
        _add_engines(checkpoint, engines, mixed, report)
        return
    if out is None:
        raise InputError("-o is missing", "Pass -o BUNDLE, the folder to write.")
    text = _read_card(card)
    names = parse_domain_names(domains)
    folders = parse_domain_folders(domain)
    if names is not None and official is None:
        raise InputError("--domains names the domains of an --official checkpoint; this one has names", "Leave it out.")
    if official is None and checkpoint.suffix == ".pt":
        raise InputError(f"{checkpoint} is a .pt file", "Pass --official CONFIG.yaml with an authors' checkpoint.")
    if best and (official is not None or not (checkpoint / "checkpoints").is_dir()):
        raise InputError(f"--best picks from a run folder; {checkpoint} is none", "Leave it out, or pass RUN.")
    from dsmap.export.output import check_bundle_folder

    check_bundle_folder(out, overwrite=overwrite)
    left_out = _parse_rewrites(without or [])
    started = time.monotonic()
    typer.echo("loading torch ...")
    from dsmap.export.costs import graph_costs
    from dsmap.export.exporter import Variants, export_bundle
    from dsmap.export.graphs import ALL_REWRITES, Extras
    from dsmap.export.report import report as numbers
    from dsmap.export.report import summary

    source = _open(checkpoint, official, names, data, folders, live=live, best=best)
    if engines is not None:
        engines.profile(source.model.config.multiple_of, source.model.config.minimum_size)  # before the long work
    rewrites = ALL_REWRITES._replace(**dict.fromkeys(left_out, False))
    extras = Extras(fused=fused, style_decoder=style_decoder)
    exported = export_bundle(
        source,
        out,
        name=name,
        licence=licence,
        card=text,
        overwrite=overwrite,
        rewrites=rewrites,
        extras=extras,
        variants=Variants(fp16=fp16, int8=int8, force=force),
        say=typer.echo,
    )
    costs = graph_costs(source.model, rewrites, extras)
    typer.echo("\n".join(summary(exported, costs)))
    manifest = exported.manifest
    for style_domain, style in manifest.styles.items():
        if style.pictures == 0:
            typer.echo(f"default style of {style_domain}: the prior's mean; pass --data for that of its pictures")
    megabytes = sum(file.bytes for file in manifest.files()) / 1e6
    typer.echo(f"saved as {out} ({megabytes:.1f} MB)")
    built = _build(out, engines) if engines is not None else []
    command = f"dsmap-video INPUT --model {out} --domain {manifest.domains[1]}"
    spent = time.monotonic() - started
    typer.echo(f"done in {spent:.0f} s")
    if report is not None:
        _write(report, numbers(out, exported, costs, built, command=command, seconds=spent))
    typer.echo(f"next: {command}")


def _open(
    checkpoint: Path,
    official: Path | None,
    names: tuple[str, str] | None,
    data: Path | None,
    folders: list[tuple[str, Path]],
    *,
    live: bool,
    best: bool,
) -> "Source":
    from dsmap.data import find_domains
    from dsmap.export.sources import open_checkpoint, open_official

    if official is not None:
        pictures = find_domains(data, folders, names=names or ("a", "b")) if data or folders else None
        names = names or ((pictures.a.name, pictures.b.name) if pictures else ("a", "b"))
        return open_official(checkpoint, official, names, pictures)
    if best:
        from dsmap.checkpoint import best_checkpoint

        checkpoint = best_checkpoint(checkpoint).path
        typer.echo(f"best: {checkpoint}")
    return open_checkpoint(checkpoint, weights="generators" if live else "ema", data=data, folders=folders)


class _EngineWishes(NamedTuple):
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
        from dsmap.trt_build import SizeProfile

        return SizeProfile.parse(self.sizes, multiple_of=multiple_of, minimum=minimum, max_batch=self.max_batch)


def _engine_wishes(engine: str, sizes: str | None, gpu_arch: str | None, max_batch: int | None) -> _EngineWishes | None:
    """Checks the engines' options before anything takes time; None when there are to be none."""
    if engine not in ("tensorrt", "rtx", "auto", "none"):
        raise InputError(f"no engine called {engine!r}", "Pass --engine tensorrt, rtx, auto or none.")
    if engine == "none":
        for flag, value in {"--sizes": sizes, "--gpu-arch": gpu_arch, "--max-batch": max_batch}.items():
            if value is not None:
                raise InputError(f"{flag} is about engines, and none are asked for", "Add --engine rtx or tensorrt.")
        return None
    from dsmap.export.engines import parse_gpu_arch
    from dsmap.trt import load_trt

    flavour = load_trt(engine)
    if flavour.note:
        typer.echo(f"engines: {flavour.title} ({flavour.note})")
    return _EngineWishes(flavour, parse_gpu_arch(gpu_arch, flavour), sizes or DEFAULT_SIZES, max_batch or 1)


def _add_engines(folder: Path, engines: _EngineWishes | None, mixed: list[str], report: Path | None) -> None:
    """Builds engines for the bundle `folder`."""
    if mixed:
        raise InputError(f"{folder} is a bundle: {mixed[0]} wants a checkpoint", "Pass the checkpoint it came from.")
    if engines is None:
        raise InputError(f"{folder} is a bundle already", "Add --engine rtx (or tensorrt) to build engines for it.")
    from dsmap.export.report import engine_rows

    started = time.monotonic()
    built = _build(folder, engines)
    typer.echo(f"done in {time.monotonic() - started:.0f} s")
    if report is not None:
        _write(report, {"bundle": str(folder), "engines": engine_rows(built)})


def _build(folder: Path, engines: _EngineWishes) -> "list[Built]":
    """Builds with a progress bar, where there is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from dsmap.export.engines import EngineJob, engines_of
    from dsmap.runtime.bundle import Bundle
    from dsmap.trt_progress import PROGRESS_STEPS

    bundle = Bundle.read(folder)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn()
    typer.echo(f"building engines with {engines.flavour.title} for GPUs of {', '.join(engines.architectures)}")
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:

        def say(line: str) -> None:
            bar.console.print(line, soft_wrap=True, highlight=False, markup=False)

        def follow(job: EngineJob) -> Any:
            for task in bar.task_ids:
                bar.remove_task(task)
            shown = bar.add_task(job.title, total=PROGRESS_STEPS, phase="")
            return lambda phase, step, steps: bar.update(shown, completed=step, total=steps, phase=phase[:40])

        return engines_of(bundle, engines.options(bundle.manifest.sizes), say, follow)


def _write(report: Path, numbers: dict[str, Any]) -> None:
    from dsmap.tools._reports import write_report

    write_report(report, numbers)
    typer.echo(f"report: {report}")


_REWRITES = ("upsampling", "tail", "scaling")


def _parse_rewrites(names: list[str]) -> set[str]:
    """The rewrites to leave out. The tail's reads what the upsampling's leaves."""
    for name in names:
        if name not in _REWRITES:
            raise InputError(f"no rewrite named {name!r}", f"Known rewrites: {', '.join(_REWRITES)}.")
    return {*names, *({"tail"} if "upsampling" in names else ())}


def _read_card(card: Path | None) -> str | None:
    if card is None:
        return None
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the model card {card}: {error}", "Pass --card a text file.") from error


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
