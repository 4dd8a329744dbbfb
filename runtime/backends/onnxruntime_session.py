"""Imports ONNX Runtime, opens and runs sessions, and explains their errors."""

import importlib.util
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.bundle.bundle import Bundle, GraphData

EXPORT_AGAIN = "Export the bundle again."
OLD_DRIVER = "driver version is insufficient"
"""In what CUDA says where the driver is older than the CUDA that ONNX Runtime is built with."""
_INSTALL = "pip install 'dsmap[cpu]'"
_SPIN_MICROSECONDS = "50"  # versions of ONNX Runtime that do not know it take no notice
_QUIET = threading.Lock()
_quiet_blocks = 0
Providers = list[str | tuple[str, dict[str, Any]]]


def session_options(ort: Any, threads: int | None = None) -> Any:
    """Options of every session: quiet, and threads that do not spin between graphs, and hardly within one."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails raises, and we report it ourselves
    # The graphs run in turn, each with threads of its own: without this they still spin, and slow the next graph to
    # half its speed on two cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Between two nodes they spin for microseconds, not for the usual millisecond, which takes the cores away from what
    # else has something to do (decoding, refining, a camera, other programs). Alone, frames take about as long.
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    # On, the second frame of a size takes as much memory again as the first, and none is faster.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(
    ort: Any, graph: GraphData | bytes, options: Any, providers: Providers, *, in_options: str | None = None
) -> Any:
    """A session on the first of the providers, or DsmapError: ONNX Runtime would silently take the next one.

    `in_options`: the provider that the options name already, instead of `providers`, which is empty then. The session
    gets the bytes that were checked, or a graph made of such, never a file's name.
    """
    data, name = (graph, "the graph") if isinstance(graph, bytes) else (graph.data, graph.name)
    try:
        chosen = None if in_options else providers
        # Without fallback, here and later: what goes wrong in a provider is raised, and not tried on the CPU.
        session = ort.InferenceSession(data, options, providers=chosen, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own exception types share no base but Exception
        message = one_line(error)
        raise DsmapError(f"ONNX Runtime cannot load {name}: {message}", _advice(message)) from error
    first = in_options or (providers[0] if isinstance(providers[0], str) else providers[0][0])
    if session.get_providers()[:1] != [first]:
        raise DsmapError(f"ONNX Runtime runs {name} on {session.get_providers()}", "Reinstall onnxruntime.")
    session._model_bytes = None  # kept for the fallback alone, as long as the session: the weights a second time
    return session


def onnxruntime_installed() -> bool:
    """Whether it is installed, without importing it."""
    try:
        return importlib.util.find_spec("onnxruntime") is not None
    except ValueError:  # something else in sys.modules under its name
        return False


def encode_style_on_cpu(bundle: Bundle, target: str, frames_nhwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Style codes (N, S) of images of the target domain, by the float32 graph on the CPU."""
    ort = import_onnxruntime()
    graph = bundle.graph_data("style_encoder", target)
    assert graph is not None, "a bundle is read only if it has it"
    session = open_session(ort, graph, session_options(ort), ["CPUExecutionProvider"])
    return np.array(run_session(session, ["style"], {"frames": frames_nhwc})[0], np.float32)


def style_mlp(bundle: Bundle, target: str) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]] | None:
    """What computes the decoder's parameters from style codes, on the CPU: a few products, once per style.

    None without styles.
    """
    graph = bundle.graph_data("style_mlp", target)
    if graph is None:
        return None
    ort = import_onnxruntime()
    session = open_session(ort, graph, session_options(ort), ["CPUExecutionProvider"])

    def style_params(style_ns: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        inputs = {"style": np.ascontiguousarray(style_ns, np.float32)}
        return np.asarray(run_session(session, ["style_params"], inputs)[0], np.float32)

    return style_params


def run_session(
    session: Any, outputs: list[str], inputs: dict[str, npt.NDArray[Any]], options: Any = None
) -> list[Any]:
    """The session's outputs; raises its errors as DsmapError."""
    with onnxruntime_errors():
        return list(session.run(outputs, inputs, options))


@contextmanager
def quiet(ort: Any) -> Iterator[None]:
    """Without ONNX Runtime's own lines within the block: what fails is raised.

    That is a setting of the process: it lasts until the last of several threads has left its block.
    """
    global _quiet_blocks
    with _QUIET:
        _quiet_blocks += 1
        ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        with _QUIET:
            _quiet_blocks -= 1
            if not _quiet_blocks:
                ort.set_default_logger_severity(2)


@contextmanager
def onnxruntime_errors() -> Iterator[None]:
    """Raises ONNX Runtime's errors within the block as DsmapError."""
    try:
        yield
    except DsmapError:
        raise
    except Exception as error:  # as in open_session
        message = one_line(error)
        raise DsmapError(f"ONNX Runtime stopped: {message}", _advice(message)) from error


def _advice(message: str) -> str:
    """What to do about ONNX Runtime's message."""
    if OLD_DRIVER in message:
        return "Update the NVIDIA driver; dsmap doctor tells which CUDA it runs."
    if re.search(r"alloc|out of memory", message, re.IGNORECASE):
        return "Translate at a smaller size, with a smaller --height."
    if re.search(r"\b(CUDA|CUDNN|CUBLAS) (error|failure)", message):
        return "Run nvidia-smi and dsmap doctor: the GPU, its driver or CUDA's libraries failed."
    return EXPORT_AGAIN


def one_line(error: Exception) -> str:
    """The first line of ONNX Runtime's message, without terminal colours and without where in its sources it was."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    message = lines[0].strip() if lines else type(error).__name__
    what = re.sub(r".*\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", message)
    # CUDA's own words stand between the places in the sources and the machine's name.
    what = re.sub(r"^\S+\.cc:\d+ .* (?=\w+ failure \d+: )", "", what.partition(" ; GPU=")[0])
    return re.sub(r"^(\S+\.(cc|h|mm):\d+ .* was (false|not true)\. |\S+\.(cc|h|mm):\d+ \w+ )", "", what) or message


def import_onnxruntime() -> Any:
    """The module `onnxruntime`. DsmapError says what to install when it is missing or empty."""
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):  # Ctrl-C while it was loading
            raise KeyboardInterrupt from error
        raise DsmapError(f"onnxruntime cannot be imported ({error})", f"Install it: {_INSTALL}") from error
    if hasattr(onnxruntime, "disable_telemetry_events"):  # $ORT_DISABLE_TELEMETRY does not reach older ones on Windows
        onnxruntime.disable_telemetry_events()
    if not hasattr(onnxruntime, "InferenceSession"):  # left over when one of two wheels was removed
        raise DsmapError(
            "the installed onnxruntime is empty: onnxruntime and onnxruntime-gpu were both here and one was removed",
            f"Run pip uninstall onnxruntime onnxruntime-gpu, then: {_INSTALL}",
        )
    return onnxruntime
