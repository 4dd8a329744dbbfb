"""Adds what a bundle lacks to be passed on: its licence, the data it comes from, and a card."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsmap.errors import InputError
from dsmap.export.bundle_folder import is_as_written
from dsmap.export.changed_bundle import changed_bundle
from dsmap.export.documents import body_and_head, write_readme
from dsmap.export.graph_metadata import stamp_graph
from dsmap.runtime.bundle.bundle import Bundle, Components, describe_file
from dsmap.runtime.bundle.card import CARD, LICENCE_LINE, CardSample, split_card
from dsmap.runtime.bundle.manifest import Manifest, read_manifest, read_manifest_tree, write_manifest_tree


def update_card(
    folder: Path, *, licence: str | None = None, datasets: Sequence[str] = (), card: str | None = None
) -> None:
    """Sets the licence, the data and the card of the bundle `folder`, as far as given, and writes its README.md.

    A new licence goes into the graphs too, whose hashes change: engines that were built from them no longer fit.
    Raises InputError for a README.md that somebody has edited and for a broken bundle, DsmapError for a full disk.
    """
    final = folder.resolve()
    manifest = Bundle.read(final).manifest
    written = any(file.path == CARD and is_as_written(final / CARD, file) for file in manifest.extras)
    if os.path.lexists(final / CARD) and not written:
        raise InputError(
            f"{final / CARD} was written by hand, and would be replaced",
            "Edit the lines at its top (license: ..., datasets: [...]), or move it away.",
        )
    body, head = body_and_head(card)
    with changed_bundle(final) as part:
        tree = read_manifest_tree(part)
        changes = {"licence": licence, "datasets": list(datasets) or None, "card": body}
        if licence is not None and body is None:  # what an export or an import has written says it too
            said = LICENCE_LINE.format(manifest.licence)
            changes["card"] = manifest.card.replace(said, LICENCE_LINE.format(licence))
        tree |= {key: value for key, value in changes.items() if value is not None}
        if licence is not None:
            _stamp(part, tree, licence)
        write_manifest_tree(part, tree)
        manifest = write_readme(part, read_manifest(part), _samples(part), head)
        tree["extras"] = [file.model_dump() for file in manifest.extras]
        write_manifest_tree(part, tree)


def _stamp(folder: Path, tree: dict[str, Any], licence: str) -> None:
    """Writes the licence into every graph, and the new hashes into the manifest's tree."""
    manifest = read_manifest(folder)
    for precision, parts in _parts(manifest).items():
        inner = tree["components"] if precision == manifest.precision else tree["variants"][precision]
        for component in Components.model_fields:
            for domain, file in getattr(parts, component).items():
                path = folder / file.path
                stamp_graph(path, {"model": manifest.name, "part": component, "domain": domain,
                                   "precision": precision, "licence": licence})  # fmt: skip
                inner[component][domain] = describe_file(folder, path).model_dump()


def _parts(manifest: Manifest) -> dict[str, Components]:
    return {manifest.precision: manifest.components, **manifest.variants}


def _samples(folder: Path) -> list[CardSample]:
    """The pictures that the present card shows."""
    if not (folder / CARD).is_file():
        return []
    head, _ = split_card((folder / CARD).read_text(encoding="utf-8"))
    found = []
    for entry in head.get("widget") or []:
        try:
            source, _, target = str(entry["prompt"]).partition(" to ")
            sample = CardSample(source, target, str(entry["src"]), str(entry["output"]["url"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"{CARD} has a widget of another form", "Pass the whole card with --card.") from error
        if all((folder / path).is_file() for path in (sample.image, sample.translation)):
            found.append(sample)
    return found
