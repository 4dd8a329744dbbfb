"""A tensor of a frame in pieces: rows are added at its end and freed at its beginning."""

import numpy as np

from dsmap.runtime.tiles.part_runner import Array, Layout, Stripe


class Rows:
    """The pieces of one tensor, from the first that was not freed to the last that was added."""

    def __init__(self, layout: Layout, height: int) -> None:
        """`height` is the frame's."""
        self.layout, self._height = layout, height
        self._pieces: list[Array] = []
        self._start = 0

    def add(self, rows: Array) -> None:
        """Adds the rows that follow. They are copied where they are a part of a larger array, which would be kept."""
        whole = rows.base is None or rows.base.nbytes == rows.nbytes
        self._pieces.append(rows if whole else rows.copy())

    def read(self, stripe: Stripe) -> Array:
        """The rows that cover `stripe`."""
        at, (start, end), found = self._start, self._rows_of(stripe), []
        for piece in self._pieces:
            length = piece.shape[self.layout.axis]
            if at < end and at + length > start:
                found.append(self.layout.cut(piece, max(0, start - at), min(length, end - at)))
            at += length
        return found[0] if len(found) == 1 else np.concatenate(found, self.layout.axis)

    def free_before(self, stripe: Stripe) -> None:
        """Frees the pieces that end before `stripe`."""
        start, _ = self._rows_of(stripe)
        while self._pieces and self._start + self._pieces[0].shape[self.layout.axis] <= start:
            self._start += self._pieces.pop(0).shape[self.layout.axis]

    def channel(self, number: int, into: Array) -> None:
        """Copies to `into`, flat, all numbers of one channel of a tensor (1, C, H, W), of which nothing was freed."""
        np.concatenate([piece[0, number] for piece in self._pieces], out=into.reshape(-1, self._pieces[0].shape[3]))

    def _rows_of(self, stripe: Stripe) -> tuple[int, int]:
        return self.layout.rows(stripe.start, -1), self.layout.rows(stripe.end, self._height)
