"""Adam, its learning rate over time, and the device it runs on."""

import math

import torch
from torch import Tensor, nn

from dsmap.config import OptimizerConfig
from dsmap.errors import InputError


def choose_device(name: str = "auto") -> tuple[str, str]:
    """The device to train on and why. InputError when a named one is not there."""
    if name == "auto":
        return ("cuda", torch.cuda.get_device_name()) if torch.cuda.is_available() else ("cpu", "no CUDA device here")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the device {name!r} cannot be used: {reason}", "Pass --device cpu or --device auto."
        ) from error
    return name, "as asked"


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of iteration `step` (from 0) of `steps`."""
    if config.schedule == "step":
        return config.lr * config.gamma ** (step // config.step_size)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    return config.lr


def make_adam(groups: list[dict[str, object]], config: OptimizerConfig) -> torch.optim.Adam:
    """Adam as configured; a group's own "lr_factor" is left for whoever sets the rates."""
    return torch.optim.Adam(groups, lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay, fused=True)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip_norm: float | None) -> None:
    """One step down the gradient of `loss`, scaled down to the L2 norm `clip_norm` where one is given."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    optimizer.step()
