"""Routes for videos: upload one, follow its job, fetch the result."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from dsmap.common.images import kind_of
from dsmap.errors import InputError
from dsmap.runtime.jobs.options import ModelOptions, VideoOptions
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.request import RequestedStyle, VideoRequest
from dsmap.runtime.refine.learnt import check_has_refiner
from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.job_order import JobOrder
from dsmap.runtime.serve.job_queue import ENDED, VideoJob
from dsmap.runtime.serve.request import ServeRequest
from dsmap.runtime.serve.state import ServerState, state_of
from dsmap.runtime.serve.uploads import receive_upload
from dsmap.runtime.serve.wishes import VideoWish, query_parameters, read_wish, resolve_style

router = APIRouter(prefix="/v1", tags=["videos"])

_ALIVE_SECONDS = 15.0  # between two signs of life in a stream of events
_TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".mkv": "video/x-matroska"}
_BODY = {
    "required": True,
    "content": {
        "video/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["video"],
                "properties": {
                    "video": {"type": "string", "format": "binary", "description": "The video to translate."},
                    "style_image": {"type": "string", "format": "binary", "description": "An image of the style."},
                },
                "additionalProperties": {"type": "string", "description": "The fields of the query may stand here."},
            }
        },
    },
}


@router.post(
    "/videos",
    status_code=202,
    response_description="The job that translates the video.",
    openapi_extra={"parameters": query_parameters(VideoWish), "requestBody": _BODY},
)
async def translate_video(request: Request) -> JSONResponse:
    """Uploads a video and queues its translation, as a job.

    The video is the body itself, or the part `video` of a form. It is deleted as soon as the job has ended, the result
    some time later.

    `upload` names one that arrived in parts, see `/v1/uploads`; there is no body then.

        curl -T holiday.mp4 -X POST 'http://127.0.0.1:8000/v1/videos?domain=winter'
    """
    state = state_of(request)
    with state.jobs.place():
        if "upload" in request.query_params:
            return _accepted(await _add_upload(request, state))
        folder = state.work.new("job")
        try:
            job = state.jobs.add(folder, await _receive(request, state, folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return _accepted(job)


@router.get("/jobs/{job_id}", response_description="Its state, progress, and in the end report or error.")
async def read_job(request: Request, job_id: str) -> dict[str, Any]:
    """How far a job is. `state` is queued, running, done, failed or cancelled."""
    return state_of(request).jobs.get(job_id).as_dict()


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events `job`; their data is the job."}},
)
async def follow_job(request: Request, job_id: str) -> StreamingResponse:
    """A stream of server-sent events: the job at every change, until it has ended."""
    state = state_of(request)
    job = state.jobs.get(job_id)
    headers = {"X-Accel-Buffering": "no"}  # a proxy would keep them together
    return StreamingResponse(_events(job, state), media_type="text/event-stream", headers=headers)


@router.head("/jobs/{job_id}/result", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/result",
    response_class=FileResponse,
    responses={
        200: {"content": {"video/*": {}}, "description": "The translated video."},
        206: {"description": "The part that the header `Range` asks for."},
    },
)
async def download_result(request: Request, job_id: str) -> FileResponse:
    """The translated video. A download that broke off continues with `Range`, and `If-Range` with the `ETag`."""
    job = state_of(request).jobs.get(job_id)
    if job.state != "done":
        raise RequestError(409, f"the job is {job.state}: it has no result", "Follow its events until it is done.")
    name = f"{job.order.request.domain}{job.result.suffix}"
    return FileResponse(job.result, media_type=_TYPES[job.result.suffix], filename=name)


@router.delete("/jobs/{job_id}", status_code=204)
async def delete_job(request: Request, job_id: str) -> Response:
    """Cancels a job that runs, and deletes all its files."""
    jobs = state_of(request).jobs
    await jobs.delete(jobs.get(job_id))
    return Response(status_code=204)


def _accepted(job: VideoJob) -> JSONResponse:
    return JSONResponse(job.as_dict(), 202, {"Location": f"/v1/jobs/{job.id}"})


async def _add_upload(request: Request, state: ServerState) -> VideoJob:
    """Queues the job of an upload that is complete; it stays when something else is wrong with the request."""
    wish = read_wish(VideoWish, request)
    with state.uploads.taking(wish.upload or "") as upload:
        order = await _order(state, wish, upload.path, None)
    return state.jobs.add(upload.folder, order)


async def _receive(request: Request, state: ServerState, folder: Path) -> JobOrder:
    """Reads the upload into `folder` and checks what was asked for."""
    limits = state.request.limits
    upload = await receive_upload(request, folder, ("video", "style_image"), limits.video_bytes, limits, state.work)
    wish = read_wish(VideoWish, request, upload)
    source = upload.files.get("video")
    if source is None:
        raise RequestError(422, "the form has no file named video", "Add one.")
    return await _order(state, wish, source, upload.files.get("style_image"))


async def _order(state: ServerState, wish: VideoWish, source: Path, style_image: Path | None) -> JobOrder:
    async with state.reading:
        request = await asyncio.to_thread(_video_request, state.request, wish, source, style_image)
    return JobOrder(request=request, limits=state.request.limits, convert_audio=wish.audio == "auto")


def _video_request(request: ServeRequest, wish: VideoWish, source: Path, style_image: Path | None) -> VideoRequest:
    """What `dsmap-video` would do."""
    kind = kind_of(source)
    if kind is not None and kind.role in ("image", "unread"):
        raise RequestError(415, f"the upload is not a video but an image ({kind.format})", "Send it to /v1/images.")
    style = resolve_style(request.bundle, wish, style_image, request.limits.pixels)
    if not wish.upscale and wish.height is None:
        raise InputError("upscale=false needs a height", "Pass height, or leave upscale out.")
    if wish.refine == "learnt":
        check_has_refiner(request.bundle.manifest, wish.domain)
    output = source.with_name(f"result.{wish.container}")
    return VideoRequest(
        jobs=(Job(kind="video", source=source, output=output),),
        bundle=request.bundle,
        model=ModelOptions(
            domain=wish.domain,
            model=request.bundle.folder,
            backend=request.backend,
            precision=request.precision,
            cuda_binding=request.cuda_binding,
            trust_engines=request.trust_engines,
            strength=wish.strength,
            stabilize=wish.stabilize,
        ),
        style=RequestedStyle(fixed=style),
        options=VideoOptions(
            height=wish.height,
            upscale=wish.upscale,
            refine=wish.refine,
            side_by_side=wish.side_by_side,
            audio="copy" if wish.audio == "auto" else wish.audio,
        ),
    )


async def _events(job: VideoJob, state: ServerState) -> AsyncIterator[str]:
    last = ""
    while not state.stopping.is_set():
        changed = job.changed
        text = json.dumps(job.as_dict())
        if text != last:
            last = text
            yield f"event: job\ndata: {text}\n\n"
        if job.state in ENDED:
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (changed, state.stopping)]
        done, _ = await asyncio.wait(waits, timeout=_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not done:
            yield ": still here\n\n"
