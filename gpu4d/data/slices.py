"""Hold two-dimensional results as arrays with a name, units and a pixel size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, cast

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, DType, Index, ReturnedArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array


class Slice(np.lib.mixins.NDArrayOperatorsMixin, Storable):
    """Array with a name, units and a pixel size. `np.asarray(s)`, arithmetic and indexing give plain arrays.

    Parameters
    ----------
    data : (..., nx, ny) array
        An array of any library. It is not copied.
    name : str
    units : str
        Units of the values ("counts", "rad", "1").
    pixel_size : float
        Size of one pixel in `pixel_units`.
    pixel_units : str
        "Å" or "px" in real space, "1/Å" or "px" in reciprocal space.
    labels : tuple of str
        Names of the planes if `data` is a stack (planes, nx, ny).
    """

    CALIBRATED = "px"  # units of a pixel whose size is known

    def __init__(
        self,
        data: Array,
        name: str = "",
        units: str = "",
        pixel_size: float | None = None,
        pixel_units: str = "px",
        labels: tuple[str, ...] = (),
    ):
        plain = arrays.unwrapped(data)  # values may be complex, as a transmission is
        real = not arrays.is_array(plain) or not arrays.is_complex(plain)
        self.data = cast(ReturnedArray, real_array(data, "data", "an array of numbers") if real else plain)
        self.name = name
        self.units = units
        self.pixel_size = 1.0 if pixel_size is None else float(pixel_size)
        self.pixel_units = pixel_units
        self.labels = tuple(labels)

    @classmethod
    def calibrated(cls, data: Array, name: str, units: str, pixel: float | None, labels: tuple[str, ...] = (), upsample: int = 1) -> Self:
        """Make a slice with the calibrated pixel size if it is known, else with pixels as units.

        Parameters
        ----------
        data, name, units, labels
            As for the class.
        pixel : float or None
            `Calibration.r_pixel` (Å) for slices over the scan, `Calibration.q_pixel` (1/Å) for slices on the detector. None if it is
            not known.
        upsample : int
            Pixels of `data` along one scan step or one detector pixel.
        """
        return cls(data, name, units, (pixel or 1.0) / upsample, cls.CALIBRATED if pixel else "px", labels)

    def of_same_grid(self, data: Array, name: str = "", units: str = "") -> Self:
        """Return a slice of other values with the same pixel size."""
        return type(self)(data, name, units, self.pixel_size, self.pixel_units)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> DType:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return len(self.data.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        host = arrays.to_numpy(self.data)
        if dtype is not None:
            host = host.astype(dtype, copy=False)
        return host.copy() if copy else host

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        def plain(x: Any) -> Any:
            return tuple(map(plain, x)) if isinstance(x, tuple) else x.data if isinstance(x, Slice) else x

        return getattr(ufunc, method)(*map(plain, inputs), **{name: plain(x) for name, x in options.items()})

    def to_host(self) -> Self:
        """Return the same slice with its values in a NumPy array."""
        if isinstance(self.data, np.ndarray):
            return self
        return type(self)(arrays.to_numpy(self.data), self.name, self.units, self.pixel_size, self.pixel_units, self.labels)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[ReturnedArray]:
        return iter(self.data)

    def __getitem__(self, key: Index) -> ReturnedArray:
        if isinstance(key, str):
            if key not in self.labels:
                raise InputError(f"no plane {key!r}; there are {', '.join(self.labels) or 'none with a name'}")
            return self.data[self.labels.index(key)]
        return self.data[key]

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.shape))
        size = f", {self.pixel_size:.4g} {self.pixel_units}/px" if self.pixel_units != "px" else ""
        labels = f", planes {', '.join(self.labels)}" if self.labels else ""
        return f"{type(self).__name__}({self.name!r}, {shape} {self.dtype}, units {self.units or '1'!r}{size}{labels})"

    def range_text(self) -> str:
        """Return the range of the finite values with units, for one line of text.

        Examples
        --------
        >>> import numpy as np
        >>> RealSlice(np.array([[-0.5, 2.0], [np.nan, 1.0]]), units="rad").range_text()
        '-0.5 … 2 rad'
        """
        values = arrays.to_numpy(self.data)
        values = values[np.isfinite(values)]
        span = f"{values.min():.3g} … {values.max():.3g}" if values.size else "NaN everywhere"
        return f"{span} {self.units}".rstrip()


class RealSlice(Slice):
    """Result over scan positions, (Rx, Ry) or a stack (n, Rx, Ry): a virtual image, a strain component, a phase.

    Examples
    --------
    >>> import numpy as np
    >>> bf = RealSlice(np.arange(6.0).reshape(2, 3), "bf", "counts", pixel_size=5.0, pixel_units="Å")
    >>> bf
    RealSlice('bf', 2×3 float64, units 'counts', 5 Å/px)
    >>> np.asarray(bf / 5)[1, 2].item(), (bf - bf).sum().item()
    (1.0, 0.0)
    """

    CALIBRATED = "Å"


class DiffractionSlice(Slice):
    """Result over detector pixels, (Qx, Qy) or a stack: a pattern, a mean, a vacuum probe, a Bragg vector map.

    Examples
    --------
    >>> import numpy as np
    >>> both = DiffractionSlice(np.eye(2)[None] * [[[1]], [[3]]], "patterns", "counts", labels=("mean", "max"))
    >>> both["max"].tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """

    CALIBRATED = "1/Å"
