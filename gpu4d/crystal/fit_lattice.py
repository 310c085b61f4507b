"""Fit the local lattice at every scan position: index the disks, then solve weighted least squares with a free local origin."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ReturnedArray
from gpu4d.beam.brightest_disk import brightest_disk
from gpu4d.crystal.lattice import Lattice, two_vectors
from gpu4d.crystal.local_lattice import Disks, columns, converged, fitted
from gpu4d.data.arguments import OriginLike, disk_lists, origins
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host

LEAST_DISKS, LEAST_INDEXED = 3, 0.4  # of a position with a lattice, and the share of its disks that must lie on it
WEIGHTS = ("sqrt", "py4dstem", "errors", "uniform")
OTHER_UNITS = 0.7  # error scale below which the values of the patterns are no electrons, and errors are made smaller, too
BLOCK = 2048  # positions at a time: memory stays small, and a fixed number gives the same answer everywhere

FROM_CEPSTRUM = "power"  # `weights` of a fit to a power cepstrum: its lengths are too short, all by the same part


@dataclass(frozen=True, eq=False)
class LatticeFit(
    Storable,
    stored="g1 g2 origin: Rx Ry xy [px]; covariance: Rx Ry xy row column [px²]; residual: Rx Ry [px]; count indexed_fraction mask: Rx Ry",
):
    """Local lattice vectors over the scan. Positions with too few disks on the lattice, or with all disks on one line, have NaN.

    Attributes
    ----------
    g1, g2 : (Rx, Ry, 2) float64
        Detector pixels.
    origin : (Rx, Ry, 2) float64
        Origin of the local fit, px.
    covariance : (Rx, Ry, 2, 2, 2) float64
        ``covariance[..., c, i, j]`` is the covariance of component c of vector i with component c of vector j, px². The two
        detector axes are independent. NaN where three disks leave no residual and the disks carry no standard errors.
    residual : (Rx, Ry) float64
        Rms distance of the disks from the local lattice per axis, px.
    count : (Rx, Ry) int64
        Disks in the fit.
    indexed_fraction : (Rx, Ry) float64
        Fraction of the disks that took part, each counted with the root of its weight.
    mask : (Rx, Ry) bool
        True where there is a fit.
    lattice : Lattice
        Mean lattice, to which the orders refer.
    weights : str
    error_scale : float
        Scatter of the disks in units of their standard errors, over the whole scan. `covariance` is multiplied by its square if it
        exceeds 1, and also below 0.7. So small a scatter shows that the patterns are no electron counts but smaller numbers, for which
        standard errors from the counts are too large. NaN if the disks have no standard errors.
    """

    g1: ReturnedArray
    g2: ReturnedArray
    origin: ReturnedArray
    covariance: ReturnedArray
    residual: ReturnedArray
    count: ReturnedArray
    indexed_fraction: ReturnedArray
    mask: ReturnedArray
    lattice: Lattice
    weights: str
    error_scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the scan, (Rx, Ry)."""
        return tuple(self.mask.shape)

    def __repr__(self) -> str:
        return f"LatticeFit({'×'.join(map(str, self.shape))} positions, weights {self.weights!r}, {self.lattice!r})"


@on_host("judged")
def fit_lattice(
    disks: PointListArray,
    lattice: Lattice | ArrayLike | None,
    *,
    origin: OriginLike | None = None,
    weights: str = "sqrt",
    tolerance: float = 0.12,
    min_disks: int = LEAST_DISKS,
    min_indexed: float = LEAST_INDEXED,
    iterations: int = 4,
    outliers: float | None = 4.0,
) -> LatticeFit:
    """Fit q = x₀ + h g1 + k g2 to the disks of every position.

    The orders (h, k) of a disk are those of the nearest node. First the mean lattice indexes the disks near the origin, then the fitted
    local lattice indexes all disks. A disk farther than the tolerance from its node is not used. Weighted normal equations are solved in
    float64, for all positions at once.

    Parameters
    ----------
    disks : PointListArray
        Fields ``qx, qy`` (px), ``intensity`` and, where known, the standard errors ``sx, sy`` (px).
    lattice : Lattice, or (2, 2) array
        Mean lattice, from `find_lattice` (rows g1, g2, px).
    origin : Origin, (2,) or (Rx, Ry, 2) array, optional
        Start of the local origin, px. It must be right to a tenth of |g1|. None: measured by `gpu4d.calibrate.origin`.
    weights : {"sqrt", "py4dstem", "errors", "uniform"}
        Weights of the squared residuals: "sqrt" intensity (rows of the system multiplied by √intensity: counting noise),
        "py4dstem" intensity² (rows multiplied by the intensity), "errors" 2 / (sx² + sy²), "uniform" 1.
    tolerance : float
        Largest distance of a disk from its node, as a fraction of |g1| of the mean lattice.
    min_disks : int
        Fewest disks of a fit, at least 3.
    min_indexed : float
        Least part of a position's disks that must lie on the lattice. Among twenty random points three or four always do, and their
        strain would have no meaning.
    iterations : int
        Most rounds of indexing and fitting.
    outliers : float, optional
        Disks whose residual exceeds this many times the scan's usual scatter are left out, and the lattice is fitted again. The limit
        must be exceeded both in px and in units of 1/√weight, so that weak disks with noise and bright disks with structure are
        kept. None keeps all.

    Returns
    -------
    LatticeFit
        In the namespace of the disks. A position with too few disks on the lattice, or with all of them on a line, has NaN.

    Examples
    --------
    >>> import numpy as np
    >>> h, k = np.mgrid[-1:2, -1:2].reshape(2, -1)
    >>> q = np.stack([h, k], -1) @ np.array([[12.0, 1.0], [-1.0, 12.0]]) + 40
    >>> one = PointListArray(np.array([0, 9]), {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(9)}, (1, 1))
    >>> fit_lattice(one, [[12.0, 0.0], [0.0, 12.0]], origin=(40.0, 40.0)).g1.round(6)
    array([[[12.,  1.]]])
    """
    mean, centre = _checked(disks, lattice, origin, weights, min_disks, iterations)
    xp, where = arrays.namespace(disks.offsets), arrays.device(disks.offsets)
    start = np.broadcast_to(centre, (*disks.shape, 2)).reshape(-1, 1, 2)
    x = np.concatenate([start, np.broadcast_to(mean.matrix, (start.shape[0], 2, 2))], axis=1).transpose(1, 2, 0)
    x = xp.asarray(np.ascontiguousarray(x), dtype=xp.float64, device=where)
    size = float(np.hypot(*mean.g1))
    blocks = [(first, min(first + BLOCK, start.shape[0])) for first in range(0, start.shape[0], BLOCK)]

    def everywhere(work: Callable[[Disks, Any], tuple[Any, ...]], x: Any) -> list[Any]:
        """Call `work` for all blocks of positions, and join the results."""
        parts = [work(columns(disks, i, j, weights), x[..., i:j]) for i, j in blocks]
        return [xp.concat(p, axis=-1) for p in zip(*parts)]

    least = (min_disks, min_indexed)
    nodes, *scatter = everywhere(lambda p, x: converged(p, x, size, tolerance, least, iterations), x)
    limits = None if outliers is None else _limits(float(outliers), *scatter)
    x, cov, residual, count, fraction, chi2 = everywhere(lambda p, x: fitted(p, x, tolerance * size, least, limits), nodes)
    scale = _error_scale(arrays.to_numpy(chi2), arrays.to_numpy(count))
    if scale >= 1 or scale < OTHER_UNITS:
        cov = cov * scale**2
    grid: Any = lambda a, *inner: xp.reshape(xp.stack([a[i, :] for i in range(a.shape[0])], axis=-1), (*disks.shape, *inner))  # noqa: E731
    flat: Any = lambda a: xp.reshape(a, disks.shape)  # noqa: E731
    return LatticeFit(
        g1=grid(x[1, :, :], 2),
        g2=grid(x[2, :, :], 2),
        origin=grid(x[0, :, :], 2),
        covariance=grid(cov, 2, 2, 2),
        residual=flat(residual),
        count=xp.astype(flat(count), xp.int64),
        indexed_fraction=flat(fraction),
        mask=flat(xp.isfinite(x[1, 0, :])),
        lattice=mean,
        weights=weights,
        error_scale=scale,
    )


def _checked(disks: Any, lattice: Any, origin: Any, weights: str, min_disks: int, iterations: int) -> tuple[Lattice, np.ndarray]:
    """Return the mean lattice and the origin, (2,) or (Rx, Ry, 2), after checking them."""
    disk_lists(disks)
    if lattice is None:
        raise InputError("lattice is None (find_lattice found none): give g1 and g2 as a (2, 2) array in px, or leave out the strain")
    if weights not in WEIGHTS:
        raise InputError(f"weights={weights!r}: need one of {', '.join(map(repr, WEIGHTS))}")
    if weights == "errors" and not {"sx", "sy"} <= set(disks.fields):
        raise InputError(f"weights='errors' needs the fields sx and sy; these disks have {', '.join(disks.fields)}: use weights='sqrt'")
    if min_disks < 3 or iterations < 1:
        raise InputError(f"min_disks={min_disks}, iterations={iterations}: need at least 3 disks and 1 iteration")
    if not isinstance(lattice, Lattice):
        rows = two_vectors(lattice)
        if abs(np.linalg.det(rows)) < 1e-3 * np.sum(rows**2):
            raise InputError(f"lattice is {np.round(rows, 3).tolist()}: need two vectors (2, 2), px, that are not parallel")
        lattice = Lattice(rows[0], rows[1])
    centre = brightest_disk(disks) if origin is None else origin
    return lattice, origins(centre, disks.shape)


def _limits(outliers: float, residual: Any, count: Any, unit: Any) -> tuple[float, float] | None:
    """Return limits of squared residuals, weighted and in px². None if there are too few disks to measure their usual scatter."""
    rms, n, variance = (arrays.to_numpy(a) for a in (residual, count, unit))
    ok = np.isfinite(variance) & (n > 3)
    if np.sum(n[ok] - 3) < 30:
        return None
    square = max(
        np.median(rms[ok] ** 2 * n[ok] / (n[ok] - 3)), 1e-8
    )  # points without noise differ by rounding only, so a residual below 1e-4 px is no outlier
    unit = max(np.median(variance[ok]), 1e-100)  # avoids a division by 0 if points lie exactly on their nodes
    return outliers**2 * float(unit), outliers**2 * float(square)


def _error_scale(chi2: np.ndarray, count: np.ndarray) -> float:
    """Return the square root of the scan's reduced χ².

    The median over positions is used, so that bad positions do not dominate. It is corrected for the median of a χ² distribution.
    """
    ok = np.isfinite(chi2)
    if not ok.any():
        return math.nan
    free = 2 * np.maximum(count[ok] - 3, 1)
    return float(np.sqrt(np.median(chi2[ok] / (1 - 2 / (9 * free)) ** 3)))
