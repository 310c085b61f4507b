"""Remember what the colours of a panel stand for, so that a page can read values out of a map that was drawn in colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Reading:
    """Values of a map in colours.

    Attributes
    ----------
    kind : {"vector", "name", "orientation"}
        "vector": the components along x (down) and y (right). "name": numbers of `names`. "orientation": Euler angles φ₁, Φ, φ₂ in
        Bunge's convention, degrees, and the crystal direction u, v, w that the colour stands for.
    maps : tuple of (nx, ny) array
        NaN where there is no value.
    units : str
        Of the maps of a vector.
    names : tuple of str
    """

    kind: str
    maps: tuple[np.ndarray, ...]
    units: str = ""
    names: tuple[str, ...] = ()


_readings: WeakKeyDictionary[Axes, Reading] = WeakKeyDictionary()


def remember(ax: Axes, reading: Reading) -> None:
    """Keep what the colours of a panel stand for."""
    _readings[ax] = reading


def reading_of(ax: Axes) -> Reading | None:
    """Return what the colours of a panel stand for. None where it has a colour bar, or no map."""
    return _readings.get(ax)
