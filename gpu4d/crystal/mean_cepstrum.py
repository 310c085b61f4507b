"""Compute the mean power cepstrum of a scan, and find its lattice."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.crystal.cepstral_nodes import NEAREST, REACH, Nodes, lattice_of_maxima, named_as_disks, real_of, visible_nodes
from gpu4d.crystal.cepstrum import power_cepstrum, window_of
from gpu4d.crystal.lattice import Lattice, two_vectors
from gpu4d.data.arguments import pixel_mask
from gpu4d.data.datacube import DataCube
from gpu4d.data.sample import SampleSize, read_sample, sample_places
from gpu4d.data.storable import Storable
from gpu4d.device.threads import in_threads
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_array

SAMPLE = SampleSize(most=256, most_bytes=16 << 20, part=1, least=16)  # patterns whose mean cepstrum shows the lattice
GROUPS = 8  # parts of the sample, in whose means maxima are looked for
OF_MEAN = 0.1  # default offset of values that are no counts, as a part of their mean: little beside disks, much beside nothing
BATCH = 4  # patterns that are transformed at once: it bounds the memory


class _MeanCepstrum(NamedTuple):
    power: np.ndarray
    nodes: Nodes | None
    offset: float


class MeanCepstrum(_MeanCepstrum, Storable, stored="power: Qx Qy; offset: [counts]"):
    """The mean cepstrum of a scan, and its nodes.

    Attributes
    ----------
    power : (Qx, Qy) float64
        Mean power, that of each pattern divided by its mean over the pixels. The centre is at (Qx // 2, Qy // 2).
    nodes : Nodes or None
        None if no lattice is visible.
    offset : float
        Offset that was used, counts.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"MeanCepstrum({'×'.join(map(str, self.power.shape))} px, {self.nodes or 'no lattice'}, offset {self.offset:g} counts)"


@on_host("sample")
def mean_cepstrum(
    cube: DataCube | Array,
    vectors: Lattice | ArrayLike | None = None,
    *,
    unit: str = "px",
    window: str | ArrayLike = "sine",
    offset: float | None = None,
    r_range: tuple[float, float] | None = None,
    where: ArrayLike | None = None,
) -> MeanCepstrum:
    """Compute the mean power cepstrum of up to 256 patterns from all over a scan, and find its lattice and the nodes that are visible.

    Local maxima are taken as points around the centre. `find_lattice` finds the lattice that explains them beyond chance. A node is
    visible if its mean power is 1.3 times that of its surroundings or more, and five standard deviations of noise above it. The
    surroundings are the centres of the four cells around it, or two points beside it on its circle, whichever are higher.

    Parameters
    ----------
    cube, vectors, unit, window, offset, r_range :
        As in `cepstral_lattice`.
    where : (Rx, Ry) bool array, optional
        Positions to use.

    Returns
    -------
    MeanCepstrum
        Its nodes are None if no lattice is found.

    Notes
    -----
    The sample is the same for any memory and device, so that results are, too. It takes up to 16 MiB, and each thread 250 bytes for
    each pixel of a pattern.

    Examples
    --------
    >>> import gpu4d
    >>> cube = gpu4d.simulate.bragg_scan((3, 4), (64, 64), spacing=12.0, radius=3.0, dose=400.0, seed=0).cube
    >>> [round(float(length), 1) for length in np.linalg.norm(gpu4d.crystal.mean_cepstrum(cube).nodes.vectors, axis=1)]
    [5.3, 5.3]
    """
    cube = as_cube(cube)
    shape, mask = cube.detector_shape, pixel_mask(cube.detector_mask, cube.detector_shape)
    window = window_of(window, shape)
    reach, given = _reach(r_range, unit, cube), _given(vectors, unit, cube)
    patterns = read_sample(cube, sample_places(cube, where, SAMPLE)).reshape(-1, *shape)
    if offset is None:
        offset = 1.0 if arrays.is_integer_dtype(cube.dtype) else _offset_of(patterns, mask)
    groups, counts = _group_means(patterns, window, float(offset), mask)
    if not len(groups):
        return MeanCepstrum(np.full(shape, np.nan), None, float(offset))
    mean = np.average(groups, axis=0, weights=counts)
    real = given
    if real is None:
        found = lattice_of_maxima(groups, reach)
        real = None if found is None else named_as_disks(found, shape)
    return MeanCepstrum(mean, None if real is None else visible_nodes(mean, real, reach, int(counts.sum())), float(offset))


def _group_means(patterns: np.ndarray, window: np.ndarray, offset: float, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean power cepstra of groups of patterns (g, Qx, Qy), each from all over the scan, and how many patterns each has (g,)."""

    def summed(some: np.ndarray) -> tuple[np.ndarray, int]:
        total, count = np.zeros(patterns.shape[1:]), 0
        for first in range(0, len(some), BATCH):
            power = np.asarray(power_cepstrum(some[first : first + BATCH], window=window, offset=offset, mask=mask))
            level = power.mean(axis=(1, 2))  # a bright pattern must not outweigh the others; NaN of an empty one
            good = level > 0
            total, count = total + np.sum(power[good] / level[good, None, None], axis=0), count + int(good.sum())
        return total, count

    parts = in_threads(summed, [patterns[k::GROUPS] for k in range(min(GROUPS, len(patterns)))])
    found = [(total / count, count) for total, count in parts if count]
    return np.array([mean for mean, _ in found]), np.array([count for _, count in found])


def as_cube(cube: DataCube | Array) -> DataCube:
    """Return a cube, made of an array if necessary."""
    if isinstance(cube, DataCube):
        return cube
    given = real_array(cube, "cube", "a DataCube or an array (Rx, Ry, Qx, Qy)")
    if given.ndim != 4:
        raise InputError(f"cube is {tuple(given.shape)}: need a DataCube or an array (Rx, Ry, Qx, Qy)")
    return DataCube(given)


def _scale(unit: str, cube: DataCube) -> np.ndarray:
    """Return px of the cepstrum in one unit, (2,)."""
    if unit == "px":
        return np.ones(2)
    if unit not in ("A", "Å"):
        raise InputError(f"unit={unit!r}: need 'px' (of the cepstrum) or 'A' (Å)")
    if not cube.calibration.q_pixel:
        raise InputError("unit='A' needs the size of a detector pixel: set calibration.q_pixel, or give px of the cepstrum")
    return np.array(cube.detector_shape) * cube.calibration.q_pixel


def _reach(r_range: Any, unit: str, cube: DataCube) -> tuple[float, float]:
    """Return the range of distances, px of the longer side."""
    longest, scale = max(cube.detector_shape), float(_scale(unit, cube).max())
    if r_range is None:
        return NEAREST, REACH * longest
    low, high = (float(r) * scale for r in floats(r_range, 2, "r_range", "two distances (least, largest)"))
    if not 2 <= low < high <= longest / 2:
        text = f"r_range={tuple(r_range)} {unit} is {low:.3g} to {high:.3g} px of the cepstrum"
        raise InputError(f"{text}: need 2 ≤ least < largest ≤ {longest / 2:g} px")
    return low, high


def _given(vectors: Any, unit: str, cube: DataCube) -> np.ndarray | None:
    """Return given vectors as real-space rows, px of the cepstrum."""
    scale = _scale(unit, cube)
    if vectors is None:
        return None
    if isinstance(vectors, Lattice):
        return real_of(vectors.matrix, cube.detector_shape)
    rows = two_vectors(vectors, "vectors") * scale
    if not abs(np.linalg.det(rows)) > 1e-3 * np.sum(rows**2):
        raise InputError(f"vectors are {np.round(rows, 3).tolist()} px of the cepstrum: need two rows that are not parallel")
    return rows


def _offset_of(patterns: np.ndarray, mask: np.ndarray | None) -> float:
    """Return the default offset of values that are no counts."""
    values = patterns if mask is None else patterns[:, mask]
    values = values[np.isfinite(values) & (values > 0)]
    level = OF_MEAN * float(values.sum()) / max(patterns.shape[0] * (patterns[0].size if mask is None else int(mask.sum())), 1)
    return level if level > 0 else 1.0
