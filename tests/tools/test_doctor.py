"""dsmap-doctor in broken environments: stub packages before the real ones on the import path, damaged files."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from plain_bundle import SOURCE, TARGET, write_plain_bundle

from dsmap.runtime.bundle.bundled import DEFAULT_MODEL, find_model
from dsmap.runtime.doctor import devices, engines, gpu, install, machine, packages
from dsmap.runtime.doctor.checkup import CHECKS, examine, run_check
from dsmap.runtime.system.subprocess_call import isolated
from dsmap.tools.doctor import page
from dsmap.tools.shared import terminal

BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder that Python looks into before the real packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def add_package(site: Path, name: str, version: str, *, files: tuple[str, ...] | None = None) -> None:
    """Metadata of an installed package; `files` that it says it has, need not be there."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if files is not None:
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def found(name: str, model: str | Path = DEFAULT_MODEL):
    return run_check(BY_NAME[name], str(model))


def run_doctor(*args: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsmap.tools.doctor", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=120)


def test_a_sound_environment(tmp_path):
    done = run_doctor("--report", tmp_path / "r.json", DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    heads = re.findall(r"^\[ ?(\d+)/(\d+)\] .+? \.+ (ok|failed|warning|missing|skipped) ", done.stdout, re.MULTILINE)
    assert [int(number) for number, _, _ in heads] == list(range(1, len(CHECKS) + 1))
    assert {int(total) for _, total, _ in heads} == {len(CHECKS)}
    facts = [line for line in done.stdout.splitlines() if "->" not in line and "/" not in line[8:]]
    assert max(map(len, facts)) <= 80
    assert "summer-winter runs here." in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["runs_the_model"] is True
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert all(states[check.name] in ("ok", "warning") for check in CHECKS if check.needed)
    assert states["display"] == "missing"
    assert states["torch"] in ("ok", "warning")  # a warning: of a GPU that this torch has no CUDA for
    session = next(check for check in report["checks"] if check["name"] == "session")
    assert session["details"]["seconds"] > 0  # a frame was really translated
    assert "ONNX Runtime" in session["details"]["backend"]


def test_a_broken_environment(site, tmp_path):
    """Nothing that the command itself is made of may be needed: typer does not load, cv2 ends the interpreter."""
    (site / "typer").mkdir()
    (site / "typer" / "__init__.py").write_text("raise SystemError('parts of two versions')")
    (site / "cv2.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (site / "onnxruntime.py").touch()
    for name in ("openvino", "tensorrt_rtx", "torch"):
        (site / f"{name}.py").write_text("raise RuntimeError('half of it is gone')")
    (tmp_path / "cache").touch()
    done = run_doctor(
        "--report",
        tmp_path / "r.json",
        PYTHONPATH=str(site),
        DSMAP_CACHE=str(tmp_path / "cache"),
        DISPLAY="no display",
        WAYLAND_DISPLAY="",
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "typer cannot be loaded (parts of two versions)" in done.stdout
    checks = {check["name"]: check for check in json.loads((tmp_path / "r.json").read_text())["checks"]}
    assert checks["packages"]["fact"].startswith("typer cannot be imported")
    assert checks["opencv"]["state"] == "failed"
    assert "SIGSEGV" in checks["opencv"]["fact"]
    assert "opencv-python" in checks["opencv"]["command"]
    assert checks["av"]["state"] == "ok"
    assert checks["onnxruntime"]["fact"].startswith("the installed onnxruntime is empty")
    assert checks["onnxruntime"]["command"].startswith("mv ")
    assert [checks[name]["state"] for name in ("session", "encoders", "display")] == ["skipped"] * 3
    assert checks["model"]["state"] == "ok"
    assert (checks["cache"]["state"], checks["cache"]["command"]) == ("warning", "unset DSMAP_CACHE")
    for name in ("openvino", "tensorrt", "torch"):
        assert checks[name]["state"] in ("warning", "missing")
    assert "does not run here. Fix 2, 3 and 5, the first one first" in done.stdout


def test_a_model_that_does_not_exist_is_wrong_input(tmp_path):
    for model, fact in (("nomodel", "no model or bundle named"), (tmp_path / "none", "does not exist")):
        done = run_doctor("--model", model)
        assert (done.returncode, done.stdout) == (2, "")
        assert fact in done.stderr


def test_the_command_to_run_again_names_the_model(capsys):
    for model, command in ((DEFAULT_MODEL, "dsmap-doctor"), ("my model", "dsmap-doctor --model 'my model'")):
        page._print_summary([], False, model, terminal.say)
        assert f"then run {command} again." in capsys.readouterr().out


def test_help_is_light():
    code = (
        "import sys; sys.argv = ['x', '--help']\nfrom dsmap.tools.doctor import main\n"
        "try: main()\nexcept SystemExit as stop: assert stop.code == 0\n"
        "print(sorted(set(sys.modules) & {'torch', 'onnxruntime', 'cv2', 'av', 'numpy', 'pydantic'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--report" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def helpers(site) -> str:
    """A module of functions that end in every way."""
    (site / "endings.py").write_text(
        "import os, signal, subprocess, sys, time\n"
        "def value(x):\n    print('noise'); os.system('echo more noise'); return {'x': x}\n"
        "def crash(): os.kill(os.getpid(), signal.SIGABRT)\n"
        "def leave(): sys.stderr.write('last words\\n'); sys.stderr.flush(); os._exit(7)\n"
        "def quit_it(): sys.exit('no')\n"
        "def hang():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    subprocess.Popen(['sleep', '60'])\n    time.sleep(60)\n"
        "def child(): subprocess.Popen(['sleep', '90'], start_new_session=True); return 1\n"
    )
    return "endings"


def test_what_is_isolated_may_end_in_any_way(helpers):
    assert isolated(f"{helpers}:value", 60, x=5).value == {"x": 5}
    assert "SIGABRT" in isolated(f"{helpers}:crash", 60).ended
    assert isolated(f"{helpers}:leave", 60).ended == "it ended with code 7 (last words)"
    assert isolated(f"{helpers}:quit_it", 60).ended == "SystemExit: no"
    assert isolated(f"{helpers}:missing", 60).ended.startswith("AttributeError")
    assert isolated(f"{helpers}:hang", 0.5).ended == "no answer in 0.5 s"
    assert isolated(f"{helpers}:child", 60).value == 1  # what it left behind holds its pipes open, for longer


def test_a_check_that_hangs_or_crashes_is_a_finding(site):
    (site / "av.py").write_text("import time; time.sleep(60)")
    from dataclasses import replace

    finding = run_check(replace(BY_NAME["av"], seconds=1), DEFAULT_MODEL)
    assert (finding.state, finding.fact) == ("failed", "the check gave no answer: no answer in 1 s")
    assert "--force-reinstall" in finding.command
    optional = run_check(replace(BY_NAME["openvino"], target="gpu:no_such_check"), DEFAULT_MODEL)
    assert optional.state == "warning"  # of what is optional nothing is worse


def test_two_onnxruntimes(site):
    add_package(site, "onnxruntime-extensions", "0.14.0", files=("onnxruntime_extensions/__init__.py",))
    assert found("onnxruntime").state == "ok"  # it has a module of its own
    add_package(site, "onnxruntime-gpu", "1.31.0")
    finding = found("onnxruntime")
    assert finding.state == "warning"  # it still runs
    assert "own the same files" in finding.fact
    assert re.search(r"pip uninstall -y onnxruntime onnxruntime-gpu && .*pip install 'dsmap\[cpu\]'$", finding.command)


def test_two_opencvs(site):
    """Of one version they serve together; of two, nobody knows whose files are where."""
    import cv2

    same = install.owners("opencv-.*", "cv2")[0].version
    assert cv2.__version__ in same
    add_package(site, "opencv-python-headless", same, files=("cv2/__init__.py",))
    assert found("opencv").state == "ok"
    add_package(site, "opencv-contrib-python-headless", "4.10.0", files=("cv2/__init__.py",))
    finding = found("opencv")
    assert finding.state == "warning"
    assert "uninstall -y opencv-contrib-python-headless opencv-python opencv-python-headless " in finding.command
    assert finding.command.endswith("'dsmap[window]'")


def test_how_windows_are_brought(site, monkeypatch):
    monkeypatch.setattr(install, "installed", lambda _: [])
    assert install.install_windows().endswith("pip install 'dsmap[window]'")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(site)
    add_package(site, "opencv-python", "4.99", files=("cv2/__init__.py",))
    assert install.install_windows().endswith("pip install --force-reinstall --no-deps opencv-python==4.99")


@pytest.mark.parametrize(
    ("source", "told", "command"),
    [
        ("raise ImportError('libGL.so.1: cannot open shared object file')", "libGL.so.1", "libgl"),
        ("resize = None\ndel resize", "another cv2", "mv "),
    ],
)
def test_opencv_that_does_not_load(site, source, told, command):
    (site / "cv2.py").write_text(source)
    finding = found("opencv")
    assert finding.state == "failed"
    assert told in finding.fact
    assert command in finding.command.lower()


def test_without_numpy_others_are_not_tried(site):
    (site / "numpy.py").write_text("raise ImportError('no _multiarray_umath')")
    finding = found("packages")
    assert finding.fact == "numpy cannot be imported: no _multiarray_umath"
    assert re.search(r"pip install --force-reinstall --no-deps numpy==\d", finding.command)
    assert found("onnxruntime").state == "skipped"


def test_required_packages(site, monkeypatch):
    add_package(site, "av", "17.0.0")
    finding = found("packages")
    assert finding.fact.startswith("av 17.0.0 (dsmap needs av")
    assert finding.command.endswith("install 'av>=18,<19'")
    monkeypatch.setattr(install, "requirements", lambda: (">=3.11", ["no-such-package>=2", "rich>=13"]))
    finding = packages.check_packages()
    assert (finding.state, finding.fact) == ("failed", "not installed: no-such-package>=2")
    add_package(site, "half-removed", "1.0", files=("half_removed/a.py", "half_removed/b.py"))
    monkeypatch.setattr(install, "requirements", lambda: (">=3.11", ["half-removed"]))
    finding = packages.check_packages()
    assert (finding.state, finding.fact) == ("warning", "half-removed 1.0 lacks 2 of its files")


def test_a_second_dsmap(site):
    (site / "dsmap").mkdir()
    (site / "dsmap" / "__init__.py").touch()
    others = install.copies()
    assert (site / "dsmap").resolve() in others[1:]
    assert others[0] == Path(install.dsmap.__file__).resolve().parent


def test_a_damaged_model(tmp_path):
    model = tmp_path / "mine"
    shutil.copytree(find_model(DEFAULT_MODEL), model)
    assert found("model", model).state == "ok"
    graph = next(model.glob("decoder.*.onnx"))
    with graph.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"broken")
    results = {
        r.check.name: r.finding for r in examine(str(model), lambda *_: None, (BY_NAME["model"], BY_NAME["session"]))
    }
    assert results["model"].state == "failed"
    assert graph.name in results["model"].fact
    assert results["session"].state == "skipped"
    assert results["session"].fact == "needs model files, see 1"


def test_stale_engines(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    engines = tmp_path / "engines"
    engines.mkdir()
    for name, version in (("old", "1.0.0"), ("new", sys.modules["tensorrt_rtx"].__version__)):
        (engines / f"{name}.engine").write_bytes(b"x" * 1000)
        key = {"flavour": "rtx", "version": version}
        (engines / f"{name}.engine.json").write_text(json.dumps({"key": key}))
    (engines / "odd.engine.json").write_text("[]")
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path))
    finding = found("cache")
    assert finding.state == "warning"
    assert finding.command == f"rm {engines / 'old.engine'}*"


def test_a_cache_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("DSMAP_CACHE", "/proc/self/dsmap")
    finding = found("cache")
    assert finding.state == "warning"
    assert "engines cannot be kept" in finding.fact


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="modes")
def test_a_cache_that_others_may_write_to(tmp_path, monkeypatch):
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path))
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    finding = found("cache")
    assert (finding.state, finding.command) == ("warning", "unset DSMAP_CACHE")
    assert "others may write to" in finding.fact
    (tmp_path / "engines").chmod(0o700)
    assert found("cache").state == "ok"


def test_displays(tmp_path, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1] - 6000
        assert devices.reach_x11(f"127.0.0.1:{number}.0") == ""
    assert "nothing answers" in devices.reach_x11(f"127.0.0.1:{number}")
    assert "nothing answers" in devices.reach_x11(":98765")
    assert "not the name of a display" in devices.reach_x11("nonsense")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert "nothing answers" in devices.reach_wayland("wayland-0")
    monkeypatch.setenv("DISPLAY", ":98765")
    assert devices.check_display().state == "warning"


def test_limits_of_containers(tmp_path):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/outer/inner\n")
    inner = tmp_path / "cgroup" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert machine.cpu_quota(tmp_path / "proc", tmp_path / "cgroup") is None
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert machine.cpu_quota(tmp_path / "proc", tmp_path / "cgroup") == 1.5


def test_memory_that_is_too_little(monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: 10_000_000)
    finding = machine.check_memory(DEFAULT_MODEL)
    assert finding.state == "failed"
    monkeypatch.setattr(machine, "available_bytes", lambda: 600_000_000)
    finding = machine.check_memory(DEFAULT_MODEL)
    assert (finding.state, finding.details["largest_picture"]) == ("ok", [1280, 720])


def test_gpus_on_the_bus(tmp_path):
    for name, (vendor, kind) in {
        "a": ("0x10de", "0x030200"),
        "b": ("0x10de", "0x040300"),
        "c": ("0x8086", "0x030000"),
    }.items():
        (tmp_path / name).mkdir()
        for file, text in (("vendor", vendor), ("class", kind), ("device", "0x2335")):
            (tmp_path / name / file).write_text(text + "\n")
    assert gpu.pci_cards(tmp_path) == ["PCI 10de:2335"]


DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return CODE; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *device, int i) { *device = i; return 0; }
int cuDeviceGetName(char *name, int n, int device) { strncpy(name, "Stub 4090", n); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 9; return 0; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="builds a small library with cc")
@pytest.mark.parametrize(
    ("code", "state", "told"),
    [
        (0, "ok", "Stub 4090, 24 GiB, compute capability 8.9"),
        (803, "warning", "of different versions"),
        (100, "missing", "no GPU"),
    ],
)
def test_what_the_driver_says(code, state, told, tmp_path, monkeypatch):
    (tmp_path / "cuda.c").write_text(DRIVER)
    library = str(tmp_path / "libcuda.so.1")
    subprocess.run(["cc", "-shared", "-fPIC", f"-DCODE={code}", "-o", library, str(tmp_path / "cuda.c")], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    finding = found("gpu")
    assert finding.state == state
    assert told in finding.fact
    if code == 0:
        assert "CUDA up to 13.1" in finding.fact


def test_the_graph_that_tries_providers():
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(gpu._IDENTITY, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.asarray([5], np.float32)})[0].tolist() == [5]


def test_the_command_is_for_this_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # another pip would be another environment's
    assert install.install_packages("a>=1").startswith(f"{sys.executable} -m pip install ")
    (tmp_path / "pip").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert install.install("cpu") == "pip install 'dsmap[cpu]'"
    assert install.install("cpu", without=("a", "b")) == "pip uninstall -y a b && pip install 'dsmap[cpu]'"
    again = "pip install --force-reinstall --no-deps"
    for source, command in (
        (install.SourceFolder(None, False), f"{again} dsmap"),
        (install.SourceFolder(tmp_path / "dsmap source", False), f"{again} '{tmp_path}/dsmap source'"),
        (install.SourceFolder(tmp_path / "dsmap source", True), f"{again} -e '{tmp_path}/dsmap source'"),
    ):
        monkeypatch.setattr(install, "find_source", lambda source=source: source)
        assert install.install_dsmap_again() == command


def test_a_checkout_is_found():
    """What runs here is one."""
    assert install.find_source().folder == Path(__file__).parents[2]


def test_why_a_codec_does_not_work_is_said_alone():
    from dsmap.runtime.doctor.video import try_codecs

    reasons = try_codecs(["h264", "h264_nvenc"])
    assert reasons["h264"] == ""
    assert "--codec" not in reasons["h264_nvenc"]  # empty with a GPU that encodes


def test_a_model_runs_whose_only_direction_is_to_its_first_domain(tmp_path):
    write_plain_bundle(tmp_path / "plain")
    manifest = tmp_path / "plain" / "bundle.json"
    written = json.loads(manifest.read_text())
    assert written["domains"] == [SOURCE, TARGET]
    manifest.write_text(json.dumps(written | {"domains": [TARGET, SOURCE]}))
    assert engines.check_session(str(tmp_path / "plain")).state == "ok"
