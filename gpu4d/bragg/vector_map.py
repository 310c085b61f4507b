"""Make the Bragg vector map: all disks of a scan in one diffraction plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data import Calibration, DiffractionSlice, PointListArray
from gpu4d.data.arguments import OriginLike, disk_lists, origins, scan_mask, two_sizes
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError


def bragg_vector_map(
    disks: PointListArray,
    shape: tuple[int, int],
    *,
    origin: OriginLike | None = None,
    calibration: Calibration | None = None,
    upsample: int = 1,
    where: ArrayLike | None = None,
) -> DiffractionSlice:
    """Add all disks of all positions into one image.

    B(q) = Σ_R Σ_i I_i δ(q - q_i). Each disk is shared bilinearly among its four pixels.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy, intensity.
    shape : (Qx, Qy)
        Shape of the detector.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Position of the unscattered beam, pixels. If it is given, the map is centred: q = 0 lies at (shape // 2) · upsample. Positions
        whose origin is NaN are left out. None: the map is in raw detector pixels.
    calibration : Calibration, optional
        Gives the pixel size of the result. If a map is centred, its ellipse is removed from the positions of the disks.
    upsample : int
        Pixels of the map per detector pixel.
    where : (Rx, Ry) bool, optional
        Positions whose disks are added.

    Returns
    -------
    DiffractionSlice, (Qx · upsample, Qy · upsample) float64
        Disks with a NaN are left out, and so are disks beyond the border.

    Examples
    --------
    >>> import numpy as np
    >>> one = PointListArray(np.array([0, 1]), {"qx": np.array([2.0]), "qy": np.array([1.5]), "intensity": np.array([4.0])}, (1, 1))
    >>> bragg_vector_map(one, (4, 4))[2].tolist()
    [0.0, 2.0, 2.0, 0.0]
    """
    if not (isinstance(upsample, int | np.integer) and upsample >= 1):
        raise InputError(f"upsample={upsample!r}: need a whole number, at least 1")
    disk_lists(disks)
    shape = two_sizes(shape, "shape")
    qx, qy, weight = (arrays.as_float64(disks.flat(f)) for f in ("qx", "qy", "intensity"))
    xp = arrays.namespace(qx)
    if origin is not None:
        ox, oy = _at_points(origins(origin, disks.shape), disks)
        qx, qy = qx - ox, qy - oy
        if calibration is not None and calibration.ellipse is not None:
            (xx, xy), (yx, yy) = ellipse_matrix(calibration.ellipse).tolist()
            qx, qy = xx * qx + xy * qy, yx * qx + yy * qy
        qx, qy = qx + shape[0] // 2, qy + shape[1] // 2
    if (mask := scan_mask(where, disks.shape)) is not None:
        keep = xp.take(arrays.from_numpy(mask.ravel(), qx), disks.positions)
        weight = xp.where(keep, weight, xp.zeros_like(weight))
    size = (shape[0] * upsample, shape[1] * upsample)
    # Pixel i of the fine map covers detector pixels (i - (u-1)/2)/u: centres of coarse and fine pixels agree.
    x, y = (v * upsample + (upsample - 1) / 2 for v in (qx, qy))
    image = _spread(x, y, weight, size)
    q = None if calibration is None else calibration.q_pixel
    return DiffractionSlice.calibrated(image, "Bragg vector map", "counts/px", q, upsample=upsample)


def _at_points(origin: np.ndarray, disks: PointListArray) -> tuple[Any, Any]:
    """Return qx and qy of the origin: two numbers for all points, or an array with one origin for each point."""
    if origin.ndim == 1:
        return float(origin[0]), float(origin[1])
    like = disks.flat("qx")
    xp = arrays.namespace(like)
    per = arrays.from_numpy(origin.reshape(-1, 2), like)
    return xp.take(per[:, 0], disks.positions), xp.take(per[:, 1], disks.positions)


def _spread(x: Any, y: Any, weight: Any, size: tuple[int, int]) -> Any:
    """Add points to an image bilinearly. The order of the sums depends on the points alone, so the result is reproducible."""
    xp = arrays.namespace(x)
    good = xp.isfinite(x) & xp.isfinite(y) & xp.isfinite(weight)
    zero = xp.zeros_like(x)
    x, y, weight = xp.where(good, x, zero - 2), xp.where(good, y, zero - 2), xp.where(good, weight, zero)
    ix, iy = xp.floor(x), xp.floor(y)
    fx, fy = x - ix, y - iy
    values, index = [], []
    for dx in (0, 1):
        for dy in (0, 1):
            jx, jy = xp.astype(ix, xp.int64) + dx, xp.astype(iy, xp.int64) + dy
            inside = (jx >= 0) & (jx < size[0]) & (jy >= 0) & (jy < size[1])
            index.append(xp.where(inside, jx * size[1] + jy, -xp.ones_like(jx)))
            values.append(weight * (fx if dx else 1 - fx) * (fy if dy else 1 - fy))
    total = arrays.scatter_add(xp.concat(values), xp.concat(index), size[0] * size[1])
    return xp.reshape(total, size)
