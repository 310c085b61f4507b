"""UDF: single-side-band ptychography."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.device import tables
from gpu4d.errors import InputError, did_you_mean
from gpu4d.interop.libertem._shared import UDF, NativeFrames, corner, detector_shape, real_dtype, result_of, scan_shape, values_of
from gpu4d.ptychography.experiment import Experiment
from gpu4d.ptychography.gather_pixels import gather_pixels
from gpu4d.ptychography.overlap_geometry import Overlaps
from gpu4d.ptychography.pixel_groups import HeldPixels
from gpu4d.ptychography.ssb import check_options, ssb_of
from gpu4d.ptychography.ssb_live import known_overlaps, unread_scan

log = logging.getLogger("gpu4d")


class SSBOptions(TypedDict, total=False):
    """Keyword arguments of `gpu4d.ssb` that say where the disk is and what the wave is."""

    rotation: float | None
    transpose: bool | None
    aberrations: Mapping[str, float] | None
    pupil: ArrayLike | None
    energy: float | None
    semiangle: float | None
    q_pixel: float | None
    r_pixel: float | None
    origin: OriginLike | None


class SSBUDF(NativeFrames, UDF):
    """LiberTEM UDF: the phase of a thin object by single-side-band ptychography, as `gpu4d.ssb`.

    Only the pixels of the bright-field disk are kept, in the dtype of the dataset: scan positions × pixels of the disk. The phase is made
    of them when the result is looked at, from what has come so far.

    Parameters
    ----------
    calibration : Calibration, optional
        Energy, semi-angle, q_pixel, r_pixel, origin, rotation and transpose, unless they are given. The disk must be known, because there
        is no mean pattern yet to measure it in.
    mode, epsilon : str, float
        As in `gpu4d.ssb`.
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts.
    **options
        Of `gpu4d.ssb`: rotation, transpose, aberrations, pupil, energy, semiangle, q_pixel, r_pixel, origin.

    Notes
    -----
    Result buffer `phase`, nav, float64, radians. Positions outside the roi or not seen yet are NaN, and count as the mean of the others.
    While too few positions have come for any phase, all are NaN.

    Examples
    --------
    >>> udf = SSBUDF(cube.calibration, origin=(63.5, 63.5))  # doctest: +SKIP
    >>> udf.phase(ctx.run_udf(dataset=dataset, udf=udf)).shape  # doctest: +SKIP
    (128, 128)
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        *,
        mode: str = "weighted",
        epsilon: float = 0.003,
        detector_mask: ArrayLike | None = None,
        **options: Unpack[SSBOptions],
    ):
        check_options(mode, epsilon)
        for name in options:
            if name not in SSBOptions.__annotations__:
                known = ", ".join(SSBOptions.__annotations__)
                raise InputError(f"SSBUDF has no option {name!r}{did_you_mean(name, SSBOptions.__annotations__)}: it takes {known}")
        super().__init__(calibration=calibration, mode=mode, epsilon=epsilon, detector_mask=detector_mask, **options)
        self.calibration()  # refuses what it cannot take

    @property
    def options(self) -> dict[str, Any]:
        """Options of `gpu4d.ssb` that were given."""
        return {name: self.params.get(name) for name in SSBOptions.__annotations__ if name in self.params}

    def geometry(self) -> tuple[DataCube, Experiment, Overlaps]:
        """Return the scan without its patterns, what is known of it, and the geometry of its disk.

        Raises
        ------
        InputError
            The scan has not two axes, or something of the disk is not known.
        """
        if len(self.meta.dataset_shape.nav) != 2:
            raise InputError(f"the scan has {len(self.meta.dataset_shape.nav)} axes: ptychography needs two")
        cube = unread_scan(scan_shape(self.meta), detector_shape(self.meta), self.params.calibration, self.params.detector_mask)
        return cube, *known_overlaps(cube, **self.options)

    def get_result_buffers(self) -> dict[str, Any]:
        pixels = self.geometry()[2].pixels
        return {
            "pixels": self.buffer(kind="nav", extra_shape=(len(pixels),), dtype=real_dtype(self.meta), where="device", use="private"),
            "phase": self.buffer(kind="nav", dtype=np.float64, use="result_only"),
        }

    def get_task_data(self) -> dict[str, Any]:
        number = self.geometry()[2].pixels
        return {"places": np.stack(np.divmod(number, detector_shape(self.meta)[1]), -1), "inside": dict[int, Any]()}

    def _inside(self) -> tuple[slice | np.ndarray, np.ndarray]:
        """Return which pixels of the disk lie in the present tile, and their numbers in it."""
        key = self.meta.tiling_scheme_idx
        if key not in self.task_data.inside:
            (nx, ny), at = tuple(self.meta.sig_slice.shape), self.task_data.places - np.array(corner(self.meta))
            which = np.flatnonzero(((at >= 0) & (at < (nx, ny))).all(-1))
            every: slice | np.ndarray = slice(None) if len(which) == len(at) else which
            self.task_data.inside[key] = every, at[which, 0] * ny + at[which, 1]
        return self.task_data.inside[key]

    def process_tile(self, tile: Any) -> None:
        """Keep the pixels of the disk that lie in a tile."""
        which, number = self._inside()
        if len(number):
            found = gather_pixels(tile, tables.beside(number, tile))
            self.results.pixels[:, which] = arrays.namespace(found).permute_dims(found, (1, 0))

    def get_results(self) -> dict[str, Any]:
        """Return the phase from the positions that have come."""
        nav, valid = scan_shape(self.meta), self.meta.get_valid_nav_mask(full_nav=True).reshape(scan_shape(self.meta))
        roi = self.meta.roi
        phase = np.full(nav, np.nan)
        _, known, overlaps = self.geometry()
        if valid.any():
            missing = None if valid.all() else ~valid
            images = np.ascontiguousarray(self.results.get_buffer("pixels").data.reshape(-1, len(overlaps.pixels)).T)
            source = HeldPixels(images.reshape(-1, *nav))
            try:
                p = self.params
                found = ssb_of(source, overlaps, known, p.mode, float(p.epsilon), self.options.get("aberrations"), missing)
            except InputError:
                if missing is None or (roi is not None and bool((valid == roi).all())):
                    raise  # all that will come has come
            else:
                phase = np.asarray(found.phase.data)
                for message in found.warnings if missing is None else ():
                    log.warning("ssb: %s", message)
        return {"phase": phase.reshape(-1) if roi is None else phase[roi]}

    def phase(self, result: Any) -> RealSlice:
        """Return the phase of a result of LiberTEM, (Rx, Ry) float64, radians. NaN outside the roi and where not seen yet.

        Parameters
        ----------
        result : mapping of result buffers
            What `Context.run_udf` returns for this UDF, or one of the parts that `run_udf_iter` yields.
        """
        given = self.options.get("r_pixel")
        step = self.calibration().r_pixel if given is None else given
        return RealSlice.calibrated(values_of(result_of(result, "phase", self)), "SSB phase", "rad", step)
