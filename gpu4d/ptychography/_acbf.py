"""Sum bright-field pixels with the aberrations taken out at every frequency: aberration-corrected bright field."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays, fft
from gpu4d.data.arguments import OriginLike
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.ptychography.experiment import experiment
from gpu4d.ptychography.overlap_geometry import overlap_geometry
from gpu4d.ptychography.pixel_groups import ScanPixels
from gpu4d.ptychography.side_band_sums import side_band_sums
from gpu4d.streaming.engine import SweepOptions, VisitOptions

log = logging.getLogger("gpu4d")


@dataclass
class CorrectedBrightField(Storable, stored="transfer: Kx Ky"):
    """Image with the aberrations taken out at every frequency.

    Attributes
    ----------
    image : RealSlice (Rx, Ry)
        Radians: the phase of a weak object times the transfer. Its noise is white up to twice the semi-angle, 1 / √(counts in the
        disk). NaN at positions without a pattern.
    transfer : (Rx, Ry // 2 + 1) float64
        √(mean |Γ|²) over the disk, in the half plane of `fft.rfft2`. It is never negative, and 0 only at K = 0 and beyond 2 k₀.
    incident : float
        Counts per pixel in the middle of the disk.
    decisions, warnings : list of str
        Sentences for the user.
    """

    image: RealSlice
    transfer: np.ndarray
    incident: float
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.image.shape))
        return f"CorrectedBrightField({size}, {self.image.range_text()}, transfer up to {self.transfer.max():.2f})"


def acbf(
    cube: DataCube,
    aberrations: Mapping[str, float] | None = None,
    /,
    *,
    rotation: float | None = None,
    transpose: bool | None = None,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> CorrectedBrightField:
    """Sum the images of bright-field pixels with the aberrations taken out at every frequency: aberration-corrected bright field.

    Shifts alone (`gpu4d.parallax`) leave the transfer of a defocused microscope, whose sign changes with frequency. Here every pixel
    has at every frequency the weight Γ* of the side bands, as in `gpu4d.ssb`. The sum is divided by √Σ|Γ|² and not by Σ|Γ|²: so
    the noise is the same at all frequencies, and no frequency is amplified.

    Parameters
    ----------
    cube : DataCube
        A scan of a thin object, at steps that resolve it.
    aberrations : mapping, optional
        Krivanek coefficients in Å and radians, as of `gpu4d.fit_aberrations`. `defocus` = -C10, positive is underfocus.
    rotation, transpose : float, bool, optional
        v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. By default from the cube's calibration.
    energy, semiangle, q_pixel, r_pixel : float, optional
        In eV, mrad, 1/Å and Å. By default from the cube's calibration.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre of the bright-field disk, pixels. By default from the calibration, or measured in the mean pattern.
    memory : int or str, optional
        As in `gpu4d.sweep`.
    **sweep_options
        Options of `gpu4d.sweep`: device, progress, where.

    Returns
    -------
    CorrectedBrightField

    Raises
    ------
    InputError
        Not a DataCube, a calibration that is missing, an unknown coefficient, a disk without pixels.

    Notes
    -----
    Ma et al., Ultramicroscopy (2026) 114351, arXiv 2507.21034.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=0.1, defocus=80.0)
    >>> found = gpu4d.ptychography.acbf(scan.cube, {"defocus": 80.0}, origin=(16, 16))
    >>> found.image.units, bool(found.transfer.min() >= 0)
    ('rad', True)
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"acbf takes a DataCube, not a {type(cube).__name__}: gpu4d.DataCube(array, calibration=gpu4d.Calibration(…))")
    options: SweepOptions = {"memory": memory, **sweep_options}
    given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = experiment(cube, rotation=rotation, transpose=transpose, sweep_options=options, **given)
    overlaps = overlap_geometry(cube, known, aberrations, None)
    sums, missing, incident = side_band_sums(ScanPixels(cube, overlaps.pixels, options), overlaps, "weighted", known.warnings)
    xp = arrays.namespace(sums.overlap)
    overlap, weight = sums.overlap[0, :, :], sums.weight[0, :, :]
    root = xp.sqrt(weight)
    disk = float(overlaps.intensity.sum())
    spectrum = overlap / xp.where(root > 0, root, xp.ones_like(root)) / (incident * disk**0.5)
    image: Any = fft.irfft2(-1j * spectrum, cube.scan_shape)
    if missing is not None:
        image = xp.where(arrays.from_numpy(missing, image), xp.full_like(image, float("nan")), image)
    known.decisions.append(f"{len(overlaps.pixels)} bright-field pixels, {incident:.4g} counts in each at the middle of the disk")
    for message in known.warnings:
        log.warning("acbf: %s", message)
    picture = RealSlice.calibrated(image, "aberration-corrected bright field", "rad", known.r_pixel)
    return CorrectedBrightField(picture, arrays.to_numpy(root) / disk**0.5, incident, known.decisions, known.warnings)
