"""Ctrl-C while a command is still being imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INTERRUPTS_ITSELF = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, timeout=180
    )


@pytest.mark.parametrize("command", ["video", "live", "train", "export", "doctor", "eval", "bench"])
def test_ctrl_c_during_imports_leaves_no_traceback(tmp_path: Path, command: str) -> None:
    """The first thing that every command imports is typer: one in its place sends the signal."""
    (tmp_path / "typer.py").write_text(INTERRUPTS_ITSELF)
    done = run([sys.executable, "-m", f"dsmap.tools.{command}"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_installed_commands_do_the_same(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(INTERRUPTS_ITSELF)
    for name, module in (("dsmap-video", "video"), ("dsmap", "main"), ("dsmap.exe", "main")):
        script = tmp_path / name
        script.write_text(f"from dsmap.tools.{module} import main\nmain()\n")
        done = run([sys.executable, str(script), "x.mp4"], tmp_path)
        assert (done.returncode, done.stderr) == (130, "")
    assert run([sys.executable, "-m", "dsmap", "video"], tmp_path).returncode == 130


def test_ctrl_c_is_left_alone_in_other_peoples_programs(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import signal\nbefore = signal.getsignal(signal.SIGINT)\nimport dsmap.tools.shared.cli\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
    )
    done = run([sys.executable, str(script)], tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_command_that_has_begun_hears_ctrl_c_as_usual(tmp_path: Path) -> None:
    script = tmp_path / "dsmap-mine"
    script.write_text(
        "import os, signal\nfrom dsmap.tools import leave_at_once\nfrom dsmap.tools.shared import cli\n"
        "assert signal.getsignal(signal.SIGINT) is leave_at_once\n"
        "app = cli.new_app()\n"
        "@app.command()\n@cli.explained\ndef mine(debug: cli.Debug = False) -> None:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.run(app)\n"
    )
    done = run([sys.executable, str(script)], tmp_path)
    assert done.returncode == 130
    assert done.stderr.startswith("stopped by you before the end")
    assert signal.getsignal(signal.SIGINT) is not None
