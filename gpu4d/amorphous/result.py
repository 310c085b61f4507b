"""The strain of a glass over a scan: components in scan axes, their errors, and how well the patterns are explained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.amorphous.ellipse_strain import turned
from gpu4d.amorphous.reference_ring import HaloReference
from gpu4d.arrays import ArrayLike, ReturnedArray
from gpu4d.crystal.strain import Axes
from gpu4d.data.calibration import Calibration
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import floats, radians

COMPONENTS = ("e_xx", "e_yy", "e_xy")
NOT_CALIBRATED = "the rotation between scan and detector is not calibrated: components are along the detector's axes"


@dataclass(frozen=True, eq=False)
class AmorphousStrain(
    Storable,
    stored="covariance: Rx Ry row column; origin: Rx Ry xy [px]; background: Rx Ry term; mask: Rx Ry; drift: Rx",
):
    """Strain of a glass at every position. It is NaN where no ring was fitted.

    The components are those of V − 1, V being the left stretch of the deformation gradient F = V R, relative to the reference. A glass
    does not show R: there is no rotation here, and a rotation has no effect on the strain. (A crystal shows F, and `gpu4d.strain_map`
    gives U − 1 of F = R U, so that both agree where the rotation is small.)

    Attributes
    ----------
    exx, eyy, exy : RealSlice (Rx, Ry)
        Components in `axes`. Tension is positive.
    uncertainty : RealSlice (3, Rx, Ry)
        One standard error of e_xx, e_yy, e_xy. The reference is taken as exact.
    covariance : (Rx, Ry, 3, 3) float64
        Of the components, in `axes`.
    residual : RealSlice (Rx, Ry)
        Σ (I − λ)² / λ over the degrees of freedom. It is 1 for counts about a model that is right; speckles make it larger.
    origin : (Rx, Ry, 2) float64
        Middle of the ring, detector pixels: fitted, or as given.
    scale : RealSlice (Rx, Ry)
        Brightness of the ring relative to the reference, for example by thickness.
    background : (Rx, Ry, 2) float64
        Constant and slope of the background, counts per pixel.
    mask : (Rx, Ry) bool
        True where there is strain.
    reference : HaloReference
    axes : gpu4d.crystal.strain.Axes
    drift : (Rx,) float64 or None
        Relative change of the ring's radius by scan row that was removed.
    warnings : tuple of str
        Remarks that a picture of this strain must show.
    """

    exx: RealSlice
    eyy: RealSlice
    exy: RealSlice
    uncertainty: RealSlice
    covariance: ReturnedArray
    residual: RealSlice
    origin: ReturnedArray
    scale: RealSlice
    background: ReturnedArray
    mask: ReturnedArray
    reference: HaloReference
    axes: Axes
    drift: np.ndarray | None
    warnings: tuple[str, ...]
    _fit: RingFit

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.exx.shape))
        return f"AmorphousStrain({shape} positions, relative to the {self.reference.how}, {self.axes})"

    def rotated(self, angle: float) -> AmorphousStrain:
        """Return the same strain in axes turned by `angle` from these (rad, positive from x to y).

        Raises
        ------
        InputError
            The angle is NaN, or more than one turn: it is in degrees.
        """
        return as_strain(self._fit, self.axes.angle + radians(angle, "angle"))

    def along(self, direction: ArrayLike) -> RealSlice:
        """Return the normal strain nᵀ ε n along a direction: the relative change of distances in it.

        Parameters
        ----------
        direction : (2,)
            In `axes`. Only its direction matters.
        """
        x, y = floats(direction, 2, "direction", "a vector (2,) in the axes of the strain")
        size = math.hypot(x, y)
        if not 0 < size < math.inf:
            raise InputError(f"direction is ({x}, {y}): need a vector with a direction")
        x, y = x / size, y / size
        normal: Any = x * x * self.exx.data + y * y * self.eyy.data + 2 * x * y * self.exy.data
        return self.exx.of_same_grid(normal, "strain along a direction", "1")

    def to_emd(self) -> dict[str, RealSlice]:
        """Return the arrays that `gpu4d.save` stores: e_xx, e_yy, e_xy, mask, and "uncertainty"."""
        xp = arrays.namespace(self.mask)
        planes = [self.exx.data, self.eyy.data, self.exy.data]
        planes.append(xp.astype(self.mask, planes[0].dtype))
        size, units = self.exx.pixel_size, self.exx.pixel_units
        stack = RealSlice(xp.stack(planes, axis=0), "amorphous strain", "1", size, units, (*COMPONENTS, "mask"))
        return {"": stack, "uncertainty": self.uncertainty}


@dataclass(frozen=True, eq=False)
class RingFit(
    Storable,
    stored="strain: Rx Ry component; covariance: Rx Ry row column; origin: Rx Ry xy [px]; background: Rx Ry term; scale residual: Rx Ry; "
    "drift: Rx",
):
    """Fits of all positions, in detector axes. They are kept, so that other axes are computed from them.

    Attributes
    ----------
    strain, covariance : (Rx, Ry, 3), (Rx, Ry, 3, 3) float64
    origin, background : (Rx, Ry, 2) float64
    scale, residual : (Rx, Ry) float64
    reference : HaloReference
    calibration : Calibration
    max_strain : float
    drift : (Rx,) float64 or None
    warnings : tuple of str
    """

    strain: Any
    covariance: Any
    origin: Any
    background: Any
    scale: Any
    residual: Any
    reference: HaloReference
    calibration: Calibration
    max_strain: float
    drift: np.ndarray | None = None
    warnings: tuple[str, ...] = ()


def as_strain(fit: RingFit, angle: float = 0.0) -> AmorphousStrain:
    """Return fits as strain in axes at an angle (rad) from the scan's, or from the detector's where their rotation is not known."""
    known = fit.calibration
    frame, to_frame, warnings = "detector", np.eye(2), fit.warnings
    if known.rotation is None:
        warnings = (NOT_CALIBRATED, *warnings)
    else:
        frame, to_frame = "scan", scan_matrix(known.rotation, bool(known.transpose))
    c, s = math.cos(angle), math.sin(angle)
    axes = np.array([[c, s], [-s, c]]) @ to_frame
    strain, covariance = turned(fit.strain, fit.covariance, axes)
    xp = arrays.namespace(strain)
    mask = xp.all(xp.isfinite(strain), axis=-1)
    large = xp.any(xp.abs(strain) > fit.max_strain, axis=-1)
    if count := int(xp.sum(xp.astype(large, xp.int64))):
        warnings = (*warnings, f"{count} position{'s' * (count > 1)} with strain above {fit.max_strain:g}: look at their patterns")
    real = lambda data, name, unit, labels=(): RealSlice.calibrated(data, name, unit, known.r_pixel, labels)  # noqa: E731
    errors = xp.stack([xp.sqrt(covariance[..., i, i]) for i in range(3)], axis=0)
    return AmorphousStrain(
        exx=real(strain[..., 0], "e_xx", "1"),
        eyy=real(strain[..., 1], "e_yy", "1"),
        exy=real(strain[..., 2], "e_xy", "1"),
        uncertainty=real(errors, "strain_uncertainty", "1", COMPONENTS),
        covariance=covariance,
        residual=real(fit.residual, "dispersion", "1"),
        origin=fit.origin,
        scale=real(fit.scale, "brightness of the ring", "1"),
        background=fit.background,
        mask=mask,
        reference=fit.reference,
        axes=Axes(frame, angle, axes),
        drift=fit.drift,
        warnings=warnings,
        _fit=fit,
    )
