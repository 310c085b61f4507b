"""Add up the pixels about a disk in cells, and subtract the fitted disks, for `hidden_disks`."""

from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.joint_equations import square_table

from gpu4d.bragg.likelihood.hidden_disks import FITTED, TERMS, cells_of
from gpu4d.compiled import KEEPS_NAN, contiguous, routine

LANES = 16  # cells of a vector: rows of cells are padded to whole vectors


class Search(NamedTuple):
    """What is the same for all patterns."""

    table: np.ndarray  # (17, 17, 3, window, stride) float32, of `square_table`
    half: int  # of the window
    allowed: np.ndarray
    valid: np.ndarray  # (Qx, Qy) bool; (1, 1) where all pixels count
    size: int  # of a cell
    side: int  # cells along an axis
    cover: np.ndarray
    u: np.ndarray  # (side, stride) float32: axes from -1 to 1; beyond the last cell they do not matter, because weights are 0
    v: np.ndarray
    radius: float
    least: float


class Work(NamedTuple):
    """Work arrays of one square. Cells are (side, stride) float32."""

    plane: np.ndarray  # (Qx, Qy): the pattern
    model: np.ndarray  # (side · size, side · size + …): the fitted disks on the pixels of the square
    lines: np.ndarray  # (3, side · size): sums of the rows of pixels in a row of cells: counts, valid pixels, model
    area: np.ndarray  # number of valid pixels
    left: np.ndarray
    bright: np.ndarray
    weight: np.ndarray
    value: np.ndarray
    under: np.ndarray  # the quadratic
    rest: np.ndarray  # counts left over the quadratic, times the weight
    top: np.ndarray  # (stride,): sums over three rows of cells
    bottom: np.ndarray
    free: np.ndarray  # (side, stride) bool
    matrix: np.ndarray  # (7, 7) float64
    answer: np.ndarray  # (7,)
    begin: np.ndarray  # (7,) int64: first columns of the rows, all 0
    kept: np.ndarray  # both of the quadratic alone, before they are solved
    kept_answer: np.ndarray
    corner: np.ndarray  # (2,) int64: first pixel


def search_of(table, pixels, allowed, mask, radius, least):
    cells = cells_of(radius)
    stride = -(-cells.side // LANES) * LANES
    axes = np.zeros((2, cells.side, stride), np.float32)
    axes[:, :, : cells.side] = cells.terms[1:3].reshape(2, cells.side, cells.side)
    return Search(
        square_table(table, pixels),
        -int(pixels[0, 0]),
        contiguous(allowed),
        contiguous(np.ones((1, 1), bool) if mask is None else mask),
        cells.size,
        cells.side,
        cells.cover,
        axes[0],
        axes[1],
        radius,
        least,
    )


def work_arrays(search, detector):
    shape = search.u.shape
    return Work(
        np.zeros(detector, np.float32),
        np.zeros((search.side * search.size, search.side * search.size), np.float32),
        np.zeros((3, search.side * search.size), np.float32),
        *(np.zeros(shape, np.float32) for _ in range(7)),
        *(np.zeros(shape[1], np.float32) for _ in range(2)),
        np.zeros(shape, bool),
        np.zeros((TERMS + 1, TERMS + 1)),
        np.zeros(TERMS + 1),
        np.zeros(TERMS + 1, np.int64),
        np.zeros((TERMS + 1, TERMS + 1)),
        np.zeros(TERMS + 1),
        np.zeros(2, np.int64),
    )


@routine(KEEPS_NAN)
def add_up(disks, state, middle, search, work):
    """Add up the pixels about a disk in cells, and subtract the fitted disks."""
    size, side, model = search.size, search.side, work.model
    counts, pixels, bright = work.lines[0], work.lines[1], work.lines[2]
    length = side * size
    nx, ny = work.plane.shape
    masked = search.valid.size > 1
    top, begin = int(np.floor(disks[0, middle] + 0.5)) - length // 2, int(np.floor(disks[1, middle] + 0.5)) - length // 2
    work.corner[0], work.corner[1] = top, begin
    first, last = max(-begin, 0), min(length, ny - begin)
    model[:] = 0
    for k in range(state.size):
        if state[k] == FITTED:
            _add_model(disks[0, k] - top, disks[1, k] - begin, np.float32(disks[2, k]), search, model)
    for i in range(side):
        work.lines[:] = 0
        for q in range(max(i * size, -top), min((i + 1) * size, nx - top)):
            source, disk = work.plane[top + q, begin + first : begin + last], model[q, first:last]
            a, b, c = counts[first:last], pixels[first:last], bright[first:last]
            if masked:
                valid = search.valid[top + q, begin + first : begin + last]
                for p in range(last - first):
                    if valid[p]:
                        a[p] += source[p]
                        b[p] += np.float32(1)
                        c[p] += disk[p]
            else:
                for p in range(last - first):
                    a[p] += source[p]
                for p in range(last - first):
                    b[p] += np.float32(1)
                for p in range(last - first):
                    c[p] += disk[p]
        for j in range(side):
            total = area = known = np.float32(0)
            for p in range(j * size, (j + 1) * size):
                total += counts[p]
                area += pixels[p]
                known += bright[p]
            work.left[i, j], work.area[i, j], work.bright[i, j] = total - known, area, known


@routine(KEEPS_NAN)
def _add_model(x, y, height, search, model):
    """Add a fitted disk: the nearest phase of the table, moved to first order."""
    table, half, length = search.table, search.half, model.shape[0]
    if not (-half - 1 < x < length + half and -half - 1 < y < length + half):
        return
    phases = table.shape[0] - 1
    cx, cy = np.floor(x + 0.5), np.floor(y + 0.5)
    fx, fy = x - cx, y - cy
    p = min(max(int(np.floor((fx + 0.5) * phases + 0.5)), 0), phases)
    q = min(max(int(np.floor((fy + 0.5) * phases + 0.5)), 0), phases)
    dx, dy = np.float32(fx + 0.5 - p / phases), np.float32(fy + 0.5 - q / phases)
    down, right = int(cx) - half, int(cy) - half
    left, end = max(0, -right), min(2 * half + 1, length - right)
    for r in range(max(0, -down), min(2 * half + 1, length - down)):
        t0, t1, t2 = table[p, q, 0, r, left:end], table[p, q, 1, r, left:end], table[p, q, 2, r, left:end]
        target = model[down + r, right + left : right + end]
        for c in range(end - left):
            target[c] += height * (t0[c] - dx * t1[c] - dy * t2[c])
