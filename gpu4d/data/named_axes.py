"""Say what the axes of results are: their names, the value at each index, and the unit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.data.storable import Layout, Storable


class Axis(NamedTuple):
    """One axis of an array: its name, the value at each index, their unit ("px" for a plain count), and its step if it is even."""

    name: str
    values: np.ndarray
    unit: str = "px"
    step: float | None = None  # a single value does not show it

    @classmethod
    def even(cls, name: str, length: int, step: float = 1.0, unit: str = "px") -> Axis:
        """Make an axis of equal steps from 0 on."""
        return cls(name, np.arange(length) * float(step), unit, float(step))


def cube_axes(cube: DataCube) -> list[Axis]:
    """Return the axes of a scan, from 0 on, in Å and 1/Å where the pixel sizes are known.

    Examples
    --------
    >>> [axis.unit for axis in cube_axes(DataCube(np.zeros((2, 3, 4, 5), "u2"), None))]
    ['px', 'px', 'px', 'px']
    """
    c = cube.calibration
    steps = [(c.r_pixel, "Å")] * 2 + [(c.q_pixel, "1/Å")] * 2
    named = zip(("Rx", "Ry", "Qx", "Qy"), cube.shape, steps)
    return [Axis.even(name, n, step, unit) if step else Axis.even(name, n) for name, n, (step, unit) in named]


def slice_axes(item: Slice, stored: Layout | None = None) -> list[Axis]:
    """Return the axes of a slice. Its planes come first.

    Parameters
    ----------
    item : Slice
    stored : Layout, optional
        What the result that it is a part of says of it. Without names there, they are Rx and Ry, or Qx and Qy.

    Examples
    --------
    >>> [axis.name for axis in slice_axes(RealSlice(np.zeros((2, 3, 4))))], slice_axes(Slice(np.zeros((1, 1)), pixel_size=2.0))[0].values
    (['plane', 'Rx', 'Ry'], array([0.]))
    """
    letter = "R" if isinstance(item, RealSlice) else "Q" if isinstance(item, DiffractionSlice) else ""
    usual = (*(f"plane_{i}" for i in range(1, item.ndim - 2)), *("plane",) * (item.ndim > 2), f"{letter}x", f"{letter}y")[-item.ndim :]
    names = stored.names(item.ndim, "slice") if stored is not None and len(stored.axes) >= item.ndim else usual
    last = item.ndim - 2
    even = [Axis.even(name, n, item.pixel_size, item.pixel_units) for name, n in zip(names[last:], item.shape[last:])] if last >= 0 else []
    return [Axis.even(name, n) for name, n in zip(names[: max(last, 0)], item.shape)] + (even or [Axis.even(names[0], item.shape[0])])


def known_axes(result: Storable) -> dict[str, Axis]:
    """Return the axes of a result whose values are known: parts that are their own axis, and the pixels of its slices."""
    found: dict[str, Axis] = {}
    for part, value in result.to_parts().items():
        stored = result.stored_as(part)
        if isinstance(value, Slice):
            found |= {axis.name: axis for axis in slice_axes(value, stored)[-2:] if axis.unit != "px"}
        elif stored is not None and stored.axes == (part,) and arrays.is_array(value) and len(value.shape) == 1:
            found[part] = Axis(part, arrays.to_numpy(value), stored.unit)
    return found


def array_axes(values: np.ndarray, name: str, stored: Layout | None, known: dict[str, Axis]) -> list[Axis]:
    """Return the axes of an array that is a part of a result.

    Parameters
    ----------
    values : array
    name : str
        Of the part.
    stored : Layout or None
        What the result says of it.
    known : dict of str to Axis
        As `known_axes` gives it. Axes of another length are not taken.
    """
    made = []
    for axis, n in zip((stored or Layout()).names(values.ndim, name), values.shape):
        held = known.get(axis)
        fits = held is not None and len(held.values) == n and held.values.dtype.kind in "iuf"
        made.append(held if held is not None and fits else Axis.even(axis, n))
    return made
