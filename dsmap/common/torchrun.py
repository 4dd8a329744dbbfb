"""What torchrun tells the processes that it starts, and what it keeps for those that it starts in their place.

torchrun holds a store, which all machines reach and which outlives our processes. It is the only thing that attempts
share: environment variables do not say for certain whether, or how often, processes were restarted.
"""

import os
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_PATIENCE = timedelta(minutes=10)  # until the slowest process has imported torch
_LOOK_SECONDS = 0.02


def torchrun_store() -> "Store | None":
    """The store of the torchrun that has started this process; None without torchrun, or if it shares none.

    Raises RuntimeError when it cannot be reached.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = dist.TCPStore(address, port, is_master=False, timeout=_PATIENCE)  # type: ignore[attr-defined]
    return dist.PrefixStore("dsmap", shared)  # type: ignore[attr-defined]


def store_of_attempt(store: "Store", rank: int, world_size: int) -> "Store":
    """The part of `store` that the processes of this attempt have, and those of no earlier one had.

    To form a group, processes leave their addresses in the store. PyTorch uses the same names in each attempt, and may
    find the addresses of processes that are gone (pytorch/pytorch#135712, #167288). So the first process draws a name.
    The others must not find that of an earlier attempt either: each asks under a name of its own, and the first one
    answers until all have heard it. Raises RuntimeError when one of them does not come.
    """
    name = uuid.uuid4().hex
    if rank == 0:
        _tell(store, name, world_size)
    else:
        store.set(f"asks/{rank}", name)
        heard = store.get(f"answer/{name}").decode()
        store.set(f"heard/{heard}/{rank}", "")
        name = heard
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


def _tell(store: "Store", name: str, world_size: int) -> None:
    others = range(1, world_size)
    give_up = time.monotonic() + _PATIENCE.total_seconds()
    while not all(store.check([f"heard/{name}/{rank}"]) for rank in others):
        for rank in others:
            if store.check([f"asks/{rank}"]):  # perhaps still the question of an earlier attempt, which hurts nobody
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", name)
        if time.monotonic() > give_up:
            raise RuntimeError(f"connection: not all of {world_size} processes came within {_PATIENCE}")
        time.sleep(_LOOK_SECONDS)
