"""Hold a scan of four dimensions, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike, DType
from gpu4d.data.arguments import origins, pixel_mask
from gpu4d.data.bad_pixel_correction import FoundPixels, MarkedPixels, bad_pixel_correction
from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import Cut
from gpu4d.data.corrections import Correction, Corrections
from gpu4d.data.slices import DiffractionSlice
from gpu4d.data.source import ArraySource, Shape4, Source, copied, itemsize
from gpu4d.data.views import BinnedSource, CorrectedSource, corrections_of, cropped, swapped
from gpu4d.device.memory import available_memory
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.sizes import format_bytes

if TYPE_CHECKING:
    from gpu4d.data.frame_correction import Hits
    from gpu4d.data.streaks import Streaks

Metadata = Mapping[str, Any]  # what a file says of the experiment, in words and types of its own
Index = int | np.integer | slice
Range = slice | tuple[int, int]  # half-open


class DataCube:
    """A 4D-STEM scan (Rx, Ry, Qx, Qy). It is not loaded: views are lazy, and patterns are read when a sweep needs them.

    Parameters
    ----------
    data : (Rx, Ry, Qx, Qy) array or Source
        An array of any array-API library is used in place.
    calibration : Calibration, optional
    metadata : mapping, optional
        Further entries of the file about the experiment, unchanged.
    detector_mask : (Qx, Qy) bool, optional
        True where the detector counts. Beam stop, dead pixels and gaps are False. They are left out of all results.
    name : str

    Examples
    --------
    >>> import numpy as np
    >>> cube = DataCube(np.arange(2 * 3 * 4 * 4, dtype="uint16").reshape(2, 3, 4, 4))
    >>> cube.crop(qx=(0, 2)).shape, cube.bin(detector=2).shape
    ((2, 3, 2, 4), (2, 3, 2, 2))
    """

    def __init__(
        self,
        data: Array | Source,
        calibration: Calibration | None = None,
        metadata: Metadata | None = None,
        detector_mask: ArrayLike | None = None,
        name: str = "datacube",
    ):
        self.source: Source = data if isinstance(data, Source) and not arrays.is_array(data) else ArraySource(cast(Array, data))
        self.calibration = Calibration() if calibration is None else calibration
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.name = name
        self.detector_mask = None if detector_mask is None else _detector_mask(detector_mask, self.shape[2:])
        check_origin(self.calibration, self.scan_shape)

    @property
    def shape(self) -> Shape4:
        return self.source.shape

    @property
    def scan_shape(self) -> tuple[int, int]:
        return self.shape[:2]

    @property
    def detector_shape(self) -> tuple[int, int]:
        return self.shape[2:]

    @property
    def dtype(self) -> DType:
        return self.source.dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * itemsize(self.dtype)

    def __len__(self) -> int:
        """Return the number of scan rows, as for an array."""
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all patterns as a NumPy array. Raise MemoryBudgetError if they do not fit into the memory that is free."""
        free = available_memory()
        if self.nbytes > free:
            raise MemoryBudgetError("a NumPy array of all patterns", self.nbytes, free, free)
        host = arrays.to_numpy(self.load().source.read(slice(0, self.shape[0]), slice(0, self.shape[1])))
        host = host if dtype is None else host.astype(dtype, copy=False)
        return host.copy() if copy else host

    @overload
    def __getitem__(self, position: tuple[int | np.integer, int | np.integer]) -> DiffractionSlice: ...

    @overload
    def __getitem__(self, position: slice | tuple[slice, ...]) -> DataCube: ...

    def __getitem__(self, position: Index | tuple[Index, ...]) -> DiffractionSlice | DataCube:
        """Return one pattern for `cube[rx, ry]`, and a smaller cube for slices."""
        key: tuple[Any, ...] = position if isinstance(position, tuple) else (position,)
        if len(key) > 4:
            raise InputError(f"cube[{position!r}]: at most four indices, (rx, ry, qx, qy)")
        if len(key) == 2 and all(isinstance(k, int | np.integer) for k in key):
            return self._pattern(int(key[0]), int(key[1]))
        if any(isinstance(k, int | np.integer) for k in key):
            raise InputError(f"cube[{position!r}]: two whole numbers for one pattern, or slices for a smaller cube")
        return self.crop(**dict(zip(("rx", "ry", "qx", "qy"), key)))

    def _pattern(self, rx: int, ry: int) -> DiffractionSlice:
        for i, n in zip((rx, ry), self.scan_shape):
            if not -n <= i < n:
                raise IndexError(f"position ({rx}, {ry}) is outside the scan {self.scan_shape}")
        rx, ry = rx % self.shape[0], ry % self.shape[1]
        frame = copied(self.source, slice(rx, rx + 1), slice(ry, ry + 1))[0, 0, :, :]
        return DiffractionSlice.calibrated(frame, f"pattern {rx}, {ry}", "counts", self.calibration.q_pixel)

    def crop(self, rx: Range | None = None, ry: Range | None = None, qx: Range | None = None, qy: Range | None = None) -> DataCube:
        """Return a lazy view of a part of the scan and of the detector.

        Parameters
        ----------
        rx, ry, qx, qy : slice or (int, int), optional
            Half-open ranges in steps of one. None keeps the whole axis.

        Returns
        -------
        DataCube
            The view. The origin of its calibration is in cropped pixels.
        """
        given = zip((rx, ry, qx, qy), self.shape, ("rx", "ry", "qx", "qy"))
        ranges: Any = tuple(_range(cut, size, name) for cut, size, name in given)
        calibration = self.calibration.cropped(Cut(*ranges))
        mask = None if self.detector_mask is None else self.detector_mask[ranges[2], ranges[3]]
        return DataCube(cropped(self.source, ranges), calibration, self.metadata, mask, self.name)

    def bin(self, detector: int = 1, scan: int = 1) -> DataCube:
        """Return a lazy view with pixels summed in squares. A remainder at the end of an axis is left out.

        Integers stay integers, in a type wide enough for the sum. A binned pixel counts if all its pixels count.
        """
        for name, n, size in (("detector", detector, min(self.shape[2:])), ("scan", scan, min(self.shape[:2]))):
            if not (isinstance(n, int | np.integer) and 1 <= n <= size):
                raise InputError(f"bin({name}={n!r}): need a whole number from 1 to {size}")
        c = self.calibration.binned(int(detector), int(scan))
        mask = self.detector_mask
        if mask is not None:
            qx, qy = (n // detector for n in self.detector_shape)
            mask = mask[: qx * detector, : qy * detector].reshape(qx, detector, qy, detector).all(axis=(1, 3))  # type: ignore[assignment]
        return DataCube(BinnedSource(self.source, int(scan), int(detector), mask), c, self.metadata, mask, self.name)

    def swap_axes(self, *, detector: bool = False, scan: bool = False) -> DataCube:
        """Return a lazy view with the detector axes (or the scan axes) exchanged, for files written in the other order.

        Origin, ellipse, rotation and transpose of its calibration refer to the exchanged axes.
        """
        if not (detector or scan):
            return self
        c = self.calibration.swapped(detector, scan)
        mask = self.detector_mask
        source = swapped(self.source, scan, detector)
        return DataCube(source, c, self.metadata, mask.T if mask is not None and detector else mask, self.name)

    def corrected(
        self,
        *corrections: Correction,
        dark: ArrayLike | None = None,
        gain: ArrayLike | None = None,
        streaks: Streaks | ArrayLike | bool | None = None,
        bad_pixels: ArrayLike | FoundPixels | MarkedPixels | None = None,
        hits: Hits | None = None,
    ) -> DataCube:
        """Return a lazy view whose patterns are corrected each time they are read. The file stays as it is.

        A sweep moves the raw patterns to the device and corrects each chunk once there, before all reductions. Crop, bin or swap axes
        afterwards: patterns are always corrected first.

        Parameters
        ----------
        *corrections : Correction
            Applied in this order, after those that the cube has already: also what `gpu4d.preprocess.background` measured.
        dark : (Qx, Qy) or (..., Qx, Qy) real, optional
            Frames without a beam. Their mean is subtracted. With one of dark, gain, streaks and hits, patterns come out as float32.
        gain : (Qx, Qy) real, optional
            Response of every pixel, which is divided by. Pixels without a positive gain are bad.
        streaks : Streaks, bool, float or (Qx, Qy) bool, optional
            What is subtracted from the columns of every single frame. True or a radius (0.85 to 0.95): the whole mean of the pixels of
            a column at the edge of the detector. A mask: of these pixels. `Streaks` says more, for example rows.
        bad_pixels : (Qx, Qy) bool, or what `gpu4d.preprocess.find_bad_pixels` or `find_defects` gives, optional
            True marks a pixel that cannot be used. It takes the value of its nearest good pixel; pixels that the detector mask
            excludes give no values. Applied last.
        hits : Hits, optional
            Values that only X-rays and cosmic rays have, as `gpu4d.preprocess.background` measures them.

        Returns
        -------
        DataCube
            `corrections` and the description of its source say what is changed.

        Raises
        ------
        InputError
            Made for another detector, no correction, or more than nine tenths of the pixels are bad.

        Examples
        --------
        >>> import numpy as np
        >>> cube = DataCube(np.array([1, 2, 99], "uint16").reshape(1, 1, 1, 3))
        >>> clean = cube.corrected(bad_pixels=[[False, False, True]])
        >>> np.asarray(clean[0, 0]).tolist(), clean.corrections.description
        ([[1, 2, 2]], '1 bad pixel replaced')
        """
        steps = list(corrections)
        for step in steps:
            if isinstance(step, type) or not isinstance(step, Correction):
                kind = f"the class {step.__name__}" if isinstance(step, type) else type(step).__name__
                raise InputError(f"{kind} is no correction: give bad_pixels=mask for a mask, or an object with the methods of Correction")
        if any(part is not None and part is not False for part in (dark, gain, streaks, hits)):
            from gpu4d.data.frame_correction import frame_correction

            shape, valid = self.detector_shape, self.detector_mask
            steps.append(frame_correction(shape, valid, dark=dark, gain=gain, streaks=streaks, hits=hits, bad_pixels=bad_pixels))
        elif bad_pixels is not None:
            steps.append(bad_pixel_correction(bad_pixels, self.detector_shape, self.detector_mask))
        if not steps:
            return self
        source = CorrectedSource(self.source, Corrections(tuple(steps)))
        return DataCube(source, self.calibration.copy(), self.metadata, self.detector_mask, self.name)

    @property
    def corrections(self) -> Corrections:
        """What is changed in the patterns as they are read, in this order. Views that lie between two corrections are not shown."""
        return corrections_of(self.source)

    def load(self) -> DataCube:
        """Return the same cube with its data in memory, whatever happens to its file afterwards. An array in memory is not copied.

        Raise MemoryError if the operating system refuses the memory.
        """
        rx, ry = self.scan_shape
        patterns = copied(self.source, slice(0, rx), slice(0, ry))
        return DataCube(patterns, self.calibration.copy(), self.metadata, self.detector_mask, self.name)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.shape))
        return (
            f"DataCube({self.name!r}, {shape} {self.dtype}, {format_bytes(self.nbytes)}, {self.source.description}; {self.calibration!r})"
        )


def _range(given: Any, size: int, name: str) -> slice:
    if given is None:
        return slice(0, size)
    wrong = InputError(f"{name}={given!r}: need a range (start, stop) inside 0 … {size} with at least one element and step 1")
    try:
        cut = given if isinstance(given, slice) else slice(*given)
        start, stop, step = cut.indices(size)
    except TypeError:
        raise wrong from None
    outside = any(edge is not None and not -size <= edge <= size for edge in (cut.start, cut.stop))
    if step != 1 or stop <= start or outside:
        raise wrong
    return slice(start, stop)


def _detector_mask(mask: Any, shape: tuple[int, int]) -> np.ndarray:
    host = pixel_mask(mask, shape)
    assert host is not None
    if not host.any():
        raise InputError("detector_mask leaves no pixel: True marks pixels that count")
    return host


def check_origin(calibration: Calibration, scan_shape: tuple[int, int]) -> None:
    """Raise an error if the map of origins, or the positions, in a calibration are for another scan shape."""
    if calibration.origin is not None:
        origins(calibration.origin, scan_shape, "calibration.origin")
    if calibration.positions is not None and calibration.positions.shape[:2] != scan_shape:
        raise InputError(f"calibration.positions has shape {calibration.positions.shape}: need {(*scan_shape, 2)}, in Å")
