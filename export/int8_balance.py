"""Evens out channels and styles around convolutions, so that 8 bits represent them well. Exact up to rounding."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from dsmap.export.int8_calibration import STYLE, Activation

Array = npt.NDArray[Any]

# Channels with less are not scaled: the norm's epsilon of 1e-5 would matter.
_MIN_VARIANCE = 1e-3
_WEAKEST = 1e-4  # power of an image, relative to the strongest, that counts
_WORTH_DB = 2.0  # of rounding noise, for which another operation pays
_NO_POWER = 1e-12  # of what is constant: there is nothing to gain below


def even_out(model: onnx.ModelProto, activations: Mapping[str, Activation]) -> dict[str, Activation]:
    """Scales and shifts what convolutions read and give, in place, where a few values would decide the range of all.

    By style, where styles change the level of an image; by channel, which the weights cancel; and before an instance
    norm, which cancels everything. `activations`: those of the graph and its STYLE, if any; the result has those of
    the changed tensors, too.
    """
    found, tensors = dict(activations), {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    normed = {node.input[0] for node in model.graph.node if node.op_type == "InstanceNormalization"}
    nodes: list[onnx.NodeProto] = []
    for conv in model.graph.node:
        plain = conv.op_type != "Conv" or len(conv.input) < 3 or uses[conv.input[1]] != 1
        if plain or not {conv.input[0], conv.output[0]} <= activations.keys():
            nodes.append(conv)
            continue
        is_normed = conv.output[0] in normed and uses[conv.output[0]] == 1
        around = _Surroundings(model, conv, tensors, found)
        around.level(found.get(STYLE), is_normed)
        if is_normed:
            around.equalise_output()
        around.balance_input()
        if not is_normed:
            around.balance_output()
        nodes += around.finished()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _remove_unused(model)
    return found


class _Surroundings:
    """A convolution, with the operations before and after it."""

    def __init__(
        self,
        model: onnx.ModelProto,
        conv: onnx.NodeProto,
        tensors: Mapping[str, onnx.TensorProto],
        found: dict[str, Activation],
    ) -> None:
        """`tensors`: the initializers by name; `found`: takes the activations of new tensors."""
        self._model, self._conv, self._found, self._tensor = model, conv, found, tensors[conv.input[1]]
        self._name = conv.input[1].removesuffix(".weight")
        self._weight, self._bias = (onnx.numpy_helper.to_array(tensors[name]) for name in conv.input[1:3])
        self._before: list[onnx.NodeProto] = []
        self._after: list[onnx.NodeProto] = []
        self._x, self._y = found[conv.input[0]], found[conv.output[0]]

    def level(self, style: Activation | None, is_normed: bool) -> None:
        """Divides the input by the level that an image has in its style, if styles differ enough.

        That of the strongest style would decide the range for all others. The level is estimated from the style's
        parameters alone, not from the image: large frames are computed in stripes, which have to agree.
        """
        if style is None:
            return
        constant, slope = _fit(style.powers, self._x.powers)
        levels = np.sqrt(constant + slope * style.powers)
        even = self._x.divided(levels)
        plain = max(_span(self._x) ** 2 * float(np.mean(1 / levels**2)), _NO_POWER)
        if 10 * np.log10(plain / max(_span(even) ** 2, _NO_POWER)) <= 2 * _WORTH_DB:  # it takes two operations
            return
        name, source, result = f"{self._name}.level", self._conv.input[0], self._conv.output[0]
        self._before += self._level_of_style(name, constant, slope)
        self._before.append(onnx.helper.make_node("Div", [source, name], [f"{name}.in"], name=f"{name}.div"))
        self._x, self._y = even, self._y.balanced(np.ones_like(self._bias), self._bias).divided(levels)
        self._conv.input[0] = f"{name}.in"
        if not is_normed:
            bias = self._operand(f"{name}.bias", self._bias[:, None, None])
            self._after += [
                onnx.helper.make_node("Mul", [f"{name}.out", name], [f"{name}.product"], name=f"{name}.mul"),
                onnx.helper.make_node("Add", [f"{name}.product", bias], [result], name=f"{name}.add"),
            ]
            self._conv.output[0] = f"{name}.out"
        self._bias = np.zeros_like(self._bias)
        self._found |= {self._conv.input[0]: self._x, self._conv.output[0]: self._y}

    def _level_of_style(self, name: str, constant: float, slope: float) -> list[onnx.NodeProto]:
        """`name` (N, 1, 1, 1) from the style's parameters (N, L, 2, C)."""
        make = onnx.helper.make_node
        axes = self._operand(f"{name}.axes", np.array([1, 2, 3]))
        operands = [self._operand(f"{name}.{i}", np.array(x)) for i, x in enumerate((slope, constant))]
        return [
            make("Mul", [STYLE, STYLE], [f"{name}.squares"], name=f"{name}.square"),
            make("ReduceMean", [f"{name}.squares", axes], [f"{name}.power"], name=f"{name}.reduce", keepdims=1),
            make("Mul", [f"{name}.power", operands[0]], [f"{name}.part"], name=f"{name}.slope"),
            make("Add", [f"{name}.part", operands[1]], [f"{name}.sum"], name=f"{name}.constant"),
            make("Sqrt", [f"{name}.sum"], [name], name=f"{name}.sqrt"),
        ]

    def equalise_output(self) -> None:
        """Mean 0 and variance 1 for every channel before an instance norm, which cancels that.

        Channels whose values differ by orders of magnitude would share one range, and the norm would amplify the
        rounding errors of the small ones.
        """
        mean, variance = self._y.moments
        mean, scale = mean.astype(np.float32), (1 / np.sqrt(np.maximum(variance, _MIN_VARIANCE))).astype(np.float32)
        self._weight, self._bias = self._weight * scale[:, None, None, None], (self._bias - mean) * scale
        self._y = self._found[self._conv.output[0]] = self._y.balanced(1 / scale, mean)

    def balance_input(self) -> None:
        """Scales and shifts the channels of the input where it pays."""
        if self._weight.shape[1] != len(self._x.moments[0]):
            return
        # With half of the factors the weights of an output channel stay alike. A padding's zeros cannot be shifted.
        found = _best(self._x, np.square(self._weight).sum((0, 2, 3)), power=0.5, shifts=not _pads(self._conv))
        if found.steps:
            result = f"{self._name}.balanced"
            self._found[result] = self._x.balanced(*found)
            self._before += _steps(
                self._model, self._conv.input[0], result, Mul=1 / found.factor, Add=-found.shift / found.factor
            )
            self._conv.input[0] = result
            self._bias = self._bias + np.einsum("oihw,i->o", self._weight, found.shift)
            self._weight = self._weight * found.factor[:, None, None]

    def balance_output(self) -> None:
        """Scales and shifts the channels of the output where it pays."""
        found = _best(self._y, np.ones(len(self._bias)))
        if found.steps:
            source = f"{self._name}.unbalanced"
            self._found[source] = self._y.balanced(*found)
            self._after = [
                *_steps(self._model, source, self._conv.output[0], Mul=found.factor, Add=found.shift),
                *self._after,
            ]
            self._conv.output[0] = source
            self._weight = self._weight / found.factor[:, None, None, None]
            self._bias = (self._bias - found.shift) / found.factor

    def finished(self) -> list[onnx.NodeProto]:
        """All nodes, in order."""
        self._tensor.CopyFrom(onnx.numpy_helper.from_array(self._weight, self._tensor.name))
        self._conv.input[2] = self._operand(f"{self._name}.even_bias", self._bias)  # equal biases share a tensor
        return [*self._before, self._conv, *self._after]

    def _operand(self, name: str, value: Array) -> str:
        kind = np.int64 if np.issubdtype(value.dtype, np.integer) else np.float32
        self._model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, kind), name))
        return name


def _fit(style: Array, power: Array) -> tuple[float, float]:
    """`power` (images,) as a constant, which is positive, plus a slope times `style`, the powers of their styles."""
    least = max(float(power.max()) * _WEAKEST, 1e-12)
    weight = 1 / np.maximum(power, least)  # weak images count as much as strong ones
    constant, slope = np.linalg.lstsq(np.stack([weight, style * weight], 1), power * weight, rcond=None)[0]
    return max(float(constant), least), max(float(slope), 0.0)


class Balance(NamedTuple):
    """Channel c of a tensor is `factor[c]` times that of the balanced one plus `shift[c]`: float32 (C,)."""

    factor: Array
    shift: Array

    @property
    def steps(self) -> int:
        """How many operations it takes."""
        return int((self.factor != 1).any()) + int((self.shift != 0).any())


def _best(activation: Activation, weight: Array, *, power: float = 1.0, shifts: bool = True) -> Balance:
    """The balance with the least rounding noise; each of its steps has to pay. `weight`: how much a channel counts.

    `power`: of the channels' magnitudes, by which they are divided. `shifts`: whether channels may be shifted.
    """
    mean, variance = (moment.astype(np.float32) for moment in activation.moments)
    one, zero = np.ones_like(mean), np.zeros_like(mean)
    choices = [Balance(one, zero), Balance(_relative(variance + mean**2) ** power, zero)]
    if shifts:
        choices += [Balance(one, mean), Balance(_relative(variance) ** power, mean)]
    return min(choices, key=lambda balance: _noise_db(activation, balance, weight) + _WORTH_DB * balance.steps)


def _remove_unused(model: onnx.ModelProto) -> None:
    """Removes tensors that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def _pads(conv: onnx.NodeProto) -> bool:
    """Whether a convolution pads its input with zeros."""
    return any(any(attribute.ints) for attribute in conv.attribute if attribute.name == "pads")


def _relative(squares: Array) -> Array:
    """The square roots of `squares` (C,), relative to that of their mean: float32 (C,)."""
    mean = squares.mean()
    return np.sqrt(np.maximum(squares / mean, 1e-6) if mean > _NO_POWER else np.ones_like(squares)).astype(np.float32)


def _noise_db(activation: Activation, balance: Balance, weight: Array) -> float:
    """The rounding noise of a balanced tensor, in dB against any level; `weight`: how much each channel counts."""
    span = _span(activation.balanced(*balance))
    return float(10 * np.log10(max(span**2 * (weight * np.square(balance.factor)).sum(), _NO_POWER)))


def _span(activation: Activation) -> float:
    """The range that 8 bits have to cover."""
    low, high = activation.range()
    return high - min(low, 0)


def _steps(model: onnx.ModelProto, source: str, result: str, **operands: Array) -> list[onnx.NodeProto]:
    """`source` (N, C, H, W) -> `result` by operations with an operand (C,), where that changes anything."""
    wanted = {kind: operand for kind, operand in operands.items() if (operand != (kind == "Mul")).any()}
    nodes = []
    for i, (kind, operand) in enumerate(wanted.items()):
        step = result if i == len(wanted) - 1 else f"{result}.{kind.lower()}"
        name = f"{result}.{kind.lower()}_operand"
        model.graph.initializer.append(onnx.numpy_helper.from_array(operand[:, None, None].astype(np.float32), name))
        nodes.append(onnx.helper.make_node(kind, [source, name], [step], name=f"{step}.{kind.lower()}"))
        source = step
    return nodes
