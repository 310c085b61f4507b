"""Measure the drift of a scan, alone or with a second one whose rows run across its own."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.datacube import DataCube
from gpu4d.drift.coarse_search import SteadyDrift, search
from gpu4d.drift.evidence import WORTH
from gpu4d.drift.picture import Picture
from gpu4d.drift.result import BELIEVED, ScanDrift
from gpu4d.drift.row_shifts import RowFit, Side, fit_rows
from gpu4d.drift.scan_frame import ScanFrame, slope
from gpu4d.drift.scan_pictures import Pictures, pictures_of
from gpu4d.errors import InputError
from gpu4d.imaging.image import Detectors
from gpu4d.on_host import on_host
from gpu4d.real_arrays import radians, real_number
from gpu4d.streaming.engine import SweepOptions, VisitOptions

log = logging.getLogger("gpu4d")

FARTHEST = 0.25  # of the longer side: largest steady drift that is searched for
PARALLEL = math.radians(30)  # between the rows of both scans: below it they tell little of drift along the other direction
AMBIGUOUS = 0.9  # of the correlation: another displacement that reaches it may be the right one
SMALL = 0.3  # of the positions: less overlap leaves most rows without a partner
UNLIKE = 4.0  # largest mean square of value minus prediction: 1 to 2 is noise, more is what no shift explains


@on_host("map")
def scan_drift(
    first: DataCube | ArrayLike,
    second: DataCube | ArrayLike | None = None,
    /,
    *,
    angle: float = math.pi / 2,
    fast_axes: Sequence[int] = (1, 1),
    detector: Detectors | None = None,
    max_drift: float | None = None,
    r_pixel: float | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> ScanDrift:
    """Measure where the positions of a scan lie on a drifting specimen.

    **Two scans** of one place whose rows cross tell the drift of both: along its rows a scan is exact, as a row takes little time, and
    across them the other one is. A steady drift is searched for with the displacement, then fitted to each scan, then every row gets
    a shift of its own as far as the data support it: the shifts are a random walk and a jitter of sizes with the largest evidence.

    **One scan** tells only what differs between neighbouring rows. Its even rows are compared with its odd ones, which shows jitter.
    A slow drift looks like a sheared or stretched specimen, and counts as zero.

    Parameters
    ----------
    first, second : DataCube, or (Rx, Ry) or (Rx, Ry, n) image
        The scans, or pictures of them. Of a DataCube, counts in the bright-field disk and outside of it and the centre of mass are
        computed in one sweep, and those with contrast are compared. NaN positions take no part. All need 8 positions a side.
    angle : float
        From the axes of the first scan to those of the second one, radians: by what the scan was turned. 0 if the second array is
        already in the first one's axes and only `fast_axes` differ.
    fast_axes : (int, int)
        The axis of each array along which the beam runs: 1, as most microscopes write, or 0.
    detector : Detector, (Qx, Qy) array, or a mapping or sequence of them, optional
        Virtual detectors, as of `gpu4d.virtual_image`, in place of those above.
    max_drift : float, optional
        Largest steady drift that is searched for, Å from the start of a scan to its end. By default a quarter of the longer side.
    r_pixel : float, optional
        Step of both scans, Å. By default from calibrations or image slices. If none is known, lengths are in steps.
    memory : int or str, optional
        As in `gpu4d.sweep`.
    **sweep_options
        Options of `gpu4d.sweep`: device, progress. `where` is for scans of one shape.

    Returns
    -------
    ScanDrift
        Positions with standard errors, the steady drift, and pictures at the measured positions. Put positions into a calibration with
        ``cube.calibration.set(positions=found.positions_in_own_axes(0), how="scan drift")``.

    Raises
    ------
    InputError
        Arguments that are no scans, too small ones, pictures without variation, a bad angle or axis.

    Notes
    -----
    Scans at 90°: Ophus, Ciston, Nelson, Ultramicroscopy 162 (2016) 1. Jitter: Sang, LeBeau, Ultramicroscopy 138 (2014) 28.
    A pair does not tell the overall shift of both scans, nor a distortion that both share: a wrong step, scan coils that are not
    perpendicular. Steps and angle count as exact. Detail must have a gradient in both directions: of lines alone, the shift along them
    stays at its prior. A perfect crystal may be off by a lattice vector; then `warnings` say so. Pictures must be of the same signal:
    the centre of mass is compared in detector axes, which do not turn with the scan. The fit runs on the host; its time grows with the
    cube of the number of rows: a second for 64 rows, some 20 s for 256.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> rng = np.random.default_rng(1)
    >>> spots = rng.uniform(-30, 30, (60, 2))
    >>> def seen(places):
    ...     return np.exp(-((places[..., None, :] - spots) ** 2).sum(-1) / 8).sum(-1)
    >>> i, j = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
    >>> drift = np.array([3.0, -2.0])
    >>> one = seen(np.stack([i, j], -1) - 15.5 + drift * ((i - 15.5) / 32)[..., None])
    >>> two = seen(np.stack([i, j], -1) - 15.5 + drift * ((j - 15.5) / 32)[..., None])
    >>> noise = rng.normal(0, 0.05, (2, 32, 32))
    >>> found = gpu4d.scan_drift(one + noise[0], two + noise[1], angle=0.0, fast_axes=(1, 0))
    >>> all((abs(measured - drift) < 0.5).all() for measured in found.drift)
    True
    """
    given: list[Any] = [first] if second is None else [first, second]
    turn, fast = radians(angle, "angle"), _axes(fast_axes)
    options: SweepOptions = {"memory": memory, **sweep_options}
    pictures = pictures_of(given, detector, options)
    scans = _Scans.of(pictures, turn, fast, r_pixel)
    decisions, warnings = [_compared(pictures)], list[str]()
    if second is None:
        sides = _even_and_odd(scans.frames[0], pictures)
        fit = fit_rows(sides, scans.parts, np.zeros((scans.frames[0].rows, 2)), steady=False)
    else:
        longest = max(max(frame.shape) * frame.step for frame in scans.frames)
        farthest = FARTHEST * longest if max_drift is None else float(real_number(max_drift, "max_drift")) / scans.step
        if not 0 <= farthest < longest:
            raise InputError(f"max_drift={max_drift}: need 0 to {longest * scans.step:.4g} {scans.units}, the length of the scan")
        sides = _two_sides(scans, pictures)
        start = search(scans.frames, [_filtered(side) for side in sides], farthest)
        _explain_search(start, scans, decisions, warnings)
        fit = fit_rows(sides, scans.parts, _started(start, scans.frames), steady=True)
    return _result(fit, sides, scans, pictures, decisions, warnings)


@dataclass(frozen=True)
class _Scans:
    """One or two scans: nominal positions, which rows are whose, and the unit of their steps.

    Attributes
    ----------
    frames : list of ScanFrame
    parts : list of slice
        The rows of every scan among all rows.
    step : float
        Of the first scan, in `units`.
    units : {"Å", "px"}
    """

    frames: list[ScanFrame]
    parts: list[slice]
    step: float
    units: str

    @classmethod
    def of(cls, pictures: Pictures, turn: float, fast: tuple[int, int], r_pixel: float | None) -> _Scans:
        step, ratio, units = _steps(pictures, r_pixel)
        shapes = [values.shape[:2] for values in pictures.values]
        frames = [ScanFrame(shape, size, angle, axis) for shape, size, angle, axis in zip(shapes, (1.0, ratio), (0.0, turn), fast)]
        ends = np.cumsum([0, *(frame.rows for frame in frames)])
        return cls(frames, [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)], step, units)


def _axes(given: Sequence[int]) -> tuple[int, int]:
    try:
        found = tuple(int(real_number(axis, "fast_axes", whole=True)) for axis in given)
    except TypeError:
        found = ()
    if len(found) != 2 or not set(found) <= {0, 1}:
        raise InputError(f"fast_axes={given!r}: need two axes, each 0 or 1, such as (1, 1): the beam runs along the second axis")
    return found[0], found[1]


def _steps(pictures: Pictures, given: float | None) -> tuple[float, float, str]:
    """Return the step of the first scan, the second one's as a multiple of it, and the unit."""
    if given is not None:
        if not float(real_number(given, "r_pixel")) > 0:
            raise InputError(f"r_pixel={given!r}: need a positive number in Å")
        return float(given), 1.0, "Å"
    known = pictures.r_pixels
    if known[0] is None:
        return 1.0, 1.0, "px"
    return known[0], (known[-1] or known[0]) / known[0], "Å"


def _two_sides(scans: _Scans, pictures: Pictures) -> tuple[Side, Side]:
    first, second = (
        Side(frame, part.start, np.arange(frame.rows), values, Picture.of(values, pictures.spectrum, axis=1 - frame.fast))
        for frame, part, values in zip(scans.frames, scans.parts, pictures.values)
    )
    return first, second


def _even_and_odd(frame: ScanFrame, pictures: Pictures) -> tuple[Side, Side]:
    values, spectrum, axis = pictures.values[0], pictures.spectrum, 1 - frame.fast
    even, odd = (
        Side(frame, 0, np.arange(parity, frame.rows, 2), values, Picture.of(values, spectrum, parity=parity, axis=axis))
        for parity in (0, 1)
    )
    return even, odd


def _filtered(side: Side) -> np.ndarray:
    x, y = (np.arange(float(n)) for n in side.frame.shape)
    return np.stack([spline(x, y) for spline in side.picture.splines], -1)


def _started(found: SteadyDrift, frames: list[ScanFrame]) -> np.ndarray:
    """Return shifts of rows (R, 2) for a drift and a displacement."""
    when = [(np.arange(frame.rows) - (frame.rows - 1) / 2) / frame.rows for frame in frames]
    return np.concatenate([np.outer(t, found.drift) + scan * found.displacement for scan, t in enumerate(when)])


def _compared(pictures: Pictures) -> str:
    shares = ", ".join(f"{name} ({told:.2g})" for name, told in zip(pictures.names, pictures.told))
    return f"compared by {shares}: what each tells of displacements, relative to the best"


def _explain_search(found: SteadyDrift, scans: _Scans, decisions: list[str], warnings: list[str]) -> None:
    x, y = found.displacement * scans.step
    decisions.append(
        f"of all steady drifts and displacements the pictures agree best, with a correlation of {found.correlation:.2f}, near a "
        f"displacement of ({x:.3g}, {y:.3g}) {scans.units}; elsewhere it is at most {found.rival:.2f} of that"
    )
    if found.rival > AMBIGUOUS:
        warnings.append(
            f"another displacement agrees {found.rival:.2f} times as well: if the specimen repeats itself, the scans may be displaced by a "
            "period"
        )
    between = abs(float(np.linalg.det(np.stack([frame.direction for frame in scans.frames]))))
    if between < math.sin(PARALLEL):
        warnings.append(
            f"the rows of both scans run {math.degrees(math.asin(min(1.0, between))):.0f}° from parallel: drift that both share across "
            "them looks like a stretched specimen; is the angle right, and are the fast axes?"
        )


def _result(
    fit: RowFit, sides: tuple[Side, Side], scans: _Scans, pictures: Pictures, decisions: list[str], warnings: list[str]
) -> ScanDrift:
    """Put the fit into the user's units, and say how good it is."""
    frames, parts, step, units = scans.frames, scans.parts, scans.step, scans.units
    two = len(frames) == 2
    middle = fit.shifts[parts[0]].mean(0)
    corner = (np.array(frames[0].shape) - 1) / 2
    shifts = [(fit.shifts[part] - middle) * step for part in parts]
    errors = [_errors(fit.covariance[part, :, part, :]) * step for part in parts]
    placed = [side.places(fit.shifts) for side in (sides if two else sides[:1])]
    positions = [((p - middle + corner) * step).reshape(*frame.shape, 2) for p, frame in zip(placed, frames)]
    spread = [error[frame.row_of()].reshape(*frame.shape, 2) for error, frame in zip(errors, frames)]
    nothing = np.full(2, np.nan)
    drifts = [slope(shift) * frame.rows if two else nothing for shift, frame in zip(shifts, frames)]
    drift_errors = [_slope_error(fit.covariance[part, :, part, :]) * step if two else nothing for part in parts]
    significance = fit.final.agreement / _by_chance(pictures, fit.final.overlap)
    prior = fit.prior
    walk, jitter = prior.walk * step, prior.jitter * step
    for scan, (drift, error) in enumerate(zip(drifts, drift_errors)):
        if two:
            name = ("first", "second")[scan]
            both = ", ".join(f"{d:.3g} ± {e:.2g}" for d, e in zip(drift, error))
            decisions.append(f"steady drift of the {name} scan ({both}) {units} from start to end")
    if walk or jitter:
        decisions.append(
            f"rows have shifts of their own: a walk of {walk:.2g} {units} per row and a jitter of {jitter:.2g} {units} raise the logarithm "
            f"of the evidence by {fit.gained:.1f}" + ("" if fit.gained > WORTH else ", which is little: they may have none")
        )
    else:
        decisions.append("the data show no shifts of single rows")
    warnings += _doubts(fit, significance, two)
    for message in warnings:
        log.warning("scan_drift: %s", message)
    return ScanDrift(
        positions=tuple(positions),
        errors=tuple(spread),
        shifts=tuple(shifts),
        shift_errors=tuple(errors),
        drift=tuple(drifts),
        drift_error=tuple(drift_errors),
        walk=walk,
        jitter=jitter,
        agreement=fit.final.agreement,
        significance=significance,
        gained=fit.gained,
        pictures=pictures.names,
        r_pixel=step,
        units=units,
        frames=tuple(frames),
        decisions=decisions,
        warnings=warnings,
    )


def _doubts(fit: RowFit, significance: float, two: bool) -> list[str]:
    found = []
    what = "both scans" if two else "even and odd rows"
    hint = "do the pictures show the same place with contrast, and is the angle right?" if two else "does the picture show contrast?"
    if significance < BELIEVED:
        found.append(
            f"{what} agree by {fit.final.agreement:.2f} only, {significance:.1f} standard deviations of chance: the positions are not to "
            f"be believed; {hint}"
        )
    if fit.final.overlap < SMALL:
        found.append(f"{what} share {fit.final.overlap:.0%} of their positions: rows without a partner are guessed from their neighbours")
    if fit.final.misfit.max() > UNLIKE:
        found.append(
            f"{what} differ by up to {math.sqrt(fit.final.misfit.max()):.1f} times the noise: something besides drift changed between "
            "them, details are finer than the steps, or the angle is wrong"
        )
    return found


def _errors(covariance: np.ndarray) -> np.ndarray:
    """Return standard errors (n, 2) of shifts relative to their mean, from their covariance (n, 2, n, 2)."""
    centred = np.eye(len(covariance)) - 1 / len(covariance)
    return np.stack([np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", centred, covariance[:, a, :, a], centred), 0)) for a in (0, 1)], -1)


def _slope_error(covariance: np.ndarray) -> np.ndarray:
    """Return the standard error (2,) of the steady drift over a scan."""
    n = len(covariance)
    t = np.arange(n) - (n - 1) / 2
    t = t / (t @ t) * n
    return np.array([math.sqrt(max(0.0, t @ covariance[:, a, :, a] @ t)) for a in (0, 1)])


def _by_chance(pictures: Pictures, overlap: float) -> float:
    """Return the standard deviation of the agreement of pictures with the same spectra that have nothing in common."""
    spectrum = pictures.spectrum
    rings = spectrum.frequencies / spectrum.frequencies.sum()
    seen, predicted = spectrum.power + 1, spectrum.power**2 / (spectrum.power + 1)
    number = overlap * sum(values.shape[0] * values.shape[1] for values in pictures.values) / 2
    together = float((rings * seen * predicted).sum())
    apart = float((rings * seen).sum() * (rings * predicted).sum())
    return math.sqrt(together / (apart * max(number, 1.0)))
