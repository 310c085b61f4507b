"""Find the rotation between detector and scan from points that were recognised in a STEM image and in a shadow image.

Host by design: a few points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import FARTHEST, real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats

CLEAR = 1.3  # the best agreement over that of the other transpose, and of other angles; less is undecided
MOST_TOLD = 1000  # times clearer: more is rounding, as for points without errors


@dataclass(frozen=True)
class ShadowRotation(Storable, stored="angle error: [rad]"):
    """Rotation from detector to scan axes, v_scan = R(angle) v_det after swapping (qx, qy) if `transpose`.

    Attributes
    ----------
    angle : float
        Radians, in (-π, π]. If `half_turn` is "undecided", the angle + π is as likely.
    error : float
        Standard error, rad, from the agreement of parts of the images.
    transpose : bool
    scale : float
        Scan pixels per detector pixel: λ |C10| q_pixel / r_pixel.
    correlation : float
        Correlation of the shadow with the STEM image. It is negative if one is bright where the other is dark.
    margin : float
        Agreement (correlation²) over that of the best other answer: another transpose, or another angle.
    half_turn : str
        How 180° was decided: "defocus" (its sign was given), "fringes" (Fresnel fringes show it), or "undecided".
    shift : (float, float)
        How far from the given probe position the shadow image's centre lies in the STEM image, scan px. For points: the place in the STEM
        image that detector pixel (0, 0) shows.
    underfocused : bool or None
        True if the shadow is upside down. None if that is not decided: `angle` is then that of an overfocused probe.
    fringes : float
        How clearly Fresnel fringes show an overfocused probe, standard errors. Negative: an underfocused one. NaN if they were not needed.
    """

    angle: float
    error: float
    transpose: bool
    scale: float
    correlation: float
    margin: float
    half_turn: str
    shift: tuple[float, float] = (0.0, 0.0)
    underfocused: bool | None = None
    fringes: float = math.nan

    @property
    def decided(self) -> bool:
        """Return True if transpose, angle and 180° are all decided."""
        return self.margin >= CLEAR and self.half_turn != "undecided"

    def seen_at(self, vectors: ArrayLike, position: ArrayLike = (0.0, 0.0)) -> np.ndarray:
        """Return the places in the STEM image that detector vectors show, scan px.

        Parameters
        ----------
        vectors : (..., 2) array
            From the centre of the bright-field disk, detector px. For a rotation from points: detector pixels as they were given.
        position : (2,) array
            Position of the probe, scan px. (0, 0) for a rotation from points.

        Returns
        -------
        (..., 2) float64

        Examples
        --------
        >>> found = rotation_from_points([[5, 5], [5, 25], [45, 5]], [[0, 0], [10, 0], [0, -20]], defocus=-1e4)
        >>> found.seen_at([0.0, -10.0]).round(6).tolist()
        [25.0, 5.0]
        """
        given = real_values(vectors, "vectors", "(..., 2), detector px").astype(np.float64)
        if given.ndim < 1 or given.shape[-1] != 2:
            raise InputError(f"vectors is {given.shape}: need (..., 2), detector px")
        way = -self.scale if self.underfocused else self.scale
        return np.array(floats(position, 2, "position")) + self.shift + way * given @ scan_matrix(self.angle, self.transpose).T

    def __str__(self) -> str:
        turn = "" if self.half_turn != "undecided" else ", or 180° more: give the sign of the defocus"
        clearer = f"{self.margin:.1f}" if not self.margin > MOST_TOLD else f"more than {MOST_TOLD}"
        how = f"correlation {self.correlation:.2f}, {clearer} times clearer than any other"
        return f"rotation {math.degrees(self.angle):.2f}° ± {math.degrees(self.error):.2f}°{turn}, transpose {self.transpose} ({how})"

    def apply(self, calibration: Calibration) -> None:
        """Write rotation and transpose into a calibration.

        Raises
        ------
        InputError
            180° or the transpose are not decided.
        """
        if not self.decided:
            raise InputError(f"the rotation is not decided ({self}): give defocus= with its sign, or more shadow images")
        error = self.error if self.error > 0 else None
        calibration.measured(rotation=self.angle, transpose=self.transpose, rotation_error=error, how=f"shadow images, {self.half_turn}")


@on_host("curve")
def rotation_from_points(
    image_points: ArrayLike, detector_points: ArrayLike, *, defocus: float, transpose: bool | None = None
) -> ShadowRotation:
    """Find rotation and transpose from points that were recognised both in a STEM image and in a shadow image.

    A similarity r = r0 + s R(θ) q is fitted by least squares, with and without transpose (Umeyama, IEEE Trans. PAMI 13 (1991) 376).

    Parameters
    ----------
    image_points : (n, 2) array
        Points in the STEM image, scan px.
    detector_points : (n, 2) array
        The same points in the shadow image, detector px.
    defocus : float
        Of the shadow image, of which the sign matters: positive is underfocus (defocus = −C10), which shows the specimen upside down.
    transpose : bool, optional
        None: decided by the points, of which there must be three or more. Two points fit both.

    Returns
    -------
    ShadowRotation
        `margin` compares the residuals of both transposes. `error` is NaN for two points.

    Examples
    --------
    >>> q = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 20.0]])
    >>> turned = 2 * q @ np.array([[0.0, 1.0], [-1.0, 0.0]])  # by 90°
    >>> found = rotation_from_points(turned, q, defocus=-1000.0)
    >>> round(math.degrees(found.angle), 6), found.transpose
    (90.0, False)
    """
    r, q = (
        real_values(p, name, "(n, 2)").astype(np.float64)
        for p, name in ((image_points, "image_points"), (detector_points, "detector_points"))
    )
    if r.shape != q.shape or r.ndim != 2 or r.shape[1] != 2 or len(r) < 2:
        raise InputError(f"points are {r.shape} and {q.shape}: need (n, 2) each, the same two or more points")
    if not (np.abs(r) < FARTHEST).all() or not (np.abs(q) < FARTHEST).all():
        raise InputError("a point is not finite, or beyond any image: need pixels")
    if transpose is None and len(r) < 3:
        raise InputError("two points fit with and without transpose: give transpose=, or a third point")
    if not defocus or not math.isfinite(defocus):
        raise InputError(f"defocus={defocus}: need a number of Å that is not 0. Its sign decides between two rotations, 180° apart")
    spread = np.linalg.svd(q - q.mean(axis=0), compute_uv=False)
    if transpose is None and not spread[1] > 1e-3 * spread[0]:
        raise InputError("the points lie on one line, so they fit with and without transpose: give transpose=, or a point beside the line")
    fits = {t: _similarity(q[:, ::-1] if t else q, r) for t in (False, True)}
    taken = bool(transpose) if transpose is not None else fits[True][2] < fits[False][2]
    angle, scale, left, length = fits[taken]
    angle += math.pi if defocus > 0 else 0.0
    free = 2 * len(r) - 4
    if not scale > 0:
        raise InputError("all image_points are the same: need two or more different ones")
    error = math.sqrt(left / free / (scale**2 * length)) if free > 0 else math.nan
    margin = math.inf if transpose is not None or left <= 0 else fits[not taken][2] / left
    turned = math.remainder(angle, 2 * math.pi)
    first = scale * (-1 if defocus > 0 else 1) * q.mean(axis=0) @ scan_matrix(turned, taken).T
    shift = r.mean(axis=0) - first
    return ShadowRotation(turned, error, taken, scale, 1.0, margin, "defocus", (float(shift[0]), float(shift[1])), defocus > 0)


def _similarity(q: np.ndarray, r: np.ndarray) -> tuple[float, float, float, float]:
    """Return angle, scale, squared residual, and Σ|q|² of r = r0 + s R q, by complex least squares."""
    a, b = ((p - p.mean(axis=0)) @ np.array([1, 1j]) for p in (q, r))
    length = float(np.sum(np.abs(a) ** 2))
    if not length > 0:
        raise InputError("all detector_points are the same: need two or more different ones")
    factor = complex(np.sum(np.conj(a) * b)) / length
    return math.atan2(factor.imag, factor.real), abs(factor), float(np.sum(np.abs(b - factor * a) ** 2)), length
