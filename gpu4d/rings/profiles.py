"""Polar transforms and radial profiles of arrays, or of a scan that is read once and need not fit into memory."""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike, ReturnedArray
from gpu4d.data.arguments import OriginLike, pixel_mask, two_sizes
from gpu4d.data.arguments import origins as origins_of
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.events import Events
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.operation import Operation
from gpu4d.real_arrays import beside, floats, real_array, real_number
from gpu4d.rings.event_rings import FIXED_BYTES, event_moments
from gpu4d.rings.polar_transform import matrix, radial_grid, radial_sums, radii
from gpu4d.rings.polar_transform import polar_transform as polar_operation
from gpu4d.rings.polar_transform import problem as grid_problem
from gpu4d.streaming.engine import SweepOptions, sweep
from gpu4d.streaming.reduction import ScanInfo, defined
from gpu4d.streaming.sums import PerPosition, PerPositionReduction

KINDS = ("mean", "sum")
DEFINITION_BYTES = 160  # that the definitions hold for a pixel, or for a sample of the polar grid
MOST_ORIGINS = 64  # of a scan, whose rings are averaged: pixels lie differently in each, and more change the mean by less than 1e-3 px
TWIN_BYTES = 8  # that the twins hold for a pixel: masks and indices


class _PolarValues(PerPositionReduction):
    """Reduction: values on a polar grid about each position's origin. Subclasses say which in `_values`."""

    def __init__(self, origin: Any, n_r: int | None, r_max: float | None, ellipse: tuple[float, float, float] | None, mask: Any):
        self.origin = None if origin is None else origins_of(origin)
        self.n_r = None if n_r is None else real_number(n_r, "n_r", whole=True)
        self.r_max = None if r_max is None else real_number(r_max, "r_max")
        self.mask = mask
        self.ellipse = None if ellipse is None else floats(ellipse, 3, "ellipse")

    operation: Operation
    n_theta = 1

    def _shape(self, scan: ScanInfo) -> tuple[int, ...]:
        """Return the shape of the values of one position."""
        return (radial_grid(scan.shape[2:], self.n_r, self.r_max)[0],)

    def _values(self, frames: Any, origins: Any, options: dict[str, Any]) -> Any:
        """Compute the values of some frames (n, Qx, Qy) with origins (n, 2)."""
        raise NotImplementedError

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        planes = math.prod(self._shape(scan))
        finish = 8 * planes * scan.shape[0] * scan.shape[1]
        return PerPosition.bytes_needed(scan, planes, n_frames) + finish + self.work_bytes(scan, n_frames)

    def work_bytes(self, scan: ScanInfo, n_frames: int) -> int:
        """Return the bytes that the operation holds for `n_frames` frames, and those of the mask."""
        planes, pixels = math.prod(self._shape(scan)), scan.shape[2] * scan.shape[3]
        per_frame = DEFINITION_BYTES * max(planes, pixels) if defined(self.operation, scan) else TWIN_BYTES * (2 * planes + pixels)
        return 2 * pixels + per_frame * n_frames

    def prepare(self, scan: ScanInfo) -> None:
        """Check the arguments against a scan, and keep grid, mask and origins."""
        known = scan.calibration
        if self.origin is None and known.origin is None:
            raise InputError("the origin is not known: give it, set calibration.origin, or measure it (gpu4d.calibrate.origin)")
        ellipse = known.ellipse if self.ellipse is None else self.ellipse
        grid: dict[str, Any] = {"n_r": self.n_r, "r_max": self.r_max, "ellipse": ellipse}
        if (problem := grid_problem(np.empty((0, *scan.shape[2:])), np.empty((0, 2)), n_theta=self.n_theta, **grid)) is not None:
            raise InputError(problem)
        masks = [m for m in (scan.detector_mask, pixel_mask(self.mask, scan.shape[2:], "mask")) if m is not None]
        self.grid = grid
        self.valid = np.logical_and.reduce(masks) if masks else None
        self.places = known if self.origin is None else Calibration(origin=origins_of(self.origin, scan.shape[:2]))

    def arguments(self, frames: Any, positions: np.ndarray) -> tuple[Any, dict[str, Any]]:
        """Return the origins of frames at `positions`, and grid and mask, beside the frames."""
        mask = None if self.valid is None else tables.beside(self.valid, frames)
        options = {**self.grid, "mask": mask, **self._by_position(frames, positions)}
        return arrays.from_numpy(self.places.origin_at(positions), frames), options

    def _by_position(self, frames: Any, positions: np.ndarray) -> dict[str, Any]:
        """Return further options that follow from the positions, beside the frames."""
        return {}

    def start(self, scan: ScanInfo, device: Any, pass_: int = 0) -> None:
        self.prepare(scan)
        self.planes = math.prod(self._shape(scan))
        super().start(scan, device, pass_)

    def in_tiles(self) -> bool:
        return False

    def update(self, frames: Any, positions: np.ndarray) -> None:
        values = self._values(frames, *self.arguments(frames, positions))
        self.put(positions, arrays.as_float64(arrays.namespace(values).reshape(values, (len(positions), -1))))

    def finish(self) -> Any:
        planes = self.values.result()
        xp = arrays.namespace(planes)
        return xp.reshape(xp.permute_dims(planes, (1, 2, 0)), (*self.scan.shape[:2], *self._shape(self.scan)))


class RadialProfile(_PolarValues):
    """Reduction: intensity by distance from the origin, at every scan position.

    Parameters
    ----------
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels; the calibrated origin by default.
    n_r, r_max, ellipse, mask, kind
        As in `radial_profile`. Pixels that the cube's detector mask leaves out never count.

    Notes
    -----
    The result is an array (Rx, Ry, n_r) float64; NaN at positions not visited and where a ring has no pixel that counts.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.full((2, 3, 9, 9), 7, dtype="uint16"))
    >>> profiles = gpu4d.sweep(cube, gpu4d.RadialProfile((4, 4), r_max=3))
    >>> profiles.shape, profiles[1, 2].tolist()
    ((2, 3, 3), [7.0, 7.0, 7.0])
    """

    operation = radial_sums

    def __init__(
        self,
        origin: OriginLike | None = None,
        *,
        n_r: int | None = None,
        r_max: float | None = None,
        ellipse: tuple[float, float, float] | None = None,
        mask: ArrayLike | None = None,
        kind: str = "mean",
    ):
        _check_kind(kind)
        super().__init__(origin, n_r, r_max, ellipse, mask)
        self.kind = kind

    def _values(self, frames: Any, origins: Any, options: dict[str, Any]) -> Any:
        sums, pixels = radial_sums(frames, origins, **options)
        return _profile(sums, pixels, radial_grid(self.scan.shape[2:], self.n_r, self.r_max), self.kind)

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say whether its sums are whole numbers, which events give to the last bit."""
        return arrays.sums_are_exact(scan.dtype)

    def event_sums(self, scan: ScanInfo, events: Events, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sums and pixels of the rings of some patterns, (n, n_r), from their events."""
        n, m = len(positions), matrix(self.grid["ellipse"])
        origins = np.broadcast_to(np.asarray(self.places.origin_at(positions)), (n, 2))
        grid = radial_grid(scan.shape[2:], self.n_r, self.r_max)
        moments = event_moments(events, origins, np.broadcast_to(m, (n, 2, 2)), self.valid, grid)
        return moments.sums, moments.pixels

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        sums, pixels = self.event_sums(self.scan, events, positions)
        self.put(positions, _profile(sums, pixels, radial_grid(self.scan.shape[2:], self.n_r, self.r_max), self.kind))

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        return super().bytes_needed(scan, n_frames) + FIXED_BYTES * scan.shape[2] * scan.shape[3] * self.takes_events(scan)


class _PolarPatterns(_PolarValues):
    """Reduction: patterns on a polar grid, (Rx, Ry, n_theta, n_r); options as of `polar_transform`."""

    operation = polar_operation

    def __init__(self, origin: Any, n_theta: int, **options: Any):
        super().__init__(origin, **options)
        self.n_theta = real_number(n_theta, "n_theta", whole=True)

    def _shape(self, scan: ScanInfo) -> tuple[int, ...]:
        return (self.n_theta, *super()._shape(scan))

    def _values(self, frames: Any, origins: Any, options: dict[str, Any]) -> Any:
        return polar_operation(frames, origins, n_theta=self.n_theta, **options)

    def finish(self) -> Any:
        found = super().finish()
        return found if "float64" in str(self.scan.dtype) else arrays.namespace(found).astype(found, arrays.namespace(found).float32)


def polar_transform(
    patterns: DataCube | Array,
    origins: OriginLike | None = None,
    /,
    *,
    n_theta: int = 180,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: tuple[float, float, float] | None = None,
    mask: ArrayLike | None = None,
    origin: OriginLike | None = None,
    **sweep_options: Unpack[SweepOptions],
) -> ReturnedArray:
    """Interpolate patterns on a polar-elliptical grid about each one's origin (bilinear interpolation).

    Sample (i, j) lies at origin + M⁻¹ r_j (cos θ_i, sin θ_i). Angles are θ_i = 2π i / n_theta from qx towards qy, radii
    r_j = (j + ½) r_max / n_r. The matrix M makes the calibrated ellipse a circle of its minor semi-axis
    (`gpu4d.calibrate.ellipse_matrix`).

    Parameters
    ----------
    patterns : DataCube, slice or (..., Qx, Qy) array
    origins : pair, (..., 2) array or Origin
        Centre of the unscattered beam, detector pixels; of a cube the calibrated one by default.
    origin : optional
        The same by name, for callers that pass arguments by name only, as `signal.map` of HyperSpy does.
    n_theta, n_r : int
        Number of angles and radii; n_r is r_max rounded up, unless given.
    r_max : float, optional
        Pixels; half the shorter side of the detector, unless given.
    ellipse : (a, b, theta), optional
        `Calibration.ellipse`; of a cube the calibrated one by default.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts.
    **sweep_options
        Of `gpu4d.sweep`, for a cube: device, memory, where, progress.

    Returns
    -------
    (..., n_theta, n_r) float32, float64 for float64 patterns
        Pixels that are masked, not finite or outside the detector take no part; the weights of the others are scaled up. A
        sample is NaN if the pixel next to it is one of them. All samples of a pattern are NaN if its origin is not finite.

    Raises
    ------
    InputError
        Shapes do not fit, a number is not positive, the ellipse has not a ≥ b > 0, or the origin is not known.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.arange(32.0)[:, None], np.arange(32.0)
    >>> pattern = np.hypot(x - 16.3, y - 15.2)                       # its value is the radius
    >>> polar = polar_transform(pattern, (16.3, 15.2), n_theta=8, r_max=10)
    >>> polar.shape, bool(np.abs(polar[:, 3:] - np.arange(3.5, 10)).max() < 0.05)
    ((8, 10), True)
    """
    options: dict[str, Any] = {"n_r": n_r, "r_max": r_max, "ellipse": ellipse, "mask": mask}
    origins = _one_of(origins, origin)
    if isinstance(patterns, DataCube):
        return sweep(patterns, _PolarPatterns(origins, n_theta, **options), **sweep_options)
    return polar_operation(*_beside(patterns, origins, sweep_options), n_theta=n_theta, **options)


def radial_profile(
    patterns: DataCube | Array,
    origins: OriginLike | None = None,
    /,
    *,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: tuple[float, float, float] | None = None,
    mask: ArrayLike | None = None,
    origin: OriginLike | None = None,
    kind: str = "mean",
    **sweep_options: Unpack[SweepOptions],
) -> ReturnedArray:
    """Average the intensity over rings about the origin: intensity by distance from it.

    Parameters
    ----------
    patterns, origins, origin, n_r, r_max, ellipse, mask
        As in `polar_transform`. The radii are `gpu4d.rings.radii(n_r, r_max)`, pixels. A cube is swept (`RadialProfile`).
    kind : {"mean", "sum"}
        "mean" is the mean of a ring's pixels. "sum" is that mean times the number of pixels that the ring has on a detector
        without limits, 2π r dr: neither a beam stop nor the edge of the detector makes it smaller.
    **sweep_options
        Of `gpu4d.sweep`, for a cube: device, memory, where, progress.

    Returns
    -------
    (..., n_r) float64
        NaN where a ring has no pixel that counts.

    Raises
    ------
    InputError
        As `polar_transform`; or the kind is not known.

    Examples
    --------
    >>> import numpy as np
    >>> radial_profile(np.full((3, 9, 9), 7, "uint16"), (4, 4), r_max=3)[0].tolist()
    [7.0, 7.0, 7.0]
    """
    _check_kind(kind)
    options: dict[str, Any] = {"n_r": n_r, "r_max": r_max, "ellipse": ellipse, "mask": mask}
    origins = _one_of(origins, origin)
    if isinstance(patterns, DataCube):
        return sweep(patterns, RadialProfile(origins, kind=kind, **options), **sweep_options)
    frames, centres = _beside(patterns, origins, sweep_options)
    sums, pixels = radial_sums(frames, centres, **options)
    return _profile(sums, pixels, radial_grid(frames.shape[-2:], n_r, r_max), kind)


@on_host("image")
def mean_radii(
    shape: tuple[int, int],
    origins: OriginLike,
    /,
    *,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: tuple[float, float, float] | None = None,
    mask: ArrayLike | None = None,
) -> np.ndarray:
    """Average the distance of its pixels from the origin, for every ring of a radial profile.

    The pixels of a narrow ring lie on average beside the middle of the ring, by a tenth of a pixel some rings out, and by
    more near the origin. Where the profile is steep,
    its values belong to these radii, and not to `gpu4d.rings.radii`.

    Parameters
    ----------
    shape : (int, int)
        Of the detector.
    origins : pair, (Rx, Ry, 2) array or Origin
        Detector pixels. For a map, the mean over at most 64 positions, evenly spread.
    n_r, r_max, ellipse, mask
        As in `radial_profile`.

    Returns
    -------
    (n_r,) float64
        Pixels, along the minor axis of an ellipse; NaN where a ring has no pixel that counts.

    Raises
    ------
    InputError
        As `radial_profile`.

    Examples
    --------
    >>> mean_radii((9, 9), (4, 4), n_r=3, r_max=3).round(3).tolist()
    [0.0, 1.207, 2.325]
    """
    size = two_sizes(shape, "shape")
    centres = origins_of(origins, name="origins").reshape(-1, 2)
    centres = centres[np.isfinite(centres).all(axis=-1)]
    if not len(centres):
        raise InputError("origins has no finite origin: need the centre of the beam in detector pixels")
    some = centres[np.unique(np.linspace(0, len(centres) - 1, MOST_ORIGINS).round().astype(int))]
    plane = np.moveaxis(np.indices(size, dtype=np.float64), 0, -1)
    stretched = np.eye(2)
    if ellipse is not None:
        a, b, theta = floats(ellipse, 3, "ellipse")
        stretched = ellipse_matrix((a, b, theta))
    total = np.zeros(radial_grid(size, n_r, r_max)[0])
    pixels = np.zeros_like(total)
    for centre in some:
        distance = np.linalg.norm((plane - centre) @ stretched.T, axis=-1)
        sums, number = radial_sums(distance, centre, n_r=n_r, r_max=r_max, ellipse=ellipse, mask=pixel_mask(mask, size, "mask"))
        total += np.asarray(sums)
        pixels += np.asarray(number)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / pixels


def _one_of(origins: Any, origin: Any) -> Any:
    """Return the origin that was given, by place or by name."""
    if origins is not None and origin is not None:
        raise InputError("the origin is given twice, as second argument and as origin=: leave one out")
    return origin if origins is None else origins


def _beside(patterns: Any, origins: Any, sweep_options: SweepOptions) -> tuple[Any, Any]:
    """Return patterns as an array, and their origins as an array of the same library on the same device."""
    if sweep_options:
        raise InputError(f"{', '.join(sorted(sweep_options))} belong to a DataCube, and patterns is an array: leave them out")
    patterns = real_array(patterns, "patterns", "a DataCube or an array (..., Qx, Qy)")
    if origins is None:
        raise InputError("origins= is missing: an array has no calibration, so give the centre of the beam in detector pixels")
    given = arrays.unwrapped(origins)
    if arrays.is_array(given) and not isinstance(given, np.ndarray):
        return patterns, beside(given, "origins", patterns)
    return patterns, arrays.from_numpy(origins_of(origins, tuple(patterns.shape[:-2]), "origins"), patterns)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: need one of {', '.join(map(repr, KINDS))}")


def _profile(sums: Any, pixels: Any, grid: tuple[int, float], kind: str) -> Any:
    """Return the mean of every ring, or for "sum" the mean times the ring's pixels on a detector without limits."""
    xp = arrays.namespace(sums)
    number = xp.astype(pixels, xp.float64)
    mean = xp.where(number > 0, arrays.as_float64(sums) / xp.maximum(number, xp.ones_like(number)), xp.full_like(number, math.nan))
    if kind == "mean":
        return mean
    n_r, r_max = grid
    return mean * arrays.from_numpy(2 * np.pi * radii(n_r, r_max) * (r_max / n_r), mean)
