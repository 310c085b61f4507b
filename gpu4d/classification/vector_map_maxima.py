"""Find the maxima of the Bragg vector map, and make features of the disks in their Voronoi cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import QhullError, Voronoi, cKDTree

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ReturnedArray
from gpu4d.bragg.vector_map import bragg_vector_map
from gpu4d.data.arguments import OriginLike, disk_lists, origins, real_values
from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number

UPSAMPLE = 2  # pixels of the vector map per detector pixel
BLUR = 0.25  # radii: disks of one reflection scatter by less than this, from noise and strain
NEAR = 0.5  # radii: disks so near to a maximum are counted for it
APART = 0.6  # radii: a maximum is the highest within this distance
BEAM = 1.7  # radii: nearer to the origin lies the unscattered beam
RINGS = 2.5  # radii: distance of the circles on which diffuse scattering is measured where there are no spots
BLOCK = 1 << 20  # distances computed at once


@on_host("lists")
def vector_map_maxima(disks: PointListArray, radius: float, *, origin: OriginLike, least: int = 6) -> np.ndarray:
    """Find the maxima of the Bragg vector map: the reflections that a scan shows.

    The map is the density of disks relative to their origin, smoothed by a quarter of the template's radius. A maximum needs `least`
    disks within half a radius. Its position is the mean of these disks.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy, intensity, in detector pixels.
    radius : float
        Radius of the template, pixels.
    origin : pair, (Rx, Ry, 2) array or Origin
        Position of the unscattered beam, pixels.
    least : int
        Disks that a maximum needs.

    Returns
    -------
    (K, 2) float64
        On the host, relative to the origin, pixels; the nearest to the origin first. The unscattered beam is left out. No disks give
        (0, 2).

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d import PointListArray
    >>> fields = {"qx": np.tile([32.0, 44.0], 9), "qy": np.tile([32.0, 30.0], 9), "intensity": np.ones(18)}
    >>> vector_map_maxima(PointListArray(np.arange(10) * 2, fields, (3, 3)), 3.0, origin=(32.0, 32.0)).tolist()
    [[12.0, -2.0]]
    """
    radius = checked_radius(radius)
    v = relative(disks, origin)
    v = v[np.isfinite(v).all(-1)]
    if not len(v):
        return np.zeros((0, 2))
    half = int(np.ceil(np.abs(v).max())) + 2
    one = PointListArray(np.array([0, len(v)]), {"qx": v[:, 0], "qy": v[:, 1], "intensity": np.ones(len(v))}, (1, 1))
    density = np.asarray(bragg_vector_map(one, (2 * half + 1, 2 * half + 1), origin=(0.0, 0.0), upsample=UPSAMPLE))
    density = ndimage.gaussian_filter(density, BLUR * radius * UPSAMPLE, mode="constant")
    size = 2 * round(APART * radius * UPSAMPLE) + 1
    tops = np.argwhere((density == ndimage.maximum_filter(density, size)) & (density > 0))
    places_of_tops = (tops - (UPSAMPLE - 1) / 2) / UPSAMPLE - half
    tree, found = cKDTree(v), []
    for top in places_of_tops:
        near = tree.query_ball_point(top, NEAR * radius)
        if len(near) >= least:
            found.append(v[near].mean(0))
    return without_beam(apart(np.array(found).reshape(-1, 2), APART * radius), radius)


def disk_features(
    disks: PointListArray,
    maxima: ArrayLike,
    *,
    origin: OriginLike,
    reach: float | None = None,
    kind: str = "intensity",
) -> ReturnedArray:
    """Make features of the disks: which reflections every pattern shows, and how bright they are.

    Every disk belongs to the Voronoi cell in which it lies, that of the nearest maximum. The feature of a cell is the sum of its
    intensities, or 1 if there is a disk in it.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy, intensity, of any array library.
    maxima : (K, 2) array
        Reflections relative to the origin, pixels, as `vector_map_maxima` finds them.
    origin : pair, (Rx, Ry, 2) array or Origin
        Position of the unscattered beam, pixels.
    reach : float, optional
        Disks farther than this from their maximum do not count, pixels. None: cells have no other border than their neighbours.
    kind : {"intensity", "boolean"}

    Returns
    -------
    (Rx, Ry, K) float64
        In the library of the disks. A pattern without disks is 0. The unscattered beam has a cell of its own, which is left out.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d import PointListArray
    >>> fields = {"qx": np.array([8.0, 19.0]), "qy": np.array([8.0, 8.5]), "intensity": np.array([9.0, 4.0])}
    >>> disks = PointListArray(np.array([0, 2, 2]), fields, (1, 2))
    >>> disk_features(disks, [[10.0, 0.0], [0.0, 10.0]], origin=(8.0, 8.0)).tolist()
    [[[4.0, 0.0], [0.0, 0.0]]]
    """
    if kind not in ("intensity", "boolean"):
        raise InputError(f"kind={kind!r}: need 'intensity' or 'boolean'")
    centers = places(maxima)
    disk_lists(disks)
    qx, qy, light = (arrays.as_float64(disks.flat(name)) for name in ("qx", "qy", "intensity"))
    xp, size = arrays.namespace(qx), len(centers) + 1
    center = np.broadcast_to(origins(origin, disks.shape), (*disks.shape, 2)).reshape(-1, 2)
    at = disks.positions
    per = arrays.from_numpy(np.ascontiguousarray(center.T), qx)
    cell = _cells(qx - xp.take(per[0, :], at), qy - xp.take(per[1, :], at), np.concatenate([np.zeros((1, 2)), centers]), reach)
    index = xp.where((cell >= 0) & xp.isfinite(light), at * size + cell, -xp.ones_like(cell))
    values = arrays.scatter_add(light if kind == "intensity" else xp.ones_like(light), index, int(np.prod(disks.shape)) * size)
    features = xp.reshape(values, (*disks.shape, size))[..., 1:]
    return xp.astype(features > 0, xp.float64) if kind == "boolean" else features


def _cells(x: Any, y: Any, centers: np.ndarray, reach: float | None) -> Any:
    """Return the number of the nearest centre of every point, and -1 beyond the reach or for NaN."""
    xp = arrays.namespace(x)
    near, limit = arrays.from_numpy(centers, x), float("inf") if reach is None else real_number(reach, "reach")
    found, step = [], max(1, BLOCK // len(centers))
    for start in range(0, x.shape[0], step):
        dx = x[start : start + step, None] - near[None, :, 0]
        dy = y[start : start + step, None] - near[None, :, 1]
        square = dx * dx + dy * dy
        square = xp.where(xp.isfinite(square), square, xp.full_like(square, float("inf")))
        least = xp.min(square, axis=-1)
        cell = xp.astype(xp.argmin(square, axis=-1), xp.int64)
        found.append(xp.where((least <= limit * limit) & xp.isfinite(least), cell, -xp.ones_like(cell)))
    return xp.concat(found) if found else xp.zeros((0,), dtype=xp.int64, device=arrays.device(x))


def relative(disks: PointListArray, origin: OriginLike) -> np.ndarray:
    """Return the positions of all disks relative to their origin, (n, 2) float64 on the host."""
    host = disk_lists(disks).to_host()
    center = np.broadcast_to(origins(origin, host.shape), (*host.shape, 2)).reshape(-1, 2)
    q = np.stack([np.asarray(host.flat(name), dtype=np.float64) for name in ("qx", "qy")], -1)
    return q - np.repeat(center, np.diff(host.offsets), axis=0)


def between(spots: np.ndarray, radius: float, half: float) -> tuple[np.ndarray, np.ndarray]:
    """Return places between the spots, where only diffuse scattering is, (G, 2), and the radii of circles around them, (G,).

    They are the vertices of the Voronoi cells: these lie farthest from all spots. Places on circles about the origin come beside them, for
    patterns with few spots. `half` is the distance from the origin to the edge of
    the detector, pixels.
    """
    seeds = np.concatenate([np.zeros((1, 2)), spots])
    angle = np.arange(8) * np.pi / 4
    rings = [m * np.stack([np.cos(angle), np.sin(angle)], -1) for m in np.arange(RINGS * radius, half - radius, RINGS * radius)]
    frame = np.concatenate([np.zeros((0, 2)), *rings])
    vertices = frame
    if len(seeds) >= 4:
        try:
            vertices = np.concatenate([Voronoi(seeds).vertices, frame])
        except QhullError:  # all seeds on one line: there are no cells with vertices
            pass
    distance = cKDTree(seeds).query(vertices)[0]
    good = (np.abs(vertices).max(1) <= half - radius) & (distance > 1.6 * radius)
    vertices, distance = vertices[good], distance[good]
    found = apart(vertices[np.argsort(-distance, kind="stable")], 2 * radius)
    if not len(found):
        return found, np.zeros(0)
    return found, np.minimum(cKDTree(seeds).query(found)[0] - radius, radius)


def mates(spots: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the number of the Friedel mate of every spot, (K,), and -1 where there is none within the tolerance."""
    if not len(spots):
        return np.zeros(0, int)
    distance, nearest = cKDTree(spots).query(-spots)
    own = np.arange(len(spots))
    good = (distance < tolerance) & (nearest != own) & (nearest[nearest] == own)
    return np.where(good, nearest, -1)


def apart(points: np.ndarray, distance: float) -> np.ndarray:
    """Return points (n, 2) without those nearer than a distance to an earlier one."""
    kept: list[np.ndarray] = []
    for point in points:
        if all(np.hypot(*(point - other)) >= distance for other in kept):
            kept.append(point)
    return np.array(kept).reshape(-1, 2)


def without_beam(spots: np.ndarray, radius: float) -> np.ndarray:
    """Return spots by their distance from the origin, without those of the unscattered beam."""
    away = np.hypot(*spots.T)
    order = np.argsort(away, kind="stable")
    return spots[order][away[order] > BEAM * radius]


def places(given: ArrayLike, name: str = "maxima") -> np.ndarray:
    """Return reflections as (K, 2) float64 on the host."""
    host = real_values(given, name, "reflections relative to the origin, (K, 2) in pixels").astype(np.float64)
    if host.ndim != 2 or host.shape[1] != 2 or not np.isfinite(host).all():
        raise InputError(f"{name} is {host.shape}: need finite reflections (qx, qy) relative to the origin, (K, 2) in pixels")
    return host


def checked_radius(radius: float) -> float:
    """Return the radius of the template as a positive float."""
    if not 0 < real_number(radius, "radius") < np.inf:
        raise InputError(f"radius={radius}: need the radius of the template, a positive number of pixels")
    return float(radius)
