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
    """Lines to print: cost and size of each graph, the accuracy of each precision, the styles, the total size."""
    manifest = written.manifest
    return [
        *_cost_table(manifest, costs),
        f"float32 graphs against torch, {written.verification.images} images:",
        *map(_check_line, written.verification.checks),
        *(line for check in written.precision_checks for line in _precision_lines(check)),
        *_style_lines(manifest),
        f"saved as {folder} ({sum(file.bytes for file in manifest.files()) / 1e6:.1f} MB)",
    ]


def _cost_table(manifest: Manifest, costs: Mapping[str, Cost]) -> list[str]:
    parts = {"fp32": manifest.components, **manifest.variants}
    lines = [f"  {'':25} parameters   G multiply-adds at {SIDE}x{SIDE}   MB {' / '.join(parts)}"]
    domain = manifest.domains[1]
    for component in Components.model_fields:
        if not getattr(manifest.components, component):
            continue
        cost = costs[component]
        megabytes = " / ".join(_megabytes(part, component, domain) for part in parts.values())
        before, after = (n / 1e9 for n in (cost.multiply_adds_before, cost.multiply_adds_after))
        lines.append(
            f"  {component:25} {cost.parameters / 1e6:8.2f} M   {before:9.2f} -> {after:7.2f}        {megabytes}"
        )
    return lines


def _precision_lines(check: PrecisionCheck) -> list[str]:
    finite = f"finite for {', '.join(check.extremes)}" if all(check.extremes.values()) else "NOT ALWAYS FINITE"
    return [
        f"{check.precision} against float32, {check.images} images (required: {check.limit_db:.0f} dB):",
        *map(_check_line, check.checks),
        f"  {finite}",
    ]


def _style_lines(manifest: Manifest) -> list[str]:
    lines = []
    for domain, style in manifest.styles.items():
        if style.pictures == 0:
            lines.append(f"default style of {domain}: mean of the prior; pass --data to use the mean over images")
        if style.named:
            lines.append(f"named styles of {domain}: {', '.join(style.named)}")
    return lines


def _megabytes(part: Components, component: str, domain: str) -> str:
    file = getattr(part, component).get(domain)
    return f"{file.bytes / 1e6:.1f}" if file else "-"


def _check_line(check: OutputCheck) -> str:
    worst = "" if check.psnr == check.worst_psnr else f", worst image {check.worst_psnr:.1f}"
    return f"  {check.name:33} max error {check.max_error:8.1e}   PSNR {check.psnr:5.1f} dB{worst}"
