"""Norms of a merged graph in forms for which ONNX Runtime's CUDA provider has fast kernels.

In a bundle's fp16 graphs, a norm is a cast to float32, the norm, scale and shift, and a cast back: six and more passes
over a map in float32. Here it reads and writes half precision, and takes its statistics in float32 as before:

- Instance norm, with scale and shift of a style or without, is one InstanceNormalization of half precision, which cuDNN
  computes as batch norm in training with statistics, scale and shift in float32. Samples are taken as channels: for a
  batch the provider has another kernel, which rounds variances to half precision and overflows.
- Layer norm takes mean and variance of short rows of the map as LayerNormalization gives them, and of these the
  sample's. A BatchNormalization then applies them together with scale and shift, in float32. A row is as long as there
  are channels, and at least one warp of the GPU computes it: maps of few channels keep the means in two steps of
  `gpu_graph`.
"""

from collections import Counter
from typing import Any

import numpy as np

from dsmap.runtime.backends.gpu_graph import FRAMES, STYLE, epsilon_of, two_step_norms

_FEWEST_CHANNELS = 32  # a warp computes a row
_EPSILON = 1e-5  # of the BatchNormalization, whose variance is as much below 1
_FLOAT, _HALF = 1, 10
_PREFIX = "cuda_norms/"


def cuda_norms(model: Any) -> None:
    """Rewrites the norms of a merged onnx.ModelProto in place."""
    _Rewrite(model).apply()
    two_step_norms(model)


class _Rewrite:
    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self._graph = model.graph
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._uses = Counter(name for node in model.graph.node for name in node.input)
        self._first: list[Any] = []
        self._made: dict[str, np.ndarray[Any, Any]] = {}

    def apply(self) -> None:
        from onnx import numpy_helper

        nodes = []
        for node in self._graph.node:
            nodes += self._instance_norm(node) or self._layer_norm(node) or [node]
        # What led to a norm's result and nothing else reads is left out, from the end on.
        needed, kept = {entry.name for entry in self._graph.output}, []
        for node in reversed(self._first + nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._with_one_cast_of_styles(kept[::-1]))
        self._graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self._made.items())

    def _with_one_cast_of_styles(self, nodes: list[Any]) -> list[Any]:
        """Casts all parameters of the style at once, if every one of them is cast."""
        from onnx import helper

        of_style, casts = {STYLE}, {}
        for node in nodes:
            if of_style.isdisjoint(node.input) or node.op_type == "Shape":
                continue
            if node.op_type in ("Gather", "Slice"):
                of_style.update(node.output)
            elif self._cast(node, _HALF):
                casts[node.output[0]] = node.input[0]
            else:
                return nodes
        if not casts:
            return nodes
        half = f"{_PREFIX}style"
        others = [node for node in nodes if node.output[0] not in casts]
        for node in others:
            node.input[:] = [half if name == STYLE else casts.get(name, name) for name in node.input]
        return [helper.make_node("Cast", [STYLE], [half], to=_HALF), *others]

    # What is looked for

    def _before(self, name: str, *operators: str) -> Any:
        """The node that makes this, if it is one of these operators, and if nothing else reads it."""
        node = self._makers.get(name)
        return node if node is not None and node.op_type in operators and self._uses[name] == 1 else None

    def _cast(self, node: Any, to: int) -> bool:
        return node is not None and node.op_type == "Cast" and node.attribute[0].i == to

    def _narrow(self, name: str) -> str | None:
        """What is cast to float32 here."""
        node = self._makers.get(name)
        return str(node.input[0]) if node is not None and self._cast(node, _FLOAT) else None

    def _is_plain(self, norm: Any) -> bool:
        scale, shift = (self._arrays.get(name) for name in norm.input[1:3])
        return scale is not None and shift is not None and bool((scale == 1).all() and (shift == 0).all())

    def _affine(self, name: str) -> tuple[str, str, str] | None:
        """What is multiplied and then added to here: that, the factor and the term."""
        add = self._before(name, "Add")
        mul = self._before(add.input[0], "Mul") if add is not None else None
        return (mul.input[0], mul.input[1], add.input[1]) if mul is not None else None

    def _instance_norm(self, last: Any) -> list[Any] | None:
        if not self._cast(last, _HALF):
            return None
        affine = self._affine(last.input[0])
        norm = self._before(affine[0] if affine else last.input[0], "InstanceNormalization")
        x = self._narrow(norm.input[0]) if norm is not None else None
        if norm is None or x is None or not self._is_plain(norm) or len(self._arrays[norm.input[1]]) == 1:
            return None
        channels = len(self._arrays[norm.input[1]])
        name = f"{_PREFIX}{norm.output[0]}/"
        if affine is None:
            made, scale, shift = [], self._of_samples(channels, 1, _HALF), self._of_samples(channels, 0, _HALF)
        else:
            styles = [self._before(each, "Unsqueeze") for each in affine[1:]]  # of (N, C)
            if None in styles:
                return None
            scale, shift = f"{name}scale", f"{name}shift"
            made = [
                node
                for style, to in zip(styles, (scale, shift), strict=True)
                for node in self._flat(style.input[0], to, _HALF)
            ]
        return made + self._of_one_sample(
            x, last.output[0], channels, "InstanceNormalization", [scale, shift], epsilon=epsilon_of(norm)
        )

    def _layer_norm(self, last: Any) -> list[Any] | None:
        half = self._cast(last, _HALF)
        affine = self._affine(last.input[0] if half else last.output[0]) if half or last.op_type == "Add" else None
        back = self._before(affine[0], "Reshape") if affine is not None else None
        norm = self._before(back.input[0], "InstanceNormalization") if back is not None else None
        into = self._before(norm.input[0], "Reshape") if norm is not None else None
        if affine is None or norm is None or into is None or not self._is_plain(norm):
            return None
        scale, shift = (self._arrays.get(name) for name in affine[1:])
        x = self._narrow(into.input[0]) if half else into.input[0]
        if scale is None or shift is None or x is None or not (scale.shape == shift.shape == (scale.size, 1, 1)):
            return None
        if scale.size < _FEWEST_CHANNELS or len(self._arrays[norm.input[1]]) != 1:
            return None
        return self._by_rows(x, last.output[0], scale, shift, epsilon_of(norm), _HALF if half else _FLOAT)

    # What is made

    def _by_rows(self, x: str, y: str, scale: Any, shift: Any, epsilon: float, kind: int) -> list[Any]:
        """Layer norm of `x` (N, C, H, W): statistics of rows, then of them all, then scale and shift by channel."""
        from onnx import helper

        name, channels = f"{_PREFIX}{y}/", scale.size
        ones = self._constant(f"ones_{channels}_{kind}", np.ones(channels, _dtype(kind)))
        factor = self._constant(f"{y}/factor", scale.reshape(channels, 1).astype(np.float32))
        term = self._constant(f"{y}/term", shift.reshape(channels, 1).astype(np.float32))
        axis = self._constant("rows_axis", np.array([1], np.int64))
        nothing = self._constant(f"nothings_{channels}", np.zeros((channels, 1), np.float32))
        rows = self._constant(f"rows_of_{channels}", np.array([0, -1, channels], np.int64))
        row = [f"{name}{part}" for part in ("row", "row_mean", "row_inverse")]

        def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
            return helper.make_node(operator, inputs, [name + output], **attributes)

        def of(*parts: str) -> list[str]:
            return [name + part for part in parts]

        return [
            node("Reshape", [x, rows], "rows"),
            helper.make_node("LayerNormalization", [f"{name}rows", ones], row, axis=-1, epsilon=epsilon),
            # The variance of all is the mean of the rows' variances plus that of their means. With each row's variance
            # comes epsilon.
            node("ReduceMean", [row[1], axis], "mean", keepdims=1),
            node("Sub", [row[1], f"{name}mean"], "off"),
            node("Mul", of("off", "off"), "off_squared"),
            node("Mul", [row[2], row[2]], "inverse_squared"),
            node("Reciprocal", of("inverse_squared"), "row_variance"),
            node("Add", of("row_variance", "off_squared"), "variances"),
            node("ReduceMean", [f"{name}variances", axis], "variance", keepdims=1),
            node("Sqrt", of("variance"), "deviation"),
            node("Div", [factor, f"{name}deviation"], "scale"),  # (N, C, 1)
            node("Add", [f"{name}mean", nothing], "channel_mean"),
            *self._flat(f"{name}scale", f"{name}scales", kind),
            *self._flat(f"{name}channel_mean", f"{name}means", kind),
            # What the mean lost in half precision is in the shift.
            node("Cast", [self._cast_of(f"{name}channel_mean", f"{name}means", kind)], "mean_taken", to=_FLOAT),
            node("Sub", of("channel_mean", "mean_taken"), "mean_left"),
            node("Mul", of("mean_left", "scale"), "left_shift"),
            node("Sub", [term, f"{name}left_shift"], "shift"),
            *self._flat(f"{name}shift", f"{name}shifts", kind),
            *self._of_one_sample(
                x,
                y,
                channels,
                "BatchNormalization",
                [*of("scales", "shifts", "means"), self._of_samples(channels, 1, kind)],
                epsilon=_EPSILON,
            ),
        ]

    def _flat(self, name: str, to: str, kind: int) -> list[Any]:
        """One number for each sample and channel, of a kind, in a row."""
        from onnx import helper

        flat = self._constant("flat", np.array([-1], np.int64))
        if kind == _FLOAT:
            return [helper.make_node("Reshape", [name, flat], [to])]
        return [
            helper.make_node("Cast", [name], [f"{to}_cast"], to=kind),
            helper.make_node("Reshape", [f"{to}_cast", flat], [to]),
        ]

    def _cast_of(self, name: str, to: str, kind: int) -> str:
        """What `_flat` makes flat."""
        return name if kind == _FLOAT else f"{to}_cast"

    def _of_one_sample(
        self, x: str, y: str, channels: int, operator: str, inputs: list[str], **attributes: Any
    ) -> list[Any]:
        """An operator on `x` (N, C, H, W) as (1, N C, H, W)."""
        from onnx import helper

        one = self._constant("one_sample", np.array([1, -1, 0, 0], np.int64))
        back = self._constant(f"samples_of_{channels}", np.array([-1, channels, 0, 0], np.int64))
        name = f"{_PREFIX}{y}/"
        return [
            helper.make_node("Reshape", [x, one], [f"{name}one_sample"]),
            helper.make_node(operator, [f"{name}one_sample", *inputs], [f"{name}normalised"], **attributes),
            helper.make_node("Reshape", [f"{name}normalised", back], [y]),
        ]

    def _of_samples(self, channels: int, value: int, kind: int) -> str:
        """0 or (nearly) 1 for each channel of each sample."""
        from onnx import helper

        name = f"{_PREFIX}{value}_of_{channels}_{kind}"
        if name in self._makers:
            return name
        zero = f"{_PREFIX}zero_{kind}"  # (N, 1): of each frame's first value
        if zero not in self._makers:
            of_sample = self._constant("of_sample", np.array([0, -1], np.int64))
            first = self._constant("first_value", np.array([0], np.int64))
            nothing = self._constant(f"nothing_{kind}", np.zeros((), _dtype(kind)))
            chain = [f"{zero}/{part}" for part in ("values", "value", "cast")]
            self._first += [
                helper.make_node("Reshape", [FRAMES, of_sample], chain[:1]),
                helper.make_node("Gather", [chain[0], first], chain[1:2], axis=1),
                helper.make_node("Cast", chain[1:2], chain[2:], to=kind),
                helper.make_node("Mul", [chain[2], nothing], [zero]),
            ]
            self._makers[zero] = self._first[-1]
        values: np.ndarray[Any, Any] = np.full(channels, value * (1 - _EPSILON), _dtype(kind))  # 1 in half precision
        each = self._constant(f"each_{value}_of_{channels}_{kind}", values)
        self._first.append(helper.make_node("Add", [zero, each], [f"{name}_of_sample"]))
        self._first += self._flat(f"{name}_of_sample", name, _FLOAT)
        self._makers[name] = self._first[-1]
        return name

    def _constant(self, name: str, array: np.ndarray[Any, Any]) -> str:
        self._made[_PREFIX + name] = array
        return _PREFIX + name


def _dtype(kind: int) -> type:
    return np.float16 if kind == _HALF else np.float32
