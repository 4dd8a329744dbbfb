"""A float32 graph that can be quantised block by block: QDQ format, for ONNX Runtime's quantiser."""

import contextlib
import io
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from dsmap.export.int8_balance import even_out
from dsmap.export.int8_calibration import STYLE, Activation

Array = npt.NDArray[Any]

_SENSITIVE = re.compile(r"\.(stem|tail|border)$")  # in the names of blocks


class QuantisableGraph:
    """A float32 graph, its convolutions by block, and the ranges of their inputs and outputs."""

    def __init__(self, key: tuple[str, str], path: Path, activations: Mapping[str, Activation], scratch: Path) -> None:
        """`activations`: those of `activation_names`. `scratch`: a folder for files that live as long as the graph."""
        self.key = key
        model = onnx.load(str(path))
        activations = even_out(model, activations)
        self.even, self.ranges = (scratch / f"{'.'.join(key)}.{what}" for what in ("onnx", "json"))
        onnx.save_model(model, str(self.even))
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
            if name != STYLE
        }
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, ranges), self.ranges)

    def write(self, path: Path, blocks: Collection[str]) -> Path:
        """Writes the graph with `blocks` in int8."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        path.parent.mkdir(exist_ok=True)
        with _quiet():
            quantize_static(
                str(self.even),
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantiser, which prints its steps and asks for preprocessing that these graphs do not need."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
