"""Keeping the tags of spherical (360 degree) and stereoscopic (3D) video.

libav's muxers write them from a stream's side data, which PyAV cannot set. A stream made from a template has it, so a
template is written to memory: a Matroska file without frames, whose only content is the side data.
"""

import io
from dataclasses import dataclass

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.stream import VideoStream

from dsmap.runtime.video.encoder_table import Encoder
from dsmap.runtime.video.stream_side_data import SEGMENT, TRACK_ENTRY, TRACKS, VIDEO, StreamSideData, element

# libav uses the default encoder of the template's codec, which these are. For AV1 it is another one.
_CODECS = {
    "libx264": b"V_MPEG4/ISO/AVC",
    "libx265": b"V_MPEGH/ISO/HEVC",
    "libvpx-vp9": b"V_VP9",
    "ffv1": b"V_FFV1",
}
_HEADER, _DOCTYPE, _CLUSTER, _TIMESTAMP = 0x1A45DFA3, 0x4282, 0x1F43B675, 0xE7
_NUMBER, _UID, _TYPE, _CODEC, _WIDTH, _HEIGHT = 0xD7, 0x73C5, 0x83, 0x86, 0xB0, 0xBA


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What becomes of a video's projection."""

    kept: bytes = b""
    """As `StreamSideData.projection`; empty where the result has none."""
    note: str = ""
    """For the user; empty for a flat video."""


def plan_projection(
    source: StreamSideData, encoder: Encoder | None, suffix: str, *, turned: bool, cropped: bool, side_by_side: bool
) -> Projection:
    """Whether a result keeps its source's projection. `encoder`: None for an image sequence; `suffix`: such as ".mp4".

    `turned`, `cropped`, `side_by_side`: changes to the pixels that make the tag wrong.
    """
    if not source.projection or source.projection == _ONE_FLAT_VIEW:
        return Projection()
    what = "spherical video" if source.is_spherical else "3D video (two views per frame)"
    reasons = {
        "the frames are turned": turned,
        "the frames are cropped": cropped,
        "the frames are put side by side": side_by_side,
        "images have no such tag": encoder is None,
        ".mov has no such tag that players agree on (.mp4 and .mkv have)": suffix.lower() == ".mov",
        f"it cannot be written with {encoder.title if encoder else ''} (h264, hevc and vp9 can)": (
            encoder is not None and encoder.library not in _CODECS
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            return Projection(note=f"{what}: the result is not marked as one, as {reason}")
    return Projection(kept=source.projection, note=f"{what}: the result is marked as one too")


def add_projected_stream(container: OutputContainer, encoder: Encoder, projection: bytes) -> VideoStream:
    """A video stream of `container` with `projection`, to be set up like any other. The header is not written yet."""
    with av.open(io.BytesIO(_template(_CODECS[encoder.library], projection)), format="matroska") as template:
        stream = container.add_stream_from_template(template.streams.video[0], opaque=False)
    stream.codec_context.options = dict(encoder.options)
    stream.codec_context.flags |= Flags.global_header
    container.container_options["strict"] = "unofficial"  # the mp4 boxes are Google's, not in the standard
    return stream


def _template(codec: bytes, projection: bytes) -> bytes:
    video = element(_WIDTH, b"\x10") + element(_HEIGHT, b"\x10") + projection
    track = [element(_NUMBER, b"\x01"), element(_UID, b"\x01"), element(_TYPE, b"\x01"), element(_CODEC, codec)]
    tracks = element(TRACKS, element(TRACK_ENTRY, b"".join([*track, element(VIDEO, video)])))
    cluster = element(_CLUSTER, element(_TIMESTAMP, b"\x00"))
    return element(_HEADER, element(_DOCTYPE, b"matroska")) + element(SEGMENT, tracks + cluster)


_ONE_FLAT_VIEW = element(0x53B8, b"\x00")
