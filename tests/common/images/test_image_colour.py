"""Colours of every kind of image come back as sRGB, by the profile or by what else states them."""

import io
import logging
import struct
import zlib

import cv2
import heic
import numpy as np
import pytest
from PIL import Image, ImageCms

from dsmap.common.images import matrix_profile
from dsmap.common.images.reading import read_image, read_rgb

RED, GREEN = (200, 60, 40), (40, 180, 60)
# By the primaries and curves of both spaces in double precision, clipped; see the test of the profiles below.
P3_RED, P3_GREEN = (217, 42, 23), (0, 183, 30)
ADOBE_RED, ADOBE_GREEN = (231, 57, 34), (0, 181, 42)
P3 = matrix_profile.coded_profile(12, 13)
ADOBE = matrix_profile.gamma_profile(matrix_profile.ADOBE_RGB, matrix_profile.ADOBE_GAMMA)
assert P3 is not None


def halves(hw=(64, 128)):
    rgb = np.empty((*hw, 3), np.uint8)
    rgb[:, : hw[1] // 2], rgb[:, hw[1] // 2 :] = RED, GREEN
    return rgb


def png(rgb, *extra, bits=8):
    """A PNG with extra (name, body) chunks."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = rgb.shape[:2]
    rows = b"".join(b"\0" + (row.astype(">u2") * 257 if bits == 16 else row).tobytes() for row in rgb)
    head = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def saved(rgb, name, **options):
    held = io.BytesIO()
    Image.fromarray(rgb).save(held, name, **options)
    return held.getvalue()


def read(tmp_path, data, name="image.bin"):
    (tmp_path / name).write_bytes(data)
    return read_image(tmp_path / name)


def assert_halves(image, left, right, tolerance=3):
    height, width = image.rgb.shape[:2]
    for place, colour in ((width // 4, left), (-width // 4, right)):
        np.testing.assert_allclose(image.rgb[height // 2, place].astype(int), colour, atol=tolerance)


def test_the_expected_values_follow_from_the_definitions():
    """Display P3 and Adobe RGB to sRGB with numpy alone, independent of LittleCMS and of the profiles made here."""
    to_xyz = {
        "p3": [[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0.0, 0.04511, 1.04394]],
        "adobe": [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]],
    }
    from_xyz = np.linalg.inv([[0.41239, 0.35758, 0.18048], [0.21264, 0.71517, 0.07219], [0.01933, 0.11919, 0.95053]])

    def srgb(light):
        light = light.clip(0, 1)
        return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)

    def linear(value):
        return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)

    for name, curve, expected in (
        ("p3", linear, (P3_RED, P3_GREEN)),
        ("adobe", lambda value: value ** (563 / 256), (ADOBE_RED, ADOBE_GREEN)),
    ):
        light = curve(np.array([RED, GREEN]) / 255) @ np.array(to_xyz[name]).T @ from_xyz.T
        np.testing.assert_allclose(srgb(light) * 255, expected, atol=1.5)


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
def test_display_p3(tmp_path, name):
    lossy = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    data = saved(halves(), name, icc_profile=P3, **lossy.get(name, {}))
    assert_halves(read(tmp_path, data), P3_RED, P3_GREEN)


def test_adobe_rgb_by_its_profile_and_by_exif_alone(tmp_path):
    assert_halves(read(tmp_path, saved(halves(), "PNG", icc_profile=ADOBE)), ADOBE_RED, ADOBE_GREEN)
    for camera in ({0xA001: 2}, {0xA001: 65535, 0xA005: {1: "R03"}}):
        exif = Image.Exif()
        exif[0x8769] = camera
        data = saved(halves(), "JPEG", quality=98, subsampling=0, exif=exif)
        assert_halves(read(tmp_path, data), ADOBE_RED, ADOBE_GREEN)


def test_srgb_profiles_change_nothing(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for icc in (srgb, matrix_profile.srgb_profile()):
        np.testing.assert_array_equal(read(tmp_path, saved(noise, "PNG", icc_profile=icc)).rgb, noise)


@pytest.mark.parametrize(
    ("chunks", "red", "green"),
    [
        ([(b"cICP", bytes([12, 13, 0, 1]))], P3_RED, P3_GREEN),
        # cICP comes before a profile, a profile before sRGB, sRGB before gAMA and cHRM.
        ([(b"cICP", bytes([12, 13, 0, 1])), (b"iCCP", b"x\0\0" + zlib.compress(ADOBE))], P3_RED, P3_GREEN),
        ([(b"sRGB", b"\0"), (b"iCCP", b"x\0\0" + zlib.compress(P3))], P3_RED, P3_GREEN),
        ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))], RED, GREEN),
        ([(b"gAMA", struct.pack(">I", 45455))], RED, GREEN),
        (
            [
                (b"gAMA", struct.pack(">I", 45455)),
                (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
            ],
            P3_RED,
            P3_GREEN,
        ),
        ([(b"gAMA", struct.pack(">I", 100_000))], (229, 133, 110), (110, 219, 133)),  # linear light
        ([(b"cHRM", bytes(32))], RED, GREEN),  # nonsense
        ([(b"cHRM", struct.pack(">8I", *[33333] * 8))], RED, GREEN),
        ([(b"cHRM", struct.pack(">8I", 31270, 1, 64000, 1, 30000, 1, 15000, 1))], RED, GREEN),
        ([(b"cICP", bytes([77, 99, 3, 7]))], RED, GREEN),
    ],
)
def test_what_else_a_png_states(tmp_path, chunks, red, green):
    assert_halves(read(tmp_path, png(halves(), *chunks)), red, green)


def test_16_bits_transparency_and_a_profile(tmp_path):
    profile = (b"iCCP", b"x\0\0" + zlib.compress(P3))
    assert_halves(read(tmp_path, png(halves(), profile, bits=16)), P3_RED, P3_GREEN)
    rgba = np.dstack([halves(), np.full((64, 128), 255, np.uint8)])
    rgba[:, 64:, 3] = 0
    image = read(tmp_path, saved(rgba, "PNG", icc_profile=P3))
    assert_halves(image, P3_RED, (255, 255, 255))


def grey_profile(gamma):
    """A version 2 grey profile, put together by hand."""
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    text = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"g\0" + bytes(78)
    tags, directory, body = [(b"desc", text), (b"wtpt", white), (b"kTRC", curve)], b"", b""
    for name, content in tags:
        directory += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    size = 128 + 4 + len(directory) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28 + white[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + body


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF"])
def test_grey_with_a_gamma_of_its_own(tmp_path, name):
    grey = np.full((32, 48), 100, np.uint8)
    light = (100 / 255) ** 1.8
    expected = round(255 * (1.055 * light ** (1 / 2.4) - 0.055))
    image = read(tmp_path, saved(grey, name, icc_profile=grey_profile(1.8)))
    assert np.abs(image.rgb.astype(int) - expected).max() <= 2
    assert expected > 110


def cmyk_profile():
    """A CMYK profile in which every colour is paper white's grey, put together by hand: 2 grid points a channel."""
    points = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lightness = 255 * (1 - points.max(1)) // 2
    table = b"".join(struct.pack("BBB", int(value), 128, 128) for value in lightness)
    identity = b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    text = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"c\0" + bytes(78)
    tags, directory, body = [(b"desc", text), (b"wtpt", white), (b"A2B0", lut)], b"", b""
    for name, content in tags:
        directory += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    size = 128 + 4 + len(directory) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28 + white[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + body


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_by_its_profile_and_without(tmp_path, name):
    cmyk = np.zeros((16, 32, 4), np.uint8)
    cmyk[:, :16, 3] = 128  # half black
    cmyk[:, 16:, 0] = 255  # cyan
    held = io.BytesIO()
    Image.fromarray(cmyk, "CMYK").save(held, name, icc_profile=cmyk_profile())
    rgb = read(tmp_path, held.getvalue()).rgb
    # The profile's paper has half the lightness, so half black has a quarter, L* = 25; and cyan is black to it.
    np.testing.assert_allclose(rgb[8, 4], 59, atol=3)
    assert rgb[8, 28].max() < 10
    held = io.BytesIO()
    Image.fromarray(cmyk, "CMYK").save(held, name)
    rgb = read(tmp_path, held.getvalue()).rgb
    np.testing.assert_allclose(rgb[8, 4], 127, atol=3)
    assert rgb[8, 28, 0] < 40 < 200 < rgb[8, 28, 2]


@pytest.mark.parametrize("icc", [b"x" * 300, P3[:200] + bytes(len(P3) - 200), P3[:100]])
@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_a_damaged_profile_is_told_and_ignored(tmp_path, icc, name, caplog):
    data = saved(halves(), name, icc_profile=icc, **({"quality": 98, "subsampling": 0} if name == "JPEG" else {}))
    image = read(tmp_path, data)
    assert_halves(image, RED, GREEN)
    assert image.notes == ("its colour profile is damaged, and is ignored: colours are read as sRGB",)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            read_rgb(tmp_path / "image.bin")
    assert len(caplog.records) == 1  # once for a file
    assert "colour profile is damaged" in caplog.text


def test_a_profile_for_other_pixels_is_told_and_ignored(tmp_path):
    image = read(tmp_path, saved(halves(), "PNG", icc_profile=grey_profile(1.8)))
    assert_halves(image, RED, GREEN)
    assert "is for grey and its pixels are RGB" in image.notes[0]


def test_a_compressed_profile_of_gigabytes_is_not_unpacked(tmp_path):
    bomb = zlib.compressobj(9)
    body = b"x\0\0" + bomb.compress(bytes(1 << 25)) + bomb.flush()
    image = read(tmp_path, png(halves(), (b"iCCP", body)))
    assert_halves(image, RED, GREEN)
    assert "damaged" in image.notes[0]


def test_hdr_is_told(tmp_path):
    image = read(tmp_path, png(np.full((8, 8, 3), 148, np.uint8), (b"cICP", bytes([9, 16, 0, 1]))))
    assert "HDR (PQ)" in image.notes[0]
    assert image.rgb.min() > 240  # 58 % of PQ is 203 cd/m2: the white of paper


@pytest.mark.parametrize("tiles", [(1, 1), (2, 2)])
def test_heic_with_profile_grid_and_turning(tmp_path, tiles):
    rgb = cv2.resize(
        np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8), (256, 128), interpolation=cv2.INTER_CUBIC
    )
    plain = read_image(heic.write_heic(tmp_path / "a.heic", rgb, tiles=tiles))
    assert plain.rgb.shape == (128, 256, 3)
    assert np.abs(plain.rgb.astype(int) - rgb).mean() < 4
    for turns, mirror in ((1, False), (3, False), (2, True)):
        path = heic.write_heic(tmp_path / "b.jpg", rgb, tiles=tiles, quarter_turns=turns, mirror=mirror)
        expected = np.rot90(rgb, turns)
        turned = read_image(path)  # whatever it is called
        assert turned.format == "HEIC"
        assert turned.rgb.shape == expected.shape
        assert np.abs(turned.rgb.astype(int) - (expected[:, ::-1] if mirror else expected)).mean() < 4
    for told in ({"icc": P3}, {"nclx": (12, 13)}):
        wide = read_image(heic.write_heic(tmp_path / "c.heic", halves((128, 256)), tiles=tiles, **told))
        assert_halves(wide, P3_RED, P3_GREEN, tolerance=6)
