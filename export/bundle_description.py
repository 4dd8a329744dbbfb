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
from dsmap.runtime.bundle.bundle import Manifest, Style, describe_components


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
    if isinstance(source.model, CycleGAN) and not card:
        card = plain_card(source, name, licence)
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


def plain_card(source: TrainedModel, name: str, licence: str) -> str:
    """The card of a model that was trained elsewhere, and has no styles."""
    a, b = source.model.domains
    to = " and ".join(f"{a if target == b else b} to {target}" for target in source.model.targets)  # type: ignore[union-attr]
    parameters = sum(p.numel() for p in source.model.parameters()) / 1e6
    return (
        f"# {name}\n\nTranslates images and video from {to} (CycleGAN, {parameters:.2f} M parameters in all), imported "
        f"from checkpoints of another trainer, which say nothing of the training. It has no styles: each frame has one "
        f"translation.\n\nLicence of the weights: {licence}.\n"
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
