"""Requests of clients: from tensors to frames that can be translated, each with its domain and style."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsmap.common.text import printable
from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes, Frames
from dsmap.runtime.bundle.manifest import MAX_CODE
from dsmap.runtime.frame_translator import check_frames
from dsmap.runtime.styles.strength import check_strength
from dsmap.runtime.triton.interface import (
    BUNDLE_SHA256,
    DOMAIN,
    FRAMES,
    SOURCE,
    STRENGTH,
    STYLE,
    STYLE_CODE,
    STYLE_IMAGE,
    TRANSLATED,
)

_MAX_TEXT = 2000  # bytes of a style's or a domain's name; a seed may have 1000 digits


@dataclass(frozen=True, kw_only=True, eq=False)
class RequestedFrame:
    """One frame and what it is to become: a row of the batch."""

    frame_rgb: Frames
    """(H, W, 3)."""
    target: str
    source: str | None = None
    """None: the domain that is not the target."""
    style: str = ""
    """What the client wrote; empty: the default."""
    style_code: Codes | None = None
    """(S,), in place of `style`."""
    style_image_rgb: Frames | None = None
    """(h, w, 3), in place of `style`."""
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameRequest:
    """A request whose tensors fit together; whether the model has its domains and styles is not known yet."""

    frames: tuple[RequestedFrame, ...]
    translate: bool = True
    """False: only the codes of the styles are asked for."""
    code: bool = False
    """Whether the codes are asked for."""
    sequence: int | str = 0
    """The correlation id."""
    begins: bool = False
    ends: bool = False
    bundle_sha256: str = ""
    """The bundle that the client means; empty: whichever is served."""


def read_request(
    tensors: Mapping[str, Any],
    *,
    outputs: frozenset[str] = frozenset(),
    sequence: int | str = 0,
    begins: bool = False,
    ends: bool = False,
    parameters: str = "",
) -> FrameRequest:
    """The request that `tensors` make, arrays by name as `interface` describes them.

    `outputs`: names of what is asked for; empty: everything. `parameters`: those of the request, JSON. Raises
    InputError for tensors that do not fit together.
    """
    check_frames(tensors[FRAMES], dims=(4,))
    style = _given_style(tensors)
    return FrameRequest(
        frames=tuple(_frame(tensors, row, style) for row in range(len(tensors[FRAMES]))),
        translate=not outputs or TRANSLATED in outputs,
        code=not outputs or STYLE_CODE in outputs,
        sequence=sequence,
        begins=begins,
        ends=ends,
        bundle_sha256=str(json.loads(parameters or "{}").get(BUNDLE_SHA256, "")),
    )


def _given_style(tensors: Mapping[str, Any]) -> str:
    """The name of the tensor that says the styles; empty: none. Raises InputError for several."""
    given = [name for name in (STYLE, STYLE_CODE, STYLE_IMAGE) if _is_given(tensors.get(name))]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are both given", "Send one of them.")
    return given[0] if given else ""


def _frame(tensors: Mapping[str, Any], row: int, style: str) -> RequestedFrame:
    return RequestedFrame(
        frame_rgb=tensors[FRAMES][row],
        target=_text(tensors, DOMAIN, row),
        source=_text(tensors, SOURCE, row) or None,
        style=_text(tensors, STYLE, row),
        style_code=_code(tensors[STYLE_CODE][row]) if style == STYLE_CODE else None,
        style_image_rgb=_image(tensors[STYLE_IMAGE][row]) if style == STYLE_IMAGE else None,
        strength=_strength(tensors, row),
    )


def _is_given(tensor: Any) -> bool:
    """Whether an optional tensor says anything: clients that always send `style` leave its text empty."""
    return tensor is not None and tensor.size > 0 and (tensor.dtype != object or any(tensor.ravel()))


def _code(code: Any) -> Codes:
    """A code with numbers as a bundle's own may have; its length is checked with the model's."""
    numbers = np.asarray(code, np.float32)
    largest = float(np.abs(numbers).max())
    if largest > MAX_CODE:
        raise InputError(f"the style code has a number of size {largest:g}", f"Send numbers up to {MAX_CODE:g}.")
    return numbers


def _image(image_rgb: Frames) -> Frames:
    check_frames(image_rgb, dims=(3,))
    return image_rgb


def _strength(tensors: Mapping[str, Any], row: int) -> float:
    tensor = tensors.get(STRENGTH)
    strength = 1.0 if tensor is None else float(tensor[row].ravel()[0])
    check_strength(strength)
    return strength


def _text(tensors: Mapping[str, Any], name: str, row: int) -> str:
    """The text of a row; empty where there is no such tensor."""
    tensor = tensors.get(name)
    if tensor is None:
        return ""
    value = tensor[row].ravel()[0]
    data = value if isinstance(value, bytes) else str(value).encode()
    if len(data) > _MAX_TEXT:
        raise InputError(f"{name} has {len(data)} bytes, expected at most {_MAX_TEXT}", "Send a name.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{name} {printable(repr(data))} is not UTF-8", "Send text as UTF-8.") from None
