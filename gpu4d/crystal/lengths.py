"""Measure how long the lattice vectors of a scan are, and how well this is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError


class _Lengths(NamedTuple):
    lengths: tuple[float, float]
    errors: tuple[float, float]
    at_one_position: tuple[float, float]
    angle: float
    angle_error: float
    positions: int


class Lengths(_Lengths, Storable, stored="lengths errors at_one_position: [px]; angle angle_error: [rad]"):
    """Lengths of g1 and g2, each a pair, with standard errors.

    Attributes
    ----------
    lengths : (float, float)
        |g1| and |g2| of the mean over the positions, px.
    errors : (float, float)
        Standard errors of these, px.
    at_one_position : (float, float)
        Median standard error of the length at a single position, px.
    angle, angle_error : float
        Angle from g1 to g2 and its standard error, rad.
    positions : int
        Positions that were averaged.
    """

    __slots__ = ()

    def spacings(self, q_pixel: float, q_pixel_error: float | None = None) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the spacings d = 1 / (|g| q_pixel) and their standard errors, Å.

        Relative errors of the length and of the detector pixel are added as squares. That of the pixel is the same for both spacings.

        Parameters
        ----------
        q_pixel, q_pixel_error : float
            Size of a detector pixel and its standard error, 1/Å. Without the error, only that of the lengths counts.

        Examples
        --------
        >>> found = Lengths((25.0, 50.0), (0.05, 0.1), (0.5, 1.0), 1.57, 0.001, 100)
        >>> d, error = found.spacings(0.02, 0.0001)
        >>> d, tuple(round(e, 5) for e in error)
        ((2.0, 1.0), (0.01077, 0.00539))
        """
        if not q_pixel > 0:
            raise InputError(f"q_pixel={q_pixel}: need the size of a detector pixel, 1/Å")
        d = [1 / (length * q_pixel) for length in self.lengths]
        relative = [math.hypot(e / length, (q_pixel_error or 0.0) / q_pixel) for length, e in zip(self.lengths, self.errors)]
        return (d[0], d[1]), (d[0] * relative[0], d[1] * relative[1])


def lattice_lengths(fit: LatticeFit, ellipse: tuple[float, float, float] | None = None) -> Lengths | None:
    """Return the lengths of the mean lattice vectors of a scan with standard errors from the covariance of the local fits.

    The errors of different positions are independent, so the covariance of a mean over N positions is the sum of theirs over N². It
    turns into the error of a length by its component along the vector, to first order. It holds the counting noise of the disks and
    their scatter about the local lattices. It does not hold the spread of the local lattices themselves (strain), nor what all positions
    share: elliptical distortion, or a template of the wrong radius or edge.

    Parameters
    ----------
    fit : LatticeFit
    ellipse : (a, b, theta), optional
        `Calibration.ellipse`, which is removed first. Lengths are then pixels of its minor axis.

    Returns
    -------
    Lengths or None
        None if no position has a lattice with a covariance. Other positions do not count.

    Examples
    --------
    >>> from gpu4d.crystal import fit_lattice
    >>> from gpu4d.data import PointListArray
    >>> h, k = np.mgrid[-1:2, -1:2].reshape(2, -1)
    >>> q = np.stack([h, k], -1) @ np.array([[12.0, 0.0], [0.0, 9.0]]) + 40 + np.random.default_rng(0).normal(0, 0.01, (9, 2))
    >>> fields = {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(9), "sx": np.full(9, 0.01), "sy": np.full(9, 0.01)}
    >>> found = lattice_lengths(fit_lattice(PointListArray([0, 9], fields, (1, 1)), [[12.0, 0.0], [0.0, 9.0]], origin=(40.0, 40.0)))
    >>> [round(n, 2) for n in found.lengths], round(found.errors[0], 3)
    ([11.99, 9.0], 0.004)
    """
    g = np.stack([arrays.to_numpy(fit.g1), arrays.to_numpy(fit.g2)], axis=-2).reshape(-1, 2, 2)
    covariance = arrays.to_numpy(fit.covariance).reshape(-1, 2, 2, 2)
    known = np.isfinite(g).all(axis=(1, 2)) & np.isfinite(covariance).all(axis=(1, 2, 3))
    n = int(known.sum())
    if not n:
        return None
    g, covariance = g[known], covariance[known]
    if ellipse is not None:
        matrix = ellipse_matrix(ellipse)
        g = g @ matrix.T
        covariance = np.einsum("cd,ndij->ncij", matrix**2, covariance)  # the correlation of the two axes, 1 − b/a at most, is neglected
    mean, cov = g.mean(axis=0), covariance.sum(axis=0) / n**2
    along = mean / np.hypot(*mean.T)[:, None]  # (vector, component)
    errors = np.sqrt(np.einsum("vc,cvv->v", along**2, cov))
    each = np.sqrt(np.median(np.einsum("vc,ncvv->nv", along**2, covariance), axis=0))
    # A vector turns by its change across it over its length. Both vectors may turn together, which leaves the angle as it is.
    turn = np.stack([-along[:, 1], along[:, 0]], axis=-1) / np.hypot(*mean.T)[:, None] * np.array([[-1.0], [1.0]])
    angle = math.atan2(mean[0, 0] * mean[1, 1] - mean[0, 1] * mean[1, 0], float(mean[0] @ mean[1]))
    return Lengths(
        _pair(np.hypot(*mean.T)), _pair(errors), _pair(each), angle, math.sqrt(np.einsum("ic,cij,jc->", turn, cov, turn)), n
    )  # fmt: skip


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
