"""Find orientation and phase at every position of a scan: `match_orientations`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.calibrate.origin import origin as measure_origin
from gpu4d.data.arguments import OriginLike, disk_lists, origins, positions_of
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointListArray
from gpu4d.device.threads import in_threads
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.orientation.candidates import Candidates, FitOptions, find_candidates
from gpu4d.orientation.choose import Look, look_at_patterns
from gpu4d.orientation.correlate_orientations import correlate_orientations
from gpu4d.orientation.library import OrientationLibrary, library_of
from gpu4d.orientation.orientations import Orientations
from gpu4d.orientation.overlap import Overlap, find_overlap
from gpu4d.orientation.peaks import Frame, Peaks, lab_frame, lab_peaks, reach_of, weakest
from gpu4d.orientation.refine_orientations import refine_orientations
from gpu4d.orientation.results import assemble
from gpu4d.orientation.thickness import FIRST_GUESS, best_thickness
from gpu4d.real_arrays import real_number
from gpu4d.structures import Structure

log = logging.getLogger("gpu4d")

BLOCK = 64  # positions whose tables stay in the cache of a thread
DEVICE_BLOCK = 2048  # positions of a step on a GPU, where a step has some 300 launches: 0.2 GB
TABLE_BLOCK = 128  # positions of a step without kernels: tables of candidates × peaks × reflections take 0.1 GB each
USUAL_RADIUS = 3.0  # px, of a disk whose radius is not known
SEARCH_RADIUS = 0.05  # 1/Å: half a step of the library moves a reflection at 1.4 1/Å by 0.03
G_STEP = 0.02  # 1/Å
SAMPLE = 48  # positions that decide on the thickness


class Settings(NamedTuple):
    """What a call of `match_orientations` asks for, checked."""

    energy: float
    step: float
    radius: float
    relative: float
    maxima: int
    min_peaks: int
    overlaps: bool


@on_host("lists")
def match_orientations(
    disks: PointListArray,
    structures: Structure | Sequence[Structure],
    *,
    calibration: Calibration | None = None,
    origin: OriginLike | None = None,
    energy: float | None = None,
    q_pixel: float | None = None,
    disk_radius: float | None = None,
    thickness: float | Sequence[float] | None = None,
    step: float = math.radians(2.0),
    intensity_error: float = 0.2,
    maxima: int = 6,
    min_peaks: int = 4,
    overlaps: bool = True,
    patterns: DataCube | ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Orientations:
    """Find the orientation and the phase of the crystal at every position, from its Bragg disks.

    1. Disks become peaks in lab axes, 1/Å: origin, ellipse, exchange and rotation of axes, pixel size.
    2. Each pattern and its mirror image are correlated with a library of zone axes over all in-plane angles
       (`gpu4d.orientation.correlate_orientations`).
    3. The best maxima, and each of them turned by 180° about the beam, are refined by a fit to positions and intensities
       (`gpu4d.orientation.refine_orientations`). The cheapest is the orientation. The log likelihood ratio to the next one of another
       direction or phase is its margin.
    4. If three or more peaks are left over and another orientation explains them, two grains overlap. Both are refined together, and
       their intensities give shares.
    5. With `patterns`, orientations that the disks hardly tell apart are compared by the counts wherever they expect a spot.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy (px), intensity; sx, sy are used if they are there. Weak disks matter here: `min_significance=3` is a good value.
    structures : Structure or sequence of Structure
        Phases to compare.
    calibration : Calibration, optional
        Its energy, q_pixel, origin, ellipse, rotation, transpose, probe_radius and r_pixel are used. The pixel size must be good to 1 %.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        None: from the calibration, else measured by `gpu4d.calibrate.origin`.
    energy : float, optional
        eV. None: from the calibration.
    q_pixel : float, optional
        1/Å. None: from the calibration.
    disk_radius : float, optional
        px. Gives the counts in a disk. None: `probe_radius` of the calibration, else 3 px.
    thickness : float or sequence of float, optional
        Of the crystal along the beam, Å; a sequence has one for each structure. None: the value between 15 and
        300 Å that fits a sample of positions best.
    step : float
        Mean distance of zone axes in the library, rad.
    intensity_error : float
        Relative standard error of kinematical intensities, 0 … 1. Thick crystals need more, 0.5 or so.
    maxima : int
        Maxima of the correlation that are refined.
    min_peaks : int
        Positions with fewer peaks have no orientation.
    overlaps : bool
        Whether to look for second grains.
    patterns : DataCube or (Rx, Ry, Qx, Qy) array, optional
        Counts in electrons, to decide between look-alikes.
    where : (Rx, Ry) bool, optional
        Positions to look at.

    Returns
    -------
    Orientations
        On the host. Positions without an orientation are NaN, with phase −1: too few peaks, or none that the structures explain.

    Raises
    ------
    InputError
        No pixel size or energy, no structure, values out of range, or a scan of another shape.

    Notes
    -----
    Kinematical intensities suit crystals of up to some 30 nm off their zone axes. Dynamical scattering changes intensities, not positions:
    in thick crystals the tilt is less certain than the error says, the in-plane angle is not. R and R P are the same for all rotations P
    of the Laue group, so left- and right-handed crystals are not told apart, nor polar directions.

    References
    ----------
    C. Ophus et al., Microsc. Microanal. 28 (2022) 390: Automated crystal orientation mapping in py4DSTEM using sparse correlation
    matching.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.data import PointListArray
    >>> from gpu4d.structures import Structure
    >>> h, k = np.mgrid[-3:4, -3:4].reshape(2, -1)
    >>> inside = ((h + k) % 2 == 0) & (h * h + k * k < 14)  # a face-centred cube seen along [001]: h and k both odd are forbidden
    >>> inside &= (h % 2 == 0)
    >>> q = np.stack([h, k], -1)[inside] / 4.0786 / 0.02 + 64
    >>> one = PointListArray([0, len(q)], {"qx": q[:, 0], "qy": q[:, 1], "intensity": 9.0 / (1 + (h * h + k * k)[inside])}, (1, 1))
    >>> found = match_orientations(one, Structure.standard("Au"), origin=(64, 64), energy=200e3, q_pixel=0.02, thickness=40.0)
    >>> np.abs(found.grain.zone_axis[0, 0]).round(2).max()
    np.float64(1.0)
    """
    known = calibration or Calibration()
    crystals = _structures(structures)
    disk_lists(disks)
    settings = _settings(known, energy, step, disk_radius, intensity_error, maxima, min_peaks, overlaps)
    pixel = real_number(known.require("q_pixel") if q_pixel is None else q_pixel, "q_pixel")
    if not pixel > 0:
        raise InputError(f"q_pixel={pixel!r}: need the size of a detector pixel in 1/Å")
    looked_at = positions_of(where, disks.shape)
    frame = lab_frame(_origins(disks, known, origin, where), known, pixel)
    farthest, q_max = reach_of(disks, frame)
    if not farthest > 0:
        return _nothing(disks, crystals, known)
    peaks, libraries, options = _prepare(disks, frame, crystals, thickness, settings, 1.03 * farthest, q_max)
    enough = (arrays.to_numpy(peaks.counts) >= min_peaks) & looked_at.reshape(-1)
    rows = np.flatnonzero(enough)
    first, overlap = _matched(_rows(peaks, rows), libraries, options, overlaps)
    looked = None
    if patterns is not None:
        cube = patterns if isinstance(patterns, DataCube) else DataCube(cast(Array, patterns))
        look = Look(cube, frame, libraries, settings.radius, settings.relative)
        looked = look_at_patterns(look, disks, rows, _rows(peaks, rows), first, overlap)
    return assemble(disks.shape, rows, first, overlap, looked, libraries, crystals, known)


def _structures(given: Any) -> tuple[Structure, ...]:
    crystals = (given,) if isinstance(given, Structure) else tuple(given) if isinstance(given, Iterable) else ()
    if not crystals or not all(isinstance(crystal, Structure) for crystal in crystals):
        raise InputError(f"structures={given!r}: need a Structure, or a list of them, for example Structure.standard('Au')")
    return crystals


def _settings(
    known: Calibration, energy: Any, step: Any, disk_radius: Any, relative: Any, maxima: Any, min_peaks: Any, overlaps: bool
) -> Settings:
    """Return the numbers of the call, or say which of them cannot be."""
    volts = real_number(known.require("energy") if energy is None else energy, "energy")
    radius = disk_radius if disk_radius is not None else known.probe_radius
    if radius is None:
        log.info("match_orientations: the radius of the disks is not known, %g px are assumed: set disk_radius", USUAL_RADIUS)
        radius = USUAL_RADIUS
    limits = {
        "energy": (volts, 1e3, 1e7, "eV"), "step": (step, math.radians(0.2), math.radians(10.0), "rad, 0.2 to 10 degrees"),
        "disk_radius": (radius, 0.1, 1e4, "px"), "intensity_error": (relative, 0.0, 2.0, "0 to 2"), "maxima": (maxima, 1, 100, "1 to 100"),
        "min_peaks": (min_peaks, 2, 1000, "at least 2"),
    }  # fmt: skip
    for name, (value, least, most, unit) in limits.items():
        if not least <= real_number(value, name) <= most:
            raise InputError(f"{name}={value!r}: need a number between {least:g} and {most:g} ({unit})")
    return Settings(volts, float(step), float(radius), float(relative), int(maxima), int(min_peaks), bool(overlaps))


def _origins(disks: PointListArray, known: Calibration, origin: Any, where: Any) -> np.ndarray:
    """Return the origin of each position (Rx, Ry, 2) on the host: given, calibrated, or measured."""
    given = origin if origin is not None else known.origin
    if given is None:
        given = measure_origin(disks, where=where)
    return np.broadcast_to(origins(given, disks.shape), (*disks.shape, 2))


def _prepare(
    disks: PointListArray, frame: Frame, crystals: tuple[Structure, ...], thickness: Any, settings: Settings, g_max: float, q_max: float
) -> tuple[Peaks, list[OrientationLibrary], FitOptions]:
    """Return peaks, libraries and the numbers of the fit. A thickness that is not given is chosen here."""
    given = _thicknesses(thickness, len(crystals))
    g_max = math.ceil(g_max / G_STEP) * G_STEP  # so that scans of one kind share their libraries

    def make(guess: float) -> list[OrientationLibrary]:
        return [
            library_of(c, energy=settings.energy, thickness=t or guess, g_max=g_max, step=settings.step) for c, t in zip(crystals, given)
        ]

    libraries = make(FIRST_GUESS)
    q_min = 0.5 * min(float(library.shells[0]) for library in libraries)
    unit = 1 / (math.pi * settings.radius**2)
    peaks = lab_peaks(disks, frame, q_min, unit, settings.relative)
    radius = min(SEARCH_RADIUS, 0.35 * 2 * q_min)
    options = FitOptions(radius, None, weakest(peaks), q_max, q_min, unit, max(settings.relative, 1e-3), settings.maxima)
    if None in given:
        sample = _rows(peaks, _sample(peaks, settings.min_peaks))
        libraries = make(best_thickness(sample, make, options, given))
    return peaks, libraries, options


def _thicknesses(given: Any, count: int) -> tuple[float | None, ...]:
    listed = tuple(given) if isinstance(given, Sequence | np.ndarray) else (given,) * count
    if len(listed) != count or any(t is not None and not real_number(t, "thickness") > 0 for t in listed):
        raise InputError(f"thickness={given!r}: need a positive number in Å, one for each structure, or None")
    return tuple(None if t is None else float(t) for t in listed)


def _sample(peaks: Peaks, min_peaks: int) -> np.ndarray:
    """Return the numbers of positions with many peaks, evenly over the scan."""
    counts = arrays.to_numpy(peaks.counts)
    rows = np.flatnonzero(counts >= max(min_peaks, np.median(counts[counts >= min_peaks])) if (counts >= min_peaks).any() else counts < 0)
    return rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))] if len(rows) else rows


def _rows(peaks: Peaks, rows: np.ndarray) -> Peaks:
    """Return the peaks of some positions."""
    xp = arrays.namespace(peaks.table)
    index = arrays.from_numpy(rows, peaks.table)
    return Peaks(*(xp.take(a, index, axis=0) for a in peaks))


def _matched(peaks: Peaks, libraries: list[OrientationLibrary], options: FitOptions, overlaps: bool) -> tuple[Candidates, Overlap]:
    """Match all positions, a block at a time. Blocks go to several threads where the CPU twin runs."""
    n, (size, threaded) = int(peaks.counts.shape[0]), _block(peaks, libraries)
    starts = list(range(0, max(n, 1), size))

    def work(start: int) -> tuple[Candidates, Overlap]:
        some = Peaks(*(a[start : min(start + size, n), ...] for a in peaks))
        first = find_candidates(some, libraries, options)
        two = find_overlap(some, first, libraries, options) if overlaps else _no_overlap(first)
        return first, two._replace(rows=two.rows + start)

    done = list((in_threads if threaded else map)(work, starts))
    two = [overlap for _, overlap in done]
    rows = np.concatenate([arrays.to_numpy(o.rows) for o in two])
    return _together([first for first, _ in done]), Overlap(rows, _together([o.first for o in two]), _together([o.second for o in two]))


def _block(peaks: Peaks, libraries: list[OrientationLibrary]) -> tuple[int, bool]:
    """Return how many positions make a block, and whether blocks go to several threads."""
    table, counts = peaks
    kind = correlate_orientations.kind_for(table.dtype, table)
    if kind == "cpu":
        return BLOCK, True
    for library in libraries if kind == "cuda" else ():
        if correlate_orientations.unsupported(kind, table, library.shells, library.real):
            return TABLE_BLOCK, False
        if refine_orientations.unsupported(kind, table, table, counts, library.g):
            return TABLE_BLOCK, False
    return DEVICE_BLOCK if kind == "cuda" else TABLE_BLOCK, False


def _no_overlap(first: Candidates) -> Overlap:
    """Return an overlap of no patterns."""
    xp = arrays.namespace(first.phase)
    none = first.rows(xp.zeros((0,), dtype=xp.int64, device=arrays.device(first.phase)))
    return Overlap(none.phase[:, 0], none, none)


def _together(parts: list[Candidates]) -> Candidates:
    """Return the candidates of all blocks on the host."""
    xp = arrays.namespace(parts[0].turns)
    return Candidates(*(xp.concat(fields, axis=0) for fields in zip(*parts))).on_host()


def _nothing(disks: PointListArray, crystals: tuple[Structure, ...], known: Calibration) -> Orientations:
    """Return the result of a scan without peaks."""
    none = np.zeros(0, np.int64)
    number = np.zeros((0, 1))
    empty = Candidates(np.zeros((0, 1, 3, 3)), none[:, None], number, number, number, np.zeros((0, 1, 4, 4)), np.zeros((0, 1, 0)))
    return assemble(disks.shape, none, empty, Overlap(none, empty, empty), None, [], crystals, known)
