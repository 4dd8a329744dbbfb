"""Video in, video out through real codecs: frames, timestamps, audio, colours, sizes."""

from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import clips
import numpy as np
import pytest

from dsmap.errors import InputError
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.rgb_to_frame import RgbToFrame
from dsmap.runtime.video.timestamps import TimestampRepair

PURE_COLOURS = [(40, 200, 60), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (250, 20, 90)]
TICK = Fraction(1, 30000)
MS = Fraction(1, 1000)


def test_an_mp4_without_its_index_is_reported_as_cut_off(tmp_path: Path) -> None:
    for options in ({}, {"brand": "qt  "}):
        cut = clips.truncate(clips.make_clip(tmp_path / "cut.mp4", container_options=options), 0.5)
        with pytest.raises(InputError, match=r"truncated: its index \(moov\)"):
            VideoReader(cut)
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(InputError, match="is not a video"):
        VideoReader(tmp_path / "text.mp4")


def same(frame: np.ndarray) -> np.ndarray:
    return frame


def centre(image: np.ndarray) -> list[int]:
    return [int(value) for value in image[image.shape[0] // 2, image.shape[1] // 2]]


def assert_same_timing(source: Path, output: Path) -> None:
    before, after = clips.read(source), clips.read(output)
    assert after.times == before.times
    assert len(after.audio) == len(before.audio)
    for ours, theirs in zip(after.audio, before.audio, strict=True):
        assert [data for _, data in ours] == [data for _, data in theirs]
        assert all(abs(a - b) < Fraction(1, 40000) for (a, _), (b, _) in zip(ours, theirs, strict=True))


TIMINGS = {
    "plain": {},
    "one frame": {"frames": 1, "last_duration": 3003},
    "aac": {"audio": ["aac"]},
    "two languages": {"audio": ["aac", "aac"]},
    "mp3": {"audio": ["libmp3lame"]},
    "variable rate": {"pts": [index * index * 97 for index in range(20)], "last_duration": 3000, "audio": ["aac"]},
    "video starts later": {"pts": [10007 + 1001 * index for index in range(20)], "audio": ["aac"]},
    "audio starts later": {"audio": ["aac"], "audio_start": 0.4},
    "audio is longer": {"frames": 5, "audio": ["aac"], "audio_seconds": 2.0},
    "90 kHz": {"time_base": Fraction(1, 90000), "pts": [3754 * index for index in range(12)]},
    "25 per second": {"time_base": Fraction(1, 25), "pts": range(12), "audio": ["aac"]},
}


@pytest.mark.parametrize("what", TIMINGS)
def test_every_timestamp_and_audio_packet_is_kept(tmp_path: Path, what: str) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", **TIMINGS[what])
    report = translate_video(source, tmp_path / "out.mp4", same)
    assert report.complete
    assert_same_timing(source, tmp_path / "out.mp4")


@pytest.mark.parametrize(
    ("suffix_in", "suffix_out", "codec", "audio"),
    [
        (".mkv", ".mkv", "libx264", ["libopus"]),
        (".mkv", ".mp4", "libx264", ["aac", "libmp3lame"]),
        (".webm", ".mp4", "libvpx-vp9", ["libopus"]),
        (".webm", ".mkv", "libvpx", ["libopus"]),
        (".mov", ".mov", "libx264", ["aac"]),
        (".avi", ".mp4", "mpeg4", ["libmp3lame"]),
    ],
)
def test_containers_with_millisecond_clocks_and_others(
    tmp_path: Path, suffix_in: str, suffix_out: str, codec: str, audio: list[str]
) -> None:
    times = {"time_base": Fraction(1, 25), "pts": range(12)}
    if suffix_in in (".mkv", ".webm"):
        times = {"time_base": MS, "pts": [7 + index * 33 + index % 3 for index in range(20)]}
    source = clips.make_clip(tmp_path / f"in{suffix_in}", codec=codec, audio=audio, **times)
    assert translate_video(source, tmp_path / f"out{suffix_out}", same).complete
    assert_same_timing(source, tmp_path / f"out{suffix_out}")


def test_matroska_rounds_to_milliseconds_and_shifts_nothing(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", audio=["aac"])  # its audio starts 21 ms before 0
    translate_video(source, tmp_path / "out.mkv", same)
    before, after = clips.read(source), clips.read(tmp_path / "out.mkv")
    assert [data for _, data in before.audio[0]] == [data for _, data in after.audio[0]]
    assert all(abs(a - b) <= MS / 2 for a, b in zip(before.times, after.times, strict=True))
    assert all(abs(a - b) <= MS / 2 for (a, _), (b, _) in zip(before.audio[0], after.audio[0], strict=True))


def test_transport_stream_audio_loses_only_its_packet_headers(tmp_path: Path) -> None:
    times = {"time_base": Fraction(1, 90000), "pts": [3003 * index for index in range(20)]}
    source = clips.make_clip(tmp_path / "in.ts", audio=["aac"], **times)
    translate_video(source, tmp_path / "out.mp4", same)
    before, after = clips.read(source), clips.read(tmp_path / "out.mp4")
    moved = before.times[0] - after.times[0]  # the recording's clock begins at 1.4 s, the result's at 0
    assert after.times == [at - moved for at in before.times]
    assert after.times[0] < Fraction(1, 10)
    for (_, theirs), (_, ours) in zip(before.audio[0], after.audio[0], strict=True):
        assert theirs[7:] == ours


def test_broadcast_clock_is_moved_to_zero_with_audio_and_video_together(tmp_path: Path) -> None:
    start = 90000 * 1000
    times = {"time_base": Fraction(1, 90000), "pts": [start + 3003 * index for index in range(20)]}
    source = clips.make_clip(tmp_path / "in.ts", audio=["aac"], audio_start=1000, **times)
    translate_video(source, tmp_path / "out.mp4", same)
    before, after = clips.read(source), clips.read(tmp_path / "out.mp4")
    assert after.times[0] < 1
    assert abs((after.times[0] - after.audio[0][0][0]) - (before.times[0] - before.audio[0][0][0])) < MS


def test_the_last_frame_keeps_its_duration(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=8, last_duration=30000)
    translate_video(source, tmp_path / "out.mp4", same)
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        assert abs(before.duration - after.duration) < 1000


def test_metadata_that_players_show_is_kept(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", audio=["aac", "aac"], title="Highway")
    translate_video(source, tmp_path / "out.mp4", same)
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.metadata["title"] == "Highway"
        assert [stream.language for stream in out.streams.audio] == ["eng", "deu"]


def test_frames_keep_their_order_and_content(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=20)
    translate_video(source, tmp_path / "out.mp4", lambda frame: 255 - frame)
    levels = [centre(frame)[0] for frame in clips.read(tmp_path / "out.mp4").frames]
    assert np.abs(np.array(levels) - [255 - clips.grey(index) for index in range(20)]).max() <= 3


@pytest.mark.parametrize(
    "tags",
    [
        {"colourspace": 1, "primaries": 1, "trc": 1},
        {"colourspace": 6, "primaries": 6, "trc": 6},
        {"colourspace": 5},
        {"colourspace": 1, "colour_range": clips.JPEG},
        {"colourspace": 6, "colour_range": clips.JPEG},
        {"colourspace": 1, "pix_fmt": "yuv420p10le"},
        {},
    ],
    ids=str,
)
def test_colours_come_back_whatever_the_input_is_tagged(tmp_path: Path, tags: dict) -> None:
    count = len(PURE_COLOURS)
    source = clips.make_clip(tmp_path / "in.mp4", frames=count, colours=PURE_COLOURS, **tags)
    seen: list[list[int]] = []

    def look(frame: np.ndarray) -> np.ndarray:
        seen.append(centre(frame))
        return frame

    translate_video(source, tmp_path / "out.mp4", look)
    assert np.abs(np.array(seen) - PURE_COLOURS).max() <= 3
    with av.open(str(tmp_path / "out.mp4")) as out:
        context = out.streams.video[0].codec_context
        assert bt709_tags(context) == (1, 1, 1, clips.MPEG)
        frames = list(out.decode(video=0))
    assert {bt709_tags(frame) for frame in frames} == {(1, 1, 1, clips.MPEG)}
    assert is_for_browsers(tmp_path / "out.mp4")
    stored = [[int(np.frombuffer(memoryview(plane), np.uint8)[0]) for plane in frame.planes] for frame in frames]
    assert np.abs(np.array(stored) - [clips.yuv(colour, 1, clips.MPEG) for colour in PURE_COLOURS]).max() <= 2


def bt709_tags(of: av.VideoFrame | av.VideoCodecContext) -> tuple[int, int, int, int]:
    return int(of.colorspace), int(of.color_primaries), int(of.color_trc), int(of.color_range)


def test_greys_pass_without_a_bias(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(16, 236, 2, dtype=np.uint8), 2)  # every second code of limited range
    frame = clips.plain_frame((220, 16), (0, 0, 0), "yuv420p", 1, clips.MPEG)
    luma = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(16, -1)
    luma[:, :220] = ramp
    frame.colorspace, frame.color_range = 1, clips.MPEG
    rgb = FrameToRgb(220, 16, Orientation())(frame)
    assert abs(float(np.mean(rgb[8] - (ramp.astype(float)[:, None] - 16) * 255 / 219))) < 0.1
    back = np.frombuffer(memoryview(RgbToFrame()(rgb).planes[0]), np.uint8).reshape(16, -1)[8, :220]
    assert back.tolist() == ramp.tolist()


def is_for_browsers(path: Path) -> bool:
    """H.264 High 4:2:0 8 bits at a sane level, the index before the data."""
    data = path.read_bytes()
    with av.open(str(path)) as out:
        context = out.streams.video[0].codec_context
        kind = (context.name, context.pix_fmt, context.profile)
        return kind == ("h264", "yuv420p", "High") and context.level <= 51 and data.find(b"moov") < data.find(b"mdat")


def test_untagged_video_is_bt709_from_720_lines_up(tmp_path: Path) -> None:
    big = clips.plain_frame((64, 720), (40, 200, 60), "yuv420p", 1, clips.MPEG)
    path = tmp_path / "big.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "6"})
        video.width, video.height = 64, 720
        out.mux(video.encode(big))
        out.mux(video.encode(None))
    with VideoReader(path) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
    assert np.abs(np.array(centre(frame.rgb)) - (40, 200, 60)).max() <= 3


def test_hdr_is_brought_to_sdr(tmp_path: Path) -> None:
    # PQ code 148 of 255 is 203 cd/m2: the level of white paper in HDR. Highlights need the few levels above.
    source = clips.make_clip(
        tmp_path / "in.mp4",
        frames=2,
        size=(64, 48),
        colours=[(148, 148, 148)],
        pix_fmt="yuv420p10le",
        colourspace=9,
        primaries=9,
        trc=16,
    )
    with VideoReader(source) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
    assert 240 < min(centre(frame.rgb)) < 250


@pytest.mark.parametrize("colourspace", [0, 3, 8, 12])
@pytest.mark.parametrize("trc", [1, 3])
def test_rare_colour_tags_do_not_stop_the_work(colourspace: int, trc: int) -> None:
    frame = clips.plain_frame((32, 16), (40, 200, 60), "yuv420p", 6, clips.MPEG)
    frame.colorspace, frame.color_trc, frame.color_primaries = colourspace, trc, 9 if trc == 3 else 1
    assert FrameToRgb(32, 16, Orientation())(frame).shape == (16, 32, 3)


@pytest.mark.parametrize(("rotation", "hflip"), [(90, False), (-90, False), (180, False), (0, True), (90, True)])
def test_rotation_is_applied_and_its_tag_removed(tmp_path: Path, rotation: int, hflip: bool) -> None:
    path = tmp_path / "in.mp4"
    image = np.full((32, 64, 3), 30, np.uint8)
    image[:16, :32] = 220  # bright at the top left, as stored
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "6"})
        video.width, video.height = 64, 32
        video.set_display_rotation(rotation, hflip=hflip)
        out.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(video.encode(None))
    expected = np.rot90(image, rotation // 90)
    expected = expected[:, ::-1] if hflip else expected  # the mirror comes after the turn
    report = translate_video(path, tmp_path / "out.mp4", same)
    result = clips.read(tmp_path / "out.mp4").frames[0]
    assert (report.width, report.height) == (expected.shape[1], expected.shape[0])
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).mean() < 4
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert next(out.decode(video=0)).rotation == 0


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (63, 48), (1, 1), (5, 3)])
def test_odd_sizes_get_one_repeated_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=3, size=size, pix_fmt="yuv444p", colours=[(200, 30, 30)])
    shapes = set()

    def look(frame: np.ndarray) -> np.ndarray:
        shapes.add(frame.shape)
        return frame

    translate_video(source, tmp_path / "out.mp4", look)
    result = clips.read(tmp_path / "out.mp4").frames[0]
    assert shapes == {(size[1], size[0], 3)}
    assert result.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert np.abs(result[-1, -1].astype(int) - result[0, 0]).max() <= 3


def test_pixel_aspect_is_kept_and_turned(tmp_path: Path) -> None:
    flat = clips.make_clip(tmp_path / "flat.mp4", frames=2, sample_aspect=Fraction(4, 3))
    turned = clips.make_clip(tmp_path / "turned.mp4", frames=2, sample_aspect=Fraction(4, 3), rotation=90)
    for source, aspect in ((flat, Fraction(4, 3)), (turned, Fraction(3, 4))):
        translate_video(source, tmp_path / f"{source.stem}-out.mp4", same)
        with av.open(str(tmp_path / f"{source.stem}-out.mp4")) as out:
            assert out.streams.video[0].sample_aspect_ratio == aspect


def test_a_change_of_size_in_the_middle_is_scaled_away(tmp_path: Path) -> None:
    first = clips.make_clip(tmp_path / "a.ts", frames=4, time_base=TICK)
    second = clips.make_clip(tmp_path / "b.ts", frames=4, size=(96, 80), pts=[8008 + 1001 * i for i in range(4)])
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    report = translate_video(both, tmp_path / "out.mp4", same)
    assert report.frames == 8
    assert {frame.shape for frame in clips.read(tmp_path / "out.mp4").frames} == {(48, 64, 3)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 100, 200], [0, 100, 200]),
        ([None, None, None], [0, 1001, 2002]),
        ([500, 500, 2502], [500, 501, 2502]),
        ([0, None, 2002], [0, 1001, 2002]),
        ([90000, 1001, 2002], [90000, 91001, 92002]),
        ([90000, 1001, 3003], [90000, 91001, 93003]),  # a new clock keeps its steps
        ([90000, 1001, 92002], [90000, 91001, 92002]),  # one bad value
        ([0, 1 << 40, (1 << 40) + 500, 3003], [0, 1001, 1501, 3003]),
        ([0, 1001, 50_000_000], [0, 1001, 50_000_000]),  # half an hour may be meant
    ],
)
def test_missing_and_repeated_timestamps_are_repaired(given: list[int | None], expected: list[int]) -> None:
    clock = TimestampRepair(TICK, Fraction(30000, 1001))
    assert [clock.next(pts, 0) for pts in given] == expected


def not_a_video(folder: Path) -> Path:
    path = folder / "random.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def text(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("one line of text\n" * 50)
    return path


def test_a_text_file_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"notes\.txt is a text file, not a video\n"):
        VideoReader(text(tmp_path))


def empty(folder: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


def only_audio(folder: Path) -> Path:
    path = folder / "song.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        stream, pitch = clips._add_tone(out, "aac", 440)
        clips._write_tone(out, stream, pitch, 0.3, 0)
    return path


def no_frames(folder: Path) -> Path:
    path = clips.make_clip(folder / "none.mp4", frames=4, container_options={"movflags": "+faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"mdat") + 4])
    return path


def no_index(folder: Path) -> Path:
    return clips.truncate(clips.make_clip(folder / "cut.mp4"), 0.5)


@pytest.mark.parametrize("make", [not_a_video, text, empty, only_audio, no_frames, no_index])
def test_what_is_no_video_is_reported_in_two_lines(tmp_path: Path, make) -> None:
    with pytest.raises(InputError) as caught:
        VideoReader(make(tmp_path))
    assert caught.value.fact
    assert caught.value.advice
    assert "\n" not in caught.value.fact + caught.value.advice


def test_names_that_look_like_addresses_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = clips.make_clip(tmp_path / "in.mp4", frames=2).rename(tmp_path / "12:30 [x] %03d.mp4")
    translate_video(source.name, "13:00.mp4", same)
    assert clips.read(tmp_path / "13:00.mp4").times == clips.read(source).times


def test_audio_that_the_container_cannot_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mkv", time_base=MS, pts=range(0, 200, 40), audio=["wavpack"])
    with pytest.raises(InputError, match=r"wavpack(.|\n)*out\.mkv"):
        translate_video(source, tmp_path / "out.mp4", same)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
    translate_video(source, tmp_path / "out.mkv", same)
    assert_same_timing(source, tmp_path / "out.mkv")


@pytest.mark.parametrize(
    "name",
    [
        "av1_video.mkv",
        "flower.webm",
        "flower_431x243_yuv444.mp4",
        "flower_rotate90_tag.mp4",
        "flower_vfr.mp4",
        "h264_10bits.mp4",
    ],
)
def test_real_videos(tmp_path: Path, name: str) -> None:
    source = clips.shared_videos() / name
    report = translate_video(source, tmp_path / "out.mp4", same, height=64)
    assert report.complete
    assert_same_timing(source, tmp_path / "out.mp4")
