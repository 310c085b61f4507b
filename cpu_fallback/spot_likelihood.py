"""Compute how much expected disks explain of the counts (CPU twin): one disk after the other, without tables of their pixels."""

import numpy as np

from gpu4d.compiled import contiguous, entry, read_only
from gpu4d.orientation.spot_likelihood import BORDER, EDGE, LEAST_BACKGROUND, check, disk_offsets


@entry()
def _likelihood(patterns, usable, number, spots, origins, background, steps, radius, relative, result):
    qx, qy = patterns.shape[1], patterns.shape[2]
    last = background.shape[0] - 1
    for k in range(number.shape[0]):
        i = number[k]
        sx, sy, height = spots[k, 0], spots[k, 1], spots[k, 2]
        cx, cy = np.rint(sx), np.rint(sy)
        gain, total = 0.0, 0.0
        for o in range(steps.shape[0]):
            x, y = cx + steps[o, 0], cy + steps[o, 1]
            if not (x >= 0 and y >= 0 and x < qx and y < qy):
                continue
            px, py = int(x), int(y)
            n = np.float64(patterns[i, px, py])
            if not (usable[i, px, py] and np.isfinite(n)):
                continue
            away = np.sqrt((x - sx) * (x - sx) + (y - sy) * (y - sy))
            mean = height / (1.0 + np.exp(4.0 * (away - radius) / EDGE))
            total += mean
            gain -= mean
            if n != 0.0:
                dx, dy = x - origins[i, 0], y - origins[i, 1]
                ring = min(np.sqrt(dx * dx + dy * dy), np.float64(last))
                low = min(int(ring), max(last - 1, 0))
                level = background[low] * (1.0 - (ring - low)) + background[low + min(last, 1)] * (ring - low)
                gain += n * np.log1p(mean / max(level, LEAST_BACKGROUND))
        result[k] = gain / (1.0 + relative * relative * total)


def spot_likelihood(patterns, usable, number, spots, origins, background, /, *, radius, relative):
    check(patterns, usable, number, spots, origins, background)
    result = np.empty(len(number))
    spots, origins, background = (contiguous(a, np.float64) for a in (spots, origins, background))
    steps = disk_offsets(radius + BORDER)
    frames, at = (read_only(patterns), contiguous(usable)), contiguous(number, np.int64)
    _likelihood(*frames, at, spots, origins, background, steps, float(radius), float(relative), result)
    return result
