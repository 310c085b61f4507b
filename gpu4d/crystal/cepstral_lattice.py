"""Measure local lattices without finding disks, from the power cepstrum of every pattern."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike, ReturnedArray
from gpu4d.crystal.cepstral_nodes import NEAREST, REACH, Nodes, lattice_of_maxima, named_as_disks, real_of, visible_nodes
from gpu4d.crystal.cepstrum import checked_offset, power_cepstrum, window_of
from gpu4d.crystal.fit_cepstrum import TAPS, fit_cepstrum, grid_points
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.crystal.lattice import Lattice, two_vectors
from gpu4d.data.arguments import pixel_mask
from gpu4d.data.datacube import DataCube
from gpu4d.data.sample import SampleSize, read_sample, sample_places
from gpu4d.device import tables
from gpu4d.device.memory import parse_memory
from gpu4d.device.threads import in_threads
from gpu4d.errors import InputError, did_you_mean
from gpu4d.real_arrays import floats, real_array, real_number
from gpu4d.streaming import ScanInfo, sweep
from gpu4d.streaming.engine import SweepOptions
from gpu4d.streaming.reduction import defined
from gpu4d.streaming.sums import PerPositionReduction

log = logging.getLogger("gpu4d")

SAMPLE = SampleSize(most=256, most_bytes=32 << 20, part=1, least=16)  # patterns whose mean cepstrum shows the lattice
GROUPS = 8  # parts of the sample, in whose means maxima are looked for
BATCH = 32, 128  # patterns that the definition takes at once, on the host and on a device; it bounds its memory
OF_MEAN = 0.1  # default offset of values that are no counts, as a part of their mean: little beside disks, much beside nothing
UPPER = [(i, j) for i in range(4) for j in range(i, 4)]  # places of a symmetric 4 × 4 matrix that are stored


class MeanCepstrum(NamedTuple):
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

    power: np.ndarray
    nodes: Nodes | None
    offset: float

    def __repr__(self) -> str:
        return f"MeanCepstrum({'×'.join(map(str, self.power.shape))} px, {self.nodes or 'no lattice'}, offset {self.offset:g} counts)"


@dataclass(frozen=True, eq=False)
class CepstralFit(LatticeFit):
    """Local lattices from the cepstrum. `strain_map` and `lattice_lengths` take it, as they take those from disks.

    g1 and g2 are the reciprocal vectors that belong to r1 and r2, px of the detector. The origin is not measured, and is NaN. `count` is
    the number of nodes that were fitted, `residual` how far the maxima are from the lattice, px of the cepstrum, `weights` "power".

    Attributes
    ----------
    r1, r2 : (Rx, Ry, 2) float64
        Real-space lattice vectors, px of the cepstrum: component c counts 1 / (Q_c q_pixel) in Å. As measured: with an ellipse A of the
        detector they are stretched by A⁻ᵀ, and `strain_map` removes it from g1 and g2.
    significance : (Rx, Ry) float64
        Height of the nodes above their surroundings, in standard deviations of noise. It also stands at positions left out for it.
    nodes : Nodes
        Mean lattice and the nodes that were fitted.
    detector_shape : (Qx, Qy)
    """

    r1: ReturnedArray
    r2: ReturnedArray
    significance: ReturnedArray
    nodes: Nodes
    detector_shape: tuple[int, int]

    def spacings(self, q_pixel: float) -> tuple[float, float]:
        """Return the lengths of the median r1 and r2 in Å.

        Parameters
        ----------
        q_pixel : float
            Size of a detector pixel, 1/Å.
        """
        if not real_number(q_pixel, "q_pixel") > 0:
            raise InputError(f"q_pixel={q_pixel}: need the size of a detector pixel, 1/Å")
        size = np.array(self.detector_shape, np.float64) * q_pixel
        first, second = (np.nanmedian(arrays.to_numpy(r).reshape(-1, 2), axis=0) / size for r in (self.r1, self.r2))
        return float(np.hypot(*first)), float(np.hypot(*second))

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.shape))
        r1, r2 = (f"({r[0]:.2f}, {r[1]:.2f})" for r in self.nodes.vectors)
        fitted = int(np.sum(arrays.to_numpy(self.mask)))
        return f"CepstralFit({shape} positions, {fitted} fitted, {len(self.nodes.orders)} nodes, r1={r1}, r2={r2} px of the cepstrum)"


class CepstralVectors(PerPositionReduction):
    """Reduction: the local lattice of every pattern from its cepstrum, for a sweep with others.

    Parameters
    ----------
    found : MeanCepstrum
        As `mean_cepstrum` returns it, with nodes.
    window, min_significance :
        As in `cepstral_lattice`.

    Notes
    -----
    The result is a `CepstralFit`.

    Examples
    --------
    >>> import gpu4d
    >>> cube = gpu4d.simulate.bragg_scan((3, 4), (64, 64), spacing=12.0, radius=3.0, dose=400.0, seed=0).cube
    >>> gpu4d.sweep(cube, gpu4d.crystal.CepstralVectors(gpu4d.crystal.mean_cepstrum(cube))).shape
    (3, 4)
    """

    planes = 4 + len(UPPER) + 2  # vectors, covariance, residual, significance

    def __init__(self, found: MeanCepstrum, *, window: str | ArrayLike = "sine", min_significance: float = 5.0):
        if not isinstance(found, MeanCepstrum) or found.nodes is None:
            raise InputError("found has no nodes: need the result of mean_cepstrum for a scan with a lattice, or with vectors=")
        if not real_number(min_significance, "min_significance") >= 0:
            raise InputError(f"min_significance={min_significance}: need standard deviations from 0 on")
        self.nodes, self.offset, self.min_significance = found.nodes, checked_offset(found.offset), float(min_significance)
        self.window, self.shape = window_of(window, found.power.shape), found.power.shape
        self.orders = np.ascontiguousarray(found.nodes.orders, np.float64)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        samples = math.prod(grid_points(q) for q in scan.shape[2:])
        finish = 900 * scan.shape[0] * scan.shape[1]
        if not defined(fit_cepstrum, scan):
            return self.held_bytes(scan, n_frames) + finish + 150 * samples
        at_once = min(n_frames, BATCH[not scan.on_host])
        return self.held_bytes(scan, n_frames) + finish + at_once * (48 * samples + 100 * len(self.orders) * TAPS**2)

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        if tuple(scan.shape[2:]) != tuple(self.shape):
            raise InputError(f"patterns are {tuple(scan.shape[2:])}, the mean cepstrum is {tuple(self.shape)}: need that of this scan")
        super().start(scan, device, pass_)

    def in_tiles(self) -> bool:
        return False  # each pattern is fitted alone

    def update(self, frames: Array, positions: np.ndarray) -> None:
        xp, mask = arrays.namespace(frames), self.scan.detector_mask
        given = [tables.beside(a, frames) for a in (self.window, self.orders, self.nodes.vectors)]
        call: dict[str, Any] = {"stages": self.nodes.stages, "offset": self.offset}
        call["mask"] = None if mask is None else tables.beside(mask, frames)
        most = BATCH[arrays.is_cuda(frames)] if fit_cepstrum.choose(frames, *given, **call) == "definition" else frames.shape[0]
        rows = []
        for first in range(0, frames.shape[0], most):
            fit = fit_cepstrum(frames[first : min(first + most, frames.shape[0]), ...], *given, **call)
            covariance = [fit.covariance[:, i, j][:, None] for i, j in UPPER]
            rows.append(
                xp.concat([xp.reshape(fit.vectors, (-1, 4)), *covariance, fit.residual[:, None], fit.significance[:, None]], axis=1)
            )
        self.put(positions, xp.concat(rows, axis=0))

    def finish(self) -> CepstralFit:
        planes = self.values.result()
        xp, scan = arrays.namespace(planes), tuple(self.scan.shape[:2])
        significance = planes[self.planes - 1, ...]
        kept = xp.where(significance >= self.min_significance, planes, xp.full_like(planes, math.nan))
        vectors = xp.reshape(xp.permute_dims(kept[:4, ...], (1, 2, 0)), (*scan, 2, 2))
        upper = {place: kept[4 + n, ...] for n, place in enumerate(UPPER)}
        covariance = xp.stack([xp.stack([upper[min(i, j), max(i, j)] for j in range(4)], axis=-1) for i in range(4)], axis=-2)
        g, spread = reciprocal(vectors, covariance, self.shape)
        fitted = xp.isfinite(vectors[..., 0, 0])
        nan = xp.full_like(significance, math.nan)
        rows = np.linalg.inv(self.nodes.vectors / np.array(self.shape)).T
        return CepstralFit(
            g1=g[..., 0, :],
            g2=g[..., 1, :],
            origin=xp.stack([nan, nan], axis=-1),
            covariance=spread,
            residual=kept[self.planes - 2, ...],
            count=xp.astype(fitted, xp.int64) * len(self.orders),
            indexed_fraction=xp.where(fitted, xp.ones_like(nan), nan),
            mask=fitted,
            lattice=Lattice(rows[0], rows[1], points=len(self.orders)),
            weights="power",
            error_scale=math.nan,
            r1=vectors[..., 0, :],
            r2=vectors[..., 1, :],
            significance=significance,
            nodes=self.nodes,
            detector_shape=(int(self.shape[0]), int(self.shape[1])),
        )


def reciprocal(vectors: Any, covariance: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Turn real-space vectors, px of the cepstrum, into reciprocal ones, px of the detector, with their covariance.

    With rows R in cycles per pixel, R Gᵀ = 1. So dG = −G dRᵀ G. Covariances of different components of G are left out, as in `LatticeFit`:
    they are zero for nodes around the centre as even as the lattice itself.

    Parameters
    ----------
    vectors : (..., 2, 2) float64
    covariance : (..., 4, 4) float64
    shape : (Qx, Qy)

    Returns
    -------
    g (..., 2, 2), covariance (..., 2, 2, 2) [c, i, j]
    """
    xp = arrays.namespace(vectors)
    size = arrays.from_numpy(np.array(shape, np.float64), vectors)
    a, b, c, d = (vectors[..., i, j] / float(shape[j]) for i in (0, 1) for j in (0, 1))
    determinant = a * d - b * c
    determinant = xp.where(xp.abs(determinant) > 0, determinant, xp.full_like(determinant, math.nan))
    g = xp.stack([xp.stack([d, -c], axis=-1), xp.stack([-b, a], axis=-1)], axis=-2) / determinant[..., None, None]
    change = -g[..., :, None, None, :] * xp.matrix_transpose(g)[..., None, :, :, None] / size  # (i, c, k, d)
    change = xp.reshape(change, (*g.shape[:-2], 4, 4))
    full = xp.matmul(xp.matmul(change, covariance), xp.matrix_transpose(change))
    rows = [[[full[..., 2 * i + k, 2 * j + k] for j in (0, 1)] for i in (0, 1)] for k in (0, 1)]
    return g, xp.stack([xp.stack([xp.stack(r, axis=-1) for r in block], axis=-2) for block in rows], axis=-3)


def mean_cepstrum(
    cube: DataCube | Array,
    vectors: Lattice | ArrayLike | None = None,
    *,
    unit: str = "px",
    window: str | ArrayLike = "sine",
    offset: float | None = None,
    r_range: tuple[float, float] | None = None,
    where: ArrayLike | None = None,
    memory: int | float | str | None = None,
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
    memory : int, float or str, optional
        The sample takes no more than a quarter of it.

    Returns
    -------
    MeanCepstrum
        Its nodes are None if no lattice is found.

    Examples
    --------
    >>> import gpu4d
    >>> cube = gpu4d.simulate.bragg_scan((3, 4), (64, 64), spacing=12.0, radius=3.0, dose=400.0, seed=0).cube
    >>> [round(float(length), 1) for length in np.linalg.norm(gpu4d.crystal.mean_cepstrum(cube).nodes.vectors, axis=1)]
    [5.3, 5.3]
    """
    cube = _as_cube(cube)
    shape, mask = cube.detector_shape, pixel_mask(cube.detector_mask, cube.detector_shape)
    window = window_of(window, shape)
    reach, given = _reach(r_range, unit, cube), _given(vectors, unit, cube)
    size = SAMPLE if memory is None else SampleSize(SAMPLE.most, min(SAMPLE.most_bytes, int(parse_memory(memory) // 4)), 1, 1)
    patterns = read_sample(cube, sample_places(cube, where, size))
    patterns = np.asarray(patterns).reshape(-1, *shape)
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
        for first in range(0, len(some), BATCH[0]):
            power = np.asarray(power_cepstrum(some[first : first + BATCH[0]], window=window, offset=offset, mask=mask))
            level = power.mean(axis=(1, 2))  # a bright pattern must not outweigh the others; NaN of an empty one
            good = level > 0
            total, count = total + np.sum(power[good] / level[good, None, None], axis=0), count + int(good.sum())
        return total, count

    parts = in_threads(summed, [patterns[k::GROUPS] for k in range(min(GROUPS, len(patterns)))])
    found = [(total / count, count) for total, count in parts if count]
    return np.array([mean for mean, _ in found]), np.array([count for _, count in found])


def cepstral_lattice(
    cube: DataCube | Array,
    vectors: Lattice | ArrayLike | None = None,
    *,
    unit: str = "px",
    window: str | ArrayLike = "sine",
    offset: float | None = None,
    r_range: tuple[float, float] | None = None,
    min_significance: float = 5.0,
    **options: Unpack[SweepOptions],
) -> CepstralFit:
    """Measure the local lattice of every pattern from its power cepstrum, for strain without finding disks.

    The exit-wave power cepstrum (Padgett et al., Ultramicroscopy 214, 112994, 2020) is |FFT(window · log(I + offset))|². Its maxima are
    at the vectors of the real-space lattice. So it needs no template, and disks may overlap or be filled unevenly. Two vectors are
    fitted to all visible maxima at once: they maximise the summed power (`gpu4d.crystal.fit_cepstrum`), starting from the mean lattice
    of the scan. Their covariance is from the scatter of the single maxima.

    `gpu4d.strain_map` takes the result. With real-space vectors as columns, R = F R_ref, so tension is positive, and with g = F⁻ᵀ g_ref
    it is the same F as from disks. An ellipse and a rotation of the calibration are applied there, to vectors: nothing is resampled.

    Parameters
    ----------
    cube : DataCube or (Rx, Ry, Qx, Qy) array
        Pixels that the detector mask leaves out are filled from their surroundings in the logarithm, as in `power_cepstrum`.
    vectors : Lattice or (2, 2) array, optional
        Where the fits start: a `Lattice` of reciprocal vectors as `find_lattice` returns it, or real-space vectors as rows in `unit`.
        None: found in the mean cepstrum.
    unit : {"px", "A"}
        Of `vectors` and `r_range`: pixels of the cepstrum, 1 / (Q q_pixel), or Å, for which the calibration must have q_pixel.
    window : {"sine", "hann", "none"} or (Qx, Qy) array
    offset : float, optional
        Counts added before the logarithm. None: 1 for integer counts, else a tenth of the mean value.
    r_range : (float, float), optional
        Least and largest distance of the maxima from the centre. None: 3.5 px, below which maxima overlap the centre, to 0.36 of the
        longer side. In px of the cepstrum of the longer side.
    min_significance : float
        Patterns whose nodes are not so many standard deviations above their surroundings have NaN. 5 leaves out empty and amorphous
        patterns and those of another lattice.
    **options
        Options of `gpu4d.sweep`: memory, where, progress, device.

    Returns
    -------
    CepstralFit
        NaN at positions that are empty, have a NaN, are not significant, or whose lattice differs by more than a fifth from the mean.

    Raises
    ------
    InputError
        No lattice is visible in the mean cepstrum, or an option is out of range.

    Examples
    --------
    >>> import gpu4d
    >>> made = gpu4d.simulate.bragg_scan((4, 5), (64, 64), spacing=12.0, radius=3.0, dose=400.0, strain_size=0.01, seed=0)
    >>> strain = gpu4d.strain_map(gpu4d.crystal.cepstral_lattice(made.cube))
    >>> strain.exx.shape, bool(strain.mask.all())
    ((4, 5), True)
    """
    for name in options:
        if name not in SweepOptions.__optional_keys__:
            known = sorted(SweepOptions.__optional_keys__ | {"unit", "window", "offset", "r_range", "min_significance"})
            raise TypeError(f"cepstral_lattice() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}")
    cube = _as_cube(cube)
    chosen: dict[str, Any] = {"unit": unit, "window": window, "offset": offset, "r_range": r_range}
    found = mean_cepstrum(cube, vectors, **chosen, where=options.get("where"), memory=options.get("memory"))
    if found.nodes is None:
        why = "no lattice is visible in the mean cepstrum" if vectors is None else "the given lattice is not visible in the mean cepstrum"
        raise InputError(f"{why}: give vectors=, another r_range=, or where= for the crystalline part; an amorphous scan has none")
    fit = sweep(cube, CepstralVectors(found, window=window, min_significance=min_significance), **options)
    if not bool(arrays.namespace(fit.mask).any(fit.mask)):
        log.warning(
            "no pattern has a significant lattice (min_significance=%g): the scan may be amorphous or polycrystalline", min_significance
        )
    return fit


def _as_cube(cube: DataCube | Array) -> DataCube:
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
