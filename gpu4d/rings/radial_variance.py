"""Measure how the radial profile varies from position to position: the normalised variance of fluctuation electron microscopy."""

from __future__ import annotations

import operator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import OriginLike, positions_of
from gpu4d.data.events import Events
from gpu4d.data.storable import Storable
from gpu4d.on_host import on_host
from gpu4d.rings.event_rings import FIXED_BYTES
from gpu4d.rings.polar_transform import radial_grid, radial_sums, radii
from gpu4d.rings.profiles import RadialProfile
from gpu4d.streaming.reduction import ScanInfo
from gpu4d.streaming.sums import SumReduction

FRAME_VALUES = 8  # of every ring and frame: sums, pixels, mean, square, noise, and those under way


class _RadialStatistics(NamedTuple):
    radius: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    variance: np.ndarray
    noise: np.ndarray
    positions: np.ndarray


class RadialStatistics(
    _RadialStatistics,
    Storable,
    stored="radius: radius [px]; mean deviation: radius [counts]; variance noise positions: radius",
):
    """Radial profile of a scan, and how it varies from position to position. All are (n_r,) float64, NaN where no ring has a pixel.

    Attributes
    ----------
    radius : (n_r,) float64
        Middle of every ring, detector pixels.
    mean : (n_r,) float64
        ⟨I⟩: mean over the positions of the azimuthal mean, counts per pixel.
    deviation : (n_r,) float64
        Standard deviation of the azimuthal mean over the positions, counts per pixel. Over √positions it is the standard error of
        `mean`.
    variance : (n_r,) float64
        Normalised variance V = ⟨I²⟩ / ⟨I⟩² − 1 over the positions.
    noise : (n_r,) float64
        The part of V that the Poisson noise of counts makes, ⟨I / pixels of the ring⟩ / ⟨I⟩². It holds if the values are electrons.
    positions : (n_r,) float64
        Positions whose patterns have a pixel in the ring.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        rings, outer = len(self.radius), self.radius[-1] + self.radius[0]
        return f"RadialStatistics({rings} rings up to {outer:.4g} px, {int(self.positions.max())} positions)"


@on_host("statistics")
class RadialVariance(SumReduction):
    """Reduction: mean radial profile of a scan, and its normalised variance over the positions.

    V(q) = ⟨I(q)²⟩ / ⟨I(q)⟩² − 1, with I(q) the azimuthal mean at one position and ⟨…⟩ the mean over the positions. It is large where
    ordered regions of about the size of the probe scatter at some positions and not at others (Voyles and Muller, Ultramicroscopy 93
    (2002) 147). Thickness changes it too, at all q alike.

    Parameters
    ----------
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels; the calibrated origin by default.
    n_r, r_max, ellipse, mask
        As in `gpu4d.radial_profile`. Pixels that the cube's detector mask leaves out never count.
    where : (Rx, Ry) bool, optional
        True at positions that count.

    Notes
    -----
    The result is a `RadialStatistics`, on the host. A pattern counts at the rings that have a pixel in it. Only sums are kept, so a scan
    of any size takes the memory of some profiles.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> patterns = np.full((1, 2, 9, 9), 8, "uint16")
    >>> patterns[0, 1] = 4
    >>> found = gpu4d.sweep(gpu4d.DataCube(patterns), gpu4d.rings.RadialVariance((4, 4), r_max=3))
    >>> found.mean.tolist(), found.deviation.tolist(), found.variance.round(4).tolist()
    ([6.0, 6.0, 6.0], [2.0, 2.0, 2.0], [0.1111, 0.1111, 0.1111])
    """

    sums: ClassVar = dict.fromkeys(("total", "squares", "noise", "seen"), operator.add)

    def __init__(
        self,
        origin: OriginLike | None = None,
        *,
        n_r: int | None = None,
        r_max: float | None = None,
        ellipse: tuple[float, float, float] | None = None,
        mask: ArrayLike | None = None,
        where: ArrayLike | None = None,
    ):
        self.rings = RadialProfile(origin, n_r=n_r, r_max=r_max, ellipse=ellipse, mask=mask)
        self.where = where

    def _grid(self, scan: ScanInfo) -> tuple[int, float]:
        """Return the number of rings and the radius of the outermost, pixels."""
        return radial_grid(scan.shape[2:], self.rings.n_r, self.rings.r_max)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        rings = 8 * self._grid(scan)[0]
        return (
            self.held_bytes(scan, rings) + self.rings.work_bytes(scan, n_frames) + FRAME_VALUES * rings * n_frames + self._event_bytes(scan)
        )

    def _event_bytes(self, scan: ScanInfo) -> int:
        return FIXED_BYTES * scan.shape[2] * scan.shape[3] * self.takes_events(scan)

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        self.rings.prepare(scan)
        self.counts = positions_of(self.where, scan.shape[:2])
        super().start(scan, device, pass_)

    def update(self, frames: Array, positions: np.ndarray) -> None:
        origins, options = self.rings.arguments(frames, positions)
        sums, pixels = radial_sums(frames, origins, **options)
        self._add(sums, pixels, positions)

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say whether the sums of its rings are whole numbers, which events give to the last bit."""
        return self.rings.takes_events(scan)

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        self._add(*self.rings.event_sums(self.scan, events, positions), positions)

    def _add(self, sums: Any, pixels: Any, positions: np.ndarray) -> None:
        """Add the profiles of some patterns, and their squares."""
        xp = arrays.namespace(sums)
        counts = arrays.from_numpy(self.counts[positions[:, 0], positions[:, 1]], sums)
        number = xp.astype(pixels, xp.float64)
        known = (number > 0) & counts[:, None]
        zero, one = xp.zeros_like(number), xp.ones_like(number)
        mean = xp.where(known, arrays.as_float64(sums), zero) / xp.where(known, number, one)
        noise = mean / xp.where(known, number, one)
        values = {"total": mean, "squares": mean * mean, "noise": noise, "seen": arrays.as_float64(known)}
        self.add(positions, **{name: xp.sum(value, axis=0) for name, value in values.items()})

    def finish(self) -> RadialStatistics:
        n_r, r_max = self._grid(self.scan)
        found = {name: self.result(name) for name in self.sums}
        total, squares, noise, seen = (np.zeros(n_r) if v is None else np.asarray(arrays.to_numpy(v)) for v in found.values())
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / seen
            spread = np.maximum(squares / seen - mean**2, 0.0)  # rounding may make it negative
            return RadialStatistics(radii(n_r, r_max), mean, np.sqrt(spread), spread / mean**2, noise / seen / mean**2, seen)
