"""How strong the translation is: between the reconstruction of the frames and their translation."""

from dataclasses import replace

import cv2
import numpy as np

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes, Frames, Pending
from dsmap.runtime.styles.resolver import StyleLike
from dsmap.runtime.translator import Translator


class StrengthTranslator:
    """A translator whose result is mixed with the reconstruction of what went in.

        translator = StrengthTranslator(Translator.load("summer-winter", domain="winter"), strength=0.6)
        slightly_winter_rgb = translator(summer_rgb)

    Strength 1 gives the translation, 0 the reconstruction: the frame taken through the content encoder, the mapping and
    the decoder of its own domain, with the style that its own domain's style encoder reads from it. Between them the
    two pictures are mixed, pixel by pixel: both have the frame's layout. (The features before the decoders cannot be
    mixed: each decoder knows those of its own domain alone.)

    The source style is read once, from the first frame, so that it does not flicker; `forget_source_style` has it read
    again from the next one. Otherwise use it as a `Translator`; strengths between 0 and 1 take twice the time. It owns
    the translator: closing this closes both.
    """

    def __init__(self, translator: Translator, strength: float) -> None:
        """Loads the reconstruction unless `strength` is 1. Raises InputError for a strength outside 0..1."""
        check_strength(strength)
        self.translator, self.strength = translator, float(strength)
        self._rebuilder = None if self.strength == 1 else _rebuilder(translator)
        self.source_style: Codes | None = None
        """The style code (S,) of the reconstruction; None: it will be read from the next frame."""
        self.bundle, self.model_name = translator.bundle, translator.model_name
        self.source, self.target = translator.source, translator.target
        self.backend_name, self.backend_reason = translator.backend_name, translator.backend_reason
        self.backend_description, self.precision = translator.backend_description, translator.precision
        self.in_flight = translator.in_flight

    @property
    def style(self) -> Codes:
        """The style code (S,) of the translation."""
        return self.translator.style

    def set_style(self, style: StyleLike) -> None:
        """As `Translator.set_style`."""
        self.translator.set_style(style)

    def find_style(self, style: StyleLike) -> Codes:
        """As `Translator.find_style`."""
        return self.translator.find_style(style)

    def forget_source_style(self) -> None:
        """The source style is read again from the next frame: for a new clip, or after a cut."""
        self.source_style = None

    def read_source_style(self, frame_rgb: Frames) -> None:
        """The source style is that of this frame, uint8 RGB (H, W, 3): for a clip that is not begun at its first."""
        if self._rebuilder is not None:
            self.source_style = self._rebuilder.find_style(frame_rgb)

    def __call__(self, frames_rgb: Frames) -> Frames:
        """As `Translator.__call__`."""
        return self.submit(frames_rgb)()

    def submit(self, frames_rgb: Frames, style: Codes | None = None) -> Pending:
        """As `Translator.submit`; `style` is that of the translation."""
        if self._rebuilder is None:
            return self.translator.submit(frames_rgb, style)
        if self.source_style is None:
            self.read_source_style(frames_rgb if frames_rgb.ndim == 3 else frames_rgb[0])
        rebuilding = self._rebuilder.submit(frames_rgb, self.source_style)
        if self.strength == 0:
            return rebuilding
        translating = self.translator.submit(frames_rgb, style)

        def wait() -> Frames:
            rebuilt, translated = rebuilding(), translating()
            # One row of pixels per row of the pictures, or cv2 would take a batch for a picture of many channels.
            flat = [picture.reshape(-1, picture.shape[-2] * 3) for picture in (translated, rebuilt)]
            mixed = cv2.addWeighted(flat[0], self.strength, flat[1], 1 - self.strength, 0)
            return np.asarray(mixed, np.uint8).reshape(translated.shape)

        return wait

    def cancel(self) -> None:
        """As `Translator.cancel`."""
        for translator in self._both():
            translator.cancel()

    def close(self) -> None:
        """As `Translator.close`."""
        for translator in self._both():
            translator.close()

    def check_size(self, height: int, width: int, batch: int = 1) -> None:
        """As `Translator.check_size`, for both directions together."""
        self.translator.check_size(height, width, batch * (1 + (0 < self.strength < 1)))

    def _both(self) -> list[Translator]:
        return [self.translator] if self._rebuilder is None else [self.translator, self._rebuilder]


def check_strength(strength: float, option: str = "the strength") -> None:
    """Raises InputError, naming `option`, unless it is a number from 0 to 1."""
    if not 0 <= strength <= 1:  # not so for NaN either
        raise InputError(
            f"{option} is {strength:g}", "Use 0 (the input, reconstructed) to 1 (translated), such as 0.6."
        )


def _rebuilder(translator: Translator) -> Translator:
    """A translator from the source domain to itself, on the same backend and in the same precision."""
    settings = replace(translator.settings, source=translator.source, precision=translator.precision)
    return Translator(translator.bundle, translator.source, translator.backend_name, None, settings)
