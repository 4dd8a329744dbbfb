"""Choosing the encoder for an output file, and checking that it works on this machine.

encoder = resolve(EncoderSettings(codec="hevc", crf=20), ".mp4")
"""

import contextlib
import difflib
import os
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import av.logging
from av.video.codeccontext import VideoCodecContext

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.system.scheduling import usual_priority
from dsmap.runtime.system.subprocess_call import isolated
from dsmap.runtime.video.encoder_table import CODEC_ALIASES, CODECS, ENCODERS, Encoder
from dsmap.runtime.video.opening_reasons import reason_in

AUTO = "auto"
_OPENING_SECONDS = 30.0
_PERIOD_SECONDS, _REMEMBERED = 10.0, 64
_opened: set[tuple[str, str]] = set()  # encoders that work here
_USUAL_SIZE = 256, 256
_NOT_HERE = " does not work on this machine: "


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The codec, quality and speed that were asked for; `resolve` chooses for None and "auto"."""

    codec: str = AUTO
    """A name of `CODECS` or `CODEC_ALIASES`, or "auto": VP9 in .webm, H.264 elsewhere."""
    crf: int | None = None
    """Quality: lower is better and larger. Its range is the codec's."""
    preset: str | None = None
    """Speed against size; the names are the codec's own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", codec_named(self.codec))


def resolve(settings: EncoderSettings, suffix: str) -> Encoder:
    """The encoder for a file with this suffix (".mp4"). Raises InputError, listing the choices.

    A codec that was named is opened to check that it works, never replaced. `suffix` is one of `FORMATS`.
    """
    suffix = suffix.lower()
    encoder = _found(settings.codec, suffix)
    encoder = replace(encoder, preset=_preset(encoder, settings.preset), crf=_crf(encoder, settings.crf))
    kind = encoder.library, encoder.pix_fmt
    if settings.codec != AUTO and (failure := _failure(*kind)) is not None:
        raise InputError(
            f"--codec {encoder.codec}{_NOT_HERE}{opening_reason(*kind) or failure}",
            f"choose another --codec ({', '.join(working_codecs(suffix))})",
        )
    return encoder


def reason_alone(error: DsmapError) -> str:
    """Why an encoder does not work on this machine, from the error of `resolve`; any other error whole."""
    return error.fact.partition(_NOT_HERE)[2] or error.fact


def default_suffix(codec: str) -> str:
    """Default container of a codec, such as ".mp4". Raises InputError for an unknown name."""
    if codec == AUTO:
        return ".mp4"
    return _named(codec)[0].containers[0]


def keeps_ten_bits(codec: str) -> bool:
    """Whether the codec of that name writes more than 8 bits. Raises InputError for an unknown name."""
    return codec != AUTO and all(encoder.has_ten_bits for encoder in _named(codec))


def working_codecs(suffix: str | None = None) -> list[str]:
    """The codecs that work on this machine, of those that a container takes: for messages and checks."""
    fitting = (encoder for encoder in ENCODERS if suffix is None or suffix in encoder.containers)
    return list(
        dict.fromkeys(encoder.codec for encoder in fitting if _failure(encoder.library, encoder.pix_fmt) is None)
    )


def codec_named(text: str) -> str:
    """The codec that a user means: "H.265", "x265" and "hevc" are one. A text that is none stays as it is."""
    folded = text.lower().replace(".", "")
    return CODEC_ALIASES.get(folded, folded if folded in (AUTO, *CODECS) else text)


def _named(codec: str) -> list[Encoder]:
    found = [encoder for encoder in ENCODERS if encoder.codec == codec]
    if not found:
        near = difflib.get_close_matches(codec.lower(), CODECS, n=1)
        advice = f"choose --codec from {', '.join((AUTO, *CODECS))}"
        raise InputError(f"unknown codec {codec!r}{f'; did you mean {near[0]}?' if near else ''}", advice)
    return found


def _found(codec: str, suffix: str) -> Encoder:
    if codec == AUTO:
        codec = "vp9" if suffix == ".webm" else "h264"
    encoders = _named(codec)
    for encoder in encoders:
        if suffix in encoder.containers:
            return encoder
    containers = [name for encoder in encoders for name in encoder.containers]
    others = ", ".join(dict.fromkeys(e.codec for e in ENCODERS if suffix in e.containers and "nvenc" not in e.codec))
    raise InputError(
        f"{suffix} files cannot hold {encoders[0].title}",
        f"choose another container ({', '.join(containers)}) with -o, or another --codec ({others})",
    )


def _preset(encoder: Encoder, preset: str | None) -> str | None:
    if preset is None:
        return encoder.preset
    if not encoder.presets:
        raise InputError(f"{encoder.title} has no presets, got {preset!r}", "leave out --preset")
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
        raise InputError(f"{encoder.title} takes no CRF (got {crf})", f"leave out --crf{instead}")
    if crf is None:
        return quality.default
    if not quality.best <= crf <= quality.worst:
        hint = "; --codec lossless keeps every value" if crf < quality.best else ""
        raise InputError(
            f"--crf {crf} is outside the range of {encoder.title}",
            f"choose from {quality.best} (best) to {quality.worst} (smallest), default {quality.default}{hint}",
        )
    return crf


def _failure(library: str, pix_fmt: str) -> str | None:
    """Why this encoder cannot be opened; None when it can, or could before. It really is opened, at a small size."""
    if (library, pix_fmt) in _opened:
        return None
    failure = _failure_now(library, pix_fmt, _period())
    if failure is None:
        _opened.add((library, pix_fmt))
    return failure


@lru_cache(_REMEMBERED)
def _failure_now(library: str, pix_fmt: str, _period: int) -> str | None:
    silence()
    try:
        _open(library, pix_fmt)
    except (av.FFmpegError, ValueError) as error:  # ValueError: this libav has no such encoder
        return str(getattr(error, "strerror", None) or error)
    return None


def _open(library: str, pix_fmt: str, size: tuple[int, int] = _USUAL_SIZE) -> None:
    encoder = next(encoder for encoder in ENCODERS if (encoder.library, encoder.pix_fmt) == (library, pix_fmt))
    context = cast(VideoCodecContext, av.CodecContext.create(library, "w"))
    context.width, context.height = size
    context.pix_fmt = encoder.pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = replace(encoder, crf=encoder.quality.default if encoder.quality else None).options
    with usual_priority():
        context.open()


def opening_reason(library: str, pix_fmt: str, size: tuple[int, int] = _USUAL_SIZE) -> str | None:
    """Why this encoder fails to open at (width, height), from libav's log: error codes do not mention a missing driver.

    None where the log does not tell. Runs in a separate process. With Python listening to libav's log, every decoder
    thread that logs waits for the interpreter; if the interpreter waits for the decoder, or exits, that is a deadlock.
    """
    return _reason_now(library, pix_fmt, size, _period())


@lru_cache(_REMEMBERED)  # it takes half a second, and every input of a job asks
def _reason_now(library: str, pix_fmt: str, size: tuple[int, int], _period: int) -> str | None:
    target = "dsmap.runtime.video.encoders:log_of_opening"
    reason: str | None = isolated(
        target, _OPENING_SECONDS, nested=True, library=library, pix_fmt=pix_fmt, size=list(size)
    ).value
    return reason or None


def _period() -> int:
    """What fails is tried again in the next one: an encoder of a GPU may only be busy."""
    return int(time.monotonic() // _PERIOD_SECONDS)


def log_of_opening(library: str, pix_fmt: str, size: list[int]) -> str:
    """The reason in libav's log while an encoder is opened; empty without one. Leaves PyAV's logging on."""
    av.logging.set_level(av.logging.WARNING)
    with av.logging.Capture() as log, contextlib.suppress(av.FFmpegError, ValueError):
        _open(library, pix_fmt, (size[0], size[1]))
    return reason_in(log)


def silence() -> None:
    """Keep libav and its encoders from writing to stderr: failures are reported by us."""
    av.logging.set_libav_level(av.logging.PANIC)
    os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 reads it when it is first opened
