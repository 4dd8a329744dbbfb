"""dsmap-export: a checkpoint becomes a bundle that dsmap-video runs.

dsmap-export RUN -o BUNDLE
dsmap-export RUN -o BUNDLE --fp16 --int8 --engine rtx --sizes 256x256:512x512:1920x1088
dsmap-export gen_00200000.pt --official config.yaml --domains summer,winter -o BUNDLE
dsmap-export RUN -o BUNDLE --named-style winter:fresh-snow=photo.jpg
dsmap-export BUNDLE --engine rtx          adds engines to a bundle; --named-style adds styles
dsmap-export BUNDLE --triton REPOSITORY   adds it to the models of a Triton Inference Server
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmap.common.output_files import check_outputs
from dsmap.errors import InputError
from dsmap.export.request import ExportRequest, UpdateRequest
from dsmap.tools.export.engines import EngineBar, parse_engines
from dsmap.tools.export.triton import add_to_triton, check_parts
from dsmap.tools.shared.cli import Debug, Version, explained, new_app, path_given, run
from dsmap.tools.shared.generators import Contrast
from dsmap.tools.shared.images import (
    Data,
    DefaultStyles,
    DomainFolders,
    DomainNames,
    parse_default_styles,
    parse_domain_folders,
    parse_domain_names,
)
from dsmap.tools.shared.panels import ADVANCED, HARDWARE, INPUT, MODEL, OUTPUT
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.export.run import ExportResult, UpdateResult

app = new_app()


@app.command(
    help="""Export CHECKPOINT to a bundle of ONNX graphs, checked against PyTorch.

    Given a bundle instead, add TensorRT engines (--engine), styles (--named-style), or its --licence and --dataset to
    it, or add it to the models of a Triton Inference Server (--triton).
    """,
    epilog="""
    dsmap-export runs/first -o my-model --int8
    dsmap-export my-model --engine rtx --sizes 1280x720
    """,
)
@explained
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run of dsmap-train, a checkpoint, a gen_*.pt or a bundle.")
    ],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the new bundle.")
    ] = None,
    data: Data = None,
    domain: DomainFolders = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Add half-precision graphs, for GPUs.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Add 8-bit graphs, for CPUs.")] = False,
    engine: Annotated[
        str, typer.Option(metavar="KIND", show_default=False, help="Build engines: tensorrt, rtx, auto or none.")
    ] = "none",
    triton: Annotated[
        Path | None,
        typer.Option(
            "--triton", metavar="REPO", parser=path_given, help="Folder of a Triton server's models to add a bundle to."
        ),
    ] = None,
    triton_parts: Annotated[
        str | None,
        typer.Option(
            "--triton-parts", metavar="KIND", help="For Triton servers without dsmap: the graphs, as onnx or tensorrt."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle, model or style.")] = False,
    official: Annotated[
        Path | None,
        typer.Option(
            "--official",
            metavar="CONFIG.yaml",
            help="Configuration of the authors' gen_*.pt.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    domains: DomainNames = None,
    best: Annotated[
        bool, typer.Option("--best", help="Export the best checkpoint, not the latest.", rich_help_panel=INPUT)
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Export the weights without averaging.", rich_help_panel=INPUT)
    ] = False,
    default_style: DefaultStyles = None,
    named_style: Annotated[
        list[str] | None,
        typer.Option(
            metavar="D:NAME=IMAGE", help="Name an image's style, in domain D (repeatable).", rich_help_panel=MODEL
        ),
    ] = None,
    refiner: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", parser=path_given, help="Add refiners of dsmap-distill to a bundle.", rich_help_panel=MODEL
        ),
    ] = None,
    sharpen: Annotated[
        float | None, typer.Option(metavar="AMOUNT", help="Sharpen the output, e.g. 0.25.", rich_help_panel=MODEL)
    ] = None,
    contrast: Contrast = None,
    margin: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Reflect-pad input, against border artefacts.", rich_help_panel=MODEL),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model (default: FOLDER).", rich_help_panel=OUTPUT)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Licence of the weights.", rich_help_panel=OUTPUT)
    ] = None,
    card: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Model card to include.", rich_help_panel=OUTPUT)
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Data it was trained on (repeatable).", rich_help_panel=OUTPUT),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(metavar="D=IMAGE", help="Picture of domain D for the card (repeatable).", rich_help_panel=OUTPUT),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write all numbers as JSON.", rich_help_panel=OUTPUT)
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(metavar="SIZES", help="Engines: WxH or MIN:TYPICAL:MAX of frames.", rich_help_panel=HARDWARE),
    ] = None,
    gpu_arch: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Engines: 8.6,8.9 or current (default: 8.0+).", rich_help_panel=HARDWARE),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="Engines, Triton: frames per call (default: 1, 8).", rich_help_panel=HARDWARE),
    ] = None,
    opt_level: Annotated[
        int | None,
        typer.Option(metavar="N", help="Engines: build effort, 0 to 5 (default: 3).", rich_help_panel=HARDWARE),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=path_given, help="Engines: reuse kernel timings.", rich_help_panel=HARDWARE
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep a precision that fails its check.", rich_help_panel=ADVANCED)
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="REWRITE", help="Skip upsampling, tail or scaling.", rich_help_panel=ADVANCED),
    ] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.export.named_styles import parse_named_styles
    from dsmap.export.samples import parse_samples
    from dsmap.training.output_adjustments import parse_contrast

    check_parts(triton_parts, triton)
    if triton is not None:
        flags = {"-o": out, "--data": data, "--domain": domain, "--official": official,
                 "--domains": domains, "--best": best, "--live": live, "--default-style": default_style,
                 "--named-style": named_style, "--sharpen": sharpen is not None, "--contrast": contrast,
                 "--margin": margin is not None, "--card": card, "--force": force, "--without": without,
                 "--engine": engine != "none", "--sizes": sizes, "--gpu-arch": gpu_arch, "--opt-level": opt_level,
                 "--timing-cache": timing_cache, "--dataset": dataset, "--sample": sample,
                 "--refiner": refiner}  # fmt: skip
        precisions = {"fp16": fp16, "int8": int8}
        add_to_triton(checkpoint, triton, name, max_batch, overwrite, report, flags, triton_parts, precisions)
        return
    engines = parse_engines(engine, sizes, gpu_arch, max_batch, opt_level, timing_cache)
    named_styles = parse_named_styles(named_style or [])
    _refuse_pulled(checkpoint)
    if (checkpoint / "bundle.json").is_file():
        flags = {"-o": out, "--data": data, "--domain": domain, "--fp16": fp16, "--int8": int8, "--official": official,
                 "--domains": domains, "--best": best, "--live": live,
                 "--sharpen": sharpen is not None, "--contrast": contrast, "--margin": margin is not None,
                 "--name": name, "--sample": sample, "--force": force, "--without": without}  # fmt: skip
        _refuse_for_bundles(checkpoint, flags)
        update = UpdateRequest(
            bundle=checkpoint,
            named_styles=named_styles,
            default_styles=parse_default_styles(default_style),
            engines=engines,
            licence=licence,
            datasets=dataset or (),
            card=card,
            refiner=refiner,
            overwrite=overwrite,
        )
        _update(update, report)
        return
    if refiner is not None:
        raise InputError("--refiner is added to a bundle", f"Export {checkpoint} first, then pass the bundle.")
    if out is None:
        raise InputError("-o is missing", "Pass -o BUNDLE, the folder to write.")
    request = ExportRequest(
        checkpoint=checkpoint,
        out=out,
        official_config=official,
        domain_names=parse_domain_names(domains),
        weights="generators" if live else "ema",
        best=best,
        data=data,
        domain_folders=parse_domain_folders(domain),
        default_styles=parse_default_styles(default_style),
        named_styles=named_styles,
        fp16=fp16,
        int8=int8,
        force=force,
        without=without or [],
        sharpen=sharpen,
        contrast=parse_contrast(contrast or []),
        margin=margin,
        engines=engines,
        name=name,
        licence=licence or "not stated",
        card=card,
        datasets=dataset or (),
        samples=parse_samples(sample or []),
        overwrite=overwrite,
    )
    _export(request, report)


def _refuse_pulled(checkpoint: Path) -> None:
    """Raises InputError for a model of the Hub: what was pulled stays as it is."""
    from dsmap.runtime.hub.address import is_address

    if is_address(checkpoint):
        raise InputError(
            f"{checkpoint} is a pulled model, and stays as it is",
            f"Copy its folder, which `dsmap models show {checkpoint}` names, and pass the copy.",
        )


def _refuse_for_bundles(bundle: Path, flags: dict[str, Any]) -> None:
    """Raises InputError for a flag that has no effect on an existing bundle."""
    for flag, value in flags.items():
        if value:
            raise InputError(f"{bundle} is a bundle: {flag} needs a checkpoint", "Pass the checkpoint it came from.")


def _export(request: ExportRequest, report: Path | None) -> None:
    closed = [(request.out, "the bundle's folder")]
    check_outputs({"--report": report}, request.inputs(), closed=closed, overwrite=request.overwrite)
    from dsmap.export.run import export_model
    from dsmap.runtime.bundle.bundled import as_model

    with EngineBar() as bar:
        result = export_model(request, say=bar.say, progress=bar.follow)
    command = f"dsmap-video INPUT --model {as_model(request.out)} --domain {result.written.manifest.targets[-1]}"
    _finish(result, report, {"next": command})
    say(f"next: {command}")


def _update(request: UpdateRequest, report: Path | None) -> None:
    closed = [(request.bundle, "the bundle's folder")]
    check_outputs({"--report": report}, request.inputs(), closed=closed, overwrite=request.overwrite)
    from dsmap.export.run import update_bundle

    with EngineBar() as bar:
        result = update_bundle(request, say=bar.say, progress=bar.follow)
    _finish(result, report, {})


def _finish(result: "ExportResult | UpdateResult", report: Path | None, more: dict[str, Any]) -> None:
    say(f"done in {result.seconds:.0f} s" + ("" if report else "; --report FILE.json writes every number"))
    if report is not None:
        from dsmap.common.reports import write_report

        write_report(report, result.as_dict() | more)
        say(f"report: {report}")


def main() -> None:
    """Entry point."""
    run(app)
