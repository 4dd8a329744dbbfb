"""Translations of a model in the mean style and in the styles of images, and what is measured on them.

A model without styles has one translation of each content, in place of that in the mean style.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsmap.common.images import read_rgb, resize_shorter_side, write_rgb
from dsmap.common.notify import Notify
from dsmap.common.sampling import even_indices
from dsmap.metrics.catalogue import LIMITS, METRICS
from dsmap.metrics.evaluator import Evaluation, Evaluator
from dsmap.metrics.intervals import mean_interval
from dsmap.metrics.protocol import Protocol, draw_styles, pick_contents
from dsmap.metrics.result_folders import ResultFolder, ResultImage
from dsmap.metrics.types import MetricValue
from dsmap.runtime.backends.base import Codes
from dsmap.runtime.translator import Translator
from dsmap.tools.eval.styles import ModelDirection
from dsmap.tools.shared.progress import progress

_MAX_IDENTITY_IMAGES = 40
_MAX_STEM = 80  # bytes of an image's name in the name of a result
_EXEMPLARS, _EXEMPLARS_KEY = "styles of images", "styles of pictures"  # the key is read by scripts


def evaluate_mean_style(direction: ModelDirection, evaluator: Evaluator, say: Notify) -> Evaluation:
    """Translates every content in the model's default style, if it has styles, and measures the results."""
    styled = direction.translator.bundle.manifest.has_styles
    name, where = ("mean style", " in the mean style") if styled else ("translations", "")
    folder = direction.folder / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    say(f"translating {len(direction.contents)} images{where} ...")
    results = []
    with progress(len(direction.contents)) as update:
        for number, path in enumerate(direction.contents):
            write_rgb(folder / path.name, direction.translator(read_rgb(path)), durable=False)
            results.append(ResultImage(path=folder / path.name, content=number))
            update(number + 1)
    return evaluator.evaluate(ResultFolder(name=name, results=tuple(results)))


def evaluate_exemplar_styles(
    direction: ModelDirection,
    evaluator: Evaluator,
    codes: Sequence[Codes],
    repeat: int,
    protocol: Protocol,
    say: Notify,
) -> Evaluation:
    """Translates every content in the styles of as many images as the protocol says and measures the results.

    Some contents are translated in further styles, for diversity.
    """
    contents = direction.contents
    pairs = protocol.pairs if evaluator.suite.pair_distance is not None else 0
    drawn = draw_styles(protocol, repeat, len(contents), len(codes), max(protocol.styles, _styles_for(pairs)))
    several = set(pick_contents(protocol, len(contents), protocol.pair_contents)) if pairs else set()
    folder, more = (direction.folder / f"{name}-{repeat}" for name in ("styles", "more-styles"))
    folder.mkdir(exist_ok=True)
    times = f", repeat {repeat + 1} of {protocol.repeats}" if protocol.repeats > 1 else ""
    say(f"translating {len(contents)} images in the styles of images{times} ...")
    results: tuple[list[ResultImage], list[ResultImage]] = ([], [])
    with progress(len(contents)) as update:
        for number, path in enumerate(contents):
            frame_rgb = read_rgb(path)
            for place, style in enumerate(drawn[number][: None if number in several else protocol.styles]):
                further = place >= protocol.styles
                out = more if further else folder
                out.mkdir(exist_ok=True)
                result = out / f"{path.stem}_{result_name(style, direction.styles[style])}.png"
                write_rgb(result, direction.translator.submit(frame_rgb, codes[style])(), durable=False)
                results[further].append(ResultImage(path=result, content=number, style=direction.styles[style].stem))
            update(number + 1)
    found = evaluator.evaluate(ResultFolder(name=_EXEMPLARS, results=tuple(results[0])), results[1])
    return found._replace(system=replace(found.system, key=_EXEMPLARS_KEY))


def identity_drift(direction: ModelDirection, seed: int, side: int) -> Iterator[MetricValue]:
    """How much images of the target domain change when they are translated to that domain, in their own style."""
    translator, domain = direction.translator, direction.target.name
    settings = replace(translator.settings, source=domain, precision=translator.precision)
    own = Translator(translator.bundle, domain, translator.backend_name, settings=settings)
    drifts = []
    try:
        for number in even_indices(len(direction.styles), _MAX_IDENTITY_IMAGES):
            frame_rgb = resize_shorter_side(read_rgb(direction.styles[number], at_least=side), side)
            back_rgb = own.submit(frame_rgb, own.find_style(frame_rgb))()
            drifts.append(float(np.abs(back_rgb.astype(np.int16) - frame_rgb).mean()))
    finally:
        own.close()
    yield MetricValue(
        metric=METRICS["identity"],
        value=float(np.mean(drifts)),
        interval=mean_interval(drifts, seed=seed, limits=LIMITS["identity"]),
        count=len(drifts),
    )


def result_name(number: int, path: Path) -> str:
    """A file name, without a suffix, for what is made of the image at `path`: its number and its shortened name."""
    own = path.stem.encode("utf-8", "replace")[:_MAX_STEM].decode("utf-8", "ignore")
    return f"{number:03d}-{own}"


def _styles_for(pairs: int) -> int:
    """The smallest number of styles that has `pairs` pairs."""
    count = 0
    while count * (count - 1) // 2 < pairs:
        count += 1
    return count
