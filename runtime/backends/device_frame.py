"""Frames that a decoder left in a device's memory, and the small ONNX graph that makes RGB of them there.

Width and height are even. Colour is interpolated as in `frame_to_rgb`: results are within a level of its.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.backends.dlpack import Plane

LUMA, CHROMA, RGB = "luma", "chroma", "frames"
"""The graph's inputs and its output."""
OPSET = 20
"""As that of the bundle's graphs."""
_SHARPNESS = -0.6  # of swscale's bicubic filter
_EVERY = 30  # frames: the first ones are compared, then one of so many; each is converted four times
_MOST_BEYOND = 0.001  # of the values: where colours leave the range of RGB, swscale clips at other steps
_MOST_OF_NOISE = 0.01  # of them, which only noise in saturated colours comes to


class PlanesKind(NamedTuple):
    """What decides how planes become RGB."""

    width: int
    height: int
    ten_bits: bool
    """P010, whose values are in the upper bits of 16; else NV12."""
    pitch: int
    """Values from one row to the next, in both planes."""
    red_weight: float
    """Of red in the luma, by the matrix."""
    blue_weight: float
    full_range: bool
    clip: int = 0
    """Another number for each clip: its colour may lie elsewhere among the pixels."""


@dataclass(frozen=True, kw_only=True)
class DeviceFrame:
    """A frame as NV12 or P010 in the memory of a device. It owns that memory."""

    kind: PlanesKind
    luma: Plane
    chroma: Plane
    """Half as many rows, blue and red differences in turn."""
    owner: Any
    """Keeps the memory."""
    wait: Callable[[], None]
    """Waits until the decoder has written it."""
    to_rgb: Callable[[], npt.NDArray[np.uint8]]
    """The same frame by way of the host: uint8 RGB (H, W, 3)."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(1, H, W, 3): that of the frame as a batch."""
        return 1, self.kind.height, self.kind.width, 3


class Siting(NamedTuple):
    """Where a value of the colour lies among the four pixels that share it: pixels from the upper left one."""

    across: float
    down: float


SITINGS = (Siting(0, 0.5), Siting(0.5, 0.5), Siting(0, 0))
"""H.264's and H.265's usual one; where the file says nothing; UHD's."""
_RARE_SITINGS = (Siting(0.5, 0), Siting(0, 1), Siting(0.5, 1))


Convert = Callable[[DeviceFrame, Any], None]
"""Writes the RGB of a frame into a target of the backend's own, on the device."""


class PlanesToRgb:
    """Converts frames of one `kind` within a device.

    PyAV does not tell the siting of the colour. So the first 30 frames, and then one of 30, are compared with the same
    frames by way of the host, until colours have told which siting fits best.
    """

    def __init__(
        self, open_graph: Callable[[bytes], Convert], to_host: Callable[[Any], npt.NDArray[np.uint8]], kind: PlanesKind
    ) -> None:
        """`open_graph`: makes what runs a `planes_graph`. `to_host`: waits for what a target has, (H, W, 3)."""
        self.kind = kind
        self._to_host = to_host
        self._seen = 0
        self._open_graph = open_graph
        self._conversions = self._opened(SITINGS)
        self._has_tried_all = False

    def run(self, frame: DeviceFrame, target: Any) -> None:
        """Writes uint8 RGB (1, H, W, 3) into `target`. The frame must be kept until that is done.

        Raises DsmapError when it is not what the host makes of the frame, and the backend's errors.
        """
        frame.wait()
        if len(self._conversions) > 1:
            if self._seen < _EVERY or self._seen % _EVERY == 0:
                self._conversions = self._fitting(frame, target)
            self._seen += 1
        self._conversions[0](frame, target)

    def _opened(self, sitings: tuple[Siting, ...]) -> list[Convert]:
        return [self._open_graph(planes_graph(self.kind, siting)) for siting in sitings]

    def _fitting(self, frame: DeviceFrame, target: Any) -> list[Convert]:
        """The conversions that give what the host makes of the frame."""
        by_host = frame.to_rgb().astype(np.int16)
        shares, worst = [], 0
        for convert in self._conversions:
            convert(frame, target)
            apart = np.abs(self._to_host(target) - by_host)
            shares.append(float((apart > 1).mean()))
            worst = max(worst, int(apart.max()))
        if (least := min(shares)) > _MOST_OF_NOISE and not self._has_tried_all:
            self._conversions, self._has_tried_all = self._opened(_RARE_SITINGS), True
            return self._fitting(frame, target)
        if least > _MOST_OF_NOISE:
            raise DsmapError(
                f"frames in the memory of the GPU are not the decoder's: {least:.2%} of the values differ by more"
                f" than a level, the worst by {worst}",
                "Pass --hwaccel auto, which takes frames through the memory of the host, and report this.",
            )
        most = max(least, _MOST_BEYOND)
        return [convert for convert, share in zip(self._conversions, shares, strict=True) if share <= most]


def plane_shapes(kind: PlanesKind) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Shapes of the two planes in memory, padding included."""
    return (kind.height, kind.pitch), (kind.height // 2, kind.pitch // 2, 2)


def planes_graph(kind: PlanesKind, siting: Siting) -> bytes:
    """The ONNX graph from `luma` and `chroma` to `frames`, uint8 RGB (1, H, W, 3)."""
    from onnx import TensorProto, helper, numpy_helper

    luma, chroma = plane_shapes(kind)
    number = TensorProto.UINT16 if kind.ten_bits else TensorProto.UINT8
    matrix, offset = rgb_matrix(kind)
    constants: dict[str, npt.NDArray[Any]] = {
        "taps": np.tile(chroma_taps(siting)[:, None], (2, 1, 1, 1)),
        "matrix": matrix[:, :, None, None],
        "offset": offset,
        "zero": np.array(0, np.float32),
        "white": np.array(255, np.float32),
        "around": np.array([0, 0, 2, 2, 0, 0, 2, 2], np.int64),
        "luma_shape": np.array([1, 1, *luma], np.int64),
        "chroma_shape": np.array([1, *chroma], np.int64),
        "start": np.array([0], np.int64),
        "width": np.array([kind.width], np.int64),
        "columns": np.array([kind.width // 2], np.int64),
        "last": np.array([3], np.int64),
        "second_last": np.array([2], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Reshape", [LUMA, "luma_shape"], ["luma4"]),
        node("Slice", ["luma4", "start", "width", "last"], ["luma_seen"]),
        node("Cast", ["luma_seen"], ["y"], to=TensorProto.FLOAT),
        node("Reshape", [CHROMA, "chroma_shape"], ["chroma4"]),
        node("Slice", ["chroma4", "start", "columns", "second_last"], ["chroma_seen"]),
        node("Cast", ["chroma_seen"], ["chroma_float"], to=TensorProto.FLOAT),
        node("Transpose", ["chroma_float"], ["chroma_planes"], perm=[0, 3, 1, 2]),
        node("Pad", ["chroma_planes", "around"], ["chroma_padded"], mode="edge"),
        node("Conv", ["chroma_padded", "taps"], ["chroma_phases"], group=2),
        node("DepthToSpace", ["chroma_phases"], ["uv"], blocksize=2, mode="CRD"),
        node("Concat", ["y", "uv"], ["yuv"], axis=1),
        node("Conv", ["yuv", "matrix", "offset"], ["rgb"]),
        node("Clip", ["rgb", "zero", "white"], ["rgb_clipped"]),
        node("Round", ["rgb_clipped"], ["rgb_whole"]),
        node("Transpose", ["rgb_whole"], ["rgb_nhwc"], perm=[0, 2, 3, 1]),
        node("Cast", ["rgb_nhwc"], [RGB], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "planes_to_rgb",
        [helper.make_tensor_value_info(LUMA, number, luma), helper.make_tensor_value_info(CHROMA, number, chroma)],
        [helper.make_tensor_value_info(RGB, TensorProto.UINT8, (1, kind.height, kind.width, 3))],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return bytes(model.SerializeToString())


def rgb_matrix(kind: PlanesKind) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(3, 3) and (3,): RGB of 0 to 255 = matrix x stored values + offset."""
    unit, top = (64 * 4, 64 * 1023) if kind.ten_bits else (1, 255)  # of one 8-bit level; white of the full range
    kr, kb = kind.red_weight, kind.blue_weight
    kg = 1 - kr - kb
    green = [1, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg]
    differences = np.array([[1, 0, 2 * (1 - kr)], green, [1, 2 * (1 - kb), 0]])
    spans = np.array([top] * 3 if kind.full_range else [219 * unit, 224 * unit, 224 * unit])
    matrix = differences * 255 / spans
    zero = np.array([0 if kind.full_range else 16 * unit, 128 * unit, 128 * unit])
    return matrix.astype(np.float32), (-matrix @ zero).astype(np.float32)


def chroma_taps(siting: Siting) -> npt.NDArray[np.float32]:
    """(4, 5, 5): filters of the four pixels that share a value of the colour: upper left, upper right, lower ones."""
    rows, columns = (
        [[cubic(position - (pixel - offset) / 2) for position in range(-2, 3)] for pixel in (0, 1)]
        for offset in (siting.down, siting.across)
    )
    return np.einsum("ai,bj->abij", rows, columns).reshape(4, 5, 5).astype(np.float32)


def cubic(distance: float) -> float:
    """Weight of a value at a distance in samples, by swscale's bicubic filter."""
    a, x = _SHARPNESS, abs(distance)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0
