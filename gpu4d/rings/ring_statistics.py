"""Measure mean, scatter and median of every ring at every scan position, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.events import Events
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.rings.event_rings import FIXED_BYTES, event_moments
from gpu4d.rings.polar_transform import radial_grid, radii
from gpu4d.rings.profiles import _PolarValues
from gpu4d.rings.ring_moments import RingMoments, matrices, problem, ring_moments, squares_are_exact
from gpu4d.streaming.reduction import ScanInfo, defined

MEDIAN_BYTES = 96  # that the definition holds for a pixel while it sorts
MATRIX_BYTES = 32  # of a pattern


@dataclass(frozen=True, eq=False)
class RingProfiles(Storable, stored="radius: radius [px]; pixels sums squares median: Rx Ry radius"):
    """Statistics of every ring at every scan position. Arrays are on the host; NaN at positions that were not visited.

    Attributes
    ----------
    radius : (n_r,) float64
        Middle of every ring, detector pixels.
    pixels : (Rx, Ry, n_r) float64
        Pixels of the ring that count.
    sums : (Rx, Ry, n_r) float64
        Σ I over them. Whole numbers for integer counts.
    squares : (Rx, Ry, n_r) float64
        Σ I² over them.
    median : (Rx, Ry, n_r) float64 or None
        Median over the pixels of the ring; NaN where it has none. None if it was not asked for.
    calibration : Calibration
        Of the scan.
    """

    radius: np.ndarray
    pixels: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    median: np.ndarray | None
    calibration: Calibration

    def __repr__(self) -> str:
        shape, outer = "×".join(map(str, self.pixels.shape[:2])), self.radius[-1] + self.radius[0]
        size = self.calibration.q_pixel
        edge = f"{outer * size:.4g} 1/Å" if size else f"{outer:.4g} px"
        return (
            f"RingProfiles({shape} positions, {len(self.radius)} rings up to {edge}{', with medians' if self.median is not None else ''})"
        )

    @property
    def q(self) -> np.ndarray | None:
        """Middle of every ring, (n_r,) 1/Å; None if the size of a detector pixel is not known."""
        size = self.calibration.q_pixel
        return None if size is None else self.radius * size

    @property
    def mean(self) -> np.ndarray:
        """Azimuthal mean ⟨I⟩, (Rx, Ry, n_r) in counts per pixel; NaN where a ring has no pixel."""
        return _divided(self.sums, self.pixels)

    @property
    def mean_square(self) -> np.ndarray:
        """Azimuthal mean of the square ⟨I²⟩, (Rx, Ry, n_r)."""
        return _divided(self.squares, self.pixels)

    @property
    def variance(self) -> np.ndarray:
        """Variance ⟨I²⟩ − ⟨I⟩² over the pixels of the ring, (Rx, Ry, n_r) in squared counts."""
        return np.maximum(_divided(self.pixels * self.squares - self.sums**2, self.pixels**2), 0.0)

    @property
    def error(self) -> np.ndarray:
        """Standard error of the mean from the scatter of the pixels, √(variance / (pixels − 1)), (Rx, Ry, n_r); NaN for one pixel.

        Speckle counts as scatter: it is the error for other patterns of the same glass.
        """
        return np.sqrt(_divided(self.variance, self.pixels - 1))

    @property
    def counting_error(self) -> np.ndarray:
        """Standard error of the mean from counting alone, √⟨I⟩ / √pixels, (Rx, Ry, n_r): of this pattern, if values are electrons."""
        return np.sqrt(_divided(np.maximum(self.sums, 0.0), self.pixels**2))


@on_host("statistics")
class RingStatistics(_PolarValues):
    """Reduction: number, sum, squares and median of the pixels of every ring, at every scan position.

    Parameters
    ----------
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels; the calibrated origin by default.
    n_r, r_max, mask
        As in `gpu4d.radial_profile`. Pixels that the cube's detector mask leaves out never count. With `r_max` half of the detector's
        diagonal, the corners count too: a ring has the pixels that exist.
    ellipse : (a, b, theta) or matrix, or (Rx, Ry, 3) or (Rx, Ry, 2, 2) array, optional
        As of `gpu4d.rings.ring_moments`, one for all positions or one for each; the calibrated one by default.
    median : bool
        Select the medians too, which takes several times longer than all other sums.

    Notes
    -----
    The result is a `RingProfiles`: the mean is its `mean`, with standard errors; a ring without a pixel is NaN. Sums of integer counts
    are exact. Events of a counted scan are used as they are, except for medians.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.full((2, 3, 9, 9), 4, "uint16"))
    >>> found = gpu4d.sweep(cube, gpu4d.RingStatistics((4, 4), r_max=3))
    >>> found.mean[0, 0].tolist(), found.variance.max().item(), found.counting_error[0, 0, 0].item()
    ([4.0, 4.0, 4.0], 0.0, 2.0)
    """

    operation = ring_moments

    def __init__(
        self,
        origin: OriginLike | None = None,
        *,
        n_r: int | None = None,
        r_max: float | None = None,
        ellipse: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        median: bool = False,
    ):
        super().__init__(origin, n_r, r_max, None, mask)
        self.ellipses = None if ellipse is None else real_values(ellipse, "ellipse").astype(np.float64)
        self.median = bool(median)

    def _shape(self, scan: ScanInfo) -> tuple[int, ...]:
        return 3 + self.median, radial_grid(scan.shape[2:], self.n_r, self.r_max)[0]

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        fixed = FIXED_BYTES * scan.shape[2] * scan.shape[3] * self.takes_events(scan)
        return super().bytes_needed(scan, n_frames) + fixed

    def work_bytes(self, scan: ScanInfo, n_frames: int) -> int:
        more = MEDIAN_BYTES * scan.shape[2] * scan.shape[3] if self.median and defined(self.operation, scan) else 0
        return super().work_bytes(scan, n_frames) + (MATRIX_BYTES + more) * n_frames

    def prepare(self, scan: ScanInfo) -> None:
        super().prepare(scan)
        calibrated = self.grid.pop("ellipse")
        given = self.ellipses if self.ellipses is not None or calibrated is None else np.asarray(calibrated, np.float64)
        one_pixel = np.broadcast_to(0.0, (*scan.shape[:2], 1, 1))  # a scan in whose shape an ellipse of each position fits
        if given is not None and (wrong := problem(one_pixel, np.zeros(2), ellipse=given)) is not None:
            raise InputError(wrong)
        self.given = given

    def _by_position(self, frames: Any, positions: np.ndarray) -> dict[str, Any]:
        return {} if self.given is None else {"ellipse": arrays.from_numpy(self._ellipse_at(positions), frames)}

    def _ellipse_at(self, positions: np.ndarray) -> np.ndarray:
        assert self.given is not None
        shape = self.given.shape
        whole = shape == (3,) or shape == (2, 2)
        return self.given if whole else self.given[positions[:, 0], positions[:, 1]]

    def _values(self, frames: Any, origins: Any, options: dict[str, Any]) -> Any:
        return _stacked(ring_moments(frames, origins, median=self.median, **options))

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say whether all it needs are sums of whole numbers, which events give to the last bit."""
        return squares_are_exact(scan.dtype) and not self.median

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        origins, n = np.asarray(self.places.origin_at(positions)), len(positions)
        some = np.broadcast_to(0, (n, 1, 1))
        ms = matrices(some, np.broadcast_to(origins, (n, 2)), None if self.given is None else self._ellipse_at(positions))
        grid = radial_grid(self.scan.shape[2:], self.n_r, self.r_max)
        moments = event_moments(events, np.broadcast_to(origins, (n, 2)), ms, self.valid, grid)
        self.put(positions, _stacked(moments).reshape(n, -1))

    def finish(self) -> RingProfiles:
        values = arrays.to_numpy(self.values.result())
        parts, n_r = self._shape(self.scan)
        whole = np.moveaxis(values.reshape(parts, n_r, *self.scan.shape[:2]), 1, -1)
        median = np.ascontiguousarray(whole[3]) if self.median else None
        middles = radii(*radial_grid(self.scan.shape[2:], self.n_r, self.r_max))
        pixels, sums, squares = (np.ascontiguousarray(part) for part in whole[:3])
        return RingProfiles(middles, pixels, sums, squares, median, self.scan.calibration)


def _stacked(moments: RingMoments) -> Any:
    """Return pixels, sums, squares and medians if there are any, (n, parts, n_r) float64."""
    parts = [arrays.as_float64(part) for part in moments if part.shape[-1]]
    return arrays.namespace(parts[0]).stack(parts, axis=-2)


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(b > 0, a / b, np.nan)
