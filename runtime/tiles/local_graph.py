"""The graphs of a translation as one, cut where statistics of the whole frame are needed: at its norms.

Between two norms all operators are local: a row of the output depends on a few rows of the input. So a part between
cuts can run for a stripe of the frame. A norm becomes `x * scale + shift` for each channel, with both numbers from the
statistics of the whole frame.

    graph = LocalGraph(encoder, mapping, decoder)
    graph.part(("norm input",))     # the nodes from the cuts before it, as an ONNX file
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.tiles.onnx_file import Node, OnnxGraph, Port, read_graph, tensor_values, write_model

FRAMES, STYLE = "frames", "style_params"
# Operators over all pixels, other than the norms that are known: a graph with one cannot be computed in stripes.
_GLOBAL = {"GlobalAveragePool", "GroupNormalization", "LayerNormalization", "MatMul", "ReduceMean", "ReduceSum", "Gemm",
           "Flatten", "Resize"}  # fmt: skip


class Norm(NamedTuple):
    """A norm: `x` of (1, C, H, W) to `y`, zero mean and unit variance over each of `len(weight)` groups of channels."""

    x: str
    y: str
    weight: np.ndarray
    bias: np.ndarray
    epsilon: float

    @property
    def scale_input(self) -> str:
        """The name of the input of a part that scales `x`, (1, C, 1, 1)."""
        return f"{self.y}/scale"

    @property
    def shift_input(self) -> str:
        """As `scale_input`, for what is added afterwards."""
        return f"{self.y}/shift"


class Part(NamedTuple):
    """What computes some tensors from those at the cuts before them."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    """The tensors at the cuts."""
    norms: tuple[Norm, ...]
    """Those of its inputs that it normalises."""
    sizes: dict[str, tuple[str, int, int]]
    """Inputs that are the shape of a tensor at a cut, from one dimension to another."""
    styled: bool
    """Whether it takes the style parameters."""
    nodes: list[Node]


class LocalGraph:
    """Content encoder, mapping (if any) and decoder of one direction. Raises DsmapError for what is not local."""

    def __init__(self, encoder: bytes, mapping: bytes | None, decoder: bytes) -> None:
        self._graph = _joined(encoder, mapping, decoder)
        nodes, self.norms = _with_known_norms(self._graph)
        self._makers = {name: node for node in nodes for name in node.outputs}
        self.output = self._graph.outputs[0]
        self.norm_of = {norm.x: norm for norm in self.norms}
        self._norm_to = {norm.y: norm for norm in self.norms}
        self._level = levels = self._levels(nodes)
        self.cuts = self._cuts(nodes, levels)
        """The tensors that are computed by one part and read by another, in an order in which they can be computed."""
        last = max(levels.values())
        steps = [tuple(name for name in self.cuts if levels[name] == level) for level in range(last + 1)]
        self.steps: list[tuple[str, ...]] = [step for step in steps if step] + [(self.output,)]
        """The tensors at the cuts, those together that can be computed once the norms before them are known."""

    def part(self, outputs: tuple[str, ...]) -> Part:
        """The nodes that compute `outputs`, tensors at cuts or the result, from the cuts before them."""
        taken: dict[int, Node] = {}
        inputs: dict[str, None] = {}
        norms: dict[str, Norm] = {}
        sizes: dict[str, tuple[str, int, int]] = {}
        styled = False
        level = max(self._level[name] for name in outputs)

        def visit(name: str) -> None:
            nonlocal styled
            if not name or name in self._graph.tensors:
                return
            if name == STYLE:
                styled = True
            elif name == FRAMES or (name in self.cuts and self._level[name] < level):
                inputs[name] = None
            elif name in self._norm_to:
                norms[name] = self._norm_to[name]
                inputs[norms[name].x] = None
            else:
                node = self._makers[name]
                if node.op == "Shape" and node.inputs[0] in (FRAMES, *self.cuts):
                    sizes[name] = (node.inputs[0], int(node.attribute("start", 0)), int(node.attribute("end", 4)))
                elif id(node) not in taken:
                    for read in node.inputs:
                        visit(read)
                    taken[id(node)] = node

        for name in outputs:
            visit(name)
        nodes = [
            *(n for norm in norms.values() for n in _affine(norm)),
            *taken.values(),
        ]
        return Part(outputs, tuple(inputs), tuple(norms.values()), sizes, styled, nodes)

    def model(self, part: Part, ports: Iterable[Port]) -> bytes:
        """`part` as an ONNX file; `ports` are the inputs that are no sizes, norms or styles."""
        extra = [Port(STYLE, np.float32, (None, None, None, None))] if part.styled else []
        for norm in part.norms:
            extra += [Port(name, np.float32, (1, None, 1, 1)) for name in (norm.scale_input, norm.shift_input)]
        extra += [Port(name, np.int64, (end - start,)) for name, (_, start, end) in part.sizes.items()]
        read = {name for node in part.nodes for name in node.inputs}
        tensors = {name: data for name, data in self._graph.tensors.items() if name in read}
        return write_model(part.nodes, tensors, [*ports, *extra], part.outputs, self._graph.opset)

    def _levels(self, nodes: list[Node]) -> dict[str, int]:
        """For every tensor that depends on the frames, the number of norms in turn before it."""
        levels = {FRAMES: 0}
        for node in nodes:
            known = [levels[name] for name in node.inputs if name in levels]
            if known and node.op != "Shape":
                if node.op in _GLOBAL:
                    raise DsmapError(f"the model has the operator {node.op}, which needs whole frames", _WITHOUT)
                levels.update(dict.fromkeys(node.outputs, max(known) + (node.outputs[0] in self._norm_to)))
        if self.output not in levels:
            raise DsmapError("the model's result does not depend on the frames", _WITHOUT)
        return levels

    def _cuts(self, nodes: list[Node], levels: dict[str, int]) -> tuple[str, ...]:
        cuts = {norm.x for norm in self.norms}
        for node in nodes:
            level = max((levels[name] for name in node.outputs if name in levels), default=-1)
            for name in node.inputs:
                is_norm = node.outputs[0] in self._norm_to
                later = name in levels and (node.op == "Shape" or levels[name] < level)
                if later and not is_norm and name != FRAMES and name not in self._norm_to:
                    cuts.add(name)
        return tuple(name for name in levels if name in cuts)


_WITHOUT = "Translate it without --tile."


def _affine(norm: Norm) -> list[Node]:
    scaled = f"{norm.y}/scaled"
    return [
        Node("Mul", (norm.x, norm.scale_input), (scaled,)),
        Node("Add", (scaled, norm.shift_input), (norm.y,)),
    ]


def _joined(encoder: bytes, mapping: bytes | None, decoder: bytes) -> OnnxGraph:
    """The graphs as one, from `frames` and `style_params` to the decoder's frames."""
    parts = [("encoder/", encoder), ("mapping/", mapping), ("decoder/", decoder)]
    graphs = {prefix: read_graph(data, prefix) for prefix, data in parts if data is not None}
    names = {"encoder/frames": FRAMES, f"decoder/{STYLE}": STYLE}
    for name in ("content", "skip"):
        names[f"mapping/{name}"] = f"encoder/{name}"
    names["decoder/mapped"] = "encoder/content" if mapping is None else "mapping/mapped"
    nodes: list[Node] = []
    tensors: dict[str, bytes] = {}
    for graph in graphs.values():
        nodes += [node._replace(inputs=tuple(names.get(name, name) for name in node.inputs)) for node in graph.nodes]
        tensors |= graph.tensors
    opsets = {graph.opset for graph in graphs.values()}
    if len(opsets) > 1:
        raise DsmapError("the bundle's graphs are of several ONNX versions", "Export the bundle again.")
    return OnnxGraph(nodes, tensors, (FRAMES, STYLE), graphs["decoder/"].outputs, opsets.pop())


def _with_known_norms(graph: OnnxGraph) -> tuple[list[Node], list[Norm]]:
    """The nodes, those of a norm replaced by one from its input to its output, and the norms."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    norms, replaced = [], {}
    for node in graph.nodes:
        if node.op != "InstanceNormalization":
            continue
        source, weight, bias = node.inputs
        before, after = makers.get(source), readers.get(node.outputs[0], [])
        x, y, last = source, node.outputs[0], node
        if before is not None and before.op == "Reshape" and [n.op for n in after] == ["Reshape"]:
            # over groups of channels: layer norm is over one group
            x, y, last = before.inputs[0], after[0].outputs[0], after[0]
        if weight not in graph.tensors or bias not in graph.tensors:
            raise DsmapError("the model has a norm with weights that are computed", _WITHOUT)
        numbers = [tensor_values(graph.tensors[name]) for name in (weight, bias)]
        norms.append(Norm(x, y, numbers[0], numbers[1], node.attribute("epsilon", 1e-5)))
        replaced[id(last)] = Node("InstanceNormalization", (x,), (y,))
    return [replaced.get(id(node), node) for node in graph.nodes if _is_kept(node, replaced)], norms


def _is_kept(node: Node, replaced: dict[int, Node]) -> bool:
    return node.op != "InstanceNormalization" or id(node) in replaced
