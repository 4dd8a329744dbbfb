"""Measures a training iteration against a plain implementation of it, in turns."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dsmap import __version__
from dsmap.common.distributed import Processes
from dsmap.common.notify import Notify
from dsmap.common.text import counted
from dsmap.config import TrainConfig
from dsmap.errors import InputError
from dsmap.model.dsmap import DSMAP
from dsmap.tools.bench.plain_step import plain_discriminator_terms, plain_generator_terms, use_plain_upsampling
from dsmap.training.data import Batch
from dsmap.training.device import Hardware, choose_hardware
from dsmap.training.learner import Learner
from dsmap.training.memory_estimate import explained_memory
from dsmap.training.objective import ByDomain, generator_terms, translate_both, weighted_sum
from dsmap.training.optim import descend

_WARM_UP = 4  # a CUDA graph is captured in the fourth
_PLAIN = {"precision": "fp32", "compile": False, "cuda_graph": False}
# Operations by what they are for; the first whose word is in the name counts.
_KINDS = {
    "convolutions backward": ("convolution_backward", "conv2d_backward", "wgrad", "dgrad"),
    "convolutions": ("conv", "gemm", "cudnn"),
    "Adam and average": ("adam", "lerp", "addcdiv", "addcmul", "sqrt", "foreach"),
    "matrix products": ("mm", "einsum"),
    "norms": ("norm",),
    "padding": ("pad",),
}

Step = Callable[[], None]


def measure(config: TrainConfig, device: str, rounds: int, say: Notify) -> dict[str, Any]:
    """Seconds of the plain iteration and of ours, in turns; printed, and returned for the report."""
    if config.discriminator.gan_type != "lsgan" or config.model.style_kl:
        raise InputError("the plain iteration knows LSGAN without a KL style encoder", "Leave those settings out.")
    if config.loss.appearance:
        raise InputError("the plain iteration knows no loss.appearance", "Leave that setting out.")
    variants = _variants(config, device)
    hardware = next(iter(variants.values()))[1]
    with explained_memory(config, hardware):
        return _measure(config, variants, rounds, say)


def _measure(
    config: TrainConfig, variants: dict[str, tuple[TrainConfig, Hardware]], rounds: int, say: Notify
) -> dict[str, Any]:
    hardware = next(iter(variants.values()))[1]
    data = config.data
    say(f"{_machine(hardware.device)}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    say(f"crop {data.crop}x{data.crop}, batch {data.batch_size}, network width {config.model.dim}")
    difference = gradient_difference(config)
    say(f"same weights and images: gradient norms differ by at most {difference:.1e} (relative, in float64)")
    plain = "plain, float32"
    steps = {plain: plain_step(config, hardware.device)}
    steps |= {name: _our_step(changed, choice, say) for name, (changed, choice) in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(_WARM_UP + rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            _wait(hardware.device)
            if i >= _WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    say(f"{counted(rounds, 'round')} in turns, after {_WARM_UP} to warm up:")
    table = []
    for name, times in seconds.items():
        ratio = statistics.median(p / t for p, t in zip(seconds[plain], times, strict=True))
        median = statistics.median(times)
        table.append({"name": name, "median": median, "ratio": ratio, "seconds": times})
        say(f"  {name:36} {1 / median:8.3f} it/s   {median:8.3f} s   {ratio:5.2f} times")
    where = {name: _where_time_goes(step, hardware.device) for name, step in steps.items()}
    say("where the time goes, in one iteration with the profiler on:")
    say("  " + " " * 24 + "".join(f"{name:>30}" for name in where))
    for kind in [*_KINDS, "everything else"]:
        say(f"  {kind:24}" + "".join(f"{times.get(kind, 0.0):28.3f} s" for times in where.values()))
    return {
        "dsmap": __version__,
        "torch": torch.__version__,
        "machine": _machine(hardware.device),
        "threads": torch.get_num_threads(),
        "crop": data.crop,
        "batch": data.batch_size,
        "config": config.model_dump(mode="json"),
        "gradient_difference": difference,
        "variants": table,
        "where": where,
    }


def gradient_difference(config: TrainConfig) -> float:
    """The largest relative difference of a parameter's gradient norm between the plain generators' loss and ours.

    In float64, so that it says something about the formulas and not about rounding; on crops of 64 pixels.
    """
    torch.manual_seed(0)
    small = config.model_copy(
        update={
            "loss": config.loss.model_copy(update={"contextual": 0.0}),
            "discriminator": config.discriminator.model_copy(update={"features": False}),
            **_PLAIN,
        }
    )
    learner = Learner(small, choose_hardware(small, "cpu"), Processes())
    model, discriminators = learner.model.double(), learner.discriminators.double()
    x, style = _inputs(model, 1, max(64, small.discriminator.minimum_size), torch.float64)
    named = dict(zip(model.domains, discriminators.values(), strict=True))

    def norms(terms: dict[str, Tensor]) -> Tensor:
        model.zero_grad()
        weighted_sum(terms, small.loss).backward()
        return torch.stack([torch.zeros(()).double() if p.grad is None else p.grad.norm() for p in model.parameters()])

    mode_seeking = config.loss.mode_seeking > 0
    first = translate_both(model, x, style)
    ours = norms(generator_terms(model, named, "lsgan", x, first, mode_seeking=mode_seeking))
    use_plain_upsampling(model)
    plain = norms(plain_generator_terms(model, named, x, style, mode_seeking=mode_seeking))
    # Biases before a norm have no gradient but rounding.
    relevant = plain > 1e-9 * plain.max()
    return ((ours - plain).abs() / plain)[relevant].max().item()


def plain_step(config: TrainConfig, device: torch.device) -> Step:
    """One plain iteration in float32, as people write it."""
    fp32 = config.model_copy(update=_PLAIN)
    learner = Learner(fp32, choose_hardware(fp32, str(device)), Processes())
    model, discriminators = learner.model, learner.discriminators
    for module in (model, discriminators):
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    use_plain_upsampling(model)
    adam = config.optimizer
    of_generators, of_discriminators = (
        torch.optim.Adam(
            module.parameters(), lr=adam.lr, betas=(adam.beta1, adam.beta2), weight_decay=adam.weight_decay
        )
        for module in (model, discriminators)
    )
    named = dict(zip(model.domains, discriminators.values(), strict=True))
    x, first_style = _inputs(model, config.data.batch_size, config.data.crop)
    mode_seeking = config.loss.mode_seeking > 0
    second_style = {domain: torch.randn_like(style) for domain, style in first_style.items()}

    def step() -> None:
        d_terms = plain_discriminator_terms(model, named, x, first_style)
        descend(of_discriminators, torch.stack(list(d_terms.values())).sum(), None)
        terms = plain_generator_terms(model, named, x, second_style, learner.features, mode_seeking)
        descend(of_generators, weighted_sum(terms, config.loss), None)
        _losses = torch.stack([term.detach() for term in (*d_terms.values(), *terms.values())]).tolist()

    return step


def _our_step(config: TrainConfig, hardware: Hardware, say: Notify) -> Step:
    learner = Learner(config, hardware, Processes(), say)
    if hardware.compiled:
        learner.compile(say)
    x, _ = _inputs(learner.model, config.data.batch_size, config.data.crop)
    a, b = (images.cpu() for images in x.values())
    return lambda: _discard(learner.iterate(Batch(0, a, b, (), (), ())))


def _variants(config: TrainConfig, device: str) -> dict[str, tuple[TrainConfig, Hardware]]:
    """What is compared with the plain iteration, by name."""
    fp32 = config.model_copy(update=_PLAIN)
    shared = fp32.model_copy(update={"shared_style_draw": True})
    changed = {"ours, float32": fp32, "ours, one draw of styles": shared}
    if choose_hardware(fp32, device).device.type == "cuda":
        bf16 = config.model_copy(update=_PLAIN | {"precision": "bf16"})
        graph = bf16.model_copy(update={"cuda_graph": True})
        changed = {"ours, float32": fp32, "ours, bfloat16": bf16, "ours, bfloat16, CUDA graph": graph}
        compiled = graph.model_copy(update={"compile": "auto"})
        if choose_hardware(compiled, device).compiled:
            changed["ours, bfloat16, CUDA graph, compiled"] = compiled
    return {name: (settings, choose_hardware(settings, device)) for name, settings in changed.items()}


def _inputs(model: DSMAP, n: int, size: int, dtype: torch.dtype = torch.float32) -> tuple[ByDomain, ByDomain]:
    """Images in [-1, 1] and style codes, always the same."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    x = {d: torch.rand(n, 3, size, size, generator=generator, dtype=dtype).mul(2).sub(1) for d in model.domains}
    style = {d: torch.randn(n, model.config.style_dim, generator=generator, dtype=dtype) for d in model.domains}
    return {d: v.to(device) for d, v in x.items()}, {d: v.to(device) for d, v in style.items()}


def _where_time_goes(step: Step, device: torch.device) -> dict[str, float]:
    """Seconds by kind of operation, on the device."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        step()
        _wait(device)
    seconds: dict[str, float] = {}
    for event in profiled.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        name = event.key.lower()
        kind = next((k for k, words in _KINDS.items() if any(word in name for word in words)), "everything else")
        seconds[kind] = seconds.get(kind, 0.0) + spent / 1e6
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _discard(_value: object) -> None:
    pass
