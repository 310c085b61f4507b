"""Find the real-space lattice of a scan in its mean cepstrum, and choose the maxima that are worth fitting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.crystal.find_lattice import find_lattice
from gpu4d.crystal.fit_cepstrum import CORNERS
from gpu4d.crystal.lattice import canonical
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.storable import Storable

NEAREST = 3.5  # px of the cepstrum: maxima are 3 px wide, so nearer ones overlap each other and the centre
REACH = 0.36  # of a side: the default range; beyond, edges of disks and the pixel itself leave no maxima
MOST = 64  # nodes: more hardly change the strain of any scan that was tried
VISIBLE = 1.3  # least power of a node in the mean cepstrum over that between the nodes
ABOVE_NOISE = 5.0  # standard deviations: one of a hundred nodes must not be visible by chance
CONTRAST = 1.5  # of a maximum of the mean cepstrum over its surroundings, to be a candidate
SURROUNDINGS = 9  # px: side of the square whose median is the level of the surroundings
LEAST_NODES = 4


@dataclass(frozen=True, eq=False)
class Nodes(Storable, stored="vectors: [px]; orders: node hk; contrast: node"):
    """The real-space lattice of a scan, and its maxima in the mean cepstrum.

    Attributes
    ----------
    vectors : (2, 2) float64
        Real-space vectors as rows, px of the cepstrum, dual to the `canonical` reciprocal ones.
    orders : (p, 2) int64
        One of each pair of nodes ±h that are visible, from the centre outwards.
    contrast : (p,) float64
        Mean power at the node over that of its surroundings.
    """

    vectors: np.ndarray
    orders: np.ndarray
    contrast: np.ndarray

    def __repr__(self) -> str:
        r1, r2 = (f"({r[0]:.2f}, {r[1]:.2f})" for r in self.vectors)
        return f"Nodes({len(self.orders)} nodes, r1={r1}, r2={r2} px of the cepstrum)"

    @property
    def stages(self) -> tuple[int, ...]:
        """Return how many nodes are fitted first, and later: near ones, which a large strain moves by little, find the far ones."""
        away = np.linalg.norm(self.orders @ self.vectors, axis=1)
        counts = [max(int(np.sum(away <= f * away[1])), 2) for f in (1.6, 2.6)]
        while np.linalg.matrix_rank(self.orders[: counts[0]]) < 2:
            counts[0] += 1
        return (counts[0], max(counts), len(self.orders)) if counts[0] < len(self.orders) else (len(self.orders),)


def lattice_of_maxima(groups: np.ndarray, reach: tuple[float, float]) -> np.ndarray | None:
    """Find real-space vectors in mean power cepstra.

    The local maxima of each are taken as points, as if they were disks around the centre, and `find_lattice` finds the lattice that
    explains them beyond chance. Each counts by the logarithm of its contrast, because a few are a hundred times as high as others.

    Parameters
    ----------
    groups : (n, Qx, Qy) float64
        Means over parts of a scan, centred as of `power_cepstrum`. Maxima of noise are at other places in each of them.
    reach : (float, float)
        Least and largest distance of a maximum from the centre, px of the longer side.

    Returns
    -------
    (2, 2) float64 or None
        Rows in px of the cepstrum. None if there is no lattice.
    """
    shape = np.array(groups.shape[1:])
    scale = shape.max() / shape  # from px of an axis to px of the longer side: lengths and angles as they are
    found = [_maxima(power, scale, reach) for power in groups]
    points, contrast = (np.concatenate(parts) for parts in zip(*found))
    if len(points) < 2 * LEAST_NODES:
        return None
    fields = {"qx": points[:, 0], "qy": points[:, 1], "intensity": np.log(contrast) ** 2}  # weights are roots of intensities
    offsets = np.concatenate([[0], np.cumsum([len(one) for one, _ in found])])
    lattice = find_lattice(PointListArray(offsets, fields, (1, len(groups))), (0.0, 0.0), min_spacing=0.9 * reach[0])
    return None if lattice is None else lattice.matrix / scale


def _maxima(power: np.ndarray, scale: np.ndarray, reach: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the local maxima of a cepstrum (n, 2), px of the longer side from the centre, and their contrast (n,)."""
    from scipy.ndimage import maximum_filter, median_filter

    shape = np.array(power.shape)
    level = median_filter(power, SURROUNDINGS, mode="wrap")
    peak = (power == maximum_filter(power, 3, mode="wrap")) & (power > CONTRAST * level)
    at = np.argwhere(peak)
    away = np.linalg.norm((at - shape // 2) * scale, axis=1)
    at = at[(away >= reach[0]) & (away <= reach[1]) & ((at > 0) & (at < shape - 1)).all(axis=1)]
    places = np.stack([_between_pixels(power, at, axis) for axis in (0, 1)], axis=1)
    return (places - shape // 2) * scale, power[tuple(at.T)] / np.maximum(level[tuple(at.T)], 1e-12 * power.max())


def _between_pixels(power: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Return the place of maxima along an axis, from a parabola through the logarithm of three pixels."""
    step = np.eye(2, dtype=int)[axis]
    low, top, high = (np.log(power[tuple((at + k * step).T)] + 1e-300) for k in (-1, 0, 1))
    bend = 2 * top - low - high
    return np.asarray(at[:, axis] + np.where(bend > 0, 0.5 * (high - low) / np.where(bend > 0, bend, 1), 0))


def dual(vectors: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return reciprocal vectors (…, 2, 2), px of the detector, of real-space ones, px of the cepstrum; or the other way round.

    With rows R in cycles per pixel, R Gᵀ = 1. Both ways divide one axis by its number of pixels.
    """
    return np.linalg.inv(vectors / np.array(shape, np.float64)).swapaxes(-1, -2)


def real_of(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return real-space vectors (2, 2), px of the cepstrum, of reciprocal ones, px of the detector."""
    return np.asarray(np.linalg.inv(g).T * np.array(shape, np.float64))


def named_as_disks(vectors: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the basis of the same lattice whose reciprocal vectors are `canonical`, as `find_lattice` names those of disks."""
    return real_of(canonical(dual(vectors, shape)), shape)


def visible_nodes(power: np.ndarray, vectors: np.ndarray, reach: tuple[float, float], patterns: int, most: int = MOST) -> Nodes | None:
    """Choose the nodes of a lattice that a mean power cepstrum shows.

    Parameters
    ----------
    power : (Qx, Qy) float64
        Centred.
    vectors : (2, 2) float64
        Px of the cepstrum.
    reach : (float, float)
        Px of the longer side.
    patterns : int
        So many were averaged. The power of noise in one pattern scatters by its mean, so that of the mean by 1/√patterns.
    most : int
        Nodes with the highest contrast are kept.

    Returns
    -------
    Nodes or None
        None if fewer than four nodes are visible, or all on a line.
    """
    shape = np.array(power.shape)
    scale = shape.max() / shape
    shortest = np.linalg.svd(vectors * scale)[1][-1]
    n = int(np.ceil(reach[1] / shortest))
    orders = np.array([(h, k) for h in range(n + 1) for k in range(-n, n + 1) if h > 0 or k > 0])
    away = np.linalg.norm(orders @ vectors * scale, axis=1)
    inside = (np.abs(orders @ vectors) < shape / 2 - 2).all(axis=1)
    orders = orders[inside & (away >= reach[0]) & (away <= reach[1])]
    if len(orders) < LEAST_NODES:
        return None
    at_node = _highest_near(power, orders @ vectors)
    contrast = at_node / _background(power, orders, vectors, scale)
    keep = np.flatnonzero(contrast >= max(VISIBLE, 1 + ABOVE_NOISE / np.sqrt(patterns)))
    keep = keep[np.argsort(-contrast[keep], kind="stable")][:most]
    keep = keep[np.argsort(np.linalg.norm(orders[keep] @ vectors * scale, axis=1), kind="stable")]
    if len(keep) < LEAST_NODES or np.linalg.matrix_rank(orders[keep]) < 2:
        return None
    return Nodes(vectors, orders[keep], contrast[keep])


def _background(power: np.ndarray, orders: np.ndarray, vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the power around nodes, from the same places as `fit_cepstrum` does: cells, or the circle of the node if it is higher."""
    cells = np.mean([_interpolated(power, (orders + half) @ vectors) for half in CORNERS], axis=0)
    points = orders @ vectors * scale
    near = np.array([(1, 0), (0, 1), (1, 1), (1, -1)]) @ vectors * scale
    angle = np.linalg.norm(near, axis=1).min() / (2 * np.linalg.norm(points, axis=1))
    c, s, (x, y) = np.cos(angle), np.sin(angle), points.T
    arcs = [_interpolated(power, np.stack([x * c - y * turn, x * turn + y * c], axis=1) / scale) for turn in (s, -s)]
    return np.maximum(cells, np.mean(arcs, axis=0))


def _interpolated(power: np.ndarray, points: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return np.asarray(map_coordinates(power, (points + np.array(power.shape) // 2).T, order=1, mode="grid-wrap"))


def _highest_near(power: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the highest interpolated power within half a pixel of points: the mean lattice is right to a fraction of that."""
    steps = [(x, y) for x in (-0.5, 0, 0.5) for y in (-0.5, 0, 0.5)]
    return np.max([_interpolated(power, points + step) for step in steps], axis=0)
