"""Backends for GPUs of other makers, as far as they run without one: freezing, checking, choosing, keeping, errors."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends import registry
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.backends.gpu_graph import FRAMES, OUTPUT, STYLE, bundle_gpu_graph
from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU
from dsmap.runtime.backends.providers import (
    coreml,
    directml,
    fixed_size,
    migraphx,
    openvino_npu,
    plugins,
    webgpu,
    wheels,
    windowsml,
)
from dsmap.runtime.backends.providers.compiled_models import open_compiled
from dsmap.runtime.backends.providers.fixed_size import FixedSizeBackend
from dsmap.runtime.backends.providers.frozen_graph import CACHE_KEY, frozen
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model

# The stand-in's provider is the one that every session has in the end.
pytestmark = pytest.mark.filterwarnings("ignore:Duplicate provider")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, caplog) -> Path:
    caplog.set_level(logging.WARNING, "dsmap")  # a command with --debug in a test before this one leaves it lower
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle.read(tiny_bundle)


@pytest.fixture(scope="module")
def bundled() -> Bundle:
    return Bundle.read(find_model("summer-winter"))


@pytest.fixture(scope="module")
def plain(bundle) -> OnnxRuntimeCPU:
    return OnnxRuntimeCPU(bundle, "winter", BackendSettings(precision="fp32"))


class OnTheCpu(FixedSizeBackend):
    """The whole backend, with ONNX Runtime's CPU provider in the place of a GPU's."""

    name = "standin"
    provider = "CPUExecutionProvider"
    where = "Stand-in"

    def _checked_onnxruntime(self):
        return onnxruntime

    def _provider_options(self, folder):
        return {}


class Compiling(OnTheCpu):
    """Keeps what it "compiles", as Core ML and MIGraphX do."""

    compiles = True
    folders: list[Path]

    def _open(self, graph, folder):
        self.__dict__.setdefault("folders", []).append(folder)
        (folder / "compiled.bin").write_bytes(graph[:10])
        return super()._open(graph, folder)


def frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def run(graph: bytes, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], inputs)[0]


def graph_inputs(bundle: Bundle, frames_nhwc: np.ndarray) -> dict[str, np.ndarray]:
    params = fixed_size.style_mlp(bundle, "winter")(np.zeros((len(frames_nhwc), bundle.manifest.style_dim), np.float32))
    return {FRAMES: frames_nhwc, STYLE: params}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (2, 32, 48, 3)])
def test_a_frozen_graph_gives_the_same_frames(bundled, precision, shape):
    graph = bundle_gpu_graph(bundled, bundled.source_of("winter"), "winter", precision)
    inputs = graph_inputs(bundled, frames(*shape))
    difference = np.abs(run(frozen(graph, shape), inputs).astype(int) - run(graph, inputs))
    assert difference.max() <= 1
    assert difference.mean() < 0.001


def test_a_frozen_graph_leaves_no_size_open(bundled, tmp_path):
    """Providers see it after ONNX Runtime's basic optimizations; no node may be left that computes a size."""
    graph = bundle_gpu_graph(bundled, bundled.source_of("winter"), "winter", "fp32")
    found = {}
    for name, data in (("open", graph), ("frozen", frozen(graph, (1, 64, 96, 3)))):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / name)
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found[name] = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / name))
    assert "Shape" in {node.op_type for node in found["open"].graph.node}  # or nothing is tested
    assert not [node.name for node in found["frozen"].graph.node if node.op_type in ("Shape", "Round")]
    entries = (*found["frozen"].graph.input, *found["frozen"].graph.output, *found["frozen"].graph.value_info)
    dims = [dim for entry in entries for dim in entry.type.tensor_type.shape.dim]
    assert len(entries) > 50
    assert all(dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0 for dim in dims)


def test_the_key_of_what_core_ml_compiles_is_in_the_graph_and_such_as_it_takes(bundle):
    graph = bundle_gpu_graph(bundle, bundle.source_of("winter"), "winter", "fp32")
    model = onnx.load_from_string(frozen(graph, (1, 64, 64, 3), "key1"))
    assert {entry.key: entry.value for entry in model.metadata_props}[CACHE_KEY] == "key1"
    made = Compiling(bundle, "winter")
    keys = [made._key((1, 64, size, 3)) for size in (64, 128)]
    other = Compiling(bundle, "summer")  # other weights; graphs of the same inputs and outputs
    assert len({*keys, other._key((1, 64, 64, 3))}) == 3
    assert all(key.isalnum() and len(key) < 64 for key in keys)


def test_frames_of_changing_sizes_batches_and_styles(bundle, plain):
    made = OnTheCpu(bundle, "winter", BackendSettings(precision="fp32"))
    random = np.random.default_rng(1)
    for n, height, width in ((1, 64, 64), (2, 32, 40), (1, 64, 64), (1, 16, 24)):
        style = random.normal(size=(n, bundle.manifest.style_dim)).astype(np.float32)
        batch = frames(n, height, width, 3, seed=height)
        difference = np.abs(made.translate(batch, style).astype(int) - plain.translate(batch, style))
        assert difference.max() <= 1
    picture = frames(1, 64, 64, 3)
    np.testing.assert_allclose(made.encode_style(picture), plain.encode_style(picture), atol=1e-4)
    made.close()


def test_sessions_of_the_last_sizes_are_kept(bundle):
    made = OnTheCpu(bundle, "winter")
    style = np.zeros((1, bundle.manifest.style_dim), np.float32)
    for side in (16, 24, 32, 16, 40):
        made.translate(frames(1, side, side, 3), style)
    assert [shape[1] for shape in made._sessions] == [32, 16, 40]


def test_what_runs_is_told_with_what_is_not_known(bundle):
    made = OnTheCpu(bundle, "winter")
    assert made.description == f"ONNX Runtime {onnxruntime.__version__} with Stand-in, fp32, untested on hardware"
    assert made.title == "Stand-in (ONNX Runtime, untested on hardware)"
    assert not made.on_host
    for backend in (
        openvino_npu.OpenVINONPU,
        coreml.CoreML,
        directml.DirectML,
        migraphx.MIGraphX,
        webgpu.WebGPU,
        windowsml.WindowsML,
    ):
        assert issubclass(backend, FixedSizeBackend)
        assert backend.name in registry.UNTESTED
    assert len(registry.UNTESTED) == 6


def test_int8_is_refused_by_name(bundle):
    with pytest.raises(DsmapError, match="Stand-in runs fp16 and fp32 graphs here, not int8"):
        OnTheCpu(bundle, "winter", BackendSettings(precision="int8"))


class Skewed(OnTheCpu):
    """A provider that gets half precision wrong, and float32 too if it is told to."""

    wrong = ("fp16",)

    def _open(self, graph, folder):
        session = super()._open(graph, folder)
        if self.precision not in self.wrong:
            return session
        upside_down = SimpleNamespace(run=lambda *args: [session.run(*args)[0][:, ::-1]])
        for method in ("get_providers", "get_provider_graph_assignment_info"):
            setattr(upside_down, method, getattr(session, method))
        return upside_down


def test_wrong_frames_are_found_before_the_first_one(bundled, caplog):
    made = Skewed(bundled, "winter")
    assert made.precision == "fp32"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("standin: fp32 instead of fp16: Stand-in gives wrong frames in fp16: ")
    with pytest.raises(DsmapError, match=r"wrong frames in fp16: \d+\.\d dB from the CPU's, and 35 dB are") as caught:
        Skewed(bundled, "winter", BackendSettings(precision="fp16"))
    assert "--backend cpu" in caught.value.advice


def placed(*nodes: tuple[str, str, str]):
    """A backend whose session says of its nodes that they are (provider, operator, name)."""

    class Placed(OnTheCpu):
        def _open(self, graph, folder):
            session = super()._open(graph, folder)
            parts = [
                SimpleNamespace(
                    ep_name=provider, get_nodes=lambda kind=kind, name=name: [SimpleNamespace(op_type=kind, name=name)]
                )
                for provider, kind, name in nodes
            ]
            return SimpleNamespace(
                run=session.run,
                get_providers=lambda: ["Gpu", "CPUExecutionProvider"],
                get_provider_graph_assignment_info=lambda: parts,
            )

    return Placed


def test_nodes_that_the_provider_leaves_to_the_cpu_are_told(bundle, caplog):
    gpu, cpu = ("Gpu", "Conv", "a"), ("CPUExecutionProvider", "Cast", "b")
    assert placed(gpu, cpu)(bundle, "winter").description.endswith("untested on hardware, 1 of 2 nodes on the CPU")
    assert not caplog.records
    placed(gpu, cpu, ("CPUExecutionProvider", "ConvTranspose", "c"))(bundle, "winter")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "standin: 1 of the model's convolutions run on the CPU, among them ConvTranspose c"
    with pytest.raises(DsmapError, match="Stand-in takes none of the model's nodes: all would run on the CPU"):
        placed(cpu)(bundle, "winter")


def test_what_was_compiled_is_kept_and_told_once(bundle, own_cache, caplog):
    made = Compiling(bundle, "winter")
    style = np.zeros((1, bundle.manifest.style_dim), np.float32)
    made.translate(frames(1, 32, 48, 3), style)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"standin: Stand-in compiles the model for {size}; it is kept for the next time" for size in ("64x64", "48x32")
    ]
    caplog.clear()
    again = Compiling(bundle, "winter")
    assert again.folders[0] == made.folders[0]
    assert again.folders[0].parent == own_cache / "standin"
    assert not caplog.records


def test_what_a_killed_process_left_is_compiled_anew(own_cache):
    told = []

    def open_in(folder: Path) -> list[str]:
        found = [path.name for path in folder.iterdir()]
        (folder / "model").touch()
        return found

    def opened() -> list[str]:
        return sorted(open_compiled("coreml", "key", open_in, lambda: told.append("compiling")))

    (own_cache / "coreml" / "key").mkdir(parents=True, mode=0o700)
    (own_cache / "coreml" / "key" / "half").touch()
    assert opened() == []
    assert opened() == ["model", "whole"]
    assert len(told) == 1


def test_what_cannot_be_opened_any_more_is_compiled_anew(own_cache):
    """Core ML's models of before an update of macOS."""
    attempts = []

    def open_in(folder: Path) -> str:
        attempts.append(sorted(path.name for path in folder.iterdir()))
        (folder / "model").touch()
        if len(attempts) == 2:
            raise DsmapError("an old model", "Compile it.")
        return "opened"

    for _ in range(2):
        assert open_compiled("coreml", "key", open_in, lambda: None) == "opened"
    assert attempts == [[], ["model", "whole"], []]

    def refuse(folder: Path) -> str:
        raise DsmapError("it cannot compile this", "Use another.")

    with pytest.raises(DsmapError, match="cannot compile this"):
        open_compiled("coreml", "other", refuse, lambda: None)
    assert not (own_cache / "coreml" / "other" / "whole").exists()


def with_options(backend: type[FixedSizeBackend], folder: Path | None):
    return backend._provider_options(SimpleNamespace(_device=None), folder)


def test_the_options_are_those_of_the_providers(tmp_path):
    """Their names are in the libraries of the wheels: `make test-gpu-wheel` looks."""
    assert with_options(coreml.CoreML, tmp_path) == {
        "ModelFormat": "MLProgram",
        "MLComputeUnits": "CPUAndGPU",
        "RequireStaticInputShapes": "1",
        "ModelCacheDirectory": str(tmp_path),
    }
    assert with_options(migraphx.MIGraphX, tmp_path) == {"device_id": 0, "migraphx_model_cache_dir": str(tmp_path)}
    assert with_options(directml.DirectML, None) == {
        "performance_preference": "high_performance",
        "device_filter": "gpu",
    }


def test_a_gpu_for_directml_is_chosen_by_number(monkeypatch):
    monkeypatch.setenv(directml.DEVICE, "1")
    assert directml.directml_device() == 1
    assert directml.DirectML._provider_options(SimpleNamespace(_device=1), None) == {"device_id": 1}
    for wrong in ("first", "-1", "²"):
        monkeypatch.setenv(directml.DEVICE, wrong)
        with pytest.raises(InputError, match="not the number of a GPU"):
            directml.directml_device()


def test_sessions_run_nodes_in_turn_without_a_plan_of_the_memory(bundle):
    options = OnTheCpu(bundle, "winter")._session_options()
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert not options.enable_mem_pattern


def refusal(bundle: Bundle, name: str) -> DsmapError:
    with pytest.raises(DsmapError) as caught:
        registry.load_backend(name, bundle, "winter")
    return caught.value


@pytest.mark.parametrize(
    ("name", "system", "fact"),
    [
        ("coreml", "linux", "Core ML is part of macOS, and this is "),
        ("directml", "linux", "DirectML is part of Windows, and this is "),
        ("windowsml", "linux", "Windows ML is part of Windows, and this is "),
        ("migraphx", "win32", "MIGraphX is for Linux, and this is "),
    ],
)
def test_a_backend_of_another_system_says_so(bundle, monkeypatch, name, system, fact):
    monkeypatch.setattr(sys, "platform", system)
    assert refusal(bundle, name).fact.startswith(fact)


@pytest.mark.parametrize(
    ("name", "system", "title"),
    [("coreml", "darwin", "Core ML"), ("directml", "win32", "DirectML"), ("migraphx", "linux", "MIGraphX")],
)
def test_a_wheel_without_the_provider_is_named_with_the_one_that_has_it(bundle, monkeypatch, name, system, title):
    backend = {"coreml": coreml.CoreML, "directml": directml.DirectML, "migraphx": migraphx.MIGraphX}[name]
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("dsmap.runtime.doctor.install.shutil.which", lambda name: None)
    with pytest.raises(DsmapError) as caught:
        backend._checked_onnxruntime(SimpleNamespace(name=name, provider=backend.provider, where=title))
    version = onnxruntime.__version__
    if name == "coreml":  # on a Mac, this wheel would have it
        assert caught.value.fact == f"the installed onnxruntime {version} has no Core ML provider"
        return
    wanted = f"it is onnxruntime {version}, and onnxruntime-{name} has one"
    assert caught.value.fact == f"the installed onnxruntime has no {title} provider: {wanted}"
    assert "uninstall" in caught.value.advice
    assert caught.value.advice.endswith(f"'dsmap[{name}]'")


def test_two_wheels_that_own_the_same_files_are_both_named(tmp_path, monkeypatch):
    folder = tmp_path / "onnxruntime_directml-1.24.4.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-directml\nVersion: 1.24.4\n")
    (folder / "RECORD").write_text("onnxruntime/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    error = wheels.missing_provider("directml", "DirectML")
    both = f"onnxruntime {onnxruntime.__version__} and onnxruntime-directml 1.24.4 are both installed"
    assert both in error.fact
    assert "onnxruntime onnxruntime-directml && " in error.advice
    assert error.advice.endswith("'dsmap[directml]'")


def test_a_missing_plugin_is_named(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)
    error = refusal(bundle, "webgpu")
    assert error.fact.startswith("onnxruntime_ep_webgpu cannot be imported")
    assert error.advice == "pip install 'dsmap[webgpu]'"


def test_a_plugin_that_does_not_load_says_why(bundle, monkeypatch, tmp_path):
    library = tmp_path / "plugin.so"
    library.write_bytes(b"no library")
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", SimpleNamespace(get_library_path=lambda: str(library)))
    error = refusal(bundle, "webgpu")
    assert error.fact.startswith(f"ONNX Runtime cannot load the plugin {library}: ")
    assert "plugin.so" in error.fact.partition(": ")[2]


def device(name: str, kind: str = "GPU", **metadata: str):
    kinds = onnxruntime.OrtHardwareDeviceType
    return SimpleNamespace(
        ep_name=name, device=SimpleNamespace(type=getattr(kinds, kind), vendor="Maker", metadata=metadata)
    )


def runtime_with(*devices):
    return SimpleNamespace(
        __version__="1.30.0",
        OrtHardwareDeviceType=onnxruntime.OrtHardwareDeviceType,
        set_default_logger_severity=lambda level: None,
        registered={},
        get_ep_devices=lambda: list(devices),
    )


class CatalogueEntry(SimpleNamespace):
    """As `windowsml.ExecutionProvider`: those of its properties and methods that are used."""

    def __init__(self, name: str, state: str = "Ready", path: str = "", error: Exception | None = None) -> None:
        found = path or f"C:\\{name}.dll"
        super().__init__(name=name, ready_state=SimpleNamespace(name=state), library_path=found, error=error)

    def ensure_ready(self) -> None:
        if self.error is not None:
            raise self.error


def chosen(monkeypatch, ort, *entries):
    monkeypatch.setattr(plugins, "_registered", set())
    ort.register_execution_provider_library = lambda name, path: ort.registered.update({name: path})
    return windowsml.find_device(ort, SimpleNamespace(find_all_providers=lambda: list(entries)))


def test_windows_ml_takes_the_first_provider_that_offers_a_gpu(monkeypatch, caplog):
    nvidia, amd = "NvTensorRTRTXExecutionProvider", "MIGraphXExecutionProvider"
    ort = runtime_with(device(nvidia, "NPU"), device(amd, is_virtual="1"), device(amd, Description="Radeon"))
    found = chosen(
        monkeypatch,
        ort,
        CatalogueEntry("QNNExecutionProvider"),
        CatalogueEntry(amd, state="NotPresent"),
        CatalogueEntry(nvidia),
    )
    assert plugins.describe_device(found) == "Radeon"
    assert ort.registered == {nvidia: f"C:\\{nvidia}.dll", amd: f"C:\\{amd}.dll"}
    assert [record.getMessage() for record in caplog.records] == [f"windowsml: Windows downloads {amd}, once"]


def test_windows_ml_says_why_it_has_no_gpu(monkeypatch):
    openvino = "OpenVINOExecutionProvider"
    for entries, why in (
        ((), "its catalogue has no provider for a GPU here; it has: none"),
        ((CatalogueEntry("QNNExecutionProvider"),), "it has: QNNExecutionProvider"),
        ((CatalogueEntry(openvino, error=OSError("no network")),), f"{openvino} is not ready: no network"),
        ((CatalogueEntry(openvino),), f"{openvino} offers no GPU"),
    ):
        with pytest.raises(DsmapError, match=why) as caught:
            chosen(monkeypatch, runtime_with(device(openvino, "CPU")), *entries)
        assert "--backend directml" in caught.value.advice


def test_without_rocm_the_missing_library_is_named(tmp_path):
    assert "libonnxruntime_providers_shared.so" in str(migraphx.missing_rocm(tmp_path))


class OnOpenVINOsCpu(openvino_npu.OpenVINONPU):
    provider = "CPU"


def test_openvino_compiles_the_frozen_graph_too(bundle, plain, own_cache, monkeypatch):
    pytest.importorskip("openvino")
    assert refusal(bundle, "openvino-npu").fact == "OpenVINO sees no Intel NPU here; it sees: CPU"
    made = OnOpenVINOsCpu(bundle, "winter")
    style = np.zeros((1, bundle.manifest.style_dim), np.float32)
    first = made.translate(frames(1, 32, 48, 3), style)
    kept = first.copy()
    made.translate(frames(1, 32, 48, 3, seed=1), style)
    np.testing.assert_array_equal(first, kept)
    difference = np.abs(kept.astype(int) - plain.translate(frames(1, 32, 48, 3), style))
    assert difference.max() <= 8  # it computes in half precision
    assert difference.mean() < 0.5
    assert made.description.startswith("OpenVINO 20")
    assert " in half precision, fp32" in made.description
    assert made.description.endswith(", fp32, untested on hardware")
    assert len(list((own_cache / "openvino-npu").glob("*/whole"))) == 2
    monkeypatch.setattr(OnOpenVINOsCpu, "provider", "NPU.7")
    with pytest.raises(DsmapError, match="OpenVINO cannot load the graph: "):
        made.translate(frames(1, 64, 32, 3), style)


def test_quiet_while_sessions_open(bundle, capfd):
    OnTheCpu(bundle, "winter")
    assert capfd.readouterr().err == ""
