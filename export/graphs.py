"""The ONNX graphs of a bundle: wrappers around the network's parts that take and give what the runtime handles.

Frames are uint8 (N, H, W, 3) RGB on both sides; the scaling to [-1, 1] and back is inside the graphs.
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dsmap.layers import FoldedUpsampleConv, UpsampleConv
from dsmap.model import DSMAP
from dsmap.networks import Decoder

OPSET = 20


Dims = dict[int, Any]
"""The dynamic dimensions (`torch.export.Dim`) of a tensor, by axis."""


class Graph(NamedTuple):
    """One ONNX file to be: what it computes, example inputs to trace, and what is dynamic in its inputs and outputs."""

    component: str
    domain: str
    module: nn.Module
    inputs: dict[str, Tensor]
    of_inputs: dict[str, Dims]
    of_outputs: dict[str, Dims]

    @property
    def file_name(self) -> str:
        """Where it goes in the bundle."""
        return f"{self.component}.{self.domain}.onnx"


class ContentEncoderGraph(nn.Module):
    """frames -> content (shared), skip."""

    def __init__(self, model: DSMAP, domain: str) -> None:
        super().__init__()
        self.encoder = model.content_encoders[model.slot(domain)]
        self.shared = model.shared_encoder

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        content, skip = self.encoder(from_frames(frames))
        return self.shared(content), skip


class MappingGraph(nn.Module):
    """content, skip -> mapped."""

    def __init__(self, model: DSMAP, target: str) -> None:
        super().__init__()
        self.mapping = model.mappings[model.slot(target)]

    def forward(self, content: Tensor, skip: Tensor) -> Tensor:
        return self.mapping(content, skip)


class DecoderGraph(nn.Module):
    """mapped, style -> frames."""

    def __init__(self, model: DSMAP, domain: str) -> None:
        super().__init__()
        self.mlp = model.style_mlps[model.slot(domain)]
        self.decoder = model.decoders[model.slot(domain)]

    def forward(self, mapped: Tensor, style: Tensor) -> Tensor:
        return to_frames(self.decoder(mapped, self.mlp(style)))


class StyleEncoderGraph(nn.Module):
    """frames -> style."""

    def __init__(self, model: DSMAP, domain: str) -> None:
        super().__init__()
        self.encoder = model.style_encoders[model.slot(domain)]

    def forward(self, frames: Tensor) -> Tensor:
        return self.encoder(from_frames(frames))


def from_frames(frames: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1]."""
    # Cast before the transpose (TensorRT refuses a uint8 one); torch.export needs the layout made plain after it.
    return frames.float().permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def to_frames(x_nchw: Tensor) -> Tensor:
    """float32 (N, 3, H, W) in [-1, 1] -> uint8 (N, H, W, 3), rounded."""
    return ((x_nchw + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8)


def graphs(model: DSMAP) -> Iterator[Graph]:
    """Every graph of a bundle of `model` (in eval mode, on the CPU)."""
    model = fold_upsampling_convs(model)
    # h, w: the content's size. The factor keeps every picture's size a multiple that the network takes.
    multiple = model.config.multiple_of
    n, h, w = torch.export.Dim("n", min=1), torch.export.Dim("h", min=2), torch.export.Dim("w", min=2)
    of_style = {0: n}
    of_frames = {0: n, 1: multiple * h, 2: multiple * w}
    of_content, of_skip = {0: n, 2: h, 3: w}, {0: n, 2: 2 * h, 3: 2 * w}
    frames = torch.randint(0, 256, (2, 4 * multiple, 5 * multiple, 3), dtype=torch.uint8)
    style = torch.randn(2, model.config.style_dim)
    with torch.no_grad():
        content, skip, _ = model.encode(from_frames(frames), model.domains[0])

    kinds: list[tuple[str, type[nn.Module], dict[str, Tensor], dict[str, Dims], dict[str, Dims]]] = [
        ("content_encoder", ContentEncoderGraph, {"frames": frames}, {"frames": of_frames},
         {"content": of_content, "skip": of_skip}),
        ("mapping", MappingGraph, {"content": content, "skip": skip}, {"content": of_content, "skip": of_skip},
         {"mapped": of_content}),
        ("decoder", DecoderGraph, {"mapped": content, "style": style}, {"mapped": of_content, "style": of_style},
         {"frames": of_frames}),
        ("style_encoder", StyleEncoderGraph, {"frames": frames}, {"frames": of_frames}, {"style": of_style}),
    ]  # fmt: skip
    for domain in model.domains:
        for component, kind, inputs, of_inputs, of_outputs in kinds:
            if component != "mapping" or model.config.mapping:
                yield Graph(component, domain, kind(model, domain), inputs, of_inputs, of_outputs)


def write_graph(graph: Graph, path: Path) -> None:
    """Exports `graph` to `path`, weights inside the file; the ONNX checker has passed it."""
    import onnx

    with _quiet_exporter():
        program = torch.onnx.export(
            graph.module.eval(),
            kwargs=graph.inputs,
            input_names=list(graph.inputs),
            output_names=list(graph.of_outputs),
            dynamic_shapes=graph.of_inputs,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_dimensions(model, graph.of_outputs)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path), save_as_external_data=False)


def _name_dimensions(model: Any, of_outputs: dict[str, Dims]) -> None:
    """Gives the outputs' dynamic dimensions readable names: torch.export leaves symbols such as s39."""
    for output in model.graph.output:
        for axis, dim in of_outputs[output.name].items():
            output.type.tensor_type.shape.dim[axis].dim_param = dim.__name__


def fold_upsampling_convs(model: DSMAP) -> DSMAP:
    """A copy of `model` whose upsampling convs keep the folded 3x3 kernel they are computed with."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, Decoder):
            for i, up in enumerate(module.ups):
                if isinstance(up, UpsampleConv) and up.folds:
                    module.ups[i] = FoldedUpsampleConv(up)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter prints its progress and warns of its own deprecations; none of it is for the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
