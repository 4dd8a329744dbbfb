"""The ONNX graph of a refiner, in 8 bits: bytes in, bytes out, and bytes between its layers.

    blocks (n, h, w, 96) uint8       4x4 pixels of the frame, then of the enlarged translation
    difference (n, h, w, 48) uint8   by how many levels to change the latter, plus 128

Activations are unsigned, with the ranges that the training has measured. Weights have 7 of 8 bits: products of two
neighbours then fit into 16 bits, which CPUs without VNNI add them up in. Full size has many blocks: in float32 the
graph takes three times as long.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dsmap.export.graphs import OPSET
from dsmap.model.refiner import BLOCK, MIDDLE, Refiner

_MOST = 63  # of a weight
_VALUES = 3 * BLOCK * BLOCK


class _Scale(NamedTuple):
    """What a byte stands for: (byte - zero) * step."""

    step: float
    zero: int


def refiner_graph(refiner: Refiner) -> onnx.ModelProto:
    """The graph of a trained refiner; its results differ from torch's by rounding."""
    builder = _Builder()
    scale = _Scale(1 / MIDDLE, int(MIDDLE))
    value = builder.add("Transpose", "blocks", perm=[0, 3, 1, 2])
    layers = [refiner.head, *refiner.body]
    for layer, peak in zip(layers, refiner.peaks.tolist(), strict=True):
        after = _Scale(peak / 255, 0)
        value = builder.convolve(value, layer, scale, after, relu=True)
        scale = after
    value = builder.convolve(value, refiner.tail, scale, _Scale(1 / MIDDLE, int(MIDDLE)), relu=False)
    builder.add("Transpose", value, out="difference", perm=[0, 2, 3, 1])
    return builder.model()


class _Builder:
    """Collects the nodes and weights of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """A node; the name of its output."""
        out = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def keep(self, values: npt.ArrayLike, kind: type[np.generic]) -> str:
        """A constant; its name."""
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def convolve(self, value: str, layer: Any, before: _Scale, after: _Scale, *, relu: bool) -> str:
        """A convolution of bytes that mean `before`, to bytes that mean `after`."""
        weight, bias = (np.asarray(tensor.detach(), np.float64) for tensor in (layer.weight, layer.bias))
        steps = np.maximum(np.abs(weight).max((1, 2, 3)), 1e-8) / _MOST
        whole = np.rint(weight / steps[:, None, None, None])
        sums = np.rint(bias / (steps * before.step))
        limit = np.iinfo(np.int32).max // 2
        read = self.add("DequantizeLinear", value, *self._scale(before))
        weights = self.add(
            "DequantizeLinear",
            self.keep(whole, np.int8),
            self.keep(steps, np.float32),
            self.keep(np.zeros(len(steps)), np.int8),
            axis=0,
        )
        biases = self.add(
            "DequantizeLinear",
            self.keep(np.clip(sums, -limit, limit), np.int32),
            self.keep(np.float32(steps) * np.float32(before.step), np.float32),
            self.keep(np.zeros(len(steps)), np.int32),
            axis=0,
        )
        side = layer.kernel_size[0]
        drawn = self.add("Conv", read, weights, biases, kernel_shape=[side, side], pads=[side // 2] * 4)
        drawn = self.add("Relu", drawn) if relu else drawn
        return self.add("QuantizeLinear", drawn, *self._scale(after))

    def _scale(self, scale: _Scale) -> tuple[str, str]:
        return self.keep(scale.step, np.float32), self.keep(scale.zero, np.uint8)

    def model(self) -> onnx.ModelProto:
        """The graph, checked."""
        inner, outer = (
            helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", "h", "w", values])
            for name, values in (("blocks", 2 * _VALUES), ("difference", _VALUES))
        )
        graph = helper.make_graph(self.nodes, "refiner", [inner], [outer], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        model.producer_name = "dsmap"
        onnx.checker.check_model(model, full_check=True)
        return model
