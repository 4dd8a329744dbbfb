"""Rebuilds a bundle's ONNX graphs as PyTorch modules.

    module = translation_module(read, source="summer", target="winter")
    frames = module.forward(frames, style_params)

The graphs are the bytes that the bundle's check has passed. Each node becomes calls of functions known here, with
tensors, numbers and tuples: nothing that is read is executed, and no name from a file gets into the module.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import fx, nn

from dsmap.errors import DsmapError
from dsmap.runtime.backends.torch import functions
from dsmap.runtime.backends.torch.nodes import GraphNode, RefusedError
from dsmap.runtime.backends.torch.operators import OPERATORS
from dsmap.runtime.backends.torch.patterns import EdgeSums, LayerNormNodes, PaddedBlocks, find_patterns
from dsmap.runtime.bundle.bundle import GraphData

_ADVICE = "Use --backend cpu, or export the bundle again."
_OPSETS = range(18, 21)
"""Versions of ONNX's operators that are known here: axes are inputs since 18, and 21 changes more."""
_MAX_HOST_NUMBERS = 64
Read = Callable[[str, str], GraphData | None]
"""Component and domain -> the graph; None where the bundle has none."""


def translation_module(read: Read, source: str, target: str) -> fx.GraphModule:
    """frames, style_params -> frames, without gaps in memory: encoder, mapping and decoder as one module, on the CPU.

    Without styles, `style_params` is taken and not used.
    Raises DsmapError with its name for an operator, an attribute or a value that is not known here.
    """
    builder = _ModuleBuilder()
    frames, style_params = builder.input("frames"), builder.input("style_params")
    encoder, mapping, decoder = read("content_encoder", source), read("mapping", target), read("decoder", target)
    assert encoder is not None, "a bundle is read only if it has it"
    assert decoder is not None
    encoded = builder.add(encoder, frames=frames)
    mapped = encoded["content"]
    if mapping is not None:
        mapped = builder.add(mapping, content=mapped, skip=encoded["skip"])["mapped"]
    styled = {} if read("style_mlp", target) is None else {"style_params": style_params}
    decoded = builder.add(decoder, mapped=mapped, **styled)
    return builder.module(builder.call(torch.Tensor.contiguous, decoded["frames"]))


def single_module(graph: GraphData, *given: str, wanted: str) -> fx.GraphModule:
    """One graph as a module, from its inputs in this order to an output. Raises DsmapError as `translation_module`."""
    builder = _ModuleBuilder()
    return builder.module(builder.add(graph, **{name: builder.input(name) for name in given})[wanted])


def copy_of(module: fx.GraphModule) -> fx.GraphModule:
    """The same with the same weights, and code of its own: what is compiled for it is freed with it."""
    return fx.GraphModule(module, module.graph)


class _ModuleBuilder:
    """Makes one module of several graphs."""

    def __init__(self) -> None:
        self._weights = nn.Module()
        self._graph = fx.Graph()
        self._count = 0

    def input(self, name: str) -> fx.Node:
        """An input of the module. In the order of the calls."""
        return self._graph.placeholder(name)

    def weight(self, array: np.ndarray[Any, Any]) -> fx.Node:
        """A constant tensor. Kernels are kept with their channels last."""
        tensor = torch.from_numpy(np.array(array))  # a copy: what ONNX gives may not be written to
        if tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        name = f"weight_{self._count}"
        self._count += 1
        self._weights.register_buffer(name, tensor)
        return self._graph.get_attr(name)

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> fx.Node:
        """A call of a function, on what earlier ones gave."""
        return self._graph.call_function(function, args, options)

    def add(self, graph: GraphData, **inputs: fx.Node) -> dict[str, fx.Node]:
        """Adds an ONNX graph; returns its outputs by name."""
        try:
            return _OnnxGraph(self, graph.data, inputs).outputs()
        except RefusedError as refusal:
            raise DsmapError(f"the torch backend does not run {graph.name}: {refusal}", _ADVICE) from refusal

    def module(self, output: fx.Node) -> fx.GraphModule:
        """The module that gives `output`."""
        self._graph.output(output)
        self._graph.eliminate_dead_code()
        self._graph.lint()
        return fx.GraphModule(self._weights, self._graph, class_name="Translation").eval()


class _OnnxGraph:
    """One ONNX graph on its way into a module, and the `NodeInputs` of its nodes."""

    def __init__(self, builder: _ModuleBuilder, data: bytes, inputs: Mapping[str, fx.Node]) -> None:
        try:
            model = onnx.load_from_string(data)
        except Exception as error:  # protobuf's own types
            raise RefusedError("it is no ONNX file") from error
        versions = [entry.version for entry in model.opset_import]
        if len(versions) != 1 or versions[0] not in _OPSETS:
            raise RefusedError(f"it has ONNX's operators of version {versions[:3]}")
        self._builder, self._onnx = builder, model.graph
        self._constants = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
        self._weights: dict[str, fx.Node] = {}
        self._tensors: dict[str, fx.Node] = dict(inputs)
        self._sizes: dict[str, fx.Node] = {}
        """What was computed from shapes."""
        expected = {entry.name for entry in model.graph.input} - self._constants.keys()
        if expected != inputs.keys():
            raise RefusedError(f"it has other inputs than {', '.join(inputs)}")

    def outputs(self) -> dict[str, fx.Node]:
        """Adds all nodes."""
        nodes = [_node(node) for node in self._onnx.node]
        patterns = find_patterns(nodes, self._constants, [entry.name for entry in self._onnx.output])
        for node in nodes:
            match patterns.get(node.outputs[0]):
                case None:
                    self._add(node)
                case LayerNormNodes(x, epsilon):
                    self._tensors[node.outputs[0]] = self._layer_norm(self.tensor(x), epsilon)
                case EdgeSums(x, first, last, axis):
                    terms = self.tensor(first), self.tensor(last)
                    self._tensors[node.outputs[0]] = self.call(functions.add_to_ends, self.tensor(x), *terms, axis)
                case PaddedBlocks(x, mode):
                    self._tensors[node.outputs[0]] = self.call(functions.pad_blocks, self.tensor(x), mode)
        return {entry.name: self.tensor(entry.name) for entry in self._onnx.output}

    def _layer_norm(self, x: fx.Node, epsilon: float) -> fx.Node:
        if x.target is torch.Tensor.to and x.args[1] == torch.float32:  # of what it was before
            return self.call(functions.layer_norm, x.args[0], epsilon, torch.float32)
        return self.call(functions.layer_norm, x, epsilon)

    def _add(self, node: GraphNode) -> None:
        if node.operator == "Constant":
            self._constants[node.outputs[0]] = _constant_of(node)
            return
        known = OPERATORS.get(node.operator)
        if known is None:
            raise RefusedError(f"it has the operator {node.operator}")
        for name, value in node.attributes.items():
            check = known.attributes.get(name)
            if check is None or not check(value):
                raise RefusedError(f"{node.operator} has the attribute {name} {str(value)[:40]}")
        # A Slice or a Reshape of pixels may go by sizes, too.
        data = node.inputs[:1] if node.operator in ("Slice", "Reshape") else node.inputs
        of_shapes = known.of_shapes if any(name in self._sizes for name in data) else None
        build = known.build if of_shapes is None else of_shapes
        try:
            made = build(self, node)
        except RefusedError as refusal:
            raise RefusedError(f"{node.operator} {refusal}") from refusal
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise RefusedError(f"{node.operator} lacks something, or has it in another form") from error
        is_sizes = of_shapes is not None or node.operator == "Shape"
        (self._sizes if is_sizes else self._tensors)[node.outputs[0]] = made

    # What operators ask for

    def tensor(self, name: str) -> fx.Node:
        if (found := self._tensors.get(name)) is not None:
            return found
        if name not in self._weights:
            self._weights[name] = self._builder.weight(self.constant(name))
        return self._weights[name]

    def put_in_place(self, name: str, same: fx.Node) -> None:
        self._tensors[name] = same

    def factor(self, name: str) -> fx.Node | float:
        constant = self._constants.get(name)
        if constant is not None and constant.ndim == 0 and constant.dtype.kind == "f":
            return float(constant)
        return self.tensor(name)

    def numbers(self, name: str) -> Any:
        if (found := self._sizes.get(name)) is not None:
            return found
        constant = self.constant(name)
        if constant.dtype.kind != "i" or constant.size > _MAX_HOST_NUMBERS or constant.ndim > 1:
            raise RefusedError("has something else where whole numbers should be")
        return int(constant) if constant.ndim == 0 else tuple(int(number) for number in constant)

    def constant(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self._constants:
            raise RefusedError("takes what nothing gives, or computes what should stand in the file")
        return self._constants[name]

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> fx.Node:
        return self._builder.call(function, *args, **options)


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # what the shape, the type and the bytes may all be
        raise RefusedError("its weights cannot be read") from error


def _node(node: Any) -> GraphNode:
    attributes = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        attributes[attribute.name] = value if isinstance(value, str | int | float | onnx.TensorProto) else list(value)
    if len(node.output) != 1:
        raise RefusedError(f"its operator {node.op_type[:40]} has {len(node.output)} outputs")
    return GraphNode(node.op_type, tuple(node.input), tuple(node.output), attributes)


def _constant_of(node: GraphNode) -> np.ndarray[Any, Any]:
    """What a Constant gives."""
    kinds: Mapping[str, Callable[[Any], np.ndarray[Any, Any]]] = {
        "value": _array,
        "value_float": lambda value: np.array(value, np.float32),
        "value_floats": lambda value: np.array(value, np.float32),
        "value_int": lambda value: np.array(value, np.int64),
        "value_ints": lambda value: np.array(value, np.int64),
    }
    ((name, value),) = node.attributes.items() if len(node.attributes) == 1 else (("", None),)
    if name not in kinds:
        raise RefusedError(f"Constant has the attribute {name[:40]}")
    return kinds[name](value)
