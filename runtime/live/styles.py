"""Which style is on, how it moves to the next, and the codes of styles."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsmap.runtime.backends.base import Codes
from dsmap.runtime.bundle.bundle import MEAN
from dsmap.runtime.styles.resolver import ResolvedStyle
from dsmap.runtime.translator import Translator

SECONDS_PER_STYLE = 2.0
"""How long the way from one style to the next takes."""
_LARGEST_SEED = 99_999
_MOST_KEPT = 1000  # codes; random ones may come for days


@dataclass(frozen=True)
class Style:
    """A style and what people call it."""

    name: str
    value: int | str | ResolvedStyle | None
    """A seed, the name of one of the model's, an image, or None for the domain's mean."""
    domain: str | None = None
    """The one whose named style it is; None: it can be had in every direction."""

    @property
    def image(self) -> Path | None:
        """The file of an image's style."""
        source = self.value.source if isinstance(self.value, ResolvedStyle) else None
        return source if isinstance(source, Path) else None


@dataclass(frozen=True)
class Mix:
    """A place between two styles."""

    first: Style
    second: Style
    share: float
    """Of the second, 0 to 1."""

    @property
    def label(self) -> str:
        """For the screen."""
        if self.share == 0 or self.first == self.second:
            return self.first.name
        return f"{self.first.name} > {self.second.name} {self.share:.0%}"


def style_list(
    given: Sequence[ResolvedStyle],
    named: Mapping[str, Iterable[str]] | None = None,
) -> list[Style]:
    """What was given, in that order, then the domain's mean (first when nothing was given), what is `named`, and seeds.

    `named`: the model's styles by domain. A name stands for the style of each domain that has it.
    """
    by_domain = {domain: tuple(names) for domain, names in (named or {}).items()}
    first = [entry for style in given for entry in _given(style, by_domain)]
    more = [Style(name, name, domain) for domain, names in by_domain.items() for name in names]
    more += map(_seed, range(1, 5))
    rest = [style for style in [Style(MEAN, None), *more] if style not in first]
    return [*first, *dict.fromkeys(rest)]


def _given(style: ResolvedStyle, named: Mapping[str, Sequence[str]]) -> list[Style]:
    """One; or of a name one for each domain that has it."""
    match style.source:
        case None:
            return [Style(MEAN, None)]
        case int() as seed:
            return [_seed(seed)]
        case str() as name:
            return [Style(name, name, domain) for domain, names in named.items() if name in names]
        case Path() as path:
            return [Style(path.name, style)]
    return [Style(style.written, style)]


def _seed(seed: int) -> Style:
    return Style(f"seed {seed}", seed)


class StyleWheel:
    """The style that is on. Times are seconds by any clock that runs forward."""

    def __init__(self, styles: Sequence[Style], rng: np.random.Generator, domain: str | None = None) -> None:
        """`domain`: that is translated to; named styles of others are left out."""
        self._all = styles
        self._styles = _had_in(domain, styles)
        self._rng = rng
        self._index = 0
        self._first = self._styles[0]
        self._begun: float | None = None  # when the way to the next style began; None while nothing moves
        self._share = 0.0  # where it stands then

    @property
    def moving(self) -> bool:
        """Whether the style goes from one to the next by itself."""
        return self._begun is not None

    def next(self, now: float) -> None:
        """To the next style of the list."""
        self._index = (self._index + 1) % len(self._styles)
        self._to(self._styles[self._index], now)

    def turn(self, domain: str, now: float) -> None:
        """To the styles of another direction. The one that is on stays, or its namesake; else the mean comes on."""
        styles = _had_in(domain, self._all)
        if styles == self._styles:
            return
        on = self.at(now).first
        names = [style.name for style in styles]
        wanted = next((name for name in (on.name, MEAN) if name in names), names[0])
        self._styles, self._index = styles, names.index(wanted)
        self._to(on if on.domain is None else styles[self._index], now)

    def random(self, now: float) -> None:
        """To a style drawn at random; its name tells the seed, to have it again. The list stays where it is."""
        seed = int(self._rng.integers(_LARGEST_SEED + 1))
        self._to(Style(f"seed {seed}", seed), now)

    def interpolate(self, now: float) -> None:
        """Set out from style to style, or stay where the way has come to."""
        if self._begun is None:
            self._begun = now - self._share * SECONDS_PER_STYLE
        else:
            self._share = self.at(now).share
            self._begun = None

    def at(self, now: float) -> Mix:
        """The style at that time."""
        if self._begun is not None:
            steps, share = divmod((now - self._begun) / SECONDS_PER_STYLE, 1)
            for _ in range(int(steps)):
                self._begun += SECONDS_PER_STYLE
                self._index = (self._index + 1) % len(self._styles)
                self._first = self._styles[self._index]
            self._share = share
        return Mix(self._first, self._styles[(self._index + 1) % len(self._styles)], self._share)

    def _to(self, style: Style, now: float) -> None:
        self._first, self._share = style, 0.0
        self._begun = now if self._begun is not None else None


def _had_in(domain: str | None, styles: Sequence[Style]) -> list[Style]:
    return [style for style in styles if style.domain in (None, domain)]


class StyleCodes:
    """The codes of styles for one translator, found once each. Used by the thread that uses the translator.

    A named style of another domain gives the mean: a frame may still ask for it while the direction changes.
    """

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._codes: dict[Style, Codes] = {}

    def prepare(self, styles: Sequence[Style]) -> None:
        """Find these before they are needed: a picture's takes a moment. Raises InputError for a bad picture."""
        for style in _had_in(self._translator.target, styles):
            self.of(Mix(style, style, 0.0))

    def of(self, mix: Mix) -> Codes:
        """The code (S,), float32."""
        if mix.share == 0:
            return self._code(mix.first)
        return (1 - mix.share) * self._code(mix.first) + mix.share * self._code(mix.second)

    def _code(self, style: Style) -> Codes:
        if style not in self._codes:
            elsewhere = style.domain not in (None, self._translator.target)
            code = self._translator.find_style(None if elsewhere else style.value)
            if len(self._codes) >= _MOST_KEPT:
                return code
            self._codes[style] = code
        return self._codes[style]
