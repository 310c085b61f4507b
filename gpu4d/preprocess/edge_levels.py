"""Measure what frames show at the edge of a detector, where no electron arrives: levels of its lines, their change, and the noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpu4d.data.streaks import ALONG
from gpu4d.robust import robust_sigma

OUTLIER = 5.0  # standard deviations: farther values are hits, or pixels that do not work
LEAST_LINES = 8  # lines with two halves: fewer do not tell streaks from noise
AGREEMENT = 0.5  # correlation of both halves of the lines above which streaks explain more than what differs
UNEVEN = 2.0  # times the ratio of large to small variances that so few frames give: more, and the pixels do not have the same noise
OFFSET = 5.0  # standard deviations: with a lower level and no negative value, these are counts or intensities, and not a readout
SIGNIFICANT = 5.0  # standard deviations of that correlation, or of the variance between frames


class EdgeLevels(NamedTuple):
    """Lines of a detector as its edge pixels show them.

    Attributes
    ----------
    along : str
        "columns" or "rows".
    pixels : (Qx, Qy) float64
        Mean of each edge pixel over the frames, above the dark; NaN elsewhere, and for pixels that differ from their line.
    lines : (L,) float64
        Mean over the edge pixels of each line; 0 for lines without any.
    counts : (L,) int
        Edge pixels of each line.
    noise : float
        Standard deviation of an edge pixel over the frames, without the streaks.
    between : float
        Variance of a line over the frames, without the noise. At least 0.
    agreement, significance : float
        Correlation between the two halves of the lines, of the steps from line to line; and over its standard deviation.
    changes : bool
        Whether lines change from frame to frame, by more than noise explains.
    quiet : bool
        Whether the edge pixels all have the same noise, of the readout, as pixels that no electron reaches. False where electrons are
        counted one by one, because nothing is noise then, and with a single frame.
    """

    along: str
    pixels: np.ndarray
    lines: np.ndarray
    counts: np.ndarray
    noise: float
    between: float
    agreement: float
    significance: float
    changes: bool
    quiet: bool

    @property
    def axis(self) -> int:
        return ALONG.index(self.along)

    @property
    def streaks(self) -> bool:
        """Whether lines have levels of their own, which both halves of them show."""
        return self.agreement > AGREEMENT and self.significance > SIGNIFICANT

    @property
    def image(self) -> np.ndarray:
        """The lines as an image (Qx, Qy)."""
        return np.broadcast_to(self.lines if self.axis == 0 else self.lines[:, None], self.pixels.shape)

    @property
    def share(self) -> np.ndarray:
        """Share of a line's mean in one frame that is streak and not noise, for each line: v / (v + σ² / n)."""
        return self.between / np.maximum(self.between + self.noise**2 / np.maximum(self.counts, 1), 1e-300)


class EdgeSample(NamedTuple):
    """Edge pixels of some frames.

    Attributes
    ----------
    shape : (Qx, Qy)
    place : tuple of arrays
        qx and qy of the P edge pixels, in the order of rows.
    values : (n, P) float32
        Above the dark; hits are NaN.
    pixel : (P,) float64
        Mean of each over the frames.
    sigma : float
        Standard deviation about it.
    lowest, middle : float
        Smallest and median raw value.
    """

    shape: tuple[int, ...]
    place: tuple[np.ndarray, ...]
    values: np.ndarray
    pixel: np.ndarray
    sigma: float
    lowest: float
    middle: float


def edge_sample(frames: np.ndarray, dark: np.ndarray, edge: np.ndarray) -> EdgeSample:
    """Take the edge pixels of some frames, without hits.

    Parameters
    ----------
    frames : (n, Qx, Qy) real
        At least one. NaN pixels do not count.
    dark : (Qx, Qy) float64
    edge : (Qx, Qy) bool
        At least one pixel.
    """
    place = np.nonzero(edge)
    raw = frames[:, place[0], place[1]].astype(np.float32)
    known = raw[np.isfinite(raw)]
    lowest, middle = (float(known.min()), float(np.median(known))) if known.size else (0.0, 0.0)
    values = raw - dark[place].astype(np.float32)
    n, sigma = len(values), 0.0
    with np.errstate(invalid="ignore"):
        rest = np.abs(values - np.median(values, axis=0))  # NaN for a pixel that has one
        some = rest[np.isfinite(rest)]
        if n > 1 and some.size:
            sigma = float(robust_sigma(some, about=0.0)) * math.sqrt(n / (n - 1))
        if sigma > 0:
            values[rest > OUTLIER * sigma] = np.nan
    return EdgeSample(edge.shape, place, values, _mean(values, 0), sigma, lowest, middle)


def best_along(sample: EdgeSample) -> str:
    """Say whether the halves of columns or of rows agree better."""
    return max(ALONG, key=lambda along: _lines_of(sample, along).agreement)


def edge_levels(sample: EdgeSample, along: str) -> EdgeLevels:
    """Measure the lines of a detector at its edge.

    Parameters
    ----------
    sample : EdgeSample
    along : {"columns", "rows"}
    """
    found = _lines_of(sample, along)
    image = np.full(sample.shape, np.nan)
    image[sample.place] = found.pixel
    rest = sample.values - found.pixel.astype(np.float32)
    noise, between, error = _noise_and_change(rest, found.line, found.half, len(found.levels))
    measured = noise, max(between, 0.0), found.agreement, found.significance, between > SIGNIFICANT * error
    readout = sample.lowest < 0 or sample.middle > OFFSET * noise
    return EdgeLevels(along, image, found.levels, found.counts, *measured, readout and _is_quiet(rest))


class _Lines(NamedTuple):
    line: np.ndarray  # (P,) line of each edge pixel
    pixel: np.ndarray  # (P,) their means, NaN for those that differ from their line
    half: np.ndarray  # (P,) 0 or 1; −1 for these
    levels: np.ndarray  # (L,)
    counts: np.ndarray  # (L,)
    agreement: float
    significance: float


def _lines_of(sample: EdgeSample, along: str) -> _Lines:
    axis = ALONG.index(along)
    number, line = sample.shape[1 - axis], sample.place[1 - axis]
    outlying = _outlying(sample.pixel, line, number, sample.sigma / math.sqrt(len(sample.values)))
    pixel = np.where(outlying, np.nan, sample.pixel)
    half = _halves(line, ~outlying)
    levels, counts = _line_means(pixel[None], line, number)
    parts = [_line_means(np.where(half == h, pixel, np.nan)[None], line, number) for h in (0, 1)]
    agreement = _agreement(*(np.where(c > 0, m[0], np.nan) for m, c in parts))
    return _Lines(line, pixel, half, levels[0], counts, *agreement)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean without NaN, NaN where there is nothing else."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def _is_quiet(rest: np.ndarray) -> bool:
    """Say whether pixels have the same noise: their variances differ no more than those of so many frames do by chance."""
    from scipy.special import gammaincinv  # scipy.stats has this as chi2, but its import alone takes seconds

    known = np.isfinite(rest)
    n = int(known.sum(axis=0).max())
    if n < 2:
        return False
    whole = known.sum(axis=0) == n  # pixels without a hit
    low, high = np.percentile(np.where(known, rest, 0.0)[:, whole].var(axis=0), (10, 90))
    least, most = 2 * gammaincinv((n - 1) / 2, (0.1, 0.9))  # a tenth of variances are below the first, a tenth above the second
    return bool(low > 0 and high <= UNEVEN * most / least * low)


def _line_means(values: np.ndarray, line: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each line in every frame, (n, L), 0 for lines without a value, and how many pixels it has in the first."""
    known = np.isfinite(values)
    counts = np.stack([np.bincount(line, weights=row, minlength=number) for row in known])
    totals = np.stack([np.bincount(line, weights=np.where(k, row, 0.0), minlength=number) for k, row in zip(known, values)])
    return totals / np.maximum(counts, 1), counts[0].astype(int)


def _outlying(pixel: np.ndarray, line: np.ndarray, number: int, error: float) -> np.ndarray:
    """Find edge pixels that differ from their line by more than its others do."""
    middle = np.zeros(number)
    known = np.isfinite(pixel)
    order = np.lexsort((pixel[known], line[known]))
    values, owner = pixel[known][order], line[known][order]
    starts, counts = np.searchsorted(owner, np.arange(number)), np.bincount(owner, minlength=number)
    some = counts > 0
    middle[some] = values[(starts + counts // 2)[some]]
    rest = pixel - middle[line]
    if not known.any():
        return ~known
    limit = OUTLIER * max(float(robust_sigma(rest[known], about=0.0)), error)
    return ~known | (np.abs(rest) > limit) if limit > 0 else ~known


def _halves(line: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Divide the known pixels of every line into its first and second half, 0 and 1; −1 for others. Pixels come in the order of rows."""
    half = np.full(line.shape, -1)
    order = np.flatnonzero(known)[np.argsort(line[known], kind="stable")]
    counts = np.bincount(line[known], minlength=int(line.max()) + 1)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    half[order] = 2 * rank >= np.repeat(counts, counts)
    return half


def _agreement(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Correlate the steps from line to line of both halves. Return the correlation, and it over its standard deviation.

    Steps, because a slow change over the detector may be diffuse scattering. Steps share their lines, which takes a third of their
    number.
    """
    a, b = np.diff(first), np.diff(second)
    good = np.isfinite(a) & np.isfinite(b)
    a, b = a[good], b[good]
    size = math.sqrt(float((a * a).sum() * (b * b).sum()))
    if len(a) < LEAST_LINES or not size > 0:
        return 0.0, 0.0
    found = float((a * b).sum()) / size
    return found, found * math.sqrt(len(a) / 1.5)


def _noise_and_change(rest: np.ndarray, line: np.ndarray, half: np.ndarray, number: int) -> tuple[float, float, float]:
    """Return the noise of a pixel, the variance of lines between frames, and its standard error.

    `rest` (n, P) is each value without the mean of its pixel. Noise of the two halves of a line is independent, so the mean of their
    product is the variance of what they share.
    """
    n = len(rest)
    if n < 2:
        return 0.0, 0.0, 0.0
    whole, _ = _line_means(rest, line, number)
    inner = rest - whole[:, line]
    known = np.isfinite(inner)
    lines_used = len(np.unique(line[half >= 0]))
    freedom = max(1.0, known.sum() - known.any(0).sum() - n * lines_used)
    noise = math.sqrt(float((inner[known] ** 2).sum()) / freedom)
    parts = [_line_means(np.where(half == h, rest, np.nan), line, number) for h in (0, 1)]
    both = (parts[0][1] > 0) & (parts[1][1] > 0)
    if not both.any():
        return noise, 0.0, 0.0
    product = (parts[0][0] * parts[1][0])[:, both]
    scale = n / (n - 1)
    return noise, float(product.mean()) * scale, float(product.std()) * scale / math.sqrt(product.size)
