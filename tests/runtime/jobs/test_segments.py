"""Split jobs: their results are those of the plain job, frame by frame and packet by packet."""

import pickle
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # before av

# isort: split
import av
import clips
import numpy as np
import pytest

from dsmap.runtime.frame_translator import FIRST_FRAME, ClipTime, FrameTranslator
from dsmap.runtime.jobs.options import ModelOptions, VideoOptions
from dsmap.runtime.jobs.request import VideoRequest, resolve_request
from dsmap.runtime.jobs.resume import parts_folder
from dsmap.runtime.jobs.segments import (
    SegmentPlan,
    SegmentResult,
    begin_segments,
    join_segments,
    plan_segments,
    translate_segment,
)
from dsmap.runtime.jobs.video import run_video_job


class Inverting(FrameTranslator):
    """Depends on the time in the clip, as a style over time does."""

    def submit(self, frames_rgb: np.ndarray, style: Any = None, at: ClipTime = FIRST_FRAME) -> Any:
        result = 255 - frames_rgb
        result[0, 0] = [int(at.seconds * 1000) % 256, int((at.share or 0) * 255), 7]
        return lambda: result


class Model:
    """In place of a `LoadedModel`."""

    def __init__(self) -> None:
        self.for_videos = Inverting()

    def fingerprint(self) -> dict[str, Any]:
        return {"model": "stand-in", "--domain": "winter"}


def request_for(source: Path, output: Path, **options: Any) -> VideoRequest:
    options = {"codec": "lossless", **options}
    return resolve_request([str(source)], output, model=ModelOptions(domain="winter"), options=VideoOptions(**options))


def split(request: VideoRequest, seconds: float) -> tuple[SegmentPlan, list[SegmentResult]]:
    (job,) = request.jobs
    plan = plan_segments(request, job, seconds)
    assert plan.is_split, plan.note
    folder = begin_segments(request, job)
    return plan, [translate_segment(request, job, plan, one.index, Model(), folder) for one in plan.segments]


def packets(path: Path) -> dict[int, list[tuple]]:
    """Of each stream but the video's: times and contents. Of the video's: times."""
    with av.open(str(path)) as container:
        found: dict[int, list[tuple]] = {stream.index: [] for stream in container.streams}
        for packet in container.demux():
            if packet.size:
                content = b"" if packet.stream.type == "video" else bytes(packet)
                times = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
                found[packet.stream.index].append((*times, content))
    return {index: sorted(those) for index, those in found.items()}


def facts(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        return {
            "duration": container.duration,
            "start": container.start_time,
            "metadata": dict(container.metadata),
            "chapters": container.chapters(),
            "streams": [
                (one.type, one.time_base, one.start_time, one.duration, dict(one.metadata)) for one in container.streams
            ],
        }


def assert_same(plain: Path, joined: Path, *, lossless: bool = True) -> None:
    expected, got = clips.read(plain), clips.read(joined)
    assert got.times == expected.times
    assert len(got.frames) == len(expected.frames)
    differences = [np.abs(one.astype(int) - other) for one, other in zip(got.frames, expected.frames, strict=True)]
    assert max(one.max() if lossless else one.mean() for one in differences) <= (0 if lossless else 4)
    assert packets(joined) == packets(plain)
    assert facts(joined) == facts(plain)


def both_ways(source: Path, folder: Path, suffix: str, seconds: float = 0.7, **options: Any) -> SegmentPlan:
    plain, joined = folder / f"plain{suffix}", folder / f"joined{suffix}"
    request = request_for(source, joined, **options)
    report = run_video_job(source, plain, Inverting(), request.options, made_with=Model().fingerprint())
    plan, results = split(request, seconds)
    assert pickle.loads(pickle.dumps((request, plan, results))) is not None
    joined_report = join_segments(request, request.jobs[0], plan, results)
    assert_same(plain, joined, lossless=request.options.codec == "lossless")
    assert not parts_folder(joined).exists()
    same = ("frames", "frames_expected", "audio_streams", "failed_packets", "size_changes", "width", "complete")
    assert [getattr(joined_report, name) for name in same] == [getattr(report, name) for name in same]
    return plan


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s of H.264 with B-frames and sound."""
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    return clips.make_clip(path, frames=90, audio=["aac"], audio_seconds=3.0, ramp=True, title="A walk")


def test_mp4_with_b_frames_and_sound(clip: Path, tmp_path: Path):
    plan = both_ways(clip, tmp_path, ".mp4")
    assert len(plan.segments) >= 3
    assert sum(segment.frames for segment in plan.segments) == 90
