"""Connecting to a Ray cluster, and saying in two lines why that did not work.

Ray reports usage to its makers unless it is told not to: it is told not to, before it is imported.
"""

import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from dsmap.errors import DsmapError, InputError, first_line

ADDRESS_VARIABLE = "RAY_ADDRESS"
REACH_SECONDS, CONNECT_SECONDS = 10.0, 60.0
"""How long a connection to the port may take, and everything after it."""
_QUIET_SECONDS = 5.0  # of them without a word
_MISSED = 3  # connections in a row
_MISMATCH = re.compile(r"cluster was started with:\s*Ray: (\S+)\s*Python: (\S+)", re.DOTALL)
_Result = TypeVar("_Result")
_log = logging.getLogger("dsmap")


class ClusterLostError(DsmapError):
    """The head node has gone while the work went on. What asks Ray for something now waits, or ends."""


def load_ray() -> Any:
    """The module `ray`, which sends no usage reports and prints nothing. Raises InputError where it is missing."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    try:
        import ray
    except ImportError as error:
        reason = "is not installed" if getattr(error, "name", None) == "ray" else f"cannot be loaded ({error})"
        raise InputError(f"Ray {reason}, and --ray needs it", "pip install 'dsmap[ray]'") from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    return ray


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected; see `OnRay.address`. A connection that the process has already is used and left.

    Raises InputError where there is no such cluster, or it runs another version.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    given, address = address, _resolved(address)
    if given == "auto" and not os.environ.get(ADDRESS_VARIABLE, "").strip():
        address = "auto"  # only so does Ray use the token that `ray start` has left on this machine
    lost = False
    try:
        if address == "local":  # not in a thread: what Ray starts ends with the thread that started it
            _connect(ray, address)
        else:
            _within(CONNECT_SECONDS, lambda: _connect(ray, address), address)
        with _no_messages():
            yield ray
    except ClusterLostError:
        lost = True
        raise
    finally:
        if not lost:
            with contextlib.suppress(Exception):  # of a cluster that has gone
                ray.shutdown()


class HeadNode:
    """Tells whether the head node is still there, without asking Ray, which would wait for it."""

    def __init__(self, ray: Any) -> None:
        self._missed = 0
        self._at: tuple[str, int] | None = None
        with contextlib.suppress(Exception):  # connected by ray://, from where it may not be reached
            host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), 5).close()
            self._at = host.strip("[]"), int(port)

    def check(self) -> None:
        """To be called every few seconds. Raises ClusterLostError when nothing has listened there for several calls."""
        if self._at is None:
            return
        try:
            socket.create_connection(self._at, 5).close()
            self._missed = 0
        except OSError as error:
            self._missed += 1
            if self._missed >= _MISSED:
                raise ClusterLostError(
                    "the head node of the Ray cluster has gone",
                    "what was done is kept: when the cluster is back, run the same command with --resume",
                ) from error

    @property
    def is_there(self) -> bool:
        """Whether it was there at the last call."""
        return not self._missed


@contextlib.contextmanager
def _no_messages() -> Iterator[None]:
    """Keeps Ray from printing that a worker has ended, which no option of it does: what matters of that we tell."""
    try:
        from ray._private import worker

        before = worker.print_to_stdstream
    except (ImportError, AttributeError):  # it is no public name
        yield
        return
    worker.print_to_stdstream = lambda *_given, **_named: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _resolved(address: str) -> str:
    """What `auto` stands for, after a look whether anything listens there. Raises InputError."""
    if address == "local":
        return address
    if address == "auto":
        address = os.environ.get(ADDRESS_VARIABLE, "").strip() or _address_on_this_machine() or ""
        if not address or address == "auto":
            raise InputError(
                f"no Ray cluster runs on this machine, and ${ADDRESS_VARIABLE} is not set",
                "start one with ray start --head, pass --ray HOST:PORT, or --ray local for this machine alone",
            )
    match = re.fullmatch(r"(?:ray://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})", address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise InputError(
            f"--ray {address} is not an address of a cluster", "pass auto, local, HOST:6379 or ray://HOST:10001"
        )
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), REACH_SECONDS).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or error
        raise InputError(
            f"the Ray cluster at {address} cannot be reached: {reason}",
            "check the address and that its head node runs (ray status there)",
        ) from error
    return address


def _address_on_this_machine() -> str | None:
    """Of the cluster that this machine belongs to, as Ray has noted it."""
    with contextlib.suppress(Exception):  # it is no public function
        from ray._private.utils import read_ray_address

        return read_ray_address()
    return None


def _connect(ray: Any, address: str) -> None:
    """Raises InputError, DsmapError."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise _explained(error, address, ray.__version__) from error


def _explained(error: Exception, address: str, version: str) -> DsmapError:
    """The error of a connection, for people."""
    text = str(error)
    if found := _MISMATCH.search(text):
        return InputError(
            f"the cluster at {address} runs Ray {found[1]} on Python {found[2]}, here it is Ray {version} on Python "
            f"{'.'.join(map(str, _python()))}",
            "install the same versions of both on this machine and in the cluster",
        )
    if "version" in text.lower():
        return InputError(f"the cluster at {address} is of another version: {first_line(text)}", "install the same")
    if address == "local":
        return DsmapError(f"Ray does not start here: {first_line(text)}", "free memory or disk, or go without --ray")
    return InputError(
        f"the Ray cluster at {address} does not let this machine in: {first_line(text)}",
        "run the command on a node of the cluster, or pass ray://HOST:10001",
    )


def _python() -> tuple[int, int, int]:
    import sys

    return sys.version_info[:3]


def _within(seconds: float, call: Callable[[], _Result], address: str) -> _Result:
    """What `call` gives or raises. It may wait without end for a port where something else listens: InputError."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_QUIET_SECONDS)
    if thread.is_alive():
        _log.warning("waiting for %s to answer as a Ray cluster, for %.0f s at most", address, seconds)
        thread.join(max(0.0, seconds - _QUIET_SECONDS))
    if errors:
        raise errors[0]
    if not results:
        raise InputError(
            f"what listens at {address} did not answer as a Ray cluster within {seconds:.0f} s",
            "check the address: the head node's port is 6379, or 10001 after ray://",
        )
    return results[0]
