"""A real server of `dsmap serve` in a thread, for the tests."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from dsmap.runtime.serve.app import ServeApp
from dsmap.runtime.serve.request import ServeRequest
from dsmap.runtime.serve.run import ServeServer, listen


@dataclass
class Serving:
    """A running server."""

    address: str
    """http://127.0.0.1:PORT"""
    client: httpx.Client
    work_base: Path
    app: ServeApp
    server: ServeServer

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def work(self) -> Path:
        """The server's folder for uploads and results."""
        return self.app.api.state.server.work.path


@contextlib.contextmanager
def serving(request: ServeRequest, work_base: Path, patience: float = 120.0) -> Iterator[Serving]:
    """Runs a server in a thread of this process, on a free port of 127.0.0.1, until the end of the block."""
    app, ready, addresses = ServeApp(request, work_base), threading.Event(), []

    def on_ready(address: str) -> None:
        addresses.append(address)
        ready.set()

    with listen("127.0.0.1", 0) as listening:
        server = ServeServer(app, listening, on_ready)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            assert ready.wait(patience), app.failure
            with httpx.Client(base_url=addresses[0], timeout=patience, trust_env=False) as client:
                yield Serving(addresses[0], client, work_base, app, server)
        finally:
            server.should_exit = True
            app.stop()
            thread.join(patience)
            assert not thread.is_alive(), "the server did not stop"
