"""The step from file to file: decoding on NVDEC and encoding on NVENC, each compared with software."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dsmap.common.scratch import scratch_folder
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.base import Frames
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.translator import Translator
from dsmap.runtime.video.encoders import EncoderSettings, reason_alone, resolve
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.hardware import device_failure
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.writer import VideoWriter
from dsmap.tools.gpu_check.plan import Job
from dsmap.tools.gpu_check.steps import MIN_PSNR, images_of, psnr, target_of

MIN_CODED_PSNR = 28.0
"""dB of a coded result; colours, on average over a frame, differ by no more than `_MAX_SHIFT` levels."""
_MAX_SHIFT = 3.0
# Decoder, codec of the result. The first is what the others are compared with.
_WAYS = (("off", "lossless"), ("cuda", "lossless"), ("off", "h264"), ("off", "h264_nvenc"), ("cuda", "h264_nvenc"))


def video(job: Job) -> Job:
    """Translate a clip from file to file in several ways: frames a second, and how far from software all through."""
    bundle = Bundle.read(Path(job["model"]))
    (width, height), frames = job["size"], job["frames"]
    translator = Translator.load(bundle, domain=target_of(bundle), backend=job["backend"], frames_at_once=3)
    rows: list[Job] = []
    expected: list[Frames] = []
    with scratch_folder("gpu-check") as folder:
        clip = make_clip(folder / "clip.mp4", width, height, frames)
        for hwaccel, codec in _WAYS:
            row: Job = {"size": f"{width}x{height}", "hwaccel": hwaccel, "codec": codec}
            rows.append(row)
            if reason := _missing(hwaccel, codec):
                row["left_out"] = reason
                continue
            result = folder / "result.mkv"
            options: Job = {"hwaccel": hwaccel, "codec": codec, "refine": "off", "overwrite": True}
            try:
                for _ in range(2):  # the first is the warm-up
                    row["fps"] = round(translate_video(clip, result, translator, **options).fps, 1)
            except DsmapError as error:
                row["failed"] = error.fact
                continue
            got = _read(result)
            expected = expected or got
            row |= _differences(got, expected, MIN_PSNR if codec == "lossless" else MIN_CODED_PSNR)
    translator.close()
    return {
        "description": translator.backend_description,
        "rows": rows,
        "passed": not any("failed" in row for row in rows),
    }


def make_clip(path: Path, width: int, height: int, frames: int) -> Path:
    """A clip of H.264 whose colours move."""
    # Without the grain, which differs from colour to colour and is lost in 4:2:0.
    still = cv2.GaussianBlur(images_of(width, height, count=1)[0][0], (0, 0), 4)
    encoding = EncoderSettings(codec="h264", crf=16, preset="ultrafast")
    rate = Fraction(25)
    writer = VideoWriter(path, width=width, height=height, time_base=1 / rate, rate=rate, encoding=encoding)
    for index in range(frames):
        writer.write(np.roll(still, 4 * index, axis=1), index)
    writer.close()
    return path


def _missing(hwaccel: str, codec: str) -> str | None:
    """Why this machine cannot do that; None where it can."""
    if hwaccel != "off" and (reason := device_failure(hwaccel)) is not None:
        return reason
    try:
        resolve(EncoderSettings(codec=codec), ".mkv")
    except InputError as error:
        return reason_alone(error)
    return None


def _read(path: Path) -> list[Frames]:
    with VideoReader(path) as reader:
        return [item.rgb for item in reader if isinstance(item, Frame)]


def _differences(got: list[Frames], expected: list[Frames], least: float) -> Job:
    if len(got) != len(expected):
        return {"failed": f"{len(got)} frames instead of {len(expected)}"}
    worst = min(psnr(one, two) for one, two in zip(got, expected, strict=True))
    shifts: list[Any] = [
        np.abs(one.mean((0, 1)) - two.mean((0, 1))).max() for one, two in zip(got, expected, strict=True)
    ]
    found: Job = {"psnr_db": worst, "colour_shift": round(float(max(shifts)), 2)}
    if worst < least or max(shifts) > _MAX_SHIFT:
        found["failed"] = f"{worst} dB, colours {found['colour_shift']} levels from those by software"
    return found
