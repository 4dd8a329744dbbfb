"""Explains errors of a Triton server in words for people.

Triton's own errors are a gRPC status and a text. Those of our model hold a fact and an advice, one line each; others
come from the server itself, from gRPC, or from a proxy in between.
"""

import re
from typing import Any

from dsmap.common.text import printable
from dsmap.errors import DsmapError, InputError

_MAX_SHOWN = 300
_UNAVAILABLE, _TOO_LATE, _TOO_LARGE = "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"
_CANCELLED, _INVALID, _NOT_FOUND = "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND"
_SHARED_MEMORY = re.compile(r"shared memory|shm|No space left", re.IGNORECASE)
_STUB_DIED = re.compile(r"stub process", re.IGNORECASE)
_UNKNOWN_MODEL = re.compile(r"unknown model|is not found|no version|has no available versions", re.IGNORECASE)
_STOPPING = re.compile(r"server not ready|server is stopping|server exiting", re.IGNORECASE)
_TLS = re.compile(r"ssl|tls|handshake", re.IGNORECASE)
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED:?([^:;)]*)")
_REASONS = re.compile(
    r"Connection refused|Connection reset by peer|Socket closed|No route to host|Network is unreachable"
    r"|Domain name not found|DNS resolution failed|Timeout occurred|http1\.x server|SSL_ERROR\w*"
    r"|handshake failed",
    re.IGNORECASE,
)
_SMALLER = "Use a smaller --height"


def explained(error: Any, where: str, model: str) -> DsmapError:
    """`error`, an InferenceServerException, of the model at `where`, as an error for people."""
    status = str(error.status() or "").removeprefix("StatusCode.")
    text = str(error.message() or "")
    if status == _CANCELLED:
        return DsmapError("the translation was cancelled", "Run it again.")
    if status == _TOO_LATE:
        return no_answer(where, None)
    of_grpc = status in (_UNAVAILABLE, _TOO_LARGE)
    if not of_grpc and (told := _two_lines(text)):  # before words are looked for: our model's may be any
        return (InputError if status == _INVALID else DsmapError)(*told)
    if _UNKNOWN_MODEL.search(text):
        return DsmapError(f"{where} does not serve {model} any more", "Load it there again.")
    if status == _UNAVAILABLE:
        return _lost(text, where)
    if status == _TOO_LARGE:
        fact = f"{where}, or a proxy before it, does not take frames that large: {_line(text)}"
        return InputError(fact, f"{_SMALLER}, or raise the limit there.")
    return _of_the_model(text, where, model)


def unreachable(text: str, where: str) -> DsmapError:
    """For a server that gRPC does not get through to; `text` is gRPC's reason."""
    if _STOPPING.search(text):
        return DsmapError(f"the Triton server at {where} is starting or stopping", "Try again when it is ready.")
    reason = _reason(text)
    if found := _CERTIFICATE.search(text):
        return DsmapError(
            f"no secure connection to {where}: {printable(found[1]).strip().lower() or 'its certificate is refused'}",
            "If you trust its authority, name the file of that in GRPC_DEFAULT_SSL_ROOTS_FILE_PATH.",
        )
    if _TLS.search(reason):
        fact = f"no secure connection to {where}: {reason}"
        return DsmapError(fact, "Use grpc:// for a server without TLS, or check its port.")
    return DsmapError(
        f"no Triton server answers at {where}: {reason}",
        "Check the address, that the server runs, and that it listens for gRPC there (usually 8001; 8000 is HTTP).",
    )


def _lost(text: str, where: str) -> DsmapError:
    """For a server that was lost during a translation."""
    if _STOPPING.search(text):
        return DsmapError(f"the Triton server at {where} was stopped", "Start it again.")
    fact = f"the Triton server at {where} was lost: {_reason(text)}"
    return DsmapError(fact, "Check that it runs and that the network reaches it")


def no_answer(where: str, seconds: float | None) -> DsmapError:
    """For a server that has not answered in time."""
    in_time = "in time" if seconds is None else f"within {seconds:g} s"
    return DsmapError(f"{where} did not answer {in_time}", f"Look at the server: is it busy? {_SMALLER} for less work.")


def _of_the_model(text: str, where: str, model: str) -> DsmapError:
    if _STUB_DIED.search(text):
        fact = f"the process of the model {model} at {where} has ended: {_line(text)}"
        return DsmapError(fact, f"See the server's log; it may have run out of memory. {_SMALLER} for less.")
    if _SHARED_MEMORY.search(text):
        fact = f"{where} has too little shared memory for frames of this size: {_line(text)}"
        return DsmapError(fact, f"{_SMALLER}, or give the server more: docker run --shm-size=1g.")
    return DsmapError(f"the model {model} at {where} failed: {_line(text)}", "See the server's log.")


def _two_lines(text: str) -> tuple[str, str] | None:
    """The fact and the advice of an error of our model."""
    lines = [printable(line)[:1000] for line in text.strip().splitlines()]
    return (lines[0], lines[1]) if len(lines) == 2 and all(lines) else None


def _line(text: str) -> str:
    return printable(next(iter(text.strip().splitlines()), "") or "without a reason")[:_MAX_SHOWN]


def _reason(text: str) -> str:
    """The part of gRPC's message that says why: of a refused connection "Connection refused"."""
    known = _REASONS.search(text)
    return printable(known[0].strip())[:_MAX_SHOWN] if known else _line(text)
