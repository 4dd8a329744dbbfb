"""FFmpeg's own NVDEC code, through PyAV, on a driver without a card (`tests/nvdec`)."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import nvdec
import pytest

pytestmark = pytest.mark.skipif(nvdec.COMPILER is None, reason="needs Linux and a C compiler")

# Decodes a file by software and on the card; what came of it as JSON.
COMPARE = """
import json, sys
import cv2, av, numpy as np
from dsmap.errors import DsmapError
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader

def read(path, **options):
    lines = []
    with VideoReader(path, notify=lines.append, **options) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
        told = {"decoder": reader.decoder, "notes": reader.notes, "failed": reader.failed_packets, "lines": lines}
        return frames, told

path, hwaccel, more = sys.argv[1:]
try:
    ours, _ = read(path)
    theirs, told = read(path, hwaccel=hwaccel, **json.loads(more))
    pairs = list(zip(ours, theirs, strict=True))
    told["same"] = all(one.pts == two.pts and np.array_equal(one.rgb, two.rgb) for one, two in pairs) and len(pairs)
except DsmapError as error:
    told = {"error": type(error).__name__, "fact": error.fact}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvdec")
    nvdec.build(folder)
    return folder


def make(path: Path, codec: str, size: tuple[int, int], pix_fmt: str, *, frames: int = 12, **options: str) -> Path:
    """A moving picture without B-frames."""
    kind = {"format": "h264"} if path.suffix == ".h264" else {}
    with av.open(str(path), "w", **kind) as out:
        video = out.add_stream(codec, rate=25, options={"g": "6", "bf": "0", **options})
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        video.codec_context.colorspace = video.codec_context.color_range = 1
        for index in range(frames):
            ramp = np.add.outer(np.arange(size[1]) * 3, np.arange(size[0]) * 2) + index * 5
            rgb = np.stack([ramp, ramp * 2, 255 - ramp], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def joined(parts: list[Path], path: Path) -> Path:
    """A transport stream, 1.4 s of whose clock are over when it begins."""
    with av.open(str(path), "w") as out:
        stream, number = None, 0
        for part in parts:
            with av.open(str(part)) as given:
                stream = stream or out.add_stream_from_template(given.streams.video[0])
                for packet in given.demux(video=0):
                    if packet.size:
                        packet.stream, packet.pts, packet.dts = stream, number, number
                        packet.time_base, number = Fraction(1, 25), number + 1
                        out.mux(packet)
    return path


def compare(card: Path, path: Path, hwaccel: str = "cuda", more: dict | None = None, **settings: object) -> dict:
    environment = {name: str(value) for name, value in settings.items()}
    environment |= {"LD_LIBRARY_PATH": str(card), "NVDEC_PICTURES": str(path.parent / "pictures")}
    command = [sys.executable, "-c", COMPARE, str(path), hwaccel, json.dumps(more or {})]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "codec", "size", "coded", "pix_fmt", "options"),
    [
        ("a.mp4", "libx264", (70, 50), (80, 64), "yuv420p", {}),
        ("b.mkv", "libx265", (64, 48), (64, 48), "yuv420p10le", {"x265-params": "log-level=none:bframes=0:keyint=6"}),
        ("c.webm", "libvpx-vp9", (64, 48), (64, 48), "yuv420p", {"deadline": "realtime", "lag-in-frames": "0"}),
        ("d.mp4", "libsvtav1", (64, 64), (64, 64), "yuv420p", {"preset": "12", "svtav1-params": "pred-struct=1"}),
    ],
)
def test_frames_are_the_same(card: Path, tmp_path: Path, name, codec, size, coded, pix_fmt, options) -> None:
    """Cropped sizes, 10 bits, and AV1, for which FFmpeg has another decoder on devices."""
    path = make(tmp_path / name, codec, size, pix_fmt, **options)
    nvdec.pictures(path, tmp_path / "pictures", coded)
    told = compare(card, path)
    assert (told["decoder"], told["same"], told["failed"], told["lines"]) == ("cuda", 12, 0, [])
    assert "decoded on cuda" in told["notes"]


def test_what_a_card_does_not_take(card: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", "libx264", (64, 48), "yuv420p")
    told = compare(card, path, NVDEC_WIDEST=48)
    assert told == {"error": "InputError", "fact": "cuda cannot decode this video: it does not decode yuv420p, 64x48"}
    told = compare(card, path, "auto", NVDEC_WIDEST=48)
    assert (told["decoder"], told["same"]) == ("software", 12)
    (tmp_path / "pictures").write_bytes(b"\x50" * 100_000)  # a card that decodes wrongly
    assert "its first frame differs from the software's by" in compare(card, path)["fact"]


def test_a_size_that_a_card_does_not_take_in_the_middle(card: Path, tmp_path: Path) -> None:
    parts = [make(tmp_path / f"{width}.h264", "libx264", (width, 48), "yuv420p") for width in (64, 128)]
    path = joined(parts, tmp_path / "both.ts")
    nvdec.pictures(parts[0], tmp_path / "pictures", (64, 48))
    told = compare(card, path, NVDEC_WIDEST=100)
    assert told["fact"] == "from 0.48 s on, cuda does not decode the video (yuv420p, 128x48)"
    told = compare(card, path, "auto", NVDEC_WIDEST=100)
    assert (told["decoder"], told["same"], told["failed"]) == ("cuda", 24, 0)
    assert told["lines"][0] == "from 0.48 s on, cuda does not decode the video (yuv420p, 128x48): software does"


def test_a_card_that_fails(card: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", "libx264", (64, 48), "yuv420p")
    nvdec.pictures(path, tmp_path / "pictures", (64, 48))
    told = compare(card, path, NVDEC_BREAKS=6)
    assert told == {
        "error": "DsmapError",
        "fact": "decoding on cuda failed at 0.24 s: Generic error in an external library",
    }
    told = compare(card, path, "auto", NVDEC_BREAKS=6)
    assert (told["decoder"], told["same"], told["failed"]) == ("software", 12, 0)


def test_frames_that_the_card_cannot_keep_come_to_the_host(card: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", "libx264", (64, 48), "yuv420p")
    nvdec.pictures(path, tmp_path / "pictures", (64, 48))
    told = compare(card, path, more={"on_device": True}, NVDEC_NO_PRIMARY=1)
    assert (told["decoder"], told["same"], told["failed"]) == ("cuda", 12, 0)
    reason = "the GPU's primary context cannot be used (CUDA error 2)"
    assert f"decoded on cuda; the frames go through the host's memory ({reason})" in told["notes"]


# The cuda backend on ONNX Runtime's CPU provider: the stand-in card's memory is ordinary memory.
ON_THE_CPU = """
import gc, json, sys
import cv2, av, numpy as np
from dsmap.errors import DsmapError
from dsmap.runtime import translator
from dsmap.runtime.backends import device_frame, onnxruntime_cuda, onnxruntime_session
from dsmap.runtime.backends.base import BackendSettings, Choice
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.jobs.video import translate_video

class OnTheCpu(onnxruntime_cuda.OnnxRuntimeCUDA):
    _device, _provider = "cpu", "CPUExecutionProvider"

    def _checked_onnxruntime(self):
        return onnxruntime_session.import_onnxruntime()

    def _open(self, graph, options, providers):
        return super()._open(graph, options, ["CPUExecutionProvider"])

converted = []
run = device_frame.PlanesToRgb.run
device_frame.PlanesToRgb.run = lambda self, frame, target: (converted.append(frame.kind), run(self, frame, target))
bundle, path, mode, more = sys.argv[1:5]
opened = Bundle.open(bundle)
translator.load_backend = lambda *_given: Choice(OnTheCpu(opened, "winter", BackendSettings(frames_at_once=2)), "")
"""
TRANSLATE = """
if mode == "wrong":
    device_frame.chroma_taps = lambda _siting: np.zeros((4, 5, 5), np.float32)
told = {}
for hwaccel in ("off", "cuda"):
    with_model = translator.Translator.load(opened, domain="winter")
    try:
        report = translate_video(path, f"{path}.{hwaccel}.mkv", with_model, codec="lossless", hwaccel=hwaccel,
                                 overwrite=True, **json.loads(more))
        told["decoder"], told["frames"], told["complete"] = report.decoder, report.frames, report.complete
    except DsmapError as error:
        told["fact"] = error.fact
    with_model.close()
told["converted"] = len(converted)
read = lambda name: [frame.to_ndarray(format="rgb24").astype(int) for frame in av.open(name).decode(video=0)]
if "fact" not in told:
    apart = [np.abs(one - two) for one, two in zip(read(path + ".off.mkv"), read(path + ".cuda.mkv"), strict=True)]
    told["worst"], told["mean"] = max(int(one.max()) for one in apart), max(float(one.mean()) for one in apart)
print(json.dumps(told))
"""


def translate(card: Path, bundle: Path, path: Path, mode: str = "", code: str = TRANSLATE, **options: object) -> dict:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(card), "NVDEC_PICTURES": str(path.parent / "pictures")}
    command = [sys.executable, "-c", ON_THE_CPU + code, str(bundle), str(path), mode, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_frames_that_stay_in_the_memory_of_the_card(card: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    """All but the first frame, which both decoders gave, go from the decoder to the network; NV12 and P010."""
    path = make(tmp_path / "a.mp4", "libx264", (64, 48), "yuv420p")
    nvdec.pictures(path, tmp_path / "pictures", (64, 48))
    told = translate(card, tiny_bundle, path)
    assert "fact" not in told, told["fact"]
    assert (told["decoder"], told["frames"], told["complete"], told["converted"]) == ("cuda", 12, True, 11)
    assert told["worst"] <= 3
    assert told["mean"] < 0.5  # a network of random weights makes more of a level
    told = translate(card, tiny_bundle, path, "wrong")
    assert "of the values differ by more than a level, the worst by" in told["fact"]


SITED = """
import os
with_model = translator.Translator.load(opened, domain="winter")
told = []
for path in json.loads(more)["paths"]:
    os.environ["NVDEC_PICTURES"] = path + ".pictures"
    results = [f"{path}.{hwaccel}.mkv" for hwaccel in ("off", "cuda")]
    for hwaccel, result in zip(("off", "cuda"), results, strict=True):
        translate_video(path, result, with_model, codec="lossless", hwaccel=hwaccel)
    frames = [[frame.to_ndarray(format="rgb24") for frame in av.open(name).decode(video=0)] for name in results]
    told.append(max(int(np.abs(one.astype(int) - two).max()) for one, two in zip(*frames, strict=True)))
print(json.dumps([told, len(converted)]))
"""


def test_each_clip_has_a_siting_of_its_own(card: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    """Clips of one size and kind in turn, by one translator: none takes that of the one before."""
    paths = []
    for location in (0, 1, 5, 0):
        path = make(
            tmp_path / f"{len(paths)}.mp4", "libx264", (64, 48), "yuv420p", **{"x264-params": f"chromaloc={location}"}
        )
        nvdec.pictures(path, Path(f"{path}.pictures"), (64, 48))
        paths.append(str(path))
    worst, converted = translate(card, tiny_bundle, Path(paths[0]), code=SITED, paths=paths)
    assert converted == 4 * 11
    assert max(worst) < 10  # random weights make more of a level; another siting comes to 65


def test_frames_that_the_host_has_to_change_come_to_the_host(card: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    path = make(tmp_path / "a.mp4", "libx264", (64, 48), "yuv420p")
    nvdec.pictures(path, tmp_path / "pictures", (64, 48))
    told = translate(card, tiny_bundle, path, height=32, side_by_side=True)
    assert (told["decoder"], told["converted"], told["worst"]) == ("cuda", 0, 0)
    path = make(tmp_path / "b.mp4", "libx264", (70, 50), "yuv420p")  # no size of the network
    nvdec.pictures(path, tmp_path / "pictures", (80, 64))
    told = translate(card, tiny_bundle, path)
    assert (told["decoder"], told["converted"], told["worst"]) == ("cuda", 0, 0)


# From the decoder to the encoder within the card's memory, and the same frames as RGB by way of the host.
ENCODE = """
from dsmap.runtime.backends import dlpack, onnxruntime_planes
from dsmap.runtime.video import track
from dsmap.runtime.video.rgb_to_frame import RgbToFrame

dlpack.DEVICES["cpu"] = 2  # what ONNX Runtime's CPU provider allocates is the card's memory
kept = []
made = onnxruntime_planes.DeviceResult
onnxruntime_planes.DeviceResult = lambda **fields: (kept.append(1), made(**fields))[1]
told, facts = {}, track.VideoTrack.facts
track.VideoTrack.facts = lambda self: told.update(facts=facts(self)) or told["facts"]
results = {"lossless": path + ".mkv", "h264_nvenc": path + ".nvenc.mp4"}
for codec, result in results.items():
    with_model = translator.Translator.load(opened, domain="winter")
    options = {"hwaccel": "cuda", **json.loads(more)}
    report = translate_video(path, result, with_model, codec=codec, overwrite=True, made_with={}, **options)
    told["frames"] = report.frames
    with_model.close()
told["kept"] = len(kept)
gc.collect()
told["lent"] = len(dlpack._lent)
to_frame = RgbToFrame()
with av.open(results["lossless"]) as container:
    rgb = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
given = [to_frame(frame).to_ndarray() for frame in rgb]
with av.open(results["h264_nvenc"]) as container:
    context = container.streams.video[0].codec_context
    told["tags"] = [context.color_primaries, context.color_trc, context.colorspace, context.color_range]
    got = [(frame.pts * frame.time_base, frame.to_ndarray()) for frame in container.decode(video=0)]
told["seconds"] = [float(time) for time, _ in got]
apart = [np.abs(one.astype(int) - two) for one, (_, two) in zip(given, got, strict=True)]
told["worst"], told["mean"] = max(int(one.max()) for one in apart), max(float(one.mean()) for one in apart)
told["range"] = int(np.ptp(got[-1][1]))
print(json.dumps(told))
"""


def test_frames_go_from_the_decoder_to_the_encoder_in_the_memory_of_the_card(card, tmp_path, tiny_bundle) -> None:
    """But for the first one, which PyAV uploads."""
    path = make(tmp_path / "a.mp4", "libx264", (64, 48), "yuv420p")
    nvdec.pictures(path, tmp_path / "pictures", (64, 48))
    told = translate(card, tiny_bundle, path, code=ENCODE)
    checks = 2  # the picture of noise, for each of two lanes
    assert (told["frames"], told["kept"], told["lent"]) == (12, 11 + checks, 0)
    assert told["tags"] == [1, 1, 1, 1]
    assert told["seconds"] == [index / 25 for index in range(12)]
    assert told["worst"] <= 1
    assert told["mean"] < 0.1
    assert told["range"] > 100
    # Packets of either way can be joined.
    assert told["facts"] == translate(card, tiny_bundle, path, code=ENCODE, hwaccel="off")["facts"]


FULL = """
from pathlib import Path
from dsmap.runtime.backends import dlpack

dlpack.DEVICES["cpu"] = 2
try:
    with translator.Translator.load(opened, domain="winter") as with_model:
        translate_video(path, path + ".nvenc.mp4", with_model, codec="h264_nvenc", hwaccel="cuda")
except DsmapError as error:
    print(json.dumps([error.fact, error.advice, len(list(Path(path).parent.glob("*.nvenc*")))]))
"""


def test_a_card_without_memory_for_the_encoders_frames_is_told_what_to_do(card, tmp_path, tiny_bundle, monkeypatch):
    path = make(tmp_path / "a.mp4", "libx264", (64, 48), "yuv420p")
    nvdec.pictures(path, tmp_path / "pictures", (64, 48))
    monkeypatch.setenv("NVDEC_ROOM", "1000000")
    fact, advice, files = translate(card, tiny_bundle, path, code=FULL)
    assert fact == "H.264 by NVENC cannot encode frames of 64x48: Cannot allocate memory"
    assert (advice.startswith("leave out --hwaccel, or"), files) == (True, 0)


def test_results_stay_there_only_if_frames_do(card, tmp_path, tiny_bundle, monkeypatch) -> None:
    path = make(tmp_path / "a.mp4", "libx264", (64, 48), "yuv420p")
    nvdec.pictures(path, tmp_path / "pictures", (64, 48))
    told = translate(card, tiny_bundle, path, code=ENCODE, hwaccel="off")
    assert (told["frames"], told["kept"], told["worst"]) == (12, 0, 0)
    monkeypatch.setenv("NVDEC_NO_PRIMARY", "1")
    told = translate(card, tiny_bundle, path, code=ENCODE)
    assert (told["frames"], told["kept"], told["worst"]) == (12, 0, 0)
