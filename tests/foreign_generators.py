"""Checkpoints in the layout of pytorch-CycleGAN-and-pix2pix's ResNet generator, and what they compute, written apart
from the project's networks: plain calls of torch's functions, after the layout that the trainer publishes."""

import torch
import torch.nn.functional as F


def cyclegan_state(width=8, blocks=2, *, seed=0, dropout=False, biases=True):
    """A state dict with random weights of a usual size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def put(key, *shape):
        state[f"{key}.weight"] = torch.randn(*shape, generator=generator) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5
        if biases:
            out = shape[1] if key in transposed else shape[0]
            state[f"{key}.bias"] = torch.randn(out, generator=generator) * 0.2

    end = 10 + blocks
    transposed = (f"model.{end}", f"model.{end + 3}")
    put("model.1", width, 3, 7, 7)
    put("model.4", 2 * width, width, 3, 3)
    put("model.7", 4 * width, 2 * width, 3, 3)
    for block in range(10, end):
        for place in (1, 6 if dropout else 5):
            put(f"model.{block}.conv_block.{place}", 4 * width, 4 * width, 3, 3)
    put(transposed[0], 4 * width, 2 * width, 3, 3)
    put(transposed[1], 2 * width, width, 3, 3)
    put(f"model.{end + 7}", 3, width, 7, 7)
    return state


def cyclegan_forward(state, image_rgb):
    """The translation of a uint8 frame (H, W, 3) with sides that are multiples of 4: uint8 as well."""
    last = max(int(key.split(".")[1]) for key in state)
    blocks = last - 7 - 10

    def of(key):
        return state[f"{key}.weight"], state.get(f"{key}.bias")

    def norm(y):
        mean = y.mean((2, 3), keepdim=True)
        return (y - mean) / (((y - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5).sqrt()

    x = torch.from_numpy(image_rgb.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    y = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), *of("model.1"))
    y = torch.relu(norm(y))
    for place in (4, 7):
        y = torch.relu(norm(F.conv2d(y, *of(f"model.{place}"), stride=2, padding=1)))
    for place in range(10, 10 + blocks):
        second = 6 if f"model.{place}.conv_block.6.weight" in state else 5
        z = F.conv2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), *of(f"model.{place}.conv_block.1"))
        z = F.conv2d(
            F.pad(torch.relu(norm(z)), (1, 1, 1, 1), mode="reflect"), *of(f"model.{place}.conv_block.{second}")
        )
        y = y + norm(z)
    for place in (10 + blocks, 13 + blocks):
        y = F.conv_transpose2d(y, *of(f"model.{place}"), stride=2, padding=1, output_padding=1)
        y = torch.relu(norm(y))
    z = torch.tanh(F.conv2d(F.pad(y, (3, 3, 3, 3), mode="reflect"), *of(f"model.{last}")))
    return ((z[0].permute(1, 2, 0) + 1) / 2 * 255).round().to(torch.uint8).numpy()
