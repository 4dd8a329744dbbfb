"""Half precision and int8: what is in the graphs, the check of each precision, and the runtime's choice."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import call, run_export
from onnx import TensorProto, numpy_helper
from tiny import make_model

from dsmap.errors import DsmapError, InputError
from dsmap.export import int8_balance, int8_graph, int8_search, precision_check
from dsmap.export.costs import graph_costs
from dsmap.export.fp16 import CentredStem, to_half
from dsmap.export.int8 import quantise
from dsmap.export.int8_calibration import Activation, observe
from dsmap.export.int8_search import Block, ranking
from dsmap.export.precision_check import compare_precision, extreme_inputs, require_passed, with_probes
from dsmap.export.rewrites import Rewrites, ScaledStem, rewritten
from dsmap.export.verify import generated_images
from dsmap.model.layers import conv, instance_norm, layer_norm
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.tools import export as export_command

PARTS = ("content_encoder", "mapping", "decoder", "style_mlp", "style_encoder")
DOMAINS = ("summer", "winter")
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
IN_FLOAT = {"InstanceNormalization", "GroupNormalization", "LayerNormalization", "Sigmoid", "Tanh", "ReduceMean"}


def files(exported, precision="fp32"):
    """The graphs of a bundle by component and domain, with the usual ones where a precision has none."""
    bundle = Bundle.read(exported.folder)
    return {(part, domain): bundle.graph(part, domain, precision) for part in PARTS for domain in DOMAINS}


def psnr(a, b):
    square = np.mean((a.astype(np.float64) - b) ** 2)
    return np.inf if square == 0 else 10 * np.log10(255**2 / square)


def chain(paths, frames, style):
    """From summer to winter, in ONNX Runtime, by hand."""

    def run(part, domain, **inputs):
        return onnxruntime.InferenceSession(str(paths[part, domain])).run(None, inputs)

    content, skip = run("content_encoder", "summer", frames=frames)
    (mapped,) = run("mapping", "winter", content=content, skip=skip)
    (params,) = run("style_mlp", "winter", style=style)
    return run("decoder", "winter", mapped=mapped, style_params=params)[0]


@pytest.mark.parametrize("part", PARTS)
def test_types_in_the_half_graphs(exported, part):
    """Products in half, statistics in float32, inputs and outputs as ever."""
    paths = {precision: files(exported, precision)[part, "winter"] for precision in ("fp32", "fp16")}
    plain, half = (onnx.shape_inference.infer_shapes(onnx.load(path)) for path in paths.values())
    for side in ("input", "output"):
        told = [[(v.name, v.type.tensor_type.elem_type) for v in getattr(m.graph, side)] for m in (plain, half)]
        assert told[0] == told[1]
    types = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    types |= {t.name: t.data_type for t in half.graph.initializer}
    products = [node for node in half.graph.node if node.op_type in PRODUCTS]
    assert products
    for node in products:
        assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}, node.name
    statistics = [node for node in half.graph.node if node.op_type in IN_FLOAT]
    assert statistics or part == "style_mlp"
    for node in statistics:
        assert types[node.input[0]] == TensorProto.FLOAT, node.name


def test_norms_of_large_values_in_half():
    """Whose squares overflow half precision."""
    x = 300 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = instance_norm(x.half().double())
    got = instance_norm(x.half())
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.double(), expected, rtol=2e-3, atol=2e-3)
    one, nothing = torch.ones(3), torch.zeros(3)
    expected = layer_norm(x.half().double(), one.double(), nothing.double())
    torch.testing.assert_close(layer_norm(x.half(), one, nothing).double(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("pad", ["reflect", "replicate", "zero"])
def test_the_centred_stem(pad):
    plain = conv(3, 6, 7, padding=3, pad_type=pad).double().requires_grad_(False)
    frames = torch.randint(0, 256, (2, 3, 12, 10)).double()
    torch.testing.assert_close(
        CentredStem(ScaledStem(plain))(frames), plain(frames / 127.5 - 1), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("pad", ["reflect", "zero"])
def test_what_is_in_half(pad):
    """Every weight of a product, and nothing of a norm."""
    model = to_half(rewritten(make_model(pad_type=pad, style_kl=pad == "zero"), Rewrites()))
    kept = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    ups = {f"decoders.{s}.ups.{i}.{block}{p}" for s in "ab" for i, block in enumerate(("block.", "block.", ""))
           for p in ("scale", "shift")}  # fmt: skip
    norms = {f"mappings.{s}.{n}_norm.{p}" for s in "ab" for n in ("up", "down") for p in ("weight", "bias")}
    assert kept == ups | norms


def test_the_half_chain_is_close(exported):
    """Measured anew, on images that the export has not seen."""
    frames = np.stack(generated_images(72, 3, 40))
    style = np.zeros((3, 8), np.float32)
    expected = chain(files(exported), frames, style)
    got = chain(files(exported, "fp16"), frames, style)
    assert got.shape == expected.shape
    assert psnr(got, expected) > 45
    assert expected.std() > 5


def test_a_half_graph_takes_other_sizes(exported):
    for size in (16, 200):
        frames = np.stack(generated_images(size, 1, 3))
        assert chain(files(exported, "fp16"), frames, np.zeros((1, 8), np.float32)).shape == (1, size, size, 3)


def test_what_the_bundle_says(exported):
    """The numbers of the checks are kept, on enough images."""
    told = json.loads((exported.folder / "bundle.json").read_text())["verification"]["variants"]
    for precision, limit in (("fp16", 40), ("int8", 32)):
        found = told[precision]
        assert (found["limit_db"], found["passed"], found["pictures"]) == (limit, True, 32)
        assert set(found["finite"]) >= {"all black", "all white", "saturated noise", "saturated noise, 16x16"}
        assert all(found["finite"].values())
        names = {name.partition(":")[0] for name in found["checks"]}
        assert {"chain summer to winter", "decoder summer", "content_encoder winter", "mapping winter"} <= names
        assert all(c["psnr_db"] is None or c["psnr_db"] >= limit for c in found["checks"].values())
    assert "encoder.stem" in told["int8"]["float_layers"]["content_encoder summer"]
    assert "decoder.tail" in told["int8"]["float_layers"]["decoder winter"]


def test_the_report(exported):
    told = json.loads((exported.folder.parent / "r.json").read_text())
    decoder = told["components"]["decoder winter"]
    assert set(decoder["files"]) == set(decoder["checks"]) == {"fp32", "fp16", "int8"}
    assert decoder["parameters"] > 1000
    assert decoder["multiply_adds_after"] < 0.8 * decoder["multiply_adds_before"]
    assert told["next"] in exported.stdout
    assert set(told["seconds_for_graphs"]) == {"fp32", "fp16", "int8"}
    for file in decoder["files"].values():
        assert (exported.folder / file["path"]).stat().st_size == file["bytes"]


def test_costs_of_the_published_network():
    """The issue's figures: 52.2 G before; each phase of an upsampling takes 9 taps of 25."""
    from dsmap.config import ModelConfig
    from dsmap.model.dsmap import DSMAP

    costs = graph_costs(DSMAP(ModelConfig(pad_type="zero")).eval(), Rewrites(tail=False))
    frame = [costs[part] for part in ("content_encoder", "mapping", "decoder")]
    assert sum(c.multiply_adds_before for c in frame) / 1e9 == pytest.approx(52.2, abs=0.05)
    assert sum(c.multiply_adds_after for c in frame) / 1e9 == pytest.approx(30.7, abs=0.1)


def moved(path, out, name, factor):
    """A copy of a graph with one weight times `factor`."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value * factor).astype(value.dtype), name))
    onnx.save_model(model, out)
    return out


STYLES = dict.fromkeys(DOMAINS, np.zeros(8, np.float32))


def judged(exported, precision, changed):
    images = {domain: generated_images(64, 2, i) for i, domain in enumerate(DOMAINS)}
    variant = {**files(exported, precision), **changed}
    return compare_precision(
        precision, files(exported), variant, images, "generated", styles=STYLES, width=8, minimum=16
    )


@pytest.fixture
def small_extremes(monkeypatch):
    monkeypatch.setattr(precision_check, "_FULL_HD", (64, 96))


@pytest.mark.usefixtures("small_extremes")
def test_a_precision_that_is_off_fails_its_check(exported, tmp_path):
    decoder = files(exported, "fp16")["decoder", "winter"]
    wrong = moved(decoder, tmp_path / "wrong.onnx", "decoder.tail.weight", 1.2)
    found = judged(exported, "fp16", {("decoder", "winter"): wrong})
    assert {c.name for c in found.checks if not c.passed} == {"decoder winter", "chain summer to winter"}
    with pytest.raises(
        DsmapError, match=r"fp16 is too far from float32 \(required: 40 dB\): chain summer to winter \d+\.\d dB"
    ) as caught:
        require_passed(found, force=False, say=print)
    assert "--force" in caught.value.advice
    said = []
    require_passed(found, force=True, say=said.append)
    assert "too far from float32" in said[0]


@pytest.mark.usefixtures("small_extremes")
def test_infinite_values_fail_the_check(exported, tmp_path):
    """Half ends at 65504; uint8 frames would not tell."""
    decoder = files(exported, "fp16")["decoder", "winter"]
    wrong = moved(decoder, tmp_path / "wrong.onnx", "decoder.ups.0.block.weight", 6e4)
    found = judged(exported, "fp16", {("decoder", "winter"): wrong})
    assert not found.extremes["saturated noise"]
    assert "infinite values for saturated noise" in found.failures


def test_probes_leave_the_graph_as_it_is(exported):
    path = files(exported, "fp16")["content_encoder", "summer"]
    frames = np.stack(generated_images(64, 1, 2))
    plain = onnxruntime.InferenceSession(str(path)).run(None, {"frames": frames})
    model, limits = with_probes(path)
    session = onnxruntime.InferenceSession(model)
    named = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"frames": frames}), strict=True))
    assert np.array_equal(named.pop("content"), plain[0])
    assert np.array_equal(named.pop("skip"), plain[1])
    assert set(named) == set(limits)
    assert len(named) == len([n for n in onnx.load(path).graph.node if n.op_type == "Conv"])
    assert set(limits.values()) == {65504.0}
    assert all(0 < value < 1000 for value in named.values())


def test_extreme_inputs_without_memory(monkeypatch):
    said = []
    monkeypatch.setattr(precision_check, "available_bytes", lambda: 10**9)
    images = {domain: generated_images(64, 1) for domain in DOMAINS}
    assert "a picture, 1920x1088" not in extreme_inputs((64, 64), 16, 64, images, said.append)
    assert said == ["skipped the check at 1920x1088: too little memory"]
    assert extreme_inputs((64, 64), 16, 4, images)["a picture, 1920x1088"]["summer"].shape == (1, 1088, 1920, 3)


def test_int8_graphs(exported):
    """Convolutions in int8 with weights per channel; the first and the last one in float."""
    model = onnx.load(files(exported, "int8")["decoder", "winter"])
    makers = {output: node for node in model.graph.node for output in node.output}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    quantised = [node for node in convs if node.input[1] in makers]
    assert quantised
    assert "decoder.tail.weight" in {node.input[1] for node in convs if node not in quantised}
    scales = {t.name: t for t in model.graph.initializer}
    for node in quantised:
        weight = makers[node.input[1]]
        assert weight.op_type == makers[node.input[0]].op_type == "DequantizeLinear"
        assert scales[weight.input[0]].data_type == TensorProto.INT8
        assert scales[weight.input[1]].dims[0] == scales[weight.input[0]].dims[0] > 1
    frames = np.stack(generated_images(72, 3, 41))
    style = np.zeros((3, 8), np.float32)
    assert 32 < psnr(chain(files(exported, "int8"), frames, style), chain(files(exported), frames, style)) < 70


def test_channels_are_evened_out_without_a_trace(exported):
    """Mean 0 and variance 1 before a norm: what the graph gives stays, and what is known of its activations follows."""
    key, plain = ("content_encoder", "summer"), files(exported)
    names = {key: int8_graph.activation_names(plain[key])}
    images = {"summer": generated_images(64, 2, 5)}
    codes = {domain: [style] for domain, style in STYLES.items()}
    activations = observe(plain, names, images, codes)[key]
    model = onnx.load(plain[key])
    evened = int8_balance.even_out(model, activations)
    even = plain[key].parent.parent / "even.onnx"
    onnx.save_model(model, even)
    normed = {n.input[0] for n in model.graph.node if n.op_type == "InstanceNormalization"} & set(activations)
    found = observe({**plain, key: even}, names, images, codes)[key]
    means, variances = (np.concatenate(m) for m in zip(*(found[name].moments for name in normed), strict=True))
    assert np.abs(means).max() < 1e-3
    assert np.median(variances) == pytest.approx(1, abs=0.01)
    for name in normed:
        assert evened[name].range() == pytest.approx(found[name].range(), abs=1e-3)
    frames = images["summer"][0][None]
    outputs = [onnxruntime.InferenceSession(str(path)).run(None, {"frames": frames}) for path in (plain[key], even)]
    for a, b in zip(*outputs, strict=True):
        assert np.abs(a - b).max() < 0.01 * np.abs(a).max()


def one_convolution(weight, bias, shape, **inputs):
    """A graph of x -> y, with more `inputs`, by name with their shapes."""
    shapes = {"x": shape, **inputs}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "a.conv.weight", "a.conv.bias"], ["y"], name="conv")],
        "graph",
        [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name, sides in shapes.items()],
        [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "a.conv.weight"), numpy_helper.from_array(bias, "a.conv.bias")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("spread", "scaled"), [(100.0, ["x", "y"]), (1.5, [])])
def test_large_channels_are_balanced_where_it_pays(spread, scaled):
    """The graph gives the same, and no channel decides the range of the others."""
    rng = np.random.default_rng(0)
    size = spread ** np.linspace(0, 1, 8, dtype=np.float32)[:, None, None]
    x_nchw = rng.standard_normal((1, 8, 16, 16)).astype(np.float32) * size
    weight = rng.standard_normal((8, 8, 1, 1)).astype(np.float32) * size[..., None] / size.reshape(1, 8, 1, 1)
    model = one_convolution(weight, np.arange(8, dtype=np.float32), x_nchw.shape)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x_nchw})
    activations = {"x": Activation(), "y": Activation()}
    activations["x"].add(x_nchw)
    activations["y"].add(expected)
    balanced = int8_balance.even_out(model, activations)
    onnx.checker.check_model(model, full_check=True)
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x_nchw})
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert [node.op_type for node in model.graph.node].count("Mul") == len(scaled)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    for name, now in zip(scaled, (conv.input[0], conv.output[0]), strict=False):
        assert now in balanced
        seen = onnx.ModelProto()
        seen.CopyFrom(model)
        seen.graph.output.append(onnx.helper.make_tensor_value_info(now, TensorProto.FLOAT, None))
        _, even = onnxruntime.InferenceSession(seen.SerializeToString()).run(None, {"x": x_nchw})
        before, after = (z.std((0, 2, 3)) for z in ({"x": x_nchw, "y": expected}[name], even))
        assert after.max() / after.min() < 0.2 * before.max() / before.min()


@pytest.mark.parametrize(("strength", "levelled"), [(10.0, True), (1.5, False)])
def test_strong_styles_do_not_decide_the_range_of_weak_ones(strength, levelled):
    """The graph gives the same for every style, and its convolution reads images of one level."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 8, 1, 1)).astype(np.float32)
    style_shape = (1, 1, 2, 4)
    model = one_convolution(weight, np.arange(8, dtype=np.float32), (1, 8, 16, 16), style_params=style_shape)
    inputs = []
    for level in (1, strength, 1, strength):
        x_nchw = rng.standard_normal((1, 8, 16, 16)).astype(np.float32)
        inputs.append({"x": x_nchw * level, "style_params": np.full(style_shape, level - 0.9, np.float32)})
    activations = {"x": Activation(), "y": Activation(), "style_params": Activation()}
    plain = onnxruntime.InferenceSession(model.SerializeToString())
    expected = [plain.run(None, feeds)[0] for feeds in inputs]
    for feeds, y_nchw in zip(inputs, expected, strict=True):
        for name, value in {**feeds, "y": y_nchw}.items():
            activations[name].add(value)
    found = int8_balance.even_out(model, activations)
    onnx.checker.check_model(model, full_check=True)
    read = next(node for node in model.graph.node if node.op_type == "Conv").input[0]
    assert (read != "x") == levelled
    if levelled:
        model.graph.output.append(onnx.helper.make_tensor_value_info(read, TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(model.SerializeToString())
        outputs = [session.run(None, feeds) for feeds in inputs]
        np.testing.assert_allclose([y for y, _ in outputs], expected, rtol=1e-4, atol=1e-4 * strength)
        sizes = [x.std() for _, x in outputs]
        assert max(sizes) < 1.3 * min(sizes)
        assert found[read].powers == pytest.approx(np.square(sizes), rel=0.05)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", ["weights", "images"])
def test_a_network_that_does_nothing_is_left_alone(what):
    """A convolution of which nothing comes, or that gets nothing, has no levels to even out."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 8, 1, 1)).astype(np.float32) * (what != "weights")
    style_shape = (1, 1, 2, 4)
    model = one_convolution(weight, np.arange(8, dtype=np.float32), (1, 8, 16, 16), style_params=style_shape)
    activations = {"x": Activation(), "y": Activation(), "style_params": Activation()}
    plain = onnxruntime.InferenceSession(model.SerializeToString())
    x_nchw = rng.standard_normal((1, 8, 16, 16)).astype(np.float32) * (what != "images")
    for level in (1, 10):
        feeds = {"x": x_nchw, "style_params": np.full(style_shape, level, np.float32)}
        (expected,) = plain.run(None, feeds)
        for name, value in {**feeds, "y": expected}.items():
            activations[name].add(value)
    found = int8_balance.even_out(model, activations)
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert not any(node.op_type == "Div" for node in model.graph.node)
    assert np.isfinite([activation.range() for activation in found.values()]).all()


def test_ranges_of_activations():
    """A few far values of many do not stretch the range, and what does not occur is not in it."""
    rng = np.random.default_rng(0)
    found = Activation()
    for _ in range(2):
        y_nchw = np.maximum(rng.standard_normal((1, 4, 200, 200)), -0.5).astype(np.float32)
        y_nchw[0, 0, 0, 0] = 100
        found.add(y_nchw)
    low, high = found.range()
    assert low == -0.5
    assert high == pytest.approx(3.72, abs=0.15)  # of the normal distribution: 99.99 percent of magnitudes
    mean, variance = found.moments
    assert mean[1] == pytest.approx(0.2, abs=0.01)
    assert variance[0] > 0.7 > variance[1]


def test_the_order_in_which_blocks_go_back_to_float():
    """The noisiest in the worst check first; how many are needed follows from what all make together."""
    alone = {
        Block(("decoder", "b"), "x"): {"chain": 4.0, "decoder": 1.0},
        Block(("decoder", "b"), "y"): {"chain": 0.5, "decoder": 3.0},
        Block(("content_encoder", "a"), "z"): {"chain": 0.5},
    }
    order, expected = ranking(alone, {"chain": 2.5, "decoder": 1.5})
    assert [block.name for block in order] == ["x", "y", "z"]
    assert expected == 2  # without x the chain has 0.5 left and the decoder 1.1
    assert ranking(alone, {"chain": 2.5, "decoder": 0.1})[1] == 1


def test_sensitive_blocks_stay_in_float(exported, tmp_path, monkeypatch):
    """With a target that no int8 block meets, all stay float32."""
    monkeypatch.setattr(int8_search, "TARGETS_DB", {"psnr": 150.0})
    images = {domain: generated_images(32, 1, i) for i, domain in enumerate(DOMAINS)}
    said = []
    plain = files(exported)
    made = quantise(plain, tmp_path, images, {d: [s] for d, s in STYLES.items()}, said.append)
    assert set(made.files) == {(part, d) for part in ("content_encoder", "mapping", "decoder") for d in DOMAINS}
    assert "kept in float32" in said[-1]
    assert "decoder.blocks.0" in made.float_layers["decoder", "winter"]
    frames = images["summer"][0][None]
    style = np.zeros((1, 8), np.float32)
    assert psnr(chain({**plain, **made.files}, frames, style), chain(plain, frames, style)) > 60


@pytest.mark.parametrize(
    ("weight", "block"),
    [
        ("encoder.stem.weight", "encoder.stem"),
        ("encoder.blocks.3.conv2.weight", "encoder.blocks.3"),
        ("shared.block.conv1.weight", "shared.block"),
        ("decoder.ups.0.block.weight", "decoder.ups.0"),
        ("decoder.ups.0.block.rows.0.first", "decoder.ups.0.border"),
        ("decoder.ups.2.columns.1.weight", "decoder.ups.2.border"),
        ("mapping.down.weight", "mapping.down"),
    ],
)
def test_names_of_blocks(weight, block):
    assert int8_graph.block_of(weight) == block


def test_the_runtime_takes_the_precision_that_suits(exported):
    image = generated_images(64, 1, 9)[0]
    out = {}
    for precision in ("auto", "fp32", "fp16", "int8"):
        translator = Translator.load(exported.folder, domain="winter", backend="cpu", precision=precision)
        out[precision] = translator(image)
        assert translator.precision == ("int8" if precision == "auto" else precision)
        assert translator.backend_description.endswith(f"on the CPU, {translator.precision}")
    assert np.array_equal(out["auto"], out["int8"])
    assert not np.array_equal(out["int8"], out["fp32"])
    with pytest.raises(InputError, match="has no fp8 graphs; it has fp32, fp16, int8"):
        Translator.load(exported.folder, domain="winter", precision="fp8")


def test_a_variant_that_was_touched_is_refused(exported, tmp_path):
    import shutil

    copy = shutil.copytree(exported.folder, tmp_path / "copy")
    (copy / "decoder.winter.int8.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"decoder\.winter\.int8\.onnx has changed"):
        Bundle.read(copy)


def test_the_video_command_takes_a_precision(exported, tmp_path):
    from dsmap.common.images import write_rgb

    write_rgb(tmp_path / "in.png", generated_images(40, 1)[0])
    command = [sys.executable, "-m", "dsmap.tools.video", "in.png", "--domain", "winter", "--model", exported.folder,
               "--overwrite", "--precision"]  # fmt: skip
    done = subprocess.run([*command, "int8"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CPU (ONNX Runtime), int8" in done.stdout
    done = subprocess.run([*command, "int4"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "has no int4 graphs" in done.stderr


def test_nothing_is_written_if_a_check_fails(checkpoint, exported, tmp_path, monkeypatch):
    """The numbers are told; with force the bundle is written, and says that it did not pass."""
    import shutil

    from dsmap.export import bundle_writer
    from dsmap.export.bundle_writer import Variants, write_bundle
    from dsmap.export.trained_model import open_checkpoint

    monkeypatch.setattr(
        bundle_writer, "write_graph", lambda graph, path, _: shutil.copy(exported.folder / path.name, path)
    )
    monkeypatch.setattr(precision_check, "_FULL_HD", (64, 96))
    monkeypatch.setitem(precision_check.MIN_PSNR_DB, "fp16", 150.0)
    source = open_checkpoint(checkpoint)
    with pytest.raises(DsmapError, match=r"fp16 is too far from float32 \(required: 150 dB\)"):
        write_bundle(source, tmp_path / "b", variants=Variants(fp16=True))
    assert list(tmp_path.iterdir()) == []
    write_bundle(source, tmp_path / "b", variants=Variants(fp16=True, force=True))
    assert not Bundle.read(tmp_path / "b").manifest.verification["variants"]["fp16"]["passed"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--engine", "cuda"], "no engine called 'cuda'"),
        (["--sizes", "64x64"], "--sizes has no effect without --engine"),
        (["--engine", "rtx", "--sizes", "100x100"], "100 in 100x100 is not a multiple of 8"),
        (["--engine", "rtx", "--sizes", "64x64:32x32:128x128"], "out of order"),
        (["--engine", "rtx", "--gpu-arch", "9.9"], "--gpu-arch '9.9'"),
        (["--engine", "rtx", "-o", "b"], "-o needs a checkpoint"),
        (["--engine", "rtx", "--best"], "--best needs a checkpoint"),
        ([], "Add --engine rtx"),
    ],
)
def test_wrong_options_for_engines(exported, tmp_path, monkeypatch, arguments, text):
    if "rtx" in arguments:
        pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    code, _, err = call(export_command, exported.folder, *arguments)
    assert code == 2
    assert text in err


def test_engines_for_a_bundle(exported, checkpoint, tmp_path):
    """They are built into it, found again, and do not keep it from being replaced."""
    import shutil

    pytest.importorskip("tensorrt_rtx")
    copy = shutil.copytree(exported.folder, tmp_path / "copy")
    command = [copy, "--engine", "rtx", "--sizes", "64x64:64x96:128x128", "--report", "r.json"]
    done = run_export(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "built decoder.winter fp16" in done.stdout
    assert "100 % of" in done.stdout
    names = {path.name for path in (copy / "engines").iterdir()}
    assert "decoder.winter.fp16.rtx.64x64-64x96-128x128.engine" in names
    assert len(names) == 2 * 2 * len(PARTS)
    told = json.loads((tmp_path / "r.json").read_text())["engines"]
    assert {row["component"] for row in told} == set(PARTS)
    assert all(row["norm_float32_share"] in (None, 1.0) and row["build_seconds"] > 0 for row in told)
    (tmp_path / "r.json").unlink()
    again = run_export(*command, cwd=tmp_path)
    assert again.stdout.count("kept ") == len(told)
    assert Bundle.read(copy).precisions == ("fp32", "fp16", "int8")
    from dsmap.export.bundle_folder import check_bundle_folder

    check_bundle_folder(copy, overwrite=True)
    (copy / "engines" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds engines"):
        check_bundle_folder(copy, overwrite=True)
