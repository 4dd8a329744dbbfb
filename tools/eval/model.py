"""A model, judged by its translations of unseen images in both directions."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dsmap.common.images import read_rgb, resize_shorter_side, write_rgb
from dsmap.common.notify import Notify
from dsmap.common.sampling import even_indices, pick_evenly
from dsmap.errors import InputError
from dsmap.metrics.catalogue import LIMITS, METRICS
from dsmap.metrics.evaluate import Evaluator, Judged, Means, average
from dsmap.metrics.findings import Measured, Report
from dsmap.metrics.intervals import mean_interval
from dsmap.metrics.protocol import Protocol, draw_styles, pick_contents
from dsmap.metrics.report.grids import worst
from dsmap.metrics.results import Result, ResultFolder
from dsmap.runtime.backends.base import BackendSettings, Codes
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.translator import Translator
from dsmap.tools.eval.images import facts, make_evaluator, notes, single_scores
from dsmap.tools.eval.notes import few, of_repeats, shortcomings, unequal, value_of
from dsmap.tools.eval.styles import Direction, matrix, strip
from dsmap.tools.shared.progress import progress
from dsmap.training.datasets import Domain, Domains

_IDENTITY_IMAGES = 40
_FEWEST = 8  # images of the target domain to compare with
_MOST_STYLES = 500  # images that lend their styles
_LONGEST = 80  # bytes of an image's name in the name of a result


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What of a model is measured, and how it runs."""

    protocol: Protocol
    preset: str
    named: bool = True
    """Whether the images' domains have their names; if not, they get the model's, in its order."""
    target: str | None = None
    """The direction; None: both."""
    height: int | None = None
    """Shorter side of the images; None: that of the training."""
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    trust_engines: bool = False
    keep: bool = True
    """Whether translations stay; if not, they go with each direction."""


def use_threads(count: int | None) -> None:
    """How many cores the networks that measure take; None: all."""
    if count is not None:
        torch.set_num_threads(count)


@contextmanager
def open_bundle(model: str, say: Notify) -> Iterator[Bundle]:
    """The bundle `model`, bundled or in a folder; a checkpoint of dsmap-train is exported for the while (fp32)."""
    folder = Path(model)
    if _is_checkpoint(folder):
        from dsmap.export.bundle_writer import write_bundle
        from dsmap.export.trained_model import open_checkpoint

        with tempfile.TemporaryDirectory(prefix="dsmap-eval-") as scratch:
            say(f"exporting the checkpoint {folder} to measure what it will be in use ...")
            write_bundle(open_checkpoint(folder), Path(scratch, "model"), name=folder.resolve().name)
            yield Bundle.read(Path(scratch, "model"))
    else:
        yield Bundle.read(find_model(model))


def evaluate(
    bundle: Bundle, domains: Domains, means: Means, wishes: Wishes, results: Path, say: Notify
) -> list[Report]:
    """A report for each direction; translations are written under `results`. Raises InputError."""
    names = [domain.name for domain in domains] if wishes.named else bundle.domains
    by_name = dict(zip(names, domains, strict=True))
    directions = _directions(bundle, by_name, wishes)
    reports = []
    for source, target in directions:
        say(f"{source} to {target}")
        settings = BackendSettings(
            threads=wishes.threads, precision=wishes.precision, trust_engines=wishes.trust_engines
        )
        translator = Translator(bundle, target, wishes.backend, settings=settings)
        try:
            direction = _prepare(translator, by_name, wishes, results / f"to-{target}")
            reports.append(_of_direction(direction, means, wishes, results, say))
        finally:
            translator.close()
        if not wishes.keep:
            shutil.rmtree(direction.folder)  # by the paper's protocol more than a gigabyte
    return reports


def _is_checkpoint(folder: Path) -> bool:
    if folder.suffix == ".safetensors":
        return True
    return folder.is_dir() and ((folder / "checkpoints").is_dir() or (folder / "training.json").is_file())


def _directions(bundle: Bundle, by_name: Mapping[str, Domain], wishes: Wishes) -> list[tuple[str, str]]:
    """(source, target) of all that is measured. Raises InputError for whatever would stop the work half-way."""
    if set(by_name) != set(bundle.domains):
        got, expected = " and ".join(by_name), " and ".join(bundle.domains)
        names = ",".join(bundle.domains)
        raise InputError(f"the images are of {got}, the model of {expected}", f"Call them so: --domains {names}.")
    if wishes.target is not None and wishes.target not in by_name:
        raise InputError(
            f"the model {bundle.manifest.name} has no domain {wishes.target!r}",
            f"Pass --to {bundle.domains[0]} or --to {bundle.domains[1]}.",
        )
    targets = [wishes.target] if wishes.target else [bundle.domains[1], bundle.domains[0]]
    found = [(bundle.source_of(target), target) for target in targets]
    for source, target in found:
        unseen = by_name[source].test or by_name[source].train
        if len(unseen) < 2:
            raise InputError(f"one image of {source} to translate, expected 2 or more", "Pass more images.")
        if len(by_name[target].train) < _FEWEST:
            raise InputError(
                f"{len(by_name[target].train)} images of {target} to compare with, expected {_FEWEST} or more",
                "Pass a folder with more images; a few hundred make distances mean something.",
            )
    return found


def _prepare(translator: Translator, by_name: Mapping[str, Domain], wishes: Wishes, folder: Path) -> Direction:
    """Unseen images, or those of the training where there are none, at the size that they are translated at."""
    source, target = by_name[translator.source], by_name[translator.target]
    unseen = source.test or source.train
    side = _side(translator, wishes)
    (folder / "contents").mkdir(parents=True, exist_ok=True)
    chosen = pick_contents(wishes.protocol, len(unseen))
    contents: list[Path] = []
    for number in chosen:
        path = folder / "contents" / f"{_file_name(len(contents), unseen[number])}.png"
        write_rgb(path, resize_shorter_side(read_rgb(unseen[number], at_least=side), side), durable=False)
        contents.append(path)
    return Direction(
        translator=translator,
        source=replace(source, name=translator.source),
        target=replace(target, name=translator.target),
        contents=tuple(contents),
        names=tuple(unseen[number].stem for number in chosen),
        styles=tuple(pick_evenly(target.test or target.train, _MOST_STYLES)),
        folder=folder,
    )


def _side(translator: Translator, wishes: Wishes) -> int:
    """Shorter side of every image of the evaluation."""
    return wishes.height or translator.bundle.manifest.sizes.trained_at


def _file_name(number: int, path: Path) -> str:
    """A name for what is made of the image at `path`: its own, told apart by a number, and not too long."""
    own = path.stem.encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")
    return f"{number:03d}-{own}"


def _of_direction(direction: Direction, means: Means, wishes: Wishes, results: Path, say: Notify) -> Report:
    protocol, target, source = wishes.protocol, direction.target.name, direction.source.name
    reference = direction.target.train
    side = _side(direction.translator, wishes)
    evaluator = make_evaluator(reference, means, direction.contents, direction.source.train, say, side)
    # Copies: what ONNX Runtime hands out can keep a session's memory alive, 17 MB a style.
    codes = [np.array(direction.translator.find_style(path)) for path in direction.styles]
    plain = _judge_mean_style(direction, evaluator, say)
    measured = (*plain.system.measured, *_identity(direction, means.seed, side))
    plain = plain._replace(system=replace(plain.system, measured=measured))
    repeats = [_judge_exemplars(direction, evaluator, codes, r, protocol, say) for r in range(protocol.repeats)]
    exemplar = average(repeats)
    baselines = [evaluator.baseline(f"untranslated {source}", direction.contents)]
    if direction.target.test:
        unseen = [direction.target.test[i] for i in even_indices(len(direction.target.test), len(exemplar.results))]
        baselines.append(evaluator.baseline(f"real {target}", unseen, "What a perfect translation could reach."))
    systems = (plain.system, exemplar.system, *baselines)
    manifest = direction.translator.bundle.manifest
    return Report(
        title=f"{manifest.name}: {source} to {target}",
        facts={
            "model": f"{manifest.name}, {direction.translator.backend_description}",
            "contents": f"{len(direction.contents)} {_origin(direction.source)} images of {source}",
            "styles": _styles_fact(direction, protocol, len(codes)),
            "reference": f"{len(reference)} training images of {target}",
            "size": f"shorter sides of {side} pixels, of every image",
            "protocol": wishes.preset,
            **facts(means),
        },
        systems=systems,
        grids=(
            matrix(direction, codes),
            strip(direction, codes),
            *worst(plain, direction.contents, direction.names),
            *worst(exemplar, direction.contents, direction.names),
        ),
        notes=(
            *notes(means, evaluator),
            *few(len(direction.contents), len(reference)),
            *shortcomings(direction, protocol),
            *unequal((plain.system, repeats[0].system, *baselines)),
            *of_repeats(repeats),
            *(f"{line}." for line in dict.fromkeys((*direction.source.left_out, *direction.target.left_out))),
        ),
        raw={
            "protocol": asdict(protocol),
            "precision": direction.translator.precision,
            "repeats": {
                m.metric.key: [value_of(one, m.metric.key) for one in repeats] for m in exemplar.system.measured
            },
            "results": {one.system.name: single_scores(one, direction.names, results) for one in (plain, exemplar)},
        },
    )


def _origin(domain: Domain) -> str:
    return "unseen" if domain.test else "training"


def _styles_fact(direction: Direction, protocol: Protocol, available: int) -> str:
    count = min(protocol.styles, available)
    of_each = f"the style{'s' * (count > 1)} of {count} image{'s' * (count > 1)}" if count > 1 else "that of one"
    lending = f"{available} {_origin(direction.target)} images of {direction.target.name}"
    again = f", {protocol.repeats} times over" if protocol.repeats > 1 else ""
    return f"the mean style; and for each content {of_each} drawn from {lending}{again}"


def _judge_mean_style(direction: Direction, evaluator: Evaluator, say: Notify) -> Judged:
    """The style that the model has without being told."""
    folder = direction.folder / "mean-style"
    folder.mkdir(exist_ok=True)
    say(f"translating {len(direction.contents)} images in the mean style ...")
    results = []
    with progress(len(direction.contents)) as update:
        for number, path in enumerate(direction.contents):
            write_rgb(folder / path.name, direction.translator(read_rgb(path)), durable=False)
            results.append(Result(path=folder / path.name, content=number))
            update(number + 1)
    return evaluator.judge(ResultFolder(name="mean style", results=tuple(results)))


def _judge_exemplars(
    direction: Direction, evaluator: Evaluator, codes: Sequence[Codes], repeat: int, protocol: Protocol, say: Notify
) -> Judged:
    """The styles of images: as many of each content as the protocol says, and more of some for diversity."""
    contents = direction.contents
    pairs = protocol.pairs if evaluator.means.pair_distance is not None else 0
    drawn = draw_styles(protocol, repeat, len(contents), len(codes), max(protocol.styles, _styles_for(pairs)))
    several = set(pick_contents(protocol, len(contents), protocol.pair_contents)) if pairs else set()
    folder, more = (direction.folder / f"{name}-{repeat}" for name in ("styles", "more-styles"))
    folder.mkdir(exist_ok=True)
    times = f", repeat {repeat + 1} of {protocol.repeats}" if protocol.repeats > 1 else ""
    say(f"translating {len(contents)} images in the styles of images{times} ...")
    results: tuple[list[Result], list[Result]] = ([], [])
    with progress(len(contents)) as update:
        for number, path in enumerate(contents):
            frame_rgb = read_rgb(path)
            for place, style in enumerate(drawn[number][: None if number in several else protocol.styles]):
                further = place >= protocol.styles
                out = more if further else folder
                out.mkdir(exist_ok=True)
                result = out / f"{path.stem}_{_file_name(style, direction.styles[style])}.png"
                write_rgb(result, direction.translator.submit(frame_rgb, codes[style])(), durable=False)
                results[further].append(Result(path=result, content=number, style=direction.styles[style].stem))
            update(number + 1)
    return evaluator.judge(ResultFolder(name="styles of images", results=tuple(results[0])), results[1])


def _styles_for(pairs: int) -> int:
    """How many styles have at least so many pairs."""
    count = 0
    while count * (count - 1) // 2 < pairs:
        count += 1
    return count


def _identity(direction: Direction, seed: int, side: int) -> Iterator[Measured]:
    """How far images of the target domain come back changed from their own decoder."""
    translator, domain = direction.translator, direction.target.name
    settings = replace(translator.settings, source=domain, precision=translator.precision)
    own = Translator(translator.bundle, domain, translator.backend_name, settings=settings)
    drifts = []
    try:
        for number in even_indices(len(direction.styles), _IDENTITY_IMAGES):
            frame_rgb = resize_shorter_side(read_rgb(direction.styles[number], at_least=side), side)
            back_rgb = own.submit(frame_rgb, own.find_style(frame_rgb))()
            drifts.append(float(np.abs(back_rgb.astype(np.int16) - frame_rgb).mean()))
    finally:
        own.close()
    yield Measured(
        metric=METRICS["identity"],
        value=float(np.mean(drifts)),
        interval=mean_interval(drifts, seed=seed, limits=LIMITS["identity"]),
        count=len(drifts),
    )
