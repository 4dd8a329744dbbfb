"""Checks graphs of another precision: close to the float32 graphs on images, finite on extreme inputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnx

from dsmap.common.memory import available_bytes
from dsmap.common.notify import Notify
from dsmap.errors import DsmapError
from dsmap.export.differences import OutputCheck
from dsmap.export.verify import GraphFiles, OnnxParts, compare, open_session

Array = npt.NDArray[Any]

MIN_IMAGES = 16
"""Of each domain."""
MIN_PSNR_DB = {"fp16": 40.0, "int8": 32.0}
"""Required PSNR against float32 in dB, over the images of a direction, for every component and the chain."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PROBE = "largest_"
_FULL_HD = (1088, 1920)  # 1080 lines in multiples of 64
_BYTES_PER_PIXEL_AND_WIDTH = 62  # measured; on a CPU float16 is computed in float32, with casts


class PrecisionCheck(NamedTuple):
    """The comparison of a precision with float32."""

    precision: str
    limit_db: float
    checks: list[OutputCheck]
    extremes: dict[str, bool]
    """Whether all values were finite, by kind of input."""
    images: int
    origin: str

    @property
    def failures(self) -> list[str]:
        """Outputs below the required PSNR and inputs with infinite values; empty if the check has passed."""
        below = [
            f"{c.name} {c.psnr:.1f} dB" if np.isfinite(c.max_error) else f"{c.name} not comparable"
            for c in self.checks
            if not c.passed
        ]
        return below + [f"infinite values for {name}" for name, finite in self.extremes.items() if not finite]

    def as_dict(self) -> dict[str, Any]:
        """As bundle.json and the report hold it."""
        return {
            "against": "the float32 graphs, in ONNX Runtime",
            "limit_db": self.limit_db,
            "passed": not self.failures,
            "pictures": self.images,
            "origin": self.origin,
            "checks": {c.name: c.as_dict() for c in self.checks},
            "finite": self.extremes,
        }


def compare_precision(
    precision: str,
    plain: GraphFiles,
    variant: GraphFiles,
    images: Mapping[str, Sequence[Array]],
    origin: str,
    *,
    styles: Mapping[str, Array],
    width: int,
    minimum: int,
    say: Notify = lambda _line: None,
) -> PrecisionCheck:
    """Compares the graphs `variant` with the float32 graphs `plain` on `images` by domain, and tries extreme inputs.

    Components without a variant run in float32. `styles`: a style code (S,) for each domain. `width` is that of the
    network (ModelConfig.width_per_pixel), `minimum` the smallest side of an image that it accepts.
    """
    limit = MIN_PSNR_DB[precision]
    images = {domain: found for domain, found in images.items() if found}
    reference, candidate = OnnxParts(plain), OnnxParts(variant)
    batches = {domain: [p[None] for p in images.get(domain, ())] for domain in styles}
    checks = compare(reference, candidate, batches, styles, lambda difference: difference.psnr >= limit)
    del candidate
    size = next(iter(images.values()))[0].shape[:2]
    extremes = {
        name: _all_finite({**plain, **variant}, frames, styles)
        for name, frames in extreme_inputs(size, minimum, width, images, say).items()
    }
    return PrecisionCheck(precision, limit, checks, extremes, sum(map(len, images.values())), origin)


def require_passed(check: PrecisionCheck, *, force: bool, say: Notify) -> None:
    """Raises DsmapError with the numbers if the check has failed; with `force` it only warns."""
    if not check.failures:
        return
    fact = f"{check.precision} is too far from float32 (required: {check.limit_db:.0f} dB): {', '.join(check.failures)}"
    if not force:
        raise DsmapError(fact, "Leave this precision out, or pass --force to keep it anyway.")
    say(f"warning: {fact} (--force)")


def extreme_inputs(
    size: tuple[int, int],
    minimum: int,
    width: int,
    images: Mapping[str, Sequence[Array]],
    say: Notify = lambda _line: None,
) -> dict[str, dict[str, Array]]:
    """Frames (1, H, W, 3), by kind and domain, for which half precision is most likely to overflow.

    The kinds are keys in bundles ("a picture": an image).
    """
    rng = np.random.default_rng(0)
    plain = {"all black": np.zeros((1, *size, 3), np.uint8), "all white": np.full((1, *size, 3), 255, np.uint8),
             "saturated noise": rng.integers(0, 2, (1, *size, 3), np.uint8) * np.uint8(255)}  # fmt: skip
    small = f"{minimum}x{minimum}"
    plain |= {f"saturated noise, {small}": rng.integers(0, 2, (1, minimum, minimum, 3), np.uint8) * np.uint8(255)}
    found = {name: dict.fromkeys(images, frames) for name, frames in plain.items()}
    found[f"a picture, {small}"] = {domain: _resized(p[0], (minimum, minimum)) for domain, p in images.items()}
    height, columns = _FULL_HD
    available = available_bytes()
    if available is not None and height * columns * width * _BYTES_PER_PIXEL_AND_WIDTH > available:
        say("skipped the check at 1920x1088: too little memory")
    else:
        found["a picture, 1920x1088"] = {domain: _resized(p[0], _FULL_HD) for domain, p in images.items()}
    return found


def _resized(image_rgb: Array, size: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(image_rgb, size[::-1], interpolation=cv2.INTER_LINEAR))[None]


def _all_finite(files: GraphFiles, frames: Mapping[str, Array], styles: Mapping[str, Array]) -> bool:
    """Whether all outputs of convolutions and matrix products are in range, in both directions."""
    a, b = styles
    for source, target in ((a, b), (b, a)):
        if source not in frames:
            continue
        arrays = {"frames": frames[source], "style": styles[target][None]}
        for key in (("style_mlp", target), ("content_encoder", source), ("mapping", target), ("decoder", target)):
            if key not in files:  # no mapping: the content takes its place; no styles: the decoder takes none
                arrays |= {"mapped": arrays["content"]} if "content" in arrays else {}
                continue
            model, limits = with_probes(files[key])
            session = open_session(model)
            names = [output.name for output in session.get_outputs()]
            arrays |= zip(names, session.run(None, {i.name: arrays[i.name] for i in session.get_inputs()}), strict=True)
            if not all(arrays[name] <= limit for name, limit in limits.items()):
                return False
    return True


def with_probes(path: Path) -> tuple[bytes, dict[str, float]]:
    """A graph that also gives the largest magnitude of every convolution and matrix product; and the limits of these.

    The graph's own output cannot show an overflow: uint8 has no NaN, and a ReLU may turn one into 0. ONNX Runtime on a
    CPU does not show it either: it computes float16 in float32, so values that would be infinite on a GPU stay finite.
    """
    model = onnx.load(str(path))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    limits = {}
    for i, node in enumerate([n for n in model.graph.node if n.op_type in _PRODUCTS]):
        # The type of the weights; int8 weights come from a node, as float32.
        kind = next((types[name] for name in node.input if name in types), onnx.TensorProto.FLOAT)
        probe = f"{_PROBE}{i}"
        limits[probe] = float(np.finfo(onnx.helper.tensor_dtype_to_np_dtype(kind)).max)
        model.graph.node.extend(
            [
                onnx.helper.make_node("Cast", [node.output[0]], [f"{probe}_wide"], to=onnx.TensorProto.FLOAT),
                onnx.helper.make_node("Abs", [f"{probe}_wide"], [f"{probe}_size"]),
                onnx.helper.make_node("ReduceMax", [f"{probe}_size"], [probe], keepdims=0),
            ]
        )
        model.graph.output.append(onnx.helper.make_tensor_value_info(probe, onnx.TensorProto.FLOAT, []))
    return model.SerializeToString(), limits
