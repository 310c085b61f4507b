"""Find the shape of a scan whose patterns lie in one long row, from what the patterns show. Every answer comes with its evidence.

Neighbouring rows of a scan look alike. So a number for each frame, such as its sum, repeats after one row: its autocorrelation has a
maximum there. Frames of the fly-back differ from the frames beside them, at the same place of every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d import arrays, fft
from gpu4d.arrays import Array
from gpu4d.data.arguments import FlyBackAt
from gpu4d.data.datacube import DataCube
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.imaging.image import VirtualImage
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_array
from gpu4d.streaming.engine import sweep

LEAST_SIDE = 3  # positions along an axis: fewer are a line scan, which has no shape to find
LONGEST = 16.0  # ratio of the sides up to which a shape is plausible without being named
SIGNIFICANT = 7.0  # standard errors of a correlation without a repeat: one of 1e9 lags exceeds 6 of them by chance
CERTAIN = 12.0  # standard errors of the best shape, from which on noise cannot have made it better than others
RIVAL = 0.5  # of the best correlation, from which on another shape is not excluded
APART = 2.0  # standard errors, by which a correlation is larger than that of a shorter row
JUMPS = ((6.0, 1.5), (2.5, 1.3))  # standard errors, and times the usual change: changes at one place of the rows that are, or may be, large
MOST_FLYBACK = 1 / 3  # of a row
SURE_FLYBACK = 1 / 8  # of a row: more of it may be vacuum, or another grain, behind an edge of the specimen that goes along the columns
CLIP = 8.0  # times the median change: a single hot frame must not decide
LISTED = 12  # shapes in a message


@dataclass(frozen=True)
class ScanShape(Storable):
    """One way to cut a row of frames into a scan, with its evidence.

    Attributes
    ----------
    scan_shape : (int, int)
    flyback, flyback_at, extra
        As `gpu4d.preprocess.reshape` takes them.
    correlation : float
        Of successive rows, of the changes from frame to frame; 1 for rows that are equal.
    significance : float
        The same in standard errors of a correlation of frames that have nothing to do with each other.
    """

    scan_shape: tuple[int, int]
    flyback: int
    flyback_at: FlyBackAt
    extra: tuple[int, int]
    correlation: float
    significance: float

    @property
    def period(self) -> int:
        """Return the frames of a row, those of the fly-back included."""
        return self.scan_shape[1] + self.flyback

    def __str__(self) -> str:
        fly = f" + {self.flyback} fly-back at the {self.flyback_at} of each row" if self.flyback else ""
        more = f", {self.extra[0]} frames before and {self.extra[1]} after" if any(self.extra) else ""
        shape = "×".join(map(str, self.scan_shape))
        return f"{shape}{fly}{more}: correlation of rows {self.correlation:.2f} ({self.significance:.0f} σ)"


@dataclass(frozen=True)
class ScanShapes(Storable):
    """All plausible shapes of a row of frames, the most likely one first.

    Attributes
    ----------
    frames : int
    candidates : tuple of ScanShape
    clear : bool
        True if the data exclude all but the first one.
    why : str
        What the frames show, or why they do not tell.
    """

    frames: int
    candidates: tuple[ScanShape, ...]
    clear: bool
    why: str

    def __str__(self) -> str:
        listed = "; ".join(map(str, self.candidates[:LISTED]))
        more = f"; and {len(self.candidates) - LISTED} more" if len(self.candidates) > LISTED else ""
        return f"{self.frames} frames, {self.why}. " + (f"Shapes that fit: {listed}{more}" if listed else "No shape fits")


@on_host("curve")
def scan_shapes(frames: DataCube | Array) -> ScanShapes:
    """Find the shapes that a row of frames may have as a scan, and what speaks for each.

    Parameters
    ----------
    frames : DataCube, (n, Qx, Qy) or (n,) array
        All frames in the order in which they were recorded, or one number for each, such as the signal of a detector. Of a cube and of
        frames, the sum of each is taken, in one pass.

    Returns
    -------
    ScanShapes
        All shapes without fly-back whose product is the number of frames, and those that the frames suggest. `clear` is True only if one of
        them alone fits. It is False where rows do not resemble each other: a specimen that changes from position to position, or noise.

    Notes
    -----
    The changes d from frame to frame, clipped, have an autocorrelation r(L). Rows of P frames give a maximum at L = P. Maxima must be
    significant, as high as half of the best, and no multiples of the first to be rivals. Fly-back is where, at one place of every row, a
    frame differs from the next by more than four times what is usual.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.mgrid[:24, :20]
    >>> image = np.hypot(x - 9, 1.7 * (y - 8)) + 3 * np.sin(y * 0.9 + 0.2 * x)
    >>> rows = np.concatenate([image, np.full((24, 2), 60.0)], axis=1)  # two frames of fly-back
    >>> found = scan_shapes(rows.ravel())
    >>> found.clear, found.candidates[0].scan_shape, found.candidates[0].flyback
    (True, (24, 20), 2)
    """
    values = _frame_values(frames)
    n = len(values)
    known = np.isfinite(values)
    if n < LEAST_SIDE**2 or not known.any() or np.ptp(values[known]) == 0:
        why = "which are too few to show rows" if n < LEAST_SIDE**2 else "which are all alike: rows cannot be told"
        return ScanShapes(n, _factorings(n, np.zeros(n)), False, why)
    values = np.where(known, values, np.median(values[known]))
    correlation = _autocorrelation(_changes(values))
    peaks = _peaks(correlation, n)
    suggested = [shape for peak in peaks[:LISTED] for shape in _suggested(values, peak, correlation)]
    suggested = [s for s in suggested if not any(s.extra) or all(s.period == p or s.period % p for p in peaks)]  # several rows are no row
    plain = [one for one in _factorings(n, correlation) if one.period not in {s.period for s in suggested}]
    clear, why = _judge(suggested, correlation, n)
    return ScanShapes(n, (*suggested, *plain), clear, why)


def _frame_values(frames: DataCube | Array) -> np.ndarray:
    """Return one number for each frame, float64."""
    if not isinstance(frames, DataCube):
        given = real_array(frames, "frames", "frames (n, Qx, Qy), or one number for each")
        if given.ndim == 1:
            return arrays.to_numpy(given).astype(np.float64)
        frames = as_cube(given)
    return np.asarray(sweep(frames, VirtualImage(np.ones(frames.detector_shape, bool)))).astype(np.float64).ravel()


def as_cube(given: DataCube | Array) -> DataCube:
    """Return a cube of frames (n, Qx, Qy) as one row, or of a scan (Rx, Ry, Qx, Qy); a cube as it is."""
    if isinstance(given, DataCube):
        return given
    array = real_array(given, "frames", "frames (n, Qx, Qy), (Rx, Ry, Qx, Qy) or a DataCube")
    if array.ndim not in (3, 4):
        raise InputError(f"frames have shape {tuple(array.shape)}: need (n, Qx, Qy), (Rx, Ry, Qx, Qy) or a DataCube")
    return DataCube(array[None, ...] if array.ndim == 3 else array)


def _changes(values: np.ndarray) -> np.ndarray:
    """Return the clipped changes from frame to frame, with mean 0."""
    change = np.diff(values)
    usual = np.median(np.abs(change)) or np.abs(change).mean()
    change = np.clip(change, -CLIP * usual, CLIP * usual)
    return change - change.mean()


def _autocorrelation(change: np.ndarray) -> np.ndarray:
    """Return the correlation of a series with itself, for every lag; 1 at 0."""
    n = len(change)
    size = (1, fft.next_fast_len(2 * n, real=True))
    wide = np.zeros(size)
    wide[0, :n] = change
    wave = fft.rfft2(wide)
    product = fft.irfft2(wave.real**2 + wave.imag**2, size)[0, :n]
    power = np.concatenate([[0.0], np.cumsum(change**2)])
    both = np.sqrt(power[n - np.arange(n)] * (power[n] - power[np.arange(n)]))
    return np.where(both > 0, product / np.where(both > 0, both, 1.0), 0.0)


def _error(lag: int | np.ndarray, n: int) -> np.ndarray:
    return 1 / np.sqrt(np.maximum(n - np.asarray(lag), 1))


def _peaks(correlation: np.ndarray, n: int) -> list[int]:
    """Return lags at which frames repeat, the best first: significant maxima of plausible length, one of each neighbourhood."""
    low = max(LEAST_SIDE, int(np.sqrt(n / LONGEST)))
    high = min(len(correlation) - 2, n // LEAST_SIDE, int(np.sqrt(n * LONGEST)) + 1)
    lag = np.arange(low, high + 1)
    if not len(lag):
        return []
    r = correlation[lag]
    maximum = (r >= correlation[lag - 1]) & (r >= correlation[lag + 1]) & (r > SIGNIFICANT * _error(lag, n))
    found: list[int] = []
    for peak in lag[maximum][np.argsort(-r[maximum], kind="stable")]:
        if all(abs(peak - other) > max(2, other // 8) for other in found):
            found.append(int(peak))
    return found


def _suggested(values: np.ndarray, period: int, correlation: np.ndarray) -> list[ScanShape]:
    """Cut frames into rows of a period, in the ways that the changes at the ends of rows allow, the most likely one first."""
    n, strength = len(values), _strength(correlation, period, len(values))
    found = []
    for first, flyback in _row_ends(values, period):
        at: FlyBackAt = "start" if flyback and first == flyback and n % period == 0 else "end"
        before = 0 if at == "start" else first
        rows = (n - before + flyback * (at == "end")) // period
        if rows >= LEAST_SIDE:
            after = max(n - before - rows * period, 0)
            found.append(ScanShape((rows, period - flyback), flyback, at, (before, after), *strength))
    if n % period == 0 and not any(s.flyback == 0 and not any(s.extra) for s in found):
        found.append(ScanShape((n // period, period), 0, "end", (0, 0), *strength))
    return found


def _row_ends(values: np.ndarray, period: int) -> list[tuple[int, int]]:
    """Find where rows begin and how many frames of fly-back they have: changes that are large in every row, at the same place.

    Changes that are surely larger than usual give the first answer; if those that may be larger give another one, it is the second.
    """
    rows = len(values) // period
    change = np.abs(_changes(values))[: rows * period - 1]
    change = np.append(change, np.nan).reshape(rows, period)
    mean, usual = np.nanmean(change, axis=0), float(np.median(change[:, :-1].mean(axis=0)))
    error = np.nanstd(change, axis=0) / np.sqrt(rows) + 1.5 * np.median(np.abs(mean - usual))
    excess = (mean - usual) / np.where(error > 0, error, np.inf)
    answers = []
    for sure, larger in JUMPS:
        large = np.flatnonzero((excess > sure) & (mean > larger * usual))
        gaps = np.diff(np.append(large, large[0] + period)) if len(large) else np.zeros(0, int)
        first, flyback = 0, 0
        if len(large):
            longest = int(np.argmax(gaps))  # a row lies between the last of these changes and the first of the next row
            last, begins = int(large[longest]), int(large[(longest + 1) % len(large)])
            first, flyback = (last + 1) % period, (last - begins) % period
        if flyback <= MOST_FLYBACK * period and (first, flyback) not in answers:
            answers.append((first, flyback))
    return answers or [(0, 0)]


def _strength(correlation: np.ndarray, period: int, n: int) -> tuple[float, float]:
    r = float(correlation[period]) if period < len(correlation) else 0.0
    return r, r / float(_error(period, n))


def _factorings(n: int, correlation: np.ndarray) -> tuple[ScanShape, ...]:
    """Return all shapes without fly-back whose product is the number of frames, those whose rows resemble each other most first."""
    columns = [c for c in range(2, n // 2 + 1) if n % c == 0]
    shapes = [ScanShape((n // c, c), 0, "end", (0, 0), *_strength(correlation, c, n)) for c in columns]
    return tuple(sorted(shapes, key=lambda s: (-s.correlation, abs(np.log(s.scan_shape[0] / s.scan_shape[1])))))


def _judge(suggested: list[ScanShape], correlation: np.ndarray, n: int) -> tuple[bool, str]:
    """Say whether the first of the shapes is the only one that fits, and put it first."""
    if not suggested:
        return False, "whose rows do not resemble each other for any shape"
    strong = [s for s in suggested if s.correlation >= RIVAL * suggested[0].correlation]
    base = min(strong, key=lambda s: s.period)
    noise = APART / np.sqrt(n)
    periods = {s.period for s in strong if s.period % base.period or s.correlation > base.correlation + noise or _squarer(s, base)}
    suggested.sort(key=lambda s: (s.period != base.period, -s.correlation))
    if periods:
        return False, "which repeat after " + " and after ".join(map(str, sorted({base.period, *periods}))) + " frames"
    why = f"which repeat after {base.period}"
    if base.significance < CERTAIN:
        return False, f"{why}, but by too little to be sure"
    if any(base.extra):
        return False, f"{why}, and are no whole rows: some at the beginning or at the end belong to none"
    ways = [s for s in suggested if s.period == base.period]
    usual = [s for s in ways if _is_usual(s)]
    if any(s.flyback > SURE_FLYBACK * s.period for s in ways):
        return False, f"{why}; many at the end of each row differ from the others: fly-back, or vacuum beside the specimen"
    if len(usual) == 1 and not any(usual[0].extra) and (usual[0] is ways[0] or not ways[0].flyback):
        suggested.sort(key=lambda s: s is not usual[0])
        sign = ", and show fly-back" if usual[0].flyback else ", without a sign of fly-back" if len(ways) == 1 else ""
        return True, f"{why}{sign}; {usual[0].scan_shape[1]} is a usual number of positions in a row"
    if len(ways) == 1:
        return False, f"{why}, no usual number of positions in a row: some of them may be fly-back that does not stand out"
    return False, f"{why}, of which some at the end of each row may be fly-back, or vacuum beside the specimen"


def _squarer(one: ScanShape, other: ScanShape) -> bool:
    """Say whether a shape is nearer to a square. A lattice repeats within a row, which then looks like a scan of short rows."""
    first, second = (abs(np.log(s.scan_shape[0] / s.period)) for s in (one, other))
    return bool(first < second)


def _is_usual(shape: ScanShape) -> bool:
    """Say whether an operator would choose this number of positions in a row."""
    rows, columns = shape.scan_shape
    return columns == rows or columns % 8 == 0 or columns % 10 == 0
