"""Find sudden changes of the origin between rows or columns of the scan: beam flyback, borders of tiles, drift of the gun."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.beam.surface import Step, Surface, fit_surface
from gpu4d.robust import robust_sigma

MOST = 12  # steps of one scan; a scan with more of them has an origin of its own in every line
SIGMAS = 6.0  # a change must exceed its standard error so many times: a thousand lines are tried
SUDDEN = 0.5  # of the fitted change must show between the two lines before and behind it; a bent surface shows less
LEAST = 0.1  # px: smaller changes do no harm to a virtual image or a lattice fit
FLYBACK = 4  # columns at the start of a row in which the beam comes to rest after its flyback
_MEDIAN = 1.2533  # standard error of a median over that of a mean


def surface_with_steps(measured: np.ndarray, order: int, robust: bool, used: np.ndarray) -> Surface:
    """Fit a surface to positions of the beam, and let it jump where the data show a sudden change.

    The residuals of each row (and column) are summarised by their median, so that wrong positions do no harm. To these medians, for
    every pair of neighbours, a quadratic and a step between them are fitted. The step that explains most is taken if it exceeds six
    standard errors, and if at least half of it occurs between the neighbours. The search is repeated with this step in the surface.

    Parameters
    ----------
    measured, order, robust, used
        As `fit_surface`.

    Examples
    --------
    >>> measured = np.zeros((12, 12, 2)) + np.random.default_rng(0).normal(0, 0.02, (12, 12, 2))
    >>> measured[7:, :, 0] += 1.5
    >>> step, = surface_with_steps(measured, 1, True, np.ones((12, 12), bool)).steps
    >>> step.axis, step.index, round(step.shift[0], 1)
    (0, 7, 1.5)
    """
    steps: list[Step] = []
    best = fit_surface(measured, order, robust, used)
    while len(steps) < MOST:
        residual = np.where(used[..., None], measured - best.fitted, np.nan)
        found = [step for axis in (0, 1) if (step := _largest(residual, axis)) is not None]
        if not found:
            return best
        new = max(found, key=lambda step: math.hypot(*step.shift) / step.error)
        with_step = fit_surface(measured, order, robust, used, [*steps, new])
        if not all(math.hypot(*s.shift) > max(LEAST, SIGMAS * s.error) for s in with_step.steps):
            return best
        steps, best = [*steps, new], with_step
    return fit_surface(measured, order, robust, used)


def _largest(residual: np.ndarray, axis: int) -> Step | None:
    """Return the most significant step along an axis of the scan, from the residuals (Rx, Ry, 2). None if there is none."""
    lines, error = _medians(residual, axis)
    known = np.flatnonzero(np.isfinite(lines).all(axis=-1))
    n = known.size
    if n < 6:
        return None
    x = np.linspace(-1, 1, n)
    smooth = np.linalg.qr(np.stack([np.ones(n), x, x * x], axis=-1))[0]
    behind = np.tri(n)[:, 1:]  # column i: a step between the lines i and i + 1 of the known ones
    free = behind - smooth @ (smooth.T @ behind)
    y = lines[known] - smooth @ (smooth.T @ lines[known])
    length = np.einsum("ij,ij->j", free, free)
    shift = (free.T @ y) / length[:, None]
    place = int(np.argmax(np.sum(shift**2, axis=1) * length))  # the step that explains most of the sum of squares
    change = np.diff(lines[known], axis=0)
    scatter = float(robust_sigma(change - np.median(change, axis=0), 0.0)) / math.sqrt(2)  # other steps are few of the changes
    sigma = max(scatter, error) / math.sqrt(float(length[place]))
    change = shift[place]
    first, second = y[max(place - 1, 0) : place + 1].mean(axis=0), y[place + 1 : place + 3].mean(axis=0)
    size = float(np.hypot(*change))
    if size < max(LEAST, SIGMAS * sigma) or float((second - first) @ change) < SUDDEN * size**2:
        return None
    return Step(axis, int(known[place + 1]), (float(change[0]), float(change[1])), sigma)


def _medians(residual: np.ndarray, axis: int) -> tuple[np.ndarray, float]:
    """Return the median residual of every line (n, 2), and the standard error that it has from the scatter within lines."""
    lines = np.moveaxis(residual, axis, 0)
    some = np.isfinite(lines).all(axis=-1).any(axis=1)
    medians = np.full((len(lines), 2), np.nan)
    medians[some] = np.nanmedian(lines[some], axis=1)
    off = lines - medians[:, None]
    off = off[np.isfinite(off).all(axis=-1)]
    per_line = max(len(off) / max(int(some.sum()), 1), 1.0)
    scatter = float(robust_sigma(off, 0.0)) if len(off) else 0.0
    return medians, max(_MEDIAN * scatter / math.sqrt(per_line), 1e-9)


def named(step: Step) -> str:
    """Say what a step may come from: two words for the report.

    Rows are scanned one after the other, so a change between two rows happened during the scan. A change between columns is the same in
    every row: near the start of the rows it is the flyback, elsewhere the border of tiles.
    """
    if step.axis == 0:
        return "drift or jump of the beam during the scan, or a border of tiles"
    return "flyback" if step.index <= FLYBACK else "border of tiles"
