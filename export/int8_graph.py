"""A float32 graph that can be quantised block by block: QDQ format, for ONNX Runtime's quantiser."""

import contextlib
import io
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from dsmap.export.int8_calibration import Activation

Array = npt.NDArray[Any]

# Channels with less are not scaled: the norm's epsilon of 1e-5 would matter.
_MIN_VARIANCE = 1e-3
_WORTH_DB = 2.0  # of rounding noise, for which another multiplication pays
_SENSITIVE = re.compile(r"\.(stem|tail|border)$")  # in the names of blocks


class QuantisableGraph:
    """A float32 graph, its convolutions by block, and the ranges of their inputs and outputs."""

    def __init__(self, key: tuple[str, str], path: Path, activations: Mapping[str, Activation], scratch: Path) -> None:
        """`activations`: those of `activation_names`. `scratch`: a folder for files that live as long as the graph."""
        self.key = key
        model = onnx.load(str(path))
        equalise_channels(model, activations)
        activations = balance_channels(model, activations)
        self.equalised, self.ranges = (scratch / f"{'.'.join(key)}.{what}" for what in ("onnx", "json"))
        onnx.save_model(model, str(self.equalised))
        self.blocks_of = _blocks_of(model)
        self.always_float = {block for block in self.blocks_of.values() if _SENSITIVE.search(block)}
        """Blocks that are never quantised."""
        self.blocks = set(self.blocks_of.values()) - self.always_float
        self._write_ranges(activations)

    def _write_ranges(self, activations: Mapping[str, Activation]) -> None:
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

        ranges = {
            name: tuple(np.array(end, np.float32) for end in activation.range())
            for name, activation in activations.items()
        }
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, ranges), self.ranges)

    def write(self, path: Path, blocks: Collection[str]) -> Path:
        """Writes the graph with `blocks` in int8."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        path.parent.mkdir(exist_ok=True)
        with _quiet():
            quantize_static(
                str(self.equalised),
                str(path),
                None,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[name for name, block in self.blocks_of.items() if block not in blocks],
                calibrate_method=CalibrationMethod.MinMax,  # of the ranges that were found
                calibration_cache_path=self.ranges,
            )
        model = onnx.load(str(path))
        _only_convs_read_int8(model)
        onnx.save_model(model, str(path))
        return path


def _only_convs_read_int8(model: onnx.ModelProto) -> None:
    """Gives the float32 values back to whatever else reads the quantised input of a convolution, in place.

    Such as the sums of residual blocks: their errors would add up from block to block, and int8 gains nothing there.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "QuantizeLinear"):
            continue
        for i, name in enumerate(node.input):
            made = makers.get(name)
            if made is None or made.op_type != "DequantizeLinear" or made.input[0] not in makers:
                continue
            original = makers[made.input[0]].input[0]
            if makers.get(original) is None or makers[original].op_type != "Conv":  # a convolution's output is int8
                node.input[i] = original


def activation_names(path: Path) -> list[str]:
    """The inputs and outputs of the convolutions of a graph that may be quantised."""
    model = onnx.load(str(path), load_external_data=False)
    blocks = _blocks_of(model)
    convs = [node for node in model.graph.node if node.name in blocks and not _SENSITIVE.search(blocks[node.name])]
    return list(dict.fromkeys(name for conv in convs for name in (conv.input[0], conv.output[0])))


def _blocks_of(model: onnx.ModelProto) -> dict[str, str]:
    """The block of each convolution, by the names of the nodes."""
    return {node.name: block_of(node.input[1]) for node in model.graph.node if node.op_type == "Conv"}


def block_of(weight: str) -> str:
    """The block of a weight: "decoder.blocks.0.conv1.weight" -> "decoder.blocks.0"."""
    strip = re.match(r"(.*?)(\.block)?\.(rows|columns)\b", weight)
    return f"{strip[1]}.border" if strip else re.sub(r"(\.(conv\d|block))?(\.weight)?$", "", weight)


def equalise_channels(model: onnx.ModelProto, activations: Mapping[str, Activation]) -> None:
    """Scales and shifts the weights before instance norms, in place: every channel has mean 0 and variance 1 then.

    The norm cancels that. Without it channels whose values differ by orders of magnitude would share one range, and the
    norm would amplify the rounding errors of the small ones. `activations` of the changed tensors follow.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    normed = {node.input[0] for node in model.graph.node if node.op_type == "InstanceNormalization"}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for conv in model.graph.node:
        out = conv.output[0]
        if conv.op_type != "Conv" or out not in normed or out not in activations:
            continue
        if not uses[out] == uses[conv.input[1]] == 1:
            continue
        weight, bias = (onnx.numpy_helper.to_array(tensors[name]) for name in conv.input[1:3])
        mean, variance = activations[out].moments
        mean, scale = mean.astype(np.float32), (1 / np.sqrt(np.maximum(variance, _MIN_VARIANCE))).astype(np.float32)
        even = onnx.numpy_helper.from_array(weight * scale[:, None, None, None], conv.input[1])
        tensors[conv.input[1]].CopyFrom(even)
        name = f"{conv.input[1].removesuffix('.weight')}.even_bias"  # equal biases share a tensor
        model.graph.initializer.append(onnx.numpy_helper.from_array((bias - mean) * scale, name))
        conv.input[2] = name
        activations[out].rescale(scale, -mean)
    _remove_unused(model)


def balance_channels(model: onnx.ModelProto, activations: Mapping[str, Activation]) -> dict[str, Activation]:
    """Multiplies channels before and after convolutions, in place, where a few large ones decide the range of all.

    The weights cancel it. `activations`: those of the graph; the result has those of the balanced tensors, too.
    Comes after `equalise_channels`: what that has evened out needs no multiplication.
    """
    found, tensors = dict(activations), {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    normed = {node.input[0] for node in model.graph.node if node.op_type == "InstanceNormalization"}
    nodes: list[onnx.NodeProto] = []
    for conv in model.graph.node:
        nodes.append(conv)
        if conv.op_type != "Conv" or len(conv.input) < 3 or not {conv.input[0], conv.output[0]} <= activations.keys():
            continue
        if uses[conv.input[1]] != 1:
            continue
        weight, bias = (onnx.numpy_helper.to_array(tensors[name]) for name in conv.input[1:3])
        x, y, name = activations[conv.input[0]], activations[conv.output[0]], conv.input[1].removesuffix(".weight")
        before, after = np.sqrt(_magnitudes(x)), _magnitudes(y)
        if weight.shape[1] == len(before) and _gain_db(x, before, np.square(weight).sum((0, 2, 3))) > _WORTH_DB:
            found[f"{name}.balanced"] = x.balanced(before)
            nodes.insert(-1, _scaling(model, conv.input[0], 1 / before, f"{name}.balanced"))
            conv.input[0], weight = f"{name}.balanced", weight * before[:, None, None]
        if conv.output[0] not in normed and _gain_db(y, after, np.ones(len(after))) > _WORTH_DB:
            found[f"{name}.unbalanced"] = y.balanced(after)
            nodes.append(_scaling(model, f"{name}.unbalanced", after, conv.output[0]))
            conv.output[0], weight, bias = f"{name}.unbalanced", weight / after[:, None, None, None], bias / after
            conv.input[2] = f"{name}.unbalanced_bias"
            model.graph.initializer.append(onnx.numpy_helper.from_array(bias, conv.input[2]))
        tensors[conv.input[1]].CopyFrom(onnx.numpy_helper.from_array(weight, conv.input[1]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _remove_unused(model)
    return found


def _remove_unused(model: onnx.ModelProto) -> None:
    """Removes tensors that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def _magnitudes(activation: Activation) -> Array:
    """The root mean square of each channel, relative to that of all: float32 (C,)."""
    mean, variance = activation.moments
    square = mean**2 + variance
    return np.sqrt(np.maximum(square / square.mean(), 1e-6)).astype(np.float32)


def _gain_db(activation: Activation, magnitude: Array, weight: Array) -> float:
    """How much less rounding noise there is if channels are divided by `magnitude`; `weight`: how much each counts."""
    plain, balanced = (high - min(low, 0) for low, high in (activation.range(), activation.balanced(magnitude).range()))
    noise = np.square(balanced) * (weight * np.square(magnitude)).sum()
    return float(10 * np.log10(np.square(plain) * weight.sum() / noise))


def _scaling(model: onnx.ModelProto, source: str, factor: Array, result: str) -> onnx.NodeProto:
    """`result` = `source` (N, C, H, W) times `factor` (C,)."""
    factors = f"{result}.factors"
    model.graph.initializer.append(onnx.numpy_helper.from_array(factor[:, None, None].astype(np.float32), factors))
    return onnx.helper.make_node("Mul", [source, factors], [result], name=f"{result}.mul")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantiser, which prints its steps and asks for preprocessing that these graphs do not need."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
