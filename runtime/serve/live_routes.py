"""The route of live sessions: an offer of WebRTC is answered, and frames then go their own way, by UDP."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dsmap.runtime.bundle.manifest import first_fault
from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.live_options import MAX_MESSAGE_BYTES, LiveOptions
from dsmap.runtime.serve.offers import MAX_OFFER_BYTES
from dsmap.runtime.serve.state import state_of

router = APIRouter(prefix="/v1", tags=["live"])

_MAX_BODY_BYTES = 2 * MAX_OFFER_BYTES + MAX_MESSAGE_BYTES  # JSON writes line ends as two characters


class LiveOffer(BaseModel):
    """What a browser sends."""

    model_config = ConfigDict(extra="forbid")

    sdp: str = Field(max_length=MAX_OFFER_BYTES, description="The offer: one video (sendrecv) and one data channel.")
    options: LiveOptions = Field(LiveOptions(), description="How to translate; the data channel changes it.")


class LiveAnswer(BaseModel):
    """What it gets."""

    sdp: str = Field(description="The answer, with all addresses of the server.")


@router.post(
    "/live",
    status_code=201,
    response_description="The answer: the session has begun.",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": LiveOffer.model_json_schema()}}}
    },
)
async def open_live_session(request: Request) -> LiveAnswer:
    """Begins a live session by WebRTC: frames are sent as VP8, and their translations come back.

    The data channel `dsmap` takes options as JSON, and tells statistics and problems. A session ends when its
    connection does, and after some seconds without a frame. With `503` all translators are taken.
    """
    offer = await _read_offer(request)
    return LiveAnswer(sdp=await state_of(request).live.open(offer.sdp, offer.options))


async def _read_offer(request: Request) -> LiveOffer:
    """Raises RequestError for a body that is too large or no offer."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            advice = "Send an offer as a browser makes it."
            raise RequestError(413, f"the offer is larger than {_MAX_BODY_BYTES} bytes", advice)
    try:
        return LiveOffer.model_validate_json(body)
    except ValidationError as error:
        raise RequestError(422, f"the offer is not valid: {first_fault(error)}", "See /docs.") from error
