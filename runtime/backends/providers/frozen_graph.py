"""Makes the graph of one frame size from the one of all sizes.

Providers that compile a graph want every size known: where one is not, they leave the nodes that depend on it to the
CPU, or compile anew for each frame.
"""

from typing import Any

import numpy as np

from dsmap.runtime.backends.gpu_graph import FRAMES, OUTPUT, STYLE

Shape = tuple[int, int, int, int]
CACHE_KEY = "COREML_CACHE_KEY"
"""The graph's property by which Core ML's provider names what it compiles. It takes letters and digits, less than 64;
without it, it names by inputs and outputs, and a model trained further would get what was compiled before."""

_HALF = "frozen/half"


def frozen(graph: bytes, shape_nhwc: Shape, cache_key: str | None = None) -> bytes:
    """`gpu_graph` for frames of this one shape: the results are the same, and no dimension is left open.

    Rounding to whole grey levels becomes floor(x + 0.5), which every provider has: a value that is exactly between two
    levels goes up rather than to the even one.
    """
    import onnx

    model = onnx.load_from_string(graph)
    for entry in (*model.graph.input, *model.graph.output):
        dims = entry.type.tensor_type.shape.dim
        if entry.name in (FRAMES, OUTPUT):
            for dim, size in zip(dims, shape_nhwc, strict=True):
                dim.dim_value = size
        elif entry.name == STYLE:
            dims[0].dim_value = shape_nhwc[0]
    _round_by_floor(model.graph)
    if cache_key is not None:
        onnx.helper.set_model_props(model, {CACHE_KEY: cache_key})
    return bytes(model.SerializeToString())


def _round_by_floor(graph: Any) -> None:
    from onnx import helper, numpy_helper

    if not any(node.op_type == "Round" for node in graph.node):
        return
    # Of frames in float32: whatever the precision, grey levels are.
    graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), _HALF))
    nodes = []
    for node in graph.node:
        if node.op_type == "Round":
            above = f"{node.output[0]}/above"
            nodes.append(helper.make_node("Add", [node.input[0], _HALF], [above]))
            nodes.append(helper.make_node("Floor", [above], list(node.output)))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
