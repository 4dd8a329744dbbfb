"""Loss functions from tensors to scalars (paper section 3.4).

They compute in float32 at least, also under autocast. Terms that couple the images of a batch couple those of all
processes.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.common.distributed import mean_over_processes, world_size
from dsmap.config import GanType
from dsmap.model.layers import at_least_float32

Logits = Sequence[Tensor]
"""A discriminator's output for a batch: one map of logits per scale."""


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (at_least_float32(x) - at_least_float32(y)).abs().mean()


def discriminator_loss(kind: GanType, fake: Logits, real: Logits) -> Tensor:
    """The loss of a discriminator: a mean per scale, summed over the scales.

    lsgan: D(fake)^2 + (D(real) - 1)^2, no factor 1/2. nsgan: binary cross-entropy. ralsgan: relativistic average least
    squares (Jolicoeur-Martineau 2019), each side against the mean of the other.
    """
    return _sum(_DISCRIMINATOR[kind](at_least_float32(f), at_least_float32(r)) for f, r in zip(fake, real, strict=True))


def generator_adversarial_loss(kind: GanType, fake: Logits, real: Logits | None = None) -> Tensor:
    """The adversarial loss of a generator; only ralsgan needs `real`."""
    if kind == "ralsgan":
        if real is None:
            raise ValueError("ralsgan needs the logits of real images")
        return _sum(
            _ralsgan(at_least_float32(r), at_least_float32(f)) for f, r in zip(fake, real, strict=True)
        )  # the sides exchanged
    if kind == "nsgan":
        return _sum(F.softplus(-at_least_float32(f)).mean() for f in fake)
    return _sum((at_least_float32(f) - 1).square().mean() for f in fake)


def mode_seeking_loss(x: Tensor, y: Tensor, style_x: Tensor, style_y: Tensor) -> Tensor:
    """|s_x - s_y| / |x - y| of two images of one content in two styles; MSGAN (Mao et al., CVPR 2019) maximises the
    inverse. No gradient flows to the styles.
    """
    apart = mean_over_processes(l1(x, y))
    return 1 / (apart / mean_over_processes(l1(style_x, style_y).detach()) + 1e-5)


def kl_divergence(mean_ns: Tensor, log_variance_ns: Tensor) -> Tensor:
    """-0.5 * sum(1 + log sigma^2 - mu^2 - sigma^2) of style codes against N(0, I)."""
    mean_ns, log_variance_ns = at_least_float32(mean_ns), at_least_float32(log_variance_ns)
    total = -0.5 * (1 + log_variance_ns - mean_ns.square() - log_variance_ns.exp()).sum()
    return total * world_size()  # a sum over all images; gradients are averaged over the processes


def contextual_loss(x_nchw: Tensor, y_nchw: Tensor, bandwidth: float = 0.5) -> Tensor:
    """The contextual loss of features x against the target's features y (Mechrez et al., ECCV 2018).

    Always in full precision: in float16, equal maps would divide by a distance rounded to zero.
    """
    with torch.autocast(x_nchw.device.type, enabled=False):
        x_nchw, y_nchw = at_least_float32(x_nchw), at_least_float32(y_nchw)
        mean = mean_over_processes(y_nchw.mean((0, 2, 3), keepdim=True))
        x_ncp = F.normalize(x_nchw - mean, dim=1).flatten(2)
        y_ncp = F.normalize(y_nchw - mean, dim=1).flatten(2)
        distance_nij = 1 - x_ncp.transpose(1, 2) @ y_ncp  # i: positions of x, j: positions of y
        relative_nij = distance_nij / (distance_nij.amin(2, keepdim=True) + 1e-5)
        similarity_nij = ((1 - relative_nij) / bandwidth).softmax(2)
        cx_n = similarity_nij.amax(1).mean(1)
        return -(cx_n + 1e-5).log().mean()


def _lsgan(fake: Tensor, real: Tensor) -> Tensor:
    return fake.square().mean() + (real - 1).square().mean()


def _nsgan(fake: Tensor, real: Tensor) -> Tensor:
    return F.softplus(fake).mean() + F.softplus(-real).mean()


def _ralsgan(fake: Tensor, real: Tensor) -> Tensor:
    fake_mean, real_mean = mean_over_processes(fake.mean()), mean_over_processes(real.mean())
    return (real - fake_mean - 1).square().mean() + (fake - real_mean + 1).square().mean()


_DISCRIMINATOR = {"lsgan": _lsgan, "nsgan": _nsgan, "ralsgan": _ralsgan}


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
