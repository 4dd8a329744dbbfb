"""Selection of styles in a live session: the current one, the way to the next, and their codes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsmap.runtime.backends.base import Codes
from dsmap.runtime.bundle.bundle import MEAN, Manifest
from dsmap.runtime.styles.resolver import ResolvedStyle, StyleResolver
from dsmap.runtime.translator import Translator

SECONDS_PER_STYLE = 2.0
"""How long an interpolation from one style to the next takes."""
_LARGEST_SEED = 99_999
_MAX_CODES_KEPT = 1000  # random styles may come for days


@dataclass(frozen=True)
class LiveStyle:
    """A style and the name that people see."""

    name: str
    value: int | str | ResolvedStyle | None
    """A seed, the name of one of the model's styles, an image, or None for the domain's mean."""
    domain: str | None = None
    """The domain of a named style; None for a style that every domain has."""

    @property
    def image(self) -> Path | None:
        """The file that the style is read from, if it is an image."""
        source = self.value.source if isinstance(self.value, ResolvedStyle) else None
        return source if isinstance(source, Path) else None


@dataclass(frozen=True)
class StyleMix:
    """A point between two styles."""

    first: LiveStyle
    second: LiveStyle
    share: float
    """Of the second, 0 to 1."""

    @property
    def label(self) -> str:
        """For the screen."""
        if self.share == 0 or self.first == self.second:
            return self.first.name
        return f"{self.first.name} > {self.second.name} {self.share:.0%}"


def session_styles(
    manifest: Manifest, domain: str, written: Sequence[str] = (), seeds: Sequence[int] = ()
) -> tuple[LiveStyle, ...]:
    """The styles to choose from in a session that begins with translations to `domain`; see `style_list`.

    `written`: as users write them, see `StyleLike`. Raises InputError, naming --style, for one that is not valid, and
    for an unknown domain.
    """
    resolver = StyleResolver(manifest, domain)
    given = [resolver.resolve(text, "--style") for text in written]
    given += [resolver.resolve(seed, "--seed") for seed in seeds]
    if not manifest.has_styles:
        return (LiveStyle(MEAN, None),)
    return tuple(style_list(given, {name: style.named for name, style in manifest.styles.items()}))


def style_list(
    given: Sequence[ResolvedStyle],
    named: Mapping[str, Iterable[str]] | None = None,
) -> list[LiveStyle]:
    """The styles to choose from: those given, in their order, then the mean, those in `named`, and a few seeds.

    `named`: names of the model's styles by domain. A name stands for the style of each domain that has it.
    """
    by_domain = {domain: tuple(names) for domain, names in (named or {}).items()}
    first = [entry for style in given for entry in _given(style, by_domain)]
    more = [LiveStyle(name, name, domain) for domain, names in by_domain.items() for name in names]
    more += map(_seed, range(1, 5))
    rest = [style for style in [LiveStyle(MEAN, None), *more] if style not in first]
    return [*first, *dict.fromkeys(rest)]


def _given(style: ResolvedStyle, named: Mapping[str, Sequence[str]]) -> list[LiveStyle]:
    """One entry, or for a named style one for each domain that has it."""
    match style.source:
        case None:
            return [LiveStyle(MEAN, None)]
        case int() as seed:
            return [_seed(seed)]
        case str() as name:
            return [LiveStyle(name, name, domain) for domain, names in named.items() if name in names]
        case Path() as path:
            return [LiveStyle(path.name, style)]
    return [LiveStyle(style.written, style)]


def _seed(seed: int) -> LiveStyle:
    return LiveStyle(f"seed {seed}", seed)


class StyleSelector:
    """The current style. Times are in seconds, by any clock that runs forward."""

    def __init__(self, styles: Sequence[LiveStyle], rng: np.random.Generator, domain: str | None = None) -> None:
        """`domain`: the target of the translation; named styles of other domains are left out."""
        self._all = styles
        self._styles = _available_in(domain, styles)
        self._rng = rng
        self._index = 0
        self._first = self._styles[0]
        self._begun: float | None = None  # when the interpolation to the next style began; None when it is off
        self._share = 0.0  # of the next style, when it is off

    @property
    def only_one(self) -> bool:
        """Whether there is nothing to choose from: the model has no styles."""
        return len(self._all) == 1

    @property
    def moving(self) -> bool:
        """Whether the style is being interpolated."""
        return self._begun is not None

    def next(self, now: float) -> None:
        """Selects the next style of the list."""
        self._index = (self._index + 1) % len(self._styles)
        self._to(self._styles[self._index], now)

    def switch_domain(self, domain: str, now: float) -> None:
        """Offers the styles of another domain. Keeps the current style or one of its name, else selects the mean."""
        styles = _available_in(domain, self._all)
        if styles == self._styles:
            return
        current = self.at(now).first
        names = [style.name for style in styles]
        wanted = next((name for name in (current.name, MEAN) if name in names), names[0])
        self._styles, self._index = styles, names.index(wanted)
        self._to(current if current.domain is None else styles[self._index], now)

    def random(self, now: float) -> None:
        """Selects a random style, whose name holds the seed; the position in the list stays."""
        seed = int(self._rng.integers(_LARGEST_SEED + 1))
        self._to(LiveStyle(f"seed {seed}", seed), now)

    def interpolate(self, now: float) -> None:
        """Starts interpolating from style to style, or stops at the present mix."""
        if self._begun is None:
            self._begun = now - self._share * SECONDS_PER_STYLE
        else:
            self._share = self.at(now).share
            self._begun = None

    def at(self, now: float) -> StyleMix:
        """The style at the time `now`, which may not be earlier than in the call before."""
        if self._begun is not None:
            steps, share = divmod((now - self._begun) / SECONDS_PER_STYLE, 1)
            for _ in range(int(steps)):
                self._begun += SECONDS_PER_STYLE
                self._index = (self._index + 1) % len(self._styles)
                self._first = self._styles[self._index]
            self._share = share
        return StyleMix(self._first, self._styles[(self._index + 1) % len(self._styles)], self._share)

    def _to(self, style: LiveStyle, now: float) -> None:
        self._first, self._share = style, 0.0
        self._begun = now if self._begun is not None else None


def _available_in(domain: str | None, styles: Sequence[LiveStyle]) -> list[LiveStyle]:
    return [style for style in styles if style.domain in (None, domain)]


class StyleCodeCache:
    """Cache of style codes for one translator. Use it from the thread that uses the translator.

    A named style of another domain gives the mean: a frame may still ask for it while the direction changes.
    """

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._codes: dict[LiveStyle, Codes] = {}

    def prepare(self, styles: Sequence[LiveStyle]) -> None:
        """Finds the codes of `styles` before they are needed: that of an image takes a moment."""
        for style in _available_in(self._translator.target, styles):
            self.of(StyleMix(style, style, 0.0))

    def of(self, mix: StyleMix) -> Codes:
        """The code (S,), float32."""
        if mix.share == 0:
            return self._code(mix.first)
        return (1 - mix.share) * self._code(mix.first) + mix.share * self._code(mix.second)

    def _code(self, style: LiveStyle) -> Codes:
        if style not in self._codes:
            elsewhere = style.domain not in (None, self._translator.target)
            code = self._translator.find_style(None if elsewhere else style.value)
            if len(self._codes) >= _MAX_CODES_KEPT:
                return code
            self._codes[style] = code
        return self._codes[style]
