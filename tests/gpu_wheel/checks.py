"""The `cuda` backend with the real onnxruntime-gpu wheel, on stand-ins for its CUDA libraries: `make test-gpu-wheel`.

The wheel opens sessions, places nodes, plans memory, binds and copies as on a GPU; only kernels compute nothing. So
this checks what it is asked to do, not what frames look like.
"""

import contextlib
import ctypes
import gc
import logging
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from dsmap.errors import DsmapError
from dsmap.runtime.backends import onnxruntime_planes
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.backends.cuda_norms import cuda_norms
from dsmap.runtime.backends.device_frame import SITINGS, PlanesKind, planes_graph
from dsmap.runtime.backends.device_result import DeviceResult, nv12_graph
from dsmap.runtime.backends.dlpack import DEVICES, read_plane
from dsmap.runtime.backends.gpu_graph import gpu_graph
from dsmap.runtime.backends.onnxruntime_cuda import KERNELS, OnnxRuntimeCUDA
from dsmap.runtime.backends.onnxruntime_session import session_options
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.doctor.gpu import try_provider

CAPI = Path(onnxruntime.__file__).parent / "capi"
PROVIDER = "CUDAExecutionProvider"
MB = 1_000_000


class StandIn:
    """What the stand-in of libcudart has seen."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcudart.so.13")
        self._library.stand_in_log.restype = ctypes.c_char_p
        for name in ("stand_in_used", "stand_in_peak"):
            getattr(self._library, name).restype = ctypes.c_size_t

    def log(self) -> list[str]:
        """What has happened since the last call."""
        return self._library.stand_in_log().decode().splitlines()

    def used(self) -> int:
        """Bytes on the device."""
        return self._library.stand_in_used()

    def peak(self) -> int:
        """The most bytes on the device since the last call."""
        return self._library.stand_in_peak()

    @contextlib.contextmanager
    def room(self, size: int):
        """A device of so many bytes."""
        self._library.stand_in_room(ctypes.c_size_t(size))
        yield
        self._library.stand_in_room(ctypes.c_size_t(80 << 30))


@pytest.fixture(scope="module")
def cuda() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.read(find_model("summer-winter"))


@pytest.fixture
def backend(bundle):
    made = OnnxRuntimeCUDA(bundle, "winter")
    yield made
    made.close()


def frames(height: int, width: int) -> np.ndarray:
    return np.zeros((1, height, width, 3), np.uint8)


def style(bundle: Bundle, value: float = 0) -> np.ndarray:
    return np.full((1, bundle.manifest.style_dim), value, np.float32)


def test_the_wheel_is_the_one_for_gpus():
    assert Path(os.environ["DSMAP_GPU_WHEEL"]).resolve() in CAPI.resolve().parents
    assert PROVIDER in onnxruntime.get_available_providers()
    assert try_provider() is True  # the doctor's own check


def architectures(library: Path) -> set[int]:
    """Of all code for GPUs in a library: fat binaries are a header (magic, lengths) and an entry for each."""
    data, found = library.read_bytes(), set()
    at = data.find(b"\x50\xed\x55\xba")
    while at >= 0:
        _version, header, size = struct.unpack_from("<HHQ", data, at + 4)
        here = at + header
        while here < at + header + size:
            kind, _version, length, payload = struct.unpack_from("<HHIQ", data, here)
            assert kind == 2, "code that a driver would compile: other GPUs are served too"
            found.add(struct.unpack_from("<I", data, here + 28)[0])
            here += length + payload
        at = data.find(b"\x50\xed\x55\xba", here)
    return found


def test_the_wheel_has_kernels_for_the_gpus_that_we_name():
    named = KERNELS[".".join(onnxruntime.__version__.split(".")[:2])]
    assert architectures(CAPI / "libonnxruntime_providers_cuda.so") == {
        int(name.rstrip("a").replace(".", "")) for name in named
    }


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("mapping", [True, False])
def test_every_node_is_on_the_gpu_and_nothing_is_copied_between(bundle, tmp_path, precision, mapping):
    def read(component: str, domain: str) -> bytes:
        return bundle.graph_data(component, domain, precision).data

    graph = gpu_graph(
        read("content_encoder", "summer"),
        read("mapping", "winter") if mapping else None,
        read("decoder", "winter"),
        cuda_norms,
    )
    options = session_options(onnxruntime)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(graph, options, providers=[PROVIDER, "CPUExecutionProvider"])
    placed = Counter(part.ep_name for part in session.get_provider_graph_assignment_info())
    assert set(placed) == {PROVIDER}
    assert placed[PROVIDER] > 100
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert not [kind for kind in kinds if kind.startswith("Memcpy")]
    assert kinds["Conv"] + kinds["FusedConv"] > 10


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> bytes:
    """The graph of a network of the published kind, with reflected borders, but narrow."""
    from dsmap.config import ModelConfig
    from dsmap.export.graphs import graphs, write_graph
    from dsmap.model.dsmap import DSMAP, initialise_generators

    model, folder = DSMAP(ModelConfig(dim=4)), tmp_path_factory.mktemp("published")
    initialise_generators(model)
    source, target = model.domains
    parts = {}
    for graph in graphs(model.eval()):
        wanted = source if graph.component == "content_encoder" else target
        if graph.domain == wanted and graph.component in ("content_encoder", "mapping", "decoder"):
            write_graph(graph, folder / graph.file_name)
            parts[graph.component] = (folder / graph.file_name).read_bytes()
    return gpu_graph(parts["content_encoder"], parts["mapping"], parts["decoder"], cuda_norms)


def test_only_arithmetic_on_sizes_is_on_the_cpu(published, tmp_path):
    """In the published network: a few integers of the host, from which the device waits for nothing."""
    options = session_options(onnxruntime)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(published, options, providers=[PROVIDER, "CPUExecutionProvider"])
    on_cpu = {
        node.name
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    }
    assert len(on_cpu) < 20
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(published))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    made = {types[name] for node in model.graph.node if node.name in on_cpu for name in node.output}
    assert made == {onnx.TensorProto.INT64}
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert not [kind for kind in kinds if kind.startswith("Memcpy")]


def test_debug_tells_so(bundle, caplog):
    caplog.set_level(logging.DEBUG, "dsmap")
    OnnxRuntimeCUDA(bundle, "winter").close()
    placed, options = caplog.messages
    assert re.fullmatch(rf"cuda: \d+ nodes on {PROVIDER}", placed)
    assert options == (
        "cuda: device_id=0, use_tf32=0, arena_extend_strategy=kSameAsRequested, cudnn_conv_algo_search=HEURISTIC"
    )


@pytest.mark.parametrize(("precision", "tf32"), [("auto", "1"), ("fp32", "0")])
def test_options_are_taken_as_given(tiny_bundle, precision, tf32):
    """The small bundle is float32 alone."""
    made = OnnxRuntimeCUDA(Bundle.read(tiny_bundle), "winter", BackendSettings(precision=precision))
    taken = made._session.get_provider_options()[PROVIDER]
    assert (taken["use_tf32"], taken["device_id"], taken["arena_extend_strategy"]) == (tf32, "0", "kSameAsRequested")
    assert taken["cudnn_conv_algo_search"] == "HEURISTIC"
    arithmetic = "fp32 with TF32" if tf32 == "1" else "fp32"
    assert made.description == f"ONNX Runtime {onnxruntime.__version__} on stand-in, {arithmetic}"
    made.close()


def test_a_frame_is_copied_once_each_way_through_pinned_memory(backend, bundle, cuda):
    frame = frames(64, 96)
    for _ in range(2):
        backend.translate(frame, style(bundle))
    cuda.log()
    backend.translate(frame, style(bundle))
    seen = cuda.log()
    copies = [line for line in seen if line.startswith("copy")]
    assert copies == [f"copy 1 {frame.nbytes} default pinned", f"copy 2 {frame.nbytes} stream pinned"]
    assert seen.index(copies[0]) < seen.index("launch")
    # The result is waited for: the last copy is in a stream, which is then synchronized.
    assert "synchronize stream" in seen[seen.index(copies[1]) :]
    assert not [line for line in seen if line.startswith(("malloc", "free", "host"))]
    backend.translate(frame, style(bundle, 1))
    copies = [line.split()[2] for line in cuda.log() if line.startswith("copy 1")]
    assert len(copies) == 2  # the frame, and the parameters of another style
    backend.translate(frame, style(bundle, 1))
    assert sum(line.startswith("copy 1") for line in cuda.log()) == 1


def test_a_result_that_stays_on_the_gpu_is_not_copied(backend, bundle, cuda, monkeypatch, capfd):
    monkeypatch.setattr(onnxruntime_planes, "check_nv12", lambda *_: None)  # kernels compute nothing here
    frame = frames(64, 96)

    def keep() -> DeviceResult:
        return backend._pool.submit(frame, style(bundle), True)()

    keep()
    assert capfd.readouterr().err == ""  # of ONNX Runtime itself, where a session is opened
    cuda.log()
    result = keep()
    seen = cuda.log()
    assert [line.split()[1] for line in seen if line.startswith("copy")] == ["1"]  # the frame, to the device
    assert "synchronize stream" in seen[len(seen) - seen[::-1].index("launch") :]  # the last kernel is waited for
    assert (result.owner.device_name(), result.owner.shape()) == ("cuda", [96, 256])
    (luma, device), (chroma, _) = map(read_plane, result.planes())
    assert (device, chroma.address - luma.address) == (DEVICES["cuda"], 64 * luma.pitch)
    assert backend.translate(frame, style(bundle)).shape == frame.shape
    assert [line.split()[1] for line in cuda.log() if line.startswith("copy")] == ["1", "2"]


def test_conversions_for_decoders_and_encoders_run_on_the_gpu(tmp_path):
    kind = PlanesKind(64, 48, False, 256, 0.2126, 0.0722, False)
    for graph in (planes_graph(kind, SITINGS[0]), nv12_graph(64, 48)):
        options = session_options(onnxruntime)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        session = onnxruntime.InferenceSession(graph, options, providers=[PROVIDER, "CPUExecutionProvider"])
        assert {part.ep_name for part in session.get_provider_graph_assignment_info()} == {PROVIDER}
        kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
        assert not [name for name in kinds if name.startswith("Memcpy")]


def test_the_first_frame_of_a_size_runs_once(backend, bundle, cuda):
    def launches(height: int, width: int) -> int:
        cuda.log()
        backend.translate(frames(height, width), style(bundle))
        return cuda.log().count("launch")

    first, again = launches(64, 64), launches(64, 64)
    small = backend._smallest.shape[1]
    assert first <= again + launches(small, small)


def test_memory_is_given_back_when_the_size_changes(backend, bundle, cuda):
    backend.translate(frames(64, 64), style(bundle))
    before = cuda.used()
    backend.translate(frames(512, 768), style(bundle))
    backend.translate(frames(512, 768), style(bundle))
    assert cuda.used() > before + 20 * MB
    backend.translate(frames(64, 64), style(bundle))
    assert cuda.used() < before + 10 * MB


def test_a_larger_size_fits_where_it_would_fit_alone(backend, bundle, cuda):
    """What the smaller size took is given back before the larger one is allocated."""
    large, small = frames(720, 1280), frames(640, 1152)
    cuda.peak()
    for _ in range(2):
        backend.translate(large, style(bundle))
    alone = cuda.peak()
    for _ in range(2):
        backend.translate(small, style(bundle))
    with cuda.room(alone + 10 * MB):
        assert backend.translate(large, style(bundle)).shape == large.shape
    small = frames(320, 576)
    with cuda.room(alone - 50 * MB):
        backend.translate(small, style(bundle))
        with pytest.raises(DsmapError, match="ONNX Runtime stopped") as caught:
            backend.translate(large, style(bundle))
        assert "smaller size" in caught.value.advice
        assert backend.translate(small, style(bundle)).shape == small.shape


def test_what_is_closed_leaves_nothing_on_the_device(bundle, cuda):
    gc.collect()  # what other tests' errors still refer to
    before = cuda.used()
    made = OnnxRuntimeCUDA(bundle, "winter", BackendSettings(frames_at_once=3))
    for wait in [made.submit(frames(64, 64), style(bundle)) for _ in range(made.in_flight)]:
        wait()
    assert cuda.used() > before
    made.close()
    assert cuda.used() <= before + MB  # what ONNX Runtime keeps for the next session


def run_elsewhere(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=100
    )
    return done.stdout.strip() or done.stderr


OPEN = (
    "from dsmap.errors import DsmapError\nfrom dsmap.runtime import Translator\n"
    "try: print(Translator.load('summer-winter', domain='winter', backend='cuda').backend_name)\n"
    "except DsmapError as error: print(error.fact, '|', error.advice)\n"
)


def test_a_gpu_without_kernels_is_named():
    assert run_elsewhere(OPEN) == "cuda"
    told = run_elsewhere(OPEN, STAND_IN_CAPABILITY="10.0")
    assert told.startswith(f"no kernels for compute capability 10.0 in onnxruntime-gpu {onnxruntime.__version__} |")
    doctor = "from dsmap.runtime.doctor.gpu import try_provider\nprint(try_provider())"
    assert run_elsewhere(doctor, STAND_IN_CAPABILITY="10.0") == "it has no kernels for compute capability 10.0"


def test_a_driver_that_is_too_old_is_named():
    told = run_elsewhere(OPEN, STAND_IN_OLD_DRIVER="1")
    assert told.endswith(" | Update the NVIDIA driver; dsmap doctor tells which CUDA it runs.")
    doctor = "from dsmap.runtime.doctor.gpu import try_provider\nprint(try_provider())"
    assert run_elsewhere(doctor, STAND_IN_OLD_DRIVER="1").endswith(
        "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    )


@pytest.mark.parametrize("library", ["libcudnn.so.9", "libcublas.so.13"])
def test_a_missing_library_is_named_before_any_session(library, tmp_path):
    lib = Path(shutil.copytree(Path(os.environ["DSMAP_GPU_WHEEL"]) / "lib", tmp_path / "lib"))
    (lib / library).unlink()
    told = run_elsewhere(OPEN, LD_LIBRARY_PATH=str(lib))
    assert told.startswith(f"ONNX Runtime cannot load its CUDA provider: {library}")
    assert "dsmap[gpu]" in told
