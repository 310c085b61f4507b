"""Measure which values only X-rays and cosmic rays have: far above what a pixel and its neighbours show in any other frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.data.correct_frames import AROUND, MOST_OF_A_HIT, NEAR, boxed
from gpu4d.data.frame_correction import Hits
from gpu4d.preprocess.usual_values import electron, usual_values

ELECTRONS = 10.0  # above the brightest other value: where the guide's range of the counting threshold for X-rays begins (10 – 50)
SPREAD = 10.0  # standard deviations of a pixel's values, where these are more
LIT = 5.0  # standard deviations of the noise above the brightest other value: part of a hit, beside a certain pixel
LEAST_FRAMES = 8  # fewer do not show what a pixel usually has
SEEN = 2  # hits at the edge that show that there are any
WIDE = 2  # lit pixels around the 3 × 3 about a hit: a spot of the beam has them, an X-ray does not
EVEN = 3.0  # times as many hits for an area inside as at the edge: hits fall everywhere alike, and spots of the beam do not


class FoundHits(NamedTuple):
    """Limits of hits, and the hits in a sample of frames.

    Attributes
    ----------
    limits : Hits
    inside, at_edge : int
        Hits on pixels that the beam reaches, and on others.
    above_all : int
        Of these, hits that are brighter than anything that the frames usually have anywhere.
    brightest : float
        That value.
    even : bool
        Whether hits fall everywhere alike, and at the edge too, as X-rays do. Those as wide as spots of the beam must do so by themselves:
        crystals that a few patterns alone show have spots that are no hits.
    """

    limits: Hits
    inside: int
    at_edge: int
    above_all: int
    brightest: float
    even: bool

    def above_the_beam(self) -> FoundHits:
        """Return the same with limits that nothing of the beam exceeds, because it has never been as bright anywhere."""
        certain = np.maximum(np.asarray(self.limits.certain), self.brightest)
        return self._replace(limits=Hits(self.limits.usual, self.limits.lit, certain))


def find_hits(frames: np.ndarray, edge: np.ndarray, noise: float) -> FoundHits:
    """Set limits above what the beam makes, and look for hits in frames.

    A value is certainly of a hit if it exceeds the largest usual value of the 5 × 5 pixels about it by 10 electrons, and by 10 times
    the largest usual standard deviation there.

    Parameters
    ----------
    frames : (n, Qx, Qy) float32
        Corrected, at least 8.
    edge : (Qx, Qy) bool
        Pixels that no electron reaches.
    noise : float
        Standard deviation of a pixel without a beam.
    """
    from scipy import ndimage

    usual, unit = usual_values(frames), electron(frames, noise)
    top = ndimage.maximum_filter(usual.top, 5)
    spread = np.sqrt(ndimage.maximum_filter(usual.variance, 5))
    certain = top + np.maximum(ELECTRONS * unit, SPREAD * spread)
    lit = np.minimum(ndimage.maximum_filter(usual.top, 3) + LIT * noise, certain)
    counts, wide, above, brightest = np.zeros(2, int), np.zeros(2, int), 0, float(usual.top.max())
    for frame in frames:
        bright = frame > certain
        if not bright.any():
            continue
        few = boxed(bright, AROUND) <= MOST_OF_A_HIT
        labels, number = ndimage.label(bright & few, np.ones((3, 3)))
        if number:
            shines = frame > lit
            outside = boxed(shines, NEAR + 1) - boxed(shines, NEAR)
            for place in ndimage.maximum_position(frame, labels, range(1, number + 1)):
                counts[int(edge[place])] += 1
                wide[int(edge[place])] += bool(outside[place] >= WIDE)
                above += bool(frame[place] > brightest)
    inside, at_edge = counts.tolist()
    area = edge.size / max(1, int(edge.sum())) - 1
    even = at_edge >= SEEN and inside <= EVEN * at_edge * area and wide[0] <= EVEN * wide[1] * area
    return FoundHits(Hits(usual.mean, lit, certain), inside, at_edge, above, brightest, even)
