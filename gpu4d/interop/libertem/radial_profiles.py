"""UDF: sums and means over rings about the origin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike
from gpu4d.data.calibration import Calibration
from gpu4d.interop.libertem._shared import UDF, Cut, NativeFrames, detector_shape, origins_in_tile, result_of, values_of
from gpu4d.rings.polar_transform import radial_grid, radial_sums, radii
from gpu4d.rings.profiles import RadialProfile


class RadialProfileUDF(NativeFrames, UDF):
    """LiberTEM UDF: intensity by distance from the origin, as `gpu4d.RadialProfile`.

    Parameters
    ----------
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels, one for each position if it moves. By default the calibrated origin.
    calibration : Calibration, optional
        Its origin and ellipse are followed unless they are given.
    n_r, r_max, ellipse : int, float, (a, b, theta), optional
        As in `gpu4d.radial_profile`.
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Notes
    -----
    Result buffers: `sums` and `pixels`, nav, (n_r,), what the pixels of each ring add up to (int64, exact, for integers of up to 32
    bits) and how many count; `mean`, nav, (n_r,) float64, NaN where a ring has no pixel; `radii`, (n_r,), the middle of each ring,
    pixels.

    Examples
    --------
    >>> udf = RadialProfileUDF((63.5, 63.5), r_max=60)  # doctest: +SKIP
    >>> ctx.run_udf(dataset=dataset, udf=udf)["mean"].data.shape  # doctest: +SKIP
    (128, 128, 60)
    """

    def __init__(
        self,
        origin: OriginLike | None = None,
        calibration: Calibration | None = None,
        *,
        n_r: int | None = None,
        r_max: float | None = None,
        ellipse: tuple[float, float, float] | None = None,
        detector_mask: ArrayLike | None = None,
    ):
        grid = {"n_r": n_r, "r_max": r_max, "ellipse": ellipse}
        super().__init__(origin=origin, calibration=calibration, detector_mask=detector_mask, **grid)
        self.reduction(), self.calibration()  # refuse what they cannot take

    def reduction(self) -> RadialProfile:
        """Return the reduction with this grid."""
        p = self.params
        return RadialProfile(p.origin, n_r=p.n_r, r_max=p.r_max, ellipse=p.ellipse)

    def prepared(self) -> RadialProfile:
        """Return the reduction with its grid and origins for this dataset."""
        plan = self.reduction()
        plan.prepare(self.scan_info())
        return plan

    def rings(self) -> tuple[int, float]:
        """Return the number of rings and their outer radius, pixels."""
        return radial_grid(detector_shape(self.meta), self.params.n_r, self.params.r_max)

    def get_result_buffers(self) -> dict[str, Any]:
        n_r, _ = self.rings()
        exact = np.int64 if arrays.sums_are_exact(self.scan_info().dtype) else np.float64
        ring = {"kind": "nav", "extra_shape": (n_r,)}
        return {
            "sums": self.buffer(**ring, dtype=exact, where="device"),
            "pixels": self.buffer(**ring, dtype=np.int64, where="device"),
            "mean": self.buffer(**ring, dtype=np.float64, use="result_only"),
            "radii": self.buffer(kind="single", extra_shape=(n_r,), dtype=np.float64, use="result_only"),
        }

    def get_task_data(self) -> dict[str, Any]:
        plan = self.prepared()
        return {"places": plan.places, "valid": Cut(plan.valid), "ellipse": plan.grid["ellipse"], "rings": self.rings()}

    def process_tile(self, tile: Any) -> None:
        """Add the rings of a part of the detector."""
        task, (n_r, r_max) = self.task_data, self.task_data.rings
        centres = origins_in_tile(task.places, self.positions(), self.meta, tile)
        mask = task.valid.beside(self.meta, tile)
        sums, pixels = radial_sums(tile, centres, n_r=n_r, r_max=r_max, ellipse=task.ellipse, mask=mask)
        self.results.sums[...] += sums
        self.results.pixels[...] += pixels

    def get_results(self) -> dict[str, Any]:
        sums, pixels = (np.asarray(getattr(self.results, name)) for name in ("sums", "pixels"))
        mean = np.full(sums.shape, math.nan)
        np.divide(sums, pixels, out=mean, where=pixels > 0)
        return {"mean": mean, "radii": radii(*self.rings())}

    def profiles(self, result: Any) -> np.ndarray:
        """Return the means of a result of LiberTEM, (Rx, Ry, n_r) float64. NaN outside the roi, where not seen yet, and in empty rings.

        Parameters
        ----------
        result : mapping of result buffers
            What `Context.run_udf` returns for this UDF.
        """
        return values_of(result_of(result, "mean", self))
