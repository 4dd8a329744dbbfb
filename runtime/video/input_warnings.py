"""Notes on an input video for the user, such as HDR or interlacing: one line each."""

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from av.video.stream import VideoStream

from dsmap.runtime.video.colour_matrix import matrix_note
from dsmap.runtime.video.deinterlace import FIELD_ORDERS, Deinterlacer
from dsmap.runtime.video.stream_side_data import Crop, StreamSideData, frame_side_data
from dsmap.runtime.video.tone_mapping import is_hdr

_GAMUTS = {int(ColorPrimaries.BT2020): "BT.2020", int(ColorPrimaries.SMPTE432): "P3"}
_TRANSFERS = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
_OWN_COLOURS = (5,)  # Dolby Vision profiles whose frames cannot be displayed without its metadata


def input_warnings(
    stream: VideoStream,
    first: VideoFrame,
    side_data: StreamSideData = StreamSideData(),  # noqa: B008  # frozen
    deinterlacer: Deinterlacer | None = None,
    *,
    ten_bits: bool = False,
) -> tuple[str, ...]:
    """Notes on the video that begins with the frame `first`, which is deinterlaced if there is a `deinterlacer`."""
    notes = [
        _crop(first, side_data.crop),
        _depth(first, ten_bits),
        _colours(first),
        matrix_note(first),
        _dolby_vision(side_data.dolby_vision_profile),
        _unknown_sphere(first, side_data),
        _alpha(stream, first),
        _fields(stream, first, deinterlacer),
    ]
    return tuple(note for note in notes if note)


def _crop(frame: VideoFrame, crop: Crop) -> str:
    if not crop:
        return ""
    width, height = crop.size(frame.width, frame.height)
    if not crop.fits(frame.width, frame.height):
        return f"the file asks to crop its {frame.width}x{frame.height} frames to nothing: they are left uncropped"
    return f"cropped from {frame.width}x{frame.height} to {width}x{height}, as the file asks"


def _depth(frame: VideoFrame, ten_bits: bool) -> str:
    bits = max((component.bits for component in frame.format.components), default=8)
    if bits <= 8:
        return ""
    if ten_bits:
        return f"{bits}-bit input: translated in 8 bits, with the input's finer steps added"
    return f"{bits}-bit input: the result has 8 bits"


def _colours(frame: VideoFrame) -> str:
    gamut, mastering = _GAMUTS.get(frame.color_primaries, ""), _mastering(frame)
    if is_hdr(frame):
        kind = ", ".join(filter(None, (_TRANSFERS[frame.color_trc], gamut)))
        dropped = f"; its metadata ({mastering}) is left out" if mastering else ""
        return f"HDR ({kind}): tone-mapped to SDR{dropped}"
    if mastering:
        return f"its HDR mastering metadata ({mastering}) is left out"
    return f"wide gamut ({gamut}): converted to BT.709" if gamut else ""


def _mastering(frame: VideoFrame) -> str:
    """The HDR mastering metadata in a few words; empty without any."""
    found, words = frame_side_data(frame), []
    if (display := found.get("MASTERING_DISPLAY_METADATA")) is not None:
        # AVMasteringDisplayMetadata: ten fractions, the last two the darkest and brightest light, and two flags.
        fields = np.frombuffer(display, np.int32)
        has_light, (number, unit) = len(fields) > 21 and fields[21], fields[18:20]
        light = f" of {number / unit:g} cd/m\u00b2" if has_light and unit else ""
        words.append(f"mastering display{light}")
    if (level := found.get("CONTENT_LIGHT_LEVEL")) is not None:
        words.append(f"MaxCLL {int(np.frombuffer(level, np.uint32)[0])}")
    words += ["HDR10+"] if "DYNAMIC_HDR_PLUS" in found else []
    return ", ".join(words)


def _dolby_vision(profile: int | None) -> str:
    if profile is None:
        return ""
    if profile in _OWN_COLOURS:
        return (
            f"Dolby Vision profile {profile}: its colours (IPT) cannot be converted and come out wrong (green and "
            "violet); convert the video to HDR10 or SDR first"
        )
    return f"Dolby Vision profile {profile}: its metadata is left out, the base layer is used"


def _unknown_sphere(frame: VideoFrame, side_data: StreamSideData) -> str:
    """Projections that Matroska's header cannot express, and `plan_projection` does not see: fisheye, half a sphere."""
    unknown = "SPHERICAL" in frame_side_data(frame) and not side_data.is_spherical
    return "spherical video of an unsupported kind: its tag is left out" if unknown else ""


def _alpha(stream: VideoStream, frame: VideoFrame) -> str:
    in_frame = any(component.is_alpha for component in frame.format.components) and not frame.format.has_palette
    in_stream = stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1"  # WebM's way
    return "alpha is ignored" if in_frame or in_stream else ""


def _fields(stream: VideoStream, frame: VideoFrame, deinterlacer: Deinterlacer | None) -> str:
    order = FIELD_ORDERS.get(stream.codec_context.field_order, "")
    kind = f" ({order})" if order else ""
    if deinterlacer is not None:
        marked = deinterlacer.was_marked or order
        return f"interlaced{kind}: deinterlaced" if marked else "deinterlaced, although it is not marked as interlaced"
    if not frame.interlaced_frame and not order:
        return ""
    return f"interlaced{kind}: not deinterlaced (see --deinterlace)"
