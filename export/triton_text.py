"""Pieces of Triton's `config.pbtxt`: protocol buffers in their text format.

The text is written here, with comments for those who change it, and the tests read it with NVIDIA's own definitions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class TensorConfig(NamedTuple):
    """An input or output of a model, without the dimension of the batch."""

    name: str
    kind: str
    """UINT8, FP32, STRING ..."""
    dims: Sequence[int]
    """-1: any size."""
    optional: bool = False

    def __str__(self) -> str:
        dims = ", ".join(map(str, self.dims))
        optional = " optional: true" if self.optional else ""
        return f"{{ name: {quoted(self.name)} data_type: TYPE_{self.kind} dims: [ {dims} ]{optional} }}"


def tensors(field: str, of: Iterable[TensorConfig]) -> str:
    """The field `input` or `output` of a model."""
    return f"{field} [\n  " + ",\n  ".join(map(str, of)) + "\n]\n"


def parameters(values: Mapping[str, str]) -> str:
    """The parameters of a model."""
    return "".join(
        f"parameters {{ key: {quoted(name)} value {{ string_value: {quoted(value)} }} }}\n"
        for name, value in values.items()
    )


def quoted(text: str) -> str:
    """A string of the text format, in double quotes; non-ASCII characters stay as they are, in UTF-8."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(char) or _octal(char) for char in text) + '"'


def _octal(char: str) -> str:
    return f"\\{ord(char):03o}" if ord(char) < 0x20 or ord(char) == 0x7F else char
