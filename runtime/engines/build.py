"""Builds a TensorRT engine from an ONNX file: shape profile, precision gate, progress and Ctrl-C. A leaf; light.

The graphs' dynamic dimensions are called n, h, w, FACTOR*h or FACTOR*h + MARGIN, with h = H / multiple_of: the names
are read from the file, so every graph of a bundle takes the same profile.
"""

import re
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.engines.progress import Monitor, Progress, interrupts
from dsmap.runtime.engines.tensorrt_api import Flavour, Log, new_builder, new_network, set_architectures

RECIPE = 2
"""How engines are built here: raised with every change of flags, types or profiles, so that old ones are not used."""
LARGEST_SIDE = 16384
LEAST_HALF = 0.9
"""The share of convolutions that an fp16 graph must have in half."""


class Size(NamedTuple):
    """Of a picture, pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True)
class SizeProfile:
    """The picture sizes an engine takes: `minimum` to `maximum`, fastest at `optimum`; batches of 1 to max_batch."""

    minimum: Size
    optimum: Size
    maximum: Size
    multiple_of: int
    max_batch: int = 1

    @classmethod
    def parse(cls, text: str, *, multiple_of: int = 8, minimum: int = 1, max_batch: int = 1) -> "SizeProfile":
        """Reads WIDTHxHEIGHT, or MIN:OPT:MAX of such. `minimum` is the smallest side the network takes.

        Raises InputError, which names --sizes, for everything that makes no profile.
        """
        parts = text.split(":")
        if len(parts) not in (1, 3):
            raise InputError(f"--sizes {text!r} has {len(parts)} sizes, expected one or min:opt:max", _EXAMPLE)
        sizes = [_parse_size(part, multiple_of, minimum) for part in parts]
        low, best, high = sizes if len(sizes) == 3 else sizes * 3
        for names, small, large in (("min and opt", low, best), ("opt and max", best, high)):
            if small.width > large.width or small.height > large.height:
                raise InputError(f"--sizes {text}: {names} are out of order: {small} is not within {large}", _EXAMPLE)
        if max_batch < 1:
            raise InputError(f"the largest batch is {max_batch}, expected 1 or more", "Pass a positive number.")
        return cls(minimum=low, optimum=best, maximum=high, multiple_of=multiple_of, max_batch=max_batch)

    def __str__(self) -> str:
        sizes = (self.minimum, self.optimum, self.maximum)
        return str(self.optimum) if len(set(sizes)) == 1 else ":".join(map(str, sizes))

    def takes(self, width: int, height: int, batch: int = 1) -> bool:
        """Whether pictures of this size are within the profile."""
        low, high = self.minimum, self.maximum
        return (
            low.width <= width <= high.width
            and low.height <= height <= high.height
            and width % self.multiple_of == height % self.multiple_of == 0
            and 1 <= batch <= self.max_batch
        )


_EXAMPLE = "For example --sizes 512x512, or --sizes 256x256:512x512:1920x1088."


def _parse_size(text: str, multiple_of: int, minimum: int) -> Size:
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise InputError(f"--sizes: {text!r} is not WIDTHxHEIGHT", _EXAMPLE)
    size = Size(int(match[1]), int(match[2]))
    for side in size:
        if side % multiple_of:
            below, above = side - side % multiple_of, side + multiple_of - side % multiple_of
            near = f"{below} and {above}" if below else f"{above}"
            raise InputError(f"--sizes: {side} in {size} is not a multiple of {multiple_of}", f"Near it: {near}.")
        if not minimum <= side <= LARGEST_SIDE:
            raise InputError(
                f"--sizes: {side} in {size} is out of range: sides are {minimum} to {LARGEST_SIDE} pixels", _EXAMPLE
            )
    return size


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """Types in a parsed network, counted: what will be computed in half precision."""

    convolutions: int
    """Convolutions and deconvolutions."""
    convolutions_half: int
    products: int
    """Matrix products."""
    products_half: int
    norms: int
    """Normalisations, as layers or as means of squares."""
    norms_float32: int
    """Those that take their statistics in float32."""

    def describe(self) -> str:
        """One line: "100 % of 31 convolutions in half, 18 of 18 norms in float32"."""
        parts = []
        if self.convolutions:
            share = 100 * self.convolutions_half / self.convolutions
            parts.append(f"{share:.0f} % of {self.convolutions} convolutions in half")
        if self.products:
            parts.append(f"{self.products_half} of {self.products} matrix products in half")
        if self.norms:
            parts.append(f"{self.norms_float32} of {self.norms} norms in float32")
        return ", ".join(parts) or "no convolutions"

    def check(self, name: str, precision: str) -> None:
        """Raises DsmapError unless the graph `name` is what its precision, fp32 or fp16, promises."""
        # A graph without convolutions is judged by its matrix products.
        kind, total, half = (
            ("convolutions", self.convolutions, self.convolutions_half)
            if self.convolutions
            else ("matrix products", self.products, self.products_half)
        )
        share = f"{half} of {total} {kind} are in half"
        if precision == "fp16" and half < LEAST_HALF * total:
            raise DsmapError(
                f"{name} is called fp16, but {share}, expected {LEAST_HALF:.0%} or more",
                "Export it again in half precision: TensorRT takes the types from the graph.",
            )
        if precision == "fp32" and half:
            raise DsmapError(f"{name} is called fp32, but {share}", "Export it again.")
        if self.norms_float32 < self.norms:
            raise DsmapError(
                f"{name}: {self.norms - self.norms_float32} of {self.norms} norms take their statistics in half, where "
                "they overflow",
                "Export it again, with norms in float32.",
            )


def layer_statistics(flavour: Flavour, network: Any) -> LayerStatistics:
    """Counts the types of a parsed network's layers. Needs no GPU."""
    trt = flavour.module
    kinds, float32, half = trt.LayerType, trt.DataType.FLOAT, trt.DataType.HALF
    counts = dict.fromkeys(LayerStatistics.__dataclass_fields__, 0)
    makers: dict[str, Any] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        makers.update((layer.get_output(k).name, layer) for k in range(layer.num_outputs))
        if layer.type in (kinds.CONVOLUTION, kinds.DECONVOLUTION):
            counts["convolutions"] += 1
            counts["convolutions_half"] += _types(layer) == {half}
        elif layer.type == kinds.MATRIX_MULTIPLY:
            counts["products"] += 1
            counts["products_half"] += _types(layer) == {half}
        elif layer.type == kinds.NORMALIZATION or _is_mean_of_squares(trt, layer, makers):
            counts["norms"] += 1
            counts["norms_float32"] += _types(layer) == {float32}
    return LayerStatistics(**counts)


def _types(layer: Any) -> set[Any]:
    """Of what a layer takes and of what it gives."""
    return {layer.get_input(0).dtype, layer.get_output(0).dtype}


def _is_mean_of_squares(trt: Any, layer: Any, makers: dict[str, Any]) -> bool:
    """Whether a layer sums squares: a variance, where a norm is written out, or a vector's length."""
    if layer.type != trt.LayerType.REDUCE:
        return False
    maker = makers.get(layer.get_input(0).name)
    if maker is None or maker.type != trt.LayerType.ELEMENTWISE:
        return False
    maker.__class__ = trt.IElementWiseLayer  # how TensorRT's Python interface casts
    same = maker.get_input(0).name == maker.get_input(1).name
    return maker.op == trt.ElementWiseOperation.POW or (maker.op == trt.ElementWiseOperation.PROD and same)


class Plan(NamedTuple):
    """An engine as built, and what it holds."""

    data: bytes
    layers: LayerStatistics
    seconds: float


def build_plan(
    onnx: bytes,
    name: str,
    *,
    flavour: Flavour,
    profile: SizeProfile,
    precision: str,
    architectures: tuple[str, ...],
    progress: Progress | None = None,
) -> Plan:
    """Builds the engine of an ONNX file's bytes; `name` is what messages call it.

    Raises DsmapError with TensorRT's reason, or where the graph is not of `precision`; KeyboardInterrupt on Ctrl-C; and
    what `progress` raises.
    """
    started = time.perf_counter()
    with interrupts() as interrupted:
        monitor = Monitor(progress, interrupted)
        log = Log(flavour)
        builder = new_builder(flavour, log)
        network = new_network(flavour, builder)
        # The network's weights lie in the parser: it has to live until the engine is built.
        parser = flavour.module.OnnxParser(network, log.logger)
        _parse(parser, onnx, f"{flavour.title} cannot read {name}", log)
        layers = layer_statistics(flavour, network)
        layers.check(name, precision)
        monitor.check()
        config = builder.create_builder_config()
        set_architectures(flavour, config, architectures)
        # TensorRT for RTX: without it an engine may allocate while it runs, and no CUDA graph can be captured.
        if flavour.name == "rtx" and (flag := getattr(flavour.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)):
            config.set_flag(flag)
        _add_profile(builder, network, config, profile, name)
        reporter = monitor.for_trt(flavour)  # TensorRT keeps no reference of its own
        config.progress_monitor = reporter
        engine = builder.build_serialized_network(network, config)
        monitor.check()
    if engine is None:
        raise DsmapError(
            f"{flavour.title} cannot build {name}: {log.last_error()}", "Other --sizes or --gpu-arch may work."
        )
    return Plan(bytes(engine), layers, time.perf_counter() - started)


def _parse(parser: Any, onnx: bytes, failure: str, log: Log) -> None:
    if not parser.parse(onnx):
        raise DsmapError(f"{failure}: {_parser_reason(parser) or log.last_error()}", "Export the bundle again.")


def _parser_reason(parser: Any) -> str:
    """The parser's first error in one line, with the node: later lines of it are about TensorRT's insides."""
    if not parser.num_errors:
        return ""
    error = parser.get_error(0)
    lines = [line.strip() for line in error.desc().splitlines() if line.strip()]
    node = f" (node {error.node_name() or error.node()})" if error.node() >= 0 else ""
    return " ".join(lines[:2])[:400] + node


def _add_profile(builder: Any, network: Any, config: Any, profile: SizeProfile, name: str) -> None:
    shapes = input_shapes(network, profile, name)
    if not shapes:
        return
    added = builder.create_optimization_profile()
    for tensor, (low, best, high) in shapes.items():
        added.set_shape(tensor, low, best, high)
    if config.add_optimization_profile(added) < 0:
        raise DsmapError(f"TensorRT refuses the sizes {profile} for {name}", "Pass others with --sizes.")


def input_shapes(network: Any, profile: SizeProfile, name: str) -> dict[str, list[tuple[int, ...]]]:
    """The smallest, usual and largest shape of every dynamic input of a parsed network.

    Raises DsmapError for a dimension whose name is none of a bundle's.
    """
    corners = ((1, profile.minimum), (profile.max_batch, profile.optimum), (profile.max_batch, profile.maximum))
    shapes = {}
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        dims = [
            length if length >= 0 else tensor.get_dimension_name(axis) or "" for axis, length in enumerate(tensor.shape)
        ]
        if any(isinstance(dim, str) for dim in dims):
            what = f"{name}: {tensor.name}"
            shapes[tensor.name] = [_shape(dims, batch, size, profile.multiple_of, what) for batch, size in corners]
    return shapes


def _shape(dims: list[int | str], batch: int, size: Size, multiple_of: int, what: str) -> tuple[int, ...]:
    """The shape of an input whose dimensions are numbers or names.

    ["n", "8*h", "8*w", 3] -> (1, 256, 256, 3), and ["n", 256, "2*h + 4", "2*w + 4"] -> (1, 256, 68, 68).
    """
    sides = {"h": size.height, "w": size.width}
    shape = []
    for dim in dims:
        if isinstance(dim, int) or dim == "n":
            shape.append(batch if dim == "n" else int(dim))
            continue
        match = re.fullmatch(r"(?:(\d+)\*)?([hw])(?: \+ (\d+))?", dim)
        length, rest = divmod(sides[match[2]] * int(match[1] or 1), multiple_of) if match else (0, 0)
        if match is None or rest or length < 1:
            raise DsmapError(f"{what} has a dimension {dim!r} that no size profile gives", "Export the bundle again.")
        shape.append(length + int(match[3] or 0))
    return tuple(shape)
