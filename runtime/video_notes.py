"""What the user should know about a video's pictures: one line each."""

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from av.video.stream import VideoStream

from dsmap.runtime.tone import is_hdr

_GAMUTS = {int(ColorPrimaries.BT2020): "BT.2020", int(ColorPrimaries.SMPTE432): "P3"}
_TRANSFERS = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
# FFmpeg's AVFieldOrder: 1 is progressive, 0 unknown.
_FIELD_ORDERS = {2: "top field first", 3: "bottom field first", 4: "top field first", 5: "bottom field first"}


def notes_on(stream: VideoStream, first: VideoFrame) -> tuple[str, ...]:
    """About the video that begins with the frame `first`."""
    notes = [_depth(first), _colours(first), _alpha(stream, first), _fields(stream, first)]
    return tuple(note for note in notes if note)


def _depth(frame: VideoFrame) -> str:
    bits = max((component.bits for component in frame.format.components), default=8)
    return f"{bits}-bit input: the result has 8 bits" if bits > 8 else ""


def _colours(frame: VideoFrame) -> str:
    gamut = _GAMUTS.get(frame.color_primaries, "")
    if is_hdr(frame):
        kind = ", ".join(filter(None, (_TRANSFERS[frame.color_trc], gamut)))
        return f"HDR ({kind}): tone-mapped to SDR"
    return f"wide colours ({gamut}): brought to BT.709" if gamut else ""


def _alpha(stream: VideoStream, frame: VideoFrame) -> str:
    in_frame = any(component.is_alpha for component in frame.format.components) and not frame.format.has_palette
    in_stream = stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1"  # WebM's way
    return "alpha is ignored" if in_frame or in_stream else ""


def _fields(stream: VideoStream, frame: VideoFrame) -> str:
    order = stream.codec_context.field_order
    if not frame.interlaced_frame and order not in _FIELD_ORDERS:
        return ""
    kind = f" ({_FIELD_ORDERS[order]})" if order in _FIELD_ORDERS else ""
    return f"interlaced{kind}: not deinterlaced"
