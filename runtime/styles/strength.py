"""Translation strength: a mix of the translated frames and their reconstruction."""

import contextlib
from dataclasses import replace

import cv2
import numpy as np

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes, Frames, Pending
from dsmap.runtime.frame_translator import FIRST_FRAME, ClipTime, Refine, TranslatorWrapper
from dsmap.runtime.translator import Translator


class StrengthTranslator(TranslatorWrapper):
    """A translator whose results are mixed with the reconstruction of the frames that went in.

        translator = StrengthTranslator(Translator.load("summer-winter", domain="winter"), strength=0.6)
        slightly_winter_rgb = translator(summer_rgb)

    Strength 1 gives the translation, 0 the reconstruction: the frame taken through the content encoder, the mapping and
    the decoder of its own domain, with the style that its own domain's style encoder reads from it. In between, the
    two images are mixed pixel by pixel: both have the frame's layout. (The features before the decoders cannot be
    mixed: each decoder knows only those of its own domain.)

    The source style is read once per clip, from its first frame, so that it does not flicker. Strengths between 0 and
    1 take twice the time. Closing this closes the translator too.
    """

    def __init__(self, translator: Translator, strength: float) -> None:
        """Loads the reconstruction unless `strength` is 1. Raises InputError for a strength outside 0..1."""
        check_strength(strength)
        if strength != 1:
            translator.bundle.manifest.need_styles("a strength below 1")
        super().__init__(translator)
        self.translator, self.strength = translator, float(strength)
        self._rebuilder = None if self.strength == 1 else _rebuilder(translator)
        self.source_style: Codes | None = None
        """The style code (S,) of the reconstruction; None: it will be read from the next frame."""

    def start_clip(self, first_rgb: Frames | None = None) -> None:
        """The source style is read again: from `first_rgb`, or without it from the next frame."""
        super().start_clip(first_rgb)
        self.source_style = None
        if first_rgb is not None:
            self._read_source_style(first_rgb)

    def submit(self, frames_rgb: Frames, style: Codes | None = None, at: ClipTime = FIRST_FRAME) -> Pending:
        """As `FrameTranslator.submit`; `style` is that of the translation."""
        if self._rebuilder is None:
            return self.translator.submit(frames_rgb, style, at)
        if self.source_style is None:
            self._read_source_style(frames_rgb if frames_rgb.ndim == 3 else frames_rgb[0])
        rebuilding = self._rebuilder.submit(frames_rgb, self.source_style)
        if self.strength == 0:
            return rebuilding
        # Where one fails, the other one is waited for all the same: to its translator, it would stay under way.
        try:
            translating = self.translator.submit(frames_rgb, style, at)
        except BaseException:
            with contextlib.suppress(Exception):
                rebuilding()
            raise

        def wait() -> Frames:
            try:
                rebuilt = rebuilding()
            finally:
                translated = translating()
            # One row of pixels per row of the images, or cv2 would take a batch for an image of many channels.
            flat = [image.reshape(-1, image.shape[-2] * 3) for image in (translated, rebuilt)]
            mixed = cv2.addWeighted(flat[0], self.strength, flat[1], 1 - self.strength, 0)
            return np.asarray(mixed, np.uint8).reshape(translated.shape)

        return wait

    def learnt_refiner(self) -> Refine | None:
        """As `FrameTranslator.learnt_refiner`: none for a mix, as it was learnt from translations at full strength."""
        return super().learnt_refiner() if self.strength == 1 else None

    def has_learnt_refiner(self) -> bool:
        """As `FrameTranslator.has_learnt_refiner`."""
        return self.strength == 1 and super().has_learnt_refiner()

    def check_size(self, height: int, width: int, batch: int = 1) -> None:
        """As `FrameTranslator.check_size`, for the translation and the reconstruction together."""
        self.translator.check_size(height, width, batch * (1 + (0 < self.strength < 1)))

    def cancel(self) -> None:
        """As `FrameTranslator.cancel`."""
        super().cancel()
        if self._rebuilder is not None:
            self._rebuilder.cancel()

    def close(self) -> None:
        """As `FrameTranslator.close`."""
        super().close()
        if self._rebuilder is not None:
            self._rebuilder.close()

    def _read_source_style(self, frame_rgb: Frames) -> None:
        if self._rebuilder is not None:
            self.source_style = self._rebuilder.find_style(frame_rgb)


def check_strength(strength: float, option: str = "the strength") -> None:
    """Raises InputError, naming `option`, unless it is a number from 0 to 1."""
    if not 0 <= strength <= 1:  # also refuses NaN
        raise InputError(
            f"{option} is {strength:g}", "Use 0 (the input, reconstructed) to 1 (translated), such as 0.6."
        )


def _rebuilder(translator: Translator) -> Translator:
    """A translator from the source domain to itself, on the same backend and in the same precision."""
    settings = replace(translator.settings, source=translator.source, precision=translator.precision)
    return Translator(translator.bundle, translator.source, translator.backend_name, None, settings)
