"""Describes a bundle that was written: the contents of its bundle.json, with a default model card."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dsmap import __version__
from dsmap.export.graphs import OPSET
from dsmap.export.named_styles import Codes
from dsmap.export.precision_check import PrecisionCheck
from dsmap.export.rewrites import Rewrites
from dsmap.export.trained_model import TrainedModel
from dsmap.export.verify import GraphFiles, Verification
from dsmap.model.cyclegan import CycleGAN
from dsmap.model.dsmap import DSMAP
from dsmap.model.munit import MUNIT
from dsmap.runtime.bundle.bundle import Manifest, Style, describe_components

NON_COMMERCIAL = (
    "MUNIT's authors publish their code and their weights under CC BY-NC-SA 4.0: weights of theirs are for "
    "non-commercial use, with their names and under the same licence (`cc-by-nc-sa-4.0`)."
)
"""What the card of an imported MUNIT says of its origin; whose the weights are, a checkpoint does not tell."""


def describe_bundle(
    source: TrainedModel,
    folder: Path,
    files: Mapping[str, GraphFiles],
    *,
    name: str,
    licence: str,
    card: str | None,
    datasets: Sequence[str],
    rewrites: Rewrites,
    named_styles: Codes,
    verification: Verification,
    precision_checks: Sequence[PrecisionCheck],
    float_layers: Mapping[str, list[str]],
) -> Manifest:
    """The manifest of the bundle `folder`, whose graphs are `files`, by precision; "fp32" is one of them."""
    config = source.model.config
    provenance = source.provenance | {
        "exported_by": f"dsmap {__version__}, torch {torch.__version__}, ONNX opset {OPSET}",
        "rewrites": [rewrite for rewrite, on in rewrites._asdict().items() if on],
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    components = {precision: describe_components(folder, graphs) for precision, graphs in files.items()}
    checks: dict[str, dict[str, Any]] = {check.precision: check.as_dict() for check in precision_checks}
    if "int8" in checks:
        checks["int8"]["float_layers"] = float_layers
    if not isinstance(source.model, DSMAP) and not card:
        card = imported_card(source, name, licence)
    return Manifest(
        name=name,
        domains=config.domains,
        precision="fp32",
        style_dim=config.style_dim,
        sizes=source.sizes,
        architecture=config.model_dump(mode="json"),
        components=components.pop("fp32"),
        variants=components,
        styles={
            domain: Style(**statistics._asdict(), named=named_styles.get(domain, {}))
            for domain, statistics in source.styles.items()
        },
        licence=licence,
        card=card or _default_card(source, name, licence),
        datasets=list(datasets),
        provenance=provenance,
        verification=verification.as_dict() | {"variants": checks},
    )


def imported_card(source: TrainedModel, name: str, licence: str) -> str:
    """The card of a model that was trained elsewhere."""
    model = source.model
    a, b = model.domains
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    if isinstance(model, MUNIT):
        kind, to = "MUNIT", f"{a} to {b} and {b} to {a}"
        styles = f"Its styles are codes of {model.config.style_dim} numbers, as of an image or from a seed. "
        counts = " and ".join(f"{s.pictures} images of {domain}" for domain, s in source.styles.items())
        known = any(s.pictures for s in source.styles.values())
        styles += f"Default styles are means over {counts}." if known else "The default style is the prior's mean."
        origin = "\n\n" + NON_COMMERCIAL
    else:
        assert isinstance(model, CycleGAN)
        kind, to = "CycleGAN", " and ".join(f"{a if target == b else b} to {target}" for target in model.targets)
        styles, origin = "It has no styles: each frame has one translation.", ""
    return (
        f"# {name}\n\nTranslates images and video from {to} ({kind}, {parameters:.2f} M parameters in all), imported "
        f"from checkpoints of another trainer, which say nothing of the training. {styles}\n\nLicence of the weights: "
        f"{licence}.{origin}\n"
    )


def _default_card(source: TrainedModel, name: str, licence: str) -> str:
    a, b = source.model.domains
    parameters = sum(p.numel() for p in source.model.parameters()) / 1e6
    step = source.provenance.get("step")
    trained = f"{step} iterations" if step else "an unstated number of iterations"
    styles = " and ".join(f"{s.pictures} of {d}" for d, s in source.styles.items())
    names = ", ".join(f"{style.name} ({style.domain})" for style in source.named_styles)
    named = f"Named styles: {names}.\n\n" if names else ""
    return (
        f"# {name}\n\nTranslates images and video between {a} and {b} (DSMAP, {parameters:.2f} M parameters in all, "
        f"both directions), trained for {trained} at a shorter side of {source.trained_at} pixels. Default styles are "
        f"means over {styles} images (0 means the prior).\n\n{named}Licence of the weights: {licence}.\n"
    )
