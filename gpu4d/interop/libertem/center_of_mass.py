"""UDF: centre of mass, in the place of LiberTEM's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, origins
from gpu4d.data.calibration import Calibration
from gpu4d.data.slices import RealSlice
from gpu4d.imaging.first_moments import first_moments, moments_are_exact
from gpu4d.interop.libertem._shared import (
    UDF,
    CoMParams,
    CoMUDF,
    Cut,
    NativeFrames,
    apply_correction,
    corner,
    masks,
    result_of,
    scan_shape,
    values_of,
)


class CenterOfMassUDF(NativeFrames, CoMUDF):
    """LiberTEM UDF: centre of mass, with the options and result buffers of LiberTEM's `CoMUDF`, and an origin for each position.

    Make it by `with_params`. Moments are sums of integers where the frames have integers, so they are exact and do not depend on tiles.

    Parameters
    ----------
    com_params : CoMParams
        As for LiberTEM's.
    calibration : Calibration, optional
        For `center_of_mass`, which says the scan's pixel size. Its origin is the reference unless `origin`, `cy` or `cx` is given.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Reference of the shifts, detector pixels, one for each position if it moves. The disk or ring of `r` and `ri` is about its mean.
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Notes
    -----
    Result buffers are those of LiberTEM's `CoMUDF` (raw_com, raw_shifts, field, field_y, field_x, magnitude, divergence, curl,
    regression), in float64, and `counts`, the sum of each frame. As in LiberTEM, a frame without counts has no shift, so that
    derivatives stay finite, and `scan_rotation` turns as LiberTEM 0.16 turns (`gpu4d.interop.libertem.from_libertem`).

    Examples
    --------
    >>> udf = CenterOfMassUDF.with_params(cy=63.5, cx=63.5, r=40, regression=0)  # doctest: +SKIP
    >>> ctx.run_udf(dataset=dataset, udf=udf)["field"].data.shape  # doctest: +SKIP
    (128, 128, 2)
    """

    def __init__(
        self,
        com_params: Any = None,
        calibration: Calibration | None = None,
        origin: OriginLike | None = None,
        detector_mask: ArrayLike | None = None,
    ):
        chosen = CoMParams() if com_params is None else com_params
        UDF.__init__(self, com_params=chosen, calibration=calibration, origin=origin, detector_mask=detector_mask)
        self.calibration()  # refuses what it cannot take

    @classmethod
    def with_params(cls, **options: Any) -> CenterOfMassUDF:
        """Make the UDF from LiberTEM's options cy, cx, r, ri, scan_rotation, flip_y, regression, and those of this class.

        Parameters
        ----------
        **options
            As for `CoMUDF.with_params` and for `CenterOfMassUDF`.

        Raises
        ------
        ValueError
            As LiberTEM's: the inner radius is not less than the outer.
        """
        own = {name: options.pop(name) for name in ("calibration", "origin", "detector_mask") if name in options}
        made = CoMUDF.with_params(**options)
        return cls(com_params=made.params.com_params, **own)

    def reference(self) -> np.ndarray:
        """Return the point from which shifts count: (2,), or (Rx, Ry, 2) if it moves."""
        given, asked, shape = self.params.origin, self.params.com_params, scan_shape(self.meta)
        if given is not None:
            return origins(given, shape)
        known = self.calibration().origin
        if known is not None and asked.cy is None and asked.cx is None:
            return origins(known, shape)
        usual = CoMUDF.get_params(self)
        return np.array([usual.cy, usual.cx], np.float64)

    def get_params(self) -> Any:
        """Return LiberTEM's parameters, centred on the mean of the reference."""
        reference = self.reference()
        cy, cx = np.nanmean(reference.reshape(-1, 2), axis=0) if reference.ndim == 3 else reference
        return CoMUDF.get_params(self)._replace(cy=float(cy), cx=float(cx))

    def get_result_buffers(self) -> dict[str, Any]:
        scan = self.scan_info()
        moments = np.int64 if moments_are_exact(scan.dtype, scan.shape) else np.float64
        own = {"moments": self.buffer(kind="nav", extra_shape=(3,), dtype=moments, where="device", use="private")}
        pair, one = ("raw_com", "raw_shifts", "field"), ("field_y", "field_x", "magnitude", "divergence", "curl", "counts")
        for name in (*pair, *one):
            shape = (2,) if name in pair else ()
            own[name] = self.buffer(kind="nav", extra_shape=shape, dtype=np.float64, use="result_only")
        return own | {"regression": self.buffer(kind="single", extra_shape=(3, 2), dtype=np.float64, use="result_only")}

    def get_task_data(self) -> dict[str, Any]:
        if len(self.meta.dataset_shape.nav) != 2:
            raise ValueError("CoMUDF only works with 2D nav shape.")
        return {"mask": Cut(self._mask())}

    def _mask(self) -> np.ndarray | None:
        """Return the pixels that count, None for all. Disk and ring are LiberTEM's."""
        scan, asked = self.scan_info(), self.get_params()
        about: dict[str, Any] = {"centerY": asked.cy, "centerX": asked.cx, "radius": asked.r}
        about |= {"imageSizeY": scan.shape[2], "imageSizeX": scan.shape[3]}
        whole = asked.ri is None or np.isclose(asked.ri, 0.0)
        inside = masks.circular(**about) if whole else masks.ring(**about, radius_inner=asked.ri)
        mask = inside if scan.detector_mask is None else inside & scan.detector_mask
        return None if mask.all() else mask

    def process_tile(self, tile: Any) -> None:
        """Add the moments of a part of the detector, about the first pixel of the detector."""
        out = self.results.moments
        found = first_moments(tile, self.task_data.mask.beside(self.meta, tile))
        x, y = corner(self.meta)
        out[...] += found
        if x:
            out[:, 1] += x * found[:, 0]
        if y:
            out[:, 2] += y * found[:, 0]

    def get_results(self) -> dict[str, Any]:
        """Return LiberTEM's results from the moments, by its own functions."""
        nav, asked = tuple(self.meta.dataset_shape.nav), self.get_params()
        moments = np.asarray(self.results.get_buffer("moments").data, np.float64).reshape(*nav, 3)
        if self.meta.roi is not None:
            moments[~self.meta.roi] = np.nan  # as LiberTEM: derivatives beside the roi are not known
        reference = np.broadcast_to(self.reference(), (*nav, 2))
        counts = moments[..., 0]
        empty = (counts == 0)[..., None]
        com = np.where(empty, reference, moments[..., 1:] / np.where(empty, 1.0, counts[..., None]))
        shifts = com - reference
        field = np.stack(apply_correction(shifts[..., 0], shifts[..., 1], asked.scan_rotation, asked.flip_y), axis=-1)
        valid = self.meta.get_valid_nav_mask(full_nav=True).reshape(nav)
        regression, places = self.get_regression(field, valid_mask=valid)
        if places is not None:
            self.apply_lin_regression(regression, places, field, valid)
        elif not np.allclose(regression[0], 0):
            self.apply_mean_regression(regression, field, valid)
        fy, fx = field[..., 0], field[..., 1]
        maps = {"raw_com": com, "raw_shifts": shifts, "field": field, "field_y": fy, "field_x": fx, "counts": counts}
        maps |= self.get_field_results(field_y=fy, field_x=fx)
        roi = self.meta.roi
        chosen = {name: one.reshape(-1, *one.shape[2:]) if roi is None else one[roi] for name, one in maps.items()}
        return chosen | {"regression": regression}

    def get_field_results(self, field_y: np.ndarray, field_x: np.ndarray) -> dict[str, np.ndarray]:
        """Return LiberTEM's magnitude and derivatives. Derivatives of a scan of one row or column are NaN, where LiberTEM's own fails."""
        if min(field_y.shape) > 1:
            return CoMUDF.get_field_results(self, field_y, field_x)
        unknown = np.full(field_y.shape, np.nan)
        return {"magnitude": np.hypot(field_y, field_x), "divergence": unknown, "curl": unknown}

    def center_of_mass(self, result: Any) -> RealSlice:
        """Return the centre of mass of a result of LiberTEM as `gpu4d.CenterOfMass` gives it, for `gpu4d.dpc`.

        Parameters
        ----------
        result : mapping of result buffers
            What `Context.run_udf` returns for this UDF.

        Returns
        -------
        RealSlice
            (2, Rx, Ry) float64 with planes com_x and com_y, detector pixels, without LiberTEM's rotation and regression. NaN for
            frames without counts, and at positions outside the roi or not seen yet.
        """
        com, counts = values_of(result_of(result, "raw_com", self)), values_of(result_of(result, "counts", self))
        com[~(counts > 0)] = np.nan
        step = self.calibration().r_pixel
        return RealSlice(np.moveaxis(com, -1, 0), "com", "px", step, "Å" if step else "px", ("com_x", "com_y"))
