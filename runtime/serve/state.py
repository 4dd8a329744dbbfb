"""What the routes of a running server share."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from dsmap.runtime.serve.guard import Guard
from dsmap.runtime.serve.job_queue import JobQueue
from dsmap.runtime.serve.metrics import ServeMetrics
from dsmap.runtime.serve.partial_uploads import PartialUploads
from dsmap.runtime.serve.pool import TranslatorPool
from dsmap.runtime.serve.request import ServeRequest
from dsmap.runtime.serve.sessions import LiveSessions
from dsmap.runtime.serve.work_folder import WorkFolder


@dataclass(kw_only=True)
class ServerState:
    """Made when the server starts; routes get it with `state_of`."""

    request: ServeRequest
    pool: TranslatorPool
    live: LiveSessions
    work: WorkFolder
    jobs: JobQueue
    uploads: PartialUploads
    metrics: ServeMetrics
    guard: Guard
    site: Path
    """The folder of the web page."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """For reading style images outside the pool: one takes much memory."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server stops: what streams without an end must end."""


def state_of(request: Request) -> ServerState:
    """The state of the server that got the request."""
    state = request.app.state.server
    assert isinstance(state, ServerState)
    return state
