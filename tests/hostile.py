"""A bundle that takes milliseconds to make, for tests that damage it. Its graphs load, but compute nothing."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PARTS = ("content_encoder", "mapping", "style_mlp", "decoder", "style_encoder")


def small_graph() -> onnx.ModelProto:
    """y = x + w, with a weight of 300 numbers."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 300]) for name in "xy")
    weight = numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"], name="add")], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def manifest_tree(folder: Path, files: dict[tuple[str, str], str]) -> dict:
    """The content of bundle.json for files in `folder`, by component and domain."""
    components: dict[str, dict] = {}
    for (part, domain), name in files.items():
        data = (folder / name).read_bytes()
        entry = {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        components.setdefault(part, {})[domain] = entry
    style = {"mean": [0.0, 1.0], "std": [1.0, 1.0], "pictures": 3}
    return {
        "format_version": 2, "name": "small", "domains": ["a", "b"], "precision": "fp32", "style_dim": 2,
        "sizes": {"multiple_of": 8, "minimum": 16, "style_minimum": 16, "trained_at": 64},
        "architecture": {"dim": 4}, "components": components, "styles": {"a": style, "b": style},
        "licence": "CC0", "card": "", "provenance": {}, "verification": {},
    }  # fmt: skip


def make_small_bundle(folder: Path, data: bytes | None = None) -> Path:
    """A bundle of which every file has the same bytes."""
    folder.mkdir()
    files = {(part, domain): f"{part}.{domain}.onnx" for part in PARTS for domain in "ab"}
    for name in files.values():
        (folder / name).write_bytes(small_graph().SerializeToString() if data is None else data)
    (folder / "bundle.json").write_text(json.dumps(manifest_tree(folder, files)))
    return folder
