"""Find detector pixels that are stuck or dead, in a mean pattern: single pixels, pairs and clusters, and the gaps between modules."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_array, real_number

HOT = 4.0  # times the brightest neighbour: no disk and no edge of a disk is so steep
DEAD = 0.02  # times the second darkest neighbour
SIGNIFICANCE = 8.0  # standard deviations of a difference, from the counts of all patterns
LARGEST_CLUSTER = 9  # pixels: a larger bright group may be a disk
WINDOW = 7  # px: side of the square whose median is the surroundings of a cluster
SPREAD = 0.03  # of its height: a spot of 0.7 px or more lights the pixels beside its bright ones at least so much, a hot pixel does not
CONSTANT = 1e-6  # relative: maximum and mean of a pixel that differ less are the same, but for rounding
MOST_CONSTANT = 0.05  # of the pixels: if more never change, the patterns are all the same, and this says nothing
LEAST_PATTERNS = 4  # fewest patterns whose pixels should differ
WIDEST_GAP = 8  # rows or columns
ROUNDS = 4  # of the search for hot pixels: each leaves out what the last one found


class _BadPixels(NamedTuple):
    hot: np.ndarray  # (Qx, Qy) bool
    dead: np.ndarray  # (Qx, Qy) bool


class BadPixels(_BadPixels, Storable, stored="hot dead: Qx Qy", room="preprocess"):
    """Pixels that do not measure the electrons that hit them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"BadPixels({int(self.hot.sum())} hot and {int(self.dead.sum())} dead of {'×'.join(map(str, self.hot.shape))} pixels)"

    @property
    def mask(self) -> np.ndarray:
        """Detector mask of the pixels that can be used, (Qx, Qy) bool."""
        return ~(self.hot | self.dead)


@on_host("image")
def find_bad_pixels(
    mean: ArrayLike, patterns: int, maximum: ArrayLike | None = None, *, disks: bool = False, error: float = 0.0
) -> BadPixels:
    """Find stuck and dead pixels of a mean pattern.

    A hot pixel, or a group of up to nine pixels, is more than 4 times as bright as each pixel around it. It does not light the pixels
    around it, as a spot of the beam does. A dead pixel has less than 2 % of its second darkest neighbour. In both cases the difference
    must be larger than noise explains: the counting noise of the mean, or the scatter of the pixels if it is larger, as with readout
    noise or a gain. Whole rows or columns between others that are zero, or one bright value, are gaps of the detector.

    Parameters
    ----------
    mean : (Qx, Qy) real
        Counts: an array of any library, or the mean pattern that a sweep gives. Pixels that are NaN (masked ones) are neither hot
        nor dead, and do not count as neighbours.
    patterns : int
        Number of patterns in the mean. It gives the counting noise of the mean.
    maximum : (Qx, Qy) real, optional
        Largest value of each pixel over the patterns. With it, pixels are also found that have the same value in every pattern.
    disks : bool
        True where the beam makes disks of 3 px or more. Then no small bright group can be one of its spots. Without it, groups
        are taken only if they are pairs or in one line, and do not light the pixels beside them: others may be sharp spots.
    error : float
        Standard error of a pixel of the mean without counts, where it is known: by it a background that was subtracted may be off. At
        least what the scatter of the pixels shows is assumed.

    Returns
    -------
    BadPixels

    Raises
    ------
    InputError
        `mean` is no image, or `maximum` has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.preprocess import find_bad_pixels
    >>> mean = np.full((8, 8), 10.0)
    >>> mean[2, 3], mean[5, 5] = 900.0, 0.0
    >>> bad = find_bad_pixels(mean, patterns=100)
    >>> np.argwhere(bad.hot).tolist(), np.argwhere(bad.dead).tolist()
    ([[2, 3]], [[5, 5]])
    """
    mean = host_image(mean, "mean").astype(np.float64)
    known = np.isfinite(mean)
    hot, dead = np.zeros(mean.shape, bool), np.zeros(mean.shape, bool)
    for found, bright in zip((hot, dead), _constant(mean, maximum, patterns, known)):
        found |= bright
    hot_rows, dead_rows = _gaps(np.where(known & ~hot & ~dead, mean, np.nan), patterns)
    hot, dead = hot | hot_rows, dead | dead_rows
    whole = known & ~hot & ~dead
    noise = _Noise.of(np.where(whole, mean, np.nan), patterns)
    noise = noise._replace(readout=max(noise.readout, real_number(error, "error") ** 2))
    for _ in range(ROUNDS):
        clean = np.where(hot | dead, np.nan, mean)
        more = _hot(clean, noise, disks) | _clusters(clean, noise, whole, disks)
        hot |= more
        if not more.any():
            break
    dead |= _dead(np.where(hot | dead, np.nan, mean), noise)
    return BadPixels(hot & known, dead & known & ~hot)


def find_nan_pixels(patterns: ArrayLike) -> np.ndarray:
    """Find pixels that are NaN or infinite in more than half of the patterns, as defective pixels are in some float files.

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
        A few patterns of the scan. Those without any finite pixel do not count.

    Returns
    -------
    (Qx, Qy) bool

    Examples
    --------
    >>> find_nan_pixels(np.array([[[1.0, np.nan]], [[2.0, np.nan]], [[np.nan, np.nan]]])).tolist()
    [[False, True]]
    """
    values = real_array(patterns, "patterns", "patterns (..., Qx, Qy) of real numbers")
    shape = tuple(values.shape)
    if len(shape) < 2 or 0 in shape[-2:]:
        raise InputError(f"patterns have shape {shape}, need (..., Qx, Qy)")
    if 0 in shape or arrays.is_integer(values):
        return np.zeros(shape[-2:], bool)
    xp = arrays.namespace(values)
    finite = xp.reshape(xp.isfinite(values), (-1, *shape[-2:]))
    some = xp.any(finite, axis=(1, 2))
    broken = xp.sum(xp.astype(~finite & some[:, None, None], xp.int64), axis=0)
    return np.asarray(arrays.to_numpy(2 * broken > xp.sum(xp.astype(some, xp.int64))))


class _Noise(NamedTuple):
    """Variance of the mean of a pixel with value v: unit · v / patterns + readout."""

    per_value: float
    readout: float

    @classmethod
    def of(cls, mean: np.ndarray, patterns: int) -> _Noise:
        """Estimate the noise from differences of neighbours. It is at least that of counts."""
        step = np.diff(mean, axis=1)
        level = (mean[:, 1:] + mean[:, :-1]) / 2
        ok = np.isfinite(step)
        if not ok.any():
            return cls(1 / patterns, 0.0)
        square, level = step[ok] ** 2 / (2 * 0.455), level[ok]  # 0.455: median of the square of a normal deviate
        positive = level > 0
        unit = float(np.median(square[positive] / level[positive])) if positive.any() else 0.0
        return cls(max(unit, 1 / patterns), float(np.median(square[level <= np.median(level)])))

    def limit(self, value: np.ndarray | float) -> np.ndarray:
        """Return the largest difference that noise explains."""
        return SIGNIFICANCE * np.sqrt(self.per_value * np.maximum(value, 0) + self.readout)


def _neighbours(mean: np.ndarray, missing: float) -> np.ndarray:
    """Return the eight neighbours of every pixel, (8, Qx, Qy). Those outside and NaN are `missing`."""
    nx, ny = mean.shape
    wide = np.pad(np.where(np.isfinite(mean), mean, missing), 1, constant_values=missing)
    return np.stack([wide[1 + a : 1 + a + nx, 1 + b : 1 + b + ny] for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b])


def _hot(mean: np.ndarray, noise: _Noise, disks: bool) -> np.ndarray:
    """Find single pixels that are `HOT` times as bright as each neighbour, and do not light the pixels beside them."""
    value = np.where(np.isfinite(mean), mean, 0.0)
    brightest = _neighbours(mean, -np.inf).max(axis=0)
    seen = np.isfinite(mean) & np.isfinite(brightest)
    high = np.where(seen, np.maximum(brightest, 0), 0.0)
    hot = seen & (value > HOT * high) & (value - HOT * high > noise.limit(value))
    for x, y in np.argwhere(hot):
        hot[x, y] = disks or not _spot(mean, [(x, y)])
    return hot


def _clusters(mean: np.ndarray, noise: _Noise, whole: np.ndarray, disks: bool) -> np.ndarray:
    """Find groups of hot pixels: brighter than `HOT` times all pixels around them, and small.

    Groups at the border, and beside pixels outside of `whole` (masked ones and gaps), may be parts of a disk. They are left alone,
    unless they are much brighter than all disks.
    """
    from scipy import ndimage

    found = np.zeros(mean.shape, bool)
    known = np.isfinite(mean)
    value = np.where(known, mean, -np.inf)
    lowest = np.maximum(ndimage.minimum_filter(np.where(known, mean, np.inf), WINDOW, mode="nearest"), 0)
    counted = np.where(known, mean, 0.0)
    top = known & (value >= _neighbours(mean, -np.inf).max(axis=0)) & (counted > HOT * lowest + noise.limit(counted))
    surrounded = ndimage.binary_erosion(whole, np.ones((3, 3)))
    # Nothing of the beam is brighter than its disks.
    plateau = float(ndimage.median_filter(counted, 5).max()) if disks else np.inf
    for x, y in np.argwhere(top):
        level = _level(mean, x, y)
        if counted[x, y] - HOT * level <= noise.limit(counted[x, y]):
            continue
        group = _group(value, x, y, level)
        at = tuple(np.transpose(group))
        small = len(group) <= LARGEST_CLUSTER and (surrounded[at].all() or value[x, y] > HOT * plateau)
        if small and (disks or (len(group) > 1 and _in_line(group) and not _spot(mean, group))):
            found[at] = True
    return found


def _level(mean: np.ndarray, x: int, y: int) -> float:
    """Return the median of the square around a pixel, at least 0."""
    half = WINDOW // 2
    part = mean[max(0, x - half) : x + half + 1, max(0, y - half) : y + half + 1]
    return max(0.0, float(np.median(part[np.isfinite(part)])))


def _group(value: np.ndarray, x: int, y: int, level: float) -> list[tuple[int, int]]:
    """Return the pixels that belong to a bright one: connected with it, and above 1 / `HOT` of its height. Too many end the search."""
    least = level + (value[x, y] - level) / HOT
    group, new = {(x, y)}, [(x, y)]
    while new and len(group) <= LARGEST_CLUSTER:
        i, j = new.pop()
        for place in ((i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
            inside = 0 <= place[0] < value.shape[0] and 0 <= place[1] < value.shape[1]
            if inside and place not in group and value[place] > least:
                group.add(place)
                new.append(place)
    return sorted(group)


def _in_line(group: list[tuple[int, int]]) -> bool:
    """Say whether bright pixels are a pair, or several in one row or column. Sharp spots of the beam can have any other form."""
    x, y = zip(*group)
    return len(group) == 2 or len(set(x)) == 1 or len(set(y)) == 1


def _spot(mean: np.ndarray, group: list[tuple[int, int]]) -> bool:
    """Say whether bright pixels are a spot of the beam: then they light the pixels beside them more than those farther out."""
    from scipy import ndimage

    at = np.array(group)
    low, high = np.maximum(at.min(0) - 3, 0), at.max(0) + 4
    part = mean[low[0] : high[0], low[1] : high[1]]
    inside = np.zeros(part.shape, bool)
    inside[tuple((at - low).T)] = True
    beside = ndimage.binary_dilation(inside) & ~inside  # pixels that share a side with the group
    wide = ndimage.binary_dilation(inside, np.ones((3, 3)))
    farther = ndimage.binary_dilation(wide, np.ones((3, 3))) & ~wide
    near, far = part[beside & np.isfinite(part)], part[farther & np.isfinite(part)]
    if not near.size or not far.size:
        return False
    ground = float(np.percentile(far, 75))
    height = float(np.median(part[inside])) - ground
    lit = near.max() if len(group) > 1 else np.percentile(near, 75)
    return float(lit) - ground > SPREAD * height


def _dead(mean: np.ndarray, noise: _Noise) -> np.ndarray:
    """Find pixels that are dark among bright ones. One of the neighbours may be dead too."""
    second = np.partition(_neighbours(mean, np.inf), 1, axis=0)[1]
    seen = np.isfinite(mean) & np.isfinite(second)
    value, low = np.where(seen, mean, 0.0), np.where(seen, second, 0.0)
    return seen & (value < DEAD * low) & (low - value > noise.limit(low))


def _constant(mean: np.ndarray, maximum: ArrayLike | None, patterns: int, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find pixels with the same value, other than zero, in every pattern. Return those that are brighter, and darker, than the rest."""
    none = np.zeros(mean.shape, bool)
    if maximum is None or patterns < LEAST_PATTERNS:
        return none, none
    top = host_image(maximum, "maximum").astype(np.float64)
    if top.shape != mean.shape:
        raise InputError(f"maximum is {top.shape}, mean is {mean.shape}: need both of the same detector")
    constant = known & np.isfinite(top) & (np.abs(top - mean) <= CONSTANT * np.abs(mean)) & (mean != 0)
    if not constant.any() or constant.sum() > MOST_CONSTANT * (known & (mean != 0)).sum():
        return none, none
    level = float(np.median(mean[known & ~constant]))
    return constant & (mean > level), constant & (mean <= level)


def _gaps(mean: np.ndarray, patterns: int) -> tuple[np.ndarray, np.ndarray]:
    """Find rows and columns between others that are zero, or one bright value: gaps between the modules of a detector."""
    hot, dead = np.zeros(mean.shape, bool), np.zeros(mean.shape, bool)
    for lines, hot_lines, dead_lines in ((mean, hot, dead), (mean.T, hot.T, dead.T)):
        known = np.isfinite(lines)
        some = known.any(1)
        filled = np.where(known, lines, 0.0)
        zero = some & ~(filled != 0).any(1)
        low = np.where(known, lines, np.inf).min(1)
        level = np.where(some, np.nanmedian(np.where(known, lines, 0.0), axis=1), 0.0)
        even = some & ~zero & (np.where(known, lines, -np.inf).max(1) == low)
        for first, end in (*_runs(zero), *_runs(even)):
            if end - first > WIDEST_GAP or first == 0 or end == len(lines) or not (some[first - 1] and some[end]):
                continue
            beside = min(filled[first - 1].sum(), filled[end].sum()) * patterns
            if zero[first] and beside > SIGNIFICANCE**2:
                dead_lines[first:end] = known[first:end]
            elif not zero[first] and low[first] > HOT * max(level[first - 1], level[end], 0.0):
                hot_lines[first:end] = known[first:end]
    return hot, dead


def _runs(chosen: np.ndarray) -> list[tuple[int, int]]:
    """Return the first place, and the place after the last, of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))
