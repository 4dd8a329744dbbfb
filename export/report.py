"""What an export has made, in numbers: for a JSON file, and as lines for people."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dsmap import __version__
from dsmap.export.bundle_writer import Exported
from dsmap.export.costs import SIDE, Cost
from dsmap.export.differences import OutputCheck
from dsmap.export.engines import BuiltEngine
from dsmap.runtime.bundle.bundle import Components, Manifest


def report(
    out: Path,
    exported: Exported,
    costs: dict[str, Cost],
    built: Iterable[BuiltEngine],
    *,
    command: str,
    seconds: float,
) -> dict[str, Any]:
    """Everything about an export, for JSON. `costs` by component; `command` is the next one to type."""
    manifest, engines = exported.manifest, list(built)
    return {
        "dsmap": __version__,
        "torch": torch.__version__,
        "bundle": str(out),
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
        "seconds_for_graphs": {precision: round(spent, 2) for precision, spent in exported.seconds.items()},
        "engines": engine_rows(engines),
        "seconds": round(seconds, 2),
        "next": command,
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
    """The engines, for JSON."""
    return [{"file": b.path.name, "reused": b.reused, **b.sidecar.model_dump(mode="json")} for b in built]


def summary(exported: Exported, costs: dict[str, Cost]) -> list[str]:
    """The table that `dsmap-export` prints: cost and size of each graph, then how close each precision is."""
    manifest = exported.manifest
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
    lines.append(f"float32 graphs against torch, {exported.verification.images} images:")
    lines += [_check_line(c) for c in exported.verification.checks]
    for check in exported.precision_checks:
        lines.append(f"{check.precision} against float32, {check.images} images (gate: {check.limit_db:.0f} dB):")
        lines += [_check_line(c) for c in check.checks]
        lines.append(
            f"  finite for {', '.join(check.extremes)}" if all(check.extremes.values()) else "  NOT ALWAYS FINITE"
        )
    return lines


def _megabytes(part: Components, component: str, domain: str) -> str:
    file = getattr(part, component).get(domain)
    return f"{file.bytes / 1e6:.1f}" if file else "-"


def _check_line(check: OutputCheck) -> str:
    worst = "" if check.psnr == check.worst_psnr else f", worst image {check.worst_psnr:.1f}"
    return f"  {check.name:33} max error {check.max_error:8.1e}   PSNR {check.psnr:5.1f} dB{worst}"
