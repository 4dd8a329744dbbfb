"""The job of `dsmap-eval model`: a report on a model's translations of unseen images, for each direction."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dsmap.common.images import read_rgb, resize_shorter_side, write_rgb
from dsmap.common.notify import Notify
from dsmap.common.sampling import even_indices, pick_evenly
from dsmap.common.scratch import scratch_folder
from dsmap.errors import InputError
from dsmap.metrics.comparison import result_scores
from dsmap.metrics.evaluator import Evaluation, Evaluator, average
from dsmap.metrics.protocol import Protocol, pick_contents
from dsmap.metrics.report.grids import worst_results
from dsmap.metrics.report.notes import few_images, protocol_notes, repeat_notes, suite_notes, unequal_counts, value_of
from dsmap.metrics.report.verdict import of_model
from dsmap.metrics.suite import MetricSuite
from dsmap.metrics.types import Report, System
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.translator import Translator
from dsmap.tools.eval.images import evaluator_with_progress
from dsmap.tools.eval.model_results import evaluate_exemplar_styles, evaluate_mean_style, identity_drift, result_name
from dsmap.tools.eval.styles import ModelDirection, interpolation_grid, style_grid
from dsmap.training.datasets import Domain, Domains

_MIN_REFERENCES = 8  # images of the target domain
_MAX_STYLES = 500  # images whose styles are used


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """What is measured on a model, and how it runs."""

    protocol: Protocol
    preset: str
    """The protocol's name, for the report."""
    named: bool = True
    """Whether the image folders have the domains' names; if not, they get the model's, in its order."""
    target: str | None = None
    """The target domain; None: both."""
    height: int | None = None
    """Shorter side of the images; None: that of the training."""
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    trust_engines: bool = False
    keep: bool = True
    """Whether translations are kept; if not, they are removed after each direction."""


def use_threads(count: int | None) -> None:
    """Limits the threads of the feature networks; None: all cores."""
    if count is not None:
        torch.set_num_threads(count)


@contextmanager
def open_bundle(model: str, say: Notify) -> Iterator[Bundle]:
    """The bundle `model`, by name or folder; a checkpoint of dsmap-train is exported to a temporary one (fp32)."""
    folder = Path(model)
    if _is_checkpoint(folder):
        from dsmap.export.bundle_writer import write_bundle
        from dsmap.export.trained_model import open_checkpoint

        with scratch_folder("eval") as scratch:
            say(f"exporting the checkpoint {folder}, so that the model is measured as it will be used ...")
            write_bundle(open_checkpoint(folder), scratch / "model", name=folder.resolve().name)
            yield Bundle.read(scratch / "model")
    else:
        yield Bundle.read(find_model(model))


def evaluate_model(
    bundle: Bundle, domains: Domains, suite: MetricSuite, request: ModelEvaluation, results: Path, say: Notify
) -> list[Report]:
    """A report for each direction; translations are written under `results`. Raises InputError."""
    names = [domain.name for domain in domains] if request.named else bundle.domains
    by_name = dict(zip(names, domains, strict=True))
    reports = []
    for source, target in _directions(bundle, by_name, request):
        say(f"{source} to {target}")
        settings = BackendSettings(
            threads=request.threads, precision=request.precision, trust_engines=request.trust_engines
        )
        translator = Translator(bundle, target, request.backend, settings=settings)
        try:
            direction = _prepare(translator, by_name, request, results / f"to-{target}")
            reports.append(_report(direction, suite, request, results, say))
        finally:
            translator.close()
        if not request.keep:
            shutil.rmtree(direction.folder)  # by the paper's protocol more than a gigabyte
    return reports


def _is_checkpoint(folder: Path) -> bool:
    if folder.suffix == ".safetensors":
        return True
    return folder.is_dir() and ((folder / "checkpoints").is_dir() or (folder / "training.json").is_file())


def _directions(bundle: Bundle, by_name: Mapping[str, Domain], request: ModelEvaluation) -> list[tuple[str, str]]:
    """(source, target) of all that is measured. Raises InputError for whatever would stop the work halfway."""
    if set(by_name) != set(bundle.domains):
        got, expected = " and ".join(by_name), " and ".join(bundle.domains)
        names = ",".join(bundle.domains)
        raise InputError(f"the images are of {got}, the model of {expected}", f"Name them: --domains {names}.")
    if request.target is not None and request.target not in by_name:
        raise InputError(
            f"the model {bundle.manifest.name} has no domain {request.target!r}",
            f"Pass --to {bundle.domains[0]} or --to {bundle.domains[1]}.",
        )
    targets = [request.target] if request.target else [*bundle.manifest.targets[::-1]]
    found = [(bundle.source_of(target), target) for target in targets]
    for source, target in found:
        unseen = by_name[source].test or by_name[source].train
        if len(unseen) < 2:
            raise InputError(f"one image of {source} to translate, expected 2 or more", "Pass more images.")
        if len(by_name[target].train) < _MIN_REFERENCES:
            raise InputError(
                f"{len(by_name[target].train)} images of {target} to compare with, expected {_MIN_REFERENCES} or more",
                "Pass a folder with more images; a few hundred make distances meaningful.",
            )
    return found


def _prepare(
    translator: Translator, by_name: Mapping[str, Domain], request: ModelEvaluation, folder: Path
) -> ModelDirection:
    """The direction's images: unseen ones, or those of the training where there are none, at the evaluation's size."""
    source, target = by_name[translator.source], by_name[translator.target]
    unseen = source.test or source.train
    side = _side(translator, request)
    (folder / "contents").mkdir(parents=True, exist_ok=True)
    chosen = pick_contents(request.protocol, len(unseen))
    contents: list[Path] = []
    for number in chosen:
        path = folder / "contents" / f"{result_name(len(contents), unseen[number])}.png"
        write_rgb(path, resize_shorter_side(read_rgb(unseen[number], at_least=side), side), durable=False)
        contents.append(path)
    return ModelDirection(
        translator=translator,
        source=replace(source, name=translator.source),
        target=replace(target, name=translator.target),
        contents=tuple(contents),
        names=tuple(unseen[number].stem for number in chosen),
        styles=tuple(pick_evenly(target.test or target.train, _MAX_STYLES)),
        folder=folder,
    )


def _side(translator: Translator, request: ModelEvaluation) -> int:
    """Shorter side of every image of the evaluation."""
    return request.height or translator.bundle.manifest.sizes.trained_at


def _report(
    direction: ModelDirection, suite: MetricSuite, request: ModelEvaluation, results: Path, say: Notify
) -> Report:
    side, reference = _side(direction.translator, request), direction.target.train
    evaluator = evaluator_with_progress(
        reference, suite, contents=direction.contents, source=direction.source.train, say=say, side=side
    )
    # Copies: what ONNX Runtime hands out can keep a session's memory alive, 17 MB a style.
    styled = direction.translator.bundle.manifest.has_styles
    codes = [np.array(direction.translator.find_style(path)) for path in direction.styles if styled]
    plain = evaluate_mean_style(direction, evaluator, say)
    if styled:  # a model without styles has no reconstruction either
        measured = (*plain.system.measured, *identity_drift(direction, suite.seed, side))
        plain = plain._replace(system=replace(plain.system, measured=measured))
    repeats = [
        evaluate_exemplar_styles(direction, evaluator, codes, repeat, request.protocol, say)
        for repeat in range(request.protocol.repeats if styled else 0)
    ]
    found = [plain, *([average(repeats)] if repeats else [])]
    baselines = _baselines(direction, evaluator, len(found[-1].results))
    said = of_model(
        [one.system for one in found],
        untranslated=baselines[0],
        real=baselines[1] if len(baselines) > 1 else None,
        source=direction.source.name,
        target=direction.target.name,
        references=len(reference),
    )
    return Report(
        title=f"{direction.translator.bundle.manifest.name}: {direction.source.name} to {direction.target.name}",
        facts=_facts(direction, request, len(codes), side) | suite.facts(),
        systems=(*(one.system for one in found), *baselines),
        grids=(
            style_grid(direction, codes),
            *([interpolation_grid(direction, codes)] if codes else []),
            *(grid for one in found for grid in worst_results(one, direction.contents, direction.names)),
        ),
        verdict=said,
        notes=(
            *suite_notes(suite, evaluator),
            *few_images(len(direction.contents), len(reference)),
            *protocol_notes(
                request.protocol,
                source=direction.source,
                target=direction.target,
                contents=len(direction.contents),
                styles=len(direction.styles) if styled else None,
            ),
            *unequal_counts((plain.system, *(one.system for one in repeats[:1]), *baselines)),
            *repeat_notes(repeats),
            *(f"{line}." for line in dict.fromkeys((*direction.source.left_out, *direction.target.left_out))),
        ),
        raw=_raw(direction, request.protocol, found, repeats, results),
    )


def _baselines(direction: ModelDirection, evaluator: Evaluator, count: int) -> list[System]:
    """The untranslated contents, and up to `count` real images of the target domain where unseen ones exist."""
    baselines = [evaluator.baseline(f"untranslated {direction.source.name}", direction.contents)]
    test = direction.target.test
    if test:
        real = [test[i] for i in even_indices(len(test), count)]
        baselines.append(
            evaluator.baseline(f"real {direction.target.name}", real, "What a perfect translation could reach.")
        )
    return baselines


def _facts(direction: ModelDirection, request: ModelEvaluation, styles: int, side: int) -> dict[str, str]:
    source, target, translator = direction.source, direction.target, direction.translator
    return {
        "model": f"{translator.bundle.manifest.name}, {translator.backend_description}",
        "contents": f"{len(direction.contents)} {_origin(source)} images of {source.name}",
        "styles": _styles_fact(direction, request.protocol, styles),
        "reference": f"{len(target.train)} training images of {target.name}",
        "size": f"all images at a shorter side of {side} pixels",
        "protocol": request.preset,
    }


def _raw(
    direction: ModelDirection,
    protocol: Protocol,
    found: Sequence[Evaluation],
    repeats: Sequence[Evaluation],
    results: Path,
) -> dict[str, object]:
    return {
        "protocol": asdict(protocol),
        "precision": direction.translator.precision,
        "repeats": {
            m.metric.key: [value_of(one, m.metric.key) for one in repeats] for m in found[-1].system.measured if repeats
        },
        "results": {one.system.json_name: result_scores(one, direction.names, results) for one in found},
    }


def _origin(domain: Domain) -> str:
    return "unseen" if domain.test else "training"


def _styles_fact(direction: ModelDirection, protocol: Protocol, available: int) -> str:
    if not direction.translator.bundle.manifest.has_styles:
        return "none: the model has one translation of each content"
    count = min(protocol.styles, available)
    of_each = f"the styles of {count} images" if count > 1 else "that of one"
    drawn_from = f"{available} {_origin(direction.target)} images of {direction.target.name}"
    again = f", {protocol.repeats} times" if protocol.repeats > 1 else ""
    return f"the mean style; and for each content {of_each} drawn from {drawn_from}{again}"
