"""Videos in the page: every frame once at its time, translated as by the Python runtime, with the sound."""

from fractions import Fraction

import av
import numpy as np
import pytest
from browsers import open_page
from camera_page import wait_for
from clips import make_clip, read, truncate
from file_page import give, open_mode, psnr, save

from dsmap.runtime import Translator
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader

COLOURS = ((40, 200, 60), (200, 60, 40), (30, 60, 220), (128, 128, 128), (240, 220, 30))
BT709 = {"colourspace": 1, "primaries": 1, "trc": 1}
VARIABLE = (0, 1001, 3003, 3500, 9009, 9010, 15015, 45045)
NO_WEBCODECS = (
    "for (const name of ['VideoEncoder', 'VideoDecoder', 'AudioEncoder', 'AudioDecoder']) delete globalThis[name]"
)
LATE = """
const ask = CanvasCaptureMediaStreamTrack.prototype.requestFrame
let asked = 0
CanvasCaptureMediaStreamTrack.prototype.requestFrame = function () {
  const late = ++asked % 3 === 2 ? 300 : 0
  if (!late) return ask.call(this)
  setTimeout(() => {
    this.canvas.getContext('2d').drawImage(this.canvas, 0, 0)
    ask.call(this)
  }, late)
}
"""
"""Frames 2 and 5 reach the recorder when their time is over, as on a busy machine."""
NO_H264 = """
const ask = VideoEncoder.isConfigSupported
VideoEncoder.isConfigSupported = async config => config.codec.startsWith('avc') ? {supported: false} : ask(config)
"""
KEPT = """async () => {
  const names = []
  const root = await navigator.storage.getDirectory()
  for await (const folder of root.values()) for await (const name of folder.keys()) names.push(name)
  return names
}"""


HELD = """
globalThis.translations = Infinity
const post = Worker.prototype.postMessage
const held = []
Worker.prototype.postMessage = function (message, ...more) {
  const send = () => post.call(this, message, ...more)
  if (message.call === 'translate' && translations-- <= 0) held.push(send)
  else send()
}
globalThis.letGo = () => {
  translations = Infinity
  held.splice(0).forEach(send => send())
}
"""
"""So many translations of frames get through; the next ones wait for `letGo()`."""


@pytest.fixture(scope="module")
def shared_page(camera_chromium, camera_address):
    with open_page(camera_chromium, accept_downloads=True) as page:
        page.add_init_script(HELD)
        open_mode(page, camera_address, "video")
        yield page


@pytest.fixture
def page(shared_page):
    shared_page.complaints.clear()
    yield shared_page
    assert shared_page.complaints == []


@pytest.fixture(scope="module")
def translator(tiny_bundle):
    return Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1)


def translate(page, path, folder):
    """Through the page, by its buttons."""
    choose(page, path)
    page.click("#start")
    page.wait_for_selector("#download")
    return save(page, "#download", folder)


def choose(page, path):
    page.set_input_files("#files", path)
    wait_for(lambda: "It takes about" in said(page, "#estimate"), "the preview")


def said(page, selector):
    found = page.query_selector(selector)
    return found.inner_text() if found else ""


def expected(path, translator):
    """The frames that `dsmap video` gives its encoder."""
    with VideoReader(path) as reader:
        return [translator(item.rgb) for item in reader if isinstance(item, Frame)]


def check(result, original, translator, least=33):
    """Every frame once, at its time, as the runtime translates it, and the sound's packets as they were."""
    got, source = read(result), read(original)
    assert got.times == source.times
    assert got.audio == source.audio
    close(got.frames, expected(original, translator), least)
    return got


def close(frames, wanted, least=33):
    """Nothing but the encoder is between them. It halves the resolution of the colours, and those of a random network
    change from pixel to pixel: luminance is compared pixel by pixel, colour by the mean of 2 x 2.
    """
    for frame_rgb, wanted_rgb in zip(frames, wanted, strict=True):
        assert psnr(luminance(frame_rgb), luminance(wanted_rgb)) > least
        assert psnr(halved(frame_rgb), halved(wanted_rgb)) > least - 3


def luminance(image_rgb):
    return image_rgb @ np.array([0.2126, 0.7152, 0.0722])


def halved(image_rgb):
    height, width = image_rgb.shape[0] // 2, image_rgb.shape[1] // 2
    return image_rgb[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("tags", [{}, BT709, BT709 | {"colour_range": 2, "pix_fmt": "yuvj420p"}])
def test_frames_are_the_runtimes(page, translator, tmp_path, tags):
    """Untagged (read as BT.601, as small videos are), BT.709, and BT.709 in full range, with sound."""
    clip = make_clip(
        tmp_path / "a clip.mp4", frames=10, size=(64, 64), colours=COLOURS, ramp=True, audio=["aac"], **tags
    )
    result = translate(page, clip, tmp_path)
    assert result.name == "a-clip-winter.mp4"
    check(result, clip, translator)
    assert "10 frames · MP4 (H.264, sound copied)" in said(page, "#result-facts")
    with av.open(result) as container:
        stream = container.streams.video[0].codec_context
        assert (stream.name, stream.colorspace, stream.color_range, stream.color_primaries) == ("h264", 1, 1, 1)


def test_variable_rates_keep_their_times(page, translator, tmp_path):
    clip = make_clip(tmp_path / "variable.mp4", ramp=True, size=(64, 64), pts=VARIABLE, frames=len(VARIABLE))
    check(translate(page, clip, tmp_path), clip, translator)
    assert "no sound" in said(page, "#result-facts")


def test_a_late_start_and_two_sounds_are_kept(page, translator, tmp_path):
    clip = make_clip(
        tmp_path / "late.mp4",
        ramp=True,
        size=(64, 64),
        pts=[5000 + 1000 * i for i in range(8)],
        frames=8,
        audio=["aac", "aac"],
    )
    got = check(translate(page, clip, tmp_path), clip, translator)
    assert len(got.audio) == 2


@pytest.mark.parametrize("rotation", [90, 180])
def test_rotation_is_applied(page, translator, tmp_path, rotation):
    clip = make_clip(tmp_path / "turned.mp4", frames=4, size=(64, 48), ramp=True, rotation=rotation)
    result = translate(page, clip, tmp_path)
    got = read(result)
    assert got.frames[0].shape == ((64, 48, 3) if rotation == 90 else (48, 64, 3))
    close(got.frames, expected(clip, translator))
    with av.open(result) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_odd_sizes_and_webm(page, translator, tmp_path):
    """VP9 and Opus, 51 x 37: the result has even sides, and MP4 takes the sound as it is."""
    clip = make_clip(
        tmp_path / "odd.webm",
        codec="libvpx-vp9",
        ramp=True,
        frames=5,
        size=(51, 37),
        audio=["libopus"],
        time_base=Fraction(1, 1000),
        pts=range(0, 200, 40),
    )
    got = read(translate(page, clip, tmp_path))
    source = read(clip)
    assert got.times == source.times
    assert [packet for _, packet in got.audio[0]] == [packet for _, packet in source.audio[0]]
    assert got.frames[0].shape == (38, 52, 3)
    close([frame_rgb[:37, :51] for frame_rgb in got.frames], expected(clip, translator), least=28)


def test_sound_that_mp4_does_not_take_is_encoded_again(page, tmp_path):
    clip = make_clip(tmp_path / "plain.mov", frames=15, size=(64, 64), audio=["pcm_s16le"], audio_seconds=0.5)
    result = translate(page, clip, tmp_path)
    assert said(page, "#result-notes") == "The sound is encoded again, from PCM to Opus: MP4 cannot hold PCM."
    with av.open(result) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(sound) / 48000 == pytest.approx(0.5, abs=0.05)
    assert 0.15 < sound[4800:19200].std() < 0.25  # a tone of amplitude 0.3
    assert len(read(result).frames) == 15


def test_without_webcodecs_mediarecorder_writes_the_same_times(camera_chromium, camera_address, translator, tmp_path):
    clip = make_clip(
        tmp_path / "old.mp4", ramp=True, size=(64, 64), pts=VARIABLE[:6], frames=6, audio=["aac"], audio_seconds=0.4
    )
    with open_page(camera_chromium, accept_downloads=True) as page:
        page.add_init_script(NO_WEBCODECS + LATE)
        open_mode(page, camera_address, "video")
        result = translate(page, clip, tmp_path)
        assert "Recorded with MediaRecorder" in said(page, "#result-notes")
        assert page.complaints == []
    check(result, clip, translator, least=20)


def test_without_h264_it_is_webm(camera_chromium, camera_address, translator, tmp_path):
    """VP9, and Opus in place of AAC."""
    clip = make_clip(tmp_path / "free.mp4", ramp=True, size=(64, 64), frames=6, audio=["aac"], audio_seconds=0.4)
    with open_page(camera_chromium, accept_downloads=True) as page:
        page.add_init_script(NO_H264)
        open_mode(page, camera_address, "video")
        result = translate(page, clip, tmp_path)
        assert "WebM (VP9, sound encoded)" in said(page, "#result-facts")
        assert "from AAC to Opus" in said(page, "#result-notes")
    assert result.name == "free-winter.webm"
    got, source = read(result), read(clip)
    assert [float(time) for time in got.times] == pytest.approx([float(time) for time in source.times], abs=0.0006)
    close(got.frames, expected(clip, translator))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty.mp4", "empty.mp4 is empty."),
        ("text.mp4", "text.mp4 cannot be read as a video"),
        ("cut.mp4", "cut.mp4 holds no video."),
        ("hevc.mp4", "This browser cannot decode the video of hevc.mp4: it is H.265 (HEVC)."),
        ("xvid.mp4", "This browser cannot decode the video of xvid.mp4: it is MPEG-4 Part 2, as in DivX and Xvid."),
    ],
)
def test_what_cannot_be_read_is_said(page, tmp_path, name, words):
    clip = tmp_path / name
    if name in ("empty.mp4", "text.mp4"):
        clip.write_bytes(b"" if name == "empty.mp4" else b"no video\n" * 99)
    else:
        codec = {"hevc.mp4": "libx265", "xvid.mp4": "mpeg4"}.get(name, "libx264")
        make_clip(clip, frames=3, size=(64, 64), codec=codec, time_base=Fraction(1, 30), pts=range(3))
    if name == "cut.mp4":
        truncate(clip, 0.5)
    give(page, "drop", [clip])
    wait_for(lambda: words in said(page, "[role=alert]"), words)
    assert "mp4" in said(page, "[role=alert] .text").lower()


def test_a_video_that_is_cut_off_says_so(page, tmp_path):
    clip = make_clip(
        tmp_path / "cut.mp4", frames=60, size=(64, 64), ramp=True, container_options={"movflags": "+faststart"}
    )
    result = translate(page, truncate(clip, 0.7), tmp_path)
    assert "The file says 2.0 s, but its frames end after" in said(page, "#result-notes")
    assert 5 < len(read(result).frames) < 59


def test_cancel_keeps_nothing(page, translator, tmp_path):
    """And the next run is whole. What a run has written goes with the next video, or with the page's next visit."""
    clip = make_clip(tmp_path / "long.mp4", frames=60, size=(64, 64))
    choose(page, clip)
    page.evaluate("translations = 20")
    page.click("#start")
    wait_for(lambda: "frame" in said(page, "#progress-text"), "progress")
    assert page.evaluate("document.querySelector('#controls').inert")
    page.click("#cancel")
    page.evaluate("letGo()")
    page.wait_for_selector("#start")
    assert not page.evaluate("document.querySelector('#controls').inert")
    wait_for(lambda: page.evaluate(KEPT) == [], "an empty store")

    short = make_clip(tmp_path / "short.mp4", frames=4, ramp=True, size=(64, 64))
    check(translate(page, short, tmp_path), short, translator)
    page.click("#tab-images")
    page.wait_for_selector("#tab-images[aria-selected=true]")
    page.click("#tab-video")
    page.wait_for_selector("#download")
    assert len(page.evaluate(KEPT)) == 1
    choose(page, clip)
    assert page.evaluate(KEPT) == []
