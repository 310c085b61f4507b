"""Make dark-field images from the Bragg disks of a scan, without its patterns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.bragg.apertures import ApertureLike, Inside, rule_of
from gpu4d.data import Calibration, PointListArray, RealSlice
from gpu4d.data.arguments import OriginLike, disk_lists, origins, scan_mask
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.on_host import on_host

Apertures = ApertureLike | Mapping[str, ApertureLike] | Sequence[ApertureLike]

BLOCK = 1 << 15  # disks in a step on the CPU: their columns stay in the cache


@on_host("statistics")
def dark_field(
    disks: PointListArray,
    aperture: Apertures,
    *,
    origin: OriginLike | None = None,
    calibration: Calibration | None = None,
    value: str = "intensity",
    units: str = "px",
    where: ArrayLike | None = None,
) -> RealSlice:
    """Add up the Bragg disks inside of an aperture, for every position: a dark-field image made afterwards.

    D(R) = Σ_i I_i(R) [M (q_i(R) − q_0(R)) ∈ A], with the origin q_0 and the matrix M that makes the calibrated ellipse a circle. The
    disks themselves are not changed, and no pattern is read.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy, intensity, of any array library.
    aperture : Detector, LatticeAperture, or a mapping or sequence of them
        From `gpu4d.detectors` (disk, annulus, rectangle, segmented, bragg_spots), `gpu4d.bragg.reflection` or
        `gpu4d.bragg.lattice_aperture`, relative to the origin. Several give a stack with their names as labels. Rings and sectors
        include their inner edge and not their outer one, so adjoining ones count every disk once. Edges of circles and rectangles are
        not included.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels. By default the calibrated origin.
    calibration : Calibration, optional
        Gives the origin, the ellipse, and the sizes of pixels.
    value : {"intensity", "count"}
        What is added up: intensities, or 1 for each disk.
    units : {"px", "1/Å"}
        Units of the aperture. "1/Å" needs the calibrated size of a detector pixel.
    where : (Rx, Ry) bool, optional
        Positions that are wanted. Others are NaN.

    Returns
    -------
    RealSlice, (Rx, Ry) or (n, Rx, Ry) float64
        Counts per pixel, as the intensities are, or numbers of disks. A position without disks in the aperture is 0, also if it has no
        disks at all. A position whose origin is NaN is NaN. Disks with a NaN are left out.

    Raises
    ------
    InputError
        There is no origin, or no pixel size for "1/Å", or the aperture is a mask of pixels.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> fields = {"qx": np.array([8.0, 18.0, 8.0]), "qy": np.array([8.0, 8.0, 8.0]), "intensity": np.array([9.0, 2.0, 7.0])}
    >>> disks = gpu4d.PointListArray(np.array([0, 2, 3, 3]), fields, (1, 3))
    >>> gpu4d.bragg.dark_field(disks, gpu4d.detectors.annulus(5, 15), origin=(8.0, 8.0))[0].tolist()
    [2.0, 0.0, 0.0]
    """
    disk_lists(disks)
    rules, labels = _rules(aperture)
    if value not in ("intensity", "count"):
        raise InputError(f"value={value!r}: need 'intensity' or 'count'")
    matrix = _matrix(calibration, units)
    given = origin if origin is not None else None if calibration is None else calibration.origin
    if given is None:
        raise InputError("apertures lie around the origin, which is not known: give origin=, or a calibration with one")
    center = origins(given, disks.shape)
    planes = _sums(disks, rules, center, matrix, value == "count")
    unseen = ~np.isfinite(np.broadcast_to(center, (*disks.shape, 2))).all(-1)
    if (mask := scan_mask(where, disks.shape)) is not None:
        unseen |= ~mask
    if unseen.any():
        xp = arrays.namespace(planes)
        planes = xp.where(arrays.from_numpy(unseen[None], planes), xp.full_like(planes, float("nan")), planes)
    data = planes[0, ...] if labels is None else planes
    unit = "disks" if value == "count" else disks.units.get("intensity", "counts/px")
    return RealSlice.calibrated(data, "dark field", unit, None if calibration is None else calibration.r_pixel, labels or ())


def _rules(aperture: Any) -> tuple[list[Inside], tuple[str, ...] | None]:
    """Return the rules of apertures, and their names; None instead of names for a single aperture."""
    if isinstance(aperture, Mapping):
        named = tuple(map(str, aperture)), list(aperture.values())
    elif isinstance(aperture, Sequence) and not isinstance(aperture, str):
        named = tuple(f"aperture {i}" for i in range(len(aperture))), list(aperture)
    else:
        return [rule_of(aperture)], None
    if not named[1]:
        raise InputError("dark_field() without an aperture: give at least one")
    return [rule_of(one) for one in named[1]], named[0]


def _matrix(calibration: Calibration | None, units: str) -> np.ndarray | None:
    """Return the matrix from positions relative to the origin to the plane of the aperture. None if it is 1."""
    if units not in ("px", "1/Å"):
        raise InputError(f"units={units!r}: need 'px' or '1/Å'")
    ellipse = None if calibration is None else calibration.ellipse
    matrix = None if ellipse is None else ellipse_matrix(ellipse)
    if units == "px":
        return matrix
    if calibration is None or calibration.q_pixel is None:
        raise InputError("units='1/Å' needs the size of a detector pixel: give a calibration with q_pixel")
    return calibration.q_pixel * (np.eye(2) if matrix is None else matrix)


def _sums(disks: PointListArray, rules: list[Inside], center: np.ndarray, matrix: np.ndarray | None, count: bool) -> Any:
    """Return the sums of every position (n, Rx, Ry), in the library of the disks."""
    flat = [disks.flat(name) for name in ("qx", "qy", "intensity")]
    xp, size = arrays.namespace(*flat), int(np.prod(disks.shape))
    moving = center.ndim == 3
    place = _places(disks)
    per = arrays.from_numpy(np.ascontiguousarray(center.reshape(-1, 2).T), flat[0]) if moving else None
    step = BLOCK if isinstance(flat[0], np.ndarray) else max(len(disks), 1)
    columns: list[list[Any]] = [[] for _ in rules]
    for start in range(0, len(disks), step):
        part = slice(start, start + step)
        x, y, light = (arrays.as_float64(column[part]) for column in flat)
        at = place[part]
        ox, oy = (float(center[0]), float(center[1])) if per is None else (xp.take(per[0, :], at), xp.take(per[1, :], at))
        x, y = x - ox, y - oy
        if matrix is not None:
            x, y = float(matrix[0, 0]) * x + float(matrix[0, 1]) * y, float(matrix[1, 0]) * x + float(matrix[1, 1]) * y
        good = xp.isfinite(light)
        for column, inside in zip(columns, rules):
            kept = xp.nonzero(inside(x, y) & good)[0]
            column.append((xp.take(at, kept), xp.take(light, kept)))
    planes = []
    for column in columns:
        if not column:
            planes.append(xp.zeros((size,), dtype=xp.float64, device=arrays.device(flat[0])))
            continue
        index, values = (xp.concat([pair[i] for pair in column]) for i in (0, 1))
        planes.append(arrays.scatter_add(xp.ones_like(values) if count else values, index, size))
    return xp.reshape(xp.stack(planes), (len(rules), *disks.shape))


def _places(disks: PointListArray) -> Any:
    """Return the position number of every disk. Repeated numbers are several times faster to make than looked-up ones."""
    if isinstance(disks.offsets, np.ndarray):
        return np.repeat(np.arange(len(disks.offsets) - 1), np.diff(disks.offsets))
    return disks.positions
