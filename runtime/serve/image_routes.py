"""Routes for images: translate one, and read the style of one."""

import asyncio
import shutil
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from dsmap.common.images import write_image
from dsmap.common.images.reading import read_image
from dsmap.errors import InputError
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.pool import TranslatorLease
from dsmap.runtime.serve.state import ServerState, state_of
from dsmap.runtime.serve.uploads import Upload, receive_upload
from dsmap.runtime.serve.wishes import (
    DomainWish,
    ImageWish,
    StyleWish,
    check_image_pixels,
    check_scaled_pixels,
    image_style,
    query_parameters,
    read_wish,
    resolve_style,
)
from dsmap.runtime.styles.resolver import ResolvedStyle

T = TypeVar("T")

router = APIRouter(prefix="/v1", tags=["images"])

_SECONDS = 120.0  # that an image may take
_POLL = 0.2
_PATIENCE = 10.0  # seconds that an image waits for a translator: others' images take less than one
_BINARY = {"type": "string", "format": "binary"}


def _body(**files: str) -> dict[str, Any]:
    """The body of a request in OpenAPI: an image, or a form with these files."""
    parts = {name: _BINARY | {"description": meaning} for name, meaning in files.items()}
    fields = {"type": "string", "description": "The fields of the query may stand here."}
    form = {"type": "object", "required": ["image"], "properties": parts, "additionalProperties": fields}
    return {"required": True, "content": {"image/*": {"schema": _BINARY}, "multipart/form-data": {"schema": form}}}


_BODY = _body(image="The image to translate.", style_image="An image of the style.")
_STYLE_BODY = _body(image="The image whose style is read.")


@router.post(
    "/images",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The translated image, as PNG."}},
    openapi_extra={"parameters": query_parameters(ImageWish), "requestBody": _BODY},
)
async def translate_image(request: Request) -> Response:
    """Translates an image to a domain.

    The image is the body itself, or the part `image` of a form. It is deleted after the answer. With `503` all
    translators are taken: try again after `Retry-After` seconds.

        curl --data-binary @summer.jpg 'http://127.0.0.1:8000/v1/images?domain=winter' -o winter.png
    """
    state = state_of(request)
    folder = state.work.new("image")
    try:
        upload = await _receive(request, state, folder, ("image", "style_image"))
        wish = read_wish(ImageWish, request, upload)
        source, most = _image_of(upload), state.request.limits.pixels
        check_image_pixels(source, most, "the image")
        async with state.pool.lease(wish.domain, patience=_PATIENCE) as lease:
            style = await lease.run(_style_of, state, wish, upload.files.get("style_image"))
            call = lease.run(_translate, lease, source, style, wish, most)
            png = await _wanted(request, state, lease, call)
        state.metrics.images.labels(wish.domain).inc()
        return Response(png, media_type="image/png")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@router.post(
    "/styles",
    openapi_extra={"parameters": query_parameters(DomainWish), "requestBody": _STYLE_BODY},
    response_description="The code: `style_dim` numbers, to be passed as `style_code`.",
)
async def read_style(request: Request) -> dict[str, Any]:
    """Reads the style of an image of the target domain, as a code that translations take."""
    state = state_of(request)
    folder = state.work.new("style")
    try:
        upload = await _receive(request, state, folder, ("image",))
        wish = read_wish(DomainWish, request, upload)
        image, most = _image_of(upload), state.request.limits.pixels
        async with state.pool.lease(wish.domain, patience=_PATIENCE) as lease:
            style = await lease.run(image_style, state.request.bundle, wish.domain, image, most)
            code = await lease.run(lease.translator.find_style, style)
        return {"domain": wish.domain, "code": [float(number) for number in code]}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _receive(request: Request, state: ServerState, folder: Path, names: tuple[str, ...]) -> Upload:
    limits = state.request.limits
    return await receive_upload(request, folder, names, limits.image_bytes, limits, state.work)


def _image_of(upload: Upload) -> Path:
    if "image" not in upload.files:
        raise RequestError(422, "the form has no file named image", "Add one.")
    return upload.files["image"]


def _style_of(state: ServerState, wish: StyleWish, image: Path | None) -> ResolvedStyle:
    return resolve_style(state.request.bundle, wish, image, state.request.limits.pixels)


async def _wanted(request: Request, state: ServerState, lease: TranslatorLease, call: Coroutine[Any, Any, T]) -> T:
    """What `call` gives; it is cancelled when the client goes, when it takes too long, and when the server stops.

    Raises ClientDisconnect, or RequestError (503).
    """
    work = asyncio.ensure_future(call)
    deadline = time.monotonic() + _SECONDS
    fault: Exception | None = None
    try:
        while not (await asyncio.wait([work], timeout=_POLL))[0] and fault is None:
            if await request.is_disconnected():
                fault = ClientDisconnect()
            elif time.monotonic() > deadline:
                fault = RequestError(503, f"the image took longer than {_SECONDS:g} seconds", "Pass a smaller height.")
            elif state.stopping.is_set():
                fault = RequestError(503, "the server stops", "Try again later.", {"Connection": "close"})
    finally:
        while not work.done():  # a call may begin another translation meanwhile
            lease.cancel()
            await asyncio.wait([work], timeout=_POLL)
    if fault is not None and work.exception() is not None:
        raise fault
    return work.result()


def _translate(lease: TranslatorLease, source: Path, style: ResolvedStyle, wish: ImageWish, most: int) -> bytes:
    """The result as PNG, as `dsmap-video` writes it. Raises RequestError for more than `most` pixels at its height."""
    try:
        image = read_image(source)
    except InputError as error:
        raise RequestError(422, error.fact.replace(f"the image {source}", "the image"), error.advice) from error
    height, width = image.rgb.shape[:2]
    check_scaled_pixels(width, height, wish.height, most)
    lease.translator.set_style(style)
    translator = lease.at_strength(wish.strength)
    steps = FrameSteps(translator, width, height, lines=wish.height, upscale=wish.upscale, refine=wish.refine)
    result_rgb = steps.finish(image.rgb, steps.begin(image.rgb)())
    result = source.with_name("result.png")
    write_image(result, result_rgb, exif=image.exif, durable=False)
    return result.read_bytes()
