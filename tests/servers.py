"""Small real servers for the tests: HTTP with ranges and with faults, MPEG-TS over TCP, RTSP."""

import contextlib
import io
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Web:
    """Serves the files of `folder` at `address`; `requests` lists (path, first byte) of every request.

    `cut_at`: the connection is closed after that byte, as often as `cuts` says; the next `refused` requests get no
    answer. `password`: "user:word" or None.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests = folder, []
        self.cut_at, self.cuts, self.refused, self.password = 0, 0, 0, None
        self.broken = False
        self.ranges = True
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.serve(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        first = int((re.search(r"bytes=(\d+)", request.headers.get("Range", "")) or [0, "0"])[1])
        first = first if self.ranges else 0
        path = self.folder / request.path.partition("?")[0].lstrip("/")
        self.requests.append((request.path, first))
        if self.broken and self.refused:
            self.refused -= 1
            request.close_connection = True
            return
        if not path.is_file():
            request.send_error(404)
            return
        if self.password and not request.headers.get("Authorization"):
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="x"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        data = path.read_bytes()
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(data) - first))
        if self.ranges:
            request.send_header("Accept-Ranges", "bytes")
            request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        end = len(data)
        if self.cuts and first < self.cut_at:
            self.cuts, end, self.broken = self.cuts - 1, self.cut_at, True
            request.close_connection = True
        with contextlib.suppress(OSError):
            request.wfile.write(data[first:end])

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def connections(serve: Callable[[socket.socket, int], None]) -> Iterator[int]:
    """The port of a server that calls `serve(connection, number)` for one connection after the other."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        number = 0
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    serve(connection, number)
                number += 1

    threading.Thread(target=run, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def serve_rtsp(connection: socket.socket, transport_stream: bytes, *, pause: float = 0.0) -> None:
    """Plays MPEG-TS by RTSP over TCP to one client, then closes. `pause`: seconds after every RTP packet."""
    reader = connection.makefile("rb")
    while True:
        lines = list(iter(reader.readline, b"\r\n"))
        if not lines or not lines[0]:
            return
        method, address = lines[0].decode().split()[:2]
        number = next(line for line in lines if line.lower().startswith(b"cseq")).decode().strip()
        extra, body = _rtsp_answer(method, address)
        answer = f"RTSP/1.0 200 OK\r\n{number}\r\n{extra}Content-Length: {len(body)}\r\n\r\n{body}"
        connection.sendall(answer.encode())
        if method == "PLAY":
            break
    chunks = io.BytesIO(transport_stream)
    for index, chunk in enumerate(iter(lambda: chunks.read(7 * 188), b"")):
        packet = struct.pack(">BBHII", 0x80, 33, index & 0xFFFF, index * 900, 7) + chunk
        connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
        time.sleep(pause)


def _rtsp_answer(method: str, address: str) -> tuple[str, str]:
    if method == "OPTIONS":
        return "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""
    if method == "DESCRIBE":
        sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track0\r\n"
        return f"Content-Base: {address}/\r\nContent-Type: application/sdp\r\n", sdp
    if method == "SETUP":
        return "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""
    return "Session: 1\r\n", ""


def serve_mjpeg(connection: socket.socket, jpegs: Iterable[bytes], *, pause: float = 0.01) -> None:
    """Answers an HTTP request with images, like network cameras, until there are no more or the client leaves."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=zz\r\n\r\n")
    for jpeg in jpegs:
        head = f"--zz\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        connection.sendall(head.encode() + jpeg + b"\r\n")
        time.sleep(pause)


def serve_slowly(connection: socket.socket, data: bytes, *, at_once: int, pause: float) -> None:
    """Sends `data` piece by piece."""
    for start in range(0, len(data), at_once):
        connection.sendall(data[start : start + at_once])
        time.sleep(pause)
