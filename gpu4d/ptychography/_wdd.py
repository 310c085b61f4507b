"""Compute the transmission function of a thin object by Wigner-distribution deconvolution of its bright-field disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays, fft
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, scan_mask
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.ptychography.experiment import experiment
from gpu4d.ptychography.overlap_gate import check_overlap, check_strongest
from gpu4d.ptychography.overlap_geometry import overlap_geometry
from gpu4d.ptychography.pixel_groups import ScanPixels, blanked
from gpu4d.ptychography.ssb import dark_field, described
from gpu4d.ptychography.thin_object import ThinObject
from gpu4d.ptychography.wdd_sums import INTERFERENCE, Prior, WDDSums, spread, wdd_sums
from gpu4d.real_arrays import real_number
from gpu4d.streaming.engine import SweepOptions, VisitOptions

log = logging.getLogger("gpu4d")

WEAK_BEAM = 0.5  # of the incident intensity: with less in the direct beam, other waves interfere as strongly


@dataclass(kw_only=True)
class WDD(ThinObject):
    """Transmission function of a thin object from Wigner-distribution deconvolution, and how it was found.

    Attributes of `gpu4d.ptychography.ThinObject`, and these. The phase is the angle of the transmission function.

    Attributes
    ----------
    interference : float
        Power of the interference of scattered with scattered waves over that of the counting noise, as the deconvolution took it.
    epsilon : float
        ε, as it was taken.
    direct : float
        The part of the incident intensity in the direct beam. 1 for a weak object.
    """

    interference: float
    epsilon: float
    direct: float

    def __repr__(self) -> str:
        return self._words(f"interference {self.interference:.3g}, ε {self.epsilon:.2g}, ")


@on_host("fits")
def wdd(
    cube: DataCube,
    /,
    *,
    rotation: float | None = None,
    transpose: bool | None = None,
    aberrations: Mapping[str, float] | None = None,
    pupil: ArrayLike | None = None,
    interference: float | None = None,
    epsilon: float | None = None,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    adf: tuple[float, float] | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> WDD:
    """Compute the transmission function of a thin object by Wigner-distribution deconvolution of its bright-field disk.

    The scan spectrum of pixel k is G(k, K) = Σ_b O(b) O*(b - K) Ψ₀*(k - b) … : each pair of waves of the object whose difference is K
    interferes. `gpu4d.ssb` keeps the pairs with the direct beam alone, b = 0 and b = K. Here the others are kept as a disturbance of
    equal power for all b. The Wiener filter against it is a deconvolution over k, w = F⁻¹[F{A} / (1 + interference · |F{A}|² / (Σ|Ψ₀|²)²)].
    Then both O*(-K) O(0) and O(K) O*(0) are solved from Σ w* G, with ε in the diagonal. So the object need not be weak, its
    transmission function has a modulus as well, and counting noise is weighed. With interference = 0 and a weak object it is
    the weighted SSB.

    Parameters
    ----------
    cube : DataCube
        The scan. Its steps should be at most 1 / (4 k₀), with k₀ the radius of the disk in 1/Å.
    rotation, transpose, aberrations, pupil, energy, semiangle, q_pixel, r_pixel, origin, adf
        As in `gpu4d.ssb`.
    interference : float, optional
        Power of the interference of scattered with scattered waves over that of the counting noise, 0 to 30. By default from the variance
        of pixels' images if the patterns are counts, else 30.
    epsilon : float, optional
        ε, relative to the largest sum of weights. A larger value gives a smoother, but smaller phase. By default twice the power of the
        counting noise over that of the object, from 0.003 to 0.03, or 0.003 if the patterns are no counts.
    memory : int or str, optional
        As in `gpu4d.sweep`. If the spectra of the bright-field images do not fit, several passes are made, with the same result.
    **sweep_options
        Options of `gpu4d.sweep`: device, progress, where.

    Returns
    -------
    WDD
        Positions without counts, with NaN, or not visited are NaN in the result. For the sums, each image is filled there with its
        mean.

    Raises
    ------
    InputError
        As `gpu4d.ssb`; interference or epsilon out of range.

    Notes
    -----
    Rodenburg, Bates, Phil. Trans. R. Soc. A 339 (1992) 521; Bangun et al., Microscopy and Microanalysis 29 (2023) 994, who keep the
    bright-field disk alone. The direct beam's own intensity is found in the same way at K = 0.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=1.5)
    >>> found = gpu4d.wdd(scan.cube, origin=(16, 16))
    >>> found.phase.units, round(float(np.corrcoef(np.ravel(found.phase), np.ravel(scan.truth["phase"]))[0, 1]), 2)
    ('rad', 1.0)
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"wdd takes a DataCube, not a {type(cube).__name__}: gpu4d.DataCube(array, calibration=gpu4d.Calibration(…))")
    for name, value, most in (("interference", interference, INTERFERENCE), ("epsilon", epsilon, math.inf)):
        if value is not None and not (0 <= real_number(value, name) <= most and math.isfinite(value)):
            accepted = "from 0 up" if most == math.inf else f"from 0 to {most:g}"
            raise InputError(f"{name}={value}: need a number {accepted}, or None to take it from the counts")
    options: SweepOptions = {"memory": memory, **sweep_options}
    given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = experiment(cube, rotation=rotation, transpose=transpose, sweep_options=options, **given)
    check_overlap(known, cube.scan_shape)
    overlaps = spread(overlap_geometry(cube, known, aberrations, pupil))
    source = ScanPixels(cube, overlaps.pixels, options, dark_field(adf, known))
    where = scan_mask(sweep_options.get("where"), cube.scan_shape)
    prior = Prior(interference, epsilon, (known.q_pixel * known.r_pixel) ** 2, where)
    sums = wdd_sums(source, overlaps, prior, known.warnings)
    waves, transfer, direct = _solved(sums, cube.scan_shape)
    phases, weight = (_half(arrays.to_numpy(one), sums, cube.scan_shape) for one in (waves[0, :] - waves[1, :], sums.matrix[0, 0, :]))
    check_strongest(phases, weight, overlaps, known)
    xp = arrays.namespace(waves)
    transmission = blanked(1 + fft.ifft2(_plane(waves / direct, sums, cube.scan_shape)), sums.missing)
    phase = xp.atan2(xp.imag(transmission), xp.real(transmission))
    known.decisions.append(
        f"{len(overlaps.pixels)} bright-field pixels, {sums.incident:.4g} counts in each at the middle of the disk; interference "
        f"{sums.interference:.3g}, ε {sums.epsilon:.2g}; direct beam {direct:.3g} of the incident one"
    )
    if direct < WEAK_BEAM:
        known.warnings.append(
            f"the direct beam holds {direct:.2g} of the incident intensity: the object is too strong, use iterative ptychography"
        )
    for message in known.warnings:
        log.warning("wdd: %s", message)
    found = WDD(
        phase=RealSlice.calibrated(phase, "WDD phase", "rad", known.r_pixel),
        transmission=RealSlice.calibrated(transmission, "WDD transmission", "1", known.r_pixel),
        transfer=transfer,
        adf=source.found.get("adf"),
        positions=cube.calibration.positions if known.vectors is not None else None,
        **described(overlaps, known, aberrations, sums.incident, known.decisions, known.warnings),
        interference=sums.interference,
        epsilon=sums.epsilon,
        direct=direct,
    )
    found.say_slope()
    return found


def _solved(sums: WDDSums, scan_shape: tuple[int, int]) -> tuple[Any, np.ndarray, float]:
    """Return F{T - 1}(K) and F{T - 1}*(-K) relative to the incident wave, (2, F), the transfer of a phase, and the direct beam's part.

    (M + ε max M I) x = y for every frequency, M (2, 2).
    """
    xp = arrays.namespace(sums.bands)
    a, b, c, d = (sums.matrix[i, j, :] for i in (0, 1) for j in (0, 1))
    positions = scan_shape[0] * scan_shape[1]
    direct = float(xp.real(sums.bands[0, 0] / a[0])) / (sums.incident * positions)
    ridge = sums.epsilon * xp.max(xp.abs(a))
    ridge = ridge if float(ridge) > 0 else 1e-12 * xp.max(xp.abs(a))
    e, h = a + ridge, d + ridge
    determinant = e * h - b * c
    y = sums.bands / sums.incident
    found = xp.stack([(h * y[0, :] - b * y[1, :]) / determinant, (e * y[1, :] - c * y[0, :]) / determinant])
    p, q = a - b, c - d  # what the side bands (1, -1) of a weak phase give
    transfer = arrays.to_numpy(xp.real(((h * p - b * q) - (e * q - c * p)) / (2 * determinant)))
    return found, _half(transfer, sums, scan_shape), direct


def _half(values: np.ndarray, sums: WDDSums, scan_shape: tuple[int, int]) -> np.ndarray:
    """Return real parts or moduli (Rx, Ry // 2 + 1) of values (F,); 0 at K = 0 and beyond the overlap of disks."""
    half = np.zeros(scan_shape[0] * (scan_shape[1] // 2 + 1))
    half[sums.frequencies.index[1:]] = np.abs(values[1:]) if np.iscomplexobj(values) else values[1:]
    return half.reshape(scan_shape[0], -1)


def _plane(waves: Any, sums: WDDSums, scan_shape: tuple[int, int]) -> Any:
    """Return F{T - 1} (Rx, Ry) from both side bands of the half plane; 0 at K = 0. The mean of both where both tell the same."""
    rx, ry = scan_shape
    xp = arrays.namespace(waves)
    count, width = len(sums.frequencies.index), ry // 2 + 1
    i, j = np.divmod(sums.frequencies.index[1:], width)
    first, second = np.full((rx, ry), 2 * count), np.full((rx, ry), 2 * count)  # the last value is 0
    first[i, j] = np.arange(1, count)
    second[-i % rx, -j % ry] = count + np.arange(1, count)
    first, second = np.where(first == 2 * count, second, first), np.where(second == 2 * count, first, second)
    zero = xp.zeros((1,), dtype=waves.dtype, device=arrays.device(waves))
    values = xp.concat([waves[0, :], xp.conj(waves[1, :]), zero])
    both = [xp.take(values, arrays.from_numpy(one.reshape(-1), values)) for one in (first, second)]
    return xp.reshape((both[0] + both[1]) / 2, (rx, ry))
