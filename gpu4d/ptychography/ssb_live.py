"""Compute the phase while a scan is acquired: rows as they arrive, a picture at any time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import OriginLike, real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.ptychography.experiment import Experiment, experiment
from gpu4d.ptychography.overlap_gate import check_overlap
from gpu4d.ptychography.overlap_geometry import Overlaps, overlap_geometry
from gpu4d.ptychography.pixel_groups import HeldPixels
from gpu4d.ptychography.ssb import SSB, check_options, dark_field, ssb_of
from gpu4d.streaming.reduction import ScanInfo


def unread_scan(
    scan_shape: tuple[int, int], detector_shape: tuple[int, int], calibration: Calibration | None, detector_mask: ArrayLike | None
) -> DataCube:
    """Return a scan of these shapes whose patterns are not there yet. It takes no memory."""
    nothing = np.broadcast_to(np.zeros((), np.uint8), (*scan_shape, *detector_shape))
    return DataCube(nothing, calibration if calibration is not None else Calibration(), detector_mask=detector_mask)


def known_overlaps(
    cube: DataCube, *, aberrations: Mapping[str, float] | None = None, pupil: ArrayLike | None = None, **given: Any
) -> tuple[Experiment, Overlaps]:
    """Return the geometry of a scan whose patterns are not there yet. An error says what of the disk is not known.

    Parameters
    ----------
    cube : DataCube
    aberrations, pupil
        As in `gpu4d.ssb`.
    **given
        rotation, transpose, energy, semiangle, q_pixel, r_pixel, origin, as in `gpu4d.ssb`. None: from the calibration.
    """
    for name in ("origin", "semiangle", "q_pixel"):
        if given.get(name) is None:
            cube.calibration.require(name)
    known = experiment(cube, **given)
    check_overlap(known, cube.scan_shape)
    return known, overlap_geometry(cube, known, aberrations, pupil)


class SSBLive:
    """Single-side-band ptychography of a scan that is still being acquired.

    The images of the disk's pixels are kept, in the patterns' own dtype. `result` fills places without a pattern with the mean of each
    image. Of the whole scan, it gives the bits of `gpu4d.ssb`.

    Parameters
    ----------
    scan_shape, detector_shape : (int, int)
    calibration : Calibration
        Energy, semi-angle, q_pixel, r_pixel and origin, unless they are given.
    rotation, transpose, aberrations, pupil, mode, epsilon, energy, semiangle, q_pixel, r_pixel, origin, adf
        As in `gpu4d.ssb`. The disk must be known: there is no mean pattern yet to measure it in.
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Raises
    ------
    InputError
        As `gpu4d.ssb`; a disk that is not known.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=0.1)
    >>> live = SSBLive((32, 32), (32, 32), scan.cube.calibration, origin=(16, 16))
    >>> for row in range(32):
    ...     live.update(scan.cube.source.array[row])
    ...     if row == 7:
    ...         print(live)
    SSBLive(32×32 positions, 256 of 1024 arrived)
    >>> bool((np.asarray(live.result().phase) == np.asarray(gpu4d.ssb(scan.cube, origin=(16, 16)).phase)).all())
    True
    """

    def __init__(
        self,
        scan_shape: tuple[int, int],
        detector_shape: tuple[int, int],
        calibration: Calibration | None = None,
        *,
        rotation: float | None = None,
        transpose: bool | None = None,
        aberrations: Mapping[str, float] | None = None,
        pupil: ArrayLike | None = None,
        mode: str = "weighted",
        epsilon: float = 0.003,
        energy: float | None = None,
        semiangle: float | None = None,
        q_pixel: float | None = None,
        r_pixel: float | None = None,
        origin: OriginLike | None = None,
        adf: tuple[float, float] | None = None,
        detector_mask: ArrayLike | None = None,
    ):
        check_options(mode, epsilon)
        given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
        cube = unread_scan(scan_shape, detector_shape, calibration, detector_mask)
        self._known, self._overlaps = known_overlaps(
            cube, aberrations=aberrations, pupil=pupil, rotation=rotation, transpose=transpose, **given
        )
        self._aberrations, self._mode, self._epsilon, self._cube = aberrations, mode, float(epsilon), cube
        self._stack, self._others = BrightFieldStack(self._overlaps.pixels), dark_field(adf, self._known)
        self._seen = np.zeros(math.prod(cube.scan_shape), bool)
        self._next = 0

    def update(self, frames: Array, positions: ArrayLike | None = None) -> None:
        """Take patterns.

        Parameters
        ----------
        frames : (n, Qx, Qy)
            All updates bring the same dtype and library.
        positions : (n, 2) int, optional
            Their places in the scan. By default those after the last update's, along the rows.
        """
        shape = self._cube.scan_shape
        if len(frames.shape) != 3 or tuple(frames.shape[1:]) != self._cube.detector_shape:
            raise InputError(f"frames are {tuple(frames.shape)}: need (n, {', '.join(map(str, self._cube.detector_shape))})")
        n = frames.shape[0]
        if positions is None:
            number = self._next + np.arange(n)
            if number.size and number[-1] >= self._seen.size:
                raise InputError(f"{n} patterns after {self._next} of {self._seen.size}: give positions if some come again")
        else:
            at = real_values(positions, "positions", f"whole numbers ({n}, 2)")
            if at.shape != (n, 2) or at.dtype.kind not in "iu" or not ((at >= 0) & (at < np.array(shape))).all():
                raise InputError(f"positions are {at.shape} {at.dtype}: need whole numbers ({n}, 2) inside a scan of {shape}")
            number = at[:, 0].astype(np.int64) * shape[1] + at[:, 1].astype(np.int64)
        if not n:
            return
        if not self._seen.any():
            self._start(frames)
        elif frames.dtype != self._dtype:
            raise InputError(f"frames are {frames.dtype} and were {self._dtype}: all updates must bring the same dtype")
        places = np.stack(np.divmod(number, shape[1]), -1)
        self._stack.update(frames, places)
        for one in self._others.values():
            one.update(frames, places)
        self._seen[number] = True
        self._next = int(number[-1]) + 1

    def _start(self, frames: Any) -> None:
        xp, self._dtype = arrays.namespace(frames), frames.dtype
        scan = ScanInfo(
            shape=self._cube.shape,
            dtype=np.dtype(frames.dtype) if isinstance(frames, np.ndarray) else frames.dtype,
            calibration=self._cube.calibration,
            detector_mask=self._cube.detector_mask,
            update_frames=self._seen.size,
            sample=None if isinstance(frames, np.ndarray) else xp.empty((0,), dtype=frames.dtype, device=arrays.device(frames)),
        )
        for one in (self._stack, *self._others.values()):
            one.start(scan, "cpu" if scan.sample is None else "array")

    @property
    def arrived(self) -> int:
        """How many positions have a pattern."""
        return int(self._seen.sum())

    def result(self) -> SSB:
        """Return the phase from what has arrived. Positions that have not are NaN.

        Raises
        ------
        InputError
            Nothing has arrived, or nothing with counts.
        """
        if not self._seen.any():
            raise InputError("no pattern has arrived yet: call update(frames) first")
        missing = ~self._seen.reshape(self._cube.scan_shape)
        source = HeldPixels(self._stack.finish())
        found = ssb_of(
            source, self._overlaps, self._known, self._mode, self._epsilon, self._aberrations, missing if missing.any() else None
        )
        found.positions = self._cube.calibration.positions if self._known.vectors is not None else None
        if self._others:
            image: RealSlice = self._others["adf"].finish()
            found.adf = image
        return found

    def __repr__(self) -> str:
        rx, ry = self._cube.scan_shape
        return f"SSBLive({rx}×{ry} positions, {self.arrived} of {self._seen.size} arrived)"
