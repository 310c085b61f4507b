"""Bad pixels replaced by the value of their nearest good pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ArrayT, DType
from gpu4d.data.arguments import pixel_mask, real_values
from gpu4d.data.fill import nearest_good_pixels
from gpu4d.data.storable import Storable
from gpu4d.device import tables
from gpu4d.errors import InputError

MOST_BAD = 0.9  # of the pixels: a mask with more is one of good pixels


@runtime_checkable
class FoundPixels(Protocol):
    """What a search for bad pixels gives, such as `gpu4d.preprocess.BadPixels`: two masks (Qx, Qy) bool."""

    @property
    def hot(self) -> np.ndarray: ...

    @property
    def dead(self) -> np.ndarray: ...


@runtime_checkable
class MarkedPixels(Protocol):
    """What a search gives that knows more kinds of bad pixels, such as `gpu4d.preprocess.Defects`: all in one mask (Qx, Qy) bool."""

    @property
    def pixels(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class BadPixelCorrection(Storable, stored="mask taken_from: Qx Qy"):
    """Give each bad pixel the value of its nearest good pixel. Values keep their dtype.

    Parameters
    ----------
    mask : (Qx, Qy) bool
        True where a pixel is bad.
    taken_from : (Qx, Qy) int, optional
        Number qx · Qy + qy of the pixel whose value each pixel takes, its own for good pixels; by default the nearest good pixel, as
        `gpu4d.preprocess.fill_from_neighbours` takes it.

    Raises
    ------
    InputError
        No image of bools, or every pixel is bad; numbers in `taken_from` that are no pixels, or pixels that are bad.

    Examples
    --------
    >>> BadPixelCorrection([[False, False, True]]).apply(np.array([[[1, 2, 9]], [[4, 5, 9]]])).tolist()
    [[[1, 2, 2]], [[4, 5, 5]]]
    """

    mask: np.ndarray | Sequence[Sequence[bool]]
    taken_from: np.ndarray | None = None
    _bad: np.ndarray = field(init=False, repr=False)  # numbers of bad pixels
    _index: np.ndarray = field(init=False, repr=False)  # the pixel that each takes its value from, (Qx · Qy,)

    def __post_init__(self) -> None:
        mask = real_values(self.mask, "bad_pixels", "a mask (Qx, Qy) bool")
        if mask.ndim != 2 or mask.dtype.kind not in "biu":
            raise InputError(f"bad pixels are {mask.shape} {mask.dtype}: need a mask (Qx, Qy) bool, True where a pixel is bad")
        mask = mask.astype(bool)  # a copy, because the caller may change the array later
        taken_from = _nearest(~mask) if self.taken_from is None else _checked(self.taken_from, mask)
        for name, value in (("mask", mask), ("taken_from", taken_from), ("_bad", np.flatnonzero(mask)), ("_index", taken_from.ravel())):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"BadPixelCorrection({self.description}, of {'×'.join(map(str, self.detector_shape))})"

    @property
    def description(self) -> str:
        n = len(self._bad)
        return f"{n} bad pixel{'s' * (n != 1)} replaced"

    @property
    def detector_shape(self) -> tuple[int, int]:
        return np.shape(self.mask)  # type: ignore[return-value]

    def dtype(self, native: DType) -> DType:
        """Return the native dtype: values are copied."""
        return native

    def apply(self, frames: ArrayT) -> ArrayT:
        """Return patterns (..., Qx, Qy) with bad pixels replaced; `frames` itself where there are none. NaN is copied like a number."""
        if tuple(frames.shape[-2:]) != self.detector_shape:
            raise InputError(
                f"the patterns are {tuple(frames.shape[-2:])}, the mask of bad pixels is {self.detector_shape}: need one shape"
            )
        if not len(self._bad):
            return frames
        flat_shape = (*frames.shape[:-2], len(self._index))
        if isinstance(frames, np.ndarray):  # few pixels change: a plain copy is several times faster than picking every pixel
            made = np.array(frames, order="C").reshape(flat_shape)
            made[..., self._bad] = made[..., self._index[self._bad]]
            return made.reshape(frames.shape)  # type: ignore[return-value] # of the type it came in
        xp = arrays.namespace(frames)
        flat = xp.reshape(frames, flat_shape)
        return xp.reshape(xp.take(flat, tables.beside(self._index, frames), axis=-1), frames.shape)

    def bytes_needed(self, n_frames: int) -> int:
        """Return the bytes of the table on a device, and of the values under way: 64 bits each at most."""
        return self._index.nbytes + 8 * n_frames * len(self._bad)

    def cropped(self, qx: slice, qy: slice) -> BadPixelCorrection | None:
        """Return the correction for cropped patterns; None where a bad pixel inside has its nearest good pixel outside."""
        mask, taken_from = np.asarray(self.mask)[qx, qy], np.asarray(self.taken_from)[qx, qy]
        x, y = np.divmod(taken_from, self.detector_shape[1])
        x, y = x - qx.start, y - qy.start
        inside = (0 <= x) & (x < mask.shape[0]) & (0 <= y) & (y < mask.shape[1])
        return BadPixelCorrection(mask, x * mask.shape[1] + y) if inside.all() else None

    def swapped(self) -> BadPixelCorrection:
        """Return the correction for patterns (Qy, Qx): each bad pixel takes the value it took before."""
        x, y = np.divmod(np.asarray(self.taken_from).T, self.detector_shape[1])
        return BadPixelCorrection(np.asarray(self.mask).T, y * self.detector_shape[0] + x)


def bad_pixel_correction(
    given: ArrayLike | FoundPixels | MarkedPixels, shape: tuple[int, int], valid: np.ndarray | None = None
) -> BadPixelCorrection:
    """Make the correction from what a user gives: a mask, or what a search for bad pixels found.

    Parameters
    ----------
    given : (Qx, Qy) bool, FoundPixels or MarkedPixels
        True where a pixel is bad.
    shape : (Qx, Qy)
        Of the detector.
    valid : (Qx, Qy) bool, optional
        The detector mask: pixels that it excludes give no values.

    Raises
    ------
    InputError
        Another shape, more than nine tenths of the pixels bad, or no good pixel.
    """
    if isinstance(given, BadPixelCorrection):
        raise InputError("bad_pixels= takes a mask: give a correction without a keyword, as cube.corrected(correction)")
    marked = given.pixels if isinstance(given, MarkedPixels) else given.hot | given.dead if isinstance(given, FoundPixels) else given
    mask = pixel_mask(marked, shape, "bad_pixels")
    assert mask is not None
    if mask.sum() > MOST_BAD * mask.size:
        raise InputError(f"bad_pixels marks {mask.sum()} of {mask.size} pixels: True marks a bad pixel, so invert a mask of good ones")
    return BadPixelCorrection(mask, None if valid is None else _nearest(~mask & valid))


def _nearest(good: np.ndarray) -> np.ndarray:
    """Find the number of the nearest good pixel of every pixel, (Qx, Qy) int64."""
    if not good.any():
        raise InputError(
            "every pixel is bad or masked: there is no good pixel to take a value from. True marks bad pixels: invert a mask of good ones"
        )
    x, y = nearest_good_pixels(good)
    return x.astype(np.int64) * good.shape[1] + y


def _checked(taken_from: ArrayLike, mask: np.ndarray) -> np.ndarray:
    """Return the number of the pixel that each takes its value from, (Qx, Qy) int64, its own for good pixels."""
    given = real_values(taken_from, "taken_from")
    if given.shape != mask.shape or given.dtype.kind not in "iu":
        raise InputError(f"taken_from is {given.shape} {given.dtype}: need {mask.shape} whole numbers qx · Qy + qy")
    wanted = given[mask]
    if wanted.size and not (0 <= wanted.min() and wanted.max() < mask.size and not mask.ravel()[wanted].any()):
        raise InputError(f"taken_from names bad pixels, or numbers outside 0 … {mask.size - 1}: need numbers of good pixels")
    return np.where(mask, given, _numbers(mask.shape)).astype(np.int64)


def _numbers(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)
