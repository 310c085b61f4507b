"""Find the rotation between detector and scan from the curl of the centre-of-mass field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import positions_of
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_array

PARTS = 4  # along each axis of the scan, for the standard error
MOST_TOLD = 1000  # times smaller: more is rounding
UNDECIDED = 1.1  # ratio of the residual curls of both transposes; with a smaller ratio the data cannot decide between them

# Matched pairs of (smoothing, derivative) taps. The ratio of their responses is ik, so the curl of a gradient is zero, and noise and
# coarse steps do not change the angle (Farid, Simoncelli, IEEE Trans. Image Process. 13 (2004) 496). With central differences the
# error of the angle was 0.04 rad for atoms sampled at 0.5 Å.
_TAPS = {
    7: (
        (0.004711, 0.069321, 0.245410, 0.361117, 0.245410, 0.069321, 0.004711),
        (-0.018708, -0.125376, -0.193091, 0.0, 0.193091, 0.125376, 0.018708),
    ),
    3: ((0.229879, 0.540242, 0.229879), (-0.425287, 0.0, 0.425287)),
}


@dataclass(frozen=True)
class Rotation(Storable, stored="angle error: [rad]; angles: angles [rad]; curve: angles"):
    """Rotation from detector to scan axes: v_scan = R(angle) v_det. If `transpose`, (qx, qy) are swapped first.

    Attributes
    ----------
    angle : float
        Radians, in (-π/2, π/2]. The curl is the same for angle and angle + π (`gpu4d.dpc` chooses one).
    transpose : bool
    curl : dict of bool to float
        Residual curl² of the field at the best angle, as a share of curl² + divergence² (0 … 0.5), for each transpose.
    margin : float
        Share of the rejected transpose over that of the chosen one. 1 means undecided. It is infinite for a field without curl, and NaN
        if the transpose was given.
    angles, curve : (181,) arrays
        Share of the curl for each angle, with the chosen transpose, for a plot.
    error : float
        Standard error of the angle, rad, from the agreement of 16 parts of the scan (jackknife). NaN for a scan too small for parts.
    """

    angle: float
    transpose: bool
    curl: dict[bool, float]
    margin: float
    angles: np.ndarray
    curve: np.ndarray
    error: float = math.nan

    @property
    def decided(self) -> bool:
        """Return True if the data decide between the two transposes, or if the transpose was given."""
        return not self.margin < UNDECIDED

    def __repr__(self) -> str:
        return f"Rotation({self})"

    def __str__(self) -> str:
        smaller = f"more than {MOST_TOLD}" if self.margin > MOST_TOLD else f"{self.margin:.3g}"
        how = "" if math.isnan(self.margin) else f", curl {smaller} times smaller than for the other transpose"
        error = "" if math.isnan(self.error) else f" ± {math.degrees(self.error):.2g}°"
        return f"rotation {math.degrees(self.angle):.2f}°{error} (mod 180°), transpose {self.transpose}{how}"


@on_host("map")
def rotation(com: Array, *, transpose: bool | None = None, where: ArrayLike | None = None) -> Rotation:
    """Find the QR rotation and transpose that leave the least curl in a centre-of-mass field.

    The deflection by an electrostatic potential is a gradient, so it has no curl. If the field is rotated by θ, its curl is C cos θ + D
    sin θ, with C and D the curl and divergence of the field. So Σ curl² = (ΣC² + ΣD²)/2 + (ΣC² - ΣD²)/2 cos 2θ + ΣCD sin 2θ, whose
    minimum is known in closed form. The means of C and D are subtracted first, so that a plane of descan does not change the answer.

    Parameters
    ----------
    com : (Rx, Ry, 2) array, or RealSlice stack (2, Rx, Ry)
        Centre of mass in detector axes, any unit. Positions next to a NaN are left out.
    transpose : bool, optional
        None tests both.
    where : (Rx, Ry) bool, optional
        Positions to use.

    Returns
    -------
    Rotation

    Raises
    ------
    InputError
        The field has a wrong shape, or fewer than 4 positions have finite neighbours on all sides.

    Notes
    -----
    The convention is that of py4DSTEM (Savitzky et al., Microsc. Microanal. 27 (2021) 712), which scans angles.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.meshgrid(np.linspace(-2, 2, 30), np.linspace(-3, 3, 30), indexing="ij")
    >>> gradient = np.stack([-x, -2 * y], -1) * np.exp(-x**2 / 2 - y**2)[..., None]
    >>> c, s = np.cos(0.3), np.sin(0.3)
    >>> measured = gradient @ np.array([[c, -s], [s, c]])          # on a detector turned by 0.3 rad
    >>> found = rotation(measured)
    >>> round(found.angle, 2), found.transpose
    (0.3, False)
    """
    field = arrays.to_numpy(com_field(com)).astype(np.float64)
    if where is not None:
        field = np.where(positions_of(where, field.shape[:2])[..., None], field, np.nan)
    parts = {t: _moments(field[..., ::-1] if t else field) for t in (False, True)}
    moments = {t: tuple(float(m) for m in p.sum(axis=0)) for t, p in parts.items()}
    found = {t: _least_curl(*m) for t, m in moments.items()}
    taken = bool(transpose) if transpose is not None else found[True][1] < found[False][1]
    margin = math.nan if transpose is not None else _ratio(found[not taken][1], found[taken][1])
    angles = np.linspace(-np.pi / 2, np.pi / 2, 181)
    curve = _share(angles, *moments[taken])
    error = _error(parts[taken], found[taken][0])
    return Rotation(found[taken][0], taken, {t: f[1] for t, f in found.items()}, margin, angles, curve, error)


def com_field(com: Any) -> Any:
    """Return a centre-of-mass field as (Rx, Ry, 2), from such an array or from a RealSlice stack (2, Rx, Ry)."""
    if isinstance(com, RealSlice) and len(com.shape) == 3 and com.shape[0] == 2:
        field = arrays.namespace(com.data).permute_dims(com.data, (1, 2, 0))
    else:
        field = real_array(com, "the centre of mass", "(Rx, Ry, 2), or the stack that CenterOfMass gives")
    if len(field.shape) != 3 or field.shape[-1] != 2:
        raise InputError(f"the centre of mass has shape {tuple(field.shape)}, need (Rx, Ry, 2), or the stack that CenterOfMass gives")
    return field


def _moments(field: np.ndarray) -> np.ndarray:
    """Sum C², D² and CD of curl C and divergence D without their means, in 16 parts of the scan, (16, 3).

    The widest derivative is taken that leaves enough positions.
    """
    for taps in sorted(_TAPS, reverse=True):
        curl, divergence = _curl_and_divergence(field, *_TAPS[taps]) if min(field.shape[:2]) >= taps else (np.empty((0, 0)),) * 2
        ok = np.isfinite(curl) & np.isfinite(divergence)
        if ok.sum() >= (64 if taps > 3 else 4):
            x, y = np.indices(curl.shape)
            part = (x * PARTS // curl.shape[0]) * PARTS + y * PARTS // curl.shape[1]
            c, d = curl[ok] - curl[ok].mean(), divergence[ok] - divergence[ok].mean()
            return np.stack([np.bincount(part[ok], weights, PARTS * PARTS) for weights in (c * c, d * d, c * d)], axis=-1)
    raise InputError(f"only {int(ok.sum())} positions of the field have finite neighbours all around, need at least 4")


def _error(parts: np.ndarray, angle: float) -> float:
    """Return the standard error of the angle by leaving out one part after the other."""
    some = parts[parts.any(axis=1)]
    if len(some) < PARTS * PARTS // 2:
        return math.nan
    without = [_least_curl(*(float(m) for m in some.sum(axis=0) - part))[0] for part in some]
    off = np.array([math.remainder(a - angle, math.pi) for a in without])
    return float(np.sqrt((len(some) - 1) / len(some) * np.sum((off - off.mean()) ** 2)))


def _curl_and_divergence(field: np.ndarray, smooth: tuple[float, ...], derive: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return curl and divergence of a field, where all neighbours under the taps exist."""

    def along(v: np.ndarray, down: tuple[float, ...], right: tuple[float, ...]) -> np.ndarray:
        """Filter an array with taps along both axes."""
        n, (nx, ny) = len(down), v.shape
        tall = np.sum([w * v[i : nx - n + 1 + i] for i, w in enumerate(down)], axis=0)
        return np.sum([w * tall[:, i : ny - n + 1 + i] for i, w in enumerate(right)], axis=0)

    vx, vy = field[..., 0], field[..., 1]
    return along(vy, derive, smooth) - along(vx, smooth, derive), along(vx, derive, smooth) + along(vy, smooth, derive)


def _least_curl(cc: float, dd: float, cd: float) -> tuple[float, float]:
    """Return the angle in (-π/2, π/2] of the least Σ curl², and its share. A field without curl and divergence has angle 0."""
    angle = 0.5 * math.atan2(-cd, (dd - cc) / 2) if cc + dd > 0 else 0.0
    angle = angle if angle > -math.pi / 2 else math.pi / 2
    return angle, float(_share(angle, cc, dd, cd))


def _share(angle: Any, cc: float, dd: float, cd: float) -> Any:
    """Return Σ curl² of the field turned by `angle`, over ΣC² + ΣD². It is 0.5 if both are 0."""
    if not cc + dd > 0:
        return 0.5 + 0 * np.asarray(angle)
    c, s = np.cos(angle), np.sin(angle)
    return np.maximum(c * c * cc + s * s * dd + 2 * c * s * cd, 0.0) / (cc + dd)


def _ratio(other: float, best: float) -> float:
    """Return other / best. It is infinite if only `best` is 0, and 1 if both are."""
    return other / best if best > 0 else (math.inf if other > 0 else 1.0)
