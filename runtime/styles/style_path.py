"""Styles over time: a fade from one style to another along a clip, or a cycle through several.

    plan = plan_style_path(translator.style_resolver, style_from="seed:7", style_to="snow.jpg")  # None without options
    path = plan.load(translator.find_style)
    translator = StylePathTranslator(translator, path)
    translator.submit(frame_rgb, at=ClipTime(seconds, share))

Codes are interpolated linearly. Styles of real images lie around the mean style, which is near the origin (in the
bundled model 0.2 from it; images 0.8, random draws 2.7): the straight line between two of them stays among styles that
the decoder knows. Spherical interpolation keeps the length of random draws, but has no direction at the mean style,
leads two images around the middle where the others are, and its steps between random styles are no more even.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes, Frames, Pending
from dsmap.runtime.frame_translator import FIRST_FRAME, ClipTime, FrameTranslator, TranslatorWrapper
from dsmap.runtime.styles.resolver import ResolvedStyle, StyleLike, StyleResolver

DEFAULT_SECONDS = 10.0


class StyleFade:
    """From one style to another: `start` at the first frame, `end` at the last, both exactly."""

    def __init__(self, start: Codes, end: Codes, *, seconds: float = DEFAULT_SECONDS) -> None:
        """Codes (S,). `seconds`: the duration where the length of the clip is not known."""
        self.start, self.end = _code(start), _code(end)
        self.codes: tuple[Codes, ...] = (self.start, self.end)
        """The codes (S,) that it passes through."""
        self.seconds = check_seconds(seconds)

    def __call__(self, seconds: float, share: float | None = None) -> Codes:
        """The style code (S,) at that time; outside of the clip that of its first or last frame."""
        return _mixed(self.start, self.end, seconds / self.seconds if share is None else share)


class StyleCycle:
    """Styles in turn, then the first again. The style slows down at each of them: there are no jumps and no kinks."""

    def __init__(self, codes: Sequence[Codes], *, seconds: float = DEFAULT_SECONDS) -> None:
        """Codes (S,), at least two. `seconds`: the duration of a round."""
        if len(codes) < 2:
            raise InputError(f"a style cycle of {len(codes)} style", "Pass two styles or more.")
        self.codes: tuple[Codes, ...] = tuple(_code(code) for code in codes)
        """The codes (S,) that it passes through."""
        self.seconds = check_seconds(seconds)

    def __call__(self, seconds: float, share: float | None = None) -> Codes:
        """The style code (S,) at that time; `share` is ignored."""
        turn, part = divmod(seconds / self.seconds * len(self.codes), 1)
        here = int(turn) % len(self.codes)
        return _mixed(self.codes[here], self.codes[(here + 1) % len(self.codes)], (1 - math.cos(math.pi * part)) / 2)


StylePath: TypeAlias = StyleFade | StyleCycle
"""(seconds since the first frame, share of the clip from 0 at its first frame to 1 at its last, None when its length is
not known) -> a style code (S,), float32."""


@dataclass(frozen=True, kw_only=True)
class StylePlan:
    """A style path whose styles are resolved; those of images still need the model's style encoder."""

    kind: Literal["fade", "cycle"]
    styles: tuple[ResolvedStyle, ...]
    seconds: float

    def load(self, find_style: Callable[[StyleLike], Codes]) -> StylePath:
        """The path. `find_style`: gives the code of a style, such as `Translator.find_style`."""
        codes = [find_style(style) for style in self.styles]
        if self.kind == "cycle":
            return StyleCycle(codes, seconds=self.seconds)
        return StyleFade(*codes, seconds=self.seconds)

    def images(self) -> list[Path]:
        """The files of style images, which no output may replace."""
        return [style.source for style in self.styles if isinstance(style.source, Path)]

    @property
    def names(self) -> tuple[str, ...]:
        """The styles as the user wrote them."""
        return tuple(style.written for style in self.styles)

    def __str__(self) -> str:
        """One line for people."""
        if self.kind == "fade":
            return f"{self.names[0]} to {self.names[1]}"
        return f"{', '.join(self.names)} in turn, {self.seconds:g} s a round"


StyleAt: TypeAlias = Callable[[float, float | None], Codes]
"""The call of a `StylePath`; any function will do."""


class StylePathTranslator(TranslatorWrapper):
    """A translator whose style changes along the clip."""

    def __init__(self, inner: FrameTranslator, style_at: StyleAt) -> None:
        super().__init__(inner)
        self.style_at = style_at

    def submit(self, frames_rgb: Frames, style: Codes | None = None, at: ClipTime = FIRST_FRAME) -> Pending:
        """As `FrameTranslator.submit`; without `style`, in the path's style at that time."""
        return self.inner.submit(frames_rgb, self.style_at(*at) if style is None else style, at)


def plan_style_path(
    resolver: StyleResolver,
    *,
    style_from: str | None = None,
    style_to: str | None = None,
    cycle: Sequence[str] = (),
    seconds: float | None = None,
) -> StylePlan | None:
    """The path that --style-from and --style-to, or --style-cycle, describe; None without them.

    `cycle`: texts of one style or several, separated by commas. `seconds` (--style-period): the duration of a round of
    a cycle, and of a fade where the length of the clip is not known. Raises InputError that names the option.
    """
    ends = {"--style-from": style_from, "--style-to": style_to}
    if cycle and any(text is not None for text in ends.values()):
        raise InputError("--style-cycle cannot be used with --style-from and --style-to", "Choose one of the two.")
    period = check_seconds(DEFAULT_SECONDS if seconds is None else seconds, "--style-period")
    if cycle:
        names = [name for text in cycle for name in _split(text)]
        if len(names) < 2:
            raise InputError(f"--style-cycle has one style: {names[0]}", "Pass two or more, such as seed:1,seed:2.")
        styles = tuple(resolver.resolve(name, "--style-cycle") for name in names)
        return StylePlan(kind="cycle", styles=styles, seconds=period)
    if style_from is None and style_to is None:
        if seconds is not None:
            raise InputError("--style-period needs a style over time, and there is none", "Add --style-cycle.")
        return None
    if style_from is None or style_to is None:
        missing = next(option for option, text in ends.items() if text is None)
        raise InputError(f"{missing} is missing", "Pass both --style-from and --style-to; mean is the default style.")
    styles = resolver.resolve(style_from, "--style-from"), resolver.resolve(style_to, "--style-to")
    return StylePlan(kind="fade", styles=styles, seconds=period)


def check_seconds(seconds: float, option: str = "the duration of the style path") -> float:
    """Returns `seconds`. Raises InputError, naming `option`, unless it is above 0 and finite."""
    if not 0 < seconds < math.inf:  # also refuses NaN
        raise InputError(f"{option} is {seconds:g} seconds", "Use a number of seconds above 0.")
    return float(seconds)


def share_of_clip(seconds: float, length: float | None, frame: float) -> float | None:
    """The share for a StylePath: 0 at the first frame of a clip, 1 at its last. All times in seconds.

    `seconds`: since the first frame. `length`: from the first frame to the end of the last; None when unknown.
    `frame`: the duration of a frame. The share goes by time: with a variable frame rate the count is not known.
    """
    if length is None:
        return None
    to_the_last = length - frame
    return min(1.0, seconds / to_the_last) if to_the_last > frame / 2 else 0.0


def _split(text: str) -> list[str]:
    """Splits a text into styles at its commas, unless it is the name of a file."""
    if os.path.exists(text):
        return [text]
    return [part.strip() for part in text.split(",")]


def _code(code: Codes) -> Codes:
    return np.asarray(code, np.float32)


def _mixed(start: Codes, end: Codes, share: float) -> Codes:
    """Interpolates: exactly `start` at 0 and below, exactly `end` at 1 and above."""
    weight = np.float32(min(1.0, max(0.0, share)))
    return (np.float32(1) - weight) * start + weight * end
