"""A bundle without styles, of one direction, that needs no network: it turns images into their negatives."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dsmap.runtime.bundle.bundle import Bundle, Manifest, Sizes, Style, describe_components, write_manifest

SOURCE, TARGET = "day", "night"


def write_plain_bundle(folder: Path, name: str = "plain") -> Bundle:
    """Writes `folder`: frames of `SOURCE` become 255 minus themselves."""
    folder.mkdir(parents=True)
    frames, content = ["n", "H", "W", 3], ["n", 3, "H", "W"]
    graphs = {
        ("content_encoder", SOURCE): _graph(
            [helper.make_node("Cast", ["frames"], ["levels"], to=TensorProto.FLOAT),
             helper.make_node("Transpose", ["levels"], ["content"], perm=[0, 3, 1, 2])],
            ("frames", TensorProto.UINT8, frames), ("content", TensorProto.FLOAT, content)),
        ("decoder", TARGET): _graph(
            [helper.make_node("Sub", ["white", "mapped"], ["negative"]),
             helper.make_node("Transpose", ["negative"], ["turned"], perm=[0, 2, 3, 1]),
             helper.make_node("Cast", ["turned"], ["frames"], to=TensorProto.UINT8)],
            ("mapped", TensorProto.FLOAT, content), ("frames", TensorProto.UINT8, frames)),
    }  # fmt: skip
    files = {}
    for (component, domain), graph in graphs.items():
        files[component, domain] = folder / f"{component}.{domain}.onnx"
        onnx.save_model(graph, str(files[component, domain]))
    manifest = Manifest(
        name=name,
        domains=(SOURCE, TARGET),
        precision="fp32",
        style_dim=0,
        sizes=Sizes(multiple_of=4, minimum=16, style_minimum=16, trained_at=32),
        architecture={"kind": "test", "dim": 2},
        components=describe_components(folder, files),
        styles={domain: Style(mean=[], std=[], pictures=0) for domain in (SOURCE, TARGET)},
        licence="CC0",
        card="# plain",
        provenance={"kind": "test"},
        verification={},
    )
    write_manifest(folder, manifest)
    return Bundle.read(folder)


def _graph(nodes: list, given: tuple, made: tuple) -> onnx.ModelProto:
    inputs, outputs = ([helper.make_tensor_value_info(*one)] for one in (given, made))
    white = numpy_helper.from_array(np.array(255, np.float32), "white")
    graph = helper.make_graph(nodes, "plain", inputs, outputs, [white] if len(nodes) == 3 else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model
