"""The graph of a refiner for frames that stay Y'CbCr in 4:2:0: the same network, folded when it is loaded.

    blocks (n, h, w, 48) uint8       4x4 pixels of the frame: 16 of luma, then blue and red difference of 2x2 pixels;
                                     then as much of the enlarged translation, which is BT.709 in limited range
    difference (n, h, w, 24) uint8   how much to change the latter, plus 128: half levels of luma, quarters of colour

RGB is linear in Y'CbCr, and the first convolution is linear in RGB: one of Y'CbCr does both, with the weights of 2x2
pixels added up for a colour. What the last one gives is linear, too, and becomes the Y'CbCr of the differences.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.runtime.refine.yuv_planes import YuvKind, from_rgb
from dsmap.runtime.tiles.onnx_file import Node, OnnxGraph, Port, encode_tensor, read_graph, tensor_array, write_model

BLOCK, MIDDLE = 4, 128
LUMA, COLOURS = slice(0, BLOCK * BLOCK), slice(BLOCK * BLOCK, BLOCK * BLOCK * 3 // 2)
"""The places of a block's values."""
VALUES = COLOURS.stop
STEPS = 2, 4
"""Of a level, in differences of luma and of colours: rounded to whole levels, a colour would be off by one all over."""
_MOST = 63  # of a weight: 7 of 8 bits, see `export/refiner_graph.py`
_Floats = npt.NDArray[np.float64]


def yuv_graph(data: bytes, kind: YuvKind) -> bytes:
    """An ONNX file for frames of that kind, of a refiner's ONNX file."""
    graph = read_graph(data)
    convolutions = [_Convolution.of(graph, node) for node in graph.nodes if node.op == "Conv"]
    tensors = dict(graph.tensors)
    tensors |= _of_yuv(convolutions[0], kind).tensors()
    tensors |= _to_yuv(convolutions[-1]).tensors()
    inputs = [Port(graph.inputs[0], np.uint8, (None, None, None, 2 * VALUES))]
    return write_model(graph.nodes, tensors, inputs, graph.outputs, graph.opset)


class _Convolution(NamedTuple):
    """A convolution of bytes: its numbers, and the names of the tensors that hold them in 8 bits."""

    weight: _Floats
    """(outputs, inputs, height, width)"""
    bias: _Floats
    before: float
    """What a step of its input is."""
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """Of the weight and of the bias: the whole numbers, the size of their steps, and their zeros."""

    @classmethod
    def of(cls, graph: OnnxGraph, node: Node) -> "_Convolution":
        made_by = {name: one for one in graph.nodes for name in one.outputs}
        read, *rest = (made_by[name].inputs for name in node.inputs)
        (weight, steps), (bias, bias_steps) = ([tensor_array(graph.tensors[name]) for name in of[:2]] for of in rest)
        before = float(tensor_array(graph.tensors[read[1]]))
        return cls(weight * steps.astype(float)[:, None, None, None], bias * bias_steps.astype(float), before,
                   (rest[0], rest[1]))  # fmt: skip

    def tensors(self) -> dict[str, bytes]:
        """What its numbers are in 8 bits, as the export has it."""
        steps = (np.maximum(np.abs(self.weight).max((1, 2, 3)), 1e-8) / _MOST).astype(np.float32)
        sum_steps = steps * np.float32(self.before)
        limit = np.iinfo(np.int32).max // 2
        values = (
            np.rint(self.weight / steps[:, None, None, None]).astype(np.int8),
            steps,
            np.zeros(len(steps), np.int8),
            np.clip(np.rint(self.bias / sum_steps), -limit, limit).astype(np.int32),
            sum_steps,
            np.zeros(len(steps), np.int32),
        )
        return {name: encode_tensor(array) for name, array in zip(sum(self.names, ()), values, strict=True)}


def _of_yuv(head: _Convolution, kind: YuvKind) -> _Convolution:
    """The first convolution, of blocks of Y'CbCr: frame and translation, one after the other."""
    outputs = len(head.weight)
    parts, bias = [], head.bias.copy()
    for rgb, of in zip(head.weight.reshape(outputs, 2, BLOCK, BLOCK, 3).swapaxes(0, 1), (kind, YuvKind()), strict=True):
        matrix, offset = from_rgb(of)
        to_rgb = np.linalg.inv(matrix)
        yuv = rgb @ to_rgb  # (outputs, 4, 4, 3)
        # The network sees (level - 128) / 128: of RGB before, of Y'CbCr now.
        bias += rgb.sum((1, 2)) @ (to_rgb @ (MIDDLE - offset) - MIDDLE) / MIDDLE
        parts += [yuv[..., 0].reshape(outputs, -1), _fours(yuv[..., 1:]).sum(3).reshape(outputs, -1)]
    return head._replace(weight=np.concatenate(parts, 1)[..., None, None], bias=bias)


def _to_yuv(tail: _Convolution) -> _Convolution:
    """The last convolution, to blocks of Y'CbCr."""
    matrix, _ = from_rgb(YuvKind())

    def turned(values: _Floats) -> _Floats:
        """(48, n) -> (24, n)"""
        yuv = np.einsum("yc,abcn->abyn", matrix, values.reshape(BLOCK, BLOCK, 3, -1))
        luma, colours = yuv[:, :, 0] * STEPS[0], yuv[:, :, 1:] * STEPS[1]
        of_fours = _fours(colours.reshape(1, BLOCK, BLOCK, -1)).mean(3)
        return np.concatenate([luma.reshape(LUMA.stop, -1), of_fours.reshape(VALUES - LUMA.stop, -1)])

    weight = turned(tail.weight[..., 0, 0])[..., None, None]
    return tail._replace(weight=weight, bias=turned(tail.bias[:, None])[:, 0])


def _fours(blocks: _Floats) -> _Floats:
    """(n, 4, 4, c) -> (n, 2, 2, 4, c): the 2x2 pixels that share a colour together."""
    n, _, _, channels = blocks.shape
    split = blocks.reshape(n, 2, 2, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(n, 2, 2, 4, channels)
