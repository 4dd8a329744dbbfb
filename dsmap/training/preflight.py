"""Pre-flight checks before the first iteration, so that a training that starts can also finish."""

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dsmap.common.distributed import Processes
from dsmap.common.images import read_rgb
from dsmap.config import TrainConfig
from dsmap.errors import InputError
from dsmap.model.feature_networks import FEATURES_MINIMUM_SIZE, check_features
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.datasets import Domain, Domains
from dsmap.training.device import Hardware
from dsmap.training.memory_estimate import MemoryEstimate, estimate_memory, readable
from dsmap.training.readers import readers_here
from dsmap.training.resume import check_startable

_SIZE_SAMPLES = 20  # images of a domain whose sizes are checked


class PreflightCheck(NamedTuple):
    """A check and its finding."""

    name: str
    fact: str


CHECKS = ("images", "readers", "sizes", "network", "hardware", "memory", "disk", "run")


def preflight(
    config: TrainConfig,
    domains: Domains,
    run: Path,
    hardware: Hardware,
    processes: Processes,
    resume: Path | None = None,
    allow_new_data: bool = False,
) -> Iterator[PreflightCheck]:
    """Run the checks in the order of CHECKS, lazily. Raises InputError at the first that fails."""

    @cache
    def needed() -> MemoryEstimate:
        return estimate_memory(config, 2 if hardware.precision == "bf16" else 4)

    facts = (
        lambda: _images(config, domains, processes),
        lambda: _readers(config, processes),
        lambda: _sizes(config, domains),
        lambda: _network(config, needed),
        lambda: _hardware(hardware, processes),
        lambda: _memory(needed(), hardware, processes),
        lambda: _disk(config, needed(), run),
        lambda: _run(config, domains, run, resume, allow_new_data),
    )
    for name, fact in zip(CHECKS, facts, strict=True):
        yield PreflightCheck(name, fact())


def _images(config: TrainConfig, domains: Domains, processes: Processes) -> str:
    batch = config.data.batch_size * processes.world_size
    for domain in domains:
        if len(domain.train) < batch:
            fits = len(domain.train) // processes.world_size
            smaller = f"use a smaller batch: --set data.batch_size={fits}" if fits else "start fewer processes"
            raise InputError(
                f"domain {domain.name!r} has {len(domain.train)} images, fewer than a batch of {batch}",
                f"Add images, or {smaller}",
            )
    counts = (f"{d.name}: {len(d.train)} images to train on, {len(d.test)} to test on" for d in domains)
    return "; ".join((*counts, *(line for domain in domains for line in domain.left_out)))


def _readers(config: TrainConfig, processes: Processes) -> str:
    plan = readers_here(config.data, processes.local_world_size)
    requested = f" (of {config.data.workers} requested)" if plan.readers < config.data.workers else ""
    why = f": {plan.reason}" if plan.reason else ""
    if not plan.readers:
        return f"the training process reads the images itself{requested}{why}"
    return (
        f"{plan.readers} process{'es' if plan.readers > 1 else ''}{requested}{why}; {plan.ahead} batches ahead each, "
        f"about {readable(plan.bytes)}; through pipes: /dev/shm is not needed"
    )


def _sizes(config: TrainConfig, domains: Domains) -> str:
    data, multiple = config.data, config.model.multiple_of
    if config.uses_features and data.crop < FEATURES_MINIMUM_SIZE:
        raise InputError(
            f"data.crop is {data.crop}, too small for the feature network",
            f"Use a crop of {FEATURES_MINIMUM_SIZE} or more, or --features none.",
        )
    small = {domain.name: _smaller_than(data.shorter_side, domain) for domain in domains}
    enlarged = [f"{count} of {seen} images of {name}" for name, (count, seen) in small.items() if count]
    return (
        f"shorter side {data.shorter_side}, crop {data.crop}x{data.crop} (a multiple of {multiple}), content "
        f"{data.crop // multiple}x{data.crop // multiple}"
        + (f"; smaller than {data.shorter_side} and enlarged: {', '.join(enlarged)}" if enlarged else "")
    )


def _smaller_than(shorter_side: int, domain: Domain) -> tuple[int, int]:
    """(number of smaller images, number of checked ones); broken ones are left to the training."""
    paths = domain.train[:: max(1, len(domain.train) // _SIZE_SAMPLES)][:_SIZE_SAMPLES]
    smaller = seen = 0
    for path in paths:
        try:
            image_rgb = read_rgb(path, at_least=shorter_side)
        except InputError:
            continue
        seen += 1
        smaller += min(image_rgb.shape[:2]) < shorter_side
    return smaller, seen


def _network(config: TrainConfig, found: Callable[[], MemoryEstimate]) -> str:
    if config.uses_features:
        check_features(config.features)
    needed = found()
    method = "DSMAP" if config.model.mapping else "MUNIT (no mapping)"
    users = ["contextual loss"] * bool(config.loss.contextual) + ["discriminators"] * config.discriminator.features
    features = f", {' and '.join(users)} on {config.features}" if users else ""
    return (
        f"{method}, {needed.generators / 1e6:.2f} M parameters in the generators, "
        f"{needed.discriminators / 1e6:.2f} M in the discriminators{features}"
    )


def _hardware(hardware: Hardware, processes: Processes) -> str:
    several = f", process {processes.rank + 1} of {processes.world_size}" if processes.world_size > 1 else ""
    compiled, cuda_graph = ("on" if choice else "off" for choice in (hardware.compiled, hardware.cuda_graph))
    why = hardware.reasons
    return (
        f"{hardware.device} ({why['device']}){several}; {hardware.precision} ({why['precision']}); "
        f"torch.compile {compiled} ({why['compile']}); CUDA graph {cuda_graph} ({why['cuda_graph']})"
    )


def _memory(needed: MemoryEstimate, hardware: Hardware, processes: Processes) -> str:
    total = needed.total
    if hardware.device.type == "cpu":
        total *= processes.local_world_size  # which share the memory
    fact = f"about {readable(total)} are needed on {hardware.device.type}"
    there = hardware.memory
    if there is None:
        return fact
    tight = "; THIS MAY NOT FIT: use a smaller data.batch_size or data.crop" if there < total else ""
    return f"{fact}, {readable(there)} are available{tight}"


def _disk(config: TrainConfig, needed: MemoryEstimate, run: Path) -> str:
    # The latest ones, the best, and one being written.
    limit = config.keep_checkpoints + bool(config.score_pictures) + 1
    missing = max(1, limit - len(list_checkpoints(run / "checkpoints")))
    existing = next(path for path in (run, *run.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < missing * needed.checkpoint:
        raise InputError(
            f"{missing} checkpoints of {readable(needed.checkpoint)} do not fit on the disk of {run}: "
            f"{readable(free)} are free",
            "Free disk space, choose another disk with -o, or keep fewer: --set keep_checkpoints=1",
        )
    return f"{limit} checkpoints of {readable(needed.checkpoint)} at most, {readable(free)} are free"


def _run(config: TrainConfig, domains: Domains, run: Path, resume: Path | None, allow_new_data: bool) -> str:
    check_startable(config, domains, run, resume, allow_new_data)
    begin = f"continuing from {resume}" if resume else "from the start"
    return f"{run}, {begin} to step {config.steps}"
