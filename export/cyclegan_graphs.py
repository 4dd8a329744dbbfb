"""The graphs of CycleGAN's generators, and their rewrites: the same numbers up to rounding, and no transposed conv.

- `upsampling`: a transposed 3x3 conv that doubles the sides becomes a 2x2 conv at the low resolution, to four times the
  channels in the block layout (see `rewrites`). Transposed convs are slow in most runtimes, and have no int8 form.
- `tail`, `scaling`: as for the other networks.

Instance norm over a channel is instance norm over its four block channels together.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.export.fp16 import convolutions_to_half, half_stem
from dsmap.export.graphs import (
    ALL_REWRITES,
    Graph,
    PlainEncoderGraph,
    from_frames,
    grey_levels,
    to_dtype_of,
    to_frames,
)
from dsmap.export.rewrites import MID_GREY, BlockTail, Rewrites, ScaledConv, ScaledStem
from dsmap.model.cyclegan import CycleGAN, ResnetDecoder
from dsmap.model.layers import instance_norm, wide


class BlockTransposedConv(nn.Module):
    """A trained transposed conv (3x3, stride 2, padding 1 and 1 more at the end): (N, I, H, W) -> (N, 4 O, H, W)."""

    def __init__(self, trained: nn.ConvTranspose2d) -> None:
        super().__init__()
        assert trained.bias is not None
        # Pixel p of a block reads tap k of the kernel at the block a to its right: 1 | 2 and, one further, 0.
        taps = torch.zeros(2, 2, 3)
        taps[0, 0, 1] = taps[1, 0, 2] = taps[1, 1, 0] = 1
        weight = torch.einsum("pak,iokl,qbl->opqiab", taps, trained.weight, taps).flatten(0, 2)
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = nn.Parameter(trained.bias.repeat_interleave(4))

    def forward(self, x_nchw: Tensor) -> Tensor:
        return F.conv2d(F.pad(x_nchw, (0, 1, 0, 1)), self.weight, self.bias)


class RewrittenResnetDecoder(nn.Module):
    """A rewritten `ResnetDecoder`. Its images are in [-1, 1], or with `scaling` grey levels 0..255."""

    def __init__(self, trained: ResnetDecoder, rewrites: Rewrites) -> None:
        super().__init__()
        self.blocks, self.scaling, self.in_blocks = trained.blocks, rewrites.scaling, rewrites.tail
        self.ups = nn.ModuleList(BlockTransposedConv(up) for up in trained.ups)  # type: ignore[arg-type]
        gain = 2.0 if rewrites.scaling else 1.0
        self.tail: nn.Module = BlockTail(trained.tail, gain) if rewrites.tail else ScaledConv(trained.tail, gain)

    def forward(self, content_nchw: Tensor) -> Tensor:
        y = content_nchw
        for block in self.blocks:
            y = block(y)
        for i, up in enumerate(self.ups):
            y = F.relu(_norm_of_blocks(up(y)))
            if not self.in_blocks or i < len(self.ups) - 1:
                y = F.pixel_shuffle(y, 2)
        z = wide(self.tail(y))
        # (tanh(z) + 1) * 127.5 = 255 * sigmoid(2 z), and the 2 is in the tail's weights
        return torch.sigmoid(z) * 255 if self.scaling else torch.tanh(z)


class PlainDecoderGraph(nn.Module):
    """mapped -> frames."""

    def __init__(self, decoder: nn.Module, scaling: bool) -> None:
        super().__init__()
        self.decoder, self.scaling = decoder, scaling

    def forward(self, mapped: Tensor) -> Tensor:
        y = self.decoder(to_dtype_of(self.decoder, mapped))  # float32 at the end, in half precision too
        return grey_levels(y) if self.scaling else to_frames(y)


def cyclegan_graphs(model: CycleGAN, rewrites: Rewrites = ALL_REWRITES, precision: str = "fp32") -> Iterator[Graph]:
    """All graphs of a bundle of `model`: an encoder for each domain that is translated, a decoder for each target."""
    fast = _rewritten(model, rewrites)
    if precision == "fp16":
        half_stem(fast.content_encoders)
        convolutions_to_half(fast)
    multiple = model.config.multiple_of
    n, h, w = torch.export.Dim("n", min=1), torch.export.Dim("h", min=4), torch.export.Dim("w", min=4)
    dims = {"frames": {0: n, 1: multiple * h, 2: multiple * w}, "content": {0: n, 2: h, 3: w}}
    dims["mapped"] = dims["content"]
    # The sides differ, or the exporter would take them for one dimension.
    frames = torch.randint(0, 256, (2, 8 * multiple, 9 * multiple, 3), dtype=torch.uint8)
    for domain in model.domains:
        slot = model.slot(domain)
        if slot in fast.content_encoders:
            encoder = PlainEncoderGraph(fast.content_encoders[slot], rewrites.scaling)
            yield Graph("content_encoder", domain, precision, encoder, {"frames": frames},
                        {"frames": dims["frames"]}, {"content": dims["content"]})  # fmt: skip
    (source,) = list(model.content_encoders)[:1]
    with torch.no_grad():
        content = model.content_encoders[source](from_frames(frames))
    for domain in model.targets:
        decoder = PlainDecoderGraph(fast.decoders[model.slot(domain)], rewrites.scaling)
        yield Graph("decoder", domain, precision, decoder, {"mapped": content},
                    {"mapped": dims["mapped"]}, {"frames": dims["frames"]})  # fmt: skip


def _rewritten(model: CycleGAN, rewrites: Rewrites) -> CycleGAN:
    """A copy of `model`, in eval mode and without gradients, rewritten for inference."""
    model = copy.deepcopy(model).eval()
    if rewrites.scaling:
        for encoder in model.content_encoders.values():
            encoder.stem = ScaledStem(encoder.stem)  # type: ignore[arg-type]
    for slot, decoder in model.decoders.items():
        if rewrites.upsampling:
            model.decoders[slot] = RewrittenResnetDecoder(decoder, rewrites)  # type: ignore[arg-type]
        elif rewrites.scaling:
            model.decoders[slot] = _GreyLevels(decoder)
    return model.requires_grad_(False)


class _GreyLevels(nn.Module):
    """A decoder whose images are grey levels 0..255."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, content_nchw: Tensor) -> Tensor:
        images: Tensor = (self.decoder(content_nchw) + 1) * MID_GREY
        return images


def _norm_of_blocks(y_nchw: Tensor) -> Tensor:
    """`instance_norm` of (N, 4 C, H, W) in the block layout: over the four block channels of each channel."""
    n, channels, height, width = y_nchw.shape
    return instance_norm(y_nchw.reshape(n, channels // 4, 4 * height, width)).reshape(n, channels, height, width)
