"""The torch backend's patterns, on what the export writes: recognised, and the same numbers, compiled or not."""

from collections import Counter
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dsmap.export.graphs import Graph, write_graph
from dsmap.export.rewrites import BlockTail, BlockUpsampleConv, Shuffled
from dsmap.model.layers import UpsampleConv, conv
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime
from dsmap.runtime.backends.torch import devices, functions
from dsmap.runtime.backends.torch.modules import _node, copy_of, single_module
from dsmap.runtime.backends.torch.patterns import EdgeSums, find_patterns
from dsmap.runtime.bundle.bundle import GraphData

PADS = {
    "reflect": {"add_to_ends": 8, "pad_blocks": 1, "layer_norm": 2},
    "replicate": {"pad_blocks": 1, "layer_norm": 2},
}


class Enlargement(nn.Module):
    """The last layers of a rewritten decoder: (N, 6, H, W) -> (N, 3, 4 H, 4 W)."""

    def __init__(self, pad_type: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        ups = UpsampleConv(6, 4, pad_type), UpsampleConv(4, 2, pad_type)
        for up in ups:
            nn.init.normal_(up.norm.bias)
        self.first, self.second = Shuffled(BlockUpsampleConv(ups[0])), BlockUpsampleConv(ups[1])
        self.tail = BlockTail(conv(2, 3, 7, padding=3, pad_type=pad_type))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.second(self.first(x)))


@pytest.fixture(scope="module", params=PADS)
def exported(request, made_once) -> tuple[str, bytes]:
    def write(folder):
        dims = {name: torch.export.Dim(name, min=2, max=64) for name in ("n", "h", "w")}
        n, h, w = dims.values()
        graph = Graph(
            "enlargement",
            "",
            "fp32",
            Enlargement(request.param).eval().requires_grad_(False),
            {"x": torch.zeros(2, 6, 5, 7)},
            {"x": {0: n, 2: h, 3: w}},
            {"y": {0: n}},
        )
        write_graph(graph, folder / "model.onnx")

    folder = made_once(f"enlargement-{request.param}", write)
    return request.param, (folder / "model.onnx").read_bytes()


def module(data: bytes) -> torch.fx.GraphModule:
    return single_module(GraphData(data, "", "fp32", "model.onnx"), "x", wanted="y")


def test_enlarging_writes_few_maps_and_gives_what_onnx_runtime_gives(exported):
    pad_type, data = exported
    ours = module(data)
    calls = Counter(node.target.__name__ for node in ours.graph.nodes if node.op == "call_function")
    assert PADS[pad_type].items() <= calls.items()
    assert "cat" not in calls
    session = import_onnxruntime().InferenceSession(data, providers=["CPUExecutionProvider"])
    compiled = torch.compile(copy_of(ours), fullgraph=True, dynamic=False, backend="aot_eager")
    for shape in ((1, 6, 5, 7), (2, 6, 2, 3)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        expected = torch.from_numpy(session.run(None, {"x": x})[0])
        with torch.inference_mode():
            for translation in (ours.forward, compiled):
                torch.testing.assert_close(translation(torch.from_numpy(x)), expected, atol=2e-5, rtol=1e-4)


def test_what_is_read_elsewhere_is_not_changed(exported):
    pad_type, data = exported
    graph = onnx.load_from_string(data).graph
    nodes = [_node(node) for node in graph.node]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convs = [node.outputs[0] for node in nodes if node.operator == "Conv"]
    edges = partial(find_patterns, nodes, constants)
    assert any(isinstance(found, EdgeSums) for found in edges(["y"]).values()) == (pad_type == "reflect")
    assert not any(isinstance(found, EdgeSums) for found in edges(convs).values())


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_a_padded_map_is_read_in_its_padding(mode):
    """With other widths on every side, compiled or not."""
    x = torch.arange(2.0 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    widths = (1, 2, 3, 0)
    pad = functions.pad_by_repeating if mode == "replicate" else partial(torch.nn.functional.pad, mode=mode)
    padded = torch.compile(pad, backend="aot_eager", fullgraph=True)(x, widths)
    assert torch.equal(padded, torch.nn.functional.pad(x, widths, mode))
    assert torch.equal(functions.inner_part(padded, (1, 2), (3, 0)), x)


def test_the_compiler_knows_our_options():
    assert set(devices._OPTIONS) <= set(torch._inductor.list_options())
