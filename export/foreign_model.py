"""Opens checkpoints of other trainers for export, as `trained_model` opens one's own."""

from pathlib import Path

from dsmap.common.notify import Notify
from dsmap.export.import_request import ImportRequest
from dsmap.export.trained_model import TrainedModel
from dsmap.model.cyclegan_checkpoint import build_cyclegan, read_generator
from dsmap.runtime.bundle.bundle import file_sha256
from dsmap.training.datasets import check_domain_names, find_domains
from dsmap.training.style_statistics import prior_statistics


def open_foreign(request: ImportRequest, say: Notify = lambda _line: None) -> TrainedModel:
    """The generators of `request`. Raises InputError for files that are none, and for two that do not fit together."""
    check_domain_names(request.domains)
    images = _images(request)
    targets = request.domains[::-1][: len(request.checkpoints)]
    generators = dict(zip(targets, map(read_generator, request.checkpoints), strict=True))
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
        {source: images[source] for source in sources.values()},
        provenance,
    )


def _images(request: ImportRequest) -> dict[str, list[Path]]:
    """Images of each domain to check the graphs on: test images where there are any; empty lists without --data."""
    if request.data is None:
        return {domain: [] for domain in request.domains}
    return {one.name: list(one.test or one.train) for one in find_domains(request.data, (), names=request.domains)}
