"""Exact rewrites of trained networks for inference: the same numbers up to rounding, with fewer multiplications.

- `upsampling`: nearest upsampling x2 and its 5x5 conv become one 3x3 conv at the low resolution. Its output is in the
  block layout (N, 4 C, H, W) of `F.pixel_shuffle`: the 2x2 pixels of a block are four channels. Layer norm and ReLU do
  not depend on the layout, so they run before the pixels are shuffled.
- `tail`: the decoder's last 7x7 conv reads the last block layout directly, as a 5x5 conv from 4 C to 12 channels.
- `scaling`: the weights of the first conv include the scaling from 0..255 to [-1, 1]; one last step scales back.

All are exact for every padding. Borders that have no standard padding in the block layout are computed explicitly.
"""

import copy
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.model.dsmap import DSMAP
from dsmap.model.layers import UpsampleConv, fold_upsampling, layer_norm, sharpened, to_image, wide, without_margin
from dsmap.model.munit import MUNIT, MUNITEncoder
from dsmap.model.networks import ContentEncoder, Decoder, KLStyleEncoder, StyleEncoder

Styled = TypeVar("Styled", DSMAP, MUNIT)

MID_GREY = 127.5  # the grey level of 0 in [-1, 1], and so of zero padding


class Rewrites(NamedTuple):
    """Rewrites to apply."""

    upsampling: bool = True
    tail: bool = True
    """Needs `upsampling`: without it there is no block layout to read."""
    scaling: bool = True

    @classmethod
    def without(cls, names: Iterable[str]) -> "Rewrites":
        """All rewrites except those called `names`, and except those that need one of them."""
        left_out = set(names)
        if "upsampling" in left_out:
            left_out.add("tail")
        return cls()._replace(**dict.fromkeys(left_out, False))


class BlockUpsampleConv(nn.Module):
    """A trained `UpsampleConv`: (N, I, H, W) -> (N, 4 O, H, W) in the block layout."""

    def __init__(self, trained: UpsampleConv) -> None:
        super().__init__()
        weight, bias = fold_upsampling(trained.conv.weight, trained.conv.bias, trained.phase_taps)
        assert bias is not None
        self.pad_type = trained.conv.padding_mode
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.scale = nn.Parameter(trained.norm.weight.repeat_interleave(4))
        self.shift = nn.Parameter(trained.norm.bias.repeat_interleave(4))
        self.rows, self.columns = nn.ModuleList(), nn.ModuleList()
        if self.pad_type == "reflect":
            plain, taps = trained.conv.weight, trained.phase_taps
            self.rows.extend(_EdgeConv(plain[:, :, tap], taps, end) for tap, end in ((0, 0), (4, 1)))
            self.columns.extend(_EdgeConv(plain[..., tap], taps, end, rows=False) for tap, end in ((0, 0), (4, 1)))

    def forward(self, x_nchw: Tensor) -> Tensor:
        if self.pad_type == "zeros":
            y = F.conv2d(x_nchw, self.weight, self.bias, padding=1)
        else:
            y = F.conv2d(F.pad(x_nchw, (1, 1, 1, 1), mode="replicate"), self.weight, self.bias)
        if self.pad_type == "reflect":
            y = self._reflect(y, x_nchw)
        return F.relu(layer_norm(y, self.scale, self.shift))

    def _reflect(self, y_nchw: Tensor, x_nchw: Tensor) -> Tensor:
        """Corrects the outermost pixels of a map padded by replication to those of one padded by reflection.

        As in `dsmap.model.layers`: rows are read along reflected columns, columns along replicated rows.
        """
        top, bottom = (
            row(inner - edge)
            for row, inner, edge in zip(
                self.rows,
                (x_nchw[:, :, 1:2], x_nchw[:, :, -2:-1]),
                (x_nchw[:, :, :1], x_nchw[:, :, -1:]),
                strict=True,
            )
        )
        y = torch.cat([y_nchw[:, :, :1] + top, y_nchw[:, :, 1:-1], y_nchw[:, :, -1:] + bottom], 2)
        left, right = (
            column(inner - edge)
            for column, inner, edge in zip(
                self.columns,
                (x_nchw[..., 1:2], x_nchw[..., -2:-1]),
                (x_nchw[..., :1], x_nchw[..., -1:]),
                strict=True,
            )
        )
        return torch.cat([y[..., :1] + left, y[..., 1:-1], y[..., -1:] + right], 3)


class _EdgeConv(nn.Module):
    """The correction of one edge of a map in the block layout: a conv along an upsampled line, folded to three taps.

    `line` (O, I, 5) are the taps along the edge; `end` is the pixel of a block that touches it, 0 or 1. With `rows` the
    edge is a row, (N, I, 1, W) -> (N, 4 O, 1, W), and the line is padded by reflection; otherwise it is a column,
    padded by replication.
    """

    def __init__(self, line: Tensor, taps: Tensor, end: int, *, rows: bool = True) -> None:
        super().__init__()
        self.is_row = rows
        self.weight = self._kernel(torch.einsum("oit,qbt->oqib", line, taps), end)  # q: phase along the edge
        if rows:
            # The second pixel beyond the ends of the line is reflected to one that the folded taps do not reach.
            first, last = torch.zeros_like(line), torch.zeros_like(line)
            first[..., 0], last[..., 0] = line[..., 0], line[..., 4]
            self.first = self._kernel(torch.stack([first[..., :1], 0 * first[..., :1]], 1), end)
            self.last = self._kernel(torch.stack([0 * last[..., :1], last[..., :1]], 1), end)

    def _kernel(self, oqib: Tensor, end: int) -> nn.Parameter:
        """(O, phase along the edge, I, taps) -> (4 O, I, 1, taps), or (4 O, I, taps, 1) for a column."""
        nothing = torch.zeros_like(oqib)
        across = 1 if self.is_row else 2  # a block's row comes before its column
        kernel = torch.stack([oqib, nothing] if end == 0 else [nothing, oqib], across).flatten(0, 2)
        return nn.Parameter((kernel.unsqueeze(2) if self.is_row else kernel.unsqueeze(3)).contiguous())

    def forward(self, line_nchw: Tensor) -> Tensor:
        margin = (1, 1, 0, 0) if self.is_row else (0, 0, 1, 1)
        y = F.conv2d(F.pad(line_nchw, margin, mode="replicate"), self.weight)
        if not self.is_row:
            return y
        first = F.conv2d(line_nchw[..., 1:2] - line_nchw[..., :1], self.first)
        last = F.conv2d(line_nchw[..., -2:-1] - line_nchw[..., -1:], self.last)
        return torch.cat([y[..., :1] + first, y[..., 1:-1], y[..., -1:] + last], 3)


class Shuffled(nn.Module):
    """`block` followed by a pixel shuffle: (N, 4 C, H, W) -> (N, C, 2 H, 2 W)."""

    def __init__(self, block: BlockUpsampleConv) -> None:
        super().__init__()
        self.block = block

    def forward(self, x_nchw: Tensor) -> Tensor:
        return F.pixel_shuffle(self.block(x_nchw), 2)


class BlockTail(nn.Module):
    """A trained 7x7 conv that reads the block layout: (N, 4 I, H, W) -> (N, O, 2 H, 2 W).

    It is a 5x5 conv over blocks from 4 I to 4 O channels. `gain` multiplies the output.
    """

    def __init__(self, trained: nn.Conv2d, gain: float = 1.0) -> None:
        super().__init__()
        assert trained.bias is not None
        self.pad_type = trained.padding_mode
        taps = _block_taps().to(trained.weight)
        # p, q: an output pixel's place in its block; r, c: an input pixel's; a, b: taps over blocks; s, t: over pixels
        weight = torch.einsum("pars,oist,qbct->opqircab", taps, trained.weight, taps).flatten(3, 5).flatten(0, 2)
        self.weight = nn.Parameter(weight * gain)
        self.bias = nn.Parameter(trained.bias.repeat_interleave(4) * gain)

    def forward(self, blocks_nchw: Tensor) -> Tensor:
        if self.pad_type == "zeros":
            return F.pixel_shuffle(F.conv2d(blocks_nchw, self.weight, self.bias, padding=2), 2)
        places = blocks_nchw.unflatten(1, (-1, 2, 2))  # N, I, row in the block, column in the block, H, W
        for of_block, of_map in ((2, 4), (3, 5)):
            places = _pad_blocks(places, of_block, of_map, self.pad_type)
        return F.pixel_shuffle(F.conv2d(places.flatten(1, 3), self.weight, self.bias), 2)


class ScaledConv(nn.Module):
    """A trained conv whose output is multiplied by `gain`."""

    def __init__(self, trained: nn.Conv2d, gain: float) -> None:
        super().__init__()
        assert trained.bias is not None
        self.conv = copy.deepcopy(trained)
        with torch.no_grad():
            self.conv.weight.mul_(gain)
            self.conv.bias.mul_(gain)  # type: ignore[union-attr]

    def forward(self, x_nchw: Tensor) -> Tensor:
        return self.conv(x_nchw)


class ScaledStem(nn.Module):
    """A trained first conv whose input is grey levels 0..255 instead of [-1, 1]."""

    def __init__(self, trained: nn.Conv2d) -> None:
        super().__init__()
        assert trained.bias is not None
        self.stride = trained.stride
        self.margin = trained._reversed_padding_repeated_twice
        self.pad_type = "constant" if trained.padding_mode == "zeros" else trained.padding_mode
        self.weight = nn.Parameter(trained.weight / MID_GREY)
        self.bias = nn.Parameter(trained.bias - trained.weight.sum((1, 2, 3)))

    def forward(self, x_nchw: Tensor) -> Tensor:
        border = MID_GREY if self.pad_type == "constant" else None
        return F.conv2d(F.pad(x_nchw, self.margin, self.pad_type, border), self.weight, self.bias, self.stride)


class RewrittenDecoder(nn.Module):
    """A rewritten trained decoder. Its images are in [-1, 1], or with `scaling` grey levels 0..255."""

    def __init__(self, trained: Decoder, rewrites: Rewrites) -> None:
        super().__init__()
        self.blocks, self.ups, self.patch, self.output = trained.blocks, trained.ups, trained.patch, trained.output
        gain = 2.0 if rewrites.scaling and trained.output == "tanh" else 1.0
        self.tail: nn.Module = ScaledConv(trained.tail, gain)
        if rewrites.upsampling:
            ups: list[nn.Module] = [
                Shuffled(BlockUpsampleConv(up)) if isinstance(up, UpsampleConv) else up for up in trained.ups
            ]
            # A tail with patches gives blocks itself: as a conv over blocks it would cost four times as much.
            if rewrites.tail and trained.patch == 1 and isinstance(ups[-1], Shuffled):
                ups[-1] = ups[-1].block
                self.tail = BlockTail(trained.tail, gain)
            self.ups = nn.ModuleList(ups)
        else:
            for up in trained.ups:
                if isinstance(up, UpsampleConv):
                    up.plain = True
        self.scaling, self.contrast, self.sharpen = rewrites.scaling, trained.contrast, trained.sharpen
        self.margin = trained.margin

    def forward(self, mapped_nchw: Tensor, style_params_nl2c: Tensor) -> Tensor:
        y = mapped_nchw
        shifts, scales = style_params_nl2c[:, :, 0], style_params_nl2c[:, :, 1]
        for i, block in enumerate(self.blocks):
            y = block(y, scales[:, 2 * i : 2 * i + 2], shifts[:, 2 * i : 2 * i + 2])
        for up in self.ups:
            y = up(y)
        z = wide(self.tail(y))
        if self.patch > 1:
            z = F.pixel_shuffle(z, self.patch)
        z = without_margin(z, self.margin)
        if self.scaling and self.output == "tanh":
            # (tanh(z) + 1) * 127.5 = 255 * sigmoid(2 z), and the 2 is in the tail's weights
            levels_nchw = torch.sigmoid(z) * (255 * self.contrast)
            if self.contrast != 1:
                levels_nchw = (levels_nchw + 127.5 * (1 - self.contrast)).clamp(0, 255)
            return sharpened(levels_nchw, self.sharpen, 0, 255)
        x_nchw = sharpened(to_image(z, self.output, self.contrast), self.sharpen)
        return (x_nchw + 1) * MID_GREY if self.scaling else x_nchw


def rewritten(model: Styled, rewrites: Rewrites) -> Styled:
    """A copy of `model`, in eval mode and without gradients, rewritten for inference.

    With `scaling` its encoders take grey levels 0..255 (float), and its decoders give them.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for slot, decoder in model.decoders.items():
        model.decoders[slot] = RewrittenDecoder(decoder, rewrites)  # type: ignore[arg-type]
    if rewrites.scaling:
        for encoder in (*model.content_encoders.values(), *model.style_encoders.values()):
            assert isinstance(encoder, ContentEncoder | MUNITEncoder | StyleEncoder | KLStyleEncoder)
            encoder.stem = ScaledStem(encoder.stem)  # type: ignore[assignment]
    return model.requires_grad_(False)


def _block_taps() -> Tensor:
    """(2, 5, 2, 7): [p, a, r, t] = 1 where tap t of output pixel p of a block reads pixel r of the block at a - 2."""
    taps = torch.zeros(2, 5, 2, 7)
    for p in range(2):
        for t in range(7):
            block, r = divmod(p + t - 3, 2)
            taps[p, block + 2, r, t] = 1
    return taps


def _pad_blocks(places: Tensor, of_block: int, of_map: int, pad_type: str) -> Tensor:
    """Adds two blocks on both sides of a line of blocks, with the pixels of a padding by three.

    `of_block` is the dimension of the pixels in a block, `of_map` that of the blocks. No tap reads the outermost
    pixels, whose values do not matter. (Shuffling, padding and unshuffling would be fewer lines, but is 10 % slower in
    ONNX Runtime.)
    """

    def pixel(k: int) -> Tensor:
        block, place = divmod(k, 2)
        index: list[slice] = [slice(None)] * places.ndim
        index[of_block], index[of_map] = slice(place, place + 1), slice(block, block + 1 or None)
        return places[tuple(index)]

    ends = ((3, 3, 2, 1), (-2, -3, -4, -4)) if pad_type == "reflect" else ((0, 0, 0, 0), (-1, -1, -1, -1))
    before, after = (
        [torch.cat([pixel(k), pixel(m)], of_block) for k, m in ((end[0], end[1]), (end[2], end[3]))] for end in ends
    )
    return torch.cat([*before, places, *after], of_map)
