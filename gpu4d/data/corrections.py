"""Corrections that a source carries: what is changed in every pattern before anything looks at it.

A correction is one small object. `Corrections` applies several, in order. A new kind of correction is a file of its own with a class
that has the methods of `Correction`; nothing else needs to know it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from gpu4d.arrays import ArrayT, DType
from gpu4d.data.source import itemsize
from gpu4d.data.storable import Storable


@runtime_checkable
class Correction(Protocol):
    """One change that is made to every pattern, for example bad pixels replaced. It must be picklable.

    Attributes
    ----------
    description : str
        What is changed, in a few words: "3 bad pixels replaced".
    detector_shape : (int, int) or None
        The detector it was made for; None where it fits any.
    """

    @property
    def description(self) -> str: ...

    @property
    def detector_shape(self) -> tuple[int, int] | None: ...

    def dtype(self, native: DType) -> DType:
        """Return the dtype of corrected patterns, from that of the raw ones; both are dtypes of the patterns' own library."""
        ...

    def apply(self, frames: ArrayT) -> ArrayT:
        """Return corrected patterns (..., Qx, Qy), in the library and on the device of `frames`.

        Each pattern is corrected by itself: the result does not depend on its neighbours in the stack. `frames` must not be written
        to. It may be returned itself where nothing changes. Called from several threads at once.
        """
        ...

    def bytes_needed(self, n_frames: int) -> int:
        """Return the bytes it needs beside the raw and the corrected patterns of one call.

        With `n_frames` = 0 these are the bytes that stay between calls, such as tables on a device.
        """
        ...

    def cropped(self, qx: slice, qy: slice) -> Correction | None:
        """Return the correction for patterns cropped to these ranges, with the same values as correcting first and cropping then.

        None where there is no such correction, because it needs pixels outside. Patterns are then corrected before they are cropped.
        """
        ...

    def swapped(self) -> Correction | None:
        """Return the correction for patterns with exchanged axes (Qy, Qx), or None, as `cropped`."""
        ...


@dataclass(frozen=True)
class Corrections(Storable):
    """Several corrections, applied one after the other.

    Attributes
    ----------
    steps : tuple of Correction

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.data import BadPixelCorrection
    >>> both = Corrections((BadPixelCorrection([[True, False]]),))
    >>> both.apply(np.array([[[7, 3]]])).tolist(), both.description, bool(Corrections())
    ([[[3, 3]]], '1 bad pixel replaced', False)
    """

    steps: tuple[Correction, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def description(self) -> str:
        """What is changed, in the order in which it is; empty where nothing is."""
        return ", ".join(step.description for step in self.steps)

    def dtype(self, native: DType) -> DType:
        """Return the dtype of corrected patterns."""
        for step in self.steps:
            native = step.dtype(native)
        return native

    def apply(self, frames: ArrayT) -> ArrayT:
        """Return corrected patterns (..., Qx, Qy); `frames` stays as it is."""
        for step in self.steps:
            frames = step.apply(frames)
        return frames

    def bytes_needed(self, n_frames: int, detector_shape: tuple[int, int], native: DType) -> int:
        """Return the bytes of correcting `n_frames` raw patterns, the result included; with 0 those that stay between calls.

        Parameters
        ----------
        n_frames : int
        detector_shape : (Qx, Qy)
        native : dtype
            Of the raw patterns, which the caller counts.
        """
        most, given, pixels = 0, 0, n_frames * detector_shape[0] * detector_shape[1]
        for step in self.steps:
            native = step.dtype(native)
            made = pixels * itemsize(native)
            most = max(most, given + made + step.bytes_needed(n_frames) - step.bytes_needed(0))
            given = made
        return most + sum(step.bytes_needed(0) for step in self.steps)

    def then(self, later: Corrections) -> Corrections:
        """Return these corrections followed by others."""
        return Corrections(self.steps + later.steps)

    def cropped(self, qx: slice, qy: slice) -> Corrections | None:
        """Return the corrections for cropped patterns, or None where one of them needs pixels outside."""
        return _all_of([step.cropped(qx, qy) for step in self.steps])

    def swapped(self) -> Corrections | None:
        """Return the corrections for patterns with exchanged axes, or None where one of them has no such form."""
        return _all_of([step.swapped() for step in self.steps])


def dtype_like(native: DType, name: str) -> DType:
    """Return the dtype of a name in the library of another dtype: what `Correction.dtype` gives where values change their type.

    Examples
    --------
    >>> dtype_like(np.dtype("uint16"), "float32")
    dtype('float32')
    """
    try:
        np.dtype(native)
    except TypeError:  # a dtype of a library that does not use NumPy's
        return getattr(importlib.import_module(type(native).__module__.partition(".")[0]), name)
    return np.dtype(name)


def _all_of(steps: list[Correction | None]) -> Corrections | None:
    known = tuple(step for step in steps if step is not None)
    return Corrections(known) if len(known) == len(steps) else None
