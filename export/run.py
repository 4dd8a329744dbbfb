"""Exports from start to end: a request is checked, its checkpoint opened, the bundle written, its engines built."""

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError, InputError
from dsmap.export.request import EngineRequest, ExportRequest, UpdateRequest

if TYPE_CHECKING:
    from dsmap.export.bundle_writer import WrittenBundle
    from dsmap.export.costs import Cost
    from dsmap.export.engines import BuiltEngine, EngineJob, EngineTarget
    from dsmap.export.import_request import ImportRequest
    from dsmap.export.named_styles import Codes
    from dsmap.export.samples import SampleImage
    from dsmap.export.trained_model import TrainedModel
    from dsmap.runtime.engines.progress import BuildProgress
    from dsmap.training.style_statistics import StyleStatistics

    EngineProgress = Callable[[EngineJob], BuildProgress]
    """Makes the callback that follows the build of one engine."""


class ExportResult(NamedTuple):
    """A finished export."""

    folder: Path
    written: "WrittenBundle"
    costs: "dict[str, Cost]"
    """By component."""
    engines: "Sequence[BuiltEngine]"
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        from dsmap.export.report import export_report

        return export_report(self.folder, self.written, self.costs, self.engines, seconds=self.seconds)


class UpdateResult(NamedTuple):
    """What was added to a bundle."""

    folder: Path
    named_styles: "Codes"
    default_styles: "Mapping[str, StyleStatistics]"
    """New statistics by domain."""
    engines: "Sequence[BuiltEngine]"
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        from dsmap.export.report import engine_rows

        return {
            "bundle": str(self.folder),
            "named_styles": self.named_styles,
            "default_styles": {domain: found._asdict() for domain, found in self.default_styles.items()},
            "engines": engine_rows(self.engines),
        }


def export_model(
    request: ExportRequest, *, say: Notify = lambda _line: None, progress: "EngineProgress | None" = None
) -> ExportResult:
    """Writes the bundle `request.out`, whole and checked or not at all, then builds its engines.

    `say` receives a line about each step, `progress` follows the builds of engines. Raises InputError for a request
    that cannot be met (before torch is loaded where possible), DsmapError when a check fails or the disk is full.
    """
    from dsmap.export.bundle_folder import check_bundle_folder

    began = time.monotonic()
    if request.best and not (request.checkpoint / "checkpoints").is_dir():
        raise InputError(
            f"--best picks a checkpoint of a run folder; {request.checkpoint} is not one",
            "Leave it out, or pass the run.",
        )
    card = read_card(request.card)
    check_bundle_folder(request.out, overwrite=request.overwrite)
    engines = _resolve(request.engines, say)
    check_packages()
    say("loading torch ...")
    from dsmap.export.trained_model import open_model

    source = open_model(request, say)
    if engines is not None:
        engines.options(source.sizes)  # before the long work
    written, costs = write_and_sum_up(source, request, card, say, samples=request.samples, without=request.without)
    built = _build(request.out, engines, say, progress)
    return ExportResult(request.out, written, costs, built, time.monotonic() - began)


def write_and_sum_up(
    source: "TrainedModel",
    request: "ExportRequest | ImportRequest",
    card: str | None,
    say: Notify,
    *,
    samples: "Sequence[SampleImage]" = (),
    without: Sequence[str] = (),
) -> "tuple[WrittenBundle, dict[str, Cost]]":
    """Writes the bundle of `request`, and says what is in it."""
    from dsmap.export.bundle_writer import Variants, write_bundle
    from dsmap.export.costs import graph_costs
    from dsmap.export.report import summary
    from dsmap.export.rewrites import Rewrites

    rewrites = Rewrites.without(without)
    written = write_bundle(
        source,
        request.out,
        name=request.name,
        licence=request.licence,
        card=card,
        datasets=request.datasets,
        samples=samples,
        overwrite=request.overwrite,
        rewrites=rewrites,
        variants=Variants(fp16=request.fp16, int8=request.int8, force=request.force),
        say=say,
    )
    costs = graph_costs(source.model, rewrites)
    for line in summary(request.out, written, costs):
        say(line)
    return written, costs


def check_packages() -> None:
    """Raises DsmapError where a package of the extra "export" is not installed."""
    for module in ("torch", "yaml", "safetensors", "onnx", "onnxscript"):
        if find_spec(module) is None:
            name = {"yaml": "PyYAML"}.get(module, module)
            raise DsmapError(f"{name} is not installed", "pip install 'dsmap[export]'")


def update_bundle(
    request: UpdateRequest, *, say: Notify = lambda _line: None, progress: "EngineProgress | None" = None
) -> UpdateResult:
    """Adds named styles and engines to a bundle, and replaces default styles; nothing else in it changes.

    `say` and `progress`: see `export_model`. Raises InputError for a request that cannot be met, DsmapError when a
    file cannot be written or an engine cannot be built; engines built until then stay.
    """
    from dsmap.export.named_styles import add_named_styles
    from dsmap.runtime.bundle.manifest import read_manifest

    began = time.monotonic()
    engines = _resolve(request.engines, say)
    if engines is not None:
        engines.options(read_manifest(request.bundle).sizes)  # before anything is written
    if request.changes_card:
        from dsmap.export.card_update import update_card

        card = read_card(request.card)
        update_card(request.bundle, licence=request.licence, datasets=request.datasets, card=card)
        say("README.md: written" + (f", licence {request.licence}" if request.licence else ""))
    statistics: dict[str, StyleStatistics] = {}
    if request.default_styles:
        from dsmap.export.default_styles import replace_default_styles

        say(f"computing the style codes of the images of {' and '.join(request.default_styles)} ...")
        statistics = replace_default_styles(request.bundle, request.default_styles)
    for domain, found in statistics.items():
        say(f"default style of {domain}: from {found.pictures} images")
    codes: Codes = {}
    if request.named_styles:
        codes = add_named_styles(request.bundle, request.named_styles, overwrite=request.overwrite)
    for domain, added in codes.items():
        say(f"named styles of {domain}: {', '.join(added)}")
    if request.refiner is not None:
        check_packages()
        from dsmap.export.refiner import add_refiners

        for target, about in add_refiners(request.bundle, request.refiner, overwrite=request.overwrite).items():
            say(f"refiner to {target}: {about.get('psnr')} dB, {about.get('psnr_without')} dB without it")
    built = _build(request.bundle, engines, say, progress)
    return UpdateResult(request.bundle, codes, statistics, built, time.monotonic() - began)


def _resolve(request: EngineRequest | None, say: Notify) -> "EngineTarget | None":
    if request is None:
        return None
    from dsmap.export.engines import resolve_engines

    target = resolve_engines(request)
    if target.flavour.note:
        say(f"engines: {target.flavour.title} ({target.flavour.note})")
    return target


def _build(
    folder: Path, target: "EngineTarget | None", say: Notify, progress: "EngineProgress | None"
) -> "list[BuiltEngine]":
    if target is None:
        return []
    from dsmap.export.engines import build_engines
    from dsmap.runtime.bundle.bundle import Bundle

    bundle = Bundle.read(folder)
    say(f"building engines with {target.flavour.title} for GPUs of {', '.join(target.architectures)}")
    return build_engines(bundle, target.options(bundle.manifest.sizes), say, progress)


def read_card(card: Path | None) -> str | None:
    """The text of a model card. Raises InputError where it cannot be read."""
    if card is None:
        return None
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the model card {card}: {error}", "Pass --card a text file.") from error
