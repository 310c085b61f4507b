"""Place the frames of a long row on a scan: leave out frames of the fly-back, and frames before the first row and after the last."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d.data.arguments import FlyBackAt, two_sizes, whole_numbers
from gpu4d.errors import InputError


def frame_numbers(
    frames: int, scan_shape: tuple[int, int], flyback: int = 0, flyback_at: FlyBackAt = "end", extra: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Return the number of the frame at each position of a scan.

    Parameters
    ----------
    frames : int
        All frames that were recorded.
    scan_shape : (int, int)
        (Rx, Ry).
    flyback : int
        Frames in each row that were recorded while the beam went back.
    flyback_at : {"end", "start"}
        Where they are in a row. At the end, the last row may lack them.
    extra : (int, int)
        Frames before the first row, and after the last.

    Returns
    -------
    (Rx, Ry) int64

    Raises
    ------
    InputError
        The sum of all these is not the number of frames. The error does the sum, and says what would fit.

    Examples
    --------
    >>> frame_numbers(9, (2, 3), flyback=1, extra=(1, 0)).tolist()
    [[1, 2, 3], [5, 6, 7]]
    """
    rows, columns = two_sizes(scan_shape, "scan_shape")
    before, after = whole_numbers(extra, 2, "extra")
    if min(before, after) < 0:
        raise InputError(f"extra={extra!r}: need the numbers of frames before the first row and after the last, from 0 on")
    if isinstance(flyback, bool) or not isinstance(flyback, int | np.integer) or flyback < 0:
        raise InputError(f"flyback={flyback!r}: need the number of fly-back frames in a row, a whole number from 0 on")
    if flyback_at not in ("end", "start"):
        raise InputError(f"flyback_at={flyback_at!r}: need 'end' or 'start', where in a row the fly-back frames are")
    needed = before + rows * (columns + flyback) + after
    if frames not in (needed, needed - flyback * (flyback_at == "end")):
        raise InputError(_does_not_fit(frames, (rows, columns), flyback, (before, after)))
    first = before + flyback * (flyback_at == "start")
    return first + (columns + flyback) * np.arange(rows, dtype=np.int64)[:, None] + np.arange(columns, dtype=np.int64)


def _does_not_fit(frames: int, scan_shape: tuple[int, int], flyback: int, extra: tuple[int, int]) -> str:
    """Say how many frames a shape takes, and what would fit instead."""
    rows, columns = scan_shape
    parts = [f"{rows} rows of {columns}" + f" + {flyback} fly-back" * bool(flyback), *(f"{n} extra" for n in extra if n)]
    said = f"scan_shape {rows},{columns} takes {rows * (columns + flyback) + sum(extra)} frames ({', '.join(parts)}), there are {frames}"
    left = frames - rows * columns - sum(extra)
    fits: list[Any] = []
    if left > 0 and left % rows == 0:
        fits.append(f"flyback={left // rows}")
    elif left > 0 and rows > 1 and left % (rows - 1) == 0:
        fits.append(f"flyback={left // (rows - 1)}, which the last row lacks")
    left = frames - rows * (columns + flyback)
    if left > 0:
        fits.append(f"extra=(a, b) with a + b = {left}")
    whole = (frames - sum(extra)) // (columns + flyback)
    if not fits and whole > 0:
        fits.append(f"scan_shape=({whole}, {columns}) with extra=(a, b), a + b = {frames - whole * (columns + flyback)}")
    return f"{said}: " + (f"what fits is {', or '.join(fits)}" if fits else f"need at least {columns + flyback} frames, one row")
