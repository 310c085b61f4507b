"""Magnetic induction from the deflection of the beam, and its separation from electric fields."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays, physics
from gpu4d.arrays import Array, ArrayLike
from gpu4d.calibrate.rotation import rotation as find_rotation
from gpu4d.data.arguments import real_values
from gpu4d.data.datacube import DataCube
from gpu4d.data.scan_axes import to_scan_axes
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.deflection.counting_error import variance_in_scan_axes
from gpu4d.deflection.curl_free import curl_free
from gpu4d.deflection.descan import remove_descan
from gpu4d.deflection.find_shift import ScanShift, find_shift, resampled, resampled_variance
from gpu4d.deflection.momentum import Momentum
from gpu4d.deflection.phase_error import curl_free_error
from gpu4d.errors import InputError
from gpu4d.imaging.detectors import DetectorLike
from gpu4d.on_host import on_host
from gpu4d.real_arrays import beside, floats, radians, real_array, real_number
from gpu4d.streaming.engine import SweepOptions

log = logging.getLogger("gpu4d")

H_OVER_E = physics.PLANCK / physics.ELEMENTARY_CHARGE * 1e10 * 1e9  # T nm per 1/Å
RELATIONS = ("reversed", "flipped")
RIVAL = 0.9  # share of the best correlation, from which on another displacement is as likely


@dataclass
class MagneticInduction(Storable, stored="rotation: [rad]"):
    """The projected magnetic induction B t of a specimen, and how it was found.

    Attributes
    ----------
    induction : RealSlice (2, Rx, Ry)
        B_x t and B_y t along the scan axes, T nm: the part without divergence, as div B = 0 asks. NaN where a scan has no position.
    error : RealSlice (2, Rx, Ry) or None
        Its standard errors, from the counts and from the displacement of the scans; None if the values are no electrons.
    measured, measured_error : RealSlice
        The same with the divergence that noise makes: every position by itself.
    electric : RealSlice (2, Rx, Ry) or None
        Mean momentum of the electric part, 1/Å, without curl; None if nothing separates it.
    electric_error : RealSlice or None
    shift : ScanShift or None
        Displacement of the second scan; its error is zero if it was given.
    rotation, transpose : float, bool
        As in `gpu4d.DPC`.
    descan : str
        What was subtracted, as a sentence.
    excess : float
        Energy of the divergence over what the counts explain: 1 for fields without divergence. NaN without errors.
    decisions, warnings : list of str
    """

    induction: RealSlice
    measured: RealSlice
    rotation: float
    transpose: bool
    descan: str
    error: RealSlice | None = None
    measured_error: RealSlice | None = None
    electric: RealSlice | None = None
    electric_error: RealSlice | None = None
    shift: ScanShift | None = None
    excess: float = math.nan
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.induction.shape[1:]))
        n = len(self.warnings)
        words = f", {n} warning{'s' * (n > 1)}" if n else ""
        return f"MagneticInduction({size} positions, B t {self.induction.range_text()}, ± {self.sensitivity:.2g} T nm{words})"

    @property
    def sensitivity(self) -> float:
        """Standard error of a component of `induction` at a position, rms over the scan, T nm; NaN if the values are no electrons."""
        return _rms(self.error)

    def flux_density(self, thickness: float) -> RealSlice:
        """Return the mean induction B in a specimen of the given thickness (Å), in T, (2, Rx, Ry)."""
        if not 0 < float(real_number(thickness, "thickness")) < math.inf:
            raise InputError(f"thickness={thickness}: need a positive number of Å")
        found = self.induction.of_same_grid(self.induction.data / (thickness / 10), "magnetic induction", "T")
        found.labels = ("B_x", "B_y")
        return found


@on_host("judged")
def magnetic_induction(
    cube_or_com: DataCube | Array,
    second: DataCube | Array | None = None,
    /,
    *,
    relation: str = "reversed",
    shift: ArrayLike | None = None,
    max_shift: float | None = None,
    electric: ArrayLike | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    rotation: float | None = None,
    transpose: bool | None = None,
    descan: str | ArrayLike | None = "auto",
    descan_where: ArrayLike | None = None,
    detector: DetectorLike | None = None,
    variance: ArrayLike | None = None,
    second_variance: ArrayLike | None = None,
    **sweep_options: Unpack[SweepOptions],
) -> MagneticInduction:
    """Map the magnetic induction of a thin specimen, B t, from the centre of mass of its diffraction patterns.

    The Lorentz force deflects the electrons, ⟨k⟩ = e t (B_y, −B_x) / h for a beam along +z of right-handed axes. So B_y t = (h/e) k_x
    and B_x t = −(h/e) k_y, with h/e = 4.136e4 T nm per 1/Å. Electric fields deflect too. They are told apart by a second scan in which
    the magnetic part has changed its sign and the electric part has not: half the difference is magnetic, half the sum electric.

    Parameters
    ----------
    cube_or_com : DataCube, (Rx, Ry, 2) array, or RealSlice stack (2, Rx, Ry)
        A scan, which is swept, or its centre of mass in detector pixels and detector axes.
    second : DataCube or array, optional
        A second scan of the same shape, step and detector.
    relation : {"reversed", "flipped"}
        What was done before the second scan: the magnetisation was reversed, or the specimen was turned over about the first scan
        axis. The second axis of a flipped scan runs backwards over the specimen; this is undone here.
    shift : (float, float), optional
        Position R of the second scan (after undoing the flip) lies over the place R + shift of the first, steps. Found by
        `gpu4d.deflection.find_shift` unless given.
    max_shift : float, optional
        Largest displacement to look for, steps.
    electric : (Rx, Ry, 2) or (2, Rx, Ry) RealSlice, optional
        Momentum of the electric part in scan axes, 1/Å, if it is known: `com` of a DPC without magnetisation. Instead of `second`.
    q_pixel, r_pixel : float, optional
        1/Å, Å; from the cube's calibration unless given. The induction needs `q_pixel`.
    rotation, transpose : float, bool, optional
        Radians; from the cube's calibration unless given. If unknown, least curl is taken, which leaves the sign of B open.
    descan, descan_where
        As for `gpu4d.dpc`; for each scan by itself. What is subtracted is lost from B too: a mean is known only where a region without
        field is given.
    detector : Detector or (Qx, Qy) bool array, optional
        Pixels that count for the centre of mass of a cube.
    variance, second_variance : (3, Rx, Ry) real, optional
        Variances of given centres of mass (`gpu4d.deflection.CenterOfMassVariance`).
    **sweep_options
        Of `gpu4d.sweep`: device, memory, progress, where.

    Returns
    -------
    MagneticInduction

    Raises
    ------
    InputError
        No pixel size, scans of different shapes, both `second` and `electric`, or an unknown relation.

    Notes
    -----
    Chapman et al., IEEE Trans. Magn. 26 (1990) 1506; Krajnak et al., Ultramicroscopy 165 (2016) 42.

    Examples
    --------
    >>> import numpy as np
    >>> com = np.zeros((16, 16, 2)) + 10.0
    >>> com[:8, :, 0] += 0.5                                        # two domains, with B along +y and −y
    >>> com[8:, :, 0] -= 0.5
    >>> found = magnetic_induction(com, q_pixel=1e-3, r_pixel=50.0, rotation=0.0, descan=(10.0, 10.0))
    >>> np.asarray(found.measured)[1, [0, 15], 3].round(1).tolist()  # T nm
    [20.7, -20.7]
    """
    if second is not None and electric is not None:
        raise InputError("second= and electric= are two ways to take off the electric part: give one of them")
    if relation not in RELATIONS:
        raise InputError(f"relation={relation!r}: need 'reversed' (the magnetisation) or 'flipped' (the specimen, about the first axis)")
    first = Momentum.of(cube_or_com, detector, variance, sweep_options)
    known = first.calibration.copy()
    given: dict[str, Any] = {"q_pixel": q_pixel, "r_pixel": r_pixel}
    known.set(**{name: value for name, value in given.items() if value is not None})
    if known.q_pixel is None:
        raise InputError("the induction needs the size of a detector pixel: give q_pixel= in 1/Å, or energy and semi-angle of the cube")
    decisions, warnings = list(first.notes), list[str]()
    momentum, how = remove_descan(first.com, descan, where=descan_where)
    decisions.append(how)
    turn, swapped = _rotation(momentum, known, rotation, transpose, decisions, warnings)
    k1 = to_scan_axes(momentum * known.q_pixel, turn, swapped)
    v1 = None if first.variance is None else variance_in_scan_axes(first.variance, turn, swapped, known.q_pixel)
    if second is not None:
        pair = Momentum.of(second, detector, second_variance, sweep_options)
        k2, v2 = _second(pair, k1, (descan, descan_where), known.q_pixel, (turn, swapped), relation)
        parts = _separated(k1, v1, k2, v2, shift, max_shift, decisions, warnings)
    elif electric is not None:
        known_part = _electric(electric, k1)
        parts = _Parts(k1 - known_part, v1, known_part, None, None, None)
        decisions.append("the given electric part is subtracted")
    else:
        parts = _Parts(k1, v1, None, None, None, None)
        warnings.append("the electric part is not separated: give a second scan, or the electric part (electric=)")
    for message in warnings:
        log.warning("magnetic_induction: %s", message)
    return _result(parts, known.r_pixel, turn, swapped, how, decisions, warnings)


@dataclass
class _Parts:
    """Momenta (Rx, Ry, 2) of both parts in 1/Å, variances from the counts, and from the displacement."""

    magnetic: Any
    variance: Any
    electric: Any
    electric_variance: Any
    shift: ScanShift | None
    of_shift: Any


def _rotation(momentum: Any, known: Any, rotation: Any, transpose: Any, decisions: list[str], warnings: list[str]) -> tuple[float, bool]:
    """Return rotation and transpose: those given, those calibrated, or those with the least curl."""
    turn = known.rotation if rotation is None else radians(rotation, "rotation")
    swapped = transpose if transpose is not None else known.transpose if rotation is None else bool(known.transpose)
    if turn is not None:
        return float(turn), bool(swapped)
    curl = find_rotation(momentum, transpose=swapped)
    decisions.append(str(curl))
    warnings.append(
        "the rotation is known up to 180° only, so B may have the other sign everywhere: give the rotation "
        "(rotation=, or --rotation of a run)"
    )
    return curl.angle, curl.transpose


def _second(pair: Momentum, k1: Any, descan: tuple, q: float, turn: tuple[float, bool], relation: str) -> tuple[Any, Any]:
    """Return momentum and variances of the second scan in the axes and the order of positions of the first."""
    if tuple(pair.com.shape) != tuple(k1.shape):
        shapes = f"{tuple(pair.com.shape[:2])} and {tuple(k1.shape[:2])}"
        raise InputError(f"the scans have the shapes {shapes}: need two of one shape")
    where = descan[1]
    if where is not None and relation == "flipped":  # the same places of the specimen
        where = np.flip(real_values(where, "descan_where", "(Rx, Ry)"), axis=1)
    momentum, _ = remove_descan(beside(pair.com, "second", k1), descan[0], where=where)
    k2 = to_scan_axes(momentum * q, *turn)
    v2 = None if pair.variance is None else variance_in_scan_axes(beside(pair.variance, "second_variance", k1), *turn, q)
    if relation == "flipped":
        xp = arrays.namespace(k2)
        k2 = xp.flip(k2, axis=1)
        k2 = xp.stack([k2[..., 0], -k2[..., 1]], axis=-1)
        v2 = None if v2 is None else xp.flip(v2, axis=1)
    return k2, v2


def _separated(k1: Any, v1: Any, k2: Any, v2: Any, shift: Any, most: float | None, decisions: list[str], warnings: list[str]) -> _Parts:
    """Bring the second scan over the first, and take half the difference and half the sum."""
    if shift is None:
        found = find_shift(arrays.to_numpy(k1), arrays.to_numpy(k2), max_shift=most)
        decisions.append(str(found))
        if found.rival > RIVAL:
            warnings.append(
                f"another displacement of the scans fits nearly as well ({found.rival:.2f} times as well): give the displacement (shift=)"
            )
    else:
        dx, dy = floats(shift, 2, "shift")
        found = ScanShift((dx, dy), (0.0, 0.0), math.nan, math.nan)
        decisions.append(f"the second scan is displaced by {dx:+.2f} and {dy:+.2f} steps, as given")
    moved = resampled(k2, found.shift)
    magnetic, electric = (k1 - moved) / 2, (k1 + moved) / 2
    if v1 is None or v2 is None:
        return _Parts(magnetic, None, electric, None, found, None)
    variance = (v1 + resampled_variance(v2, found.shift)) / 4
    of_shift = 0.0 * variance
    for axis, error in enumerate(found.error):
        if error > 0:
            half = (0.5 * (axis == 0), 0.5 * (axis == 1))  # steps
            ends = [resampled(k2, (found.shift[0] + sign * half[0], found.shift[1] + sign * half[1])) for sign in (-1, 1)]
            slope = (ends[1] - ends[0]) / 2  # of half the sum and half the difference, per step
            xp = arrays.namespace(slope)
            of_shift = of_shift + xp.where(xp.isfinite(slope), (error * slope) ** 2, 0.0 * variance)
    return _Parts(magnetic, variance, electric, variance, found, of_shift)


def _electric(given: Any, k1: Any) -> Any:
    """Return a known electric part as (Rx, Ry, 2), 1/Å."""
    if isinstance(given, RealSlice) and len(given.shape) == 3 and given.shape[0] == 2:
        if given.units not in ("", "1/Å"):
            raise InputError(f"electric is in {given.units}: need the momentum in 1/Å")
        given = arrays.namespace(given.data).permute_dims(given.data, (1, 2, 0))
    part = arrays.as_float64(beside(real_array(given, "electric", "(Rx, Ry, 2), 1/Å"), "electric", k1))
    if tuple(part.shape) != tuple(k1.shape):
        raise InputError(f"electric has shape {tuple(part.shape)}, need {tuple(k1.shape)}")
    return part


def _result(parts: _Parts, step: float | None, turn: float, swapped: bool, how: str, decisions: list[str], warnings: list[str]) -> Any:
    """Convert momenta to inductions, and give all slices their names and units."""
    smooth = curl_free(parts.magnetic)
    labels, name = ("Bx_t", "By_t"), "projected induction"

    def slice_of(k: Any, name: str) -> RealSlice:
        return RealSlice.calibrated(_induction(k), name, "T nm", step, labels)

    found = MagneticInduction(slice_of(smooth, name), slice_of(parts.magnetic, f"{name}, measured"), turn, swapped, how)
    found.shift, found.decisions, found.warnings = parts.shift, decisions, warnings
    if parts.electric is not None:
        found.electric = _momentum_slice(curl_free(parts.electric), "electric momentum", step)
    if parts.variance is None:
        return found
    counts = arrays.to_numpy(arrays.as_float64(parts.variance))
    of_shift = 0.0 if parts.of_shift is None else arrays.to_numpy(parts.of_shift)
    whole, part = np.sqrt(counts + of_shift), np.sqrt(curl_free_error(counts) ** 2 + of_shift)
    found.measured_error, found.error = (_error_slice(e, smooth, step, labels) for e in (whole, part))
    if parts.electric_variance is not None:
        found.electric_error = _momentum_slice(arrays.from_numpy(part, smooth), "error of the electric momentum", step)
    curl = arrays.to_numpy(parts.magnetic - smooth)
    expected = np.nansum(counts - curl_free_error(counts) ** 2)
    found.excess = float(np.nansum(curl**2) / expected) if expected > 0 else math.nan
    return found


def _induction(k: Any) -> Any:
    """Return (B_x t, B_y t), (2, Rx, Ry) in T nm, from momenta (Rx, Ry, 2) in 1/Å."""
    return arrays.namespace(k).stack([-H_OVER_E * k[..., 1], H_OVER_E * k[..., 0]])


def _error_slice(errors: np.ndarray, like: Any, step: float | None, labels: tuple[str, ...]) -> RealSlice:
    """Return the errors of (B_x t, B_y t) from those of the momenta (Rx, Ry, 2): B_x comes from k_y."""
    turned = np.ascontiguousarray(np.moveaxis(H_OVER_E * errors[..., ::-1], -1, 0))
    return RealSlice.calibrated(arrays.from_numpy(turned, like), "error of the projected induction", "T nm", step, labels)


def _momentum_slice(k: Any, name: str, step: float | None) -> RealSlice:
    return RealSlice.calibrated(arrays.namespace(k).permute_dims(k, (2, 0, 1)), name, "1/Å", step, ("k_x", "k_y"))


def _rms(errors: RealSlice | None) -> float:
    values = np.full(1, np.nan) if errors is None else np.asarray(errors, dtype=np.float64)
    return float(np.sqrt(np.nanmean(values**2))) if np.isfinite(values).any() else math.nan
