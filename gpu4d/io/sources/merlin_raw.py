"""Unpack patterns as Medipix chips send them: RAW files ("R64") of the Merlin readout.

Pixels lie in groups of eight bytes. The first pixel of a group is in its last byte, and there in the lowest bits. A row of a quad is a row
of each chip, one after the other. Patterns begin with the last row of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.io.sources.frame_files import forwards

BITS = {1: 1, 6: 8, 12: 16, 24: 32}  # depth of the counter -> bits of a stored pixel
TYPES = {1: "u1", 6: "u1", 12: "u2", 24: "u4"}
CHIP = 256  # pixels of a Medipix chip along a row
GROUP = 8  # bytes
QUAD = ((0, 1), (0, 0), (1, 1), (1, 0))  # chips of a quad in the order of a row: 0 upper half of the picture, 1 lower; 0 left, 1 right
# The chips of the upper half are mounted turned by half a turn, and begin with their first row instead of the last.


@dataclass(frozen=True)
class MerlinRaw:
    """RAW patterns of one chip, or of a quad of 2×2 chips. Storage of `FrameFiles`.

    Parameters
    ----------
    depth : int
        Of the counter: 1, 6, 12 or 24 bit. A pattern of 24 bit is two of 12 bit, the first with the upper bits.
    rows : int
        Rows of a chip that were read out.
    quad : bool
    """

    depth: int
    rows: int
    quad: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return (2 * self.rows, 2 * CHIP) if self.quad else (self.rows, CHIP)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(TYPES[self.depth])

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * BITS[self.depth] // 8

    def unpack(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Unpack stored patterns (n, nbytes) into out (n, Qx, Qy), the picture as Merlin's program shows it."""
        stored = forwards(stored)
        if self.depth == 24:
            half, upper, lower = self.nbytes // 2, np.empty(out.shape, np.uint16), np.empty(out.shape, np.uint16)
            self._sort(stored[:, :half], upper)
            self._sort(stored[:, half:], lower)
            np.copyto(out, upper)
            np.left_shift(out, 12, out=out)
            np.bitwise_or(out, lower, out=out)
        else:
            self._sort(stored, out)

    def _sort(self, stored: np.ndarray, out: np.ndarray) -> None:
        """Put pixels of 1, 8 or 16 bits into their places, chip by chip."""
        chips, rows = len(QUAD) if self.quad else 1, self.rows
        lines = stored.reshape(len(stored), rows, chips, -1)
        for chip in range(chips):
            half, right = QUAD[chip] if self.quad else (1, 0)
            turned = half == 0 and self.quad
            place = out[:, half * rows * self.quad :][:, :rows, right * CHIP :][:, :, :CHIP]
            self._sort_chip(lines[:, :, chip], place, turned)

    def _sort_chip(self, lines: np.ndarray, place: np.ndarray, turned: bool) -> None:
        """Put the rows of one chip (n, rows, bytes) into its part of the pictures."""
        if self.depth == 1:
            from gpu4d.io.sources.merlin_bits import expand  # needs numba, which opening a file should not load

            expand(lines, place.view(np.uint64), turned)
        elif turned:  # the first group is the last; its pixels stand in the order that they have in the picture
            np.copyto(place.view(np.uint64)[:, :, ::-1], lines.view(np.uint64))
            if place.itemsize > 1:
                place.byteswap(inplace=True)
        else:
            np.copyto(place.view(np.uint64)[:, ::-1], lines.view(">u8"))
