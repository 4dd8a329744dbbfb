"""What brings the smaller results of a translator to full size, as `--refine` chooses."""

from collections.abc import Callable

from dsmap.errors import InputError
from dsmap.runtime.frame_translator import FrameTranslator, Refine
from dsmap.runtime.refine.guided import guided
from dsmap.runtime.refine.guided_yuv import guided_yuv
from dsmap.runtime.refine.learnt import LearntRefiner
from dsmap.runtime.refine.local_map import Pixels
from dsmap.runtime.refine.yuv_planes import YuvPlanes

RefineYuv = Callable[[YuvPlanes, Pixels, Pixels, YuvPlanes], None]
"""(frame, smaller frame in RGB, translation of that one, result to fill): see `guided_yuv`."""


def refiner_for(refine: str, translator: FrameTranslator) -> Refine:
    """For "learnt" what the translator has learnt, for "auto" that as far as there is one, else `guided`.

    Raises InputError for "learnt" where there is none.
    """
    learnt = None if refine == "guided" else translator.learnt_refiner()
    if learnt is None and refine == "learnt":
        raise InputError("there is no refiner for these translations", "Pass --refine guided.")
    return learnt or guided


def yuv_refiner(refine: Refine | None) -> RefineYuv | None:
    """The same for frames that stay Y'CbCr; None where there is none."""
    if isinstance(refine, LearntRefiner):
        return refine.in_yuv
    return guided_yuv if refine is guided else None
