"""Merges a bundle's graphs into one from frames to frames, with layer norms that suit GPUs.

In a bundle, layer norm over (C, H, W) is InstanceNormalization over ONE channel, the fastest form on CPUs. ONNX
Runtime's CUDA provider computes that by cuDNN's batch norm in training, one thread block for each channel: a
single block of the whole GPU. Means in two steps, over each channel and then over the channels, are the same up to
rounding and fill the device. They are slower on CPUs, so the bundle keeps the other form and this one is made at load.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Codes, Frames
from dsmap.runtime.backends.onnxruntime_session import run_session
from dsmap.runtime.bundle.bundle import Bundle

FRAMES, STYLE, OUTPUT = "frames", "style_params", "decoder/frames"
"""The graph's inputs and its output."""


def bundle_gpu_graph(
    bundle: Bundle, source: str, target: str, precision: str, norms: Callable[[Any], object] | None = None
) -> bytes:
    """`gpu_graph` of a bundle's graphs from `source` to `target`."""

    def read(component: str, domain: str) -> bytes | None:
        graph = bundle.graph_data(component, domain, precision)
        return None if graph is None else graph.data

    encoder, decoder = read("content_encoder", source), read("decoder", target)
    assert encoder is not None, "a bundle is read only if it has it"
    assert decoder is not None
    return gpu_graph(encoder, read("mapping", target), decoder, norms)


def gpu_graph(
    encoder: bytes, mapping: bytes | None, decoder: bytes, norms: Callable[[Any], object] | None = None
) -> bytes:
    """The ONNX graph from `frames` and `style_params` (if the decoder has styles) to `decoder/frames`.

    `norms` rewrites the norms of the onnx.ModelProto in place; None: `two_step_norms`. Raises DsmapError where onnx is
    missing.
    """
    try:
        import onnx
        from onnx import compose
    except ImportError as error:
        raise DsmapError(f"onnx cannot be imported ({error})", "pip install 'dsmap[gpu]'") from error
    parts = [onnx.load_from_string(data) for data in (encoder, mapping, decoder) if data is not None]
    first, *others = parts
    last = parts[-1]
    # What one graph gives and the next takes has the same name already: content and skip, then mapped.
    if mapping is None:
        _rename_input(last.graph, "mapped", "content")
    styled = [entry.name for entry in last.graph.input if entry.name not in ("mapped", "content")]
    if styled:
        _rename_input(last.graph, styled[0], STYLE)
    prefixes = ("encoder/", "decoder/") if mapping is None else ("encoder/", "mapping/", "decoder/")
    for part, prefix in zip(parts, prefixes, strict=True):
        if part.opset_import != first.opset_import:
            raise DsmapError("the bundle's graphs are of several ONNX versions", "Export the bundle again.")
        compose.add_prefix(part, prefix, rename_inputs=False, rename_outputs=part is last, inplace=True)
    for part in others:
        first.graph.node.extend(part.graph.node)
        first.graph.initializer.extend(part.graph.initializer)
    first.graph.input.extend(entry for entry in last.graph.input if entry.name == STYLE)
    del first.graph.output[:], first.graph.value_info[:]
    first.graph.output.extend(last.graph.output)
    (norms or two_step_norms)(first)
    return bytes(first.SerializeToString())


def run_gpu_graph(session: Any, frames_nhwc: Frames, style_params: Codes | None) -> Frames:
    """Frames through a session of a `gpu_graph`; `style_params`: None where it has no styles. Raises DsmapError."""
    inputs: dict[str, Any] = {FRAMES: frames_nhwc}
    if style_params is not None:
        inputs[STYLE] = style_params
    return np.asarray(run_session(session, [OUTPUT], inputs)[0], np.uint8)


def two_step_norms(model: Any) -> int:
    """Rewrites every layer norm of an onnx.ModelProto in place; returns their number."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def is_layer_norm(node: Any) -> bool:
        if node.op_type != "InstanceNormalization" or not set(node.input[1:3]) <= constants.keys():
            return False
        scale, shift = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        before, after = makers.get(node.input[0]), readers.get(node.output[0], [])
        one_channel = scale.shape == (1,) and scale[0] == 1 and shift[0] == 0
        reshaped = before is not None and before.op_type == "Reshape" and [n.op_type for n in after] == ["Reshape"]
        return one_channel and reshaped

    norms = [node for node in graph.node if is_layer_norm(node)]
    nodes = []
    ends = {norm.output[0]: norm for norm in norms}
    for node in graph.node:  # in their order, each norm in the place of the Reshape behind it
        if any(node is norm for norm in norms):
            continue
        norm = ends.get(node.input[0]) if node.op_type == "Reshape" else None
        nodes += [node] if norm is None else _means_in_two_steps(norm, makers[norm.input[0]].input[0], node.output[0])
    if norms:
        graph.initializer.extend(_constants(norms))
    del graph.node[:]
    graph.node.extend(nodes)
    return len(norms)


_IMAGE, _CHANNELS = "two_step/height_width", "two_step/channels"


def _constants(norms: list[Any]) -> list[Any]:
    """The axes of the means, and every norm's epsilon."""
    from onnx import numpy_helper

    values = {_IMAGE: np.array([2, 3], np.int64), _CHANNELS: np.array([1], np.int64)}
    for norm in norms:
        epsilon = epsilon_of(norm)
        values[f"two_step/{norm.output[0]}/epsilon"] = np.array(epsilon, np.float32)
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _means_in_two_steps(norm: Any, x_nchw: str, y_nchw: str) -> list[Any]:
    """The nodes of (x - mean) / sqrt(variance + epsilon), for each sample."""
    from onnx import helper

    name = f"two_step/{norm.output[0]}/"

    def mean(x: str, out: str) -> list[Any]:
        return [
            helper.make_node("ReduceMean", [x, _IMAGE], [f"{out}_of_channels"], keepdims=1),
            helper.make_node("ReduceMean", [f"{out}_of_channels", _CHANNELS], [out], keepdims=1),
        ]

    return [
        *mean(x_nchw, f"{name}mean"),
        helper.make_node("Sub", [x_nchw, f"{name}mean"], [f"{name}centred"]),
        helper.make_node("Mul", [f"{name}centred", f"{name}centred"], [f"{name}squared"]),
        *mean(f"{name}squared", f"{name}variance"),
        helper.make_node("Add", [f"{name}variance", f"{name}epsilon"], [f"{name}steady"]),
        helper.make_node("Sqrt", [f"{name}steady"], [f"{name}deviation"]),
        helper.make_node("Div", [f"{name}centred", f"{name}deviation"], [y_nchw]),
    ]


def epsilon_of(norm: Any) -> float:
    """Of an onnx.NodeProto; ONNX's default where it has none."""
    return float(next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5))


def _rename_input(graph: Any, before: str, after: str) -> None:
    for entry in graph.input:
        if entry.name == before:
            entry.name = after
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == before:
                node.input[index] = after
