"""Feature networks, and perceptual distances between two images.

SqueezeNet v1.0 is read from a file of weights, Inception from NVIDIA's TorchScript file, both downloaded by the user.
Only Inception gives numbers that can be compared with published FID and KID.
"""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.common.archives import check_archive
from dsmap.common.files import read_regular
from dsmap.errors import DsmapError, InputError
from dsmap.metrics.types import Image
from dsmap.model.feature_networks import SqueezeNetFeatures

SQUEEZENET_SIZE = 227
INCEPTION_DIM = 2048
INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
MAX_NETWORK = 2_000_000_000
"""Bytes of a feature network's file."""
LpipsNet = Literal["alex", "vgg", "squeeze"]

_FILES = f"Pass an .npz of SqueezeNet v1.0 weights, or the file that {INCEPTION_URL} gives."
_LENGTH_FLOOR = 1e-10  # where every channel is 0 there is no direction


class Extractor(ABC):
    """A frozen network that computes a feature vector for an image."""

    name: str
    """For people."""
    key: ClassVar[str]
    """For file names and JSON."""
    published: bool
    """Whether its Frechet and kernel distances can be compared with published FID and KID."""
    standardised: ClassVar[bool]
    """Whether the kernel distance is of features standardised by the reference."""
    fingerprint: str
    """SHA-256 of the file of its weights."""

    def pooled(self, images_rgb: Iterable[Image], *, batch: int = 4) -> npt.NDArray[np.float32]:
        """Features (N, D) of images, uint8 (H, W, 3) RGB of any sizes, computed in batches of up to `batch`."""
        parts = [self._pooled(images).float().cpu().numpy() for images in _batches(images_rgb, batch)]
        features_nd = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
        if not np.isfinite(features_nd).all():
            raise DsmapError(f"{self.name} gave features that are not finite", "Check its file of weights.")
        return features_nd

    @abstractmethod
    def _pooled(self, x_nchw: Tensor) -> Tensor:
        """(N, D) features of images of one size, uint8 (N, 3, H, W)."""


class SqueezeNet(Extractor):
    """SqueezeNet v1.0 from an .npz of its weights (as `dsmap.model.feature_networks.SqueezeNetFeatures` reads it).

    Images are resized to 227x227, whatever their shape, by antialiased bilinear interpolation (as in Pillow, but not
    rounded). Features are the outputs of conv10 BEFORE its ReLU, averaged over positions (D = 1000), or those of fire9
    (D = 512) if the file has no conv10.
    """

    key = "squeezenet"
    published = False
    standardised = True

    def __init__(self, path: Path, device: str | torch.device = "cpu") -> None:
        # Channels last and few images at once: 25 ms an image on a core, where torch's own layout takes 50.
        network = SqueezeNetFeatures(path).eval().requires_grad_(False)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.fingerprint = device, _sha256(path)
        self.name = f"SqueezeNet v1.0 {'fire9' if network.classifier is None else 'conv10'} ({path.name})"

    @torch.inference_mode()
    def taps(self, images_rgb: Sequence[Image]) -> list[Tensor]:
        """Maps at three depths, (N, C, h, w) each, of N images of any sizes, uint8 (H, W, 3) RGB."""
        return self.network.taps(torch.cat([self._prepared(x_nchw) for x_nchw in _batches(images_rgb, 1)]))

    @torch.inference_mode()
    def _pooled(self, x_nchw: Tensor) -> Tensor:
        return self.network.summary(self.network(self._prepared(x_nchw)))

    def _prepared(self, x_nchw: Tensor) -> Tensor:
        size = (SQUEEZENET_SIZE, SQUEEZENET_SIZE)
        resized = F.interpolate(x_nchw.to(self.device).float(), size, mode="bilinear", antialias=True)
        return resized / 127.5 - 1


class Inception(Extractor):
    """Inception v3 of 2015-12-05 as TorchScript, NVIDIA's conversion of the network that FID was defined on.

    It resizes images to 299x299 itself, as the first FID implementation did (bilinear, not antialiased); D = 2048.
    Distances are comparable with published ones that resize so, such as StyleGAN's. A TorchScript file is a program
    that runs with its user's rights: a file with another SHA-256 raises InputError unless `run_code`. Any network with
    the interface model(uint8 (N, 3, H, W), return_features=True) -> (N, 2048) then works, but is not `published`.
    """

    key = "inception"
    standardised = False

    def __init__(self, path: Path, device: str | torch.device = "cpu", *, run_code: bool = False) -> None:
        data = read_regular(path, limit=MAX_NETWORK, what="the feature network")
        self.fingerprint = hashlib.sha256(data).hexdigest()
        self.published = self.fingerprint == INCEPTION_SHA256
        if not self.published and not run_code:
            raise InputError(
                f"{path} is a TorchScript program, and not the known one (SHA-256 {self.fingerprint[:16]}..., expected "
                f"{INCEPTION_SHA256[:16]}...)",
                f"Get it from {INCEPTION_URL}; or, if you trust who made this one, pass --features-run-code: it can do "
                "whatever you can.",
            )
        self.name = "Inception v3 (2015-12-05)" if self.published else f"a network other than Inception ({path.name})"
        self.device = device
        try:
            with warnings.catch_warnings():  # torch recommends exporting anew, which users cannot
                warnings.simplefilter("ignore", DeprecationWarning)
                self.network = torch.jit.load(BytesIO(data), map_location=device).eval()
            features = self._pooled(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"cannot use the TorchScript network {path}: {reason}", _FILES) from error
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if shape != (1, INCEPTION_DIM):
            raise InputError(f"{path} gives {shape} for an image, expected {(1, INCEPTION_DIM)}", _FILES)

    @torch.inference_mode()
    def _pooled(self, x_nchw: Tensor) -> Tensor:
        return self.network(x_nchw.to(self.device), return_features=True)


def load_extractor(path: Path, device: str | torch.device = "cpu", *, run_code: bool = False) -> SqueezeNet | Inception:
    """Loads SqueezeNet from an .npz or Inception from a TorchScript file, by content, not by suffix.

    `run_code` allows TorchScript other than NVIDIA's file. Raises InputError for a missing file and any other.
    """
    check_archive(path, "the feature network", _FILES)
    try:
        with ZipFile(path) as archive:  # both are zip files
            names = archive.namelist()
    except OSError as error:
        raise InputError(f"cannot read the feature network {path}: {error.strerror}", "Check the path.") from error
    except BadZipFile as error:
        raise InputError(f"{path} is not a feature network", _FILES) from error
    if any(name.endswith(".npy") for name in names):
        return SqueezeNet(path, device)
    if any("/code/" in name for name in names):
        return Inception(path, device, run_code=run_code)
    if any(name.endswith("/data.pkl") for name in names):
        raise InputError(f"{path} holds weights without their network, expected a TorchScript file", _FILES)
    raise InputError(f"{path} is not a feature network", _FILES)


class PairDistance(Protocol):
    """A measure of how different two images look, 0 or more."""

    name: str
    """For people."""
    key: str

    def __call__(self, images_rgb: Sequence[Image], pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """(P,) distances of P pairs of indices into `images_rgb`, uint8 (H, W, 3) RGB."""


class SqueezeNetDistance:
    """A perceptual distance on SqueezeNet, built like LPIPS but without its learned weights: it is not LPIPS.

    At three depths the features of each position are scaled to length 1; squared differences are summed over channels
    and averaged over positions, then over depths. In [0, 2].
    """

    name = "perceptual distance on SqueezeNet, not LPIPS"
    key = "perceptual_distance"

    def __init__(self, extractor: SqueezeNet) -> None:
        self.extractor = extractor

    @torch.inference_mode()
    def __call__(self, images_rgb: Sequence[Image], pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """(P,) distances of P pairs of indices into `images_rgb`, uint8 (H, W, 3) RGB of any sizes."""
        maps = [F.normalize(tap, dim=1, eps=_LENGTH_FLOOR) for tap in self.extractor.taps(images_rgb)]
        distances = [[(m[i] - m[j]).square().sum(0).mean().item() for m in maps] for i, j in pairs]
        return np.array(distances, dtype=np.float64).reshape(len(pairs), len(maps)).mean(1)


class Lpips:
    """LPIPS (Zhang et al., CVPR 2018) by torchmetrics, at the images' own size. Created by `load_lpips`."""

    key = "lpips"

    def __init__(self, metric: Any, net: LpipsNet, device: str | torch.device) -> None:
        self.metric, self.device = metric, device
        self.name = f"LPIPS ({net})"

    @torch.inference_mode()
    def __call__(self, images_rgb: Sequence[Image], pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """(P,) distances of P pairs of indices into `images_rgb`, uint8 (H, W, 3) RGB of one size."""
        x = [x_nchw.to(self.device).float() / 127.5 - 1 for x_nchw in _batches(images_rgb, 1)]
        self.metric.reset()
        for i, j in pairs:
            self.metric.update(x[i], x[j])
        return self.metric.compute().double().reshape(-1).cpu().numpy() if pairs else np.zeros(0)


def load_lpips(net: LpipsNet = "alex", device: str | torch.device = "cpu") -> Lpips:
    """Loads LPIPS on the network `net`. Raises DsmapError without torchmetrics, torchvision or its weights."""
    instead = "or leave out --lpips: diversity is then measured on the network of --features."
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        metric = LearnedPerceptualImagePatchSimilarity(net, reduction="none").to(device)
    except ImportError as error:
        raise DsmapError(
            f"LPIPS needs torchmetrics and torchvision, of which one is missing: {str(error).splitlines()[0]}",
            f"Run pip install torchmetrics torchvision, {instead}",
        ) from error
    except RuntimeError as error:  # a torchvision built for another torch: "operator torchvision::nms does not exist"
        raise DsmapError(
            f"torchvision, which LPIPS needs, does not work here: {str(error).splitlines()[0]}",
            f"Install the torchvision that belongs to torch {torch.__version__}, {instead}",
        ) from error
    except OSError as error:
        raise DsmapError(
            f"cannot download the weights of LPIPS's network {net}: {error}",
            f"Go online once, put the file into torch's hub folder, {instead}",
        ) from error
    return Lpips(metric.eval(), net, device)


def cosine_per_image(one_nchw: Tensor, other_nchw: Tensor) -> npt.NDArray[np.float64]:
    """(N,) cosine similarities between two feature maps, averaged over positions."""
    return F.cosine_similarity(one_nchw, other_nchw, dim=1).mean((1, 2)).double().cpu().numpy()


def _batches(images_rgb: Iterable[Image], batch: int) -> Iterator[Tensor]:
    """Yields the images in order as uint8 (N, 3, H, W), N <= batch, each batch of one size."""
    waiting: list[Image] = []
    for image_rgb in images_rgb:
        if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
            raise ValueError(f"image_rgb is {image_rgb.dtype} {image_rgb.shape}, expected uint8 (H, W, 3)")
        if waiting and (len(waiting) == batch or image_rgb.shape != waiting[0].shape):
            yield _to_nchw(waiting)
            waiting = []
        waiting.append(image_rgb)
    if waiting:
        yield _to_nchw(waiting)


def _to_nchw(images_rgb: Sequence[Image]) -> Tensor:
    return torch.from_numpy(np.stack(images_rgb)).permute(0, 3, 1, 2).contiguous()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
