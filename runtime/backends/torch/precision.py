"""TF32 in convolutions, a setting of the process that has two forms since torch 2.9."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32_in_convolutions(allowed: bool) -> Iterator[None]:
    """With or without TF32 in float32's convolutions, whatever the process has set; afterwards as before."""
    cudnn = torch.backends.cudnn
    parts = [getattr(cudnn, name) for name in ("conv", "rnn") if hasattr(getattr(cudnn, name, None), "fp32_precision")]
    if not parts:
        with cudnn.flags(enabled=True, allow_tf32=allowed, benchmark_limit=None):
            yield
        return
    older, newer = _older_form(), [part.fp32_precision for part in parts]
    try:
        # Both forms, the same for both parts: torch refuses to read settings that differ.
        cudnn.allow_tf32 = allowed
        for part in parts:
            part.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        if older is not None:
            cudnn.allow_tf32 = older
        for part, value in zip(parts, newer, strict=True):
            part.fp32_precision = value


def _older_form() -> bool | None:
    """None where torch does not tell, as the newer form has been used."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None
