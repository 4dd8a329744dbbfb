"""Catalogue of metrics: the name, direction and definition of each. Imports no torch."""

import math

from dsmap.metrics.types import Metric

PRESERVED = ("edge_structure", "ssim", "feature_similarity")
"""Keys of the metrics that compare a result with its content."""

ANY = (-math.inf, math.inf)
LIMITS = {
    "edge_structure": (-1.0, 1.0),
    "ssim": (-1.0, 1.0),
    "feature_similarity": (-1.0, 1.0),
    "target_score": (0.0, 1.0),
    "identity": (0.0, 255.0),
}
"""The range of values that a metric can take, by key; ANY for the others."""

METRICS = {
    metric.key: metric
    for metric in (
        Metric(
            key="edge_structure",
            title="edge structure",
            better="higher",
            definition="How well the edges of the content are preserved, -1 to 1: the correlation, window by window, "
            "between the gradient magnitudes of the luma of content and result. 1 for the content itself, whatever its "
            "contrast and colours, about 0 for another image.",
        ),
        Metric(
            key="ssim",
            title="SSIM",
            better="neither",
            definition="Structural similarity of the luma of content and result (Wang et al. 2004). A translation "
            "is meant to change light and texture, so 1 is not the goal.",
        ),
        Metric(
            key="feature_similarity",
            title="feature similarity",
            better="higher",
            definition="The cosine between the features of content and result late in SqueezeNet (fire8), mean "
            "over positions: are trees still where trees were? Unrelated images are well above 0.",
        ),
        Metric(
            key="target_score",
            title="classified as target",
            better="higher",
            definition="The share of results that a classifier, fitted on the training images of both domains "
            "(logistic regression on features), assigns to the target domain.",
            digits=2,
        ),
        Metric(
            key="identity",
            title="identity drift",
            better="lower",
            definition="How much an image changes that passes through the encoder, mapping and decoder of its own "
            "domain in its own style: mean absolute difference in grey levels of 255.",
            digits=1,
        ),
        Metric(
            key="flicker",
            title="flicker",
            better="lower",
            definition="The change between two frames of the result beyond that of the input, in grey levels of 255.",
            digits=2,
        ),
        Metric(
            key="warping_error",
            title="warping error",
            better="lower",
            definition="Mean squared difference between a frame of the result and the one before, warped along the "
            "motion of the input, where both are visible.",
            digits=5,
        ),
        Metric(
            key="brightness_change",
            title="brightness change",
            better="lower",
            definition="How much the frame as a whole brightens or darkens from frame to frame, along the motion of "
            "the input, in grey levels of 255.",
            digits=2,
        ),
        Metric(
            key="sharpness",
            title="sharpness",
            better="neither",
            definition="Mean absolute Laplacian of the grey frame, in grey levels of 255. A blur lowers flicker and "
            "warping error, but sharpness too.",
            digits=2,
        ),
    )
}
"""By key. The functions below make those of distances and diversity."""


def kernel(key: str, name: str, *, published: bool, standardised: bool) -> Metric:
    """The kernel distance on features of the extractor `name`."""
    title = "KID x1000" if published else f"kernel distance x1000{_network(key)}"
    scaled = "standardised by the reference's mean and deviation" if standardised else "as they are"
    return Metric(
        key=f"kernel_distance/{key}",
        title=title,
        better="lower",
        definition=f"Unbiased squared MMD between results and reference with the kernel (x.y/d + 1)^3, times 1000, on "
        f"{name}, features {scaled}. About 0, of either sign, for two samples of one distribution."
        + ("" if published else " Not comparable with published KID."),
        digits=1,
    )


def _network(key: str) -> str:
    """The network, for titles of distances on another than the usual one."""
    return "" if key == "squeezenet" else f" ({key})"


def frechet(key: str, name: str, *, published: bool) -> Metric:
    """The Frechet distance on features of the extractor `name`."""
    return Metric(
        key=f"frechet_distance/{key}",
        title="FID" if published else f"Frechet distance{_network(key)}",
        better="lower",
        definition=f"Frechet distance between normal distributions fitted to results and reference, on {name}. It "
        "falls as the number of images grows: compare systems with equally many."
        + ("" if published else " Not comparable with published FID."),
        digits=1,
    )


def diversity(key: str, name: str) -> Metric:
    """The mean distance between results of one content in different styles."""
    return Metric(
        key=f"diversity/{key}",
        title="LPIPS diversity" if key == "lpips" else "diversity",
        better="higher",
        definition=f"Mean distance between results of one content in different styles: {name}. Noise is diverse "
        "too: read it beside the distances.",
    )
