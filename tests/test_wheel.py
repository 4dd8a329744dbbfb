"""The wheel, as somebody without a checkout gets it: built, installed into a new environment, and used there."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("dsmap", "export", "runtime", "tools")
MODELS = ROOT / "runtime" / "models"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the source, by the build backend that `python -m build` calls too."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in CODE:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").glob("dsmap-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel; the packages it needs are those of this one. Gives its folder of commands."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    python = commands / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "packages.pth").write_text("\n".join(ours))
    return commands


def run(command: list[object], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_all_code_and_data_and_nothing_else(wheel):
    """A package that pyproject.toml forgets would be missing only from the wheel, where no other test looks."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"{'' if room == 'dsmap' else 'dsmap/'}{path.relative_to(ROOT).as_posix()}"
                for room in CODE for path in (ROOT / room).rglob("*.py")}  # fmt: skip
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "dsmap" / "presets").glob("*.yaml")}
    expected.add("dsmap/runtime/hub/models.toml")
    expected |= {f"dsmap/{path.relative_to(ROOT).as_posix()}" for path in MODELS.rglob("*") if path.is_file()}
    web = ROOT / "runtime" / "web"
    expected |= {f"dsmap/{path.relative_to(ROOT).as_posix()}" for room in ("licences", "page", "vendor")
                 for path in (web / room).rglob("*") if path.is_file()}  # fmt: skip
    expected |= {"dsmap/py.typed", "dsmap/runtime/assets/demo-summer.mp4"}
    assert names == expected


def test_the_demo_runs_without_a_checkout(installed, tmp_path):
    where = run([installed / "python", "-c", "import dsmap.runtime; print(dsmap.runtime.__file__)"], tmp_path)
    runtime = Path(where.strip()).parent
    assert runtime.is_relative_to(installed.parent)
    clip = runtime / "assets" / "demo-summer.mp4"
    run([installed / "dsmap-video", clip, "-d", "winter", "--frames", 3, "--height", 128, "-o", "w.mp4"], tmp_path)
    assert (tmp_path / "w.mp4").stat().st_size > 0
    assert "dsmap video [OPTIONS]" in run([installed / "dsmap", "video", "--help"], tmp_path)


def test_the_doctor_finds_nothing_wrong(installed, tmp_path):
    screen = run([installed / "dsmap-doctor"], tmp_path)
    assert f" in {installed.parent.resolve()}" in " ".join(screen.split())
    assert "summer-winter runs here." in screen
