"""Checks a bundle's ONNX graphs before anything loads them: they hold their weights, and only known operators.

    check_graph(data, "decoder.winter.onnx")     # InputError for what a bundle's graph never is

The hash in bundle.json says that a file is the one that was exported, not that it is harmless. A graph may point to
other files (external data), carry programs (subgraphs, functions, training) or name operators that a backend brings
itself. None of the graphs that dsmap-export writes does, so all of that is refused, for every backend alike: ONNX
Runtime, OpenVINO and TensorRT differ in what they would follow.

ONNX files are protocol buffers. Reading their wire format takes a page of code, where the `onnx` package would be 20 MB
more for everyone who only runs models. What this reader does not know it refuses, so that nothing passes unseen.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dsmap.common.text import printable
from dsmap.errors import InputError

# fmt: off
OPERATORS = frozenset({
    "Add", "AveragePool", "Cast", "Clip", "Concat", "Constant", "Conv", "ConvTranspose", "DepthToSpace",
    "DequantizeLinear", "Div", "Exp", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "GroupNormalization",
    "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "MatMul", "Max", "Min", "Mul", "Neg",
    "Pad", "Pow", "QuantizeLinear", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Round",
    "Shape", "Sigmoid", "Slice", "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose",
    "Unsqueeze",
})
# fmt: on
"""Of the standard domain: those in exported graphs and close relatives. None takes a subgraph, a file or a size of the
file's choosing that could fill the memory."""
MAX_NODES = 20_000
_OWN_DOMAINS = ("", "ai.onnx")
_ADVICE = "Get the bundle from its source again, or export it again: graphs of dsmap-export hold nothing else."
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_SMALL, _OFTEN = 4096, 64  # bytes of a message
_FOREIGN_MARKS = (b"ORTM", b"TFL3")  # of other formats, which a backend might take the same bytes for


class _Field(NamedTuple):
    """One field of a message, as it may be in a bundle's graph."""

    wire: int
    many: bool = False
    refused: str = ""
    """What the field would bring; such a graph is refused."""


_TEXT, _TEXTS, _NUMBER = _Field(_BYTES), _Field(_BYTES, many=True), _Field(_VARINT)
_MESSAGE, _MESSAGES = _TEXT, _TEXTS


def _no(what: str, wire: int = _BYTES) -> _Field:
    return _Field(wire, many=True, refused=what)


_MODEL = {1: _NUMBER, 2: _TEXT, 3: _TEXT, 4: _TEXT, 5: _NUMBER, 6: _TEXT, 7: _MESSAGE, 8: _MESSAGES, 14: _MESSAGES,
          20: _no("a training"), 25: _no("functions")}  # fmt: skip
_OPSET = {1: _TEXT, 2: _NUMBER}
_GRAPH = {1: _MESSAGES, 2: _TEXT, 5: _MESSAGES, 10: _TEXT, 11: _MESSAGES, 12: _MESSAGES, 13: _MESSAGES,
          15: _no("sparse weights"), 16: _MESSAGES}  # fmt: skip
_NODE = {1: _TEXTS, 2: _TEXTS, 3: _TEXT, 4: _TEXT, 5: _MESSAGES, 6: _TEXT, 7: _TEXT, 8: _no("overloaded functions"),
         9: _MESSAGES}  # fmt: skip
_ATTRIBUTE = {1: _TEXT, 2: _Field(_FIXED_32), 3: _NUMBER, 4: _TEXT, 5: _MESSAGE, 6: _no("a subgraph"),
              7: _Field(_FIXED_32, many=True), 8: _Field(_VARINT, many=True), 9: _TEXTS, 11: _no("subgraphs"),
              13: _TEXT, 20: _NUMBER, 22: _no("sparse weights"), 23: _no("sparse weights")}  # fmt: skip
_TENSOR = {1: _Field(_VARINT, many=True), 2: _NUMBER, 4: _Field(_FIXED_32, many=True), 5: _Field(_VARINT, many=True),
           7: _Field(_VARINT, many=True), 8: _TEXT, 9: _TEXT, 10: _Field(_FIXED_64, many=True),
           11: _Field(_VARINT, many=True), 12: _TEXT, 13: _no("weights in another file (external data)"),
           14: _NUMBER, 16: _MESSAGES}  # fmt: skip

# Bytes of one element, by ONNX's number of the type: float, uint8, int8, uint16, int16, int32, int64, bool, float16,
# double, uint32, uint64, bfloat16.
_ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_RAW, _DATA_LOCATION = 9, 14
_TYPED = {4: 4, 5: None, 7: None, 10: 8, 11: None}  # fields with typed elements, and their packed bytes where fixed

Bytes = bytes | memoryview
Message = Mapping[int, list[int | Bytes]]


def check_graph(data: bytes, name: str) -> None:
    """Raises InputError unless `data` is an ONNX model that holds all it needs and has only `OPERATORS`.

    `name` is what messages call it.
    """
    try:
        _check_model(memoryview(data))
    except _OddError as odd:
        raise InputError(f"{name} {odd}", _ADVICE) from odd


class _OddError(Exception):
    """What a graph is or has that none of a bundle's does: the rest of a sentence that begins with its name."""


_DAMAGED = _OddError("is damaged, or not an ONNX file")


def _check_model(data: Bytes) -> None:
    if len(data) < 8 or bytes(data[4:8]) in _FOREIGN_MARKS:
        raise _OddError("is not an ONNX file")
    model = _message(data, _MODEL)
    for opset in _inner(model, 8):
        fields = _message(opset, _OPSET)
        if (domain := _text(fields, 1)) not in _OWN_DOMAINS:
            raise _OddError(f"has operators of the domain {_shown(domain)}")
    graphs = list(_inner(model, 7))
    if not graphs:
        raise _OddError("is not an ONNX file: it has no graph")
    _check_graph(graphs[0])


def _check_graph(data: Bytes) -> None:
    graph = _message(data, _GRAPH)
    nodes = graph.get(1, [])
    if len(nodes) > MAX_NODES:
        raise _OddError(f"has {len(nodes)} operators, expected at most {MAX_NODES}")
    for node in _inner(graph, 1):
        _check_node(node)
    for tensor in _inner(graph, 5):
        _check_tensor(tensor)


def _check_node(data: Bytes) -> None:
    node = _message(data, _NODE)
    operator, domain = _text(node, 4), _text(node, 7)
    if domain not in _OWN_DOMAINS:
        raise _OddError(f"has the operator {_shown(operator)} of the domain {_shown(domain)}")
    for attribute in _inner(node, 5):
        if len(attribute) <= _OFTEN:
            _check_small_attribute(bytes(attribute))
        else:
            _check_attribute(attribute)
    if operator not in OPERATORS:
        raise _OddError(f"has the operator {_shown(operator)}, which no graph of dsmap-export has")


def _check_attribute(data: Bytes) -> None:
    for tensor in _inner(_message(data, _ATTRIBUTE), 5):
        _check_tensor(tensor)


@functools.lru_cache(4096)
def _check_small_attribute(data: bytes) -> None:
    """Most are the same few, such as strides of 1: a third of the time is saved."""
    _check_attribute(data)


def _check_tensor(data: Bytes) -> None:
    """Weights are inside the file, and as many as are declared: no reader makes room for what is not there."""
    tensor = _message(data, _TENSOR)
    if any(tensor.get(_DATA_LOCATION, [])):
        raise _OddError(f"has weights in another file ({_name(tensor)}), which bundle.json says nothing of")
    element = _ELEMENT_BYTES.get(_number(tensor, 2))
    if element is None:
        raise _OddError(f"has weights of an unknown type ({_name(tensor)})")
    expected = math.prod(_numbers(tensor.get(1, [])))
    found = sum(_counted(values, _TYPED[field]) for field, values in tensor.items() if field in _TYPED)
    raw = sum(len(value) for value in _inner(tensor, _RAW))
    if expected != found + raw // element or raw % element or (found and raw):
        raise _OddError(f"declares {expected} numbers as {_name(tensor)} and holds {found + raw // element}")


def _counted(values: list[int | Bytes], packed_bytes: int | None) -> int:
    """How many numbers a repeated field holds: one by one, or packed."""
    return sum(
        1
        if isinstance(value, int)
        else len(value) // packed_bytes
        if packed_bytes is not None
        else sum(byte < 0x80 for byte in value)  # every varint ends with the one byte below 128
        for value in values
    )


# The wire format: https://protobuf.dev/programming-guides/encoding


def _message(data: Bytes, fields: Mapping[int, _Field]) -> Message:
    """The values of a message by field number: numbers, or the bytes of what has a length.

    Raises _OddError for bytes that are no message, and for fields that are refused, unknown, of another wire type than
    they should be, or there twice where there can be one (of which readers take one or merge them).
    """
    found: dict[int, list[int | Bytes]] = {}
    at, end = 0, len(data)
    if end < _SMALL:
        data = bytes(data)  # quicker to index; larger ones are not copied
    while at < end:
        tag = data[at]  # most are of one byte, as most lengths
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(data, at - 1)
        number, wire = tag >> 3, tag & 7
        field = fields.get(number)
        if field is None:
            raise _OddError(f"is of an unknown form: it has a field {number} that this dsmap does not know")
        if field.refused:
            raise _OddError(f"has {field.refused}")
        if wire != field.wire and not (field.many and wire == _BYTES):  # packed
            raise _DAMAGED
        value: int | Bytes
        if wire == _BYTES:
            length, at = (data[at], at + 1) if at < end and data[at] < 0x80 else read_varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire == _VARINT:
            value, at = (data[at], at + 1) if at < end and data[at] < 0x80 else read_varint(data, at)
        else:
            length = 4 if wire == _FIXED_32 else 8
            value, at = int.from_bytes(data[at : at + length], "little"), at + length
        if at > end:
            raise _DAMAGED
        if number not in found:
            found[number] = [value]
        elif field.many:
            found[number].append(value)
        else:
            raise _OddError(f"is of an unknown form: its field {number} is there twice")
    return found


def read_varint(data: Bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next begins. Raises _OddError where the bytes end within it."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _DAMAGED


def _inner(message: Message, number: int) -> Iterator[Bytes]:
    return (value for value in message.get(number, []) if not isinstance(value, int))


def _text(message: Message, number: int) -> str:
    for value in message.get(number, ()):
        if not isinstance(value, int):
            return bytes(value).decode("utf-8", "replace")
    return ""


def _number(message: Message, number: int) -> int:
    for value in message.get(number, ()):
        if isinstance(value, int):
            return value
    return 0


def _numbers(values: list[int | Bytes]) -> Iterator[int]:
    """The numbers of a repeated field, packed or not."""
    for value in values:
        if isinstance(value, int):
            yield value
            continue
        at = 0
        while at < len(value):
            one, at = read_varint(value, at)
            yield one


def _name(tensor: Message) -> str:
    return _shown(_text(tensor, 8))


def _shown(text: str) -> str:
    return repr(printable(text[:60]))
