"""Who may use the server, checked before any route: Host, Origin and token; and headers that browsers respect.

- Host: an address, one of this machine's own names, or a name that the server was told. A name of somebody else that
  leads here (DNS rebinding) is refused.
- Origin: what changes something may come from the server's own pages only, or from no page at all.
- Token, where there is one: `Authorization: Bearer TOKEN`, or the cookie that `POST /v1/session` gives for it.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.request import ServeRequest

PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob: mediastream:; connect-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_OPEN_PATHS = frozenset({"/healthz", "/readyz"})


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, request: ServeRequest) -> None:
        self.app = app
        self._token = request.token
        self._names = own_names() | {name.lower().rstrip(".") for name in request.allow_hosts}
        # A cookie is of this process alone: a stolen one ends with it, and the token cannot be found from it.
        self.cookie_value = hmac.new(secrets.token_bytes(32), b"session", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store" if _is_api(scope["path"]) else "no-cache")
            await send(message)

        try:
            self._check(scope)
        except RequestError as error:
            # What the client still sends is not read: the connection ends with the answer.
            error.headers["Connection"] = "close"
            await error.response()(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)

    def cookie_name(self, headers: Headers) -> str:
        """Cookies do not know ports: two servers on one machine need two names."""
        host = _HOST.fullmatch(headers.get("host", "").lower())
        return f"dsmap_session_{host[2] if host and host[2] else 'web'}"

    def _check(self, scope: Scope) -> None:
        """Raises RequestError."""
        headers = Headers(scope=scope)
        host = self._checked_host(headers.getlist("host"))
        if scope["method"] not in _SAFE:
            _check_origin(headers, host)
        if self._token is not None and _needs_token(scope["path"]) and not self._is_known(headers):
            raise RequestError(
                401,
                "the token is missing or wrong",
                "Send the header Authorization: Bearer TOKEN, or open the page with #token=TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    def _checked_host(self, values: Iterable[str]) -> str:
        hosts = [value.strip().lower() for value in values]
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            raise RequestError(400, "the request needs one valid Host header", "Send the server's own address.")
        name = match[1].strip("[]").rstrip(".")
        if name not in self._names and not _is_ip(name):
            raise RequestError(
                421, f"this server is not known as {name[:100]}", f"Start it with --allow-host {name[:100]}."
            )
        return hosts[0]

    def _is_known(self, headers: Headers) -> bool:
        assert self._token is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given.strip(), self._token):
            return True
        name = self.cookie_name(headers)
        pairs = (pair.strip().partition("=") for cookie in headers.getlist("cookie") for pair in cookie.split(";"))
        return any(key == name and _equal(value, self.cookie_value) for key, _, value in pairs)


def own_names() -> set[str]:
    """What this machine is called: nobody else can have these names lead here for a page of their own."""
    name = socket.gethostname().lower()
    return {"localhost", name, f"{name.partition('.')[0]}.local"}


def _check_origin(headers: Headers, host: str) -> None:
    """Raises RequestError for a request that a page of another origin has sent."""
    origins = [origin.lower() for origin in headers.getlist("origin")]
    own = {f"http://{host}", f"https://{host}"}
    foreign = len(origins) > 1 or any(origin not in own for origin in origins)
    if foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise RequestError(403, "the request comes from a page of another origin", "Use the server's own page.")


def _needs_token(path: str) -> bool:
    """The page itself, which says what the model is called, must load before it can send a token."""
    return _is_api(path) and path not in _OPEN_PATHS


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/v1", "/metrics", *_OPEN_PATHS)


def _is_ip(name: str) -> bool:
    """A browser takes nobody for the origin of an address but what listens there: it cannot be rebound."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _equal(given: str, wanted: str) -> bool:
    """In constant time, whatever is given."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
