"""Images, clips and a network to evaluate, of which the order in quality is known."""

from fractions import Fraction
from pathlib import Path

import cv2  # before av

# isort: split
import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dsmap.common.images import write_rgb

KERNEL = "kernel_distance/squeezenet"
HEIGHT, WIDTH = 48, 64
"""Size of the clips."""


def landscape(seed, hw=(64, 64)):
    """Soft sky above a jagged ridge with texture below, and grain."""
    rng = np.random.default_rng(seed)
    h, w = hw
    ridge = h * (0.4 + 0.15 * cv2.resize(rng.standard_normal((1, 9)), (w, 1), interpolation=cv2.INTER_LINEAR)[0])
    ground = np.arange(h)[:, None] > ridge
    texture = cv2.GaussianBlur(rng.standard_normal((h, w)), (0, 0), 1.2) * 90
    colour = np.where(ground[..., None], rng.normal((70, 90, 60), 10), rng.normal((150, 180, 210), 10))
    return (colour + (ground * texture)[..., None] + rng.normal(0, 2, (h, w, 3))).clip(0, 255).astype(np.uint8)


class TinyInception(nn.Module):
    """The interface of NVIDIA's file: it takes uint8 images of any size and gives 2048 features, or class scores."""

    def __init__(self, dim: int = 2048):
        super().__init__()
        self.layers = nn.Linear(48, dim)

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert img.dtype == torch.uint8
        features = self.layers(F.adaptive_avg_pool2d(img.to(torch.float32), 4).flatten(1) / 128 - 1)
        return features if return_features else features.softmax(1)


def saved(module, path):
    torch.jit.script(module).save(str(path))
    return path


def snowy(image: np.ndarray, share: float) -> np.ndarray:
    """As much of the way to winter as `share` says: light ground, cold light."""
    light = image.astype(np.float32)
    ground = cv2.GaussianBlur(light.mean(2), (0, 0), 3)[..., None] < 130
    winter = np.where(ground, 0.4 * light + 140, light) * (0.9, 0.95, 1.0)
    return ((1 - share) * light + share * winter).clip(0, 255).astype(np.uint8)


def write_images(folder: Path, images: dict[str, np.ndarray]) -> Path:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_rgb(folder / name, image)
    return folder


def texture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Soft random colours from 60 to 190, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).random((height // 3 + 2, width // 3 + 2, 3)).astype(np.float32)
    return (cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 130 + 60).astype(np.uint8)


def pan(frames: int, step: int = 2) -> list[np.ndarray]:
    """The camera turns over a pattern."""
    scene = texture(width=WIDTH + step * frames)
    return [np.ascontiguousarray(scene[:, step * number : step * number + WIDTH]) for number in range(frames)]


def noisy(frames: list[np.ndarray], sigma: float, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [(frame + random.normal(0, sigma, frame.shape)).round().clip(0, 255).astype(np.uint8) for frame in frames]


def write_clip(path: Path, frames: list[np.ndarray], rate: int = 25, offset: int = 0) -> Path:
    """Nearly lossless H.264; `offset`: thousandths of a second by which every second frame is late."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264rgb" if path.suffix == ".mkv" else "libx264", rate=rate)
        stream.options = {"crf": "4"}
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24" if path.suffix == ".mkv" else "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = 1000 // rate * number + offset * (number % 2), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
