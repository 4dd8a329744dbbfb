"""The refiner of a bundle for frames that stay Y'CbCr: half the values of RGB, and no conversions.

    refine = LearntYuv(graph, open_graph)
    refine(frame, small_rgb, translated_rgb, result)     # as `guided_yuv`, which it corrects

See `learnt` for what it does, and `yuv_graph` for how.
"""

import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Frames
from dsmap.runtime.backends.onnxruntime_session import run_session
from dsmap.runtime.refine.guided_yuv import UNITS, guided_yuv, round_off
from dsmap.runtime.refine.yuv_graph import BLOCK, COLOURS, LUMA, MIDDLE, STEPS, VALUES, yuv_graph
from dsmap.runtime.refine.yuv_planes import COLOUR_SPAN, YuvKind, YuvPlanes

_FLAT = 5
"""Levels of luma between the darkest and the lightest pixel of a block and those around it, up to which there is
nothing to sharpen."""
_Row = np.uint32  # of a block: four of luma, or blue and red difference of two pixels, which are copied at once


class LearntYuv:
    """Enlarges translations by the guided filter and the refiner of one direction; from one thread at a time.

    `graph`: of RGB, as bundles have it; DsmapError at a frame for one that dsmap has not made. `open_graph`: makes a
    session of one.
    """

    def __init__(self, graph: bytes, open_graph: Callable[[bytes], Any]) -> None:
        self._graph, self._open = graph, open_graph
        self._sessions: dict[YuvKind, Any] = {}
        self._blocks = np.empty((1, 0, 0, 2 * VALUES), np.uint8)  # used again: new memory takes as long as the graph

    def __call__(self, frame: YuvPlanes, small_rgb: Frames, translated_rgb: Frames, result: YuvPlanes) -> None:
        """Fills `result`, BT.709 in limited range, with the translation at the size of `frame`."""
        height, width = frame.luma.shape
        fine = [np.empty(frame.blue.shape, np.int16) for _ in range(2)]
        guided_yuv(frame, small_rgb, translated_rgb, result, fine)
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        if self._blocks.shape[1:3] != (rows, columns):
            self._blocks = np.empty((1, rows, columns, 2 * VALUES), np.uint8)
        blocks = self._blocks[0]
        luma = _whole(frame.luma, rows * BLOCK, columns * BLOCK)
        _to_blocks(luma, _colours(frame), blocks[..., :VALUES])
        _to_blocks(_whole(result.luma, *luma.shape), _colours(result), blocks[..., VALUES:])
        (difference,) = run_session(self._session(frame.kind), ["difference"], {"blocks": self._blocks})
        _change(result, fine, difference[0], _flat(luma))

    def _session(self, kind: YuvKind) -> Any:
        if kind not in self._sessions:
            try:
                graph = yuv_graph(self._graph, kind)
            except (LookupError, TypeError, ValueError, AssertionError) as error:  # another graph than the export's
                fact = "the model's refiner cannot be used for frames in Y'CbCr: dsmap has not made it"
                raise DsmapError(fact, "Pass --refine guided.") from error
            self._sessions[kind] = self._open(graph)
        return self._sessions[kind]


def _colours(planes: YuvPlanes) -> Frames:
    """(H/2, W/2, 2): blue and red difference."""
    return np.asarray(cv2.merge([planes.blue, planes.red]), np.uint8)


def _whole(pixels: Frames, height: int, width: int) -> Frames:
    """Of that size: the last row and column are repeated as far as whole blocks need."""
    below, right = height - pixels.shape[0], width - pixels.shape[1]
    if not below and not right:
        return pixels
    return np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)


def _to_blocks(luma: Frames, colours: Frames, blocks: Frames) -> None:
    """Fills `blocks` (rows, columns, 24) with a plane of whole blocks, and the colours that lie there."""
    rows, columns = blocks.shape[:2]
    colours = _whole(colours, rows * BLOCK // 2, columns * BLOCK // 2)
    pairs = colours.reshape(colours.shape[0], -1)  # of pixels
    for plane, place in ((luma, LUMA), (pairs, COLOURS)):
        lines = plane.view(_Row).reshape(rows, -1, columns)
        np.copyto(blocks[..., place].view(_Row), lines.transpose(0, 2, 1))


def _from_blocks(blocks: Frames) -> Frames:
    """The rows of blocks (rows, columns, 4n), n for each: (n * rows, 4 * columns)."""
    rows, columns, values = blocks.shape
    lines = np.empty((rows, values // 4, columns), _Row)
    np.copyto(lines, blocks.view(_Row).transpose(0, 2, 1))
    return lines.view(np.uint8).reshape(rows * values // 4, columns * 4)


def _flat(luma: Frames) -> npt.NDArray[np.bool_]:
    """(rows, columns): whether blocks are flat, together with those around them."""
    lines = [luma[first::BLOCK] for first in range(BLOCK)]
    lightest, darkest = (functools.reduce(of_two, lines) for of_two in (np.maximum, np.minimum))
    around, middle = np.ones((3, 3 * BLOCK), np.uint8), (3 * BLOCK // 2 - 1, 1)
    first = slice(3 * BLOCK // 2 - 1 - BLOCK, None, BLOCK)
    contrast = cv2.subtract(cv2.dilate(lightest, around, anchor=middle), cv2.erode(darkest, around, anchor=middle))
    return np.asarray(contrast)[:, first] <= _FLAT


def _change(
    result: YuvPlanes, fine: list[npt.NDArray[np.int16]], difference: Frames, flat: npt.NDArray[np.bool_]
) -> None:
    """Adds the difference of blocks (rows, columns, 24); its mean over a block's size where the frame is flat.

    There the graph adds a pattern that every block repeats, of up to six levels in saturated colours. A mean over one
    period removes it exactly, and there are no details to lose.
    """
    height, width = result.luma.shape
    mask = (flat * np.uint32(0xFFFFFFFF)).view(np.uint8)  # of a block's row
    luma = _from_blocks(difference[..., LUMA])
    _average(luma, np.asarray(cv2.blur(luma, (BLOCK, BLOCK)), np.uint8), mask)
    cv2.addWeighted(result.luma, 1, luma[:height, :width], 1 / STEPS[0], -MIDDLE / STEPS[0], dst=result.luma)
    colours = _from_blocks(difference[..., COLOURS])
    pairs = colours.reshape(len(colours), -1, 2)
    blurred = np.asarray(cv2.blur(pairs, (BLOCK // 2, BLOCK // 2)), np.uint8)
    _average(colours, blurred.reshape(colours.shape), mask)
    for plane, values, change in zip((result.blue, result.red), fine, cv2.split(pairs), strict=True):
        whole = change[: height // 2, : width // 2].astype(np.int16)
        whole -= MIDDLE
        whole *= UNITS // STEPS[1]
        whole += values
        round_off(whole, COLOUR_SPAN, plane)


def _average(rows: Frames, averages: Frames, mask: Frames) -> None:
    """Puts averages where the mask says so, in rows of which several belong to a row of the mask."""
    times = len(rows) // len(mask)
    for row in range(times):
        cv2.copyTo(averages[row::times], mask, rows[row::times])
