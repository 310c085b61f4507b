"""Find the lattice of a scan whose origin is not known, from differences of disk positions."""

from __future__ import annotations

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.crystal.find_lattice import find_lattice
from gpu4d.crystal.lattice import Lattice
from gpu4d.data.arguments import disk_lists, positions_of
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.sample import end_to_end
from gpu4d.on_host import on_host

PATTERNS = 150  # of the scan: their disks, each seen from each other, are 90 000 points
BRIGHTEST = 24  # disks of a pattern


@on_host("lists")
def lattice_free_of_origin(disks: PointListArray, where: ArrayLike | None = None) -> Lattice | None:
    """Find the strongest lattice in the disks of a scan without knowing the origin, as behind a beam stop.

    Seen from any of its disks, the others lie on the lattice, about zero. So every one of the 24 brightest disks of up to 150 patterns
    takes the place of the origin once.

    Parameters
    ----------
    disks : PointListArray
        Fields ``qx, qy`` (px), ``intensity``.
    where : (Rx, Ry) bool array, optional
        Positions to use.

    Returns
    -------
    Lattice or None
        As `find_lattice`.

    Examples
    --------
    >>> h, k = np.mgrid[-2:3, -2:3].reshape(2, -1)
    >>> q = np.stack([h, k], -1) @ np.array([[12.0, 1.0], [-1.0, 12.0]]) + (40.0, 47.0)
    >>> one = PointListArray(np.array([0, 25]), {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(25)}, (1, 1))
    >>> lattice_free_of_origin(one).matrix.round(3).tolist()
    [[12.0, 1.0], [-1.0, 12.0]]
    """
    disk_lists(disks)
    used = positions_of(where, disks.shape).reshape(-1)
    offsets = np.asarray(arrays.to_numpy(disks.offsets))
    q = np.stack([arrays.to_numpy(disks.flat(f)).astype(np.float64) for f in ("qx", "qy")], axis=-1)
    light = np.clip(arrays.to_numpy(disks.flat("intensity")).astype(np.float64), 0, None)
    chosen = end_to_end(np.flatnonzero(used & (np.diff(offsets) > 1)), PATTERNS)
    differences, products, sizes = [], [], []
    for position in chosen:
        points = np.arange(offsets[position], offsets[position + 1])
        points = points[np.isfinite(q[points]).all(axis=-1) & np.isfinite(light[points])]
        points = points[np.argsort(-light[points], kind="stable")[:BRIGHTEST]]
        differences.append((q[points] - q[points][:, None]).reshape(-1, 2))
        products.append(np.sqrt(light[points] * light[points][:, None]).reshape(-1))
        sizes += [len(points)] * len(points)
    if not sizes:
        return None
    v = np.concatenate(differences)
    fields = {"qx": v[:, 0], "qy": v[:, 1], "intensity": np.concatenate(products)}
    return find_lattice(PointListArray(np.concatenate([[0], np.cumsum(sizes)]), fields, (len(sizes), 1)), (0.0, 0.0))
