"""The ONNX graphs of every kind of model that a bundle can hold."""

from collections.abc import Iterator

from dsmap.export.cyclegan_graphs import cyclegan_graphs
from dsmap.export.graphs import ALL_REWRITES, Graph, graphs
from dsmap.export.munit_graphs import munit_graphs
from dsmap.export.rewrites import Rewrites
from dsmap.model.any_model import AnyModel
from dsmap.model.cyclegan import CycleGAN
from dsmap.model.munit import MUNIT


def model_graphs(model: AnyModel, rewrites: Rewrites = ALL_REWRITES, precision: str = "fp32") -> Iterator[Graph]:
    """All graphs of a bundle of `model` (in eval mode, on the CPU). `precision` is "fp32" or "fp16"."""
    match model:
        case CycleGAN():
            yield from cyclegan_graphs(model, rewrites, precision)
        case MUNIT():
            yield from munit_graphs(model, rewrites, precision)
        case _:
            yield from graphs(model, rewrites, precision)
