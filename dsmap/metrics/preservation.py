"""Content preservation: scores of pairs of content and result, each uint8 (H, W, 3) RGB."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.errors import InputError
from dsmap.metrics.types import Image

if TYPE_CHECKING:
    from dsmap.metrics.extractors import SqueezeNet

MIN_SIDE = 11
"""The side of structural similarity's windows, in pixels: images must not be smaller."""

_SIGMA = 1.5
_RANGE = 255
_K1, _K2 = 0.01, 0.03
# Grey levels per pixel at scale 0. A window whose gradients vary less is sky, skin or water, with grain and JPEG noise
# of up to about three grey levels.
_EDGES_FROM = 1.0

_Plane = npt.NDArray[np.float64]


def like_content(content_rgb: Image, result_rgb: Image) -> Image:
    """`result_rgb`, resized to the content's size."""
    height, width = content_rgb.shape[:2]
    if result_rgb.shape == content_rgb.shape:
        return result_rgb
    smaller = height * width < result_rgb.shape[0] * result_rgb.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(result_rgb, (width, height), interpolation=method), dtype=np.uint8)


def at_smaller_size(content_rgb: Image, result_rgb: Image) -> tuple[Image, Image]:
    """Content and result at the size of the one with fewer pixels: enlarging it would not make it sharper."""
    if result_rgb.shape[0] * result_rgb.shape[1] < content_rgb.shape[0] * content_rgb.shape[1]:
        return like_content(result_rgb, content_rgb), result_rgb
    return content_rgb, like_content(content_rgb, result_rgb)


def same_shape(content_rgb: Image, result_rgb: Image) -> bool:
    """Whether both have the same aspect ratio, up to 5 %.

    If not, the result was cropped or squeezed, and its edges may lie elsewhere through no fault of the network.
    """
    (content_h, content_w), (result_h, result_w) = content_rgb.shape[:2], result_rgb.shape[:2]
    return bool(abs(np.log(content_h * result_w / (content_w * result_h))) <= np.log(1.05))


def ssim(content_rgb: Image, result_rgb: Image) -> float:
    """Structural similarity of the luma (Wang et al., IEEE TIP 2004), in [-1, 1]; 1 for identical images.

    11 x 11 Gaussian windows with sigma 1.5 around every pixel, the image mirrored at its borders (as in torchmetrics),
    K1 = 0.01, K2 = 0.03.
    Raises InputError for images smaller than the window.
    """
    x, y = _two_lumas(content_rgb, result_rgb)
    (x_mean, x_variance), (y_mean, y_variance) = _moments(x), _moments(y)
    covariance = _windows(x * y) - x_mean * y_mean
    c1, c2 = (_K1 * _RANGE) ** 2, (_K2 * _RANGE) ** 2
    luminance = (2 * x_mean * y_mean + c1) / (x_mean**2 + y_mean**2 + c1)
    return float((luminance * (2 * covariance + c2) / (x_variance + y_variance + c2)).mean())


def edge_structure(content_rgb: Image, result_rgb: Image, *, scale: float = 1.0) -> float:
    """How well the content's edges are preserved, in [-1, 1]; NaN if the content has none.

    The correlation, window by window, between the gradient magnitudes (Sobel, of the luma) of content and result:
    the structure term of SSIM, on edges. The mean is weighted by the spread of the content's gradients, so flat areas
    do not count. 1 for identical images, whatever happens to contrast, brightness and colour; about 0 for unrelated
    images, flat ones and noise. An edge that turns from dark to bright is still an edge.
    `scale` is the sigma, in pixels, of a blur before the gradient: at 0 every grain counts, at 1 a shift by two pixels
    costs nearly as much, but grain and JPEG noise little.
    Windows as in `ssim`. Raises InputError for images smaller than the window.
    """
    x, y = (_gradient(luma, scale) for luma in _two_lumas(content_rgb, result_rgb))
    flat = _EDGES_FROM / (1 + scale)
    (x_mean, x_variance), (y_mean, y_variance) = _moments(x), _moments(y)
    x_spread, y_spread = np.sqrt(x_variance), np.sqrt(y_variance)
    weight = np.where(x_spread > flat, x_spread, 0)
    if not weight.any():
        return float("nan")
    # SSIM's own constant, added above and below, would reward a flat result: (0 + c) / (0 + c) = 1.
    correlation = (_windows(x * y) - x_mean * y_mean) / (x_spread.clip(flat) * y_spread.clip(flat))
    return float((weight * correlation).sum() / weight.sum())


def feature_similarity(
    extractor: "SqueezeNet", contents_rgb: Sequence[Image], results_rgb: Sequence[Image], *, batch: int = 16
) -> npt.NDArray[np.float64]:
    """(N,) cosines in [0, 1] between the features of contents and results at half depth, mean over positions.

    It compares where objects are (trees, rock, sky) rather than edges. Features are not negative, so unrelated images
    have a cosine well above 0: compare it with that of other systems.
    """
    if len(contents_rgb) != len(results_rgb):
        raise ValueError(f"{len(contents_rgb)} contents for {len(results_rgb)} results")
    from dsmap.metrics.extractors import cosine_per_image  # imports torch, which edges and SSIM do not need

    parts = [
        cosine_per_image(extractor.taps(contents_rgb[i : i + batch])[1], extractor.taps(results_rgb[i : i + batch])[1])
        for i in range(0, len(contents_rgb), batch)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _two_lumas(content_rgb: Image, result_rgb: Image) -> tuple[_Plane, _Plane]:
    if min(content_rgb.shape[:2]) < MIN_SIDE:
        height, width = content_rgb.shape[:2]
        raise InputError(
            f"structure cannot be compared on an image of {width}x{height} pixels",
            f"Use contents of {MIN_SIDE}x{MIN_SIDE} pixels or more.",
        )
    return _luma(content_rgb), _luma(like_content(content_rgb, result_rgb))


def _luma(image_rgb: Image) -> _Plane:
    """BT.601 luma in 0..255, not rounded."""
    return np.asarray(image_rgb @ np.array((0.299, 0.587, 0.114)), dtype=np.float64)


def _gradient(luma: _Plane, scale: float) -> _Plane:
    """Sobel gradient magnitudes in grey levels per pixel."""
    if scale > 0:
        luma = np.asarray(cv2.GaussianBlur(luma, (0, 0), scale), dtype=np.float64)
    dx, dy = (cv2.Sobel(luma, cv2.CV_64F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return np.asarray(np.hypot(dx, dy), dtype=np.float64)


def _windows(plane: _Plane) -> _Plane:
    """The weighted mean of the window around every pixel."""
    return np.asarray(cv2.GaussianBlur(plane, (MIN_SIDE, MIN_SIDE), _SIGMA), dtype=np.float64)


def _moments(plane: _Plane) -> tuple[_Plane, _Plane]:
    """Mean and variance of every window."""
    mean = _windows(plane)
    return mean, (_windows(plane**2) - mean**2).clip(0)
