"""Kinds of files, listings of folders, limits of memory, and the Exif that results carry."""

import io
import os
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import heic
import numpy as np
import pytest
from PIL import Image

from dsmap.common.images import size
from dsmap.common.images.animation import scan_animation
from dsmap.common.images.folder_listing import left_out_line, list_folder, list_images, list_stills
from dsmap.common.images.kinds import Kind, kind_of
from dsmap.common.images.reading import read_image, read_rgb
from dsmap.common.images.size import image_size, size_fault
from dsmap.common.images.writing import write_image, write_rgb
from dsmap.errors import DsmapError, InputError

BLUE = np.full((16, 24, 3), (30, 90, 180), np.uint8)


def frames(count, hw=(16, 24)):
    return [Image.fromarray(np.full((*hw, 3), 40 * i + 20, np.uint8)) for i in range(count)]


def save_moving(path, name, count, **options):
    first, *rest = frames(count)
    first.save(path, name, save_all=True, append_images=rest, **options)
    return path


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize(("name", "format"), [("PNG", "PNG"), ("WEBP", "WebP"), ("GIF", "GIF"), ("AVIF", "AVIF")])
def test_one_frame_is_an_image_and_several_are_an_animation(tmp_path, name, format):
    one = save_moving(tmp_path / "a.bin", name, 1)
    assert kind_of(one) == Kind("image", format)
    several = save_moving(tmp_path / "b.jpg", name, 3, duration=[100, 40, 200])
    assert kind_of(several) == Kind("animation", format)
    with several.open("rb") as stream:
        found = scan_animation(stream, format)
    assert found.durations == (Fraction(1, 10), Fraction(4, 100), Fraction(2, 10))
    assert read_image(several).notes == ("frame 1 of 3 is read",)  # as a style


def test_an_animated_webp_of_one_frame_is_an_image(tmp_path):
    data = save_moving(tmp_path / "a.webp", "WEBP", 2, duration=100).read_bytes()
    second = data.rindex(b"ANMF")
    data = data[:4] + struct.pack("<I", second - 8) + data[8:second]
    (tmp_path / "a.webp").write_bytes(data)
    assert kind_of(tmp_path / "a.webp") == Kind("image", "WebP")
    assert np.abs(read_rgb(tmp_path / "a.webp").astype(int) - 20).max() <= 3


def test_how_often_it_is_played(tmp_path):
    for name, options, plays in (
        ("GIF", {}, 1),
        ("GIF", {"loop": 0}, 0),
        ("GIF", {"loop": 2}, 3),  # again
        ("WEBP", {"loop": 2}, 2),
        ("PNG", {"loop": 4}, 4),
    ):
        path = save_moving(tmp_path / "a", name, 2, duration=100, **options)
        with path.open("rb") as stream:
            assert scan_animation(stream, {"WEBP": "WebP"}.get(name, name)).plays == plays


def test_what_players_take_for_no_delay_is_a_tenth(tmp_path):
    path = save_moving(tmp_path / "a.gif", "GIF", 3, duration=[10, 20, 0])
    with path.open("rb") as stream:
        assert scan_animation(stream, "GIF").durations == (Fraction(1, 10), Fraction(1, 50), Fraction(1, 10))


def test_videos_are_videos_whatever_they_are_called(tmp_path):
    import clips

    clip = clips.make_clip(tmp_path / "in.mp4", frames=2)
    assert kind_of(clip.rename(tmp_path / "in.jpg")) == Kind("video", "MP4")
    assert kind_of(tmp_path / "in.jpg").role == "video"
    (tmp_path / "sound.m4a").write_bytes((tmp_path / "in.jpg").read_bytes().replace(b"ftypisom", b"ftypM4A ", 1))
    assert kind_of(tmp_path / "sound.m4a") is None
    (tmp_path / "camera.mjpeg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(60))
    assert kind_of(tmp_path / "camera.mjpeg") == Kind("video", "Motion JPEG")


@pytest.mark.parametrize(
    ("name", "data", "fact"),
    [
        ("a.jxl", b"\xff\x0a" + bytes(40), "it is a JPEG XL file"),
        ("a.png", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "it is a JPEG XL file"),
        ("a.dng", None, "it is a camera raw file"),
        ("a.psd", b"8BPS" + bytes(40), "it is a Photoshop file"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, name, data, fact):
    path = tmp_path / name
    if data is None:  # a TIFF, as raw files are
        held = io.BytesIO()
        Image.fromarray(BLUE).save(held, "TIFF")
        data = held.getvalue()
    path.write_bytes(data)
    assert kind_of(path).role == "unread"
    with pytest.raises(InputError, match=fact):
        read_image(path)
    assert list_folder(tmp_path).left_out == ((path.suffix, 1),) or name == "a.png"


def test_a_tiff_of_several_pages(tmp_path):
    path = save_moving(tmp_path / "a.tif", "TIFF", 4)
    image = read_image(path)
    assert image.notes == ("page 1 of 4 is read",)
    assert (image.rgb == 20).all()


def test_a_folder_is_told_apart_and_counted(tmp_path):
    write_rgb(tmp_path / "b.jpg", BLUE)
    (tmp_path / "a.jfif").write_bytes((tmp_path / "b.jpg").read_bytes())
    heic.write_heic(tmp_path / "c.HEIC", np.full((64, 64, 3), 90, np.uint8))
    save_moving(tmp_path / "d.gif", "GIF", 2)
    save_moving(tmp_path / "wrong.mp4", "GIF", 1)
    (tmp_path / "e.jpg").write_bytes(b"<html>")  # damaged: it is for the reader to say so
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    (tmp_path / "._clip.mp4").write_bytes(b"\0\5\x16\7" + bytes(4000))
    (tmp_path / "._b.jpg").write_bytes(b"\0\5\x16\7" + bytes(4000))
    for name in (".hidden.png", ".DS_Store", "Thumbs.db", "notes.txt", "more.txt", "x.jpg.part", "none", "f.jxl"):
        (tmp_path / name).write_bytes(b"\xff\x0a" if name == "f.jxl" else b"x")
    (tmp_path / "dead.jpg").symlink_to("/nowhere/x.jpg")
    (tmp_path / "alive.jpg").symlink_to("b.jpg")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    found = list_folder(tmp_path)
    images = ["a.jfif", "alive.jpg", "b.jpg", "c.HEIC", "e.jpg", "wrong.mp4"]
    assert [path.name for path in found.images] == images
    assert [path.name for path in found.animations] == ["d.gif"]
    assert [path.name for path in found.videos] == ["clip.mp4"]
    assert dict(found.left_out) == {
        ".txt": 2,
        "AppleDouble file": 2,
        "system file": 2,
        ".jxl": 1,
        "dead link": 1,
        "hidden file": 1,
        "pipe or device": 1,
        "subfolder": 1,
        "unfinished or backup file": 1,
        "without a suffix": 1,
    }
    line = left_out_line(found.left_out, Path("photos"))
    assert line.startswith("13 files left out of photos: 2 .txt, 2 AppleDouble files, 2 system files, 1 .jxl, ")
    assert "\n" not in line
    stills = list_stills(tmp_path)
    assert list(stills.images) == list_images(tmp_path)
    assert dict(stills.left_out) == dict(found.left_out) | {"animated .gif": 1, ".mp4": 1}


def test_names_with_escape_sequences_do_not_reach_the_line(tmp_path):
    (tmp_path / "a.x\x1b[31m").write_bytes(b"x")
    assert "\x1b" not in left_out_line(list_folder(tmp_path).left_out, tmp_path)


@pytest.mark.parametrize("at", ["pipe.jpg", "/dev/zero", "folder.jpg"])
def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path, at):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(InputError, match=r"it is a (pipe or a device|folder), expected a file"):
        read_image(tmp_path / at)
    assert image_size(tmp_path / at) is None


def huge_png(width, height):
    """A well-formed PNG of few bytes that says to have these sides, in one bit a pixel."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def encoded(name, size):
    held = io.BytesIO()
    Image.new("RGB", size).save(held, name)
    return held.getvalue()


def test_sides_are_known_before_decoding(tmp_path):
    path = tmp_path / "a"
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        path.write_bytes(encoded(name, (50, 34)))
        assert image_size(path) == (50, 34), name
    held = io.BytesIO()
    Image.new("RGBA", (50, 34)).save(held, "WEBP", lossless=True)
    path.write_bytes(held.getvalue())
    assert image_size(path) == (50, 34)
    assert image_size(heic.write_heic(path, np.zeros((128, 192, 3), np.uint8), tiles=(2, 2))) == (192, 128)


def test_an_image_that_does_not_fit_into_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(30_000, 30_000))
    monkeypatch.setattr(size, "available_bytes", lambda: 8_000_000_000)
    with pytest.raises(InputError, match=r"bomb\.png: 30000x30000 pixels need about 18\.0 GB of memory, 8\.0 GB"):
        read_image(path)
    assert "30000x30000" in size_fault(path)
    path.write_bytes(huge_png(60_000, 60_000))
    monkeypatch.setattr(size, "available_bytes", lambda: None)
    with pytest.raises(InputError, match="exceed the limit for an image"):
        read_image(path)


MEASURE = """
import resource, sys
from pathlib import Path
from dsmap.common.images.reading import read_rgb
read_rgb(Path(sys.argv[1] + "-small"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
height, width, _ = read_rgb(Path(sys.argv[1])).shape
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / height / width)
"""


@pytest.mark.parametrize(("mode", "name", "most"), [("RGBA", "PNG", 10), ("I;16", "PNG", 13), ("RGB", "AVIF", 18)])
def test_what_reading_takes_is_bounded(tmp_path, mode, name, most):
    path = tmp_path / "large"
    Image.new(mode, (2000, 2000), (9, 9, 9, 99)[: len(mode)] if mode != "I;16" else 99).save(path, name)
    Image.new(mode, (8, 8)).save(tmp_path / "large-small", name)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < most <= size.BYTES_PER_PIXEL


def camera_exif():
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0132] = "Maker", 6, "2026:11:28 09:00:00"
    exif[0x8769] = {0x9003: "2026:11:28 09:00:00", 0xA001: 65535, 0xA002: 4000, 0xA003: 3000}
    exif[0x8825] = {1: "N", 2: (47.0, 30.0, 0.0)}
    return exif


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_and_srgb_are_written_back(tmp_path, suffix, source):
    path, result = tmp_path / "in", tmp_path / f"out{suffix}"
    Image.fromarray(BLUE).save(path, source, exif=camera_exif().tobytes())
    image = read_image(path)
    assert image.rgb.shape == (24, 16, 3)  # upright
    write_image(result, image.rgb, exif=image.exif)
    with Image.open(result) as opened:
        opened.load()
        assert opened.info["icc_profile"][36:40] == b"acsp"
        exif = opened.getexif()
        assert exif[0x010F] == "Maker"
        assert 0x0112 not in exif or (suffix == ".avif" and exif[0x0112] == 1)
        camera = exif.get_ifd(0x8769)
        assert camera[0x9003] == "2026:11:28 09:00:00"
        assert (camera[0xA001], camera[0xA002], camera[0xA003]) == (1, 16, 24)
        assert exif.get_ifd(0x8825)[1] == "N"
        assert opened.size == (16, 24)
    again = read_image(result).rgb
    assert np.abs(again.astype(int) - image.rgb).max() <= 12


@pytest.mark.parametrize("exif", [b"", b"MM\0*", b"II*\0" + b"\xff" * 400, b"x" * 3000])
def test_damaged_exif_is_given_up(tmp_path, exif):
    write_image(tmp_path / "a.jpg", BLUE, exif=exif)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert "exif" not in opened.info


def test_results_are_the_same_bytes_every_time(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, BLUE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_too_large_for_the_format(tmp_path):
    with pytest.raises(DsmapError, match="Cannot encode 70000x1"):
        write_image(tmp_path / "a.jpg", np.zeros((1, 70_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
