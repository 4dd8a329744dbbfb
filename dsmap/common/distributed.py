"""Data-parallel training: each process computes a share of every batch, and gradients and losses are averaged.

`torchrun` starts the processes. Each draws the whole iteration's random numbers and takes its own rows, and every mean
over a batch is a mean over all processes: W processes with n images each learn what one learns with W * n. With a
single process every function returns its input.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dsmap.common.torchrun import store_of_attempt, torchrun_store
from dsmap.errors import DsmapError


class Processes(NamedTuple):
    """Rank and number of processes, over all machines and on this machine (local)."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    def shard(self, rows: Tensor) -> Tensor:
        """This process's share of the first dimension."""
        return rows.chunk(self.world_size)[self.rank]


def processes_from_torchrun() -> Processes:
    """The processes that torchrun describes in the environment; a single one without it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Processes(*(int(os.environ[name]) for name in names)) if all(map(os.environ.get, names)) else Processes()


class SharedNotes:
    """Notes for the processes that torchrun starts in place of these (`--max-restarts`), on any machine.

    They last as long as torchrun does. Without it nothing is kept.
    """

    def __init__(self) -> None:
        with _explained():
            self._store = torchrun_store()

    def add(self, note: str) -> None:
        """Keep `note`."""
        if self._store is not None:
            with _explained():
                self._store.set(f"note/{note}", "")

    def __contains__(self, note: str) -> bool:
        if self._store is None:
            return False
        with _explained():
            return bool(self._store.check([f"note/{note}"]))


@contextmanager
def process_group(processes: Processes, device: torch.device) -> Iterator[None]:
    """Within the block the processes form a group.

    After an error it is not destroyed: that would wait for processes that have gone.
    """
    try:
        init_process_group(processes, device)
        yield
    except KeyboardInterrupt:
        destroy_process_group()
        raise
    destroy_process_group()


def init_process_group(processes: Processes, device: torch.device) -> None:
    """Wait for the other processes. Uses NCCL between GPUs, gloo between CPUs."""
    if processes.world_size == 1:
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _explained():
        shared = torchrun_store()
        if shared is None:
            dist.init_process_group(backend)
        else:
            rank, size = processes.rank, processes.world_size
            dist.init_process_group(backend, store=store_of_attempt(shared, rank, size), rank=rank, world_size=size)


def destroy_process_group() -> None:
    """The counterpart of `init_process_group`."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes in the group; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def broadcast_weights(*modules: nn.Module) -> None:
    """Copy the weights of the first process to all others."""
    if world_size() > 1:
        for module in modules:
            for tensor in module.state_dict().values():
                plain = tensor.contiguous()  # processes may use different memory layouts
                with _explained():
                    dist.broadcast(plain, 0)
                tensor.copy_(plain)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in one message."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    _reduce(flat)
    parts = flat.div_(world_size()).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of `x` over the processes; gradients flow back to every process's `x`."""
    return x if world_size() == 1 else _MeanOverProcesses.apply(x)


def any_process(happened: Sequence[bool], device: torch.device) -> list[bool]:
    """Element-wise: whether each of several things happened in any process."""
    if world_size() == 1:
        return list(happened)
    flags = torch.tensor(happened, dtype=torch.float32, device=device)
    _reduce(flags)
    return [flag > 0 for flag in flags.tolist()]


def all_gather(mine: str) -> list[str]:
    """The text of every process, by rank."""
    if world_size() == 1:
        return [mine]
    found: list[Any] = [None] * world_size()
    with _explained():
        dist.all_gather_object(found, mine)
    return found


class _MeanOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        total = x.detach().contiguous().clone()
        _reduce(total)
        return total / world_size()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        # Every process's loss depends on this x. Averaging the gradients of weights divides again afterwards.
        total = gradient.contiguous().clone()
        _reduce(total)
        return total / world_size()


def _reduce(tensor: Tensor) -> None:
    with _explained():
        dist.all_reduce(tensor)


@contextmanager
def _explained() -> Iterator[None]:
    """Failed communication becomes a DsmapError; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        # gloo has no error type of its own.
        if not isinstance(error, dist.DistError) and not re.search(r"gloo|connection|peer", str(error), re.IGNORECASE):
            raise
        raise DsmapError(
            f"another process of this training has exited: {str(error).splitlines()[0]}",
            "Look for its message above; continue all of them with --resume auto.",
        ) from error
