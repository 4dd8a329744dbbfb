"""The ONNX graphs of every kind of model that a bundle can hold."""

from collections.abc import Iterator

from dsmap.export.cyclegan_graphs import cyclegan_graphs
from dsmap.export.graphs import ALL_REWRITES, Graph, graphs
from dsmap.export.rewrites import Rewrites
from dsmap.model.cyclegan import CycleGAN
from dsmap.model.dsmap import DSMAP


def model_graphs(
    model: DSMAP | CycleGAN, rewrites: Rewrites = ALL_REWRITES, precision: str = "fp32"
) -> Iterator[Graph]:
    """All graphs of a bundle of `model` (in eval mode, on the CPU). `precision` is "fp32" or "fp16"."""
    build = cyclegan_graphs if isinstance(model, CycleGAN) else graphs
    yield from build(model, rewrites, precision)  # type: ignore[arg-type]
