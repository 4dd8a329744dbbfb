"""Measures the decoding, translating and encoding of a video, apart and together, in turns."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

import dsmap.runtime
from dsmap.common.interrupts import StopRequest
from dsmap.common.notify import Notify
from dsmap.common.scratch import scratch_folder
from dsmap.common.text import counted
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.jobs.pipeline import Pipeline
from dsmap.runtime.jobs.report import StageClock
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.refine.choice import size_inside
from dsmap.runtime.translator import Translator
from dsmap.runtime.video.encoders import EncoderSettings, default_suffix
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.scaling import scaled
from dsmap.runtime.video.writer import VideoWriter
from dsmap.tools.bench.model import FrameSize, machine_facts

WARM_UP = 8
"""Translated frames before the first round; they are not counted."""
_PERCENTILES = (50, 90, 95, 99)
DEMO_CLIP = Path(dsmap.runtime.__file__).parent / "assets" / "demo-summer.mp4"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model that translates, and what runs it."""

    model: str
    domain: str | None
    """None: the last that the model translates to."""
    backend: str
    precision: str
    cuda_binding: str
    frames_at_once: int | None = None
    """None: as many as dsmap-video would have."""
    threads: int | None = None
    streams: int | None = None
    trust_engines: bool = False

    def target(self) -> str:
        """The domain to translate to."""
        return self.domain or Bundle.read(find_model(self.model)).manifest.targets[-1]

    def load(self, size: tuple[int, int] | None, target: str | None = None) -> Translator:
        """The translator, for a video's frames of that (width, height); for one frame at a time without."""
        return Translator.load(
            self.model,
            domain=target or self.target(),
            backend=self.backend,
            precision=self.precision,
            cuda_binding=self.cuda_binding,
            trust_engines=self.trust_engines,
            streams=self.streams,
            threads=self.threads,
            frames_at_once=self.frames_at_once or 1,
            for_frames=None if self.frames_at_once else size,
        )


@dataclass(frozen=True, kw_only=True)
class VideoBenchRequest:
    """What `measure_video` measures, and how long."""

    clip: Path | None
    """None: the bundled demo clip."""
    model: ModelChoice
    size: str | None
    """WIDTHxHEIGHT that the clip is resized to first; None: its own."""
    height: int | None
    """Of translation; None: that of the frames."""
    refine: str
    """What brings results of a lower height to full size, one of `REFINE_CHOICES`."""
    frames: int
    """At most."""
    rounds: int
    encoder: EncoderSettings


class Round(NamedTuple):
    """Frames a second of one round, and the seconds of its single calls."""

    fps: dict[str, float]
    calls: dict[str, list[float]]


def measure_video(request: VideoBenchRequest, say: Notify) -> dict[str, Any]:
    """Frames a second of every stage of `translate_video`, alone and together; printed, and returned for the report."""
    clip = request.clip or DEMO_CLIP
    with scratch_folder("bench") as folder:
        source, frames = prepared_clip(clip, folder, request.size, request.frames)
        height, width = frames[0].shape[:2]
        inside = size_inside(width, height, request.height, request.refine)
        translator = request.model.load(inside)
        machine = machine_facts(say)
        turns = f"{counted(request.rounds, 'round')} after {WARM_UP} frames"
        say(f"{clip.name}: {len(frames)} frames of {width}x{height}, {turns}")
        say(f"backend: {translator.backend_name}, {translator.backend_description} ({translator.backend_reason})")
        say(f"frames at once: {translator.concurrency}")
        if inside != (width, height):
            say(f"translated at {inside[0]}x{inside[1]}, refine {request.refine}")
        for _ in range(-(-WARM_UP // translator.in_flight)):
            for wait in [translator.submit(scaled(frames[0], inside)) for _ in range(translator.in_flight)]:
                wait()
        rounds = [_round(source, frames, translator, folder, request) for _ in range(request.rounds)]
        translator.close()
    measured = _summary(rounds)
    _print_table(measured, say)
    about = machine | {
        "clip": clip.name,
        "frames": len(frames),
        "width": width,
        "height": height,
        "translated_width": inside[0],
        "translated_height": inside[1],
        "refine": request.refine,
        "warm_up_frames": WARM_UP,
        "rounds": request.rounds,
        "model": translator.model_name,
        "target": translator.target,
        "backend": translator.backend_name,
        "backend_description": translator.backend_description,
        "precision": translator.precision,
        "frames_at_once": translator.concurrency,
    }
    return about | measured


def prepared_clip(clip: Path, folder: Path, wanted: str | None, count: int) -> tuple[Path, list[Pixels]]:
    """The clip in `folder`, cut to `count` frames at most, at the `wanted` WIDTHxHEIGHT, and those frames; untimed."""
    frames: list[Pixels] = []
    with VideoReader(clip) as reader:
        rate = reader.rate
        size = FrameSize(reader.width, reader.height) if wanted is None else FrameSize.parse(wanted)
        for item in reader:
            if len(frames) == count:
                break
            if isinstance(item, Frame):
                frames.append(np.asarray(cv2.resize(item.rgb, size, interpolation=cv2.INTER_AREA), np.uint8))
    if not frames:
        raise InputError(f"{clip} has no frames to measure", "Pass another clip.")
    path = folder / "clip.mp4"
    writer = VideoWriter(path, width=size.width, height=size.height, time_base=1 / rate, rate=rate)
    for index, rgb in enumerate(frames):
        writer.write(rgb, index, 1)
    writer.close()
    return path, frames


def _round(
    source: Path, frames: Sequence[Pixels], translator: Translator, folder: Path, request: VideoBenchRequest
) -> Round:
    """Each stage alone, then all together."""
    fps, calls = {}, {}
    encoder = request.encoder
    given = list(_decoded(source, _steps(frames, translator, request)))
    suffix = default_suffix(encoder.codec)
    for name, run in (
        ("decode", lambda clock: _decode(source, _steps(frames, translator, request), clock)),
        ("translate", lambda clock: _translate(given, _steps(frames, translator, request), clock)),
        ("encode", lambda clock: _encode(frames, folder / f"alone{suffix}", encoder, clock)),
        ("together", lambda clock: _together(source, folder / f"together{suffix}", translator, request, clock)),
    ):
        clock = StageClock(detailed=True)
        began = time.perf_counter()
        run(clock)
        fps[name] = len(frames) / (time.perf_counter() - began)
        assert clock.calls is not None
        if name != "together":
            calls[name] = clock.calls[name]
        else:
            calls |= {f"{stage} (together)": seconds for stage, seconds in clock.calls.items() if seconds}
    return Round(fps, calls)


def _steps(frames: Sequence[Pixels], translator: Translator, request: VideoBenchRequest) -> FrameSteps:
    height, width = frames[0].shape[:2]
    return FrameSteps(translator, width, height, lines=request.height, refine=request.refine)


def _decoded(source: Path, steps: FrameSteps) -> Iterator[Frame]:
    """The frames as a job reads them for those steps."""
    with VideoReader(source) as reader:
        reader.as_yuv = steps.takes_yuv
        yield from (item for item in reader if isinstance(item, Frame))


def _decode(source: Path, steps: FrameSteps, clock: StageClock) -> None:
    items = _decoded(source, steps)
    while True:
        with clock.stage("decode"):
            item = next(items, None)
        if item is None:
            return


def _translate(frames: Sequence[Frame], steps: FrameSteps, clock: StageClock) -> None:
    """Scaled, translated and refined."""
    pipeline: Pipeline[Any, Any] = Pipeline(
        frames,
        lambda frame, index: steps.begin(frame.pixels),
        lambda frame, translated: steps.finish_frame(frame, translated),
        in_flight=steps.in_flight,
        clock=clock,
    )
    with pipeline:
        for _ in pipeline.results(StopRequest()):
            pass


def _encode(frames: Sequence[Pixels], output: Path, encoder: EncoderSettings, clock: StageClock) -> None:
    height, width = frames[0].shape[:2]
    base = Fraction(1, 25)
    writer = VideoWriter(output, width=width, height=height, time_base=base, rate=1 / base, encoding=encoder)
    for index, rgb in enumerate(frames):
        with clock.stage("encode"):
            writer.write(rgb, index, 1)
    with clock.stage("encode"):
        writer.close()


def _together(
    source: Path, output: Path, translator: Translator, request: VideoBenchRequest, clock: StageClock
) -> None:
    encoder = request.encoder
    options: dict[str, Any] = {"codec": encoder.codec, "crf": encoder.crf, "preset": encoder.preset}
    options |= {"height": request.height, "refine": request.refine}
    if translate_video(source, output, translator, clock=clock, overwrite=True, **options).interrupted:
        raise KeyboardInterrupt


def _summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over the rounds, percentiles over all their calls, and what the pipeline makes of its slowest stage."""
    fps = {name: statistics.median(one.fps[name] for one in rounds) for name in rounds[0].fps}
    efficiency = [one.fps["together"] / min(speed for name, speed in one.fps.items() if name != "together")
                  for one in rounds]  # fmt: skip
    calls = {name: [seconds for one in rounds for seconds in one.calls[name]] for name in rounds[0].calls}
    return {
        "fps": {name: round(speed, 2) for name, speed in fps.items()},
        "share_of_the_slowest_stage": round(statistics.median(efficiency), 4),
        "rounds_fps": [{name: round(speed, 2) for name, speed in one.fps.items()} for one in rounds],
        "milliseconds": {name: _percentiles(seconds) for name, seconds in calls.items()},
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    levels = np.percentile(np.array(seconds) * 1e3, _PERCENTILES)
    return {f"p{level}": round(float(value), 3) for level, value in zip(_PERCENTILES, levels, strict=True)}


def _print_table(measured: dict[str, Any], say: Notify) -> None:
    say(f"{'':22} {'fps':>8}   " + "".join(f"{f'p{level} ms':>9}" for level in _PERCENTILES))
    for name, speed in measured["fps"].items():
        row = measured["milliseconds"].get(name, {})
        say(f"{name:22} {speed:8.1f}   " + "".join(f"{value:9.2f}" for value in row.values()))
    share = measured["share_of_the_slowest_stage"]
    say(f"together at {100 * share:.1f} % of the slowest stage alone (median of the rounds)")
