"""Describe a small distortion of the detector by two numbers that stay regular where the ellipse is a circle.

E = exp [[e1, e2], [e2, −e1]] is the distortion that keeps areas: measured = E · true, up to the scale. Its axes are exp(±|e|), so
a / b = exp(2 |e|), and the angle of a is half of that of (e1, e2). Errors of (e1, e2) are Gaussian also for a circle, where a / b
cannot fall below 1 and the angle means nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEP = 1e-6  # for the derivative of a 2 × 2 matrix: rounding and curvature both stay below 1e-9


def stretch_matrix(e1: float, e2: float) -> np.ndarray:
    """Return E = exp [[e1, e2], [e2, −e1]], (2, 2). `stretch_matrix(-e1, -e2)` is its inverse.

    Examples
    --------
    >>> np.diag(stretch_matrix(np.log(2) / 2, 0.0)).round(6).tolist()
    [1.414214, 0.707107]
    """
    size = float(np.hypot(e1, e2))
    along = np.sinh(size) / size if size > 1e-12 else 1.0
    return np.cosh(size) * np.eye(2) + along * np.array([[e1, e2], [e2, -e1]])


def undone(e1: float, e2: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the inverse of E, and its derivatives by e1 and e2."""
    steps = [
        (stretch_matrix(-e1 - i * STEP, -e2 - j * STEP) - stretch_matrix(-e1 + i * STEP, -e2 + j * STEP)) / (2 * STEP)
        for i, j in ((1, 0), (0, 1))
    ]
    return stretch_matrix(-e1, -e2), steps[0], steps[1]


class Axes(NamedTuple):
    """Ratio and direction of an ellipse, with standard errors.

    Attributes
    ----------
    ratio, ratio_error : float
        a / b.
    theta, theta_error : float
        Angle of a from qx towards qy, rad, −π/2 < theta ≤ π/2. Where the ellipse is not told from a circle the error is π / √12, that of an
        unknown direction.
    """

    ratio: float
    ratio_error: float
    theta: float
    theta_error: float


def axes_of_stretch(e: np.ndarray, covariance: np.ndarray) -> Axes:
    """Return a / b and theta of (e1, e2), with standard errors to first order.

    Examples
    --------
    >>> [round(value, 4) for value in axes_of_stretch(np.array([0.0, 0.01]), np.eye(2) * 1e-6)]
    [1.0202, 0.002, 0.7854, 0.05]
    """
    size = float(np.hypot(*e))
    unknown = np.pi / np.sqrt(12)
    if size < 1e-12:
        return Axes(1.0, float(2 * np.sqrt(np.trace(covariance) / 2)), 0.0, unknown)
    along = e / size
    across = np.array([-along[1], along[0]])
    ratio, theta = float(np.exp(2 * size)), float(np.arctan2(e[1], e[0]) / 2)
    errors = [float(np.sqrt(max(d @ covariance @ d, 0.0))) for d in (along, across)]
    return Axes(ratio, 2 * ratio * errors[0], theta, min(errors[1] / (2 * size), unknown))


def stretch_of_axes(ellipse: tuple[float, float, float]) -> np.ndarray:
    """Return (e1, e2) of an ellipse (a, b, theta).

    Examples
    --------
    >>> stretch_of_axes((2.0, 1.0, 0.0)).round(4).tolist()
    [0.3466, 0.0]
    """
    a, b, theta = ellipse
    return np.log(a / b) / 2 * np.array([np.cos(2 * theta), np.sin(2 * theta)])


def q_of_axes(p: np.ndarray, axes: Axes) -> tuple[float, np.ndarray]:
    """Return the pixel size along the minor axis, and derivatives (5, 5) of (center, a/b, theta, q_pixel) by p.

    p is (cx, cy, e1, e2, log of the scale in px · Å). The pixel of the scale is the geometric mean of both axes.
    """
    size = max(float(np.hypot(*p[2:4])), 1e-12)
    along = p[2:4] / size
    q_pixel = float(np.exp(-p[4]) * np.sqrt(axes.ratio))
    out = np.eye(5)
    out[2:, 2:] = 0.0
    out[2, 2:4] = 2 * axes.ratio * along
    out[3, 2:4] = np.array([-along[1], along[0]]) / (2 * size)
    out[4, 2:4], out[4, 4] = q_pixel * along, -q_pixel
    return q_pixel, out


def known_error(error: float) -> float | None:
    """Return a standard error as `Calibration.measured` takes it: None for 0, which exact data give.

    Examples
    --------
    >>> known_error(0.02), known_error(0.0)
    (0.02, None)
    """
    return error if error != 0 else None


def told(ellipse: tuple[float, float, float], error: tuple[float, float]) -> str:
    """Write an ellipse (a, b, theta) with b = 1 and the standard errors of a/b and theta, for people."""
    return f"a/b {ellipse[0]:.5f} ± {error[0]:.5f}, theta {np.degrees(ellipse[2]):.2f} ± {np.degrees(error[1]):.2f}°"
