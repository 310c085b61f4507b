"""Say quickly whether a scan shows more than one set of reflections, so that it is worth to classify its patterns."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2

from gpu4d.arrays import ArrayLike
from gpu4d.bragg.find_bragg_disks import find_bragg_disks
from gpu4d.classification.distinct import distinct_parts
from gpu4d.classification.features import Features, from_disks
from gpu4d.classification.parts import LEAST, compact, hellinger
from gpu4d.classification.search import ABOVE, FAINTEST, PEAKS, SIGNIFICANCE, Search
from gpu4d.classification.totals import circle_means, diffuse_density, totals
from gpu4d.classification.vector_map_maxima import APART, apart, vector_map_maxima, without_beam
from gpu4d.data import DataCube, PointListArray
from gpu4d.data.arguments import OriginLike, disk_lists, mean_place, origins, scan_mask
from gpu4d.data.fill import fill_from_neighbours
from gpu4d.data.sample import grid_positions, patterns_at
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.operation import using
from gpu4d.probe import Template
from gpu4d.probe.template_kernel import TemplateLike, as_template
from gpu4d.rings.find_ring import find_ring

SIDE = 128  # positions along an axis whose disks are compared, at most: more only take time
PARTS = 8  # that they are split into
TOLERANCE = 0.3  # that of `classify`
SEED = 0  # of the starts of k-means: the same scan gives the same answer
LATTICE = 3  # disks of a pattern that shows a crystal
SUMMED = 49  # patterns that are added up to show what is too faint in one of them
READ = 16  # positions along an axis of the sample that is classified where the sum shows faint reflections
PIXELS = 1 << 23  # of a sample, at most
PIXELS_OF_DEFINITION = 1 << 18  # of summed patterns: with more, the definition takes longer than compiling its twin
OUTSIDE = 1.7  # radii from the beam, beyond which counts are scattered
SCATTERS = 0.05  # of what the crystal scatters: a position without disks that scatters less is vacuum


@dataclass(frozen=True)
class Outlook(Storable):
    """Whether a scan is worth to be classified.

    Attributes
    ----------
    several : bool
        More than one class of patterns, vacuum apart.
    why : str
        What the disks, or sums of patterns, say about it.
    """

    several: bool
    why: str


@on_host("sample")
def outlook(
    disks: PointListArray, cube: DataCube, *, template: TemplateLike, origin: OriginLike, where: ArrayLike | None = None
) -> Outlook:
    """Say whether a scan shows more than one set of reflections, in a small part of the time of `classify`.

    1. Positions are split by their disks, and the parts are compared as `classify` does: up to noise, thickness and bending.
    2. If all disks are of one set, some fifty patterns are added up. If the sum shows reflections that single patterns do not, a sample
       of at most 256 patterns is split and compared with them.
    3. Positions without disks are compared with vacuum: if they scatter and show a ring, they are an amorphous specimen.

    scikit-learn is not needed. Phases that cover a few per cent of the scan and differ in faint reflections alone are missed.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy, intensity.
    cube : DataCube
        The scan of these disks.
    template : Template or (Qx, Qy) array
        As for `find_bragg_disks`.
    origin : pair, (Rx, Ry, 2) array or Origin
        Of the patterns, pixels.
    where : (Rx, Ry) bool, optional
        Positions to look at.

    Returns
    -------
    Outlook

    Raises
    ------
    InputError
        The cube is of another scan.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.bragg_scan((8, 8), (64, 64), spacing=15.0, radius=4.0, vacuum_rows=2, strain=None, seed=1)
    >>> disks = gpu4d.find_bragg_disks(scan.cube, scan.probe)
    >>> outlook(disks, scan.cube, template=scan.probe, origin=gpu4d.calibrate.origin(disks)).several
    False
    """
    disk_lists(disks)
    if tuple(cube.shape[:2]) != disks.shape:
        raise InputError(f"the disks are of a scan {disks.shape}, the cube is {tuple(cube.shape[:2])}: need the cube of these disks")
    center = np.broadcast_to(origins(origin, disks.shape), (*disks.shape, 2)).astype(np.float64)
    visited = scan_mask(where, disks.shape)
    seen = np.isfinite(center).all(-1) if visited is None else visited & np.isfinite(center).all(-1)
    crystal = seen & (np.asarray(disks.to_host().counts) >= LATTICE)
    if not crystal.any():
        return Outlook(False, f"no pattern has {LATTICE} disks")
    scan = _Scan(disks.to_host(), cube, center, as_template(template))
    x, y = (np.unique(np.linspace(0, n - 1, min(n, SIDE)).astype(int)) for n in disks.shape)
    chosen = np.ix_(x, y)
    some = _disks_at(scan.disks, x, y)
    spots = vector_map_maxima(_only(some, crystal[chosen]), scan.radius, origin=center[chosen])
    if _sets(some, spots, scan.radius, center[chosen], crystal[chosen]) > 1:
        return Outlook(True, "the disks of different positions belong to different sets of reflections")
    total = scan.sum_of(crystal)
    faint = scan.faint(spots, total)
    if faint and scan.sets_of_sample(crystal) > 1:
        return Outlook(True, f"sums of patterns show {faint} fainter reflections, and not all parts of the scan show the same")
    if scan.amorphous(seen & (np.asarray(scan.disks.counts) < LATTICE), total):
        return Outlook(True, "some positions have no disks but scatter, and show a ring")
    more = f", the {faint} fainter ones in sums of patterns too" if faint else ""
    return Outlook(False, f"all disks belong to one set of reflections{more}, up to noise, thickness and bending")


class _Sum(NamedTuple):
    """Patterns added up at one origin, (Qx, Qy) float64, and how many they are."""

    total: np.ndarray
    number: int


@dataclass
class _Scan:
    """A scan that is looked at: disks on the host, patterns, origins (Rx, Ry, 2), template."""

    disks: PointListArray
    cube: DataCube
    center: np.ndarray
    template: Template

    @property
    def radius(self) -> float:
        return self.template.radius

    @property
    def middle(self) -> np.ndarray:
        return mean_place(self.center)

    def sum_of(self, where: np.ndarray) -> _Sum:
        """Add up some patterns, moved by whole pixels to one origin."""
        most = max(4, min(SUMMED, PIXELS // math.prod(self.cube.detector_shape)))
        places = grid_positions(where, most)
        stack = patterns_at(self.cube, places).astype(np.float64)
        stack = fill_from_neighbours(stack, self.cube.detector_mask)
        total = np.zeros(self.cube.detector_shape)
        for pattern, (x, y) in zip(stack, places):
            if np.isfinite(pattern).all():
                total += np.roll(pattern, tuple(np.rint(self.middle - self.center[x, y]).astype(int)), (0, 1))
        return _Sum(total, len(places))

    def faint(self, spots: np.ndarray, of: _Sum) -> int:
        """Return how many reflections a sum of patterns shows beside those of single patterns."""
        total = of.total
        found = _quick_disks(total[None], self.template)[0, 0]
        v = np.stack([np.asarray(found.qx), np.asarray(found.qy)], -1) - self.middle
        v = without_beam(v, self.radius)
        density, diffuse = circle_means(total, v, self.radius, self.middle), diffuse_density(total, v, self.radius, self.middle)
        clear = (density > ABOVE * diffuse) & ((density - diffuse) * np.pi * self.radius**2 > FAINTEST * total.sum())
        return len(apart(np.concatenate([spots, v[clear]]), APART * self.radius)) - len(spots)

    def sets_of_sample(self, where: np.ndarray) -> int:
        """Return how many sets of reflections a sample of patterns shows, with those that are too faint for single patterns."""
        side = max(4, min(READ, math.isqrt(PIXELS // math.prod(self.cube.detector_shape))))
        x, y = (((np.arange(k) + 0.5) * n / k).astype(int) for n, k in ((n, min(n, side)) for n in self.disks.shape))
        chosen = np.ix_(x, y)
        place = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
        patterns = patterns_at(self.cube, place).reshape(len(x), len(y), *self.cube.detector_shape)
        small = DataCube(patterns, detector_mask=self.cube.detector_mask)
        search = _QuickSearch(_disks_at(self.disks, x, y), small, self.center[chosen], where[chosen], "", PARTS, {})
        search.find_radius(self.template, None)
        if where[chosen].sum() < 2 * LEAST:
            return 1
        features, sums = search.look()
        first = np.unique(features.pair_of_spot, return_index=True)[1]
        return len(distinct_parts(sums, features.spots[first], TOLERANCE).kept)

    def amorphous(self, empty: np.ndarray, crystal: _Sum) -> bool:
        """Return whether positions without disks scatter, and show a ring."""
        if empty.sum() < LEAST:
            return False
        other = self.sum_of(empty)
        if self._outside(other) < SCATTERS * self._outside(crystal):
            return False
        return find_ring(other.total / other.number, (float(self.middle[0]), float(self.middle[1])), 2 * self.radius) is not None

    def _outside(self, of: _Sum) -> float:
        """Return the counts of a pattern outside of the unscattered beam."""
        x, y = (np.arange(n) - c for n, c in zip(of.total.shape, self.middle))
        return float(of.total[np.hypot(x[:, None], y) > OUTSIDE * self.radius].sum()) / of.number


class _QuickSearch(Search):
    """A search that splits by SciPy's k-means, and finds spots in mean patterns without compiling anything."""

    def split(self, features: Features) -> np.ndarray:
        return _parts(features, self.parts)

    def disks_of(self, sums: np.ndarray) -> PointListArray:
        return _quick_disks(sums, self.template)


def _quick_disks(sums: np.ndarray, template: Template) -> PointListArray:
    with using("definition") if sums[0].size <= PIXELS_OF_DEFINITION else nullcontext():
        return find_bragg_disks(sums[:, None], template, refine=None, min_significance=SIGNIFICANCE, max_peaks=PEAKS)


def _parts(features: Features, parts: int) -> np.ndarray:
    """Split positions as `gpu4d.classification.parts.clusters`, with the k-means of SciPy, which is imported in a moment."""
    rows = hellinger(features.smoothed(features.columns))
    count = max(1, min(parts, len(rows) // LEAST, len(np.unique(rows, axis=0))))
    if count < 2:
        return np.zeros(len(rows), int)
    return compact(kmeans2(rows, count, minit="++", seed=np.random.default_rng(SEED))[1])


def _sets(disks: PointListArray, spots: np.ndarray, radius: float, center: np.ndarray, where: np.ndarray) -> int:
    """Return how many sets of reflections found disks belong to. Positions without disks are left out."""
    if not len(spots) or where.sum() < 2 * LEAST:
        return 1
    features = from_disks(disks, spots, radius, center, where)
    rows = features.rows(features.counts.sum(1) > 0)
    label = _parts(rows, PARTS)
    if not label.max(initial=0):
        return 1
    sums = totals(rows, np.eye(int(label.max()) + 1)[label], None, np.zeros(2))
    first = np.unique(rows.pair_of_spot, return_index=True)[1]
    return len(distinct_parts(sums, rows.spots[first], TOLERANCE).kept)


def _disks_at(disks: PointListArray, x: np.ndarray, y: np.ndarray) -> PointListArray:
    """Return the lists of rows x and columns y of a scan."""
    offsets = np.asarray(disks.offsets)
    number = (x[:, None] * disks.shape[1] + y).ravel()
    counts = offsets[number + 1] - offsets[number]
    starts = np.concatenate([[0], np.cumsum(counts)])
    pick = np.repeat(offsets[number] - starts[:-1], counts) + np.arange(starts[-1])
    return PointListArray(starts, {name: np.asarray(disks.flat(name))[pick] for name in disks.fields}, (len(x), len(y)), disks.units)


def _only(disks: PointListArray, where: np.ndarray) -> PointListArray:
    return disks.where(np.repeat(where.ravel(), np.diff(disks.offsets)))
