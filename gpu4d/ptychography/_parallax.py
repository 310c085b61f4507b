"""Align the images of bright-field pixels: tilt-corrected bright field, and the same for dark-field pixels."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np

from gpu4d import physics
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, real_values, scan_mask
from gpu4d.data.datacube import DataCube
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe.wavefunction import aberration_terms
from gpu4d.ptychography.aberration_fit import AberrationFit, fit_aberrations, inner_pixels
from gpu4d.ptychography.aberration_parts import Parts
from gpu4d.ptychography.aligned_sum import aligned_sum
from gpu4d.ptychography.experiment import Experiment, experiment
from gpu4d.ptychography.image_shifts import ImageShifts, measure_shifts
from gpu4d.ptychography.tracked_spectra import PixelImages, scan_shifts
from gpu4d.real_arrays import real_number
from gpu4d.streaming.engine import SweepOptions, VisitOptions

log = logging.getLogger("gpu4d")

SAME = math.radians(5)  # rotation that the shifts show, and the given one: more apart is warned of
SCATTERED = 0.2  # of the largest fitted shift: measured shifts that scatter more do not show the aberrations; chance gives 0.3 or more


@dataclass
class Parallax(
    Storable,
    stored="shifts: pixel xy; pixels: pixel xy [px]; groups: group xy [px]; measured: group xy; coverage: x y; rotation: [rad]",
):
    """Image of aligned bright-field pixels, and the defocus and rotation that their shifts show.

    Attributes
    ----------
    image : RealSlice (Rx · upsample, Ry · upsample)
        Counts over their mean: 1 where nothing is. NaN where less than a tenth of the pixels see the place.
    aberrations : dict
        C10, C12, phi12 in Å and radians, azimuths in detector axes, as `gpu4d.ssb` takes them. defocus = -C10, positive is underfocus.
    errors : dict
        Their standard errors. Without a refinement that of C10 alone, from the scatter of the measured shifts.
    rotation, transpose : float, bool
        v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. As the shifts show it, radians.
    sign : {"underfocus", "overfocus", "undecided"}
        Undecided if no rotation is known: then rotation + 180° and -C10, -C12 fit as well, and underfocus is assumed.
    shifts : (P, 2) float64
        Shift of every pixel's image that was taken out, scan steps: pixel k sees at R what the axis sees at R + shift.
    pixels : (P, 2) float64
        Places of the pixels from the axis, detector pixels.
    groups, measured : (n, 2) float64
        Places of the groups of pixels whose shifts were measured, and these shifts. A constant is the sum's own shift.
    scatter : float
        Of the measured shifts about the fit, scan steps.
    coverage : (Rx · upsample, Ry · upsample) float64
        How many pixels see every place.
    geometry : Experiment
        Energy, pixel sizes, origin and radius that were used.
    decisions, warnings : list of str
        Sentences for the user.
    """

    image: RealSlice
    aberrations: dict[str, float]
    errors: dict[str, float]
    rotation: float
    transpose: bool
    sign: str
    shifts: np.ndarray
    pixels: np.ndarray
    groups: np.ndarray
    measured: np.ndarray
    scatter: float
    coverage: np.ndarray
    geometry: Experiment
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def largest(self) -> float:
        """The largest shift that was taken out, scan steps."""
        return float(np.hypot(*self.shifts.T).max())

    @property
    def clear(self) -> bool:
        """Whether the measured shifts follow the fit: they scatter by less than a fifth of the largest."""
        return self.scatter <= SCATTERED * self.largest

    def transfer(self, frequencies: ArrayLike) -> np.ndarray:
        """Compute the part of a weak phase that the image shows, at scan frequencies.

        The spectrum of the image is this times the spectrum of the phase. Its sign changes where a defocused microscope's does.

        Parameters
        ----------
        frequencies : (m, 2) array
            1/Å, in scan axes.

        Returns
        -------
        (m,) complex128
            i mean(Γ exp(-2πi K · shift)) over the pixels that were used, Γ as in `gpu4d.ssb`. Nearly real.
        """
        given = real_values(frequencies, "frequencies", "(m, 2), 1/Å")
        if given.ndim != 2 or given.shape[1] != 2 or not np.isfinite(given).all():
            raise InputError(f"frequencies is {given.shape}: need (m, 2), finite, 1/Å in scan axes")
        known, parts = self.geometry, Parts.of([name for name in self.aberrations if name.startswith("C")], self.geometry)
        chi = parts.polynomial(parts.scaled(self.aberrations))

        def wave(places: np.ndarray) -> np.ndarray:
            x, y = places.T
            turn = np.pi * np.polynomial.polynomial.polyval2d(x, y, chi)
            return np.clip(known.radius + 0.5 - np.hypot(x, y), 0, 1) * np.exp(-1j * turn)

        own, found = wave(self.pixels), np.zeros(len(given), complex)
        moved = given @ scan_matrix(self.rotation, self.transpose) / known.q_pixel
        for i, k in enumerate(moved):
            gamma = own.conj() * wave(self.pixels - k) - own * wave(self.pixels + k).conj()
            found[i] = 1j * (gamma * np.exp(-2j * np.pi * (self.shifts @ known.steps.T @ given[i]))).mean()
        return found

    def __repr__(self) -> str:
        size = "×".join(map(str, self.image.shape))
        turn = f"rotation {math.degrees(self.rotation):.1f}°, transpose {self.transpose}"
        return f"Parallax({size}, C10 {self.aberrations['C10']:.4g} ± {self.errors['C10']:.2g} Å, {self.sign}, {turn})"


def parallax(
    cube: DataCube,
    /,
    *,
    upsample: int = 1,
    aberrations: Mapping[str, float] | None = None,
    rotation: float | None = None,
    transpose: bool | None = None,
    pixels: int = 2000,
    refine: bool = True,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> Parallax:
    """Align the images of bright-field pixels and sum them: tilt-corrected bright field.

    Out of focus, the image of pixel k is shifted by ∇χ(k) / 2π. The shifts of groups of pixels are measured by correlation with
    the sum of the groups nearer to the axis, coarse to fine, and fitted by a linear map. It holds C10, C12, and the rotation and
    transpose of the detector. A fit to the side bands improves C10 and C12. Then every image is moved back, and all are summed.

    Parameters
    ----------
    cube : DataCube
        A scan out of focus. The steps may be coarser than the resolution if `upsample` is more than 1.
    upsample : int
        Samples of the image along one scan step. The shifts differ by parts of a step, so that the images together sample finer.
    aberrations : mapping, optional
        Known coefficients, as of `gpu4d.fit_aberrations`. The shifts are then ∇χ / 2π and are not measured, and rotation and transpose
        are the given or calibrated ones. defocus = -C10, positive is underfocus.
    rotation, transpose : float, bool, optional
        Rotation of the detector, if it is known. It decides the sign of the defocus. By default from the cube's calibration. If the
        calibration has none, rotation and transpose are found, but for the sign.
    pixels : int
        The most bright-field pixels that are used, evenly spread.
    refine : bool
        Improve C10 and C12 by `gpu4d.fit_aberrations`. Measured shifts are too large by up to a third where details are not much larger
        than 1 / k₀: pixels near the edge of the disk see one side band alone, and its phase is not only a shift.
    energy, semiangle, q_pixel, r_pixel : float, optional
        In eV, mrad, 1/Å and Å. By default from the cube's calibration. Steps follow the steady drift of calibrated positions; a given
        `r_pixel` replaces them.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre of the bright-field disk, pixels. By default from the calibration, or measured in the mean pattern.
    memory : int or str, optional
        As in `gpu4d.sweep`.
    **sweep_options
        Options of `gpu4d.sweep`: device, progress, where.

    Returns
    -------
    Parallax
        Positions without counts, with NaN, or not visited take no part.

    Raises
    ------
    InputError
        Not a DataCube, a calibration that is missing, too few pixels, a bad `upsample`.

    Notes
    -----
    Yu et al., Nature Methods (2025), s41592-025-02834-9. A phase object is seen with the transfer function of a defocused
    microscope, whose sign changes with frequency; `gpu4d.ssb` and `gpu4d.ptychography.acbf` correct that. Images are moved copies of
    each other only for details larger than 1 / k₀, and shifts by a lattice vector look alike. So on crystals at atomic resolution
    find the aberrations with `gpu4d.fit_aberrations`, and give them.

    Examples
    --------
    >>> import gpu4d
    >>> optics = {"energy": 300e3, "semiangle": 1.0, "r_pixel": 30.0, "defocus": 5e4}
    >>> scan = gpu4d.simulate.phase_object_scan((32, 32), (110, 110), object="particles", strength=0.5, **optics)
    >>> found = gpu4d.parallax(scan.cube, origin=(55, 55), rotation=0.0)
    >>> found.image.shape, found.sign, bool(abs(found.aberrations["C10"] / -5e4 - 1) < 0.1)
    ((32, 32), 'underfocus', True)
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"parallax takes a DataCube, not a {type(cube).__name__}: gpu4d.DataCube(array, calibration=gpu4d.Calibration(…))")
    for name, value, least in (("upsample", upsample, 1), ("pixels", pixels, 3)):
        if real_number(value, name, whole=True) < least:
            raise InputError(f"{name}={value!r}: need a whole number from {least} up")
    options: SweepOptions = {"memory": memory, **sweep_options}
    given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = experiment(cube, rotation=rotation, transpose=transpose, sweep_options=options, **given)
    known_turn = rotation is not None or cube.calibration.rotation is not None
    number, at = inner_pixels(cube, known, int(pixels))
    images = PixelImages.of_disk(cube, number, options)
    if aberrations is None:
        measured = measure_shifts(images, at, known.radius * known.q_pixel * known.r_pixel)
        found = _first_order(measured, known, known_turn)
        if refine:
            fitted = _refined(cube, found, known, options)
            if fitted.aberrations["C10"] * found[0]["C10"] > 0:
                found = fitted.aberrations, fitted.errors, *found[2:]
        shifts = given_shifts(found[0], at, replace(known, rotation=found[2], transpose=found[3]))
    else:
        found = _krivanek(aberrations), {"C10": 0.0}, known.rotation, known.transpose, "given"
        shifts = given_shifts(aberrations, at, known)
        measured = ImageShifts(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((0, 2)), np.zeros((0, 2)), 0.0)
    limit = 2 * known.radius * known.q_pixel * known.r_pixel
    image, coverage = aligned_sum(images, shifts, upsample=int(upsample), limit=limit)
    warnings = [line for line in known.warnings if "is coarse" not in line]  # shifted images sample finer than the scan
    decisions = known.decisions
    _explain(found, measured, shifts, known, known_turn, decisions, warnings)
    if images.bad.any():
        warnings.append(f"{int(images.bad.sum())} of {images.bad.size} positions have no counts or NaN in the disk: they take no part")
    for message in warnings:
        log.warning("parallax: %s", message)
    picture = RealSlice.calibrated(image, "parallax", "1", known.r_pixel, upsample=int(upsample))
    return Parallax(picture, *found, shifts, at, measured.at, measured.measured, measured.scatter, coverage, known, decisions, warnings)


@on_host("judged")
def tilted_dark_field(
    cube: DataCube,
    found: Parallax,
    /,
    *,
    inner: float,
    outer: float,
    tilt: float = 0.7,
    upsample: int = 1,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> RealSlice:
    """Align the images of dark-field pixels by the shifts that the bright field showed, and sum them.

    A pixel outside the disk is reached from all of the disk, and more from its nearer parts. On average the beam comes from `tilt` of the
    radius, in the pixel's direction. So the shift is ∇χ / 2π there.

    Parameters
    ----------
    cube : DataCube
    found : Parallax
        Of the same scan.
    inner, outer : float
        Radii of the annulus, in radii of the bright-field disk: 1 is its edge. Near the edge the beam's direction is known best.
    tilt : float
        Part of the disk's radius, 0 to 1. In frozen virus particles 0.7 is sharpest from 1.05 to 1.2 radii, 0.5 farther out.
    upsample : int
        Samples of the image along one scan step.
    energy, semiangle, q_pixel, r_pixel, origin, memory, **sweep_options
        As in `parallax`.

    Returns
    -------
    RealSlice (Rx · upsample, Ry · upsample)
        Counts over their mean.

    Raises
    ------
    InputError
        No pixel lies in the annulus.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((48, 48), (32, 32), r_pixel=0.4, strength=0.2, defocus=150.0)
    >>> found = gpu4d.parallax(scan.cube, origin=(16, 16), rotation=0.0)
    >>> gpu4d.ptychography.tilted_dark_field(scan.cube, found, inner=1.1, outer=1.4, origin=(16, 16)).shape
    (48, 48)
    """
    if not (1 <= inner < outer and 0 <= tilt <= 1):
        raise InputError(f"inner={inner}, outer={outer}, tilt={tilt}: need 1 ≤ inner < outer and 0 ≤ tilt ≤ 1, in radii of the disk")
    options: SweepOptions = {"memory": memory, **sweep_options}
    given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = experiment(cube, rotation=found.rotation, transpose=found.transpose, sweep_options=options, **given)
    x, y = np.meshgrid(*(np.arange(n) - o for n, o in zip(cube.detector_shape, known.origin)), indexing="ij")
    distance = np.hypot(x, y)
    inside = (distance >= inner * known.radius) & (distance < outer * known.radius)
    if cube.detector_mask is not None:
        inside &= cube.detector_mask
    if not inside.any():
        raise InputError(
            f"no pixel lies from {inner} to {outer} radii of the disk ({known.radius:.3g} px) here: give other inner= and outer="
        )
    at = np.stack([x[inside], y[inside]], -1)
    where = scan_mask(sweep_options.get("where"), cube.scan_shape)
    images = PixelImages(cube, np.flatnonzero(inside), options)
    images.bad = ~np.isfinite(images.find_bad())  # a dark field may have positions without a count
    if where is not None:
        images.bad |= ~where
    beam = at * (tilt * known.radius / distance[inside])[:, None]
    image, _ = aligned_sum(images, given_shifts(found.aberrations, beam, known), upsample=int(upsample))
    return RealSlice.calibrated(image, "tilt-corrected dark field", "1", known.r_pixel, upsample=int(upsample))


def given_shifts(aberrations: Mapping[str, float], at: np.ndarray, known: Experiment) -> np.ndarray:
    """Return ∇χ / 2π at pixels (n, 2) in scan steps, for named coefficients."""
    parts = Parts.of(["C10", *(f"C{n}{m}" for n, m, *_ in aberration_terms(aberrations) if (n, m) != (1, 0))], known)
    return scan_shifts(parts.gradient(parts.scaled(aberrations), at), known)


def _krivanek(aberrations: Mapping[str, float]) -> dict[str, float]:
    """Return given coefficients with C10 in place of defocus, and with every angle."""
    found = {"C10": 0.0}
    for n, m, size, angle in aberration_terms(aberrations):
        found |= {f"C{n}{m}": size} | ({f"phi{n}{m}": angle} if m else {})
    return found


def _first_order(measured: ImageShifts, known: Experiment, known_turn: bool) -> tuple[dict[str, float], dict[str, float], float, bool, str]:
    """Split the linear map of shifts into the turn of the detector and the symmetric matrix of C10 and C12.

    matrix = turn · λ [[C10 + a, b], [b, C10 - a]] · q_pixel / r_pixel, a = C12 cos 2φ, b = C12 sin 2φ, if |C12| < |C10|.
    The polar decomposition gives both, but for a common sign.
    """
    u, sizes, v = np.linalg.svd(known.steps @ measured.matrix / known.r_pixel)
    turn, symmetric = u @ v, v.T @ np.diag(sizes) @ v
    transpose = bool(np.linalg.det(turn) < 0)
    unturned = turn @ scan_matrix(0.0, transpose)
    rotation = math.atan2(unturned[1, 0], unturned[0, 0])
    sign = 1.0
    apart = abs(math.remainder(rotation - known.rotation, 2 * math.pi))
    if (known_turn and apart > math.pi / 2) or not known_turn:
        sign, rotation = -1.0, math.remainder(rotation + math.pi, 2 * math.pi)
    per = known.r_pixel / (known.q_pixel * physics.wavelength(known.energy))
    full = sign * symmetric * per
    a, b = (full[0, 0] - full[1, 1]) / 2, full[0, 1]
    c10 = float(full[0, 0] + full[1, 1]) / 2
    error = per * math.sqrt(np.trace(measured.covariance)) / 2
    word = "undecided" if not known_turn else "underfocus" if c10 < 0 else "overfocus"
    if abs(c10) < 3 * error:
        word = "undecided"
    found = {"C10": c10, "C12": float(math.hypot(a, b)), "phi12": math.atan2(b, a) / 2}
    return found, {"C10": error}, rotation, transpose, word


def _refined(cube: DataCube, found: tuple[Any, ...], known: Experiment, options: SweepOptions) -> AberrationFit:
    """Fit C10 and C12 to the side bands, with the geometry that the shifts show."""
    return fit_aberrations(
        cube,
        coefficients=("C10", "C12"),
        start=found[0],
        rotation=found[2],
        transpose=found[3],
        energy=known.energy,
        semiangle=physics.frequency_to_angle(known.radius * known.q_pixel, known.energy),
        q_pixel=known.q_pixel,
        r_pixel=known.r_pixel if known.vectors is None else None,  # a given step would replace the calibrated positions
        origin=known.origin,
        **options,
    )


def _explain(
    found: Any, measured: ImageShifts, shifts: np.ndarray, known: Experiment, known_turn: bool, decisions: list[str], warnings: list[str]
) -> None:
    """Add sentences on the rotation, the sign and the scatter."""
    _, _, rotation, transpose, sign = found
    if sign == "given":
        decisions.append("shifts from the given aberrations")
        return
    largest = float(np.hypot(*shifts.T).max())
    decisions.append(
        f"shifts of {len(measured.at)} groups of pixels scatter by {measured.scatter:.2g} scan steps about the fit; the largest is "
        f"{largest:.3g}; rotation {math.degrees(rotation):.1f}°, transpose {transpose}, {sign}"
    )
    if measured.scatter > SCATTERED * largest:
        warnings.append(
            f"the measured shifts scatter by {measured.scatter:.2g} steps, more than {SCATTERED:g} of the largest, {largest:.2g} steps: "
            "the image is in focus, or too noisy, or a crystal"
        )
    if not known_turn:
        warnings.append(
            "the sign of the defocus needs the rotation of the detector: underfocus is assumed. Overfocus with a rotation of "
            f"{math.degrees(math.remainder(rotation + math.pi, 2 * math.pi)):.1f}° fits as well"
        )
    elif transpose != known.transpose or abs(math.remainder(rotation - known.rotation, 2 * math.pi)) > SAME:
        shown = f"{math.degrees(rotation):.1f}° and transpose {transpose}"
        warnings.append(f"the shifts show a rotation of {shown}, not {math.degrees(known.rotation):.1f}° and {known.transpose}")
