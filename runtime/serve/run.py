"""Running a server until Ctrl-C or SIGTERM.

stopped_by = run_server(ServeRequest(bundle=bundle), on_ready=print)
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.serve.app import ServeApp, create_app
from dsmap.runtime.serve.request import ServeRequest

_GRACE = 3  # seconds that open requests get when the server stops
_HEAD_SECONDS = 10.0
_CONNECTIONS = 200
_HEADER_BYTES = 16 << 10


def run_server(
    request: ServeRequest,
    *,
    on_ready: Callable[[str], None] = lambda _address: None,
    notify: Callable[[str], None] = lambda _line: None,
    work_base: Path | None = None,
) -> int | None:
    """Serves until a signal comes, and gives its number; None in a thread, where there are no signals.

    `on_ready` gets the address (http://...) once requests are answered, `notify` lines for people. In the end jobs are
    cancelled within seconds, and no file is left. Raises InputError when the address cannot be used, DsmapError when
    the model does not run.
    """
    with listen(request.host, request.port) as listening:
        server = ServeServer(create_app(request, work_base, notify), listening, on_ready)
        server.run(sockets=[listening])
    if server.app.failure is not None:
        raise server.app.failure
    if not server.started:
        raise DsmapError("the server did not start", "The lines above say why.")
    return server.stopped_by


class PatientConnection(H11Protocol):
    """A connection that is closed when the head of a request takes too long to come."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait_for_head(self) -> None:
        """Starts to wait, unless a request is under way; goes on waiting where it has started."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class ServeServer(uvicorn.Server):
    """uvicorn with our limits, and signals that end it in order without ending the process."""

    def __init__(self, app: ServeApp, listening: socket.socket, on_ready: Callable[[str], None]) -> None:
        self.app = app
        self.stopped_by: int | None = None
        self._listening, self._on_ready = listening, on_ready
        super().__init__(
            uvicorn.Config(
                app,
                http=PatientConnection,
                ws="none",
                lifespan="on",
                log_level="error",  # what strangers send is not worth a line
                access_log=False,
                proxy_headers=False,  # nobody's word for who they are
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=_GRACE,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets=sockets)
        if self.app.failure is not None:
            self.should_exit = True
        elif self.started and not self.should_exit:
            self._on_ready(_address(*self._listening.getsockname()[:2]))

    def stop(self, number: int | None = None) -> None:
        """Ends the server in order; a second call at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.stopped_by = self.stopped_by or number
        self.app.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def handle(number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.stop, number)

        numbers = [signal.SIGINT, signal.SIGTERM]
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _address(host: str, port: int) -> str:
    """Where a browser finds what listens there."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere two servers could have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port}: {error.strerror}", "Choose another --port or --host."
        ) from error
    return listening
