"""The application: all routes behind the guard.

app = create_app(ServeRequest(bundle=Bundle.open(folder)))  # an ASGI application, for uvicorn
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from dsmap import __version__
from dsmap.errors import DsmapError
from dsmap.runtime.serve import image_routes, job_routes, live_routes, upload_routes
from dsmap.runtime.serve.api_page import STYLE, api_page
from dsmap.runtime.serve.errors import RequestError, add_error_handlers, error_response
from dsmap.runtime.serve.guard import Guard
from dsmap.runtime.serve.job_queue import JobQueue, VideoJob
from dsmap.runtime.serve.metrics import CONTENT_TYPE, ServeMetrics
from dsmap.runtime.serve.partial_uploads import PartialUploads
from dsmap.runtime.serve.pool import TranslatorPool
from dsmap.runtime.serve.request import ServeRequest
from dsmap.runtime.serve.sessions import LiveSessions
from dsmap.runtime.serve.site import make_site
from dsmap.runtime.serve.state import ServerState, state_of
from dsmap.runtime.serve.uploads import bounded_receive
from dsmap.runtime.serve.work_folder import WorkFolder

_TIDY_SECONDS = 10.0
_MORE_THREADS = 8  # for uploads, images and files
_BODY_BYTES = 1 << 19  # of a body that is no upload
_UPLOADS = frozenset({"/v1/images", "/v1/styles", "/v1/videos"})
"""Their bodies are bounded where they are received."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_DESCRIPTION = """Translates images and videos to another domain.

Errors are JSON: `fact` says what is wrong, `advice` what to do about it. Where the server has a token, every request
to `/v1` needs the header `Authorization: Bearer TOKEN`.
"""


class ServeApp:
    """The ASGI application: a guard around FastAPI. `api.state.server` is the state once it has started."""

    def __init__(
        self,
        request: ServeRequest,
        work_base: Path | None = None,
        notify: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.request = request
        self._notify = notify
        self._work_base = work_base
        self.api = FastAPI(
            title="dsmap serve",
            version=__version__,
            description=_DESCRIPTION,
            lifespan=self._lifespan,
            docs_url=None,  # these load scripts from a CDN
            redoc_url=None,
        )
        self._guard = Guard(self.api, request)
        add_error_handlers(self.api)
        self.failure: DsmapError | None = None
        """Why it could not start: what every request is told then."""
        self.api.include_router(image_routes.router)
        self.api.include_router(job_routes.router)
        self.api.include_router(upload_routes.router)
        self.api.include_router(live_routes.router)
        _add_routes(self.api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._guard(scope, receive, send)
        elif self.failure is not None:
            await error_response(503, self.failure.fact, self.failure.advice)(scope, receive, send)
        else:
            if scope["path"] not in _UPLOADS and not scope["path"].startswith("/v1/uploads/"):
                receive = bounded_receive(receive, _BODY_BYTES, self.request.limits.idle_seconds)
            await self._guard(scope, receive, _counting(self.api.state.server.metrics, scope, send))

    def stop(self) -> None:
        """Ends the streams that would not end by themselves; uvicorn then waits for the others."""
        state = getattr(self.api.state, "server", None)
        if state is not None:
            state.stopping.set()

    @contextlib.asynccontextmanager
    async def _lifespan(self, api: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as exits:
            try:
                await self._start(api, exits)
            except DsmapError as error:
                self.failure = error
            yield
            self.stop()

    async def _start(self, api: FastAPI, exits: contextlib.AsyncExitStack) -> None:
        """Loads the model and makes the folder and the page. Raises DsmapError."""
        request, metrics = self.request, ServeMetrics()
        # A viewer needs two, to translate and to encode; Python's own number has nothing to do with ours.
        threads = ThreadPoolExecutor(2 * request.sessions + _MORE_THREADS, "serve")
        asyncio.get_running_loop().set_default_executor(threads)
        pool = TranslatorPool(
            request.bundle,
            sessions=request.sessions,
            backend=request.backend,
            precision=request.precision,
            cuda_binding=request.cuda_binding,
            trust_engines=request.trust_engines,
        )
        work = exits.enter_context(WorkFolder(request.limits, self._work_base))
        exits.push_async_callback(pool.close)
        await pool.warm_up()
        live = LiveSessions(pool)
        exits.push_async_callback(live.close)
        jobs = JobQueue(request.limits, work, _counter_of_jobs(metrics))
        exits.push_async_callback(jobs.close)
        uploads = PartialUploads(request.limits, work)
        site = await asyncio.to_thread(make_site, request, work.new("site"), pool.backend_name, self._notify)
        api.mount("/", StaticFiles(directory=site, html=True))
        state = ServerState(
            request=request,
            pool=pool,
            live=live,
            work=work,
            jobs=jobs,
            uploads=uploads,
            metrics=metrics,
            guard=self._guard,
            site=site,
        )
        _watch(state)
        api.state.server = state
        exits.callback(asyncio.create_task(_tidy(jobs, uploads)).cancel)


def create_app(
    request: ServeRequest, work_base: Path | None = None, notify: Callable[[str], None] = lambda _line: None
) -> ServeApp:
    """The application for `request`.

    `work_base`: where its folder for uploads goes; None: the system's for that. `notify` gets lines for people.
    """
    return ServeApp(request, work_base, notify)


def _add_routes(api: FastAPI) -> None:
    @api.get("/healthz", tags=["server"])
    async def healthz() -> dict[str, str]:
        """Answers while the server runs."""
        return {"status": "ok"}

    @api.get("/readyz", tags=["server"])
    async def readyz(request: Request) -> dict[str, str]:
        """Whether new work may come: 503 while the server stops, 507 without room for uploads."""
        state = state_of(request)
        if state.stopping.is_set():
            raise RequestError(503, "the server is stopping", "Try again later.", {"Retry-After": "5"})
        await asyncio.to_thread(state.work.check_room)
        return {"status": "ready"}

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """This API for people."""
        return HTMLResponse(api_page(api.openapi()))

    @api.get("/docs.css", include_in_schema=False)
    async def docs_style() -> Response:
        return Response(STYLE, media_type="text/css")

    @api.get("/metrics", tags=["server"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Numbers for Prometheus."""
        return Response(state_of(request).metrics.text(), media_type=CONTENT_TYPE)

    @api.get("/v1/model", tags=["server"])
    async def model(request: Request) -> dict[str, Any]:
        """What the server translates: domains, styles, sizes; and its limits."""
        return describe(state_of(request))

    @api.post("/v1/session", tags=["server"], status_code=204)
    async def session(request: Request) -> Response:
        """Exchanges the token, sent as `Authorization: Bearer TOKEN`, for a cookie.

        For pages: a browser sends the cookie with downloads and streams too. Only this server's pages can use it.
        """
        guard = state_of(request).guard
        response = Response(status_code=204)
        secure = request.headers.get("origin", "").startswith("https://")
        response.set_cookie(
            guard.cookie_name(request.headers), guard.cookie_value, httponly=True, samesite="strict", secure=secure
        )
        return response


def describe(state: ServerState) -> dict[str, Any]:
    """For `GET /v1/model`, and for the page."""
    manifest, limits = state.request.bundle.manifest, state.request.limits
    return {
        "name": manifest.name,
        "domains": list(manifest.domains),
        "directions": [{"source": manifest.source_of(target), "target": target} for target in manifest.targets],
        "styles": {domain: list(manifest.styles[domain].named) for domain in manifest.domains},
        "style_dim": manifest.style_dim,
        "sizes": manifest.sizes.model_dump(),
        "licence": manifest.licence,
        "sessions": {"limit": state.pool.sessions, "in_use": state.pool.in_use},
        "limits": {
            "image_bytes": limits.image_bytes,
            "video_bytes": limits.video_bytes,
            "pixels": limits.pixels,
            "video_seconds": limits.video_seconds,
            "jobs": limits.jobs,
            "keep_seconds": limits.keep_seconds,
        },
    }


def _counting(metrics: ServeMetrics, scope: Scope, send: Send) -> Send:
    """`send`, with the answer counted when it begins."""
    began = time.perf_counter()

    async def counting(message: Message) -> None:
        if message["type"] == "http.response.start":
            # Names of a client's own making are not counted: there is no end to them.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.requests.labels(method, route, str(message["status"])).inc()
            metrics.request_seconds.labels(route).observe(time.perf_counter() - began)
            if message["status"] == 503:
                metrics.busy.inc()
        await send(message)

    return counting


def _counter_of_jobs(metrics: ServeMetrics) -> Callable[[VideoJob], None]:
    def count(job: VideoJob) -> None:
        metrics.jobs.labels(job.state).inc()
        metrics.frames.inc(job.frames)

    return count


def _watch(state: ServerState) -> None:
    """Numbers that are there already when somebody reads them."""
    metrics, pool, jobs = state.metrics, state.pool, state.jobs
    metrics.watch("dsmap_sessions_in_use", "Translators that are taken", lambda: pool.in_use)
    metrics.watch("dsmap_sessions_limit", "Translators that there are", lambda: pool.sessions)
    metrics.watch("dsmap_live_sessions", "Live sessions", lambda: state.live.count)
    metrics.watch("dsmap_jobs_waiting", "Video jobs that wait", lambda: jobs.count("queued"))
    metrics.watch("dsmap_jobs_running", "Video jobs that run", lambda: jobs.count("running"))
    metrics.watch("dsmap_work_bytes", "Bytes of uploads and results", state.work.used_bytes)


async def _tidy(jobs: JobQueue, uploads: PartialUploads) -> None:
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        await jobs.delete_old()
        await uploads.delete_old()
