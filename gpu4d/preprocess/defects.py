"""Find pixels of a detector that do not measure: hot and dead ones in frames without a beam, and flickering ones in any frames."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image, real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.preprocess.usual_values import electron, usual_values
from gpu4d.real_arrays import real_number
from gpu4d.robust import robust_sigma

WINDOW = 5  # px: side of the square that a pixel is compared with; a cluster of up to 12 pixels in it is found
ACROSS = 9  # px: length of the piece of a row or a column that shows a whole noisy column or row
SURE = 4  # frames from which on a variance is known so well that 9 pixels show what is usual
ROUNDS = 2  # of taking off the levels of rows and columns: the first leaves what a bad pixel adds to them
FLICKER = 3.0  # times the variance of the neighbours: less may be a spot of the beam that moves a little
FOLLOWED = 2.0  # standard errors: a spot of the beam raises the pixels beside it by more
UPPER = 85  # percent: a variance among the neighbours that at most 3 of 24 flickering pixels exceed
BY_CHANCE = 0.01  # pixels of the detector that the same value in all frames may come from by chance


class _Defects(NamedTuple):
    hot: np.ndarray
    dead: np.ndarray
    flickering: np.ndarray


class Defects(_Defects, Storable, stored="hot dead flickering: Qx Qy"):
    """Pixels that do not measure the electrons that hit them. Each is a mask (Qx, Qy) bool."""

    __slots__ = ()

    def __repr__(self) -> str:
        hot, dead, flickering = (int(part.sum()) for part in self)
        return f"Defects({hot} hot, {dead} dead and {flickering} flickering of {'×'.join(map(str, self.hot.shape))} pixels)"

    @property
    def pixels(self) -> np.ndarray:
        """All of them, (Qx, Qy) bool."""
        return self.hot | self.dead | self.flickering


@on_host("raw")
def find_defects(dark: ArrayLike, /, threshold: float = 5.0) -> Defects:
    """Find hot, dead and flickering pixels in frames without a beam.

    A pixel is hot or dead where its level differs from the median of the 5 × 5 pixels about it, levels of rows and columns taken off,
    by more than `threshold` standard deviations of all pixels (from their median absolute deviation). It is dead, too, where it has the
    same value in all frames, and these are so many that noise does not do that. It flickers where its variance over the frames exceeds
    3 times that of its neighbours, and by so many standard deviations (Wilson and Hilferty, PNAS 17 (1931) 684: the cube root of a
    variance has nearly a normal distribution). `dark_reference` uses the same rule.

    Parameters
    ----------
    dark : (..., Qx, Qy) real
        Frames without a beam, or their mean. With one frame, no pixel is found to flicker. NaN pixels are none of these.
    threshold : float
        In σ. The guide recommends 3 (noisy data) to 5 (clean data) (`hot_pixel_threshold`).

    Returns
    -------
    Defects

    Raises
    ------
    InputError
        No image, or a threshold that is not positive.

    Examples
    --------
    >>> dark = np.random.default_rng(0).normal(100, 2, (9, 32, 32))
    >>> dark[:, 4, 5] += 60
    >>> dark[:, 20, 9] = 31
    >>> dark[::2, 7, 7] += 90
    >>> found = find_defects(dark)
    >>> [np.argwhere(part).tolist() for part in (found.hot, found.dead)], bool(found.pixels[7, 7])
    ([[[4, 5], [7, 7]], [[20, 9]]], True)
    """
    frames = real_values(dark, "dark", "frames without a beam (..., Qx, Qy)")
    threshold = real_number(threshold, "threshold")
    if frames.ndim < 2 or not frames.size:
        raise InputError(f"dark is {frames.shape}: need one or more frames (..., Qx, Qy)")
    if not threshold > 0:
        raise InputError(f"threshold={threshold:g}: need more than 0, best 3 to 5")
    return defects_of(dark_levels(frames.reshape(-1, *frames.shape[-2:])), threshold)


class DarkLevels(NamedTuple):
    """Mean and variance (Qx, Qy) float64 of frames without a beam. The variance is None for one frame.

    `whole` says whether the values are whole numbers, of which noise may give the same in all frames.
    """

    mean: np.ndarray
    variance: np.ndarray | None
    frames: int
    whole: bool


def dark_levels(frames: np.ndarray) -> DarkLevels:
    """Return mean and variance of each pixel over frames (n, Qx, Qy). A frame at a time is held in 64 bits. NaN stays NaN."""
    mean = frames.mean(axis=0, dtype=np.float64)
    known = frames[0][np.isfinite(frames[0])]
    whole = bool((known == np.rint(known)).all()) if known.dtype.kind == "f" else True
    if len(frames) == 1:
        return DarkLevels(mean, None, 1, whole)
    total = np.zeros(mean.shape)
    for frame in frames:
        total += (frame - mean) ** 2
    return DarkLevels(mean, total / (len(frames) - 1), len(frames), whole)


def defects_of(levels: DarkLevels, threshold: float) -> Defects:
    """Find bad pixels, as `find_defects`, in what frames without a beam show."""
    hot, dead = outlying(levels.mean, threshold)
    if levels.variance is None:
        return Defects(hot, dead, np.zeros(hot.shape, bool))
    usual = around(levels.variance, UPPER)
    if levels.frames >= SURE:
        usual = np.minimum(usual, np.minimum(*(_across(levels.variance, axis) for axis in (0, 1))))
    return Defects(hot, dead | (_stuck(levels) & ~hot), flickering(levels.variance, levels.frames, threshold, usual=usual))


def _stuck(levels: DarkLevels) -> np.ndarray:
    """Find pixels and whole lines that never change, if noise is not likely to do that to any pixel or line of the detector."""
    variance = levels.variance
    assert variance is not None
    never = variance == 0
    known = variance[np.isfinite(variance)]
    noise = math.sqrt(float(np.median(known))) if known.size else 0.0
    if noise == 0:
        return never & False
    same = math.erf(0.5 / noise / math.sqrt(2)) if levels.whole else 0.0  # chance of the most frequent whole number
    chance = same ** (levels.frames - 1)
    if never.size * chance < BY_CHANCE:
        return never
    found = never & False
    for axis, length in enumerate(never.shape):
        if never.shape[1 - axis] * chance**length < BY_CHANCE:
            found |= never.all(axis=axis, keepdims=True)
    return found


def outlying(level: np.ndarray, threshold: float, error: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Find pixels above and below their neighbours.

    Parameters
    ----------
    level : (Qx, Qy) float64
        NaN pixels count as no neighbours.
    threshold : float
    error : float
        Standard error of a level: where pixels do not differ otherwise, it is what they are compared with.
    """
    level = host_image(level, "level").astype(np.float64)
    known = np.isfinite(level)
    if not known.any():
        return ~known & False, ~known & False
    flat = np.where(known, level, np.nan)
    for _ in range(ROUNDS):
        for axis in (0, 1):
            lines = median_without_nan(flat, axis)
            flat = flat - np.where(np.isfinite(lines), lines, 0.0)
    rest = flat - around(flat, 50)
    spread = max(float(robust_sigma(rest[known], about=0.0)), error)
    limit = threshold * spread
    return known & (rest > limit), known & (rest < -limit)


def flickering(
    variance: np.ndarray,
    frames: int,
    threshold: float,
    expected: np.ndarray | float = 0.0,
    kurtosis: Any = 0.0,
    usual: np.ndarray | None = None,
) -> np.ndarray:
    """Find pixels whose variance over frames is larger than that of their neighbours, and than what is expected.

    Parameters
    ----------
    variance : (Qx, Qy) float64
    frames : int
        That it is made from, two or more.
    threshold : float
    expected : (Qx, Qy) float64 or float
        Variance that the mean of a pixel explains.
    kurtosis : (Qx, Qy) float64 or float
        Excess of it, of a pixel that does not flicker: with few electrons a variance says little.
    usual : (Qx, Qy) float64, optional
        Variance of the neighbours; by default of the 5 × 5 pixels about each.
    """
    usual = np.maximum(around(variance, UPPER) if usual is None else usual, expected)
    freedom = (frames - 1) / (1 + np.asarray(kurtosis) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(usual > 0, variance / usual, 0.0)
    part = 2 / (9 * freedom)
    found: np.ndarray = (ratio > FLICKER) & (np.cbrt(ratio) - (1 - part) > threshold * np.sqrt(part))
    return found


def flickering_alone(frames: np.ndarray, threshold: float, noise: float) -> np.ndarray:
    """Find pixels that flicker in frames with a beam: their variance is too large for their mean, and neighbours do not follow them.

    A spot of the beam that comes and goes lights the pixels about it too.

    Parameters
    ----------
    frames : (n, Qx, Qy) float32
        Corrected. The largest values of each pixel do not count: hits.
    threshold : float
    noise : float
        Standard deviation of a pixel without a beam.
    """
    usual, unit = usual_values(frames), electron(frames, noise)
    signal = np.maximum(usual.mean, 0.0)
    expected = noise**2 + unit * signal
    kurtosis = unit**3 * signal / np.maximum(expected, 1e-150) ** 2
    found = flickering(usual.variance, usual.frames, threshold, expected, kurtosis)
    for x, y in np.argwhere(found):
        found[x, y] = not _followed(frames, int(x), int(y))
    return found


def _followed(frames: np.ndarray, x: int, y: int) -> bool:
    """Say whether the pixels about a pixel change with it: in the frames where it is bright they are brighter, too."""
    part = frames[:, max(0, x - 1) : x + 2, max(0, y - 1) : y + 2].astype(np.float64)
    own = frames[:, x, y].astype(np.float64)
    others = (part.sum(axis=(1, 2)) - own) / (part[0].size - 1)
    order = np.argsort(own, kind="stable")
    bright, dark = order[-max(2, len(order) // 10) :], order[: len(order) // 2]
    rise = others[bright].mean() - others[dark].mean()
    error = np.sqrt(others[bright].var() / len(bright) + others[dark].var() / len(dark))
    return bool(rise > FOLLOWED * error)


def around(image: np.ndarray, percent: float, size: tuple[int, int] = (WINDOW, WINDOW)) -> np.ndarray:
    """Return a percentile of the 5 × 5 pixels about every pixel; NaN pixels take the median of the image."""
    from scipy import ndimage

    known = np.isfinite(image)
    filled = np.where(known, image, np.median(image[known]) if known.any() else 0.0)
    return ndimage.percentile_filter(filled, percent, size=size, mode="mirror")


def _across(variance: np.ndarray, axis: int) -> np.ndarray:
    """Return what `around` does of the 9 pixels beside every pixel along one axis: a noisy line across it is one of them."""
    return around(variance, UPPER, (ACROSS, 1) if axis == 0 else (1, ACROSS))


def median_without_nan(image: np.ndarray, axis: int) -> np.ndarray:
    """Return the median along an axis without NaN, NaN where there is nothing else; the axis stays, of length one."""
    ordered = np.sort(image, axis=axis)
    count = np.isfinite(image).sum(axis=axis, keepdims=True)
    middle = [np.take_along_axis(ordered, np.maximum(k, 0), axis) for k in ((count - 1) // 2, count // 2)]
    return np.where(count > 0, (middle[0] + middle[1]) / 2, np.nan)
