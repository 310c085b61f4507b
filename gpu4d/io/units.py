"""Convert units as files write them to those of the library: Å, 1/Å, mrad."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from gpu4d import physics

_LENGTHS = {
    "a": 1.0, "å": 1.0, "ang": 1.0, "angstrom": 1.0, "angstroms": 1.0, "angstroem": 1.0, "pm": 0.01, "nm": 10.0,
    "um": 1e4, "µm": 1e4, "μm": 1e4, "micron": 1e4, "mm": 1e7, "m": 1e10,
}  # fmt: skip
_ANGLES = {"mrad": 1.0, "rad": 1e3, "urad": 1e-3, "µrad": 1e-3, "μrad": 1e-3, "deg": 1e3 * np.pi / 180}

log = logging.getLogger("gpu4d")


def parse(units: str) -> tuple[str, float] | None:
    """Return ("length", Å), ("frequency", 1/Å) or ("angle", mrad) of one unit; None for pixels and unknown units.

    Examples
    --------
    >>> parse("nm^-1"), parse("[n_m]"), parse("$A^{-1}$"), parse("pixels")
    (('frequency', 0.1), ('length', 10.0), ('frequency', 1.0), None)
    """
    word = (
        units.strip()
        .strip("[]()$")
        .removeprefix("k_")
        .replace("_", "")
        .replace(" ", "")
        .replace("{", "")
        .replace("}", "")
        .replace("Å", "Å")
        .lower()
    )
    inverse = False
    for ending in ("^-1", "⁻¹", "**-1", "-1"):
        if word.endswith(ending):
            word, inverse = word.removesuffix(ending), True
    if word.startswith("1/"):
        word, inverse = word[2:], True
    if word in _LENGTHS:
        return ("frequency", 1 / _LENGTHS[word]) if inverse else ("length", _LENGTHS[word])
    if word in _ANGLES and not inverse:
        return "angle", _ANGLES[word]
    return None


def scan_step(size: Any, units: str) -> float | None:
    """Return a scan step in Å, or None."""
    known = parse(units)
    return float(size) * known[1] if known and known[0] == "length" and _positive(size) else None


def detector_pixel(size: Any, units: str, energy: float | None) -> float | None:
    """Return the size of a detector pixel in 1/Å, or None. Angles need the beam energy."""
    known = parse(units)
    if not known or not _positive(size) or known[0] == "length":
        return None
    if known[0] == "frequency":
        return float(size) * known[1]
    if energy is None:
        log.warning("the detector pixel is given as %g %s: without the beam energy it stays unknown in 1/Å", size, units)
        return None
    return physics.angle_to_frequency(float(size) * known[1], energy)


def _positive(size: Any) -> bool:
    return isinstance(size, int | float | np.number) and bool(np.isfinite(size) and size > 0)
