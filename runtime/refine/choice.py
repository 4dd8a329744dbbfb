"""Whether results of a lower height are brought to full size along the input's edges: what `--refine` chooses."""

from dsmap.errors import InputError
from dsmap.runtime.video.scaling import size_at_height

REFINE_CHOICES = ("auto", "guided", "learnt", "off")
_ALWAYS = ("guided", "learnt")
MOST_LINES = 540
"""What has more is translated at half of them, and at no more than these."""
_LEAST_RATIO = 1.3
"""Enlarged by less, a plain resize keeps more of what the network draws."""


def check_refine(refine: str) -> str:
    """`refine`, if it is a choice. Raises InputError."""
    if refine not in REFINE_CHOICES:
        raise InputError(f"--refine {refine} is not known", f"choose one of {', '.join(REFINE_CHOICES)}")
    return refine


def size_inside(width: int, height: int, lines: int | None, refine: str) -> tuple[int, int]:
    """(width, height) to translate a frame of such a size at: `lines` high.

    Where no height is given, "guided" and "learnt" halve the size, and "auto" does that with what has more than 540
    lines: the shorter side gets 540 at most. Otherwise it is the frame's own size.
    """
    shorter = min(width, height)
    if lines is None and (refine in _ALWAYS or (refine == "auto" and shorter > MOST_LINES)):
        lines = -(-height * min(-(-shorter // 2), MOST_LINES) // shorter)
    return size_at_height(width, height, lines)


def is_refined(refine: str, inside: tuple[int, int], result: tuple[int, int]) -> bool:
    """Whether a translation of size `inside` is refined to `result`, both (width, height).

    "guided" and "learnt" do so wherever the result is larger; "auto" where it is larger enough to gain.
    """
    ratio = min(result[0] / inside[0], result[1] / inside[1])
    return ratio > 1 if refine in _ALWAYS else refine == "auto" and ratio >= _LEAST_RATIO
