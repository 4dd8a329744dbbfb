"""Which encoder writes the video: the codecs by name, what each may be told, and the containers that take it.

    encoder = resolve(EncoderSettings(codec="hevc", crf=20), ".mp4")

Defaults: visually lossless (as near to the input as H.264 at CRF 18), and fast enough that the network is what costs
the time. On two cores at 960x540, in frames per second: H.264 113, H.265 71, AV1 171, VP9 187, ProRes 73, FFV1 114,
lossless H.264 232.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from typing import cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import av.logging
from av.video.codeccontext import VideoCodecContext

from dsmap.errors import InputError
from dsmap.runtime.system.cpu import allowed_cores
from dsmap.runtime.system.subprocess_call import isolated

AUTO = "auto"
_MP4 = (".mp4", ".m4v", ".mov")
_MOST_THREADS = 16  # more gain nothing at these presets, and each holds frames
_OPENING_SECONDS = 30.0
_APPLE_HEVC = "hvc1"  # libav's own "hev1" does not play on Apple's systems


def _same(names: Iterable[str]) -> Mapping[str, str]:
    return {name: name for name in names}


# info=0: without the note about the threads used, which would differ from machine to machine.
_X265_FIXED = {"forced-idr": "1", "x265-params": "log-level=none:info=0:open-gop=0"}
_X26X_PRESETS = _same(["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"])


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What was asked for. None and "auto" leave the choice to `resolve`."""

    codec: str = AUTO
    """A name of `CODECS`, or "auto": VP9 in .webm, H.264 elsewhere."""
    crf: int | None = None
    """Quality: lower is better and larger. Its range is the codec's."""
    preset: str | None = None
    """Speed against size, in the codec's own words."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How a codec is told its quality: the option's name, its range (both ends included), and our default."""

    option: str
    best: int
    worst: int
    default: int


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One encoder of libav, with everything that it is told."""

    codec: str
    """The name in `CODECS`."""
    title: str
    """For people: "H.265"."""
    library: str
    """libav's name of the encoder."""
    pix_fmt: str
    containers: tuple[str, ...]
    """Suffixes, the usual one first."""
    quality: Quality | None = None
    preset_option: str = "preset"
    presets: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The names it knows, and what libav calls them."""
    preset: str | None = None
    """The one in use."""
    crf: int | None = None
    """The one in use."""
    fixed: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Options that nobody chooses."""
    mp4_tag: str | None = None
    """Codec tag in mp4 and mov, where libav's own choice does not play everywhere."""

    @property
    def options(self) -> dict[str, str]:
        """For libav."""
        chosen = {self.preset_option: self.presets[self.preset]} if self.preset is not None else {}
        level = {self.quality.option: str(self.crf)} if self.quality else {}
        return level | chosen | dict(self.fixed)

    @property
    def has_ten_bits(self) -> bool:
        """Whether the file holds more than 8 bits."""
        return "10" in self.pix_fmt

    @property
    def threads(self) -> int:
        """One per core: libx264's own 1.5 per core costs a third of the speed on small frames."""
        return min(allowed_cores() or os.cpu_count() or 1, _MOST_THREADS)

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
        quality=Quality(option="cq", best=1, worst=worst, default=default),
        presets=_same(f"p{number}" for number in range(1, 8)),
        preset="p4",
        fixed={"rc": "vbr", "b": "0", "forced-idr": "1"},
        mp4_tag=_APPLE_HEVC if codec == "hevc" else None,
    )


# Closed groups of pictures everywhere: a job is resumed at a keyframe, and players seek to one.
_ENCODERS = (
    Encoder(
        codec="h264",
        title="H.264",
        library="libx264",
        pix_fmt="yuv420p",
        containers=(*_MP4, ".mkv"),
        quality=Quality(option="crf", best=1, worst=51, default=18),  # 0: lossless, in a profile few players know
        presets=_X26X_PRESETS,
        preset="veryfast",  # half the time of "medium" at this quality and the same size
    ),
    Encoder(
        codec="hevc",
        title="H.265",
        library="libx265",
        pix_fmt="yuv420p",
        containers=(*_MP4, ".mkv"),
        quality=Quality(option="crf", best=1, worst=51, default=17),
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
        quality=Quality(option="crf", best=1, worst=51, default=17),
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
        quality=Quality(option="crf", best=1, worst=63, default=18),
        presets=_same(map(str, range(14))),
        preset="10",
    ),
    Encoder(
        codec="av1-10",
        title="AV1 in 10 bits",
        library="libsvtav1",
        pix_fmt="yuv420p10le",
        containers=(".mp4", ".m4v", ".mkv", ".webm"),
        quality=Quality(option="crf", best=1, worst=63, default=18),
        presets=_same(map(str, range(14))),
        preset="10",
    ),
    Encoder(
        codec="vp9",
        title="VP9",
        library="libvpx-vp9",
        pix_fmt="yuv420p",
        containers=(".webm", ".mkv", ".mp4", ".m4v"),
        quality=Quality(option="crf", best=1, worst=63, default=20),
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
    _nvenc("h264", "H.264", worst=51, default=19, containers=(*_MP4, ".mkv")),
    _nvenc("hevc", "H.265", worst=51, default=19, containers=(*_MP4, ".mkv")),
    _nvenc("av1", "AV1", worst=63, default=24, containers=(".mp4", ".m4v", ".mkv", ".webm")),
)
CODECS = tuple(dict.fromkeys(encoder.codec for encoder in _ENCODERS))
"""The names that `EncoderSettings.codec` takes, beside "auto"."""


def resolve(settings: EncoderSettings, suffix: str) -> Encoder:
    """The encoder for a file of this suffix (".mp4"). Raises InputError, saying what there is to choose from.

    A codec that was named is opened to see that it works here, never replaced. `suffix` is one of `FORMATS`.
    """
    suffix = suffix.lower()
    encoder = _found(settings.codec, suffix)
    encoder = replace(encoder, preset=_preset(encoder, settings.preset), crf=_crf(encoder, settings.crf))
    kind = encoder.library, encoder.pix_fmt
    if settings.codec != AUTO and (failure := _failure(*kind)) is not None:
        raise InputError(
            f"--codec {encoder.codec} does not work here: {_told_by_libav(*kind) or failure}",
            f"choose another --codec ({', '.join(working_codecs(suffix))})",
        )
    return encoder


def default_suffix(codec: str) -> str:
    """The usual container of a codec: ".mp4", or what it needs. Raises InputError for an unknown name."""
    if codec == AUTO:
        return ".mp4"
    return _named(codec)[0].containers[0]


def keeps_ten_bits(codec: str) -> bool:
    """Whether the codec of that name writes more than 8 bits. Raises InputError for an unknown name."""
    return codec != AUTO and all(encoder.has_ten_bits for encoder in _named(codec))


def working_codecs(suffix: str | None = None) -> list[str]:
    """The codecs that open on this machine, of those that `suffix` takes: for messages and for checks."""
    fitting = (encoder for encoder in _ENCODERS if suffix is None or suffix in encoder.containers)
    return list(
        dict.fromkeys(encoder.codec for encoder in fitting if _failure(encoder.library, encoder.pix_fmt) is None)
    )


def _named(codec: str) -> list[Encoder]:
    found = [encoder for encoder in _ENCODERS if encoder.codec == codec]
    if not found:
        raise InputError(f"there is no codec {codec!r}", f"choose --codec from {', '.join((AUTO, *CODECS))}")
    return found


def _found(codec: str, suffix: str) -> Encoder:
    if codec == AUTO:
        codec = "vp9" if suffix == ".webm" else "h264"
    encoders = _named(codec)
    for encoder in encoders:
        if suffix in encoder.containers:
            return encoder
    containers = [name for encoder in encoders for name in encoder.containers]
    others = ", ".join(dict.fromkeys(e.codec for e in _ENCODERS if suffix in e.containers and "nvenc" not in e.codec))
    raise InputError(
        f"{suffix} files cannot hold {encoders[0].title}",
        f"choose another container ({', '.join(containers)}) with -o, or another --codec ({others})",
    )


def _preset(encoder: Encoder, preset: str | None) -> str | None:
    if preset is None:
        return encoder.preset
    if not encoder.presets:
        raise InputError(f"{encoder.title} has no presets (got {preset})", "leave --preset away")
    if preset not in encoder.presets:
        raise InputError(
            f"{encoder.title} has no preset {preset!r}",
            f"choose --preset from {', '.join(encoder.presets)} (default: {encoder.preset})",
        )
    return preset


def _crf(encoder: Encoder, crf: int | None) -> int | None:
    quality = encoder.quality
    if quality is None:
        if crf is None:
            return None
        instead = f"; --preset sets the quality ({', '.join(encoder.presets)})" if encoder.codec == "prores" else ""
        raise InputError(f"{encoder.title} takes no CRF (got {crf})", f"leave --crf away{instead}")
    if crf is None:
        return quality.default
    if not quality.best <= crf <= quality.worst:
        hint = "; --codec lossless keeps every value" if crf < quality.best else ""
        raise InputError(
            f"--crf {crf} is outside the range of {encoder.title}",
            f"choose from {quality.best} (best) to {quality.worst} (smallest), default {quality.default}{hint}",
        )
    return crf


@cache
def _failure(library: str, pix_fmt: str) -> str | None:
    """How opening this encoder fails here; None when it does not. It is opened for real, at a small size."""
    silence()
    try:
        _open(library, pix_fmt)
    except (av.FFmpegError, ValueError) as error:  # ValueError: this libav has no such encoder
        return str(getattr(error, "strerror", None) or error)
    return None


def _open(library: str, pix_fmt: str) -> None:
    encoder = next(encoder for encoder in _ENCODERS if (encoder.library, encoder.pix_fmt) == (library, pix_fmt))
    context = cast(VideoCodecContext, av.CodecContext.create(library, "w"))
    context.width, context.height, context.pix_fmt = 256, 256, encoder.pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = replace(encoder, crf=encoder.quality.default if encoder.quality else None).options
    context.open()


@cache  # it takes half a second, and every input of a job asks
def _told_by_libav(library: str, pix_fmt: str) -> str | None:
    """Why this encoder fails to open: its error code alone does not say that a driver is missing, libav's log does.

    In a process of its own. With Python listening to libav's log, every decoder's thread that has something to say
    waits for the interpreter, and where that one waits for the decoder, or ends, both wait for ever.
    """
    target = "dsmap.runtime.video.encoders:log_of_opening"
    told: str | None = isolated(target, _OPENING_SECONDS, nested=True, library=library, pix_fmt=pix_fmt).value
    return told


def log_of_opening(library: str, pix_fmt: str) -> str:
    """libav's first error message while an encoder is opened; empty without one. Leaves PyAV's logging on."""
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as log, contextlib.suppress(av.FFmpegError, ValueError):
        _open(library, pix_fmt)
    return next((line.strip() for _, _, line in log if line.strip()), "")


def silence() -> None:
    """Keep libav and its encoders from writing to stderr: failures are reported by us."""
    av.logging.set_libav_level(av.logging.PANIC)
    os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 reads it when it is first opened
