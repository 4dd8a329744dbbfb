"""The refiner of a bundle: a small network that brings translations of a lower height to full size.

    refine = open_refiner(bundle, "winter")           # None where the bundle has none
    result_rgb = refine(frame_rgb, small_rgb, translated_rgb)

It corrects what `guided` gives, and was trained to come near to the translation at full size. It sees the frame and the
guided result in blocks of 4x4 pixels, and says how far each pixel is to be changed; that depends on the surroundings of
a block only, never on the whole frame. It runs on the CPU, by ONNX Runtime, whatever translates.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Frames
from dsmap.runtime.backends.onnxruntime_session import (
    import_onnxruntime,
    onnxruntime_installed,
    open_session,
    run_session,
    session_options,
)
from dsmap.runtime.bundle.bundle import Bundle, GraphData
from dsmap.runtime.bundle.manifest import Manifest
from dsmap.runtime.refine.guided import guided
from dsmap.runtime.refine.learnt_yuv import LearntYuv
from dsmap.runtime.system.cpu import allowed_cores

COMPONENT = "refiner"
"""What the graph is called in a bundle."""
BLOCK = 4
"""Pixels of a side."""
NO_CHANGE = 128
"""The level of the graph's output that stands for no difference."""
_FLAT = 6
"""Levels between the darkest and the lightest pixel around one, up to which there is nothing to sharpen."""
_VALUES = BLOCK * BLOCK * 3
_ROW = np.dtype((np.void, BLOCK * 3))  # one row of a block, which is copied at once


class LearntRefiner:
    """Enlarges translations by the guided filter and the refiner of one direction; from one thread at a time.

    `graph`: an ONNX file. `open_graph`: makes a session of one.
    """

    def __init__(self, graph: GraphData | bytes, open_graph: Callable[[GraphData | bytes], Any]) -> None:
        self._session = open_graph(graph)
        self.in_yuv = LearntYuv(graph if isinstance(graph, bytes) else graph.data, open_graph)
        """The same for frames that stay Y'CbCr."""
        self._blocks = np.empty((1, 0, 0, 2 * _VALUES), np.uint8)  # used again: new memory takes as long as the graph

    def __call__(self, frame_rgb: Frames, small_rgb: Frames, translated_rgb: Frames) -> Frames:
        """The translation at the size of `frame_rgb`, uint8 (H, W, 3); `translated_rgb`: that of a smaller one."""
        height, width = frame_rgb.shape[:2]
        base_rgb = guided(frame_rgb, small_rgb, translated_rgb)
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        if self._blocks.shape[1:3] != (rows, columns):
            self._blocks = np.empty((1, rows, columns, 2 * _VALUES), np.uint8)
        blocks = self._blocks
        _to_blocks(frame_rgb, blocks[..., :_VALUES])
        _to_blocks(base_rgb, blocks[..., _VALUES:])
        (difference,) = run_session(self._session, ["difference"], {"blocks": blocks})
        change_rgb = _without_grid(frame_rgb, _from_blocks(difference, height, width))
        return np.asarray(cv2.addWeighted(base_rgb, 1, change_rgb, 1, -NO_CHANGE, dst=base_rgb), np.uint8)


def has_refiner(bundle: Bundle, target: str) -> bool:
    """Whether `open_refiner` has one to open."""
    return onnxruntime_installed() and bundle.find(COMPONENT, target) is not None


def open_refiner(bundle: Bundle, target: str, threads: int | None = None) -> LearntRefiner | None:
    """The refiner of translations to `target`; None where the bundle has none, or ONNX Runtime is not installed."""
    graph = bundle.graph_data(COMPONENT, target) if has_refiner(bundle, target) else None
    if graph is None:
        return None
    ort = import_onnxruntime()
    options = session_options(ort, threads if threads is not None else allowed_cores())

    def session(of: GraphData | bytes) -> Any:
        return open_session(ort, of, options, ["CPUExecutionProvider"])

    return LearntRefiner(graph, session)


def check_has_refiner(manifest: Manifest, target: str) -> None:
    """Raises InputError for a model without a refiner for translations to `target`: before anything is loaded."""
    if target not in manifest.components.refiner:
        raise InputError(
            f"the model {manifest.name} has no refiner to {target}",
            "Pass --refine guided, or train one: dsmap distill MODEL --refiner -o RUN --data FOLDER.",
        )


def _without_grid(frame_rgb: Frames, change_rgb: Frames) -> Frames:
    """The change, averaged over a block's size where the frame is flat.

    There the graph adds a pattern that every block repeats, of up to six levels in saturated colours. A mean over one
    period removes it exactly, and there are no details to lose.
    """
    grey = np.asarray(cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    around = np.ones((2 * BLOCK, 2 * BLOCK), np.uint8)
    contrast = cv2.subtract(cv2.dilate(grey, around), cv2.erode(grey, around))
    flat = (np.asarray(contrast) <= _FLAT).view(np.uint8)
    return np.asarray(cv2.copyTo(cv2.blur(change_rgb, (BLOCK, BLOCK)), flat, change_rgb), np.uint8)


def _to_blocks(rgb: Frames, blocks_nhwc: Frames) -> None:
    """Fills `blocks_nhwc` (1, rows, columns, 48), the last rows and columns repeated as far as a block needs."""
    height, width = rgb.shape[:2]
    rows, columns = blocks_nhwc.shape[1:3]
    if (height, width) != (rows * BLOCK, columns * BLOCK):
        below, right = rows * BLOCK - height, columns * BLOCK - width
        rgb = np.asarray(cv2.copyMakeBorder(rgb, 0, below, 0, right, cv2.BORDER_REPLICATE))
    lines = np.ascontiguousarray(rgb).reshape(rows, BLOCK, columns, BLOCK * 3).view(_ROW)[..., 0]
    places = blocks_nhwc[0].reshape(rows, columns, BLOCK, BLOCK * 3)
    np.copyto(places.view(_ROW)[..., 0], lines.swapaxes(1, 2))


def _from_blocks(blocks_nhwc: Frames, height: int, width: int) -> Frames:
    """Pixels (height, width, 3) of blocks (1, rows, columns, 48)."""
    rows, columns = blocks_nhwc.shape[1:3]
    lines = np.ascontiguousarray(blocks_nhwc).reshape(rows, columns, BLOCK, BLOCK * 3).view(_ROW)[..., 0]
    rgb = np.empty((rows, BLOCK, columns), _ROW)
    np.copyto(rgb, lines.swapaxes(1, 2))
    return rgb.view(np.uint8).reshape(rows * BLOCK, columns * BLOCK, 3)[:height, :width]
