"""Find where the unscattered beam falls at every scan position: measure it, smooth it by a surface, and name jumps and steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.beam.brightest_disk import brightest_disk
from gpu4d.beam.origin import Origin
from gpu4d.beam.steps import surface_with_steps
from gpu4d.beam.surface import ORDERS, Surface, fit_surface
from gpu4d.calibrate.friedel_pairs import friedel_pairs
from gpu4d.crystal.free_of_origin import lattice_free_of_origin
from gpu4d.crystal.lattice import Lattice, two_vectors
from gpu4d.data.arguments import FARTHEST, OriginLike, host_image, origins, positions_of, real_values
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_number

METHODS = ("brightest", "friedel", "auto")
FITS = {**{name: (order,) for name, order in ORDERS.items()}, "auto": (1, 2)}
COVERED = 0.3  # of the area of the unscattered disk: if the mask covers more, the disk gives no origin
CURVED = 0.85  # of the plane's residual: a quadratic that leaves less is taken
LEAST_JUMP = 0.5  # px: a smaller displacement of a single pattern changes no result
DISPLACED = 0.5  # of the outliers must be displaced patterns; else they are wrong disks, and the surface gets no steps
FARTHEST_DISKS = 99.9  # percentile of the disks' distances from the origin up to which they are compared
MOVED = 1.2  # the disks of a pattern must fit the vector map so many times better where it is said to have jumped to


@on_host("map")
def origin(
    disks: PointListArray | ArrayLike | RealSlice,
    *,
    method: str = "brightest",
    guess: OriginLike | None = None,
    radius: float | None = None,
    lattice: Lattice | ArrayLike | None = None,
    fit: str = "plane",
    robust: bool = True,
    steps: bool | None = None,
    where: ArrayLike | None = None,
    detector_mask: ArrayLike | None = None,
    disk_radius: float | None = None,
) -> Origin:
    """Find the origin of the diffraction patterns at every position, and a surface through all of them.

    The robust surface starts from least absolute distances, on which one wrong disk in four has little effect. It ends with Tukey's
    biweight. Both use the length of the residual vector. If wrong disks lie together at one end of the scan, it starts from the surface
    with the least median distance. Where whole patterns are displaced from one row or column of the scan to the next, the surface gets
    a step. Single patterns that are displaced keep their measured origin: the beam jumped. A wrong disk displaces no other disk.

    Parameters
    ----------
    disks : PointListArray, (Rx, Ry, 2) array, or RealSlice
        Disks with fields ``qx, qy`` (px) and ``intensity``. Or origins measured in another way, with NaN where there is none: an array,
        or a `RealSlice` of two planes as from `CenterOfMass`.
    method : {"brightest", "friedel", "auto"}
        "brightest": the brightest disk near the surface. "friedel": the point about which the disks lie in pairs g and −g. Use it
        behind a beam stop, or where the unscattered disk is saturated or weak. "auto": pairs if they meet where the detector mask
        covers the unscattered disk, else the brightest disk.
    guess : pair, (Rx, Ry, 2) array or Origin, optional
        Approximate position of the beam, px. None: from the disks.
    radius : float, optional
        Largest distance of the disk, or of the middle of a pair, from the surface, px. None: half the median distance from the
        unscattered disk to its nearest neighbour; for pairs, four times their scatter.
    lattice : Lattice or (2, 2) array, optional
        For "friedel": rows g1, g2, px. The middles of pairs also meet half-way between nodes. With the lattice such a position cannot be
        taken. None: found from the differences of disks. Patterns of many grains have none, and the pairs decide alone.
    fit : {"plane", "quadratic", "constant", "auto"}
        Order of the surface in the scan coordinates. "auto" is a quadratic if it fits clearly better than a plane. With fewer measured
        positions than coefficients a lower order is taken.
    robust : bool
        False is plain least squares.
    steps : bool, optional
        Whether the surface may have steps between rows or columns of the scan: flyback, borders of tiles, drift of the gun. None: yes
        for disks, which show if patterns are displaced, and no for measured origins, which may be those of wrong disks.
    where : (Rx, Ry) bool array, optional
        Positions to use. The surface is defined at all positions.
    detector_mask : (Qx, Qy) bool array, optional
        Pixels that count, for "auto".
    disk_radius : float, optional
        Radius of the unscattered disk, px, for "auto".

    Returns
    -------
    Origin
        A position without disks, or with NaN, has NaN in `measured`. `findings` says in words what is not smooth.

    Raises
    ------
    InputError
        No position has a disk near the guess, or no pair of disks.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.mgrid[:8, :8]
    >>> measured = np.stack([31.5 + 0.1 * x, 30 - 0.05 * y], axis=-1)
    >>> measured[3, 4] += 9
    >>> o = origin(measured)
    >>> o.fitted[3, 4].round(6), int(o.outliers.sum())
    (array([31.8, 29.8]), 1)
    """
    if fit not in FITS:
        raise InputError(f"fit={fit!r}: need one of {', '.join(map(repr, FITS))}")
    orders = FITS[fit]
    if method not in METHODS:
        raise InputError(f"method={method!r}: need one of {', '.join(map(repr, METHODS))}")
    if not isinstance(disks, PointListArray):
        if method != "brightest" or lattice is not None:
            raise InputError("measured origins have no pairs: method= and lattice= belong to a PointListArray of disks")
        return _of_measured(disks, orders, robust, bool(steps), where)
    if len(disks.shape) != 2:
        raise InputError(f"the disks are of {disks.shape} positions: need a scan of two dimensions, (Rx, Ry)")
    used = positions_of(where, disks.shape)
    if method == "friedel":
        return _of_pairs(disks, guess, radius, lattice, orders, robust, steps is not False, used)
    if method == "auto" and detector_mask is not None:
        with suppress(InputError):  # no pairs
            pairs = _of_pairs(disks, None, radius, lattice, orders, robust, steps is not False, used)
            if _hides_the_beam(detector_mask, pairs, disk_radius):
                return pairs

    def measured(guess: OriginLike | None) -> np.ndarray:
        return brightest_disk(disks, guess=guess, radius=radius, order=orders[0], robust=robust, where=where).measured

    places = measured(guess)
    surface = _best(places, orders, robust, False, used)
    jumped = _displaced(disks, places, surface)
    if steps is not False and jumped.sum() > DISPLACED * (surface.outliers & used).sum():
        surface = _best(places, orders, robust, True, used)
        if surface.steps:  # disks are looked for again near the surface that has the steps
            places = measured(surface.fitted)
            surface = _best(places, orders, robust, True, used)
            jumped = _displaced(disks, places, surface)
    return Origin.through(places, surface, jumped)


def _hides_the_beam(detector_mask: ArrayLike, pairs: Origin, disk_radius: float | None) -> bool:
    """Return True if the mask covers the unscattered disk, where the pairs have it."""
    radius = 1.0 if disk_radius is None else disk_radius
    return covered(detector_mask, pairs.fitted.mean(axis=(0, 1)), radius) > COVERED


def _best(measured: np.ndarray, orders: Sequence[int], robust: bool, steps: bool, used: np.ndarray) -> Surface:
    """Return the surface of the lowest of the orders that is not clearly worse than the next one."""
    fit = surface_with_steps if steps else fit_surface
    surface = fit(measured, orders[0], robust, used)
    for order in orders[1:]:
        other = fit(measured, order, robust, used)
        if np.hypot(*other.residual) < CURVED * np.hypot(*surface.residual):
            surface = other
    return surface


def _of_measured(given: Any, orders: Sequence[int], robust: bool, steps: bool, where: Any) -> Origin:
    """Return the surface through origins that were measured in another way."""
    measured = real_values(given, "disks", "a PointListArray of disks, or measured origins (Rx, Ry, 2)").astype(np.float64)
    measured[np.abs(measured) > FARTHEST] = np.nan  # on no detector
    if isinstance(given, RealSlice) and len(given.labels) == 2:
        measured = np.moveaxis(measured, 0, -1)
    if measured.ndim != 3 or measured.shape[2] != 2:
        raise InputError(f"measured origins are {measured.shape}: need (Rx, Ry, 2) in detector pixels, or a PointListArray of disks")
    return Origin.through(measured, _best(measured, orders, robust, steps, positions_of(where, measured.shape[:2])))


def _of_pairs(
    disks: PointListArray,
    guess: Any,
    radius: float | None,
    lattice: Any,
    orders: Sequence[int],
    robust: bool,
    steps: bool,
    used: np.ndarray,
) -> Origin:
    """Return the origin from Friedel pairs."""
    start = None if guess is None else np.broadcast_to(origins(guess, disks.shape, "guess"), (*disks.shape, 2))
    if lattice is None:
        lattice = lattice_free_of_origin(disks, used)
    elif not isinstance(lattice, Lattice):
        lattice = Lattice(*two_vectors(lattice))
    measured = friedel_pairs(disks, lattice, start, radius, max(*orders, 1), used)
    if not np.isfinite(measured[used]).any():
        raise InputError("no position has a Friedel pair of disks: find more disks with a lower threshold, or give origins as an array")
    surface = _best(measured, orders, robust, steps, used)
    how = "Friedel pairs" if lattice is None else "Friedel pairs on the lattice"
    return Origin.through(measured, surface, _displaced(disks, measured, surface), how)


def _displaced(disks: PointListArray, measured: np.ndarray, surface: Surface) -> np.ndarray:
    """Return the outliers whose whole pattern is displaced, (Rx, Ry) bool.

    The disks of the pattern are compared with the vector map of all other positions, once about its measured origin, and once about the
    surface.
    """
    from gpu4d.bragg.vector_map import bragg_vector_map

    far = surface.outliers & (np.linalg.norm(measured - surface.fitted, axis=-1) > LEAST_JUMP)
    if not far.any():
        return far
    places = np.stack([arrays.to_numpy(disks.flat(f)).astype(np.float64) for f in ("qx", "qy")], axis=-1)
    weight = np.sqrt(np.clip(arrays.to_numpy(disks.flat("intensity")).astype(np.float64), 0, None))
    position = np.asarray(arrays.to_numpy(disks.positions))
    places[~(np.abs(places) < FARTHEST).all(axis=-1)] = np.nan
    away = np.abs(places - surface.fitted.reshape(-1, 2)[position])
    half = int(np.nanpercentile(away, FARTHEST_DISKS)) + 8 if np.isfinite(away).any() else 8
    side = 2 * half + 1
    image = np.sqrt(np.asarray(bragg_vector_map(disks.to_host(), (side, side), origin=surface.fitted, where=~surface.outliers).data))
    total = int(np.prod(disks.shape))
    looked = np.isfinite(weight) & far.reshape(-1)[position]

    def likeness(about: np.ndarray) -> np.ndarray:
        v = np.rint(places - about.reshape(-1, 2)[position]) + half
        inside = looked & np.isfinite(v).all(axis=-1) & (v >= 0).all(axis=-1) & (v < side).all(axis=-1)
        at = v[inside].astype(int)
        return np.bincount(position[inside], weight[inside] * image[at[:, 0], at[:, 1]], total).reshape(disks.shape)

    return far & (likeness(measured) > MOVED * likeness(surface.fitted))


@on_host("image")
def covered(detector_mask: ArrayLike, center: ArrayLike, radius: float) -> float:
    """Return the share of a disk that the detector mask leaves out: 1 behind a beam stop, 0 in the open.

    Parameters
    ----------
    detector_mask : (Qx, Qy) bool array
        Pixels that count.
    center : (2,) array
        Of the disk, px.
    radius : float
        Of the disk, px.

    Examples
    --------
    >>> mask = np.ones((20, 20), bool)
    >>> mask[:10] = False
    >>> covered(mask, (4.0, 10.0), 3.0), covered(mask, (15.0, 10.0), 3.0)
    (1.0, 0.0)
    """
    mask = host_image(detector_mask, "detector_mask") != 0
    x, y = floats(center, 2, "center")
    rows, columns = np.indices(mask.shape)
    disk = np.hypot(rows - x, columns - y) <= real_number(radius, "radius")
    return float((~mask[disk]).mean()) if disk.any() else 0.0
