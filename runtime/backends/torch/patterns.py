"""Groups of ONNX nodes that are one step in PyTorch: one by one, most of them would write a whole map to memory."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dsmap.runtime.backends.torch.nodes import GraphNode

_END = 2**63 - 1
_ENDS = {"reflect": [3, 3, 2, 1, -2, -3, -4, -4], "replicate": [0, 0, 0, 0, -1, -1, -1, -1]}
"""The pixels of two blocks before a line and of two after it, by the mode of padding."""


class LayerNormNodes(NamedTuple):
    """Layer norm of a map."""

    x: str
    epsilon: float


class EdgeSums(NamedTuple):
    """A map that nothing else reads, plus terms for its first and for its last row (axis 2) or column (3)."""

    x: str
    first: str
    last: str
    axis: int


class PaddedBlocks(NamedTuple):
    """A map whose channels are those of 2x2 pixels, with two blocks of padding on every side."""

    x: str
    mode: str


Pattern = LayerNormNodes | EdgeSums | PaddedBlocks


def find_patterns(nodes: list[GraphNode], constants: Mapping[str, Any], outputs: Iterable[str]) -> dict[str, Pattern]:
    """What there is in a graph, by the name of what it gives. Its other nodes may be needed elsewhere."""
    return _Search(nodes, constants, outputs).found


class _Search:
    def __init__(self, nodes: list[GraphNode], constants: Mapping[str, Any], outputs: Iterable[str]) -> None:
        self._makers = {node.outputs[0]: node for node in nodes}
        self._uses = Counter([name for node in nodes for name in node.inputs] + list(outputs))
        self._constants = constants
        self.found: dict[str, Pattern] = {}
        for node in nodes:
            try:
                found = self._layer_norm(node) or self._edge_sums(node) or self._padded_blocks(node)
            except (IndexError, KeyError, TypeError, ValueError):  # something is missing: the operator is refused later
                continue
            if found is not None:
                self.found[node.outputs[0]] = found

    def _maker(self, name: str, operator: str) -> GraphNode | None:
        node = self._makers.get(name)
        return node if node is not None and node.operator == operator else None

    def _numbers(self, name: str) -> Any:
        constant = self._constants.get(name)
        return None if constant is None else constant.tolist()

    def _cut(self, node: GraphNode) -> list[Any]:
        """Where a Slice begins and ends, on which axis, and its step."""
        return [self._numbers(name) for name in node.inputs[1:]]

    def _layer_norm(self, last: GraphNode) -> LayerNormNodes | None:
        """Reshape to one channel, InstanceNormalization, and Reshape back to the shape of what it took."""
        if last.operator != "Reshape":
            return None
        norm, shape = self._maker(last.inputs[0], "InstanceNormalization"), self._maker(last.inputs[1], "Shape")
        if norm is None or shape is None or self._uses[norm.outputs[0]] != 1 or set(norm.attributes) != {"epsilon"}:
            return None
        first = self._maker(norm.inputs[0], "Reshape")
        if first is None or [self._numbers(name) for name in norm.inputs[1:3]] != [[1.0], [0.0]]:
            return None
        whole = shape.attributes.get("start", 0) == 0 and "end" not in shape.attributes
        if not whole or shape.inputs[0] != first.inputs[0] or self._numbers(first.inputs[1]) != [0, 1, -1]:
            return None
        return LayerNormNodes(first.inputs[0], float(norm.attributes["epsilon"]))

    def _edge_sums(self, joined: GraphNode) -> EdgeSums | None:
        """Concat of the first row plus a term, the rows between, and the last row plus a term, of a new map."""
        if joined.operator != "Concat" or len(joined.inputs) != 3:
            return None
        axis = joined.attributes["axis"]
        first, last = (self._maker(joined.inputs[i], "Add") for i in (0, 2))
        between = self._maker(joined.inputs[1], "Slice")
        if first is None or last is None or between is None or axis not in (2, 3):
            return None
        x = between.inputs[0]
        ends = [self._maker(end.inputs[0], "Slice") for end in (first, last)]
        cuts = [self._cut(end) for end in ends if end is not None and end.inputs[0] == x]
        rest = [[axis], [1]]
        if cuts != [[[0], [1], *rest], [[-1], [_END], *rest]] or self._cut(between) != [[1], [-1], *rest]:
            return None
        is_new = self._maker(x, "Conv") is not None or isinstance(self.found.get(x), EdgeSums)
        if not is_new or self._uses[x] != 3:
            return None
        return EdgeSums(x, first.inputs[1], last.inputs[1], axis)

    def _padded_blocks(self, last: GraphNode) -> PaddedBlocks | None:
        """Reshape to (N, C, 2, 2, H, W), Concat with rows of pixels, then with columns, and Reshape back."""
        columns = self._longer_lines(last.inputs[0], 5) if last.operator == "Reshape" else None
        rows = self._longer_lines(columns[0], 4) if columns is not None else None
        if columns is None or rows is None or rows[1] != columns[1]:
            return None
        first = self._maker(rows[0], "Reshape")
        unfolded = self._maker(first.inputs[1], "Concat") if first is not None else None
        folded = self._maker(last.inputs[1], "Concat")
        if first is None or unfolded is None or folded is None or len(unfolded.inputs) != 6 or len(folded.inputs) != 4:
            return None
        (channels,), *block = (self._numbers(name) for name in unfolded.inputs[1:4])
        if block != [[2], [2]] or self._numbers(folded.inputs[1]) != [4 * channels]:
            return None
        return PaddedBlocks(first.inputs[0], rows[1])

    def _longer_lines(self, name: str, axis: int) -> tuple[str, str] | None:
        """What has got two blocks more on both sides of an axis here, and the mode of padding."""
        joined = self._maker(name, "Concat")
        if joined is None or joined.attributes["axis"] != axis or len(joined.inputs) != 5:
            return None
        *before, x, _, _ = joined.inputs
        blocks = [self._maker(block, "Concat") for block in (*before, *joined.inputs[3:])]
        if any(block is None or block.attributes["axis"] != axis - 2 for block in blocks):
            return None
        pixels = [self._pixel(name, x, axis) for block in blocks if block is not None for name in block.inputs]
        return next(((x, mode) for mode, ends in _ENDS.items() if pixels == ends), None)

    def _pixel(self, name: str, x: str, axis: int) -> int | None:
        """Which pixel of the lines of `x` this is: a Slice of a block, of a Slice of one of the two in each block."""
        of_map = self._maker(name, "Slice")
        of_block = self._maker(of_map.inputs[0], "Slice") if of_map is not None else None
        if of_map is None or of_block is None or of_block.inputs[0] != x:
            return None
        ((block,), *_), ((place,), *_) = cuts = self._cut(of_map), self._cut(of_block)
        known = [[block], [block + 1 or _END], [axis], [1]], [[place], [place + 1], [axis - 2], [1]]
        return 2 * block + place if cuts == known else None
