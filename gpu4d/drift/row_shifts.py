"""Fit the shifts of scan rows, so that each side of a comparison predicts what the other one shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from gpu4d.drift.evidence import Prior, best_prior, posterior
from gpu4d.drift.picture import Picture
from gpu4d.drift.scan_frame import ScanFrame, slope

MOST_STEPS = 25
FARTHEST = 1.0  # steps: largest change of a shift in one step of the fit, within which pictures are nearly linear
SETTLED = 0.01  # steps: a change below it ends the fit; the standard error of a row's shift is larger
INVERSIONS = 4  # rounds in which the number of a position is found from its place; each leaves a tenth of the error
TWICE = 0.5  # weight of values: what A tells of B's slow shifts and what B tells of A's is the same, so that each counts half


@dataclass(frozen=True)
class Side:
    """Rows that predict, and are predicted: a scan, or every second row of one.

    Attributes
    ----------
    frame : ScanFrame
    first : int
        Number of the scan's first row among all rows.
    used : (m,) int
        Rows of the scan that belong to this side.
    values : (nx, ny, n) float64
        Of the whole scan, with noise of variance 1, NaN where missing.
    picture : Picture
        Made from the rows of this side.
    """

    frame: ScanFrame
    first: int
    used: np.ndarray
    values: np.ndarray
    picture: Picture

    def own(self) -> np.ndarray:
        """Return which positions (N,) of the scan belong to this side and have values."""
        return np.isin(self.frame.row_of(), self.used) & np.isfinite(self.values).all(-1).ravel()

    def shifts(self, all_shifts: np.ndarray) -> np.ndarray:
        """Return the shifts (rows, 2) of the scan's rows."""
        return all_shifts[self.first : self.first + self.frame.rows]

    def places(self, all_shifts: np.ndarray) -> np.ndarray:
        """Return the places (N, 2) of all positions of the scan."""
        own = self.shifts(all_shifts)
        return self.frame.nominal() + own[self.frame.row_of()] + self.frame.within_row()[:, None] * slope(own)

    def seen(self) -> np.ndarray:
        """Return the matrix (rows, rows) that takes shifts of rows to those of the picture, which its filter makes smoother."""
        distance = np.abs(np.arange(self.frame.rows)[:, None] - self.used)
        found = np.zeros((self.frame.rows,) * 2)
        found[:, self.used] = self.picture.kernel[distance]
        return found / found.sum(1, keepdims=True)

    def between(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row (N,) before each fractional row (N,), and the part (N,) of the way to the next one."""
        low = np.clip(np.floor(row).astype(int), 0, self.frame.rows - 2)
        return low, np.clip(row - low, 0, 1)

    def numbers(self, places: np.ndarray, all_shifts: np.ndarray) -> np.ndarray:
        """Return the numbers (N, 2) of positions, as fractions, at which the picture shows places (N, 2)."""
        frame, own = self.frame, self.shifts(all_shifts)
        inverse, middle = np.linalg.inv(frame.matrix), (np.array(frame.shape) - 1) / 2
        steady, n = slope(own), frame.shape[frame.fast]
        line = np.outer(np.arange(frame.rows) - middle[1 - frame.fast], steady) + own.mean(0)
        shown = line + self.seen() @ (own - line)  # the filter passes a steady drift as it is
        found = (places - own.mean(0)) @ inverse.T + middle
        for _ in range(INVERSIONS):
            row, part = self.between(found[:, 1 - frame.fast])
            shift = shown[row] * (1 - part)[:, None] + shown[row + 1] * part[:, None]
            shift = shift + np.clip((found[:, frame.fast] + 0.5) / n - 0.5, -0.5, 0.5)[:, None] * steady
            found = (places - shift) @ inverse.T + middle
        return found

    def inverse_jacobian(self, all_shifts: np.ndarray) -> np.ndarray:
        """Return the matrix (2, 2) of how numbers change with places, with the steady drift."""
        matrix, steady = self.frame.matrix.copy(), slope(self.shifts(all_shifts))
        matrix[:, 1 - self.frame.fast] += steady
        matrix[:, self.frame.fast] += steady / self.frame.shape[self.frame.fast]
        return np.linalg.inv(matrix)


@dataclass(frozen=True)
class Comparison:
    """Both sides, each predicted by the other one, at some shifts.

    Attributes
    ----------
    curvature : (2R, 2R) float64
    gradient : (R, 2) float64
        Of minus χ² / 2.
    misfit : (n,) float64
        Mean square of value minus prediction for every channel: 1 to 2 where shifts are right.
    overlap : float
        Part of the positions that the other side predicts.
    agreement : float
        Correlation of values and predictions, over all channels.
    """

    curvature: np.ndarray
    gradient: np.ndarray
    misfit: np.ndarray
    overlap: float
    agreement: float


def compare(sides: tuple[Side, Side], shifts: np.ndarray) -> Comparison:
    """Compare two sides at shifts (R, 2)."""
    number = len(shifts)
    parts = [_predicted(a, b, shifts) for a, b in (sides, sides[::-1])]
    total = sum(len(part[0]) for part in parts)
    values, residual = (np.concatenate([part[i] for part in parts]) for i in (3, 0))
    misfit = (residual**2).mean(0) if total else np.full(residual.shape[1], np.inf)
    weights = TWICE / np.maximum(misfit * sides[0].picture.colour, 1e-300)
    curvature, gradient = np.zeros((number, 2, number, 2)), np.zeros((number, 2))
    for source, (residual_here, slopes, moves, _) in zip(sides[::-1], parts):
        rows = slice(source.first, source.first + source.frame.rows)
        to_shifts = np.zeros((2 * number, number))  # of rows of the target, then of what the source's picture shows
        to_shifts[:number] = np.eye(number)
        to_shifts[number + rows.start : number + rows.stop, rows] = source.seen()
        more, pull = _gathered(number, residual_here, slopes, moves, weights)
        gradient += to_shifts.T @ pull
        for a in (0, 1):
            for b in (0, 1):
                curvature[:, a, :, b] += to_shifts.T @ (more[a][b] @ to_shifts)
    predicted = values - residual
    size = np.sqrt((predicted**2).sum() * (values**2).sum())
    agreement = float((values * predicted).sum() / size) if size > 0 else 0.0
    possible = sum(int(side.own().sum()) for side in sides)
    return Comparison(curvature.reshape(2 * number, -1), gradient, misfit, total / max(1, possible), agreement)


Moves = list[tuple[np.ndarray, np.ndarray]]  # numbers of shifts (N,), and by how much each moves a place relative to the picture (N,)


def _predicted(target: Side, source: Side, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray, Moves, np.ndarray]:
    """Return residuals (N, n), slopes (N, n, 2), the shifts that move them, and values (N, n), where the source covers the target."""
    own, number = target.own(), len(shifts)
    places = target.places(shifts)[own]
    numbers = source.numbers(places, shifts)
    predicted, slopes, inside = source.picture.at(numbers)
    values = target.values.reshape(len(own), -1)[own][inside]
    row, part = source.between(numbers[inside, 1 - source.frame.fast])
    moves = [
        (target.frame.row_of()[own][inside] + target.first, np.ones(len(values))),
        (row + number + source.first, part - 1),
        (row + 1 + number + source.first, -part),
    ]
    return values - predicted[inside], slopes[inside] @ source.inverse_jacobian(shifts), moves, values


def _gathered(
    number: int, residual: np.ndarray, slopes: np.ndarray, moves: Moves, weights: np.ndarray
) -> tuple[list[list[sparse.csr_matrix]], np.ndarray]:
    """Return the curvature, a matrix (2R, 2R) for each pair of axes, and the gradient (2R, 2), summed over positions."""
    here = np.arange(len(residual))
    columns, factors = (np.concatenate([move[i] for move in moves]) for i in (0, 1))
    moved = sparse.csr_matrix((factors, (np.tile(here, len(moves)), columns)), (len(here), 2 * number))
    both = np.einsum("c,nca,ncb->nab", weights, slopes, slopes)
    curvature = [[(moved.multiply(both[:, a, b, None]).T @ moved).tocsr() for b in (0, 1)] for a in (0, 1)]
    return curvature, moved.T @ np.einsum("c,nc,nca->na", weights, residual, slopes)


@dataclass(frozen=True)
class RowFit:
    """Fitted shifts.

    Attributes
    ----------
    shifts : (R, 2) float64
        Steps of the first scan.
    covariance : (R, 2, R, 2) float64
    prior : Prior
    gained : float
        Logarithm of the evidence for the shifts of rows, relative to steady drift.
    steady, final : Comparison
        With steady drift alone, and in the end.
    """

    shifts: np.ndarray
    covariance: np.ndarray
    prior: Prior
    gained: float
    steady: Comparison
    final: Comparison


def fit_rows(sides: tuple[Side, Side], parts: list[slice], start: np.ndarray, *, steady: bool) -> RowFit:
    """Fit shifts by Gauss and Newton's method.

    Parameters
    ----------
    sides : (Side, Side)
    parts : list of slice
        The rows of every scan.
    start : (R, 2)
        Shifts to start with.
    steady : bool
        Whether a steady drift of every scan and its place are free, as two scans show them. If not, they count as zero.

    Notes
    -----
    The prior of the rows is a random walk and an independent jitter. Their sizes are those with the largest evidence. First they are
    zero, so that the steady drift is found alone; then they are set twice, because the first time the minimum is still away.
    """
    prior = Prior(parts, steady)
    shifts, first = _descend(sides, start, prior)
    here, gained = first, 0.0
    for _ in range(2):
        prior, gained = best_prior(prior, here.curvature, _pull(here, shifts))
        shifts, here = _descend(sides, shifts, prior)
    covariance = posterior(prior, here.curvature, _pull(here, shifts))[1]
    return RowFit(shifts, covariance, prior, gained, first, here)


def _pull(here: Comparison, shifts: np.ndarray) -> np.ndarray:
    return here.curvature @ shifts.ravel() + here.gradient.ravel()


def _descend(sides: tuple[Side, Side], shifts: np.ndarray, prior: Prior) -> tuple[np.ndarray, Comparison]:
    """Return the most probable shifts, and the comparison there."""
    here = compare(sides, shifts)
    for _ in range(MOST_STEPS):
        change = posterior(prior, here.curvature, _pull(here, shifts), errors=False)[0] - shifts
        size = float(np.abs(change).max())
        shifts = shifts + change * min(1.0, FARTHEST / max(size, 1e-300))
        here = compare(sides, shifts)
        if size < SETTLED:
            break
    return shifts, here
