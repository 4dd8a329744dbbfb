"""The torch backend on the CPU beside ONNX Runtime: operators one by one, whole models, and what is refused."""

import functools
import shutil
import sys
import threading

import numpy as np
import onnx
import pytest
import torch
from hostile import make_small_bundle
from onnx import TensorProto, helper, numpy_helper

from dsmap.errors import DsmapError
from dsmap.runtime import Translator
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime
from dsmap.runtime.backends.registry import load_backend
from dsmap.runtime.backends.torch.backend import TorchBackend
from dsmap.runtime.backends.torch.devices import compiled
from dsmap.runtime.backends.torch.functions import layer_norm
from dsmap.runtime.backends.torch.modules import copy_of, single_module
from dsmap.runtime.backends.torch.operators import OPERATORS
from dsmap.runtime.bundle.bundle import Bundle, GraphData
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.bundle.graphs import OPERATORS as OF_BUNDLES

ONE = BackendSettings(threads=1)


def frames(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def off(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference in grey levels."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    return int(np.abs(a.astype(int) - b).max())


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle.read(tiny_bundle)


@pytest.fixture(scope="module")
def ours(bundle) -> TorchBackend:
    return TorchBackend(bundle, "winter", ONE)


@pytest.fixture(scope="module")
def by_cpu(bundle) -> OnnxRuntimeCPU:
    return OnnxRuntimeCPU(bundle, "winter", ONE)


# Operators


class Net:
    """An ONNX graph of a few nodes from x (1, 4, 6, 8)."""

    SHAPE = (1, 4, 6, 8)

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last = "x"

    def put(self, operator: str, *inputs: object, **attributes: object) -> "Net":
        """A node on what the one before gave; `inputs` are arrays, or names."""
        names = [self.last]
        for value in inputs:
            if isinstance(value, str):
                names.append(value)
            else:
                names.append(f"w{len(self.weights)}")
                self.weights.append(numpy_helper.from_array(np.asarray(value), names[-1]))
        return self.node(operator, names, **attributes)

    def node(self, operator: str, names: list[str], **attributes: object) -> "Net":
        self.last = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [self.last], **attributes))
        return self

    def weight(self, name: str, value: object) -> "Net":
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return self

    def data(self, opset: int = 20) -> bytes:
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", self.last))
        x.type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension() for _ in self.SHAPE])
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.weights)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        ).SerializeToString()

    def module(self, opset: int = 20) -> torch.fx.GraphModule:
        return single_module(GraphData(self.data(opset), "", "fp32", "net.onnx"), "x", wanted=self.last)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


F32 = functools.partial(np.array, dtype=np.float32)
NETS = {
    "add a channel's": Net().put("Add", random(4, 1, 1)),
    "sub, div by numbers": Net().put("Sub", F32(0.5)).put("Div", F32(3)),
    "mul of two maps": Net().node("Mul", ["x", "x"]),
    "average pool": Net().put("AveragePool", kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 1, 0]),
    "average pool with borders": Net().put(
        "AveragePool", kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1, ceil_mode=0, auto_pad="NOTSET"
    ),
    "to half and back": Net().put("Cast", to=10).put("Cast", to=1),
    "to grey": Net().put("Clip", F32(0), F32(1)).put("Cast", to=2).put("Cast", to=1),
    "clip above": Net().put("Clip", "", F32(0.25)),
    "concat": Net().node("Concat", ["x", "x"], axis=-2),
    "conv": Net().put("Conv", random(5, 4, 3, 2), random(5), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0]),
    "conv of other borders": Net().put("Conv", random(5, 4, 3, 3), pads=[0, 1, 2, 1], dilations=[1, 2], group=1),
    "conv of groups": Net().put("Conv", random(6, 2, 3, 3), group=2, auto_pad="NOTSET"),
    "transposed conv": Net().put(
        "ConvTranspose", random(4, 3, 3, 3), random(3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]
    ),
    "depth to space": Net().put("DepthToSpace", blocksize=2, mode="CRD"),
    "depth to space, blocks first": Net().put("DepthToSpace", blocksize=2),
    "gather one": Net().put("Gather", np.array(-1), axis=1),
    "gather some": Net().put("Gather", ints(2, 0), axis=2),
    "gemm": Net().put("Reshape", ints(24, 8)).put("Gemm", random(8, 5), random(5), alpha=1.0, beta=1.0),
    "gemm transposed": Net().put("Reshape", ints(24, 8)).put("Gemm", random(5, 8), random(5), transB=1),
    "identity": Net().put("Identity").put("Relu"),
    "instance norm": Net().put("InstanceNormalization", random(4), random(4), epsilon=1e-3),
    "plain instance norm": Net().put("InstanceNormalization", np.ones(4, np.float32), np.zeros(4, np.float32)),
    "leaky relu": Net().put("LeakyRelu").put("LeakyRelu", alpha=0.3),
    "reflect": Net().put("Pad", ints(0, 0, 1, 2, 0, 0, 3, 4), mode="reflect"),
    "edge": Net().put("Pad", ints(0, 0, 1, 2, 0, 0, 3, 4), mode="edge"),
    "constant": Net().put("Pad", ints(0, 1, 1, 2, 0, 0, 3, 4), F32(127.5), mode="constant"),
    "mean of pixels": Net().put("ReduceMean", ints(2, 3)),
    "mean of channels, without them": Net().put("ReduceMean", ints(1), keepdims=0, noop_with_empty_axes=0),
    "reshape": Net().put("Reshape", ints(0, 2, -1), allowzero=0).put("Reshape", ints(-1, 8), allowzero=1),
    "resize": Net().put(
        "Resize", "", F32([1, 1, 2, 3]), mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "round half to even": Net().put("Mul", F32(2)).put("Round").put("Div", F32(4)).put("Mul", F32(2)).put("Round"),
    "sigmoid and tanh": Net().put("Sigmoid").put("Tanh"),
    "slice": Net().put("Slice", ints(1, -3), ints(2**63 - 1, -1), ints(2, 3), ints(2, 1)),
    "transpose": Net().put("Transpose", perm=[0, 2, 3, 1]),
    "unsqueeze and squeeze": Net().put("Unsqueeze", ints(2, 3)).put("Squeeze", ints(2)),
    "reshape by sizes": (
        Net().node("Shape", ["x"], start=2, end=3).node("Squeeze", ["y0"]).weight("four", np.array(4))
        .node("Mul", ["four", "y1"]).weight("each", ints(-1)).node("Reshape", ["y2", "each"])
        .node("Shape", ["x"]).weight("3", np.array(3)).node("Gather", ["y4", "3"]).weight("0", ints(0))
        .node("Unsqueeze", ["y5", "0"]).node("Concat", ["y3", "y6"], axis=0).node("Reshape", ["x", "y7"])
    ),
    "sizes divided and sliced": (
        Net().node("Shape", ["x"]).weight("from", ints(1)).weight("to", ints(3)).weight("0", ints(0))
        .node("Slice", ["y0", "from", "to", "0"]).node("Cast", ["y1"], to=7).node("Identity", ["y2"])
        .weight("i", np.array(1)).node("Gather", ["y3", "i"]).weight("two", np.array(2)).node("Div", ["y4", "two"])
        .weight("one", np.array(1)).node("Add", ["y5", "one"]).node("Sub", ["y6", "one"])
        .node("Unsqueeze", ["y7", "0"]).weight("rest", ints(-1)).node("Concat", ["y8", "rest"], axis=0)
        .node("Reshape", ["x", "y9"])
    ),
    "layer norm": (
        Net().put("Reshape", ints(0, 1, -1)).put("InstanceNormalization", F32([1]), F32([0]), epsilon=1e-5)
        .node("Shape", ["x"]).node("Reshape", ["y1", "y2"]).put("Mul", random(4, 1, 1))
    ),
    "constants as nodes": (
        Net().node("Constant", [], value=numpy_helper.from_array(random(4, 1, 1))).node("Mul", ["x", "y0"])
        .node("Constant", [], value_ints=[2, 3]).node("ReduceMean", ["y1", "y2"])
        .node("Constant", [], value_float=2.0).node("Add", ["y3", "y4"])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_operators_give_what_onnx_runtime_gives(name):
    net = NETS[name]
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = 4
    session = import_onnxruntime().InferenceSession(net.data(), options, providers=["CPUExecutionProvider"])
    module = net.module()
    for seed in range(2):
        x = random(*net.SHAPE, seed=seed + 7)
        (expected,) = session.run(None, {"x": x})
        with torch.inference_mode():
            got = module.forward(torch.from_numpy(x)).numpy()
            moved = module.forward(torch.from_numpy(x).contiguous(memory_format=torch.channels_last)).numpy()
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, atol=3e-5, rtol=1e-4)
        np.testing.assert_allclose(moved, expected, atol=3e-5, rtol=1e-4)


def test_every_operator_is_tested_and_may_be_in_a_bundle():
    tested = {node.op_type for net in NETS.values() for node in net.nodes}
    assert tested == {*OPERATORS, "Constant"}
    assert tested <= OF_BUNDLES
    assert {"Shape"} | {name for name, known in OPERATORS.items() if known.of_shapes} <= tested


def test_layer_norm_is_one_call_and_in_two_steps_the_same(monkeypatch):
    module = NETS["layer norm"].module()
    assert next(node.target for node in module.graph.nodes if node.op == "call_function") is layer_norm
    x = 30 + 9 * torch.from_numpy(random(2, 8, 16, 16))
    one = layer_norm(x, 1e-5)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    torch.testing.assert_close(layer_norm(x, 1e-5), one)
    half = layer_norm(600 * x.half(), 1e-5)  # a variance beyond what half precision can hold
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), one, atol=0.02, rtol=0)


def test_one_real_compilation(tmp_path, monkeypatch):
    """By torch's compiler for CPUs. What it keeps is code: nobody else may write there."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    from torch._inductor import config

    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    net = Net().put("Pad", ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect").put("Relu")
    net.put("InstanceNormalization", np.ones(4, np.float32), np.zeros(4, np.float32), epsilon=1e-5)
    module, x = net.module(), torch.from_numpy(random(*net.SHAPE))
    with torch.inference_mode(), config.patch({"cpp.vec_isa_ok": True, "cpp_cache_precompile_headers": False}):
        translation = compiled(module)
        torch.testing.assert_close(translation(x), module.forward(x), atol=1e-5, rtol=1e-5)
    folder = tmp_path / "cache" / "torch-kernels"
    assert any(folder.iterdir())
    assert folder.stat().st_mode & 0o077 == 0


def test_every_size_is_compiled_by_itself_and_freed_with_what_was_compiled():
    """More sizes than torch compiles of one function (8), after which it would go on uncompiled, in silence."""
    module, seen = Net().put("Relu").module(), []

    def backend(graph, _inputs):
        seen.append(graph)
        return graph.forward

    for side in range(2, 13):
        x = torch.from_numpy(random(1, 4, side, 3))
        made = torch.compile(copy_of(module), dynamic=False, fullgraph=True, backend=backend)
        assert torch.equal(made(x), module.forward(x))
        assert len(seen) == side - 1


REFUSED = {
    "it has the operator NonZero": Net().put("NonZero"),
    "it has the operator If": Net().put("If"),
    "Conv has the attribute strides": Net().put("Conv", random(4, 4, 1, 1), strides=[1 << 40, 1]),
    "Conv has the attribute pads": Net().put("Conv", random(4, 4, 1, 1), pads=[0, 0, -1, 0]),
    "Conv has the attribute auto_pad": Net().put("Conv", random(4, 4, 1, 1), auto_pad="SAME_UPPER"),
    "Conv has the attribute group": Net().put("Conv", random(4, 4, 1, 1), group=0),
    "Conv has the attribute secret": Net().put("Conv", random(4, 4, 1, 1), secret="__import__"),
    "Conv lacks something": Net().put("Conv"),
    "ConvTranspose has pads that differ": Net().put("ConvTranspose", random(4, 4, 3, 3), pads=[0, 0, 1, 1]),
    "Pad pads by": Net().put("Pad", ints(0, 0, 1 << 40, 0, 0, 0, 0, 0)),
    "Pad has the attribute mode": Net().put("Pad", ints(0, 0, 1, 0, 0, 0, 0, 0), mode="wrap"),
    "Pad pads samples or channels": Net().put("Pad", ints(0, 1, 1, 0, 0, 1, 0, 0), mode="reflect"),
    "Resize enlarges by": Net().put(
        "Resize", "", F32([1, 1, 1e9, 1]), mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "Resize enlarges in a way": Net().put("Resize", "", F32([1, 1, 2, 2])),
    "Resize has the attribute mode": Net().put("Resize", "", F32([1, 1, 2, 2]), mode="cubic"),
    "DepthToSpace has the attribute blocksize": Net().put("DepthToSpace", blocksize=1000),
    "InstanceNormalization has the attribute epsilon": Net().put(
        "InstanceNormalization", random(4), random(4), epsilon=float("nan")
    ),
    "Cast has the attribute to": Net().put("Cast", to=8),
    "Slice goes backwards": Net().put("Slice", ints(-1), ints(-9), ints(2), ints(-1)),
    "Transpose has the order": Net().put("Transpose", perm=[0, 0, 1, 2]),
    "Reshape has something else": Net().put("Reshape", F32([1, -1])),
    "Add takes what nothing gives": Net().put("Add", "nothing"),
    "Add computes with constants": Net().weight("w", F32(1)).node("Add", ["w", "w"]),
    "Relu takes what nothing gives": Net().node("Shape", ["x"]).node("Relu", ["y0"]),
    "Constant has the attribute value_strings": Net().node("Constant", [], value_strings=["a"]).node("Relu", ["y0"]),
}  # fmt: skip


@pytest.mark.parametrize("fact", REFUSED)
def test_what_is_not_known_is_refused_by_name(fact):
    with pytest.raises(DsmapError, match=f"the torch backend does not run net.onnx: {fact}") as caught:
        REFUSED[fact].module()
    assert "--backend cpu" in caught.value.advice


def test_other_versions_of_onnx_are_refused():
    for opset in (17, 21):
        with pytest.raises(DsmapError, match=rf"ONNX's operators of version \[{opset}\]"):
            Net().put("Relu").module(opset)


def test_nothing_that_a_file_says_gets_into_the_module():
    """torch.fx writes Python and executes it: names there are ours."""
    net = Net()
    net.nodes.append(helper.make_node("Relu", ["x"], ["import os"], name="__import__('os')", doc_string="eval"))
    net.last = "import os"
    code = net.module().code
    assert "os" not in code
    assert "torch.relu" in code


def attribute_of(name: str, value: object) -> onnx.AttributeProto:
    return helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS if value == [] else None)


def test_random_attributes_are_refused_or_run():
    rng = np.random.default_rng(0)
    lists = [[1, 1], [0], [-3, 1 << 40], [], [1, 1, 1, 1]]
    values = [-1, 0, 1, 2, 255, 1 << 62, 0.5, float("inf"), "reflect", "CRD", *lists]
    nets = list(NETS.values())
    refused = 0
    for _ in range(300):
        net = Net()
        chosen = nets[rng.integers(len(nets))]
        net.nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in chosen.nodes]
        net.weights, net.last = chosen.weights, chosen.last
        node = net.nodes[rng.integers(len(net.nodes))]
        names = sorted(OPERATORS[node.op_type].attributes) if node.op_type in OPERATORS else []
        if not names:
            continue
        name = names[rng.integers(len(names))]
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, attribute_of(name, values[rng.integers(len(values))])])
        try:
            module = net.module()
        except DsmapError:
            refused += 1
            continue
        try:
            with torch.inference_mode():
                assert module.forward(torch.zeros(net.SHAPE)).numel() < 1e6
        except (RuntimeError, IndexError, ValueError):  # shapes that do not go together: DsmapError in the backend
            pass
    assert 50 < refused < 290


# Whole models


def test_equals_the_cpu_at_changing_sizes_batches_and_styles(ours, by_cpu):
    assert (ours.precision, ours.in_flight, ours.concurrency, ours.on_host) == ("fp32", 1, 1, True)
    outputs = []
    for i, (n, height, width) in enumerate(((1, 64, 64), (1, 24, 128), (3, 16, 40), (1, 64, 64), (1, 64, 64))):
        image, style = frames(n, height, width, i), np.repeat(random(1, 3, seed=i // 2), n, 0)
        outputs.append((ours.translate(image, style), by_cpu.translate(image, style)))
    for got, expected in outputs:  # after all: a result may not change with the next frame
        assert off(got, expected) <= 1
        assert got.flags.c_contiguous
    styles = random(2, 3)
    assert off(ours.translate(frames(2, 32, 32), styles), by_cpu.translate(frames(2, 32, 32), styles)) <= 1
    np.testing.assert_allclose(ours.encode_style(frames(2, 32, 40)), by_cpu.encode_style(frames(2, 32, 40)), atol=1e-5)


def test_frames_that_are_views_or_may_not_be_written_to(ours, by_cpu, recwarn):
    image, style = frames(1, 32, 48), random(1, 3)
    image.setflags(write=False)
    for view in (image, image[:, :, ::-1]):
        assert off(ours.translate(view, style), by_cpu.translate(np.ascontiguousarray(view), style)) <= 1
        ours.encode_style(view)
    assert not recwarn.list


def test_without_a_mapping(bundle):
    components = bundle.manifest.components.model_copy(update={"mapping": {}})
    changed = Bundle(bundle.folder, bundle.manifest.model_copy(update={"components": components}))
    image, style = frames(1, 16, 32), random(1, 3)
    got, expected = (make(changed, "winter", ONE).translate(image, style) for make in (TorchBackend, OnnxRuntimeCPU))
    assert off(got, expected) <= 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_bundled_model_in_both_precisions(precision):
    """With margins, clipping and half precision; a frame of its own domain is reconstructed."""
    shipped = Bundle.read(find_model("summer-winter"))
    for source in ("summer", "winter"):
        settings = BackendSettings(threads=1, precision=precision, source=source)
        got = TorchBackend(shipped, "winter", settings)
        expected = OnnxRuntimeCPU(shipped, "winter", BackendSettings(threads=1, precision="fp32", source=source))
        image, style = frames(1, 32, 48), random(1, 8)
        a, b = got.translate(image, style), expected.translate(image, style)
        assert off(a, b) <= 1
        assert np.abs(a.astype(int) - b).mean() < (0.01 if precision == "fp32" else 0.1)
    assert TorchBackend(shipped, "winter", ONE).precision == "fp32"  # half is slower on a CPU
    with pytest.raises(DsmapError, match="not int8"):
        TorchBackend(shipped, "winter", BackendSettings(precision="int8"))


def test_several_frames_at_once_do_not_mix_and_can_be_cancelled(bundle, by_cpu):
    backend = TorchBackend(bundle, "winter", BackendSettings(threads=2, frames_at_once=2))
    assert (backend.in_flight, backend.concurrency) == (3, 2)
    for round_ in range(3):
        begun = []
        for i in range(3):
            image, style = frames(1, 24, 16 + 8 * (round_ % 2), 3 * round_ + i), random(1, 3, seed=round_ + i // 2)
            begun.append((backend.submit(image, style), image, style))
        for wait, image, style in reversed(begun):
            assert off(wait(), by_cpu.translate(image, style)) <= 1
    waits = [backend.submit(frames(1, 128, 128), random(1, 3)) for _ in range(3)]
    backend.cancel()
    with pytest.raises(DsmapError, match="cancelled"):
        [wait() for wait in waits]
    backend.close()


def test_threads_are_the_callers_again_afterwards(bundle, monkeypatch):
    """torch's setting is the process's."""
    before, seen = torch.get_num_threads(), []
    backend = TorchBackend(bundle, "winter", BackendSettings(threads=before + 1))
    module = backend._frames._module
    original = module.forward
    monkeypatch.setattr(module, "forward", lambda *given: (seen.append(torch.get_num_threads()), original(*given))[1])
    backend.translate(frames(1, 16, 16), random(1, 3))
    backend.encode_style(frames(1, 32, 32))
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


def test_from_other_threads_one_at_a_time(ours, by_cpu):
    image, style, got = frames(1, 16, 24), random(1, 3), []
    for _ in range(2):
        thread = threading.Thread(target=lambda: got.append(ours.translate(image, style)))
        thread.start()
        thread.join()
    assert len(got) == 2
    assert all(off(one, by_cpu.translate(image, style)) <= 1 for one in got)


def test_a_size_that_the_network_does_not_take(ours, by_cpu):
    style = random(1, 3)
    with pytest.raises(DsmapError, match=r"torch stopped: .+|the model gives"):
        ours.translate(frames(1, 3, 5), style)
    assert off(ours.translate(frames(1, 16, 16), style), by_cpu.translate(frames(1, 16, 16), style)) <= 1


def test_too_little_memory_says_what_to_do(bundle, monkeypatch):
    backend = TorchBackend(bundle, "winter", ONE)

    def full(*_given):
        raise RuntimeError("[enforce fail at alloc.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 bytes\nmore")

    monkeypatch.setattr(backend._frames._module, "forward", full)
    with pytest.raises(DsmapError, match=r"torch stopped: .+can't allocate memory: 9 bytes") as caught:
        backend.translate(frames(1, 16, 16), random(1, 3))
    assert "--height" in caught.value.advice


def test_by_name_with_what_runs(tiny_bundle, bundle):
    translator = Translator.load(tiny_bundle, domain="winter", backend="torch", threads=1)
    assert (translator.backend_name, translator.backend_reason) == ("torch", "as asked")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert translator.backend_description == f"torch {torch.__version__.partition('+')[0]} on the CPU, fp32, eager"
    assert translator(frames(1, 33, 17)[0]).shape == (33, 17, 3)
    assert load_backend("auto", bundle, "winter", ONE).backend.name != "torch"
    translator.close()


def test_a_bundle_that_is_no_network_is_refused(tmp_path):
    small = Bundle.read(make_small_bundle(tmp_path / "bundle"))
    with pytest.raises(DsmapError, match=r"the torch backend does not run .*style_mlp\.b\.onnx: it has other inputs"):
        TorchBackend(small, "b", ONE)


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_missing_package_is_named_with_the_extra(bundle, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DsmapError, match=f"{name} cannot be imported") as caught:
        load_backend("torch", bundle, "winter")
    assert caught.value.advice == "pip install 'dsmap[torch]'"
