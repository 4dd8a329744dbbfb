"""The commands, run in this process or as processes of their own."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner


def call(module, *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command, in this process."""
    done = CliRunner().invoke(module.app, list(map(str, arguments)))
    return done.exit_code, done.stdout, done.stderr


def run_export(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """dsmap-export as a process of its own."""
    command = [sys.executable, "-m", "dsmap.tools.export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)
