"""The precisions in a parsed TensorRT network, counted, and the gate on them.

TensorRT takes the types from the graph, so this says before a build whether an engine will compute in half precision.
"""

from dataclasses import dataclass
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.engines.tensorrt_api import Flavour

MIN_HALF_SHARE = 0.9
"""The share of convolutions that an fp16 graph must have in half precision."""


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
        if precision == "fp16" and half < MIN_HALF_SHARE * total:
            raise DsmapError(
                f"{name} is called fp16, but {share}, expected {MIN_HALF_SHARE:.0%} or more",
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
