"""Checkpoint -> bundle: read the weights, write the graphs, check them against torch, write what they are."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dsmap import __version__
from dsmap.checkpoint import load_generators, read_checkpoint
from dsmap.config import TrainConfig
from dsmap.data import Domains, find_domains, load_picture_nchw
from dsmap.errors import DsmapError, InputError
from dsmap.export.graphs import ALL_REWRITES, OPSET, Extras, graphs, write_graph
from dsmap.export.output import check_bundle_folder
from dsmap.export.rewrites import Rewrites
from dsmap.export.verify import Verification, generated_pictures, verify_graphs
from dsmap.folders import replace_folder
from dsmap.images import list_pictures
from dsmap.model import DSMAP
from dsmap.official import load_official, read_official_config
from dsmap.runtime.bundle import (
    Components,
    Manifest,
    Sizes,
    Style,
    describe_file,
    file_sha256,
    write_manifest,
)
from dsmap.samples import to_rgb
from dsmap.styles import StyleStatistics, prior_statistics, style_statistics

# Pictures of each domain that the graphs are checked on.
CHECK_PICTURES = 4


class Source(NamedTuple):
    """Generators to export, and what is known of them."""

    model: DSMAP
    trained_at: int
    """Shorter side of the training pictures in pixels."""
    styles: dict[str, StyleStatistics]
    pictures: dict[str, list[Path]]
    """Pictures of each domain to check the graphs on; empty lists when none are at hand."""
    provenance: dict[str, Any]


def open_checkpoint(
    path: Path, weights: str = "ema", data: Path | None = None, folders: Sequence[tuple[str, Path]] = ()
) -> Source:
    """The generators of a run of dsmap-train; `weights` is ema or generators (live).

    `data` or `folders` (see `find_domains`) replace the pictures that the run was trained on.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint.config
    model = load_generators(checkpoint, weights)
    styles = checkpoint.styles
    pictures = {
        domain: [p for folder in map(Path, found) if folder.is_dir() for p in list_pictures(folder)]
        for domain, found in checkpoint.pictures.items()
    }
    if data is not None or folders:
        domains = find_domains(data, folders, names=config.model.domains)
        if {d.name for d in domains} != set(model.domains):
            got, expected = ", ".join(d.name for d in domains), ", ".join(model.domains)
            raise InputError(f"the pictures are of {got}, the checkpoint of {expected}", "Use the checkpoint's names.")
        styles, pictures = _seen(model, domains, config.data.shorter_side)
    provenance = {
        "kind": "dsmap-train",
        "step": checkpoint.step,
        "weights": weights,
        "weights_sha256": file_sha256(checkpoint.path / f"{weights}.safetensors"),
        "training": _portable(config),
    }
    return Source(model, config.data.shorter_side, styles, pictures, provenance)


def open_official(path: Path, config_yaml: Path, names: tuple[str, str], domains: Domains | None = None) -> Source:
    """The generators of a `gen_*.pt` by the authors' trainer.

    It keeps no style statistics: they come from the pictures of `domains`, or else are those of the prior N(0, I).
    """
    model = load_official(path, config_yaml, names)
    config = read_official_config(config_yaml)
    trained_at = config.get("new_size") or config.get("new_size_a") or config.get("crop_image_height") or 256
    if not isinstance(trained_at, int) or trained_at < model.config.multiple_of:
        raise InputError(f"{config_yaml}: new_size is {trained_at!r}, expected pixels", "Correct the YAML.")
    styles = {name: prior_statistics(model.config.style_dim) for name in names}
    pictures: dict[str, list[Path]] = {name: [] for name in names}
    if domains is not None:
        styles, pictures = _seen(model, domains, trained_at)
    provenance = {"kind": "the authors' checkpoint", "file": Path(path).name, "weights_sha256": file_sha256(Path(path))}
    return Source(model, trained_at, styles, pictures, provenance)


def _seen(model: DSMAP, domains: Domains, size: int) -> tuple[dict[str, StyleStatistics], dict[str, list[Path]]]:
    """Styles over all training pictures, and the pictures to check on (test pictures where there are any)."""
    styles = {d.name: style_statistics(model, d.name, d.train, size) for d in domains}
    return styles, {d.name: list(d.test or d.train) for d in domains}


def export_bundle(
    source: Source,
    out: Path,
    *,
    name: str | None = None,
    licence: str = "not stated",
    card: str | None = None,
    overwrite: bool = False,
    rewrites: Rewrites = ALL_REWRITES,
    extras: Extras | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> tuple[Manifest, Verification]:
    """Writes the bundle `out` whole or not at all, after its graphs have been checked against torch.

    `rewrites` are those made before the export, `extras` the graphs beyond the usual ones.

    Raises InputError when `out` may not be written (see `check_bundle_folder`), DsmapError when a graph is off.
    """
    out = Path(os.path.abspath(out))
    check_bundle_folder(out, overwrite=overwrite)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        files = _write_graphs(source.model, part, rewrites, extras, say)
        pictures, origin = _check_pictures(source)
        say(f"checking against torch on {sum(map(len, pictures.values()))} {origin} pictures")
        verification = verify_graphs(source.model, files, pictures, origin)
        manifest = _describe(source, part, files, rewrites, verification, name or out.name, licence, card)
        write_manifest(part, manifest)
        replace_folder(part, out)
    except OSError as error:
        raise DsmapError(f"cannot write the bundle {out}: {error}", "Free disk space or choose another -o.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest, verification


def _write_graphs(
    model: DSMAP, folder: Path, rewrites: Rewrites, extras: Extras | None, say: Callable[[str], None]
) -> dict[tuple[str, str], Path]:
    files = {}
    for graph in graphs(model, rewrites, extras):
        path = folder / graph.file_name
        write_graph(graph, path)
        files[graph.component, graph.domain] = path
        say(f"wrote {graph.file_name} ({path.stat().st_size / 1e6:.1f} MB)")
    return files


def _check_pictures(source: Source) -> tuple[dict[str, list[npt.NDArray[np.uint8]]], str]:
    """Up to CHECK_PICTURES of each domain, evenly picked, at the training size; generated ones where there are none."""
    multiple = source.model.config.multiple_of
    size = max(source.trained_at // multiple * multiple, source.model.config.style_minimum_size)
    found = {}
    for domain, paths in source.pictures.items():
        picked = [paths[i * len(paths) // CHECK_PICTURES] for i in range(CHECK_PICTURES)] if paths else []
        readable = []
        for path in dict.fromkeys(picked):
            try:
                readable.append(to_rgb(load_picture_nchw(path, size, multiple))[0])
            except InputError:
                continue  # a broken picture was told of in training
        found[domain] = readable
    if all(found.values()):
        return found, "real"
    return {
        d: generated_pictures(size, CHECK_PICTURES, seed) for seed, d in enumerate(source.model.domains)
    }, "generated"


def _describe(
    source: Source,
    folder: Path,
    files: Mapping[tuple[str, str], Path],
    rewrites: Rewrites,
    verification: Verification,
    name: str,
    licence: str,
    card: str | None,
) -> Manifest:
    config = source.model.config
    components = {
        component: {domain: describe_file(folder, path) for (kind, domain), path in files.items() if kind == component}
        for component in Components.model_fields
    }
    provenance = source.provenance | {
        "exported_by": f"dsmap {__version__}, torch {torch.__version__}, ONNX opset {OPSET}",
        "rewrites": [name for name, made in rewrites._asdict().items() if made],
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Manifest(
        name=name,
        domains=config.domains,
        precision="fp32",
        style_dim=config.style_dim,
        sizes=Sizes(
            multiple_of=config.multiple_of,
            minimum=config.minimum_size,
            style_minimum=config.style_minimum_size,
            trained_at=source.trained_at,
        ),
        architecture=config.model_dump(mode="json"),
        components=Components(**components),
        styles={domain: Style(**statistics._asdict()) for domain, statistics in source.styles.items()},
        licence=licence,
        card=card or _default_card(source, name, licence),
        provenance=provenance,
        verification=verification.as_dict(),
    )


def _default_card(source: Source, name: str, licence: str) -> str:
    a, b = source.model.domains
    parameters = sum(p.numel() for p in source.model.parameters()) / 1e6
    step = source.provenance.get("step")
    trained = f"{step} iterations" if step else "an unstated number of iterations"
    styles = " and ".join(f"{s.pictures} of {d}" for d, s in source.styles.items())
    return (
        f"# {name}\n\nTranslates pictures and video between {a} and {b} (DSMAP, {parameters:.2f} M parameters in all, "
        f"both directions), trained for {trained} at a shorter side of {source.trained_at} pixels. Default styles are "
        f"means over {styles} pictures (0 means the prior).\n\nLicence of the weights: {licence}.\n"
    )


def _portable(config: TrainConfig) -> dict[str, Any]:
    """The training configuration without paths of the machine it ran on."""
    tree = config.model_dump(mode="json")
    tree["features"] = Path(config.features).name
    return tree
