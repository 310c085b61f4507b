"""Find maxima of a correlation map, and select those that are disks."""

import numpy as np
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.map_lanes import peak_bits
from gpu4d.cpu_fallback.refine_disks import variance_at

from gpu4d.compiled import ALL, helper


@helper(ALL)
def maxima(c, allowed, at, height, bits):
    """Write positive maxima over eight neighbours at allowed pixels to `at` and `height`, and return their number.

    Of two equal neighbours one is taken (see `peak_bits`). `c` is a map of `maps_with_slack`, because vectors read one pixel before
    its first and one after its last.
    """
    nx, ny = allowed.shape
    stride = c.shape[1]
    count = 0
    for i in range(1, nx - 1):
        peak_bits(c[i].ctypes.data, stride, stride, bits.ctypes.data)
        for group in range(bits.size):
            if bits[group] != 0:  # most groups have no maximum
                for j in range(group * LANES, min((group + 1) * LANES, ny)):
                    if (bits[group] >> (j - group * LANES)) & 1 and allowed[i, j]:
                        at[count, 0], at[count, 1], height[count] = i, j, c[i, j]
                        count += 1
    return count


@helper(ALL)
def significant(x, ny, cross, moments, limits, at, height, found, scratch):
    """Keep the candidates over the thresholds, in place, and return their number. z = C₁ / √(I ⋆ K²) comes from a window about each."""
    strongest = np.float32(0)
    for q in range(found):
        strongest = max(strongest, height[q])
    least = max(limits[2], limits[1] * strongest)
    kept = 0
    for q in range(found):
        i, j = np.int64(at[q, 0]), np.int64(at[q, 1])
        c = cross[i, j]
        if height[q] < least:
            continue
        if limits[0] > 0 and c <= 0:
            continue
        if limits[0] > 0 or c < 0:  # else z >= 0 >= min_significance
            variance = variance_at(x, ny, i, j, moments, scratch)
            if variance == 0:  # no counts: z = 0
                if limits[0] > 0:
                    continue
            elif c < limits[0] * np.sqrt(variance):
                continue
        at[kept, 0], at[kept, 1], height[kept] = i, j, height[q]
        kept += 1
    return kept


@helper(ALL)
def strongest(at, height, found, spacing, row):
    """Choose candidates at least `spacing` apart, strongest first. Positions and heights go to row[0], row[1], row[2]."""
    most = row.shape[1]
    kept = 0
    for _ in range(found):
        best, top = -1, np.float32(-1)
        for q in range(found):
            if height[q] > top:
                best, top = q, height[q]
        if best < 0 or kept == most:
            break
        height[best] = np.float32(-2)
        i, j = at[best, 0], at[best, 1]
        free = True
        for t in range(kept):
            dx, dy = i - row[0, t], j - row[1, t]
            if dx * dx + dy * dy < spacing * spacing:
                free = False
                break
        if free:
            row[0, kept], row[1, kept], row[2, kept] = i, j, top
            kept += 1
    return kept
