"""dsmap-eval: how good results are, in numbers with intervals, as a table, as JSON and as a page of images.

dsmap-eval model summer-winter --data yosemite --features squeezenet_v1.0_imagenet.npz
dsmap-eval images ours=out/ours munit=out/munit --reference yosemite/trainB --content yosemite/testA --features FILE
dsmap-eval video holiday.mp4 holiday-winter.mp4                          how steady the translation is
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.shared import cli
from dsmap.tools.shared.cli import Debug, Version, explained, new_app, path_given, run
from dsmap.tools.shared.images import Data, DomainFolders, DomainNames, parse_domain_folders, parse_domain_names
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsmap.metrics.findings import Report
    from dsmap.metrics.protocol import Protocol

app = new_app()

Features = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        parser=path_given,
        help="Feature network: an .npz of SqueezeNet v1.0, or inception-2015-12-05.pt (TorchScript) for FID and KID. "
        "One of each may be passed.",
    ),
]
RunCode = Annotated[
    bool,
    typer.Option(
        "--features-run-code",
        help="Run --features FILE.pt although it is not NVIDIA's: TorchScript is a program that can do what you can.",
    ),
]
Lpips = Annotated[
    str | None,
    typer.Option(
        "--lpips", metavar="NET", help="Measure diversity by LPIPS on alex, vgg or squeeze (needs torchvision)."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")]
JsonFile = Annotated[
    Path | None, typer.Option("--report", metavar="FILE.json", parser=path_given, help="Write every number as JSON.")
]
Page = Annotated[
    Path | None,
    typer.Option("--page", metavar="FILE.html", parser=path_given, help="Write numbers and images as one HTML page."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")]


@app.callback(help="Measure results: numbers with their definitions in docs/evaluation.md and docs/steadiness.md.")
def evaluate() -> None:
    pass


@app.command(
    help="""A model, judged by its translations of images that it has not seen, in both directions.

    
    dsmap-eval model summer-winter --data yosemite --features squeezenet.npz --page page.html
    dsmap-eval model runs/winter --data yosemite --features squeezenet.npz --preset paper --report numbers.json

    Test images are translated in the mean style, and in the styles of test images; both are compared with the
    training images of the target domain. What the numbers mean: docs/evaluation.md.
    """
)
@explained
def model(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", parser=cli.text_given, help="A bundled model, a bundle's folder, or a dsmap-train run."
        ),
    ],
    data: Data = None,
    domain: DomainFolders = None,
    domains: DomainNames = None,
    features: Features = None,
    features_run_code: RunCode = False,
    target: Annotated[
        str | None, typer.Option("--to", metavar="DOMAIN", help="Only translations to this domain. Default: both.")
    ] = None,
    preset: Annotated[str, typer.Option(help="quick, or paper: 100 contents x 10 styles x 10 repeats.")] = "quick",
    contents: Annotated[
        int | None, typer.Option(min=2, help="Translate so many images, not those of --preset.")
    ] = None,
    styles: Annotated[int | None, typer.Option(min=1, help="Each in the styles of so many images.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="So often, with other images' styles.")] = None,
    pairs: Annotated[
        int | None, typer.Option(min=0, help="Pairs of styles of a content for diversity; 0: none.")
    ] = None,
    lpips: Lpips = None,
    seed: Seed = 0,
    height: Annotated[
        int | None, typer.Option(min=16, max=8192, help="Shorter side of the images. Default: that of the training.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=path_given, help="Keep every translation in this new folder."),
    ] = None,
    report: JsonFile = None,
    page: Page = None,
    backend: cli.Backend = "auto",
    precision: cli.Precision = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use. Default: all.")] = None,
    trust_engines: cli.TrustEngines = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.tools.eval.outputs import check_results, kept_results

    folders = parse_domain_folders(domain)
    read = [(data, "the folder of images"), *((path, f"the images of {name}") for name, path in folders)]
    closed = [(Path(model), "the model's folder")]
    _check_outputs({"--report": report, "--page": page}, read, features, closed=closed, overwrite=overwrite)
    check_results(results)
    protocol = _protocol(preset, contents, styles, repeats, pairs, seed)
    from dsmap.training.datasets import find_domains, without_too_large

    found = without_too_large(find_domains(data, folders, names=parse_domain_names(domains) or ("a", "b")))
    for line in (line for one in found for line in one.left_out):
        say(line)
    say("loading torch ...")
    from dsmap.tools.eval import model as work
    from dsmap.tools.eval.images import load_means

    work.use_threads(threads)
    means = load_means(features or [], lpips, pairs=protocol.pairs, seed=seed, run_code=features_run_code)
    wishes = work.Wishes(
        protocol=protocol, preset=preset, named=bool(domain or domains), target=target, height=height, backend=backend,
        precision=precision, threads=threads, trust_engines=trust_engines, keep=results is not None,
    )  # fmt: skip
    with kept_results(results) as folder, work.open_bundle(model, say) as bundle:
        reports = work.evaluate(bundle, found, means, wishes, folder, say)
    _tell(reports, report, page)
    if results is not None:
        say(f"translations: {results}")


@app.command(
    help="""Folders of results of any systems, side by side on the same images.

    
    dsmap-eval images out/winter --reference yosemite/trainB --content yosemite/testA --features squeezenet.npz
    dsmap-eval images ours=out/ours munit=out/munit --reference dogs --content cats --features squeezenet.npz

    A result belongs to the content whose name it begins with (lake.png, lake_snow.png, lake-3.jpg), in whose folder it
    lies (lake/3.png), or whose name it holds (fake_lake.png). What the numbers mean: docs/evaluation.md.
    """
)
@explained
def images(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULTS",
            parser=cli.text_given,
            help="Folders of results, one for each system: FOLDER or NAME=FOLDER. With other images among them, a "
            "pattern in quotes: NAME='FOLDER/*_fake_B.png'.",
        ),
    ],
    reference: Annotated[
        Path, typer.Option(metavar="FOLDER", parser=path_given, help="Real images of the target domain.")
    ],
    content: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=path_given, help="The images that were translated, to tell what is kept of them."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=path_given, help="Other images of the contents' domain, for a classifier."
        ),
    ] = None,
    features: Features = None,
    features_run_code: RunCode = False,
    pairs: Annotated[int, typer.Option(min=0, help="Pairs of results of a content for diversity; 0: none.")] = 4,
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
    _check_outputs({"--report": report, "--page": page}, read, features, overwrite=overwrite)
    say("loading torch ...")
    from dsmap.tools.eval import images as work

    where = work.Source(
        systems=tuple(map(work.parse_system, results)), reference=reference, content=content, training=source
    )
    work.check_systems(where.systems)
    means = work.load_means(features or [], lpips, pairs=pairs, seed=seed, run_code=features_run_code)
    found = work.evaluate(where, means, say)
    _tell([found], report, page)


@app.command(
    help="""How steady a translated video is, and how good its frames are as images: one translation or several.

    
    dsmap-eval video holiday.mp4 holiday-winter.mp4
    dsmap-eval video holiday.mp4 holiday-winter.mp4 --report steady.json --plot steady.png
    dsmap-eval video holiday.mp4 plain=a.mp4 steadied=b.mp4 --features squeezenet.npz --reference snow --page page.html

    Flicker and warping error are measured along the motion of the input, and stand beside the input's own. Some 50
    frames are compared as images: what they keep of the input, and how far they are from --reference.
    """
)
@explained
def video(
    clip: Annotated[Path, typer.Argument(metavar="IN", parser=path_given, help="The video that was translated.")],
    output: Annotated[
        list[str],
        typer.Argument(metavar="OUT", parser=cli.text_given, help="Its translation, or several: FILE or NAME=FILE."),
    ],
    height: Annotated[
        int | None,
        typer.Option(min=16, max=8192, help="Measure at this height. Default: the lowest of all, but at most 360."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Measure only so many frames from the start.")] = None,
    features: Features = None,
    features_run_code: RunCode = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=path_given, help="Real images of the target domain, for distances to them."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=path_given, help="Images of the clip's own domain, for a classifier."),
    ] = None,
    report: JsonFile = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", parser=path_given, help="Draw the numbers over time.")
    ] = None,
    page: Page = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.tools.eval import video as work
    from dsmap.tools.eval import video_frames as images

    outputs = work.parse_outputs(output)
    paths = [path for _, path in outputs]
    read = [(reference, "the reference folder"), (source, "the source folder")]
    others = _given(read, features)
    work.check_results(clip, paths, report=report, plot=plot, page=page, others=others, overwrite=overwrite)
    against = images.read_against(features or [], reference, source, say, run_code=features_run_code)
    with images.kept_frames() as kept:
        compared = work.measure(clip, outputs, height=height, frames=frames, keep=kept.add)
        quality = images.judge(kept, [name for name, _ in outputs], against, say)
        images.tell(compared, quality, report, page, say)
    if plot is not None:
        work.draw(compared, plot)
        say(f"plot: {plot}")


_Read = list[tuple[Path | None, str]]
"""Files and folders that a command reads, as far as they were passed, with what to call them."""


def _check_outputs(
    outputs: dict[str, Path | None],
    read: _Read,
    features: list[Path] | None,
    *,
    closed: "Sequence[tuple[Path, str]]" = (),
    overwrite: bool,
) -> None:
    from dsmap.common.output_files import check_outputs

    check_outputs(outputs, _given(read, features), closed=closed, overwrite=overwrite)


def _given(read: _Read, features: list[Path] | None) -> list[tuple[Path, str]]:
    networks = [(path, "a feature network") for path in features or []]
    return [*((path, name) for path, name in read if path is not None), *networks]


def _named_folders(text: str) -> list[Path]:
    """What FOLDER, NAME=FOLDER or either with a pattern may name."""
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


def _tell(reports: "list[Report]", report: Path | None, page: Path | None) -> None:
    from dsmap.tools.eval.outputs import tell

    tell(reports, report, page, say)


def main() -> None:
    """Entry point."""
    run(app)
