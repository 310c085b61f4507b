"""UDF: counts under virtual detectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike
from gpu4d.data.calibration import Calibration
from gpu4d.data.slices import RealSlice
from gpu4d.imaging.image import Detectors, VirtualImage
from gpu4d.imaging.masked_sums import annular_sums, masked_sums
from gpu4d.interop.libertem._shared import UDF, Cut, NativeFrames, corner, origins_in_tile, result_of, values_of


class VirtualImageUDF(NativeFrames, UDF):
    """LiberTEM UDF: counts under one or several virtual detectors, in one pass.

    Parameters
    ----------
    detector : Detector, (Qx, Qy) array, or a mapping or sequence of them
        As for `gpu4d.VirtualImage`.
    calibration : Calibration, optional
        Its origin and ellipse are followed unless they are given.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre of the geometries, detector pixels; one for each position if it moves. By default the calibrated origin, else the middle
        of the detector.
    ellipse : (a, b, theta), optional
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Notes
    -----
    Result buffer `intensity`, nav, (n,): the counts under each detector. int64, exact, for integer frames and masks of bools, else
    float64. `images` makes a `RealSlice` of it.

    Examples
    --------
    >>> udf = VirtualImageUDF({"bf": gpu4d.detectors.disk(12), "adf": gpu4d.detectors.annulus(20, 40)})  # doctest: +SKIP
    >>> udf.images(ctx.run_udf(dataset=dataset, udf=udf))["adf"].shape  # doctest: +SKIP
    (128, 128)
    """

    def __init__(
        self,
        detector: Detectors,
        calibration: Calibration | None = None,
        *,
        origin: OriginLike | None = None,
        ellipse: tuple[float, float, float] | None = None,
        detector_mask: ArrayLike | None = None,
    ):
        super().__init__(detector=detector, calibration=calibration, origin=origin, ellipse=ellipse, detector_mask=detector_mask)
        self.reduction(), self.calibration()  # refuse what they cannot take

    def reduction(self) -> VirtualImage:
        """Return the reduction with these detectors."""
        return VirtualImage(self.params.detector, self.params.origin, self.params.ellipse)

    def prepared(self) -> VirtualImage:
        """Return the reduction with its masks made for this dataset."""
        plan = self.reduction()
        plan.prepare(self.scan_info())
        return plan

    def get_result_buffers(self) -> dict[str, Any]:
        plan = self.prepared()
        exact = arrays.sums_are_exact(plan.scan.dtype) and not plan.following and all(stack.dtype == bool for _, stack in plan.stacks)
        dtype = np.int64 if exact else np.float64
        return {"intensity": self.buffer(kind="nav", extra_shape=(plan.planes,), dtype=dtype, where="device")}

    def get_task_data(self) -> dict[str, Any]:
        plan = self.prepared()
        return {"plan": plan, "stacks": [(members, Cut(stack)) for members, stack in plan.stacks], "valid": Cut(plan.valid)}

    def process_tile(self, tile: Any) -> None:
        """Add the counts of a part of the detector. Tiles of other parts add theirs."""
        plan, out = self.task_data.plan, self.results.intensity
        for members, stack in self.task_data.stacks:
            _add(out, members, masked_sums(tile, stack.beside(self.meta, tile)))
        if not plan.following:
            return
        positions = self.positions()
        if plan.round:
            centres, radii = origins_in_tile(plan.places, positions, self.meta, tile), arrays.from_numpy(plan.radii, tile)
            _add(out, plan.round, annular_sums(tile, centres, radii, mask=self.task_data.valid.beside(self.meta, tile)))
        shapes = [i for i in plan.following if i not in plan.round]
        if shapes:
            _add(out, shapes, self._under_moving_shapes(tile, positions, shapes))

    def _under_moving_shapes(self, tile: Any, positions: np.ndarray, members: list[int]) -> Any:
        """Return counts (n, m) under detectors that need a mask for each frame."""
        plan, (x, y) = self.task_data.plan, corner(self.meta)
        nx, ny = tile.shape[-2:]
        rows = []
        for frame, origin in enumerate(plan.places.origin_at(positions)):
            if np.isfinite(origin).all():
                masks = np.stack([plan.moved_mask(i, origin)[x : x + nx, y : y + ny] for i in members]).astype(np.float64)
                rows.append(masked_sums(tile[frame : frame + 1, ...], arrays.from_numpy(masks, tile)))
            else:
                rows.append(arrays.from_numpy(np.full((1, len(members)), np.nan), tile))
        return arrays.namespace(tile).concat(rows)

    def images(self, result: Any) -> RealSlice:
        """Return the images of a result of LiberTEM, (Rx, Ry), or (n, Rx, Ry) with the names of the detectors as labels.

        Parameters
        ----------
        result : mapping of result buffers
            What `Context.run_udf` returns for this UDF, or one of the parts that `run_udf_iter` yields.

        Returns
        -------
        RealSlice
            float64, counts; NaN at positions outside the roi or not seen yet.
        """
        planes = np.moveaxis(values_of(result_of(result, "intensity", self)), -1, 0)
        given = self.reduction()
        step = self.calibration().r_pixel
        return RealSlice.calibrated(
            planes if given.stack else planes[0], "virtual image", "counts", step, given.labels if given.stack else ()
        )


def _add(out: Any, members: list[int], sums: Any) -> None:
    """Add sums (n, m) to the columns of these detectors."""
    if len(members) == out.shape[-1]:  # all of them, in their order
        out[...] += sums
    else:
        out[:, members] += sums
