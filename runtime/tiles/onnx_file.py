"""Reads ONNX graphs that were checked, and writes parts of them: what `onnx` does, which the runtime does not need.

    graph = read_graph(data, "decoder/")        # every name gets the prefix
    data = write_model(nodes, tensors, inputs, outputs, opset=20)

The bytes are those of a bundle: `check_graph` has passed them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.runtime.bundle.graphs import read_varint

Bytes = bytes | memoryview
Value = int | Bytes

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16}
_NUMBERS = {np.dtype(dtype): number for number, dtype in _DTYPES.items()}
_IR_VERSION = 9


class Node(NamedTuple):
    """One operator of a graph."""

    op: str
    inputs: tuple[str, ...]
    """An empty name is an input that is left out."""
    outputs: tuple[str, ...]
    attributes: tuple[Bytes, ...] = ()
    """Each as the message that it is."""

    def attribute(self, name: str, default: float) -> float:
        """The number that an attribute holds."""
        for data in self.attributes:
            fields = dict(_fields(data))
            if fields.get(1) == name.encode():
                if 2 in fields:
                    return float(np.frombuffer(fields[2], "<f4")[0])  # type: ignore[arg-type]
                return _signed(fields.get(3, 0))
        return default


class OnnxGraph(NamedTuple):
    """A graph: its nodes in an order in which they can run, and its weights as messages without their names."""

    nodes: list[Node]
    tensors: dict[str, bytes]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int


class Port(NamedTuple):
    """An input of a graph: its dtype and its shape, with None for what changes."""

    name: str
    dtype: npt.DTypeLike
    shape: Sequence[int | None]


def read_graph(data: Bytes, prefix: str = "") -> OnnxGraph:
    """The graph in `data`; `prefix` stands before every name."""
    model = list(_fields(memoryview(data)))
    (graph,) = [value for number, value in model if number == 7 and not isinstance(value, int)]
    nodes, tensors, inputs, outputs = [], {}, [], []
    for number, value in _fields(graph):
        assert not isinstance(value, int)
        if number == 1:
            nodes.append(_node(value, prefix))
        elif number == 5:
            kept = [(n, v) for n, v in _fields(value) if n != 8]
            tensors[prefix + _text(value, 8)] = b"".join(_encoded(n, v) for n, v in kept)
        elif number == 11:
            inputs.append(prefix + _text(value, 1))
        elif number == 12:
            outputs.append(prefix + _text(value, 1))
    opsets = [dict(_fields(value)).get(2, 0) for number, value in model if number == 8 and not isinstance(value, int)]
    return OnnxGraph(nodes, tensors, tuple(inputs), tuple(outputs), max(n for n in opsets if isinstance(n, int)))


def write_model(
    nodes: Iterable[Node], tensors: Mapping[str, bytes], inputs: Iterable[Port], outputs: Iterable[str], opset: int
) -> bytes:
    """An ONNX file with these nodes; the types of the outputs are left to the reader."""
    graph = [_encoded(1, _encode_node(node)) for node in nodes]
    graph.append(_encoded(2, b"part"))
    graph += [_encoded(5, tensor + _encoded(8, name.encode())) for name, tensor in tensors.items()]
    graph += [_encoded(11, _encode_port(port)) for port in inputs]
    graph += [_encoded(12, _encoded(1, name.encode())) for name in outputs]
    return b"".join([_encoded(1, _IR_VERSION), _encoded(8, _encoded(2, opset)), _encoded(7, b"".join(graph))])


def tensor_values(tensor: bytes) -> npt.NDArray[np.float32]:
    """The numbers of a float32 tensor, flat."""
    raw = next((value for number, value in _fields(tensor) if number == 9), None)
    if raw is not None:
        return np.frombuffer(raw, "<f4")  # type: ignore[arg-type]
    typed = [value for number, value in _fields(tensor) if number == 4]
    return np.frombuffer(b"".join(bytes(value) for value in typed if not isinstance(value, int)), "<f4")


def tensor_array(tensor: bytes) -> npt.NDArray:
    """The numbers of a tensor of any type that holds them as bytes, in its shape."""
    fields = list(_fields(tensor))
    (kind,) = [value for number, value in fields if number == 2 and isinstance(value, int)]
    (raw,) = [value for number, value in fields if number == 9 and not isinstance(value, int)]
    shape = [value for number, value in fields if number == 1 and isinstance(value, int)]
    return np.frombuffer(raw, np.dtype(_DTYPES[kind])).reshape(shape)


def encode_tensor(array: npt.NDArray) -> bytes:
    """A tensor, without its name."""
    shape = b"".join(_encoded(1, side) for side in array.shape)
    return shape + _encoded(2, _NUMBERS[array.dtype]) + _encoded(9, np.ascontiguousarray(array).tobytes())


def _node(data: Bytes, prefix: str) -> Node:
    names: dict[int, list[str]] = {1: [], 2: []}
    attributes, op = [], ""
    for number, value in _fields(data):
        assert not isinstance(value, int)
        if number in names:
            text = bytes(value).decode()
            names[number].append(prefix + text if text else "")
        elif number == 4:
            op = bytes(value).decode()
        elif number == 5:
            attributes.append(bytes(value))
    return Node(op, tuple(names[1]), tuple(names[2]), tuple(attributes))


def _encode_node(node: Node) -> bytes:
    return b"".join(
        [
            *(_encoded(1, name.encode()) for name in node.inputs),
            *(_encoded(2, name.encode()) for name in node.outputs),
            _encoded(4, node.op.encode()),
            *(_encoded(5, attribute) for attribute in node.attributes),
        ]
    )


def _encode_port(port: Port) -> bytes:
    sides = (_encoded(2, f"{port.name}_{axis}".encode()) if n is None else _encoded(1, n)
             for axis, n in enumerate(port.shape))  # fmt: skip
    shape = b"".join(_encoded(1, side) for side in sides)
    tensor = _encoded(1, _NUMBERS[np.dtype(port.dtype)]) + _encoded(2, shape)
    return _encoded(1, port.name.encode()) + _encoded(2, _encoded(1, tensor))


# The wire format: https://protobuf.dev/programming-guides/encoding


def _fields(data: Bytes) -> Iterator[tuple[int, Value]]:
    """Numbers and values of a message's fields: a varint as a number, all others as bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value: Value
            value, at = read_varint(data, at)
        else:
            length, at = read_varint(data, at) if wire == _BYTES else (4 if wire == _FIXED_32 else 8, at)
            value, at = data[at : at + length], at + length
            if wire != _BYTES:
                value = bytes(value)
        yield number, value


def _signed(value: Value) -> int:
    assert isinstance(value, int)
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(data: Bytes, wanted: int) -> str:
    return next((bytes(value).decode() for n, value in _fields(data) if n == wanted and not isinstance(value, int)), "")


def _number_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _encoded(number: int, value: Value) -> bytes:
    """A field of a message. What is not a number is written with its length, as are packed numbers."""
    if isinstance(value, int):
        return _number_bytes(number << 3 | _VARINT) + _number_bytes(value)
    return _number_bytes(number << 3 | _BYTES) + _number_bytes(len(value)) + bytes(value)
