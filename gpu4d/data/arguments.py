"""Check arguments that many public calls take: arrays of numbers, masks of positions or pixels, an image, an origin, lists of disks.

They are checked only here. So every call accepts the same values, and refuses others with the same message.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array

LARGEST = 1e100  # squares of larger values overflow; like NaN they are no measurement
FARTHEST = 1e9  # pixels: no detector is so large, and squares of such distances keep their digits in float64


@runtime_checkable
class MeasuredOrigin(Protocol):
    """What `gpu4d.calibrate.origin` gives: origins of all positions, (Rx, Ry, 2)."""

    @property
    def fitted(self) -> np.ndarray:
        """Detector pixels."""


FlyBackAt = Literal["end", "start"]  # where in a row the frames of the fly-back are
OriginLike = ArrayLike | MeasuredOrigin  # a pair for all positions, a map of them, or what was measured


def scan_mask(given: ArrayLike | None, shape: tuple[int, ...], name: str = "where") -> np.ndarray | None:
    """Return a mask of scan positions as a bool array on the host, or None for all positions.

    Parameters
    ----------
    given : bool array or None
        An array in the shape of the scan, of any array library. Numbers count where they are not zero.
    shape : tuple of int
        Shape of the scan.
    name : str
        Name of the argument, for errors.

    Raises
    ------
    InputError
        Another shape, NaN, or values that are not numbers.

    Examples
    --------
    >>> scan_mask([[0, 1, 0]], (1, 3)).tolist()
    [[False, True, False]]
    """
    if given is None:
        return None
    return _bools(given, shape, name, "scan", "scan position")


def positions_of(given: ArrayLike | None, shape: tuple[int, ...], name: str = "where") -> np.ndarray:
    """Return a mask of scan positions as `scan_mask` does, and an array of True for None.

    Examples
    --------
    >>> positions_of(None, (1, 2)).tolist()
    [[True, True]]
    """
    mask = scan_mask(given, shape, name)
    return np.ones(shape, bool) if mask is None else mask


def pixel_mask(given: ArrayLike | None, shape: tuple[int, ...], name: str = "detector_mask") -> np.ndarray | None:
    """Return a mask of detector pixels as a bool array on the host, or None for all pixels.

    Parameters
    ----------
    given : bool array or None
        In the shape of the detector, of any array library. Numbers count where they are not zero.
    shape : tuple of int
        Of the detector.
    name : str
        Of the argument, for errors.

    Raises
    ------
    InputError
        Another shape, NaN, or values that are not numbers.

    Examples
    --------
    >>> pixel_mask([[1, 0]], (1, 2)).tolist()
    [[True, False]]
    """
    if given is None:
        return None
    return _bools(given, shape, name, "detector", "detector pixel")


def _bools(given: ArrayLike, shape: tuple[int, ...], name: str, whole: str, each: str) -> np.ndarray:
    """Return a mask on the host, or say what is wrong with it: `whole` is what it covers, `each` what a value of it is for."""
    need = f"need one bool per {each}"
    host = real_values(given, name, need[5:])
    if host.shape != tuple(shape):
        raise InputError(f"{name} is {host.shape}, the {whole} is {tuple(shape)}: {need}")
    if host.dtype.kind == "f" and np.isnan(host).any():
        raise InputError(f"{name} holds NaN: {need}, for example np.nan_to_num({name}) > 0")
    return host.astype(bool)


def host_image(given: ArrayLike, name: str = "image") -> np.ndarray:
    """Return one image (Qx, Qy) on the host, from a slice or an array of any library.

    Raises
    ------
    InputError
        The image does not have two axes, or its values are not real numbers.

    Examples
    --------
    >>> host_image([[1, 2]]).shape
    (1, 2)
    """
    host = real_values(given, name, "one image (Qx, Qy) of real numbers")
    if host.ndim != 2 or 0 in host.shape:
        raise InputError(f"{name} has shape {host.shape}, need one image (Qx, Qy)")
    return host


def measured_pixels(image: np.ndarray, mask: ArrayLike | None = None) -> np.ndarray:
    """Return (Qx, Qy) bool: True where a float image has a measurement, and where the mask is True.

    Examples
    --------
    >>> measured_pixels(np.array([[1.0, np.nan, 1e300]])).tolist()
    [[True, False, False]]
    """
    good = np.abs(image) < LARGEST
    valid = pixel_mask(mask, image.shape, "mask")
    return good if valid is None else good & valid


def real_values(given: Any, name: str, need: str = "an array of real numbers") -> np.ndarray:
    """Return an array of real numbers on the host, in its own dtype, from an array of any library, a slice or a list.

    Parameters
    ----------
    given : array or nested sequence
        As `gpu4d.real_arrays.real_array` takes it.
    name : str
        Name of the argument, for errors.
    need : str
        What is accepted, for errors.

    Raises
    ------
    InputError
        The values are no real numbers, or the mask of a masked array would be lost.

    Examples
    --------
    >>> real_values([[1, 2]], "weights").shape
    (1, 2)
    """
    return arrays.to_numpy(real_array(given, name, need))


def complex_values(given: Any, name: str, need: str = "an array of complex numbers") -> np.ndarray:
    """Return an array of finite real or complex numbers on the host as complex128, from an array of any library or a list.

    Parameters
    ----------
    given, name, need
        As in `real_values`.

    Raises
    ------
    InputError
        The values are no numbers, the mask of a masked array would be lost, or a value is NaN or infinite.

    Examples
    --------
    >>> complex_values([[1, 2]], "wave").dtype.name
    'complex128'
    """
    plain = arrays.without_mask(arrays.unwrapped(given), name)
    is_complex = arrays.is_array(plain) and arrays.is_complex(plain)
    host = arrays.to_numpy(plain) if is_complex else real_values(given, name, need)
    out = host.astype(np.complex128)
    wrong = int((~(np.abs(out) < LARGEST)).sum())
    if wrong:
        raise InputError(f"{name} has {wrong} NaN or infinite values: set them to 0")
    return out


def disk_lists(given: Any, name: str = "disks") -> PointListArray:
    """Return lists of Bragg disks unchanged, with the fields qx, qy and intensity. Refuse anything else.

    Raises
    ------
    InputError
        It is no PointListArray, or has not these fields.

    Examples
    --------
    >>> disk_lists(PointListArray([0, 1], {"qx": [1.0], "qy": [2.0], "intensity": [9.0]}, (1, 1)))
    PointListArray(1×1 positions, 1 points: qx, qy, intensity)
    """
    if not isinstance(given, PointListArray):
        raise InputError(f"{name} is a {type(given).__name__}: need the PointListArray that find_bragg_disks gives")
    if missing := {"qx", "qy", "intensity"} - set(given.fields):
        raise InputError(f"{name} has the fields {', '.join(given.fields)}: {', '.join(sorted(missing))} are missing")
    return given


def whole_numbers(given: Any, count: int, name: str) -> tuple[int, ...]:
    """Return a shape or a position as whole numbers, from a sequence or an array. Nothing is rounded.

    Parameters
    ----------
    given : sequence of int
        Floats are taken if they are whole.
    count : int
        How many numbers there must be.
    name : str
        Name of the argument, for errors.

    Raises
    ------
    InputError
        Other numbers, or another count.

    Examples
    --------
    >>> whole_numbers((4, 6.0), 2, "scan_shape")
    (4, 6)
    """
    unwrapped = arrays.unwrapped(given)
    values = arrays.to_numpy(unwrapped).tolist() if arrays.is_array(unwrapped) else unwrapped
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str | bytes) else []
    if len(listed) != count or not all(_is_whole(value) for value in listed):
        raise InputError(f"{name} is {given!r}: need {'two' if count == 2 else count} whole numbers")
    return tuple(int(value) for value in listed)


def two_sizes(given: Any, name: str) -> tuple[int, int]:
    """Return the shape of a scan or of a detector as two whole numbers of at least 1. Nothing is rounded.

    Examples
    --------
    >>> two_sizes([4, 6], "scan_shape")
    (4, 6)
    """
    first, second = whole_numbers(given, 2, name)
    if min(first, second) < 1:
        raise InputError(f"{name} is {given!r}: need two whole numbers of at least 1")
    return first, second


def mean_place(places: np.ndarray) -> np.ndarray:
    """Return the mean (2,) of places (2,) or (..., 2), without those that are NaN; NaN if all are.

    Examples
    --------
    >>> mean_place(np.array([[[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]]])).tolist()
    [2.0, 3.0]
    """
    axes = tuple(range(places.ndim - 1))
    return np.nanmean(places, axis=axes) if not np.isnan(places).all(axis=axes).any() else np.full(2, np.nan)


def _is_whole(value: Any) -> bool:
    if isinstance(value, Integral):
        return not isinstance(value, bool | np.bool_)
    return isinstance(value, float | np.floating) and float(value).is_integer()


def origins(given: OriginLike, shape: tuple[int, ...] | None = None, name: str = "origin") -> np.ndarray:
    """Return the origin, (2,) for all positions or one for each position, from any of its forms.

    Parameters
    ----------
    given : pair, (2,) or (Rx, Ry, 2) array, RealSlice stack (2, Rx, Ry), or Origin
        Detector pixels. From an Origin, as `gpu4d.calibrate.origin` returns it, the fitted surface is taken.
    shape : tuple of int, optional
        Shape of the scan. None if it is not known yet. A map of origins may then have any size.
    name : str
        Name of the argument, for errors.

    Returns
    -------
    (2,) or (*shape, 2) float64
        An array on the host. Positions without an origin are NaN.

    Raises
    ------
    InputError
        Another shape, such as a map for another scan, or values that are not real numbers.

    Examples
    --------
    >>> origins((12, 10.5)).tolist()
    [12.0, 10.5]
    """
    per_position = "(Rx, Ry, 2)" if shape is None else str((*shape, 2))
    accepted = f"need (2,) or {per_position} in detector pixels, or what calibrate.origin returns"
    plain = type(given) in (tuple, list, np.ndarray)  # to ask whether an object follows a protocol takes many µs
    host = real_values(given.fitted if not plain and isinstance(given, MeasuredOrigin) else given, name, accepted[5:])
    if isinstance(given, RealSlice) and len(given.labels) == 2:
        host = np.moveaxis(host, 0, -1)
    fits = host.shape == (2,) or (host.shape == (*shape, 2) if shape is not None else host.ndim == 3 and host.shape[2] == 2)
    if not fits:
        raise InputError(f"{name} is {host.shape}: {accepted}")
    places = host.astype(np.float64, copy=False)
    far = np.isfinite(places) & (np.abs(places) > FARTHEST)
    if far.any():
        raise InputError(f"{name} has a value of {places[far][0]:g} detector pixels: {accepted}")
    return places
