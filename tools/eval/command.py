"""dsmap-eval: quality of translations in numbers with intervals, as a table, as JSON and as a page with images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.eval.options import (
    Features,
    JsonFile,
    Lpips,
    Overwrite,
    Page,
    RunCode,
    Seed,
    Source,
    check_outputs,
    inputs_of,
)
from dsmap.tools.shared import cli
from dsmap.tools.shared.cli import Debug, Version, explained, new_app, path_given, run
from dsmap.tools.shared.images import Data, DomainFolders, DomainNames, parse_domain_folders, parse_domain_names
from dsmap.tools.shared.panels import HARDWARE, MEASURES, OUTPUT
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.metrics.protocol import Protocol

app = new_app()


@app.callback(
    help="Measure the quality of translations. What the numbers mean: https://dsmap.github.io/dsmap/evaluation/",
    epilog="""
    dsmap-eval model summer-winter --data yosemite --features squeezenet.npz
    dsmap-eval video holiday.mp4 holiday-winter.mp4
    """,
)
def evaluate() -> None:
    pass


@app.command(
    help="Evaluate a model on its translations of unseen images, in both directions. Test images are translated in the"
    " mean style and in the styles of test images, and compared with training images of the target domain.",
    epilog="""
    dsmap-eval model summer-winter --data yosemite --features squeezenet.npz --page page.html
    dsmap-eval model runs/winter --data yosemite --features squeezenet.npz --preset paper --report numbers.json
    """,
)
@explained
def model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", parser=cli.text_given, help="A model's name or folder, or a training run.")
    ],
    data: Data = None,
    domain: DomainFolders = None,
    domains: DomainNames = None,
    features: Features = None,
    features_run_code: RunCode = False,
    target: Annotated[
        str | None, typer.Option("--to", metavar="DOMAIN", help="Evaluate translations to this domain only.")
    ] = None,
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="Protocol: quick or paper (slow).", rich_help_panel=MEASURES)
    ] = "quick",
    contents: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Images to translate.", rich_help_panel=MEASURES)
    ] = None,
    styles: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Styles per image.", rich_help_panel=MEASURES)
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Repeats, each with other styles.", rich_help_panel=MEASURES),
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Pairs per image, for diversity.", rich_help_panel=MEASURES),
    ] = None,
    lpips: Lpips = None,
    seed: Seed = 0,
    height: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=8192,
            metavar="PIXELS",
            help="Shorter side (default: as in training).",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=path_given, help="Keep the translations in a new folder.", rich_help_panel=OUTPUT
        ),
    ] = None,
    report: JsonFile = None,
    page: Page = None,
    backend: cli.Backend = "auto",
    precision: cli.Precision = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads (default: all cores).", rich_help_panel=HARDWARE),
    ] = None,
    trust_engines: cli.TrustEngines = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.tools.eval.outputs import check_results_folder, results_folder, write_results

    folders = parse_domain_folders(domain)
    read = [(data, "the folder of images"), *((path, f"the images of {name}") for name, path in folders)]
    closed = [(Path(model), "the model's folder")]
    check_outputs({"--report": report, "--page": page}, read, features, closed=closed, overwrite=overwrite)
    check_results_folder(results)
    protocol = _protocol(preset, contents, styles, repeats, pairs, seed)
    from dsmap.training.datasets import find_domains, without_too_large

    found = without_too_large(find_domains(data, folders, names=parse_domain_names(domains) or ("a", "b")))
    for line in (line for one in found for line in one.left_out):
        say(line)
    say("loading torch ...")
    from dsmap.metrics.suite import load_metric_suite
    from dsmap.tools.eval.model import ModelEvaluation, evaluate_model, open_bundle, use_threads

    use_threads(threads)
    suite = load_metric_suite(features or [], lpips, pairs=protocol.pairs, seed=seed, run_code=features_run_code)
    request = ModelEvaluation(
        protocol=protocol, preset=preset, named=bool(domain or domains), target=target, height=height, backend=backend,
        precision=precision, threads=threads, trust_engines=trust_engines, keep=results is not None,
    )  # fmt: skip
    with results_folder(results) as folder, open_bundle(model, say) as bundle:
        reports = evaluate_model(bundle, found, suite, request, folder, say)
    write_results(reports, report, page, say)
    if results is not None:
        say(f"translations: {results}")


@app.command(
    help="Compare folders of results, of one system or several, on the same images. A result belongs to the content"
    " whose name it begins with (lake.png, lake_snow.png, lake-3.jpg), in whose folder it lies (lake/3.png), or whose"
    " name it contains (fake_lake.png).",
    epilog="""
    dsmap-eval images out/winter --reference yosemite/trainB --content yosemite/testA --features squeezenet.npz
    dsmap-eval images ours=out/ours munit=out/munit --reference dogs --content cats --features squeezenet.npz
    """,
)
@explained
def images(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULTS",
            parser=cli.text_given,
            help="A folder per system, as FOLDER, NAME=FOLDER or 'FOLDER/*_fake.png'.",
        ),
    ],
    reference: Annotated[
        Path, typer.Option(metavar="FOLDER", parser=path_given, help="Real images of the target domain.")
    ],
    content: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=path_given, help="The images that were translated."),
    ] = None,
    source: Source = None,
    features: Features = None,
    features_run_code: RunCode = False,
    pairs: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Pairs per content, for diversity.", rich_help_panel=MEASURES),
    ] = 4,
    lpips: Lpips = None,
    seed: Seed = 0,
    report: JsonFile = None,
    page: Page = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    read = [
        *((path, "a folder of results") for text in results for path in _named_folders(text)),
        (reference, "the reference folder"),
        (content, "the content folder"),
        (source, "the source folder"),
    ]
    check_outputs({"--report": report, "--page": page}, read, features, overwrite=overwrite)
    from functools import partial

    from dsmap.metrics.comparison import FolderComparison, compare_folders
    from dsmap.metrics.suite import load_metric_suite
    from dsmap.tools.eval.images import evaluator_with_progress, parse_system
    from dsmap.tools.eval.outputs import write_results

    systems = tuple(map(parse_system, results))
    request = FolderComparison(systems=systems, reference=reference, content=content, training=source)
    say("loading torch ...")
    suite = load_metric_suite(features or [], lpips, pairs=pairs, seed=seed, run_code=features_run_code)
    made = compare_folders(request, suite, say=say, make_evaluator=partial(evaluator_with_progress, say=say))
    write_results([made], report, page, say)


@app.command(
    help="Measure the flicker of a translated video and the quality of its frames, for one translation or several."
    " Flicker and warping error are measured along the motion of the input; about 50 frames are compared as images.",
    epilog="""
    dsmap-eval video holiday.mp4 holiday-winter.mp4 --plot flicker.png
    dsmap-eval video holiday.mp4 plain=a.mp4 steady=b.mp4 --features squeezenet.npz --reference snow --page page.html
    """,
)
@explained
def video(
    clip: Annotated[Path, typer.Argument(metavar="IN", parser=path_given, help="The video that was translated.")],
    output: Annotated[
        list[str],
        typer.Argument(metavar="OUT", parser=cli.text_given, help="Its translations: FILE or NAME=FILE."),
    ],
    height: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=8192,
            metavar="PIXELS",
            help="Height to measure at (default: up to 360).",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Measure the first N frames only.", rich_help_panel=MEASURES),
    ] = None,
    features: Features = None,
    features_run_code: RunCode = False,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=path_given, help="Real images of the target domain."),
    ] = None,
    source: Source = None,
    report: JsonFile = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", parser=path_given, help="Plot the numbers over time.")
    ] = None,
    page: Page = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from functools import partial

    from dsmap.metrics.frames import evaluate_frames, frame_sampler, load_frame_reference
    from dsmap.tools.eval.images import evaluator_with_progress
    from dsmap.tools.eval.video import check_files, measure, parse_outputs
    from dsmap.tools.eval.video_report import write_results

    outputs = parse_outputs(output)
    read = inputs_of([(reference, "the reference folder"), (source, "the source folder")], features)
    paths = [path for _, path in outputs]
    check_files(clip, paths, report=report, plot=plot, page=page, others=read, overwrite=overwrite)
    against = load_frame_reference(features or [], reference, source, say, run_code=features_run_code)
    make_evaluator = partial(evaluator_with_progress, say=say)
    with frame_sampler() as sampler:
        compared = measure(clip, outputs, height=height, frames=frames, keep=sampler.add)
        quality = evaluate_frames(sampler, [name for name, _ in outputs], against, make_evaluator)
        write_results(compared, quality, report, page, say)
    if plot is not None:
        from dsmap.tools.eval.video_plot import draw

        draw(compared, plot)
        say(f"plot: {plot}")


def _named_folders(text: str) -> list[Path]:
    """The folders that FOLDER, NAME=FOLDER or either with a pattern may name."""
    paths = [Path(text), Path(text.partition("=")[2] or text)]
    patterned = [path.parent for path in paths if any(char in path.name for char in "*?[")]
    return [*(path for path in paths if path.exists()), *patterned]


def _protocol(
    preset: str, contents: int | None, styles: int | None, repeats: int | None, pairs: int | None, seed: int
) -> "Protocol":
    from dataclasses import replace

    from dsmap.metrics.protocol import PROTOCOLS

    if preset not in PROTOCOLS:
        raise InputError(f"no preset named {preset!r}", f"Known presets: {', '.join(PROTOCOLS)}.")
    changed = {"contents": contents, "styles": styles, "repeats": repeats, "pairs": pairs}
    return replace(PROTOCOLS[preset], seed=seed, **{name: n for name, n in changed.items() if n is not None})


def main() -> None:
    """Entry point."""
    run(app)
