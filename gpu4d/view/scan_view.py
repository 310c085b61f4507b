"""Make what a page shows of a scan: virtual images, patterns, maps of a result, and what is drawn over them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from gpu4d import arrays, physics
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import RealSlice
from gpu4d.device.choose import DeviceLike
from gpu4d.device.memory import available_memory, parse_memory
from gpu4d.errors import Gpu4dError, InputError
from gpu4d.imaging import detectors
from gpu4d.imaging.detectors import Detector
from gpu4d.imaging.image import VirtualImage
from gpu4d.imaging.patterns import MaxPattern, MeanPattern
from gpu4d.on_host import on_host
from gpu4d.probe import measure_disk
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming.engine import sweep
from gpu4d.streaming.reduction import Reduction
from gpu4d.view.following import Group, centres, groups_of, moves_enough, shifts_of, sum_following, unplaced
from gpu4d.view.pixel_images import PixelImages, bin_that_fits

Progress = Callable[[int, int], None]


class ViewOptions(TypedDict, total=False):
    """Keyword arguments of `view_of`."""

    title: str | None
    device: DeviceLike
    memory: int | str | None
    progress: Progress | bool


Spoken = dict[str, object]  # what a page is told or tells, as JSON has it: texts, numbers, lists of them

SWEEP_MEMORY = 512 * 10**6  # bytes for the buffers of a sweep, beside the images of all pixels
START_RADIUS = 0.12  # of the smaller side of the detector: a first detector where no bright-field disk is known
LEAST_NEGATIVE = 0.05  # of the largest value: noise around a dark place of an image of counts is smaller
SHAPES = ("disk", "annulus", "rectangle")


@dataclass(frozen=True)
class Overlays:
    """What a result knows of single positions.

    Attributes
    ----------
    disks : PointListArray, optional
        Bragg disks of every position, in detector pixels.
    lattice : (2, 2) array, optional
        Vectors g1 and g2 of the reference lattice, in detector pixels.
    local : (Rx, Ry, 2, 2) array, optional
        Vectors g1 and g2 that were fitted at every position, in detector pixels. NaN where there is no fit.
    """

    disks: PointListArray | None = None
    lattice: np.ndarray | None = None
    local: np.ndarray | None = None


@dataclass
class ScanView:
    """A scan, and what was computed of it, as a page shows them. `open_view` and `view_of` make one.

    Attributes
    ----------
    cube : DataCube
    mean, largest : (Qx, Qy) float64
        Mean and maximum pattern. NaN outside the detector mask.
    images : PixelImages
        For virtual images while a detector is dragged.
    title : str
    maps : dict of str to RealSlice
        Images (Rx, Ry) of a result.
    overlays : Overlays
    notes : list of str
        What the reader of the page should know.
    device, memory
        As of `gpu4d.sweep`, for images that are not summed from `images`.
    """

    cube: DataCube
    mean: np.ndarray
    largest: np.ndarray
    images: PixelImages
    title: str = "scan"
    maps: dict[str, RealSlice] = field(default_factory=dict)
    overlays: Overlays = Overlays()
    notes: list[str] = field(default_factory=list)
    device: DeviceLike = "auto"
    memory: int = SWEEP_MEMORY

    # ------------------------------------------------------------ what is asked

    def virtual_image(
        self, detector: Detector, exact: bool = True, progress: Progress | bool = False, follow: bool = False
    ) -> tuple[np.ndarray, bool]:
        """Return the counts under a detector at every position, and whether they are exact.

        Parameters
        ----------
        detector : Detector
            With a centre of its own, in detector pixels.
        exact : bool
            False allows sums of binned pixels, which take milliseconds for a scan of any size.
        progress : bool or callable
            As of `gpu4d.sweep`. A function that raises ends the sweep.
        follow : bool
            Move the detector with the calibrated origin of each position. Its centre is that for the mean origin. Without a map of
            origins, nothing moves. Positions without an origin have NaN.

        Returns
        -------
        (Rx, Ry) float64, bool
            Exact ones are those of `gpu4d.sweep` with `gpu4d.VirtualImage`, to the last bit.
        """
        shifts = self.shifts if follow else None
        if self.images.exact or not exact:
            return self._from_memory(detector, shifts, progress), self.images.exact
        asked = VirtualImage(detector) if shifts is None else VirtualImage(unplaced(detector), origin=centres(detector, shifts))
        found = sweep(self.cube, asked, device=self.device, memory=self.memory, progress=progress)
        return np.asarray(found, np.float64), True

    def _from_memory(self, detector: Detector, shifts: np.ndarray | None, progress: Progress | bool) -> np.ndarray:
        """Sum the images of pixels that are kept in memory."""
        ellipse = self.cube.calibration.ellipse
        if shifts is None:
            return self.images.sum_inside(self.images.inside(detector, ellipse))
        return sum_following(self.images, detector, shifts, self._groups, ellipse, progress if callable(progress) else None)

    @functools.cached_property
    def shifts(self) -> np.ndarray | None:
        """How far the beam of every position is from its mean place, (Rx, Ry, 2) detector pixels. None without a map of origins."""
        return shifts_of(self.cube.calibration)

    @functools.cached_property
    def _groups(self) -> list[Group]:
        return [] if self.shifts is None else groups_of(self.shifts)

    def pattern(self, rx: int, ry: int) -> np.ndarray:
        """Return the pattern of a position, (Qx, Qy) float64, NaN outside the detector mask."""
        return self._masked(np.asarray(self.cube[rx, ry], np.float64))

    def mean_of(self, rows: tuple[int, int], columns: tuple[int, int], progress: Progress | bool = False) -> np.ndarray:
        """Return the mean pattern of a rectangle of the scan, given by half-open ranges, (Qx, Qy) float64."""
        part = self.cube.crop(rx=rows, ry=columns)
        found = sweep(part, MeanPattern(), device=self.device, memory=self.memory, progress=progress)
        return np.asarray(found, np.float64)

    def drawn_at(self, rx: int, ry: int) -> Spoken:
        """Return what is drawn over the pattern of a position: its Bragg disks, its lattice and its origin, in detector pixels."""
        found: Spoken = {}
        if self.overlays.disks is not None:
            disks = self.overlays.disks[rx, ry]
            found["disks"] = [[float(x), float(y)] for x, y in zip(disks.qx, disks.qy)]
        if self.overlays.local is not None:
            found["lattice"] = lattice_at(self.overlays.local[rx, ry])
        origin = self.origin_at(rx, ry)
        if origin is not None:
            found["origin"] = origin
        return found

    def origin_at(self, rx: int, ry: int) -> list[float] | None:
        """Return the calibrated origin of a position, (qx, qy), or None."""
        origin = self.cube.calibration.origin
        if origin is None:
            return None
        values = arrays.to_numpy(origin)
        here = _numbers(values if values.ndim == 1 else values[rx, ry])
        return here if np.isfinite(here).all() else None

    # ------------------------------------------------------------ what the page is told first

    def about(self) -> Spoken:
        """Return what the page must know before it asks: sizes, units, maps, the first detector."""
        calibration = self.cube.calibration
        known: Spoken = {"ellipse": None, "mrad": None}
        if calibration.ellipse is not None:
            known["ellipse"] = ellipse_matrix(calibration.ellipse).tolist()
        if calibration.energy is not None and calibration.q_pixel is not None:
            known["mrad"] = physics.frequency_to_angle(calibration.q_pixel, calibration.energy)
        lattice = self.overlays.lattice
        return {
            "title": self.title,
            "scan": list(self.cube.scan_shape),
            "detector": list(self.cube.detector_shape),
            "r": _pixel(calibration.r_pixel, "Å"),
            "q": _pixel(calibration.q_pixel, "1/Å"),
            "origin": None if calibration.origin_mean is None else _numbers(calibration.origin_mean),
            "lattice": None if lattice is None else lattice.tolist(),
            "local": self.overlays.local is not None,
            "disks": self.overlays.disks is not None,
            "start": first_detector(self.mean, self.cube.detector_mask, calibration),
            "maps": listed(self.maps),
            "follow": None if self.shifts is None else moves_enough(self.shifts),
            "exact": self.images.exact,
            "bin": self.images.bin,
            "notes": self.notes,
            **known,
        }

    def _masked(self, pattern: np.ndarray) -> np.ndarray:
        mask = self.cube.detector_mask
        return pattern if mask is None else np.where(mask, pattern, np.nan)


@on_host("shown")
def view_of(
    cube: DataCube,
    *,
    title: str | None = None,
    device: DeviceLike = "auto",
    memory: int | str | None = None,
    progress: Progress | bool = False,
) -> ScanView:
    """Read a scan once, and make what a page needs of it.

    Parameters
    ----------
    cube : DataCube
    title : str, optional
        Heading of the page.
    device : as of `gpu4d.sweep`
    memory : int or str, optional
        Bytes that the images of all pixels may take; half of the free memory by default. If they do not fit, detector pixels are binned
        while a detector is dragged, and the exact image is computed when it is let go.
    progress : bool or callable
        As of `gpu4d.sweep`.

    Returns
    -------
    ScanView
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"the scan is a {type(cube).__name__}, need a DataCube: gpu4d.open(path) or gpu4d.DataCube(array) makes one")
    if 0 in cube.shape:
        raise InputError(f"the scan is {cube.shape}: it has no patterns to show")
    allowed = available_memory() // 2 if memory is None else parse_memory(memory)
    bin = bin_that_fits(cube, allowed)
    small = cube if bin == 1 else cube.bin(detector=bin)
    pixels = BrightFieldStack(np.ones(small.detector_shape, bool))
    together: dict[str, Reduction | str] = {"mean": MeanPattern(), "largest": MaxPattern()}
    if bin == 1:
        together["pixels"] = pixels
    found = sweep(cube, together, device=device, memory=SWEEP_MEMORY + small.nbytes, progress=progress)
    if bin > 1:
        found |= sweep(small, {"pixels": pixels}, device=device, memory=SWEEP_MEMORY + small.nbytes, progress=progress)
    images = PixelImages(found["pixels"], small.detector_shape, bin, small.detector_mask)
    view = ScanView(cube, np.asarray(found["mean"]), np.asarray(found["largest"]), images, title or cube.name, device=device)
    if not images.exact:
        how = f"of {bin}×{bin} binned pixels" if bin > 1 else "rounded"
        view.notes.append(f"While the detector is dragged, sums are {how}. The exact image follows when it is let go.")
    return view


def detector_from(asked: Spoken) -> Detector:
    """Return the detector that a page describes: its shape, its centre, and its sizes in pixels.

    Raises
    ------
    InputError
        A shape that does not exist, or sizes that are no numbers, or are not positive.

    Examples
    --------
    >>> detector_from({"shape": "annulus", "center": [8, 8.5], "inner": 2, "outer": 5})
    Detector(kind='annulus', center=(8.0, 8.5), parameters=(2.0, 5.0))
    """
    shape = asked.get("shape") if isinstance(asked, dict) else None
    if shape not in SHAPES:
        raise InputError(f"detector has the shape {shape!r}: accepted are {', '.join(SHAPES)}")
    given: Any = {"center": (), "inner": 0, "outer": 0, "height": 0, "width": 0, **asked}  # `detectors` checks what they are
    if shape == "disk":
        return detectors.disk(given["outer"], given["center"])
    if shape == "annulus":
        return detectors.annulus(given["inner"], given["outer"], given["center"])
    return detectors.rectangle(given["height"], given["width"], given["center"])


def first_detector(mean: np.ndarray, mask: np.ndarray | None, calibration: Calibration) -> Spoken:
    """Return the detector that a page begins with: the bright-field disk, calibrated or measured; else a disk in the middle."""
    middle = [(n - 1) / 2 for n in mean.shape]
    centre: Any = calibration.origin_mean
    radius = calibration.probe_radius
    if centre is None or radius is None:
        try:
            disk = measure_disk(np.nan_to_num(mean), mask)
            found = ((disk.qx, disk.qy), disk.radius) if disk.radius < max(mean.shape) / 2 else (middle, START_RADIUS * min(mean.shape))
        except Gpu4dError:  # there is no disk: amorphous rings behind a beam stop, or nothing at all
            found = (middle, START_RADIUS * min(mean.shape))
        centre, radius = (centre if centre is not None else found[0]), radius or found[1]
    side = round(2 * radius, 1)
    sizes = {"outer": round(radius, 1), "inner": round(radius / 2, 1), "height": side, "width": side}
    return {"shape": "disk", "center": [round(c, 1) for c in _numbers(centre)], **sizes}


def lattice_at(vectors: np.ndarray) -> list[list[float]] | None:
    """Return g1 and g2 of a position as JSON has them, or None where no lattice was fitted."""
    return [[float(v) for v in g] for g in vectors] if np.isfinite(vectors).all() else None


def listed(maps: dict[str, RealSlice]) -> list[Spoken]:
    """Return what a page is told of maps before it asks for them."""
    return [{"name": name, "units": plane.units, "signed": signed(np.asarray(plane))} for name, plane in maps.items()]


def signed(values: np.ndarray) -> bool:
    """Say whether values lie on both sides of zero, so that colours should begin there.

    Examples
    --------
    >>> signed(np.array([-1.0, np.nan, 2.0])), signed(np.array([-0.01, 5.0]))
    (True, False)
    """
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() < 0 < finite.max() and -finite.min() > LEAST_NEGATIVE * finite.max())


def _pixel(size: float | None, unit: str) -> Spoken:
    return {"size": 1.0 if size is None else float(size), "unit": "px" if size is None else unit}


def _numbers(values: Any) -> list[float]:
    return [float(v) for v in np.asarray(values).ravel()]
