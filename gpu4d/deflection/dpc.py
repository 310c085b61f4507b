"""Differential phase contrast: the phase of a thin object from the centre of mass of its diffraction patterns."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any, Unpack

from gpu4d import arrays, physics
from gpu4d.arrays import Array, ArrayLike
from gpu4d.calibrate.rotation import rotation as find_rotation
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.scan_axes import to_scan_axes
from gpu4d.data.slices import RealSlice
from gpu4d.deflection.counting_error import variance_in_scan_axes
from gpu4d.deflection.descan import WithoutDescan, without_descan
from gpu4d.deflection.integrate_gradient import Settings, integrate_iteratively
from gpu4d.deflection.momentum import Momentum
from gpu4d.deflection.phase_error import phase_error
from gpu4d.deflection.result import DPC
from gpu4d.deflection.sign import phase_sign
from gpu4d.deflection.validity import PSEUDO, Validity, potential_validity
from gpu4d.imaging.detectors import DetectorLike
from gpu4d.on_host import on_host
from gpu4d.real_arrays import radians
from gpu4d.streaming.engine import SweepOptions

log = logging.getLogger("gpu4d")


@on_host("judged")
def dpc(
    cube_or_com: DataCube | Array,
    /,
    *,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    rotation: float | None = None,
    transpose: bool | None = None,
    thickness: float | None = None,
    bragg_angle: float | None = None,
    probe_size: float | None = None,
    outside: float | None = None,
    descan: str | ArrayLike | None = "auto",
    descan_where: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    detector: DetectorLike | None = None,
    dark_field: ArrayLike | None = None,
    lambda1: float = 0.0,
    lambda2: float = 0.0,
    boundary: str = "mirror",
    padding_factor: float = 2.0,
    max_iterations: int = 25,
    **sweep_options: Unpack[SweepOptions],
) -> DPC:
    """Integrate the centre-of-mass field of a thin object to its phase (iCoM, iDPC).

    ⟨k⟩ = (∇φ ⊗ |ψ₀|²) / 2π, so φ (blurred by the probe's intensity) is the integral of 2π ⟨k⟩. If the rotation of the detector is
    not known, the rotation with the least curl is taken, with and without transpose. This leaves 180° open. They are decided by
    what atoms do: atoms attract electrons, so the phase has positive skewness and correlates with the dark field.

    Parameters
    ----------
    cube_or_com : DataCube, (Rx, Ry, 2) array, or RealSlice stack (2, Rx, Ry)
        A scan, which is swept, or its centre of mass in detector pixels and detector axes.
    energy, semiangle, q_pixel, r_pixel : float, optional
        eV, mrad, 1/Å, Å; from the cube's calibration unless given. Without a pixel size the phase is relative, with a warning.
    rotation, transpose : float, bool, optional
        Radians; from the cube's calibration unless given, else found from the field.
    thickness, bragg_angle, probe_size, outside : float, optional
        Thickness of the specimen, Å; smallest Bragg angle of a crystal, mrad; width of the probe, Å; share of the electrons outside of
        the disk, which is measured of a cube. They decide whether the result may be called a potential, see
        `gpu4d.deflection.potential_validity`. With the thickness the field is in V/Å.
    descan : {"auto", "plane", "mean", None} or array (2,) or (Rx, Ry, 2)
        What to subtract from the centre of mass, see `gpu4d.deflection.remove_descan`. What a scan in vacuum measured comes from
        `gpu4d.deflection.descan_surface`.
    descan_where : (Rx, Ry) bool, optional
        Positions without a field, such as vacuum: mean or plane are fitted there.
    variance : (3, Rx, Ry) real, optional
        Variances of a given centre of mass, from `gpu4d.deflection.CenterOfMassVariance`. Of a cube they are measured.
    detector : Detector or (Qx, Qy) bool array, optional
        Pixels that count for the centre of mass of a cube.
    dark_field : (Rx, Ry) array, optional
        Electrons scattered out of the bright-field disk: helps to decide the 180°. Of a cube it is measured if it is needed.
    lambda1, lambda2 : float
        Regularisation, (cycles per scan pixel)² against low k and its inverse against high k.
    boundary, padding_factor, max_iterations
        As in `gpu4d.deflection.integrate_gradient`. "mirror" is exact for free edges and the least sensitive to noise.
    **sweep_options
        Of `gpu4d.sweep`: device, memory, progress, where.

    Returns
    -------
    DPC

    Raises
    ------
    InputError
        It is neither a scan nor a centre-of-mass field, or has fewer than 3 × 3 positions and no rotation.

    Notes
    -----
    Müller-Caspary et al., Ultramicroscopy 178 (2017) 62; Lazić, Bosch, Lazar, Ultramicroscopy 160 (2016) 265.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((24, 24), (24, 24), r_pixel=0.5, rotation=0.4)
    >>> found = dpc(scan.cube)
    >>> round(found.rotation, 2), found.transpose, found.phase.units
    (0.4, False, 'rad')
    """
    scan = Momentum.of(cube_or_com, detector, variance, sweep_options)
    scan.take_dark_field(dark_field)
    known = scan.calibration.copy()
    given: dict[str, Any] = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel}
    known.set(**{name: value for name, value in given.items() if value is not None})
    q, step = known.q_pixel, known.r_pixel
    warnings: list[str] = []
    decisions = list(scan.notes)
    _warn_of_missing(q, step, warnings)

    flat = without_descan(scan.com, descan, descan_where)
    momentum = flat.field
    decisions.append(flat.how)
    rotation = known.rotation if rotation is None else radians(rotation, "rotation")
    if transpose is None:
        transpose = known.transpose if rotation is None else bool(known.transpose)
    curl = None
    if rotation is None:
        curl = find_rotation(momentum, transpose=transpose)
        rotation, transpose = curl.angle, curl.transpose
        decisions.append(str(curl))
        if not curl.decided:
            warnings.append(
                f"the transpose is not decided: the curls differ by a factor of {curl.margin:.3g} only; give transpose= (and rotation=)"
            )

    aligned = to_scan_axes(momentum * (1.0 if q is None else q), rotation, bool(transpose))
    settings = Settings(step or 1.0, lambda1, lambda2, boundary, padding_factor, max_iterations)
    phase, misfit = integrate_iteratively(2 * math.pi * aligned, *settings)
    errors = [float(e) for e in arrays.to_numpy(misfit)]
    sign = None
    if curl is not None:
        sign = phase_sign(arrays.to_numpy(phase), scan.dark_field())
        decisions.append(sign.text)
        if sign.sign < 0:
            phase, aligned, rotation = -phase, -aligned, rotation + (math.pi if rotation <= 0 else -math.pi)
        if not sign.decided:
            warnings.append(
                f"the 180° of the rotation is not decided ({sign.margin:.1f} standard errors): contrast may be inverted; give the "
                "rotation (rotation=, or --rotation of a run)"
            )
    for message in warnings:
        log.warning("dpc: %s", message)
    validity = potential_validity(
        energy=known.energy, semiangle=known.semiangle, thickness=thickness, r_pixel=step,
        probe_size=probe_size, bragg_angle=bragg_angle, outside=scan.outside if outside is None else outside,
    )  # fmt: skip
    decisions.append(str(validity))
    bare = DPC(
        RealSlice(phase), RealSlice(phase), float(rotation), bool(transpose), curl, sign, flat.how, errors, decisions, warnings,
        validity=validity, energy=known.energy, thickness=thickness,
    )  # fmt: skip
    spread = None if scan.variance is None else variance_in_scan_axes(scan.variance, bare.rotation, bare.transpose, q or 1.0)
    return _with_errors(_result(phase, aligned, known, validity, bare), spread, settings, flat, descan_where)


def _result(phase: Any, aligned: Any, known: Calibration, validity: Validity, bare: DPC) -> DPC:
    """Give the slices of the result their names and units."""
    q, step = known.q_pixel, known.r_pixel
    absolute = q is not None and step is not None
    com = arrays.namespace(aligned).permute_dims(aligned, (2, 0, 1))
    potential = None
    if absolute and known.energy is not None:
        name = "projected potential" if validity.valid else PSEUDO
        potential = RealSlice.calibrated(phase / physics.interaction_constant(known.energy), name, "V Å", step)
    name = "DPC phase" if validity.valid else f"{PSEUDO} phase"
    return replace(
        bare,
        phase=RealSlice.calibrated(phase, name, "rad" if absolute else "relative", step),
        com=RealSlice.calibrated(com, "mean momentum transfer", "1/Å" if q is not None else "px", step, ("com_x", "com_y")),
        potential=potential,
    )


def _with_errors(found: DPC, spread: Any, settings: Settings, flat: WithoutDescan, where: ArrayLike | None) -> DPC:
    """Add the standard errors that follow from the variances (Rx, Ry, 2) of the momentum along the scan axes."""
    if spread is None:
        return found
    xp, step = arrays.namespace(spread), found.com.pixel_size if found.com.pixel_units == "Å" else None
    error = xp.sqrt(xp.permute_dims(spread, (2, 0, 1)))
    com_error = RealSlice.calibrated(error, "standard error of the momentum", found.com.units, step, found.com.labels)
    if settings.boundary == "padded":
        return replace(found, com_error=com_error)
    variance = (2 * math.pi) ** 2 * arrays.to_numpy(spread)
    how_integrated = settings.step, settings.lambda1, settings.lambda2, settings.boundary
    errors = phase_error(variance, *how_integrated, descan=flat.fitted, where=where)
    of_phase = found.phase.of_same_grid(arrays.from_numpy(errors, spread), f"standard error of the {found.phase.name}", found.phase.units)
    return replace(found, com_error=com_error, phase_error=of_phase)


def _warn_of_missing(q: float | None, step: float | None, warnings: list[str]) -> None:
    missing = [name for name, value in (("the detector pixel (q_pixel, 1/Å)", q), ("the scan step (r_pixel, Å)", step)) if value is None]
    if missing:
        warnings.append(
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not known: the phase is in relative units, not radians"
        )
