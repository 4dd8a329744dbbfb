"""Messages of a live session's data channel, checked and bounded.

    browser -> server   {"target": "winter", "style": "fresh-snow", "strength": 0.8, "size": 480}
    server -> browser   {"type": "statistics", "fps": 24.8, ...}, {"type": "error", "fact": "...", "advice": "..."}

A message from a browser holds all options: the latest replaces those before.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes
from dsmap.runtime.bundle.bundle import MEAN, Manifest
from dsmap.runtime.bundle.manifest import STYLE_NAME, Code, Name, first_fault
from dsmap.runtime.styles.resolver import StyleResolver

MAX_MESSAGE_BYTES = 128 << 10
"""Of a message from a browser: a style code of 4096 numbers takes 90 kB at most."""
MIN_SIDE, MAX_SIDE = 64, 1080
"""Pixels of a frame's shorter side."""
_MAX_SEED = 2**53 - 1  # what JavaScript can count to
_ADVICE = "Reload the page; programs find the options in docs/serve.md."


class LiveOptions(BaseModel):
    """How the frames of a live session are translated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Name | None = Field(default=None, description="domain to translate to; null: the server's first")
    style: Name | Annotated[int, Field(strict=True, ge=0, le=_MAX_SEED)] | Code | None = Field(
        default=None, description="a named style, a seed, a style code, or null for the mean"
    )
    strength: float = Field(default=1.0, ge=0, le=1, strict=True, allow_inf_nan=False)
    size: int | None = Field(
        default=None,
        ge=MIN_SIDE,
        le=MAX_SIDE,
        strict=True,
        description="shorter side in pixels that frames are scaled down to; null: as they come",
    )

    @field_validator("style")
    @classmethod
    def _no_path(cls, style: str | int | list[float] | None) -> str | int | list[float] | None:
        """A text is a name and nothing else: `Translator.find_style` would take it for a file."""
        if isinstance(style, str) and style != MEAN and not STYLE_NAME.fullmatch(style):
            raise ValueError("not the name of a style")
        return style


class LiveStatisticsMessage(BaseModel):
    """What a live session tells its browser every second. Times are the server's, without the network."""

    type: Literal["statistics"] = "statistics"
    fps: float
    """Frames translated per second."""
    delay_ms: float
    """From the arrival of a frame to its translation, median."""
    translate_ms: float
    """Of which the translation, mean."""
    received: int
    """Frames that have arrived so far."""
    translated: int
    dropped: int
    """Frames that a newer one replaced before they were translated."""
    width: int
    height: int
    """Of the latest result."""
    target: str
    backend: str


class LiveProblem(BaseModel):
    """Why a message or a frame was refused; the session goes on unless `ended`."""

    type: Literal["error"] = "error"
    fact: str
    advice: str
    ended: bool = False


def read_options(message: object, manifest: Manifest) -> LiveOptions:
    """The options in a message of the data channel. Raises InputError with the field that is wrong."""
    if not isinstance(message, str):
        raise InputError("the message is not text", _ADVICE)
    if len(message) > MAX_MESSAGE_BYTES or len(message.encode()) > MAX_MESSAGE_BYTES:
        raise InputError(f"the message is longer than {MAX_MESSAGE_BYTES} bytes", _ADVICE)
    try:
        options = LiveOptions.model_validate_json(message)
    except ValidationError as error:
        raise InputError(f"the options are not valid: {first_fault(error)}", _ADVICE) from error
    return checked(options, manifest)


def checked(options: LiveOptions, manifest: Manifest) -> LiveOptions:
    """`options` with the target filled in. Raises InputError for a domain or style that the model does not have."""
    target = options.target or manifest.targets[-1]
    if target not in manifest.targets:
        raise InputError(f"the model has no domain {target!r}", f"Use {' or '.join(manifest.targets)}.")
    if options.style not in (None, MEAN, []):
        manifest.need_styles("a style")
    if options.strength < 1:
        manifest.need_styles("a strength below 1")
    if isinstance(options.style, str) and options.style != MEAN:
        styles = StyleResolver(manifest, target)
        if styles.name_of(options.style) is None:
            known = ", ".join([MEAN, *styles.named])
            raise InputError(f"the model has no style {options.style} for {target}", f"Use {known}, or a seed.")
    if isinstance(options.style, list) and len(options.style) != manifest.style_dim:
        raise InputError(
            f"the style code has {len(options.style)} numbers, expected {manifest.style_dim}", "Encode the style again."
        )
    return options.model_copy(update={"target": target})


def style_of(options: LiveOptions) -> Codes | str | int | None:
    """The style: a code (S,) as float32, or what `Translator.find_style` finds one from."""
    return np.asarray(options.style, np.float32) if isinstance(options.style, list) else options.style
