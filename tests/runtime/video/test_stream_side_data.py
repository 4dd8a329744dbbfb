"""Side data of whole streams: cropping, spherical video, timecodes, Dolby Vision."""

import struct
import threading
from fractions import Fraction
from pathlib import Path

import clips
import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import pytest

from dsmap.runtime.jobs.video import check_video, translate_video
from dsmap.runtime.live.source import SourceName
from dsmap.runtime.live.streams import StreamSource
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.stream_side_data import Crop, stream_side_data
from dsmap.runtime.video.timecode import moved_timecode

SIZE = (96, 64)
COLUMN = 255 // SIZE[0]


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def with_boxes(path: Path, boxes: bytes) -> Path:
    """Adds `boxes` at the end of the H.264 sample entry of an mp4 whose moov stands at the end."""
    data = bytearray(path.read_bytes())
    begin, end, parents = 0, len(data), []
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = begin
        while bytes(data[at + 4 : at + 8]) != kind:
            at += int.from_bytes(data[at : at + 4], "big")
            assert at < end
        parents.append(at)
        end = at + int.from_bytes(data[at : at + 4], "big")
        begin = at + 8 + {b"stsd": 8, b"avc1": 78}.get(kind, 0)
    data[end:end] = boxes
    for at in parents:
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + len(boxes)).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def clap(crop: Crop) -> bytes:
    width, height = crop.size(*SIZE)
    across, down = crop.left - crop.right, crop.top - crop.bottom  # halves of a pixel from the middle
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, across, 2, down, 2))


def sphere(stereo: int, yaw: int, kind: bytes = b"equi") -> bytes:
    head = box(b"svhd", bytes(4) + b"x\0")
    pose = box(b"prhd", bytes(4) + struct.pack(">iii", yaw << 16, 0, 0))
    form = box(kind, bytes(4 + (16 if kind == b"equi" else 8)))
    return box(b"st3d", bytes(4) + bytes([stereo])) + box(b"sv3d", head + box(b"proj", pose + form))


def ramp(path: Path, *, rotation: int = 0, timecode: str = "", rate: Fraction = Fraction(25), frames: int = 3) -> Path:
    """Grey frames whose values encode column and row; H.264."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    grey = (columns * COLUMN + rows // 16 * 4).astype(np.uint8)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=rate, options={"qp": "1", "g": "10"})
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        if rotation:
            video.set_display_rotation(rotation)
        if timecode:
            video.metadata["timecode"] = timecode
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def first_frame(path: Path, **options: object) -> np.ndarray:
    with VideoReader(path, **options) as reader:  # type: ignore[arg-type]
        return next(item.rgb for item in reader if isinstance(item, Frame))


def remuxed(path: Path, name: str) -> Path:
    """The same packets in another container, with all side data of the stream."""
    target = path.with_name(name)
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    return target


CROPS = {
    "rows": Crop(top=16, bottom=16),
    "odd": Crop(left=7, right=12, top=3, bottom=6),
    "one-side": Crop(left=1),
    "corner": Crop(right=31, bottom=33),
}


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("name", CROPS)
def test_the_containers_crop_is_applied(tmp_path: Path, name: str, container: str) -> None:
    crop = CROPS[name]
    whole = first_frame(ramp(tmp_path / "whole.mp4"))
    path = with_boxes(ramp(tmp_path / "in.mp4"), clap(crop))
    path = path if container == "mp4" else remuxed(path, "in.mkv")
    width, height = crop.size(*SIZE)
    with VideoReader(path) as reader:
        assert (reader.width, reader.height) == (width, height)
        assert reader.notes == (f"cropped from 96x64 to {width}x{height}, as the file asks",)
        frame = next(item for item in reader if isinstance(item, Frame))
    expected = whole[crop.top : SIZE[1] - crop.bottom, crop.left : SIZE[0] - crop.right]
    np.testing.assert_array_equal(frame.rgb, expected)


def test_a_crop_comes_before_turning_and_scaling(tmp_path: Path) -> None:
    crop = CROPS["odd"]
    straight = first_frame(with_boxes(ramp(tmp_path / "a.mp4"), clap(crop)))
    turned = with_boxes(ramp(tmp_path / "b.mp4", rotation=90), clap(crop))
    np.testing.assert_array_equal(first_frame(turned), np.rot90(straight))
    small = first_frame(turned, height=32)
    assert small.shape == (32, 22, 3)
    assert abs(int(small[0, 11, 0]) - int(np.rot90(straight)[1, 27, 0])) < 8


def test_the_result_has_the_cropped_size(tmp_path: Path) -> None:
    path = with_boxes(ramp(tmp_path / "in.mp4"), clap(CROPS["rows"]))
    report = translate_video(path, tmp_path / "out.mp4", lambda rgb: 255 - rgb)
    assert (report.width, report.height) == (96, 32)
    with av.open(str(tmp_path / "out.mp4")) as out:
        stream = out.streams.video[0]
        assert (stream.width, stream.height, stream_side_data(stream).crop) == (96, 32, Crop())


def test_a_file_is_cropped_in_the_live_window_too(tmp_path: Path) -> None:
    crop = CROPS["odd"]
    path = with_boxes(ramp(tmp_path / "in.mp4"), clap(crop))
    stream = StreamSource(SourceName(kind="file", text=str(path)), threading.Event(), loop=False)
    try:
        captured = stream.read()
        assert captured is not None
        np.testing.assert_array_equal(captured.load(), first_frame(path))
        assert (stream.info.width, stream.info.height) == crop.size(*SIZE)
    finally:
        stream.close()


def test_a_crop_that_leaves_nothing_is_reported_and_left_out() -> None:
    crop = Crop(left=60, right=60)
    assert not crop.fits(*SIZE)
    assert crop.size(*SIZE) == SIZE


def test_the_codecs_own_cropping_stays_the_decoders(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "in.mp4", frames=2, size=(62, 46))  # coded as 64x48
    with VideoReader(path) as reader:
        assert (reader.width, reader.height, reader.notes) == (62, 46, ())


def spherical(path: Path) -> dict[str, bytes]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return {one.type.name: bytes(one) for one in frame.side_data}


@pytest.mark.parametrize(("name", "options"), [("out.mp4", {}), ("out.mkv", {"codec": "hevc"}), ("out.webm", {})])
def test_a_spherical_video_stays_one(tmp_path: Path, name: str, options: dict) -> None:
    path = with_boxes(ramp(tmp_path / "in.mp4"), sphere(0, 0))
    notes = check_video(path, tmp_path / name, **options).notes
    assert notes == ("spherical video: the result is marked as one too",)
    report = translate_video(path, tmp_path / name, lambda rgb: rgb, **options)
    assert report.complete
    data = spherical(tmp_path / name)
    assert data["SPHERICAL"][:4] == struct.pack("i", 0)  # equirectangular
    with av.open(str(tmp_path / name)) as out:  # and all that a usual video has
        stream = out.streams.video[0]
        assert (stream.width, stream.height, stream.frames or 3) == (*SIZE, 3)
        assert stream.average_rate == 25
        assert (stream.codec_context.colorspace, stream.codec_context.color_primaries) == (1, 1)


def test_two_views_and_the_direction_are_kept(tmp_path: Path) -> None:
    path = with_boxes(ramp(tmp_path / "in.mp4"), sphere(1, 90))
    translate_video(path, tmp_path / "out.mkv", lambda rgb: rgb)
    data = spherical(tmp_path / "out.mkv")
    assert struct.unpack("2i", data["SPHERICAL"][:8]) == (0, 90 << 16)
    assert data["STEREO3D"][:4] == struct.pack("i", 2)  # one above the other
    translate_video(path, tmp_path / "out.mp4", lambda rgb: rgb)
    boxes = (tmp_path / "out.mp4").read_bytes()
    assert box(b"st3d", bytes(4) + b"\1") in boxes
    assert box(b"prhd", bytes(4) + struct.pack(">iii", 90 << 16, 0, 0)) in boxes


LOSSES = {
    "out.mov": ({}, ".mov has no such tag"),
    "av1.mp4": ({"codec": "av1"}, "it cannot be written with AV1"),
    "side.mp4": ({"side_by_side": True}, "the frames are put side by side"),
    "%03d.png": ({}, "images have no such tag"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_sphere_is_reported_before_the_work(tmp_path: Path, name: str) -> None:
    options, words = LOSSES[name]
    path = with_boxes(ramp(tmp_path / "in.mp4"), sphere(0, 0, b"cbmp"))
    (note,) = check_video(path, tmp_path / name, **options).notes
    assert note.startswith("spherical video: the result is not marked as one, as ")
    assert words in note
    report = translate_video(path, tmp_path / name, lambda rgb: rgb, **options)
    assert report.complete
    if name != "%03d.png":
        assert "SPHERICAL" not in spherical(tmp_path / name)


def test_dolby_vision_is_reported(tmp_path: Path) -> None:
    for profile, words in ((5, "come out wrong"), (8, "the base layer is used")):
        config = bytes([1, 0, profile << 1, 1 << 3 | 5]) + bytes(20)
        path = with_boxes(ramp(tmp_path / f"{profile}.mp4"), box(b"dvcC", config))
        with VideoReader(path) as reader:
            (note,) = reader.notes
        assert f"Dolby Vision profile {profile}" in note
        assert words in note


# --- timecodes


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("out.mp4", {}, "10:00:59;28"),
        ("out.mov", {"start": Fraction(1001 * 2, 30000)}, "10:01:00;02"),  # minutes have no frames 0 and 1
        ("out.mkv", {}, "10:00:59;28"),
    ],
)
def test_the_timecode_is_that_of_the_first_frame(tmp_path: Path, name: str, options: dict, expected: str) -> None:
    path = ramp(tmp_path / "in.mov", timecode="10:00:59;28", rate=Fraction(30000, 1001), frames=8)
    assert check_video(path, tmp_path / name, **options).left_out == ()
    translate_video(path, tmp_path / name, lambda rgb: rgb, **options)
    with av.open(str(tmp_path / name)) as out:
        metadata = {key.lower(): value for key, value in out.streams.video[0].metadata.items()}
        tracks = [stream for stream in out.streams if stream.type == "data"]
    assert metadata["timecode"] == expected
    assert len(tracks) == (0 if name.endswith("mkv") else 1)


def test_a_timecode_that_is_none_is_reported_and_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(ramp(tmp_path / "in.mp4"))) as source, av.open(str(path), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0], opaque=True)
        copy.metadata["timecode"] = "10:00:00:77"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    (note,) = check_video(path, tmp_path / "out.mp4").notes
    assert note == "its timecode (10:00:00:77) is left out: it is not valid at 25 frames per second"
    assert translate_video(path, tmp_path / "out.mp4", lambda rgb: rgb).complete
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert [stream.type for stream in out.streams] == ["video"]


@pytest.mark.parametrize(
    ("rate", "text"), [("24000/1001", "01:00:00:23"), ("60000/1001", "00:01:00;04"), ("50", "00:00:00:49")]
)
def test_timecodes_at_other_rates(tmp_path: Path, rate: str, text: str) -> None:
    path = ramp(tmp_path / "in.mov", timecode=text, rate=Fraction(rate), frames=8)
    assert translate_video(path, tmp_path / "out.mp4", lambda rgb: rgb).complete
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.streams.video[0].metadata["timecode"] == text


def test_a_resumed_job_is_a_sphere_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsmap.runtime.jobs.resume.CUT_SECONDS", 0.0)
    monkeypatch.setattr("dsmap.runtime.jobs.resume.CUT_FRAMES", 1)
    path = with_boxes(ramp(tmp_path / "in.mp4", frames=12), sphere(0, 0))
    count = 0

    def fails_late(rgb: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        if count > 8:
            raise RuntimeError("power cut")
        return rgb

    with pytest.raises(RuntimeError):
        translate_video(path, tmp_path / "out.mp4", fails_late, made_with={})
    report = translate_video(path, tmp_path / "out.mp4", lambda rgb: rgb, made_with={}, resume=True)
    assert report.resumed_frames > 0
    assert report.complete
    assert "SPHERICAL" in spherical(tmp_path / "out.mp4")


def test_timecodes_are_counted_as_clocks_count_them() -> None:
    ntsc = Fraction(30000, 1001)
    assert moved_timecode("01:00:00:00", Fraction(10), Fraction(25)) == "01:00:10:00"
    assert moved_timecode("23:59:59:24", Fraction(1, 25), Fraction(25)) == "00:00:00:00"
    assert moved_timecode("00:00:59;29", 1 / ntsc, ntsc) == "00:01:00;02"
    assert moved_timecode("00:09:59;29", 1 / ntsc, ntsc) == "00:10:00;00"
    assert moved_timecode("00:00:00;00", 17982 / ntsc, ntsc) == "00:10:00;00"
    assert moved_timecode("00:00:59;59", 1 / (2 * ntsc), 2 * ntsc) == "00:01:00;04"
    for text, rate in (("01:00", 25), ("00:00:00:25", 25), ("00:00:00;00", 25), ("99:00:00:00", 25), ("", 25)):
        assert moved_timecode(text, Fraction(0), Fraction(rate)) is None


def test_what_describes_hdr_mastering_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "in.mp4"
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    with av.open(str(path), "w") as out:
        params = f"log-level=none:max-cll=800,200:master-display={display}"
        video = out.add_stream("libx265", rate=25, options={"x265-params": params})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p10le"
        context = video.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        for index in range(4):
            frame = clips.plain_frame((64, 48), (120, 120, 120), "yuv420p10le", 9, clips.MPEG)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with VideoReader(path) as reader:
        assert reader.notes[1] == (
            "HDR (PQ, BT.2020): tone-mapped to SDR; its metadata (mastering display of 1000 cd/m\u00b2, MaxCLL 800) "
            "is left out"
        )
