"""Reconstruct an object and its probes from a scan by iterative ptychography: `gpu4d.ptychography.reconstruct`."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays, fft, physics
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, complex_values, scan_mask
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.ptychography.experiment import Experiment, geometry
from gpu4d.ptychography.iterative.grid import Grid
from gpu4d.ptychography.iterative.load import Loaded, given_positions, load_patterns
from gpu4d.ptychography.iterative.options import Options
from gpu4d.ptychography.iterative.plan import check_memory, estimate
from gpu4d.ptychography.iterative.probes import first_wave, side_modes, source_modes, within
from gpu4d.ptychography.iterative.result import Frame, Reconstruction, result_of
from gpu4d.ptychography.iterative.state import State, read_state, write_state
from gpu4d.ptychography.iterative.sweeps import Patterns, Sweeps
from gpu4d.ptychography.iterative.wave_model import WaveModel, propagator
from gpu4d.streaming.engine import SweepOptions, VisitOptions
from gpu4d.streaming.progress import Counter

log = logging.getLogger("gpu4d")

RIM = 2.0  # px: how far beyond the aperture's edge probes may have amplitude; pixels integrate over their area, and the radius has an error
REACH = 4.0  # object pixels that a position may move outwards before it leaves the object's grid
WIDE = 0.02  # of the probe's current near the border of the field: with more its tails wrap around
NEAR = 0.9  # of half the field: where the border begins
OVERLAP = 0.5  # least overlap of neighbouring probes, as a part of their diameter, without a warning
BACKGROUND, MOST_BACKGROUND = 0.005, 0.05  # of the mean count of a pixel, and counts: ten times as much costs contrast, less adds noise
FEW = 10.0  # counts of a pattern: patterns of electrons that are worth a reconstruction have more
LIT = 0.8  # of the current: in the diameter that the overlap is counted with


@dataclass(frozen=True)
class Start:
    """What the probe begins with, as given."""

    aberrations: Mapping[str, float] | None
    probe: ArrayLike | None
    positions: ArrayLike | None


@on_host("fits")
def reconstruct(
    cube: DataCube,
    /,
    *,
    sweeps: int = 20,
    slices: int = 1,
    thickness: float | None = None,
    modes: int | None = None,
    source: float | None = None,
    aberrations: Mapping[str, float] | None = None,
    probe: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    correct_positions: bool | float = False,
    likelihood: str = "poisson",
    background: float | None = None,
    object_kind: str = "complex",
    depth_filter: float = 0.0,
    size: int | None = None,
    batch: int | None = None,
    step: float = 1.0,
    probe_step: float = 0.5,
    momentum: float | None = None,
    damping: float = 0.1,
    probe_from: int = 1,
    positions_from: int = 2,
    seed: int = 0,
    precision: str = "single",
    callback: Callable[[Reconstruction], bool | None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    rotation: float | None = None,
    transpose: bool | None = None,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> Reconstruction:
    """Reconstruct the transmission of an object and the probes that saw it, by iterative ptychography.

    The expected pattern of a position is E = Σ_m |F{ψ_m}|² + background. ψ_m is mode m of the probe after its way through the
    slices: times the transmission of a slice, propagated to the next. The misfit between E and the counts is made smaller by
    steps along its gradients, which are preconditioned: that for the object by the light that fell on a place, that for the
    probe by the number of patterns. Steps are made for batches of positions, with momentum. Positions are corrected by Fisher
    scoring: one step of Gauss and Newton's method in the Poisson likelihood of each pattern after every sweep.

    Parameters
    ----------
    cube : DataCube
        The scan. All of its patterns are held in memory.
    sweeps : int
        How often all patterns are used.
    slices, thickness : int, float
        Number of slices, and the thickness of the whole object in Å, which is needed for more than one slice. Transmissions stand at the
        top of their slices. The probe is that at the entrance of the first.
    modes : int, optional
        Modes of a partially coherent probe. One by default, or as many as `source` needs.
    source : float, optional
        Standard deviation of a Gaussian source, in the plane of the specimen, Å. The modes begin with what it makes of the probe.
    aberrations : mapping, optional
        Krivanek coefficients that the probe begins with, in Å and radians, with azimuths in detector axes: C10, C12, phi12, …
        `defocus` = -C10, positive is underfocus. `gpu4d.fit_aberrations` finds them.
    probe : (Qx, Qy) array, optional
        A wave on the detector, real or complex, in place of a round aperture. It is multiplied by the aberrations.
    positions : (Rx, Ry, 2) array, optional
        Of the probes, Å in scan axes. By default those of the calibration (`gpu4d.scan_drift` finds them), or a regular
        scan with step r_pixel from (0, 0). Positions that are NaN are left out.
    correct_positions : bool or float
        True corrects positions. A number does, and says how far they may be off, as a standard deviation in Å. True takes r_pixel.
    likelihood : {"poisson", "amplitude"}
        Of counts; or least squares of their square roots, the Gaussian limit, for values that are no counts.
    background : float, optional
        Counts per pixel that are expected without a wave: by default 0.005 of the mean, at most 0.05. For Poisson it must not
        be 0, as one count on a dark pixel would then outweigh all others.
    object_kind : {"complex", "phase"}
        "phase" keeps the modulus of the transmission at 1. It is wrong if electrons are scattered beyond the detector.
    depth_filter : float
        β of `1 - 2/π arctan(β² kz² / k²)`, by which details in depth are damped after each sweep. 0 for no filter.
    size : int, optional
        Pixels N of a pattern as it is used: cropped or padded about the origin. By default the longer side of the detector.
        Padded pixels count as not measured. A pixel of the object is 1 / (N q_pixel).
    batch : int, optional
        Positions of a step. By default an eighth of all, between 32 and 1024.
    step, probe_step : float
        Of object and probe. 1 is one over the curvature of a strong place, and more than 2 diverges. 0 for the probe keeps it.
    momentum : float, optional
        Part of the last step that is made again, below 1. By default 0.5, and 0.9 with several slices.
    damping : float
        Places with little light make smaller steps: the light is counted as (1 - damping) of it and damping times the brightest.
    probe_from, positions_from : int
        Sweeps that are done before the probe, and positions, may change.
    seed : int
        Of the order of positions. The same seed gives the same numbers on the same machine.
    precision : {"single", "double"}
    callback : callable, optional
        Is called after every sweep with the Reconstruction so far. If it returns False, the run ends.
    checkpoint : path, optional
        File (npz) that is written after every sweep. `resume` continues from such a file, with the same numbers as without a
        break. `sweeps` counts those that are done.
    resume : path, optional
    rotation, transpose : float, bool, optional
        Rotation of the detector: v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians. By
        default from the calibration, or 0 and False.
    energy, semiangle, q_pixel, r_pixel : float, optional
        In eV, mrad, 1/Å and Å. By default from the calibration.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre of the bright-field disk, pixels; the mean of a map. By default from the calibration, or measured.
    memory : int or str, optional
        Bytes that may be held, "8 GB". By default half of what is free.
    **sweep_options
        Options of `gpu4d.sweep`: device, progress, where.

    Returns
    -------
    Reconstruction
        Positions without counts, with NaN where the detector counts, or not visited take no part: their positions are NaN.

    Raises
    ------
    InputError
        Not a DataCube, a calibration that is missing, a value that is not accepted, a checkpoint of other settings.
    MemoryBudgetError
        What is asked, free and allowed. Nothing was computed then.

    Notes
    -----
    Thibault, Guizar-Sicairos, New J. Phys. 14 (2012) 063004 (likelihood); Thibault, Menzel, Nature 494 (2013) 68 (modes); Maiden,
    Humphry, Rodenburg, JOSA A 29 (2012) 1606 (slices); Odstrčil, Menzel, Guizar-Sicairos, Opt. Express 26 (2018) 3108 (steps).
    Global scale and phase of object and probe, and a shift of both, are not told by the patterns.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((16, 16), (24, 24), r_pixel=0.4, strength=0.5)
    >>> found = gpu4d.ptychography.reconstruct(scan.cube, origin=(12, 12), sweeps=4)
    >>> found.phase.units, bool(found.loss[-1] < found.loss[0])
    ('rad', True)
    """
    if not isinstance(cube, DataCube):
        kind = type(cube).__name__
        raise InputError(f"reconstruct takes a DataCube, not a {kind}: gpu4d.DataCube(array, calibration=gpu4d.Calibration(…))")
    options = Options(
        *(sweeps, slices, thickness, modes, source, correct_positions, likelihood, background, object_kind, depth_filter),
        *(size, batch, step, probe_step, momentum, damping, probe_from, positions_from, seed, precision),
    )
    visit: SweepOptions = {"memory": memory, **sweep_options}
    given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = geometry(cube, rotation=rotation, transpose=transpose, sweep_options=visit, **given)
    frame, run, state = _begin(cube, known, options, Start(aberrations, probe, positions), visit)
    identity = options.identity() | _fingerprint(frame, state)
    if resume is not None:
        state = read_state(resume, state.object, identity)
    _announce(frame, run, state, sweeps)
    n = len(frame.nominal)
    with Counter(sweep_options.get("progress", False), sweeps * n) as report:
        report(len(state.losses) * n)
        while len(state.losses) < sweeps:
            state = run.sweep(state)
            if not math.isfinite(state.losses[-1]):
                raise InputError(f"the misfit is {state.losses[-1]} after sweep {len(state.losses)}: give a smaller step= or momentum=")
            report(n)
            if checkpoint is not None:
                write_state(checkpoint, state, identity)
            if callback is not None and callback(result_of(frame, state)) is False:
                break
    return result_of(frame, state)


def _begin(cube: DataCube, known: Experiment, options: Options, start: Start, visit: SweepOptions) -> tuple[Frame, Sweeps, State]:
    """Plan, load the patterns, and return what stays and what a run begins with."""
    calibrated = None if known.vectors is None else cube.calibration.positions
    everywhere = given_positions(calibrated if start.positions is None else start.positions, cube.scan_shape, known.r_pixel)
    side = options.size or max(cube.detector_shape)
    there = np.isfinite(everywhere).all(axis=-1)
    if not there.any():
        raise InputError("positions are NaN everywhere: need finite ones, Å")
    grid = Grid.of(known, cube.detector_shape, (side, side), everywhere[there], REACH / (side * known.q_pixel))
    waves = _waves(cube, known, options, start, grid)
    planes = (options.slices, *grid.shape)
    complex_name, real_name = options.dtypes
    place = {"device": visit.get("device", "auto"), "memory": visit.get("memory")}
    batch = options.settings(int(there.sum()), known.r_pixel).batch
    needs = check_memory(cube, int(there.sum()), planes, waves.shape, np.dtype(complex_name).itemsize, batch=batch, **place)
    chosen = scan_mask(visit.get("where"), cube.scan_shape)
    where = None if chosen is None and there.all() else there if chosen is None else there & chosen
    pixels = grid.pixels(cube.detector_shape, cube.detector_mask)
    loaded = load_patterns(cube, where, pixels, **place)
    measured = grid.measured(cube.detector_mask)
    share = 1.0 if measured is None else float((np.abs(waves) ** 2 * measured).sum() / (np.abs(waves) ** 2).sum())
    waves = waves * math.sqrt(loaded.counts.mean() / share / (np.abs(waves) ** 2).sum())
    nominal = everywhere[loaded.used]
    frame = _frame(known, grid, loaded, nominal, options, start)
    frame.decisions.append(needs)
    frame.warnings.extend(_doubts(waves, grid, everywhere))

    def beside(values: Any, dtype: str) -> Any:
        """Return a host array beside the patterns. A library's own float is none that `from_numpy` would have to convert."""
        return None if values is None else arrays.from_numpy(np.asarray(values, dtype), loaded.frames)

    step = None
    if options.slices > 1:
        step = propagator(grid.patch, known.q_pixel, grid.offset, physics.wavelength(known.energy), options.slice_thickness)
    background = _background(options, loaded, math.prod(grid.patch) if measured is None else measured.sum(), frame)
    model = WaveModel(grid.patch, beside(step, complex_name), beside(measured, real_name), options.likelihood, background)
    rows, columns = (beside(np.maximum(i, 0), "int64") for i in (grid.rows, grid.columns))
    patterns = Patterns(loaded.frames, loaded.number, rows, columns, model.measured, loaded.plain)
    aperture = None if start.probe is not None else beside(within(grid, known.radius + RIM), real_name)
    run = Sweeps(model, grid, patterns, options.settings(len(nominal), known.r_pixel), aperture, nominal)
    blank = beside(np.ones(planes), complex_name)
    probes = beside(waves, complex_name)
    return frame, run, State(blank, probes, blank * 0, probes * 0, nominal.copy())


def _waves(cube: DataCube, known: Experiment, options: Options, start: Start, grid: Grid) -> np.ndarray:
    """Return the modes (M, N, N) complex128 that the probe begins with, of any scale."""
    given = None
    if start.probe is not None:
        given = complex_values(start.probe, "probe", f"Ψ₀ on the detector, {cube.detector_shape}")
        if given.shape != cube.detector_shape or not np.isfinite(given).all():
            raise InputError(f"probe is {given.shape}, need {cube.detector_shape} with finite values, as the detector")
    wave = first_wave(grid, known.energy, known.radius, start.aberrations, given, known.origin)
    if options.source:
        return source_modes(wave, *grid.frequencies(), options.source, options.modes)
    return side_modes(wave, *grid.frequencies(), options.modes or 1)


def _frame(known: Experiment, grid: Grid, loaded: Loaded, nominal: np.ndarray, options: Options, start: Start) -> Frame:
    """Return what results need, with sentences on what was decided."""
    decisions, warnings = known.decisions, known.warnings
    size = f"{options.slices}×{grid.shape[0]}×{grid.shape[1]}"
    decisions.append(f"object of {size} pixels of {grid.pixel[0]:.4g} Å, patterns of {grid.patch[0]}²")
    left = loaded.used.size - len(nominal)
    if left:
        warnings.append(f"{left} of {loaded.used.size} positions take no part: no counts, NaN, or not chosen")
    area = np.array([nominal.min(axis=0), nominal.max(axis=0)])
    aberrations = {name: float(value) for name, value in (start.aberrations or {}).items()}
    return Frame(grid, known, loaded.used, nominal, area, options.slice_thickness, aberrations, decisions, warnings)


def _background(options: Options, loaded: Loaded, pixels: float, frame: Frame) -> float:
    """Return counts per pixel without a wave, and warn of values that can hardly be counts."""
    mean = float(loaded.counts.mean())
    if mean < FEW and options.likelihood == "poisson":
        frame.warnings.append(
            f"a pattern has {mean:.3g} counts on average: if these are no electrons, scale them, or give likelihood='amplitude'"
        )
    found = min(MOST_BACKGROUND, BACKGROUND * mean / float(pixels)) if options.background is None else float(options.background)
    frame.decisions.append(f"{mean:.4g} counts a pattern, {found:.2g} a pixel of them expected without a wave")
    return found


def _doubts(waves: np.ndarray, grid: Grid, positions: np.ndarray) -> list[str]:
    """Return warnings on the field and on the overlap of probes, by what the probe begins with."""
    found = []
    intensity = (np.abs(fft.ifft2(waves)) ** 2).sum(axis=0)
    x, y = (np.fft.fftfreq(n, 1 / n) for n in grid.patch)
    far = np.maximum(np.abs(x)[:, None] / (grid.patch[0] / 2), np.abs(y)[None, :] / (grid.patch[1] / 2)) > NEAR
    outside = float(intensity[far].sum() / intensity.sum())
    if outside > WIDE:
        found.append(
            f"{outside:.0%} of the probe's current is at the border of the field of {1 / grid.q_pixel:.3g} Å: use patterns with finer "
            "pixels, or less defocus"
        )
    radius = np.hypot(x[:, None], y[None, :]).ravel() * grid.pixel[0]
    order = np.argsort(radius)
    current = np.cumsum(intensity.ravel()[order])
    diameter = 2 * float(radius[order][np.searchsorted(current, LIT * current[-1])])
    steps = [np.hypot(*np.moveaxis(np.diff(positions, axis=axis), -1, 0)).ravel() for axis in (0, 1)]
    longest = max((float(np.nanmedian(s)) for s in steps if s.size and np.isfinite(s).any()), default=0.0)
    if longest > (1 - OVERLAP) * diameter:
        found.append(
            f"neighbouring probes are {longest:.3g} Å apart and {diameter:.3g} Å wide: they overlap by less than {OVERLAP:.0%}, so "
            "that the object is poorly determined; scan with smaller steps or more defocus"
        )
    return found


def _fingerprint(frame: Frame, state: State) -> dict[str, Any]:
    """Return what tells data and start of a run from others, for a checkpoint."""
    parts = (frame.nominal, frame.used, arrays.to_numpy(state.probes))
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]
    return {"patterns and start": digest, "object": list(state.object.shape)}


def _announce(frame: Frame, run: Sweeps, state: State, sweeps: int) -> None:
    """Say how long the run will take, and what may be wrong, before it begins."""
    left = sweeps - len(state.losses)
    seconds = estimate(run, state, left) if left > 0 else 0.0
    frame.decisions.append(
        f"{len(frame.nominal)} patterns, {left} sweeps in batches of {run.settings.batch}: about {seconds:.3g} s, by a rehearsal"
    )
    for message in frame.decisions[-3:]:
        log.info("reconstruct: %s", message)
    for message in frame.warnings:
        log.warning("reconstruct: %s", message)
