"""The graphs of MUNIT's generators: those of DSMAP, with its rewrites, without a mapping and without a skip."""

from collections.abc import Iterator

import torch

from dsmap.export.fp16 import to_half
from dsmap.export.graphs import (
    ALL_REWRITES,
    DecoderGraph,
    Graph,
    Part,
    PlainEncoderGraph,
    StyleEncoderGraph,
    StyleMLPGraph,
    from_frames,
    graphs_of,
)
from dsmap.export.rewrites import Rewrites, rewritten
from dsmap.model.munit import MUNIT
from dsmap.model.two_domains import SLOTS


def munit_graphs(model: MUNIT, rewrites: Rewrites = ALL_REWRITES, precision: str = "fp32") -> Iterator[Graph]:
    """All graphs of a bundle of `model` (in eval mode, on the CPU). `precision` is "fp32" or "fp16" (see `to_half`)."""
    scaling, fast = rewrites.scaling, rewritten(model, rewrites)
    if precision == "fp16":
        to_half(fast)
    multiple, least = model.config.multiple_of, model.config.minimum_size // model.config.multiple_of
    n, h, w = torch.export.Dim("n", min=1), torch.export.Dim("h", min=least), torch.export.Dim("w", min=least)
    # Large enough for every graph. The sides differ, or the exporter would take them for one dimension.
    tall = max(2 * least, -(-2 * model.config.style_minimum_size // multiple))
    frames = torch.randint(0, 256, (2, tall * multiple, (tall + 1) * multiple, 3), dtype=torch.uint8)
    style = torch.randn(2, model.config.style_dim)
    with torch.no_grad():
        content = model.encode(from_frames(frames), model.domains[0])
        style_params = model.style_mlps[SLOTS[0]](style)
    tensors = {"frames": frames, "content": content, "mapped": content, "style": style, "style_params": style_params}
    of_content = {0: n, 2: h, 3: w}
    dims = {"frames": {0: n, 1: multiple * h, 2: multiple * w}, "content": of_content, "mapped": of_content,
            "style": {0: n}, "style_params": {0: n}}  # fmt: skip
    for domain in model.domains:
        encoder = fast.content_encoders[model.slot(domain)]
        parts: dict[str, Part] = {
            "content_encoder": (PlainEncoderGraph(encoder, scaling), ("frames",), ("content",)),
            "style_mlp": (StyleMLPGraph(fast, domain), ("style",), ("style_params",)),
            "decoder": (DecoderGraph(fast, domain, scaling), ("mapped", "style_params"), ("frames",)),
            "style_encoder": (StyleEncoderGraph(fast, domain, scaling), ("frames",), ("style",)),
        }
        yield from graphs_of(parts, domain, precision, tensors, dims)
