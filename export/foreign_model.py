"""Opens checkpoints of other trainers for export, as `trained_model` opens one's own."""

from pathlib import Path
from typing import Any

from dsmap.common.notify import Notify
from dsmap.config.base import check_given_domains
from dsmap.errors import InputError
from dsmap.export.import_request import ADVICE, ImportRequest
from dsmap.export.trained_model import TrainedModel
from dsmap.model.cyclegan_checkpoint import build_cyclegan, read_generator
from dsmap.model.foreign_weights import load_foreign
from dsmap.model.munit_checkpoint import build_munit, is_munit, read_munit
from dsmap.runtime.bundle.bundle import file_sha256
from dsmap.runtime.bundle.card import NOT_STATED
from dsmap.training.datasets import find_domains
from dsmap.training.style_statistics import prior_statistics, styles_by_domain

Images = dict[str, list[Path]]
"""By domain; empty lists where there are none."""


def open_foreign(request: ImportRequest, say: Notify = lambda _line: None) -> TrainedModel:
    """The generators of `request`. Raises InputError for files that are none, and for two that do not fit together."""
    check_given_domains(request.domains)
    first = load_foreign(request.checkpoints[0], ADVICE)
    return _open_munit(request, first, say) if is_munit(first) else _open_cyclegan(request, first, say)


def _open_cyclegan(request: ImportRequest, first: Any, say: Notify) -> TrainedModel:
    """`first` is what the first checkpoint holds."""
    checking, _ = _images(request)
    targets = request.domains[::-1][: len(request.checkpoints)]
    found = [read_generator(path, tree) for path, tree in zip(request.checkpoints, (first, None), strict=False)]
    generators = dict(zip(targets, found, strict=True))
    model = build_cyclegan(request.domains, generators)
    for target, generator in generators.items():
        say(
            f"{generator.path.name}: to {target}, CycleGAN's ResNet generator of {generator.n_res} blocks, width"
            f" {generator.dim}"
        )
    sources = {target: request.domains[1 - request.domains.index(target)] for target in generators}
    provenance = {
        "kind": "cyclegan",
        "checkpoints": {
            target: {"file": one.path.name, "sha256": file_sha256(one.path)} for target, one in generators.items()
        },
    }
    return TrainedModel(
        model,
        request.size,
        {domain: prior_statistics(0) for domain in request.domains},
        {source: checking[source] for source in sources.values()},
        provenance,
    )


def _open_munit(request: ImportRequest, tree: Any, say: Notify) -> TrainedModel:
    """Both generators of one checkpoint, which holds `tree`. Default styles are those of --data, or the prior."""
    path, *more = request.checkpoints
    if more:
        raise InputError(
            f"{path} is of a MUNIT, which has both generators in one file; another one is {more[0]}",
            f"Pass {path.name} alone.",
        )
    checking, training = _images(request)
    found = read_munit(path, tree)
    model = build_munit(request.domains, found)
    config = model.config
    say(
        f"{path.name}: {' and '.join(config.domains)}, MUNIT's generators of {config.n_res} blocks, width {config.dim},"
        f" styles of {config.style_dim} numbers"
    )
    if request.licence == NOT_STATED:
        say("the licence is not stated; weights that MUNIT's authors published need --licence cc-by-nc-sa-4.0")
    if request.size < config.style_minimum_size:
        raise InputError(f"--size is {request.size}", f"This network's styles need {config.style_minimum_size} pixels.")
    styles = {domain: prior_statistics(config.style_dim) for domain in config.domains}
    if request.data is not None:
        say(f"computing the style codes of {sum(map(len, training.values()))} images ...")
        styles = styles_by_domain(model, training, request.size)
    provenance = {"kind": "munit", "file": path.name, "weights_sha256": file_sha256(path)}
    return TrainedModel(model, request.size, styles, checking, provenance)


def _images(request: ImportRequest) -> tuple[Images, Images]:
    """Images to check the graphs on (test images where there are any), and training images."""
    if request.data is None:
        return {domain: [] for domain in request.domains}, {}
    found = list(find_domains(request.data, (), names=request.domains))
    return {one.name: list(one.test or one.train) for one in found}, {one.name: list(one.train) for one in found}
