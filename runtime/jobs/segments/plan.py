"""Planning the segments of a video job: where it can be split without a difference, and why not elsewhere."""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.packet import Packet

from dsmap.errors import InputError
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.video_plan import open_source, writes_animation
from dsmap.runtime.video.hardware import software_decoder
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.sequence_writer import is_sequence
from dsmap.runtime.video.stream import has_decoding_times_only
from dsmap.runtime.video.timestamps import LONGEST_GAP

_SEEKING = ("mov,mp4", "matroska", "webm")
"""Formats whose index leads to a keyframe; files of others are read from the beginning for every segment."""
_SHORTEST_LAST = Fraction(1, 2)
"""Of a segment's length: what remains at the end, and is shorter, belongs to the segment before."""


@dataclass(frozen=True, kw_only=True)
class VideoSegment:
    """The frames from `begin` to before `end`, in seconds on the file's clock; None: from the first, to the last."""

    index: int
    begin: Fraction | None
    """A keyframe is shown then, from which on frames decode without those before."""
    end: Fraction | None
    frames: int
    """As many as the file lists; about, where it holds damage or invisible frames."""


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """How a job is split. Without segments it is not: `reason` says why."""

    segments: tuple[VideoSegment, ...] = ()
    """In order; together, all frames of the job. None of them, or two at least."""
    reason: str = ""
    """Why the job is not split, as part of a sentence; empty where it is."""
    seeks: bool = True
    """Whether a worker finds its keyframe by the file's index; else it reads the file from the beginning."""
    size: tuple[int, int] | None = None
    """(width, height) that the model translates at, for `LoadedModel`; None for what is not a video."""
    frames: int | None = None
    """Of the whole job, about; None when unknown."""

    @property
    def is_split(self) -> bool:
        """Whether there are segments."""
        return bool(self.segments)

    @property
    def note(self) -> str:
        """A line for people about the plan."""
        if not self.segments:
            return f"not split: {self.reason}"
        slow = "" if self.seeks else "; its format has no index, so each reads the file from its beginning"
        return f"{len(self.segments)} segments{slow}"


class _NotSplitError(Exception):
    """Why not, as part of a sentence."""


def plan_segments(request: VideoRequest, job: Job, seconds: float) -> SegmentPlan:
    """Plan the job's segments, of about `seconds` each. Reads the whole input once, and decodes little of it.

    The same job gives the same plan as long as its input does not change. The output is not looked at. Raises
    InputError for a length that is not positive, and for an input that the plain job does not take.
    """
    if not 0 < seconds < float("inf"):
        raise InputError(f"a segment of {seconds:g} s", "give a number of seconds above 0, such as 30")
    if job.kind != "video":
        return SegmentPlan(reason="it is not a video")
    try:
        _check_splits(request, job)
    except _NotSplitError as reason:
        return SegmentPlan(reason=str(reason))
    with open_source(job.source, request.options) as reader:
        size = request.options.size_inside(reader.width, reader.height)
        whole = SegmentPlan(size=size, frames=reader.expected_frames)
        try:
            return _planned(reader, job, whole, Fraction(seconds).limit_denominator(1000))
        except _NotSplitError as reason:
            return SegmentPlan(reason=str(reason), size=size, frames=reader.expected_frames)


def _check_splits(request: VideoRequest, job: Job) -> None:
    """Raises `_NotSplitError` for what the input need not be opened for."""
    if not isinstance(job.source, Path):
        raise _NotSplitError("only files are, and it is a sequence of images or an address")
    if is_sequence(job.output):
        raise _NotSplitError("images are written, which are not joined")
    if request.model.stabilize:
        raise _NotSplitError("--stabilize blends every frame with all before it")
    if request.options.deinterlace:
        raise _NotSplitError("--deinterlace makes a frame of its neighbours too")
    if request.options.frames is not None:
        raise _NotSplitError("--frames counts from the first frame; --end does not")


def _planned(reader: object, job: Job, whole: SegmentPlan, seconds: Fraction) -> SegmentPlan:
    if not isinstance(reader, VideoReader) or writes_animation(reader, job.output):
        raise _NotSplitError("animated images have no keyframes")
    first, end, _ = reader.wanted
    keyframes = _Keyframes(reader, seconds)
    try:
        for packet in reader.placed_packets():
            keyframes.saw(packet)
    except av.FFmpegError as error:
        raise _NotSplitError(f"it cannot be read again ({error.strerror or error})") from error
    keyframes.check_times()
    times = [at for at in sorted(keyframes.times) if at >= first and (end is None or at < end)]
    begins = _spread([at for at in keyframes.found if at > first and (end is None or at < end)], times, first, seconds)
    if not begins:
        raise _NotSplitError(keyframes.why_none(times))
    seeks = reader.format_name.startswith(_SEEKING) and not reader.clock_jumps
    bounds = [None, *begins, end]
    segments = tuple(
        VideoSegment(index=index, begin=begin, end=stop, frames=_count(times, begin, stop))
        for index, (begin, stop) in enumerate(pairwise(bounds))
    )
    return SegmentPlan(segments=segments, seeks=seeks, size=whole.size, frames=len(times))


def _spread(keyframes: list[Fraction], times: list[Fraction], first: Fraction, seconds: Fraction) -> list[Fraction]:
    """Those of the keyframes at which segments begin."""
    begins: list[Fraction] = []
    latest = first
    for at in keyframes:
        if at - latest >= seconds:
            begins.append(at)
            latest = at
    if begins and times[-1] - begins[-1] < seconds * _SHORTEST_LAST:
        begins.pop()
    return begins


def _count(times: list[Fraction], begin: Fraction | None, end: Fraction | None) -> int:
    return sum((begin is None or at >= begin) and (end is None or at < end) for at in times)


@dataclass
class _Keyframes:
    """The keyframes of a video from which on it decodes without what came before, as its packets tell."""

    reader: VideoReader
    seconds: Fraction
    found: list[Fraction] = field(default_factory=list)
    """When they are shown."""
    times: list[Fraction] = field(default_factory=list)
    """When all frames are shown, in the order of decoding."""
    keyframes: int = 0
    latest: Fraction | None = None
    inexact: str = ""

    def saw(self, packet: Packet) -> None:
        """The next packet of the video."""
        if packet.is_discard:
            return
        if packet.pts is None:
            self.inexact = "some of its frames have no time stamp"
            return
        at = packet.pts * packet.time_base
        self.keyframes += packet.is_keyframe
        # Frames that are decoded before it and shown after it would be in neither segment.
        if packet.is_keyframe and self.latest is not None and at > self.latest and self._decodes_alone(packet, at):
            self.found.append(at)
        self.latest = at if self.latest is None else max(self.latest, at)
        self.times.append(at)

    def check_times(self) -> None:
        """Raises `_NotSplitError` where frames get other times than the file's, which depend on the frames before."""
        stream = self.reader.video_stream
        if has_decoding_times_only(stream) and self.keyframes < len(self.times):
            raise _NotSplitError(f"{self.reader.format_name} files store no presentation times")
        if self.inexact:
            raise _NotSplitError(self.inexact)
        ticks = sorted(round(at / self.reader.time_base) for at in self.times)
        steps = [after - before for before, after in pairwise(ticks)]
        if any(step == 0 for step in steps):
            raise _NotSplitError("some of its frames have the same time stamp")
        if any(step * self.reader.time_base > LONGEST_GAP for step in steps):
            raise _NotSplitError("its time stamps jump")

    def why_none(self, times: list[Fraction]) -> str:
        """Why there is no second segment."""
        if times and times[-1] - times[0] < self.seconds * (1 + _SHORTEST_LAST):
            return "it is too short for two segments"
        if self.keyframes > 1 and not self.found:
            return "its keyframes do not decode without the frames before them"
        return f"it has no keyframe after {float(self.seconds):g} s"

    def _decodes_alone(self, packet: Packet, at: Fraction) -> bool:
        last = self.found[-1] if self.found else None
        if last is not None and at - last < self.seconds / 4:
            return False  # not needed, and decoding takes time
        try:
            alone = software_decoder(self.reader.video_stream.codec_context)
            frames = [*alone.decode(packet), *alone.decode(None)]
        except (av.FFmpegError, OSError, ValueError):
            return False
        return [frame.pts for frame in frames] == [packet.pts] and not frames[0].is_corrupt
