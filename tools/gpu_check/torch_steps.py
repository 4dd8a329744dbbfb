"""What of the GPU check needs torch: the network in torch on the GPU, and a bundle of the paper's size."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsmap.config import ModelConfig
from dsmap.export.fp16 import to_half
from dsmap.export.graphs import ALL_REWRITES, Templates, from_frames, graphs, to_frames, write_graph
from dsmap.export.rewrites import Rewrites, rewritten
from dsmap.model.dsmap import DSMAP, initialise_generators
from dsmap.runtime.backends.base import Frames, Pending
from dsmap.runtime.bundle.bundle import Manifest, Sizes, Style, describe_components, write_manifest
from dsmap.tools.gpu_check.steps import Job, blocks_of, images_of, open_bundle, style_of

_AS_TRAINED, _FOLDED = Rewrites(upsampling=False, tail=False, scaling=False), Rewrites(scaling=False)
_IN_FLIGHT = 3
FORMS: dict[str, tuple[Rewrites, bool, bool]] = {
    "torch.compile fp16, channels last": (_AS_TRAINED, True, True),
    "torch eager fp16, channels last": (_AS_TRAINED, True, False),
    "torch eager fp32": (_AS_TRAINED, False, False),
    "torch.compile fp16, channels last, rewritten as in the export": (_FOLDED, True, True),
}
"""By what the report calls them: rewrites, half precision, compiled."""
COMPILE_MODE = "reduce-overhead"  # with CUDA graphs of torch's own


def measure(job: Job) -> Job:
    """Frames a second of one form at several sizes. A size that fails is told; the others stand."""
    if not torch.cuda.is_available():
        return {"left_out": f"torch {torch.__version__} sees no GPU"}
    rows: list[Job] = []
    for width, height in job["sizes"]:
        row: Job = {"size": f"{width}x{height}"}
        rows.append(row)
        try:
            row |= _measure(job, width, height)
        except Exception as error:  # out of memory, or whatever torch's compiler meets
            lines = str(error).strip().splitlines()
            row["failed"] = f"{type(error).__name__}: {lines[0] if lines else ''}"
        torch.cuda.empty_cache()
    return {"version": torch.__version__, "mode": COMPILE_MODE, "rows": rows, "passed": True}


def _measure(job: Job, width: int, height: int) -> Job:
    bundle = open_bundle(job)
    began = time.perf_counter()
    torch.cuda.reset_peak_memory_stats()
    submit = _submitter(ModelConfig.model_validate(bundle.manifest.architecture), job["form"], bundle)
    frames = images_of(width, height)
    submit(frames[0])()
    first = time.perf_counter() - began
    rates = list(blocks_of(submit, _IN_FLIGHT, frames, job["seconds"]))
    return {
        "fps": round(statistics.median(rates), 1),
        "fps_blocks": [round(rate, 1) for rate in rates],
        "first_frame_seconds": round(first, 2),
        "memory_mb": round(torch.cuda.max_memory_reserved() / 1e6, 1),
    }


def _submitter(config: ModelConfig, form: str, bundle: Any) -> Callable[[Frames], Pending]:
    """Puts a frame on the GPU's stream and gives what waits for it: the host does not wait between frames."""
    run = translation(config, form, style_of(bundle), "cuda")

    def submit(frames: Frames) -> Pending:
        with torch.no_grad():
            pinned = torch.from_numpy(frames).pin_memory()
            host = torch.empty(pinned.shape, dtype=torch.uint8, pin_memory=True)
            host.copy_(run(pinned.cuda(non_blocking=True)), non_blocking=True)
            done = torch.cuda.Event()
            done.record()

        def wait() -> Frames:
            done.synchronize()
            return np.asarray(host.numpy())

        return wait

    return submit


def translation(config: ModelConfig, form: str, style_ns: Any, device: str) -> Callable[[Tensor], Tensor]:
    """uint8 (N, H, W, 3) on the device -> the same, by the network of `config` in one of `FORMS`."""
    rewrites, half, compiled = FORMS[form]
    model = _random_model(config)
    source, target = model.domains
    model = rewritten(model, rewrites)
    if half:
        to_half(model)
    model = model.to(device)
    if half:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = torch.float16 if half else torch.float32
    slot = model.slot(target)
    style = torch.from_numpy(style_ns).to(device)
    with torch.no_grad():
        params = model.style_mlps[slot](style.to(next(model.style_mlps[slot].parameters()).dtype)).float()

    def translate(frames: Tensor) -> Tensor:
        x_nchw = from_frames(frames).to(dtype)
        if half:
            x_nchw = x_nchw.contiguous(memory_format=torch.channels_last)
        content = model.encode(x_nchw, source)
        return to_frames(model.decoders[slot](model.map(content, target), params).float())

    return torch.compile(translate, mode=COMPILE_MODE, dynamic=False) if compiled else translate


def _random_model(config: ModelConfig) -> DSMAP:
    torch.manual_seed(0)
    model = DSMAP(config)
    initialise_generators(model)
    return model.eval()


def write_paper_bundle(folder: Path) -> Job:
    """The published network from its first domain to its second, in float32 and half: not checked against torch."""
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    model = _random_model(ModelConfig())
    config, (source, target) = model.config, model.domains
    parts = {}
    for precision in ("fp32", "fp16"):
        files, templates = {}, Templates()
        for graph in graphs(model, ALL_REWRITES, precision):
            wanted = source if graph.component == "content_encoder" else target
            if graph.domain == wanted and graph.component != "style_encoder":
                write_graph(graph, folder / graph.file_name, templates)
                files[graph.component, graph.domain] = folder / graph.file_name
        parts[precision] = describe_components(folder, files)
    zero = [0.0] * config.style_dim
    manifest = Manifest(
        name="paper-size",
        domains=config.domains,
        precision="fp32",
        style_dim=config.style_dim,
        sizes=Sizes(
            multiple_of=config.multiple_of,
            minimum=config.minimum_size,
            style_minimum=config.style_minimum_size,
            trained_at=256,
        ),
        architecture=config.model_dump(mode="json"),
        components=parts["fp32"],
        variants={"fp16": parts["fp16"]},
        styles={domain: Style(mean=zero, std=zero, pictures=0) for domain in config.domains},
        licence="random weights",
        card="The published network with random weights, for measuring.",
        provenance={},
        verification={},
    )
    write_manifest(folder, manifest)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return {"passed": True, "seconds": round(time.perf_counter() - began, 1), "parameters_m": round(parameters, 2)}
