"""Steps of the GPU check. Each runs in a process of its own: one that fails, hangs or fills the device ends alone.

    python -m dsmap.tools.gpu_check.steps JOB.json FOUND.json

Both files hold a JSON object: the step's name with what it needs, and what it found. Speeds are from host frame to
host frame, medians over blocks after a warm-up.
"""

import gc
import itertools
import json
import logging
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Backend, BackendSettings, Frames, Pending
from dsmap.runtime.backends.registry import BACKENDS
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.tools.gpu_check.plan import Job

Submit = Callable[[Frames], Pending]

WARM_UP_SECONDS, WARM_UP_FRAMES, BLOCKS = 0.5, 12, 5
MIN_PSNR = 40.0
"""dB between a backend's frames and the CPU's in float32, of the worst image: the export's limit for fp16."""
MIN_AGAIN = 50.0
"""dB between a backend's first frames and the same ones again, as graphs. Those of torch are compiled by then, and each
of the two may be 57 dB from float32."""
_IMAGES = 3


def target_of(bundle: Bundle) -> str:
    """The direction that is measured: to the second domain, if the model translates to it."""
    return bundle.manifest.targets[-1]


class NotOnGpuError(DsmapError):
    """A backend runs, but on the CPU: torch without CUDA does."""


def open_backend(bundle: Bundle, job: Job) -> Any:
    """The job's backend, for three frames under way. Raises NotOnGpuError for torch on a CPU."""
    settings = BackendSettings(**{"frames_at_once": 3, **job.get("settings", {})})
    backend = BACKENDS[job["backend"]]()(bundle, target_of(bundle), settings)
    if job["backend"] == "torch" and backend.on_host:
        description = backend.description
        backend.close()
        raise NotOnGpuError(f"not on the GPU: {description}", "Install torch for CUDA.")
    return backend


def images_of(width: int, height: int, batch: int = 1, count: int = _IMAGES) -> list[Frames]:
    """Generated frames (N, H, W, 3): soft colours with a little grain."""
    import cv2

    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        soft = cv2.resize(rng.uniform(0, 255, (6, 6, 3)).astype(np.float32), (width, height), interpolation=2)
        grain = rng.normal(0, 8, (batch, height, width, 3))
        found.append(np.clip(soft[None] + grain, 0, 255).astype(np.uint8))
    return found


def style_of(bundle: Bundle, batch: int = 1, seed: int | None = None) -> Any:
    """The target's mean style for every frame of a batch, or a random one."""
    mean = np.asarray(bundle.manifest.styles[target_of(bundle)].mean, np.float32)
    code = mean if seed is None else np.random.default_rng(seed).standard_normal(mean.size).astype(np.float32)
    return np.repeat(code[None], batch, 0)


def blocks_of(submit: Submit, in_flight: int, images: list[Frames], seconds: float, blocks: int = BLOCKS) -> Any:
    """Frames a second, block by block, after a warm-up."""
    batch = len(images[0])

    def run(min_seconds: float, min_frames: int) -> float:
        under_way: deque[Pending] = deque()
        began, count = time.perf_counter(), 0
        while count < min_frames or time.perf_counter() - began < min_seconds:
            under_way.append(submit(images[count % len(images)]))
            count += 1
            if len(under_way) >= in_flight:
                under_way.popleft()()
        while under_way:
            under_way.popleft()()
        return count * batch / (time.perf_counter() - began)

    run(WARM_UP_SECONDS, WARM_UP_FRAMES)
    for _ in range(blocks):
        yield run(seconds / blocks, 2 * in_flight)


def delays_ms(submit: Submit, images: list[Frames], count: int = 60) -> dict[str, float]:
    """The delay of one frame at a time, from submitting it to its result: median and 95th percentile."""
    times = []
    for i in range(count + 5):
        began = time.perf_counter()
        submit(images[i % len(images)])()
        times.append(1000 * (time.perf_counter() - began))
    kept = sorted(times[5:])
    return {"p50": round(kept[len(kept) // 2], 3), "p95": round(kept[int(len(kept) * 0.95)], 3)}


def psnr(a: Frames, b: Frames) -> float:
    """dB; 99 for equal frames."""
    square = float(np.square(a.astype(np.float64) - b).mean())
    return 99.0 if square == 0 else round(min(99.0, float(10 * np.log10(255**2 / square))), 2)


def machine(job: Job) -> Job:
    """Check both bindings to CUDA: the device they see, whether copies are exact, and how fast they are."""
    from dsmap.runtime.cuda.bindings import BINDINGS, load_cuda

    found: Job = {"bindings": {}}
    for name in BINDINGS:
        try:
            cuda = load_cuda(name)
        except DsmapError as error:
            found["bindings"][name] = {"left_out": error.fact}
            continue
        found["device"] = vars(cuda.device)
        size = 64 << 20
        up, down, address = cuda.alloc_host(size), cuda.alloc_host(size), cuda.alloc(size)
        stream, marks = cuda.stream(), [cuda.event(timing=True) for _ in range(3)]
        up[:] = np.arange(size, dtype=np.uint32).astype(np.uint8)
        for _ in range(2):  # the first is the warm-up
            down[:] = 0
            cuda.record(marks[0], stream)
            cuda.upload(address, up, stream)
            cuda.record(marks[1], stream)
            cuda.download(down, address, stream)
            cuda.record(marks[2], stream)
            cuda.synchronise(marks[2])
        rates = [round(size / 1e6 / cuda.elapsed_ms(a, b), 2) for a, b in itertools.pairwise(marks)]
        found["bindings"][name] = {
            "version": cuda.binding,
            "graphs": cuda.no_graphs or "yes",
            "upload_gb_s": rates[0],
            "download_gb_s": rates[1],
            "passed": bool(np.array_equal(up, down)),
        }
        cuda.close()
    tried = [of for of in found["bindings"].values() if "left_out" not in of]
    reasons = [of["left_out"] for of in found["bindings"].values() if "left_out" in of]
    if not tried and all("not installed" in reason for reason in reasons):
        found["left_out"] = "; ".join(reasons)
    elif not tried:
        found["failed"] = "; ".join(reasons)
    found["passed"] = bool(tried) and all(of["passed"] for of in tried)
    return found


def check(job: Job) -> Job:
    """Compare a backend with the CPU: several sizes, batches and styles, and frames under way together."""
    bundle = Bundle.read(Path(job["model"]))
    try:
        reference: Backend = BACKENDS["cpu"]()(bundle, target_of(bundle), BackendSettings(precision="fp32"))
    except DsmapError as error:
        return {"left_out": f"nothing to compare with: {error.fact}"}
    began = time.perf_counter()
    with logged() as said:
        backend = open_backend(bundle, job)
    opened = time.perf_counter()
    rows, free_before = [], _free_bytes(backend)
    for width, height, batch, seed in job["cases"]:
        frames, style = images_of(width, height, batch), style_of(bundle, batch, seed)
        waits = [(image, backend.submit(image, style)) for image in frames[: backend.in_flight]]
        got = [(image, wait()) for image, wait in reversed(waits)]
        worst = min(psnr(out, reference.translate(image, style)) for image, out in got)
        again = [backend.translate(image, style) for image, _ in got * 2]  # now as graphs
        repeated = min(psnr(a, b) for a, (_, b) in zip(again, got * 2, strict=True))
        row = {"size": f"{width}x{height}", "batch": batch, "psnr_db": worst, "again_psnr_db": repeated}
        if repeated < MIN_AGAIN:
            row["failed"] = f"the same frames differ when they are repeated ({repeated} dB)"
        rows.append({**row, "same_again": repeated == 99.0})
    found = {
        "description": backend.description,
        "precision": backend.precision,
        "open_seconds": round(opened - began, 2),
        "rows": rows,
        "graphs": getattr(backend, "graphs_in_use", None),
        "said": said,
        "passed": all(row["psnr_db"] >= MIN_PSNR and "failed" not in row for row in rows),
    }
    if free_before is not None:
        used = (free_before - (_free_bytes(backend) or 0)) / 1e6
        found["memory_mb"] = round(used, 1)
    backend.close()
    return found


@contextmanager
def logged() -> Iterator[list[str]]:
    """What is logged meanwhile, as with --debug: such as which nodes of a graph run on the CPU."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, collector = logging.getLogger("dsmap"), Collector()
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)


def speed(job: Job) -> Job:
    """Measure a backend at several sizes: frames a second, delay, memory, and the time of each stage."""
    bundle = Bundle.read(Path(job["model"]))
    rows: list[Job] = []
    for width, height in job["sizes"]:
        row: Job = {"size": f"{width}x{height}"}
        rows.append(row)
        try:
            row |= _speed(bundle, job, width, height)
        except NotOnGpuError:
            raise
        except (DsmapError, MemoryError) as error:  # a size that does not fit; the smaller ones stand
            row["failed"] = str(getattr(error, "fact", error)) or type(error).__name__
        gc.collect()
    return {"rows": rows, "passed": not any("failed" in row for row in rows)}


def _speed(bundle: Bundle, job: Job, width: int, height: int) -> Job:
    began = time.perf_counter()
    backend = open_backend(bundle, job)
    try:
        free = _free_bytes(backend)
        frames, style = images_of(width, height), style_of(bundle)
        backend.translate(frames[0], style)
        first = time.perf_counter() - began

        submit = _submitter(backend, style)
        rates = list(blocks_of(submit, backend.in_flight, frames, job["seconds"]))
        row: Job = {
            "description": backend.description,
            "fps": round(statistics.median(rates), 1),
            "fps_blocks": [round(rate, 1) for rate in rates],
            "delay_ms": delays_ms(submit, frames),
            "first_frame_seconds": round(first, 2),
            "graphs": getattr(backend, "graphs_in_use", None),
        }
        if free is not None:
            row["memory_mb"] = round((free - (_free_bytes(backend) or 0)) / 1e6, 1)
        if hasattr(backend, "stages_ms"):
            times = [backend.stages_ms(frames[0], style) for _ in range(15)][5:]
            row["stages_ms"] = {name: round(statistics.median(t[name] for t in times), 4) for name in times[0]}
        return row
    finally:
        backend.close()


def video(job: Job) -> Job:
    """As `video_step.video`. Raises NotOnGpuError as `open_backend`."""
    from dsmap.tools.gpu_check.video_step import video

    open_backend(Bundle.read(Path(job["model"])), job).close()
    return video(job)


STEPS: dict[str, Callable[[Job], Job]] = {
    "machine": machine,
    "check": check,
    "video": video,
    "speed": speed,
}


def _submitter(backend: Any, style_ns: Any) -> Submit:
    return lambda image: backend.submit(image, style_ns)


def _free_bytes(backend: Any) -> int | None:
    found = getattr(backend, "memory_bytes", None)
    if found is not None:
        return int(found[0])
    try:
        from dsmap.runtime.cuda.bindings import load_cuda

        cuda = load_cuda()
        free = cuda.memory()[0]
        cuda.close()
        return free
    except DsmapError:
        return None


def main(job_file: str, found_file: str) -> None:
    """Run one step; an error is a finding too."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    try:
        found = STEPS[job["step"]](job)
    except NotOnGpuError as error:
        found = {"left_out": error.fact}
    except DsmapError as error:
        found = {"failed": error.fact, "advice": error.advice}
    except Exception as error:  # one step's failure is reported, and the others go on
        lines = str(error).strip().splitlines()
        found = {"failed": f"{type(error).__name__}: {lines[0] if lines else ''}"}
    Path(found_file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
