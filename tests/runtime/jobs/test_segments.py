"""Split jobs: their results are those of the plain job, frame by frame and packet by packet."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # before av

# isort: split
import av
import clips
import numpy as np
import pytest

from dsmap.common.interrupts import StopRequest
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import DEFAULT_MODEL, find_model
from dsmap.runtime.frame_translator import FIRST_FRAME, ClipTime, FrameTranslator
from dsmap.runtime.jobs.loaded_model import LoadedModel
from dsmap.runtime.jobs.options import ModelOptions, StyleOptions, VideoOptions
from dsmap.runtime.jobs.report import JobReport
from dsmap.runtime.jobs.request import VideoRequest, resolve_request
from dsmap.runtime.jobs.resume import parts_folder
from dsmap.runtime.jobs.segments.begin import begin_segments
from dsmap.runtime.jobs.segments.join import join_segments
from dsmap.runtime.jobs.segments.plan import SegmentPlan, plan_segments
from dsmap.runtime.jobs.segments.results import SegmentResult, results_in
from dsmap.runtime.jobs.segments.work import translate_segment
from dsmap.runtime.jobs.video import run_video_job


class Inverting(FrameTranslator):
    """Depends on the time in the clip, as a style over time does."""

    def submit(self, frames_rgb: np.ndarray, style: Any = None, at: ClipTime = FIRST_FRAME) -> Any:
        result = 255 - frames_rgb
        result[0, 0] = [int(at.seconds * 1000) % 256, int((at.share or 0) * 255), 7]
        return lambda: result


def whole(folder: Path) -> list[SegmentResult]:
    """The segments there that are done."""
    return [one for one in results_in(folder) if one.damage() is None]


class Model:
    """In place of a `LoadedModel`."""

    def __init__(self) -> None:
        self.for_videos = Inverting()

    def fingerprint(self) -> dict[str, Any]:
        """As of a loaded model."""
        bundle = Bundle.open(find_model(DEFAULT_MODEL))
        style = {"style": [[0.0]], "style as written": "mean", "style over time": None}
        options = {"--domain": "winter", "--strength": 1.0, "--stabilize": False, "--precision": "fp32"}
        return {"model": bundle.fingerprint, **style, **options}


def request_for(source: Path, output: Path, **options: Any) -> VideoRequest:
    options = {"codec": "lossless", **options}
    return resolve_request([str(source)], output, model=ModelOptions(domain="winter"), options=VideoOptions(**options))


def split(request: VideoRequest, seconds: float = 0.9) -> tuple[SegmentPlan, list[SegmentResult]]:
    (job,) = request.jobs
    plan = plan_segments(request, job, seconds)
    assert plan.is_split, plan.note
    folder = begin_segments(request, job)
    return plan, [translate_segment(request, job, plan, one.index, Model(), folder) for one in plan.segments]


def packets(path: Path, *, lossless: bool) -> dict[int, list[tuple]]:
    """Of each stream: times and contents; of the video the times only.

    Its packets' durations follow from the times of decoding, where frames are not encoded in their order.
    """
    with av.open(str(path)) as container:
        found: dict[int, list[tuple]] = {stream.index: [] for stream in container.streams}
        for packet in container.demux():
            if packet.size:
                video = packet.stream.type == "video"
                length = 0 if video and not lossless else (packet.duration or 0) * packet.time_base
                content = b"" if video else bytes(packet)
                found[packet.stream.index].append((packet.pts * packet.time_base, length, content))
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
    assert [index for index, at in enumerate(expected.times) if got.times[index : index + 1] != [at]] == []
    assert len(got.frames) == len(expected.frames)
    differences = [np.abs(one.astype(int) - other) for one, other in zip(got.frames, expected.frames, strict=True)]
    assert max(one.max() if lossless else one.mean() for one in differences) <= (0 if lossless else 6)
    theirs, ours = (packets(path, lossless=lossless) for path in (plain, joined))
    assert [len(those) for those in ours.values()] == [len(those) for those in theirs.values()]
    assert [index for index, those in theirs.items() if ours[index] != those] == []  # the lists are too long to print
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


# --- sources


def make(
    path: Path,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pts: Sequence[int] = tuple(index * 1001 for index in range(90)),
    unit: Fraction = Fraction(1, 30000),
    audio: str = "",
    audio_seconds: float = 3.0,
    pix_fmt: str = "yuv420p",
    subtitles: bool = False,
) -> Path:
    """A clip of moving patterns, three seconds long unless `pts` says else, with a tone, chapters and a title."""
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=30, options=options or {"crf": "12", "g": "15", "x264-params": "scenecut=0"})
        video.width, video.height, video.pix_fmt = 64, 48, pix_fmt
        video.codec_context.time_base = video.time_base = unit
        video.codec_context.flags |= av.codec.context.Flags.frame_duration
        tone = clips._add_tone(out, audio, 440) if audio else None
        words = out.add_stream("subrip") if subtitles else None
        out.metadata["title"] = "A walk"
        shared = {"time_base": Fraction(1, 1000), "metadata": {"title": "a chapter"}}
        out.set_chapters([{"id": at, "start": at, "end": at + 1500, **shared} for at in (0, 1500)])
        if words is not None:
            words.codec_context.subtitle_header = b"[Script Info]\n"
            words.time_base = Fraction(1, 1000)
            for at in (100, 900, 1900):
                packet = av.Packet(b"words")
                packet.stream, packet.time_base = words, words.time_base
                packet.pts, packet.dts, packet.duration = at, at, 700
                out.mux(packet)
        if tone is not None:
            clips._write_tone(out, *tone, audio_seconds, 0.0)
        for index, time in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(pattern(index), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, unit
            frame.duration = pts[index + 1] - time if index + 1 < len(pts) else time - pts[index - 1]
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def pattern(index: int) -> np.ndarray:
    """A frame that moves, so that frames refer to others, and that no other frame is like."""
    y, x = np.mgrid[0:48, 0:64]
    image = np.stack([x * 3 + index * 5, y * 4 + index * 3, (x + y) * 2 + index * 7], -1)
    image[10:30, 10:30] = index * 37
    return (image % 256).astype(np.uint8)


MILLISECONDS: dict[str, Any] = {"unit": Fraction(1, 1000), "pts": tuple(range(0, 2970, 33))}
COUNTED: dict[str, Any] = {"unit": Fraction(1, 30), "pts": tuple(range(90))}
VARYING = tuple(np.cumsum(np.random.default_rng(1).integers(200, 3000, 60)).tolist())
OPEN = {"crf": "12", "g": "15", "x264-params": "open-gop=1:bframes=3:scenecut=0"}
OPEN_265 = {"crf": "12", "x265-params": "keyint=15:min-keyint=15:open-gop=1:scenecut=0:log-level=none"}
VP9 = {"crf": "20", "b": "0", "g": "15", "auto-alt-ref": "1", "lag-in-frames": "10", "cpu-used": "8"}
MPEG = {"codec": "mpeg2video", "options": {"g": "12", "bf": "2", "b": "3M"}, "audio": "mp2"}
SAME_AS_PLAIN = {
    "mp4": (".mp4", {"audio": "aac"}, ".mp4", {}),
    "mkv with subtitles": (".mkv", {"audio": "libopus", "subtitles": True}, ".mkv", {}),
    "webm": (".webm", {"codec": "libvpx-vp9", "options": VP9, "audio": "libopus", **MILLISECONDS}, ".mkv", {}),
    "vp8 with invisible frames": (".webm", {"codec": "libvpx", "options": VP9, **MILLISECONDS}, ".mkv", {}),
    "to vp9": (".webm", {"codec": "libvpx-vp9", "options": VP9, **MILLISECONDS}, ".webm", {"codec": "vp9"}),
    "variable frame rate": (".mp4", {"pts": VARYING, "audio": "aac"}, ".mp4", {}),
    "variable frame rate with b-frames": (".mp4", {"pts": VARYING, "audio": "aac"}, ".mp4", {"codec": "h264"}),
    "audio longer than video": (".mp4", {"audio": "aac", "audio_seconds": 5.0}, ".mp4", {}),
    "a range": (".mp4", {"audio": "aac"}, ".mp4", {"start": 0.77, "end": 2.71}),
    "a range of mkv": (".mkv", {"audio": "libopus", "subtitles": True}, ".mkv", {"start": 0.31, "end": 2.9}),
    "open gops": (".mp4", {"options": OPEN, "audio": "aac"}, ".mp4", {}),
    "open gops of h265": (".mkv", {"codec": "libx265", "options": OPEN_265}, ".mkv", {}),
    "transport stream": (".ts", {"audio": "aac", "options": OPEN}, ".mkv", {}),
    "programme stream": (".mpg", {**MPEG, **COUNTED}, ".mkv", {}),
    "avi of keyframes": (
        ".avi",
        {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"q": "3"}, **COUNTED},
        ".mkv",
        {},
    ),
    "scaled, side by side": (".mp4", {}, ".mp4", {"height": 24, "side_by_side": True}),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clip") / "in.mp4", audio="aac")


# --- the same result


@pytest.mark.parametrize("case", SAME_AS_PLAIN)
def test_a_split_job_gives_what_the_plain_one_does(case: str, tmp_path: Path):
    suffix, content, output, options = SAME_AS_PLAIN[case]
    plan = both_ways(make(tmp_path / f"in{suffix}", **content), tmp_path, output, **options)
    assert len(plan.segments) >= 2
    assert ("reads the file from its beginning" in plan.note) == (suffix in (".ts", ".mpg", ".avi"))


def test_a_model_whose_style_changes_gets_the_time_in_the_whole_clip(tmp_path: Path, tiny_bundle: Path):
    source = make(tmp_path / "in.mp4", pts=tuple(index * 3003 for index in range(24)))
    request = resolve_request(
        [str(source)],
        tmp_path / "out.mp4",
        model=ModelOptions(domain="winter", model=tiny_bundle),
        style=StyleOptions(style_from="seed:1", style_to="seed:2"),
        options=VideoOptions(codec="lossless"),
    )
    job = request.jobs[0]
    plan = plan_segments(request, job, 0.9)
    folder = begin_segments(request, job)
    with LoadedModel(request, largest=plan.size) as model:
        run_video_job(source, tmp_path / "plain.mp4", model.for_videos, request.options)
        results = [translate_segment(request, job, plan, one.index, model, folder) for one in plan.segments]
    assert whole(folder) == [replace(one, was_done=True) for one in results]
    join_segments(request, job, plan, results)
    assert_same(tmp_path / "plain.mp4", job.output)


def test_damage_is_told_and_counted_once(tmp_path: Path):
    source = make(tmp_path / "in.mkv", audio="libopus")
    with av.open(str(source)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size and not packet.is_keyframe]
    data = bytearray(source.read_bytes())
    for place in places[10::20]:
        data[place + 20 : place + 40] = b"\xff" * 20
    source.write_bytes(data)
    request = request_for(source, tmp_path / "out.mkv")
    plain = run_video_job(source, tmp_path / "plain.mkv", Inverting(), request.options)
    plan, results = split(request)
    lines: list[str] = []
    report = join_segments(request, request.jobs[0], plan, results, notify=lines.append)
    assert "is damaged: frames that are repaired may look otherwise" in lines[0]
    assert (report.frames, report.failed_packets) == (plain.frames, plain.failed_packets)
    assert clips.read(tmp_path / "out.mkv").times == clips.read(tmp_path / "plain.mkv").times


def test_a_file_without_its_end_is_as_incomplete_as_the_plain_result(tmp_path: Path):
    both_ways(clips.truncate(make(tmp_path / "in.mkv", audio="libopus"), 0.8), tmp_path, ".mkv")


# --- not split


def reason(source: Path, output: Path, seconds: float = 0.7, **options: Any) -> str:
    request = request_for(source, output, **options)
    plan = plan_segments(request, request.jobs[0], seconds)
    assert not plan.is_split
    assert plan.note == f"not split: {plan.reason}"
    return plan.reason


def test_what_cannot_be_split_exactly_says_why(clip: Path, tmp_path: Path):
    assert "--deinterlace" in reason(clip, tmp_path / "a.mp4", deinterlace=True)
    assert "--frames" in reason(clip, tmp_path / "a.mp4", frames=60)
    assert "too short" in reason(clip, tmp_path / "a.mp4", seconds=30)
    assert "images are written" in reason(clip, tmp_path / "%04d.png", codec="auto")
    intra = {"crf": "12", "g": "15", "x264-params": "intra-refresh=1:scenecut=0"}
    assert "without the frames before" in reason(make(tmp_path / "refresh.mp4", options=intra), tmp_path / "a.mp4")
    one = {"crf": "12", "g": "300", "x264-params": "scenecut=0"}
    assert "no keyframe" in reason(make(tmp_path / "one.mp4", options=one), tmp_path / "a.mp4")
    old = make(tmp_path / "old.avi", codec="mpeg4", options={"g": "12", "bf": "2", "b": "3M"}, **COUNTED)
    assert "presentation times" in reason(old, tmp_path / "a.mp4")
    gif = make(
        tmp_path / "moving.gif", codec="gif", options={"r": "1"}, pix_fmt="rgb8", unit=Fraction(1, 100), pts=(0, 90)
    )
    assert "animated" in reason(gif, tmp_path / "a.mp4")


def test_stabilized_videos_and_addresses_are_not_split(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "a.mp4")
    steady = replace(request, model=replace(request.model, stabilize=True))
    assert "--stabilize" in plan_segments(steady, request.jobs[0], 1).reason
    for job in (replace(request.jobs[0], source="rtsp://camera/1"), replace(request.jobs[0], source="f/%04d.png")):
        assert "only files" in plan_segments(request, job, 1).reason
    assert "not a video" in plan_segments(request, replace(request.jobs[0], kind="image"), 1).reason
    with pytest.raises(InputError, match="a segment of 0 s"):
        plan_segments(request, request.jobs[0], 0)


# --- workers that come and go


def test_a_part_is_not_made_twice_and_a_damaged_one_is(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4")
    job = request.jobs[0]
    plan, results = split(request)
    folder = results[0].folder
    assert [one.index for one in whole(folder)] == [0, 1, 2]
    path, _ = results[1].part
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DsmapError, match=r"segment 1 .* is damaged"):
        join_segments(request, job, plan, results)
    assert [one.index for one in whole(folder)] == [0, 2]
    with pytest.raises(DsmapError, match="segments are missing: 1"):
        join_segments(request, job, plan, [results[0], results[2]])
    again = [translate_segment(request, job, plan, number, Model(), folder) for number in range(3)]
    assert [one.was_done for one in again] == [True, False, True]
    assert join_segments(request, job, plan, again).frames == 90
    assert not parts_folder(job.output).exists()


def test_a_killed_worker_leaves_nothing_that_counts(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4")
    job = request.jobs[0]
    plan = plan_segments(request, job, 0.9)
    folder = begin_segments(request, job)
    work = tmp_path / "work.pickle"
    work.write_bytes(pickle.dumps((request, plan, folder)))
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(clips.__file__).parent)])
    command = [sys.executable, "-c", "import sys, test_segments; test_segments.killed(sys.argv[1])", str(work)]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, timeout=120).returncode == 9
    work.unlink()
    assert list(folder.glob(".part.*"))
    assert whole(folder) == []
    results = [translate_segment(request, job, plan, one.index, Model(), folder) for one in plan.segments]
    run_video_job(clip, tmp_path / "plain.mp4", Inverting(), request.options)
    join_segments(request, job, plan, results)
    assert_same(tmp_path / "plain.mp4", job.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "plain.mp4"]


def killed(work: str) -> None:
    """A worker that dies after a few frames."""
    request, plan, folder = pickle.loads(Path(work).read_bytes())
    translate_segment(
        request, request.jobs[0], plan, 1, Model(), folder, progress=lambda done, _: os._exit(9) if done == 5 else None
    )


def test_workers_that_make_the_same_part_do_no_harm(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4", codec="h264")
    job = request.jobs[0]
    plan = plan_segments(request, job, 0.9)
    folder = begin_segments(request, job)
    begin = threading.Barrier(3)

    def work(_worker: int) -> list[SegmentResult]:
        begin.wait()
        return [translate_segment(request, job, plan, one.index, Model(), folder) for one in plan.segments]

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(work, range(3))
    for results in (first, *others):
        assert all(one.damage() is None for one in results)
    assert join_segments(request, job, plan, [others[0][0], first[1], others[1][2]]).complete
    assert not parts_folder(job.output).exists()


def test_a_stopped_worker_keeps_nothing(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4")
    job = request.jobs[0]
    plan = plan_segments(request, job, 0.9)
    folder = begin_segments(request, job)
    stop, seen = StopRequest(), []

    def progress(done: int, expected: int | None) -> None:
        seen.append((done, expected))
        stop.requested |= done == 3

    result = translate_segment(request, job, plan, 1, Model(), folder, progress=progress, stop=stop)
    assert result.interrupted
    assert seen[0] == (1, plan.segments[1].frames)
    assert list(folder.iterdir()) == []
    with pytest.raises(DsmapError, match="segments are missing"):
        join_segments(request, job, plan, [result])


# --- with the plain job


def test_the_plain_job_continues_a_split_one(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4")
    (job,), options, made_with = request.jobs, request.options, Model().fingerprint()
    _, results = split(request)
    results[2].part[0].unlink()
    with pytest.raises(InputError, match="finished parts"):
        run_video_job(clip, job.output, Inverting(), options, made_with=made_with)
    other = {**made_with, "--domain": "summer"}
    with pytest.raises(InputError, match="--domain was winter and is summer"):
        run_video_job(clip, job.output, Inverting(), replace(options, resume=True), made_with=other)
    report = run_video_job(clip, job.output, Inverting(), replace(options, resume=True), made_with=made_with)
    assert report.resumed_frames == results[0].frames + results[1].frames
    run_video_job(clip, tmp_path / "plain.mp4", Inverting(), options)
    assert_same(tmp_path / "plain.mp4", job.output)
    assert not parts_folder(job.output).exists()


def test_starting_over_throws_segments_away(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4", overwrite=True)
    _, results = split(request)
    begin_segments(request, request.jobs[0])
    assert not results[0].part[0].exists()
    split(request)
    report = run_video_job(clip, request.jobs[0].output, Inverting(), request.options, made_with={})
    assert (report.resumed_frames, parts_folder(report.output).exists()) == (0, False)


def test_parts_of_other_jobs_are_refused(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4")
    job = request.jobs[0]
    plan, results = split(request)
    other = request_for(clip, tmp_path / "out.mp4", height=24)
    with pytest.raises(InputError, match="--height was not given and is 24"):
        translate_segment(other, job, plan, 0, Model(), results[0].folder)
    with pytest.raises(InputError, match="--height was not given and is 24"):
        join_segments(other, job, plan, results)
    mixed = replace(results[1], fingerprint={**results[1].fingerprint, "--domain": "autumn"})
    with pytest.raises(InputError, match="--domain was autumn and is winter"):
        join_segments(request, job, plan, [results[0], mixed, results[2]])
    moved = replace(results[1], begin=Fraction(1, 2))
    with pytest.raises(DsmapError, match="segment 1 is of another plan"):
        join_segments(request, job, plan, [results[0], moved, results[2]])


def test_style_codes_may_differ_as_those_of_two_processors_do(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4")
    plan, (first, *rest) = split(request)

    def joined(codes: Any) -> JobReport:
        segment = replace(rest[0], fingerprint={**rest[0].fingerprint, "style": codes})
        return join_segments(request, request.jobs[0], plan, [first, segment, *rest[1:]])

    for codes in ([[0.01]], [[0.0, 0.0]], [[float("nan")]], [["0"], 1], [[10**400]], None):
        with pytest.raises(InputError, match="was started with other options: style mean has changed"):
            joined(codes)
    assert joined([[1e-5]]).complete


def test_a_segment_that_decodes_differently_is_not_joined(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4")
    plan, results = split(request)
    pts, _ = results[1].head[3]
    bad = replace(results[1], head=(*results[1].head[:3], (pts, "0" * 32), *results[1].head[4:]))
    with pytest.raises(DsmapError, match="first frames of segment 1 decode differently after segment 0"):
        join_segments(request, request.jobs[0], plan, [results[0], bad, results[2]])
    assert not request.jobs[0].output.exists()


def test_frames_that_stay_yuv_are_told_apart_by_their_pixels(clip: Path, tmp_path: Path):
    """The frames where segments meet are compared, and are the same after either decoder."""
    request = request_for(clip, tmp_path / "out.mkv", codec="h264", height=24, refine="guided")
    plan, results = split(request)
    digests = [digest for one in results for _, digest in one.head]
    assert len(set(digests)) == len(digests)
    join_segments(request, request.jobs[0], plan, results)


def test_what_else_lies_among_the_segments_stays(clip: Path, tmp_path: Path):
    request = request_for(clip, tmp_path / "out.mp4")
    job = request.jobs[0]
    _, results = split(request)
    (results[0].folder / "precious.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds something else \(segments\)"):
        run_video_job(clip, job.output, Inverting(), replace(request.options, resume=True), made_with={})
    assert (results[0].folder / "precious.txt").read_text() == "precious"
