"""What a client wants of a translation: fields of a form or of the query, checked; and the style they name.

A style is one of the model's names, a seed, a code or an uploaded image: never a path.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dsmap.common.images import image_size, read_rgb
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import MEAN, Bundle
from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.uploads import Upload
from dsmap.runtime.styles.resolver import ResolvedStyle, StyleResolver
from dsmap.runtime.video.scaling import size_at_height

_LARGEST_NUMBER = 1e3  # of a style code: those of trained models are below 10


def _numbers(text: Any) -> Any:
    """Numbers with commas between them."""
    return text.strip("[] ").split(",") if isinstance(text, str) else text


class DomainWish(BaseModel):
    """Which domain. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain: str = Field(max_length=200, description="The domain to translate to.", examples=["winter"])


class StyleWish(DomainWish):
    """Which style, in at most one of these ways."""

    style: str | None = Field(
        None, max_length=200, description="The name of one of the model's styles, or `mean`.", examples=["mean"]
    )
    seed: int | None = Field(None, ge=0, lt=1 << 64, description="The seed of a random style.")
    style_code: (
        Annotated[
            list[Annotated[float, Field(ge=-_LARGEST_NUMBER, le=_LARGEST_NUMBER)]],
            BeforeValidator(_numbers),
            Field(max_length=4096),
        ]
        | None
    ) = Field(None, description="A style code: numbers with commas between them, as many as the model's `style_dim`.")


class ImageWish(StyleWish):
    """How to translate an image."""

    strength: float = Field(1.0, ge=0, le=1, description="1: the translation; 0: the input as the model rebuilds it.")
    height: int | None = Field(
        None, ge=16, le=8192, description="Translate at this many lines; the result has the input's size again."
    )
    upscale: bool = Field(True, description="With `height`: `false` leaves the result at that size.")
    refine: Literal["auto", "guided", "learnt", "off"] = Field(
        "auto",
        description="From `height` to full size along the input's edges (`guided`), by the model's refiner (`learnt`), "
        "or by a plain resize (`off`). Without `height`, the first two translate at half the size, 540 lines at most; "
        "`auto` does so above 540 lines.",
    )


class VideoWish(ImageWish):
    """How to translate a video."""

    upload: str | None = Field(
        None, max_length=100, description="The id of an upload that is complete, in place of a body."
    )
    stabilize: bool = Field(False, description="Reduce flicker, by the motion in the input.")
    side_by_side: bool = Field(False, description="Input left, result right.")
    audio: Literal["auto", "copy", "convert", "none"] = Field(
        "auto",
        description="`copy` the sound, `convert` it, or drop it (`none`); `auto` copies what the container holds.",
    )
    container: Literal["mp4", "webm", "mkv"] = Field("mp4", description="The format of the result.")


Wish = TypeVar("Wish", bound=BaseModel)


def read_wish(kind: type[Wish], request: Request, upload: Upload | None = None) -> Wish:
    """The wish of a request, from its query and its form. Raises RequestError (422)."""
    pairs = [*request.query_params.multi_items(), *(upload.fields.items() if upload else ())]
    given = dict(pairs)
    if len(given) < len(pairs):
        raise RequestError(422, "a field was passed twice", "Pass it once, in the query or in the form.")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0])[:100] if first["loc"] else "the request"
        known = ", ".join(kind.model_fields)
        reason = "is not known" if first["type"] == "extra_forbidden" else first["msg"][0].lower() + first["msg"][1:]
        raise RequestError(422, f"{name}: {reason}", f"Known fields: {known}.") from error


def query_parameters(kind: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of a wish for OpenAPI, as parameters of the query."""
    schema = kind.model_json_schema()
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "description": one.pop("description", "")}
        | {"schema": {key: value for key, value in one.items() if key != "title"}}
        for name, one in schema["properties"].items()
    ]


def resolve_style(bundle: Bundle, wish: StyleWish, image: Path | None, pixels: int) -> ResolvedStyle:
    """The style of a wish; `image`: an uploaded one, of at most `pixels`. Raises InputError, RequestError."""
    styles = StyleResolver(bundle.manifest, wish.domain)
    given = [value for value in (wish.style, wish.seed, wish.style_code, image) if value is not None]
    if any(value != MEAN for value in given):
        bundle.manifest.need_styles("a style")
    if len(given) > 1:
        raise RequestError(422, "more than one style was passed", "Pass style, seed, style_code or style_image.")
    if wish.seed is not None:
        return styles.resolve(wish.seed)
    if wish.style_code is not None:
        return _code_style(bundle, wish.style_code)
    if image is not None:
        return image_style(bundle, wish.domain, image, pixels)
    if wish.style in (None, MEAN):
        return styles.resolve(None)
    if styles.name_of(wish.style) is None:
        known = ", ".join([*styles.named, MEAN])
        raise RequestError(422, f"the model has no style {wish.style!r} for {wish.domain}", f"Known styles: {known}.")
    return styles.resolve(wish.style)


def image_style(bundle: Bundle, domain: str, image: Path, pixels: int) -> ResolvedStyle:
    """The style of an uploaded image of at most `pixels`. Raises InputError, RequestError."""
    styles = StyleResolver(bundle.manifest, domain)
    check_image_pixels(image, pixels, "the style image")
    return styles.resolve(read_upload(image, "the style image"))


def read_upload(path: Path, what: str) -> Any:
    """The pixels of an uploaded image. Raises RequestError (422), which does not tell where it lies."""
    try:
        return read_rgb(path)
    except InputError as error:
        raise RequestError(422, error.fact.replace(f"the image {path}", what), error.advice) from error


def check_image_pixels(path: Path, most: int, what: str) -> None:
    """Raises RequestError for an image with more pixels, by its header alone, and for what is no image (415)."""
    size = image_size(path)
    if size is None:
        raise RequestError(415, f"{what} is not an image", "Send JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF.")
    if size[0] * size[1] > most:
        raise RequestError(
            413,
            f"{what} has {size[0]}x{size[1]} pixels, expected at most {most / 1e6:g} million",
            "Scale it down first.",
        )


def check_scaled_pixels(width: int, height: int, lines: int | None, most: int) -> None:
    """Raises RequestError (413) where `width` x `height` pixels have more than `most` at a height of `lines`."""
    wide, high = size_at_height(width, height, lines)
    if wide * high > most:
        raise RequestError(
            413,
            f"at height={lines} there are {wide}x{high} pixels, expected at most {most / 1e6:g} million",
            "Pass a smaller height.",
        )


def _code_style(bundle: Bundle, numbers: list[float]) -> ResolvedStyle:
    wanted = bundle.manifest.style_dim
    if len(numbers) != wanted:
        raise RequestError(422, f"style_code has {len(numbers)} numbers, expected {wanted}", "See GET /v1/model.")
    return ResolvedStyle(source=None, written="a code", code=np.asarray(numbers, np.float32))
