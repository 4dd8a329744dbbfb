"""Errors of the HTTP API: JSON with a fact and advice, and never a traceback."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dsmap.common.text import printable
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.serve.pool import PoolBusyError

_log = logging.getLogger(__name__)
_CLIENT_GONE = 499  # nobody will read it
_ADVICE = {
    404: "See /docs for the addresses that there are.",
    405: "See /docs for the methods of this address.",
}


class RequestError(InputError):
    """A request that is refused with a certain HTTP status."""

    def __init__(self, status: int, fact: str, advice: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(fact, advice)
        self.status, self.headers = status, dict(headers or {})

    def response(self) -> JSONResponse:
        """What the client gets."""
        return error_response(self.status, self.fact, self.advice, self.headers)


def error_response(status: int, fact: str, advice: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The JSON of an error; its texts may hold what somebody sent."""
    return JSONResponse({"fact": printable(fact), "advice": printable(advice)}, status, dict(headers or {}))


def add_error_handlers(app: FastAPI) -> None:
    """Answers every exception of a route as JSON."""
    app.add_exception_handler(DsmapError, _of_dsmap)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(ClientDisconnect, _of_disconnect)
    app.add_exception_handler(Exception, _of_anything)


def _of_dsmap(_request: Request, error: Any) -> Response:
    if isinstance(error, RequestError):
        return error.response()
    if isinstance(error, PoolBusyError):
        return error_response(503, error.fact, error.advice, {"Retry-After": str(error.retry_after)})
    if isinstance(error, InputError):
        return error_response(422, error.fact, error.advice)
    _log.error("%s", error)
    return error_response(500, error.fact, error.advice)


def _of_http(_request: Request, error: Any) -> Response:
    status = error.status_code
    fact = HTTPStatus(status).phrase.lower() if status in {one.value for one in HTTPStatus} else "the request failed"
    return error_response(status, fact, _ADVICE.get(status, "See /docs."), error.headers)


def _of_validation(_request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    return error_response(422, f"{where[:100]}: {str(first['msg'])[:300]}", "See /docs.")


def _of_disconnect(_request: Request, _error: Any) -> Response:
    return Response(status_code=_CLIENT_GONE)


def _of_anything(_request: Request, _error: Any) -> Response:
    """uvicorn writes the traceback to the server's log."""
    return error_response(500, "the server failed unexpectedly", "Its log says more.")
