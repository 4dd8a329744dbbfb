"""What backends for other GPUs use of ONNX Runtime's wheels is in these wheels: a part of `make test-gpu-wheel`.

Wheels for macOS and Windows do not run here. Their libraries are searched for the names of providers and options, and
their Python for what is called. The wheel for AMD's GPUs runs, up to the libraries of ROCm, which are not there.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import prepare
import pytest

from dsmap.runtime.backends.providers.coreml import CoreML
from dsmap.runtime.backends.providers.directml import DirectML
from dsmap.runtime.backends.providers.frozen_graph import CACHE_KEY
from dsmap.runtime.backends.providers.migraphx import MIGraphX

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


class Wheel(NamedTuple):
    """A wheel, for which platform, and the library in it that reads the provider's options."""

    package: str
    platform: str | None
    library: str


WHEELS = {
    "coreml": Wheel("onnxruntime==1.32.0", "macosx_14_0_arm64", "onnxruntime/capi/libonnxruntime.1.32.0.dylib"),
    "directml": Wheel("onnxruntime-directml==1.24.4", "win_amd64", "onnxruntime/capi/onnxruntime.dll"),
    "migraphx": Wheel("onnxruntime-migraphx==1.27.1", None, "onnxruntime/capi/libonnxruntime_providers_migraphx.so"),
    "onnxruntime-windowsml": Wheel("onnxruntime-windowsml==1.30.0.*", "win_amd64", "onnxruntime/capi/onnxruntime.dll"),
    "windowsml": Wheel("windowsml==2.5.96", "win_amd64", ""),
}
OF_ONNXRUNTIME = ("coreml", "directml", "migraphx", "onnxruntime-windowsml")
BACKENDS = {"coreml": CoreML, "directml": DirectML, "migraphx": MIGraphX}


@pytest.fixture
def wheel(request) -> Path:
    """The folder of the unpacked wheel that the test's parameter names."""
    name = request.param
    folder = Path(os.environ["DSMAP_OTHER_WHEELS"]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    package, platform, _ = WHEELS[name]
    options = ["--platform", platform, "--python-version", HERE] if platform else []
    prepare.unpack(package, folder, folder / name, *options)
    return folder / name


def of_wheels(*names: str):
    return pytest.mark.parametrize(("wheel", "name"), [(name, name) for name in names], indirect=["wheel"], ids=names)


def python_binary(wheel: Path) -> bytes:
    """The library that Python imports."""
    (library,) = [path for path in (wheel / "onnxruntime/capi").glob("*pybind11_state.*") if path.suffix != ".py"]
    return library.read_bytes()


@of_wheels(*BACKENDS)
def test_the_provider_knows_every_option_and_its_value(wheel, name):
    data = (wheel / WHEELS[name].library).read_bytes()
    given = BACKENDS[name]._provider_options(SimpleNamespace(_device=None), Path("/folder"))
    words = [*given, *(value for value in given.values() if isinstance(value, str) and len(value) > 2)]
    if name == "directml":
        words.append("device_id")
    assert [word for word in words if word != "/folder" and word.encode() not in data] == []
    assert BACKENDS[name].provider.encode() in python_binary(wheel)


@of_wheels("coreml")
def test_the_key_of_the_cache_is_that_of_the_provider(wheel, name):
    data = (wheel / WHEELS[name].library).read_bytes()
    assert CACHE_KEY.encode() in data
    assert b"alphanumeric and less than 64 characters" in data


@of_wheels(*OF_ONNXRUNTIME)
def test_sessions_take_and_tell_what_is_asked_of_them(wheel, name):
    python = (wheel / "onnxruntime/capi/onnxruntime_inference_collection.py").read_text()
    assert 'kwargs.get("enable_fallback"' in python
    binary = python_binary(wheel)
    for word in ("session.record_ep_graph_assignment_info", "get_provider_graph_assignment_info", "get_ep_devices"):
        assert word.encode() in binary, word
    if name == "onnxruntime-windowsml":
        assert b"register_execution_provider_library" in binary
        assert b"add_provider_for_devices" in binary


@of_wheels("windowsml")
def test_the_catalogue_of_windows_ml_is_as_it_is_used(wheel, name):
    """`windowsml.find_device` and the stand-ins of its tests."""
    (package,) = wheel.rglob("windowsml/__init__.py")
    (bindings,) = wheel.rglob("windowsml/_bindings.py")
    tree = ast.parse(package.read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def members(name: str) -> set[str]:
        return {node.name for node in classes[name].body if isinstance(node, ast.FunctionDef)}

    assert {"name", "library_path", "ready_state", "ensure_ready"} <= members("ExecutionProvider")
    assert "find_all_providers" in members("EpCatalog")
    states = next(
        node for node in ast.parse(bindings.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "EpReadyState"
    )  # fmt: skip
    assert "NotPresent" in {
        target.id for node in states.body if isinstance(node, ast.Assign) for target in node.targets
    }


@of_wheels("migraphx")
def test_without_rocm_amds_wheel_is_refused_with_the_library(wheel, name):
    code = (
        "from dsmap.errors import DsmapError\nfrom dsmap.runtime import Translator\nimport onnxruntime\n"
        "print(onnxruntime.__version__, onnxruntime.get_available_providers()[0])\n"
        "try: Translator.load('summer-winter', domain='winter', backend='migraphx')\n"
        "except DsmapError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    runtime, fact, advice = done.stdout.splitlines()
    assert runtime == "1.27.1 MIGraphXExecutionProvider", done.stderr
    assert fact.startswith("ONNX Runtime cannot load its MIGraphX provider: libmigraphx_c.so.3: cannot open")
    assert "ROCm" in advice
