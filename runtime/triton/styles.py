"""Style codes of requests. What a client has asked for once is kept: an image is encoded once, not for every frame."""

import hashlib
from collections import OrderedDict

import numpy as np

from dsmap.common.text import printable
from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes, Frames
from dsmap.runtime.bundle.bundle import MEAN, Manifest
from dsmap.runtime.bundle.style_images import is_fitted
from dsmap.runtime.styles.resolver import ResolvedStyle, StyleResolver
from dsmap.runtime.translator import Translator
from dsmap.runtime.triton.requests import RequestedFrame

KEPT = 1024
"""Styles that are kept, of all clients; a code has a few numbers."""


class StyleCodes:
    """Finds the codes of styles. Clients' texts never name files: those would be the server's."""

    def __init__(self, manifest: Manifest, max_pixels: int) -> None:
        """`max_pixels`: of a style image."""
        self._resolvers = {domain: StyleResolver(manifest, domain) for domain in manifest.targets}
        self._max_pixels = max_pixels
        self._kept: OrderedDict[tuple[str, str], Codes] = OrderedDict()
        self.encoded = 0
        """Images that the style encoder has read."""

    def find(self, frame: RequestedFrame, translator: Translator) -> Codes:
        """The code (S,), float32, of a frame's style for `translator`, the one to its target.

        Raises InputError for a style that the model does not have, a code of another length and an image that is too
        large.
        """
        resolver, image_rgb = self._resolvers[translator.target], frame.style_image_rgb
        if frame.style_code is not None:
            return resolver.resolve(frame.style_code).encode(translator.find_style)
        key = translator.target, frame.style if image_rgb is None else _digest(image_rgb)
        if key not in self._kept:
            if image_rgb is None:
                self._kept[key] = self._named(frame.style, resolver)
            else:
                self._kept[key] = self._encoded(image_rgb, translator)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _named(self, text: str, resolver: StyleResolver) -> Codes:
        text = self._name(text, resolver)
        known = text in resolver.named or text.removeprefix("seed:").removeprefix("-").isdigit()
        if text and text != MEAN and not known:
            raise InputError(
                f"{resolver.manifest.name} has no style {printable(text[:100])} for {resolver.domain}",
                f"Send {', '.join((MEAN, *resolver.named))}, a seed such as seed:7, or an image as style_image.",
            )
        code = resolver.resolve(text or None).code
        assert code is not None  # only images have none
        return code

    def _name(self, text: str, resolver: StyleResolver) -> str:
        """The name that `text` is in other letters, as with domains; else `text`."""
        same = [name for name in (MEAN, *resolver.named) if name.casefold() == text.casefold()]
        return same[0] if len(same) == 1 and text not in resolver.named else text

    def _encoded(self, image_rgb: Frames, translator: Translator) -> Codes:
        height, width = image_rgb.shape[:2]
        if height * width > self._max_pixels:
            raise InputError(
                f"a style image of {width}x{height} has {height * width / 1e6:.10g} million pixels; this server takes"
                f" {self._max_pixels / 1e6:g} million",
                "Send a smaller one: it is scaled down in any case.",
            )
        self.encoded += 1
        if is_fitted(image_rgb, translator.bundle.manifest.sizes):  # by a client of ours, which expects the code of it
            return translator.find_style(ResolvedStyle(source=image_rgb, written="an image", image_rgb=image_rgb))
        return translator.find_style(image_rgb)


def _digest(image_rgb: Frames) -> str:
    """Different for different images, and for images and names."""
    data = np.ascontiguousarray(image_rgb)
    return f"image {data.shape} {hashlib.sha256(data.data).hexdigest()}"
