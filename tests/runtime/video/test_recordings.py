"""Recordings with a clock of their own: joined, late, cut, wrapped. Sound and video stay together."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import beeps
import clips
import numpy as np
import pytest
import stand_in

from dsmap.errors import DsmapError
from dsmap.runtime.jobs.video import check_video, translate_video
from dsmap.runtime.video import media
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.stream_copy import StreamCopier
from dsmap.runtime.video.timeline import Timeline

FAST = {"preset": "ultrafast"}


def same(frame: np.ndarray) -> np.ndarray:
    return frame


def translated(source: Path, suffix: str = ".mp4", **options: object) -> Path:
    """The source translated by the identity; nothing may be missing."""
    output = source.with_name(f"out-{source.stem}{suffix}")
    report = translate_video(source, output, same, **FAST, **options)
    assert report.complete
    assert report.frames == report.frames_expected
    return output


def check_together(path: Path, expected: int, *, first: float | None = None) -> None:
    """As many flashes as beeps, every half second, together to within 0.05 s."""
    seen, heard = beeps.flashes(path), beeps.beeps(path)
    assert len(seen) == len(heard) == expected, (seen, heard)
    assert np.abs(np.subtract(seen, heard)).max() < 0.05, (seen, heard)
    begin = seen[0] if first is None else first
    assert seen == pytest.approx([begin + index / 2 for index in range(expected)], abs=0.06)


# --- joined


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    "starts",
    [(0, 0), (0, Fraction(3, 2)), (0, 5000), (7, 2, 40000), (95400, 0)],
    ids=["the same clock", "overlapping", "far ahead", "three parts", "before its counter wraps"],
)
def test_joined_recordings_go_on_with_sound_and_video_together(
    tmp_path: Path, suffix: str, starts: tuple[int, ...]
) -> None:
    parts = [beeps.make_beeps(tmp_path / f"{number}.ts", start=at) for number, at in enumerate(starts)]
    source = tmp_path / "joined.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    output = translated(source, suffix)
    check_together(output, 4 * len(parts), first=beeps.flashes(output)[0])
    assert beeps.flashes(output)[0] < 0.1


def test_a_part_of_joined_recordings_is_found_in_the_second_one(tmp_path: Path) -> None:
    part = beeps.make_beeps(tmp_path / "part.ts", seconds=12, options={"bf": "0", "g": "25"}).read_bytes()
    source = tmp_path / "joined.ts"
    source.write_bytes(part + part)
    output = translated(source, start=21.25, end=23)
    seen, heard = beeps.flashes(output), beeps.beeps(output)
    assert seen == pytest.approx([0.25, 0.75, 1.25], abs=0.1)
    assert np.subtract(seen, heard) == pytest.approx([0] * 3, abs=0.05)


def test_a_jump_of_the_clock_is_reported(tmp_path: Path) -> None:
    part = beeps.make_beeps(tmp_path / "part.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(3 * part)
    lines: list[str] = []
    translate_video(tmp_path / "joined.ts", tmp_path / "out.mp4", same, notify=lines.append, **FAST)
    assert any("joined.ts jumps (2)" in line for line in lines)


@pytest.mark.parametrize("name", ["later.ts", "later.flv"])
def test_streams_that_appear_later_disturb_nothing(tmp_path: Path, name: str) -> None:
    """PyAV reads beyond its own list there, at the very end. What cannot be read is reported."""
    silent = beeps.make_beeps(tmp_path / f"a{name}", sound=None, seconds=12)
    source = tmp_path / name
    if name.endswith("ts"):
        source.write_bytes(silent.read_bytes() + beeps.make_beeps(tmp_path / f"b{name}").read_bytes())
    else:
        beeps.make_beeps(source, sound_start=11, seconds=12, sound="libmp3lame")
    for _ in range(3):
        report = translate_video(source, tmp_path / "out.mp4", same, overwrite=True, **FAST)
        assert (report.complete, report.audio_streams) == (True, 1)
    assert beeps.beeps(tmp_path / "out.mp4")[0] == pytest.approx(12 if name.endswith("ts") else 11, abs=0.1)


def test_a_stream_that_is_announced_too_late_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = beeps.make_beeps(tmp_path / "a.ts", sound=None, seconds=12)
    source = tmp_path / "later.ts"
    source.write_bytes(silent.read_bytes() + beeps.make_beeps(tmp_path / "b.ts").read_bytes())
    opened = media._open_file
    monkeypatch.setattr(media, "_open_file", lambda path, **options: opened(path, probesize="500"))
    (left_out,) = check_video(source, tmp_path / "x.mp4").left_out  # libav may have seen its name at the file's end
    assert "that the recording announces only after" in left_out or "announced, but none of it was found" in left_out
    assert translate_video(source, tmp_path / "out.mp4", same, **FAST).complete


def test_a_codec_that_changes_within_a_recording_is_reported(tmp_path: Path) -> None:
    parts = [beeps.make_beeps(tmp_path / f"{sound}.ts", sound=sound) for sound in ("aac", "mp2")]
    source = tmp_path / "two.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    (left_out,) = check_video(source, tmp_path / "x.mp4").left_out
    assert left_out.startswith("audio after the recording changes from AAC to MPEG audio")
    source.write_bytes(parts[0].read_bytes() * 2)
    assert check_video(source, tmp_path / "x.mp4").left_out == ()


def test_a_video_codec_that_changes_is_not_called_damage(tmp_path: Path) -> None:
    """One packet id goes on with HEVC, or with H.264: what came before is translated, and the end says why not more."""
    clips_of = {"H.264": "libx264", "HEVC": "libx265"}
    parts = {}
    for number, (name, codec) in enumerate(clips_of.items()):
        pts = [(number * 30 + index) * 3000 for index in range(30)]
        path, time_base = tmp_path / f"{codec}.ts", Fraction(1, 90000)
        parts[name] = clips.make_clip(path, frames=30, codec=codec, pts=pts, time_base=time_base).read_bytes()
    source = tmp_path / "both.ts"
    for before, after in (("H.264", "HEVC"), ("HEVC", "H.264")):
        source.write_bytes(parts[before] + parts[after])
        report = translate_video(source, tmp_path / "out.mp4", same, overwrite=True, **FAST)
        assert (report.codec_change, report.complete) == ((before, after), False)
        assert 25 <= report.frames <= 31
    source.write_bytes(parts["HEVC"] * 2)
    assert translate_video(source, tmp_path / "out.mp4", same, overwrite=True, **FAST).codec_change is None
    source.write_bytes(parts["H.264"] + parts["HEVC"])
    code, _, told = stand_in.run(source, "-d", "winter", "-o", tmp_path / "cut.mp4")
    assert code == 1
    assert "the video changes from H.264 to HEVC: " in told
    assert "damaged" not in told


@pytest.mark.parametrize("early", [2, 7])
@pytest.mark.parametrize("reordered", ["0", "2"])
def test_matroska_that_begins_before_zero(tmp_path: Path, early: int, reordered: str) -> None:
    """libav drops times below 0: those frames come before the first that has one, as far apart as all."""
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        video = out.add_stream("libx264", rate=25, options={"bf": reordered})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(20):
            frame = clips.plain_frame((64, 48), (clips.grey(index),) * 3, "yuv420p", 6, clips.MPEG)
            frame.pts, frame.time_base = index - early, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with VideoReader(path) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    assert [float(frame.pts * reader.time_base) for frame in frames] == pytest.approx([n / 25 for n in range(20)])
    assert [int(frame.rgb.mean()) for frame in frames] == pytest.approx([clips.grey(n) for n in range(20)], abs=2)


def test_a_short_gap_of_a_recording_stays(tmp_path: Path) -> None:
    parts = [beeps.make_beeps(tmp_path / f"{at}.ts", start=at) for at in (0, 6)]
    source = tmp_path / "gap.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    seen, heard = beeps.flashes(translated(source)), beeps.beeps(translated(source, ".mkv"))
    assert seen[4] - seen[3] == pytest.approx(4.5, abs=0.06)
    assert np.subtract(seen, heard) == pytest.approx([0] * 8, abs=0.05)


@pytest.mark.parametrize("lead", [0, 1], ids=["sound first", "video first"])
def test_parts_that_begin_with_sound_or_video_alone(tmp_path: Path, lead: int) -> None:
    times = {"start": 1 - lead, "sound_start": lead}
    part = beeps.make_beeps(tmp_path / "part.ts", **times).read_bytes()
    source = tmp_path / "two.ts"
    source.write_bytes(part + part)
    output = translated(source)
    seen, heard = beeps.flashes(output), beeps.beeps(output)
    assert len(seen) == len(heard) == 8
    assert np.subtract(seen, heard) == pytest.approx([1 - 2 * lead] * 8, abs=0.05)


@pytest.mark.parametrize("kind", ["mkv", "vob"])
def test_a_joined_matroska_file_and_a_dvd(tmp_path: Path, kind: str) -> None:
    how = {"mkv": {}, "vob": {"video": "mpeg2video", "sound": "ac3", "container": "vob"}}[kind]
    part = beeps.make_beeps(tmp_path / f"part.{kind}", **how).read_bytes()
    source = tmp_path / f"two.{kind}"
    source.write_bytes(part + part)
    check_together(translated(source), 8)


# --- the timeline itself


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return beeps.make_beeps(tmp_path_factory.mktemp("recording") / "in.ts")


def placed(
    recording: Path, change: object, wraps_after: float | None = None, longest_gap: int = 10
) -> tuple[list, list, int]:
    """(stream, time) of every packet as it was and as it is placed, after `change(number, packet)`; and the jumps."""
    with av.open(str(recording)) as container:
        timeline = Timeline(longest_gap, wraps_after)
        before = []

        def changed() -> Iterator[av.Packet]:
            for number, packet in enumerate(container.demux()):
                if packet.dts is not None:
                    before.append((packet.stream.index, packet.dts))
                    change(number, packet)
                yield packet

        after = [(one.stream.index, one.dts) for one in timeline.place(changed()) if one.size]
    return before, after, timeline.jumps


def test_a_counter_that_wraps_goes_on(recording: Path) -> None:
    first = []

    def wrap(number: int, packet: av.Packet) -> None:
        first.append(packet.dts)
        packet.dts = packet.pts = (packet.dts - first[0] + 2**33 - 90_000) % 2**33

    before, after, jumps = placed(recording, wrap, 2**33 / 90_000)
    moved = {then - now for (_, now), (_, then) in zip(before, after, strict=True)}
    assert len(moved) == 1
    assert jumps == 0


@pytest.mark.parametrize("longest_gap", [10, 3600])
@pytest.mark.parametrize("by", [5000, 1000, -5000])
@pytest.mark.parametrize("kind", ["video", "audio"])
def test_a_single_damaged_time_moves_nothing_else(recording: Path, kind: str, by: int, longest_gap: int) -> None:
    hit = []

    def damage(number: int, packet: av.Packet) -> None:
        if packet.stream.type == kind and number > 30 and not hit:
            hit.append((packet.stream.index, packet.dts))
            packet.dts += by * 90_000
            packet.pts += by * 90_000

    before, after, jumps = placed(recording, damage, longest_gap=longest_gap)
    assert sorted(set(before) - set(hit)) == sorted(one for one in after if one in before and one not in hit)
    assert jumps == 0


def test_a_gap_of_minutes_stays_where_the_clock_is_the_files_own(recording: Path) -> None:
    middle: list[int] = []

    def pause(number: int, packet: av.Packet) -> None:
        middle.append(packet.dts)
        if packet.dts > middle[0] + 90_000:
            packet.dts += 600 * 90_000
            packet.pts += 600 * 90_000

    before, after, jumps = placed(recording, pause, longest_gap=3600)
    first = min(time for _, time in before)
    expected = [(index, time + 600 * 90_000 * (time > middle[0] + 90_000)) for index, time in before]
    assert sorted(after) == sorted(expected)
    assert jumps == 0
    assert first == middle[0]


def test_sound_left_over_from_the_part_before_stays_with_it(recording: Path) -> None:
    """Recordings are not perfectly interleaved: sound of the first part comes after the second has begun."""
    with av.open(str(recording)) as container:
        sizes = [(one.stream.type, bytes(one), one.pts, one.dts) for one in container.demux() if one.size]
    late = [index for index, one in enumerate(sizes) if one[0] == "audio"][-2:]
    rest = [sizes[index] for index in late]
    first = [one for index, one in enumerate(sizes) if index not in late]
    begin = next(index for index, one in enumerate(sizes) if one[0] == "video")
    with av.open(str(recording)) as container:
        streams = {one.type: one for one in container.streams}

        def packets() -> Iterator[av.Packet]:
            for kind, data, pts, dts in [*first, sizes[begin], *rest, *sizes[:begin], *sizes[begin + 1 :]]:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.stream = pts, dts, streams[kind]
                packet.time_base, packet.duration = Fraction(1, 90_000), 3600 if kind == "video" else 1920
                yield packet

        timeline = Timeline(10)
        times: dict[str, list[int]] = {"audio": [], "video": []}
        for packet in timeline.place(packets()):
            times[packet.stream.type].append(packet.dts)
    assert timeline.jumps == 1
    for kind, own in times.items():
        assert own == sorted(own), kind
        assert max(np.diff(own)) <= (3600 if kind == "video" else 2 * 1920)


# --- late starts


@pytest.mark.parametrize("name", ["late.mkv", "late.flv", "late.ts", "late.mp4", "late.mov", "late.nut", "late.asf"])
@pytest.mark.parametrize("start", [36000, Fraction(73, 10)])
def test_a_clock_that_begins_late_begins_at_0_in_the_result(tmp_path: Path, name: str, start: Fraction) -> None:
    source = beeps.make_beeps(tmp_path / name, start=start)
    with VideoReader(source) as reader:
        assert reader.expected_frames == pytest.approx(50, abs=3)
        assert reader.expected_seconds == pytest.approx(2, abs=0.1)
    output = translated(source)
    check_together(output, 4)
    assert beeps.flashes(output)[0] < 0.1


def test_a_part_of_a_late_recording_is_counted_from_its_own_beginning(tmp_path: Path) -> None:
    source = beeps.make_beeps(tmp_path / "late.mkv", start=36000)
    with VideoReader(source, start=1, end=1.5) as reader:
        assert sum(not isinstance(one, av.Packet) for one in reader) == pytest.approx(12.5, abs=1)


def test_later_fragments_of_an_mp4_begin_at_0_too(tmp_path: Path) -> None:
    flags = "frag_keyframe+empty_moov+default_base_moof"
    source = beeps.make_beeps(
        tmp_path / "in.mp4", seconds=4, options={"bf": "0", "g": "50"}, muxing={"movflags": flags}
    )
    data = source.read_bytes()
    begins = [at - 4 for at in range(len(data)) if data.startswith(b"moof", at)]
    source.write_bytes(data[: begins[0]] + data[begins[len(begins) // 2] :])
    with VideoReader(source) as reader:
        assert reader.expected_frames == pytest.approx(50, abs=3)
    check_together(translated(source), 4, first=0)


def test_a_part_of_an_avi_with_b_frames_is_the_whole_ones(tmp_path: Path) -> None:
    source = beeps.make_beeps(tmp_path / "in.avi", sound="libmp3lame", options={"bf": "2", "g": "10"}, seconds=3)
    whole, part = translated(source), tmp_path / "part.mp4"
    translate_video(source, part, same, start=1.5, **FAST)
    assert beeps.flashes(part) == pytest.approx([at - 1.52 for at in beeps.flashes(whole)[3:]], abs=0.045)
    assert beeps.flashes(part) == pytest.approx(beeps.beeps(part), abs=0.05)


def test_a_late_file_that_is_cut_off_is_still_told(tmp_path: Path) -> None:
    source = beeps.make_beeps(tmp_path / "late.mkv", start=36000, seconds=6)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    report = translate_video(source, tmp_path / "out.mp4", same, **FAST)
    assert not report.complete
    assert report.frames < (report.frames_expected or 0) < 200


# --- edit lists


def edited(path: Path, segments: list[tuple[int, int]]) -> Path:
    """Give both tracks of an mp4 an edit list that shows `segments`, (begin, end) in seconds."""
    data = path.read_bytes()

    def walked(begin: int, end: int, scale: list[int]) -> bytes:
        made = b""
        while begin < end:
            size, kind = struct.unpack(">I4s", data[begin : begin + 8])
            body = data[begin + 8 : begin + size]
            if kind in (b"moov", b"trak", b"mdia"):
                if kind == b"trak":
                    at = data.index(b"mdhd", begin)
                    scale = [struct.unpack(">I", data[at + 16 : at + 20])[0]]
                body = walked(begin + 8, begin + size, scale)
                if kind == b"trak":
                    entries = b"".join(
                        struct.pack(">IiI", (stop - start) * movie, start * scale[0], 65536) for start, stop in segments
                    )
                    elst = struct.pack(">II", 0, len(segments)) + entries
                    elst = struct.pack(">I4s", 8 + len(elst), b"elst") + elst
                    body += struct.pack(">I4s", 8 + len(elst), b"edts") + elst
            if kind != b"edts":
                made += struct.pack(">I4s", 8 + len(body), kind) + body
            begin += size
        return made

    at = data.index(b"moov") - 4
    mvhd = data.index(b"mvhd")
    movie = struct.unpack(">I", data[mvhd + 16 : mvhd + 20])[0]
    path.write_bytes(data[:at] + walked(at, len(data), []))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_an_edit_list_cuts_away_is_not_in_the_result(tmp_path: Path, suffix: str) -> None:
    source = beeps.make_beeps(tmp_path / "in.mp4", seconds=6, options={"bf": "0", "g": "10"})
    output = translated(edited(source, [(0, 2), (4, 6)]), suffix)
    check_together(output, 8)
    assert len(beeps.packets(output)) == pytest.approx(4 * 48000 / 1024, abs=4)
    with av.open(str(output)) as container:
        times = [one.dts for one in container.demux(audio=0) if one.dts is not None]
        ticks = 1024 / 48000 / container.streams.audio[0].time_base
    assert min(np.diff(times)) > ticks / 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_lead_in_of_a_cut_file_is_not_heard(tmp_path: Path, suffix: str) -> None:
    source = beeps.make_beeps(tmp_path / "in.mp4", seconds=4, options={"bf": "0", "g": "100"})
    output = translated(edited(source, [(3, 4)]), suffix)
    assert beeps.flashes(output) == pytest.approx([0, 0.5], abs=0.03)
    assert beeps.beeps(output) == pytest.approx([0, 0.5], abs=0.03)
    assert len(beeps.packets(output)) <= 49


# --- times missing from the container


def steps(path: Path) -> set[float]:
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    return {round(step, 3) for step in np.diff(times)}


@pytest.mark.parametrize("name", ["b.avi", "b.asf"])
def test_frames_of_containers_with_decoding_times_only_stand_in_step(tmp_path: Path, name: str) -> None:
    source = beeps.make_beeps(tmp_path / name, sound="libmp3lame", options={"bf": "2", "g": "25"})
    with av.open(str(source)) as container:  # or the test would test nothing
        times = [frame.pts for frame in container.decode(video=0)]
    assert times != sorted(times)
    output = translated(source)
    assert steps(output) == {0.04}
    check_together(output, 4)


@pytest.mark.parametrize("rate", [30, 60])
def test_a_raw_stream_plays_at_the_rate_that_it_declares(tmp_path: Path, rate: int) -> None:
    source = tmp_path / "raw.h264"
    with av.open(str(source), "w", format="h264") as out:
        stream = out.add_stream("libx264", rate=rate, options={"bf": "0"})
        stream.width, stream.height = 64, 48
        for number in range(rate):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 3 * number, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    output = translated(source)
    with av.open(str(output)) as container:
        assert container.duration == pytest.approx(1_000_000, abs=20_000)


def test_an_empty_packet_is_the_same_frame_again(tmp_path: Path) -> None:
    """Ogg and AVI use them for unchanged frames; a decoder takes one for the end."""
    source = tmp_path / "still.nut"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 2 * number, Fraction(1, 25)
            out.mux(stream.encode(frame))
            again = av.Packet(b"")
            again.pts = again.dts = 2 * number + 1
            again.stream, again.time_base = stream, Fraction(1, 25)
            out.mux(again)
    with av.open(str(source)) as container:
        assert sum(one.size == 0 and one.dts is not None for one in container.demux(video=0)) > 10
    report = translate_video(source, tmp_path / "out.mp4", same, **FAST)
    assert (report.frames, report.complete) == (20, True)


# --- what a container refuses


def test_a_packet_that_is_refused_names_its_stream_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = beeps.make_beeps(tmp_path / "in.mp4")

    def standing_still(self: StreamCopier, packet: av.Packet) -> list[av.Packet]:
        copies = packets(self, packet)
        for copy in copies:
            copy.pts = copy.dts = 7
        return copies

    packets = StreamCopier.packets
    monkeypatch.setattr(StreamCopier, "packets", standing_still)
    with pytest.raises(DsmapError, match=r"cannot take a packet of audio stream 1 \(aac\) at 0\.000 s") as caught:
        translate_video(source, tmp_path / "out.mp4", same, **FAST)
    assert "--audio convert" in caught.value.advice
