"""Hold the electrons found in raw frames, and turn them into lists of points and scans of events."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import DType, ReturnedArray
from gpu4d.data.arguments import two_sizes
from gpu4d.data.events import EventSource
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError

MOST_UPSAMPLE = 16  # pixels of a pixel along each axis: places are known to about a tenth of a pixel


class _Electrons(NamedTuple):
    offsets: ReturnedArray
    qx: ReturnedArray
    qy: ReturnedArray
    intensity: ReturnedArray


class Electrons(_Electrons, Storable, stored="offsets: boundary; qx qy: electron [px]; intensity: electron [e]"):
    """Electrons of a stack of frames, in the order of frames, rows and columns.

    Attributes
    ----------
    offsets : (n + 1,) int64
        The electrons of frame i are ``offsets[i]:offsets[i + 1]`` of the flat arrays.
    qx, qy : (m,) uint16, or float32
        Detector pixel of each electron (`count_electrons`), or its place to a part of a pixel (`fit_electrons`).
    intensity : (m,) float32
        Signal in electrons: of that pixel, or of the electron.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Electrons({self.qx.shape[0]} electrons in {self.offsets.shape[0] - 1} frames)"

    def points(self, scan_shape: tuple[int, ...]) -> PointListArray:
        """Return the same electrons as lists of points, one for each scan position.

        Examples
        --------
        >>> import numpy as np
        >>> frame = np.zeros((1, 5, 6), "uint16")
        >>> frame[0, 2, 3] = 7
        >>> from gpu4d.preprocess import count_electrons
        >>> count_electrons(frame, np.zeros((5, 6)), 0.5, 10.0, electron=7.0).points((1, 1))[0, 0].qx
        array([2.])
        """
        xp = arrays.namespace(self.offsets)
        fields = {name: xp.astype(getattr(self, name), xp.float64) for name in ("qx", "qy", "intensity")}
        return PointListArray(self.offsets, fields, tuple(scan_shape), {"qx": "px", "qy": "px", "intensity": "electrons"})

    def source(
        self, scan_shape: tuple[int, int], detector_shape: tuple[int, int], dtype: DType = "uint8", upsample: int = 1
    ) -> EventSource:
        """Return the same electrons as a scan kept as events, on the host: one count each, at the pixel that was struck.

        Parameters
        ----------
        scan_shape, detector_shape : (int, int)
            Of the frames, which are the positions of the scan in order.
        dtype : dtype, optional
            Of the patterns that the source gives.
        upsample : int, optional
            With 2, each pixel of the detector becomes 2 × 2, and places from `fit_electrons` choose among them. Pixel q of the
            detector covers the pixels 2 q and 2 q + 1.

        Raises
        ------
        InputError
            The frames are not as many as the positions, or an electron lies outside of the detector.

        Examples
        --------
        >>> import numpy as np
        >>> frame = np.zeros((1, 5, 6), "uint16")
        >>> frame[0, 2, 3] = 7
        >>> from gpu4d.preprocess import count_electrons
        >>> source = count_electrons(frame, np.zeros((5, 6)), 0.5, 10.0, electron=7.0).source((1, 1), (5, 6))
        >>> np.argwhere(source.read(slice(0, 1), slice(0, 1))).tolist()
        [[0, 0, 2, 3]]
        """
        pixels = event_pixels(self, two_sizes(detector_shape, "detector_shape"), upsample)
        fine = detector_shape[0] * upsample, detector_shape[1] * upsample
        return EventSource(self.offsets, pixels, scan_shape, fine, dtype=dtype)


def event_pixels(electrons: Electrons, shape: tuple[int, int], upsample: int = 1) -> np.ndarray:
    """Return the number qx · Qy + qy of the pixel that each electron struck, (m,) uint32 or uint64, on the host.

    Parameters
    ----------
    electrons : Electrons
    shape : (Qx, Qy)
        Of the frames.
    upsample : int
        Pixels in each pixel of the detector, along each axis.
    """
    if isinstance(upsample, bool) or not isinstance(upsample, int | np.integer) or not 1 <= upsample <= MOST_UPSAMPLE:
        raise InputError(f"upsample={upsample!r}: need a whole number from 1 to {MOST_UPSAMPLE}")
    qy = arrays.to_numpy(electrons.qy)
    if len(qy) and int(qy.max()) >= shape[1] + (qy.dtype.kind == "f"):
        raise InputError(f"an electron has qy = {int(qy.max())}, the detector is {shape}: need the shape of the frames")
    fine = shape[0] * int(upsample), shape[1] * int(upsample)
    x, y = (_fine_pixel(arrays.to_numpy(q), int(upsample), size) for q, size in zip((electrons.qx, electrons.qy), fine))
    return (x * fine[1] + y).astype(np.uint32 if fine[0] * fine[1] <= 1 << 32 else np.uint64)


def _fine_pixel(place: np.ndarray, upsample: int, size: int) -> np.ndarray:
    """Return the pixel of each electron, of `upsample` in each pixel of the detector. Places beyond the border go to the border."""
    if place.dtype.kind == "f":
        return np.clip(np.floor((place.astype(np.float64) + 0.5) * upsample), 0, size - 1).astype(np.int64)
    return place.astype(np.int64) * upsample + upsample // 2  # the middle, as far as there is one
