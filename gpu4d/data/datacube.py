"""Hold a scan of four dimensions, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike, DType
from gpu4d.data.arguments import FlyBackAt, origins, pixel_mask, scan_mask
from gpu4d.data.bad_pixel_correction import FoundPixels, MarkedPixels, bad_pixel_correction
from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import Choice, Cut
from gpu4d.data.corrections import Correction, Corrections
from gpu4d.data.slices import DiffractionSlice
from gpu4d.data.source import ArraySource, Shape4, Source, copied, itemsize
from gpu4d.data.storable import Storable
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


class DataCube(Storable):
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
        self.source: Source = data if not arrays.is_array(data) and isinstance(data, Source) else ArraySource(cast(Array, data))
        if not isinstance(calibration, Calibration | None):
            raise InputError(f"calibration is a {type(calibration).__name__}: need a gpu4d.Calibration")
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
            raise InputError(f"cube[{position!r}]: need at most four indices, (rx, ry, qx, qy)")
        if len(key) == 2 and all(isinstance(k, int | np.integer) for k in key):
            return self._pattern(int(key[0]), int(key[1]))
        if any(isinstance(k, int | np.integer) for k in key):
            raise InputError(f"cube[{position!r}]: need two whole numbers for one pattern, or slices for a smaller cube")
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

    def select(self, where: ArrayLike | None = None, *, every: int = 1) -> DataCube:
        """Return a lazy view of some positions: every nth along both axes of the scan, or those of a mask.

        Parameters
        ----------
        where : (Rx, Ry) bool, optional
            Positions to keep. They come in one row, (1, n), in the order of the scan, unless they fill a rectangle. To leave positions out
            and keep the shape of the scan, give `where=` to `gpu4d.sweep` instead.
        every : int
            Step along rx and ry, from the first position on.

        Returns
        -------
        DataCube
            `r_pixel` of its calibration is `every` times larger; it is not known for positions of a mask that are no rectangle. They have
            `positions` in Å instead, if `r_pixel` was known. Origins of positions follow.

        Raises
        ------
        InputError
            Both or neither are given, a mask of another shape or without a position, or a step that is no whole number from 1 on.

        Examples
        --------
        >>> import numpy as np
        >>> cube = DataCube(np.zeros((6, 7, 4, 4), "uint8"), Calibration(r_pixel=2.0))
        >>> part = cube.select(every=3)
        >>> part.scan_shape, part.calibration.r_pixel, cube.select(np.eye(6, 7) > 0).scan_shape
        ((2, 3), 6.0, (1, 6))
        """
        if isinstance(every, bool) or not (isinstance(every, int | np.integer) and every >= 1):
            raise InputError(f"select(every={every!r}): need a whole number from 1 on")
        if (where is None) == (every == 1):
            raise InputError("select takes a mask of positions or every=n: give one of them. For both, select twice")
        numbers = np.arange(self.shape[0] * self.shape[1]).reshape(self.scan_shape)
        if where is None:
            return self._chosen(Choice(numbers[::every, ::every], float(every)), f"every {every} positions")
        mask = scan_mask(where, self.scan_shape)
        assert mask is not None
        if not mask.any():
            raise InputError("select: the mask leaves no position: True marks those to keep")
        x, y = np.nonzero(mask)
        box = slice(int(x.min()), int(x.max()) + 1), slice(int(y.min()), int(y.max()) + 1)
        if mask[box].all():
            return self.crop(*box)
        part = self._chosen(Choice(numbers[mask][None], None), f"{len(x)} positions of a mask")
        if self.calibration.r_pixel is not None and part.calibration.positions is None:
            places = self.calibration.r_pixel * np.stack([x, y], -1)[None]
            part.calibration.set(positions=places, how="places of the chosen positions in the scan")
        return part

    def reshape(
        self, scan_shape: tuple[int, int], *, flyback: int = 0, flyback_at: FlyBackAt = "end", extra: tuple[int, int] = (0, 0)
    ) -> DataCube:
        """Return a lazy view of the same patterns, row by row, in a scan of another shape. Frames of the fly-back are left out.

        Parameters
        ----------
        scan_shape : (int, int)
            (Rx, Ry) of the positions that stay.
        flyback : int
            Frames in each row that were recorded while the beam went back.
        flyback_at : {"end", "start"}
            Where they are in a row. At the end, the last row may lack them.
        extra : (int, int)
            Frames before the first row, and after the last. They are left out too.

        Returns
        -------
        DataCube
            Nothing is copied: patterns in memory, or in one plain block of a file, stay where they are.

        Raises
        ------
        InputError
            The sum of all these is not the number of patterns. The error says what would fit.

        See Also
        --------
        gpu4d.preprocess.reshape : finds a shape that is not known.

        Examples
        --------
        >>> import numpy as np
        >>> frames = DataCube(np.arange(14).reshape(1, 14, 1, 1))
        >>> np.asarray(frames.reshape((3, 3), flyback=2, extra=(1, 0)))[..., 0, 0].tolist()
        [[1, 2, 3], [6, 7, 8], [11, 12, 13]]
        """
        from gpu4d.data.fly_back import frame_numbers  # importing gpu4d is cheap: few scans are reshaped

        index = frame_numbers(self.shape[0] * self.shape[1], scan_shape, flyback, flyback_at, extra)
        left_out = self.shape[0] * self.shape[1] - index.size
        what = f"as {index.shape[0]}×{index.shape[1]}" + f" without {left_out} frames" * (left_out > 0)
        return self._chosen(Choice(index, 1.0), what)

    def preview(self, every: int = 4, bin: int = 4) -> DataCube:
        """Return a small lazy view of the whole scan, for choosing settings: every nth position, and the detector binned.

        Parameters
        ----------
        every : int
            Step along both axes of the scan. A small scan is looked at whole with 1.
        bin : int
            Detector pixels that are summed along each axis.

        Returns
        -------
        DataCube
            With 4 and 4 it has 1/256 of the values. Its calibration fits it, so that settings in Å and 1/Å may be kept.

        Examples
        --------
        >>> import numpy as np
        >>> DataCube(np.zeros((64, 64, 32, 32), "uint8")).preview().shape
        (16, 16, 8, 8)
        """
        return (self if every == 1 else self.select(every=every)).bin(detector=bin)

    def _chosen(self, choice: Choice, what: str) -> DataCube:
        from gpu4d.data.chosen import chosen

        source = chosen(self.source, choice.index, what)
        return DataCube(source, self.calibration.chosen(choice), self.metadata, self.detector_mask, self.name)

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
