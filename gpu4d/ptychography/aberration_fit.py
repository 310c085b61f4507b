"""Find the aberrations of the probe in the data themselves: from the side bands of a thin object."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Unpack

import numpy as np

from gpu4d import fft
from gpu4d.data.arguments import OriginLike
from gpu4d.data.datacube import DataCube
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.ptychography.aberration_parts import Parts
from gpu4d.ptychography.drift_fit import LIKELY, DriftFit, Drifting, fit_with_drift
from gpu4d.ptychography.experiment import Experiment, experiment
from gpu4d.ptychography.sideband_fit import Normal, Sidebands, coherence, count_pairs, covariance, fit
from gpu4d.ptychography.tracked_spectra import PixelImages, mean_power, scan_shifts, tracked_spectra
from gpu4d.real_arrays import real_number
from gpu4d.streaming.engine import SweepOptions, VisitOptions

log = logging.getLogger("gpu4d")

MARGIN = 0.75  # px: pixels nearer to an edge of a disk are lit in part; half a pixel's diagonal is 0.71
ROUNDS = 3  # of windows that follow the images by the aberrations found so far; a third round changes less than a tenth of the error
FARTHEST = 0.4  # of the field: the largest shift at the edge of the disk that the search for defocus tries
STEP = math.pi / 2  # rad: the phase of the fastest chosen frequency at the edge of the disk, from one tried defocus to the next
MOST_TRIES = 100  # defocus values of each sign
SEARCHED = 40  # frequencies of the search: the strongest say where the defocus is
CERTAIN = 20.0  # √(number of frequencies): lead of a sign in χ². By chance the two amplitudes of a frequency explain 2 ± 2 for each sign,
# and neighbours are alike, so that five standard deviations of the difference are some 20 √m.
UNCERTAIN = 0.5  # of what is assumed of a drift: with a larger error the data have told little
POOR = 3.0  # χ² per pair: above it, less than a third of what is left is counting noise


@dataclass
class AberrationFit(
    Storable,
    stored="values: coefficient [Å]; covariance: coefficient other_coefficient [Å²]; drift drift_error: [Å]; positions: Rx Ry xy [Å]",
):
    """Aberrations that were found in a scan, with errors, and how.

    Attributes
    ----------
    aberrations : dict
        Krivanek coefficients in Å and angles in radians, as `gpu4d.ssb` takes them. defocus = -C10, positive is underfocus.
    errors : dict
        Their standard errors.
    names : tuple of str
        The real numbers that were fitted: C10, C12a = C12 cos 2 phi12, C12b = C12 sin 2 phi12, …
    values : (p,) float64
        Å.
    covariance : (p, p) float64
        Å². From the scatter over scan frequencies: counting noise and what no aberration explains.
    sign : {"underfocus", "overfocus", "undecided"}
        Whether the data tell the sign of the defocus. It holds for the given rotation of the detector.
    coherence, coherence_of_other_sign : float
        The part of the spectra's power that side bands explain, with the best defocus of this sign and of the other one.
    misfit : float
        χ² per pair of pixel and frequency: 1 if only counting noise is left.
    pixels, frequencies : int
        How many were used.
    decisions, warnings : list of str
        Sentences for the user.
    drift, drift_error : (2,) float64 or None
        Fitted steady drift with its standard errors, if it was asked for: how far the place under the beam moves from the start of the
        scan to its end, beyond calibrated positions, Å in scan axes.
    positions : (Rx, Ry, 2) float64 or None
        Positions with this drift, Å in scan axes, as `Calibration.positions` takes them.
    """

    aberrations: dict[str, float]
    errors: dict[str, float]
    names: tuple[str, ...]
    values: np.ndarray
    covariance: np.ndarray
    sign: str
    coherence: float
    coherence_of_other_sign: float
    misfit: float
    pixels: int
    frequencies: int
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    drift: np.ndarray | None = None
    drift_error: np.ndarray | None = None
    positions: np.ndarray | None = None

    @property
    def explained(self) -> float:
        """Return the part that side bands explain of the power that is not counting noise: 1 if nothing but noise is left.

        The part of the noise follows from `misfit`, so that values must be electrons.
        """
        rest = (1 - self.coherence) * (1 - 1 / max(self.misfit, 1.0))
        return self.coherence / (self.coherence + rest) if self.coherence > 0 else 0.0

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {value:.4g} ± {self.errors[name]:.2g}" for name, value in self.aberrations.items())
        return f"AberrationFit({found}; {self.sign}, misfit {self.misfit:.3g})"


@on_host("fits")
def fit_aberrations(
    cube: DataCube,
    /,
    *,
    coefficients: Sequence[str] = ("C10", "C12", "C21", "C23", "C30"),
    start: Mapping[str, float] | None = None,
    rotation: float | None = None,
    transpose: bool | None = None,
    pixels: int = 700,
    frequencies: int = 150,
    drift: bool = False,
    fast_axis: int = 1,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> AberrationFit:
    """Find the aberrations of the probe from the side bands of a thin object.

    The scan spectrum of a bright-field pixel is G(k, K) = a(K) Ψ₀*(k) Ψ₀(k - K) + b(K) Ψ₀(k) Ψ₀*(k + K). The object, a and b,
    is the same for all pixels. So it is eliminated at every frequency, and the aberrations of Ψ₀ = exp(-iχ) are fitted to the
    rest by Gauss and Newton's method with weights from counting statistics. The defocus is searched for from scratch, with both
    signs. The images are taken under windows that move with them, because a scan of an object without a period has borders.

    Parameters
    ----------
    cube : DataCube
        A scan of a thin object, at steps that resolve it.
    coefficients : sequence of str
        The Krivanek coefficients to fit: C10, C12, C21, C23, C30, C32, … The others are taken as 0.
    start : mapping, optional
        Coefficients to start with, in Å and radians, in place of the search for the defocus. `defocus` = -C10, positive is
        underfocus.
    rotation, transpose : float, bool, optional
        Rotation of the detector: v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians. By
        default from the cube's calibration, or 0 and False. A rotation that is wrong by 180° turns the sign of the defocus.
    pixels, frequencies : int
        The most bright-field pixels, evenly spread, and the most scan frequencies, the strongest, that are used. More take
        longer and give smaller errors.
    drift : bool
        Fit a steady drift of the specimen, too: two numbers. See the notes for when the data tell it.
    fast_axis : {0, 1}
        The scan axis along which the beam runs, for the drift.
    energy, semiangle, q_pixel, r_pixel : float, optional
        In eV, mrad, 1/Å and Å. By default from the cube's calibration. Steps follow the steady drift of calibrated positions; a given
        `r_pixel` replaces them.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre of the bright-field disk, pixels. By default from the calibration, or measured in the mean pattern.
    memory : int or str, optional
        As in `gpu4d.sweep`. If the images of the pixels do not fit, the scan is read several times, with the same result.
    **sweep_options
        Options of `gpu4d.sweep`: device, progress, where.

    Returns
    -------
    AberrationFit
        Positions without counts, with NaN, or not visited take no part.

    Raises
    ------
    InputError
        Not a DataCube, a calibration that is missing, an unknown coefficient, too few pixels or frequencies.

    Notes
    -----
    Yang et al., Nature Communications 7 (2016) 12532 read aberrations off the phases of side bands. Here they are least-squares
    estimates. Pixels that an edge of a disk crosses are left out: the middle of their lit part is not their own middle, which
    would be taken for a defocus and a spherical aberration. Errors are from the scatter of the gradient over frequencies.

    A drift changes the steps of the scan, V, and with them where a frequency f lies: K = V⁻ᵀ f. Aberrations of first order are a
    symmetric matrix A, and what the data show of both is A V⁻ᵀ: four numbers. With the rotation of the detector known, C10 and C12 are
    three, and a drift is two. So without C12 a drift is found from the defocus alone. With C12 one combination of all five is not, and
    only coma and spherical aberration that are large at the edge of the disk tell it: see the errors. What the data do not tell is
    held by the assumption that a drift is 0 ± 10 % of the scan. A wrong rotation or step looks like a drift.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((32, 32), (32, 32), r_pixel=0.3, strength=0.2, defocus=100.0)
    >>> found = gpu4d.fit_aberrations(scan.cube, origin=(16, 16), coefficients=["C10"])
    >>> found.sign, bool(abs(found.aberrations["C10"] + 100) < 5)
    ('underfocus', True)
    """
    if not isinstance(cube, DataCube):
        kind = type(cube).__name__
        raise InputError(f"fit_aberrations takes a DataCube, not a {kind}: gpu4d.DataCube(array, calibration=gpu4d.Calibration(…))")
    if fast_axis not in (0, 1):
        raise InputError(f"fast_axis={fast_axis!r}: need 0 or 1, the scan axis along which the beam runs")
    for name, value, least in (("pixels", pixels, 3), ("frequencies", frequencies, 1)):
        if real_number(value, name, whole=True) < least:
            raise InputError(f"{name}={value!r}: need a whole number from {least} up")
    options: SweepOptions = {"memory": memory, **sweep_options}
    given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = experiment(cube, rotation=rotation, transpose=transpose, sweep_options=options, **given)
    parts = Parts.of(coefficients, known)
    begin = parts.scaled(start)
    number, at = inner_pixels(cube, known, int(pixels))
    images = PixelImages.of_disk(cube, number, options)
    chosen, places = strongest_frequencies(images, known, int(frequencies))

    flat = np.unravel_index(chosen, (cube.scan_shape[0], cube.scan_shape[1] // 2 + 1))
    cycles = np.stack([fft.frequencies(cube.scan_shape[0])[flat[0]], fft.frequencies(cube.scan_shape[1], half=True)[flat[1]]], -1)
    drifting = Drifting(known, cube.scan_shape, int(fast_axis), cycles)
    still = Spectra(images, at, chosen, places, count_pairs(at, places, known.radius, MARGIN))

    def bands(vector: np.ndarray, moved: np.ndarray | None = None) -> Sidebands:
        return still.bands(parts.gradient(vector, at), drifting, moved)

    signs = _Signs.of(bands(np.zeros(len(begin))), parts, known, cube.scan_shape, None if start is None else begin)
    vector, found, used = signs.best, None, None
    for _ in range(ROUNDS):
        used = bands(vector)
        vector, found = fit(used, parts, vector, range(len(vector)))
    assert found is not None and used is not None
    if not drift:
        return _result(parts, Fitted(vector, covariance(found), found, used), signs, known, images.bad)
    joint = fit_with_drift(bands, parts, vector, drifting, np.zeros(2))
    for _ in range(ROUNDS - 1):
        joint = fit_with_drift(bands, parts, joint.scaled, drifting, joint.drift)
    size = len(vector)
    fitted = Fitted(joint.scaled, joint.covariance[:size, :size], joint.normal, joint.bands)
    base = cube.calibration.positions if known.vectors is not None else None
    return with_drift(_result(parts, fitted, signs, known, images.bad), joint, drifting, base)


class Fitted(NamedTuple):
    """Scaled coefficients (p,), their covariance, and the equations and spectra that gave them."""

    vector: np.ndarray
    covariance: np.ndarray
    normal: Normal
    bands: Sidebands


@dataclass(frozen=True)
class Spectra:
    """What the spectra of side bands are made from, for any aberrations and drift.

    Attributes
    ----------
    images : PixelImages
    at : (n, 2) float64
        Pixels from the axis.
    chosen, places
        As `strongest_frequencies` returns them.
    pairs : int
        As of `count_pairs`.
    """

    images: PixelImages
    at: np.ndarray
    chosen: np.ndarray
    places: np.ndarray
    pairs: int

    def bands(self, gradient: np.ndarray, drifting: Drifting, moved: np.ndarray | None) -> Sidebands:
        """Return the spectra under windows that follow ∇χ (n, 2), radians per pixel, and a drift if there is one."""
        known = drifting.known if moved is None else drifting.experiment(moved)
        places = self.places if moved is None else drifting.places(moved)
        spectra, variance = tracked_spectra(self.images, scan_shifts(gradient, known), self.chosen)
        weights = np.where(variance > 0, 1 / np.where(variance > 0, variance, 1), 0)
        pairs = self.pairs if moved is None else count_pairs(self.at, places, known.radius, MARGIN)
        return Sidebands(spectra, self.at, places, weights, known.radius, MARGIN, pairs)


def inner_pixels(cube: DataCube, known: Experiment, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers (n,) and places from the axis (n, 2) of pixels inside the disk: every second, third, … if there are too many."""
    x, y = np.meshgrid(*(np.arange(size) for size in cube.detector_shape), indexing="ij")
    u, v = x - known.origin[0], y - known.origin[1]
    inside = np.hypot(u, v) < known.radius - MARGIN
    if cube.detector_mask is not None:
        inside &= cube.detector_mask
    i, j = x - round(known.origin[0]), y - round(known.origin[1])
    for every in range(2, 2 * max(cube.detector_shape)):
        some = inside & (i % (every // 2) == 0) & (j % ((every + 1) // 2) == 0)
        if some.sum() <= most:
            break
    if some.sum() < 3:
        raise InputError(
            f"{int(some.sum())} pixels lie {MARGIN} px or more inside a disk of {known.radius:.3g} px about "
            f"({known.origin[0]:.4g}, {known.origin[1]:.4g}): need 3. Check the origin, and crop or bin less if the disk has few pixels"
        )
    return np.flatnonzero(some), np.stack([u[some], v[some]], -1)


def strongest_frequencies(images: PixelImages, known: Experiment, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers (m,) in the flat half plane and places (m, 2), detector pixels, of the strongest frequencies that shift disks."""
    rx, ry = images.cube.scan_shape
    cycle = known.cycle()
    rows, columns = fft.frequencies(rx), fft.frequencies(ry, half=True)
    places = rows[:, None, None] * cycle[0] + columns[None, :, None] * cycle[1]
    length = np.hypot(places[..., 0], places[..., 1])
    usable = (length > 0) & (length < 2 * (known.radius - MARGIN))
    twice = (columns == 0) | (columns == 0.5)  # of these columns, the negative rows are the conjugates of the positive ones
    usable &= ~(twice[None, :] & (rows[:, None] < 0)) & ~(twice[None, :] & ((rows == 0) & (columns[None, :] == 0).any())[:, None])
    power = np.where(usable, mean_power(images), 0.0).ravel()
    order = np.argsort(-power, kind="stable")[: min(most, int((power > 0).sum()))]
    if not len(order):
        raise InputError(
            f"no scan frequency of {rx} × {ry} positions shifts the disks by less than their diameter: the steps are too large. Check "
            "r_pixel, or record the scan with smaller steps"
        )
    return order, places.reshape(-1, 2)[order]


@dataclass(frozen=True)
class _Signs:
    """The best defocus of both signs, and how well each explains the spectra."""

    best: np.ndarray
    coherence: float
    other: float
    certain: bool

    @classmethod
    def of(cls, bands: Sidebands, parts: Parts, known: Experiment, scan: tuple[int, int], start: np.ndarray | None) -> _Signs:
        """Search for the defocus, or take a start and its mirror image; then fit the aberrations of first order to each."""
        first = [i for i, name in enumerate(parts.names) if name.startswith("C1")]
        if "C10" not in parts.names:
            vector = np.zeros(len(parts.names)) if start is None else start
            return cls(vector, coherence(bands, parts, vector), math.nan, False)
        at = parts.names.index("C10")
        found = []
        for begin in _line(bands, parts, known, scan, at) if start is None else [start, -start]:
            vector = begin
            for free in ([at], first):
                vector, normal = fit(bands, parts, vector, free)
            crossed = vector[at] * begin[at] < 0  # then there is no minimum with this sign, and what it begins with stands for it
            found.append((coherence(bands, parts, begin), begin, begin) if crossed else (normal.coherence, begin, vector))
        (best, begin, vector), (other, *_) = sorted(found, key=lambda each: -each[0])
        gained = (best - other) * bands.pairs / max(1e-300, 1 - best)
        return cls(vector, best, other, gained > CERTAIN * math.sqrt(len(bands.frequencies)))


def _line(bands: Sidebands, parts: Parts, known: Experiment, scan: tuple[int, int], at: int) -> list[np.ndarray]:
    """Return the coefficients with the most coherent defocus of each sign."""
    some = slice(0, min(SEARCHED, len(bands.frequencies)))
    strong = Sidebands(bands.spectra[:, some], bands.at, bands.frequencies[some], bands.weights, bands.radius, bands.margin, bands.pairs)
    fastest = float(np.hypot(*strong.frequencies.T).max())
    step = STEP * known.radius / (2 * fastest)
    reach = math.pi * known.radius * known.q_pixel * known.r_pixel * FARTHEST * min(scan)
    found = []
    for sign in (-1, 1):
        tried = sign * step * np.arange(0.5, max(1, min(MOST_TRIES, math.ceil(reach / step))))
        vectors = [np.where(np.arange(len(parts.names)) == at, value, 0.0) for value in tried]
        found.append(max(vectors, key=lambda vector: coherence(strong, parts, vector)))
    return found


def _result(parts: Parts, fitted: Fitted, signs: _Signs, known: Experiment, bad: np.ndarray) -> AberrationFit:
    vector, own, found, used = fitted
    values, spread = vector * parts.unit, own * np.outer(parts.unit, parts.unit)
    aberrations, errors = parts.named(values, spread)
    decisions, warnings = known.decisions, known.warnings
    misfit = found.misfit / used.pairs
    sign = "undecided"
    if "C10" in aberrations and signs.certain and abs(aberrations["C10"]) > 3 * errors["C10"]:
        sign = "underfocus" if aberrations["C10"] < 0 else "overfocus"
    decisions.append(
        f"{len(used.at)} pixels inside the disk, {len(used.frequencies)} scan frequencies; side bands with the defocus of this sign "
        f"explain {signs.coherence:.3f} of the power, {signs.other:.3f} with the other sign: {sign}"
    )
    if sign == "undecided" and "C10" in aberrations and abs(aberrations["C10"]) > 3 * errors["C10"]:  # in focus it has none
        warnings.append("the data do not tell the sign of the defocus")
    if misfit > POOR:
        warnings.append(f"χ² is {misfit:.3g} for every pair of pixel and frequency: the object is not thin, or the geometry is wrong")
    if bad.any():
        warnings.append(f"{int(bad.sum())} of {bad.size} positions have no counts or NaN in the disk: they take no part")
    for message in warnings:
        log.warning("fit_aberrations: %s", message)
    counts = len(used.at), len(used.frequencies)
    return AberrationFit(
        aberrations, errors, parts.names, values, spread, sign, signs.coherence, signs.other, misfit, *counts, decisions, warnings
    )


def with_drift(result: AberrationFit, joint: DriftFit, drifting: Drifting, base: np.ndarray | None) -> AberrationFit:
    """Add a fitted drift to a result: in Å with errors, positions, and a warning if the data do not tell it.

    Positions are those without the drift, `base` or the regular grid, and the drift.
    """
    step, (rx, ry) = drifting.known.r_pixel, drifting.shape
    error, drift = np.sqrt(np.diag(joint.covariance)[-2:]) * step, joint.drift * step
    grid = np.stack(np.meshgrid(np.arange(rx), np.arange(ry), indexing="ij"), -1)
    moved = drifting.experiment(joint.drift).steps - drifting.known.steps
    positions = (grid * step if base is None else base) + grid @ moved.T
    both = ", ".join(f"{d:.3g} ± {e:.2g}" for d, e in zip(drift, error))
    result.decisions.append(f"steady drift ({both}) Å from the start of the scan to its end")
    if error.max() > UNCERTAIN * LIKELY * step * min(rx, ry):
        line = f"the data hardly tell the drift ({both}) Å from the aberrations: leave out C12, or measure the drift by gpu4d.scan_drift"
        result.warnings.append(line)
        log.warning("fit_aberrations: %s", line)
    return replace(result, drift=drift, drift_error=error, positions=positions)
