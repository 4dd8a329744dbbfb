"""Reading video: parts, all kinds of streams, HDR, unusual pixel formats, interlaced video, sequences, addresses."""

import functools
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2  # before av

# isort: split
import av
import clips
import numpy as np
import pytest
import servers
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorTrc

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.video.addresses import NetworkSettings, is_address, name_of, shown
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.sequence_reader import SequenceReader, is_sequence, open_reader, sequence_images
from dsmap.runtime.video.tone_mapping import Tone, hlg_to_light, light_to_pq, pq_to_light, rolled_off

MS = Fraction(1, 1000)
CLOCK = {"time_base": Fraction(1, 90000), "pts": [3003 * index for index in range(40)]}
ASS_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name\nStyle: Default\n\n[Events]\nFormat: Text\n"
)
PATIENCE = NetworkSettings(open_seconds=60, read_seconds=60, tries=3, first_pause=0.05)
QUICK = replace(PATIENCE, open_seconds=5, read_seconds=2)


def frames_of(reader: VideoReader | SequenceReader) -> list[tuple[Fraction, int]]:
    """(seconds, grey level) of every frame."""
    return [(item.pts * reader.time_base, int(item.rgb[24, 32, 0])) for item in reader if isinstance(item, Frame)]


def read(source: str | Path, **options: object) -> tuple[list[tuple[Fraction, int]], dict[int, list[Fraction]]]:
    """Frames as in `frames_of`, and of every copied stream the packets' times."""
    with VideoReader(source, **options) as reader:
        packets: dict[int, list[Fraction]] = {stream.index: [] for stream in reader.copied}
        frames = []
        for item in reader:
            if isinstance(item, Frame):
                frames.append((item.pts * reader.time_base, int(item.rgb[24, 32, 0])))
            else:
                packets[item.stream.index].append(item.pts * item.time_base)
    return frames, packets


# --- parts


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seconds at 30 frames per second with a keyframe every 12, by container."""
    folder = tmp_path_factory.mktemp("sixty")
    made = {}
    for suffix, codec in ((".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9"), (".ts", "libx264")):
        step = {".mp4": 3000, ".mkv": Fraction(100, 3), ".webm": Fraction(100, 3), ".ts": 3000}[suffix]
        made[suffix] = clips.make_clip(
            folder / f"in{suffix}",
            codec=codec,
            time_base=MS if step != 3000 else Fraction(1, 90000),
            pts=[round(index * step) for index in range(60)],
            audio=["libopus" if suffix == ".webm" else "aac"],
            audio_seconds=2.0,
        )
    return made


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts"])
@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [(1, None, None), (0.5, 1.2, None), (Fraction(1, 3), None, 7), (None, 0.7, None), (None, None, 5), (1.9, 9, None)],
)
def test_a_part_is_exact(
    sixty: dict[str, Path], suffix: str, start: float | None, end: float | None, frames: int | None
) -> None:
    whole, sound = read(sixty[suffix])
    first, last = (None if at is None else Fraction(str(at)) for at in (start, end))
    kept = [(at, grey) for at, grey in whole if (first is None or at >= first) and (last is None or at < last)]
    kept = kept[:frames]
    shift = 0 if start is None else kept[0][0]
    part, part_sound = read(sixty[suffix], start=start, end=end, frames=frames)
    assert [at + shift for at, _ in part] == [at for at, _ in kept]
    assert np.abs(np.array([grey for _, grey in part]) - [grey for _, grey in kept]).max() <= 1
    if frames is not None:
        last = kept[-1][0] + Fraction(1, 30)
    times = [at for at in sound[1] if (start is None or at >= shift) and (last is None or at < last)]
    assert [at + shift for at in part_sound[1]] == pytest.approx(times, abs=0.002)
    assert start is None or part[0][0] == 0 <= part_sound[1][0]


def test_a_part_tells_how_many_frames_to_expect(sixty: dict[str, Path]) -> None:
    expected = {}
    for options in ({"start": 1}, {"start": 1, "end": 1.5}, {"frames": 7}, {"end": 99}, {"start": 1.5, "frames": 90}):
        with VideoReader(sixty[".mp4"], **options) as reader:
            assert abs((reader.expected_frames or 0) - len(frames_of(reader))) <= 1
            expected[str(options)] = reader.counts_exactly
    assert list(expected.values()) == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": -1}, "--start is -1"),
        ({"start": 2, "end": 2}, r"--end \(2 s\) is not after --start \(2 s\)"),
        ({"frames": 0}, "--frames is 0"),
        ({"start": float("nan")}, "nan is not a valid time"),
        ({"start": 50}, r"no frame at or after --start 50 s; it ends at 2\.0"),
    ],
)
def test_parts_that_hold_nothing_are_refused(sixty: dict[str, Path], options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        VideoReader(sixty[".mkv"], **options)


def test_a_rate_that_no_video_has_is_not_counted_with(tmp_path: Path) -> None:
    """libav averages 30000 for a Matroska whose header has no rate."""
    clip, copy = clips.make_clip(tmp_path / "a.mp4", frames=48), tmp_path / "a.mkv"
    with av.open(str(clip)) as source, av.open(str(copy), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with VideoReader(copy) as reader:
        assert reader.video_stream.average_rate > 240
        assert abs((reader.expected_frames or 0) - 48) <= 1
        assert reader.rate == Fraction(30000, 1001)


def test_a_recording_that_cannot_seek_is_decoded_from_the_beginning(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "raw.h264", frames=40)  # no container: no times to seek by
    with VideoReader(source) as reader:
        whole = frames_of(reader)
    part, _ = read(source, start=whole[20][0], frames=3)
    assert [grey for _, grey in part] == [grey for _, grey in whole[20:23]]


# --- all kinds of streams


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mkv with two languages, subtitles, a font, chapters, a title."""
    path = tmp_path_factory.mktemp("rich") / "rich.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=30, options={"g": "10"})
        video.width, video.height = 64, 48
        tones = [clips._add_tone(out, "aac", 440), clips._add_tone(out, "aac", 660)]
        words = out.add_stream("subrip")
        words.metadata["language"] = "deu"
        words.codec_context.subtitle_header = ASS_HEADER
        words.time_base = MS
        out.add_attachment("a.ttf", "font/ttf", b"letters")
        out.metadata["title"] = "Highway"
        out.set_chapters(
            [
                {"id": 1, "start": 0, "end": 1000, "time_base": MS, "metadata": {"title": "one"}},
                {"id": 2, "start": 1000, "end": 2000, "time_base": MS, "metadata": {"title": "two"}},
            ]
        )
        for number, (at, text) in enumerate([(100, b"early"), (900, b"across"), (1800, b"late")]):
            packet = av.Packet(text)
            packet.stream, packet.time_base = words, MS
            packet.pts = packet.dts = at
            packet.duration = (200, 500, 150)[number]
            out.mux(packet)
        for stream, pitch in tones:
            clips._write_tone(out, stream, pitch, 2.0, 0)
        for index in range(60):
            frame = clips.plain_frame((64, 48), (clips.grey(index),) * 3, "yuv420p", 6, 1)
            frame.pts, frame.time_base = index, Fraction(1, 30)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def test_all_that_can_be_copied_is_given_out(rich: Path) -> None:
    with VideoReader(rich) as reader:
        assert [stream.type for stream in reader.copied] == ["audio", "audio", "subtitle", "attachment"]
        assert reader.left_out == ()
        assert reader.metadata["title"] == "Highway"
        assert [(c["start"] * c["time_base"], c["metadata"]["title"]) for c in reader.chapters] == [
            (0, "one"),
            (1, "two"),
        ]
        items = [item for item in reader if not isinstance(item, Frame)]
        texts = [(item.pts * item.time_base, bytes(item)) for item in items if item.stream.type == "subtitle"]
        carried = {item.stream.index for item in items}
    assert carried == {1, 2, 3}
    assert texts == [(Fraction(1, 10), b"early"), (Fraction(9, 10), b"across"), (Fraction(18, 10), b"late")]


def test_subtitles_and_chapters_are_cut_to_a_part(rich: Path) -> None:
    with VideoReader(rich, start=0.5, end=1.2) as reader:
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["id"]) for c in reader.chapters]
        subtitles = [
            (item.pts * item.time_base, item.duration * item.time_base, bytes(item))
            for item in reader
            if not isinstance(item, Frame) and item.stream.type == "subtitle"
        ]
    assert subtitles == [(Fraction(2, 5), Fraction(3, 10), b"across")]
    assert chapters == [(0, Fraction(1, 2), 1), (Fraction(1, 2), Fraction(7, 10), 2)]


def test_a_second_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        videos = [out.add_stream("libx264", rate=30) for _ in range(2)]
        for video in videos:
            video.width, video.height = 64, 48
        for video, index in itertools.product(videos, range(5)):
            frame = clips.plain_frame((64, 48), (90,) * 3, "yuv420p", 6, 1)
            frame.pts, frame.time_base = index, Fraction(1, 30)
            out.mux(video.encode(frame))
        for video in videos:
            out.mux(video.encode(None))
    with VideoReader(path) as reader:
        assert (reader.left_out, reader.copied) == (
            ("video stream 1 (64x48): stream 0 is the one that is translated",),
            (),
        )
        assert len(frames_of(reader)) == 5


@pytest.mark.parametrize("part", [{}, {"start": 0.5}])
def test_a_cover_is_given_out_as_one_packet(tmp_path: Path, part: dict) -> None:
    path = tmp_path / "cover.mp4"
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    data = bytes(cv2.imencode(".png", image)[1])
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=30)
        video.width, video.height = 64, 48
        cover = out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 30, 20, "rgb24"
        cover.disposition = Disposition.attached_pic
        out.start_encoding()
        packet = av.Packet(data)
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        out.mux(packet)
        for index in range(30):
            frame = clips.plain_frame((64, 48), (clips.grey(index),) * 3, "yuv420p", 6, 1)
            frame.pts, frame.time_base = index, Fraction(1, 30)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with VideoReader(path, **part) as reader:
        assert [stream.type for stream in reader.copied] == ["video"]
        assert reader.left_out == ()
        covers = [bytes(item) for item in reader if not isinstance(item, Frame)]
    assert covers == [data]


# --- tone


def patch(code: list[float], pix_fmt: str, *, trc: int, primaries: int = 9) -> np.ndarray:
    """The RGB result of R'G'B' `code` (0..1) in BT.2020, limited-range 10 bits."""
    kr, kb = 0.2627, 0.0593
    red, green, blue = code
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    values = [64 + 876 * luma, 512 + 896 * (blue - luma) / (2 * (1 - kb)), 512 + 896 * (red - luma) / (2 * (1 - kr))]
    frame = av.VideoFrame(64, 32, pix_fmt)
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // 2, round(value), np.uint16).tobytes())
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 9, primaries, trc, clips.MPEG
    return to_rgb(trc, primaries)(frame)[16, 32].astype(int)


@functools.cache
def to_rgb(trc: int, primaries: int) -> FrameToRgb:
    """One for each kind: it keeps its table."""
    return FrameToRgb(64, 32, Orientation())


def in_2020(rgb_709: list[int]) -> np.ndarray:
    """Light of an SDR colour shown as BT.2408 says, cd/m2, in BT.2020."""
    to_2020 = np.linalg.inv(
        np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
    )
    return to_2020 @ (203 * (np.array(rgb_709) / 255) ** 2.4)


SDR = [[16] * 3, [64] * 3, [128] * 3, [200] * 3, [226] * 3, [200, 60, 50], [40, 160, 60], [50, 70, 200], [210, 190, 40]]


@pytest.mark.parametrize("rgb", SDR, ids=str)
def test_sdr_colours_in_hdr_keep_their_tone(rgb: list[int]) -> None:
    got = patch(list(light_to_pq(in_2020(rgb))), "yuv420p10le", trc=ColorTrc.SMPTE2084)
    assert np.abs(got - rgb).max() <= 4


def test_highlights_stay_apart_up_to_the_peak() -> None:
    def grey(light: float) -> int:
        return int(patch([float(light_to_pq(np.array(light)))] * 3, "yuv420p10le", trc=ColorTrc.SMPTE2084)[0])

    levels = [grey(light) for light in (100, 203, 300, 400, 600, 1000)]
    assert levels == sorted(set(levels)), levels
    assert 240 <= levels[1] < 250
    assert levels[-1] >= 254


def test_a_bright_colour_keeps_its_hue() -> None:
    light = in_2020([255, 140, 30]) * 3  # 600 cd/m2 at the most
    red, green, blue = patch(list(light_to_pq(light)), "yuv420p10le", trc=ColorTrc.SMPTE2084)
    assert red >= 250
    assert abs(green - 140) <= 6
    assert abs(blue - 30) <= 8


def test_hlg_has_its_reference_white_below_the_top() -> None:
    assert np.allclose(hlg_to_light(np.array([0.75] * 3)), 203, atol=1)  # BT.2408
    levels = [int(patch([code] * 3, "yuv422p10le", trc=ColorTrc.ARIB_STD_B67)[0]) for code in (0.3, 0.5, 0.75, 0.9, 1)]
    assert levels == sorted(set(levels))
    assert abs(levels[1] - 255 * (hlg_to_light(np.array([0.5] * 3))[0] / 203) ** (1 / 2.4)) <= 2


def test_the_curves_are_those_of_the_standards() -> None:
    assert np.allclose(pq_to_light(np.array([0.5081, 0.5807, 0.7518])), [100, 203, 1000], rtol=0.01)
    assert np.allclose(pq_to_light(light_to_pq(np.array([0.01, 1, 4000]))), [0.01, 1, 4000])
    ramp = rolled_off(np.linspace(0, 1000 / 203, 2000), 1000 / 203)
    assert (np.diff(ramp) > 0).all()
    assert ramp[-1] == pytest.approx(1)


def test_wide_gamuts_in_sdr_are_brought_to_bt709() -> None:
    light = in_2020([200, 60, 50]) / 203
    got = patch(list(light ** (1 / 2.4)), "yuv420p10le", trc=ColorTrc.BT2020_10)
    assert np.abs(got - [200, 60, 50]).max() <= 3
    red = Tone(primaries=ColorPrimaries.SMPTE432).to_sdr(np.array([1.0, 0, 0]))
    assert red[0] > 0.95  # outside BT.709: drawn towards grey, and no channel is negative
    assert red[1:] == pytest.approx(red[2], abs=0.3)


NOTES = {
    "yuv420p": ({}, ()),
    "yuv420p10le": ({}, ("10-bit input: the result has 8 bits",)),
    "pq": (
        {"trc": 16, "primaries": 9, "colourspace": 9, "pix_fmt": "yuv420p10le"},
        ("10-bit input: the result has 8 bits", "HDR (PQ, BT.2020): tone-mapped to SDR"),
    ),
    "hlg": ({"trc": 18, "primaries": 9, "colourspace": 9}, ("HDR (HLG, BT.2020): tone-mapped to SDR",)),
    "wide": ({"primaries": 9, "colourspace": 9}, ("wide gamut (BT.2020): converted to BT.709",)),
}


@pytest.mark.parametrize("what", NOTES)
def test_notes_say_what_the_user_should_know(tmp_path: Path, what: str) -> None:
    options, expected = NOTES[what]
    options = {"pix_fmt": what} | options if what.startswith("yuv") else options
    with VideoReader(clips.make_clip(tmp_path / "in.mp4", frames=2, **options)) as reader:
        assert reader.notes == expected


@pytest.mark.parametrize(("codec", "pix_fmt"), [("ffv1", "yuva420p"), ("qtrle", "argb"), ("png", "rgba")])
def test_alpha_is_ignored_and_said(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    path = tmp_path / "in.mkv" if codec == "ffv1" else tmp_path / "in.mov"
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, pix_fmt
        rgba = np.full((48, 64, 4), (200, 60, 50, 10), np.uint8)
        out.mux(video.encode(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix_fmt)))
        out.mux(video.encode(None))
    with VideoReader(path) as reader:
        assert reader.notes == ("alpha is ignored",)
        frame = next(item for item in reader if isinstance(item, Frame))
    assert np.abs(frame.rgb[24, 32].astype(int) - (200, 60, 50)).max() <= 3


def test_interlaced_video_is_flagged_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme"})
        video.width, video.height = 64, 48
        for index in range(5):
            frame = clips.plain_frame((64, 48), (clips.grey(index),) * 3, "yuv420p", 6, 1)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with VideoReader(path) as reader:
        assert [note for note in reader.notes if note.startswith("interlaced")], reader.notes
        assert all(note.endswith("not deinterlaced (see --deinterlace)") for note in reader.notes)
        assert len(frames_of(reader)) == 5


# --- odd pixels


def flat(pix_fmt: str, values: list[int], kind: type = np.uint8, *, size: tuple[int, int] = (64, 32)) -> av.VideoFrame:
    frame = av.VideoFrame(*size, pix_fmt)
    for plane, value in zip(frame.planes, values, strict=False):
        count = plane.buffer_size // np.dtype(kind).itemsize
        plane.update(np.resize(np.atleast_1d(np.asarray(value, kind)), count).tobytes())
    frame.color_range = clips.MPEG if pix_fmt.startswith(("yu", "nv", "p0")) else clips.JPEG
    frame.colorspace = 6 if frame.color_range == clips.MPEG else 2
    return frame


Y8, Y10, Y12 = (clips.yuv((200, 60, 50), 6, clips.MPEG, bits) for bits in (8, 10, 12))
PIXELS = {
    "yuv440p": (flat, Y8),
    "yuv411p": (flat, Y8),
    "yuv444p": (flat, Y8),
    "yuva444p": (flat, [*Y8, 7]),
    "yuv422p10le": (flat, Y10, np.uint16),
    "yuv444p12le": (flat, Y12, np.uint16),
    "nv12": (flat, [Y8[0], Y8[1:]]),
    "p010le": (flat, [Y10[0] << 6, [Y10[1] << 6, Y10[2] << 6]], np.uint16),
    "yuyv422": (flat, [[Y8[0], Y8[1], Y8[0], Y8[2]]]),
    "gbrp": (flat, [60, 50, 200]),
    "gbrp12le": (flat, [60 * 4095 // 255, 50 * 4095 // 255, 200 * 4095 // 255], np.uint16),
    "rgb48le": (flat, [[200 * 257, 60 * 257, 50 * 257]], np.uint16),
    "bgra": (flat, [[50, 60, 200, 3]]),
}


@pytest.mark.parametrize("pix_fmt", PIXELS)
def test_odd_pixel_formats_have_the_right_colours(pix_fmt: str) -> None:
    make, values, *kind = PIXELS[pix_fmt]
    rgb = FrameToRgb(64, 32, Orientation())(make(pix_fmt, values, *kind))
    assert np.abs(rgb.astype(int) - (200, 60, 50)).max() <= 2


@pytest.mark.parametrize(("pix_fmt", "top"), [("gray", 255), ("gray10le", 1023), ("gray16le", 65535)])
def test_grey_video(pix_fmt: str, top: int) -> None:
    kind = np.uint8 if top == 255 else np.uint16
    assert FrameToRgb(64, 32, Orientation())(flat(pix_fmt, [top * 3 // 5], kind))[16, 32].tolist() == [153] * 3
    limited = flat(pix_fmt, [round((16 + 219 * 0.6) / 255 * top)], kind)
    limited.color_range = clips.MPEG
    assert np.abs(FrameToRgb(64, 32, Orientation())(limited)[16, 32].astype(int) - 153).max() <= 1


def test_a_palette(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = (200, 60, 50), (20, 100, 220)
    path = tmp_path / "in.gif"
    with av.open(str(path), "w") as out:
        video = out.add_stream("gif", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "rgb8"
        out.mux(video.encode(av.VideoFrame.from_ndarray(image).reformat(format="rgb8")))
        out.mux(video.encode(None))
    with VideoReader(path) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
    halves = [frame.rgb[:, :32].mean(axis=(0, 1)), frame.rgb[:, 32:].mean(axis=(0, 1))]
    assert np.abs(np.array(halves) - [(200, 60, 50), (20, 100, 220)]).max() < 20  # by 8 reds and greens, 4 blues


@pytest.mark.parametrize(("pix_fmt", "low", "high", "full"), [("yuv420p10le", 64, 940, 1), ("yuv420p10le", 0, 1023, 2)])
def test_ten_bits_are_rounded_without_a_bias(pix_fmt: str, low: int, high: int, full: int) -> None:
    codes = np.arange(low, high + 1 - (high + 1 - low) % 2)
    frame = av.VideoFrame(len(codes), 16, pix_fmt)
    for index, plane in enumerate(frame.planes):
        values = np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)
        values[:] = 512
        if index == 0:
            values[:, : len(codes)] = codes
    frame.colorspace, frame.color_range = 1, full
    error = FrameToRgb(len(codes), 16, Orientation())(frame) - ((codes - low) * 255 / (high - low))[None, :, None]
    assert abs(error.mean()) < 0.02
    assert np.abs(error).max() < 0.6


def test_pixels_that_nothing_can_convert_are_reported() -> None:
    with pytest.raises(InputError, match="yaf32le"):
        FrameToRgb(64, 32, Orientation())(av.VideoFrame(64, 32, "yaf32le"))


def test_frames_come_in_the_arrays_of_a_pool(tmp_path: Path) -> None:
    class Pool:
        def __init__(self) -> None:
            self.given: list[np.ndarray] = []

        def take(self, shape: tuple[int, ...]) -> np.ndarray:
            self.given.append(np.empty(shape, np.uint8))
            return self.given[-1]

    for turn in (0, 90):
        pool = Pool()
        source = clips.make_clip(tmp_path / f"{turn}.mp4", frames=3, rotation=turn)
        with VideoReader(source) as plain, VideoReader(source, pool=pool) as pooled:
            ours = [item.rgb for item in pooled if isinstance(item, Frame)]
            theirs = [item.rgb for item in plain if isinstance(item, Frame)]
        assert all(ours[i] is pool.given[i] for i in range(3))
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- sequences


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index in (1, 2, 3, 10, 11):
        write_rgb(tmp_path / f"f{index}.png", np.full((48, 64, 3), index * 10, np.uint8))
    return tmp_path


@pytest.mark.parametrize("pattern", ["f%d.png", "f*.png"])
def test_numbered_images_are_a_video(images: Path, pattern: str) -> None:
    assert is_sequence(images / pattern)
    with open_reader(images / pattern, rate=Fraction(30000, 1001)) as reader:
        assert (reader.width, reader.height, reader.expected_frames, reader.counts_exactly) == (64, 48, 5, True)
        assert reader.notes == (
            "6 numbers are missing between the images, the first after 3: they follow without a pause",
        )
        tick = Fraction(1001, 30000)
        assert frames_of(reader) == [(index * tick, grey) for index, grey in enumerate((10, 20, 30, 100, 110))]


def test_parts_and_heights_of_a_sequence(images: Path) -> None:
    with SequenceReader(images / "f*.png", rate=10, start=0.1, end=0.4, height=24) as reader:
        assert [item.rgb.shape for item in reader] == [(24, 32, 3)] * 3
    with SequenceReader(images / "f*.png", rate=10, start=0.1, frames=2) as reader:
        assert frames_of(reader) == [(Fraction(0), 20), (Fraction(1, 10), 30)]
    with pytest.raises(InputError, match=r"lasts 0\.5 s"):
        SequenceReader(images / "f*.png", rate=10, start=3)


def test_an_image_of_another_size_is_named_before_any_work(images: Path) -> None:
    write_rgb(images / "f5.png", np.zeros((48, 80, 3), np.uint8))
    with pytest.raises(InputError, match=r"f5\.png is 80x48, but the first image is 64x48"):
        open_reader(images / "f*.png")
    write_rgb(images / "f5.png", np.zeros((64, 48, 3), np.uint8))  # by its header it could be turned
    with open_reader(images / "f*.png") as reader, pytest.raises(InputError, match=r"f5\.png is 48x64"):
        list(reader)


def test_a_broken_image_is_left_out_and_counted(images: Path) -> None:
    (images / "f2.png").write_bytes((images / "f2.png").read_bytes()[:60])
    with open_reader(images / "f*.png", rate=10) as reader:
        assert [at for at, _ in frames_of(reader)] == [0, Fraction(2, 10), Fraction(3, 10), Fraction(4, 10)]
        assert reader.failed_packets == 1


def test_what_is_a_sequence_and_what_is_not(images: Path) -> None:
    clip = clips.make_clip(images / "in.mp4", frames=2).rename(images / "x %03d [1].png")
    assert not is_sequence(clip)
    assert not is_sequence("http://host/%05d.png")
    assert not is_sequence(images)
    assert not is_sequence("frames/*.mp4")
    assert is_sequence("frames/%05d.png")
    with pytest.raises(InputError, match="matches no image"):
        open_reader(images / "none%d.png")
    assert [path.name for path in sequence_images(images / "f%02d.png")] == ["f10.png", "f11.png"]


# --- files that lead elsewhere


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n"),
        ("video.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile secret.ts\n"),
        ("video.mkv", "ffconcat version 1.0\nfile secret.ts\n"),
        ("cam.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n"),
        ("list.idx", "# VobSub index file, v7 (do not modify this line!)\n"),
        ("list.mpd", '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'),
    ],
)
def test_a_file_cannot_name_other_files_or_addresses(tmp_path: Path, name: str, text: str) -> None:
    clips.make_clip(tmp_path / "secret.ts", frames=3, time_base=Fraction(1, 90000))
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="is a playlist"):
        VideoReader(tmp_path / name)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="a pipe or a device"):
        VideoReader(tmp_path / "pipe.mp4")


# --- addresses


@pytest.fixture
def web(tmp_path: Path) -> Iterator[servers.Web]:
    server = servers.Web(tmp_path)
    yield server
    server.close()


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], bytes]:
    """MPEG-TS of 40 frames whose clock begins at the given second."""
    folder = tmp_path_factory.mktemp("stream")

    def make(start: float) -> bytes:
        path = folder / f"{start}.ts"
        pts = [round(start * 90000) + 3003 * index for index in range(40)]
        size = {"size": (160, 120), "time_base": Fraction(1, 90000)}
        return clips.make_clip(path, pts=pts, audio=["aac"], audio_start=start, **size).read_bytes()

    return make


@pytest.mark.parametrize("name", ["end.mp4", "front.mp4", "in.ts", "list.m3u8"])
def test_http_gives_what_the_file_gives(tmp_path: Path, web: servers.Web, name: str) -> None:
    options = {"movflags": "+faststart"} if name == "front.mp4" else {}
    file = tmp_path / ("in.ts" if name == "list.m3u8" else name)
    clips.make_clip(file, size=(160, 120), audio=["aac"], container_options=options, **CLOCK)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.3,\nin.ts\n#EXT-X-ENDLIST\n")
    assert read(f"{web.address}/{name}", network=PATIENCE) == read(file)


def test_a_playlist_from_the_network_reads_no_local_file(tmp_path: Path, web: servers.Web) -> None:
    clips.make_clip(tmp_path / "in.ts", **CLOCK)
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.3,\nfile://{tmp_path}/in.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(InputError, match="cannot be opened"):
        VideoReader(f"{web.address}/list.m3u8", network=PATIENCE)


@pytest.mark.parametrize(("refused", "kind"), [(0, "audio"), (5, "audio"), (5, "video")])
def test_a_download_that_breaks_off_goes_on_where_it_was(
    tmp_path: Path, web: servers.Web, refused: int, kind: str
) -> None:
    """In the middle of a packet: what there is of it is thrown away."""
    # Noise: a file that is larger than what is read ahead.
    noise = np.random.default_rng(0).integers(0, 256, (40, 3))
    colours = [tuple(int(value) for value in colour) for colour in noise]
    options = {"colours": colours, "container_options": {"movflags": "+faststart"}}
    file = clips.make_clip(tmp_path / "in.mp4", size=(320, 240), audio=["aac"], **options, **CLOCK)
    with av.open(str(file)) as container:
        packets = [packet for packet in container.demux() if packet.size and packet.stream.type == kind]
    cut = packets[len(packets) * 2 // 3]
    web.cut_at, web.cuts, web.refused = cut.pos + cut.size * 3 // 4, 1, refused
    lines: list[str] = []
    settings = QUICK if refused else PATIENCE
    with VideoReader(f"{web.address}/in.mp4", network=settings, notify=lines.append) as reader:
        frames = frames_of(reader)
        assert (reader.failed_packets, reader.missing_frames, reader.broken_off) == (0, 0, None)
        # FFmpeg itself retries at first; when that fails too, we do.
        assert (reader.reconnections > 0) == (refused > 0) == bool(lines)
    with VideoReader(file) as reader:
        assert frames == frames_of(reader)


def test_a_live_stream_is_connected_again_and_time_goes_on(stream: Callable[[float], bytes]) -> None:
    parts = [stream(1.0), stream(4.0), stream(1.0)]  # a clock that continues, and one that restarts

    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(parts[number] if number < 3 else b"")

    lines: list[str] = []
    with servers.connections(serve) as port:
        address = f"tcp://127.0.0.1:{port}"
        with VideoReader(address, network=PATIENCE, notify=lines.append) as reader:
            items = list(reader)
            times = [float(item.pts * reader.time_base) for item in items if isinstance(item, Frame)]
            sound = [float(item.pts * item.time_base) for item in items if not isinstance(item, Frame)]
            assert reader.reconnections == 2
            assert reader.broken_off is not None
            assert "did not come back in 3 tries" in reader.broken_off.fact
    assert len(times) == 120
    assert times == sorted(set(times))
    assert sound == sorted(set(sound))
    assert times[40] - times[39] == pytest.approx(3 - 39 * 3003 / 90000, abs=0.01)  # the gap is kept
    assert 0 < times[80] - times[79] < 2
    assert lines[:2] == [f"{address} broke off: trying again in 0.05 s (1 of 3)", f"{address} is connected again"]


def test_a_camera_by_rtsp(stream: Callable[[float], bytes]) -> None:
    data = stream(0.0)

    def serve(connection: socket.socket, number: int) -> None:
        if number < 2:
            servers.serve_rtsp(connection, data, pause=0.002)

    with servers.connections(serve) as port:
        address = f"rtsp://user:secret@127.0.0.1:{port}/cam"
        with VideoReader(address, network=PATIENCE) as reader:
            times = [at for at, _ in frames_of(reader)]
            assert reader.reconnections == 1
            assert "secret" not in str(reader.broken_off) + reader.name + str(reader.metadata)
    assert len(times) > 70
    assert times == sorted(set(times))


def test_a_reader_that_waits_can_be_stopped_at_once(stream: Callable[[float], bytes]) -> None:
    data, hold = stream(0.0), threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(data)
        hold.wait(120)

    with servers.connections(serve) as port:
        settings = NetworkSettings(open_seconds=60, read_seconds=120)
        with VideoReader(f"tcp://127.0.0.1:{port}", network=settings) as reader:
            begin, frames = time.monotonic(), 0
            for item in reader:
                frames += isinstance(item, Frame)
                if isinstance(item, Frame) and frames == 20:
                    threading.Timer(0.2, reader.cancel).start()
            assert frames >= 20
            assert reader.broken_off is None
        assert time.monotonic() - begin < 60  # far below the 120 s that it would wait
        hold.set()


def test_addresses_that_do_not_answer_are_reported_without_their_secrets(tmp_path: Path, web: servers.Web) -> None:
    quick = NetworkSettings(open_seconds=0.5, read_seconds=0.5)
    web.password = "user:word"
    clips.make_clip(tmp_path / "in.mp4", frames=2)
    host = web.address.removeprefix("http://")
    with servers.silent() as port:
        told = {}
        for address in (
            f"http://user:secret@127.0.0.1:{port}/a.mp4?key=secret",
            f"rtsp://user:secret@127.0.0.1:{port}/a?key=secret",
            "rtsp://user:secret@127.0.0.1:9/a",
            f"http://user:secret@{host}/none.mp4?key=secret",
            f"http://{host}/in.mp4?key=secret",
            "gopher://user:secret@host/a",
        ):
            with pytest.raises(DsmapError) as caught:
                VideoReader(address, network=quick)
            told[address.partition(":")[0]] = caught.value.fact
            assert "secret" not in str(caught.value)
            chain = caught.value.__cause__
            assert chain is None
    assert "does not answer" in told["rtsp"] or "refused" in told["rtsp"]
    assert "user name and a password" in told["http"]
    assert "gopher is not a supported kind of address" in told["gopher"]


def test_names_of_addresses() -> None:
    assert is_address("rtsp://cam/1")
    assert not is_address(Path("rtsp:/cam/1"))
    assert not is_address("12:30.mp4")
    assert not is_address("C:\\video.mp4")
    assert shown("https://me:word@host:81/a/b.mp4?token=1") == "https://host:81/a/b.mp4?..."
    assert [name_of(one) for one in ("http://h/a/b%20c.mp4?x=1", "rtsp://me:w@cam:554", "http://h/")] == [
        "b-c",
        "cam",
        "h",
    ]
