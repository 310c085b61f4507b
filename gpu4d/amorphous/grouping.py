"""Average radial profiles over groups of positions: neighbourhoods of a scan, or classes of positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import LARGEST, positions_of, real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number


class _GroupedProfiles(NamedTuple):
    mean: np.ndarray
    error: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


class GroupedProfiles(_GroupedProfiles, Storable, stored="mean error: ... ring; positions: ...; labels: group"):
    """Mean profiles of groups of positions. Leading axes are (Rx, Ry) for neighbourhoods, (groups,) for labels.

    Attributes
    ----------
    mean : (..., n) float64
        NaN where a group has no measurement.
    error : (..., n) float64
        Standard error from the scatter of the positions; NaN where there are fewer than two.
    positions : (...) float64
        Positions in the group.
    labels : (groups,) int64
        Of each group; empty for neighbourhoods.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        groups = "×".join(map(str, self.positions.shape))
        middle = float(np.median(self.positions)) if self.positions.size else 0.0
        return f"GroupedProfiles({groups} groups, {self.mean.shape[-1]} rings, median of {middle:g} positions)"


@on_host("curve")
def group_profiles(
    profiles: ArrayLike,
    /,
    *,
    window: int | None = None,
    labels: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> GroupedProfiles:
    """Average radial profiles over the neighbourhood of every position, or over the positions of each label.

    Parameters
    ----------
    profiles : (Rx, Ry, n) array
        Of `gpu4d.radial_profile`. What is NaN does not count.
    window : int, optional
        Odd width of a square neighbourhood, positions. At the borders of the scan it is cut.
    labels : (Rx, Ry) array of int, optional
        Label of each position, for example of `gpu4d.classify`. Negative labels belong to no group. Give either `window` or `labels`.
    where : (Rx, Ry) bool, optional
        False at positions that do not count, such as those with Bragg disks.
    weights : (Rx, Ry) array, optional
        Weight of each position, for example the share of the glass in it.

    Returns
    -------
    GroupedProfiles
        On the host. The error leaves out that patterns of thicker places are brighter at all rings alike, which changes no structure
        factor.

    Raises
    ------
    InputError
        Shapes do not fit, neither or both of `window` and `labels` are given, or weights are negative.

    Examples
    --------
    >>> profiles = np.array([[[4.0, 2.0], [6.0, 3.0], [9.0, 1.0]]])
    >>> found = group_profiles(profiles, labels=[[0, 0, 7]])
    >>> found.mean.tolist(), found.error.tolist(), found.labels.tolist()
    ([[5.0, 2.5], [9.0, 1.0]], [[0.0, 0.0], [nan, nan]], [0, 7])
    """
    values = real_values(profiles, "profiles", "radial profiles (Rx, Ry, n)").astype(np.float64)
    if values.ndim != 3:
        raise InputError(f"profiles has shape {values.shape}: need (Rx, Ry, n), as gpu4d.radial_profile gives them")
    scan = values.shape[:2]
    weight = positions_of(where, scan).astype(np.float64) * _weights(weights, scan)
    known = np.abs(values) < LARGEST
    counted = known & (weight > 0)[..., None]
    clean = np.where(counted, values, 0.0)
    w = counted * weight[..., None]
    bright = _brightness(clean, w)[..., None]
    parts = [w, w * clean, w * bright, (w * clean) ** 2, w * w * clean * bright, (w * bright) ** 2, w * w, counted * 1.0]
    if (window is None) == (labels is None):
        raise InputError("need one of window= (neighbourhoods) and labels= (classes)")
    if window is not None:
        width = real_number(window, "window", whole=True)
        if width < 1 or width % 2 == 0:
            raise InputError(f"window={window!r}: need an odd whole number of positions, such as 5")
        names, sums = np.zeros(0, np.int64), [_neighbourhoods(part, width // 2) for part in parts]
    else:
        names, groups = _labels(labels, scan)
        sums = [_groups(part, groups, len(names)) for part in parts]
    total, intensity, light, squares, products, lights, weights2, number = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = intensity / total
        ratio = mean * total / light  # what a position of unit brightness has
        scatter = np.maximum(squares - 2 * ratio * products + ratio**2 * lights, 0.0)  # rounding may make it negative
        few = 1 / np.maximum(1 - weights2 / total**2, 0.0)  # n / (n - 1) for equal weights
        error = np.where((number > 1.5) & np.isfinite(few), np.sqrt(scatter * few) / total, np.nan)
    return GroupedProfiles(mean, error, number.max(axis=-1, initial=0.0), names)


def _weights(given: ArrayLike | None, scan: tuple[int, ...]) -> np.ndarray:
    if given is None:
        return np.ones(scan)
    weights = real_values(given, "weights").astype(np.float64)
    if weights.shape != scan or not ((weights >= 0) & (weights < LARGEST)).all():
        raise InputError(f"weights has shape {weights.shape}, the scan is {scan}: need one finite weight ≥ 0 for each position")
    return weights


def _brightness(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return how bright each position is (Rx, Ry): its mean ratio to the mean profile. 1 where nothing counts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (w * values).sum(axis=(0, 1)) / w.sum(axis=(0, 1))
        ratio = np.where((mean > 0) & (w > 0), values / mean, np.nan)
        rings = np.isfinite(ratio)
        found = np.where(rings, ratio, 0.0).sum(axis=-1) / rings.sum(axis=-1)
    return np.where(np.isfinite(found), found, 1.0)


def _labels(given: Any, scan: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that are not negative, and for each position the number of its label, −1 for none."""
    labels = real_values(given, "labels", "a whole number for each position")
    if labels.shape != scan:
        raise InputError(f"labels has shape {labels.shape}, the scan is {scan}: need one for each position")
    with np.errstate(invalid="ignore"):
        whole = (np.abs(labels.astype(np.float64)) < 2**31) & (np.floor(labels) == labels)
    if not whole.all():
        raise InputError("labels has values that are no whole numbers: need a label for each position, negative for none")
    labels = labels.astype(np.int64)
    names = np.unique(labels[labels >= 0])
    return names, np.where(labels >= 0, np.searchsorted(names, labels), -1)


def _groups(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return sums (count, n) of values (Rx, Ry, n) over the positions of each group, in the order of the scan."""
    out = np.zeros((count, values.shape[-1]))
    for label in range(count):
        out[label] = values[groups == label].sum(axis=0)
    return out


def _neighbourhoods(values: np.ndarray, reach: int) -> np.ndarray:
    """Return sums (Rx, Ry, n) of values (Rx, Ry, n) over the square of ± reach about each position."""
    for axis in (0, 1):
        size = values.shape[axis]
        running = np.concatenate([np.zeros_like(values.take([0] * min(size, 1), axis)), values.cumsum(axis)], axis)
        at = np.arange(size)
        values = running.take(np.minimum(at + reach + 1, size), axis) - running.take(np.maximum(at - reach, 0), axis)
    return values
