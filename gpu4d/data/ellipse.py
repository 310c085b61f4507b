"""Remove the elliptical distortion of the detector plane from vectors."""

from __future__ import annotations

import numpy as np

from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats


@on_host("curve")
def ellipse_matrix(ellipse: tuple[float, float, float]) -> np.ndarray:
    """Return the (2, 2) matrix that makes the ellipse a circle: v_true = M v_measured, with v relative to the origin.

    The radius of the circle is the minor semi-axis. Lengths along the major axis shrink by b/a. Lengths along the minor axis do not change
    (as in py4DSTEM).

    Parameters
    ----------
    ellipse : (a, b, theta)
        Semi-axes a ≥ b (only their ratio matters) and the angle of a from qx towards qy, rad.

    Examples
    --------
    >>> ellipse_matrix((2.0, 1.0, 0.0)).round(3).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    a, b, theta = floats(ellipse, 3, "ellipse (a, b, theta)")
    if not a >= b > 0:
        raise InputError(f"ellipse is (a={a:g}, b={b:g}, theta={theta:g}): need a ≥ b > 0")
    major = np.array([np.cos(theta), np.sin(theta)])
    return np.eye(2) - (1 - b / a) * np.outer(major, major)
