"""Check that a strain map is one of a continuous crystal: jumps, compatibility, and the region that should not be strained."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d.crystal.strain import Strain
from gpu4d.simulate.deformation import rotation_matrix

PARTS = ("exx", "eyy", "exy", "theta")
JUMP = 0.02  # strain, or rad: a lattice vector taken for another changes strain or rotation by more than this
SURE = 5.0  # standard errors: noise makes such a jump at less than one position in a million
LEAST_NEIGHBOURS = 3  # of a position whose strain is compared with theirs
LEAST_POSITIONS = 16  # at which gradients are known: a share of the curl of fewer is chance
CLEAR = 1.0  # times what noise alone gives: gradients of a smaller sum of squares show no curl


class Jumps(NamedTuple):
    """Positions whose strain differs from that of their neighbours.

    Attributes
    ----------
    share : float
        Of the positions that have a strain and enough neighbours.
    where : (Rx, Ry) bool
    positions : int
        That were compared.
    """

    share: float
    where: np.ndarray
    positions: int


class Incompatibility(NamedTuple):
    """How far a map of strain and rotation is from that of one continuous crystal.

    Attributes
    ----------
    share : float
        Of the squared curl of F⁻¹ in all its squared gradients, without counting noise.
    positions : int
        At which the gradients are known.
    """

    share: float
    positions: int


def jumps(strain: Strain) -> Jumps | None:
    """Find positions whose strain or rotation differs from the median of their neighbours.

    Interfaces and boundaries of grains are lines: most neighbours of a position lie on its own side of them. A lattice whose vectors were
    taken for others stands alone.

    Parameters
    ----------
    strain : Strain

    Returns
    -------
    Jumps or None
        None if no position has three neighbours with a strain.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.bragg_scan((6, 6), (80, 80), spacing=18.0, radius=4.0, dose=80.0, strain_size=0.01, seed=1)
    >>> disks = gpu4d.find_bragg_disks(scan.cube, scan.probe)
    >>> jumps(gpu4d.strain_map(gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks)))).share
    0.0
    """
    values, errors = _parts(strain)
    around = np.stack([_moved(values, dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0)])
    known = np.isfinite(values).all(axis=0)
    compared = known & (np.isfinite(around).all(axis=1).sum(axis=0) >= LEAST_NEIGHBOURS)
    if not compared.any():
        return None
    away = np.zeros(values.shape)
    away[:, compared] = np.abs(values[:, compared] - np.nanmedian(around[:, :, compared], axis=0))
    where = compared & ((away > JUMP) & (away > SURE * errors)).any(axis=0)
    return Jumps(float(where.sum() / compared.sum()), where, int(compared.sum()))


def incompatibility(strain: Strain) -> Incompatibility | None:
    """Compare the curl of F⁻¹ with all its gradients.

    F⁻¹ is the gradient of the positions that atoms had in the unstrained crystal. So its curl is zero in a continuous crystal, however
    large the deformation. Dislocations have a curl in their cores alone. Components that are turned, mirrored or displaced against the
    scan have one everywhere. What counting noise adds is subtracted, by the errors of the strain.

    Parameters
    ----------
    strain : Strain
        In axes of the scan: the derivatives are taken along these.

    Returns
    -------
    Incompatibility or None
        None if the rotation between scan and detector is not known, or if the gradients are not larger than their noise.
    """
    if strain.axes.frame != "scan":
        return None
    values, errors = _parts(strain.rotated(-strain.axes.angle) if strain.axes.angle else strain)
    found = jumps(strain)
    if found is None:
        return None
    values = np.where(found.where, np.nan, values)
    exx, eyy, exy, theta = values
    stretch = np.stack([np.stack([1 + exx, exy], -1), np.stack([exy, 1 + eyy], -1)], -2)
    inverse = _inverse(rotation_matrix(-theta) @ stretch)  # [..., J, i] = ∂X_J/∂x_i
    d_x, d_y = _gradient(np.moveaxis(inverse, (-2, -1), (0, 1)))
    curl = ((d_x[:, 1] - d_y[:, 0]) ** 2).sum(axis=0)
    whole = (d_x**2 + d_y**2).sum(axis=(0, 1))
    sigma = np.where(np.isfinite(errors), errors, 0.0) ** 2
    noise = sigma[0] + sigma[1] + 2 * (sigma[2] + sigma[3])  # of the four elements; each derivative has half of its variance
    good = np.isfinite(curl) & np.isfinite(whole)
    if good.sum() < LEAST_POSITIONS:
        return None
    signal = float((whole - noise)[good].sum())
    if not signal > CLEAR * float(noise[good].sum()):
        return None
    return Incompatibility(max(0.0, float((curl - noise / 2)[good].sum())) / signal, int(good.sum()))


def reference_strain(strain: Strain) -> float | None:
    """Return the rms strain in the reference region, without what counting noise adds.

    Parameters
    ----------
    strain : Strain

    Returns
    -------
    float or None
        None if the reference is no region of this scan.
    """
    region = strain.reference.region
    if region is None:
        return None
    values, errors = (part[:3] for part in _parts(strain))
    inside = np.asarray(region, bool) & np.isfinite(values).all(axis=0)
    if not inside.any():
        return None
    noise = np.where(np.isfinite(errors), errors, 0.0)[:, inside]
    return float(np.sqrt(max(0.0, np.mean(values[:, inside] ** 2 - noise**2))))


def _parts(strain: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return strain and rotation with their errors, each (4, Rx, Ry) float64."""
    values = np.stack([np.asarray(getattr(strain, part), dtype=np.float64) for part in PARTS])
    return values, np.asarray(strain.uncertainty, dtype=np.float64)


def _moved(values: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Return the values of the neighbours at (dx, dy) on the last two axes, NaN outside of the scan."""
    moved = np.full(values.shape, np.nan)
    nx, ny = values.shape[-2:]
    here = (..., slice(max(0, -dx), nx - max(0, dx)), slice(max(0, -dy), ny - max(0, dy)))
    there = (..., slice(max(0, dx), nx - max(0, -dx)), slice(max(0, dy), ny - max(0, -dy)))
    moved[here] = values[there]
    return moved


def _gradient(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return central differences along the last two axes, NaN at the edge of the scan."""
    return (_moved(values, 1, 0) - _moved(values, -1, 0)) / 2, (_moved(values, 0, 1) - _moved(values, 0, -1)) / 2


def _inverse(matrices: np.ndarray) -> np.ndarray:
    """Return the inverses of (..., 2, 2) matrices, NaN where one is not known."""
    a, b, c, d = (matrices[..., i, j] for i in (0, 1) for j in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2) / (a * d - b * c)[..., None, None]
