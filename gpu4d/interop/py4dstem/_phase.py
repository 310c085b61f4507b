"""Centre of mass, and the phase from it: `preprocess` of all phase methods, and `DPC.reconstruct`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gpu4d.device.threads import in_threads
from gpu4d.imaging.center_of_mass import center_of_mass
from gpu4d.interop.py4dstem._library import library
from gpu4d.interop.py4dstem._replacing import Given, Place, Replacement, no_array

CENTRE = "_calculate_intensities_center_of_mass"


def replacements() -> Iterable[Replacement]:
    """Return what replaces the measurement of the centres of mass. py4DSTEM fits and calibrates them itself."""
    module = library("py4DSTEM.process.phase.phase_base_class")
    yield Replacement(Place(module.PhaseReconstruction, CENTRE), _refuses, _measured)


def _refuses(given: Given) -> str | None:
    if given["com_measured"] is not None:
        return "the centres of mass are given"
    mask = given["dp_mask"]
    if mask is not None and not isinstance(mask, np.ndarray):
        return "the mask is no NumPy array"
    reason = no_array(given["intensities"])
    if reason is None and mask is not None and mask.shape != given["intensities"].shape[-2:]:
        reason = "the mask has another shape"
    return reason


def _measured(own: Callable[..., Any], given: Given) -> Any:
    intensities, mask = given["intensities"], given["dp_mask"]

    def row(patterns: np.ndarray) -> np.ndarray:
        return center_of_mass(patterns if mask is None else patterns * mask)

    com = np.stack(list(in_threads(row, list(intensities)))).astype(np.float32)
    return own(**{**given, "com_measured": (com[..., 0], com[..., 1])})
