"""Measure a disk of less than three pixels: all of its pixels are fitted at once, because it has no edge that a ray could cross."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALL = 3.0  # px: radius below which a disk is small
AROUND = 3.0  # px beyond the first guess of the radius: pixels that are fitted
LEAST_RADIUS, LEAST_EDGE = 0.3, 0.15  # px: a smaller or sharper spot than this lights one pixel only
MOST_EDGE = 4.0  # px
STARTS = (0.6, 1.2)  # px: widths of the edge from which the fit starts; the better end is taken
CENTER_ERROR, RADIUS_ERROR = 0.15, 0.35  # px: with larger standard errors the spot is not measured


class SmallDisk(NamedTuple):
    """A fitted spot. Lengths are in pixels.

    Attributes
    ----------
    center : (2,) float64
    radius, edge : float
        Of the disk 1 / (1 + exp(4 (r − radius) / edge)).
    misfit : float
        Rms difference of image and disk, in the window of the fit, times the edge over the height: how far the edge is from a circle.
    errors : (float, float)
        Standard errors of the centre (the larger of both) and of the radius, from the scatter about the fit. Infinite if the pixels do
        not determine them.
    """

    center: np.ndarray
    radius: float
    edge: float
    misfit: float
    errors: tuple[float, float]

    @property
    def determined(self) -> bool:
        """Return True if the pixels determine centre and radius."""
        return self.errors[0] <= CENTER_ERROR and self.errors[1] <= RADIUS_ERROR


def small_disk(pattern: np.ndarray, center: np.ndarray, radius: float) -> SmallDisk:
    """Fit background, height, centre, radius and edge of a round disk to the pixels of a spot.

    The disk is taken at the centres of the pixels, as `gpu4d.probe.synthetic` makes it. On a detector whose pixels integrate over
    their area, the centre of a sharp disk of 0.7 px is then off by 0.1 px, that of a wider one by less.

    Parameters
    ----------
    pattern : (Qx, Qy) float64
        Without NaN.
    center : (2,) float64
        First guess, pixels.
    radius : float
        First guess, pixels. Pixels within `AROUND` beyond it are fitted.

    Returns
    -------
    SmallDisk
    """
    from scipy.optimize import least_squares

    x, y = np.meshgrid(*(np.arange(n) for n in pattern.shape), indexing="ij")
    near = np.hypot(x - center[0], y - center[1]) <= radius + AROUND
    x, y, z = x[near], y[near], pattern[near]
    low = float(np.percentile(z, 20))
    high = max(float(z.max()) - low, np.finfo(float).tiny)
    lit = np.where(np.hypot(x - center[0], y - center[1]) <= radius + 1, np.clip(z - low, 0, None), 0.0)
    middle = np.array([(lit * x).sum(), (lit * y).sum()]) / max(lit.sum(), np.finfo(float).tiny)
    size = float(np.clip(np.sqrt(lit.sum() / high / np.pi), 2 * LEAST_RADIUS, 2 * SMALL - 0.1))

    def misfit(p: np.ndarray) -> np.ndarray:
        """Return the residual of each pixel, relative to the first guess of the height."""
        fall = np.clip(4 * (np.hypot(x - p[2], y - p[3]) - p[4]) / p[5], -60, 60)
        return p[0] + p[1] / (1 + np.exp(fall)) - (z - low) / high

    bounds = (
        [-np.inf, 0.0, *(middle - 1), LEAST_RADIUS, LEAST_EDGE],
        [np.inf, np.inf, *(middle + 1), 2 * SMALL, MOST_EDGE],
    )
    fits = [least_squares(misfit, [0.0, 1.0, *middle, size, w], bounds=bounds, loss="soft_l1", f_scale=0.2) for w in STARTS]
    best = min(fits, key=lambda f: f.cost)
    p, rest = best.x, misfit(best.x)
    error = standard_errors(best.jac, rest)
    uneven = float(np.sqrt(np.mean(rest**2)) * p[5] / max(p[1], 1e-12))
    return SmallDisk(p[2:4], float(p[4]), float(p[5]), uneven, (float(error[2:4].max()), float(error[4])))


def standard_errors(jacobian: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Return the standard errors of fitted parameters, from the scatter about the fit. Infinite for those that no pixel determines.

    Bright pixels scatter more than dark ones, so each pixel counts with its own residual, over the root of one minus its
    leverage (HC2: MacKinnon, White, J. Econometrics 29 (1985) 305).
    """
    left, values, vectors = np.linalg.svd(jacobian, full_matrices=False)
    blind = values < 1e-6 * values[0]
    moved = np.abs(vectors[blind]).max(axis=0) if blind.any() else np.zeros(jacobian.shape[1])
    inverse = vectors.T @ (left / np.where(blind, np.inf, values)).T  # (parameters, pixels)
    leverage = np.minimum((left[:, ~blind] ** 2).sum(axis=1), 0.99)
    error = np.sqrt(((inverse * (residual / np.sqrt(1 - leverage))) ** 2).sum(axis=1))
    return np.where(moved > 1e-3, np.inf, error)
