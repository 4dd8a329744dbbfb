"""Choice of hardware: the device, the precision, torch.compile and CUDA graphs."""

import os
import re
import shutil
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dsmap.common.cpu import usable_cpus
from dsmap.common.distributed import Processes
from dsmap.common.memory import available_bytes
from dsmap.config import TrainConfig
from dsmap.errors import InputError


class Hardware(NamedTuple):
    """The hardware of a training, and the reasons for the choice."""

    device: torch.device
    precision: Literal["fp32", "bf16"]
    compiled: bool
    cuda_graph: bool
    """Whether iterations run as a CUDA graph."""
    reasons: dict[str, str]
    """One line each for `device`, `precision`, `compile` and `cuda_graph`."""
    memory: int | None
    """Bytes available before the training; None if unknown."""

    @property
    def channels_last(self) -> bool:
        """Faster on tensor cores and in bfloat16; in float32 on CPUs it makes no difference."""
        return self.device.type == "cuda" or self.precision == "bf16"

    def autocast(self) -> torch.autocast:
        """The context in which the networks run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def place(self, x_nchw: Tensor) -> Tensor:
        """Images on the device, in the memory layout of the networks; asynchronously from pinned memory."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return x_nchw.to(self.device, non_blocking=True, memory_format=layout)

    def place_module(self, module: nn.Module) -> None:
        """Move a module's weights likewise."""
        module.to(self.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_hardware(config: TrainConfig, device: str = "auto", processes: Processes | None = None) -> Hardware:
    """Choose where and how to train. Raises InputError if a named choice is unavailable; `auto` always succeeds."""
    chosen, why_device = choose_device(device, processes)
    precision, why_precision = _choose_precision(config.precision, chosen)
    compiled, why_compile = _choose_compile(config, chosen)
    cuda_graph, why_graph = _choose_graph(config, chosen, processes or Processes())
    reasons = {"device": why_device, "precision": why_precision, "compile": why_compile, "cuda_graph": why_graph}
    return Hardware(chosen, precision, compiled, cuda_graph, reasons, _memory_of(chosen))


def use_allowed_threads() -> None:
    """Limit torch's threads to the usable CPUs, unless OMP_NUM_THREADS is set.

    torch itself respects the affinity, but not the limits of control groups (Docker's --cpus).
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())


def compile_networks(networks: Iterable[nn.Module]) -> None:
    """Compile `networks` for each shape they meet; names of weights stay."""
    # Every network runs on a few batch sizes, with and without gradients.
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
    for network in networks:
        network.compile(dynamic=False)


def _memory_of(device: torch.device) -> int | None:
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return free
    return available_bytes() if device.type == "cpu" else None


def choose_device(name: str, processes: Processes | None = None) -> tuple[torch.device, str]:
    """The device called `name` (auto, cpu, cuda or cuda:N), and the reason. Raises InputError if unavailable."""
    processes = processes or Processes()
    use_allowed_threads()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise InputError(f"no device named {name!r}", "Known devices: auto, cpu, cuda, cuda:0, cuda:1, ...")
    there = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not there):
        return torch.device("cpu"), "as requested" if name == "cpu" else "no CUDA device found"
    if not there:
        raise InputError(f"the device {name!r} cannot be used: no CUDA device found", "Pass --device cpu or auto.")
    if ":" in name and processes.world_size > 1:
        raise InputError(f"--device {name} is one GPU for {processes.world_size} processes", "Pass --device cuda.")
    device = torch.device(name) if ":" in name else torch.device("cuda", processes.local_rank)
    count = torch.cuda.device_count()
    if device.index >= count:
        raise InputError(
            f"GPU {device.index} was requested, this machine has {count} (numbered from 0)",
            "Pass another --device, or give torchrun a smaller --nproc-per-node.",
        )
    torch.cuda.set_device(device)
    return device, torch.cuda.get_device_name(device)


def _choose_precision(wanted: str, device: torch.device) -> tuple[Literal["fp32", "bf16"], str]:
    if wanted == "fp32":
        return "fp32", "as requested"
    if device.type == "cuda":
        # Without native support PyTorch emulates bfloat16, slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not native:
            raise InputError(
                f"{torch.cuda.get_device_name(device)} does not support bfloat16", "Use --precision fp32 or auto."
            )
        if native:
            return "bf16", "as requested" if wanted == "bf16" else "the GPU supports bfloat16; losses stay in float32"
        return "fp32", "the GPU does not support bfloat16"
    fast = _cpu_has_bf16()
    if wanted == "bf16":
        return "bf16", "as requested" if fast else "as requested; slow, as this CPU has no instructions for it"
    return "fp32", "on a CPU; --precision bf16 is faster on this one" if fast else "this CPU has no bfloat16"


def _cpu_has_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions (AVX512_BF16 or AMX); False if torch does not know."""
    names = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def _choose_compile(config: TrainConfig, device: torch.device) -> tuple[bool, str]:
    wanted = config.compile
    if wanted is False:
        return False, "as requested"
    if "replicate" in (config.model.pad_type, config.discriminator.pad_type):
        if wanted is True:
            raise InputError(
                "torch.compile fails on the gradient of pad_type replicate (seen in torch 2.13)", "Use --no-compile."
            )
        return False, "it fails on the gradient of pad_type replicate"
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError as error:
            if wanted is True:
                raise InputError(
                    "torch.compile needs Triton on a GPU, which is not installed", "Install it, or use --no-compile."
                ) from error
            return False, "Triton is not installed"
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++", "cl")):
        if wanted is True:
            raise InputError(
                "torch.compile needs a C++ compiler, and none was found", "Install one, or use --no-compile."
            )
        return False, "no C++ compiler found"
    if wanted is True:
        return True, "as requested"
    if device.type == "cuda":
        return True, "fuses norms and activations; the first iterations take a minute or more"
    return False, "it takes minutes to compile and gains little on a CPU"


def _choose_graph(config: TrainConfig, device: torch.device, processes: Processes) -> tuple[bool, str]:
    wanted = config.cuda_graph
    if wanted is False:
        return False, "as requested"
    if device.type != "cuda" or processes.world_size > 1:
        why = "it trains on the CPU" if device.type != "cuda" else "several processes train"
        if wanted is True:
            raise InputError(f"cuda_graph is true, but {why}", "Pass --set cuda_graph=auto.")
        return False, why
    return True, "as requested" if wanted is True else "launching kernels one by one takes longer than running them"
