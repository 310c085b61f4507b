"""Shift patterns (CPU twin).

Two rows are interpolated into a buffer. Then the buffer is interpolated along the row. Each row is read twice. No pattern is
copied before.
"""

import numpy as np

from gpu4d.compiled import contiguous, entry


@entry(allocates=True)
def _shifted(patterns, whole, part, out):
    n, nx, ny = patterns.shape
    row = np.empty(ny + 1)  # row[0] is the pixel before row[1]
    for k in range(n):
        px, py = part[k]
        split = whole[k, 1] % ny  # out[y] is row[y - whole], periodic: two runs
        for x in range(nx):
            near, far = patterns[k, (x - whole[k, 0]) % nx], patterns[k, (x - whole[k, 0] - 1) % nx]
            for y in range(ny):
                row[y + 1] = np.float64(near[y]) * (1 - px) + np.float64(far[y]) * px
            row[0] = row[ny]
            moved = out[k, x]
            for y in range(split):
                moved[y] = row[y + ny - split + 1] * (1 - py) + row[y + ny - split] * py
            for y in range(split, ny):
                moved[y] = row[y - split + 1] * (1 - py) + row[y - split] * py


def shifted_patterns(patterns, shifts, /):
    shifts = np.asarray(shifts, np.float64)
    whole = np.floor(np.where(np.isfinite(shifts), shifts, 0.0))
    out = np.empty(patterns.shape)
    with np.errstate(invalid="ignore"):
        part = shifts - whole
    _shifted(contiguous(patterns), contiguous(whole, np.int64), contiguous(part), out)
    return out
