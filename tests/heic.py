"""HEIC files as phones write them, assembled here: HEVC tiles, a grid, rotation, a colour profile."""

import io
import struct
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import numpy.typing as npt


def write_heic(
    path: Path,
    rgb: npt.NDArray[np.uint8],
    *,
    tiles: tuple[int, int] = (1, 1),
    quarter_turns: int = 0,
    mirror: bool = False,
    icc: bytes | None = None,
    nclx: tuple[int, int] = (1, 13),
) -> Path:
    """`rgb` (H, W, 3) in rows x columns of `tiles`, each a multiple of 8 pixels and 64 or larger.

    `quarter_turns`: readers turn it so often to the left. `nclx`: primaries and transfer, where there is no `icc`.
    """
    rows, columns = tiles
    height, width = rgb.shape[0] // rows, rgb.shape[1] // columns
    parts = [
        _hevc(rgb[y * height : (y + 1) * height, x * width : (x + 1) * width])
        for y in range(rows)
        for x in range(columns)
    ]
    grid = len(parts) > 1
    count = len(parts) + grid
    colour = _box(b"colr", b"prof", icc) if icc else _box(b"colr", b"nclx", struct.pack(">HHHB", *nclx, 6, 0x80))
    properties = [parts[0][0], _ispe(width, height), _ispe(rgb.shape[1], rgb.shape[0]), colour]
    turned = []
    if quarter_turns:
        properties.append(_box(b"irot", bytes([quarter_turns])))
        turned.append(0x80 | len(properties))
    if mirror:
        properties.append(_box(b"imir", b"\1"))  # left and right
        turned.append(0x80 | len(properties))
    kinds = [b"hvc1"] * len(parts) + [b"grid"] * grid
    infe = [
        _full(b"infe", 2, int(grid and kind == b"hvc1"), struct.pack(">HH", i + 1, 0), kind, b"\0")
        for i, kind in enumerate(kinds)
    ]
    used = [[0x81, 2, 4, *([] if grid else turned)] for _ in parts] + [[3, 4, *turned]] * grid
    ipma = [struct.pack(">HB", i + 1, len(one)) + bytes(one) for i, one in enumerate(used)]
    fixed = [
        _full(b"hdlr", 0, 0, b"\0\0\0\0pict", b"\0" * 13),
        _full(b"pitm", 0, 0, struct.pack(">H", count)),
        _full(b"iinf", 0, 0, struct.pack(">H", count), *infe),
        _box(b"iprp", _box(b"ipco", *properties), _full(b"ipma", 0, 0, struct.pack(">I", count), *ipma)),
    ]
    if grid:
        numbers = struct.pack(f">HH{len(parts)}H", count, len(parts), *range(1, len(parts) + 1))
        fixed.append(_full(b"iref", 0, 0, _box(b"dimg", numbers)))
        fixed.append(_box(b"idat", struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, rgb.shape[1], rgb.shape[0])))
    ftyp = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    start = len(ftyp) + len(_meta(fixed, parts, grid, 0)) + 8
    path.write_bytes(ftyp + _meta(fixed, parts, grid, start) + _box(b"mdat", *(data for _, data in parts)))
    return path


def _meta(fixed: list[bytes], parts: list[tuple[bytes, bytes]], grid: bool, base: int) -> bytes:
    places = b""
    for i, (_, data) in enumerate(parts):
        places += struct.pack(">HHHHII", i + 1, 0, 0, 1, base, len(data))
        base += len(data)
    if grid:
        places += struct.pack(">HHHHII", len(parts) + 1, 1, 0, 1, 0, 8)
    iloc = _full(b"iloc", 1, 0, struct.pack(">HH", 0x4400, len(parts) + grid), places)
    return _full(b"meta", 0, 0, *fixed, iloc)


def _hevc(rgb: npt.NDArray[np.uint8]) -> tuple[bytes, bytes]:
    """The hvcC box and the coded frame, BT.601 in full range."""
    held = io.BytesIO()
    with av.open(held, "w", format="mp4") as out:
        stream = out.add_stream("libx265", rate=1, options={"x265-params": "log-level=none:crf=8:info=0"})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = rgb.shape[1], rgb.shape[0], "yuv420p"
        context.colorspace, context.color_range, context.codec_tag = 6, 2, "hvc1"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="JPEG")
        frame.pts = 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            packet.pts = packet.dts = 0  # x265 counts from -1 or so for a single frame
            out.mux(packet)
    data = held.getvalue()
    at = data.index(b"hvcC")
    head = data[at - 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
    at = data.index(b"mdat")
    return head, data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]


def _ispe(width: int, height: int) -> bytes:
    return _full(b"ispe", 0, 0, struct.pack(">II", width, height))


def _box(name: bytes, *body: bytes) -> bytes:
    content = b"".join(body)
    return struct.pack(">I", 8 + len(content)) + name + content


def _full(name: bytes, version: int, flags: int, *body: bytes) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags), *body)
