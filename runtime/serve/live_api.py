"""The route of live sessions, `POST /v1/live`."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from dsmap.runtime.serve.live_options import LiveOptions
from dsmap.runtime.serve.offers import MAX_OFFER_BYTES
from dsmap.runtime.serve.sessions import LiveSessions


class LiveOffer(BaseModel):
    """A browser's wish for a session."""

    model_config = ConfigDict(extra="forbid")

    sdp: Annotated[str, Field(max_length=MAX_OFFER_BYTES, description="the offer: one video and one data channel")]
    options: LiveOptions = LiveOptions()


class LiveAnswer(BaseModel):
    """The server's side of a session."""

    sdp: str = Field(description="the answer, with all of the server's addresses")


def live_router(sessions: LiveSessions) -> APIRouter:
    """`POST /v1/live`; what it raises is turned into answers by the app."""
    router = APIRouter(prefix="/v1", tags=["live"])

    @router.post("/live", status_code=201, summary="Begin a live session by WebRTC")
    async def live(offer: LiveOffer) -> LiveAnswer:
        """Answers an SDP offer. 503 when all sessions are taken; see docs/serve.md for the data channel."""
        return LiveAnswer(sdp=await sessions.open(offer.sdp, offer.options))

    return router
