"""The table of video encoders: their names, options, and the containers that can hold their output.

Defaults: visually lossless (as close to the input as H.264 at CRF 18), and fast enough that the network dominates the
run time. On two cores at 960x540, in frames per second: H.264 113, H.265 71, AV1 171, VP9 187, ProRes 73, FFV1 114,
lossless H.264 232.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from dsmap.runtime.system.cpu import allowed_cores

_MP4 = (".mp4", ".m4v", ".mov")
_MAX_THREADS = 16  # more gain nothing at these presets, and each holds frames
_APPLE_HEVC = "hvc1"  # libav's own "hev1" does not play on Apple's systems


def _same(names: Iterable[str]) -> Mapping[str, str]:
    return {name: name for name in names}


# info=0: without the note about the threads used, which would differ from machine to machine.
_X265_FIXED = {"forced-idr": "1", "x265-params": "log-level=none:info=0:open-gop=0"}
_WITHOUT_DELAY = {
    "libx264": {"tune": "zerolatency"},
    "libx265": {"tune": "zerolatency"},
    "libsvtav1": {"svtav1-params": "pred-struct=1"},
    "libvpx-vp9": {"lag-in-frames": "0"},
    # Without "bf" the presets have B pictures.
    **{f"{codec}_nvenc": {"zerolatency": "1", "delay": "0", "bf": "0"} for codec in ("h264", "hevc", "av1")},
}
_X26X_PRESETS = _same(["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"])


@dataclass(frozen=True, kw_only=True)
class QualityRange:
    """A codec's quality option: its name, its range (both ends included), and our default."""

    option: str
    best: int
    worst: int
    default: int


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """An encoder of libav, with all its options."""

    codec: str
    """The name in `CODECS`."""
    title: str
    """For people: "H.265"."""
    library: str
    """libav's name of the encoder."""
    pix_fmt: str
    containers: tuple[str, ...]
    """Suffixes, the usual one first."""
    device: str | None = None
    """FFmpeg's name of the device that it runs on; None: software."""
    quality: QualityRange | None = None
    preset_option: str = "preset"
    presets: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Names for users, and libav's names."""
    preset: str | None = None
    """The selected one."""
    crf: int | None = None
    """The selected one."""
    fixed: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Options that users cannot change."""
    mp4_tag: str | None = None
    """Codec tag in mp4 and mov where libav's default does not play everywhere."""

    @property
    def options(self) -> dict[str, str]:
        """For libav."""
        chosen = {self.preset_option: self.presets[self.preset]} if self.preset is not None else {}
        level = {self.quality.option: str(self.crf)} if self.quality else {}
        return level | chosen | dict(self.fixed)

    def without_delay(self) -> "Encoder":
        """The same encoder, giving each frame's packet at once: larger results, and no frames from later on."""
        return replace(self, fixed={**self.fixed, **_WITHOUT_DELAY.get(self.library, {})})

    @property
    def has_ten_bits(self) -> bool:
        """Whether the file holds more than 8 bits."""
        return "10" in self.pix_fmt

    @property
    def threads(self) -> int:
        """One per core: libx264's own 1.5 per core costs a third of the speed on small frames."""
        return min(allowed_cores() or os.cpu_count() or 1, _MAX_THREADS)

    def __str__(self) -> str:
        level = [f"{self.quality.option.upper()} {self.crf}"] if self.quality else []
        return ", ".join([self.title, *level, *([f"preset {self.preset}"] if self.preset else [])])


def _nvenc(codec: str, title: str, *, worst: int, default: int, containers: tuple[str, ...]) -> Encoder:
    return Encoder(
        codec=f"{codec}_nvenc",
        title=f"{title} by NVENC",
        library=f"{codec}_nvenc",
        pix_fmt="yuv420p",
        containers=containers,
        device="cuda",
        quality=QualityRange(option="cq", best=1, worst=worst, default=default),
        presets=_same(f"p{number}" for number in range(1, 8)),
        preset="p4",
        fixed={"rc": "vbr", "b": "0", "forced-idr": "1"},
        mp4_tag=_APPLE_HEVC if codec == "hevc" else None,
    )


# Closed GOPs everywhere: a job is resumed at a keyframe, and players seek to one.
ENCODERS = (
    Encoder(
        codec="h264",
        title="H.264",
        library="libx264",
        pix_fmt="yuv420p",
        containers=(*_MP4, ".mkv"),
        quality=QualityRange(option="crf", best=1, worst=51, default=18),  # 0: lossless, in a profile few players know
        presets=_X26X_PRESETS,
        preset="veryfast",  # half the time of "medium" at this quality and the same size
    ),
    Encoder(
        codec="hevc",
        title="H.265",
        library="libx265",
        pix_fmt="yuv420p",
        containers=(*_MP4, ".mkv"),
        quality=QualityRange(option="crf", best=1, worst=51, default=17),
        presets=_X26X_PRESETS,
        preset="superfast",
        fixed=_X265_FIXED,
        mp4_tag=_APPLE_HEVC,
    ),
    Encoder(
        codec="hevc10",
        title="H.265 in 10 bits",
        library="libx265",
        pix_fmt="yuv420p10le",
        containers=(*_MP4, ".mkv"),
        quality=QualityRange(option="crf", best=1, worst=51, default=17),
        presets=_X26X_PRESETS,
        preset="superfast",
        fixed=_X265_FIXED,
        mp4_tag=_APPLE_HEVC,
    ),
    Encoder(
        codec="av1",
        title="AV1",
        library="libsvtav1",
        pix_fmt="yuv420p",
        containers=(".mp4", ".m4v", ".mkv", ".webm"),  # no .mov: QuickTime files know neither AV1 nor VP9
        quality=QualityRange(option="crf", best=1, worst=63, default=18),
        presets=_same(map(str, range(14))),
        preset="10",
    ),
    Encoder(
        codec="av1-10",
        title="AV1 in 10 bits",
        library="libsvtav1",
        pix_fmt="yuv420p10le",
        containers=(".mp4", ".m4v", ".mkv", ".webm"),
        quality=QualityRange(option="crf", best=1, worst=63, default=18),
        presets=_same(map(str, range(14))),
        preset="10",
    ),
    Encoder(
        codec="vp9",
        title="VP9",
        library="libvpx-vp9",
        pix_fmt="yuv420p",
        containers=(".webm", ".mkv", ".mp4", ".m4v"),
        quality=QualityRange(option="crf", best=1, worst=63, default=20),
        preset_option="cpu-used",
        presets=_same(map(str, range(10))),
        preset="8",
        fixed={"b": "0", "deadline": "realtime", "row-mt": "1"},
    ),
    Encoder(
        codec="prores",
        title="ProRes 422",
        library="prores",  # prores_ks takes three times as long for the same quality and size
        pix_fmt="yuv422p10le",
        containers=(".mov", ".mkv"),
        preset_option="profile",
        presets={"proxy": "0", "lt": "1", "standard": "2", "hq": "3"},
        preset="hq",
    ),
    Encoder(
        codec="lossless",
        title="FFV1 (lossless RGB)",
        library="ffv1",
        pix_fmt="bgr0",
        containers=(".mkv",),
        fixed={"level": "3", "g": "1", "slicecrc": "1"},
    ),
    Encoder(
        codec="lossless",
        title="H.264 4:4:4 (lossless RGB)",
        library="libx264rgb",
        pix_fmt="rgb24",
        containers=_MP4,
        presets=_X26X_PRESETS,
        preset="ultrafast",
        fixed={"qp": "0"},
    ),
    Encoder(
        codec="raw",
        title="uncompressed YUV 4:2:0",
        library="rawvideo",
        pix_fmt="yuv420p",
        containers=(".mkv",),
    ),
    _nvenc("h264", "H.264", worst=51, default=19, containers=(*_MP4, ".mkv")),
    _nvenc("hevc", "H.265", worst=51, default=19, containers=(*_MP4, ".mkv")),
    _nvenc("av1", "AV1", worst=63, default=24, containers=(".mp4", ".m4v", ".mkv", ".webm")),
)
CODECS = tuple(dict.fromkeys(encoder.codec for encoder in ENCODERS))
"""The names that `EncoderSettings.codec` takes, beside "auto"."""
CODEC_ALIASES = {"avc": "h264", "x264": "h264", "libx264": "h264", "h265": "hevc", "x265": "hevc", "libx265": "hevc",
                 "libvpx-vp9": "vp9", "libsvtav1": "av1", "ffv1": "lossless"}  # fmt: skip
"""Other names that people use for them, without dots and in lower case."""
