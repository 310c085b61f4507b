"""Measure local lattices without finding disks, from the power cepstrum of every pattern."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike, ReturnedArray
from gpu4d.crystal.cepstral_nodes import Nodes
from gpu4d.crystal.cepstrum import checked_offset, window_of
from gpu4d.crystal.fit_cepstrum import KERNEL_BATCH, TAPS, UNIT, fit_cepstrum, grid_points
from gpu4d.crystal.fit_lattice import FROM_CEPSTRUM, LatticeFit
from gpu4d.crystal.lattice import Lattice
from gpu4d.crystal.mean_cepstrum import MeanCepstrum, as_cube, mean_cepstrum
from gpu4d.data.datacube import DataCube
from gpu4d.device import tables
from gpu4d.errors import InputError, did_you_mean
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number
from gpu4d.streaming import ScanInfo, sweep
from gpu4d.streaming.engine import SweepOptions
from gpu4d.streaming.reduction import defined
from gpu4d.streaming.sums import PerPositionReduction

log = logging.getLogger("gpu4d")

BATCH = 32, 128  # patterns that the definition takes at once, on the host and on a device; it bounds its memory
UPPER = [(i, j) for i in range(4) for j in range(i, 4)]  # places of a symmetric 4 × 4 matrix that are stored


@dataclass(frozen=True, eq=False)
class CepstralFit(LatticeFit, stored="r1 r2: Rx Ry xy [px]; significance: Rx Ry"):
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


@on_host("statistics")
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
            at_once = min(-(-n_frames // UNIT) * UNIT, KERNEL_BATCH)
            return self.held_bytes(scan, n_frames) + finish + (150 if scan.on_host else 24 * at_once) * samples
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
            weights=FROM_CEPSTRUM,
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
    they are zero if single maxima scatter as much along as across their vectors. Where they scatter more along them, claimed errors of
    shear and rotation are too small: by a fifth on the scans that were tried.

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


@on_host("sample")
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
    cube = as_cube(cube)
    chosen: dict[str, Any] = {"unit": unit, "window": window, "offset": offset, "r_range": r_range}
    found = mean_cepstrum(cube, vectors, **chosen, where=options.get("where"))
    if found.nodes is None:
        why = "no lattice is visible in the mean cepstrum" if vectors is None else "the given lattice is not visible in the mean cepstrum"
        raise InputError(f"{why}: give vectors=, another r_range=, or where= for the crystalline part; an amorphous scan has none")
    fit = sweep(cube, CepstralVectors(found, window=window, min_significance=min_significance), **options)
    if not bool(arrays.namespace(fit.mask).any(fit.mask)):
        log.warning(
            "no pattern has a significant lattice (min_significance=%g): the scan may be amorphous or polycrystalline", min_significance
        )
    return fit
