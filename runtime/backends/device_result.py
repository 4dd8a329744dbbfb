"""Translated frames that stay in a device's memory as NV12 for its encoder, and the small ONNX graph that makes it.

Colour is BT.709 in limited range, filtered as in `rgb_to_frame`: values are within a level of its.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.backends.device_frame import OPSET, PlanesKind, cubic, rgb_matrix
from dsmap.runtime.backends.dlpack import DEVICES, Plane, lend_plane

RGB, NV12 = "rgb", "nv12"
"""The graph's input and its output."""
Frames = npt.NDArray[np.uint8]
_PITCH = 256  # of a row: a multiple of what any encoder and CUDA's own allocations want
_BT709 = (0.2126, 0.0722)  # of red and blue in the luma


@dataclass(frozen=True, kw_only=True)
class DeviceResult:
    """A translated frame as NV12 in the memory of a device. Width and height are even."""

    width: int
    height: int
    plane: Plane
    """The luma; H rows of it are followed by the chroma, where an encoder takes it."""
    device: str
    """Of `DEVICES`."""
    owner: Any
    """Keeps the memory."""

    def planes(self) -> tuple[Any, Any]:
        """Luma (H, W) and chroma (H / 2, W), uint8, as DLPack capsules, each to be used once; they keep the memory."""
        device, behind = DEVICES[self.device], self.plane.address + self.height * self.plane.pitch
        luma = lend_plane(self.plane, (self.height, self.width), device, self.owner)
        return luma, lend_plane(Plane(behind, self.plane.pitch), (self.height // 2, self.width), device, self.owner)


def noise(width: int, height: int) -> Frames:
    """(1, H, W, 3): a frame in which every difference between two conversions shows."""
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)


def check_nv12(here: Frames, there: Frames) -> None:
    """Raises DsmapError unless a device makes of `noise` what the CPU does, up to rounding."""
    if (apart := int(np.abs(here.astype(int) - there).max())) > 1:
        raise DsmapError(
            f"frames that the GPU makes for its encoder differ from the CPU's by {apart} levels",
            "Leave out --hwaccel, so that frames go through the memory of the host, and report this.",
        )


def pitch_of(width: int) -> int:
    """Bytes from one row to the next of a frame that is `width` pixels wide."""
    return -(-width // _PITCH) * _PITCH


def nv12_graph(width: int, height: int) -> bytes:
    """The ONNX graph from `rgb`, uint8 (1, H, W, 3), to `nv12`, uint8 (H * 3 / 2, `pitch_of(width)`)."""
    from onnx import TensorProto, helper, numpy_helper

    pitch = pitch_of(width)
    to_rgb, offset = rgb_matrix(PlanesKind(width, height, False, pitch, *_BT709, full_range=False))
    matrix = np.linalg.inv(to_rgb.astype(np.float64))
    zero = -matrix @ offset
    taps = np.array([cubic((pixel - 3.5) / 2) for pixel in range(8)])  # colour lies amid the four pixels that share it
    taps /= taps.sum()
    constants = {
        "luma_weights": matrix[:1, :, None, None].astype(np.float32),
        "luma_zero": zero[:1].astype(np.float32),
        "chroma_weights": np.einsum("cr,i,j->crij", matrix[1:], taps, taps).astype(np.float32),
        "chroma_zero": zero[1:].astype(np.float32),
        "around": np.array([0, 0, 3, 3, 0, 0, 3, 3], np.int64),
        "behind": np.array([0, 0, 0, pitch - width], np.int64),
        "lowest": np.array(0, np.float32),
        "highest": np.array(255, np.float32),
        "luma_shape": np.array([height, width], np.int64),
        "chroma_shape": np.array([height // 2, width], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", [RGB], ["values"], to=TensorProto.FLOAT),
        node("Transpose", ["values"], ["rgb_planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["rgb_planes", "luma_weights", "luma_zero"], ["luma4"]),
        node("Reshape", ["luma4", "luma_shape"], ["luma"]),
        node("Pad", ["rgb_planes", "around"], ["rgb_padded"], mode="edge"),
        node("Conv", ["rgb_padded", "chroma_weights", "chroma_zero"], ["chroma_planes"], strides=[2, 2]),
        node("Transpose", ["chroma_planes"], ["chroma_pairs"], perm=[0, 2, 3, 1]),
        node("Reshape", ["chroma_pairs", "chroma_shape"], ["chroma"]),
        node("Concat", ["luma", "chroma"], ["both"], axis=0),
        node("Clip", ["both", "lowest", "highest"], ["clipped"]),
        node("Round", ["clipped"], ["whole"]),
        node("Pad", ["whole", "behind"], ["pitched"]),
        node("Cast", ["pitched"], [NV12], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "rgb_to_nv12",
        [helper.make_tensor_value_info(RGB, TensorProto.UINT8, (1, height, width, 3))],
        [helper.make_tensor_value_info(NV12, TensorProto.UINT8, (height * 3 // 2, pitch))],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return bytes(model.SerializeToString())
