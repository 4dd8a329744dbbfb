"""Shared parts of all commands: how errors are reported, `--debug`, `--version` and the options of several.

    app = new_app()

    @app.command(help="Train ...", epilog="dsmap-train --data FOLDER -o RUN")  # one example a line
    @explained
    def train(config: str, debug: Debug = False, version: Version = False) -> None: ...

    def main() -> None:
        run(app)

Errors, those of usage too, go to stderr as two lines, fact and advice. Exit codes: 2 wrong input, 1 failure, 130
Ctrl-C. Light to import.
"""

import difflib
import errno
import functools
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import typer

from dsmap import __version__
from dsmap.common.cpu import limit_threads
from dsmap.errors import DsmapError, first_line
from dsmap.tools import leave_at_once
from dsmap.tools.shared.help_screen import HELP_NAMES, App, CommandGroup
from dsmap.tools.shared.panels import ADVANCED, HARDWARE, MODEL, OUTPUT
from dsmap.tools.shared.progress import Steps
from dsmap.tools.shared.terminal import report_error, report_stop, say, show_debug_lines, show_traceback

P = ParamSpec("P")


# Packages missing from the base install, by their modules.
_PACKAGES = {"torch": "torch", "yaml": "PyYAML", "safetensors": "safetensors", "onnx": "onnx",
             "onnxscript": "onnxscript", "onnxruntime": "ONNX Runtime", "fastapi": "FastAPI", "uvicorn": "uvicorn",
             "python_multipart": "python-multipart", "prometheus_client": "prometheus-client",
             "aiortc": "aiortc"}  # fmt: skip
_SERVER_PACKAGES = {"fastapi", "uvicorn", "python_multipart", "prometheus_client", "aiortc"}
_CLOSE = 0.75  # similarity from which an option is proposed for a misspelt one
# System libraries that OpenCV's wheels need, and minimal servers lack.
_SYSTEM_LIBRARIES = re.compile(r"lib(GL|gthread|glib)")
# BadParameter < UsageError < ClickException. Only the first has a public name in typer, which has used click and now
# carries a copy of it: the others cannot be imported from one place.
_ClickException: Any = typer.BadParameter.__mro__[2]


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"dsmap {__version__}")
        raise typer.Exit


def text_given(text: str) -> str:
    """For an option's `parser`: refuses empty text, which a script's unset variable gives."""
    if not text:
        raise typer.BadParameter("it is empty")
    return text


def path_given(text: str) -> Path:
    """For an option's `parser`: Path("") would be the current folder."""
    return Path(text_given(text))


Debug = Annotated[
    bool, typer.Option("--debug", help="Show details, and tracebacks of errors.", rich_help_panel=ADVANCED)
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show versions, and why this backend.", rich_help_panel=ADVANCED)
]
VERSION: Any = {"help": "Show the version and exit.", "callback": _print_version, "is_eager": True}
Version = Annotated[bool, typer.Option("--version", rich_help_panel=ADVANCED, **VERSION)]

# For commands that train.
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.", show_default=False, rich_help_panel=HARDWARE
    ),
]

# For commands that run a model. The defaults are all "auto".
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="Inference backend (default: the first that runs).",
        show_default=False,
        rich_help_panel=HARDWARE,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="auto, fp32, fp16 or int8.",
        show_default=False,
        rich_help_panel=HARDWARE,
    ),
]
HwAccel = Annotated[
    str,
    typer.Option(
        "--hwaccel",
        metavar="NAME",
        help="Video decoding: off, auto, cuda, vaapi, videotoolbox.",
        show_default=False,
        rich_help_panel=HARDWARE,
    ),
]
CudaBinding = Annotated[
    str,
    typer.Option(
        "--cuda-binding",
        metavar="NAME",
        help="auto, cuda-python or pycuda.",
        show_default=False,
        rich_help_panel=HARDWARE,
    ),
]
Streams = Annotated[
    int | None,
    typer.Option(
        "--streams", metavar="N", min=1, max=4, help="TensorRT: CUDA streams (default: 2).", rich_help_panel=HARDWARE
    ),
]
TrustEngines = Annotated[
    bool,
    typer.Option(
        "--trust-engines",
        help="Run TensorRT engines of the model (they are code).",
        rich_help_panel=HARDWARE,
    ),
]

Remote = Annotated[
    str | None,
    typer.Option(
        "--remote",
        metavar="URL",
        parser=text_given,
        help="Translate on a Triton server: grpc://HOST:8001.",
        rich_help_panel=HARDWARE,
    ),
]


LIVE_FPS = 15.0
"""Frames a second that a live session chooses its height for, where no other number was passed."""

# For commands that translate.
Domain = Annotated[
    str | None,
    typer.Option("--domain", "-d", metavar="NAME", help="Target domain, such as winter.", show_default=False),
]
"""Needed for models that translate to several."""
StyleSpread = Annotated[
    float,
    typer.Option(
        "--style-spread",
        metavar="X",
        min=0.0,
        max=10.0,
        help="How unusual random styles are (default: 1).",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        parser=text_given,
        help="Name, folder, or hf:OWNER/NAME on the Hugging Face Hub.",
        rich_help_panel=MODEL,
    ),
]
TimesReport = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE", parser=path_given, help="Write a JSON report with timings.", rich_help_panel=OUTPUT
    ),
]


def new_app(**settings: Any) -> typer.Typer:
    """A typer app with plain help, quick to show, Python's own tracebacks, and completion for shells."""
    usual: dict[str, Any] = {
        "cls": CommandGroup,
        "context_settings": HELP_NAMES,
        "pretty_exceptions_enable": False,
        "rich_markup_mode": None,
    }
    return App(**(usual | settings))


def run(app: typer.Typer) -> NoReturn:
    """Run a command and exit with its exit code; usage errors look like all other errors."""
    try:
        begin()
        _never_fail_on_names()
        limit_threads()
        code = app(standalone_mode=False, prog_name=_program())
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except _ClickException as error:
        report_error(_usage_fact(error), _usage_advice(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _leave_quietly()
    sys.exit(code or 0)


def _program() -> str | None:
    """What the user typed to get here, where the front door has noted it; else typer finds it."""
    return sys.argv[0] if re.match(r"(python -m )?dsmap( |$)", sys.argv[0]) else None


def begin() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as usual; see `dsmap.tools`."""
    if signal.getsignal(signal.SIGINT) is leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave_quietly() -> NoReturn:
    """The reader of our output has gone (`| head`): not an error, and nobody is left to read one."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain while it ends
    sys.exit(141)  # as the shell says of a program that SIGPIPE has ended


def explained(command: Callable[P, None]) -> Callable[P, None]:
    """Decorate a command that has a `debug: Debug` parameter: errors become two lines and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        _never_fail_on_names()
        if kwargs.get("debug"):
            show_debug_lines()
        try:
            with Steps():
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            _leave_quietly()  # here: typer would make an error of it
        except KeyboardInterrupt:
            report_stop("you", "run the same command to start again")
            raise typer.Exit(130) from None
        except DsmapError as error:
            if kwargs.get("debug"):
                show_traceback()
            report_error(error.fact, error.advice)
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            if kwargs.get("debug"):
                show_traceback()
            if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
                extra = _extra(error.name, command)
                report_error(f"{_PACKAGES[error.name]} is not installed", f"pip install 'dsmap[{extra}]'")
                raise typer.Exit(1) from None
            if isinstance(error, ImportError) and _SYSTEM_LIBRARIES.search(str(error)):
                report_error(
                    f"OpenCV cannot be loaded: {first_line(error)}",
                    "on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0",
                )
                raise typer.Exit(1) from None
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                report_error(f"{error.filename}: {error.strerror}", "choose a shorter name")
                raise typer.Exit(2) from None
            debug = kwargs.get("debug")
            report_error(
                f"unexpected {type(error).__name__}: {first_line(error)}",
                "the lines above show where" if debug else "run again with --debug to see where",
                *(str(error).strip().splitlines()[1:] if debug else ()),
            )
            raise typer.Exit(1) from None

    return wrapper


def _extra(module: str, command: Callable[..., None]) -> str:
    """The extra that has what `command` needs, `module` among it."""
    if module == "onnxruntime":
        return "cpu"
    if module in _SERVER_PACKAGES:
        return "serve"
    where = command.__module__
    if where.startswith("dsmap.tools.eval"):
        return "eval"
    if where.startswith("dsmap.tools.export") or (where, command.__name__) == ("dsmap.tools.bench.command", "model"):
        return "export"  # train among it
    return "export" if module.startswith("onnx") else "train"


def _usage_fact(error: Any) -> str:
    """The message of a usage error, on one line."""
    fact = " ".join(error.format_message().split())
    if getattr(error, "possibilities", None):
        near = difflib.get_close_matches(error.option_name, error.possibilities, n=1, cutoff=_CLOSE)
        return error.message + (f". Did you mean {near[0]}?" if near else "")
    least, most = (getattr(getattr(error, "param", None), name, None) for name in ("min", "max"))
    if least is None and most is None:
        return fact
    bounds = (
        f"between {least:g} and {most:g}"
        if None not in (least, most)
        else (f"at least {least:g}" if most is None else f"at most {most:g}")
    )
    return re.sub(r"Input should be (less|greater) than.*", f"must be {bounds}", fact)


def _usage_advice(error: Any) -> str:
    file = next((word for word in sys.argv[1:] if word.startswith("-") and os.path.exists(word)), None)
    if file:
        return f"for the file {file} write .{os.sep}{file}"
    context = getattr(error, "ctx", None)
    params = context.command.params if context is not None else ()
    superfluous = error.format_message().startswith("Got unexpected extra argument")
    if superfluous and any(param.name == "camera" for param in params):
        return "a camera, an address or a file is passed with --camera"
    return f"see {context.command_path if context else _program() or Path(sys.argv[0]).name} --help"


def _never_fail_on_names() -> None:
    """File names may hold bytes that the terminal's encoding does not know."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
