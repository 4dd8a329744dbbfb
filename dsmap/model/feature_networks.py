"""Frozen feature networks: VGG16 (as the authors use) or SqueezeNet v1.0 from a file of weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.common.archives import check_archive
from dsmap.errors import InputError

FEATURES_MINIMUM_SIZE = 32
"""The smallest image side for every feature network: VGG16 halves it five times."""

_IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
_IMAGENET_STD_RGB = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (104.0, 117.0, 123.0)
_POOL_BEFORE = (2, 5, 9)  # fire modules preceded by max pooling
_FIRE_TAPS = (4, 8, 9)
_VGG16_TAPS = (15, 22, 29)  # ReLU of conv3_3, conv4_3 and conv5_3


class FeatureNetwork(nn.Module):
    """A frozen network: images (N, 3, H, W) in [-1, 1] -> features (N, C, h, w), and intermediate maps."""

    tap_dims: tuple[int, ...]
    """Channels of each tap. Taps are at about 1/4, 1/8 and 1/16 of the image size."""

    def taps(self, x_nchw: Tensor) -> list[Tensor]:
        """Maps after ReLU at three depths, (N, `tap_dims`[i], ., .)."""
        raise NotImplementedError

    def summary(self, tap_nchw: Tensor) -> Tensor:
        """Summary of the whole image from the last tap (N, C, h, w): the mean over the positions, (N, K)."""
        return tap_nchw.mean((2, 3))


def load_features(name: str, *, trained: bool = True) -> FeatureNetwork:
    """`vgg16` (torchvision's ImageNet weights) or the path of a SqueezeNet v1.0 `.npz`; frozen, in eval mode.

    The module takes images (N, 3, H, W) in [-1, 1] and gives features (N, C, h, w). Raises InputError when
    torchvision or the file is missing. Without `trained` nothing is downloaded, and VGG16 has random weights.
    """
    features: FeatureNetwork = VGG16Features(trained) if name == "vgg16" else SqueezeNetFeatures(Path(name))
    return features.eval().requires_grad_(False)


def check_features(name: str) -> None:
    """Raises InputError where `load_features` would, without loading or downloading anything large."""
    if name == "vgg16":
        _torchvision_vgg16()
    else:
        SqueezeNetFeatures(Path(name))


class VGG16Features(FeatureNetwork):
    """VGG16 `features` through pool5: (N, 3, H, W) in [-1, 1] -> (N, 512, H/32, W/32)."""

    tap_dims = (256, 512, 512)
    mean: Tensor
    std: Tensor

    def __init__(self, trained: bool = True) -> None:
        super().__init__()
        vgg16, weights = _torchvision_vgg16()
        try:
            self.layers = vgg16(weights=weights if trained else None).features
        except OSError as error:  # URLError is one
            raise InputError(
                f"the weights of VGG16 cannot be downloaded: {error}",
                "Check the network, pass --features SQUEEZENET.npz, or --features none.",
            ) from error
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN_RGB).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD_RGB).view(1, 3, 1, 1), persistent=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return self.layers(((x_nchw + 1) / 2 - self.mean) / self.std)

    def taps(self, x_nchw: Tensor) -> list[Tensor]:
        y, found = ((x_nchw + 1) / 2 - self.mean) / self.std, []
        for i, layer in enumerate(self.layers[: _VGG16_TAPS[-1] + 1]):
            y = layer(y)
            if i in _VGG16_TAPS:
                found.append(y)
        return found


class SqueezeNetFeatures(FeatureNetwork):
    """SqueezeNet v1.0 through fire9: (N, 3, H, W) in [-1, 1] -> (N, 512, about H/16, about W/16).

    `path` is an .npz of OIHW float32 weights and biases named conv1, fire2/squeeze1x1, fire2/expand1x1,
    fire2/expand3x3, ..., fire9/expand3x3, each followed by .weight or .bias, and optionally conv10 for the summary.
    Other arrays are ignored.
    """

    mean_bgr: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        weights = _read_npz(path)
        self.conv1 = _conv(weights, "conv1", path, 3, 7, stride=2)
        self.fires = nn.ModuleList()
        dims: list[int] = []
        dim = self.conv1.out_channels
        for i in range(2, 10):
            fire = _Fire(weights, f"fire{i}", path, dim)
            self.fires.append(fire)
            dim = fire.out_dim
            if i in _FIRE_TAPS:
                dims.append(dim)
        self.tap_dims = tuple(dims)
        self.classifier = _conv10(weights, path, dim)
        self.register_buffer("mean_bgr", torch.tensor(_CAFFE_MEAN_BGR).view(1, 3, 1, 1), persistent=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return self.taps(x_nchw)[-1]

    def taps(self, x_nchw: Tensor) -> list[Tensor]:
        y, found = F.relu(self.conv1((x_nchw.flip(1) + 1) * 127.5 - self.mean_bgr)), []
        for i, fire in enumerate(self.fires, 2):
            if i in _POOL_BEFORE:
                y = F.max_pool2d(y, 3, stride=2, ceil_mode=True)
            y = fire(y)
            if i in _FIRE_TAPS:
                found.append(y)
        return found

    def summary(self, tap_nchw: Tensor) -> Tensor:
        """The outputs of conv10 before its ReLU, averaged over the positions; without conv10 those of fire9."""
        mean_nc = super().summary(tap_nchw)
        if self.classifier is None:
            return mean_nc
        return F.linear(mean_nc, self.classifier.weight[:, :, 0, 0], self.classifier.bias)  # conv10 is linear


def _torchvision_vgg16() -> tuple[Any, Any]:
    """torchvision's function and its ImageNet weights."""
    try:
        from torchvision.models import VGG16_Weights, vgg16
    except ImportError as error:
        raise InputError(
            "the feature network vgg16 needs torchvision, which is not installed",
            "pip install 'dsmap[vgg]', or pass --features SQUEEZENET.npz",
        ) from error
    return vgg16, VGG16_Weights.IMAGENET1K_V1


class _Fire(nn.Module):
    def __init__(self, weights: dict[str, Tensor], name: str, path: Path, in_dim: int) -> None:
        super().__init__()
        self.squeeze = _conv(weights, f"{name}/squeeze1x1", path, in_dim, 1)
        self.expand1x1 = _conv(weights, f"{name}/expand1x1", path, self.squeeze.out_channels, 1)
        self.expand3x3 = _conv(weights, f"{name}/expand3x3", path, self.squeeze.out_channels, 3, padding=1)
        self.out_dim = self.expand1x1.out_channels + self.expand3x3.out_channels

    def forward(self, x_nchw: Tensor) -> Tensor:
        y = F.relu(self.squeeze(x_nchw))
        return F.relu(torch.cat([self.expand1x1(y), self.expand3x3(y)], 1))


def _read_npz(path: Path) -> dict[str, Tensor]:
    advice = "Pass `vgg16` or an .npz of SqueezeNet v1.0 weights."
    check_archive(path, "the feature network", advice)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
    except Exception as error:  # numpy and zipfile raise a dozen types; each means that the file holds no weights
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"cannot read the feature network {path}: {reason}", advice) from error


def _conv(
    weights: dict[str, Tensor], name: str, path: Path, in_dim: int, kernel: int, stride: int = 1, padding: int = 0
) -> nn.Conv2d:
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    if weight is None or bias is None or weight.shape != (*bias.shape, in_dim, kernel, kernel):
        raise InputError(f"{path} has no layer {name} of SqueezeNet v1.0", "Pass an .npz of SqueezeNet v1.0 weights.")
    layer = nn.Conv2d(in_dim, len(bias), kernel, stride, padding)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)  # type: ignore[union-attr]
    return layer


def _conv10(weights: dict[str, Tensor], path: Path, in_dim: int) -> nn.Conv2d | None:
    weight, bias = weights.get("conv10.weight"), weights.get("conv10.bias", torch.zeros(0))
    if weight is None:
        return None
    if weight.shape != (*bias.shape, in_dim, 1, 1):
        raise InputError(
            f"{path} has a conv10 of shape {tuple(weight.shape)} and a bias of {tuple(bias.shape)}, "
            f"expected (C, {in_dim}, 1, 1) and (C,)",
            "Pass an .npz of SqueezeNet v1.0 weights.",
        )
    return _conv(weights, "conv10", path, in_dim, 1)
