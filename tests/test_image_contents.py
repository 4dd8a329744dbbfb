"""The CPU image without an engine: its RUN lines in folders of a new environment, then its command as another user.

In `make test-slow` alone: it downloads all packages.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_files import ROOT, Dockerfile, build_context, health_check

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="images are for Linux")]
STAGES = Dockerfile(ROOT / "Dockerfile").stages
NOBODY = 10001
TOKEN = "0123456789abcdef-token"
BASE_MB = 130  # python:3.12-slim


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Stands for / of the image; others may read it."""
    folder = Path(tempfile.mkdtemp(prefix="dsmap-image-"))
    folder.chmod(0o755)
    (folder / "src").mkdir()
    build_context(folder / "src")
    for name in ("wheel", "environment"):
        for text in STAGES[name].of("RUN"):
            if "npm-cli.js" not in text:  # npm is where it is
                run(in_folder(text, folder), folder / "src")
    (folder / "cache").mkdir()
    (folder / "cache").chmod(0o1777)
    for path in (folder / "opt", *(folder / "opt").rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in (folder / "opt", *(folder / "opt").rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def in_folder(text: str, folder: Path) -> str:
    """A RUN line with the image's folders in `folder`, and this Python for its own."""
    for name in ("/opt/dsmap", "/wheels"):
        text = text.replace(name, f"{folder}{name}")
    return text.replace("${EXTRAS}", STAGES["environment"].of("ARG")[0].partition("=")[2])


def run(text: str, folder: Path) -> None:
    """Runs it with sh, as RUN does; `python` and `pip` are this environment's."""
    found = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = f'pip() {{ "{sys.executable}" -m pip "$@"; }}; {text}'
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder, env={**os.environ, "PATH": found}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def environment(root: Path, **more: str) -> dict[str, str]:
    """What ENV sets, for the folders in `root`."""
    own = {name: value.replace("/cache", f"{root}/cache").replace("/opt", f"{root}/opt")
           for name, value in STAGES["dsmap"].environment.items()}  # fmt: skip
    path = own.pop("PATH").replace("$PATH", os.environ["PATH"])
    return {**own, "PATH": path, "HOME": "/", "LANG": "C.UTF-8", **more}


def own_python_is_for_all() -> bool:
    """Whether another user may run the Python that the new environment links to."""
    with contextlib.suppress(OSError):
        return subprocess.run([sys.executable, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[]).returncode == 0
    return False


def as_nobody(root: Path, *command: object, **more: str) -> subprocess.Popen[str]:
    """Starts a command as a user who owns nothing, where this process may do so; else as this one."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if own_python_is_for_all() else {}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*map(str, command)],
        cwd=root / "cache",
        env=environment(root, **more),
        stdout=pipe,
        stderr=pipe,
        text=True,
        **user,
    )


def test_it_is_small(root):
    size = sum(path.lstat().st_size for path in (root / "opt").rglob("*") if not path.is_dir())
    assert BASE_MB + size / 1e6 < 900


def test_it_serves_and_ends_in_order(root):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (root / "token").write_text(f"{TOKEN}\n")
    variables = {"DSMAP_TOKEN_FILE": str(root / "token"), "DSMAP_LISTEN_PORT": str(port)}
    server = as_nobody(root, root / "opt/dsmap/bin/dsmap", "serve", **variables)
    assert server.stdout
    assert "http://" in server.stdout.readline(), server.communicate()
    assert subprocess.run(health_check(STAGES["dsmap"], port), timeout=180).returncode == 0
    image = (ROOT / "docs" / "demo.jpg").read_bytes()
    address = f"http://127.0.0.1:{port}/v1/images?domain=winter&height=128"
    request = urllib.request.Request(address, image, {"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
    server.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (0, "")
    assert time.monotonic() - began < 10  # what `docker stop` waits for
    assert not list((root / "cache").glob("dsmap-serve-*"))


def test_it_translates_a_video_for_whoever_runs_it(root):
    clip = ROOT / "runtime" / "assets" / "demo-summer.mp4"
    shutil.copy(clip, root / "cache" / "summer.mp4")
    command = ("video", "summer.mp4", "--domain", "winter", "-o", "winter.mp4", "--frames", "3", "--height", "128")
    job = as_nobody(root, root / "opt/dsmap/bin/dsmap", *command)
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    found = (root / "cache" / "winter.mp4").stat()
    assert found.st_size > 0
    assert found.st_uid == (NOBODY if own_python_is_for_all() else os.geteuid())
