"""What all UDFs of gpu4d share: LiberTEM's classes, where a tile lies, and how results become maps of the scan.

LiberTEM is imported here and nowhere else. Where it is missing this module still imports, and making a UDF says what to install.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.arguments import pixel_mask
from gpu4d.data.calibration import Calibration
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.streaming import ScanInfo

try:
    from libertem import masks
    from libertem.udf.base import UDF
    from libertem.udf.com import CoMParams, CoMUDF, apply_correction
except ImportError:

    class UDF:  # type: ignore[no-redef]
        """Stands for LiberTEM's UDF where LiberTEM is not installed."""

        def __init__(self, *_: Any, **__: Any):
            raise InputError("the UDFs of gpu4d.interop.libertem run in LiberTEM, which is not installed: pip install libertem")

        @classmethod
        def with_params(cls, **_: Any) -> Any:
            """Say the same where a UDF is made in this way."""
            return cls()

    CoMUDF, CoMParams, apply_correction, masks = UDF, UDF, None, None  # type: ignore[misc, assignment]


class NativeFrames:
    """Part of a UDF that takes frames in the dtype of the dataset, as NumPy or CuPy arrays."""

    meta: Any
    params: Any
    results: Any
    task_data: Any
    buffer: Any

    def get_backends(self) -> tuple[str, ...]:
        """Return the kinds of arrays it takes: NumPy, and CuPy on workers with a GPU."""
        return UDF.BACKEND_NUMPY, UDF.BACKEND_CUPY

    def get_preferred_input_dtype(self) -> Any:
        """Return LiberTEM's mark for the native dtype, so that counts stay integers."""
        return UDF.USE_NATIVE_DTYPE

    def scan_info(self) -> ScanInfo:
        """Return what our reductions need to know of the dataset. A scan that has not two axes counts as one row."""
        return ScanInfo(
            shape=(*scan_shape(self.meta), *detector_shape(self.meta)),
            dtype=real_dtype(self.meta),
            calibration=self.calibration(),
            detector_mask=pixel_mask(self.params.detector_mask, detector_shape(self.meta)),
        )

    def calibration(self) -> Calibration:
        """Return the calibration that was given, or an empty one. An error if something else was given."""
        given = self.params.calibration
        if given is not None and not isinstance(given, Calibration):
            raise InputError(f"calibration is a {type(given).__name__}: need a gpu4d.Calibration")
        return Calibration() if given is None else given

    def positions(self) -> np.ndarray:
        """Return the positions (n, 2) int64 of the frames of the present tile, partition or frame."""
        at = np.asarray(self.meta.coordinates, np.int64)
        nav = tuple(self.meta.dataset_shape.nav)
        if len(nav) == 2:
            return at
        flat = np.ravel_multi_index(tuple(at.T), nav)
        return np.stack([np.zeros_like(flat), flat], axis=-1)


def scan_shape(meta: Any) -> tuple[int, int]:
    """Return (Rx, Ry) of a dataset: its navigation axes if they are two, else (1, n)."""
    nav = tuple(meta.dataset_shape.nav)
    return (int(nav[0]), int(nav[1])) if len(nav) == 2 else (1, math.prod(nav))


def detector_shape(meta: Any) -> tuple[int, int]:
    """Return (Qx, Qy) of a dataset. An error if its frames have not two axes."""
    sig = tuple(meta.dataset_shape.sig)
    if len(sig) != 2:
        raise InputError(f"frames of the dataset have {len(sig)} axes {sig}: need two, (Qx, Qy)")
    return int(sig[0]), int(sig[1])


def real_dtype(meta: Any) -> np.dtype:
    """Return the dtype in which frames arrive. An error if they are complex."""
    dtype = np.dtype(meta.input_dtype)
    if dtype.kind not in "biuf":
        raise InputError(f"frames of the dataset are {dtype}: need integers or real numbers")
    return dtype


def corner(meta: Any) -> tuple[int, int]:
    """Return the detector pixel at which the present tile begins."""
    first, second = meta.sig_slice.origin
    return int(first), int(second)


class Cut:
    """An array of the detector (…, Qx, Qy), cut to the pixels of the present tile.

    Tiles of a run lie in few places of the detector, so each part is made once. None stays None.
    """

    def __init__(self, whole: np.ndarray | None):
        self.whole, self.parts = whole, dict[int, np.ndarray]()

    def beside(self, meta: Any, tile: Any) -> Any:
        """Return the part for a tile, in its library and on its device."""
        if self.whole is None:
            return None
        key = meta.tiling_scheme_idx
        if key not in self.parts:
            (x, y), (nx, ny) = corner(meta), tuple(meta.sig_slice.shape)
            self.parts[key] = np.ascontiguousarray(self.whole[..., x : x + nx, y : y + ny])
        return tables.beside(self.parts[key], tile)


def origins_in_tile(calibration: Calibration, positions: np.ndarray, meta: Any, tile: Any) -> Any:
    """Return the origin (n, 2) of each frame of a tile, counted from the tile's first pixel, beside the tile."""
    known = calibration.origin_at(positions)
    assert known is not None, "prepared reductions that follow the origin know it"
    return arrays.from_numpy(known - np.array(corner(meta), np.float64), tile)


def result_of(result: Any, name: str, udf: Any) -> Any:
    """Return a buffer of a result of LiberTEM. An error if the result is not one of this UDF."""
    try:
        return result[name]
    except (KeyError, TypeError, IndexError):
        made = f"what Context.run_udf returns for it{', one for each UDF of a list' * isinstance(result, list | tuple)}"
        raise InputError(f"the result has no buffer {name!r} of {type(udf).__name__}: need {made}") from None


def values_of(buffer: Any) -> np.ndarray:
    """Return a result buffer for every position, (Rx, Ry, …) float64. NaN at positions outside the roi or not seen yet.

    Of a delayed executor it holds a Dask array, which is computed here.
    """
    values = np.array(np.asarray(buffer.data), dtype=np.float64)
    values[~np.asarray(buffer.valid_mask)] = np.nan
    extra = tuple(buffer.extra_shape)
    nav = values.shape[: values.ndim - len(extra)]
    return values if len(nav) == 2 else values.reshape(1, math.prod(nav), *extra)
