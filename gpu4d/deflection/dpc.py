"""Differential phase contrast: the phase of a thin object from the centre of mass of its diffraction patterns."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays, physics
from gpu4d.arrays import Array, ArrayLike
from gpu4d.calibrate.rotation import Rotation, com_field
from gpu4d.calibrate.rotation import rotation as find_rotation
from gpu4d.data.arguments import positions_of, real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.scan_axes import to_scan_axes
from gpu4d.data.slices import RealSlice
from gpu4d.deflection.descan import remove_descan
from gpu4d.deflection.integrate_gradient import integrate_iteratively
from gpu4d.deflection.sign import Sign, phase_sign
from gpu4d.errors import InputError
from gpu4d.imaging.com_map import CenterOfMass
from gpu4d.imaging.detectors import DetectorLike
from gpu4d.real_arrays import radians
from gpu4d.streaming.engine import SweepOptions

log = logging.getLogger("gpu4d")

DARK_FIELD_REGION = 128  # positions a side, in the middle of the scan: enough to tell the sign of a correlation
DARK_FIELD_INNER = 1.1  # of the bright-field disk's radius


@dataclass
class DPC:
    """The phase of a thin object, and how it was found.

    Attributes
    ----------
    phase : RealSlice (Rx, Ry)
        Radians ("relative" where a pixel size is missing), mean zero; NaN where the centre of mass is NaN.
    com : RealSlice (2, Rx, Ry)
        Mean momentum transfer along the scan axes, without descan, 1/Å (px where q_pixel is missing).
    rotation, transpose : float, bool
        v_scan = R(rotation) v_det after swapping (qx, qy) where `transpose`; radians, the 180° included.
    curl : Rotation or None
        How rotation and transpose were found; None if the rotation was given.
    sign : Sign or None
        How the 180° was decided; None if the rotation was given.
    descan : str
        What was subtracted, as a sentence.
    errors : list of float
        Misfit after every iteration; empty if none was needed (boundary "mirror" or "periodic", no NaN position).
    decisions, warnings : list of str
        Sentences: what was decided and why, and what may be wrong.
    potential : RealSlice or None
        Projected potential φ / σ, V Å, if the beam energy is known. It holds for a thin object only.
    """

    phase: RealSlice
    com: RealSlice
    rotation: float
    transpose: bool
    curl: Rotation | None = None
    sign: Sign | None = None
    descan: str = ""
    errors: list[float] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    potential: RealSlice | None = None

    def __repr__(self) -> str:
        turn = f"rotation {math.degrees(self.rotation):.1f}° ({'given' if self.curl is None else 'found'}), transpose {self.transpose}"
        n = len(self.warnings)
        words = f", {n} warning{'s' * (n > 1)}" if n else ""
        return f"DPC({'×'.join(map(str, self.phase.shape))} positions, phase {self.phase.range_text()}, {turn}{words})"

    @property
    def skew(self) -> float:
        """Skewness of this phase; NaN if the rotation was given."""
        return math.nan if self.sign is None else self.sign.sign * self.sign.skew

    @property
    def margin(self) -> float:
        """How clear the decision of the 180° is, in standard errors; NaN if the rotation was given."""
        return math.nan if self.sign is None else self.sign.margin


def dpc(
    cube_or_com: DataCube | Array,
    /,
    *,
    energy: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    rotation: float | None = None,
    transpose: bool | None = None,
    descan: str | ArrayLike | None = "auto",
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
    energy, q_pixel, r_pixel : float, optional
        eV, 1/Å, Å; from the cube's calibration unless given. Without a pixel size the phase is relative, with a warning.
    rotation, transpose : float, bool, optional
        Radians; from the cube's calibration unless given, else found from the field.
    descan : {"auto", "plane", "mean", None} or array (2,) or (Rx, Ry, 2)
        What to subtract from the centre of mass, see `gpu4d.deflection.remove_descan`.
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
    scan = _Scan.of(cube_or_com, detector, dark_field, sweep_options)
    known = scan.calibration.copy()
    given: dict[str, Any] = {"energy": energy, "q_pixel": q_pixel, "r_pixel": r_pixel}
    known.set(**{name: value for name, value in given.items() if value is not None})
    q, step = known.q_pixel, known.r_pixel
    warnings: list[str] = []
    decisions = list(scan.notes)
    _warn_of_missing(q, step, warnings)

    momentum, how = remove_descan(scan.com, descan)
    decisions.append(how)
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
    phase, misfit = integrate_iteratively(2 * math.pi * aligned, step or 1.0, lambda1, lambda2, boundary, padding_factor, max_iterations)
    errors = [float(e) for e in arrays.to_numpy(misfit)]
    sign = None
    if curl is not None:
        sign = phase_sign(arrays.to_numpy(phase), scan.dark_field())
        decisions.append(sign.text)
        if sign.sign < 0:
            phase, aligned, rotation = -phase, -aligned, rotation + (math.pi if rotation <= 0 else -math.pi)
        if not sign.decided:
            warnings.append(
                f"the 180° of the rotation is not decided ({sign.margin:.1f} standard errors): contrast may be inverted; give rotation="
            )
    for message in warnings:
        log.warning("dpc: %s", message)
    return _result(phase, aligned, q, step, known.energy, DPC(
        RealSlice(phase), RealSlice(phase), float(rotation), bool(transpose), curl, sign, how, errors, decisions, warnings,
    ))  # fmt: skip


def _result(phase: Any, aligned: Any, q: float | None, step: float | None, energy: float | None, bare: DPC) -> DPC:
    """Give the slices of the result their names and units."""
    absolute = q is not None and step is not None
    com = arrays.namespace(aligned).permute_dims(aligned, (2, 0, 1))
    potential = None
    if absolute and energy is not None:
        potential = RealSlice.calibrated(phase / physics.interaction_constant(energy), "projected potential", "V Å", step)
    return replace(
        bare,
        phase=RealSlice.calibrated(phase, "DPC phase", "rad" if absolute else "relative", step),
        com=RealSlice.calibrated(com, "mean momentum transfer", "1/Å" if q is not None else "px", step, ("com_x", "com_y")),
        potential=potential,
    )


def _warn_of_missing(q: float | None, step: float | None, warnings: list[str]) -> None:
    missing = [f"{name} ({units})" for name, value, units in (("q_pixel", q, "1/Å"), ("r_pixel", step, "Å")) if value is None]
    if missing:
        warnings.append(f"{' and '.join(missing)} not known: the phase is in relative units, not radians")


@dataclass
class _Scan:
    """The centre of mass of a scan, what is known of the scan, and where a dark field can be measured."""

    com: Any
    calibration: Calibration
    cube: DataCube | None = None
    disk: Any = None
    given_dark_field: np.ndarray | None = None
    sweep_options: SweepOptions = field(default_factory=SweepOptions)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, given: Any, detector: Any, dark_field: Any, options: SweepOptions) -> _Scan:
        if isinstance(given, DataCube):
            scan = cls._swept(given, detector, options)
        else:
            if options or detector is not None:
                names = sorted([*options, *(["detector"] if detector is not None else [])])
                raise InputError(f"{', '.join(names)} belong to a scan, and this is its centre of mass already: leave them out")
            step = given.pixel_size if getattr(given, "pixel_units", None) == "Å" else None
            scan = cls(com_field(given), Calibration(r_pixel=step) if step else Calibration())
        if dark_field is not None:
            image = real_values(dark_field, "dark_field", "one value per position").astype(np.float64)
            if image.shape != tuple(scan.com.shape[:2]):
                raise InputError(f"dark_field is {image.shape}, the scan is {tuple(scan.com.shape[:2])}: need one value per position")
            scan.given_dark_field = image
        return scan

    @classmethod
    def _swept(cls, cube: DataCube, detector: Any, options: SweepOptions) -> _Scan:
        from gpu4d.imaging.patterns import MeanPattern
        from gpu4d.probe.measure_disk import measure_disk
        from gpu4d.streaming.engine import sweep

        out = sweep(cube, {"com": CenterOfMass(detector), "mean": MeanPattern()}, **options)
        scan = cls(com_field(out["com"]), cube.calibration.copy(), cube, sweep_options=options)
        try:
            scan.disk = measure_disk(arrays.to_numpy(out["mean"].data), cube.detector_mask)
        except InputError as error:
            scan.notes.append(f"no bright-field disk found ({error})")
        known = scan.calibration
        if known.q_pixel is None and known.energy and known.semiangle and scan.disk is not None:
            known.set(probe_radius=scan.disk.radius, how="circle fit to the mean pattern")
            known.complete()
            scan.notes.append(f"q_pixel {known.q_pixel:.5g} 1/Å: {known.history[-1].how}")
        return scan

    def dark_field(self) -> np.ndarray | None:
        """Return the share of the electrons outside the bright-field disk, (Rx, Ry); NaN where not measured, None if it cannot be."""
        if self.given_dark_field is not None or self.cube is None or self.disk is None:
            return self.given_dark_field
        from gpu4d.imaging.image import VirtualImage
        from gpu4d.streaming.engine import sweep

        x, y = (np.arange(n) - c for n, c in zip(self.cube.detector_shape, (self.disk.qx, self.disk.qy)))
        outside = x[:, None] ** 2 + y**2 > (DARK_FIELD_INNER * self.disk.radius) ** 2
        if not outside.any():
            return None
        middle = np.zeros(self.cube.scan_shape, bool)
        middle[tuple(slice(max(n - DARK_FIELD_REGION, 0) // 2, (n + DARK_FIELD_REGION + 1) // 2) for n in middle.shape)] = True
        options = self.sweep_options | {"where": middle & positions_of(self.sweep_options.get("where"), middle.shape)}
        counts = arrays.to_numpy(sweep(self.cube, VirtualImage([outside, np.ones_like(outside)]), **options).data)
        with np.errstate(invalid="ignore", divide="ignore"):
            return counts[0] / counts[1]
