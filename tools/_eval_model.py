"""A model, judged by its translations of unseen pictures in both directions."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from dsmap.data import resize_shorter_side
from dsmap.domains import Domain, Domains
from dsmap.errors import InputError
from dsmap.images import read_picture_rgb, write_picture
from dsmap.metrics.catalogue import METRICS
from dsmap.metrics.evaluate import Evaluator, Judged, Means, average
from dsmap.metrics.findings import Grid, Measured, Picture, Report
from dsmap.metrics.intervals import mean_interval
from dsmap.metrics.protocol import Protocol, draw_styles, pick_contents
from dsmap.metrics.results import read_results
from dsmap.runtime.backends import Codes, Settings
from dsmap.runtime.bundle import Bundle
from dsmap.runtime.models import find_model
from dsmap.runtime.translator import Translator
from dsmap.tools._eval_images import Say, evenly, facts, notes, shown, single_scores, worst

_ROWS, _EXEMPLARS, _STEPS = 6, 4, 7
_IDENTITY_PICTURES = 40
_FEWEST = 8  # pictures of the target domain to compare with


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What of a model is measured, and how it runs."""

    protocol: Protocol
    preset: str
    target: str | None = None
    """The direction; None: both."""
    height: int | None = None
    """Shorter side of the pictures; None: that of the training."""
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Direction:
    """One direction of a model, and its pictures."""

    translator: Translator
    source: Domain
    target: Domain
    contents: tuple[Path, ...]
    """As they are translated, in files of their own."""
    styles: tuple[Path, ...]
    """Pictures of the target domain that lend their styles."""
    folder: Path


@contextmanager
def open_bundle(model: str, say: Say) -> Iterator[Bundle]:
    """The bundle `model`, bundled or in a folder; a checkpoint of dsmap-train is exported for the while (fp32)."""
    folder = Path(model)
    if _is_checkpoint(folder):
        from dsmap.export.exporter import export_bundle
        from dsmap.export.sources import open_checkpoint

        with tempfile.TemporaryDirectory(prefix="dsmap-eval-") as scratch:
            say(f"exporting the checkpoint {folder} to measure what it will be in use ...")
            export_bundle(open_checkpoint(folder), Path(scratch, "model"), name=folder.resolve().name)
            yield Bundle.read(Path(scratch, "model"))
    else:
        yield Bundle.read(find_model(model))


def evaluate(bundle: Bundle, domains: Domains, means: Means, wishes: Wishes, results: Path, say: Say) -> list[Report]:
    """A report for each direction; every translation is left under `results`. Raises InputError."""
    by_name = {domain.name: domain for domain in domains}
    if set(by_name) != set(bundle.domains):
        got, expected = ", ".join(by_name), ", ".join(bundle.domains)
        raise InputError(f"the pictures are of {got}, the model of {expected}", "Use the model's names with --domain.")
    targets = [wishes.target] if wishes.target else [bundle.domains[1], bundle.domains[0]]
    reports = []
    for target in targets:
        source = bundle.source_of(target)
        say(f"{source} to {target}")
        settings = Settings(threads=wishes.threads, precision=wishes.precision)
        translator = Translator(bundle, target, wishes.backend, settings=settings)
        try:
            direction = _prepare(translator, by_name[source], by_name[target], wishes, results / f"to-{target}")
            reports.append(_of_direction(direction, means, wishes, say))
        finally:
            translator.close()
    return reports


def _is_checkpoint(folder: Path) -> bool:
    if folder.suffix == ".safetensors":
        return True
    return folder.is_dir() and ((folder / "checkpoints").is_dir() or (folder / "training.json").is_file())


def _prepare(translator: Translator, source: Domain, target: Domain, wishes: Wishes, folder: Path) -> _Direction:
    """Unseen pictures, or those of the training where there are none, at the size that they are translated at."""
    unseen = source.test or source.train
    side = wishes.height or translator.bundle.manifest.sizes.trained_at
    (folder / "contents").mkdir(parents=True, exist_ok=True)
    contents: list[Path] = []
    for number in pick_contents(wishes.protocol, len(unseen)):
        path = folder / "contents" / f"{len(contents):03d}-{unseen[number].stem}.png"
        write_picture(path, resize_shorter_side(read_picture_rgb(unseen[number], at_least=side), side))
        contents.append(path)
    if len(contents) < 2 or len(target.train) < _FEWEST:
        raise InputError(
            f"{len(contents)} pictures of {source.name} to translate, {len(target.train)} of {target.name} to compare"
            f" with; expected at least 2 and {_FEWEST}",
            "Pass folders with more pictures.",
        )
    return _Direction(
        translator=translator,
        source=source,
        target=target,
        contents=tuple(contents),
        styles=target.test or target.train,
        folder=folder,
    )


def _of_direction(direction: _Direction, means: Means, wishes: Wishes, say: Say) -> Report:
    protocol, target, source = wishes.protocol, direction.target.name, direction.source.name
    evaluator = Evaluator(
        direction.target.train, means, contents=direction.contents, source=direction.source.train, say=say
    )
    codes = [direction.translator.find_style(path) for path in direction.styles]
    plain = _judge_mean_style(direction, evaluator, say)
    repeats = range(protocol.repeats)
    exemplar = average([_judge_exemplars(direction, evaluator, codes, r, protocol, say) for r in repeats])
    measured = (*plain.system.measured, *_identity(direction, means.seed))
    plain = plain._replace(system=replace(plain.system, measured=measured))
    real = "Pictures of the target domain that were not trained on: what a perfect translation could reach."
    baselines = [evaluator.baseline(f"untranslated {source}", direction.contents)]
    if direction.target.test:
        baselines.append(evaluator.baseline(f"real {target}", direction.target.test, real))
    manifest = direction.translator.bundle.manifest
    return Report(
        title=f"{manifest.name}: {source} to {target}",
        facts={
            "model": f"{manifest.name}, {direction.translator.precision} on {direction.translator.backend_description}",
            "contents": f"{len(direction.contents)} {_origin(direction.source)} pictures of {source}",
            "styles": f"the mean, and those of {protocol.styles} of {len(codes)} {_origin(direction.target)} pictures "
            f"of {target} for each content, {protocol.repeats} time{'s' * (protocol.repeats > 1)}",
            "reference": f"{len(direction.target.train)} training pictures of {target}",
            "protocol": wishes.preset,
            **facts(means),
        },
        systems=(*baselines, plain.system, exemplar.system),
        grids=(
            _matrix(direction, codes),
            _strip(direction, codes),
            worst(plain, direction.contents),
            worst(exemplar, direction.contents),
        ),
        notes=tuple(notes(means, evaluator)),
        raw={
            "protocol": asdict(protocol),
            "results": {one.system.name: single_scores(one) for one in (plain, exemplar)},
        },
    )


def _origin(domain: Domain) -> str:
    return "unseen" if domain.test else "training"


def _judge_mean_style(direction: _Direction, evaluator: Evaluator, say: Say) -> Judged:
    """The style that the model has without being told."""
    folder = direction.folder / "mean-style"
    folder.mkdir(exist_ok=True)
    say(f"translating {len(direction.contents)} pictures in the mean style ...")
    for path in direction.contents:
        write_picture(folder / path.name, direction.translator(read_picture_rgb(path)))
    return evaluator.judge(read_results("mean style", folder, direction.contents))


def _judge_exemplars(
    direction: _Direction, evaluator: Evaluator, codes: Sequence[Codes], repeat: int, protocol: Protocol, say: Say
) -> Judged:
    """The styles of pictures: as many of each content as the protocol says, and more of some for diversity."""
    contents = direction.contents
    drawn = draw_styles(protocol, repeat, len(contents), len(codes), max(protocol.styles, _styles_for(protocol.pairs)))
    several = set(pick_contents(protocol, len(contents), protocol.pair_contents)) if protocol.pairs else set()
    folder, more = (direction.folder / f"{name}-{repeat}" for name in ("styles", "more-styles"))
    for one in (folder, more):
        one.mkdir(exist_ok=True)
    say(f"translating {len(contents)} pictures in the styles of pictures ...")
    for number, path in enumerate(contents):
        frame_rgb = read_picture_rgb(path)
        for place, style in enumerate(drawn[number]):
            if place >= protocol.styles and number not in several:
                break
            name = f"{path.stem}_{direction.styles[style].stem}.png"
            out = folder if place < protocol.styles else more
            write_picture(out / name, direction.translator.submit(frame_rgb, codes[style])())
    further = read_results("", more, contents).results if any(more.iterdir()) else ()
    return evaluator.judge(read_results("styles of pictures", folder, contents), further)


def _styles_for(pairs: int) -> int:
    """How many styles have at least so many pairs."""
    count = 0
    while count * (count - 1) // 2 < pairs:
        count += 1
    return count


def _identity(direction: _Direction, seed: int) -> Iterator[Measured]:
    """How far pictures of the target domain come back changed from their own decoder."""
    translator, domain = direction.translator, direction.target.name
    settings = replace(translator.settings, source=domain, precision=translator.precision)
    own = Translator(translator.bundle, domain, translator.backend_name, settings=settings)
    side = translator.bundle.manifest.sizes.trained_at
    drifts = []
    try:
        for number in evenly(len(direction.styles), _IDENTITY_PICTURES):
            frame_rgb = resize_shorter_side(read_picture_rgb(direction.styles[number], at_least=side), side)
            back_rgb = own.submit(frame_rgb, own.find_style(frame_rgb))()
            drifts.append(float(np.abs(back_rgb.astype(np.int16) - frame_rgb).mean()))
    finally:
        own.close()
    yield Measured(
        metric=METRICS["identity"],
        value=float(np.mean(drifts)),
        interval=mean_interval(drifts, seed=seed, limits=(0, 255)),
        count=len(drifts),
    )


def _matrix(direction: _Direction, codes: Sequence[Codes]) -> Grid:
    """Contents in rows, styles in columns; the pictures that lend the styles in the first row."""
    translator = direction.translator
    styles = evenly(len(codes), _EXEMPLARS)
    named = translator.bundle.manifest.styles[direction.target.name].named
    columns: list[tuple[str, Codes, Picture | None]] = [("mean style", translator.find_style(None), None)]
    columns += [(name, np.array(code, np.float32), None) for name, code in named.items()]
    columns += [(direction.styles[i].stem, codes[i], shown(direction.styles[i])) for i in styles]
    rows = [direction.contents[i] for i in evenly(len(direction.contents), _ROWS)]
    cells: list[tuple[Picture | None, ...]] = [(None, *(lends for _, _, lends in columns))] if styles else []
    for path in rows:
        frame_rgb = read_picture_rgb(path)
        cells.append((shown(frame_rgb), *(shown(translator.submit(frame_rgb, code)()) for _, code, _ in columns)))
    return Grid(
        title="Contents and styles",
        rows=("style", *(path.stem for path in rows)),
        columns=("content", *(name for name, _, _ in columns)),
        cells=tuple(cells),
        text="Each row a content, each column a style; pictures in the first row lend theirs.",
    )


def _strip(direction: _Direction, codes: Sequence[Codes]) -> Grid:
    """A few contents on the way from one style to another: the two pictures' styles that lie furthest apart."""
    codes_ns = np.stack(codes)
    apart = ((codes_ns[:, None] - codes_ns[None]) ** 2).sum(2)
    start, end = np.unravel_index(apart.argmax(), apart.shape)
    shares = np.linspace(0, 1, _STEPS)
    rows = [direction.contents[i] for i in evenly(len(direction.contents), 3)]
    cells = []
    for path in rows:
        frame_rgb = read_picture_rgb(path)
        mixed = [((1 - share) * codes_ns[start] + share * codes_ns[end]).astype(np.float32) for share in shares]
        cells.append(tuple(shown(direction.translator.submit(frame_rgb, code)()) for code in mixed))
    return Grid(
        title="From one style to another",
        rows=tuple(path.stem for path in rows),
        columns=tuple(f"{share:.0%}" for share in shares),
        cells=tuple(cells),
        text=f"Between the styles of {direction.styles[start].stem} and {direction.styles[end].stem}, mixed linearly.",
    )
