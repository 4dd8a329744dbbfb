"""Collects what is known of a model, for `dsmap models show` and `list`, without loading or pulling it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmap.common.files import read_regular
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import bundled_models, find_model
from dsmap.runtime.bundle.card import CARD, SAMPLES
from dsmap.runtime.bundle.manifest import Manifest, read_manifest
from dsmap.runtime.hub.address import SCHEME, parse_address
from dsmap.runtime.hub.cache import PulledModel, commit_of, find_pulled, list_damaged, list_pulled, pulled_from
from dsmap.runtime.hub.client import Hub
from dsmap.runtime.hub.contents import MAX_DOCUMENT, is_extra
from dsmap.runtime.hub.models import address_of
from dsmap.runtime.hub.names import is_hub_model
from dsmap.runtime.hub.pull import read_offer
from dsmap.runtime.hub.registry import known_models

_SIDE = 256
_PER_FRAME = ("content_encoder", "mapping", "decoder")
SPEEDS = (
    (4.0, "light", "live on a laptop's CPU"),
    (12.0, "medium", "live on a fast CPU or any GPU"),
    (float("inf"), "heavy", "live on a GPU; files on a CPU, slowly"),
)
"""Up to how many thousand million multiply-adds for a frame of 256x256, the class, and what it is good for."""


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A line of the list."""

    name: str
    """What `--model` takes."""
    place: str
    """package, cache, damaged (in the cache), or "not pulled"."""
    domains: tuple[str, str] | None
    """None where it is not known before a pull."""
    targets: tuple[str, ...] | None
    """Those of them that it translates to."""
    bytes: int | None
    about: str
    """A line from the registry; empty for models that the project does not know."""
    commit: str | None = None
    """Of a model in the cache."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """All that is told about a model."""

    name: str
    domains: tuple[str, str]
    targets: tuple[str, ...]
    """Those of them that it translates to."""
    place: str
    """package, cache, hub or folder."""
    folder: Path | None
    """None for a model that was not pulled."""
    source: str | None
    """hf:owner/name@commit, for models of the Hub."""
    endpoint: str | None
    bytes: int
    precisions: tuple[str, ...]
    speed: str
    """light, medium or heavy."""
    multiply_adds: float
    """About how many a frame of 256x256 takes, in thousand millions."""
    trained_at: int
    """Pixels of the shorter side."""
    styles: dict[str, list[str]]
    """Names of styles by domain."""
    has_styles: bool
    """False: each frame has one translation."""
    refines_to: tuple[str, ...]
    """The domains to which its refiner brings translations of a lower height to full size."""
    licence: str
    datasets: tuple[str, ...]
    """What it was trained on, as its maker says."""
    origin: str
    """Where the weights came from, in a line."""
    pictures: tuple[str, ...]
    """Paths of sample pictures, in the model."""
    card: str
    """Markdown, as its maker wrote it."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"folder": None if self.folder is None else str(self.folder)}


def list_models() -> list[ListedModel]:
    """The models that have a name, then the others in the cache."""
    known = known_models()
    rows = [
        _known_row(name, known[name].about if name in known else "")
        for name in dict.fromkeys([*bundled_models(), *known])
    ]
    named = {str(model.address) for model in known.values()}
    rows += [_pulled_row(_called(one), one, "") for one in list_pulled() if str(one.pinned) not in named]
    return rows + [_damaged_row(str(one.pinned), one.commit) for one in list_damaged() if one.folder.is_dir()]


def describe_model(model: str) -> ModelFacts:
    """What is known of the model that `find_model` would find. One of the Hub that was not pulled is only looked at.

    Raises InputError and DsmapError as `find_model` and `read_offer`.
    """
    if is_hub_model(model):
        address, sha256 = address_of(model)
        if find_pulled(address, bundle_sha256=sha256) is None:
            return _offered_facts(model)
    folder = find_model(model)
    manifest, pulled = read_manifest(folder), pulled_from(folder)
    extras = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    sizes = sum((folder / path).stat().st_size for path in extras)
    card = read_card(folder) or manifest.card
    place = "cache" if pulled else "package" if model in bundled_models() else "folder"
    return _facts(manifest, place, folder, pulled, sizes, [path for path in extras if is_extra(path)], card)


def verify_model(model: str) -> Bundle:
    """Reads and checks every file of a model. One of the Hub is checked in the cache, and not pulled.

    Raises InputError for a model that is not whole, not what was pulled, or not there.
    """
    if is_hub_model(model):
        address, sha256 = address_of(model)
        pulled = find_pulled(address, bundle_sha256=sha256)
        if pulled is None:
            raise InputError(f"{model} is not in the cache", f"Run: dsmap models pull {model}")
        return Bundle.read(pulled.folder)
    return Bundle.read(find_model(model))


def read_card(folder: Path) -> str | None:
    """The text of a bundle's README.md; None where it has none. Raises InputError for one that is too large."""
    if not (folder / CARD).is_file():
        return None
    return read_regular(folder / CARD, limit=MAX_DOCUMENT, what="the card").decode("utf-8", "replace")


def speed_class(manifest: Manifest) -> tuple[str, str, float]:
    """Its name, what it is good for, and about how many thousand million multiply-adds a frame of 256x256 takes.

    Most weights are applied once at every position of the content, so that their number tells the work to a factor of
    two.
    """
    parts = [getattr(manifest.components, name) for name in _PER_FRAME]
    weights = sum(max((file.bytes for file in part.values()), default=0) for part in parts) / 4
    work = 1.5 * weights * (_SIDE / manifest.sizes.multiple_of) ** 2 / 1e9
    name, good_for = next((name, good_for) for most, name, good_for in SPEEDS if work <= most)
    return name, good_for, work


def _facts(
    manifest: Manifest,
    place: str,
    folder: Path | None,
    pulled: PulledModel | None,
    size: int,
    extras: list[str],
    card: str,
) -> ModelFacts:
    speed, _, work = speed_class(manifest)
    return ModelFacts(
        name=manifest.name,
        domains=manifest.domains,
        targets=manifest.targets,
        place=place,
        folder=folder,
        source=str(pulled.pinned) if pulled else None,
        endpoint=pulled.endpoint if pulled else None,
        bytes=size,
        precisions=(manifest.precision, *manifest.variants),
        speed=speed,
        multiply_adds=round(work, 1),
        trained_at=manifest.sizes.trained_at,
        styles={domain: list(style.named) for domain, style in manifest.styles.items()},
        has_styles=manifest.has_styles,
        refines_to=tuple(manifest.components.refiner),
        licence=manifest.licence,
        datasets=tuple(manifest.datasets),
        origin=_origin(manifest),
        pictures=tuple(path for path in extras if path.startswith(f"{SAMPLES}/")),
        card=card,
    )


def _offered_facts(model: str) -> ModelFacts:
    address, sha256 = address_of(model)
    hub = Hub()
    offered = read_offer(hub, hub.resolve(address), bundle_sha256=sha256)
    card = offered.manifest.card
    if CARD in offered.extras:
        card = hub.read(offered.listing, CARD, limit=MAX_DOCUMENT).decode("utf-8", "replace")
    facts = _facts(offered.manifest, "hub", None, None, offered.bytes, list(offered.extras), card)
    pinned = {"source": str(offered.listing.address), "endpoint": hub.endpoint}
    return ModelFacts(**(vars(facts) | pinned))


def _origin(manifest: Manifest) -> str:
    provenance = manifest.provenance
    told = [str(provenance.get("kind", "unknown"))]
    if step := provenance.get("step"):
        told.append(f"{step} iterations")
    told += [str(provenance[key]) for key in ("exported_by", "exported_at") if key in provenance]
    return ", ".join(told)


def _known_row(name: str, about: str) -> ListedModel:
    if name in bundled_models():
        folder = find_model(name)
        manifest = read_manifest(folder)
        return _row(name, "package", manifest, _bytes(folder), about)
    known = known_models()[name]
    assert known.address is not None, "it would be bundled"
    try:
        pulled = find_pulled(known.address, bundle_sha256=known.bundle_sha256)
    except InputError:
        return _damaged_row(name, known.address.revision, about)
    if pulled is None:
        return _row(name, "not pulled", None, None, about)
    return _pulled_row(name, pulled, about)


def _damaged_row(name: str, commit: str, about: str = "") -> ListedModel:
    """A model that `pull` mends and `remove` removes."""
    return _row(name, "damaged", None, None, about, commit)


def _called(pulled: PulledModel) -> str:
    """What people call a pulled model: without its commit, where that is what the name means here."""
    plain = parse_address(f"{SCHEME}{pulled.repo}")
    return str(plain if commit_of(plain) == pulled.commit else pulled.pinned)


def _pulled_row(name: str, pulled: PulledModel, about: str) -> ListedModel:
    try:
        manifest = read_manifest(pulled.folder)
    except DsmapError:  # of a format that this dsmap does not read; `verify` tells
        manifest = None
    return _row(name, "cache", manifest, pulled.bytes, about, pulled.commit)


def _row(
    name: str, place: str, manifest: Manifest | None, size: int | None, about: str, commit: str | None = None
) -> ListedModel:
    domains, targets = (None, None) if manifest is None else (manifest.domains, manifest.targets)
    return ListedModel(name=name, place=place, domains=domains, targets=targets, bytes=size, about=about, commit=commit)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
