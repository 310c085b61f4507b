"""Make bytes of the bits of RAW patterns of 1 bit, by numba."""

import numpy as np

from gpu4d.compiled import entry, read_only

GROUP = 8  # bytes whose order is reversed


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return the eight pixels, a byte each, of every byte of bits: with the lowest bit first, and last."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    first, last = (np.ascontiguousarray(order).view(np.uint64)[:, 0] for order in (bits[:, ::-1], bits))
    return read_only(first), read_only(last)


UPRIGHT, TURNED = _tables()


def expand(lines: np.ndarray, place: np.ndarray, turned: bool) -> None:
    """Write the pixels of bits (n, rows, bytes) uint8 into (n, rows, bytes) uint64, from the last row on, or turned by half a turn."""
    _expand(read_only(lines), TURNED if turned else UPRIGHT, place, turned)


@entry()
def _expand(lines, pixels_of, place, turned):
    """Eight pixels are one value of 64 bits, which comes from a table."""
    rows, last = lines.shape[1], lines.shape[2] - 1
    for n in range(len(lines)):
        for row in range(rows):
            x = row if turned else rows - 1 - row
            for i in range(lines.shape[2]):
                group, inside = i // GROUP, i % GROUP
                y = last - group * GROUP - (GROUP - 1 - inside) if turned else group * GROUP + GROUP - 1 - inside
                place[n, x, y] = pixels_of[lines[n, row, i]]
