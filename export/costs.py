"""Counts parameters and multiply-adds of graphs, before and after the rewrites."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsmap.export.graphs import Graph
from dsmap.export.model_graphs import model_graphs
from dsmap.export.rewrites import Rewrites
from dsmap.model.any_model import AnyModel

SIDE = 256
"""Height and width of the image that multiply-adds are counted for."""


class Cost(NamedTuple):
    """The size and the work of one graph."""

    parameters: int
    """Before the rewrites."""
    multiply_adds_before: int
    multiply_adds_after: int


def graph_costs(model: AnyModel, rewrites: Rewrites) -> dict[str, Cost]:
    """The cost of each component; it is the same for both domains."""
    plain, made = (
        {g.component: g for g in model_graphs(model, chosen)} for chosen in (Rewrites(False, False, False), rewrites)
    )
    return {
        name: Cost(
            sum(p.numel() for p in plain[name].module.parameters()),
            _multiply_adds(plain[name], model.config.multiple_of),
            _multiply_adds(graph, model.config.multiple_of),
        )
        for name, graph in made.items()
    }


def _multiply_adds(graph: Graph, multiple_of: int) -> int:
    """Counted on the meta device, without computing anything."""
    module: nn.Module = copy.deepcopy(graph.module).to("meta")
    side = -(-SIDE // multiple_of)  # of the content, in positions
    sides = {"frames": multiple_of * side, "content": side, "mapped": side, "skip": 2 * side}
    inputs = {name: _sized(x, name, sides.get(name)) for name, x in graph.inputs.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**inputs)
    return counter.get_total_flops() // 2


def _sized(x: Tensor, name: str, side: int | None) -> Tensor:
    """An empty input for one image, with height and width `side` if it has such dimensions."""
    shape = [1, *x.shape[1:]]
    if side is not None:
        shape[1 if name == "frames" else 2] = shape[2 if name == "frames" else 3] = side
    return torch.empty(shape, dtype=x.dtype, device="meta")
