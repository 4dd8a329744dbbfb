"""What brings the smaller results of a translator to full size, as `--refine` chooses."""

from dsmap.errors import InputError
from dsmap.runtime.frame_translator import FrameTranslator, Refine
from dsmap.runtime.refine.guided import guided


def refiner_for(refine: str, translator: FrameTranslator) -> Refine:
    """For "learnt" what the translator has learnt, for "auto" that as far as there is one, else `guided`.

    Raises InputError for "learnt" where there is none.
    """
    learnt = None if refine == "guided" else translator.learnt_refiner()
    if learnt is None and refine == "learnt":
        raise InputError("there is no refiner for these translations", "Pass --refine guided.")
    return learnt or guided
