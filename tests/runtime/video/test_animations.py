"""Animated images as input and output: frames, durations and loop counts; still images never become videos."""

import json
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import clips
import heic
import numpy as np
import pytest
from PIL import Image
from stand_in import run

from dsmap.common.images import read_rgb, write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.images import translate_folder, translate_image
from dsmap.runtime.jobs.plan import files_left_out, plan_jobs
from dsmap.runtime.jobs.video import check_video, translate_video
from dsmap.runtime.video.animation_reader import AnimationReader
from dsmap.runtime.video.animation_writer import AnimationWriter
from dsmap.runtime.video.sequence_reader import open_reader

SIZE = (48, 64)
DURATIONS = [100, 40, 200, 70]  # milliseconds
GREYS = [20, 90, 160, 230]


def grey(level: int) -> Image.Image:
    return Image.fromarray(np.full((*SIZE, 3), level, np.uint8))


def moving(path: Path, name: str, *, loop: int = 0, **options: object) -> Path:
    grey(GREYS[0]).save(
        path, name, save_all=True, append_images=[grey(g) for g in GREYS[1:]], duration=DURATIONS, loop=loop, **options
    )
    return path


def same(frame: np.ndarray) -> np.ndarray:
    return frame


def frames_of(source: Path, **options: object) -> list[tuple[float, float, np.ndarray]]:
    """(begin, duration, RGB) of every frame, times in seconds, as a job reads them."""
    with open_reader(source, **options) as reader:
        return [(float(f.pts * reader.time_base), float(f.duration * reader.time_base), f.rgb) for f in reader]


def shown(path: Path) -> list[tuple[int, int]]:
    """(milliseconds, grey level) of every frame, as Pillow reads them."""
    found = []
    with Image.open(path) as opened:
        for index in range(getattr(opened, "n_frames", 1)):
            opened.seek(index)
            opened.load()
            found.append((round(opened.info["duration"]), int(np.asarray(opened.convert("RGB"))[20, 30, 1])))
    return found


@pytest.mark.parametrize(("name", "suffix"), [("GIF", ".gif"), ("WEBP", ".webp"), ("PNG", ".png"), ("AVIF", ".avif")])
def test_every_frame_is_read_with_its_duration(tmp_path, name, suffix):
    source = moving(tmp_path / f"in{suffix}", name)
    found = frames_of(source)
    assert [round(begin * 1000) for begin, _, _ in found] == [0, 100, 140, 340]
    assert [round(duration * 1000) for _, duration, _ in found] == DURATIONS
    assert [abs(int(rgb[20, 30, 1]) - level) <= 4 for (_, _, rgb), level in zip(found, GREYS, strict=True)] == [
        True
    ] * 4
    facts = check_video(source, tmp_path / "out.mp4")
    assert (facts.frames, facts.width, facts.height) == (4, 64, 48)
    assert "animated" in facts.notes[0]
    assert "loops forever" in facts.notes[0]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng"])
@pytest.mark.parametrize(("name", "loop", "again"), [("GIF", 2, 3), ("WEBP", 0, 0), ("PNG", 1, 1)])
def test_durations_and_loops_survive(tmp_path, suffix, name, loop, again):
    """`again`: how often it is played; a GIF stores how often it is repeated."""
    output = tmp_path / f"out{suffix}"
    report = translate_video(moving(tmp_path / "in", name, loop=loop), output, same)
    assert (report.frames, report.frames_expected, report.complete) == (4, 4, True)
    found = shown(output)
    assert [duration for duration, _ in found] == DURATIONS
    np.testing.assert_allclose([level for _, level in found], GREYS, atol=4)
    with Image.open(output) as opened:
        written = opened.info.get("loop", -1)
    assert written == (({0: 0, 1: -1}.get(again, again - 1)) if suffix == ".gif" else again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", output.name]


def test_as_a_video(tmp_path):
    report = translate_video(moving(tmp_path / "in.gif", "GIF"), tmp_path / "out.mp4", same)
    assert report.frames == 4
    times = clips.read(tmp_path / "out.mp4").times
    assert [round(float(time) * 1000) for time in times] == [0, 100, 140, 340]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_a_video_becomes_an_animated_image(tmp_path, suffix):
    pts = [0, 3000, 9000, 12000]
    source = clips.make_clip(tmp_path / "in.mp4", pts=pts, last_duration=6000, audio=["aac"])
    facts = check_video(source, tmp_path / f"out{suffix}")
    assert facts.audio_streams == 0
    assert "no sound" in facts.left_out[0]
    assert translate_video(source, tmp_path / f"out{suffix}", same).frames == 4
    assert [duration for duration, _ in shown(tmp_path / f"out{suffix}")] == [100, 200, 100, 200]


def test_a_video_does_not_become_a_png_by_accident(tmp_path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=2)
    with pytest.raises(InputError, match="does not fit into one image"):
        translate_video(source, tmp_path / "out.png", same)


def test_a_part(tmp_path):
    source = moving(tmp_path / "in.webp", "WEBP")
    assert [round(b * 1000) for b, _, _ in frames_of(source, start=0.1, frames=2)] == [0, 40]
    assert len(frames_of(source, end=0.14)) == 2
    with pytest.raises(InputError, match=r"it lasts 0\.41 s"):
        frames_of(source, start=5)


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((*SIZE, 4), np.uint8)
    rgba[:, :32] = (200, 40, 60, 255)
    other = rgba[:, ::-1].copy()
    for name in ("PNG", "WEBP", "AVIF"):
        options = {"lossless": True} if name == "WEBP" else {"quality": 100} if name == "AVIF" else {"disposal": 1}
        Image.fromarray(rgba).save(
            tmp_path / "in", name, save_all=True, append_images=[Image.fromarray(other)], duration=100, **options
        )
        (_, _, first), (_, _, second) = frames_of(tmp_path / "in")
        for rgb, red in ((first, 10), (second, 50)):
            assert np.abs(rgb[20, red].astype(int) - (200, 40, 60)).max() <= 4
            assert rgb[20, 60 - red].min() >= 252


def gif_frame(left, top, width, height, index, *, disposal=0, delay=10, transparent=None):
    """A frame of one palette index; its LZW is written with clear codes, so that it never grows."""
    flags = disposal << 2 | (transparent is not None)
    control = b"!\xf9\4" + struct.pack("<BHB", flags, delay, transparent or 0) + b"\0"
    codes = []
    for _ in range(width * height):
        codes += [4, index]
    bits = sum(code << 3 * place for place, code in enumerate([*codes, 5]))
    data = bits.to_bytes((3 * (len(codes) + 1) + 7) // 8, "little")
    blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
    return control + b"," + struct.pack("<4HB", left, top, width, height, 0) + b"\2" + blocks + b"\0"


def test_gif_disposal_offsets_and_transparency(tmp_path):
    """Black, red, green, blue: the canvas is filled, then parts of it are drawn over and restored."""
    palette = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    data = b"GIF89a" + struct.pack("<HHBBB", 16, 8, 0x81, 0, 0) + palette
    data += gif_frame(0, 0, 16, 8, 1, disposal=1)
    data += gif_frame(4, 2, 4, 4, 2, disposal=3)  # restored
    data += gif_frame(8, 2, 4, 4, 3, disposal=2)  # to the background: transparent
    data += gif_frame(0, 0, 2, 2, 2, disposal=1, transparent=2)  # nothing is drawn
    (tmp_path / "in.gif").write_bytes(data + b";")
    first, second, third, fourth = (rgb for _, _, rgb in frames_of(tmp_path / "in.gif"))
    red, green, blue, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    assert (first == red).all()
    assert (second[2:6, 4:8] == green).all()
    assert (second[2:6, 8:12] == red).all()
    assert (third[2:6, 4:8] == red).all()
    assert (third[2:6, 8:12] == blue).all()
    assert (fourth[2:6, 8:12] == white).all()
    assert (fourth[:2] == red).all()


def test_a_png_whose_default_image_is_no_frame(tmp_path):
    default = grey(255)
    default.save(
        tmp_path / "in.png",
        save_all=True,
        default_image=True,
        append_images=[grey(g) for g in GREYS],
        duration=DURATIONS,
    )
    found = frames_of(tmp_path / "in.png")
    assert [int(rgb[0, 0, 0]) for _, _, rgb in found] == GREYS
    assert [round(duration * 1000) for _, duration, _ in found] == DURATIONS


def test_what_is_cut_off_is_counted(tmp_path):
    source = moving(tmp_path / "in.png", "PNG")
    data = source.read_bytes()
    last = data.rindex(b"fdAT")
    source.write_bytes(data[: last + 6])
    report = translate_video(source, tmp_path / "out.webp", same)
    assert not report.complete
    assert (report.frames, report.frames_expected) == (3, 4)


def test_a_bomb_is_refused(tmp_path):
    data = moving(tmp_path / "in.gif", "GIF").read_bytes()
    (tmp_path / "in.gif").write_bytes(data[:6] + struct.pack("<HH", 60_000, 60_000) + data[10:])
    with pytest.raises(InputError, match="60000x60000"):
        check_video(tmp_path / "in.gif", tmp_path / "out.gif")


def test_many_frames_a_second_are_slowed_down_in_a_gif_only(tmp_path):
    """Players treat less than 0.02 s as 0.1 s."""
    fast = clips.make_clip(tmp_path / "fast.mp4", pts=[i * 300 for i in range(4)], last_duration=300)
    assert "plays slower" in check_video(fast, tmp_path / "b.gif").notes[-1]
    assert check_video(fast, tmp_path / "b.webp").notes == ()
    for suffix, expected in ((".gif", 20), (".webp", 10)):
        writer = AnimationWriter(tmp_path / f"a{suffix}", width=8, height=8, time_base=Fraction(1, 100))
        for index in range(4):
            writer.write(np.full((8, 8, 3), 60 * index, np.uint8), index, 1)
        writer.close()
        writer.close()  # harmless
        with Image.open(tmp_path / f"a{suffix}") as opened:
            durations = []
            for index in range(4):
                opened.seek(index)
                opened.load()
                durations.append(opened.info["duration"])
        assert durations == [expected] * 4


def test_nothing_is_replaced_or_left_behind(tmp_path):
    source = moving(tmp_path / "in.gif", "GIF")
    (tmp_path / "out.gif").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists already"):
        translate_video(source, tmp_path / "out.gif", same)
    writer = AnimationWriter(tmp_path / "new.gif", width=8, height=8, time_base=Fraction(1, 100))
    writer.write(np.zeros((8, 8, 3), np.uint8), 0, 10)
    (tmp_path / "new.gif").write_bytes(b"somebody else's")
    with pytest.raises(DsmapError, match=r"saved as .*new-2\.gif"):
        writer.close()
    assert (tmp_path / "new.gif").read_bytes() == b"somebody else's"
    writer = AnimationWriter(tmp_path / "gone.gif", width=8, height=8, time_base=Fraction(1, 100))
    writer.discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.gif", "new-2.gif", "new.gif", "out.gif"]


@pytest.mark.parametrize(("name", "result"), [("heic", "png"), ("avif", "avif"), ("gif", "png"), ("jpg", "jpg")])
def test_a_still_is_no_video(tmp_path, name, result):
    source = tmp_path / f"in.{name}"
    if name == "heic":
        heic.write_heic(source, np.full((64, 64, 3), 90, np.uint8))
    else:
        grey(90).save(source)
    (job,) = plan_jobs([str(source)], None, "winter")
    assert (job.kind, job.output.name) == ("image", f"in-winter.{result}")
    with pytest.raises(InputError, match="is an image"):
        translate_video(source, tmp_path / "out.mp4", same)
    renamed = source.rename(tmp_path / "clip.mp4")
    assert plan_jobs([str(renamed)], None, "winter")[0].kind == "image"
    report = translate_image(renamed, tmp_path / "out.avif", same)
    assert report.frames == 1
    assert np.abs(read_rgb(tmp_path / "out.avif").astype(int) - 90).max() <= 4


def test_results_of_animated_images(tmp_path):
    for name, suffix, result in (
        ("GIF", ".gif", ".gif"),
        ("WEBP", ".webp", ".webp"),
        ("PNG", ".apng", ".png"),
        ("AVIF", ".avif", ".webp"),
    ):
        source = str(moving(tmp_path / f"in{suffix}", name))
        (job,) = plan_jobs([source], None, "winter")
        assert (job.kind, job.output.name) == ("video", f"in-winter{result}")
        assert plan_jobs([source], None, "winter", animations_stay=False)[0].output.name == "in-winter.mp4"


def test_a_folder_of_everything(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_rgb(folder / "a.png", np.zeros((*SIZE, 3), np.uint8))
    moving(folder / "b.gif", "GIF")
    moving(folder / "a.webp", "WEBP")
    moving(folder / "a.avif", "AVIF")
    clips.make_clip(folder / "clip.mp4", frames=2)
    (folder / "._clip.mp4").write_bytes(b"\0\5\x16\7" + bytes(100))
    (folder / "dead.jpg").symlink_to("/nowhere")
    jobs = plan_jobs([str(folder)], tmp_path / "out", "winter")
    assert jobs[0].kind == "folder"
    assert sorted(job.output.name for job in jobs[1:]) == ["a.avif.webp", "a.webp", "b.gif", "clip.mp4"]
    assert files_left_out([str(folder)]) == {str(folder): (("AppleDouble file", 1), ("dead link", 1))}
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / ".DS_Store").write_bytes(b"x")
    with pytest.raises(InputError, match="holds no images and no videos \\(1 file left out: 1 system file\\)"):
        plan_jobs([str(empty)], None, "winter")


def test_a_folder_goes_on_past_a_bomb(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        write_rgb(folder / name, np.full((*SIZE, 3), 90, np.uint8))

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    (folder / "b.png").write_bytes(bomb)
    report = translate_folder(folder, tmp_path / "out", same)
    assert report.frames == 2
    assert report.failed[0].startswith("b.png: Cannot read the image")
    assert "60000x60000" in report.failed[0]


def with_place() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x8825] = {1: "N", 2: (47.0, 30.0, 0.0)}
    return exif.tobytes()


def test_the_command_tells_what_is_left_out_and_strips_metadata(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    grey(90).save("in/a.jpg", exif=with_place())
    moving(Path("in/b.gif"), "GIF")
    Path("in/._a.jpg").write_bytes(b"\0\5\x16\7")
    Path("in/notes.txt").write_text("x")
    code, out, err = run("in", "-d", "winter", "-o", "out", "--report", "report.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "2 files left out of in: 1 .txt, 1 AppleDouble file"
    assert json.loads(Path("report.json").read_text())["files_left_out"] == {"in": {".txt": 1, "AppleDouble file": 1}}
    with Image.open("out/a.jpg") as opened:
        assert opened.getexif()[0x010F] == "Maker"
        assert opened.getexif().get_ifd(0x8825)
    with Image.open("out/b.gif") as opened:
        assert opened.n_frames == 4
    code, _, err = run("in", "-d", "winter", "-o", "clean", "--strip-metadata")
    assert (code, err) == (0, "")
    with Image.open("clean/a.jpg") as opened:
        assert not opened.getexif()
        assert "icc_profile" in opened.info


def test_metadata_of_a_video_is_stripped(tmp_path):
    import av

    source = clips.make_clip(tmp_path / "in.mp4", frames=3, title="At home", audio=["aac"])
    for strip, title in ((False, "At home"), (True, None)):
        translate_video(source, tmp_path / f"{strip}.mkv", same, strip_metadata=strip)
        with av.open(str(tmp_path / f"{strip}.mkv")) as container:
            assert container.metadata.get("title") == title
            assert len(container.streams.audio) == 1


def test_read_from_bytes_alone(tmp_path):
    """The reader needs the file only at the beginning: it may be replaced afterwards."""
    source = moving(tmp_path / "in.webp", "WEBP")
    with AnimationReader(source) as reader:
        source.write_bytes(b"")
        assert len(list(reader)) == 4


def test_profiles_of_animations(tmp_path):
    from dsmap.common.images.matrix_profile import coded_profile

    colour = Image.fromarray(np.full((*SIZE, 3), (40, 180, 60), np.uint8))
    options = {"duration": 100, "lossless": True, "icc_profile": coded_profile(12, 13)}
    colour.save(tmp_path / "in.webp", save_all=True, append_images=[grey(9)], **options)
    assert np.abs(frames_of(tmp_path / "in.webp")[0][2][9, 9].astype(int) - (0, 183, 30)).max() <= 3
