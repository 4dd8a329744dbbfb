"""dsmap-export: a checkpoint becomes a bundle that dsmap-video runs.

dsmap-export RUN -o BUNDLE
dsmap-export RUN -o BUNDLE --fp16 --int8 --engine rtx --sizes 256x256:512x512:1920x1088
dsmap-export gen_00200000.pt --official config.yaml --domains summer,winter -o BUNDLE
dsmap-export RUN -o BUNDLE --named-style winter:fresh-snow=photo.jpg
dsmap-export BUNDLE --engine rtx          engines for a bundle that is there; --named-style adds styles to it
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmap.common.output_files import check_outputs
from dsmap.errors import InputError
from dsmap.tools.export.engines import DEFAULT_SIZES, EngineWishes, build, engine_wishes
from dsmap.tools.shared.cli import Debug, Version, explained, new_app, run
from dsmap.tools.shared.images import (
    Data,
    DefaultStyles,
    DomainFolders,
    DomainNames,
    parse_default_styles,
    parse_domain_folders,
    parse_domain_names,
)
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.export.named_styles import NamedStyle
    from dsmap.export.trained_model import TrainedModel
    from dsmap.training.output_adjustments import OutputAdjustments

app = new_app()


@app.command(
    help="""Write a bundle of ONNX files from CHECKPOINT, checked against torch.

    With --data or --domain NAME=PATH the default styles are the means over those images, and checks and int8
    calibration use them. Given a bundle and --engine, compile engines for it; with --named-style, add styles to it.
    """
)
@explained
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Run folder of dsmap-train, one of its checkpoints, a gen_*.pt, or a bundle (for --engine and "
            "--named-style)."
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
    default_style: DefaultStyles = None,
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
        bool, typer.Option("--int8", help="Add int8 graphs for CPUs, calibrated on images of both domains.")
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
    sharpen: Annotated[
        float | None,
        typer.Option(
            metavar="AMOUNT",
            help="Sharpen every image in the graph, as 0.25: translations are softer than photographs.",
        ),
    ] = None,
    contrast: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DOMAIN:]FACTOR",
            help="Contrast in the graph (1: none), in place of the network's own. May be repeated.",
        ),
    ] = None,
    margin: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS", help="Mirror so much of an image around it for the translation, against lines at edges."
        ),
    ] = None,
    named_style: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN:NAME=PICTURE",
            help="Keep an image's style under a name, for dsmap-video --style NAME. May be repeated.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the bundle folder's name.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "not stated",
    card: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Model card, in place of the short default.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the bundle, or a bundle's named style, that is there.")
    ] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write all numbers as JSON.")] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.export.named_styles import parse_named_styles
    from dsmap.training.output_adjustments import OutputAdjustments, parse_contrast

    finishes = {"--sharpen": sharpen is not None, "--contrast": bool(contrast), "--margin": margin is not None}
    finish = OutputAdjustments(sharpen, parse_contrast(contrast or []), margin)
    engines = engine_wishes(engine, sizes, gpu_arch, max_batch)
    named = parse_named_styles(named_style or [])
    defaults = parse_default_styles(default_style)
    written = [(checkpoint, "the bundle's folder")] if (checkpoint / "bundle.json").is_file() else []
    written += [] if out is None else [(out, "the bundle's folder")]
    read = [(checkpoint, "the checkpoint"), (official, "the YAML"), (card, "the model card"), (data, "the images")]
    read += [(path, f"the images of {name}") for name, path in parse_domain_folders(domain)]
    read += [(path, f"the images of --default-style {name}") for name, path in defaults.items()]
    if checkpoint.absolute().parent.name == "checkpoints":
        read.append((checkpoint.absolute().parent.parent, "the run"))
    read += [(style.image, "the image of --named-style") for style in named]
    inputs = [(path, name) for path, name in read if path is not None]
    check_outputs({"--report": report}, inputs, closed=written, overwrite=overwrite)
    if (checkpoint / "bundle.json").is_file():
        others = {"-o": out, "--fp16": fp16, "--int8": int8, "--official": official, "--default-style": defaults}
        others |= finishes
        mixed = [flag for flag, given in others.items() if given]
        _add_to_bundle(checkpoint, engines, named, mixed, report, overwrite=overwrite)
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
    for flag, given in finishes.items():
        if given and official is not None:
            raise InputError(f"{flag} does not go with --official", "Leave it out.")
    if best and (official is not None or not (checkpoint / "checkpoints").is_dir()):
        raise InputError(f"--best picks from a run folder; {checkpoint} is none", "Leave it out, or pass RUN.")
    from dsmap.export.bundle_folder import check_bundle_folder
    from dsmap.runtime.bundle.bundled import as_model

    check_bundle_folder(out, overwrite=overwrite)
    left_out = _parse_rewrites(without or [])
    started = time.monotonic()
    say("loading torch ...")
    from dsmap.export.bundle_writer import Variants, write_bundle
    from dsmap.export.costs import graph_costs
    from dsmap.export.graphs import ALL_REWRITES
    from dsmap.export.report import report as numbers
    from dsmap.export.report import summary

    source = _open(checkpoint, official, names, data, folders, named, defaults, live=live, best=best, finish=finish)
    if engines is not None:
        engines.profile(source.model.config.multiple_of, source.model.config.minimum_size)  # before the long work
    rewrites = ALL_REWRITES._replace(**dict.fromkeys(left_out, False))
    exported = write_bundle(
        source,
        out,
        name=name,
        licence=licence,
        card=text,
        overwrite=overwrite,
        rewrites=rewrites,
        variants=Variants(fp16=fp16, int8=int8, force=force),
        say=say,
    )
    costs = graph_costs(source.model, rewrites)
    say(*summary(exported, costs))
    manifest = exported.manifest
    for style_domain, style in manifest.styles.items():
        if style.pictures == 0:
            say(f"default style of {style_domain}: the prior's mean; pass --data for that of its images")
        if style.named:
            say(f"named styles of {style_domain}: {', '.join(style.named)}")
    megabytes = sum(file.bytes for file in manifest.files()) / 1e6
    say(f"saved as {out} ({megabytes:.1f} MB)")
    built = build(out, engines) if engines is not None else []
    command = f"dsmap-video INPUT --model {as_model(out)} --domain {manifest.domains[1]}"
    spent = time.monotonic() - started
    say(f"done in {spent:.0f} s")
    if report is not None:
        _write(report, numbers(out, exported, costs, built, command=command, seconds=spent))
    say(f"next: {command}")


def _open(
    checkpoint: Path,
    official: Path | None,
    names: tuple[str, str] | None,
    data: Path | None,
    folders: list[tuple[str, Path]],
    named: "list[NamedStyle]",
    defaults: dict[str, Path],
    *,
    live: bool,
    best: bool,
    finish: "OutputAdjustments",
) -> "TrainedModel":
    from dsmap.export.trained_model import open_checkpoint, open_official
    from dsmap.training.data import find_domains

    if official is not None:
        images = find_domains(data, folders, names=names or ("a", "b")) if data or folders else None
        names = names or ((images.a.name, images.b.name) if images else ("a", "b"))
        return open_official(checkpoint, official, names, images, named, defaults)
    if best:
        from dsmap.training.checkpoint import best_checkpoint

        checkpoint = best_checkpoint(checkpoint).path
        say(f"best: {checkpoint}")
    weights = "generators" if live else "ema"
    return open_checkpoint(
        checkpoint,
        weights=weights,
        data=data,
        folders=folders,
        named_styles=named,
        adjustments=finish,
        default_styles=defaults,
    )


def _add_to_bundle(
    folder: Path,
    engines: EngineWishes | None,
    named: "list[NamedStyle]",
    mixed: list[str],
    report: Path | None,
    *,
    overwrite: bool,
) -> None:
    """Adds named styles and engines to the bundle `folder`."""
    if mixed:
        raise InputError(f"{folder} is a bundle: {mixed[0]} wants a checkpoint", "Pass the checkpoint it came from.")
    if engines is None and not named:
        raise InputError(
            f"{folder} is a bundle already",
            "Add --engine rtx (or tensorrt) to build engines for it, or --named-style to add a style.",
        )
    from dsmap.export.named_styles import add_named_styles
    from dsmap.runtime.bundle.manifest import read_manifest

    if engines is not None:
        engines.options(read_manifest(folder).sizes)  # before anything is written
    started = time.monotonic()
    codes = add_named_styles(folder, named, overwrite=overwrite) if named else {}
    for domain, added in codes.items():
        say(f"named styles of {domain}: {', '.join(added)}")
    built = build(folder, engines) if engines is not None else []
    say(f"done in {time.monotonic() - started:.0f} s")
    if report is not None:
        from dsmap.export.report import engine_rows

        _write(report, {"bundle": str(folder), "named_styles": codes, "engines": engine_rows(built)})


def _write(report: Path, numbers: dict[str, Any]) -> None:
    from dsmap.common.reports import write_report

    write_report(report, numbers)
    say(f"report: {report}")


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
