"""What an operator of a graph is made of: its node, where its inputs come from, and what its attributes may be."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import fx

MAX_PIXELS = 256
"""Of a kernel, a stride, a dilation, a padding. Margins are up to 64 pixels."""


class RefusedError(Exception):
    """What a node has that is not known here: the rest of a sentence that begins with the operator."""


class GraphNode(NamedTuple):
    """A node of an ONNX graph. Optional inputs that are left out are ""."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """Checked: those of the operator alone, numbers, lists of them or texts."""

    def has(self, index: int) -> bool:
        """Whether it has this input."""
        return index < len(self.inputs) and self.inputs[index] != ""


class NodeInputs(Protocol):
    """Where operators get their inputs, by the name in the ONNX graph."""

    def tensor(self, name: str) -> fx.Node:
        """A tensor, computed or constant."""

    def put_in_place(self, name: str, same: fx.Node) -> None:
        """From here on `tensor` gives `same` for this name: a tensor of the same values."""

    def factor(self, name: str) -> fx.Node | float:
        """The same, for arithmetic: a constant of one number as that number."""

    def numbers(self, name: str) -> Any:
        """Integers that stand in the file, or were computed from shapes: (an fx.Node of) an int or a tuple."""

    def constant(self, name: str) -> np.ndarray[Any, Any]:
        """What stands in the file. Raises RefusedError for what is computed."""

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> fx.Node:
        """A call in the module that is made."""


Check = Callable[[Any], bool]
Build = Callable[[NodeInputs, GraphNode], fx.Node]


class Operator(NamedTuple):
    """How an operator is built, and the attributes that it may have with what they may be."""

    build: Build
    attributes: Mapping[str, Check]
    of_shapes: Build | None = None
    """The same for integers that were computed from shapes."""


# What attributes may be


def whole(least: int, most: int) -> Check:
    """An integer from `least` to `most`."""
    return lambda value: isinstance(value, int) and least <= value <= most


def list_of(check: Check, *lengths: int) -> Check:
    """A list of one of the lengths, each item of which `check` passes."""
    return lambda value: isinstance(value, list) and len(value) in lengths and all(check(one) for one in value)


def one_of(*allowed: str) -> Check:
    """One of these texts."""
    return lambda value: isinstance(value, str) and value in allowed


def number(value: Any) -> bool:
    """A number that is not infinite, nor NaN."""
    return isinstance(value, float) and bool(np.isfinite(value))


FLAG, AXIS = whole(0, 1), whole(-8, 8)
SIDE, BORDER = whole(1, MAX_PIXELS), whole(0, MAX_PIXELS)
