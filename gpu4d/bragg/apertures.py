"""Define apertures that select Bragg disks by their position: those of `gpu4d.detectors`, reflections, and nodes of a lattice.

A disk is a point. So an aperture is a rule for points, and no mask of pixels. Rings and sectors are half open: a point on the inner
edge or on the first side belongs to them, one on the outer edge or on the other side does not. So adjoining rings and sectors count
every disk once. A point on the edge of a circle or of a rectangle does not belong to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.imaging.detectors import Detector, bragg_spots
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_number

FARTHEST = 1000  # largest index (h, k): no pattern shows so many orders
Inside = Callable[..., Any]  # from coordinates x, y (n,) and parameters to (n,) bool


@dataclass(frozen=True)
class LatticeAperture(Storable):
    """Circles around nodes of a lattice, as `lattice_aperture` makes them.

    Attributes
    ----------
    g1, g2 : (float, float)
        Lattice vectors.
    radius : float
    indices : tuple of (int, int) or None
        Nodes that are open. None: all but (0, 0).
    """

    g1: tuple[float, float]
    g2: tuple[float, float]
    radius: float
    indices: tuple[tuple[int, int], ...] | None


ApertureLike = Detector | LatticeAperture


@on_host("curve")
def lattice_aperture(vectors: ArrayLike, radius: float, indices: ArrayLike | None = None) -> LatticeAperture:
    """Make circles around the nodes h g1 + k g2 of a lattice.

    Parameters
    ----------
    vectors : (2, 2) array
        g1 and g2 as rows, relative to the origin. `Lattice.matrix` and the vectors of `gpu4d.find_lattice` are this.
    radius : float
        Radius of the circles, in the units of the vectors. Less than half the shortest lattice vector keeps them apart.
    indices : (n, 2) array of int, optional
        Nodes (h, k) that are open. None: all but (0, 0), the unscattered beam.

    Returns
    -------
    LatticeAperture

    Examples
    --------
    >>> lattice_aperture([[10.0, 0.0], [0.0, 10.0]], 2.0, [[1, 0], [-1, 0]]).indices
    ((1, 0), (-1, 0))
    """
    rows = real_values(vectors, "vectors", "g1 and g2 as rows, (2, 2)").astype(np.float64)
    if rows.shape != (2, 2) or not np.isfinite(rows).all() or abs(np.linalg.det(rows)) < 1e-12:
        raise InputError(f"vectors is {rows.tolist()}: need two independent lattice vectors g1 and g2 as rows, (2, 2)")
    nodes = None
    if indices is not None:
        given = np.atleast_2d(real_values(indices, "indices", "pairs (h, k), (n, 2)"))
        whole = given.ndim == 2 and given.shape[1] == 2 and bool((np.abs(given) < FARTHEST).all()) and np.array_equal(given, np.rint(given))
        if not whole:
            raise InputError(f"indices is {given.shape} {given.dtype}: need pairs (h, k) of whole numbers below {FARTHEST}, (n, 2)")
        nodes = tuple((int(h), int(k)) for h, k in given)
    g1, g2 = (floats(row, 2, "a lattice vector") for row in rows)
    return LatticeAperture((g1[0], g1[1]), (g2[0], g2[1]), _radius(radius), nodes)


@on_host("curve")
def reflection(g: ArrayLike, radius: float, *, mate: bool = True) -> Detector:
    """Make a circle around one reflection, and around its Friedel mate at -g.

    Bending moves intensity from g to -g. So the sum of both is the steadier image.

    Parameters
    ----------
    g : (float, float)
        Relative to the origin.
    radius : float
        In the units of g.
    mate : bool
        False leaves -g out.

    Returns
    -------
    gpu4d.imaging.detectors.Detector

    Examples
    --------
    >>> reflection((10.0, 0.0), 2.0).parameters[0]
    ((10.0, 0.0), (-10.0, -0.0))
    """
    x, y = floats(g, 2, "g, a reflection (qx, qy) relative to the origin,")
    return bragg_spots([[x, y], [-x, -y]] if mate else [[x, y]], _radius(radius))


def rule_of(aperture: ApertureLike) -> Inside:
    """Return the function that says which points (x, y) relative to the origin lie inside of an aperture.

    Raises
    ------
    InputError
        It is no aperture, or a mask of pixels, or its centre is not the origin.
    """
    if isinstance(aperture, LatticeAperture):
        return lambda x, y: _on_nodes(x, y, aperture)
    if not isinstance(aperture, Detector) or aperture.kind not in _RULES:
        kind = f"a detector of the kind {aperture.kind!r}" if isinstance(aperture, Detector) else f"a {type(aperture).__name__}"
        raise InputError(
            f"the aperture is {kind}: need gpu4d.detectors.disk, annulus, rectangle, segmented or bragg_spots, "
            "or gpu4d.bragg.reflection or lattice_aperture"
        )
    cx, cy = aperture.center or (0.0, 0.0)
    return lambda x, y: _RULES[aperture.kind](x - cx if cx else x, y - cy if cy else y, *aperture.parameters)


def _radius(value: Any) -> float:
    if not 0 < real_number(value, "radius") < math.inf:
        raise InputError(f"radius={value}: need a positive number")
    return float(value)


def _ring(x: Any, y: Any, inner: float, outer: float) -> Any:
    r2 = x * x + y * y
    return (r2 >= inner * inner) & (r2 < outer * outer)


def _sector(x: Any, y: Any, inner: float, outer: float, segments: int, number: int, rotation: float) -> Any:
    """Say which points lie in a sector. Adjoining sectors ask the same question about the side between them, so none is counted twice."""
    ring = _ring(x, y, inner, outer)
    if segments == 1:
        return ring
    first = _beyond(x, y, rotation, number, segments)
    if segments == 2:
        return ring & (first if number == 0 else ~_beyond(x, y, rotation, 0, segments))
    return ring & first & ~_beyond(x, y, rotation, (number + 1) % segments, segments)


def _beyond(x: Any, y: Any, rotation: float, side: int, segments: int) -> Any:
    """Say which points lie less than half a turn after a side, by the sign of a cross product."""
    angle = rotation + 2 * math.pi * side / segments
    return math.cos(angle) * y - math.sin(angle) * x >= 0


def _spots(x: Any, y: Any, spots: tuple[tuple[float, float], ...], radius: float) -> Any:
    inside = None
    for sx, sy in spots:
        dx, dy = x - sx, y - sy
        one = dx * dx + dy * dy < radius * radius
        inside = one if inside is None else inside | one
    return inside


def _on_nodes(x: Any, y: Any, aperture: LatticeAperture) -> Any:
    """Say which points lie near an open node: their nearest node is looked up, so the time does not grow with the number of nodes."""
    xp = arrays.namespace(x)
    (ax, ay), (bx, by) = aperture.g1, aperture.g2
    area = ax * by - ay * bx
    h, k = xp.round((x * by - y * bx) / area), xp.round((y * ax - x * ay) / area)
    dx, dy = x - h * ax - k * bx, y - h * ay - k * by
    near = dx * dx + dy * dy < aperture.radius**2
    if aperture.indices is None:
        return near & ((h != 0) | (k != 0))
    most = max(max(abs(i), abs(j)) for i, j in aperture.indices)
    side = 2 * most + 1
    table = np.zeros(side * side, bool)
    table[[(i + most) * side + j + most for i, j in aperture.indices]] = True
    known = near & (xp.abs(h) <= most) & (xp.abs(k) <= most)
    place = xp.where(known, (h + most) * side + k + most, xp.zeros_like(h))
    return known & xp.take(arrays.from_numpy(table, x), xp.astype(place, xp.int64))


_RULES: dict[str, Inside] = {
    "disk": lambda x, y, radius: x * x + y * y < radius * radius,
    "annulus": _ring,
    "rectangle": lambda x, y, height, width: (abs(x) < height / 2) & (abs(y) < width / 2),
    "sector": _sector,
    "spots": _spots,
}
