"""A VapourSynth filter: translates the frames of a clip.

    import vapoursynth as vs
    from dsmap.runtime.vapoursynth import translate

    clip = translate(clip, domain="winter", height=270)  # RGB24
    clip.resize.Bicubic(format=vs.YUV420P8, matrix_s="709").set_output()

Needs VapourSynth 81, which needs Python 3.12 or later: pip install 'dsmap[cpu,vapoursynth]'
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundled import DEFAULT_MODEL
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.translator import Translator

if TYPE_CHECKING:
    import vapoursynth as vs

    from dsmap.runtime.backends.base import Frames
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.styles.resolver import StyleLike

_RGB, _UNSPECIFIED = 0, 2  # matrices, as in H.273
_BT601, _BT709 = 6, 1
_HDR = {16: "PQ", 18: "HLG"}  # transfers
_HD_LINES, _HD_COLUMNS = 720, 1280  # untagged video of at least this size is BT.709, as everywhere in dsmap


def translate(
    clip: "vs.VideoNode",
    *,
    domain: str | None = None,
    model: "str | Path | Bundle" = DEFAULT_MODEL,
    style: "StyleLike" = None,
    height: int | None = None,
    refine: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
) -> "vs.VideoNode":
    """`clip`, translated to `domain`: RGB24 of the same size, length and frame properties.

    `clip`: RGB or YUV of any depth; YUV is converted by its own matrix, or where it names none by that of its size, as
    in dsmap-video. `height`, `refine`: translate at so many lines, and bring the result back to the clip's size;
    without a height, clips of more than 540 lines at half of them, 540 at most, unless `refine` is "off". The other
    arguments are those of `Translator.load`.

    Frames may be requested in any order and from any thread; each depends on its own input alone. Raises InputError for
    clips without a fixed format or size, for grey and HDR clips, and as `Translator.load`.
    """
    rgb = _as_rgb24(clip)
    translator = Translator.load(model, domain=domain, style=style, backend=backend, precision=precision)
    steps = FrameSteps(translator, rgb.width, rgb.height, lines=height, refine=refine)
    translator.check_size(steps.inside[1], steps.inside[0])
    lock = threading.Lock()  # a translator is called from one thread at a time

    def translated(n: int, f: "vs.VideoFrame") -> "vs.VideoFrame":
        frame_rgb = np.stack([np.asarray(f[plane]) for plane in range(3)], axis=-1)
        with lock:
            result = _translated(steps, frame_rgb)
        out = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(out[plane]), result[:, :, plane])
        out.props["_Matrix"] = _RGB
        return out

    return rgb.std.ModifyFrame(rgb, translated)


def _translated(steps: FrameSteps, frame_rgb: "Frames") -> "Frames":
    return steps.finish(frame_rgb, steps.begin(frame_rgb)())


def _as_rgb24(clip: "vs.VideoNode") -> "vs.VideoNode":
    """The clip as RGB24. Raises InputError for one that cannot be converted without being asked how."""
    vs = _vapoursynth()
    if clip.format is None or not clip.width or not clip.height:
        raise InputError("the clip's frames differ in size or format", "resize them to one size and format first")
    if clip.format.color_family not in (vs.RGB, vs.YUV):
        raise InputError(f"the clip is {clip.format.name}", "convert it first: clip.resize.Bicubic(format=vs.RGB24)")
    props = clip.get_frame(0).props
    if (transfer := int(props.get("_Transfer", _UNSPECIFIED))) in _HDR:
        raise InputError(f"the clip is HDR ({_HDR[transfer]})", "tone-map it to SDR first")
    if clip.format.id == vs.RGB24:
        return clip
    options: dict[str, Any] = {}
    if clip.format.color_family == vs.YUV and int(props.get("_Matrix", _UNSPECIFIED)) == _UNSPECIFIED:
        is_hd = clip.height >= _HD_LINES or clip.width >= _HD_COLUMNS
        options["matrix_in"] = _BT709 if is_hd else _BT601
    return clip.resize.Bicubic(format=vs.RGB24, **options)


def _vapoursynth() -> Any:
    try:
        import vapoursynth
    except ImportError as error:
        raise DsmapError(
            f"VapourSynth is not installed for this Python ({error})",
            "pip install 'dsmap[vapoursynth]', with Python 3.12 or later",
        ) from None
    return vapoursynth
