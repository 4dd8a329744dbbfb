"""Tone mapping of HDR (PQ and HLG) and wide gamuts to SDR in BT.709: one table per clip, applied by libavfilter.

Diffuse white in HDR, 203 cd/m2 by ITU-R BT.2408, is white in SDR, displayed by BT.1886 (gamma 2.4). Up to a knee,
tones are kept exactly; above it, highlights are rolled off so that they stay distinct up to the clip's peak. All three
channels are scaled alike, which keeps the hue; colours outside BT.709 are desaturated, not clipped.
"""

import functools
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc

Values = npt.NDArray[np.float64]

SDR_WHITE = 203.0  # cd/m2
_GAMMA = 2.4
_KNEE = 0.9  # of the SDR signal (229 of 255): white itself comes out as 243
_HLG_PEAK = 1000.0  # cd/m2: the display that BT.2408 assumes for HLG
_DEFAULT_PEAK = 1000.0
_HIGHEST_PEAK = 4000.0
_NODES = 49
_TABLE_FORMAT = "gbrp16le"  # four times as fast in the filter as others

_LUMA_709 = np.array([0.2126, 0.7152, 0.0722])
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593])
_TO_709: dict[int, Values] = {
    ColorPrimaries.BT709: np.eye(3),
    ColorPrimaries.BT2020: np.array(
        [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
    ),
    ColorPrimaries.SMPTE432: np.array(  # P3 with D65 white
        [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]]
    ),
}
_HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


@dataclass(frozen=True, kw_only=True)
class Tone:
    """The meaning of a clip's values. `transfer`: PQ, HLG, or anything else for SDR; `peak`: in cd/m2."""

    transfer: int = ColorTrc.BT709
    primaries: int = ColorPrimaries.BT2020
    peak: float = SDR_WHITE

    def to_sdr(self, code_rgb: Values) -> Values:
        """R'G'B' (..., 3), 0..1, to R'G'B' in BT.709 for a BT.1886 display, 0..1."""
        linear = _in_gamut(self._light(np.asarray(code_rgb, np.float64)) / SDR_WHITE @ _TO_709[self.primaries].T)
        brightest = linear.max(axis=-1, keepdims=True)
        scale = rolled_off(brightest, self.peak / SDR_WHITE) / np.maximum(brightest, 1e-9)
        return np.asarray(np.clip(linear * scale, 0, 1) ** (1 / _GAMMA))

    def _light(self, code_rgb: Values) -> Values:
        if self.transfer == ColorTrc.SMPTE2084:
            return pq_to_light(code_rgb)
        if self.transfer == ColorTrc.ARIB_STD_B67:
            return hlg_to_light(code_rgb)
        return np.asarray(SDR_WHITE * code_rgb**_GAMMA)


def is_hdr(frame: VideoFrame) -> bool:
    """Whether `frame` is tagged as PQ or HLG."""
    return frame.color_trc in _HDR


def tone_of(frame: VideoFrame) -> Tone | None:
    """How to convert `frame` to SDR in BT.709; None when it already is, or nearly."""
    primaries = frame.color_primaries
    if not is_hdr(frame):
        wide = primaries in (ColorPrimaries.BT2020, ColorPrimaries.SMPTE432)
        return Tone(primaries=primaries) if wide else None
    peak = _HLG_PEAK if frame.color_trc == ColorTrc.ARIB_STD_B67 else _peak(frame)
    known = primaries if primaries in _TO_709 else ColorPrimaries.BT2020
    return Tone(transfer=frame.color_trc, primaries=known, peak=peak)


def _peak(frame: VideoFrame) -> float:
    """The clip's peak luminance by its metadata, in cd/m2, within plausible limits."""
    try:
        light = frame.side_data["CONTENT_LIGHT_LEVEL"]  # type: ignore[typeddict-item]
    except KeyError:
        return _DEFAULT_PEAK
    brightest = int(np.frombuffer(bytes(light), np.uint32)[0])  # MaxCLL
    return min(max(float(brightest), SDR_WHITE), _HIGHEST_PEAK) if brightest else _DEFAULT_PEAK


def pq_to_light(code: Values) -> Values:
    """PQ (SMPTE ST 2084) signal 0..1 to cd/m2."""
    power = np.maximum(code, 0) ** (32 / 2523)
    return np.asarray(10000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (16384 / 2610))


def light_to_pq(light: Values) -> Values:
    """cd/m2 to PQ signal 0..1."""
    power = (np.maximum(light, 0) / 10000) ** (2610 / 16384)
    return np.asarray(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32))


def hlg_to_light(code_rgb: Values) -> Values:
    """HLG signal (..., 3), 0..1, to cd/m2 on a display of 1000 cd/m2 (BT.2100, system gamma 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code_rgb <= 0.5, code_rgb**2 / 3, (np.exp((code_rgb - c) / a) + b) / 12)
    luma = (scene @ _LUMA_2020)[..., None]
    return np.asarray(_HLG_PEAK * np.maximum(luma, 1e-9) ** 0.2 * scene)


def rolled_off(light: Values, peak: float) -> Values:
    """Light (1: SDR white) mapped to 0..1: unchanged up to the knee, then rolled off to reach 1 at `peak`.

    The roll-off is computed in PQ, whose steps are perceptually uniform.
    """
    knee = light_to_pq(np.array(SDR_WHITE * _KNEE**_GAMMA))
    room = light_to_pq(np.array(SDR_WHITE)) - knee
    reach = light_to_pq(np.array(SDR_WHITE * peak)) - knee
    if reach <= room:
        return np.minimum(light, 1)
    above = np.clip(light_to_pq(SDR_WHITE * light) - knee, 0, reach)
    bent = above / (1 + above * (1 / room - 1 / reach))
    return np.where(light * SDR_WHITE <= pq_to_light(knee), light, pq_to_light(knee + bent) / SDR_WHITE)


def _in_gamut(linear: Values) -> Values:
    """Colours desaturated, at constant luminance, until no channel is negative."""
    luma = np.maximum(linear @ _LUMA_709, 0)[..., None]
    lowest = np.minimum(linear.min(axis=-1, keepdims=True), 0)
    share = luma / np.maximum(luma - lowest, 1e-9)
    return np.asarray(np.maximum(luma + (linear - luma) * share, 0))


class ToneMapper:
    """Applies one `Tone` to frames of one size: gbrp16le in, with `white` as its maximum, gbrp16le out."""

    format = _TABLE_FORMAT

    def __init__(self, tone: Tone, width: int, height: int, white: float = 65535) -> None:
        self.tone, self.width, self.height = tone, width, height
        self._graph = Graph()
        with tempfile.TemporaryDirectory(prefix="dsmap-") as folder:
            table = Path(folder) / "tone.cube"
            table.write_text(_cube(tone, 65535 / white), encoding="ascii")
            self._source, self._sink = self._build(table)

    def _build(self, table: Path) -> tuple[FilterContext, FilterContext]:
        size = {"width": self.width, "height": self.height, "time_base": Fraction(1, 1000)}
        source = self._graph.add_buffer(**size, format=_TABLE_FORMAT)  # type: ignore[arg-type]
        # As a separate argument: in the usual string, the colon of a Windows path would end it.
        lut = self._graph.add("lut3d", file=str(table), interp="tetrahedral")
        sink = self._graph.add("buffersink")
        self._graph.link_nodes(source, lut, sink)
        self._graph.configure()
        return source, sink

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """`frame`: full range R'G'B' as stored in the file. Returns the frame in SDR with BT.709 primaries."""
        frame.pts = None
        self._source.push(frame)
        mapped = self._sink.pull()
        assert isinstance(mapped, VideoFrame)
        return mapped


@functools.lru_cache(maxsize=4)
def _cube(tone: Tone, top: float) -> str:
    """The table as text, for codes 0..`top`: red runs fastest."""
    steps = np.minimum(np.linspace(0, top, _NODES), 1)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    table = tone.to_sdr(np.stack([red, green, blue], axis=-1)).reshape(-1, 3)
    lines = ("%.6f %.6f %.6f\n" * len(table)) % tuple(table.ravel().tolist())
    return f"LUT_3D_SIZE {_NODES}\n{lines}"
