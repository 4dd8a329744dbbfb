"""Named styles: codes that come with a model, such as `fresh-snow` for winter. What a text stands for, and what not.

find_named(bundle.manifest, "winter", "fresh-snow")    # its code; None for what must be a file
ModelStyles("summer-winter", "winter").names           # before the model is loaded
"""

import os
from functools import cached_property
from pathlib import Path

from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import MEAN, STYLE_NAME, Manifest
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.bundle.manifest import read_manifest

_OR_PASS = "pass an image, a seed, or mean."


def find_named(manifest: Manifest, domain: str, text: str) -> list[float] | None:
    """The code of `mean` or of the style that `text` names; None where it can only be a file.

    A name wins over a file that is called so. Raises InputError for what could be a name, but is neither one of the
    model's for `domain` nor a file.
    """
    styles = manifest.styles[domain]
    if text == MEAN:
        return styles.mean
    if text in styles.named:
        return styles.named[text]
    if STYLE_NAME.fullmatch(text) and not os.path.exists(text):
        raise no_such_style(manifest, domain, text)
    return None


def no_such_style(
    manifest: Manifest, domain: str, text: str, *, option: str = "", or_pass: str = _OR_PASS
) -> InputError:
    """The error for a `text` that is neither a style of `domain` nor a file; it lists the names there are.

    `option`: that it was passed with. `or_pass`: what else can be passed, as a sentence without its beginning.
    """
    others = [other for other in manifest.domains if other != domain and text in manifest.styles[other].named]
    if others:
        what = f"{text} is a style of {others[0]}, not of {domain}"
    else:
        what = f"{manifest.name} has no style {text} for {domain}"
    told = f"{option}: {what}" if option else what
    return InputError(f"{told}, and there is no such file", advice_on_styles(manifest, domain, or_pass))


def advice_on_styles(manifest: Manifest, domain: str, or_pass: str = _OR_PASS) -> str:
    """Which styles the model has for `domain`, and what else can be passed."""
    names = ", ".join(manifest.styles[domain].named)
    if not names:
        return f"This model has no named styles for {domain}: {or_pass}"
    return f"This model has {names} for {domain}. Or {or_pass}"


class ModelStyles:
    """The named styles of a model for one domain, for who has not loaded it: its bundle.json is read when asked."""

    def __init__(self, model: str | Path, domain: str) -> None:
        self._model, self.domain = model, domain

    @cached_property
    def manifest(self) -> Manifest:
        """Raises InputError for an unknown model or domain, and for a bundle.json that cannot be read."""
        manifest = read_manifest(find_model(self._model))
        manifest.source_of(self.domain)
        return manifest

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the bundle."""
        return tuple(self.manifest.styles[self.domain].named)

    def __contains__(self, text: str) -> bool:
        """Whether the model has a style of that name. For what can be no name nothing is read."""
        return bool(STYLE_NAME.fullmatch(text)) and text in self.names
