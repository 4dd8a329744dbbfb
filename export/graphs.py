"""Exports the parts of a network as ONNX graphs whose inputs and outputs are those of the runtime.

Frames are uint8 (N, H, W, 3) RGB on both sides; the scaling to [-1, 1] and back is inside the graphs.
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from dsmap.export.fp16 import to_half
from dsmap.export.rewrites import Rewrites, RewrittenDecoder, rewritten
from dsmap.model.any_model import StyledModel
from dsmap.model.dsmap import DSMAP
from dsmap.model.two_domains import SLOTS
from dsmap.runtime.bundle.bundle import graph_file

OPSET = 20  # 21 introduces a GroupNormalization that TensorRT computes wrongly for one group (its issue 4756)
ALL_REWRITES = Rewrites()


Dims = dict[int, Any]
"""The dynamic dimensions (`torch.export.Dim`) of a tensor, by axis."""

Part: TypeAlias = tuple[nn.Module, tuple[str, ...], tuple[str, ...]]
"""A module, and the names of the tensors that it takes and gives."""


class Graph(NamedTuple):
    """An ONNX graph to export: its module, example inputs to trace, and dynamic dimensions of inputs and outputs."""

    component: str
    domain: str
    precision: str
    module: nn.Module
    inputs: dict[str, Tensor]
    input_dims: dict[str, Dims]
    output_dims: dict[str, Dims]

    @property
    def file_name(self) -> str:
        """The name of its file in the bundle."""
        return graph_file(self.component, self.domain, self.precision)


class ContentEncoderGraph(nn.Module):
    """frames -> content (shared), skip."""

    def __init__(self, model: DSMAP, domain: str, scaling: bool) -> None:
        super().__init__()
        self.encoder = model.content_encoders[model.slot(domain)]
        self.shared = model.shared_encoder
        self.scaling = scaling

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        content, skip = self.encoder(to_dtype_of(self.encoder, images_of(frames, self.scaling)))
        return self.shared(content).float(), skip.float()


class PlainEncoderGraph(nn.Module):
    """frames -> content, of a network without a skip."""

    def __init__(self, encoder: nn.Module, scaling: bool) -> None:
        super().__init__()
        self.encoder, self.scaling = encoder, scaling

    def forward(self, frames: Tensor) -> Tensor:
        content: Tensor = self.encoder(to_dtype_of(self.encoder, images_of(frames, self.scaling)))
        return content.float()


class MappingGraph(nn.Module):
    """content, skip -> mapped."""

    def __init__(self, model: DSMAP, target: str) -> None:
        super().__init__()
        self.mapping = model.mappings[model.slot(target)]

    def forward(self, content: Tensor, skip: Tensor) -> Tensor:
        return self.mapping(to_dtype_of(self.mapping, content), to_dtype_of(self.mapping, skip)).float()


class StyleMLPGraph(nn.Module):
    """style -> style_params."""

    def __init__(self, model: StyledModel, domain: str) -> None:
        super().__init__()
        self.mlp = model.style_mlps[model.slot(domain)]

    def forward(self, style: Tensor) -> Tensor:
        return self.mlp(to_dtype_of(self.mlp, style)).float()


class DecoderGraph(nn.Module):
    """mapped, style_params -> frames."""

    def __init__(self, model: StyledModel, domain: str, scaling: bool) -> None:
        super().__init__()
        self.decoder = model.decoders[model.slot(domain)]
        self.scaling = scaling

    def forward(self, mapped: Tensor, style_params: Tensor) -> Tensor:
        y = self.decoder(to_dtype_of(self.decoder, mapped), style_params)  # float32 at the end, in half precision too
        return grey_levels(y) if self.scaling else to_frames(y)


class StyleEncoderGraph(nn.Module):
    """frames -> style."""

    def __init__(self, model: StyledModel, domain: str, scaling: bool) -> None:
        super().__init__()
        self.encoder = model.style_encoders[model.slot(domain)]
        self.scaling = scaling

    def forward(self, frames: Tensor) -> Tensor:
        return self.encoder(to_dtype_of(self.encoder, images_of(frames, self.scaling))).float()


def from_frames(frames: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1]."""
    return images_of(frames, False)


def to_frames(x_nchw: Tensor) -> Tensor:
    """float32 (N, 3, H, W) in [-1, 1] -> uint8 (N, H, W, 3), rounded."""
    return grey_levels((x_nchw + 1) * 127.5)


def images_of(frames: Tensor, scaling: bool) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1], or in 0..255 if the weights include the scaling."""
    # Cast before the transpose (TensorRT refuses a uint8 one); torch.export needs a contiguous layout after it.
    x_nchw = frames.float().permute(0, 3, 1, 2).contiguous()
    return x_nchw if scaling else x_nchw / 127.5 - 1


def to_dtype_of(part: nn.Module, x: Tensor) -> Tensor:
    """`x` in the type of the weights of `part`: float16 or float32."""
    return x.to(next(part.parameters()).dtype)


def grey_levels(x_nchw: Tensor) -> Tensor:
    """float32 (N, 3, H, W) in 0..255 -> uint8 (N, H, W, 3), rounded."""
    return x_nchw.round().permute(0, 2, 3, 1).to(torch.uint8)


def graphs(model: DSMAP, rewrites: Rewrites = ALL_REWRITES, precision: str = "fp32") -> Iterator[Graph]:
    """All graphs of a bundle of `model` (in eval mode, on the CPU). `precision` is "fp32" or "fp16" (see `to_half`)."""
    scaling, fast = rewrites.scaling, rewritten(model, rewrites)
    if precision == "fp16":
        to_half(fast)
    # h, w: the size of the content. The factor keeps image sizes at multiples that the network accepts.
    multiple = model.config.multiple_of
    n, h, w = torch.export.Dim("n", min=1), torch.export.Dim("h", min=2), torch.export.Dim("w", min=2)
    of_style = {0: n}
    of_frames = {0: n, 1: multiple * h, 2: multiple * w}
    beyond = 2 * model.config.margin // multiple
    of_content = {0: n, 2: h + beyond, 3: w + beyond} if beyond else {0: n, 2: h, 3: w}
    of_skip = {0: n} | {axis: 2 * side for axis, side in of_content.items() if axis}
    # Large enough for every graph. The sides differ, or the exporter would take them for one dimension.
    tall = max(4, -(-model.config.style_minimum_size // multiple))
    frames = torch.randint(0, 256, (2, tall * multiple, (tall + 1) * multiple, 3), dtype=torch.uint8)
    style = torch.randn(2, model.config.style_dim)
    with torch.no_grad():
        content, skip, _ = model.encode(from_frames(frames), model.domains[0])
        style_params = model.style_mlps[SLOTS[0]](style)
    tensors = {"frames": frames, "content": content, "skip": skip, "mapped": content, "style": style,
               "style_params": style_params}  # fmt: skip
    dims = {"frames": of_frames, "content": of_content, "skip": of_skip, "mapped": of_content, "style": of_style,
            "style_params": of_style}  # fmt: skip

    for domain in model.domains:
        parts: dict[str, Part] = {
            "content_encoder": (ContentEncoderGraph(fast, domain, scaling), ("frames",), ("content", "skip")),
            "style_mlp": (StyleMLPGraph(fast, domain), ("style",), ("style_params",)),
            "decoder": (DecoderGraph(fast, domain, scaling), ("mapped", "style_params"), ("frames",)),
            "style_encoder": (StyleEncoderGraph(fast, domain, scaling), ("frames",), ("style",)),
        }
        if model.config.mapping:
            parts["mapping"] = MappingGraph(fast, domain), ("content", "skip"), ("mapped",)
        yield from graphs_of(parts, domain, precision, tensors, dims)


def graphs_of(
    parts: Mapping[str, Part], domain: str, precision: str, tensors: Mapping[str, Tensor], dims: Mapping[str, Dims]
) -> Iterator[Graph]:
    """The graphs of a domain, by component. `tensors`: examples by name, `dims`: their dynamic dimensions."""
    for component, (module, inputs, outputs) in parts.items():
        yield Graph(
            component,
            domain,
            precision,
            module,
            {name: tensors[name] for name in inputs},
            {name: dims[name] for name in inputs},
            {name: dims[name] for name in outputs},
        )


def write_graph(graph: Graph, path: Path, templates: "Templates | None" = None) -> None:
    """Exports `graph` to `path` with the weights inside, after the ONNX checker has passed it.

    Graphs written with the same `templates` are traced once if only their weights differ.
    """
    import onnx

    model = (templates if templates is not None else Templates()).model(graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path), save_as_external_data=False)


class Templates:
    """Traced ONNX graphs by component and precision, filled with the weights of either domain.

    torch's exporter takes seconds per graph, and the graphs of both domains differ only in their weights if they have
    the same contrast. A copy of the module with random weights is exported, to find out where each weight goes.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, tuple[float, ...]], tuple[Any, dict[str, str]] | None] = {}

    def model(self, graph: Graph) -> Any:
        """The ONNX model of `graph` with its weights."""
        from onnx import numpy_helper

        contrasts = tuple(part.contrast for part in graph.module.modules() if isinstance(part, RewrittenDecoder))
        key = graph.component, graph.precision, contrasts
        if key not in self._known:
            self._known[key] = _template(graph)
        known = self._known[key]
        if known is None:
            return _export(graph)
        template, sources = known
        weights = dict(graph.module.named_parameters())
        for tensor in template.graph.initializer:
            if tensor.name in sources:
                value = weights[sources[tensor.name]].detach().numpy().reshape(tuple(tensor.dims))
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return template


def _template(graph: Graph) -> tuple[Any, dict[str, str]] | None:
    """The ONNX model of `graph` with random weights, and the name of the parameter behind each of its tensors.

    None if a weight cannot be found, since it is unused or the exporter changed it.
    """
    from onnx import numpy_helper

    module = copy.deepcopy(graph.module)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    model = _export(graph._replace(module=module))
    names = {parameter.detach().numpy().tobytes(): name for name, parameter in module.named_parameters()}
    found = {t.name: names.get(numpy_helper.to_array(t).tobytes()) for t in model.graph.initializer}
    sources = {tensor: name for tensor, name in found.items() if name is not None}
    found_all = set(sources.values()) == {name for name, _ in module.named_parameters()}
    return (model, sources) if found_all else None


def _export(graph: Graph) -> Any:
    """Exports `graph` with torch's exporter."""
    with _quiet_exporter():
        program = torch.onnx.export(
            graph.module.eval(),
            kwargs=graph.inputs,
            input_names=list(graph.inputs),
            output_names=list(graph.output_dims),
            dynamic_shapes=graph.input_dims,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_dimensions(model, graph.output_dims)
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")  # source locations on this machine
    return model


def _name_dimensions(model: Any, output_dims: dict[str, Dims]) -> None:
    """Gives dynamic dimensions of outputs readable names instead of symbols of torch.export such as s39."""
    for output in model.graph.output:
        for axis, dim in output_dims[output.name].items():
            output.type.tensor_type.shape.dim[axis].dim_param = dim.__name__


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silences the exporter, which prints its progress and warns of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
