"""UDF: Bragg disks of every frame."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.bragg.disk_lists import HELD, UNITS
from gpu4d.bragg.disk_search import SearchOptions
from gpu4d.bragg.find_bragg_disks import BraggDisks
from gpu4d.bragg.hybrid_correlation import check_patterns
from gpu4d.data import PointListArray
from gpu4d.interop.libertem._shared import UDF, NativeFrames, result_of
from gpu4d.probe.template_kernel import TemplateLike

BATCH_BYTES = 2 << 20  # of frames searched at a time: some threads have work, and the frames stay in the cache
SMALLEST_BATCH = 32  # frames


class BraggDisksUDF(NativeFrames, UDF):
    """LiberTEM UDF: Bragg disks of every frame, as `gpu4d.find_bragg_disks`.

    A search needs whole frames, so LiberTEM gives them one by one. They are searched some at a time.

    Parameters
    ----------
    template : Template, (Qx, Qy) array or BraggDisks
        A template or a vacuum probe. A `gpu4d.BraggDisks` that has chosen its number of fit parameters (`choose`) is taken as it is.
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts.
    **options
        Of `gpu4d.find_bragg_disks`: power, refine, min_significance, min_spacing, edge, max_peaks, parameters, … With
        parameters="auto" the likelihood has 6, because no scan is examined beforehand.

    Notes
    -----
    Result buffers: `qx`, `qy`, `intensity`, `sx`, `sy`, nav, (max_peaks,), NaN after the last disk, and `count`, nav. `disks` makes a
    `PointListArray` of them.

    Examples
    --------
    >>> udf = BraggDisksUDF(probe, max_peaks=60)  # doctest: +SKIP
    >>> udf.disks(ctx.run_udf(dataset=dataset, udf=udf))  # doctest: +SKIP
    PointListArray(128×128, 412 345 points: qx, qy, intensity, sx, sy)
    """

    def __init__(self, template: TemplateLike | BraggDisks, *, detector_mask: ArrayLike | None = None, **options: Unpack[SearchOptions]):
        finder = template if isinstance(template, BraggDisks) else BraggDisks(template, **options)
        super().__init__(template=finder, calibration=None, detector_mask=detector_mask)

    def get_result_buffers(self) -> dict[str, Any]:
        many = (self.params.template.limits.max_peaks,)
        fields = {name: self.buffer(kind="nav", extra_shape=many, dtype=kind, where="device") for name, kind in HELD.items()}
        return fields | {"count": self.buffer(kind="nav", dtype=np.int64, where="device")}

    def get_task_data(self) -> dict[str, Any]:
        scan, finder = self.scan_info(), self.params.template
        check_patterns(np.empty((0, *scan.shape[2:])), finder.template, finder.how.power)
        bytes_of_one = scan.shape[2] * scan.shape[3] * np.dtype(scan.dtype).itemsize
        return {
            "search": finder.prepare(scan.dtype, scan.detector_mask),
            "first": self.meta.slice.origin[0],  # of the partition, among the frames of the roi
            "waiting": _Waiting(max(SMALLEST_BATCH, BATCH_BYTES // max(1, bytes_of_one))),
        }

    def process_frame(self, frame: Any) -> None:
        """Keep a frame, and search those kept when they are enough."""
        waiting = self.task_data.waiting
        waiting.put(self.meta.slice.origin[0] - self.task_data.first, frame)
        if waiting.full:
            self._search()

    def postprocess(self) -> None:
        """Search the last frames of a partition."""
        self._search()

    def _search(self) -> None:
        numbers, frames = self.task_data.waiting.take()
        if frames is None:
            return
        several = self.meta.threads_per_worker is None or self.meta.threads_per_worker > 1
        search = self.task_data.search
        found = search.in_threads(frames) if several else search(frames)
        for name in (*HELD, "count"):
            self.results.get_buffer(name).raw_data[numbers] = getattr(found, name)

    def disks(self, result: Any) -> PointListArray:
        """Return the disks of a result of LiberTEM. Positions outside the roi or not seen yet have none.

        Parameters
        ----------
        result : mapping of result buffers
            What `Context.run_udf` returns for this UDF.

        Returns
        -------
        PointListArray
            (Rx, Ry) with fields qx, qy, intensity, sx, sy, as `gpu4d.find_bragg_disks` returns it.
        """
        count = result_of(result, "count", self)
        found = np.where(np.asarray(count.valid_mask), np.asarray(count.data), 0)
        scan = found.shape if found.ndim == 2 else (1, found.size)
        fields = {name: np.asarray(result[name].data).reshape(found.size, -1) for name in HELD}
        return PointListArray.from_padded(found.reshape(-1), fields, scan, UNITS)


class _Waiting:
    """Copies of frames that wait for their search. LiberTEM's memory of a frame changes as soon as the frame is processed."""

    def __init__(self, most: int):
        self.most, self.numbers = most, list[int]()
        self.frames: Any = None

    @property
    def full(self) -> bool:
        return len(self.numbers) == self.most

    def put(self, number: int, frame: Any) -> None:
        """Keep frame `number` of the partition."""
        if self.frames is None:
            xp = arrays.namespace(frame)
            self.frames = xp.empty((self.most, *frame.shape), dtype=frame.dtype, device=arrays.device(frame))
        self.frames[len(self.numbers)] = frame
        self.numbers.append(number)

    def take(self) -> tuple[list[int], Any]:
        """Return numbers and frames, and begin anew. None if there are no frames."""
        numbers, self.numbers = self.numbers, []
        return numbers, self.frames[: len(numbers)] if numbers else None
