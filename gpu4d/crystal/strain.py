"""Compute strain maps from the local lattices: reference, definition, axes."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ReturnedArray
from gpu4d.crystal.deformation import COMPONENTS, DEFINITIONS, components, deformation_gradient, standard_errors
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.crystal.lattice import Lattice
from gpu4d.crystal.reference import Reference, choose_reference
from gpu4d.data.calibration import Calibration
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, radians, real_number
from gpu4d.structures import Structure

log = logging.getLogger("gpu4d")

OTHER_BASIS = 0.3  # of deformation: a lattice that seems to be deformed by more may only be named otherwise


@dataclass(frozen=True, eq=False)
class Axes(Storable, stored="angle: [rad]"):
    """Directions of the axes of a tensor.

    Attributes
    ----------
    frame : {"scan", "detector"}
        Frame from which `angle` is measured. It is "detector" if the rotation between scan and detector is not known.
    angle : float
        From the first axis of the frame (down in a picture) to the tensor's x axis, rad, positive from x to y.
    on_detector : (2, 2) float64
        The tensor's x and y axes as rows, in detector coordinates.
    """

    frame: str
    angle: float
    on_detector: np.ndarray

    @property
    def detector_angle(self) -> float:
        """Return the angle from the detector's first axis to the tensor's x axis, rad."""
        return math.atan2(self.on_detector[0, 1], self.on_detector[0, 0])

    def __repr__(self) -> str:
        return f"Axes({self})"

    def __str__(self) -> str:
        turned = f", turned by {math.degrees(self.angle):.1f}° from x to y" if self.angle else ""
        return f"{self.frame} axes{turned} (x at {math.degrees(self.detector_angle):.1f}° on the detector)"


@dataclass(frozen=True, eq=False)
class Strain(Storable, stored="mask: Rx Ry"):
    """Strain of every position. It is NaN where there is no local lattice.

    Attributes
    ----------
    exx, eyy, exy : RealSlice (Rx, Ry)
        Components in `axes`. Tension is positive.
    theta : RealSlice (Rx, Ry)
        ½(∂u₁/∂x₂ − ∂u₂/∂x₁), rad, with the sign of the guide and of py4DSTEM.
    rotation : RealSlice (Rx, Ry)
        Rotation of the lattice, −theta, rad, positive from x to y.
    residual : RealSlice (Rx, Ry)
        Rms distance of the disks from the local lattice, px.
    uncertainty : RealSlice (4, Rx, Ry)
        One standard error of e_xx, e_yy, e_xy and theta, from the disks' errors. The reference is taken as exact.
    mask : (Rx, Ry) bool
        True where there is strain.
    reference : Reference
    axes : Axes
    definition : str
    warnings : tuple of str
        Remarks that a picture of this strain must show.
    """

    exx: RealSlice
    eyy: RealSlice
    exy: RealSlice
    theta: RealSlice
    rotation: RealSlice
    residual: RealSlice
    uncertainty: RealSlice
    mask: ReturnedArray
    reference: Reference
    axes: Axes
    definition: str
    warnings: tuple[str, ...]
    _inputs: _Inputs

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.exx.shape))
        return f"Strain({shape} positions, {self.definition}, relative to the {self.reference.how}, {self.axes})"

    def rotated(self, angle: float) -> Strain:
        """Return the same strain in axes turned by `angle` from these (rad, positive from x to y).

        Raises
        ------
        InputError
            The angle is NaN, or more than one turn: it is in degrees.
        """
        return _assemble(self._inputs, self.axes.angle + radians(angle, "angle"))

    def along(self, g: str | ArrayLike) -> RealSlice:
        """Return the normal strain along a direction: nᵀ ε n. For small strain it is the relative change of the spacing of these planes.

        Parameters
        ----------
        g : "g1", "g2", or (2,) array
            A vector of the reference, or any vector on the detector, px with the ellipse removed. Only its direction matters.

        Returns
        -------
        RealSlice (Rx, Ry)
        """
        if isinstance(g, str):
            if g not in ("g1", "g2"):
                raise InputError(f"along={g!r}: need 'g1', 'g2' or a vector (2,) on the detector")
            vector = getattr(self.reference, g)
        else:
            vector = np.array(floats(g, 2, "g", "a vector (2,) on the detector, px"))
        size = float(np.hypot(*vector))
        if not 0 < size < np.inf:
            raise InputError(f"g is {vector.tolist()}: need a vector with a direction")
        x, y = self.axes.on_detector @ vector / size
        weights = float(x * x), float(y * y), float(2 * x * y)
        along: Any = weights[0] * self.exx.data + weights[1] * self.eyy.data + weights[2] * self.exy.data
        return self.exx.of_same_grid(along, "strain along g", "1")

    def to_emd(self) -> dict[str, RealSlice]:
        """Return the arrays that `gpu4d.save` stores: e_xx, e_yy, e_xy, theta, mask, and "uncertainty"."""
        xp = arrays.namespace(self.mask)
        planes = [self.exx.data, self.eyy.data, self.exy.data, self.theta.data]
        planes.append(xp.astype(self.mask, planes[0].dtype))
        size, units = self.exx.pixel_size, self.exx.pixel_units
        stack = RealSlice(xp.stack(planes, axis=0), "strain", "1", size, units, (*COMPONENTS, "mask"))
        return {"": stack, "uncertainty": self.uncertainty}


@dataclass(frozen=True, eq=False)
class _Inputs(Storable, stored="f g: Rx Ry row column; covariance: Rx Ry component row column [px²]; residual: Rx Ry [px]; r_pixel: [Å]"):
    """Inputs of a strain. They are kept, so that other axes are computed from the lattice and not from a rounded tensor."""

    f: Any
    g: Any
    covariance: Any
    residual: Any
    reference: Reference
    frame: str
    to_frame: np.ndarray
    definition: str
    max_strain: float
    r_pixel: float | None
    warnings: tuple[str, ...]


@on_host("judged")
def strain_map(
    fit: LatticeFit,
    *,
    reference: str | ArrayLike | Lattice | LatticeFit | Structure | Strain = "median",
    region: ArrayLike | None = None,
    lattice: Lattice | ArrayLike | None = None,
    definition: str = "finite",
    rotation: float | str | None = None,
    calibration: Calibration | None = None,
    max_strain: float = 0.1,
) -> Strain:
    """Compute the strain of the local lattices relative to a reference.

    The deformation gradient F of the real lattice follows from g = F⁻ᵀ g_ref. "finite" (the default) is U − 1 of F = R U, and the
    rotation is that of R. So a pure rotation of the lattice gives zero strain. "infinitesimal" is the symmetric part of F − 1.
    "first_order" is py4DSTEM's definition: with g = β g_ref, e_xx = 1 − β₀₀, e_yy = 1 − β₁₁, e_xy = −(β₀₁ + β₁₀)/2,
    theta = (β₀₁ − β₁₀)/2. The three agree to first order. If the calibration has an ellipse, it is removed from the lattice vectors first.

    Parameters
    ----------
    fit : LatticeFit
    reference : "median", "mean", "auto", region, vectors, Structure, or another result
        What is unstrained. "median" and "mean": the average of g1 and g2 over `region`, component by component. "auto": the median of
        the largest connected region whose lattice is the same within the noise; `Strain.reference.region` shows it. A region is an
        (Rx, Ry) bool array. Vectors are a (2, 2) array or a `Lattice`, in the basis of `fit.lattice`, px on the detector as measured. A
        `LatticeFit` is that of another scan of the same orientation. A `Strain` gives the same reference again. A `Structure` is the
        crystal's own lattice, for which `calibration` must know the pixel size; strain is then absolute, and as exact as this size.
    region : (Rx, Ry) bool array, optional
        Positions that "median", "mean" and "auto" look at. None: the whole scan.
    lattice : Lattice or (2, 2) array, optional
        The same as vectors for `reference`.
    definition : {"finite", "infinitesimal", "first_order"}
    rotation : float or {"g1", "g2"}, optional
        Angle of the tensor's x axis, rad, from the first scan axis towards the second. Without a calibrated rotation these are the axes
        of the detector. "g1" or "g2" puts the x axis along this reference vector.
    calibration : Calibration, optional
        Its rotation and transpose turn detector axes into scan axes. Its r_pixel is the pixel size of the maps.
    max_strain : float
        Larger components are kept, but a warning counts them. Positive.

    Returns
    -------
    Strain

    Raises
    ------
    InputError
        No position of the region has a lattice, the reference is named in another basis, two references are named, `rotation` is NaN or
        more than one turn, or `max_strain` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.crystal.fit_lattice import fit_lattice
    >>> from gpu4d.data.pointlist import PointListArray
    >>> h, k = np.mgrid[-1:2, -1:2].reshape(2, -1)
    >>> q = np.stack([h * 12 / 1.02, k * 12.0], -1) + 40
    >>> one = PointListArray(np.array([0, 9]), {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(9)}, (1, 1))
    >>> reference = [[12.0, 0.0], [0.0, 12.0]]
    >>> strain_map(fit_lattice(one, reference, origin=(40.0, 40.0)), lattice=reference).exx.data.round(6)
    array([[0.02]])
    """
    if not isinstance(fit, LatticeFit):
        raise InputError(f"fit is a {type(fit).__name__}: need a LatticeFit, as fit_lattice(disks, find_lattice(disks)) gives")
    if definition not in DEFINITIONS:
        raise InputError(f"definition={definition!r}: need one of {', '.join(map(repr, DEFINITIONS))}")
    if not real_number(max_strain, "max_strain") > 0:
        raise InputError(f"max_strain={max_strain}: need a positive strain, for example 0.1 for 10 %")
    g, covariance = _undistorted(fit, calibration)
    if lattice is not None and not (isinstance(reference, str) and reference == "median"):
        raise InputError("reference= and lattice= are both given, and both name the unstrained lattice: leave out one of them")
    given = reference if lattice is None else lattice
    unstrained = choose_reference(arrays.to_numpy(g), fit, given, region, calibration)
    f = deformation_gradient(g, arrays.from_numpy(unstrained.matrix, g))
    _check_basis(arrays.to_numpy(f), unstrained.matrix)
    frame, to_frame, warnings = _frame(calibration)
    step = calibration.r_pixel if calibration is not None else None
    residual = fit.residual
    inputs = _Inputs(f, g, covariance, residual, unstrained, frame, to_frame, definition, float(max_strain), step, warnings)
    return _assemble(inputs, _axis_angle(rotation, to_frame, unstrained))


def _undistorted(fit: LatticeFit, calibration: Calibration | None) -> tuple[Any, Any]:
    """Return lattice vectors as rows (Rx, Ry, 2, 2) and their covariance, without the detector's elliptical distortion."""
    xp = arrays.namespace(fit.g1, fit.g2)
    g, covariance = xp.stack([fit.g1, fit.g2], axis=-2), fit.covariance
    ellipse = calibration.ellipse if calibration is not None else None
    if ellipse is None:
        return g, covariance
    matrix = ellipse_matrix(ellipse)
    g = xp.matmul(g, arrays.from_numpy(np.ascontiguousarray(matrix.T), g))
    # the correction correlates the two detector axes, by 1 − b/a at most; this is neglected
    parts = [sum(float(matrix[c, d] ** 2) * covariance[..., d, :, :] for d in (0, 1)) for c in (0, 1)]
    return g, xp.stack(parts, axis=-3)


def _check_basis(f: np.ndarray, reference: np.ndarray) -> None:
    """Raise InputError if a reference is the same lattice in another basis. A crystal may be stretched or turned by much, too."""
    away = _typical_distance(f)
    if not away > OTHER_BASIS:
        return
    inverse = np.linalg.inv(reference)
    for entries in itertools.product((-1, 0, 1), repeat=4):
        change = np.array(entries, np.float64).reshape(2, 2)
        if abs(np.linalg.det(change)) == 1 and _typical_distance(f @ inverse @ change @ reference) < min(away / 2, OTHER_BASIS):
            raise InputError(
                f"the reference lattice is named in another basis than the fitted one: {np.round(change @ reference, 3).tolist()} px is "
                "nearer to it. Name its vectors as fit.lattice does (which of them is g1, which sign)"
            )


def _typical_distance(f: np.ndarray) -> float:
    """Return the median over the scan of the largest element of |F − 1|. NaN if no position has a lattice."""
    away = np.abs(f - np.eye(2)).max(axis=(-2, -1))
    return float(np.nanmedian(away)) if np.isfinite(away).any() else math.nan


def _frame(calibration: Calibration | None) -> tuple[str, np.ndarray, tuple[str, ...]]:
    """Return the frame of the axes, and the orthogonal matrix from detector to frame: v_scan = R(θ) v_det after the swap."""
    if calibration is None or calibration.rotation is None:
        return (
            "detector",
            np.eye(2),
            ("the rotation between scan and detector is not calibrated: components are along the detector's axes",),
        )
    return "scan", scan_matrix(calibration.rotation, bool(calibration.transpose)), ()


def _axis_angle(rotation: float | str | None, to_frame: np.ndarray, reference: Reference) -> float:
    """Return the angle from the first axis of the frame to the tensor's x axis, rad."""
    if rotation is None:
        return 0.0
    if isinstance(rotation, str):
        if rotation not in ("g1", "g2"):
            raise InputError(f"rotation={rotation!r}: need an angle in rad, 'g1' or 'g2'")
        x, y = to_frame @ getattr(reference, rotation)
        return math.atan2(y, x)
    return radians(rotation, "rotation")


def _assemble(inputs: _Inputs, angle: float) -> Strain:
    """Compute components in axes at `angle` of the frame: F' = Q F Qᵀ, with the axes on the detector as rows of Q."""
    xp = arrays.namespace(inputs.f)
    c, s = math.cos(angle), math.sin(angle)
    axes = np.array([[c, s], [-s, c]]) @ inputs.to_frame
    q = arrays.from_numpy(axes, inputs.f)
    f = xp.matmul(xp.matmul(q, inputs.f), xp.matrix_transpose(q))
    exx, eyy, exy, theta = components(f, inputs.definition)
    errors = standard_errors(inputs.f, inputs.g, inputs.covariance, q, inputs.definition)
    mask = xp.isfinite(exx) & xp.isfinite(eyy) & xp.isfinite(exy)
    warnings = inputs.warnings + _too_large((exx, eyy, exy), inputs.max_strain)
    real = lambda data, name, unit, labels=(): RealSlice.calibrated(data, name, unit, inputs.r_pixel, labels)  # noqa: E731
    return Strain(
        exx=real(exx, "e_xx", "1"),
        eyy=real(eyy, "e_yy", "1"),
        exy=real(exy, "e_xy", "1"),
        theta=real(theta, "theta", "rad"),
        rotation=real(-theta, "rotation", "rad"),
        residual=real(inputs.residual, "residual", "px"),
        uncertainty=real(xp.stack(errors, axis=0), "strain_uncertainty", "1", COMPONENTS),
        mask=mask,
        reference=inputs.reference,
        axes=Axes(inputs.frame, angle, axes),
        definition=inputs.definition,
        warnings=warnings,
        _inputs=inputs,
    )


def _too_large(parts: tuple[Any, ...], limit: float) -> tuple[str, ...]:
    """Return a warning if components exceed the limit."""
    xp = arrays.namespace(*parts)
    large = (xp.abs(parts[0]) > limit) | (xp.abs(parts[1]) > limit) | (xp.abs(parts[2]) > limit)
    count = int(xp.sum(xp.astype(large, xp.int64)))
    if not count:
        return ()
    text = f"{count} position{'s' * (count > 1)} with strain above {limit:g}: look at their disks, or choose another reference"
    log.warning(text)
    return (text,)
