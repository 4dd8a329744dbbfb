"""Bringing translations of a lower height to full size along the input's edges."""

import itertools
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
from stand_in import run
from typer.testing import CliRunner

from dsmap.common.images import read_rgb, write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.frame_translator import FunctionTranslator, as_frame_translator
from dsmap.runtime.jobs.batch import run_request
from dsmap.runtime.jobs.batch_report import ModelLoaded
from dsmap.runtime.jobs.images import translate_image
from dsmap.runtime.jobs.options import ModelOptions, VideoOptions
from dsmap.runtime.jobs.preview import shown_size
from dsmap.runtime.jobs.request import resolve_request
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.jobs.video_work import open_for
from dsmap.runtime.live.translation import Preparation
from dsmap.runtime.open_model import open_model
from dsmap.runtime.refine.choice import is_refined, size_inside
from dsmap.runtime.refine.guided import guided
from dsmap.runtime.refine.learnt import open_refiner
from dsmap.runtime.stabilization.stabilizer import StabilizedTranslator, Stabilizer
from dsmap.runtime.video.scaling import scaled
from dsmap.tools.live import app

WINTER = ("-d", "winter")


def texture(height: int = 96, width: int = 128) -> np.ndarray:
    """Colours that change slowly, with fine stripes."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    slow = np.stack([90 + x * 60 / width, 120 + y * 50 / height, 140 - x * 60 / width], 2)
    return np.clip(slow + (30 * np.sin(x * 1.9) * np.sin(y * 0.4))[..., None], 0, 255).astype(np.uint8)


def colder(rgb: np.ndarray) -> np.ndarray:
    return np.clip(rgb @ np.float32([[0.6, 0.2, 0.2], [0.2, 0.7, 0.3], [0.1, 0.1, 0.7]]) + 20, 0, 255).astype(np.uint8)


def refined(rgb: np.ndarray, translate, size: tuple[int, int]) -> np.ndarray:
    small = scaled(rgb, size)
    return guided(rgb, small, translate(small))


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(one.astype(float) - two).mean())


def test_details_come_back():
    rgb = texture()
    small = scaled(rgb, (64, 48))
    plain = psnr(scaled(colder(small), (128, 96)), colder(rgb))
    assert psnr(guided(rgb, small, colder(small)), colder(rgb)) > plain + 6


@pytest.mark.parametrize("level", [0, 1, 90, 255])
@pytest.mark.parametrize("size", [(128, 96), (131, 97), (2, 2), (7, 300)])
def test_a_plain_colour_stays_one(level: int, size: tuple[int, int]):
    width, height = size
    rgb = np.full((height, width, 3), level, np.uint8)
    small = scaled(rgb, (max(1, width // 3), max(1, height // 3)))
    target = np.broadcast_to(np.uint8([200, 30, 255 - level]), small.shape)
    assert np.abs(guided(rgb, small, target).astype(int) - target[0, 0]).max() <= 1


@pytest.mark.parametrize("colour", [(255, 255, 0), (255, 0, 0), (135, 190, 235)])
def test_the_bundled_refiner_draws_no_grid_on_plain_colours(colour: tuple[int, int, int]):
    refine = open_refiner(open_model("summer-winter"), "winter", threads=1)
    frame_rgb = np.full((96, 130, 3), colour, np.uint8)
    small_rgb = np.ascontiguousarray(frame_rgb[::2, ::2])
    result_rgb = refine(frame_rgb, small_rgb, np.full_like(small_rgb, (215, 90, 50)))
    assert np.ptp(result_rgb[16:-16, 16:-16], (0, 1)).max() <= 1


@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("grey", [True, False])
def test_an_edge_stays_sharp_and_gets_no_halo(ratio: int, grey: bool):
    rgb = np.full((96, 128, 3), 40, np.uint8)
    rgb[:, 61:] = 200 if grey else (200, 150, 90)
    result = refined(rgb, lambda small: 255 - small, (128 // ratio, 96 // ratio)).astype(int)
    wanted = 255 - rgb.astype(int)
    low, high = wanted.min((0, 1)), wanted.max((0, 1))
    assert (result >= low - 8).all()
    assert (result <= high + 8).all()
    if grey:
        assert np.abs(result - wanted).max() <= 12


def test_thin_lines_stay_whole():
    rgb = np.full((96, 128, 3), 180, np.uint8)
    rgb[:, 64] = 30
    cv2.line(rgb, (5, 5), (60, 90), (20, 20, 20), 1)
    result = refined(rgb, lambda small: small // 2 + 60, (32, 24)).astype(int)
    plain = scaled(scaled(rgb, (32, 24)) // 2 + 60, (128, 96)).astype(int)
    contrast, of_plain = (np.ptp(image[48, 58:71, 0]) for image in (result, plain))
    assert contrast > 60 > 1.5 * of_plain  # 75 in the translation at full size


@pytest.mark.parametrize("shape", [(97, 131), (480, 640), (243, 431), (64, 2), (2, 64)])
def test_strips_fit_together(shape: tuple[int, int], monkeypatch):
    """The result does not depend on where one strip ends."""
    rgb = cv2.resize(texture(), shape[::-1])
    size = max(1, shape[1] * 2 // 5), max(1, shape[0] * 2 // 5)
    one = refined(rgb, colder, size)
    monkeypatch.setattr("dsmap.runtime.refine.strips.ROWS", 100_000)
    assert np.abs(one.astype(int) - refined(rgb, colder, size)).max() <= 1
    assert one.shape == rgb.shape


def test_it_is_deterministic_and_leaves_its_inputs():
    rgb = texture(243, 431)
    small = scaled(rgb, (214, 121))
    inputs = rgb, small, colder(small)
    copies = [image.copy() for image in inputs]
    assert np.array_equal(guided(*inputs), guided(*inputs))
    assert all(map(np.array_equal, inputs, copies))


def test_auto_refines_what_is_enlarged_by_much():
    assert is_refined("auto", (480, 270), (1920, 1080))
    assert not is_refined("auto", (880, 500), (960, 540))
    assert is_refined("guided", (880, 500), (960, 540))
    assert not is_refined("guided", (960, 540), (480, 270))
    assert not is_refined("off", (480, 270), (1920, 1080))
    with pytest.raises(InputError, match="--refine learned is not known"):
        VideoOptions(refine="learned")


def test_an_image_is_refined_unless_it_is_off(tmp_path: Path):
    rgb = texture()
    write_rgb(tmp_path / "in.png", rgb)
    quality = {}
    for refine in ("auto", "guided", "off"):
        output = tmp_path / f"{refine}.png"
        translate_image(tmp_path / "in.png", output, colder, height=48, refine=refine)
        quality[refine] = psnr(read_rgb(output), colder(rgb))
    assert quality["auto"] == quality["guided"] > quality["off"] + 6


def test_a_resumed_video_keeps_the_choice(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=8)
    output = tmp_path / "out.mp4"
    left = iter(range(5))

    def fails(frame: np.ndarray) -> np.ndarray:
        if next(left, None) is None:
            raise DsmapError("the GPU fell off", "put it back")
        return frame

    with pytest.raises(DsmapError, match="fell off"):
        translate_video(source, output, fails, made_with={}, height=24)
    with pytest.raises(InputError, match=r"--refine was auto and is off"):
        translate_video(source, output, colder, made_with={}, height=24, refine="off", resume=True)
    assert translate_video(source, output, colder, made_with={}, height=24, resume=True).frames == 8


def test_the_command(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips.make_clip(tmp_path / "a.mp4", frames=2, size=(96, 64))
    code, out, _ = run("a.mp4", *WINTER, "--height", "32", "--side-by-side")
    assert code == 0
    assert "96x64, translated at 32 lines and refined, result 192x64" in out
    assert clips.read(tmp_path / "a-winter.mp4").frames[0].shape == (64, 192, 3)


def test_options_without_effect_are_refused(tmp_path: Path):
    clips.make_clip(tmp_path / "a.mp4", frames=2)
    options = VideoOptions(refine="guided", height=24, upscale=False)
    with pytest.raises(InputError, match="--refine does not go with --no-upscale"):
        resolve_request([str(tmp_path / "a.mp4")], model=ModelOptions(domain="winter"), options=options)


def test_large_frames_are_refined_by_default(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert size_inside(960, 540, None, "auto") == (960, 540)
    assert size_inside(1280, 720, None, "auto") == (640, 360)
    assert size_inside(1920, 1080, None, "auto") == (960, 540)
    assert size_inside(3840, 2160, None, "auto") == (960, 540)
    assert size_inside(1080, 1920, None, "auto") == (540, 960)
    assert size_inside(1920, 1080, None, "off") == (1920, 1080)
    clips.make_clip(tmp_path / "a.mp4", frames=1, size=(48, 544))
    assert "translated" not in run("a.mp4", *WINTER)[1]
    clips.make_clip(tmp_path / "a.mp4", frames=1, size=(544, 542))
    code, out, _ = run("a.mp4", *WINTER, "--overwrite")
    assert code == 0
    assert "544x542, translated at 271 lines and refined (--refine off: at full size), result 544x542" in out
    for model, options in (({"tile": True}, {}), ({}, {"refine": "off"})):
        request = resolve_request(
            [str(tmp_path / "a.mp4")],
            model=ModelOptions(domain="winter", **model),
            options=VideoOptions(overwrite=True, **options),
        )
        assert request.options.size_inside(1920, 1080) == (1920, 1080)
    assert VideoOptions(upscale=False).size_inside(1920, 1080) == (1920, 1080)


def test_what_refines_large_frames_by_default_is_said_and_reported(tmp_path: Path):
    for size, said in (((544, 542), True), ((64, 48), False)):
        source = clips.make_clip(tmp_path / f"{size[0]}.mp4", frames=1, size=size)
        request = resolve_request([str(source)], model=ModelOptions(domain="winter", backend="cpu"))
        events: list = []
        facts = run_request(request, events.append).facts
        lines = next(event for event in events if isinstance(event, ModelLoaded)).lines
        assert (facts["refine"], "refined by the model's refiner" in lines) == ("learnt", said)


def test_a_folder_says_what_is_done_to_large_images(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in ("a.png", "b.png"):
        write_rgb(Path("in", name), texture(24, 32))
    for number, (options, said) in enumerate(
        (
            ((), ", above 540 lines translated at half of them, 540 at most, and refined (--refine off: at full size)"),
            (("--refine", "off"), ""),
            (("--refine", "guided"), ", translated at half the size, 540 lines at most, and refined"),
            (("--height", "16"), ", translated at 16 lines, and refined if larger"),
            (("--height", "16", "--refine", "off"), ", translated at 16 lines"),
        )
    ):
        assert f"each at its own size{said}, 2 images" in run("in", *WINTER, "-o", f"out{number}", *options)[1]


def test_frames_in_a_devices_memory_are_translated_at_their_own_size_only(tmp_path: Path):
    class OnDevice(FunctionTranslator):
        def takes_device_frames(self, width=None, height=None):
            return True

    clips.make_clip(tmp_path / "a.mp4", frames=1, size=(544, 542))
    for options, kept in ((VideoOptions(), False), (VideoOptions(refine="off"), True)):
        reader, _ = open_for(OnDevice(colder), tmp_path / "a.mp4", options, print)
        with reader:
            assert reader.on_device == kept


def test_a_preview_shows_frames_at_the_size_of_their_translation():
    assert shown_size(1920, 1080, VideoOptions()) == (960, 540)
    assert shown_size(1280, 720, VideoOptions()) == (640, 360)
    assert shown_size(1080, 1920, VideoOptions()) == (540, 960)
    assert shown_size(1080, 1920, VideoOptions(refine="off")) == (540, 960)
    assert shown_size(1920, 1080, VideoOptions(height=720)) == (1280, 720)


def test_without_a_height_refining_chooses_one(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert size_inside(1920, 1080, None, "guided") == (960, 540)
    assert size_inside(3840, 2160, None, "learnt") == (960, 540)
    assert size_inside(640, 480, None, "guided") == (320, 240)
    assert size_inside(640, 480, 360, "guided") == (480, 360)
    clips.make_clip(tmp_path / "a.mp4", frames=2, size=(96, 64))
    code, out, _ = run("a.mp4", *WINTER, "--refine", "guided")
    assert code == 0
    assert "96x64, translated at 32 lines and refined" in out
    write_rgb(tmp_path / "in.png", texture())
    whole = translate_image(tmp_path / "in.png", tmp_path / "out.png", colder, refine="guided")
    assert (whole.width, whole.height) == (64, 48)
    assert psnr(read_rgb(tmp_path / "out.png"), colder(texture())) > 30


@pytest.mark.parametrize("mirror", [True, False])
def test_live_results_get_the_size_of_the_camera(mirror: bool):
    rgb = texture()
    prepare = Preparation(height=48, mirror=mirror, refine="guided")
    small = prepare(rgb, 48)
    shown, result = prepare.refined(rgb, small, colder(small), as_frame_translator(colder))
    assert np.array_equal(shown, rgb[:, ::-1] if mirror else rgb)
    assert psnr(result, colder(shown)) > 30
    same = Preparation(height=48, refine="off").refined(rgb, small, small, as_frame_translator(colder))
    assert same[0] is small


def test_less_flickers_than_with_a_plain_resize():
    """Stabilized or not, in a still scene whose translation is noisy."""
    rgb = texture()
    noisy = [np.clip(colder(scaled(rgb, (64, 48))).astype(int) + noise, 0, 255).astype(np.uint8) for noise in noises()]
    for wrap in (lambda inner: inner, lambda inner: StabilizedTranslator(inner, Stabilizer())):
        change = {}
        for refine in ("guided", "off"):
            frames = iter(noisy)
            translator = wrap(as_frame_translator(lambda _rgb, frames=frames: next(frames)))
            steps = FrameSteps(translator, 128, 96, lines=48, refine=refine)
            clip = [steps.finish(rgb, steps.begin(rgb)()).astype(int) for _ in noisy]
            change[refine] = np.mean([np.abs(after - before).mean() for before, after in itertools.pairwise(clip)])
        assert change["guided"] < change["off"]


def noises() -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(-20, 21, (48, 64, 3)) for seed in range(5)]


def test_a_live_session_records_at_the_size_of_its_source(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips.make_clip(tmp_path / "camera.mp4", frames=4, size=(96, 64))
    line = ["--domain", "winter", "--camera", "camera.mp4", "--no-window", "--frames", "2", "--height", "32"]
    result = CliRunner().invoke(app, [*line, "--refine", "guided", "--record", "out.mp4"])
    assert result.exit_code == 0, result.output
    assert clips.read(tmp_path / "out.mp4").frames[0].shape == (64, 96, 3)
