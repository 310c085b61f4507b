"""Check arguments that many public calls take: a mask of scan positions, a mask of pixels, an image, an origin.

They are checked only here. So every call accepts the same values, and refuses others with the same message.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError


class MeasuredOrigin(Protocol):
    """What `gpu4d.calibrate.origin` gives: origins of all positions, (Rx, Ry, 2)."""

    @property
    def fitted(self) -> np.ndarray:
        """Detector pixels."""


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
    host = arrays.to_numpy(given)
    need = f"need one bool per {each}"
    if host.shape != tuple(shape):
        raise InputError(f"{name} is {host.shape}, the {whole} is {tuple(shape)}: {need}")
    if host.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {host.dtype}: {need}")
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
    host = arrays.to_numpy(given)
    if host.ndim != 2:
        raise InputError(f"{name} has shape {host.shape}, need one image (Qx, Qy)")
    if host.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {host.dtype}: need one image (Qx, Qy) of real numbers")
    return host


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
    try:
        host = arrays.to_numpy(getattr(given, "fitted", given))
    except ValueError:  # a ragged list
        raise InputError(f"{name} is {given!r}: {accepted}") from None
    if host.dtype.kind not in "biuf":
        raise InputError(f"{name} is {given!r}: {accepted}")
    if isinstance(given, RealSlice) and len(given.labels) == 2:
        host = np.moveaxis(host, 0, -1)
    fits = host.shape == (2,) or (host.shape == (*shape, 2) if shape is not None else host.ndim == 3 and host.shape[2] == 2)
    if not fits:
        raise InputError(f"{name} is {host.shape}: {accepted}")
    return host.astype(np.float64, copy=False)
