"""The mean momentum of the electrons at every position, its errors, and what the scan knows of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.calibrate.rotation import com_field
from gpu4d.data.arguments import host_image, pixel_mask, positions_of, real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.deflection.counting_error import CenterOfMassVariance
from gpu4d.errors import InputError
from gpu4d.imaging.com_map import CenterOfMass
from gpu4d.on_host import on_host
from gpu4d.preprocess.counts import in_counts
from gpu4d.probe.measure_disk import Disk
from gpu4d.real_arrays import beside, real_array
from gpu4d.streaming.engine import SweepOptions

DARK_FIELD_REGION = 128  # positions a side, in the middle of the scan: enough to tell the sign of a correlation
OUTSIDE = 1.1  # of the bright-field disk's radius: beyond the blur of its edge


@dataclass
class Momentum:
    """The centre of mass of a scan, in detector pixels and detector axes, and what is known of the scan.

    Attributes
    ----------
    com : (Rx, Ry, 2) float
    variance : (3, Rx, Ry) float or None
        Planes xx, xy, yy, pixels²; None if the values are no counts, or were not given.
    calibration : Calibration
        A copy.
    outside : float or None
        Share of the electrons outside of the bright-field disk.
    cube, disk, sweep_options
        Of a scan that was swept.
    notes : list of str
    """

    com: Any
    calibration: Calibration
    variance: Any = None
    outside: float | None = None
    cube: DataCube | None = None
    disk: Disk | None = None
    sweep_options: SweepOptions = field(default_factory=SweepOptions)
    notes: list[str] = field(default_factory=list)
    given_dark_field: np.ndarray | None = None

    @classmethod
    def of(cls, given: Any, detector: Any, variance: Any, options: SweepOptions) -> Momentum:
        """Sweep a scan, or take a centre of mass that was measured."""
        if isinstance(given, DataCube):
            if variance is not None:
                raise InputError("variance belongs to a centre of mass, and this is a scan, whose counts give it: leave it out")
            return cls._swept(given, detector, options)
        if options or detector is not None:
            names = sorted([*options, *(["detector"] if detector is not None else [])])
            raise InputError(f"{', '.join(names)}: for a scan only, and this is its centre of mass already; leave out what is for a scan")
        step = given.pixel_size if getattr(given, "pixel_units", None) == "Å" else None
        found = cls(com_field(given), Calibration(r_pixel=step) if step else Calibration())
        if variance is not None:
            found.variance = beside(real_array(variance, "variance", "(3, Rx, Ry)"), "variance", found.com)
            if tuple(found.variance.shape) != (3, *found.com.shape[:2]):
                need = f"(3, {found.com.shape[0]}, {found.com.shape[1]})"
                raise InputError(f"variance has shape {tuple(found.variance.shape)}, need {need}: planes xx, xy, yy in pixels²")
        return found

    @classmethod
    def _swept(cls, cube: DataCube, detector: Any, options: SweepOptions) -> Momentum:
        from gpu4d.imaging.patterns import MeanPattern
        from gpu4d.probe.measure_disk import measure_disk
        from gpu4d.streaming.engine import sweep

        asked: dict[str, Any] = {"com": CenterOfMass(detector), "mean": MeanPattern(), "variance": CenterOfMassVariance(detector)}
        out: Any = sweep(cube, asked, **options)
        scan = cls(com_field(out["com"]), cube.calibration.copy(), out["variance"].data, cube=cube, sweep_options=options)
        mean = arrays.to_numpy(out["mean"].data)
        if not in_counts(cube.dtype, np.full((1, 1), np.nansum(mean))):
            scan.variance = None
            scan.notes.append("no standard errors: the values of the patterns are not electrons")
        try:
            scan.disk = measure_disk(mean, cube.detector_mask)
            share = share_outside(mean, scan.disk, cube.detector_mask)
            scan.outside = share if np.isfinite(share) else None
        except InputError as error:
            scan.notes.append(f"no bright-field disk found ({error})")
        known = scan.calibration
        if known.q_pixel is None and known.energy and known.semiangle and scan.disk is not None:
            known.set(probe_radius=scan.disk.radius, how="circle fit to the mean pattern")
            known.complete()
            scan.notes.append(f"q_pixel {known.q_pixel:.5g} 1/Å: {known.history[-1].how}")
        return scan

    def take_dark_field(self, given: Any) -> None:
        """Keep a dark field that the caller measured."""
        if given is None:
            return
        image = real_values(given, "dark_field", "one value per position").astype(np.float64)
        if image.shape != tuple(self.com.shape[:2]):
            raise InputError(f"dark_field is {image.shape}, the scan is {tuple(self.com.shape[:2])}: need one value per position")
        self.given_dark_field = image

    def dark_field(self) -> np.ndarray | None:
        """Return the share of the electrons outside the bright-field disk, (Rx, Ry); NaN where not measured, None if it cannot be."""
        if self.given_dark_field is not None or self.cube is None or self.disk is None:
            return self.given_dark_field
        from gpu4d.imaging.image import VirtualImage
        from gpu4d.streaming.engine import sweep

        beyond = outside_of(self.disk, self.cube.detector_shape)
        if not beyond.any():
            return None
        middle = np.zeros(self.cube.scan_shape, bool)
        middle[tuple(slice(max(n - DARK_FIELD_REGION, 0) // 2, (n + DARK_FIELD_REGION + 1) // 2) for n in middle.shape)] = True
        options = self.sweep_options | {"where": middle & positions_of(self.sweep_options.get("where"), middle.shape)}
        counts = arrays.to_numpy(sweep(self.cube, VirtualImage([beyond, np.ones_like(beyond)]), **options).data)
        with np.errstate(invalid="ignore", divide="ignore"):
            return counts[0] / counts[1]


def outside_of(disk: Disk, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels outside of a bright-field disk, (Qx, Qy) bool."""
    x, y = (np.arange(n) - c for n, c in zip(shape, (disk.qx, disk.qy)))
    return x[:, None] ** 2 + y**2 > (OUTSIDE * disk.radius) ** 2


@on_host("image")
def share_outside(mean: ArrayLike, disk: Disk, mask: ArrayLike | None = None) -> float:
    """Return the share of the electrons of a mean pattern outside of its bright-field disk, beyond 1.1 radii.

    Parameters
    ----------
    mean : (Qx, Qy) real
        NaN pixels are left out.
    disk : Disk
        From `gpu4d.probe.measure_disk`.
    mask : (Qx, Qy) bool, optional
        Pixels that count.

    Returns
    -------
    float
        0 to 1. NaN for a pattern without counts.

    Examples
    --------
    >>> import gpu4d
    >>> pattern = 100 * gpu4d.probe.synthetic((32, 32), 6.0)
    >>> share_outside(pattern, gpu4d.probe.measure_disk(pattern)) < 0.01
    True
    """
    image = host_image(mean, "mean").astype(np.float64)
    valid = pixel_mask(mask, image.shape, "mask")
    counts = np.where(np.isfinite(image) & (True if valid is None else valid), image, 0.0)
    total = float(counts.sum())
    return float(np.clip(counts[outside_of(disk, counts.shape)].sum() / total, 0, 1)) if total > 0 else float("nan")
