"""Adds refiners to a bundle: what `dsmap-distill --refiner` has trained becomes a graph of it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from dsmap.errors import DsmapError, InputError
from dsmap.export.changed_bundle import changed_bundle
from dsmap.export.graph_metadata import stamp_graph
from dsmap.export.refiner_graph import refiner_graph
from dsmap.export.verify import generated_images, open_session
from dsmap.model.refiner import MIDDLE, Refiner, from_blocks, to_blocks
from dsmap.runtime.bundle.bundle import Bundle, describe_file, graph_file
from dsmap.runtime.bundle.graphs import check_graph
from dsmap.runtime.bundle.manifest import read_manifest_tree, write_manifest_tree
from dsmap.training.refiner_run import load_refiner, refiner_file

_PART = "refiner"
_MOST_ERROR = 1.0  # levels on average, of which rounding to a level is 0.25


def add_refiners(folder: Path, run: Path, *, overwrite: bool = False) -> dict[str, dict[str, Any]]:
    """Adds the refiners in the folder `run` to the bundle `folder`; what is known of each, by target.

    Raises InputError where there are none for this model, and without `overwrite` where the bundle has them already;
    DsmapError for a graph that differs from torch, and when the disk is full.
    """
    from dsmap import __version__

    final = folder.resolve()
    manifest = Bundle.read(final).manifest
    found = {target: path for target in manifest.targets if (path := refiner_file(run, target)).is_file()}
    if not found:
        raise InputError(
            f"{run} has no refiner to {' or '.join(manifest.targets)}",
            "Pass a folder that dsmap-distill --refiner has written for this model.",
        )
    taken = [target for target in found if target in manifest.components.refiner]
    if taken and not overwrite:
        raise InputError(f"{folder} already has a refiner to {taken[0]}", "Pass --overwrite to replace it.")
    told: dict[str, dict[str, Any]] = {}
    with changed_bundle(final) as part:
        tree = read_manifest_tree(part)
        for target, path in found.items():
            refiner, about = load_refiner(path)
            graph = part / graph_file(_PART, target)
            onnx.save_model(checked_graph(refiner), str(graph), save_as_external_data=False)
            stamp_graph(graph, {"model": manifest.name, "part": _PART, "domain": target, "precision": "int8",
                                "version": __version__, "licence": manifest.licence})  # fmt: skip
            check_graph(graph.read_bytes(), graph.name)
            tree["components"].setdefault(_PART, {})[target] = describe_file(part, graph).model_dump()
            tree["provenance"].setdefault(_PART, {})[target] = about
            told[target] = about
        write_manifest_tree(part, tree)
    return told


def checked_graph(refiner: Refiner) -> onnx.ModelProto:
    """The graph of a refiner, after its results were compared with torch's. Raises DsmapError where they differ."""
    model = refiner_graph(refiner)
    frame, base = (torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in generated_images(64, 2))
    blocks = torch.cat([to_blocks(frame), to_blocks(base)], 1).permute(0, 2, 3, 1)
    session = open_session(model.SerializeToString())
    (found,) = session.run(["difference"], {"blocks": np.ascontiguousarray(blocks.numpy().astype(np.uint8))})
    with torch.no_grad():
        expected = (refiner(frame, base) - base).clamp(-MIDDLE, MIDDLE - 1)
    drawn = from_blocks(torch.from_numpy(found.astype(np.float32)).permute(0, 3, 1, 2)) - MIDDLE
    error = float((drawn - expected).abs().mean())
    if not error <= _MOST_ERROR:
        raise DsmapError(
            f"the refiner's graph differs from torch by {error:.1f} levels on average",
            "Train it again, with more steps.",
        )
    return model
