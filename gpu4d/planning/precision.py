"""Predict how precisely the counts tell the positions of Bragg disks, and so the strain: the Cramér–Rao bound.

No method can be more precise without more counts. The Poisson fit of `find_bragg_disks` reaches 1.02 to 1.08 times the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.bragg.likelihood.poisson_fit import DiskProfile, disk_profile
from gpu4d.crystal.deformation import standard_errors
from gpu4d.crystal.lattice import two_vectors
from gpu4d.data.arguments import real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe.synthetic import synthetic
from gpu4d.real_arrays import real_number

FAINTEST = 1e-3  # counts per pixel: below, a background of so little makes no difference, and without any the bound has no value
MOST = 1e15  # electrons: more than any experiment has, and their squares keep their digits
HIGHEST = 10_000  # order of a disk
PARALLEL = 1e-6  # sine of the angle between two vectors
NUISANCE = {4: 2, 6: 4}  # parameters of the fit -> those beside the position: height and background, and its two slopes


@dataclass(frozen=True)
class StrainPrecision(Storable, stored="theta: [rad]; disk: disk [px]"):
    """Standard errors to expect of the strain at one position.

    Attributes
    ----------
    exx, eyy, exy, theta : float
        Along detector axes; theta in rad.
    disk : (N,) float64
        Of the position of each disk, along one axis, px.
    """

    exx: float
    eyy: float
    exy: float
    theta: float
    disk: np.ndarray

    def __str__(self) -> str:
        return f"strain to {max(self.exx, self.eyy):.1e}, shear to {self.exy:.1e}, rotation to {math.degrees(self.theta):.2g}°"


@on_host("curve")
def disk_precision(
    electrons: float | ArrayLike, radius: float, *, edge: float = 1.0, background: float | ArrayLike = 0.0, parameters: int = 6
) -> np.ndarray:
    """Compute the smallest standard error that the position of a disk can have: the Cramér–Rao bound of the Poisson likelihood.

    The disk lies on an even background that is known no better than the pixels around it tell: its height and slopes are fitted with the
    position, as `gpu4d.find_bragg_disks` does.

    Parameters
    ----------
    electrons : float or (N,) array
        In the disk, the background under it not counted.
    radius : float
        px.
    edge : float
        Width of the edge, px: 1 / (1 + exp(4 (r − radius) / edge)), as of `gpu4d.probe.synthetic`.
    background : float or (N,) array
        Electrons per pixel under the disk.
    parameters : {4, 6}
        Of the fit: position, height and background; 6 with the slopes of the background.

    Returns
    -------
    (N,) float64
        Along one axis, px, as the root of the mean variance over all positions between the pixels. NaN for a disk without electrons.

    Raises
    ------
    InputError
        A radius or an edge that is not positive, negative numbers of electrons, or other parameters.

    Notes
    -----
    cov⁻¹ = Σ ∇λ ∇λᵀ / λ over the pixels of the window of the fit, with λ = b + bx u + by v + a D(q − r). Only the rim of a disk tells its
    position. A wider rim and more background make it less precise.

    Examples
    --------
    >>> disk_precision([100, 10000], 6.0, background=0.2).round(4).tolist()
    [0.2541, 0.0174]
    """
    if not (real_number(radius, "radius") > 0 and real_number(edge, "edge") > 0):
        raise InputError(f"radius={radius}, edge={edge}: need positive numbers of detector pixels")
    if parameters not in NUISANCE:
        raise InputError(f"parameters={parameters!r}: need 4 or 6")
    given = [np.atleast_1d(real_values(v, name)).astype(np.float64) for v, name in ((electrons, "electrons"), (background, "background"))]
    sizes = {v.size for v in given if v.size != 1}
    if any(v.ndim != 1 for v in given) or len(sizes) > 1:
        raise InputError(f"electrons {given[0].shape} and background {given[1].shape}: need one number, or one for each disk")
    counts, below = np.broadcast_arrays(*given)
    if not ((counts >= 0) & (below >= 0) & (counts < MOST) & (below < MOST)).all():
        raise InputError(f"electrons and background: need numbers from 0 on, below {MOST:.0e}, one for each disk")
    profile = _profile(float(radius), float(edge))
    area = float(profile.table[:-1, :-1, 0].sum(axis=-1).mean())  # pixels of the disk, of height 1
    return np.array([_bound(profile, n / area, max(b, FAINTEST), NUISANCE[parameters]) for n, b in zip(counts, below)])


@on_host("curve")
def strain_precision(
    vectors: ArrayLike, orders: ArrayLike, electrons: ArrayLike, radius: float, *, edge: float = 1.0, background: float | ArrayLike = 0.0
) -> StrainPrecision:
    """Predict the standard errors of strain and rotation at one position, from the electrons in its disks.

    Parameters
    ----------
    vectors : (2, 2) array
        g1 and g2 as rows, px.
    orders : (N, 2) array
        (h, k) of each disk that is found; (0, 0) is the direct beam.
    electrons : float or (N,) array
        In each disk.
    radius, edge : float
        Of the disks, px.
    background : float or (N,) array
        Electrons per pixel under the disks.

    Returns
    -------
    StrainPrecision
        Of a lattice with a free origin fitted to the positions, weighted with the electrons, as `gpu4d.fit_lattice` does by default. The
        reference is taken as exact, and the disks as evenly filled: dynamical contrast inside them makes errors larger.

    Raises
    ------
    InputError
        Parallel vectors, orders that are no pairs, fewer than three disks with electrons, or all of them on a line.

    Examples
    --------
    >>> orders = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    >>> str(strain_precision([[22.0, 0.0], [0.0, 22.0]], orders, 2000.0, 6.0, background=0.1))
    'strain to 1.3e-03, shear to 9.0e-04, rotation to 0.052°'
    """
    lattice = two_vectors(vectors, "vectors")
    if abs(np.linalg.det(lattice)) < PARALLEL * np.linalg.norm(lattice[0]) * np.linalg.norm(lattice[1]):
        raise InputError(f"vectors are {lattice.tolist()}: need g1 and g2 that are not parallel")
    hk = real_values(orders, "orders", "pairs (h, k)").astype(np.float64)
    if hk.ndim != 2 or hk.shape[1] != 2 or not (np.abs(hk) < HIGHEST).all():
        raise InputError(f"orders has shape {hk.shape}: need pairs (h, k) below {HIGHEST}, one for each disk")
    given = ((electrons, "electrons"), (background, "background"))
    counts, below = (_for_each(real_values(v, name).astype(np.float64), len(hk), name) for v, name in given)
    error = disk_precision(counts, radius, edge=edge, background=below)
    seen = np.isfinite(error)
    design = np.concatenate([np.ones((len(hk), 1)), hk], axis=1)[seen]
    weight = counts[seen]
    normal = (design * weight[:, None]).T @ design
    if seen.sum() < 3 or np.linalg.matrix_rank(design) < 3:
        raise InputError("strain needs at least three disks with electrons that are not on a line")
    solve = np.linalg.solve(normal, (design * weight[:, None]).T)
    covariance = (solve * error[seen] ** 2) @ solve.T  # of (origin, g1, g2), the same along both detector axes
    both = np.broadcast_to(covariance[1:, 1:], (2, 2, 2))
    exx, eyy, exy, theta = (float(e) for e in standard_errors(np.eye(2), lattice, both, np.eye(2), "finite"))
    return StrainPrecision(exx, eyy, exy, theta, error)


def _for_each(values: np.ndarray, disks: int, name: str) -> np.ndarray:
    if values.shape not in ((), (disks,)):
        raise InputError(f"{name} has shape {values.shape}: need one number, or one for each of {disks} disks")
    return np.broadcast_to(values, disks)


def _profile(radius: float, edge: float) -> DiskProfile:
    half = math.ceil(radius + 4 * edge) + 2
    return disk_profile(synthetic((2 * half + 1, 2 * half + 1), radius, edge=edge))


def _bound(profile: DiskProfile, height: float, background: float, nuisance: int) -> float:
    """Return the bound of one disk of a height over a background, in counts per pixel: root mean square over the positions in a pixel."""
    if height <= 0:
        return math.nan
    disk, by_x, by_y = np.moveaxis(profile.table[:-1, :-1].astype(np.float64).reshape(-1, 3, profile.table.shape[-1]), 1, 0)
    u, v = profile.pixels[:, 0] / profile.reach, profile.pixels[:, 1] / profile.reach
    even = np.broadcast_to(np.ones_like(u), disk.shape)
    rest = [disk, even, np.broadcast_to(u, disk.shape), np.broadcast_to(v, disk.shape)][:nuisance]
    gradient = np.stack([height * by_x, height * by_y, *rest], axis=1)
    model = np.maximum(background + height * disk, FAINTEST)
    fisher = np.einsum("pim,pjm,pm->pij", gradient, gradient, 1 / model)
    variance = np.linalg.inv(fisher)[:, [0, 1], [0, 1]]
    return float(np.sqrt(variance.mean()))
