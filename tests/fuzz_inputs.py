"""Damaged and strange videos, made deterministically from small real ones."""

import random
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import clips

SIZE = (48, 32)
_MS = {"time_base": Fraction(1, 1000), "pts": [33 * index for index in range(8)]}
_TS = {"time_base": Fraction(1, 90000), "pts": [3003 * index for index in range(8)]}
_AVI = {"time_base": Fraction(1, 25), "pts": range(8)}
WHOLE = {
    "plain.mp4": {"audio": ["aac"]},
    "front.mp4": {"container_options": {"movflags": "+faststart"}},
    "pieces.mp4": {"container_options": {"movflags": "+frag_keyframe+empty_moov"}},
    "sound.mkv": {"audio": ["libopus"], **_MS},
    "vp9.webm": {"codec": "libvpx-vp9", **_MS},
    "ten.mkv": {"pix_fmt": "yuv420p10le", "trc": 16, "primaries": 9, "colourspace": 9, **_MS},
    "stream.ts": {"audio": ["aac"], **_TS},
    "old.avi": {"codec": "mpeg4", "audio": ["libmp3lame"], **_AVI},
    "pictures.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "png.mov": {"codec": "png", "pix_fmt": "rgb24"},
    "lossless.mkv": {"codec": "ffv1", "pix_fmt": "yuva420p", **_MS},
    "flash.flv": {"codec": "flv1", "time_base": Fraction(1, 1000), "pts": [40 * index for index in range(8)]},
}
_PIXELS = ("gray", "gray10le", "yuv410p", "yuv440p", "yuva444p16le", "gbrp12le", "rgb48le", "bgra", "gbrap10le", "ya8")
_PIXELS += ("yuv411p", "gbrp16le", "yuv444p9le", "gray16le", "rgba64le", "pal8", "monow")

Damage = Callable[[bytes, random.Random], bytes]


def make_whole(folder: Path) -> dict[str, bytes]:
    """The undamaged clips, by name."""
    made = {}
    for name, options in WHOLE.items():
        path = folder / name
        if name in ("png.mov", "lossless.mkv"):
            _one_colour(path, options["codec"], options["pix_fmt"])
        else:
            clips.make_clip(path, frames=8, size=SIZE, audio_seconds=0.3, **options)
        made[name] = path.read_bytes()
    return made


def _one_colour(path: Path, codec: str, pix_fmt: str, frames: int = 8) -> None:
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = *SIZE, pix_fmt
        for index in range(frames):
            frame = av.VideoFrame(*SIZE, pix_fmt)
            for plane in frame.planes:
                plane.update(bytes([clips.grey(index)]) * plane.buffer_size)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))


def cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def flip_bits(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 4, 40))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def flip_header(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 3, 8))):
        changed[dice.randrange(min(400, len(changed)))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
    return bytes(changed)


def blank(data: bytes, dice: random.Random) -> bytes:
    first = dice.randrange(len(data))
    last = min(len(data), first + dice.choice((4, 100, 1000)))
    return data[:first] + bytes(last - first) + data[last:]


def lose(data: bytes, dice: random.Random) -> bytes:
    first = dice.randrange(len(data))
    return data[:first] + data[first + dice.choice((1, 50, 700)) :]


def repeat(data: bytes, dice: random.Random) -> bytes:
    first = dice.randrange(len(data))
    return data[: first + dice.choice((8, 300, 3000))] + data[first:]


def huge_numbers(data: bytes, dice: random.Random) -> bytes:
    """Every place that holds the width or height (sizes, in all byte orders) gets a large one."""
    large = dice.choice((4096, 16384, 32766, 65535))
    for number in SIZE:
        for form in (">H", ">I", "<I", "<H"):
            if dice.random() < 0.6:
                data = data.replace(struct.pack(form, number), struct.pack(form, large), dice.choice((1, 2, 5)))
    return data


def no_time(data: bytes, dice: random.Random) -> bytes:
    """Clocks and durations that are 0, or as large as they can be."""
    value = dice.choice((0, 0, 1, 0xFFFFFFFF))
    for mark, places in ((b"mvhd", (16, 20)), (b"mdhd", (16, 20)), (b"stts", (8, 12, 16)), (b"strh", (24, 28))):
        at = data.find(mark)
        while at >= 0:
            place = at + dice.choice(places)
            data = data[:place] + struct.pack(">I", value) + data[place + 4 :]
            at = data.find(mark, at + 4)
    for mark in (b"\x2a\xd7\xb1", b"\x23\xe3\x83"):  # Matroska: the clock's unit, a track's frame length
        at = data.find(mark)
        if at >= 0:
            data = data[: at + 4] + bytes(4) + data[at + 8 :]
    return data


DAMAGES: tuple[Damage, ...] = (cut, flip_bits, flip_header, blank, lose, repeat, huge_numbers, no_time)


def damaged(whole: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """Name and content of damaged input number `seed`: every clip and every kind of damage in turn."""
    dice = random.Random(seed)
    names = list(whole)
    name = names[seed % len(names)]
    damage = DAMAGES[seed // len(names) % len(DAMAGES)]
    data = damage(whole[name], dice)
    if dice.random() < 0.1:
        data = dice.choice(DAMAGES)(data, dice) if data else data
    if dice.random() < 0.15:  # renamed
        name = Path(name).stem + dice.choice((".mp4", ".mkv", ".avi", ".ts", ".webm", ".mov", ".txt", ".png", ""))
    return f"{seed}-{name}", data


def strange(whole: dict[str, bytes], folder: Path) -> Iterator[tuple[str, bytes]]:
    """What damage alone would not make."""
    yield "empty.mp4", b""
    yield "one.mkv", b"\0"
    yield "zeros.mp4", bytes(5000)
    yield "noise.avi", random.Random(1).randbytes(5000)
    yield "text.mov", b"one line of text\n" * 100
    yield "list.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"
    yield "list.mkv", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "page.mp4", b"<html><body>404</body></html>"
    yield "twice.mp4", whole["plain.mp4"] + whole["plain.mp4"]
    yield "mixed.ts", whole["stream.ts"] + whole["sound.mkv"] + whole["stream.ts"]
    yield "mixed.mkv", whole["sound.mkv"][:2000] + whole["plain.mp4"]
    yield "boxes.mp4", whole["front.mp4"][:32] + struct.pack(">I4s", 8, b"free") * 20000
    yield "deep.mp4", whole["front.mp4"][:32] + b"".join(struct.pack(">I4s", 8000 - i * 8, b"moov") for i in range(900))
    yield "long.mp4", whole["front.mp4"][:32] + struct.pack(">I4sQ", 1, b"mdat", 2**63 - 1)
    yield "streams.ts", _thousands_of_programs(whole["stream.ts"])
    yield "streams.mkv", _thousands_of_tracks(whole["sound.mkv"])
    yield "streams.mp4", _thousands_of_traks(whole["front.mp4"])
    for pix_fmt in _PIXELS:
        path = folder / f"pixels-{pix_fmt}.nut"
        _one_colour(path, "rawvideo", pix_fmt, frames=2)
        yield path.name, path.read_bytes()
        path.unlink()
    for size in ((1, 1), (1, 300), (600, 2)):
        path = folder / f"size-{size[0]}x{size[1]}.mkv"
        clips.make_clip(path, frames=2, size=size, pix_fmt="yuv444p", time_base=Fraction(1, 1000), pts=[0, 40])
        yield path.name, path.read_bytes()
        path.unlink()
    yield from _huge_images()


def _thousands_of_programs(stream: bytes) -> bytes:
    """Transport packets of 6000 further elementary streams, with a table that names none of them."""
    packets = [
        struct.pack(">BHB", 0x47, 0x4000 | pid, 0x10) + b"\0\0\1\xe0" + bytes(180) for pid in range(0x20, 0x1800)
    ]
    return stream + b"".join(packets)


def _thousands_of_tracks(matroska: bytes) -> bytes:
    """The tracks' element again and again."""
    at = matroska.find(b"\x16\x54\xae\x6b")
    length = int.from_bytes(matroska[at + 4 : at + 12], "big") & ((1 << 56) - 1)
    size = 12 if matroska[at + 4] == 1 else 5
    length = length if size == 12 else matroska[at + 4] & 0x7F
    entries = matroska[at + size : at + size + length] * 3000
    head = b"\x16\x54\xae\x6b\x01" + len(entries).to_bytes(7, "big")
    return matroska[:at] + head + entries + matroska[at + size + length :]


def _thousands_of_traks(mp4: bytes) -> bytes:
    """The one track again and again."""
    moov = mp4.find(b"moov") - 4
    trak = mp4.find(b"trak") - 4
    length, track_length = (int.from_bytes(mp4[at : at + 4], "big") for at in (moov, trak))
    copies = mp4[trak : trak + track_length] * 3000
    return mp4[:moov] + struct.pack(">I", length + len(copies)) + mp4[moov + 4 : trak] + copies + mp4[trak:]


def _huge_images() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for gigabytes."""
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    yield "huge.gif", gif + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\2\x4c\1\0;"
    yield "large.y4m", b"YUV4MPEG2 W60000 H60000 F0:0 C420\nFRAME\n" + bytes(100)
    yield "wide.y4m", b"YUV4MPEG2 W16000 H2 F25:0\n" + (b"FRAME\n" + bytes(48000)) * 2
    yield "none.y4m", b"YUV4MPEG2 W0 H0 F25:1\nFRAME\n"
    avi = bytearray(2000)
    avi[:12] = b"RIFF" + struct.pack("<I", 1992) + b"AVI "
    yield "shell.avi", bytes(avi)
