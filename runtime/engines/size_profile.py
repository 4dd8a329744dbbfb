"""The image sizes that an engine is built for."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from dsmap.errors import InputError

MAX_SIDE = 16384
"""Pixels."""


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, kw_only=True)
class SizeProfile:
    """The image sizes that an engine takes: `minimum` to `maximum`, fastest at `optimum`; batches of 1 to max_batch."""

    minimum: Size
    optimum: Size
    maximum: Size
    multiple_of: int
    max_batch: int = 1

    @classmethod
    def parse(cls, text: str, *, multiple_of: int = 8, minimum: int = 1, max_batch: int = 1) -> "SizeProfile":
        """Reads WIDTHxHEIGHT, or MIN:OPT:MAX of such. `minimum` is the smallest side the network takes.

        Raises InputError, which names --sizes, for everything that is not a valid profile.
        """
        parts = text.split(":")
        if len(parts) not in (1, 3):
            raise InputError(f"--sizes {text!r} has {len(parts)} sizes, expected one or min:opt:max", _EXAMPLE)
        sizes = [_parse_size(part, multiple_of, minimum) for part in parts]
        low, best, high = sizes if len(sizes) == 3 else sizes * 3
        for names, small, large in (("min and opt", low, best), ("opt and max", best, high)):
            if small.width > large.width or small.height > large.height:
                raise InputError(f"--sizes {text}: {names} are out of order: {small} is not within {large}", _EXAMPLE)
        if max_batch < 1:
            raise InputError(f"the largest batch is {max_batch}, expected 1 or more", "Pass a positive number.")
        return cls(minimum=low, optimum=best, maximum=high, multiple_of=multiple_of, max_batch=max_batch)

    def __str__(self) -> str:
        sizes = (self.minimum, self.optimum, self.maximum)
        return str(self.optimum) if len(set(sizes)) == 1 else ":".join(map(str, sizes))

    def takes(self, width: int, height: int, batch: int = 1) -> bool:
        """Whether images of this size are within the profile."""
        low, high = self.minimum, self.maximum
        return (
            low.width <= width <= high.width
            and low.height <= height <= high.height
            and width % self.multiple_of == height % self.multiple_of == 0
            and 1 <= batch <= self.max_batch
        )


_EXAMPLE = "For example --sizes 512x512, or --sizes 256x256:512x512:1920x1088."


def _parse_size(text: str, multiple_of: int, minimum: int) -> Size:
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise InputError(f"--sizes: {text!r} is not WIDTHxHEIGHT", _EXAMPLE)
    size = Size(int(match[1]), int(match[2]))
    for side in size:
        if side % multiple_of:
            below, above = side - side % multiple_of, side + multiple_of - side % multiple_of
            near = f"{below} and {above}" if below else f"{above}"
            raise InputError(f"--sizes: {side} in {size} is not a multiple of {multiple_of}", f"Near it: {near}.")
        if not minimum <= side <= MAX_SIDE:
            raise InputError(
                f"--sizes: {side} in {size} is out of range: sides are {minimum} to {MAX_SIDE} pixels", _EXAMPLE
            )
    return size
