"""Bounds how long a server may take for the head of its answer.

An HTTP client's timeout counts from byte to byte: a server that sends a byte every few seconds would never end.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from typing import Any


@contextmanager
def opened_within(answer: AbstractContextManager[Any], seconds: float, late: Exception) -> Iterator[Any]:
    """Enters `answer` (a streamed request, whose head it waits for), and leaves it at the end.

    Raises `late` where entering takes longer than `seconds`; the request is then left to a thread that does not keep
    the process alive, and closes what it still gets.
    """
    entered: Future[Any] = Future()
    threading.Thread(target=_enter, args=(answer, entered), name="hub answer", daemon=True).start()
    try:
        wait([entered], timeout=seconds)
    finally:  # also where a signal ends the wait
        given_up = entered.cancel()
    if given_up:
        raise late
    response = entered.result()
    try:
        yield response
    except BaseException as error:
        if not answer.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        answer.__exit__(None, None, None)


def _enter(answer: AbstractContextManager[Any], entered: "Future[Any]") -> None:
    try:
        response = answer.__enter__()
    except BaseException as error:
        if entered.set_running_or_notify_cancel():
            entered.set_exception(error)
        return
    if entered.set_running_or_notify_cancel():
        entered.set_result(response)
    else:
        answer.__exit__(None, None, None)
