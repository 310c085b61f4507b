"""Look for disks that brighter neighbours hide from the correlation.

The trench of a template lowers the correlation around a bright disk. A weak disk there has no maximum, or one that is not significant.
When the bright disk has been fitted, it can be subtracted, and what it hides remains.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.likelihood.poisson_fit import template_at
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

FITTED, PLACED = 1, 2  # states of a disk: it can be subtracted, or only its position is known
MOST_HIDDEN = 16  # places in one pattern
MOST_LOOKS = 8  # places that are examined around one disk
REACH = 3.5  # radii: half the side of the square that is examined around a disk. The trench of a template ends at 3 R
APART = 1.2  # radii: no place is nearer to a disk that was fitted, or to another place
UNKNOWN = 2.2  # radii: no place is nearer to a disk that was not fitted, because it cannot be subtracted
LEAST_VARIANCE = 0.02  # counts: smallest variance of a pixel
MISFIT = 0.03  # of its height: error of a disk's model, because real disks are not quite even
DARK = 0.05  # of its height: a cell with less of a disk shows the background
UNEVEN = 0.05  # of the background: error of its model, a quadratic
FIRST_LOOK = 0.7  # of the least z: below it a place is not examined. The first z has 3 × 3 cells, three quarters of a disk
TERMS = 6  # of the quadratic: 1, u, v, u², uv, v²


class Hidden(NamedTuple):
    """Places of n patterns where counts are left that no disk explains. Places after the last have NaN.

    Attributes
    ----------
    count : (n,) int64
    x, y : (n, 16) float64, pixels
        Middles of cells of half a radius.
    """

    count: Any
    x: Any
    y: Any


class Cells(NamedTuple):
    """Squares of cells about a disk.

    Attributes
    ----------
    size : int
        Side of a cell, pixels: half a radius, at least one pixel.
    half : int
        Cells from the middle one to the border.
    cover : (2 m + 1, 2 m + 1) float32
        Part of each cell that a disk in the middle of the middle cell covers.
    terms : (6, side²) float32
        The quadratic's terms at the middles of cells, from -1 to 1.
    """

    size: int
    half: int
    cover: np.ndarray
    terms: np.ndarray

    @property
    def side(self) -> int:
        """Return the number of cells along an axis."""
        return 2 * self.half + 1


@lru_cache(maxsize=8)
def cells_of(radius: float) -> Cells:
    """Return the cells for disks of a radius."""
    size = max(1, int(radius / 2))
    half, margin = ceil(REACH * radius / size), ceil(radius / size)
    fine = (np.arange((2 * margin + 1) * 8) + 0.5) / 8 - margin - 0.5  # eight samples a cell
    inside = np.hypot(fine[:, None], fine[None, :]) * size <= radius
    cover = inside.reshape(2 * margin + 1, 8, 2 * margin + 1, 8).mean((1, 3)).astype(np.float32)
    u = np.arange(-half, half + 1) / half
    u, v = (a.ravel() for a in np.meshgrid(u, u, indexing="ij"))
    return Cells(size, half, cover, np.stack([np.ones_like(u), u, v, u * u, u * v, v * v]).astype(np.float32))


@operation(
    cuda=Twin("gpu4d.kernels.hidden_disks", KERNEL_PIXELS, frame=KERNEL_FRAME),
    cpu=Twin("gpu4d.cpu_fallback.hidden_disks"),
)
def hidden_disks(
    patterns: Any,
    x: Any,
    y: Any,
    amplitude: Any,
    state: Any,
    around: Any,
    table: Any,
    pixels: Any,
    allowed: Any,
    /,
    mask: Any = None,
    radius: float = 1.0,
    least: float = 5.0,
) -> Hidden:
    """Find places near the brightest fitted disks where counts are left that look like a disk.

    The square of ± 3.5 radii about a disk is added up in cells of half a radius, and all fitted disks are subtracted. The background is
    the quadratic that fits the cells best, weighted by 1 / v. The variance v has the counts and a misfit of 3 % of the fitted disks. A
    place is a cell c where a disk of height h fits the rest with

        z = h / √(σ² + (0.05 b)²) ≥ least

    with σ from the weighted least squares of h and the quadratic together, and b the mean background of the square. Places are taken in
    the order of their first z, the mean of 3 × 3 cells with the quadratic known. Each is subtracted before the next one is looked for.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real, counts
    x, y, amplitude : (n, K) real
        Disks: position in pixels, and height in counts per pixel.
    state : (n, K) int
        1: the disk is subtracted. 2: only its position is used. 0: no disk.
    around : (n,) int
        Number of disks that are examined, the brightest first.
    table, pixels
        From `disk_profile`.
    allowed : (Qx, Qy) bool
        True where a disk may lie.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. Other pixels are not used.
    radius : float
        Radius of a disk, pixels.
    least : float
        Least z.

    Returns
    -------
    Hidden
        A square with a NaN has no places.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> from gpu4d.bragg.likelihood.poisson_fit import disk_profile
    >>> probe = gpu4d.probe.synthetic((64, 64), 4.0)
    >>> p, one = disk_profile(probe), np.ones((1, 1))
    >>> counts = 1 + 500 * probe + 20 * np.roll(probe, (9, 0), (0, 1))
    >>> places = hidden_disks(counts[None], 32 * one, 32 * one, 500 * one, one, one[0], p.table, p.pixels, probe > -1, radius=4.0)
    >>> int(places.count[0]), abs(float(places.x[0, 0]) - 41) < 2, abs(float(places.y[0, 0]) - 32) < 2
    (1, True, True)
    """
    xp = arrays.namespace(patterns, x, y, amplitude, table)
    n, most = x.shape
    cells = cells_of(float(radius))
    nothing = xp.full((n, MOST_HIDDEN), float("nan"), dtype=xp.float64, device=arrays.device(x))
    places = Hidden(xp.zeros((n,), dtype=xp.int64, device=arrays.device(x)), nothing, nothing)
    if n == 0 or most == 0:
        return places
    counts = arrays.as_float64(patterns)
    valid = xp.ones(patterns.shape[1:], dtype=xp.bool, device=arrays.device(x)) if mask is None else mask
    disks = [xp.where(state > 0, v, xp.zeros_like(v)) for v in map(arrays.as_float64, (x, y, amplitude))]
    kinds = arrays.to_numpy(state)
    used = np.flatnonzero(kinds.any(axis=0))  # places that are empty in all patterns take no time
    state, disks = xp.take(state, arrays.from_numpy(used, state), axis=1), [xp.take(v, arrays.from_numpy(used, v), axis=1) for v in disks]
    order = xp.argsort(xp.where(state == FITTED, -disks[2], xp.full_like(disks[2], float("inf"))), axis=-1, stable=True)
    for k in range(min(int(xp.max(around)), int((kinds == FITTED).sum(axis=1).max(initial=0)))):
        chosen = order[:, k : k + 1]
        x0, y0, height = (arrays.gather(v, chosen)[:, 0] for v in disks)
        square = _square(counts, valid, (x0, y0), disks, state == FITTED, table, pixels, cells)
        active = (arrays.gather(state, chosen)[:, 0] == FITTED) & (around > k)
        places = _look_at(square, places, active, height, disks, state, Search(allowed, radius, least, cells))
    return places


class Search(NamedTuple):
    """What is the same for all squares: where disks may lie, their radius in pixels, the least z, and the cells."""

    allowed: Any
    radius: float
    least: float
    cells: Cells


class Square(NamedTuple):
    """Cells about one disk of every pattern, (n, side²) float64.

    Attributes
    ----------
    area : number of valid pixels
    left : counts left
    bright : counts of the fitted disks
    x, y : middle of the cell, pixels
    """

    area: Any
    left: Any
    bright: Any
    x: Any
    y: Any


def _square(counts: Any, valid: Any, middle: Any, disks: list[Any], fitted: Any, table: Any, pixels: Any, cells: Cells) -> Square:
    """Add up the pixels about `middle` in cells, and subtract the fitted disks."""
    xp = arrays.namespace(counts, table)
    n, nx, ny = counts.shape
    length = cells.side * cells.size
    corner = [xp.astype(xp.floor(v + 0.5), xp.int64) - length // 2 for v in middle]
    step = xp.arange(length, dtype=xp.int64, device=arrays.device(counts))
    i, j = corner[0][:, None, None] + step[None, :, None], corner[1][:, None, None] + step[None, None, :]
    there = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
    index = xp.reshape(xp.where(there, i * ny + j, xp.zeros_like(i + j)), (n, length * length))
    there = xp.reshape(there, (n, length * length)) & xp.reshape(xp.take(xp.reshape(valid, (-1,)), xp.reshape(index, (-1,))), index.shape)
    value = arrays.gather(xp.reshape(counts, (n, nx * ny)), index)
    model = xp.zeros_like(value)
    for k in range(disks[0].shape[1]):
        height = xp.where(fitted[:, k], disks[2][:, k], xp.zeros_like(disks[2][:, k]))
        model = model + height[:, None] * xp.reshape(_disk_at(i, j, disks[0][:, k], disks[1][:, k], table, pixels), model.shape)
    zero = xp.zeros_like(value)
    parts = (xp.ones_like(value), value - model, model)
    area, left, bright = (_in_cells(xp.where(there, v, zero), cells) for v in parts)
    at = xp.arange(cells.side, dtype=xp.float64, device=arrays.device(counts)) * cells.size + (cells.size - 1) / 2
    first = [arrays.as_float64(c)[:, None, None] for c in corner]
    places = (xp.broadcast_to(a, (n, cells.side, cells.side)) for a in (first[0] + at[None, :, None], first[1] + at[None, None, :]))
    return Square(area, left, bright, *(xp.reshape(a, area.shape) for a in places))


def _in_cells(a: Any, cells: Cells) -> Any:
    """Return the sums over cells, (n, side²), of pixels (n, length²)."""
    xp = arrays.namespace(a)
    parts = xp.reshape(a, (a.shape[0], cells.side, cells.size, cells.side, cells.size))
    return xp.reshape(xp.sum(parts, axis=(2, 4)), (a.shape[0], cells.side**2))


def _disk_at(i: Any, j: Any, x: Any, y: Any, table: Any, pixels: Any) -> Any:
    """Return the disk of height 1 at (x, y), (n,), on pixels i (n, a, 1), j (n, 1, b). It is 0 beyond its window."""
    xp = arrays.namespace(table, x)
    window = arrays.to_numpy(pixels)
    half = -int(window[0, 0])
    side = 2 * half + 1
    place = np.full(side * side + 1, len(window), np.int64)  # of a pixel of the square in the list of the window; the last for none
    place[(window[:, 0] + half) * side + window[:, 1] + half] = np.arange(len(window))
    cx, cy = xp.floor(x + 0.5), xp.floor(y + 0.5)
    disk, _, _ = template_at(table, x - cx, y - cy)
    disk = xp.concat([disk, xp.zeros_like(disk[:, :1])], axis=-1)
    dx, dy = i - xp.astype(cx, xp.int64)[:, None, None] + half, j - xp.astype(cy, xp.int64)[:, None, None] + half
    near = (dx >= 0) & (dx < side) & (dy >= 0) & (dy < side)
    at = xp.where(near, dx * side + dy, xp.full_like(dx + dy, side * side))
    number = xp.take(arrays.from_numpy(place, x), xp.reshape(at, (-1,)))
    return arrays.gather(disk, xp.reshape(number, (at.shape[0], -1)))


def _look_at(square: Square, places: Hidden, active: Any, height: Any, disks: list[Any], state: Any, search: Search) -> Hidden:
    """Take the places of one square, one after the other."""
    xp = arrays.namespace(square.left)
    allowed, radius, least, cells = search
    dark = (square.bright <= DARK * cells.size**2 * height[:, None]) & (square.area > 0)
    total, pixels = (xp.sum(xp.where(dark, v, xp.zeros_like(v)), axis=-1) for v in (square.left, square.area))
    ground = xp.maximum(total / xp.maximum(pixels, xp.ones_like(pixels)), xp.full_like(total, LEAST_VARIANCE))
    uneven = (UNEVEN * ground) ** 2
    free = _free(square, disks, state, allowed, radius, cells)
    for k in range(MOST_HIDDEN):
        known = k < places.count[:, None]
        away = (square.x - places.x[:, k : k + 1]) ** 2 + (square.y - places.y[:, k : k + 1]) ** 2
        free = free & ~(known & (away < (APART * radius) ** 2))
        square = square._replace(area=xp.where(known & (away < radius**2), xp.zeros_like(square.area), square.area))
    terms, slot = (
        arrays.from_numpy(cells.terms.astype(np.float64), square.left),
        xp.arange(MOST_HIDDEN, dtype=xp.int64, device=arrays.device(square.left)),
    )
    for _ in range(MOST_LOOKS):
        some = square.area > 0
        one, zero = xp.ones_like(square.area), xp.zeros_like(square.area)
        area = xp.where(some, square.area, one)
        variance = xp.maximum(square.bright, zero) + area * ground[:, None] + (MISFIT * square.bright) ** 2
        weight = xp.where(some, area * area / variance, zero)
        value = xp.where(some, square.left / area, zero)
        quadratic, _, _ = _least_squares(weight, value, xp.broadcast_to(terms[None, ...], (weight.shape[0], *terms.shape)))
        under = xp.matmul(quadratic[:, None, :], terms)[:, 0, :]
        top, bottom = (_block_sums(v, cells.side) for v in (weight * (value - under), weight))
        safe = xp.where(bottom > 0, bottom, one)
        first = xp.where(bottom > 0, top / safe / xp.sqrt(1 / safe + uneven[:, None]), zero)
        first = xp.where(free, first, xp.full_like(first, -float("inf")))
        best = xp.argmax(first, axis=-1)[:, None]
        active = active & (arrays.gather(first, best)[:, 0] >= FIRST_LOOK * least)
        disk = _cover_at(best, cells, square.left)
        together = xp.concat([xp.broadcast_to(terms[None, ...], (disk.shape[0], *terms.shape)), disk[:, None, :]], axis=1)
        fitted, spread, regular = _least_squares(weight, value, together)
        z = fitted[:, TERMS] / xp.sqrt(spread + uneven)
        taken = active & regular & (z >= least) & (places.count < MOST_HIDDEN)
        x, y = (arrays.gather(v, best)[:, 0] for v in (square.x, square.y))
        new = taken[:, None] & (slot[None, :] == places.count[:, None])
        places = Hidden(places.count + xp.astype(taken, xp.int64), xp.where(new, x[:, None], places.x), xp.where(new, y[:, None], places.y))
        away = (square.x - x[:, None]) ** 2 + (square.y - y[:, None]) ** 2
        beside = (xp.abs(square.x - x[:, None]) < 1.5 * cells.size) & (xp.abs(square.y - y[:, None]) < 1.5 * cells.size)
        free = free & ~xp.where(taken[:, None], away < (APART * radius) ** 2, beside)
        gone = xp.where(taken[:, None], square.area * disk * fitted[:, TERMS:], zero)
        square = square._replace(left=square.left - gone, bright=square.bright + gone)
    return places


def _least_squares(weight: Any, value: Any, terms: Any) -> tuple[Any, Any, Any]:
    """Return the coefficients (n, k), the variance of the last one (n,), and True where there is a solution."""
    xp = arrays.namespace(weight)
    scaled = terms * weight[:, None, :]
    matrix = xp.matmul(scaled, xp.matrix_transpose(terms))
    k = matrix.shape[-1]
    last = xp.broadcast_to(xp.eye(k, dtype=matrix.dtype, device=arrays.device(matrix))[:, k - 1 :], (matrix.shape[0], k, 1))
    answer, regular = arrays.solve(matrix, xp.concat([xp.matmul(scaled, value[:, :, None]), last], axis=-1))
    return answer[:, :, 0], answer[:, k - 1, 1], regular


def _block_sums(a: Any, side: int) -> Any:
    """Return the sums over the 3 × 3 cells around every cell, (n, side²). Cells at the border get 0."""
    xp = arrays.namespace(a)
    cells = xp.reshape(a, (a.shape[0], side, side))
    rows = cells[:, :-2, :] + cells[:, 1:-1, :] + cells[:, 2:, :]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    edge = xp.zeros((a.shape[0], side - 2, 1), dtype=a.dtype, device=arrays.device(a))
    line = xp.zeros((a.shape[0], 1, side), dtype=a.dtype, device=arrays.device(a))
    return xp.reshape(xp.concat([line, xp.concat([edge, sums, edge], axis=2), line], axis=1), a.shape)


def _cover_at(best: Any, cells: Cells, beside: Any) -> Any:
    """Return the covered part of every cell for a disk in cell `best` (n, 1)."""
    xp = arrays.namespace(beside)
    side, margin = cells.side, cells.cover.shape[0] // 2
    number = xp.arange(side * side, dtype=xp.int64, device=arrays.device(beside))[None, :]
    di, dj = number // side - best // side + margin, number % side - best % side + margin
    inside = (di >= 0) & (di <= 2 * margin) & (dj >= 0) & (dj <= 2 * margin)
    flat = arrays.from_numpy(cells.cover.astype(np.float64).ravel(), beside)
    place = xp.where(inside, di * (2 * margin + 1) + dj, xp.zeros_like(di))
    return xp.where(inside, xp.reshape(xp.take(flat, xp.reshape(place, (-1,))), place.shape), xp.zeros_like(beside))


def _free(square: Square, disks: list[Any], state: Any, allowed: Any, radius: float, cells: Cells) -> Any:
    """Return True at cells where a hidden disk may lie."""
    xp = arrays.namespace(square.left)
    nx, ny = allowed.shape
    i, j = (xp.astype(xp.floor(v), xp.int64) for v in (square.x, square.y))
    on = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
    index = xp.where(on, i * ny + j, xp.zeros_like(i))
    free = on & xp.reshape(xp.take(xp.reshape(allowed, (-1,)), xp.reshape(index, (-1,))), index.shape)
    number = xp.arange(cells.side**2, dtype=xp.int64, device=arrays.device(square.left))
    row, column = number // cells.side, number % cells.side
    free = free & ((row > 0) & (row < cells.side - 1) & (column > 0) & (column < cells.side - 1))[None, :]
    for k in range(state.shape[1]):
        away = (square.x - disks[0][:, k : k + 1]) ** 2 + (square.y - disks[1][:, k : k + 1]) ** 2
        fitted, placed = state[:, k : k + 1] == FITTED, state[:, k : k + 1] == PLACED
        free = free & ~(fitted & (away < (APART * radius) ** 2)) & ~(placed & (away < (UNKNOWN * radius) ** 2))
    return free
