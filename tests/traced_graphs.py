"""In a run of the tests, networks of the same kind are traced for export once: torch needs seconds for each graph."""

import hashlib
import io
import os
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import torch
from onnxscript._internal.values import TracedOnnxFunction

from dsmap.export import graphs


def keep_traces(folder: Path) -> None:
    """From now on, this process takes traced graphs from `folder`, and puts there those that it traces itself.

    What is traced has random weights and is given only types and shapes, so what the exporter makes of it follows from
    the module, with all its attributes, and from the inputs: they are the key.
    """
    trace = graphs._export

    def kept(graph: graphs.Graph) -> Any:
        import onnx

        path = folder / f"{_key(graph)}.onnx"
        if not path.exists():
            model = trace(graph)
            part = path.with_suffix(f".{os.getpid()}")
            onnx.save_model(model, str(part))
            part.rename(path)
        return onnx.load(path)

    graphs._export = kept
    # The exporter parses each of its hundreds of functions anew for every graph.
    TracedOnnxFunction.function_ir = property(cache(TracedOnnxFunction.function_ir.fget))


def _key(graph: graphs.Graph) -> str:
    told = io.BytesIO()
    inputs = {name: (x.dtype, x.shape) for name, x in graph.inputs.items()}
    dims = [{name: {axis: str(d) for axis, d in of.items()} for name, of in some.items()}
            for some in (graph.input_dims, graph.output_dims)]  # fmt: skip
    pickle.dump((inputs, dims), told)
    torch.save(graph.module, told)
    return hashlib.sha256(told.getvalue()).hexdigest()
