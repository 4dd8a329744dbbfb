"""Whether results of a lower height are brought to full size along the input's edges: what `--refine` chooses."""

from dsmap.errors import InputError

REFINE_CHOICES = ("auto", "guided", "learnt", "off")
_LEAST_RATIO = 1.3
"""Enlarged by less, a plain resize keeps more of what the network draws."""


def check_refine(refine: str) -> str:
    """`refine`, if it is a choice. Raises InputError."""
    if refine not in REFINE_CHOICES:
        raise InputError(f"--refine {refine} is not known", f"choose one of {', '.join(REFINE_CHOICES)}")
    return refine


def is_refined(refine: str, inside: tuple[int, int], result: tuple[int, int]) -> bool:
    """Whether a translation of size `inside` is refined to `result`, both (width, height).

    "guided" and "learnt" do so wherever the result is larger; "auto" where it is larger enough to gain.
    """
    ratio = min(result[0] / inside[0], result[1] / inside[1])
    return ratio > 1 if refine in ("guided", "learnt") else refine == "auto" and ratio >= _LEAST_RATIO
