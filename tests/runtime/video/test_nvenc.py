"""FFmpeg's own NVENC code, through PyAV and our writer, on a driver without a card (`tests/nvdec`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nvdec
import pytest

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
