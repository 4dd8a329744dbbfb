"""Reports on exports: all numbers for JSON, and a summary to print."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dsmap import __version__
from dsmap.export.bundle_writer import WrittenBundle
from dsmap.export.costs import SIDE, Cost
from dsmap.export.differences import OutputCheck
from dsmap.export.engines import BuiltEngine
from dsmap.export.precision_check import PrecisionCheck
from dsmap.runtime.bundle.bundle import Components, Manifest

_PER_FRAME = ("content_encoder", "mapping", "decoder")


def export_report(
    folder: Path, written: WrittenBundle, costs: Mapping[str, Cost], built: Iterable[BuiltEngine], *, seconds: float
) -> dict[str, Any]:
    """All numbers of an export, ready for JSON. `costs` are by component."""
    manifest, engines = written.manifest, list(built)
    return {
        "dsmap": __version__,
        "torch": torch.__version__,
        "bundle": str(folder),
        "name": manifest.name,
        "domains": manifest.domains,
        "provenance": manifest.provenance,
        "components": {
            f"{component} {domain}": _component(manifest, component, domain, costs[component], engines)
            for component in Components.model_fields
            for domain in getattr(manifest.components, component)
        },
        "multiply_adds_at": f"{SIDE}x{SIDE}",
        "verification": manifest.verification,
        "seconds_for_graphs": {precision: round(spent, 2) for precision, spent in written.seconds.items()},
        "engines": engine_rows(engines),
        "seconds": round(seconds, 2),
    }


def _component(
    manifest: Manifest, component: str, domain: str, cost: Cost, engines: list[BuiltEngine]
) -> dict[str, Any]:
    parts = {"fp32": manifest.components, **manifest.variants}
    files = {precision: part for precision, c in parts.items() if (part := getattr(c, component).get(domain))}
    return {
        "parameters": cost.parameters,
        "multiply_adds_before": cost.multiply_adds_before,
        "multiply_adds_after": cost.multiply_adds_after,
        "files": {precision: file.model_dump() for precision, file in files.items()},
        "checks": {precision: _checks(manifest, precision, f"{component} {domain}") for precision in files},
        "engines": [b.path.name for b in engines if (b.job.component, b.job.domain) == (component, domain)],
    }


def _checks(manifest: Manifest, precision: str, graph: str) -> dict[str, Any]:
    """The checks of one graph, such as "content_encoder summer: skip"."""
    found = manifest.verification if precision == "fp32" else manifest.verification["variants"].get(precision, {})
    return {name: row for name, row in found.get("checks", {}).items() if name.partition(":")[0] == graph}


def engine_rows(built: Iterable[BuiltEngine]) -> list[dict[str, Any]]:
    """The engines, ready for JSON."""
    return [{"file": b.path.name, "reused": b.reused, **b.sidecar.model_dump(mode="json")} for b in built]


def summary(folder: Path, written: WrittenBundle, costs: Mapping[str, Cost]) -> list[str]:
    """At most ten lines to print: the work, the accuracy of each precision, the styles, the size of the bundle."""
    manifest = written.manifest
    return [
        _cost_line(manifest, costs),
        f"float32 against torch: {_worst(written.verification.checks)} on {written.verification.images} images",
        *map(_precision_line, written.precision_checks),
        *_style_lines(manifest),
        f"saved as {folder} ({sum(file.bytes for file in manifest.files()) / 1e6:.1f} MB)",
    ]


def _cost_line(manifest: Manifest, costs: Mapping[str, Cost]) -> str:
    """Of the graphs that every frame goes through, in one direction."""
    used = [costs[name] for name in _PER_FRAME if getattr(manifest.components, name)]
    before, after = sum(c.multiply_adds_before for c in used) / 1e9, sum(c.multiply_adds_after for c in used) / 1e9
    parameters = sum(cost.parameters for cost in used) / 1e6
    return (
        f"each direction: {parameters:.2f} M parameters, {after:.2f} G multiply-adds at {SIDE}x{SIDE}"
        f" ({before:.2f} before the rewrites)"
    )


def _precision_line(check: PrecisionCheck) -> str:
    finite = "" if all(check.extremes.values()) else "; NOT ALWAYS FINITE"
    required = f"required: {check.limit_db:.0f}"
    return f"{check.precision} against float32: {_worst(check.checks)} ({required}) on {check.images} images{finite}"


def _worst(checks: Iterable[OutputCheck]) -> str:
    """The output that differs most."""
    worst = min(checks, key=lambda check: check.psnr)
    return "equal" if worst.psnr == float("inf") else f"{worst.psnr:.1f} dB PSNR at least ({worst.name})"


def _style_lines(manifest: Manifest) -> list[str]:
    lines: list[str] = []
    for domain, style in manifest.styles.items() if manifest.has_styles else ():
        if style.pictures == 0:
            lines.append(f"default style of {domain}: mean of the prior; pass --data to use the mean over images")
        if style.named:
            lines.append(f"named styles of {domain}: {', '.join(style.named)}")
    return lines
