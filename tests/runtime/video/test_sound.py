"""Sound that a container cannot hold, that starts late, or that belongs to one of several programmes."""

import signal
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import beeps
import numpy as np
import pytest
import servers

from dsmap.errors import InputError
from dsmap.runtime.jobs.video import check_video, translate_video
from dsmap.runtime.video import media
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.programmes import programmes_of
from dsmap.runtime.video.reader import VideoReader

FAST = {"preset": "ultrafast"}


def same(frame: np.ndarray) -> np.ndarray:
    return frame


def translated(source: Path, suffix: str, **options: object) -> Path:
    output = source.with_name(f"out-{source.stem}{suffix}")
    report = translate_video(source, output, same, **FAST, **options)
    assert report.complete
    return output


def check_together(path: Path) -> None:
    seen, heard = beeps.flashes(path), beeps.beeps(path)
    assert len(seen) == len(heard) == 4, (seen, heard)
    assert np.abs(np.subtract(seen, heard)).max() < 0.05, (seen, heard)


# --- as it is, in Matroska


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("in.wmv", "wmav2"),
        ("in.asf", "wmav1"),
        ("in.avi", "adpcm_ms"),
        ("ima.avi", "adpcm_ima_wav"),
        ("a.mov", "pcm_mulaw"),
    ],
)
def test_matroska_takes_what_windows_has_a_name_for(tmp_path: Path, name: str, codec: str) -> None:
    source = beeps.make_beeps(tmp_path / name, sound=codec)
    output = translated(source, ".mkv")
    assert beeps.packets(output) == beeps.packets(source)
    check_together(output)
    with av.open(str(output)) as container, av.open(str(source)) as original:
        sound, theirs = container.streams.audio[0], original.streams.audio[0]
        assert sound.codec_context.name == codec
        assert (sound.rate, sound.channels) == (theirs.rate, theirs.channels)
    for other in (".mp4", ".webm"):
        with pytest.raises(InputError, match=rf"\({codec}\)") as caught:
            translate_video(source, tmp_path / f"x{other}", same)
        assert f"choose one that holds {codec.upper()}: -o " in caught.value.advice
        assert "x.mkv" in caught.value.advice
        assert "--audio convert" in caught.value.advice
        assert "--audio none" in caught.value.advice


def test_several_sounds_of_windows_names_are_all_named(tmp_path: Path) -> None:
    source = beeps.make_beeps(tmp_path / "in.avi", sound="adpcm_ms", pitches=(500, 1000))
    output = translated(source, ".mkv")
    with av.open(str(output)) as container:
        assert [one.codec_context.name for one in container.streams.audio] == ["adpcm_ms"] * 2
    assert beeps.beeps(output, 0) == pytest.approx(beeps.beeps(output, 1), abs=0.002)


# --- encoded again, or left out


@pytest.mark.parametrize(
    ("name", "codec", "suffix", "becomes"),
    [
        ("in.wmv", "wmav2", ".mp4", "aac"),
        ("in.avi", "adpcm_ms", ".mov", "aac"),
        ("latm.ts", "aac", ".mkv", "aac"),
        ("in.vob", "pcm_dvd", ".mp4", "aac"),
        ("in.mkv", "flac", ".webm", "opus"),
        ("in.ts", "mp2", ".mp4", "aac"),
    ],
)
def test_sound_is_encoded_anew_on_request(tmp_path: Path, name: str, codec: str, suffix: str, becomes: str) -> None:
    how: dict = {"muxing": {"mpegts_flags": "latm"}} if name == "latm.ts" else {}
    how |= {"container": "vob", "video": "mpeg2video"} if name == "in.vob" else {}
    source = beeps.make_beeps(tmp_path / name, sound=codec, **how)
    if name in ("latm.ts", "in.vob"):  # no container takes it
        with pytest.raises(InputError, match="as it is") as caught:
            check_video(source, tmp_path / "x.mkv")
        assert caught.value.advice.startswith("pass --audio convert")
    wanted = {"audio": "convert", "preset": "8" if suffix == ".webm" else "ultrafast"}
    facts = check_video(source, tmp_path / f"x{suffix}", **wanted)
    assert any("is re-encoded as" in note for note in facts.notes)
    output = tmp_path / f"out{suffix}"
    report = translate_video(source, output, same, **wanted)
    assert (report.complete, report.audio_streams) == (True, 1)
    with av.open(str(output)) as container:
        assert container.streams.audio[0].codec_context.name == becomes
    check_together(output)


def test_sound_of_a_stream_that_never_decodes_is_silence(tmp_path: Path) -> None:
    source = beeps.make_beeps(tmp_path / "in.mkv", sound="flac")
    data = source.read_bytes()
    for packet in beeps.packets(source):
        data = data.replace(packet, b"\xff" * len(packet))
    source.write_bytes(data)
    for suffix in (".mp4", ".mkv"):
        report = translate_video(source, tmp_path / f"out{suffix}", same, audio="convert", **FAST)
        assert (report.frames, report.complete) == (50, False)
        assert len(beeps.flashes(tmp_path / f"out{suffix}")) == 4


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_left_out_on_request_and_that_is_reported(tmp_path: Path, suffix: str) -> None:
    source = beeps.make_beeps(tmp_path / "in.wmv", sound="wmav2")
    assert check_video(source, tmp_path / "x.mp4", audio="none").left_out == ("audio stream 1: --audio none",)
    output = translated(source, suffix, audio="none")
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_encoded_sound_keeps_its_gaps_and_its_joins(tmp_path: Path) -> None:
    parts = [beeps.make_beeps(tmp_path / f"{at}.ts", start=at, sound="mp2").read_bytes() for at in (0, 5, 1)]
    source = tmp_path / "three.ts"
    source.write_bytes(b"".join(parts))
    output = translated(source, ".mp4", audio="convert")
    seen, heard = beeps.flashes(output), beeps.beeps(output)
    assert len(seen) == len(heard) == 12
    assert np.subtract(seen, heard) == pytest.approx([0] * 12, abs=0.05)


def test_encoded_sound_after_a_long_gap_comes_at_its_time(tmp_path: Path) -> None:
    source = tmp_path / "gap.mkv"
    first = beeps.make_beeps(tmp_path / "a.mkv", sound="flac")
    with av.open(str(source), "w") as out, av.open(str(first)) as part:
        streams = [out.add_stream_from_template(stream, opaque=True) for stream in part.streams]
        packets = [packet for packet in part.demux() if packet.size]
        for later in (0, 2000):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.time_base, copy.stream = packet.time_base, streams[packet.stream.index]
                copy.pts, copy.dts = packet.pts + later * 1000, packet.dts + later * 1000
                copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
                out.mux(copy)
    output = translated(source, ".mp4", audio="convert")
    seen, heard = beeps.flashes(output), beeps.beeps(output)
    assert len(seen) == len(heard) == 8
    assert seen[4] == pytest.approx(2000, abs=0.1)
    assert np.subtract(seen, heard) == pytest.approx([0] * 8, abs=0.05)
    assert len(beeps.packets(output)) < 250


def test_channels_that_the_encoder_takes_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        video, sound = out.add_stream("mpeg4", rate=25), out.add_stream("flac", rate=44100)
        video.width, video.height = beeps.SIZE
        sound.layout, sound.format = "5.1", "s16"
        for number in range(5):
            image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), "rgb24")
            image.pts, image.time_base = number, Fraction(1, 25)
            out.mux(video.encode(image))
        out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 6 * 8820), np.int16), "s16", "5.1")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        out.mux([*sound.encode(frame), *sound.encode(None)])
    with av.open(str(translated(source, ".mp4", audio="convert"))) as container:
        assert container.streams.audio[0].channels == 6
        assert container.streams.audio[0].rate == 44100


def test_encoded_sound_that_does_not_decode_is_reported(tmp_path: Path) -> None:
    source = beeps.make_beeps(tmp_path / "in.mkv", sound="flac")
    data, packets = source.read_bytes(), beeps.packets(source)
    assert data.count(packets[2]) == 1
    source.write_bytes(data.replace(packets[2], b"\xff" * len(packets[2])))
    report = translate_video(source, tmp_path / "out.mp4", same, audio="convert", **FAST)
    assert (report.frames, report.complete) == (50, False)
    assert report.dropped_packets >= 1
    assert beeps.beeps(tmp_path / "out.mp4") == pytest.approx(beeps.flashes(source), abs=0.05)


def test_a_job_that_is_resumed_has_its_encoded_sound_whole(tmp_path: Path) -> None:
    source = beeps.make_beeps(tmp_path / "in.avi", sound="adpcm_ms", seconds=4)
    whole = translated(source, ".mp4", audio="convert")
    output = tmp_path / "resumed.mp4"
    calls = iter(range(1000))

    def stopped(frame: np.ndarray) -> np.ndarray:
        if next(calls) == 60:
            signal.raise_signal(signal.SIGINT)
        return frame

    how = {"audio": "convert", "made_with": {}, **FAST}
    report = translate_video(source, output, stopped, **how)
    assert report.interrupted
    assert report.resumable
    report = translate_video(source, output, same, resume=True, **how)
    assert (report.complete, report.frames) == (True, 100)
    assert report.resumed_frames > 40
    assert beeps.packets(output) == beeps.packets(whole)
    assert beeps.flashes(output) == pytest.approx(beeps.beeps(output), abs=0.05)


def test_a_job_is_resumed_with_another_way_of_its_sound(tmp_path: Path) -> None:
    source = beeps.make_beeps(tmp_path / "in.mkv", seconds=4)
    output = tmp_path / "out.mp4"
    calls = iter(range(1000))

    def stopped(frame: np.ndarray) -> np.ndarray:
        if next(calls) == 60:
            signal.raise_signal(signal.SIGINT)
        return frame

    assert translate_video(source, output, stopped, made_with={}, **FAST).resumable
    report = translate_video(source, output, same, made_with={}, resume=True, audio="convert", **FAST)
    assert (report.complete, report.frames) == (True, 100)
    assert beeps.packets(output) != beeps.packets(source)
    assert beeps.flashes(output) == pytest.approx(beeps.beeps(output), abs=0.05)


def test_a_way_with_sound_that_is_none_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--audio loud is not known") as caught:
        check_video(beeps.make_beeps(tmp_path / "in.mkv"), tmp_path / "x.mp4", audio="loud")
    assert caught.value.advice == "choose one of copy, convert, none"


# --- late


def test_sound_that_begins_late_is_looked_for_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announced from the beginning, but found after what libav probes."""
    source = beeps.make_beeps(tmp_path / "late.ts", seconds=8, sound_start=7, options={"bf": "0", "g": "12"})
    opened = media._open_file
    monkeypatch.setattr(media, "_open_file", lambda path, **options: opened(path, **({"probesize": "500"} | options)))
    with opened(source, probesize="500") as container:  # or the test would test nothing
        assert container.streams.audio[0].codec_context.sample_rate == 0
    heard = beeps.beeps(translated(source, ".mp4"))
    assert heard[0] == pytest.approx(7, abs=0.1)
    monkeypatch.setattr(media, "_PROBED_BYTES", 500)
    facts = check_video(source, tmp_path / "x.mp4")
    assert facts.left_out == ("audio stream 1: it is announced, but none of it was found at the beginning of the file",)


# --- programmes


@pytest.fixture(scope="module")
def multiplex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A radio programme and two with video, each with its own clock; PAT and PMTs are written here."""
    folder = tmp_path_factory.mktemp("multiplex")
    parts = [
        beeps.make_beeps(folder / "a.ts", sound="mp2", muxing={"mpegts_start_pid": "256", "mpegts_service_id": "11"}),
        beeps.make_beeps(
            folder / "b.ts",
            start=500,
            sound="ac3",
            muxing={"mpegts_start_pid": "512", "mpegts_service_id": "12", "mpegts_pmt_start_pid": "4112"},
        ),
    ]
    packets = [[part.read_bytes()[at : at + 188] for at in range(0, part.stat().st_size, 188)] for part in parts]
    tables = [_pid(one) for one in packets[0]].count(0)
    assert tables
    pat = _pat({7: 4200, 11: 4096, 12: 4112})
    mixed = []
    for index in range(max(map(len, packets))):
        for stream in packets:
            if index < len(stream) and _pid(stream[index]) != 0x11:
                mixed.append(pat if _pid(stream[index]) == 0 else stream[index])
    source = folder / "multi.ts"
    source.write_bytes(b"".join(mixed))
    return source


def _pid(packet: bytes) -> int:
    return int.from_bytes(packet[1:3], "big") & 0x1FFF


def _pat(programmes: dict[int, int]) -> bytes:
    entries = b"".join(
        number.to_bytes(2, "big") + (0xE000 | pid).to_bytes(2, "big") for number, pid in programmes.items()
    )
    body = bytes((0, 1, 0xC1, 0, 0)) + entries
    section = bytes((0,)) + (0xB000 | (len(body) + 4)).to_bytes(2, "big") + body
    value = 0xFFFFFFFF
    for byte in section:
        for bit in range(7, -1, -1):
            top = value >> 31 ^ (byte >> bit & 1)
            value = (value << 1 ^ (0x04C11DB7 if top else 0)) & 0xFFFFFFFF
    return (bytes((0x47, 0x40, 0, 0x10, 0)) + section + value.to_bytes(4, "big")).ljust(188, b"\xff")


def test_the_tables_of_a_transport_stream_are_read(multiplex: Path, tmp_path: Path) -> None:
    found = {one.number: one.streams for one in programmes_of(multiplex)}
    assert found == {7: frozenset(), 11: {256, 257}, 12: {512, 513}}
    data = multiplex.read_bytes()
    camera = tmp_path / "in.m2ts"
    camera.write_bytes(b"".join(bytes(4) + data[at : at + 188] for at in range(0, len(data), 188)))
    assert programmes_of(camera) == programmes_of(multiplex)
    single = programmes_of(beeps.make_beeps(tmp_path / "in.ts"))
    assert [str(one) for one in single] == ["1 (Service01)"]


@pytest.mark.parametrize(("wanted", "number", "codec"), [({}, 11, "mp2"), ({"programme": 12}, 12, "ac3")])
def test_video_and_sound_are_of_one_programme(
    multiplex: Path, tmp_path: Path, wanted: dict, number: int, codec: str
) -> None:
    output = tmp_path / "out.mp4"
    facts = check_video(multiplex, output, **wanted)
    assert facts.notes[0] == f"programme {number} of 3: --programme N takes another"
    assert "programme 7" in facts.left_out
    assert translate_video(multiplex, output, same, **FAST, **wanted).complete
    with av.open(str(output)) as container:
        assert [one.codec_context.name[:2] for one in container.streams] == ["h2", codec[:2]]
    check_together(output)
    assert beeps.flashes(output)[0] < 0.1
    part = tmp_path / "part.mp4"
    translate_video(multiplex, part, same, start=1, **FAST, **wanted)
    assert beeps.flashes(part) == pytest.approx(beeps.beeps(part), abs=0.05)


def test_a_network_gives_the_sound_of_the_videos_programme(multiplex: Path) -> None:
    with closing(servers.Web(multiplex.parent)) as web, VideoReader(f"{web.address}/multi.ts") as reader:
        names = [stream.codec_context.name for stream in reader.copied]
        assert len(names) == 1
        assert reader.left_out == ("2 streams of other programmes",)
        indexes = {item.stream.index for item in reader if not isinstance(item, Frame)}
        assert indexes == {reader.copied[0].index}
        assert all(not stream.disposition for stream in reader.copied)


def test_a_programme_that_is_none_is_reported(multiplex: Path, tmp_path: Path) -> None:
    for number, words in ((5, "has no programme 5"), (7, "programme 7 of .* has no video")):
        with pytest.raises(InputError, match=words) as caught:
            check_video(multiplex, tmp_path / "x.mp4", programme=number)
        assert caught.value.advice == "choose one of 11, 12"
    with pytest.raises(InputError, match="is not a transport stream with programmes"):
        check_video(beeps.make_beeps(tmp_path / "in.mkv"), tmp_path / "x.mp4", programme=1)
