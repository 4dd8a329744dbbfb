"""Images that somebody or something has damaged: an InputError, or pixels; never anything else. Seeds are fixed."""

import io
import random
import struct
import zlib
from pathlib import Path

import heic
import numpy as np
import pytest
from PIL import Image

from dsmap.common.images import matrix_profile
from dsmap.common.images.kinds import kind_of
from dsmap.common.images.reading import read_image
from dsmap.common.images.size import image_size
from dsmap.common.images.writing import write_image
from dsmap.errors import InputError
from dsmap.runtime.video.animation_reader import AnimationReader

ROUNDS = 40


def sound(name: str, folder: Path) -> bytes:
    """A whole file of that kind, with a profile and Exif where it takes them."""
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    if name == "HEIC":
        return heic.write_heic(folder / "a.heic", np.tile(rgb, (4, 4, 1)), quarter_turns=1).read_bytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x8769] = 6, {0xA001: 2, 0x9003: "2026"}
    first, *rest = [Image.fromarray(rgb), Image.fromarray(255 - rgb), Image.fromarray(rgb // 2)]
    options = {} if name in ("GIF", "BMP", "MOVING GIF") else {"icc_profile": matrix_profile.coded_profile(12, 13)}
    if options and name != "MOVING AVIF":  # Pillow 13 crashes on writing that one
        options["exif"] = exif.tobytes()
    if name.startswith("MOVING"):
        options |= {"save_all": True, "append_images": rest, "duration": 100}
    held = io.BytesIO()
    first.save(held, name.removeprefix("MOVING "), **options)
    return held.getvalue()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut off, or with some bytes changed; a PNG's checksums are right again, so that it is read on."""
    if rng.random() < 0.25:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 5, 30])):
        at = rng.randrange(min(len(changed), rng.choice([64, 400, len(changed)])))
        changed[at] = rng.choice([0, 255, rng.randrange(256), changed[at] ^ 1 << rng.randrange(8)])
    at = 8
    while changed.startswith(b"\x89PNG") and at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(bytes(changed[at + 4 : end])))
        at = end + 4
    return bytes(changed)


@pytest.mark.parametrize(
    "name",
    ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", "HEIC"]
    + [f"MOVING {n}" for n in ("GIF", "WEBP", "PNG", "AVIF")],
)
def test_damage(tmp_path, name):
    data, rng, path = sound(name, tmp_path), random.Random(name), tmp_path / "in"
    outcomes = {"read": 0, "refused": 0}
    for round_ in range(ROUNDS):
        path.write_bytes(data if round_ == 0 else damaged(data, rng))
        kind_of(path)
        image_size(path)
        try:
            image = read_image(path)
        except InputError:
            outcomes["refused"] += 1
        else:
            write_image(tmp_path / "out.png", image.rgb, exif=image.exif)
            outcomes["read"] += 1
        if name.startswith("MOVING"):
            try:
                with AnimationReader(path) as reader:
                    assert all(frame.rgb.dtype == np.uint8 for frame in reader)
            except InputError:
                pass
    assert outcomes["read"] > 0
    assert outcomes["refused"] > 0
