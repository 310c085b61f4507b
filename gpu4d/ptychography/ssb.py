"""Single-side-band ptychography: the phase of a thin object from the overlaps of its diffracted disks."""

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

GROUP = {"cpu": 32, "cuda": 1024, "definition": 16}  # pixels transformed and summed at once, at most
GROUP_BYTES = 1 << 29  # of their spectra; both follow from the scan's shape alone, so that sums never depend on memory
LEAST_TROTTER = 1.0  # pixels: the mean over a smaller overlap is noise; exact mode leaves its frequency out, as published


@dataclass
class SSB:
    """Phase of a thin object from single-side-band ptychography, and how it was found.

    Attributes
    ----------
    phase : RealSlice (Rx, Ry)
        Radians, mean zero over the scan; NaN at positions without a pattern.
    transmission : RealSlice (Rx, Ry) complex
        1 + iφ: the transmission function of a weak phase object, its direct beam set to 1.
    mode : str
    rotation, transpose : float, bool
        v_scan = R(rotation) v_det after swapping (qx, qy) where `transpose`; radians.
    aberrations : dict
        As given; defocus = -C10, positive is underfocus.
    radius : float
        Of the bright-field disk, detector pixels.
    origin : (float, float)
        Its centre, detector pixels.
    pixels : int
        Bright-field pixels that took part.
    incident : float
        |Ψ₀|² per pixel in the middle of the disk, counts: what makes the phase absolute.
    decisions, warnings : list of str
        For people: what was decided and why, what to distrust.
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
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
    """Phase of a thin object by single-side-band ptychography.

    The scan spectrum of a bright-field pixel is G(k, K) = F{iφ}(K) Γ(k, K) with
    Γ(k, K) = Ψ₀*(k) Ψ₀(k - K) - Ψ₀(k) Ψ₀*(k + K), so every pixel in which disks overlap measures the phase's spectrum.
    "weighted": the Wiener mean over all of them, Σ G Γ* / (Σ |Γ|² + ε max Σ |Γ|²). "exact": the published method, the mean
    over the double overlap on either side without the triple overlap (half the difference of the two means); frequencies with
    less than a pixel on one side are left out.

    |Ψ₀|² is scaled to the intensity found in the disk, so that the phase is in radians. It falls behind for strong objects:
    what is measured is sin φ rather than φ, over the direct beam.

    Parameters
    ----------
    cube : DataCube
        Steps of at most 1 / (4 k₀), k₀ the disk's radius in 1/Å, lose nothing.
    rotation, transpose : float, bool
        Of the detector: v_scan = R(rotation) v_det after swapping (qx, qy) where `transpose`; radians. From the
        cube's calibration unless given; 0 and False where it says nothing.
    aberrations : mapping, optional
        Krivanek coefficients, Å and radians, azimuths in detector axes: C10, C12, phi12, C21, phi21, C23, phi23, C30, …;
        `defocus` = -C10, positive is underfocus.
    pupil : (Qx, Qy) array, optional
        Ψ₀ on the detector, real or complex, instead of a round disk; its scale does not matter. Values between pixels are
        interpolated; outside the aperture it must be zero, which "exact" depends on. Aberrations multiply it.
    mode : {"weighted", "exact"}
    epsilon : float
        ε of the weighted mode: larger is smoother, and lowers the phase.
    energy, semiangle, q_pixel, r_pixel : float, optional
        eV, mrad, 1/Å, Å; from the cube's calibration unless given.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre of the bright-field disk, pixels; of a map the mean is used. From the calibration, or measured in the mean
        pattern, unless given. So is the radius where semi-angle or q_pixel is missing.
    memory : int or str, optional
        As in `gpu4d.sweep`; a stack of bright-field images that does not fit is made in several passes, with the same result.
    **sweep_options
        Of `gpu4d.sweep`: device, progress, where.

    Returns
    -------
    SSB
        Positions without counts, with NaN, or not visited are NaN; their images are filled with each pixel's mean.

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
    sums, phase_nan, incident = _summed(cube, overlaps, mode, options, warnings)
    spectrum = _spectrum(sums, mode, epsilon) / incident
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
        *(incident, decisions, warnings),
    )


# ---------------------------------------------------------------- sums over the stack


@dataclass(frozen=True)
class _Geometry:
    """Arrays of the overlaps beside the data, moved there once."""

    at: Any
    rows: Any
    columns: Any
    pupil: Any
    bad: Any

    @classmethod
    def beside(cls, stack: Any, overlaps: Overlaps, bad: np.ndarray | None) -> _Geometry:
        parts = (overlaps.at, overlaps.rows, overlaps.columns, overlaps.pupil, bad)
        return cls(*(None if part is None else arrays.from_numpy(part, stack) for part in parts))


def _summed(
    cube: DataCube, overlaps: Overlaps, mode: str, options: SweepOptions, warnings: list[str]
) -> tuple[SSBSum, np.ndarray | None, float]:
    """Side-band sums of all pixels; positions that had to be filled; |Ψ₀|² per pixel in the middle of the disk."""
    sums, counts = _one_round(cube, overlaps, mode, options, None)
    bad = ~(np.isfinite(counts) & (counts > 0))
    if bad.all():
        raise InputError("no position has counts in the bright-field disk: is the origin right?")
    if bad.any():
        warnings.append(
            f"{int(bad.sum())} of {bad.size} positions have no counts or NaN in the disk; they were filled with the mean and are NaN"
        )
        sums, counts = _one_round(cube, overlaps, mode, options, bad)
    incident = float(counts[~bad].mean() / overlaps.intensity.sum())
    return sums, bad if bad.any() else None, incident


def _one_round(cube: DataCube, overlaps: Overlaps, mode: str, options: SweepOptions, bad: np.ndarray | None) -> tuple[SSBSum, np.ndarray]:
    """Sums over groups of pixels in their order, and the counts of every position (Rx, Ry) on the host."""
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
    """Sums and counts of one group of pixels after another; on the CPU, threads work on several at once."""
    kind = ssb_sum.kind_for("complex64", processors_for(cube, options.get("device", "auto"))[0][0].sample(cube.dtype))
    rx, ry = cube.scan_shape
    group = max(1, min(GROUP[kind], GROUP_BYTES // (8 * rx * (ry // 2 + 1))))
    geometry: _Geometry | None = None
    for part, stack in bright_field_stacks(cube, overlaps.pixels, group, **options):
        if geometry is None:
            geometry = _Geometry.beside(stack, overlaps, bad)
        pieces = [stack[i : min(i + group, stack.shape[0]), :, :] for i in range(0, stack.shape[0], group)]
        firsts = range(part.start, part.stop, group)
        work = functools.partial(_of_group, overlaps=overlaps, geometry=geometry, mode=mode)
        yield from (in_threads if kind == "cpu" else map)(work, pieces, firsts)


def _of_group(images: Any, first: int, *, overlaps: Overlaps, geometry: _Geometry, mode: str) -> tuple[SSBSum, Any]:
    """One group of bright-field images to its sums and its counts per position."""
    xp = arrays.namespace(images)
    images = xp.astype(images, xp.float32, copy=False)
    if geometry.bad is not None:
        images = _filled(xp, images, geometry.bad)
    at = geometry.at[first : first + images.shape[0], :]
    options = {"radius": overlaps.radius, "pupil": geometry.pupil, "center": overlaps.origin, "chi": overlaps.chi, "mode": mode}
    return ssb_sum(fft.rfft2(images), at, geometry.rows, geometry.columns, **options), xp.sum(images, axis=0, dtype=xp.float64)


def _filled(xp: Any, images: Any, bad: Any) -> Any:
    """Images with positions that are no pattern set to each image's mean over the others."""
    good = xp.astype(~bad, images.dtype)
    clean = xp.where(bad, xp.zeros_like(images), images)
    mean = xp.sum(clean, axis=(1, 2), keepdims=True) / xp.sum(good)
    return xp.where(bad, mean, clean)


def _spectrum(sums: SSBSum, mode: str, epsilon: float) -> Any:
    """F{iφ} times the incident intensity, (Rx, Ry // 2 + 1); 0 where no disks overlap."""
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
