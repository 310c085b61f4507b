"""Define virtual detectors: regions of the detector in which counts are summed.

A geometry is given relative to the origin. If every position has its own calibrated origin, the geometry follows it. Distances are in
detector pixels. As in py4DSTEM, the edge of a circle does not belong to it: r² < R², ri² < r² < ro².

If the elliptical distortion of the detector is calibrated, disks, annuli and sectors are the ellipses that circles become on the detector.
Their radii are along the minor axis, as those of a radial profile. Rectangles, points, spots and masks are places on the detector as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, host_image, origins, real_values
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.real_arrays import floats, radians, real_number

__all__ = ["Detector", "annulus", "as_detector", "bragg_spots", "disk", "from_array", "point", "rectangle", "segmented"]

Point = tuple[float, float]
Ellipse = tuple[float, float, float]  # (a, b, theta), as Calibration.ellipse
CIRCLES = ("disk", "annulus", "sector")  # kinds that an elliptical distortion stretches


def __dir__() -> list[str]:
    return list(__all__)


@dataclass(frozen=True)
class Detector:
    """A region of the detector.

    Attributes
    ----------
    kind : str
    center : (float, float) or None
        (qx, qy) in pixels. None is the calibrated origin or, if it is not known, the middle of the detector.
    parameters : tuple
        Parameters of the kind.
    """

    kind: str
    center: Point | None
    parameters: tuple

    def mask(self, shape: tuple[int, int], origin: OriginLike | None = None, ellipse: Ellipse | None = None) -> np.ndarray:
        """Return the region as (Qx, Qy) bool (or float weights), for an origin (2,) in pixels and the calibrated ellipse."""
        center = self.center_for(shape, origin)
        return self.takes(np.arange(shape[0])[:, None] - center[0], np.arange(shape[1])[None, :] - center[1], shape, ellipse)

    def takes(self, x: np.ndarray, y: np.ndarray, shape: tuple[int, int], ellipse: Ellipse | None = None) -> np.ndarray:
        """Return which pixels lie in the region (bool, or weights), for their distances from its centre, detector pixels."""
        if ellipse is not None and self.kind in CIRCLES:
            (xx, xy), (yx, yy) = ellipse_matrix(ellipse)
            x, y = xx * x + xy * y, yx * x + yy * y
        return _SHAPES[self.kind](x, y, shape, *self.parameters)

    def center_for(self, shape: tuple[int, int], origin: OriginLike | None = None) -> np.ndarray:
        """Return the centre of the region: its own, else the origin, else the middle of the detector."""
        if self.center is not None:
            return np.asarray(self.center, dtype=np.float64)
        if origin is None:
            return (np.asarray(shape) - 1) / 2
        center = origins(origin)
        if center.ndim != 1:
            raise InputError(f"origin is {center.shape}: a mask is made for one origin, (2,) in detector pixels")
        return center

    @property
    def follows_origin(self) -> bool:
        return self.center is None and self.kind != "array"

    @property
    def radii(self) -> tuple[float, float] | None:
        """Return inner and outer radius of a disk or an annulus, else None. The inner radius -1 means no hole."""
        return {"disk": (-1.0, *self.parameters), "annulus": self.parameters}.get(self.kind)  # type: ignore[return-value]


DetectorLike = Detector | ArrayLike  # a geometry, or a mask (Qx, Qy)


def disk(radius: float, center: Point | None = None) -> Detector:
    """Make a disk for bright field: r < radius.

    Examples
    --------
    >>> int(disk(1.5).mask((5, 5)).sum())
    9
    """
    return Detector("disk", _point(center), (_positive("radius", radius),))


def annulus(inner: float, outer: float, center: Point | None = None) -> Detector:
    """Make an annulus for dark field: inner < r < outer."""
    inner, outer = real_number(inner, "inner"), real_number(outer, "outer")
    if not 0 <= inner < outer:
        raise InputError(f"annulus(inner={inner}, outer={outer}): need 0 ≤ inner < outer, in detector pixels")
    return Detector("annulus", _point(center), (float(inner), float(outer)))


def rectangle(height: float, width: float, center: Point | None = None) -> Detector:
    """Make a rectangle: |qx - cx| < height / 2 and |qy - cy| < width / 2."""
    return Detector("rectangle", _point(center), (_positive("height", height), _positive("width", width)))


def point(position: Point) -> Detector:
    """Make a detector of one pixel, the nearest to (qx, qy)."""
    return Detector("point", _point(position), ())


def segmented(inner: float, outer: float, segments: int, rotation: float = 0.0, center: Point | None = None) -> tuple[Detector, ...]:
    """Make equal sectors of an annulus. The first begins at the angle `rotation` (radians, from qx towards qy)."""
    segments, rotation = real_number(segments, "segments", whole=True), radians(rotation, "rotation")
    if segments < 1:
        raise InputError(f"segments={segments}: need at least 1")
    annulus(inner, outer)
    middle = _point(center)
    return tuple(Detector("sector", middle, (float(inner), float(outer), int(segments), i, rotation)) for i in range(segments))


def bragg_spots(positions: ArrayLike, radius: float) -> Detector:
    """Make disks of one radius around several Bragg disks, relative to the origin.

    Parameters
    ----------
    positions : (n, 2) array
        (qx, qy) relative to the origin, pixels.
    radius : float
        Pixels.
    """
    spots = np.atleast_2d(real_values(positions, "positions", "(n, 2) in pixels").astype(np.float64))
    if spots.ndim != 2 or spots.shape[1] != 2 or not np.isfinite(spots).all():
        raise InputError(f"positions has shape {spots.shape}, need finite (n, 2): qx, qy of each disk relative to the origin")
    return Detector("spots", None, (tuple(map(tuple, spots.tolist())), _positive("radius", radius)))


def from_array(mask: ArrayLike) -> Detector:
    """Make a detector of a (Qx, Qy) mask or weights. It does not follow the origin."""
    host = host_image(mask, "a detector mask")
    if not np.isfinite(host).all():
        raise InputError("a detector mask must be bool or finite real weights")
    return Detector("array", None, (_Frozen(host),))


def as_detector(given: DetectorLike) -> Detector:
    """Return a Detector for a Detector or a (Qx, Qy) array."""
    if isinstance(given, Detector):
        return given
    if isinstance(given, str | int | float) or given is None:
        raise InputError(f"detector is {given!r}: need gpu4d.detectors.disk(...), annulus(...), … or a (Qx, Qy) mask")
    return from_array(given)


def checked_ellipse(given: ArrayLike | Ellipse) -> Ellipse:
    """Return (a, b, theta) as floats. Raise InputError unless a ≥ b > 0."""
    a, b, theta = floats(given, 3, "ellipse (a, b, theta)")
    ellipse_matrix((a, b, theta))
    return a, b, theta


class _Frozen:
    """Read-only array in a frozen dataclass, compared by identity."""

    def __init__(self, array: np.ndarray):
        self.array = array.copy()
        self.array.flags.writeable = False


def _point(given: Any) -> Point | None:
    """Return a position (qx, qy) from a sequence or an array of any library."""
    if given is None:
        return None
    found = floats(given, 2, "a position on the detector, (qx, qy) in pixels,")
    return (found[0], found[1])


def _positive(name: str, value: float) -> float:
    if not 0 < real_number(value, name) < np.inf:
        raise InputError(f"{name}={value}: need a positive number of detector pixels")
    return float(value)


def _array(_x: Any, _y: Any, shape: tuple[int, int], frozen: _Frozen) -> np.ndarray:
    if frozen.array.shape != tuple(shape):
        raise InputError(f"the mask is {frozen.array.shape}, the detector is {tuple(shape)}: need one value per detector pixel")
    return frozen.array


def _sector(x: Any, y: Any, _shape: Any, inner: float, outer: float, segments: int, number: int, rotation: float) -> np.ndarray:
    r2 = x * x + y * y
    turn = np.mod(np.arctan2(y, x) - rotation, 2 * np.pi) * segments / (2 * np.pi)
    return (r2 > inner * inner) & (r2 < outer * outer) & (np.minimum(turn.astype(int), segments - 1) == number)


def _spots(x: Any, y: Any, _shape: Any, spots: Sequence[Point], radius: float) -> np.ndarray:
    out = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for sx, sy in spots:
        out |= (x - sx) ** 2 + (y - sy) ** 2 < radius * radius
    return out


_SHAPES: dict[str, Any] = {
    "disk": lambda x, y, _shape, radius: x * x + y * y < radius * radius,
    "annulus": lambda x, y, _shape, inner, outer: (x * x + y * y > inner * inner) & (x * x + y * y < outer * outer),
    "rectangle": lambda x, y, _shape, height, width: (np.abs(x) < height / 2) & (np.abs(y) < width / 2),
    "point": lambda x, y, _shape: (np.abs(x) == np.abs(x).min()) & (np.abs(y) == np.abs(y).min()),
    "sector": _sector,
    "spots": _spots,
    "array": _array,
}
