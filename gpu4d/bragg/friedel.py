"""Measure the symmetry of the Bragg vector map: each disk should have a Friedel partner on the other side of the origin."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import to_numpy
from gpu4d.data.arguments import OriginLike, disk_lists, origins
from gpu4d.data.pointlist import PointListArray
from gpu4d.on_host import on_host

LEAST_DISKS = 20  # fewer disks cannot show a symmetry
RIM = 1.2  # template radii: a disk nearer to the edge may have its partner beyond the edge


@on_host("lists")
def friedel_symmetry(disks: PointListArray, origin: OriginLike, shape: tuple[int, int], radius: float) -> float | None:
    """Return the overlap of the Bragg vector map with its own inversion through the origin.

    The map is B(q) = Σ √I of all disks in cells of half a template radius. The overlap is Σ B(q) B(−q) / Σ B(q)². It is 1 if the map is
    equal to its inversion. Disks near the unscattered beam and near the edge of the detector are left out.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy, intensity.
    origin : pair, (Rx, Ry, 2) array or Origin
        Position of the unscattered beam, detector pixels.
    shape : (Qx, Qy)
        Shape of the detector.
    radius : float
        Radius of the template, pixels.

    Returns
    -------
    float or None
        None for fewer than 20 disks.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d import PointListArray
    >>> from gpu4d.bragg import friedel_symmetry
    >>> around = np.tile([10.0, 0.0, -10.0, 0.0], 5)
    >>> fields = {"qx": 32 + around, "qy": 32 + np.roll(around, 1), "intensity": np.ones(20)}
    >>> friedel_symmetry(PointListArray(np.array([0, 20]), fields, (1, 1)), (32, 32), (65, 65), 3.0)
    1.0
    """
    disk_lists(disks)
    origin = np.broadcast_to(origins(origin, disks.shape), (*disks.shape, 2))
    q = np.stack([np.asarray(to_numpy(disks.flat(f)), dtype=np.float64) for f in ("qx", "qy")], -1)
    v = q - origin.reshape(-1, 2)[np.asarray(to_numpy(disks.positions))]
    weight = np.sqrt(np.clip(np.asarray(to_numpy(disks.flat("intensity")), dtype=np.float64), 0, None))
    away = np.hypot(*v.T)
    reach = float(np.min([origin.min(), (np.asarray(shape) - 1 - origin).min()]))
    keep = (away > radius) & (away < reach - RIM * radius) & np.isfinite(weight)
    if keep.sum() < LEAST_DISKS:
        return None
    cells = np.rint(v[keep] / max(1.0, radius / 2)).astype(int)
    n = int(np.abs(cells).max()) + 1
    image = np.zeros((2 * n + 1, 2 * n + 1))
    np.add.at(image, (cells[:, 0] + n, cells[:, 1] + n), weight[keep])
    return float((image * image[::-1, ::-1]).sum() / (image**2).sum())
