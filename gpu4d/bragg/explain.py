"""Explain for each maximum of a pattern's correlation map why it was accepted as a disk or rejected."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.bragg.disk_search import DiskSearch, SearchOptions
from gpu4d.bragg.find_bragg_disks import BraggDisks
from gpu4d.bragg.find_disks import PeakLimits, correlation_maps, local_maxima, significance
from gpu4d.bragg.hybrid_correlation import check_patterns
from gpu4d.bragg.refine import refine_positions
from gpu4d.data.arguments import host_image, pixel_mask
from gpu4d.data.storable import Storable
from gpu4d.on_host import on_host
from gpu4d.probe.template_kernel import TemplateLike

REASONS = (
    "accepted",
    "edge",
    "below absolute",
    "below relative",
    "insignificant",
    "too close",
    "beyond max_peaks",
    "not separate",
    "hidden",
)


class _Candidates(NamedTuple):
    qx: np.ndarray
    qy: np.ndarray
    intensity: np.ndarray
    significance: np.ndarray
    reason: np.ndarray


class Candidates(_Candidates, Storable, stored="qx qy: candidate [px]; intensity significance: candidate"):
    """Maxima of the hybrid map of one pattern, strongest first, and disks that are no maximum.

    Attributes
    ----------
    qx, qy : (n,) float64
        Position, pixels. It is refined for accepted maxima, and a whole pixel for others.
    intensity : (n,) float64
        Height of the hybrid map.
    significance : (n,) float64
        Poisson significance z on the n = 1 map.
    reason : (n,) str
        One of `REASONS`. "edge" includes maxima over masked pixels. "not separate": the likelihood fit of this disk and its
        neighbours found no disk here. "hidden": a disk that was found when its neighbours were subtracted. It is accepted, but it is no
        maximum, so it has no height and no significance (NaN).
    """

    __slots__ = ()

    def __repr__(self) -> str:
        reasons, count = np.unique(self.reason, return_counts=True)
        return f"Candidates({len(self.qx)} maxima{''.join(f', {n} {reason}' for reason, n in zip(reasons, count))})"


@on_host("image")
def explain_disks(
    pattern: ArrayLike, template: TemplateLike, *, detector_mask: ArrayLike | None = None, **options: Unpack[SearchOptions]
) -> Candidates:
    """List all maxima of one pattern, with the reason why each was accepted or rejected. This helps to choose thresholds.

    Parameters
    ----------
    pattern : (Qx, Qy) array
        Values in detector units. An integer dtype is taken as counts.
    template : Template or (Qx, Qy) array
        As in `find_bragg_disks`.
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts.
    **options
        Options of `find_bragg_disks`.

    Returns
    -------
    Candidates
        Empty for a pattern without counts.

    Raises
    ------
    InputError
        Template and pattern differ in size, or an option is out of range.

    Examples
    --------
    >>> import gpu4d
    >>> from gpu4d.bragg import explain_disks
    >>> c = explain_disks(100 * gpu4d.probe.synthetic((48, 48), 4.0, center=(20.3, 30.6)), gpu4d.probe.synthetic((48, 48), 4.0))
    >>> str(c.reason[0]), round(float(c.qx[0]), 1)
    ('accepted', 20.3)
    """
    image = host_image(pattern, "the pattern")
    mask = pixel_mask(detector_mask, image.shape)
    reduction = BraggDisks(template, **options)
    check_patterns(image, reduction.template, reduction.how.power)
    return explain_search(image, reduction.prepare(image.dtype, mask))


def explain_search(image: np.ndarray, search: DiskSearch) -> Candidates:
    """List all maxima of one pattern as `explain_disks` does, with a prepared search.

    Parameters
    ----------
    image : (Qx, Qy) real array
        On the host.
    search : DiskSearch
        Prepared for patterns of this shape and dtype.

    Returns
    -------
    Candidates
    """
    c, how = search.correlation, search.correlation.refinement
    maps = correlation_maps(image[None], c.spectrum, c.moments, c.mask, c.fill_width, how.power, how.refine_power)
    px, py = np.nonzero(local_maxima(maps.hybrid)[0])
    height, z = maps.hybrid[0, px, py], significance(maps)[0, px, py]
    order = np.argsort(-height, kind="stable")
    px, py, height, z = px[order], py[order], height[order], z[order]
    reason = _reasons(px, py, height, z, c.allowed, search.limits)
    x, y = px.astype(float), py.astype(float)
    won = reason == "accepted"
    if won.any():
        refined = refine_positions(maps.refined, x[won][None], y[won][None], how.refine, how.upsample, climb=how.climb)
        x[won], y[won] = refined[0][0], refined[1][0]
        if search.fit is not None:
            return _fitted(image, search, Candidates(x, y, height, z, reason))
    return Candidates(x, y, height, z, reason)


def _fitted(image: np.ndarray, search: DiskSearch, c: Candidates) -> Candidates:
    """Replace positions by those of the likelihood fit, mark disks that it removes, and add hidden ones.

    A hidden disk is no maximum, so it has no significance of its own: it gets NaN.
    """
    fit = search.fit
    found = search.find(image[None]).fit
    assert fit is not None and found is not None
    places, number = np.flatnonzero(c.reason == "accepted"), int(np.count_nonzero(c.reason == "accepted"))
    x, y, reason = c.qx.copy(), c.qy.copy(), c.reason.copy()
    located, disk = found.fitted[0, :number], found.disk[0]
    for v, fitted, shift in zip((x, y), (found.x[0], found.y[0]), fit.shift):
        v[places] = np.where(located, fitted[:number] - shift, v[places])
    reason[places[~disk[:number]]] = "not separate"
    extra = np.flatnonzero(disk[number:]) + number
    hidden = [v[0, extra] - shift for v, shift in zip((found.x, found.y), fit.shift)]
    none = np.full(len(extra), np.nan)
    columns = zip((x, y, c.intensity, c.significance, reason), (*hidden, none, none, np.full(len(extra), "hidden", reason.dtype)))
    return Candidates(*(np.concatenate(pair) for pair in columns))


def _reasons(px: np.ndarray, py: np.ndarray, height: np.ndarray, z: np.ndarray, allowed: np.ndarray, limits: PeakLimits) -> np.ndarray:
    """Return for each maximum the first step of `find_disks` that rejects it, or "accepted"."""
    inside = allowed[px, py]
    strongest = height[inside].max(initial=0.0)
    reason = np.full(len(px), "accepted", dtype="U16")
    reason[z < limits.min_significance] = "insignificant"
    reason[height < limits.min_relative * strongest] = "below relative"
    reason[height < limits.min_absolute] = "below absolute"
    reason[~inside] = "edge"
    taken: list[int] = []
    for i in np.flatnonzero(reason == "accepted"):
        near = any((px[i] - px[t]) ** 2 + (py[i] - py[t]) ** 2 < limits.min_spacing**2 for t in taken)
        if near:
            reason[i] = "too close"
        elif len(taken) >= limits.max_peaks:
            reason[i] = "beyond max_peaks"
        else:
            taken.append(int(i))
    return reason
