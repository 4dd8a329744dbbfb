"""The runners for NVIDIA GPUs on machines without one: engines are really built, the chain runs on stand-ins."""

import ctypes
import itertools
import json
import logging
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import onnx
import pytest
from gpu_doubles import FLAVOUR, CpuContext, CpuEngine, CpuEngineStore, LateCuda, OneSizeEngineStore

from dsmap.errors import DsmapError, InputError
from dsmap.runtime import Translator, translator
from dsmap.runtime.backends import gpu_graph, onnxruntime_cuda, pinned_memory, registry
from dsmap.runtime.backends import onnxruntime_session as _onnxruntime
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.backends.cuda_norms import cuda_norms
from dsmap.runtime.backends.device_result import nv12_graph
from dsmap.runtime.backends.node_placement import placement
from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU
from dsmap.runtime.backends.pinned_memory import PinnedMemory
from dsmap.runtime.backends.registry import load_backend
from dsmap.runtime.backends.tensorrt import backend as tensorrt
from dsmap.runtime.backends.tensorrt import executor as executor_module
from dsmap.runtime.backends.tensorrt.backend import TensorRT, TensorRTRTX
from dsmap.runtime.backends.tensorrt.engine import TrtContext, TrtEngine
from dsmap.runtime.bundle import bundle as bundle_format
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.cuda.base import OutOfMemoryError
from dsmap.runtime.cuda.bindings import load_cuda
from dsmap.runtime.engines import build as build_module
from dsmap.runtime.engines import store as store_module
from dsmap.runtime.engines import tensorrt_api as trt
from dsmap.runtime.engines.build import build_engine
from dsmap.runtime.engines.failures import failure
from dsmap.runtime.engines.sidecars import read_sidecar, sidecar_path
from dsmap.runtime.engines.size_profile import Size, SizeProfile
from dsmap.runtime.engines.store import EngineStore

GPU_BACKENDS = ("tensorrt", "tensorrt-rtx", "cuda")


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle.read(tiny_bundle)


@pytest.fixture(scope="module")
def by_cpu(bundle) -> OnnxRuntimeCPU:
    return OnnxRuntimeCPU(bundle, "winter", BackendSettings(threads=1))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gpu(monkeypatch) -> LateCuda:
    """A machine with a GPU, as far as the runner can tell."""
    cuda = LateCuda()
    monkeypatch.setattr(tensorrt, "need_gpu", lambda: "8.9")
    monkeypatch.setattr(tensorrt, "load_trt", lambda wanted: FLAVOUR)
    monkeypatch.setattr(tensorrt, "load_cuda", lambda binding: cuda)
    monkeypatch.setattr(tensorrt, "EngineStore", CpuEngineStore)

    def engine(flavour, data, title, profile, own_graphs):
        assert flavour is FLAVOUR
        assert own_graphs == (cuda.no_graphs is not None)
        return CpuEngine(cuda, data, title, profile)

    monkeypatch.setattr(tensorrt, "TrtEngine", engine)
    monkeypatch.setattr(CpuEngineStore, "refuse", {}, raising=False)
    return cuda


def frames(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def styles(n: int, seed: int = 0) -> np.ndarray:
    return np.repeat(np.random.default_rng(seed).standard_normal((1, 3)).astype(np.float32), n, 0)


def make(bundle, at_once=3) -> TensorRT:
    return TensorRT(bundle, "winter", BackendSettings(frames_at_once=at_once))


# The chain


def test_equals_the_cpu_at_changing_sizes_batches_and_styles(gpu, bundle, by_cpu):
    backend, done = make(bundle, at_once=1), []
    for i, (n, height, width) in enumerate(((1, 32, 40), (2, 16, 24), (1, 32, 40), (1, 32, 40), (1, 48, 16))):
        image, style = frames(n, height, width, i), styles(n, i // 2)
        done.append((backend.translate(image, style), by_cpu.translate(image, style)))
    backend.close()
    for got, expected in done:  # after all: a result may not change with the next frame
        np.testing.assert_array_equal(got, expected)


def test_frames_under_way_do_not_mix(gpu, bundle, by_cpu):
    """Three at a time, waited for in any order and from other threads, the style changing, frames changed at once."""
    backend = make(bundle)
    for round_, order in enumerate(itertools.permutations(range(3))):
        begun = []
        for i in range(3):
            image, style = frames(1, 24, 32, 3 * round_ + i), styles(1, (round_ + i) // 2)
            begun.append((backend.submit(image, style), image.copy(), style))
            image[:] = 0  # it was copied
        for i in order:
            wait, image, style = begun[i]
            got: list[np.ndarray] = []
            thread = threading.Thread(target=lambda wait=wait, got=got: got.append(wait()))
            thread.start()
            thread.join()
            np.testing.assert_array_equal(got[0], by_cpu.translate(image, style))
    backend.close()


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_streams_compute_side_by_side_and_share_nothing(gpu, bundle, by_cpu, streams):
    """With what runs on one stream between the steps of what runs on another."""
    gpu.eager = True
    backend = TensorRT(bundle, "winter", BackendSettings(frames_at_once=9, streams=streams))
    assert (backend.in_flight, backend.concurrency) == (streams + 2, streams)
    gpu.ran.clear()
    for round_ in range(4):
        begun = []
        for i in range(backend.in_flight):
            image, style = frames(1, 24, 32, 9 * round_ + i), styles(1, (round_ + i) // 2)
            begun.append((backend.submit(image, style), image, style))
        for wait, image, style in reversed(begun):
            np.testing.assert_array_equal(wait(), by_cpu.translate(image, style))
    computed = [what.removeprefix("enqueue ") for what in gpu.ran if re.match("enqueue (content|mapping|dec)", what)]
    in_turn = ["content_encoder", "mapping", "decoder"] * (len(computed) // 3)
    assert (computed == in_turn) == (streams == 1)  # side by side, or in turn
    backend.close()
    assert (gpu.memory_of, gpu.hosts, gpu.graphs, gpu.events) == ({}, {}, {}, {})


def test_what_lanes_share_would_be_seen(gpu, bundle, by_cpu, monkeypatch):
    """The test above fails where two streams use the same activations."""
    gpu.eager = True
    between: dict = {}
    real = executor_module.ComputeLane.__init__

    def shared(self, stream, style_context):
        real(self, stream, style_context)
        self.between = between

    monkeypatch.setattr(executor_module.ComputeLane, "__init__", shared)
    backend = TensorRT(bundle, "winter", BackendSettings(frames_at_once=9, streams=2))
    images = [frames(1, 24, 32, i) for i in range(4)]
    got = [wait() for wait in [backend.submit(image, styles(1)) for image in images]]
    assert any((out != by_cpu.translate(image, styles(1))).any() for out, image in zip(got, images, strict=True))


def test_a_size_that_does_not_fit_twice_runs_on_one_stream(gpu, bundle, by_cpu, caplog):
    two = TensorRT(bundle, "winter", BackendSettings(frames_at_once=9, streams=2))
    two.translate(frames(1, 48, 48), styles(1))
    gpu.room -= gpu.memory()[0] + 1
    two.close()
    assert (gpu.memory_of, caplog.messages) == ({}, [])
    backend = TensorRT(bundle, "winter", BackendSettings(frames_at_once=9))
    image = frames(1, 48, 48, 1)
    np.testing.assert_array_equal(backend.translate(image, styles(1)), by_cpu.translate(image, styles(1)))
    assert "48x48 does not fit on 2 streams: one is used" in caplog.messages
    with pytest.raises(InputError, match="--streams is 9"):
        TensorRT(bundle, "winter", BackendSettings(streams=9))


def test_frames_of_a_video_in_flight_do_not_depend_on_the_hosts_cores(gpu, bundle, monkeypatch):
    monkeypatch.setattr(registry, "need_gpu", lambda: "8.9")
    monkeypatch.setattr(translator, "allowed_cores", lambda: 2)
    for name, in_flight, at_once in (("tensorrt", 6, 4), ("cpu", 3, 2)):
        streams = 4 if name == "tensorrt" else None
        made = Translator.load(bundle, domain="winter", backend=name, for_frames=(64, 48), streams=streams)
        assert (made.in_flight, made.concurrency) == (in_flight, at_once)
        made.close()


def test_the_number_of_streams_reaches_the_backend(gpu, bundle, monkeypatch):
    monkeypatch.setattr(registry, "need_gpu", lambda: "8.9")
    made = Translator(bundle, "winter", "tensorrt", settings=BackendSettings(frames_at_once=9, streams=3))
    assert (made.concurrency, made.in_flight) == (3, 5)
    for name in ("cpu", "auto"):  # there is no TensorRT for auto
        monkeypatch.setattr(registry, "need_gpu", no_gpu_here)
        monkeypatch.setattr(tensorrt, "need_gpu", no_gpu_here)
        with pytest.raises(InputError, match="--streams is for TensorRT, and the backend is cpu"):
            Translator(bundle, "winter", name, settings=BackendSettings(streams=2))


def no_gpu_here() -> str:
    raise DsmapError("no NVIDIA GPU or driver here", "Run nvidia-smi.")


def test_copies_wait_for_no_computation_of_another_frame(gpu, bundle):
    backend = TensorRT(bundle, "winter", BackendSettings(frames_at_once=3, streams=1))
    gpu.ran.clear()
    first = [backend.submit(frames(1, 16, 16, i), styles(1)) for i in range(3)]
    assert gpu.ran == []
    upload = backend._streams.upload
    gpu.run_until(upload, len(gpu.streams[upload]))
    assert gpu.ran.count("upload 768") == 3
    assert not any(what.startswith(("enqueue", "download")) for what in gpu.ran)
    first[0]()
    assert gpu.ran.count("download 768") == 1
    assert gpu.ran.count("enqueue decoder") == 1  # the second and third frame have not been computed for it
    for wait in first[1:]:
        wait()
    assert gpu.ran.count("enqueue decoder") == 3
    backend.close()


def test_the_chain_is_captured_once_for_each_slot_and_size(gpu, bundle, by_cpu):
    backend = make(bundle, at_once=2)
    assert "CUDA graphs" in backend.description
    for i in range(8):
        shape = (1, 24, 24) if i % 2 else (1, 16, 16)
        image = frames(*shape, i)
        np.testing.assert_array_equal(backend.translate(image, styles(1)), by_cpu.translate(image, styles(1)))
    # One by one the two slots take turns: of four frames of a size two ran as they are, two as graphs.
    assert gpu.log.count("begin_capture") == gpu.log.count("end_capture") == 4
    assert gpu.log.count("launch") == 4
    assert backend.graphs_in_use
    for i in range(6):
        backend.translate(frames(1, 16, 16, i), styles(1, i))
    assert gpu.log.count("begin_capture") == 4
    assert gpu.log.count("launch") == 10
    backend.close()


@pytest.mark.parametrize("way", ["begin_capture", "enqueue", "end_capture", "engine"])
def test_a_refused_capture_is_told_and_the_frames_are_the_same(gpu, bundle, by_cpu, way, caplog, monkeypatch):
    backend = make(bundle, at_once=1)
    image, style = frames(1, 16, 24), styles(1)
    expected = by_cpu.translate(image, style)
    np.testing.assert_array_equal(backend.translate(image, style), expected)
    if way == "engine":
        monkeypatch.setattr(CpuContext, "refusal", "it is not capturable")
    else:
        gpu.fail[way] = DsmapError("it is not capturable", "No.")
    for _ in range(3):
        np.testing.assert_array_equal(backend.translate(image, style), expected)
    assert gpu.capturing == {}
    assert caplog.text.count("without CUDA graphs, which makes no difference but in speed: it is not capturable") == 1
    assert "launch" not in gpu.log
    backend.close()


def test_a_binding_without_graphs_is_told(gpu, bundle):
    gpu.no_graphs = "PyCUDA cannot capture CUDA graphs"
    backend = make(bundle)
    for i in range(4):
        backend.translate(frames(1, 16, 16, i), styles(1))
    assert "no CUDA graphs (PyCUDA cannot capture CUDA graphs)" in backend.description
    assert "begin_capture" not in gpu.log


def test_a_style_goes_up_only_when_it_changes(gpu, bundle):
    backend = make(bundle, at_once=2)
    gpu.log.clear()
    for i in range(12):
        backend.translate(frames(1, 16, 16, i), styles(1, i // 6))
    assert gpu.log.count("upload 768") == 12
    assert gpu.log.count("upload 12") == gpu.log.count("enqueue style_mlp") == 4  # two styles in two slots
    backend.close()


def test_bundles_without_mapping(gpu, bundle):
    components = bundle.manifest.components.model_copy(update={"mapping": {}})
    changed = Bundle(bundle.folder, bundle.manifest.model_copy(update={"components": components}))
    image, style = frames(1, 16, 32), styles(1)
    backend = make(changed)
    gpu.log.clear()
    output = backend.translate(image, style)
    expected = OnnxRuntimeCPU(changed, "winter", BackendSettings(threads=1)).translate(image, style)
    assert np.abs(output.astype(int) - expected).max() <= 1
    assert ("enqueue mapping" in gpu.log, "enqueue style_mlp" in gpu.log) == (False, True)
    for _ in range(3):  # every slot has the style
        backend.translate(image, style)
    gpu.fail["wait"] = DsmapError("it broke", "Mend it.")
    with pytest.raises(DsmapError, match="it broke"):
        backend.submit(image, styles(1, 1))
    for _ in range(3):  # and none what the failure left there
        np.testing.assert_array_equal(backend.translate(image, style), output)
    backend.close()


def test_reconstruction_takes_the_targets_own_encoder(gpu, bundle):
    settings = BackendSettings(source="winter", threads=1)
    image, style = frames(1, 16, 16), styles(1)
    expected = OnnxRuntimeCPU(bundle, "winter", settings).translate(image, style)
    np.testing.assert_array_equal(TensorRT(bundle, "winter", settings).translate(image, style), expected)


def test_what_does_not_fit_together_is_told(gpu, bundle, monkeypatch):
    """A size that an engine answers otherwise would be read beyond its memory."""
    backend = make(bundle)
    real = CpuEngine.dtype

    def dtype(self, tensor):
        return np.dtype(np.float16) if self.title.startswith("decoder") and tensor == "mapped" else real(self, tensor)

    monkeypatch.setattr(CpuEngine, "dtype", dtype)
    with pytest.raises(DsmapError, match=r"decoder\.winter fp32 takes mapped as float16, expected float32"):
        backend.translate(frames(1, 16, 16), styles(1))


# Memory, ends


def test_sizes_used_longest_ago_are_thrown_away(gpu, bundle, monkeypatch):
    monkeypatch.setattr(tensorrt, "EngineStore", OneSizeEngineStore)
    backend = make(bundle)
    used = []
    for side in (16, 24, 32, 40, 48, 56, 64):
        backend.translate(frames(1, side, side), styles(1))
        backend.translate(frames(1, side, side), styles(1))
        used.append(len(gpu.memory_of))
    assert len(set(used[2:])) == 1
    assert len(gpu.graphs) <= 9
    opened = [engine for engines in backend._engines.values() for engine in engines]
    assert len(opened) <= 4 * 3
    backend.close()
    assert (gpu.memory_of, gpu.hosts, gpu.graphs, gpu.events) == ({}, {}, {}, {})
    assert gpu.closed


def test_a_full_device_throws_old_sizes_away_first(gpu, bundle):
    backend = make(bundle, at_once=1)
    backend.translate(frames(1, 32, 32), styles(1))
    gpu.room -= gpu.memory()[0] - 1000
    assert backend.translate(frames(1, 24, 32), styles(1)).shape == (1, 24, 32, 3)
    assert len(backend._executors) == 1
    gpu.room = sum(memory.nbytes for memory in gpu.memory_of.values())
    with pytest.raises(DsmapError, match="out of memory"):
        backend.translate(frames(1, 64, 64), styles(1))
    backend.close()
    assert (gpu.memory_of, gpu.hosts) == ({}, {})


def test_a_device_without_room_for_an_engine_throws_old_sizes_away_first(gpu, bundle, by_cpu, monkeypatch):
    """TensorRT tells of a full device where it loads weights, too."""
    monkeypatch.setattr(tensorrt, "EngineStore", OneSizeEngineStore)
    backend = make(bundle, at_once=1)
    backend.translate(frames(1, 32, 32), styles(1))
    before = {engine for engines in backend._engines.values() for engine in engines}
    gpu.room -= gpu.memory()[0] - 1000
    image = frames(1, 24, 32)
    np.testing.assert_array_equal(backend.translate(image, styles(1)), by_cpu.translate(image, styles(1)))
    assert len(backend._executors) == 1
    assert any(engine.closed for engine in before)
    backend.close()
    assert (gpu.memory_of, gpu.hosts) == ({}, {})


def test_a_device_without_room_to_build_throws_old_sizes_away_first(gpu, bundle, by_cpu, monkeypatch):
    """Engines of new sizes are built while those of old ones are on the device."""
    monkeypatch.setattr(tensorrt, "EngineStore", OneSizeEngineStore)
    backend = make(bundle, at_once=1)
    backend.translate(frames(1, 32, 32), styles(1))
    opened = OneSizeEngineStore.open

    def full(self, component, domain, size, *more):
        if backend._executors:
            raise failure(f"TensorRT 11.4 cannot build {component}: Error Code 2: OutOfMemory (no details)", "Others.")
        return opened(self, component, domain, size, *more)

    monkeypatch.setattr(OneSizeEngineStore, "open", full)
    image = frames(1, 24, 32)
    np.testing.assert_array_equal(backend.translate(image, styles(1)), by_cpu.translate(image, styles(1)))
    assert len(backend._executors) == 1
    backend.close()


def test_a_build_that_fails_for_memory_says_so(bundle, rtx, monkeypatch):
    words = "Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)"
    monkeypatch.setattr(trt.Log, "last_error", lambda self: words)
    real = build_module.new_builder

    def failing(flavour, log):
        made = real(flavour, log)
        names = ("create_network", "create_builder_config", "create_optimization_profile")
        return SimpleNamespace(
            build_serialized_network=lambda *_given: None, **{name: getattr(made, name) for name in names}
        )

    monkeypatch.setattr(build_module, "new_builder", failing)
    with pytest.raises(OutOfMemoryError, match="cannot build mapping"):
        EngineStore(bundle, rtx, "8.6", "fp32").open("mapping", "winter", Size(32, 32), 1, loaded)


def test_what_tensorrt_says_of_a_full_device(gpu, bundle, monkeypatch):
    """By its words, or where less is free than the engine holds; any other failure is the engine's own."""
    backend = make(bundle)
    profile = SizeProfile.parse("16x16")

    def load(words: str) -> None:
        flavour = trt.Flavour("tensorrt", "11.4", TrtModule([], False, refusal=words))
        monkeypatch.setattr(backend, "_trt", flavour)
        monkeypatch.setattr(tensorrt, "TrtEngine", TrtEngine)
        backend._load(b"bytes" * 1000, "decoder.winter fp16", profile)

    for words in (
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        "IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was 5000 bytes.)",
        "Requested amount of GPU memory (5000 bytes) could not be allocated.",
    ):
        with pytest.raises(OutOfMemoryError, match="cannot load decoder"):
            load(words)
    with pytest.raises(DsmapError, match="engine plan file is not compatible") as caught:
        load("Error Code 6: The engine plan file is not compatible with this version of TensorRT")
    assert not isinstance(caught.value, OutOfMemoryError)
    gpu.room -= gpu.memory()[0] - 1000
    with pytest.raises(OutOfMemoryError, match="0 MB are free"):
        load("Error Code 4: internal error")
    backend.close()


def test_a_frame_that_fails_leaves_the_next_ones_right(gpu, bundle, by_cpu):
    backend = make(bundle, at_once=2)
    image, style = frames(1, 16, 16), styles(1)
    backend.translate(image, style)
    for what in ("upload", "enqueue", "wait", "download"):
        gpu.fail[what] = DsmapError("it broke", "Mend it.")
        with pytest.raises(DsmapError, match="it broke"):
            backend.submit(frames(1, 16, 16, 1), styles(1, 1))
        gpu.fail.clear()
        for again in (styles(1, 1), style):  # the style that failed is not on the device, or only half
            pending = [backend.submit(image, again) for _ in range(2)]
            for wait in pending:
                np.testing.assert_array_equal(wait(), by_cpu.translate(image, again))
    backend.close()


def test_more_frames_than_slots_are_refused(gpu, bundle):
    backend = make(bundle, at_once=9)
    assert (backend.in_flight, backend.concurrency) == (4, 2)
    waits = [backend.submit(frames(1, 16, 16), styles(1)) for _ in range(4)]
    with pytest.raises(DsmapError, match="more than 4 frames are under way"):
        backend.submit(frames(1, 16, 16), styles(1))
    for wait in waits:
        wait()
    assert (make(bundle, at_once=1).in_flight, make(bundle, at_once=1).concurrency) == (1, 1)


def test_what_was_cancelled_raises_and_what_comes_later_does_not(gpu, bundle, by_cpu):
    backend = make(bundle, at_once=2)
    image, style = frames(1, 16, 16), styles(1)
    waits = [backend.submit(image, style) for _ in range(2)]
    backend.cancel()
    for wait in waits:
        with pytest.raises(DsmapError, match="cancelled"):
            wait()
    np.testing.assert_array_equal(backend.translate(image, style), by_cpu.translate(image, style))


@pytest.mark.parametrize("name", ["tensorrt", "cuda"])
def test_after_the_end_nothing_is_touched(gpu, bundle, name):
    """On a GPU memory, events and streams are gone: what is used of them ends the process."""
    settings = BackendSettings(frames_at_once=2)
    backend = TensorRT(bundle, "winter", settings) if name == "tensorrt" else BoundOnTheCpu(bundle, "winter", settings)
    image, style = frames(1, 16, 16), styles(1)
    wait = backend.submit(image, style)
    backend.close()
    if name == "cuda":  # it was computed before the end
        assert wait().shape == image.shape
    else:
        with pytest.raises(DsmapError, match="the translator is closed"):
            wait()
    with pytest.raises(DsmapError, match="the translator is closed"):
        backend.submit(image, style)
    assert gpu.memory_of == {}


def test_an_engine_that_does_not_run_is_found_out_at_once(gpu, bundle):
    CpuEngineStore.refuse["style_mlp"] = DsmapError("it was built for another GPU", "Build it.")
    with pytest.raises(DsmapError, match="built for another GPU"):
        make(bundle)
    assert gpu.closed
    CpuEngineStore.refuse.clear()
    gpu.fail["enqueue"] = DsmapError("no kernel image is available", "Buy one.")
    with pytest.raises(DsmapError, match="no kernel image"):
        make(bundle)
    assert (gpu.memory_of, gpu.hosts) == ({}, {})


def test_stage_times_name_every_stage(gpu, bundle):
    backend = make(bundle)
    times = backend.stages_ms(frames(1, 16, 16), styles(1))
    assert times == {"upload": 0.25, "encoder": 1, "mapping": 2, "decoder": 4, "download": 0.5}
    backend.close()
    assert gpu.events == {}


def test_a_style_image_on_the_cpu_or_by_an_engine(gpu, bundle, by_cpu, monkeypatch):
    backend = make(bundle)
    image = frames(1, 32, 40)
    expected = by_cpu.encode_style(image)
    np.testing.assert_allclose(backend.encode_style(image), expected, atol=1e-5)
    assert "enqueue style_encoder" not in gpu.log
    monkeypatch.setattr(tensorrt, "onnxruntime_installed", lambda: False)
    np.testing.assert_allclose(backend.encode_style(image), expected, atol=1e-5)
    assert "enqueue style_encoder" in gpu.log


def test_precisions(gpu, bundle):
    with pytest.raises(DsmapError, match="not int8"):
        TensorRT(bundle, "winter", BackendSettings(precision="int8"))
    shipped = Bundle.read(find_model("summer-winter"))
    assert shipped.find("decoder", "winter", "fp16")[1] == "fp16"
    assert bundle.find("decoder", "winter", "fp16")[1] == "fp32"


# Engines: real builds by TensorRT for RTX, which needs no GPU for them


@pytest.fixture(scope="module")
def rtx() -> trt.Flavour:
    pytest.importorskip("tensorrt_rtx")
    return trt.load_trt("rtx")


@pytest.mark.parametrize(
    ("size", "profile"),
    [
        (Size(256, 256), "128x128:256x256:512x512"),
        (Size(1280, 720), "640x360:1280x720:2560x1440"),
        (Size(24, 16), "16x16:24x16:48x32"),
        (Size(16384, 16), "8192x16:16384x16:16384x32"),
    ],
)
def test_sizes_of_an_engine_that_is_built(bundle, size, profile):
    found = EngineStore(bundle, FLAVOUR, "8.9", "fp32").profile(size, 2, "decoder")
    assert (str(found), found.max_batch) == (profile, 2)
    assert found.takes(*size, 2)


def loaded(data: bytes, title: str, profile: SizeProfile) -> tuple[int, str, str]:
    return len(data), title, str(profile)


def test_an_engine_is_built_once_kept_and_told(bundle, rtx, own_cache, caplog):
    store = EngineStore(bundle, rtx, "8.6", "fp32")
    size, title = Size(32, 24), "mapping.winter fp32"
    first = store.open("mapping", "winter", size, 1, loaded)
    assert first[0] > 1000
    assert first[1:] == (title, "16x16:32x24:64x48")
    line = f"building the engine {title} for 32x24 with {rtx.title}, kept for the next time"
    assert caplog.messages == [line]
    again = EngineStore(bundle, rtx, "8.6", "fp32")
    assert again.open("mapping", "winter", size, 1, loaded) == first
    assert again.open("mapping", "winter", Size(64, 16), 1, loaded) == first  # within its sizes
    assert caplog.messages == [line]
    (engine,) = (own_cache / "engines").glob("*.engine")

    # Another TensorRT's is built again, and why is told.
    sidecar = json.loads(sidecar_path(engine).read_text())
    sidecar["key"]["version"] = "1.0.0"
    sidecar_path(engine).write_text(json.dumps(sidecar))
    assert again.open("mapping", "winter", size, 1, loaded)[1:] == first[1:]
    assert "it was built by another TensorRT version: 1.0.0, expected" in caplog.messages[1]
    assert read_sidecar(engine).key.version == rtx.version

    # So is one that does not load, once.
    refusals = [DsmapError("it does not load", "No.")]

    def picky(data: bytes, title: str, profile: SizeProfile) -> tuple[int, str, str]:
        if refusals:
            raise refusals.pop()
        return loaded(data, title, profile)

    assert again.open("mapping", "winter", size, 1, picky)[1:] == first[1:]
    assert caplog.messages[2] == f"{line} (it does not load)"
    refusals += [DsmapError("never", "No."), DsmapError("never", "No.")]
    with pytest.raises(DsmapError, match="never"):
        again.open("mapping", "winter", size, 1, picky)


def test_the_bundles_own_engine_comes_first(bundle, rtx, tmp_path, own_cache, caplog):
    shutil.copytree(bundle.folder, tmp_path / "copy")
    copy = Bundle.read(tmp_path / "copy")
    (copy.folder / "engines").mkdir()
    build_engine(
        copy.folder / "mapping.winter.onnx",
        copy.folder / "engines" / "mapping.winter.fp32.rtx.32x32.engine",
        component="mapping",
        domain="winter",
        precision="fp32",
        profile=SizeProfile.parse("32x32"),
        flavour=rtx,
        architectures=("8.0+",),
    )
    store = EngineStore(copy, rtx, "8.9", "fp32")
    assert store.open("mapping", "winter", Size(32, 32), 1, loaded)[2] == "32x32"
    assert caplog.messages == []
    assert store.open("mapping", "winter", Size(40, 32), 1, loaded)[2] == "16x16:40x32:80x64"
    assert "it is for 32x32 in batches of up to 1, not for 1 of 40x32" in caplog.messages[0]
    assert len(list((own_cache / "engines").glob("*.engine"))) == 1
    assert store.open("mapping", "winter", Size(32, 32), 2, loaded)[2] == "16x16:32x32:64x64"


def test_a_gpu_that_tensorrt_does_not_name(bundle, rtx, own_cache):
    """CURRENT needs the GPU to be there; then what runs on it and all later ones is built."""
    assert "9.0" not in trt.known_architectures(rtx)
    EngineStore(bundle, rtx, "9.0", "fp32").open("style_mlp", "winter", Size(32, 32), 1, loaded)
    (engine,) = (own_cache / "engines").glob("*.engine")
    assert read_sidecar(engine).key.architectures == ("8.0+",)


def test_a_build_can_be_stopped(bundle, rtx, own_cache, monkeypatch):
    store = EngineStore(bundle, rtx, "8.6", "fp32")
    monkeypatch.setattr(store_module, "log_line", lambda line: None)
    real = store_module.build_engine

    def stopped(*args, **options):
        store.stop()
        return real(*args, **options)

    monkeypatch.setattr(store_module, "build_engine", stopped)
    with pytest.raises(DsmapError, match=r"stopped while building mapping\.winter fp32"):
        store.open("mapping", "winter", Size(32, 32), 1, loaded)
    assert list((own_cache / "engines").glob("*.engine")) == []
    monkeypatch.setattr(store_module, "build_engine", real)
    assert store.open("mapping", "winter", Size(32, 32), 1, loaded)[0] > 1000


def test_an_engine_is_built_by_one_process_while_others_wait(bundle, rtx, monkeypatch):
    """Two that build the same write an engine and a sidecar that do not belong together."""
    real, built, waiting = store_module.build_engine, [], threading.Event()
    monkeypatch.setattr(store_module, "log_line", lambda line: waiting.set() if line.startswith("waiting") else None)

    def slow(*args, **options):
        built.append(args)
        assert waiting.wait(60)
        return real(*args, **options)

    monkeypatch.setattr(store_module, "build_engine", slow)
    given: list[object] = []

    def job() -> None:
        store = EngineStore(bundle, rtx, "8.6", "fp32")
        given.append(store.open("mapping", "winter", Size(32, 32), 1, lambda data, *_more: data))

    threads = [threading.Thread(target=job) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(built) == 1
    assert len(given) == 2
    assert given[0] == given[1]


def test_without_a_gpu_a_real_engine_does_not_load(bundle, rtx):
    if trt.current_architecture() is not None:
        pytest.skip("there is a GPU")

    def load(data: bytes, title: str, profile: SizeProfile) -> TrtEngine:
        return TrtEngine(rtx, data, title, profile, False)

    with pytest.raises(DsmapError, match=r"TensorRT for RTX .* cannot load style_mlp\.winter fp32: .+"):
        EngineStore(bundle, rtx, "8.6", "fp32").open("style_mlp", "winter", Size(32, 32), 1, load)


class TrtContextDouble:
    """An execution context that wants its calls in TensorRT's order, and sound addresses."""

    SCRATCH = 4096

    def __init__(self, calls: list[tuple[object, ...]]) -> None:
        self._calls = calls
        self.active_optimization_profile = -1
        self._shaped = False
        self._addresses: dict[str, int] = {}
        self._memory = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert profile == 0
        self._calls.append(("profile", profile, stream))
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.active_optimization_profile == 0, "shapes are of a profile"
        self._calls.append(("shape", name, shape))
        self._shaped = shape[0] < 9
        return self._shaped

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, 16, 16, 3) if self._shaped else (-1, -1, -1, 3)

    def update_device_memory_size_for_shapes(self) -> int:
        assert self._shaped
        return self.SCRATCH

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in ("frames", "out")
        self._calls.append(("address", name, address))
        self._addresses[name] = address
        return address > 0 and address % 256 == 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        assert size >= self.SCRATCH, "less than it asked for"
        self._calls.append(("memory", address, size))
        self._memory = address

    def execute_async_v3(self, stream: int) -> bool:
        assert self._shaped
        assert self._memory
        assert set(self._addresses) == {"frames", "out"}
        return stream != 13

    def is_stream_capturable(self, stream: int) -> bool:
        return stream != 13


class TrtModule(SimpleNamespace):
    """What of TensorRT's Python interface the runner calls, with the answers it gives.

    `refusal`: what TensorRT logs where it loads no engine.
    """

    def __init__(self, calls: list[tuple[object, ...]], is_rtx: bool, refusal: str | None = None) -> None:
        def note(name, answer=None):
            return lambda *args: (calls.append((name, *args)), answer)[1]

        cache = SimpleNamespace(
            deserialize=note("deserialize", True), serialize=lambda: b"kernels" * 9, reset=note("reset")
        )
        self.config = SimpleNamespace(
            set_execution_context_allocation_strategy=note("strategy"),
            create_runtime_cache=lambda: cache,
            set_runtime_cache=note("set_runtime_cache"),
        )
        engine = SimpleNamespace(
            num_io_tensors=2,
            num_optimization_profiles=1,
            get_tensor_name=["frames", "out"].__getitem__,
            get_tensor_mode=lambda name: name == "frames",
            get_tensor_dtype=lambda name: "uint8",
            create_execution_context=lambda how: (calls.append(("context", how)), TrtContextDouble(calls))[1],
        )
        if is_rtx:
            engine.create_runtime_config = lambda: self.config
            self.CudaGraphStrategy = SimpleNamespace(DISABLED="off", WHOLE_GRAPH_CAPTURE="whole")
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
        severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1)
        logger_type = type("ILogger", (), {"Severity": severity})

        def runtime(logger: object) -> SimpleNamespace:
            assert isinstance(logger, logger_type)

            def deserialize(data: object) -> SimpleNamespace | None:
                assert isinstance(data, bytes)
                if refusal is not None:
                    logger.log(severity.ERROR, refusal)
                return engine if refusal is None else None

            return SimpleNamespace(deserialize_cuda_engine=deserialize)

        super().__init__(
            Runtime=runtime,
            ILogger=logger_type,
            TensorIOMode=SimpleNamespace(INPUT=True),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
            nptype=np.dtype,
        )

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def test_contexts_of_plain_tensorrt_and_of_rtx(own_cache):
    profile = SizeProfile.parse("16x16")
    for is_rtx, own_graphs in ((False, False), (True, False), (True, True)):
        calls: list[tuple[object, ...]] = []
        module = TrtModule(calls, is_rtx)
        flavour = trt.Flavour("rtx" if is_rtx else "tensorrt", "1.7", module)
        engine = TrtEngine(flavour, b"bytes", "decoder.winter fp16", profile, own_graphs)
        context = engine.context(7)
        assert isinstance(context, TrtContext)
        assert ("profile", 0, 7) in calls
        assert ("context", module.config if is_rtx else "ours") in calls
        if is_rtx:
            assert ("strategy", "ours") in calls
            assert module.config.dynamic_shapes_kernel_specialization_strategy == "eager"
            assert module.config.cuda_graph_strategy == ("whole" if own_graphs else "off")
            assert ("deserialize", b"kernels" * 9) in calls or not own_graphs  # from the second start on
        assert context.shape({"frames": (1, 16, 16, 3)}) == {"out": (1, 16, 16, 3)}
        assert context.scratch_bytes() == 4096
        context.bind({"frames": 1024, "out": 2048}, 8192, 4096)
        assert calls[-3:] == [("address", "frames", 1024), ("address", "out", 2048), ("memory", 8192, 4096)]
        with pytest.raises(DsmapError, match="does not take an address for out"):
            context.bind({"frames": 1024, "out": 2049}, 8192, 4096)
        context.bind({"frames": 1024, "out": 2048}, 8192, 4096)
        context.enqueue(7)
        with pytest.raises(DsmapError, match=r"TensorRT stopped in decoder\.winter fp16"):
            context.enqueue(13)
        with pytest.raises(DsmapError, match="does not take frames as"):
            context.shape({"frames": (9, 16, 16, 3)})
        with pytest.raises(DsmapError, match="takes frames, expected image"):
            context.shape({"image": (1, 16, 16, 3)})
        assert context.capture_refusal(7) is None
        assert "not capturable" in context.capture_refusal(13)
        engine.close()
    (kept,) = (own_cache / "rtx-kernels").iterdir()
    assert kept.read_bytes() == b"kernels" * 9


# What is missing


@pytest.fixture
def no_gpu():
    if trt.current_architecture() is not None:
        pytest.skip("there is a GPU")


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_without_a_gpu_a_named_backend_stops(bundle, name, no_gpu):
    with pytest.raises(DsmapError) as caught:
        load_backend(name, bundle, "winter")
    assert caught.value.fact == "no NVIDIA GPU or driver here"
    assert "nvidia-smi" in caught.value.advice


def test_auto_tries_gpus_first_and_tells_once_what_is_missing(bundle, no_gpu):
    assert list(registry.BACKENDS)[:4] == [*GPU_BACKENDS, "cpu"]
    choice = load_backend("auto", bundle, "winter", BackendSettings(threads=1))
    assert choice.backend.name == "cpu"
    assert choice.reason.startswith("tensorrt, tensorrt-rtx, cuda: no NVIDIA GPU or driver here")
    assert choice.reason.count("no NVIDIA GPU") == 1


def test_auto_loads_nothing_of_a_gpus_where_there_is_none(tiny_bundle, tmp_path, no_gpu):
    code = (
        "import sys\nfrom dsmap.runtime import Translator\n"
        f"Translator.load({str(tiny_bundle)!r}, domain='winter')\n"
        "names = ('tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda', 'dsmap.runtime.cuda')\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture
def pretended_gpu(monkeypatch, no_gpu) -> None:
    """A driver answers, and nothing else is there."""
    for module in (registry, tensorrt, onnxruntime_cuda):
        monkeypatch.setattr(module, "need_gpu", lambda: "8.9")


def test_with_a_driver_every_backend_names_what_it_lacks(bundle, pretended_gpu, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    facts = {}
    for name in GPU_BACKENDS:
        with pytest.raises(DsmapError) as caught:
            load_backend(name, bundle, "winter")
        facts[name] = caught.value.fact
    assert facts["tensorrt"] == "tensorrt is not installed"
    assert facts["tensorrt-rtx"] == "tensorrt_rtx is not installed"
    assert facts["cuda"] == "the installed onnxruntime has no CUDA provider: it is the one for CPUs"
    reason = load_backend("auto", bundle, "winter", BackendSettings(threads=1)).reason
    assert reason.startswith("; ".join(f"{name}: {fact}" for name, fact in facts.items()))
    assert "\n" not in reason


def test_tensorrt_for_rtx_is_not_tried_where_it_is_known_not_to_run(bundle, pretended_gpu, monkeypatch):
    monkeypatch.setattr(registry, "need_gpu", lambda: "9.0")
    with pytest.raises(DsmapError, match=r"refuses its engines on GPUs of compute capability 9\.0") as caught:
        load_backend("tensorrt-rtx", bundle, "winter")
    assert "--backend tensorrt or cuda" in caught.value.advice
    assert "tensorrt-rtx: TensorRT for RTX refuses its engines" in load_backend("auto", bundle, "winter").reason


def test_a_placeholder_is_told_from_tensorrt(bundle, pretended_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(DsmapError, match="tensorrt is installed, but not its libraries") as caught:
        load_backend("tensorrt", bundle, "winter")
    assert "pypi.nvidia.com" in caught.value.advice


def test_without_a_working_cuda_the_binding_is_named(bundle, pretended_gpu, rtx):
    for binding, reason in (("auto", "pycuda"), ("cuda-python", "cuda-python is not|cudaError"), ("pycuda", "pycuda")):
        with pytest.raises(DsmapError, match=reason):
            load_backend("tensorrt-rtx", bundle, "winter", BackendSettings(cuda_binding=binding))
    with pytest.raises(InputError, match="no CUDA binding named 'cupy'"):
        load_cuda("cupy")


def test_a_cuda_provider_whose_libraries_are_missing(bundle, pretended_gpu, tmp_path, monkeypatch):
    """onnxruntime-gpu without the CUDA libraries: ONNX Runtime itself would go on with the CPU."""
    ort = ModuleType("onnxruntime")
    ort.__file__ = str(tmp_path / "onnxruntime" / "__init__.py")
    ort.InferenceSession = object
    ort.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    ort.preload_dlls = lambda: print("Failed to load libcublasLt.so.13")  # noqa: T201
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    with pytest.raises(DsmapError, match=r"cannot load its CUDA provider: .*providers_shared"):
        load_backend("cuda", bundle, "winter")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_fell_back_to_the_cpu_is_refused(bundle, by_cpu):
    ort = by_cpu._ort
    session = _onnxruntime.session_options(ort)
    with pytest.raises(DsmapError, match=r"runs .* on \['CPUExecutionProvider'\]"):
        _onnxruntime.open_session(
            ort,
            bundle.graph_data("mapping", "winter"),
            session,
            [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"],
        )


# ONNX Runtime with bound memory, on the CPU


# What the CUDA provider of onnxruntime-gpu 1.31.1 takes, of what its sessions tell; others stop it ("Unknown provider
# option").
CUDA_OPTIONS = {
    "device_id": r"\d+",
    "use_tf32": "[01]",
    "arena_extend_strategy": "kNextPowerOfTwo|kSameAsRequested",
    "cudnn_conv_algo_search": "EXHAUSTIVE|HEURISTIC|DEFAULT",
    "cudnn_conv_use_max_workspace": "[01]",
    "do_copy_in_default_stream": "[01]",
    "enable_cuda_graph": "[01]",
    "fuse_conv_bias": "[01]",
    "gpu_mem_limit": r"\d+",
    "prefer_nhwc": "[01]",
}


class BoundOnTheCpu(onnxruntime_cuda.OnnxRuntimeCUDA):
    """The CPU's provider in place of CUDA's. It is opened as CUDA's would be, with options that are checked."""

    _device, _provider = "cpu", "CPUExecutionProvider"
    given: ClassVar[list[dict[str, object]]] = []
    """The options of every session."""

    def _checked_onnxruntime(self):
        return _onnxruntime.import_onnxruntime()

    def _open(self, graph, options, providers):
        (name, given), then = providers
        assert (name, then) == ("CPUExecutionProvider", "CPUExecutionProvider")
        for option, value in given.items():
            assert re.fullmatch(CUDA_OPTIONS[option], str(value)), f"{option}={value}"
        self.given.append(given)
        return super()._open(graph, options, [name])


def differ_by_rounding(got, expected):
    """Layer norms in two steps are not bit for bit those of the CPU's graphs."""
    apart = np.abs(got.astype(int) - expected)
    return apart.max() <= 1 and apart.mean() < 0.01


def test_bound_memory_gives_what_the_cpu_gives(bundle, by_cpu):
    backend = BoundOnTheCpu(bundle, "winter")
    assert backend.precision == "fp32"
    outputs = []
    for i, (n, height, width) in enumerate(((1, 16, 24), (1, 16, 24), (1, 16, 24), (2, 24, 16), (1, 16, 24))):
        image, style = frames(n, height, width, i), styles(n, i // 2)
        outputs.append((backend.translate(image, style), by_cpu.translate(image, style)))
    for got, expected in outputs:  # after all: a result may not change with the next frame
        assert differ_by_rounding(got, expected)
    np.testing.assert_allclose(backend.encode_style(frames(1, 32, 32)), by_cpu.encode_style(frames(1, 32, 32)))
    with pytest.raises(DsmapError, match="ONNX Runtime stopped"):
        backend.translate(frames(1, 3, 5), styles(1))
    np.testing.assert_array_equal(backend.translate(image, style), outputs[-1][0])
    backend.close()


def test_the_first_frame_is_compared_with_the_cpu(bundle):
    right = BoundOnTheCpu(bundle, "winter")
    assert right.fault is None
    right.close()

    class Wrong(BoundOnTheCpu):
        def _translate(self, frames_nhwc, style_ns, keep=False):
            return 255 - super()._translate(frames_nhwc, style_ns, keep)

    wrong = Wrong(bundle, "winter")
    assert re.fullmatch(r"its frames in fp32 are \d+\.\d dB from the CPU's, and 35 dB are needed", wrong.fault)
    wrong.close()


def test_colours_are_converted_without_tf32(bundle):
    backend = BoundOnTheCpu(bundle, "winter")
    translation = backend.given[-1]
    backend._open_small(nv12_graph(16, 16))
    assert (translation["use_tf32"], backend.given[-1]) == (1, translation | {"use_tf32": 0})
    backend.close()


def test_bound_memory_of_frames_under_way_does_not_mix(bundle, by_cpu):
    backend = BoundOnTheCpu(bundle, "winter", BackendSettings(frames_at_once=9))
    assert backend.in_flight == 4  # three are computed, one waits
    for round_ in range(4):
        begun = []
        for i in range(3):
            image, style = frames(1, 24, 16 + 8 * (round_ % 2), 3 * round_ + i), styles(1, (round_ + i) // 2)
            begun.append((backend.submit(image, style), image, style))
        for wait, image, style in reversed(begun):
            assert differ_by_rounding(wait(), by_cpu.translate(image, style))
    backend.close()


def test_bound_memory_takes_fp16_where_the_bundle_has_it():
    shipped = find_model("summer-winter")
    half = BoundOnTheCpu(Bundle.read(shipped), "winter")
    assert half.precision == "fp16"
    with pytest.raises(DsmapError, match="not int8"):
        BoundOnTheCpu(Bundle.read(shipped), "winter", BackendSettings(precision="int8"))


def test_the_gpu_graph_has_no_layer_norm_that_one_block_would_compute():
    """The published network's mapping and decoder, and a network without mapping."""
    shipped = find_model("summer-winter")

    def read(component, domain, precision):
        return (shipped / bundle_format.graph_file(component, domain, precision)).read_bytes()

    for precision in ("fp32", "fp16"):
        encoder, decoder = read("content_encoder", "summer", precision), read("decoder", "winter", precision)
        for mapping in (read("mapping", "winter", precision), None):
            model = onnx.load_from_string(gpu_graph.gpu_graph(encoder, mapping, decoder))
            onnx.checker.check_model(model, full_check=True)
            assert [i.name for i in model.graph.input] == [gpu_graph.FRAMES, gpu_graph.STYLE]
            assert [o.name for o in model.graph.output] == [gpu_graph.OUTPUT]
            scales = {t.name: t.dims for t in model.graph.initializer}
            norms = [n for n in model.graph.node if n.op_type == "InstanceNormalization"]
            assert norms
            assert all(list(scales.get(n.input[1], [0])) != [1] for n in norms)


@pytest.mark.parametrize("norms", [gpu_graph.two_step_norms, cuda_norms])
def test_norms_without_names_and_epsilons_are_rewritten_too(norms):
    """As other exporters may write them: 1e-5 is ONNX's default."""
    whole = Bundle.read(find_model("summer-winter"))
    model = onnx.load_from_string(gpu_graph.bundle_gpu_graph(whole, "summer", "winter", "fp16", lambda _model: None))
    plain = onnx.ModelProto.FromString(model.SerializeToString())
    for node in plain.graph.node:
        node.name = ""
        kept = [attribute for attribute in node.attribute if attribute.name != "epsilon"]
        del node.attribute[:]
        node.attribute.extend(kept)
    image, outputs = frames(1, 64, 64), []
    for one in (model, plain):
        norms(one)
        onnx.checker.check_model(one, full_check=True)
        ort = _onnxruntime.import_onnxruntime()
        options = _onnxruntime.session_options(ort)
        session = _onnxruntime.open_session(ort, one.SerializeToString(), options, ["CPUExecutionProvider"])
        params = np.ones([1, *session.get_inputs()[1].shape[1:]], np.float32)
        outputs.append(session.run(None, {"frames": image, "style_params": params})[0])
    np.testing.assert_array_equal(*outputs)


def test_precision_is_said_as_it_is(bundle):
    """`auto` may round products to TF32, which is told; float32 asked for by name is float32."""
    auto, named = (BoundOnTheCpu(bundle, "winter", BackendSettings(precision=p)) for p in ("auto", "fp32"))
    assert auto.description.endswith("fp32 with TF32")
    assert named.description.endswith("fp32")
    assert [options["use_tf32"] for options in BoundOnTheCpu.given[-2:]] == [1, 0]
    half = Bundle.read(find_model("summer-winter"))
    assert BoundOnTheCpu(half, "winter").description.endswith("fp16")
    assert BoundOnTheCpu.given[-1]["use_tf32"] == 0


def test_debug_tells_where_nodes_run(bundle, caplog):
    caplog.set_level(logging.INFO, "dsmap")
    BoundOnTheCpu(bundle, "winter")
    assert caplog.messages == []
    caplog.set_level(logging.DEBUG, "dsmap")
    backend = BoundOnTheCpu(bundle, "winter")
    placed, options = caplog.messages
    assert re.fullmatch(r"cuda: \d{2,} nodes on CPUExecutionProvider", placed)
    assert options.startswith("cuda: device_id=")
    frame = frames(1, 16, 16)
    assert backend.translate(frame, styles(1)).shape == frame.shape


def test_nodes_that_are_not_on_the_first_provider_are_named():
    def part(provider: str, *nodes: tuple[str, str]) -> SimpleNamespace:
        return SimpleNamespace(
            ep_name=provider, get_nodes=lambda: [SimpleNamespace(op_type=kind, name=name) for kind, name in nodes]
        )

    parts = [part("CUDA", ("Conv", "a"), ("Add", "b")), part("CPU", ("Shape", "c")), part("CPU", ("Slice", ""))]
    session = SimpleNamespace(
        get_providers=lambda: ["CUDA", "CPU"], get_provider_graph_assignment_info=lambda: iter(parts)
    )
    assert placement(session).describe() == "2 nodes on CPU, 2 nodes on CUDA; not on CUDA: Shape c, Slice"
    parts.append(part("CPU", *[("Gather", str(i)) for i in range(30)]))
    assert placement(session).describe().endswith("Gather 17 and 12 more")
    assert "does not tell" in placement(SimpleNamespace(get_providers=lambda: ["CUDA"])).describe()


@pytest.mark.parametrize(
    ("capability", "served"),
    {
        "7.0": 0,
        "7.5": 1,
        "8.0": 1,
        "8.6": 1,
        "8.7": 1,
        "8.9": 1,
        "9.0": 1,
        "10.0": 0,
        "11.0": 0,
        "12.0": 1,
        "12.1": 0,
    }.items(),
)
def test_gpus_that_the_wheel_serves_are_known_by_name(bundle, pretended_gpu, tmp_path, monkeypatch, capability, served):
    ort = ModuleType("onnxruntime")
    ort.__version__, ort.__file__ = "1.31.1", str(tmp_path / "__init__.py")
    ort.InferenceSession = object
    ort.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    monkeypatch.setattr(onnxruntime_cuda, "need_gpu", lambda: capability)
    monkeypatch.setattr(onnxruntime_cuda, "missing_library", lambda folder: None)
    monkeypatch.setattr(onnxruntime_cuda.OnnxRuntimeCUDA, "_open_and_check", lambda self, source: None)
    assert onnxruntime_cuda.has_kernels("1.99.0", capability)  # not known: the first frame tells
    if served:
        load_backend("cuda", bundle, "winter")
        return
    with pytest.raises(DsmapError, match=f"no kernels for compute capability {capability} in onnxruntime-gpu 1.31.1"):
        load_backend("cuda", bundle, "winter")


class PinnedRuntime:
    """libcudart as far as pinned memory goes."""

    def __init__(self, room: int) -> None:
        self.room, self.held, self.cleared = room, {}, 0

    def cudaHostAlloc(self, pointer, size, flags):  # noqa: N802
        if size.value > self.room:
            return 2
        buffer = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(buffer)
        self.held[pointer._obj.value] = buffer
        return 0

    def cudaFreeHost(self, pointer):  # noqa: N802
        del self.held[pointer.value]
        return 0

    def cudaGetLastError(self):  # noqa: N802
        self.cleared += 1
        return 2


def test_pinned_memory_is_freed_and_does_without_where_it_is_refused(monkeypatch):
    runtime = PinnedRuntime(room=1000)
    monkeypatch.setattr(pinned_memory, "_loaded_runtime", lambda: runtime)
    memory = PinnedMemory()
    array = memory.array((2, 4, 4, 3))
    assert array.ctypes.data in runtime.held
    assert (array.shape, array.dtype, array.flags.c_contiguous) == ((2, 4, 4, 3), np.uint8, True)
    large = memory.array((2000,))
    assert (large.shape, runtime.cleared, memory.pinned) == ((2000,), 1, False)
    memory.free()
    memory.free()
    assert runtime.held == {}
    assert memory.array((900,)).ctypes.data in runtime.held  # the next size is tried again
    assert memory.pinned
    memory.free()
    monkeypatch.undo()
    assert PinnedMemory().array((3, 5)).shape == (3, 5)


def test_a_gpu_that_the_wheel_has_no_kernels_for_is_named(bundle, monkeypatch):
    class NoKernels(BoundOnTheCpu):
        def _translate(self, frames_nhwc, style_ns):
            raise DsmapError("ONNX Runtime stopped: CUDA failure 209: no kernel image is available", "Export again.")

    class NoSession(BoundOnTheCpu):
        def _open_session(self, source):
            raise DsmapError("ONNX Runtime cannot load the graph: no kernel image is available", "Export again.")

    monkeypatch.setattr(onnxruntime_cuda, "need_gpu", lambda: "10.0")
    for backend in (NoKernels, NoSession):
        with pytest.raises(DsmapError, match=r"no kernels for compute capability 10\.0"):
            backend(bundle, "winter")


def test_a_missing_cudnn_is_found_before_any_session(tmp_path, monkeypatch):
    for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
        (tmp_path / "empty.c").write_text("int nothing;")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / name), str(tmp_path / "empty.c")], check=True)
    monkeypatch.setattr(onnxruntime_cuda, "_CUDNN", "libcudnn-not-here.so.9")
    assert "libcudnn-not-here.so.9" in (onnxruntime_cuda.missing_library(tmp_path) or "")


def test_the_translator_works_with_the_runner(gpu, bundle, tiny_bundle, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(registry, "need_gpu", lambda: "8.9")
    ours = Translator(bundle, "winter", "tensorrt-rtx", settings=BackendSettings(frames_at_once=2))
    cpu = Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1)
    assert (ours.backend_name, ours.in_flight) == ("tensorrt-rtx", 2)
    assert isinstance(ours._backend, TensorRTRTX)
    for shape in ((33, 17), (20, 40), (33, 17)):
        image = frames(1, *shape)[0]
        np.testing.assert_array_equal(ours(image), cpu(image))
    image = frames(1, 40, 40, 9)[0]
    ours.set_style(image)
    cpu.set_style(image)
    np.testing.assert_array_equal(ours(image), cpu(image))
    ours.close()
