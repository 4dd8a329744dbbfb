"""A real Triton Inference Server for the tests, from NVIDIA's wheel for its Python interface.

    python tests/tritonserver.py build/tritonserver

Nothing is installed: `pip download` brings the wheel (55 MB), which is unpacked, and its Python backend is laid out for
the Python that runs this, 3.11 or 3.12. What is there already is kept. The server serves on the CPU. Needs Linux on
x86-64.
"""

import contextlib
import os
import platform
import re
import secrets
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from ports import free_port

WHEEL = "nvidia-pytriton==0.7.0"
NUMPY = "numpy==1.26.4"  # the last that this server's Python backend can exchange arrays with
ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("DSMAP_TRITONSERVER", ROOT / "build" / "tritonserver"))
_PATIENCE = 120.0  # seconds to load models, on a busy machine
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def prepare(folder: Path) -> None:
    """Makes `folder`/wheel, `folder`/backends and `folder`/python, the environment that models run in."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        sys.exit("the Triton server of the tests is for Linux on x86-64")
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1"]
        subprocess.run([*command, "--dest", str(folder), WHEEL], check=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "wheel"
    if not target.exists():
        part = folder / "wheel.part"
        shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
        part.rename(target)
    server = target / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    backend = folder / "backends" / "python"
    shutil.rmtree(backend, ignore_errors=True)
    shutil.copytree(server / "backends" / "python", backend)
    shutil.copy(stub, backend)
    for program in (backend / stub.name, server / "bin" / "tritonserver"):
        program.chmod(0o755)
    make_environment(folder / "python")


def make_environment(folder: Path) -> None:
    """An environment with a NumPy for this server, and everything else as in the one that runs this."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder)
    packages = folder / "lib" / f"python{_PYTHON}" / "site-packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--target", str(packages), NUMPY], check=True)
    lines = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
    (packages / "the-tests.pth").write_text("".join(lines))


def missing() -> str | None:
    """Why there is no server here; None if there is one."""
    if (FOLDER / "backends" / "python" / "triton_python_backend_stub").is_file():
        return None
    return f"no Triton server in {FOLDER}: make test prepares it, or python tests/tritonserver.py {FOLDER}"


class TritonServer:
    """A server of the models in `repository`; a context manager, which ends it. Ports are chosen at the first start."""

    def __init__(self, repository: Path, log: Path, *options: str) -> None:
        """`log`: a file for what the server says. `options`: more of tritonserver's, such as `--model-control-mode`."""
        self.repository, self.log, self.options = repository, log, options
        self.http, self.grpc = free_port(), free_port()
        self._shared_memory = f"dsmap-test-of-{os.getpid()}-{secrets.token_hex(4)}-"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT for gRPC."""
        return f"127.0.0.1:{self.grpc}"

    def start(self, *, wait: bool = True) -> None:
        """Starts the server, and waits until it is ready; on the same ports as before."""
        sweep_shared_memory()
        command = [
            *(["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []),  # not to outlive killed tests
            str(FOLDER / "wheel" / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            *("--model-repository", str(self.repository), "--backend-directory", str(FOLDER / "backends")),
            *("--http-address", "127.0.0.1", "--http-port", str(self.http)),
            *("--grpc-address", "127.0.0.1", "--grpc-port", str(self.grpc)),
            *("--allow-metrics", "false", "--exit-timeout-secs", "5"),
            *("--backend-config", f"python,shm-region-prefix-name={self._shared_memory}"),
            *self.options,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until the server and its models are ready. Fails with its log if it ends."""
        import httpx

        until = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{self.http}/v2/health/ready", trust_env=False).status_code == 200:
                    return
            assert self.process is not None
            assert self.process.poll() is None, f"the server has ended:\n{self.said()[-3000:]}"
            assert time.monotonic() < until, f"the server is not ready:\n{self.said()[-3000:]}"
            time.sleep(0.05)

    def said(self) -> str:
        """What the server has written so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """Ends the server at once, as a crash does, with the processes of its models."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_PATIENCE)
        for region in Path("/dev/shm").glob(f"{self._shared_memory}*"):
            region.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()


def sweep_shared_memory(folder: Path = Path("/dev/shm")) -> None:
    """Removes what servers of tests that were killed have left in memory: hundreds of megabytes each."""
    for region in folder.glob("dsmap-test-of-*"):
        process = re.match(r"dsmap-test-of-(\d+)-", region.name)
        if process and not Path("/proc", process[1]).exists():
            region.unlink(missing_ok=True)


@contextlib.contextmanager
def client_of(server: TritonServer) -> Iterator[Any]:
    """A gRPC client of NVIDIA's."""
    import tritonclient.grpc

    with contextlib.closing(tritonclient.grpc.InferenceServerClient(server.address)) as client:
        yield client


def environment() -> dict[str, str]:
    """For the server: its libraries, and this Python with what it can import."""
    libraries = [FOLDER / "wheel" / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    # The Python backend embeds the Python that is first in PATH, with its packages; PYTHONPATH has no effect on it.
    programs = [str(FOLDER / "python" / "bin"), os.environ["PATH"]]
    return os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PATH": os.pathsep.join(programs),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


if __name__ == "__main__":
    try:
        prepare(Path(sys.argv[1]))
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"the Triton server of the tests could not be prepared: {error}")
