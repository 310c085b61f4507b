"""Compute the phase of a thin object by single-side-band ptychography, from the overlaps of its diffracted disks."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays, fft
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.device.threads import in_threads
from gpu4d.errors import InputError
from gpu4d.ptychography.bright_field_stack import bright_field_stacks
from gpu4d.ptychography.experiment import experiment
from gpu4d.ptychography.overlap_geometry import Overlaps, overlap_geometry
from gpu4d.ptychography.ssb_sum import MODES, SSBSum, ssb_sum
from gpu4d.streaming.engine import SweepOptions, VisitOptions
from gpu4d.streaming.place import processors_for

log = logging.getLogger("gpu4d")

GROUP = {"cpu": 32, "cuda": 1024, "definition": 16}  # most pixels that are transformed and summed at once
GROUP_BYTES = 1 << 29  # of their spectra; group sizes follow from the scan's shape alone, so that sums do not depend on memory
LEAST_TROTTER = 1.0  # pixels: the mean over a smaller overlap is noise, so exact mode leaves its frequency out, as published


@dataclass
class SSB:
    """Phase of a thin object from single-side-band ptychography, and how it was found.

    Attributes
    ----------
    phase : RealSlice (Rx, Ry)
        Radians, with mean zero over the scan. NaN at positions without a pattern.
    transmission : RealSlice (Rx, Ry) complex
        1 + iφ: the transmission function of a weak phase object, with the direct beam set to 1.
    mode : str
    rotation, transpose : float, bool
        v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians.
    aberrations : dict
        As given. defocus = -C10, positive is underfocus.
    radius : float
        Radius of the bright-field disk, detector pixels.
    origin : (float, float)
        Centre of the bright-field disk, detector pixels.
    pixels : int
        Number of bright-field pixels that were used.
    incident : float
        |Ψ₀|² per pixel in the middle of the disk, counts. It gives the phase its scale in radians.
    positions : (Rx, Ry, 2) float64 or None
        Where the phase's values lie on the specimen, Å, if positions are calibrated. `gpu4d.drift.scattered_average` draws them.
    decisions, warnings : list of str
        Sentences for the user: what was decided and why, and what may be wrong.
    """

    phase: RealSlice
    transmission: RealSlice
    mode: str
    rotation: float
    transpose: bool
    aberrations: dict[str, float]
    radius: float
    origin: tuple[float, float]
    pixels: int
    incident: float
    positions: np.ndarray | None = None
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        turn = f"rotation {math.degrees(self.rotation):.1f}°, transpose {self.transpose}"
        used = f"{self.pixels} bright-field pixels within {self.radius:.1f} px"
        n = len(self.warnings)
        words = f", {n} warning{'s' * (n > 1)}" if n else ""
        return f"SSB({'×'.join(map(str, self.phase.shape))} positions, phase {self.phase.range_text()}, {self.mode}, {turn}, {used}{words})"


def ssb(
    cube: DataCube,
    /,
    *,
    rotation: float | None = None,
    transpose: bool | None = None,
    aberrations: Mapping[str, float] | None = None,
    pupil: ArrayLike | None = None,
    mode: str = "weighted",
    epsilon: float = 0.003,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> SSB:
    """Compute the phase of a thin object by single-side-band ptychography.

    The scan spectrum of a bright-field pixel is G(k, K) = F{iφ}(K) Γ(k, K) with
    Γ(k, K) = Ψ₀*(k) Ψ₀(k - K) - Ψ₀(k) Ψ₀*(k + K). So every pixel in which disks overlap measures the spectrum of the phase.
    Mode "weighted" takes the Wiener mean over all of these pixels, Σ G Γ* / (Σ |Γ|² + ε max Σ |Γ|²). Mode "exact" is the
    published method: the means over the two double overlaps without the triple overlap, and half their difference. It leaves
    out frequencies with less than a pixel in one of the overlaps.

    |Ψ₀|² is scaled to the intensity measured in the disk, so that the phase is in radians. For strong objects the phase is too
    small, because sin φ relative to the direct beam is measured, and not φ.

    Parameters
    ----------
    cube : DataCube
        The scan. Its steps should be at most 1 / (4 k₀), with k₀ the radius of the disk in 1/Å. Larger steps lose high frequencies.
    rotation, transpose : float, bool
        Rotation of the detector: v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians. By
        default from the cube's calibration, or 0 and False if it has none.
    aberrations : mapping, optional
        Krivanek coefficients in Å and radians, with azimuths in detector axes: C10, C12, phi12, C21, phi21, C23, phi23, C30, …
        `defocus` = -C10, positive is underfocus.
    pupil : (Qx, Qy) array, optional
        Ψ₀ on the detector, real or complex, in place of a round disk. Its scale does not matter. Values between pixels are
        interpolated. It must be zero outside the aperture, because "exact" depends on that. It is multiplied by the aberrations.
    mode : {"weighted", "exact"}
    epsilon : float
        ε of the weighted mode. A larger value gives a smoother, but smaller phase.
    energy, semiangle, q_pixel, r_pixel : float, optional
        In eV, mrad, 1/Å and Å. By default from the cube's calibration. If that has positions, the steady part of their drift makes the
        grid oblique, and the sum is exact for it. A given `r_pixel` replaces them.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre of the bright-field disk, pixels. The mean of a map is used. By default from the calibration, or measured in the
        mean pattern. The radius is measured too if semi-angle or q_pixel is missing.
    memory : int or str, optional
        As in `gpu4d.sweep`. If the stack of bright-field images does not fit, several passes are made, with the same result.
    **sweep_options
        Options of `gpu4d.sweep`: device, progress, where.

    Returns
    -------
    SSB
        Positions without counts, with NaN, or not visited are NaN in the result. For the sums, each image is filled there with its
        mean.

    Raises
    ------
    InputError
        Not a DataCube, a calibration that is missing, an unknown mode or coefficient, a pupil of another shape, a disk without pixels.

    Notes
    -----
    Rodenburg, McCallum, Nellist, Ultramicroscopy 48 (1993) 304; Pennycook et al., Ultramicroscopy 151 (2015) 160.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=0.1)
    >>> found = ssb(scan.cube, origin=(16, 16))
    >>> found.phase.units, round(float(np.corrcoef(np.ravel(found.phase), np.ravel(scan.truth["phase"]))[0, 1]), 2)
    ('rad', 1.0)
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"ssb takes a DataCube, not a {type(cube).__name__}: gpu4d.DataCube(array, calibration=gpu4d.Calibration(…))")
    if mode not in MODES:
        raise InputError(f"mode={mode!r}: need {' or '.join(map(repr, MODES))}")
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise InputError(f"epsilon={epsilon}: need a number from 0 up, such as 0.003")
    options: SweepOptions = {"memory": memory, **sweep_options}
    given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = experiment(cube, rotation=rotation, transpose=transpose, sweep_options=options, **given)
    decisions, warnings = known.decisions, known.warnings
    overlaps = overlap_geometry(cube, known, aberrations, pupil)
    sums, phase_nan, incident = side_band_sums(cube, overlaps, mode, options, warnings)
    spectrum = _spectrum(sums, mode, float(epsilon)) / incident
    phase = fft.irfft2(-1j * spectrum, cube.scan_shape)
    xp = arrays.namespace(phase)
    if phase_nan is not None:
        phase = xp.where(arrays.from_numpy(phase_nan, phase), xp.full_like(phase, math.nan), phase)
    decisions.append(f"{len(overlaps.pixels)} bright-field pixels, {incident:.4g} counts in each at the middle of the disk")
    for message in warnings:
        log.warning("ssb: %s", message)
    return SSB(
        RealSlice.calibrated(phase, "SSB phase", "rad", known.r_pixel),
        RealSlice.calibrated(1 + 1j * xp.astype(phase, xp.complex128), "SSB transmission", "1", known.r_pixel),
        *(mode, known.rotation, known.transpose, dict(aberrations or {}), overlaps.radius, overlaps.origin, len(overlaps.pixels)),
        *(incident, cube.calibration.positions if known.vectors is not None else None, decisions, warnings),
    )


# ---------------------------------------------------------------- sums over the stack


@dataclass(frozen=True)
class _Geometry:
    """Arrays of the overlaps, moved once to the device of the data."""

    at: Any
    rows: Any
    columns: Any
    pupil: Any
    bad: Any

    @classmethod
    def beside(cls, stack: Any, overlaps: Overlaps, bad: np.ndarray | None) -> _Geometry:
        parts = (overlaps.at, overlaps.rows, overlaps.columns, overlaps.pupil, bad)
        return cls(*(None if part is None else arrays.from_numpy(part, stack) for part in parts))


def side_band_sums(
    cube: DataCube, overlaps: Overlaps, mode: str, options: SweepOptions, warnings: list[str]
) -> tuple[SSBSum, np.ndarray | None, float]:
    """Return side-band sums of all pixels, positions that were filled, and |Ψ₀|² per pixel in the middle of the disk."""
    sums, counts = _one_round(cube, overlaps, mode, options, None)
    bad = ~(np.isfinite(counts) & (counts > 0))
    if bad.all():
        raise InputError("no position has counts in the bright-field disk: is the origin right?")
    if bad.any():
        warnings.append(
            f"{int(bad.sum())} of {bad.size} positions have no counts or NaN in the disk: the mean is used there, and their phase is NaN"
        )
        sums, counts = _one_round(cube, overlaps, mode, options, bad)
    incident = float(counts[~bad].mean() / overlaps.intensity.sum())
    return sums, bad if bad.any() else None, incident


def _one_round(cube: DataCube, overlaps: Overlaps, mode: str, options: SweepOptions, bad: np.ndarray | None) -> tuple[SSBSum, np.ndarray]:
    """Return sums over groups of pixels, in order, and the counts of every position (Rx, Ry) on the host."""
    total: SSBSum | None = None
    counts: Any = None
    for part, here in _group_sums(cube, overlaps, mode, options, bad):
        total = part if total is None else SSBSum(total.overlap + part.overlap, total.weight + part.weight)
        counts = here if counts is None else counts + here
    assert total is not None
    return total, arrays.to_numpy(counts)


def _group_sums(
    cube: DataCube, overlaps: Overlaps, mode: str, options: SweepOptions, bad: np.ndarray | None
) -> Iterator[tuple[SSBSum, Any]]:
    """Yield sums and counts for each group of pixels. On the CPU, threads work on several groups at the same time."""
    kind = ssb_sum.kind_for("complex64", processors_for(cube, options.get("device", "auto"))[0][0].sample(cube.dtype))
    rx, ry = cube.scan_shape
    group = max(1, min(GROUP[kind], GROUP_BYTES // (8 * rx * (ry // 2 + 1))))
    geometry: _Geometry | None = None
    for part, stack in bright_field_stacks(cube, overlaps.pixels, group, **options):
        if geometry is None:
            geometry = _Geometry.beside(stack, overlaps, bad)
        pieces = [stack[i : min(i + group, stack.shape[0]), :, :] for i in range(0, stack.shape[0], group)]
        firsts = range(part.start, part.stop, group)
        work = functools.partial(_sums_of_group, overlaps=overlaps, geometry=geometry, mode=mode)
        yield from (in_threads if kind == "cpu" else map)(work, pieces, firsts)


def _sums_of_group(images: Any, first: int, *, overlaps: Overlaps, geometry: _Geometry, mode: str) -> tuple[SSBSum, Any]:
    """Return the sums of one group of bright-field images, and their counts per position."""
    xp = arrays.namespace(images)
    images = xp.astype(images, xp.float32, copy=False)
    if geometry.bad is not None:
        images = _filled(xp, images, geometry.bad)
    at = geometry.at[first : first + images.shape[0], :]
    options = {"radius": overlaps.radius, "pupil": geometry.pupil, "center": overlaps.origin, "chi": overlaps.chi, "mode": mode}
    return ssb_sum(fft.rfft2(images), at, geometry.rows, geometry.columns, **options), xp.sum(images, axis=0, dtype=xp.float64)


def _filled(xp: Any, images: Any, bad: Any) -> Any:
    """Return images in which positions without a pattern have the mean of the other positions."""
    good = xp.astype(~bad, images.dtype)
    clean = xp.where(bad, xp.zeros_like(images), images)
    mean = xp.sum(clean, axis=(1, 2), keepdims=True) / xp.sum(good)
    return xp.where(bad, mean, clean)


def _spectrum(sums: SSBSum, mode: str, epsilon: float) -> Any:
    """Return F{iφ} times the incident intensity, (Rx, Ry // 2 + 1). 0 where no disks overlap."""
    xp = arrays.namespace(sums.overlap)
    one = xp.ones_like(sums.weight)
    if mode == "weighted":
        full = sums.weight + epsilon * xp.max(sums.weight)
        mean = sums.overlap / xp.where(full > 0, full, one)
        return mean[0, :, :]
    enough = sums.weight >= LEAST_TROTTER
    means = sums.overlap / xp.where(enough, sums.weight, one)
    difference = 0.5 * (means[0, :, :] - means[1, :, :])
    return xp.where(enough[0, :, :] & enough[1, :, :], difference, xp.zeros_like(difference))
