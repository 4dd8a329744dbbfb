"""Norms for the CUDA provider: the same numbers as float64, whatever the mean, the variance and the batch."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsmap.runtime.backends.cuda_norms import cuda_norms
from dsmap.runtime.backends.gpu_graph import FRAMES, STYLE, bundle_gpu_graph
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model

CHANNELS, EPSILON = 128, 1e-5
EXTREMES = {"usual": (1.0, 0.3), "far from 0": (0.5, 300.0), "squares overflow": (1500.0, 100.0), "flat": (0.0, 40.0)}


def graph(kind: str, half: bool) -> onnx.ModelProto:
    """A norm as exported, of a map `x` (N, C, H, W)."""
    wide, narrow = TensorProto.FLOAT, TensorProto.FLOAT16 if half else TensorProto.FLOAT
    channels = [0, 1, -1] if kind == "layer" else None
    rng = np.random.default_rng(1)
    size = 1 if kind == "layer" else CHANNELS
    arrays = {
        "ones": np.ones(size, np.float32),
        "zeros": np.zeros(size, np.float32),
        "factor": rng.uniform(0, 1, (CHANNELS, 1, 1)).astype(np.float32),
        "term": rng.standard_normal((CHANNELS, 1, 1)).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [helper.make_node("Cast", ["x"], ["wide"], to=wide)] if half else []
    x = "wide" if half else "x"
    norm = {"epsilon": EPSILON}
    if kind == "layer":
        arrays["one_channel"] = np.array(channels)
        nodes += [
            helper.make_node("Reshape", [x, "one_channel"], ["row"]),
            helper.make_node("InstanceNormalization", ["row", "ones", "zeros"], ["normal_row"], name="norm", **norm),
            helper.make_node("Shape", [x], ["shape"]),
            helper.make_node("Reshape", ["normal_row", "shape"], ["normal"]),
        ]
        factor, term = "factor", "term"
    else:
        nodes.append(helper.make_node("InstanceNormalization", [x, "ones", "zeros"], ["normal"], name="norm", **norm))
        factor, term = "style_factor", "style_term"
    if kind == "adaptive":
        for index, name in enumerate(("factor", "term")):
            arrays[f"index_{name}"] = np.array(index)
            nodes.append(helper.make_node("Gather", [STYLE, f"index_{name}"], [f"of_{name}"], axis=1))
            nodes.append(helper.make_node("Unsqueeze", [f"of_{name}", "axes"], [f"style_{name}"]))
    last = "normal"
    if kind != "instance":
        nodes += [
            helper.make_node("Mul", ["normal", factor], ["scaled"]),
            helper.make_node("Add", ["scaled", term], ["shifted"]),
        ]
        last = "shifted"
    nodes.append(
        helper.make_node("Cast", [last], ["y"], to=narrow) if half else helper.make_node("Relu", [last], ["y"])
    )
    value = helper.make_tensor_value_info
    inputs = [
        value(FRAMES, TensorProto.UINT8, ["n", "h", "w", 3]),
        value(STYLE, wide, ["n", 2, CHANNELS]),
        value("x", narrow, ["n", CHANNELS, "h", "w"]),
    ]
    made = helper.make_graph(
        nodes,
        "norm",
        inputs,
        [value("y", narrow, ["n", CHANNELS, "h", "w"])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def in_float64(kind: str, x: np.ndarray, style: np.ndarray) -> np.ndarray:
    axes = (1, 2, 3) if kind == "layer" else (2, 3)
    x = x.astype(np.float64)
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    if kind == "layer":
        made = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph(kind, True).graph.initializer}
        return y * made["factor"] + made["term"]
    return y if kind == "instance" else y * style[:, 0, :, None, None] + style[:, 1, :, None, None]


@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("kind", ["instance", "adaptive", "layer"])
def test_the_numbers_are_those_of_float64(kind, half, case):
    deviation, mean = EXTREMES[case]
    rng = np.random.default_rng(0)
    model = graph(kind, half)
    cuda_norms(model)
    onnx.checker.check_model(model, full_check=True)
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for n, height, width in ((1, 12, 10), (3, 6, 8)):
        x = mean + deviation * rng.standard_normal((n, CHANNELS, height, width))
        x = x.astype(np.float16 if half else np.float32)
        style = rng.standard_normal((n, 2, CHANNELS)).astype(np.float32)
        given = {FRAMES: np.full((n, height, width, 3), 255, np.uint8), STYLE: style, "x": x}
        y = session.run(None, {entry.name: given[entry.name] for entry in session.get_inputs()})[0]
        expected = in_float64(kind, x, style)
        assert y.shape == expected.shape
        if half:
            assert np.abs(y - expected).max() <= 2e-3 * max(1, np.abs(expected).max())
        else:
            assert np.abs(y - np.maximum(expected, 0)).max() <= 5e-4


@pytest.mark.parametrize("kind", ["instance", "adaptive", "layer"])
def test_a_map_in_half_precision_stays_so(kind):
    """Every map that is computed has two bytes a value, and is normalised by one node."""
    model = graph(kind, True)
    cuda_norms(model)
    inferred = onnx.shape_inference.infer_shapes(model)
    maps = [
        value.type.tensor_type.elem_type
        for value in inferred.graph.value_info
        if len(value.type.tensor_type.shape.dim) == 4 and value.name.endswith(("one_sample", "normalised"))
    ]
    assert maps == [TensorProto.FLOAT16] * 2
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization" if kind == "layer" else "InstanceNormalization"] == 1
    assert {"wide", "normal", "scaled"}.isdisjoint(name for node in model.graph.node for name in node.output)


def test_the_bundled_models_casts_are_gone():
    bundle = Bundle.read(find_model("summer-winter"))
    before, after = (
        onnx.load_from_string(bundle_gpu_graph(bundle, "summer", "winter", "fp16", norms))
        for norms in (None, cuda_norms)
    )
    norms = [node for node in after.graph.node if node.op_type == "InstanceNormalization"]
    assert len(norms) == sum(node.op_type == "InstanceNormalization" for node in before.graph.node)
    assert all(node.input[0].startswith("cuda_norms/") for node in norms)
