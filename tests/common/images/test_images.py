"""Every kind of image people have, made here, comes back as upright 8-bit RGB; damaged ones are refused in words."""

import base64
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PILImage

from dsmap.common.images import list_images, read_rgb, write_rgb
from dsmap.errors import DsmapError, InputError

RED, BLUE = (200, 40, 60), (30, 90, 180)
# Adobe CMYK (inverted, as Photoshop writes it), 16x8: left half RED, right half BLUE.
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwADAgIDAgIDAwMDBAMDBAUIBQUEBAUKBwcGCAwKDAwLCgsLDQ4SEA0OEQ4LCxAWEBETFBUVFQwPFxgWFBgSFBUU"
    "/8AAFAgACAAQBEMRAE0RAFkRAEsRAP/EABYAAQEBAAAAAAAAAAAAAAAAAAgJAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAOBEMATQBZAEsAAD8AYAKC"
    "Uqmh0QyoDP/Z"
)


def halves(left=RED, right=BLUE, hw=(24, 40)):
    """RGB: the left half in one colour, the right half in another."""
    image_rgb = np.empty((*hw, 3), np.uint8)
    image_rgb[:, : hw[1] // 2], image_rgb[:, hw[1] // 2 :] = left, right
    return image_rgb


def noise(hw=(48, 64)):
    return np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)


def encode(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


def encode_rgb(suffix, image_rgb):
    return encode(suffix, np.ascontiguousarray(image_rgb[..., ::-1]))


def png(colour_type, rows, *extra, hw, bits=8):
    """A PNG from its raw rows and extra (tag, body) chunks."""

    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    head = struct.pack(">IIBBBBB", hw[1], hw[0], bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def exif(orientation):
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def read(tmp_path, data, name="picture.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    image_rgb = read_rgb(path)
    assert image_rgb.dtype == np.uint8
    assert image_rgb.ndim == 3
    assert image_rgb.shape[2] == 3
    assert image_rgb.flags["C_CONTIGUOUS"]
    return image_rgb


def assert_halves(image_rgb, left=RED, right=BLUE, tolerance=0):
    """The two colours at the middle of the halves (away from JPEG's ringing)."""
    middle, quarter = image_rgb.shape[0] // 2, image_rgb.shape[1] // 4
    np.testing.assert_allclose(image_rgb[middle, quarter].astype(int), left, atol=tolerance)
    np.testing.assert_allclose(image_rgb[middle, -quarter].astype(int), right, atol=tolerance)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".bmp", 0), (".tif", 0), (".jpg", 4), (".webp", 8)])
def test_rgb(tmp_path, suffix, tolerance):
    assert_halves(read(tmp_path, encode_rgb(suffix, halves())), tolerance=tolerance)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_grey(tmp_path, suffix):
    grey = np.full((20, 30), 90, np.uint8)
    assert (read(tmp_path, encode(suffix, grey)) == 90).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled(tmp_path, suffix, channels):
    values = np.arange(256, dtype=np.uint16)[None] * 257
    image = np.repeat(np.repeat(values, 8, 0)[..., None], channels, 2)
    np.testing.assert_array_equal(read(tmp_path, encode(suffix, image))[3, :, 1], np.arange(256))


def test_32_bit_floats_are_refused(tmp_path):
    with pytest.raises(InputError, match="float32, expected 8 or 16 bits"):
        read(tmp_path, encode(".tif", np.ones((8, 8, 3), np.float32)))


def test_cmyk_jpeg(tmp_path):
    assert_halves(read(tmp_path, CMYK_JPEG), tolerance=3)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_is_laid_on_white(tmp_path, suffix):
    rgba = np.dstack([halves(), np.full((24, 40), 255, np.uint8)])
    rgba[:, 20:, 3] = 0  # the right half is transparent: white, whatever colour is stored there
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    data = cv2.imencode(suffix, cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), options)[1].tobytes()
    if suffix == ".tif":
        # OpenCV writes no kind of alpha, and readers then take the colours as multiplied by it: store them so.
        rgba[:, 20:, :3] = 0
        data = encode(suffix, cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    assert_halves(read(tmp_path, data), right=(255, 255, 255))


def test_half_transparent_16_bits(tmp_path):
    bgra = np.full((8, 8, 4), 30000, np.uint16)
    bgra[..., 3] = 65535 // 2
    expected = round((30000 * (65535 // 2) / 65535 + 65535 - 65535 // 2) / 257)
    assert np.abs(read(tmp_path, encode(".png", bgra)).astype(int) - expected).max() <= 1


def test_palette_with_and_without_a_transparent_entry(tmp_path):
    rows = [bytes([0] * 20 + [1] * 20)] * 24
    palette = (b"PLTE", bytes((*RED, *BLUE)))
    assert_halves(read(tmp_path, png(3, rows, palette, hw=(24, 40))))
    clear_blue = (b"tRNS", bytes([255, 0]))
    assert_halves(read(tmp_path, png(3, rows, palette, clear_blue, hw=(24, 40))), right=(255, 255, 255))


def test_grey_with_alpha(tmp_path):
    data = png(4, [bytes([90, 255] * 4 + [90, 0] * 4)] * 8, hw=(8, 8))
    assert_halves(read(tmp_path, data), left=(90,) * 3, right=(255,) * 3)


def test_grey_with_a_transparent_value(tmp_path):
    data = png(0, [bytes([90] * 4 + [200] * 4)] * 8, (b"tRNS", bytes([0, 200])), hw=(8, 8))
    assert_halves(read(tmp_path, data), left=(90,) * 3, right=(255,) * 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_grey_with_alpha_as_tiff(tmp_path, orientation):
    pixels = np.array([[[90, 255]] * 20 + [[90, 0]] * 20] * 24, np.uint8)
    exif, file = PILImage.Exif(), io.BytesIO()
    exif[0x112] = orientation
    PILImage.fromarray(pixels, "LA").save(file, "TIFF", exif=exif)
    upright = read(tmp_path, file.getvalue())
    stored = upright if orientation == 1 else np.rot90(upright, 1)
    assert_halves(stored, left=(90,) * 3, right=(255,) * 3)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: np.rot90(p, 2)),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p, 1)),
    ],
)
def test_exif_orientation_of_a_jpeg_and_of_a_transparent_png(tmp_path, orientation, turn):
    stored = cv2.resize(noise((3, 5)), (80, 48), interpolation=cv2.INTER_CUBIC)
    jpeg = encode_rgb(".jpg", stored)
    body = b"Exif\0\0" + exif(orientation)
    jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    assert np.abs(read(tmp_path, jpeg).astype(int) - turn(stored)).mean() < 4

    alpha = np.linspace(0, 255, 80).astype(np.uint8)[None].repeat(48, 0)
    rows = [row.tobytes() for row in np.dstack([stored, alpha])]
    share = alpha[..., None] / 255
    expected = turn(np.rint(stored * share + 255 * (1 - share)))
    np.testing.assert_allclose(
        read(tmp_path, png(6, rows, (b"eXIf", exif(orientation)), hw=(48, 80))), expected, atol=1
    )


@pytest.mark.parametrize("name", ["été 夏 #1.jpg", "two  spaces%20.jpeg", "no_suffix", "wrong.png"])
def test_odd_names(tmp_path, name):
    assert_halves(read(tmp_path, encode_rgb(".jpg", halves()), name), tolerance=4)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_cut_short(tmp_path, suffix, kept, capfd):
    data = encode_rgb(suffix, noise())
    with pytest.raises(InputError, match="Replace it by an intact file"):
        read(tmp_path, data[: int(len(data) * kept)])
    assert capfd.readouterr().err == ""


def test_cut_short_jpeg_with_a_whole_thumbnail(tmp_path):
    whole, body = encode_rgb(".jpg", noise()), b"Exif\0\0" + exif(1) + encode_rgb(".jpg", noise((8, 8)))
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]
    read(tmp_path, data)
    with pytest.raises(InputError, match="no end marker"):
        read(tmp_path, data[:-200])


def test_bytes_after_a_jpeg_are_no_damage(tmp_path):
    assert_halves(read(tmp_path, encode_rgb(".jpg", halves()) + b"a phone's trailer" * 9), tolerance=4)


def test_flipped_bits_in_a_png(tmp_path, capfd):
    data = bytearray(encode_rgb(".png", noise()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InputError, match="wrong checksum"):
        read(tmp_path, bytes(data))
    assert capfd.readouterr().err == ""


def test_missing_empty_folder_and_no_image(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_rgb(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match="it is a folder"):
        read_rgb(tmp_path)
    with pytest.raises(InputError, match="empty"):
        read(tmp_path, b"")
    with pytest.raises(InputError, match="cannot decode"):
        read(tmp_path, b"<html>404 not found</html>")


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 4), (".JPEG", 4), (".webp", 8)])
def test_write_then_read(tmp_path, suffix, tolerance):
    path = tmp_path / f"große Bilder{suffix}"
    write_rgb(path, halves())
    write_rgb(path, halves(BLUE, RED))  # replaces
    assert_halves(read_rgb(path), BLUE, RED, tolerance)
    assert list(tmp_path.iterdir()) == [path]


def test_write_refuses_in_words(tmp_path):
    with pytest.raises(InputError, match=r"suffix is \.gif"):
        write_rgb(tmp_path / "a.gif", halves())
    with pytest.raises(InputError, match="suffix is missing"):
        write_rgb(tmp_path / "a", halves())
    with pytest.raises(DsmapError, match="Check that the folder exists"):
        write_rgb(tmp_path / "missing" / "a.png", halves())
    with pytest.raises(DsmapError, match="Cannot encode 20000x1"):
        write_rgb(tmp_path / "a.webp", np.zeros((1, 20000, 3), np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        write_rgb(tmp_path / "a.png", np.zeros((4, 4, 3), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_list_images(tmp_path: Path):
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG"]
