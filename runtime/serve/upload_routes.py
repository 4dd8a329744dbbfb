"""Routes for uploads that can be resumed, by the tus protocol (version 1.0.0: creation and termination)."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.partial_uploads import PartialUpload
from dsmap.runtime.serve.state import state_of
from dsmap.runtime.serve.uploads import bounded_body

router = APIRouter(prefix="/v1/uploads", tags=["videos"])

_VERSION = "1.0.0"
_MOST_DIGITS = 15


@router.options("", status_code=204, include_in_schema=False)
async def tus_options(request: Request) -> Response:
    """What the server understands."""
    headers = {"Tus-Version": _VERSION, "Tus-Extension": "creation,termination"}
    return _answer(204, headers | {"Tus-Max-Size": str(state_of(request).request.limits.video_bytes)})


@router.post("", status_code=201, response_class=Response, response_description="Its address is in `Location`.")
async def begin_upload(request: Request) -> Response:
    """Begins an upload that may break off, by the tus protocol (tus.io), which has clients in many languages.

    The header `Upload-Length` says how many bytes will come. Once all are there, `POST /v1/videos?upload=ID` translates
    them.
    """
    _check_version(request)
    upload = state_of(request).uploads.create(_number(request, "Upload-Length"))
    return _answer(201, {"Location": f"/v1/uploads/{upload.id}", "Upload-Offset": "0"})


@router.head("/{upload_id}", response_class=Response, response_description="`Upload-Offset` and `Upload-Length`.")
async def look_at_upload(request: Request, upload_id: str) -> Response:
    """How many bytes have arrived."""
    upload = state_of(request).uploads.get(upload_id)
    return _answer(200, _offset(upload) | {"Upload-Length": str(upload.length)})


@router.patch("/{upload_id}", status_code=204, response_class=Response, response_description="`Upload-Offset`.")
async def continue_upload(request: Request, upload_id: str) -> Response:
    """Adds the body to the upload.

    `Upload-Offset` must be where it ends, `Content-Type` application/offset+octet-stream.
    """
    _check_version(request)
    state = state_of(request)
    upload = state.uploads.get(upload_id)
    if request.headers.get("content-type") != "application/offset+octet-stream":
        raise RequestError(415, "a part has another type", "Send Content-Type: application/offset+octet-stream.")
    offset, limits = _number(request, "Upload-Offset"), state.request.limits
    body = bounded_body(request, upload.length - upload.offset, limits.idle_seconds, state.work)
    await state.uploads.append(upload, offset, body)
    return _answer(204, _offset(upload))


@router.delete("/{upload_id}", status_code=204, response_class=Response)
async def drop_upload(request: Request, upload_id: str) -> Response:
    """Deletes what has arrived."""
    uploads = state_of(request).uploads
    await uploads.delete(uploads.get(upload_id))
    return _answer(204, {})


def _answer(status: int, headers: dict[str, str]) -> Response:
    return Response(status_code=status, headers={"Tus-Resumable": _VERSION, **headers})


def _offset(upload: PartialUpload) -> dict[str, str]:
    return {"Upload-Offset": str(upload.offset)}


def _check_version(request: Request) -> None:
    """Raises RequestError (412)."""
    if request.headers.get("tus-resumable", _VERSION) != _VERSION:
        raise RequestError(412, "the server speaks another version of tus", "Use 1.0.0.", {"Tus-Version": _VERSION})


def _number(request: Request, name: str) -> int:
    """A header's number. Raises RequestError (400)."""
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise RequestError(400, f"{name} is missing, or not a number", "See /docs.")
    return int(text)
