"""Serves a site on this machine, with the headers that threads in a browser need."""

import functools
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dsmap.errors import InputError

ISOLATION_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""With these a page may share memory between threads."""
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    ".bin": "application/octet-stream",
}


class SiteServer(ThreadingHTTPServer):
    """Serves the files of a folder, and nothing else, on 127.0.0.1."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        """`port` 0: any that is free. Raises InputError for one that cannot be had."""
        try:
            super().__init__(("127.0.0.1", port), functools.partial(_SiteHandler, directory=str(folder)))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be had: {error.strerror or error}", "Choose another with --port, or 0 for any."
            ) from error

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no error."""


class _SiteHandler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | _TYPES

    def end_headers(self) -> None:
        for name, value in ISOLATION_HEADERS.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND, "There is no such file")

    def log_message(self, format: str, *args: Any) -> None:
        pass
