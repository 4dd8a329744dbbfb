"""The refiner: a small network that corrects translations which were enlarged along the edges of their input.

    refiner = Refiner()
    refined_nchw = refiner(frame_nchw, base_nchw)    # float32 levels, 0 to 255; sides are multiples of 4

It works on blocks of 4x4 pixels, as BackgroundMattingV2's refinement does on patches: two convolutions see the blocks
around one. There are no norms, so a pixel depends on what is near it only, and no place of a frame looks like a tile.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4
MIDDLE = 128.0
"""The level that is 0 to the network, which sees (level - 128) / 128."""
_VALUES = 3 * BLOCK * BLOCK


class Refiner(nn.Module):
    """Frame and enlarged translation -> refined translation; untrained it changes nothing."""

    peaks: Tensor

    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.head = nn.Conv2d(2 * _VALUES, width, 1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.tail = nn.Conv2d(width, _VALUES, 1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]
        self.leak = 0.0
        """How much negative values count: in training only, where a layer would die without any at first."""
        self.register_buffer("peaks", torch.ones(depth + 1))
        """The largest usual value after the head and after each layer of the body: what 8 bits have to hold."""

    def forward(self, frame_nchw: Tensor, base_nchw: Tensor) -> Tensor:
        """Levels of the result (N, 3, H, W), not rounded; both inputs are levels of that shape."""
        blocks = torch.cat([to_blocks(frame_nchw), to_blocks(base_nchw)], 1)
        difference = self.tail(self.features(blocks)[-1])
        return base_nchw + MIDDLE * from_blocks(difference)

    def features(self, blocks_nchw: Tensor) -> list[Tensor]:
        """What the head and each layer of the body make of blocks, levels (N, 96, H/4, W/4)."""
        found = [F.leaky_relu(self.head((blocks_nchw - MIDDLE) / MIDDLE), self.leak)]
        for layer in self.body:
            found.append(F.leaky_relu(layer(found[-1]), self.leak))
        return found

    @torch.no_grad()
    def measure_peaks(self, frame_nchw: Tensor, base_nchw: Tensor, share: float = 0.9999) -> None:
        """Sets `peaks` to what that share of the values for these images stays below."""
        found = self.features(torch.cat([to_blocks(frame_nchw), to_blocks(base_nchw)], 1))
        for place, values in enumerate(found):
            flat = values.flatten()
            at = max(1, round(share * len(flat)))
            self.peaks[place] = flat.kthvalue(at).values.clamp(min=1e-3)


def to_blocks(x_nchw: Tensor) -> Tensor:
    """(N, 3, 4h, 4w) -> (N, 48, h, w): a block's pixels row by row, each red, green, blue."""
    n, _, height, width = x_nchw.shape
    split = x_nchw.reshape(n, 3, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(n, _VALUES, height // BLOCK, width // BLOCK)


def from_blocks(blocks_nchw: Tensor) -> Tensor:
    """As `to_blocks`, backwards."""
    n, _, rows, columns = blocks_nchw.shape
    split = blocks_nchw.reshape(n, BLOCK, BLOCK, 3, rows, columns)
    return split.permute(0, 3, 4, 1, 5, 2).reshape(n, 3, rows * BLOCK, columns * BLOCK)
