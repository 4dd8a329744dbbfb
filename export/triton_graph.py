"""Tensors of ONNX graphs as Triton's configuration describes them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dsmap.errors import DsmapError
from dsmap.export.triton_text import TensorConfig
from dsmap.runtime.engines.size_profile import Size

_KINDS = {"FLOAT": "FP32", "UINT8": "UINT8", "FLOAT16": "FP16"}


class GraphTensors(NamedTuple):
    """Inputs and outputs of a graph, in its own order and without the batch."""

    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]


def tensors_of(data: bytes, name: str) -> GraphTensors:
    """The tensors of the graph in `data`, whose first dimension is the batch. `name`: for messages.

    Raises DsmapError for a graph whose batch is fixed, or whose tensors have another type than those of bundles.
    """
    import onnx

    graph = onnx.load_from_string(data).graph
    return GraphTensors(
        tuple(_tensor(value, name) for value in graph.input), tuple(_tensor(value, name) for value in graph.output)
    )


def _tensor(value: Any, name: str) -> TensorConfig:
    import onnx

    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    batch, *dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
    if kind not in _KINDS or batch != -1:
        what = f"{kind} values" if kind not in _KINDS else f"batches of {batch} alone"
        raise DsmapError(f"{name}: {value.name} takes {what}, and a server needs others", "Export the bundle again.")
    return TensorConfig(value.name, _KINDS[kind], dims)


def warmup_shapes(graphs: Mapping[str, bytes], size: Size, style_dim: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors, by name and without the batch, for frames of `size`: found by running the graphs.

    `graphs`: one of each component of a bundle.
    """
    values: dict[str, Any] = {
        "frames": np.zeros((1, size.height, size.width, 3), np.uint8),
        "style": np.zeros((1, style_dim), np.float32),
    }
    for component in ("content_encoder", "style_mlp", "mapping"):
        if component in graphs:
            values |= run_graph(graphs[component], values)
    values.setdefault("mapped", values["content"])  # of a network without a mapping
    return {name: value.shape[1:] for name, value in values.items()}


def run_graph(data: bytes, values: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a graph with those of `values` that are its inputs; gives its outputs by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    given = {value.name: values[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, given), strict=True))
