"""Decoding on a device: which one decodes, when it stops, and that nothing of the result changes.

No device is at hand: a stand-in gives frames as one does (`stand_in_device`); whether devices open is asked for real.
"""

import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import clips
import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import pytest
from stand_in import assert_refused, run
from stand_in_device import StandInDevice

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.video import check_video, translate_video
from dsmap.runtime.live.source import SourceName
from dsmap.runtime.live.streams import StreamSource
from dsmap.runtime.video import decoding
from dsmap.runtime.video.decoding import level_difference
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.hardware import DEVICES, codec_failure, device_failure
from dsmap.runtime.video.planes import plane_pixels
from dsmap.runtime.video.reader import VideoReader

NO_CARD = device_failure("cuda") is not None
without_card = pytest.mark.skipif(not NO_CARD, reason="for machines without an NVIDIA decoder")
COLOURS = [(200, 30, 40), (20, 180, 60), (40, 50, 220), (128, 128, 128)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hardware") / "in.mp4"
    return clips.make_clip(path, frames=26, colours=COLOURS, rotation=90, audio=["aac"])


def read(path: Path, **options) -> tuple[VideoReader, list[Frame]]:
    with VideoReader(path, **options) as reader:
        return reader, [item for item in reader if isinstance(item, Frame)]


def same(ours: list[Frame], theirs: list[Frame]) -> bool:
    def equal(one: Frame, other: Frame) -> bool:
        rest = one.residual is other.residual is None or np.array_equal(one.residual, other.residual)
        return (one.pts, one.duration) == (other.pts, other.duration) and np.array_equal(one.rgb, other.rgb) and rest

    return len(ours) == len(theirs) > 0 and all(map(equal, ours, theirs))


# Without a device


@without_card
def test_a_named_device_that_is_missing_stops_before_anything_is_written(clip: Path, tmp_path: Path) -> None:
    result = run(clip, "-d", "winter", "-o", tmp_path / "out.mp4", "--hwaccel", "cuda")
    assert_refused(result, 2, "--hwaccel cuda does not work on this machine: Cannot load libcuda.so.1")
    assert not list(tmp_path.iterdir())
    for name in DEVICES:
        with pytest.raises(InputError, match=f"--hwaccel {name} does not work on this machine: "):
            check_video(clip, tmp_path / "out.mp4", hwaccel=name)


@without_card
def test_auto_says_why_software_decodes(clip: Path, tmp_path: Path) -> None:
    code, out, err = run(clip, "-d", "winter", "-o", tmp_path / "out.mp4", "--hwaccel", "auto", "--frames", 3)
    assert code == 0
    line = next(line for line in (out + err).splitlines() if "decoded by software" in line)
    assert "cuda: Cannot load libcuda" in line
    assert not any("decoded" in note for note in check_video(clip, tmp_path / "other.mp4").notes)


def test_unknown_names_are_refused(clip: Path) -> None:
    with pytest.raises(InputError, match="--hwaccel quick is not known"):
        VideoReader(clip, hwaccel="quick")
    with pytest.raises(InputError, match="--hwaccel quick is not known"):
        check_video(clip, clip.with_name("out.mp4"), hwaccel="quick")


def test_only_codecs_that_are_defined_exactly_are_decoded_on_a_device() -> None:
    assert "mpeg4 is not among" in codec_failure("cuda", "mpeg4")
    assert "no decoder of H.264 on videotoolbox" in codec_failure("videotoolbox", "h264") or "videotoolbox" in (
        name for name in av.codec.hwaccel.hwdevices_available()
    )


# With a device


@pytest.mark.parametrize("hwaccel", ["cuda", "auto"])
def test_a_device_changes_nothing_but_the_decoder(clip: Path, hwaccel: str, monkeypatch) -> None:
    """Colours, times, the container's rotation, seeking to a start between keyframes."""
    for options in ({}, {"start": Fraction(1, 2)}, {"height": 32}, {"deinterlace": True}):
        _, ours = read(clip, **options)
        device = StandInDevice().install(monkeypatch)
        reader, theirs = read(clip, hwaccel=hwaccel, **options)
        monkeypatch.undo()
        assert same(ours, theirs)
        assert reader.decoder == "cuda"
        assert "decoded on cuda" in reader.notes
        assert reader.orientation.swap
        assert reader.failed_packets == reader.missing_frames == 0
        assert device.frames >= len(theirs)


def test_hdr_and_light_level_of_the_container(tmp_path: Path, monkeypatch) -> None:
    hdr = {"colourspace": 9, "primaries": 9, "trc": 16, "pix_fmt": "yuv420p10le"}
    path = clips.make_clip(tmp_path / "hdr.mp4", frames=6, colours=COLOURS, **hdr)
    for options in ({}, {"ten_bits": True}):
        _, ours = read(path, **options)
        StandInDevice().install(monkeypatch)
        reader, theirs = read(path, hwaccel="cuda", **options)
        monkeypatch.undo()
        assert same(ours, theirs)
        assert reader.decoder == "cuda"


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("colour_range", [clips.MPEG, clips.JPEG])
def test_matrices_and_ranges(tmp_path: Path, matrix: int, colour_range: int, monkeypatch) -> None:
    path = tmp_path / "in.mkv"
    clips.make_clip(path, frames=3, colours=COLOURS, colourspace=matrix, colour_range=colour_range, size=(66, 34))
    _, ours = read(path)
    StandInDevice().install(monkeypatch)
    assert same(ours, read(path, hwaccel="cuda")[1])


@pytest.mark.parametrize("colour_range", [clips.MPEG, clips.JPEG])
def test_frames_stay_yuv_with_a_device_too(tmp_path: Path, colour_range: int, monkeypatch) -> None:
    """They are refined so; as RGB, refined frames would be others."""
    path = clips.make_clip(
        tmp_path / "in.mkv", frames=3, colours=COLOURS, colourspace=1, colour_range=colour_range, ramp=True
    )

    def kept(hwaccel: str) -> list[av.VideoFrame]:
        with VideoReader(path, hwaccel=hwaccel) as reader:
            reader.as_yuv = True
            return [item.yuv for item in reader if isinstance(item, Frame) and item.yuv is not None]

    ours = kept("off")
    StandInDevice().install(monkeypatch)
    theirs = kept("cuda")
    assert len(ours) == len(theirs) == 3
    for one, two in zip(ours, theirs, strict=True):
        assert (one.colorspace, one.color_range) == (two.colorspace, two.color_range)
        for plane, other in zip(map(plane_pixels, one.planes), map(plane_pixels, two.planes), strict=True):
            assert np.array_equal(plane, other)


def test_a_device_whose_first_frame_differs_is_not_believed(clip: Path, monkeypatch) -> None:
    _, ours = read(clip)
    StandInDevice(brighter=3).install(monkeypatch)
    with pytest.raises(InputError, match=r"cuda cannot decode this video: its first frame differs .* by 3 levels"):
        read(clip, hwaccel="cuda")
    reader, theirs = read(clip, hwaccel="auto")
    assert same(ours, theirs)
    assert reader.decoder == "software"
    assert any("decoded by software (cuda: its first frame differs" in note for note in reader.notes)
    StandInDevice(brighter=1).install(monkeypatch)
    assert read(clip, hwaccel="cuda")[0].decoder == "cuda"


def test_a_device_whose_first_frame_cannot_be_looked_at_is_not_believed(clip: Path, monkeypatch) -> None:
    _, ours = read(clip)
    StandInDevice().install(monkeypatch)

    def broken(_frame: av.VideoFrame) -> av.VideoFrame:
        raise av.error.ExternalError(-1, "the card fell off")

    monkeypatch.setattr(decoding, "on_host", broken)
    with pytest.raises(InputError, match="its first frame does not come to the host: the card fell off"):
        read(clip, hwaccel="cuda")
    reader, theirs = read(clip, hwaccel="auto")
    assert same(ours, theirs)
    assert (reader.decoder, reader.failed_packets) == ("software", 0)


def test_a_stream_that_the_device_does_not_take(tmp_path: Path, monkeypatch) -> None:
    path = clips.make_clip(tmp_path / "in.mkv", frames=6, pix_fmt="yuv444p")
    _, ours = read(path)
    StandInDevice().install(monkeypatch)
    with pytest.raises(InputError, match="cuda cannot decode this video: it does not decode yuv444p, 64x48"):
        read(path, hwaccel="cuda")
    reader, theirs = read(path, hwaccel="auto")
    assert same(ours, theirs)
    assert reader.decoder == "software"


def test_other_codecs_are_refused_or_decoded_by_software(tmp_path: Path, monkeypatch) -> None:
    path = clips.make_clip(tmp_path / "in.mkv", frames=3, codec="mpeg4")
    device = StandInDevice().install(monkeypatch)
    with pytest.raises(InputError, match="cuda cannot decode this video: mpeg4 is not among"):
        read(path, hwaccel="cuda")
    assert read(path, hwaccel="auto")[0].decoder == "software"
    assert not device.opened


def test_a_part_that_the_device_does_not_take(clip: Path, monkeypatch) -> None:
    """As after a change to a size that is too large: FFmpeg gives software's frames."""
    _, ours = read(clip)
    StandInDevice(leaves=range(8, 12)).install(monkeypatch)
    with pytest.raises(InputError, match=r"from 0.27 s on, cuda does not decode the video \(yuv420p, 64x48\)"):
        read(clip, hwaccel="cuda")
    lines: list[str] = []
    _, theirs = read(clip, hwaccel="auto", notify=lines.append)
    assert same(ours, theirs)
    assert lines == ["from 0.27 s on, cuda does not decode the video (yuv420p, 64x48): software does"]


def test_a_device_that_fails_later(clip: Path, monkeypatch) -> None:
    """Software takes over at a keyframe (every twelfth); what came before it and no longer decodes is counted."""
    _, ours = read(clip)
    StandInDevice(breaks=range(12, 99)).install(monkeypatch)
    with pytest.raises(DsmapError, match=r"decoding on cuda failed at 0.40 s: the card fell off") as raised:
        read(clip, hwaccel="cuda")
    assert not isinstance(raised.value, InputError)
    lines: list[str] = []
    reader, theirs = read(clip, hwaccel="auto", notify=lines.append)
    assert same(ours, theirs)
    assert (reader.decoder, reader.failed_packets) == ("software", 0)
    assert lines == ["decoding on cuda failed at 0.40 s: the card fell off; software goes on"]
    StandInDevice(breaks=range(8, 99)).install(monkeypatch)
    reader, theirs = read(clip, hwaccel="auto")
    assert reader.failed_packets == 4
    assert [one.pts for one in theirs][-14:] == [one.pts for one in ours][-14:]


def test_damage_is_counted_and_not_taken_for_a_failure_of_the_device(clip: Path, monkeypatch) -> None:
    StandInDevice(breaks=range(20, 23), error=av.error.InvalidDataError).install(monkeypatch)
    reader, frames = read(clip, hwaccel="cuda")
    assert (reader.decoder, reader.failed_packets) == ("cuda", 3)
    assert len(frames) == 23
    StandInDevice(breaks=range(20, 99), error=av.error.InvalidDataError).install(monkeypatch)
    with pytest.raises(DsmapError, match=r"decoding on cuda failed at 0\.80 s"):  # a keyframe that software decodes
        read(clip, hwaccel="cuda")


def test_jobs_name_the_decoder_and_do_not_mix_it(clip: Path, tmp_path: Path, monkeypatch) -> None:
    output, made_with = tmp_path / "out.mp4", {"model": "x"}

    def stops_after(frames: int):
        seen: list[int] = []

        def translate(frame):
            seen.append(1)
            if len(seen) > frames:
                raise DsmapError("enough", "go on")
            return frame

        return translate

    monkeypatch.setattr("dsmap.runtime.jobs.resume.CUT_SECONDS", 0.0)
    monkeypatch.setattr("dsmap.runtime.jobs.resume.CUT_FRAMES", 4)
    with monkeypatch.context() as patch:
        StandInDevice().install(patch)
        with pytest.raises(DsmapError, match="enough"):
            translate_video(clip, output, stops_after(16), made_with=made_with, hwaccel="auto")
    with pytest.raises(InputError, match="decoder was cuda and is not given"):
        translate_video(clip, output, lambda frame: frame, made_with=made_with, resume=True)
    StandInDevice().install(monkeypatch)
    report = translate_video(clip, output, lambda frame: frame, made_with=made_with, resume=True, hwaccel="cuda")
    assert (report.decoder, report.frames, report.complete) == ("cuda", 26, True)
    assert report.resumed_frames > 0
    assert report.as_dict()["decoder"] == "cuda"


def test_the_difference_of_two_frames() -> None:
    rng = np.random.default_rng(1)
    for planar, semi, kind, shift in (("yuv420p", "nv12", np.uint8, 0), ("yuv420p10le", "p010le", np.uint16, 6)):
        one, other = av.VideoFrame(37, 21, planar), av.VideoFrame(37, 21, semi)
        luma = rng.integers(0, 200, (21, one.planes[0].line_size // kind().itemsize)).astype(kind)
        chroma = rng.integers(0, 200, (2, 11, one.planes[1].line_size // kind().itemsize)).astype(kind)
        for plane, values in zip(one.planes, (luma, *chroma), strict=True):
            plane.update(values.tobytes())
        rows = [np.zeros((plane.height, plane.line_size // kind().itemsize), kind) for plane in other.planes]
        rows[0][:, :37] = luma[:, :37] << shift
        rows[1][:, 0:38:2], rows[1][:, 1:38:2] = (half[:, :19] << shift for half in chroma)
        for worse in (0, 2):
            rows[1][3, 5] += worse * (4 if shift else 1) << shift
            for plane, values in zip(other.planes, rows, strict=True):
                plane.update(values.tobytes())
            assert level_difference(one, other) == worse


def test_live_sources(clip: Path, monkeypatch) -> None:
    """Files and streams as cameras: the same frames, turned as the container says; the source tells what decodes."""
    name, stop = SourceName(kind="file", text=str(clip)), threading.Event()

    def first_frames(**options) -> tuple[StreamSource, list[np.ndarray]]:
        source = StreamSource(name, stop, loop=False, **options)
        try:
            return source, [source.read().load() for _ in range(4)]
        finally:
            source.close()

    _, ours = first_frames()
    StandInDevice().install(monkeypatch)
    source, theirs = first_frames(hwaccel="cuda")
    assert all(map(np.array_equal, ours, theirs))
    assert (source.info.decoder, source.info.decoding) == ("cuda", "decoded on cuda")
    StandInDevice(brighter=9).install(monkeypatch)
    with pytest.raises(InputError, match="cuda cannot decode this video"):
        first_frames(hwaccel="cuda")


def test_cameras_have_no_hwaccel() -> None:
    command = [sys.executable, "-m", "dsmap.tools.live", *["-d", "winter", "--camera", "0", "--hwaccel", "auto"]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert_refused((done.returncode, done.stdout, done.stderr), 2, "--hwaccel is for video files and streams, not for")
