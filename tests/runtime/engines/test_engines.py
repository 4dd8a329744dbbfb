"""TensorRT engines, built for real by TensorRT for RTX, which needs no GPU for it; and when an engine is not used."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import make_model

from dsmap.common.cache_folder import user_cache_folder
from dsmap.errors import DsmapError, InputError
from dsmap.export.engines import EngineJob, build_bundle_engines, parse_gpu_arch, resolve_engines
from dsmap.export.graphs import graphs, write_graph
from dsmap.export.request import EngineRequest
from dsmap.runtime.engines.build import build_engine, build_plan, input_shapes
from dsmap.runtime.engines.build_options import BuildOptions
from dsmap.runtime.engines.cache import cached_engine_path, make_cache_folder
from dsmap.runtime.engines.lookup import check_engine, find_engine, read_engine
from dsmap.runtime.engines.progress import PROGRESS_STEPS, BuildMonitor
from dsmap.runtime.engines.sidecars import RECIPE, EngineKey, engine_name, read_sidecar, sidecar_path
from dsmap.runtime.engines.size_profile import SizeProfile
from dsmap.runtime.engines.tensorrt_api import (
    DEFAULT_ARCHITECTURES,
    Log,
    covers,
    current_architecture,
    engine_validity,
    load_trt,
    new_builder,
    new_network,
)
from dsmap.tools.export.engines import parse_engines

trt = pytest.importorskip("tensorrt_rtx")

PARTS = ("content_encoder", "mapping", "decoder", "style_mlp", "style_encoder")
DYNAMIC, FIXED = "64x64:128x96:640x384", "128x96"
without_gpu = pytest.mark.skipif(current_architecture() is not None, reason="says what happens without a GPU")


@pytest.fixture(scope="module")
def rtx():
    return load_trt("rtx")


@pytest.fixture(scope="module")
def graph_files(exported) -> dict[tuple[str, str], Path]:
    """The five parts that lead to winter, in both precisions."""
    names = {"fp32": "onnx", "fp16": "fp16.onnx"}
    return {(p, precision): exported.folder / f"{p}.winter.{end}" for p in PARTS for precision, end in names.items()}


@pytest.fixture(scope="module")
def options(rtx) -> dict:
    """What `build_engine` is told about the smallest part, and its graph."""
    return {"component": "style_mlp", "domain": "winter", "precision": "fp32", "flavour": rtx,
            "profile": SizeProfile.parse(DYNAMIC), "architectures": DEFAULT_ARCHITECTURES}  # fmt: skip


@pytest.fixture(scope="module")
def built(tiny_bundle, options, tmp_path_factory) -> Path:
    """One engine. Tests that change it copy its folder."""
    path = tmp_path_factory.mktemp("engines") / "style_mlp.engine"
    build_engine(tiny_bundle / "style_mlp.winter.onnx", path, **options)
    return path


@pytest.fixture
def engine(built, tmp_path) -> Path:
    return Path(shutil.copytree(built.parent, tmp_path / "engines")) / built.name


def types_in(path: Path) -> Counter:
    """(kind, type it takes) of an ONNX file's layers, counted from the file alone."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    kinds = {"Conv": "conv", "ConvTranspose": "conv", "MatMul": "product", "Gemm": "product",
             "InstanceNormalization": "norm", "GroupNormalization": "norm", "LayerNormalization": "norm"}  # fmt: skip
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return Counter((kinds[node.op_type], types[node.input[0]]) for node in model.graph.node if node.op_type in kinds)


@pytest.mark.parametrize("sizes", [DYNAMIC, FIXED])
def test_every_part_in_both_precisions(sizes, graph_files, rtx, tmp_path):
    jobs = [EngineJob(part, "winter", precision, path) for (part, precision), path in graph_files.items()]
    profile, lines = SizeProfile.parse(sizes, max_batch=2), []
    settings = {"profile": profile, "flavour": rtx, "architectures": DEFAULT_ARCHITECTURES, "say": lines.append}
    made = build_bundle_engines(tmp_path, jobs, **settings)
    assert len(made) == len(lines) == 10
    for built, line in zip(made, lines, strict=True):
        key, layers = built.sidecar.key, built.sidecar.layers
        part, precision = built.job.component, built.job.precision
        size_text = sizes.replace(":", "-")
        assert built.path == tmp_path / "engines" / f"{part}.winter.{precision}.rtx.{size_text}-b2.engine"
        assert (key.precision, key.profile, key.batch) == (precision, sizes, 2)
        assert line.startswith(f"built {part}.winter {precision} in ")
        assert engine_validity(rtx, built.path.read_bytes()).word in {"valid", "unknown"}

        # The counts are those of the file, not only those that TensorRT's parser gives.
        types = types_in(built.job.onnx)
        of_kind = Counter(kind for kind, _ in types.elements())
        assert (layers.convolutions, layers.products, layers.norms) == tuple(
            of_kind[kind] for kind in ("conv", "product", "norm")
        )
        assert layers.convolutions_half == types["conv", TensorProto.FLOAT16]
        assert layers.products_half == types["product", TensorProto.FLOAT16]
        assert layers.norms_float32 == types["norm", TensorProto.FLOAT] == layers.norms
        saved = json.loads(sidecar_path(built.path).read_text())
        if layers.convolutions:
            assert saved["conv_half_share"] == (precision == "fp16")
            assert f"{100 if precision == 'fp16' else 0} % of {layers.convolutions} convolutions in half" in line
    assert sum(built.sidecar.layers.convolutions for built in made) == 2 * 22

    lines.clear()
    again = build_bundle_engines(tmp_path, jobs[:2], **settings)
    assert [built.reused for built in again] == [True, True]
    assert all("is up to date" in line for line in lines)


CHANGES = {
    "onnx_sha256": ("0" * 64, r"from another ONNX file \(SHA-256\): .*, expected 0000000000000000"),
    "flavour": ("tensorrt", "flavour: rtx, expected tensorrt"),
    "version": ("9.9.9", "another TensorRT version: .*, expected 9.9.9"),
    "architectures": (("7.5",), r"another GPU architecture: 8\.0\+, expected 7\.5"),
    "precision": ("fp16", "precision differs: fp32, expected fp16"),
    "profile": ("512x512", f"sizes differ: {DYNAMIC}, expected 512x512"),
    "batch": (4, "batch differs: 1, expected 4"),
    "device": ("NVIDIA GeForce RTX 4060, 24 multiprocessors, 8 GiB", "another GPU: , expected NVIDIA GeForce RTX 4060"),
    "level": (5, "another optimisation level: None, expected 5"),
    "tf32": (False, r"other products of float32 \(TF32\): True, expected False"),
    "recipe": (RECIPE + 1, f"another version of dsmap does it: {RECIPE}, expected {RECIPE + 1}"),
}


def test_every_field_of_the_key_has_its_mismatch():
    assert set(CHANGES) == set(EngineKey.model_fields)


@pytest.mark.parametrize("field", CHANGES)
def test_another_key_is_refused(field, built, rtx):
    value, reason = CHANGES[field]
    key = read_sidecar(built).key
    assert check_engine(built, key) is None
    assert read_engine(built, key, rtx).data == built.read_bytes()
    with pytest.raises(DsmapError, match=reason) as caught:
        read_engine(built, key.model_copy(update={field: value}), rtx, advice="build it with MODEL")
    assert caught.value.advice == "build it with MODEL"
    found = check_engine(built, key.model_copy(update={field: value}))
    assert found is not None
    assert found in caught.value.fact
    assert "\n" not in found


def damage(engine: Path, how: str) -> None:
    data, sidecar = engine.read_bytes(), sidecar_path(engine)
    tree = json.loads(sidecar.read_text())
    match how:
        case "truncated":
            engine.write_bytes(data[:-1])
        case "one bit":
            engine.write_bytes(data[:999] + bytes([data[999] ^ 1]) + data[1000:])
        case "no engine":
            engine.unlink()
        case "no sidecar":
            sidecar.unlink()
        case "torn sidecar":
            sidecar.write_text(sidecar.read_text()[:200])
        case "foreign sidecar":
            sidecar.write_text('{"name": "something else"}')
        case "nested sidecar":
            sidecar.write_text("[" * 100_000)
        case "binary sidecar":
            sidecar.write_bytes(b"\xff\x00" * 50)
        case "sidecar of another engine":
            sidecar.write_text(json.dumps(tree | {"engine_sha256": "0" * 64}))
        case "odd sidecar":
            sidecar.write_text(json.dumps(tree | {"key": tree["key"] | {"architectures": ["new+"]}}))
        case "later sidecar":
            sidecar.write_text(json.dumps(tree | {"format_version": 2}))
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "damaged: .* bytes, expected"),
        ("one bit", "damaged or another file: SHA-256"),
        ("no engine", "does not exist"),
        ("no sidecar", "has no sidecar"),
        ("torn sidecar", "sidecar is damaged or not dsmap's: "),
        ("foreign sidecar", "sidecar is damaged or not dsmap's: key: "),
        ("nested sidecar", "sidecar is damaged"),
        ("binary sidecar", "sidecar is damaged"),
        ("sidecar of another engine", "damaged or another file: SHA-256 .*, expected 0000"),
        ("odd sidecar", r"sidecar is damaged or not dsmap's: key\.architectures\.0: "),
        ("later sidecar", "sidecar is damaged or not dsmap's: format_version: "),
    ],
)
def test_a_damaged_engine_is_refused(engine, rtx, how, reason):
    key = read_sidecar(engine).key
    damage(engine, how)
    with pytest.raises(DsmapError, match=reason):
        read_engine(engine, key, rtx)
    assert check_engine(engine, key) is not None


def test_tensorrt_is_asked_once_the_hash_is_right(engine, rtx):
    """A file whose sidecar fits, but whose header is not that of an engine."""
    import hashlib

    foreign = bytes(range(256)) * 16
    engine.write_bytes(foreign)
    tree = json.loads(sidecar_path(engine).read_text())
    tree |= {"engine_sha256": hashlib.sha256(foreign).hexdigest(), "bytes": len(foreign)}
    sidecar_path(engine).write_text(json.dumps(tree))
    key = read_sidecar(engine).key
    assert check_engine(engine, key) is None
    with pytest.raises(DsmapError, match="calls it invalid on this machine: malformed engine"):
        read_engine(engine, key, rtx)


@without_gpu
def test_without_a_gpu_validity_is_unknown(built, rtx):
    assert engine_validity(rtx, built.read_bytes()) == ("unknown", "this machine has no GPU")
    assert read_engine(built, read_sidecar(built).key, rtx).note == "this machine has no GPU"


def test_engines_are_built_again_with_the_reason(graph_files, rtx, tmp_path):
    graph = Path(shutil.copy(graph_files["style_mlp", "fp32"], tmp_path))
    job, lines = EngineJob("style_mlp", "winter", "fp32", graph), []
    settings = {"profile": SizeProfile.parse(FIXED), "flavour": rtx, "say": lines.append}
    (first,) = build_bundle_engines(tmp_path, [job], architectures=("8.6", "8.9"), **settings)
    (second,) = build_bundle_engines(tmp_path, [job], architectures=("8.9",), **settings)
    assert lines[1] == (
        "building style_mlp.winter fp32 again: it is for another GPU architecture: 8.6, 8.9, expected 8.9"
    )
    assert first.path == second.path
    assert first.sidecar.engine_sha256 != second.sidecar.engine_sha256
    model = onnx.load(graph)
    model.doc_string = "changed"
    onnx.save(model, graph)
    (third,) = build_bundle_engines(tmp_path, [job], architectures=("8.9",), **settings)
    assert "built from another ONNX file" in lines[3]
    assert not third.reused
    assert sorted(path.name for path in first.path.parent.iterdir()) == [first.path.name, first.path.name + ".json"]


def test_the_optimisation_level_and_tf32_are_part_of_an_engine(tiny_bundle, rtx, tmp_path):
    job = EngineJob("style_mlp", "winter", "fp32", tiny_bundle / "style_mlp.winter.onnx")
    settings = {"profile": SizeProfile.parse(FIXED), "flavour": rtx, "architectures": ("8.9",)}
    lines: list[str] = []

    def build(**options):
        (made,) = build_bundle_engines(tmp_path, [job], build=BuildOptions(**options), say=lines.append, **settings)
        return made

    assert [build(level=5).reused, build(level=5).reused, build(level=1).reused] == [False, True, False]
    assert "it was built at another optimisation level: 5, expected 1" in lines[2]
    assert read_sidecar(build(level=1).path).key.level == 1
    # The runtime, which asks for no level, takes an engine of any; but not one with TF32 where it wants none.
    key = EngineKey.of(job.sha256, rtx, ("8.9",), "fp32", settings["profile"])
    folder = tmp_path / "engines"
    assert find_engine(folder, "style_mlp", "winter", key, width=128, height=96)[0] is not None
    plain = key.model_copy(update={"tf32": False})
    found, reasons = find_engine(folder, "style_mlp", "winter", plain, width=128, height=96)
    assert found is None
    assert "TF32" in reasons[0]
    build(tf32=False)
    assert find_engine(folder, "style_mlp", "winter", plain, width=128, height=96)[0] is not None


class Config:
    """A builder config as far as `BuildOptions` goes. TensorRT makes an empty cache of what it does not know."""

    def __init__(self, refuses: bytes = b"") -> None:
        self.refuses, self.cache, self.cleared = refuses, None, []

    def create_timing_cache(self, data: bytes):
        return SimpleNamespace(data=data if data.startswith(b"timings") else b"", serialize=lambda: b"timings of more")

    def set_timing_cache(self, cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if self.refuses and cache.data == self.refuses:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache

    def clear_flag(self, flag) -> None:
        self.cleared.append(flag)


def test_a_timing_cache_is_made_read_and_grows_and_no_other_file_is_touched(rtx, tmp_path, caplog):
    path = tmp_path / "timings"
    options, config = BuildOptions(timing_cache=path), Config()
    options.apply(trt, config)
    assert config.cache.data == b""
    options.keep_timings(config)
    assert path.read_bytes() == b"dsmap timing cache 1\ntimings of more"
    options.apply(trt, again := Config())
    assert again.cache.data == b"timings of more"
    options.apply(trt, other := Config(refuses=b"timings of more"))  # of another GPU: it starts anew
    assert other.cache.data == b""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"timings of a kind")
    with pytest.raises(InputError, match=r"photo.jpg is not a timing cache of dsmap"):
        BuildOptions(timing_cache=photo).apply(trt, Config())
    BuildOptions(timing_cache=tmp_path).keep_timings(config)
    assert "the timings of this build are not kept" in caplog.text
    # The names are those of the real thing.
    real = new_builder(rtx, Log(rtx)).create_builder_config()
    BuildOptions(level=4, tf32=False).apply(trt, real)
    assert (real.builder_optimization_level, real.get_flag(trt.BuilderFlag.TF32)) == (4, False)
    for name in ("create_timing_cache", "set_timing_cache", "get_timing_cache"):
        assert callable(getattr(real, name))


def test_engine_options_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="--opt-level is 6"):
        EngineRequest(kind="rtx", level=6)
    with pytest.raises(InputError, match="--max-batch is 0"):
        parse_engines("rtx", None, None, 0, None, None)
    with pytest.raises(InputError, match="times no kernels when it builds: --timing-cache has no use"):
        resolve_engines(EngineRequest(kind="rtx", timing_cache=tmp_path / "timings"))
    assert resolve_engines(EngineRequest(kind="rtx", level=2)).build == BuildOptions(level=2)


def test_progress_never_goes_backwards(graph_files, options):
    seen = []
    build_plan(graph_files["decoder", "fp32"].read_bytes(), "decoder", progress=lambda *told: seen.append(told),
               **{name: options[name] for name in ("flavour", "profile", "precision", "architectures")})  # fmt: skip
    steps = [step for _, step, _ in seen]
    assert steps == sorted(steps)
    assert len(set(steps)) > 20
    assert 0.8 * PROGRESS_STEPS < steps[-1] <= PROGRESS_STEPS
    assert {total for _, _, total in seen} == {PROGRESS_STEPS}


def test_progress_of_nested_phases():
    import threading

    seen = []
    monitor = BuildMonitor(lambda *told: seen.append(told), threading.Event())
    monitor.start("all", None, 2)
    monitor.start("part", "all", 4)
    monitor.step("part", 0)
    monitor.step("part", 3)
    monitor.finish("part")
    monitor.step("all", 0)
    monitor.start("rest", "all", 1)
    monitor.step("rest", 0)
    monitor.step("all", 1)
    assert [step for _, step, _ in seen] == [0, 0, 125, 500, 500, 500, 1000, 1000]


def test_ctrl_c_stops_a_build(graph_files, options, tmp_path):
    """Sent from outside, while TensorRT is at work; nothing is left, and Ctrl-C works as before."""
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from dsmap.runtime.engines.tensorrt_api import load_trt\n"
        "from dsmap.runtime.engines.size_profile import SizeProfile\n"
        "from dsmap.runtime.engines.build import build_engine\n"
        "def slow(phase, step, steps):\n"
        "    print('at', step, flush=True)\n"
        "    time.sleep(0.05)\n"
        "try:\n"
        "    build_engine(Path(sys.argv[1]), Path('decoder.engine'), component='decoder', domain='winter',\n"
        "        precision='fp32', flavour=load_trt('rtx'), profile=SizeProfile.parse('64x64'),\n"
        "        architectures=('8.6',), progress=slow)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
        "    time.sleep(60)  # the next Ctrl-C is Python's again\n"
    )
    command = [sys.executable, "-c", code, str(graph_files["decoder", "fp32"])]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("at ")
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert "stopped\n" in itertools.islice(process.stdout, 500)
        assert time.monotonic() - began < 60
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=180)
    assert process.returncode == -signal.SIGINT
    assert list(tmp_path.iterdir()) == []


def test_what_the_callback_raises_is_not_lost(tiny_bundle, options, tmp_path):
    def fails(phase, step, steps):
        raise ValueError("no terminal")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="no terminal"):
        build_engine(tiny_bundle / "style_mlp.winter.onnx", tmp_path / "x.engine", progress=fails, **options)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def onnx_graph(nodes, weights: dict[str, np.ndarray], element: int = TensorProto.FLOAT) -> bytes:
    """A graph from x (n, 4, h, w) to y."""
    shape = ["n", 4, "h", "w"]
    x, y = (helper.make_tensor_value_info(name, element, shape) for name in "xy")
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def convolutions(half: int, float32: int) -> bytes:
    """A chain of convolutions, the last `float32` of them not in half."""
    nodes, weights, last = [helper.make_node("Cast", ["x"], ["c0"], to=TensorProto.FLOAT16)], {}, "c0"
    for i in range(half + float32):
        if i == half:
            nodes.append(helper.make_node("Cast", [last], ["wide"], to=TensorProto.FLOAT))
            last = "wide"
        weights[f"w{i}"] = np.ones((4, 4, 1, 1), np.float16 if i < half else np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i + 1}"]))
        last = f"c{i + 1}"
    nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.FLOAT))
    return onnx_graph(nodes, weights)


def plan(data: bytes, precision: str, rtx, sizes: str = FIXED):
    return build_plan(data, "g.onnx", flavour=rtx, profile=SizeProfile.parse(sizes), precision=precision,
                      architectures=("8.6",))  # fmt: skip


def test_the_gate_for_half_precision(rtx, graph_files):
    assert plan(convolutions(9, 1), "fp16", rtx).layers.convolutions_half == 9
    with pytest.raises(DsmapError, match=r"g\.onnx is called fp16, but 8 of 10 convolutions are in half, expected 90%"):
        plan(convolutions(8, 2), "fp16", rtx)
    with pytest.raises(DsmapError, match="called fp32, but 1 of 3 convolutions are in half"):
        plan(convolutions(1, 2), "fp32", rtx)
    for part, share in (("decoder", "0 of 6 convolutions"), ("style_mlp", "0 of 3 matrix products")):
        with pytest.raises(DsmapError, match=f"called fp16, but {share} are in half"):
            plan(graph_files[part, "fp32"].read_bytes(), "fp16", rtx)


def test_norms_in_half_are_refused(rtx):
    """As a layer, and written out as the mean of squares."""
    half, ones = TensorProto.FLOAT16, np.ones(4, np.float16)
    layer = [helper.make_node("InstanceNormalization", ["x", "scale", "shift"], ["y"])]
    written_out = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "axes"], ["variance"]),
        helper.make_node("Div", ["x", "variance"], ["y"]),
    ]
    axes = np.array([2, 3])
    for nodes, weights in ((layer, {"scale": ones, "shift": ones}), (written_out, {"axes": axes})):
        with pytest.raises(DsmapError, match="1 of 1 norms take their statistics in half"):
            plan(onnx_graph(nodes, weights, half), "fp16", rtx)
    assert plan(onnx_graph(written_out, {"axes": axes}), "fp32", rtx).layers.norms_float32 == 1


def test_graphs_that_tensorrt_refuses(rtx):
    transposed = onnx_graph(
        [helper.make_node("Transpose", ["x"], ["y"], name="of_y", perm=[0, 1, 2, 3])], {}, TensorProto.UINT8
    )
    with pytest.raises(DsmapError, match=r"cannot read g\.onnx: .* UInt8 .*\(node of_y\)"):
        plan(transposed, "fp32", rtx)
    with pytest.raises(DsmapError, match=r"cannot read g\.onnx: .*Failed to parse"):
        plan(b"no graph", "fp32", rtx)
    unnamed = convolutions(1, 0).replace(b"\x12\x01h", b"\x12\x01q")
    with pytest.raises(DsmapError, match="has a dimension 'q' that no size profile gives"):
        plan(unnamed, "fp16", rtx)


def parsed_shapes(path: Path, part: str, profile: SizeProfile, rtx) -> dict:
    log = Log(rtx)
    builder = new_builder(rtx, log)
    network = new_network(rtx, builder)
    assert trt.OnnxParser(network, log.logger).parse(path.read_bytes())
    return input_shapes(network, profile, part)


def test_shapes_follow_the_names(rtx, graph_files):
    """The engine's profile is what the sizes say: 8*h for frames, 2*h for the skip, h for the content."""
    profile = SizeProfile.parse("64x128:256x192:640x384", max_batch=3)
    expected = {
        ("content_encoder", "frames"): [(1, 128, 64, 3), (3, 192, 256, 3), (3, 384, 640, 3)],
        ("mapping", "content"): [(1, 16, 16, 8), (3, 16, 24, 32), (3, 16, 48, 80)],
        ("mapping", "skip"): [(1, 16, 32, 16), (3, 16, 48, 64), (3, 16, 96, 160)],
        ("decoder", "style_params"): [(1, 2, 2, 16), (3, 2, 2, 16), (3, 2, 2, 16)],
    }
    for (part, name), shapes in expected.items():
        assert parsed_shapes(graph_files[part, "fp32"], part, profile, rtx)[name] == shapes


@pytest.mark.usefixtures("traces")
def test_a_margin_in_shapes_and_engines(rtx, tmp_path):
    """Contents of a network with a margin are larger than the image says: 2 positions at a margin of 8 pixels."""
    profile = SizeProfile.parse("64x128:256x192:640x384")
    expected = {
        ("content_encoder", "frames"): [(1, 128, 64, 3), (1, 192, 256, 3), (1, 384, 640, 3)],
        ("mapping", "content"): [(1, 16, 18, 10), (1, 16, 26, 34), (1, 16, 50, 82)],
        ("mapping", "skip"): [(1, 16, 36, 20), (1, 16, 52, 68), (1, 16, 100, 164)],
        ("decoder", "mapped"): [(1, 16, 18, 10), (1, 16, 26, 34), (1, 16, 50, 82)],
    }
    made = {g.component: g for g in graphs(make_model(pad_type="zero", margin=8)) if g.domain == "b"}
    for (part, name), shapes in expected.items():
        path = tmp_path / f"{part}.onnx"
        if not path.is_file():
            write_graph(made[part], path)
            assert part == "mapping" or len(plan(path.read_bytes(), "fp32", rtx, "64x128:256x192:640x384").data) > 1000
        assert parsed_shapes(path, part, profile, rtx)[name] == shapes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("500x512", "500 in 500x512 is not a multiple of 8"),
        ("256x256:512x512:1920x1084", "1084 in 1920x1084 is not a multiple of 8"),
        ("512x256:256x512:1024x1024", "min and opt are out of order"),
        ("256x512:512x256:1024x1024", "min and opt are out of order"),
        ("256x256:1024x512:512x1024", "opt and max are out of order"),
        ("256x256:512x1024:1024x512", "opt and max are out of order"),
        ("256x256:512x512", "has 2 sizes, expected one or min:opt:max"),
        ("8x8:8x8:8x8:8x8", "has 4 sizes"),
        ("", "'' is not WIDTHxHEIGHT"),
        ("512", "'512' is not WIDTHxHEIGHT"),
        ("512x", "is not WIDTHxHEIGHT"),
        ("-8x8", "is not WIDTHxHEIGHT"),
        ("5.0x8", "is not WIDTHxHEIGHT"),
        ("٨x٨", "is not WIDTHxHEIGHT"),
        ("0x0", "0 in 0x0 is out of range: sides are 32 to"),
        ("24x512", "24 in 24x512 is out of range: sides are 32 to"),
        ("512x163840", "163840 in 512x163840 is out of range"),
        ("999999999999x8", "is not WIDTHxHEIGHT"),
    ],
)
def test_sizes_that_make_no_profile(text, reason):
    with pytest.raises(InputError, match=reason) as caught:
        SizeProfile.parse(text, minimum=32)
    assert caught.value.fact.startswith("--sizes")


def test_profiles():
    profile = SizeProfile.parse(" 256X256:512x512:1920x1088 ", max_batch=4)
    assert str(profile) == "256x256:512x512:1920x1088"
    assert SizeProfile.parse(str(profile), max_batch=4) == profile
    assert str(SizeProfile.parse("64x64:64x64:64x64")) == str(SizeProfile.parse("64x64")) == "64x64"
    assert profile.takes(1920, 1088, 4)
    assert not any(profile.takes(*case) for case in ((1088, 1920), (1928, 1088), (248, 256), (516, 512), (512, 512, 5)))
    assert str(SizeProfile.parse("20x30", multiple_of=10)) == "20x30"
    with pytest.raises(InputError, match="batch is 0"):
        SizeProfile.parse("64x64", max_batch=0)


def test_architectures(rtx):
    assert parse_gpu_arch("12.0, 8.6,8.9,8.6", rtx) == ("8.6", "8.9", "12.0")
    assert parse_gpu_arch(None, rtx) == parse_gpu_arch("8.0+", rtx) == DEFAULT_ARCHITECTURES
    for text in ("9.0", "8.6,", "8.6,current", "sm86", "", "8.6+"):
        with pytest.raises(InputError, match="--gpu-arch") as caught:
            parse_gpu_arch(text, rtx)
        assert "7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in caught.value.advice
    plain = load_trt("rtx")._replace(name="tensorrt")
    with pytest.raises(InputError, match=r"only for the GPU of this machine, not for --gpu-arch 8\.6"):
        parse_gpu_arch("8.6", plain)
    assert [covers(("8.0+",), name) for name in ("7.5", "8.0", "9.0", "12.0")] == [False, True, True, True]
    assert [covers(("8.6", "12.0"), name) for name in ("8.6", "8.9", "12.0")] == [True, False, True]


@without_gpu
def test_the_current_gpu_where_there_is_none(rtx):
    with pytest.raises(InputError, match="there is no GPU, or no driver"):
        parse_gpu_arch("current", rtx)


class Driver:
    """libcuda as far as it is asked about a GPU."""

    def __init__(self, name: bytes, multiprocessors: int, memory: int) -> None:
        self._name, self._memory = name, memory
        self._attributes = {16: multiprocessors, 75: 8, 76: 9}

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDeviceGet(self, device, number):  # noqa: N802
        return 0

    def cuDeviceGetAttribute(self, value, number, device):  # noqa: N802
        value._obj.value = self._attributes[number]
        return 0

    def cuDeviceGetName(self, buffer, size, device):  # noqa: N802
        buffer.value = self._name
        return 0

    def cuDeviceTotalMem_v2(self, value, device):  # noqa: N802
        value._obj.value = self._memory
        return 0


def test_an_engine_of_another_gpu_of_the_same_architecture(rtx, monkeypatch):
    """Plain TensorRT tunes on the GPU at hand: an RTX 4090's engine is not for a 4060. TensorRT for RTX's fit both."""
    big = Driver(b"NVIDIA GeForce RTX 4090", 128, 24 << 30)
    small = Driver(b"NVIDIA GeForce RTX 4060", 24, 8 << 30)
    keys = {}
    for flavour in (rtx, rtx._replace(name="tensorrt")):
        for card in (big, small):
            monkeypatch.setattr("dsmap.runtime.engines.tensorrt_api.ctypes.CDLL", lambda name, card=card: card)
            assert current_architecture() == "8.9"
            key = EngineKey.of("0" * 64, flavour, ("8.9",), "fp16", SizeProfile.parse("64x64"))
            keys[flavour.name, card] = key
    assert keys["rtx", big].mismatch(keys["rtx", small]) is None
    assert keys["tensorrt", big].mismatch(keys["tensorrt", small]) == (
        "it was built on another GPU: NVIDIA GeForce RTX 4090, 128 multiprocessors, 24 GiB, "
        "expected NVIDIA GeForce RTX 4060, 24 multiprocessors, 8 GiB"
    )
    paths = {cached_engine_path(key, "decoder", "winter") for key in keys.values()}
    assert len(paths) == 3


def test_finding_the_engine_for_a_size(tiny_bundle, options, tmp_path):
    for sizes in ("64x64", "64x64:128x128:512x512", "64x64:128x128:256x256"):
        profile = SizeProfile.parse(sizes)
        path = tmp_path / engine_name("style_mlp", "winter", "fp32", "rtx", profile)
        build_engine(tiny_bundle / "style_mlp.winter.onnx", path, **(options | {"profile": profile}))
    key = read_sidecar(path).key.model_copy(update={"architectures": ("8.9",)})

    def find(width: int, height: int, key: EngineKey = key):
        found, reasons = find_engine(tmp_path, "style_mlp", "winter", key, width=width, height=height)
        return found and read_sidecar(found).key.profile, reasons

    assert find(64, 64)[0] == "64x64"
    assert find(64, 128)[0] == "64x64:128x128:256x256"
    assert find(512, 256)[0] == "64x64:128x128:512x512"
    found, reasons = find(1024, 1024)
    assert found is None
    assert len(reasons) == 3
    assert "it is for 64x64 in batches of up to 1, not for 1 of 1024x1024" in reasons[-1]
    assert "another TensorRT version" in find(64, 64, key.model_copy(update={"version": "2"}))[1][0]
    assert find(64, 64, key.model_copy(update={"batch": 2}))[0] is None
    assert find_engine(tmp_path, "decoder", "winter", key, width=64, height=64) == (None, [])


def test_names_stay_in_the_folder():
    name = engine_name("decoder", "../../etc", "fp16", "rtx", SizeProfile.parse("64x64"))
    assert name == "decoder.-etc.fp16.rtx.64x64.engine"


def test_the_cache(built, tmp_path, monkeypatch):
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "mine"))
    assert user_cache_folder() == tmp_path / "mine"
    key = read_sidecar(built).key
    others = [key.model_copy(update={field: value}) for field, (value, _) in CHANGES.items()]
    paths = {cached_engine_path(k, "style_mlp", "winter") for k in (key, *others)}
    paths |= {cached_engine_path(key, "style_mlp", "summer"), cached_engine_path(key, "style_mlp", "win/ter")}
    assert len(paths) == len(others) + 3
    assert {path.parent for path in paths} == {tmp_path / "mine" / "engines"}
    assert cached_engine_path(key, "style_mlp", "winter") in paths
    assert make_cache_folder() == tmp_path / "mine" / "engines"
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "file"))
    with pytest.raises(DsmapError, match="file is not a folder") as caught:
        make_cache_folder()
    assert "DSMAP_CACHE" in caught.value.advice


@pytest.mark.skipif(sys.platform != "linux", reason="XDG")
def test_the_cache_follows_the_system(tmp_path, monkeypatch):
    monkeypatch.delenv("DSMAP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / "dsmap"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / ".cache" / "dsmap"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the system")
def test_no_space_for_the_engine(built, tiny_bundle, options, tmp_path):
    """Files cannot grow beyond 100 kB: what was there stays, and is not trusted with a half of something else."""
    old = Path(shutil.copytree(built.parent, tmp_path / "engines")) / built.name
    before = old.read_bytes()
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom dsmap.errors import DsmapError\n"
        "from dsmap.runtime.engines.tensorrt_api import load_trt\n"
        "from dsmap.runtime.engines.size_profile import SizeProfile\n"
        "from dsmap.runtime.engines.build import build_engine\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    build_engine(Path(sys.argv[1]), Path(sys.argv[2]), component='style_mlp', domain='winter',\n"
        "        precision='fp32', flavour=load_trt('rtx'), profile=SizeProfile.parse('64x64'),\n"
        "        architectures=('8.6',))\n"
        "except DsmapError as error:\n    print(error.fact)\n"
    )
    command = [sys.executable, "-c", code, str(tiny_bundle / "style_mlp.winter.onnx"), str(old)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("cannot write style_mlp.engine into "), done.stderr
    assert "0.4 MB are needed" in done.stdout
    assert old.read_bytes() == before
    assert sorted(path.name for path in old.parent.iterdir()) == [built.name, built.name + ".json"]
    assert check_engine(old, read_sidecar(old).key) is None


FAKES = {
    "missing": (None, "tensorrt is not installed", "pip install 'dsmap[tensorrt]'"),
    "no libraries": (
        "import ctypes\nctypes.CDLL('libnvinfer.so.0')\n__version__ = '11.4.0'",
        "tensorrt is installed, but not its libraries (libnvinfer.so.0: cannot open",
        "https://pypi.nvidia.com",
    ),
    "no bindings": (
        "from tensorrt_bindings_that_are_not_here import *",
        "tensorrt is installed, but not its libraries (No module named 'tensorrt_bindings_that",
        "pip install 'dsmap[rtx]'",
    ),
    "empty": ("", "tensorrt is installed, but not its libraries (it has no Builder)", "placeholder"),
    "old": (
        "__version__ = '8.6.1'\nclass Builder: pass",
        "TensorRT 8.6.1 is too old: dsmap needs 10 or later",
        "pip install 'dsmap[tensorrt]'",
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the loader's words")
@pytest.mark.parametrize("fake", FAKES)
def test_a_tensorrt_that_does_not_work(fake, tmp_path):
    """`auto` goes on to TensorRT for RTX and keeps the reason; asked for by name it is refused."""
    source, fact, advice = FAKES[fake]
    code = "import sys\n"
    if source is None:
        code += "sys.modules['tensorrt'] = None\n"
    else:
        (tmp_path / "tensorrt").mkdir()
        (tmp_path / "tensorrt" / "__init__.py").write_text(source)
    code += (
        "from dsmap.errors import DsmapError\nfrom dsmap.runtime.engines.tensorrt_api import load_trt\n"
        "from dsmap.runtime.engines import layer_statistics, progress, size_profile\n"
        "assert not {'tensorrt_rtx', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "import dsmap.runtime.engines.build\nassert not {'tensorrt_rtx', 'numpy'} & set(sys.modules)\n"
        "try: load_trt('tensorrt')\nexcept DsmapError as error: print(error)\n"
        "flavour = load_trt()\nprint(flavour.name, flavour.note)\n"
        "sys.modules['tensorrt_rtx'] = None\n"
        "try: load_trt()\nexcept DsmapError as error: print(error)\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 5
    assert said[0].startswith(fact)
    assert advice in said[1]
    assert said[2].startswith(f"rtx {fact}")
    assert said[3].startswith(fact)
    assert said[3].endswith("; tensorrt_rtx is not installed")
    assert said[4] == "pip install 'dsmap[rtx]'"


def test_unknown_flavours():
    with pytest.raises(InputError, match="no TensorRT flavour named 'cuda'"):
        load_trt("cuda")
