"""Styles over time: from one to another along a clip, or several in turn.

    plan = plan_style_path(style_from="seed:7", style_to="snow.jpg")     # None without options; all checks, no model
    path = plan.load(translator.find_style)
    translator.submit(frame_rgb, path(seconds, share))

Codes are mixed linearly. Styles of real images lie around the mean style, and that near the origin (in the bundled
model 0.2 from it, images 0.8, random draws 2.7): the straight way between two of them stays among styles that the
decoder knows. A spherical mix keeps the length of random draws, but has no direction to start from at the mean style,
leads two images around the middle where the others are, and between random styles its steps are no more even.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes
from dsmap.runtime.bundle.bundle import MEAN, STYLE_NAME
from dsmap.runtime.bundle.named_styles import ModelStyles, advice_on_styles, no_such_style
from dsmap.runtime.translator import StyleLike

StylePath = Callable[[float, float | None], Codes]
"""(seconds from the clip's start, share of the clip from 0 at its first frame to 1 at its last; None when its length is
not known) -> a style code (S,), float32."""

USUAL_SECONDS = 10.0
_OR_PASS = "pass a picture, seed:NUMBER for a random style, or mean."


class StyleFade:
    """From one style to another: `start` at the first frame, `end` at the last, both exactly."""

    def __init__(self, start: Codes, end: Codes, *, seconds: float = USUAL_SECONDS) -> None:
        """Codes (S,). `seconds`: how long it takes where the clip's length is not known."""
        self.start, self.end = _code(start), _code(end)
        self.seconds = check_seconds(seconds)

    def __call__(self, seconds: float, share: float | None = None) -> Codes:
        """The style at that time; before the beginning and after the end, that of the beginning and the end."""
        return _mixed(self.start, self.end, seconds / self.seconds if share is None else share)


class StyleCycle:
    """Styles in turn, and then the first again: each is reached smoothly, rests for a moment, and is left smoothly."""

    def __init__(self, codes: Sequence[Codes], *, seconds: float = USUAL_SECONDS) -> None:
        """Codes (S,), at least two. `seconds`: of a whole round."""
        if len(codes) < 2:
            raise InputError(f"a cycle of {len(codes)} style", "Pass two styles or more.")
        self.codes = tuple(_code(code) for code in codes)
        self.seconds = check_seconds(seconds)

    def __call__(self, seconds: float, share: float | None = None) -> Codes:
        """The style at that time; the share of the clip makes no difference."""
        turn, part = divmod(seconds / self.seconds * len(self.codes), 1)
        here = int(turn) % len(self.codes)
        return _mixed(self.codes[here], self.codes[(here + 1) % len(self.codes)], (1 - math.cos(math.pi * part)) / 2)


@dataclass(frozen=True, kw_only=True)
class StylePlan:
    """A style path as it was asked for, every style checked as far as that goes without the model."""

    kind: Literal["fade", "cycle"]
    styles: tuple[StyleLike, ...]
    names: tuple[str, ...]
    """As the user wrote them."""
    seconds: float

    def load(self, find_style: Callable[[StyleLike], Codes]) -> StylePath:
        """The path, with the codes that `find_style` gives; InputError for a picture that cannot be read."""
        codes = [find_style(style) for style in self.styles]
        if self.kind == "cycle":
            return StyleCycle(codes, seconds=self.seconds)
        return StyleFade(*codes, seconds=self.seconds)

    def images(self) -> list[Path]:
        """The style images: no output may replace one."""
        return [style for style in self.styles if isinstance(style, Path)]

    def __str__(self) -> str:
        """One line for people."""
        if self.kind == "fade":
            return f"{self.names[0]} to {self.names[1]}"
        return f"{', '.join(self.names)} in turn, {self.seconds:g} s a round"


def plan_style_path(
    *,
    style_from: str | None = None,
    style_to: str | None = None,
    cycle: Sequence[str] = (),
    seconds: float | None = None,
    known: ModelStyles | None = None,
) -> StylePlan | None:
    """What --style-from and --style-to, or --style-cycle, ask for; None without them.

    `cycle`: texts with one style or several, separated by commas. `seconds` (--style-period): of a cycle's round, and
    of a fade where the clip's length is not known. `known`: the model's named styles. Raises InputError that names the
    option.
    """
    ends = {"--style-from": style_from, "--style-to": style_to}
    if cycle and any(text is not None for text in ends.values()):
        raise InputError("--style-cycle cannot be used with --style-from and --style-to", "Choose one of the two.")
    period = check_seconds(USUAL_SECONDS if seconds is None else seconds, "--style-period")
    if cycle:
        names = [name for text in cycle for name in _split(text)]
        if len(names) < 2:
            raise InputError(f"--style-cycle has one style: {names[0]}", "Pass two or more, such as seed:1,seed:2.")
        styles = tuple(parse_style(name, "--style-cycle", known) for name in names)
        return StylePlan(kind="cycle", styles=styles, names=tuple(names), seconds=period)
    if style_from is None and style_to is None:
        if seconds is not None:
            raise InputError("--style-period is of a style path, and none was asked for", "Add --style-cycle.")
        return None
    if style_from is None or style_to is None:
        missing = next(option for option, text in ends.items() if text is None)
        raise InputError(f"{missing} is missing", "Pass both --style-from and --style-to; mean is the usual style.")
    styles = parse_style(style_from, "--style-from", known), parse_style(style_to, "--style-to", known)
    return StylePlan(kind="fade", styles=styles, names=(style_from, style_to), seconds=period)


def parse_style(text: str, option: str = "--style", known: ModelStyles | None = None) -> int | str | Path | None:
    """`mean` (None), a number or `seed:NUMBER` (int), a name that is `known` (str), or a picture (Path).

    What could be several is the first of them: ./7 and ./fresh-snow are files. Raises InputError, naming `option`, for
    a bad number, and for what is neither a name nor a picture that can be read.
    """
    if text == MEAN:
        return None
    number = text.removeprefix("seed:")
    if number != text or _is_number(text):
        if not (number.isascii() and number.isdigit()):
            raise InputError(f"{option} {text} is no seed", "Use a whole number of 0 or more, such as seed:7.")
        return int(number)
    if known is not None and text in known:
        return text
    return _image(text, option, known)


def _image(text: str, option: str, known: ModelStyles | None) -> Path:
    """The path of a picture that is there and can be read."""
    if not os.path.exists(text):
        if known is not None and STYLE_NAME.fullmatch(text):
            raise no_such_style(known.manifest, known.domain, text, option=option, or_pass=_OR_PASS)
        raise InputError(f"{option} {text or 'is empty'}: there is no such picture", _advice(known))
    from dsmap.common.images import read_rgb

    try:
        read_rgb(Path(text))  # minutes before the model needs it
    except InputError as error:
        raise InputError(f"{option}: {error.fact}", _advice(known)) from error
    return Path(text)


def _advice(known: ModelStyles | None) -> str:
    if known is None or not known.names:
        return _OR_PASS[0].upper() + _OR_PASS[1:]
    return advice_on_styles(known.manifest, known.domain, _OR_PASS)


def check_seconds(seconds: float, option: str = "the style path's time") -> float:
    """`seconds`, or InputError that names `option` unless it is more than 0 and not endless."""
    if not 0 < seconds < math.inf:  # not so for NaN either
        raise InputError(f"{option} is {seconds:g} seconds", "Use a number of seconds above 0.")
    return float(seconds)


def share_of_clip(seconds: float, length: float | None, frame: float) -> float | None:
    """The share that a StylePath takes: 0 at a clip's first frame, 1 at its last. All in seconds.

    `seconds`: since the first frame. `length`: from the first frame to the end of the last; None when unknown.
    `frame`: how long a frame lasts. By time, not by number: with a variable frame rate the number is not known.
    """
    if length is None:
        return None
    to_the_last = length - frame
    return min(1.0, seconds / to_the_last) if to_the_last > frame / 2 else 0.0


def _is_number(text: str) -> bool:
    return text.removeprefix("-").removeprefix("+").isdigit()


def _split(text: str) -> list[str]:
    """The styles in a text; a file whose name has a comma is one style."""
    if os.path.exists(text):
        return [text]
    return [part.strip() for part in text.split(",")]


def _code(code: Codes) -> Codes:
    return np.asarray(code, np.float32)


def _mixed(start: Codes, end: Codes, share: float) -> Codes:
    """Exactly `start` at 0 and below, exactly `end` at 1 and above."""
    weight = np.float32(min(1.0, max(0.0, share)))
    return (np.float32(1) - weight) * start + weight * end
