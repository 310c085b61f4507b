"""Look at a scan for classification: find its reflections, read their counts, and split it into parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d.bragg.find_bragg_disks import find_bragg_disks
from gpu4d.classification import parts as ways
from gpu4d.classification.features import Features, from_disks, from_patterns
from gpu4d.classification.spot_counts import ClassPatterns
from gpu4d.classification.totals import Totals, circle_means, diffuse_density, totals
from gpu4d.classification.vector_map_maxima import APART, apart, checked_radius, vector_map_maxima, without_beam
from gpu4d.data import DataCube, PointListArray
from gpu4d.data.arguments import mean_place
from gpu4d.errors import InputError
from gpu4d.imaging.patterns import MeanPattern
from gpu4d.probe.measure_disk import measure_disk
from gpu4d.probe.synthetic import synthetic
from gpu4d.probe.template_kernel import as_template
from gpu4d.streaming import sweep

METHODS: Mapping[str, Callable[[Features, int], np.ndarray]] = {
    "clusters": ways.clusters,
    "nmf": ways.factorised,
    "domains": ways.domains,
}
ROUNDS = 3  # of looking for faint spots in mean patterns of parts; the second finds most, the third little
SIGNIFICANCE = 6.0  # of a spot in a mean pattern: some thousand pixels are looked at, in a dozen patterns
ABOVE = 1.5  # times the diffuse scattering at the same distance: less may be a halo
FAINTEST = 3e-4  # of all counts of a pattern: sums of many patterns show fainter maxima that are no reflections
PEAKS = 300  # spots of a mean pattern, at most


@dataclass
class Search:
    """What the steps of one classification share: disks, scan, origins (Rx, Ry, 2), chosen positions, and how the scan is split."""

    disks: PointListArray
    cube: DataCube | None
    center: np.ndarray
    where: np.ndarray | None
    method: str
    parts: int
    options: dict[str, Any]
    radius: float = 0.0
    template: Any = None
    gain: float = 1.0

    @property
    def sweeps(self) -> dict[str, Any]:
        return {"progress": False, **self.options, "where": self.where}

    @property
    def middle(self) -> np.ndarray:
        return mean_place(self.center)

    def find_radius(self, template: Any, radius: float | None) -> None:
        """Set the radius of the disks, and the template with which they are found in mean patterns."""
        self.template = None if template is None else as_template(template)
        if radius is not None:
            self.radius = checked_radius(radius)
        elif self.template is not None:
            self.radius = self.template.radius
        elif self.cube is not None:
            mean = np.asarray(sweep(self.cube, MeanPattern(origin=self.center), **self.sweeps).to_host())
            self.radius = measure_disk(mean).radius
        else:
            raise InputError("the size of the disks is not known: give radius= in pixels, a template, or the cube")
        if self.template is None and self.cube is not None:
            self.template = as_template(synthetic(self.cube.shape[2:], self.radius))

    def look(self) -> tuple[Features, Totals]:
        """Return the features, and the sums of the parts. With patterns, reflections are added until mean patterns show no more.

        Parts are found in one half of the counts, and their sums are those of the other half.
        """
        spots = vector_map_maxima(_only(self.disks, self.where), self.radius, origin=self.center)
        if self.cube is None:
            if not len(spots):
                raise InputError("the vector map has no maxima: there are too few disks to classify; give the cube, or find more disks")
            features = from_disks(self.disks, spots, self.radius, self.center, self.where)
            label = self.split(features)
            return features, totals(features, _members(label), None, self.middle)
        everywhere = np.ones((1, *self.disks.shape)) if self.where is None else self.where[None].astype(np.float64)
        spots = self.with_faint(spots, self.mean_patterns(everywhere), everywhere.sum((1, 2)))
        for step in range(ROUNDS):
            features = from_patterns(self.cube, spots, self.radius, self.center, self.sweeps)
            if not len(features.counts):
                raise InputError("no position can be classified: their origins or counts are NaN, or `where` is False everywhere")
            self.gain = features.gain
            chosen, judged = features.halves()
            member = _members(self.split(chosen))
            patterns = self.mean_patterns(np.moveaxis(features.on_scan(member, 0.0), -1, 0))
            more = self.with_faint(spots, patterns, member.sum(0))
            if len(more) == len(spots) or step == ROUNDS - 1:
                break
            spots = more
        return features, totals(judged, member, patterns, self.middle)

    def split(self, features: Features) -> np.ndarray:
        """Split positions into parts, (N,) int. Without patterns, positions without disks are a part of their own."""
        if self.cube is not None:
            return METHODS[self.method](features, self.parts)
        some = features.pairs.astype(bool).sum(1) > 0
        if some.all() or not some.any():
            return METHODS[self.method](features, self.parts)
        label = np.zeros(len(some), int)
        label[some] = METHODS[self.method](features.rows(some), self.parts) + 1
        return label

    def mean_patterns(self, weights: np.ndarray) -> np.ndarray:
        """Return the mean patterns (J, Qx, Qy) of parts with weights (J, Rx, Ry), on the host."""
        assert self.cube is not None
        return np.asarray(sweep(self.cube, ClassPatterns(weights, self.center), **self.sweeps).to_host())

    def with_faint(self, spots: np.ndarray, patterns: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the reflections, and those that mean patterns show besides, by the counts of all their positions together."""
        sums = np.nan_to_num(patterns) * (positions / self.gain)[:, None, None]
        new = []
        for total, list_ in zip(sums, self.disks_of(sums)):
            v = np.stack([np.asarray(list_.qx), np.asarray(list_.qy)], -1) - self.middle
            v = without_beam(v, self.radius)
            new.append(v[_above_ring(total, v, self.middle, self.radius)])
        return without_beam(apart(np.concatenate([spots, *new]), APART * self.radius), self.radius)

    def disks_of(self, sums: np.ndarray) -> PointListArray:
        """Return the disks in summed patterns (J, Qx, Qy), as lists of shape (J, 1)."""
        return find_bragg_disks(
            sums[:, None], self.template, refine="correlation", min_significance=SIGNIFICANCE, max_peaks=PEAKS, min_spacing=None
        )


def _members(label: np.ndarray) -> np.ndarray:
    """Return labels (N,) as weights (N, J) of 0 and 1. A label of -1 is in no part."""
    return (label[:, None] == np.arange(max(int(label.max(initial=0)), 0) + 1)).astype(np.float64)


def _above_ring(total: np.ndarray, spots: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """Return which spots of a pattern stand out from the scattering at the same distance, (n,) bool: a halo has maxima too."""
    if not len(spots):
        return np.zeros(0, bool)
    density, diffuse = circle_means(total, spots, radius, center), diffuse_density(total, spots, radius, center)
    return (density > ABOVE * diffuse) & ((density - diffuse) * np.pi * radius**2 > FAINTEST * total.sum())


def _only(disks: PointListArray, where: np.ndarray | None) -> PointListArray:
    """Return the disks of chosen positions, on the host."""
    host = disks.to_host()
    return host if where is None else host.where(np.repeat(where.ravel(), np.diff(host.offsets)))
