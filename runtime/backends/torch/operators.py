"""The ONNX operators of a bundle's graphs, each as calls of PyTorch.

The set is closed, and so are the attributes of each operator and their values: what is not in `OPERATORS` is refused by
name. Norms take their statistics in float32.

What is computed from shapes (Shape, then Gather, Concat and so on, for a Reshape) stays on the host, as integers and
tuples of them: only tensors that hold pixels reach the device.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from dsmap.runtime.backends.torch import functions
from dsmap.runtime.backends.torch.nodes import (
    AXIS,
    BORDER,
    FLAG,
    MAX_PIXELS,
    SIDE,
    Build,
    GraphNode,
    NodeInputs,
    Operator,
    RefusedError,
    list_of,
    number,
    one_of,
    whole,
)

MAX_FACTOR = 16
"""Of an enlargement."""
_DTYPES = {1: torch.float32, 2: torch.uint8, 6: torch.int32, 7: torch.int64, 10: torch.float16}
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
_GROUPS = whole(1, 1 << 16)
_WINDOW = {
    "auto_pad": one_of("NOTSET"),
    "dilations": list_of(SIDE, 2),
    "kernel_shape": list_of(SIDE, 2),
    "pads": list_of(BORDER, 4),
    "strides": list_of(SIDE, 2),
}


def _same(source: NodeInputs, node: GraphNode) -> fx.Node:
    return source.tensor(node.inputs[0])


def _numbers_as_they_are(source: NodeInputs, node: GraphNode) -> Any:
    return source.numbers(node.inputs[0])


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return Operator(lambda source, node: source.call(function, source.tensor(node.inputs[0])), {})


def _arithmetic(function: Callable[..., Tensor], of_sizes: Callable[[int, int], int]) -> Operator:
    def build(source: NodeInputs, node: GraphNode) -> fx.Node:
        a, b = (source.factor(name) for name in node.inputs)
        if not (isinstance(a, fx.Node) or isinstance(b, fx.Node)):
            raise RefusedError("computes with constants alone")
        return source.call(function, a, b)

    def of_shapes(source: NodeInputs, node: GraphNode) -> fx.Node:
        return source.call(of_sizes, *(source.numbers(name) for name in node.inputs))

    return Operator(build, {}, of_shapes)


def _cast(source: NodeInputs, node: GraphNode) -> fx.Node:
    return source.call(torch.Tensor.to, source.tensor(node.inputs[0]), _DTYPES[node.attributes["to"]])


def _clip(source: NodeInputs, node: GraphNode) -> fx.Node:
    low, high = (float(source.constant(node.inputs[i])) if node.has(i) else None for i in (1, 2))
    return source.call(torch.clamp, source.tensor(node.inputs[0]), low, high)


def _leaky_relu(source: NodeInputs, node: GraphNode) -> fx.Node:
    return source.call(F.leaky_relu, source.tensor(node.inputs[0]), node.attributes.get("alpha", 0.01))


def _padding(source: NodeInputs, x: fx.Node, borders: Sequence[int]) -> tuple[fx.Node, tuple[int, int]]:
    """`x` and the padding that a convolution adds to it; `x` is padded first where the sides differ."""
    top, left, bottom, right = borders
    if (top, left) == (bottom, right):
        return x, (top, left)
    return source.call(F.pad, x, (left, right, top, bottom)), (0, 0)


def _conv(source: NodeInputs, node: GraphNode) -> fx.Node:
    attributes = node.attributes
    x, padding = _padding(source, source.tensor(node.inputs[0]), attributes.get("pads", [0] * 4))
    return source.call(
        F.conv2d,
        x,
        source.tensor(node.inputs[1]),
        source.tensor(node.inputs[2]) if node.has(2) else None,
        tuple(attributes.get("strides", [1, 1])),
        padding,
        tuple(attributes.get("dilations", [1, 1])),
        attributes.get("group", 1),
    )


def _conv_transpose(source: NodeInputs, node: GraphNode) -> fx.Node:
    attributes = node.attributes
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    if (top, left) != (bottom, right):
        raise RefusedError("has pads that differ between its sides")
    return source.call(
        F.conv_transpose2d,
        source.tensor(node.inputs[0]),
        source.tensor(node.inputs[1]),
        source.tensor(node.inputs[2]) if node.has(2) else None,
        tuple(attributes.get("strides", [1, 1])),
        (top, left),
        tuple(attributes.get("output_padding", [0, 0])),
        attributes.get("group", 1),
        tuple(attributes.get("dilations", [1, 1])),
    )


def _average_pool(source: NodeInputs, node: GraphNode) -> fx.Node:
    attributes = node.attributes
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    if (top, left) != (bottom, right) or "kernel_shape" not in attributes or attributes.get("dilations", [1]) != [1]:
        raise RefusedError("has a window that is not known here")
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", [1, 1]))
    with_borders = bool(attributes.get("count_include_pad", 0))
    x = source.tensor(node.inputs[0])
    return source.call(F.avg_pool2d, x, kernel, strides, (top, left), False, with_borders)


def _pad(source: NodeInputs, node: GraphNode) -> fx.Node:
    mode = _PAD_MODES[node.attributes.get("mode", "constant")]
    amounts = _whole_numbers(source, node.inputs[1])
    if len(amounts) % 2 or node.has(3) or not all(0 <= amount <= MAX_PIXELS for amount in amounts):
        raise RefusedError(f"pads by {amounts[:8]}, expected 0 to {MAX_PIXELS} pixels")
    dims = len(amounts) // 2
    before_and_after = [(amounts[axis], amounts[axis + dims]) for axis in reversed(range(dims))]  # the last axis first
    if mode != "constant" and any(any(sides) for sides in before_and_after[2:]):
        raise RefusedError("pads samples or channels")
    image = before_and_after if mode == "constant" else before_and_after[:2]
    value = float(source.constant(node.inputs[2])) if mode == "constant" and node.has(2) else None
    widths = tuple(amount for sides in image for amount in sides)
    x = source.tensor(node.inputs[0])
    if mode == "replicate":
        padded = source.call(functions.pad_by_repeating, x, widths)
    else:
        padded = source.call(F.pad, x, widths, mode, value)
    if dims == 4 and not any(any(sides) for sides in before_and_after[2:]):
        # What comes later reads `x` inside its padded form: so nothing need write it for itself.
        source.put_in_place(node.inputs[0], source.call(functions.inner_part, padded, *image[:2]))
    return padded


def _instance_norm(source: NodeInputs, node: GraphNode) -> fx.Node:
    scale, shift = (source.constant(name) for name in node.inputs[1:3])
    plain = bool((scale == 1).all() and (shift == 0).all())
    learnt = (None, None) if plain else tuple(source.tensor(name) for name in node.inputs[1:3])
    epsilon = node.attributes.get("epsilon", 1e-5)
    return source.call(functions.instance_norm, source.tensor(node.inputs[0]), *learnt, epsilon)


def _depth_to_space(source: NodeInputs, node: GraphNode) -> fx.Node:
    function = F.pixel_shuffle if node.attributes.get("mode", "DCR") == "CRD" else functions.depth_to_space
    return source.call(function, source.tensor(node.inputs[0]), node.attributes["blocksize"])


def _resize(source: NodeInputs, node: GraphNode) -> fx.Node:
    """Nearest, by whole numbers: each pixel becomes a block."""
    known = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if any(node.attributes.get(name) != value for name, value in known.items()) or node.has(3) or not node.has(2):
        raise RefusedError("enlarges in a way that is not known here")
    scales = [float(scale) for scale in source.constant(node.inputs[2]).flatten()]
    if scales[:2] != [1, 1] or not all(s == int(s) and 1 <= s <= MAX_FACTOR for s in scales) or len(scales) != 4:
        raise RefusedError(f"enlarges by {scales[:4]}, expected whole numbers up to {MAX_FACTOR}")
    factors = (int(scales[2]), int(scales[3]))
    return source.call(F.interpolate, source.tensor(node.inputs[0]), None, tuple(map(float, factors)), "nearest")


def _gemm(source: NodeInputs, node: GraphNode) -> fx.Node:
    attributes = node.attributes
    if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1 or attributes.get("transA", 0):
        raise RefusedError("scales or transposes its factors")
    weight = source.tensor(node.inputs[1])
    if not attributes.get("transB", 0):
        weight = source.call(torch.transpose, weight, 0, 1)
    return source.call(
        F.linear, source.tensor(node.inputs[0]), weight, source.tensor(node.inputs[2]) if node.has(2) else None
    )


def _mean(source: NodeInputs, node: GraphNode) -> fx.Node:
    axes = tuple(_whole_numbers(source, node.inputs[1])) if node.has(1) else None
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        return source.tensor(node.inputs[0])
    return source.call(torch.mean, source.tensor(node.inputs[0]), axes, bool(node.attributes.get("keepdims", 1)))


def _transpose(source: NodeInputs, node: GraphNode) -> fx.Node:
    order = node.attributes.get("perm")
    if order is None or sorted(order) != list(range(len(order))):
        raise RefusedError(f"has the order {order}")
    return source.call(torch.permute, source.tensor(node.inputs[0]), tuple(order))


def _concat(source: NodeInputs, node: GraphNode) -> fx.Node:
    return source.call(torch.cat, tuple(source.tensor(name) for name in node.inputs), node.attributes["axis"])


def _gather(source: NodeInputs, node: GraphNode) -> fx.Node:
    x, axis = source.tensor(node.inputs[0]), node.attributes.get("axis", 0)
    index = source.constant(node.inputs[1])
    if index.ndim:
        return source.call(torch.index_select, x, axis, source.tensor(node.inputs[1]))
    return source.call(torch.select, x, axis, int(index))


def _slice(source: NodeInputs, node: GraphNode) -> fx.Node:
    starts, ends = (source.numbers(name) for name in node.inputs[1:3])
    axes = tuple(_whole_numbers(source, node.inputs[3])) if node.has(3) else None
    if axes is None or not all(-8 <= axis < 8 for axis in axes):
        raise RefusedError("does not say on which axes")
    steps = tuple(_whole_numbers(source, node.inputs[4])) if node.has(4) else (1,) * len(axes)
    if any(step < 1 for step in steps):
        raise RefusedError("goes backwards")
    return source.call(functions.part_of, source.tensor(node.inputs[0]), axes, starts, ends, steps)


def _slice_of_sizes(source: NodeInputs, node: GraphNode) -> fx.Node:
    start, end = (_whole_numbers(source, name)[0] for name in node.inputs[1:3])
    return source.call(operator.getitem, source.numbers(node.inputs[0]), slice(start, end))


def _reshape(source: NodeInputs, node: GraphNode) -> fx.Node:
    keep = not node.attributes.get("allowzero", 0)
    return source.call(functions.reshape, source.tensor(node.inputs[0]), source.numbers(node.inputs[1]), keep)


def _shape(source: NodeInputs, node: GraphNode) -> fx.Node:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return source.call(functions.sizes_of, source.tensor(node.inputs[0]), start, end)


def _unsqueeze(source: NodeInputs, node: GraphNode) -> fx.Node:
    axes = _whole_numbers(source, node.inputs[1])
    if not axes or len(axes) > 4 or any(axis < 0 for axis in axes):
        raise RefusedError(f"has the axes {axes[:8]}")
    x = source.tensor(node.inputs[0])
    for axis in sorted(axes):
        x = source.call(torch.unsqueeze, x, axis)
    return x


def _squeeze(source: NodeInputs, node: GraphNode) -> fx.Node:
    if not node.has(1):
        raise RefusedError("does not say which axes")
    return source.call(torch.squeeze, source.tensor(node.inputs[0]), tuple(_whole_numbers(source, node.inputs[1])))


def _first_size(source: NodeInputs, node: GraphNode) -> fx.Node:
    return source.call(functions.chosen, source.numbers(node.inputs[0]), 0)


def _whole_numbers(source: NodeInputs, name: str) -> list[int]:
    return [int(number) for number in source.constant(name).flatten()]


def _of_all(function: Callable[..., Any]) -> Build:
    return lambda source, node: source.call(function, *(source.numbers(name) for name in node.inputs))


def _one_size(source: NodeInputs, node: GraphNode) -> fx.Node:
    """A size as the only one of a list: by Unsqueeze, or by Reshape to [-1]."""
    if source.numbers(node.inputs[1]) not in ((-1,), (0,)):
        raise RefusedError("brings sizes into another form")
    return source.call(functions.joined, source.numbers(node.inputs[0]))


OPERATORS: Mapping[str, Operator] = {
    "Add": _arithmetic(torch.add, operator.add),
    "AveragePool": Operator(_average_pool, _WINDOW | {"ceil_mode": whole(0, 0), "count_include_pad": FLAG}),
    "Cast": Operator(
        _cast,
        {"to": lambda value: isinstance(value, int) and value in _DTYPES, "saturate": FLAG},
        of_shapes=_numbers_as_they_are,
    ),
    "Clip": Operator(_clip, {}),
    "Concat": Operator(_concat, {"axis": AXIS}, of_shapes=_of_all(functions.joined)),
    "Conv": Operator(_conv, _WINDOW | {"group": _GROUPS}),
    "ConvTranspose": Operator(_conv_transpose, _WINDOW | {"group": _GROUPS, "output_padding": list_of(BORDER, 2)}),
    "DepthToSpace": Operator(_depth_to_space, {"blocksize": whole(1, MAX_FACTOR), "mode": one_of("CRD", "DCR")}),
    "Div": _arithmetic(torch.div, functions.quotient),
    "Gather": Operator(_gather, {"axis": AXIS}, of_shapes=_of_all(functions.chosen)),
    "Gemm": Operator(_gemm, {"alpha": number, "beta": number, "transA": FLAG, "transB": FLAG}),
    "Identity": Operator(_same, {}, of_shapes=_numbers_as_they_are),
    "InstanceNormalization": Operator(_instance_norm, {"epsilon": number}),
    "LeakyRelu": Operator(_leaky_relu, {"alpha": number}),
    "Mul": _arithmetic(torch.mul, operator.mul),
    "Pad": Operator(_pad, {"mode": one_of(*_PAD_MODES)}),
    "ReduceMean": Operator(_mean, {"keepdims": FLAG, "noop_with_empty_axes": FLAG}),
    "Relu": _unary(torch.relu),
    "Reshape": Operator(_reshape, {"allowzero": FLAG}, of_shapes=_one_size),
    "Resize": Operator(
        _resize,
        {
            "antialias": whole(0, 0),
            "coordinate_transformation_mode": one_of("asymmetric"),
            "cubic_coeff_a": number,
            "exclude_outside": FLAG,
            "extrapolation_value": number,
            "keep_aspect_ratio_policy": one_of("stretch"),
            "mode": one_of("nearest"),
            "nearest_mode": one_of("floor"),
        },
    ),
    "Round": _unary(torch.round),
    "Shape": Operator(_shape, {"start": AXIS, "end": AXIS}),
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": Operator(_slice, {}, of_shapes=_slice_of_sizes),
    "Squeeze": Operator(_squeeze, {}, of_shapes=_first_size),
    "Sub": _arithmetic(torch.sub, operator.sub),
    "Tanh": _unary(torch.tanh),
    "Transpose": Operator(_transpose, {"perm": list_of(whole(0, 7), 2, 3, 4, 5, 6)}),
    "Unsqueeze": Operator(_unsqueeze, {}, of_shapes=_one_size),
}
"""By ONNX's name: what dsmap-export writes. Quantised graphs are not among it."""
