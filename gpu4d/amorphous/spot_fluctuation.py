"""Measure how uneven rings are after smoothing by a disk: speckles and spots of the size of a disk stand out of the counting noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, real_values
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number
from gpu4d.rings import radial_sums
from gpu4d.rings.polar_transform import radial_grid, radii
from gpu4d.rings.profiles import _PolarValues
from gpu4d.rings.ring_moments import ring_moments
from gpu4d.streaming.reduction import ScanInfo

PARTS = 4  # values of a ring: pixels, Σ x, Σ x², Σ noise
COPIES = 18  # of a pattern in double precision that are held at a time
TOGETHER = 1 << 20  # bytes of patterns in double precision that the host takes at a time: their copies then stay near the cache
COVERED = 0.5  # of the brightness expected under a disk without a mask: places with less do not count


class _SpotRings(NamedTuple):
    radius: np.ndarray
    places: np.ndarray
    variance: np.ndarray
    noise: np.ndarray


class SpotRings(_SpotRings, Storable, stored="radius: radius [px]; places variance noise: Rx Ry radius"):
    """How uneven the rings of every position are, after smoothing by a disk. Arrays are on the host.

    With x the counts under a disk over those expected there, for all places of a ring.

    Attributes
    ----------
    radius : (n_r,) float64
        Middle of every ring, pixels.
    places : (Rx, Ry, n_r) float64
        Detector pixels of the ring that count as middle of a disk.
    variance : (Rx, Ry, n_r) float64
        ⟨x²⟩ / ⟨x⟩² − 1 over the ring, without counting noise; NaN where no place counts or none has counts.
    noise : (Rx, Ry, n_r) float64
        What counting noise adds to it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"SpotRings({'×'.join(map(str, self.places.shape[:2]))} positions, {len(self.radius)} rings)"


@on_host("statistics")
class SpotFluctuation(_PolarValues):
    """Reduction: normalised variance within every ring of patterns that are smoothed by a disk, at every position.

    Smoothing by a disk of the probe's size is the matched filter of speckles and Bragg disks. Counts are divided by those expected, so
    that the slope of the profile has no part in it.

    Parameters
    ----------
    expected : (n_r,) array
        Profile of the glass, counts per pixel at `gpu4d.rings.radii(n_r, r_max)`.
    disk : float
        Radius of the disk, detector pixels.
    origin, n_r, r_max, ellipse, mask
        As in `gpu4d.radial_profile`; the same as for `expected`.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> counts = np.random.default_rng(0).poisson(9.0, (2, 3, 32, 32)).astype("uint16")
    >>> found = gpu4d.sweep(gpu4d.DataCube(counts), SpotFluctuation(np.full(16, 9.0), 2.0, (15.5, 15.5)))
    >>> bool(np.abs(found.variance[..., 4:]).max() < 0.05), found.noise.shape
    (True, (2, 3, 16))
    """

    operation = ring_moments

    def __init__(
        self,
        expected: ArrayLike,
        disk: float,
        origin: OriginLike | None = None,
        *,
        n_r: int | None = None,
        r_max: float | None = None,
        ellipse: tuple[float, float, float] | None = None,
        mask: ArrayLike | None = None,
    ):
        super().__init__(origin, n_r, r_max, ellipse, mask)
        self.expected = real_values(expected, "expected").astype(np.float64)
        self.disk = float(real_number(disk, "disk"))
        if not 0 < self.disk < np.inf:
            raise InputError(f"disk={disk}: need a radius in detector pixels")

    def _shape(self, scan: ScanInfo) -> tuple[int, ...]:
        return PARTS, radial_grid(scan.shape[2:], self.n_r, self.r_max)[0]

    def work_bytes(self, scan: ScanInfo, n_frames: int) -> int:
        pixels = scan.shape[2] * scan.shape[3]
        return super().work_bytes(scan, n_frames) + 8 * COPIES * pixels * (min(n_frames, _together(scan)) + 1)

    def prepare(self, scan: ScanInfo) -> None:
        super().prepare(scan)
        n_r = self._shape(scan)[1]
        if self.expected.shape != (n_r,):
            raise InputError(f"expected is {self.expected.shape}: need one value for each of {n_r} rings")

    def _values(self, frames: Any, origins: Any, options: dict[str, Any]) -> Any:
        xp, size = arrays.namespace(frames), _together(self.scan)
        centres = xp.broadcast_to(origins, (frames.shape[0], 2))
        starts = range(0, max(frames.shape[0], 1), size)
        parts = [self._some(frames[i : i + size, ...], centres[i : i + size, :], options) for i in starts]
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)

    def _some(self, frames: Any, origins: Any, options: dict[str, Any]) -> Any:
        """Return the sums of the rings of as many patterns as are held in double precision at a time, (n, parts, n_r)."""
        xp = arrays.namespace(frames)
        host = np.broadcast_to(arrays.to_numpy(origins), (frames.shape[0], 2))
        one = bool((host == host[:1]).all())  # of all patterns: what is expected is then made once
        model = self._model(host[:1] if one else host)
        valid = np.ones(self.scan.shape[2:], bool) if self.valid is None else self.valid
        beside = [arrays.from_numpy(a, frames) for a in (np.where(valid, model, 0.0), model, valid)]
        values = arrays.as_float64(frames)
        counts = xp.isfinite(values) & beside[2]
        zero = xp.zeros((), dtype=xp.float64, device=arrays.device(values))
        seen = disk_sums(xp.where(counts, values, zero), self.disk)
        under = disk_sums(beside[0], self.disk)
        enough = under >= COVERED * disk_sums(beside[1], self.disk)
        use = enough & (under > 0)
        safe = xp.where(use, under, xp.ones_like(under))
        x = xp.where(use, seen / safe, xp.full_like(seen / safe, float("nan")))
        rings = {key: value for key, value in options.items() if key != "mask"}
        if rings["ellipse"] is not None:
            rings["ellipse"] = arrays.from_numpy(np.asarray(rings["ellipse"], np.float64), frames)
        moments = ring_moments(x, origins, mask=options["mask"], **rings)
        noise, _ = radial_sums(x / safe, origins, **options)
        return xp.stack([arrays.as_float64(moments.pixels), moments.sums, moments.squares, noise], axis=1)

    def _model(self, origins: np.ndarray) -> np.ndarray:
        """Return what is expected about some origins, (n, Qx, Qy), also where a mask is."""
        grid = radial_grid(self.scan.shape[2:], self.n_r, self.r_max)
        m = np.eye(2) if self.grid["ellipse"] is None else ellipse_matrix(self.grid["ellipse"])
        known = np.nan_to_num(origins)  # a pattern without an origin has no rings
        dx, dy = (np.arange(n) - known[:, i, None] for i, n in enumerate(self.scan.shape[2:]))
        u, v = (m[i, 0] * dx[:, :, None] + m[i, 1] * dy[:, None, :] for i in (0, 1))
        good = np.isfinite(self.expected)
        where = radii(*grid)[good]
        return np.interp(np.hypot(u, v), where, self.expected[good]) if good.any() else np.zeros(u.shape)

    def finish(self) -> SpotRings:
        values = np.asarray(arrays.to_numpy(self.values.result()))
        n_r = self._shape(self.scan)[1]
        places, x, square, noise = np.moveaxis(values.reshape(PARTS, n_r, *self.scan.shape[:2]), 1, -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(x > 0, x / places, np.nan)
            variance, noise = (square - noise) / places / mean**2 - 1, noise / places / mean**2
        middles = radii(*radial_grid(self.scan.shape[2:], self.n_r, self.r_max))
        return SpotRings(middles, np.ascontiguousarray(places), variance, noise)


def _together(scan: ScanInfo) -> int:
    """Return how many patterns are held in double precision at a time; on a device, whose calls cost more than memory, all."""
    return max(1, TOGETHER // (8 * scan.shape[2] * scan.shape[3])) if scan.on_host else max(1, scan.update_frames)


def disk_sums(values: Any, radius: float) -> Any:
    """Add the values under a disk about every pixel; outside of the detector there are zeros.

    Parameters
    ----------
    values : (n, Qx, Qy) float64
    radius : float
        Pixels whose middle is not farther than this count, detector pixels.

    Returns
    -------
    (n, Qx, Qy) float64
        Exact for whole numbers.

    Examples
    --------
    >>> disk_sums(np.ones((1, 3, 4)), 1.0)[0].tolist()
    [[3.0, 4.0, 4.0, 3.0], [4.0, 5.0, 5.0, 4.0], [3.0, 4.0, 4.0, 3.0]]
    """
    xp = arrays.namespace(values)
    n, nx, ny = values.shape
    reach, where = int(radius), arrays.device(values)
    sides = xp.zeros((n, nx, reach), dtype=xp.float64, device=where)
    wide = xp.concat([sides, values, sides], axis=2)
    rows = xp.zeros((n, reach, ny + 2 * reach), dtype=xp.float64, device=where)
    wide = xp.concat([rows, wide, rows], axis=1)
    total = xp.zeros_like(values)
    for step in range(-reach, reach + 1):
        half = int((radius**2 - step**2) ** 0.5)
        line = wide[:, reach + step : reach + step + nx, :]
        for shift in range(-half, half + 1):
            total = total + line[:, :, reach + shift : reach + shift + ny]
    return total
