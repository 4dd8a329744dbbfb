"""Quantises the convolutions of float32 graphs to int8 for CPUs (static quantisation, QDQ format).

Activations are unsigned and per tensor, weights signed and per output channel. Ranges are the 99.99 percentile over
calibration images (minimum and maximum cost 1 to 4 dB). The first and the last convolution and the corrections of
reflected borders decide single grey levels: they stay float32, and so do the most sensitive blocks if images come out
too far from float32. Norms, AdaIN and the rest are float32 as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from dsmap.common.notify import Notify
from dsmap.common.scratch import scratch_folder
from dsmap.export.int8_calibration import PER_FRAME, Key, observe
from dsmap.export.int8_graph import QuantisableGraph, activation_names
from dsmap.export.int8_search import SensitiveBlocks
from dsmap.export.verify import GraphFiles, OnnxParts

Array = npt.NDArray[Any]


class Quantised(NamedTuple):
    """The int8 graphs, and the blocks of convolutions that stayed float32, by component and domain."""

    files: dict[Key, Path]
    float_layers: dict[Key, list[str]]


def quantise(
    files: GraphFiles,
    folder: Path,
    images: Mapping[str, Sequence[Array]],
    styles: Mapping[str, Sequence[Array]],
    say: Notify = lambda _line: None,
) -> Quantised:
    """Writes `COMPONENT.DOMAIN.int8.onnx` to `folder` for each float32 graph in `files` that runs for every frame.

    `images`: calibration images of each domain, uint8 RGB (H, W, 3). `styles`: style codes (S,) of each domain, used in
    turn for the images of the other domain.
    """
    names = {key: activation_names(path) for key, path in files.items() if key[0] in PER_FRAME}
    observed = observe(files, names, images, styles)
    with scratch_folder("int8") as scratch:
        graphs = {key: QuantisableGraph(key, files[key], found, scratch) for key, found in observed.items()}
        del observed
        usual = {domain: codes[0] for domain, codes in styles.items()}
        search = SensitiveBlocks(OnnxParts(files), images, usual, scratch, say)
        left: dict[Key, set[str]] = {}
        for keys in _directions(styles):
            if here := {key: graphs[key] for key in keys if key in graphs}:
                left |= search.find(here)
        out = {key: folder / f"{key[0]}.{key[1]}.int8.onnx" for key in graphs}
        for key, graph in graphs.items():
            graph.write(out[key], graph.blocks - left[key])
    return Quantised(out, {key: sorted(graph.always_float | left[key]) for key, graph in graphs.items()})


def _directions(styles: Mapping[str, object]) -> list[list[Key]]:
    """The graphs that run for every frame in each direction, the encoder first. `styles` are by domain."""
    a, b = styles
    return [[("content_encoder", x), ("mapping", y), ("decoder", y)] for x, y in ((a, b), (b, a))]
