"""FFmpeg's own NVENC code, through PyAV and our writer, on a driver without a card (`tests/nvdec`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import clips  # before av: it imports cv2, without which windows hang

# isort: split
import av
import numpy as np
import nvdec
import pytest
import stand_in

pytestmark = pytest.mark.skipif(nvdec.COMPILER is None, reason="needs Linux and a C compiler")

COMMON = """
import json, sys
from fractions import Fraction
import cv2, av, numpy as np
from dsmap.errors import DsmapError
from dsmap.runtime.video.encoders import EncoderSettings
from dsmap.runtime.video.rgb_to_frame import RgbToFrame, pad_to_even
from dsmap.runtime.video.writer import VideoWriter

to_frame = RgbToFrame()

def pictures(width, height, count):
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)

def writer(path, width, height, **more):
    encoding = EncoderSettings(codec="h264_nvenc")
    return VideoWriter(path, width=width, height=height, time_base=Fraction(1, 1000), rate=Fraction(25),
                       encoding=encoding, **more)

def differing(path, rgb):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(video=0)]
    given = [to_frame(pad_to_even(frame)).to_ndarray() for frame in rgb]
    return [index for index, pair in enumerate(zip(given, frames, strict=True)) if not np.array_equal(*pair)]

def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tick = lambda value: None if value is None else round(value * stream.time_base * 1000)
        return [(tick(packet.pts), tick(packet.dts), tick(packet.duration), packet.is_keyframe)
                for packet in container.demux(stream) if packet.size]
"""


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvenc")
    nvdec.build(folder)
    return folder


def run(card: Path, code: str, *arguments: object, **settings: object) -> dict:
    """What `code` prints as JSON, in a process with the card; `settings`: of the card."""
    environment = {name: str(value) for name, value in settings.items()} | {"LD_LIBRARY_PATH": str(card)}
    command = [sys.executable, "-c", COMMON + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WRITE = """
told = {}
for name, width, height, count in json.loads(sys.argv[2]):
    path, rgb = sys.argv[1] + "/" + name, pictures(width, height, count)
    out = writer(path, width, height, sample_aspect=Fraction(4, 3))
    for index, frame in enumerate(rgb):
        out.write(frame, index * 40 + index % 2 * 7, 33 if index % 2 else 47)
    out.close()
    with av.open(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        tags = [context.color_primaries, context.color_trc, context.colorspace, context.color_range]
        told[name] = {"differing": differing(path, rgb), "packets": packets(path), "frames": stream.frames,
                      "size": [context.width, context.height], "tags": tags, "codec": context.name,
                      "aspect": str(stream.sample_aspect_ratio), "headers": context.extradata[:1].hex()}
print(json.dumps(told))
"""


def test_every_value_and_time_and_tag_is_in_the_file(card: Path, tmp_path: Path) -> None:
    """Sizes that are no multiples of 16, odd ones, numbers of frames that end amid B pictures, uneven times."""
    cases = [("a.mp4", 64, 48, 12), ("b.mkv", 71, 49, 8), ("c.mov", 70, 50, 2), ("d.mp4", 38, 35, 1)]
    told = run(card, WRITE, tmp_path, json.dumps(cases))
    for name, width, height, count in cases:
        of = told[name]
        assert (of["codec"], of["differing"]) == ("h264", [])
        assert of["size"] == [width + width % 2, height + height % 2]
        assert (of["tags"], of["aspect"], of["headers"]) == ([1, 1, 1, 1], "4/3", "01")
        assert of["frames"] in (0, count)
        times = [(index * 40 + index % 2 * 7, 33 if index % 2 else 47) for index in range(count)]
        assert sorted(pts for pts, *_ in of["packets"]) == [pts for pts, _ in times]
        if name.endswith(".mkv"):  # others keep differences of decoding times
            assert sorted((pts, duration) for pts, _, duration, _ in of["packets"]) == times
        order = [dts for _, dts, _, _ in of["packets"] if dts is not None]
        assert order == sorted(set(order))
        assert all(dts is None or dts <= pts for pts, dts, _, _ in of["packets"])
        assert [keyframe for *_, keyframe in of["packets"]] == [True] + [False] * (count - 1)


OPEN = """
from dataclasses import replace
from dsmap.runtime.doctor.video import check_encoders, try_codecs
from dsmap.runtime.video import encoder_table

encoder_table.CODECS = ("h264", "h264_nvenc")
told = {"opened": 0, "packets": [], "doctor": check_encoders().fact}
for encoder in encoder_table.ENCODERS:
    if not encoder.codec.endswith("_nvenc"):
        continue
    for preset in encoder.presets:
        for crf in (encoder.quality.best, encoder.quality.worst):
            for chosen in (replace(encoder, preset=preset, crf=crf), replace(encoder, crf=crf).without_delay()):
                context = av.CodecContext.create(chosen.library, "w")
                context.width, context.height, context.pix_fmt = 64, 48, chosen.pix_fmt
                context.time_base, context.framerate, context.options = Fraction(1, 25), Fraction(25), chosen.options
                context.open()
                told["opened"] += 1
                last = context
    if encoder.codec == "h264_nvenc":
        for pts in range(4):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = pts
            told["packets"].append(len(last.encode(frame)))
print(json.dumps(told))
"""


def test_all_of_our_options_open_and_those_without_delay_have_none(card: Path) -> None:
    told = run(card, OPEN, NVENC_CODECS=3)
    assert told["opened"] == 3 * 7 * 2 * 2
    assert told["packets"] == [1, 1, 1, 1]
    assert told["doctor"] == "h264, h264_nvenc encode"


REFUSED = """
import os
from pathlib import Path
from dsmap.runtime.doctor.video import check_encoders
from dsmap.runtime.video import encoder_table
from dsmap.runtime.video.encoders import log_of_opening

path, told = Path(sys.argv[1], "a.mp4"), {}
os.environ["NVENC_WIDEST"] = "300"
try:
    writer(path, 400, 48)
except DsmapError as error:
    told["writer"] = [type(error).__name__, error.fact, path.exists()]
os.environ["NVENC_NONE"] = "1"
encoder_table.CODECS = ("h264", "h264_nvenc")
told["doctor"] = check_encoders().fact
for name, value, codec, width in json.loads(sys.argv[2]):
    os.environ.pop("NVENC_NONE", None)
    os.environ[name] = value
    told[name] = log_of_opening(codec, "yuv420p", [width, 48])
    del os.environ[name]
print(json.dumps(told))
"""


def test_what_a_card_does_not_take_is_said_in_words(card: Path, tmp_path: Path) -> None:
    cases = [
        ("NVENC_VERSION", "12", "h264_nvenc", 64),
        ("NVENC_CODECS", "1", "av1_nvenc", 64),
        ("NVENC_SESSIONS", "0", "h264_nvenc", 64),
        ("NVENC_NARROWEST", "100", "h264_nvenc", 64),
    ]
    told = run(card, REFUSED, tmp_path, json.dumps(cases))
    wide = "H.264 by NVENC cannot encode frames of 400x48: at most 300 pixels a side on this GPU"
    assert told == {
        "writer": ["InputError", wide, False],
        "doctor": "h264 encode; NVENC does not: this GPU has no encoder (NVENC)",
        "NVENC_VERSION": "the NVIDIA driver is too old: NVENC needs 570.0 or newer",
        "NVENC_CODECS": "the encoder (NVENC) of this GPU does not have that codec",
        "NVENC_SESSIONS": "no session of the GPU's encoder is free: other programs encode too, or its memory is full",
        "NVENC_NARROWEST": "smaller than the GPU's encoder takes",
    }


def test_a_job_whose_encoder_fails_goes_on_at_a_keyframe(card: Path, tmp_path: Path) -> None:
    """From the command line; the result equals what the same frames are without any encoder."""
    source = clips.make_clip(tmp_path / "in.mp4", frames=30)
    before = source.read_bytes()
    plain, output, parts = tmp_path / "plain.mkv", tmp_path / "out.mp4", tmp_path / "out.mp4.parts"

    def command(*arguments: object, **settings: str) -> tuple[int, str, str]:
        return stand_in.run(source, "-d", "winter", *arguments, LD_LIBRARY_PATH=str(card), **settings)

    nvenc = ("-o", output, "--codec", "h264_nvenc")
    code, _, err = command(*nvenc, NVENC_BREAKS="3")
    assert (code, err.splitlines()[0]) == (1, "error: H.264 by NVENC failed at 0.100 s: Unknown error occurred")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]
    code, _, err = command(*nvenc, STAND_IN_CUTS="1", NVENC_BREAKS="17")
    assert (code, "run the same command with --resume" in err) == (1, True)
    assert (sorted(path.name for path in tmp_path.iterdir()), parts.is_dir()) == (["in.mp4", parts.name], True)
    code, _, err = command(*nvenc, "--resume", STAND_IN_CUTS="1", NVENC_SESSIONS="1")
    assert (code, err) == (0, "resumed after frame 5\n")
    assert command("-o", plain, "--codec", "raw")[0] == 0
    assert (parts.exists(), source.read_bytes()) == (False, before)
    ours, theirs = clips.read(output), clips.read(plain)
    assert ours.times == clips.read(source).times
    assert all(np.array_equal(*pair) for pair in zip(ours.frames, theirs.frames, strict=True))
    with av.open(str(output)) as container:
        keyframes = [packet.pts // 1001 for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
    assert keyframes == [0, 5, 10, 16, 22, 28]  # every cut


def test_a_card_without_an_encoder_costs_no_time_and_no_file(card: Path, tmp_path: Path) -> None:
    source = clips.make_clip(tmp_path / "in.mp4", frames=2)
    options = ("-d", "winter", "-o", tmp_path / "out.mp4", "--codec", "h264_nvenc")
    told = stand_in.run(source, *options, LD_LIBRARY_PATH=str(card), NVENC_NONE="1")
    stand_in.assert_refused(
        told, 2, "--codec h264_nvenc does not work on this machine: this GPU has no encoder (NVENC)"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]


BUSY = """
from dsmap.runtime.video import encoders

def told():
    try:
        return str(encoders.resolve(EncoderSettings(codec="h264_nvenc"), ".mkv"))
    except DsmapError as error:
        return error.fact

other = av.CodecContext.create("h264_nvenc", "w")
other.width, other.height, other.pix_fmt, other.time_base = 320, 240, "yuv420p", Fraction(1, 25)
other.open()
busy = [told(), told()]
del other
encoders._PERIOD_SECONDS = 1e9  # the next one
print(json.dumps([*busy, told()]))
"""


def test_an_encoder_that_is_busy_is_tried_again_later(card: Path) -> None:
    first, second, third = run(card, BUSY, NVENC_SESSIONS=1)
    assert "--codec h264_nvenc does not work on this machine" in first
    assert second == first
    assert third.startswith("H.264 by NVENC, CQ 19")
