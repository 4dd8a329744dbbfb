"""What graphs cost: parameters, and multiply-adds before and after the rewrites."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsmap.export.graphs import Graph, graphs
from dsmap.export.rewrites import Rewrites
from dsmap.model.dsmap import DSMAP

SIDE = 256
"""Multiply-adds are for one image of this height and width."""


class Cost(NamedTuple):
    """Of one graph."""

    parameters: int
    """As trained: before the rewrites."""
    multiply_adds_before: int
    multiply_adds_after: int


def graph_costs(model: DSMAP, rewrites: Rewrites) -> dict[str, Cost]:
    """The cost of each kind of graph, by component: both domains' cost the same."""
    plain, made = (
        {g.component: g for g in graphs(model, chosen)} for chosen in (Rewrites(False, False, False), rewrites)
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
    """Counted on the meta device: nothing is computed."""
    module: nn.Module = copy.deepcopy(graph.module).to("meta")
    side = -(-SIDE // multiple_of)  # of the content
    sides = {"frames": multiple_of * side, "content": side, "mapped": side, "skip": 2 * side}
    inputs = {name: _sized(x, name, sides.get(name)) for name, x in graph.inputs.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**inputs)
    return counter.get_total_flops() // 2


def _sized(x: Tensor, name: str, side: int | None) -> Tensor:
    """An empty input for one image, `side` high and wide where it has such dimensions."""
    shape = [1, *x.shape[1:]]
    if side is not None:
        shape[1 if name == "frames" else 2] = shape[2 if name == "frames" else 3] = side
    return torch.empty(shape, dtype=x.dtype, device="meta")
