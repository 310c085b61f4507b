"""Define what every simulation returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError


@dataclass
class Simulated(Storable, stored="truth: *; probe: Qx Qy"):
    """A simulated scan, and the truth that the simulation knows.

    Attributes
    ----------
    cube : DataCube
        In memory. Its calibration holds what an operator would know (energy, semi-angle, pixel sizes), not what is to be
        measured (origin, rotation).
    truth : dict of str to array
        See the simulation for the names.
    probe : (Qx, Qy) float64
        Noise-free vacuum pattern.
    """

    cube: DataCube
    truth: dict[str, np.ndarray]
    probe: np.ndarray

    def __repr__(self) -> str:
        return f"Simulated({self.cube!r}, truth: {', '.join(self.truth)})"


def plane_shape(shape: tuple[int, int], name: str) -> tuple[int, int]:
    """Return an (x, y) shape after checking it."""
    if len(shape) != 2 or any(int(n) != n or n < 1 for n in shape):
        raise InputError(f"{name}={shape!r}: need two positive whole numbers (x, y)")
    return int(shape[0]), int(shape[1])


def count_dtype(largest: float) -> type[np.unsignedinteger]:
    """Return uint16, as detectors write it, or a wider type if Poisson counts of mean `largest` would not fit."""
    return np.uint16 if largest + 10 * largest**0.5 + 20 < 65536 else np.uint32
