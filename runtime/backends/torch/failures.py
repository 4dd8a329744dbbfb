"""Explains PyTorch's errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dsmap.errors import DsmapError, first_line

_NO_MEMORY = ("can't allocate", "cannot allocate", "out of memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, of the device or of the host."""
    told = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in told for sign in _NO_MEMORY)


@contextmanager
def torch_errors() -> Iterator[None]:
    """What PyTorch raises becomes DsmapError with its first line."""
    try:
        yield
    except DsmapError:
        raise
    except Exception as error:  # it raises RuntimeError, ValueError, IndexError, NotImplementedError and more
        smaller = "Translate at a smaller size, with a smaller --height."
        advice = smaller if is_out_of_memory(error) else "Use --backend cpu, or export the bundle again."
        raise DsmapError(f"torch stopped: {first_line(error)[:300]}", advice) from error
