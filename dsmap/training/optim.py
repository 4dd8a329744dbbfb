"""Adam and learning-rate schedules."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dsmap.common.distributed import average_gradients
from dsmap.config import OptimizerConfig
from dsmap.errors import DsmapError
from dsmap.model.dsmap import is_finite


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of iteration `step` (from 0) of `steps`."""
    if config.schedule == "step":
        return config.lr * config.gamma ** (step // config.step_size)
    if config.schedule == "cosine":
        return config.lr * cosine(step, steps)
    return config.lr


def cosine(step: int, steps: int) -> float:
    """Factor of a learning rate that falls from 1 to 0 over `steps` along a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def make_adam(
    groups: list[dict[str, Any]], config: OptimizerConfig, on_device: torch.device | None = None
) -> torch.optim.Adam:
    """Adam as configured; the caller applies "lr_factor" of groups when setting rates.

    With `on_device`, a GPU, everything that a step reads is on it, including rates: steps can be captured.
    """
    betas = config.beta1, config.beta2
    captured = on_device is not None
    if captured:
        groups = [group | {"lr": torch.tensor(config.lr, device=on_device)} for group in groups]
    # Fused: one pass over the memory instead of a dozen, on a CPU as well.
    return torch.optim.Adam(
        groups, lr=config.lr, betas=betas, weight_decay=config.weight_decay, fused=True, capturable=captured
    )


def set_learning_rate(group: dict[str, Any], lr: float) -> None:
    """Set the rate of an optimiser's group, in place if it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip_norm: float | None) -> None:
    """One optimiser step on `loss`, averaged over all processes; the gradient is clipped to the L2 norm `clip_norm`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average_gradients(parameters)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()


def descend_along_cosine(
    optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, step: int, steps: int, clip_norm: float | None = None
) -> None:
    """`descend` in iteration `step` (from 0) of `steps`, with a cosine schedule from `lr` to 0.

    Raises DsmapError if the loss is not finite.
    """
    if not bool(loss.isfinite()):
        raise DsmapError(f"the loss is not finite at step {step + 1}", f"Try --lr {lr / 3:.1g}.")
    for group in optimizer.param_groups:
        set_learning_rate(group, lr * cosine(step, steps))
    descend(optimizer, loss, clip_norm)


def check_trained(trained: nn.Module, lr: float, steps: int) -> None:
    """Raises DsmapError unless every weight is finite after the last step."""
    if not is_finite(trained):
        raise DsmapError(f"the weights are not finite after step {steps}", f"Try --lr {lr / 3:.1g}.")
