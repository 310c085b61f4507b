"""Say which Bragg disk is on which ring of the crystals: by fits of all likely ways, and what they explain."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d.calibrate.peak_choice import OTHER, WEAKEST, pixel_off, ways_to_index
from gpu4d.calibrate.peak_likelihood import DiskPoints, disk_residuals, fitted_disks
from gpu4d.calibrate.peak_rivals import Places, places_of
from gpu4d.calibrate.ring_index import (
    PRIOR,
    Indexed,
    KnownRings,
    check_indexed,
    index_trials,
    is_lengths,
    judged_scale,
    known_rings,
    structures,
)
from gpu4d.calibrate.ring_start import BIN, STEP, STRETCHES, Peak
from gpu4d.calibrate.stretch import undone
from gpu4d.errors import InputError
from gpu4d.robust import TUKEY

START_POINTS = 5_000
TRIAL_POINTS = 1_500  # to compare ways to index the disks
BEAM = 2.0  # px from the origin: nearer disks are the unscattered beam
BLUR = 1.0  # bins of half a pixel: the histogram of distances is smoothed by so much
STARTS = 4  # of the sharpest stretches of the grid are tried
WRONG_PRIOR = 2  # times its tolerance: how far a given pixel size may be off and still be found to be wrong
SCALES = 5  # of each start are fitted
STRAY = 0.02  # of the disks may lie on no ring, for the likelihood
OVAL = 0.05  # of ½ ln(a/b) has to be paid for by 1 in the mean log likelihood of a disk: most detectors have less
MOST_OVAL = 0.14  # of ½ ln(a/b), a/b of 1.32: what is more oval is a line of disks that was made a ring
DISKS = 10.0  # of many grains count as independent: others may be wrong together. Ten times the mean log likelihood of one is ln P
STRAINED = 0.06  # of its radius: a ring of disks is so wide at least, since crystals are strained by a per cent or two
UNKNOWN = 2.0  # times the pixel size that the histogram of distances gives: another way to index the disks may have such a one
LEAST_PLACES = 5  # for disks without a pixel size: any three fit, and four nearly do
EDGE = 1.1  # of the farthest disk: rings beyond it are neighbours that a disk might be on
LEAST = 0.01  # a way to index the disks that is less probable is not named
MISSING = 0.25  # of the expected rings must be there: one zone axis shows few of them


class DiskTrial(NamedTuple):
    """One way to say which disk is on which ring.

    Parameters (5,) of its fit, the rings, how they fit, the mean log likelihood of a disk's distance, the same without the number of rings
    in reach, and how many rings have disks.
    """

    p: np.ndarray
    rings: KnownRings
    found: Indexed
    likelihood: float
    closeness: float
    occupied: int

    @property
    def oval(self) -> float:
        return float(np.hypot(*self.p[2:4]))

    @property
    def score(self) -> float:
        return self.likelihood - self.oval / OVAL

    @property
    def pixel(self) -> float:
        return float(np.exp(self.oval - self.p[4]))

    def differs(self, other: DiskTrial) -> bool:
        return bool(np.abs(self.p[2:5] - other.p[2:5]).max() > OTHER)


class Chosen(NamedTuple):
    """The most probable way to index the disks, and the others (at least 1 % probable), the most probable first, with probabilities.

    `listed` says that all ways were listed, as those of a single crystal.
    """

    trial: DiskTrial
    rivals: list[tuple[np.ndarray, float]]
    listed: bool


def indexed_disks(points: DiskPoints, known: Any, q_pixel: float | None, energy: float | None, tolerance: float = PRIOR) -> Chosen:
    """Return the way to index the disks that is most probable, and its rivals.

    Of a single crystal, all ways that put its disks on rings are weighed by `ways_to_index`. Of many grains, some ways are fitted to a part
    of the disks, since histograms of distances do not tell them apart.
    """
    few = np.random.default_rng(0).permutation(len(points.v))[:TRIAL_POINTS]
    part = DiskPoints(points.v[few], points.intensity[few], points.error[few], np.arange(len(few)))
    places = None if is_lengths(known) else places_of(points, BEAM)
    if places is not None and places.three is None:
        raise InputError("the disks lie in too few directions to fix an ellipse: need three directions, or two lengths in two")
    if places is not None and q_pixel is not None:
        single = _single_crystal(points, part, places, known, energy, (q_pixel, q_pixel, tolerance))
        if single is not None:
            return single
    trials = _trials(points, part, known, q_pixel, energy, tolerance)
    best = _best(trials, q_pixel, tolerance)
    if places is not None and q_pixel is None:
        single = _single_crystal(points, part, places, known, energy, (None, best.pixel, tolerance))
        if single is not None:
            return single
    others: list[DiskTrial] = []
    for t in sorted(trials, key=lambda t: -t.score):
        if t.oval < MOST_OVAL and t.differs(best) and all(t.differs(other) for other in others):
            others.append(t)
    log = np.array([DISKS * (t.score - best.score) - pixel_off(t.pixel, q_pixel, tolerance) for t in (best, *others)])
    return Chosen(best, _named([t.p for t in others], log), False)


def _named(p: list[np.ndarray], log: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Return parameters and probabilities of others than the first one, from the logarithms (1 + n,) of all."""
    odds = np.exp(log - log.max())
    share = odds / odds.sum()
    return sorted(((one, float(s)) for one, s in zip(p, share[1:]) if s > LEAST), key=lambda rival: -rival[1])


def _single_crystal(
    points: DiskPoints, part: DiskPoints, places: Places, known: Any, energy: float | None, near: tuple[float | None, float, float]
) -> Chosen | None:
    """Return the most probable way to put the disks of a single crystal on rings near a pixel size, or None if none fits.

    `near` is the pixel size that was given, or None, the one about which is searched, and the tolerance.
    """
    q_pixel, middle, tolerance = near
    if q_pixel is None and len(places.v) < LEAST_PLACES:
        return None
    reach = min(WRONG_PRIOR * tolerance, 0.9)
    pixel = (middle / UNKNOWN, middle * UNKNOWN) if q_pixel is None else (middle / (1 + reach), middle / (1 - reach))
    ways = ways_to_index(places, known, q_pixel, tolerance, pixel, energy)
    for best in ways[:1]:
        start = best.p[2:5]
        peaks, r, height = _histogram(points, start[:2])
        rings = known_rings(known, float(np.hypot(*points.v.T).max()) * best.pixel * EDGE, energy, WEAKEST)
        try:
            found = judged_scale(rings, peaks, r, height, float(np.exp(start[2])))
            check_indexed(found, rings, missing=0.0)
            trial = _trial(part, rings, found, best.p)
        except (InputError, np.linalg.LinAlgError):  # the disks are too far from the rings for a fit
            return None
        if np.abs(trial.p[2:5] - start).max() > OTHER:  # the fit of all disks went elsewhere
            return None
        return Chosen(trial, _named([way.p for way in ways[1:]], np.array([way.log for way in ways])), True)
    return None


def _trials(
    points: DiskPoints, part: DiskPoints, known: Any, q_pixel: float | None, energy: float | None, tolerance: float
) -> list[DiskTrial]:
    """Return fits of the ways to index the disks that explain the histogram of their distances best."""
    trials: list[DiskTrial] = []
    refusals: list[tuple[float, InputError]] = []
    for start in _starts(points):
        peaks, r, height = _histogram(points, start)
        rings = _rings(known, peaks, energy)
        try:
            judged = index_trials(rings, peaks, r, height, q_pixel, WRONG_PRIOR * tolerance)
        except InputError as error:
            refusals.append((-1.0, error))
            continue
        for found in judged[:SCALES]:
            try:
                check_indexed(found, rings, missing=MISSING)
                trials.append(_trial(part, rings, found, np.array([0.0, 0.0, *start, np.log(found.scale)])))
            except InputError as error:
                refusals.append((found.score - float(np.hypot(*start)), error))
            except np.linalg.LinAlgError:  # a start so wrong that its fit has no answer
                continue
    if not trials:
        none = InputError("with no ellipse and pixel size do the disks lie on rings of the crystals: give the right crystals, or q_pixel")
        raise max(refusals, key=lambda t: t[0], default=(0.0, none))[1]
    return trials


def _trial(points: DiskPoints, rings: KnownRings, found: Indexed, start: np.ndarray) -> DiskTrial:
    """Fit one way to index the disks. A disk is on each of the rings in reach with the same probability: dense rings explain less."""
    p, _, scatter, _ = fitted_disks(points, rings, start)
    off = disk_residuals(points.v, rings.g, p)[0]
    r = np.hypot(*(undone(p[2], p[3])[0] @ (points.v - p[:2]).T))
    far = r > BEAM
    sigma, reach = max(scatter, BIN / 10), float(r.max()) + 1
    places = np.exp(p[4]) * rings.g
    lines = max(int((places < reach).sum()), 1)
    on_ring = (1 - STRAY) / lines * np.exp(-0.5 * (off[far] / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    filled = np.unique(np.searchsorted((places[1:] + places[:-1]) / 2, r[far & (np.abs(off) < TUKEY * sigma)]), return_counts=True)[1]
    occupied = int((filled > STRAY * far.sum()).sum())
    mean, close = (float(np.log(times * on_ring + STRAY / reach).mean()) for times in (1, lines))
    return DiskTrial(p, rings, found, mean, close, occupied)


def _best(trials: list[DiskTrial], q_pixel: float | None, tolerance: float) -> DiskTrial:
    """Return the most probable trial. One with an ellipse that no detector has is taken if there is no other."""
    plausible = [t for t in trials if t.oval < MOST_OVAL] or trials
    return max(plausible, key=lambda t: DISKS * t.score - pixel_off(t.pixel, q_pixel, tolerance))


def _starts(points: DiskPoints) -> list[np.ndarray]:
    """Return some (e1, e2) at which the histogram of distances is sharp: the circle, and the sharpest of a grid."""
    few = slice(None, None, int(np.ceil(len(points.v) / START_POINTS)))
    v, weight = points.v[few], np.sqrt(points.intensity[few])
    far = np.hypot(*v.T) > BEAM
    v, weight = v[far], weight[far]

    def sharpness(e: np.ndarray) -> float:
        r = np.hypot(*(undone(*e)[0] @ v.T)) / BIN
        low = r.astype(np.int64)
        hist = np.bincount(low, weight * (1 - (r - low))) + np.bincount(low + 1, weight * (r - low))[: low.max() + 1]
        return float((hist**2).sum())

    def climbed(e: np.ndarray, step: float) -> np.ndarray:
        while step > 1e-3:
            step /= 2
            e = max((e + step * np.array([i, j]) for i in (-1, 0, 1) for j in (-1, 0, 1)), key=sharpness)
        return e

    grid = [STEP * np.array([i, j]) for i in range(-6, 7) for j in range(-6, 7) if np.hypot(i, j) * STEP <= STRETCHES + 1e-9]
    best = sorted(grid, key=sharpness)[-STARTS:]
    found = [np.zeros(2)]
    for e in (*best, *(e for e in grid if np.hypot(*e) < 1.1 * STEP)):
        top = climbed(e, STEP)
        if min(np.hypot(*(top - f)) for f in found) > 2e-3:
            found.append(top)
    return found


def _histogram(points: DiskPoints, start: np.ndarray) -> tuple[list[Peak], np.ndarray, np.ndarray]:
    """Return clusters of distances as peaks; the bins' distances, and their content in standard errors."""
    from scipy import ndimage
    from scipy.signal import find_peaks, peak_widths

    r = np.hypot(*(undone(*start)[0] @ points.v.T))
    weight = np.sqrt(points.intensity)
    size = int(r.max() / BIN) + 8
    hist = ndimage.gaussian_filter1d(np.bincount((r / BIN).astype(np.int64), weight, size), BLUR)
    middle = (np.arange(size) + 0.5) * BIN
    wide = ndimage.gaussian_filter1d(hist, 12.0)  # what disks anywhere would give
    at = find_peaks(hist, height=np.maximum(1.5 * wide, 0.01 * hist.max()))[0]
    at = at[middle[at] > 3.0]
    widths = peak_widths(hist, at, rel_height=0.5)[0] * BIN
    peaks = [
        Peak(float(middle[i]), max(float(w), STRAINED * float(middle[i])), float(hist[i] / middle[i]), float(hist[i]))
        for i, w in zip(at, widths)
    ]
    return peaks, middle, 10 * hist / max(float(hist[at].min(initial=np.inf)), 1e-300) if len(at) else hist


def _rings(crystals: Any, peaks: list[Peak], energy: float | None) -> KnownRings:
    if is_lengths(crystals) or not peaks:
        return known_rings(crystals, np.inf if is_lengths(crystals) else 1.0, energy)
    few = known_rings(crystals, 4 * max(float(np.linalg.norm(s.basis, axis=1).max()) for s in structures(crystals)), energy)
    return known_rings(crystals, few.g[min(3, len(few.g) - 1)] * max(p.r for p in peaks) / peaks[0].r, energy)
