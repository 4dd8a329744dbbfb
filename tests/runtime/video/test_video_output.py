"""Writing video: codecs, containers, copied streams, image sequences, and jobs resumed from a journal."""

import contextlib
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2  # before av

# isort: split
import av
import av.logging
import clips
import numpy as np
import pytest
from av.stream import Disposition
from av.subtitles.subtitle import SubtitleSet
from av.video.reformatter import Interpolation

from dsmap.common.images import read_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.packet_journal import PacketJournal
from dsmap.runtime.video import encoders
from dsmap.runtime.video.containers import check_container
from dsmap.runtime.video.copy_plan import plan_copies
from dsmap.runtime.video.encoder_table import CODECS
from dsmap.runtime.video.encoders import EncoderSettings, default_suffix, resolve, working_codecs
from dsmap.runtime.video.held_packets import HeldPackets
from dsmap.runtime.video.sequence_writer import check_sequence, is_sequence, open_writer
from dsmap.runtime.video.writer import VideoWriter

COLOURS = [(40, 200, 60), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (250, 20, 90)]
SIZE = (64, 48)
TICK = Fraction(1, 30000)
CONTAINERS = [
    ("auto", ".mp4", "h264", "avc1"),
    ("auto", ".webm", "vp9", ""),
    ("h264", ".mkv", "h264", ""),
    ("hevc", ".mp4", "hevc", "hvc1"),
    ("hevc", ".mkv", "hevc", ""),
    ("hevc", ".mov", "hevc", "hvc1"),
    ("av1", ".mp4", "libdav1d", "av01"),
    ("av1", ".webm", "libdav1d", ""),
    ("vp9", ".mp4", "vp9", "vp09"),
    ("prores", ".mov", "prores", "apch"),
    ("prores", ".mkv", "prores", "apch"),
    ("lossless", ".mkv", "ffv1", ""),
    ("lossless", ".m4v", "h264", "avc1"),
    ("raw", ".mkv", "rawvideo", "I420"),
]


def writer(path: Path, codec: str = "auto", **options) -> VideoWriter:
    given = {"width": SIZE[0], "height": SIZE[1], "time_base": TICK, "rate": Fraction(30)}
    return VideoWriter(path, encoding=EncoderSettings(codec=codec), **(given | options))


def moving_image(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A busy image that moves: predicted from its neighbours by any encoder."""
    base = np.random.default_rng(7).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(np.roll(base, index, 1), size, interpolation=cv2.INTER_CUBIC)


def times(count: int, *, variable: bool = False) -> list[int]:
    return [index * index * 37 for index in range(count)] if variable else [index * 1001 for index in range(count)]


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def rgb(frame: av.VideoFrame) -> np.ndarray:
    rounded = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return frame.to_ndarray(format="rgb24", interpolation=rounded)


@pytest.mark.parametrize(("codec", "suffix", "name", "tag"), CONTAINERS)
def test_colours_tags_and_times_of_every_codec(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], codec: str, suffix: str, name: str, tag: str
) -> None:
    path, clock = tmp_path / f"out{suffix}", Fraction(1, 1000)
    out = writer(path, codec, time_base=clock)
    pts = [index * 40 + index % 3 for index in range(len(COLOURS))]
    for colour, time in zip(COLOURS, pts, strict=True):
        out.write(np.full((48, 64, 3), colour, np.uint8), time, 40)
    out.close()
    assert capfd.readouterr() == ("", "")  # encoders like to log
    frames = decoded(path)
    assert [frame.pts * frame.time_base for frame in frames] == [time * clock for time in pts]
    seen = np.array([rgb(frame)[24, 32] for frame in frames], int)
    assert np.abs(seen - COLOURS).max() <= (0 if codec == "lossless" else 2)
    expected = (0, 1, 1, clips.JPEG) if codec == "lossless" else (1, 1, 1, clips.MPEG)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.codec_tag.strip("\0")) == (name, tag)
        for of in (context, *frames):
            got = (of.colorspace, of.color_primaries, of.color_trc, of.color_range)
            assert tuple(map(int, got)) == expected
        assert abs(container.duration - (pts[-1] + 40) * 1000) <= 1000  # the last frame's length is known


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_lossless_gives_every_value_back(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, size[1], size[0], 3), np.uint8)
    out = writer(tmp_path / f"out{suffix}", "lossless", width=size[0], height=size[1])
    for index, frame in enumerate(noise):
        out.write(frame, index)
    out.close()
    assert np.array_equal([frame.to_ndarray(format="rgb24") for frame in decoded(tmp_path / f"out{suffix}")], noise)


@pytest.mark.parametrize(("codec", "size"), [("h264", (64, 48)), ("prores", (64, 47)), ("vp9", (64, 48))])
def test_odd_sizes_are_padded_only_where_colour_is_shared(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"out{default_suffix(codec)}"
    out = writer(path, codec, width=63, height=47)
    out.write(np.full((47, 63, 3), 90, np.uint8), 0)
    out.close()
    (frame,) = decoded(path)
    assert (frame.width, frame.height) == size
    assert np.abs(rgb(frame).astype(int) - 90).max() <= 2


@pytest.mark.parametrize(("codec", "suffix"), [("h264", ".mp4"), ("hevc", ".mkv"), ("av1", ".webm"), ("vp9", ".webm")])
def test_the_same_frames_give_the_same_file(tmp_path: Path, codec: str, suffix: str) -> None:
    for name in "ab":
        out = writer(tmp_path / f"{name}{suffix}", codec)
        for index in range(12):
            out.write(moving_image(index), index * 1001, 1001)
        out.close()
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_quality_and_preset_reach_the_encoder(tmp_path: Path) -> None:
    sizes = []
    for crf, preset in ((10, None), (40, None), (40, "slow")):
        path = tmp_path / f"{crf}{preset}.mp4"
        out = VideoWriter(
            path,
            width=SIZE[0],
            height=SIZE[1],
            time_base=TICK,
            rate=Fraction(30),
            encoding=EncoderSettings(codec="h264", crf=crf, preset=preset),
        )
        for index in range(8):
            out.write(moving_image(index), index * 1001)
        out.close()
        sizes.append(path.stat().st_size)
    assert sizes[0] > 2 * sizes[1]
    assert sizes[1] != sizes[2]


@pytest.mark.parametrize(
    ("settings", "suffix", "words"),
    [
        ({"codec": "prores"}, ".mp4", [".mp4 files cannot hold ProRes", ".mov", "h264, hevc"]),
        ({"codec": "hevc"}, ".webm", [".webm files cannot hold H.265", "av1, av1-10, vp9"]),
        ({"codec": "av1"}, ".mov", [".mov files cannot hold AV1", ".mp4"]),
        ({"codec": "prores", "crf": 20}, ".mov", ["takes no CRF (got 20)", "proxy, lt, standard, hq"]),
        ({"codec": "lossless", "crf": 20}, ".mkv", ["takes no CRF", "leave out --crf"]),
        ({"codec": "lossless", "preset": "slow"}, ".mkv", ["has no presets"]),
        ({"crf": 0}, ".mp4", ["--crf 0 is outside", "1 (best) to 51", "--codec lossless"]),
        ({"codec": "av1", "crf": 64}, ".mp4", ["--crf 64", "to 63"]),
        ({"codec": "av1", "preset": "veryfast"}, ".mp4", ["no preset 'veryfast'", "12, 13", "default: 10"]),
        ({"preset": "placebo"}, ".mp4", ["no preset 'placebo'", "veryfast"]),
        ({"codec": "xvid"}, ".mp4", ["unknown codec 'xvid'", ", ".join(("auto", *CODECS))]),
    ],
)
def test_what_does_not_fit_is_reported_with_the_choice(settings: dict, suffix: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        resolve(EncoderSettings(**settings), suffix)
    told = f"{caught.value.fact} {caught.value.advice}"
    assert all(word in told for word in words), told


def test_an_encoder_that_does_not_open_is_refused_with_the_reason_and_never_replaced() -> None:
    for codec in (codec for codec in CODECS if codec.endswith("_nvenc")):
        if codec in working_codecs():
            assert resolve(EncoderSettings(codec=codec), ".mp4").library == codec
            continue
        with pytest.raises(InputError) as caught:
            resolve(EncoderSettings(codec=codec), ".mp4")
        fact, _, reason = caught.value.fact.partition(" on this machine: ")
        assert fact == f"--codec {codec} does not work"
        assert re.search("cuda|driver|nvenc|encoder|device", reason, re.IGNORECASE)  # from libav's log, not its code
        assert "h264, hevc, hevc10, av1" in caught.value.advice
        assert codec not in caught.value.advice


def test_python_never_listens_to_libavs_log_beside_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder's thread that logs would wait for the interpreter, and the interpreter for the thread at its end."""
    monkeypatch.setattr(av.logging, "set_level", lambda level: pytest.fail(f"set_level({level})"))
    encoders._failure_now.cache_clear()
    monkeypatch.setattr(encoders, "_opened", set())
    for codec in CODECS:
        with contextlib.suppress(InputError):
            resolve(EncoderSettings(codec=codec), default_suffix(codec))


@pytest.mark.parametrize(("codec", "size"), [("hevc", (8, 8)), ("av1", (2, 2))])
def test_a_size_that_the_codec_does_not_take_is_reported(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"cannot encode frames of {size[0]}x{size[1]}"):
        writer(tmp_path / "out.mp4", codec, width=size[0], height=size[1])
    assert list(tmp_path.iterdir()) == []


# Streams that are copied.

ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
LINES = [(100, 200, "Hello"), (400, 300, "two\\Nlines"), (400, 200, "together"), (900, 500, "{\\i1}last{\\i0}")]
CHAPTERS = [("One", 0, 400), ("Zwei ü", 400, 1000)]
FONT = bytes(range(256))


def rich_clip(path: Path, texts: Sequence[str], *, audio: str, codec: str = "libx264", font: bool = False) -> Path:
    """One second with a tone, subtitles, chapters, and a font if asked for."""
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=25)
        video.width, video.height = SIZE
        tone = clips._add_tone(out, audio, 440) if audio else None
        if tone:
            tone[0].metadata["language"] = "deu"
        subtitles = []
        for number, text in enumerate(texts):
            stream = out.add_stream(text)
            stream.codec_context.subtitle_header = ASS_HEADER
            stream.time_base = Fraction(1, 1000)
            stream.metadata.update({"language": ("eng", "fra")[number % 2], "title": f"text {number}"})
            stream.disposition = Disposition.forced if number else Disposition.default
            subtitles.append(stream)
        if font:
            out.add_attachment("font.ttf", "application/x-truetype-font", FONT)
        ms = Fraction(1, 1000)
        out.set_chapters(
            [
                {"id": number, "start": start, "end": end, "time_base": ms, "metadata": {"title": name}}
                for number, (name, start, end) in enumerate(CHAPTERS)
            ]
        )
        out.metadata.update({"title": "Highway", "artist": "Somebody"})
        out.start_encoding()
        if tone:
            clips._write_tone(out, *tone, 1.0, 0)
        for stream in subtitles:
            for number, (start, length, text) in enumerate(LINES if len(texts) < 9 else LINES[:1]):
                line = f"{number},0,Default,,0,0,0,,{text}".encode()
                packet = stream.codec_context.encode_subtitle(SubtitleSet.create(line, 0, length, start))
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, ms, start, start
                packet.duration = length
                out.mux(packet)
        for index in range(25):
            frame = clips.plain_frame(SIZE, (clips.grey(index),) * 3, "yuv420p", 6, clips.MPEG)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def translate(source: Path, output: Path, *, skip: int = 0, stop: int | None = None, cuts: int = 0, **options) -> int:
    """Pass a clip through the writer as the pipeline does; the number of frames encoded."""
    with av.open(str(source)) as container:
        video = container.streams.video[0]
        others = [stream for stream in container.streams if stream is not video]
        out = writer(
            output,
            options.pop("codec", "auto"),
            time_base=video.time_base,
            copied=others,
            chapters=container.chapters(),
            metadata=container.metadata,
            **options,
        )
        done = out.prefill() if skip else 0
        seen = 0
        for packet in container.demux():
            if packet.stream is video:
                for frame in packet.decode():
                    seen += 1
                    if seen <= done:
                        continue
                    if cuts and (seen - 1) % cuts == 0:
                        out.cut()
                    out.write(rgb(frame), frame.pts, frame.duration or 0)
                    if seen == stop:
                        out.close(drop_audio_after_video=True, interrupted=True)
                        return seen - done
            elif packet.size:
                out.copy(packet)
        out.close()
        return seen - done


def lines(path: Path) -> list[list[tuple[int, int, bytes]]]:
    """Per subtitle stream: (start, length in ms, data) of the visible lines."""
    with av.open(str(path)) as container:
        found: dict[int, list] = {stream.index: [] for stream in container.streams if stream.type == "subtitle"}
        for packet in container.demux():
            if packet.stream.index in found and packet.size > 2:
                ms = packet.time_base * 1000
                found[packet.stream.index].append((int(packet.pts * ms), int(packet.duration * ms), bytes(packet)))
    return list(found.values())


def test_everything_beside_the_video_is_kept_in_matroska(tmp_path: Path) -> None:
    source = rich_clip(tmp_path / "in.mkv", ["subrip", "ass"], audio="libopus", font=True)
    translate(source, tmp_path / "out.mkv")
    assert lines(tmp_path / "out.mkv") == lines(source)
    assert len(lines(source)[1]) == len(LINES)
    assert clips.read(tmp_path / "out.mkv").audio == clips.read(source).audio
    with av.open(str(tmp_path / "out.mkv")) as out:
        streams = list(out.streams)
        assert [(s.type, s.language) for s in streams[1:4]] == [
            ("audio", "deu"),
            ("subtitle", "eng"),
            ("subtitle", "fra"),
        ]
        assert [s.metadata["title"] for s in streams[2:4]] == ["text 0", "text 1"]
        assert bool(streams[3].disposition & Disposition.forced)
        assert not streams[2].disposition & Disposition.forced
        assert (streams[4].name, streams[4].mimetype, streams[4].data) == (
            "font.ttf",
            "application/x-truetype-font",
            FONT,
        )
        assert {key.lower(): text for key, text in out.metadata.items()}["artist"] == "Somebody"
        assert out.metadata["title"] == "Highway"
        assert chapters(out) == CHAPTERS


def chapters(container: av.container.InputContainer) -> list[tuple[str, int, int]]:
    return [
        (c["metadata"]["title"], int(c["start"] * c["time_base"] * 1000), int(c["end"] * c["time_base"] * 1000))
        for c in container.chapters()
    ]


def test_text_is_rewritten_for_mp4_and_webm_and_fonts_are_named_as_left_out(tmp_path: Path) -> None:
    source = rich_clip(tmp_path / "in.mkv", ["subrip", "ass"], audio="libopus", font=True)
    for suffix, codec, hello in ((".mp4", "mov_text", b"\0\5Hello"), (".webm", "webvtt", b"Hello")):
        with av.open(str(source)) as container:
            plan = plan_copies(suffix, list(container.streams)[1:])
            assert [stream.type for stream in plan.copied] == ["audio"]
            assert [(stream.index, to) for stream, to in plan.converted] == [(2, codec), (3, codec)]
            (told,) = map(str, plan.left_out)
            assert told == f"attachment stream 4: {suffix} files cannot hold attachments (font.ttf)"
        translate(source, tmp_path / f"out{suffix}")
        for stream in lines(tmp_path / f"out{suffix}"):
            assert stream[0] == (100, 200, hello)
            assert [start for start, _, _ in stream] == [start for start, _, _ in LINES]
            assert b"last" in stream[-1][2]
        with av.open(str(tmp_path / f"out{suffix}")) as out:
            assert chapters(out) == CHAPTERS
            assert [stream.language for stream in out.streams.subtitles] == ["eng", "fra"]
            assert bool(out.streams.subtitles[1].disposition & Disposition.forced)


def test_mp4_text_comes_through_mp4_bit_for_bit_and_into_matroska_as_text(tmp_path: Path) -> None:
    source = rich_clip(tmp_path / "in.mp4", ["mov_text"], audio="aac")
    translate(source, tmp_path / "out.mp4")
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        kept = [[(p.pts, p.duration, bytes(p)) for p in c.demux(subtitles=0) if p.size] for c in (before, after)]
    assert kept[0] == kept[1]  # the pauses too
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert [stream.type for stream in out.streams].count("data") == 1  # the chapters' names, once
        assert chapters(out) == CHAPTERS
    translate(source, tmp_path / "out.mkv")
    (text,) = lines(tmp_path / "out.mkv")
    assert [(start, data) for start, _, data in text] == [
        (100, b"Hello"),
        (400, b"two\nlines"),
        (400, b"together"),
        (900, b"<i>last</i>"),
    ]


def test_webm_takes_opus_only_and_says_so_before_any_work(tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=4, audio=["aac"])
    with av.open(str(source)) as container:
        with pytest.raises(InputError):
            writer(tmp_path / "out.webm", copied=container.streams.audio)
        with pytest.raises(InputError) as caught:
            check_container(tmp_path / "out.webm", container.streams.audio)
    assert "hold Opus and Vorbis audio; this video's (aac)" in caught.value.fact
    assert "out.mkv" in caught.value.advice
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_an_image_for_a_video_is_reported_how_to_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one image \(a\.png\)\n.*a/%05d\.png"):
        check_container(tmp_path / "a.png", [])


def test_as_many_streams_as_libav_reads_are_planned_and_copied(tmp_path: Path) -> None:
    source = rich_clip(tmp_path / "in.mkv", ["subrip"] * 998, audio="")
    for suffix, codec in ((".mkv", "subrip"), (".mp4", "mov_text")):
        translate(source, tmp_path / f"out{suffix}")
        with av.open(str(tmp_path / f"out{suffix}")) as out:
            assert [s.codec_context.codec.canonical_name for s in out.streams.subtitles] == [codec] * 998


def test_a_chapter_that_ends_before_it_begins_is_left_out(tmp_path: Path) -> None:
    ms = Fraction(1, 1000)
    broken = [
        {"id": 1, "start": 500, "end": 100, "time_base": ms, "metadata": {"title": "broken"}},
        {"id": 2, "start": 0, "end": 100, "time_base": ms, "metadata": {"title": "sound"}},
    ]
    out = writer(tmp_path / "out.mkv", chapters=broken)
    out.write(moving_image(0), 0, 3000)
    out.close()
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert chapters(container) == [("sound", 0, 100)]


def test_held_packets_come_out_in_order_and_stay_few() -> None:
    held = HeldPackets()
    for start in (*range(3000, 0, -1), 5000):
        packet = av.Packet(b"x" * 10)
        packet.pts, packet.time_base = start, Fraction(1, 1000)
        held.add(packet)
        early = [packet.pts for packet in held.due(Fraction(0))]
        assert len(early) <= 1
    assert [packet.pts for packet in held.due(Fraction(2, 1))] == list(range(1002, 2001))
    big = av.Packet(65 << 20)
    big.pts, big.time_base = 9000, Fraction(1, 1000)
    held.add(big)
    assert [packet.pts for packet in held.due(Fraction(0))] == [*range(2001, 3001), 5000, 9000]
    assert list(held.drain()) == []


# Image sequences.


@pytest.mark.parametrize("name", ["%05d.png", "shot-%d.jpg", "a%03d.webp"])
def test_a_sequence_is_written_and_appears_at_the_end(tmp_path: Path, name: str) -> None:
    pattern = tmp_path / "frames" / name
    assert is_sequence(pattern)
    out = open_writer(pattern)
    for index in range(12):
        out.write(moving_image(index), index)
        assert not (tmp_path / "frames").exists()
    out.close()
    paths = [tmp_path / "frames" / (name % number) for number in range(1, 13)]
    assert sorted((tmp_path / "frames").iterdir()) == sorted(paths)
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]
    for index, path in enumerate(paths):
        off = np.abs(read_rgb(path).astype(int) - moving_image(index))
        assert off.max() == 0 if path.suffix == ".png" else off.mean() < 12


def test_a_sequence_takes_nothing_away_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    kept = [folder / "notes.txt", folder / "0001.png", folder / "00001.jpg"]
    for path in kept:
        path.write_text("mine")
    first = open_writer(folder / "%05d.png")
    for index in range(3):
        first.write(moving_image(index), index)
    first.close(interrupted=True)
    assert len(list(folder.iterdir())) == 6
    with pytest.raises(InputError, match=r"00001\.png exists already"):
        open_writer(folder / "%05d.png")
    second = open_writer(folder / "%05d.png", overwrite=True)
    second.write(moving_image(9), 0)
    assert np.array_equal(read_rgb(folder / "00001.png"), moving_image(0))
    second.close()
    assert np.array_equal(read_rgb(folder / "00001.png"), moving_image(9))
    assert sorted(path.name for path in folder.iterdir()) == ["00001.jpg", "00001.png", "0001.png", "notes.txt"]
    third = open_writer(folder / "%05d.png", overwrite=True)
    third.write(moving_image(1), 0)
    third.discard()
    assert np.array_equal(read_rgb(folder / "00001.png"), moving_image(9))
    assert [path.read_text() for path in kept] == ["mine"] * 3


def test_a_sequence_is_not_written_over_what_came_meanwhile(tmp_path: Path) -> None:
    out = open_writer(tmp_path / "new" / "%d.png")
    out.write(moving_image(0), 0)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1.png").write_text("mine")
    with pytest.raises(DsmapError, match=r"they are complete and lie in .*new-2$"):
        out.close()
    out.close()
    out.discard()
    assert (tmp_path / "new" / "1.png").read_text() == "mine"
    assert (tmp_path / "new-2" / "1.png").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/%d.png", "does not exist"),
        ("file.txt/%d.png", "is a file"),
        ("%d-%d.png", "is not a pattern"),
        ("100%-%d.png", "is not a pattern"),
        ("%d.bmp", "cannot write images as .bmp"),
        ("50%/%d.png", "has a % in its name"),
    ],
)
def test_what_is_no_pattern_is_reported(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(InputError, match=words):
        check_sequence(tmp_path / name, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


# Resuming.

FINGERPRINT = {"input": "in.mp4", "--domain": "winter", "--style": None, "size": [64, 48]}
EVERY_CODEC = [
    ("h264", ".mp4"),
    ("h264", ".mkv"),
    ("hevc", ".mp4"),
    ("av1", ".webm"),
    ("av1", ".mp4"),
    ("vp9", ".webm"),
    ("prores", ".mov"),
    ("lossless", ".mkv"),
    ("lossless", ".mp4"),
    ("raw", ".mkv"),
]


def packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def write(out: VideoWriter, pts: list[int], indices: range, *, cut: int = 10) -> None:
    for index in indices:
        if index % cut == 0:
            out.cut()
        out.write(moving_image(index), pts[index], 1001)


@pytest.mark.parametrize("variable", [False, True], ids=["constant", "variable"])
@pytest.mark.parametrize(("codec", "suffix"), EVERY_CODEC)
def test_a_resumed_job_is_joined_losslessly(tmp_path: Path, codec: str, suffix: str, variable: bool) -> None:
    """The joined video has the packets of both runs, and each part decodes as it does alone.

    Nothing is encoded twice: libx264 with several threads does not always give the same packets for the same frames.
    """
    pts, clock = times(40, variable=variable), TICK
    if suffix in (".mkv", ".webm"):  # which count in milliseconds
        pts, clock = [round(time / 10) + index for index, time in enumerate(pts)], Fraction(1, 1000)
    folder, first, joined = (tmp_path / f"{name}{suffix}" for name in ("parts", "first", "joined"))
    journal = PacketJournal.open(folder, FINGERPRINT)
    out = writer(first, codec, time_base=clock, journal=journal)
    assert out.prefill() == 0
    write(out, pts, range(25))
    out.close(interrupted=True)
    journal.close()
    journal = PacketJournal.open(folder, FINGERPRINT)
    assert [segment.frames for segment in journal.segments] == [10, 10, 5]
    assert (journal.frames, journal.last_pts, journal.dropped) == (25, pts[24], None)
    out = writer(joined, codec, time_base=clock, journal=journal)
    assert out.prefill() == out.frames == 25
    write(out, pts, range(25, 40))
    out.close()
    journal.remove()
    assert not folder.exists()
    whole, found = decoded(joined), packets(joined)
    assert [frame.pts * frame.time_base for frame in whole] == [time * clock for time in pts]
    assert [bytes(packet) for packet in found[:25]] == [bytes(packet) for packet in packets(first)]
    for begin, end in ((0, 25), (25, 40)):
        alone = decoded_alone(joined, found[begin:end])
        assert len(alone) == end - begin
        for ours, theirs in zip(whole[begin:end], alone, strict=True):
            assert np.array_equal(rgb(ours), rgb(theirs))
    assert min(cv2.PSNR(rgb(frame), moving_image(index)) for index, frame in enumerate(whole)) > 20
    dts = [packet.dts for packet in found if packet.dts is not None]  # matroska leaves the first ones open
    assert all(before < after for before, after in itertools.pairwise(dts))
    assert all(packet.dts <= packet.pts for packet in found if packet.dts is not None)
    keys = [packet.pts * packet.time_base for packet in found if packet.is_keyframe]
    assert {pts[index] * clock for index in (0, 10, 20, 25, 30)} <= set(keys)
    if codec in ("h264", "hevc"):
        assert any(packet.pts != packet.dts for packet in found)  # with frames out of order, the hard case
        assert len(keys) == 5


def decoded_alone(path: Path, found: list[av.Packet]) -> list[av.VideoFrame]:
    """The frames of some of a video's packets, from a decoder that has seen no others."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        wanted = {packet.pts for packet in found}
        frames = []
        for packet in container.demux(video=0):
            if packet.size and packet.pts in wanted:
                frames += context.decode(packet)
        return frames + context.decode(None)


@pytest.mark.parametrize("gap", [1, 2, 5])
def test_decoding_times_have_room_where_frames_stand_close_together(tmp_path: Path, gap: int) -> None:
    """Far apart after the joint, close together before it: the new encoder's first decoding times reach back."""
    pts = [index * gap for index in range(12)] + [11 * gap + 900 * (index + 1) for index in range(12)]
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    out = writer(tmp_path / "a.mp4", journal=journal)
    write(out, pts, range(12), cut=100)
    out.close(interrupted=True)
    out = writer(tmp_path / "b.mp4", journal=journal)
    out.prefill()
    write(out, pts, range(12, 24), cut=100)
    out.close()
    found = packets(tmp_path / "b.mp4")
    assert all(before.dts < after.dts for before, after in itertools.pairwise(found))
    assert all(packet.dts <= packet.pts for packet in found)
    assert [frame.pts for frame in decoded(tmp_path / "b.mp4")] == pts


def test_audio_and_text_come_through_a_resumed_job_whole(tmp_path: Path) -> None:
    source = rich_clip(tmp_path / "in.mkv", ["subrip", "ass"], audio="libopus")
    translate(source, tmp_path / "straight.mkv")
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    assert translate(source, tmp_path / "a.mkv", stop=17, cuts=5, journal=journal) == 17
    journal.close()
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    assert translate(source, tmp_path / "b.mkv", skip=True, cuts=5, journal=journal) == 25 - 17
    straight, joined = clips.read(tmp_path / "straight.mkv"), clips.read(tmp_path / "b.mkv")
    assert joined.times == straight.times
    assert joined.audio == straight.audio
    assert lines(tmp_path / "b.mkv") == lines(tmp_path / "straight.mkv")


def test_sound_stands_near_its_frame_in_a_resumed_file(tmp_path: Path) -> None:
    source = clips.make_clip(
        tmp_path / "in.mkv",
        time_base=Fraction(1, 1000),
        pts=range(0, 30_000, 1000),
        audio=["libopus"],
        audio_seconds=30,
    )
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    translate(source, tmp_path / "a.mkv", stop=28, journal=journal)
    translate(source, tmp_path / "b.mkv", skip=True, journal=journal)
    with av.open(str(tmp_path / "b.mkv")) as out:
        order = [(p.stream.type, float(p.pts * p.time_base)) for p in out.demux() if p.size]
    ahead = 0.0
    for kind, seconds in order:
        if kind == "video":
            ahead = max(ahead, seconds)
        assert kind == "video" or abs(seconds - ahead) < 5  # frames that are out of order are up to 4 s apart


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {here!r}]
from pathlib import Path
from test_video_output import *
journal = PacketJournal.open(Path({folder!r}) / "parts", FINGERPRINT)
out = writer(Path({folder!r}) / "a.mp4", journal=journal)
assert out.prefill() == {done}
write(out, times(200), range({done}, {until}))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_job_goes_on_after_its_last_finished_segment(tmp_path: Path) -> None:
    done = 0
    for until in (75, 144):
        code = KILLED.format(
            tests=str(Path(__file__).parents[2]),
            here=str(Path(__file__).parent),
            folder=str(tmp_path),
            done=done,
            until=until,
        )
        killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
        done = journal.frames
        assert until - 60 <= done < until  # the encoder holds some frames back
        assert done % 10 == 0
        journal.close()
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    out = writer(tmp_path / "b.mp4", journal=journal)
    assert out.prefill() == done
    write(out, times(160), range(done, 160))
    out.close()
    journal.remove()
    assert [frame.pts for frame in decoded(tmp_path / "b.mp4")] == times(160)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_a_job_whose_frames_are_all_done_is_only_put_together(tmp_path: Path, codec: str) -> None:
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    out = writer(tmp_path / "a.mp4", codec, journal=journal)
    write(out, times(12), range(12))
    out.close(interrupted=True)
    out = writer(tmp_path / "b.mp4", codec, journal=journal)
    assert out.prefill() == 12
    out.close()
    kept = [[(p.pts, p.dts, p.duration, bytes(p)) for p in packets(tmp_path / name)] for name in ("a.mp4", "b.mp4")]
    assert kept[0] == kept[1]
    assert len(decoded(tmp_path / "b.mp4")) == 12


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_damaged_segment_and_what_follows_is_done_again(tmp_path: Path, harm: str) -> None:
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    out = writer(tmp_path / "a.mp4", journal=journal)
    write(out, times(40), range(40))
    out.close(interrupted=True)
    journal.close()
    path = tmp_path / "parts" / journal.segments[1].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flipped" else data[:-5])
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    assert journal.frames == 10
    assert journal.dropped is not None
    assert path.name in journal.dropped
    assert "30 finished frames are done again" in journal.dropped
    assert len(list((tmp_path / "parts").glob("seg*"))) == 1
    out = writer(tmp_path / "b.mp4", journal=journal)
    out.prefill()
    write(out, times(40), range(10, 40))
    out.close()
    assert [frame.pts for frame in decoded(tmp_path / "b.mp4")] == times(40)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"style as written": "mean"}, {"style as written": "fresh-snow"}, "style was mean and is fresh-snow"),
        ({}, {"style as written": "fresh-snow"}, "style was another style and is fresh-snow"),  # an older journal
        ({"style as written": [0.157]}, {"style as written": "mean"}, "style was another style and is mean"),
        ({"style as written": "a.png"}, {"style as written": "a.png"}, "style a.png has changed"),
    ],
)
def test_another_style_is_told_as_written(tmp_path: Path, before: dict, now: dict, words: str) -> None:
    before, now = {"style": [[0.157]], **before}, {"style": [[0.25]], **now}
    PacketJournal.open(tmp_path / "parts", FINGERPRINT | before).close()
    with pytest.raises(InputError, match=words) as caught:
        PacketJournal.open(tmp_path / "parts", FINGERPRINT | now)
    assert "0.157" not in caught.value.fact
    # What is written is not compared: a seed and the name of its style are one.
    PacketJournal.open(tmp_path / "parts", FINGERPRINT | before | {"style as written": "as before"}).close()


def test_a_job_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    out = writer(tmp_path / "a.mp4", journal=(journal := PacketJournal.open(tmp_path / "parts", FINGERPRINT)))
    write(out, times(12), range(12))
    out.close(interrupted=True)
    with pytest.raises(InputError, match="another process is working"):
        PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    journal.close()
    with pytest.raises(InputError, match="--domain was winter and is summer"):
        PacketJournal.open(tmp_path / "parts", FINGERPRINT | {"--domain": "summer"})
    with pytest.raises(InputError, match=r"--style was not given and is a\.png"):
        PacketJournal.open(tmp_path / "parts", FINGERPRINT | {"--style": "a.png"})
    with pytest.raises(InputError, match="was started with other options: --domain"):
        PacketJournal.open(tmp_path / "parts", FINGERPRINT | {"--domain": "summer"})
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    with pytest.raises(InputError, match="another encoder: options was"):
        VideoWriter(
            tmp_path / "b.mp4",
            width=64,
            height=48,
            time_base=TICK,
            rate=Fraction(30),
            encoding=EncoderSettings(crf=30),
            journal=journal,
        )
    with pytest.raises(InputError, match="another encoder: encoder was libx264 and is libx265"):
        writer(tmp_path / "b.mp4", "hevc", journal=journal)
    out = writer(tmp_path / "b.mp4", journal=journal)
    out.prefill()
    with pytest.raises(DsmapError, match="parts belong to another input"):
        out.write(moving_image(0), 0)
    out.discard()
    journal.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "parts"]
    assert PacketJournal.open(tmp_path / "parts", FINGERPRINT).frames == 12


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', "null", '{"version": 9}', "\0\0\0"])
def test_a_damaged_index_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "journal.json").write_text(content)
    with pytest.raises(DsmapError, match=r"journal\.json is"):
        PacketJournal.open(tmp_path / "parts", FINGERPRINT)
    journal = PacketJournal.open(tmp_path / "parts", FINGERPRINT, fresh=True)
    assert journal.frames == 0
    (tmp_path / "parts" / "notes.txt").write_text("mine")
    journal.remove()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["notes.txt"]


def test_a_journal_without_a_place_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "no" / "parts"):
        with pytest.raises(DsmapError, match="cannot be kept"):
            PacketJournal.open(folder, FINGERPRINT)


def test_a_writer_without_a_journal_cuts_nothing(tmp_path: Path) -> None:
    out = writer(tmp_path / "a.mp4")
    write(out, times(20), range(20), cut=5)
    out.close()
    assert [packet.is_keyframe for packet in packets(tmp_path / "a.mp4")].count(True) == 1
