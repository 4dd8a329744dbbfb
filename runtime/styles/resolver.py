"""Style codes from what users write: a style's name, an image, a seed, or nothing.

    styles = StyleResolver(bundle.manifest, "winter")
    style = styles.resolve("fresh-snow", option="--style")  # checked; no model is loaded for it
    code = style.encode(backend.encode_style)  # (S,) float32

Commands resolve what was typed before the model loads; `Translator.find_style` resolves and encodes in one step.
"""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from dsmap.common.images import read_rgb
from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes, Frames
from dsmap.runtime.bundle.bundle import MEAN, STYLE_NAME, Manifest
from dsmap.runtime.bundle.style_images import fit_style_image
from dsmap.runtime.frame_translator import check_frames
from dsmap.runtime.styles.random_styles import random_code

StyleLike: TypeAlias = "int | str | Path | Frames | Codes | ResolvedStyle | None"
"""None: the domain's mean style. A seed: a random style. A path or a uint8 RGB array (H, W, 3): an image's style. An
array (S,) of floats: a style code.

A text is `mean`, a seed (`7` or `seed:7`), the name of one of the model's styles for the domain, or an image's path, in
this order: "./fresh-snow" and "./7", or a Path, are always files.
"""

MAX_SPREAD = 10.0
"""Of random styles: the most that any caller may ask for."""
_FOR_OPTIONS = "pass an image, seed:NUMBER for a random style, or mean."
_IN_PYTHON = "pass an image, a seed, or mean."
_KINDS = "Pass None, a style's name, a seed, a path, an image (uint8 RGB array) or a code (array of floats)."
_MAX_SHOWN = 40  # of a seed, in messages
_MAX_SEED_DIGITS = 1000  # Python refuses to read numbers of more than 4300


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedStyle:
    """A style of one domain: its code, or the image that the model's style encoder reads it from."""

    source: int | str | Path | Frames | Codes | None
    """What it is: None for the mean, a seed, one of the model's names, an image file, an image or a code."""
    written: str
    """As the user wrote it; for people."""
    code: Codes | None = None
    """(S,) float32; None for an image."""
    image_rgb: Frames | None = None
    """uint8 (H, W, 3), at a size that the style encoder takes; None where the code is known."""
    domain: str | None = None
    """The domain of a mean, named or random style; None for an image, whose style any domain can take."""

    def encode(self, encode_style: Callable[[Frames], Codes]) -> Codes:
        """The code (S,), float32. `encode_style`: a backend's, images (N, H, W, 3) to codes (N, S)."""
        if self.image_rgb is None:
            assert self.code is not None
            return self.code
        return encode_style(self.image_rgb[None])[0]

    @property
    def shadows_file(self) -> bool:
        """Whether it is a name of the model's that a file in the working folder has too."""
        return isinstance(self.source, str) and os.path.exists(self.source)


class StyleResolver:
    """Resolves styles for one domain of an opened bundle. The only place that understands what users write."""

    def __init__(self, manifest: Manifest, domain: str, spread: float = 1.0) -> None:
        """`spread`: how far random styles may lie from the mean, see `random_code`.

        Raises InputError for a domain that the model does not have, and for a spread below 0 or above MAX_SPREAD.
        """
        manifest.source_of(domain)
        if not 0 <= spread <= MAX_SPREAD:
            raise InputError(f"the spread of random styles is {spread}", f"Use a number from 0 to {MAX_SPREAD:g}.")
        self.manifest, self.domain, self.spread = manifest, domain, spread

    @property
    def named(self) -> Mapping[str, Sequence[float]]:
        """The codes of the model's named styles for the domain, in the order of the bundle."""
        return self.manifest.styles[self.domain].named

    def name_of(self, text: str) -> str | None:
        """The named style that a user means, whose case may differ where that leaves one; None if there is none.

        A file of exactly that name comes before a style in another case.
        """
        if text in self.named:
            return text
        same = [name for name in self.named if name.casefold() == text.casefold()]
        return same[0] if len(same) == 1 and not os.path.exists(text) else None

    def resolve(self, style: StyleLike, option: str = "") -> ResolvedStyle:
        """The style that `style` stands for; an image is read here, once.

        Raises InputError, beginning with `option` where one was passed, for an invalid seed, for an image that is
        missing or cannot be read, for a text that is neither a style of the model nor a file, and for a resolved style
        of another domain or model.
        """
        if isinstance(style, ResolvedStyle):
            return self._checked(style)
        if not self.manifest.has_styles:
            self._check_none_is_asked(style, option)
            style = None
        if isinstance(style, str):
            return self._text(style, option)
        if style is None:
            code = _code(self.manifest.styles[self.domain].mean)
            return ResolvedStyle(source=None, written=MEAN, code=code, domain=self.domain)
        if isinstance(style, bool):
            raise InputError(f"the style is {style}", _KINDS)
        if isinstance(style, int | np.integer):
            return self._seed(int(style), f"seed:{style}")
        if isinstance(style, Path):
            return self._image(style, str(style), read_rgb(style))
        if not isinstance(style, np.ndarray):
            raise InputError(f"got a {type(style).__name__} as the style", _KINDS)
        if style.ndim == 1 and style.dtype.kind == "f":
            return self._given_code(cast(Codes, style))
        return self._image(cast(Frames, style), "an image", cast(Frames, style))

    def _check_none_is_asked(self, style: StyleLike, option: str) -> None:
        """Raises InputError, for a model without styles, unless the style is the default, or a code of no numbers."""
        default = style is None or (isinstance(style, str) and style == MEAN and not option)
        if not default and not (isinstance(style, np.ndarray) and style.ndim == 1 and style.size == 0):
            self.manifest.need_styles(option)

    def _given_code(self, code: Codes) -> ResolvedStyle:
        if code.size != self.manifest.style_dim or not np.isfinite(code).all():
            fact = f"got a style code of {code.size} numbers, expected {self.manifest.style_dim} finite ones"
            raise InputError(fact, "Pass a code of this model.")
        return ResolvedStyle(source=code, written="a code", code=_code(code), domain=self.domain)

    def _checked(self, style: ResolvedStyle) -> ResolvedStyle:
        of_domain = style.domain in (None, self.domain)
        if of_domain and (style.code is None or style.code.size == self.manifest.style_dim):
            return style
        fact = f"is of {style.domain}" if not of_domain else f"is of another model than {self.manifest.name}"
        raise InputError(f"the style {style.written} {fact}", f"Resolve it for {self.domain} of this model.")

    def _text(self, text: str, option: str) -> ResolvedStyle:
        if text == MEAN or (text.casefold() == MEAN and not os.path.exists(text)):
            return self.resolve(None)
        number = text.removeprefix("seed:")
        if number != text or text.removeprefix("-").removeprefix("+").isdigit():
            if not (number.isascii() and number.isdigit() and len(number) < _MAX_SEED_DIGITS):
                shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
                what = f"{option} {shown}".lstrip()
                raise InputError(f"{what} is not a valid seed", "Use a whole number of 0 or more, such as seed:7.")
            return self._seed(int(number), text)
        if (name := self.name_of(text)) is not None:
            return ResolvedStyle(source=name, written=text, code=_code(self.named[name]), domain=self.domain)
        return self._file(text, option)

    def _seed(self, seed: int, written: str) -> ResolvedStyle:
        if seed < 0:
            raise InputError(f"the style seed is {seed}", "Use a seed of 0 or more.")
        code = random_code(self.manifest.styles[self.domain], seed, self.spread)
        return ResolvedStyle(source=seed, written=written, code=code, domain=self.domain)

    def _file(self, text: str, option: str) -> ResolvedStyle:
        if not os.path.exists(text):
            if STYLE_NAME.fullmatch(text):
                raise self._unknown(text, option)
            if option:
                raise InputError(f"{option} {text or 'is empty'}: there is no such image", self._advice(option))
        try:
            return self._image(Path(text), text, read_rgb(Path(text)))
        except InputError as error:
            if not option:
                raise
            raise InputError(f"{option}: {error.fact}", self._advice(option)) from error

    def _image(self, source: Path | Frames, written: str, image_rgb: Frames) -> ResolvedStyle:
        check_frames(image_rgb, dims=(3,))
        return ResolvedStyle(source=source, written=written, image_rgb=fit_style_image(image_rgb, self.manifest.sizes))

    def _unknown(self, text: str, option: str) -> InputError:
        """For what could be a name, but is neither one of the domain's nor a file; it lists the names there are."""
        styles = self.manifest.styles
        others = [name for name in self.manifest.domains if name != self.domain and text in styles[name].named]
        if others:
            fact = f"{text} is a style of {others[0]}, not of {self.domain}"
        else:
            fact = f"{self.manifest.name} has no style {text} for {self.domain}"
        named = f"{option}: {fact}" if option else fact
        near = [] if others else difflib.get_close_matches(text.lower(), self.named, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return InputError(f"{named}, and there is no such file{meant}", self._advice(option, text))

    def _advice(self, option: str, name: str = "") -> str:
        """The names there are, and what else can be passed. `name`: what was taken for a name, if anything."""
        or_pass = _FOR_OPTIONS if option else _IN_PYTHON
        if self.named:
            return f"This model has {', '.join(self.named)} for {self.domain}. Or {or_pass}"
        if name:
            return f"This model has no named styles for {self.domain}: {or_pass}"
        return or_pass[0].upper() + or_pass[1:]


def _code(numbers: Any) -> Codes:
    return np.asarray(numbers, np.float32)
