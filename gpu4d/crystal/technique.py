"""Suggest which technique suits a scan, from the disks of a few patterns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.crystal.lattice import Lattice

LEAST_DISKS = 4  # disks of a pattern that shows a lattice: the unscattered one and three others
LEAST_SHARE = 0.10  # of the patterns
SMALLEST_SCAN = 8  # positions along an axis, for an integration of the phase


class Suggestion(NamedTuple):
    """A technique, and why it fits."""

    technique: str  # "bragg", "dpc" or "images"
    title: str
    why: str


def suggest_technique(counts: np.ndarray, lattice: Lattice | None, radius: float, scan_shape: tuple[int, int]) -> Suggestion:
    """Choose between Bragg disks with strain, a bright-field disk with its phase, and images alone.

    Bragg disks are chosen if at least a tenth of the patterns has four disks or more, a lattice explains them, and disks of
    neighbouring reflections do not overlap. Otherwise the phase is chosen, if the scan has at least 8×8 positions.

    Parameters
    ----------
    counts : (n,) int
        Disks of each pattern.
    lattice : Lattice or None
        Result of `find_lattice` for these disks.
    radius : float
        Of the template, pixels.
    scan_shape : (Rx, Ry)

    Returns
    -------
    Suggestion

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.crystal import suggest_technique
    >>> suggest_technique(np.array([1, 1, 1]), None, 5.0, (64, 64)).technique
    'dpc'
    """
    n, rich = len(counts), int((counts >= LEAST_DISKS).sum())
    middle = f"a median of {np.median(counts):.0f} disk{'' if np.median(counts) == 1 else 's'}"
    seen = f"{n} trial patterns have {middle}, {rich} of them {LEAST_DISKS} or more"
    if lattice is not None and rich >= max(2, LEAST_SHARE * n):
        shortest = min(lattice.lengths)
        lies = f"{100 * lattice.indexed_fraction:.0f} % of the disks lie on one lattice (chance: {100 * lattice.chance:.0f} %)"
        against = f"its shortest vector ({shortest:.1f} px) is {{}} than a disk is wide ({2 * radius:.1f} px)"
        if shortest >= 2 * radius:
            return Suggestion("bragg", "Bragg disks and strain", f"{seen}; {lies}; {against.format('longer')}: no overlap")
        why_not = f"{seen}; {lies}, but {against.format('shorter')}: overlap"
    elif lattice is None:
        why_not = f"{seen}, and no lattice explains them: there is a bright-field disk only"
    else:
        why_not = f"{seen}: too few for a lattice"
    scan = f"{scan_shape[0]}×{scan_shape[1]} positions"
    if min(scan_shape) >= SMALLEST_SCAN:
        return Suggestion("dpc", "Bright-field disk and DPC", f"{why_not}; its centre of mass over {scan} gives the phase")
    few = f"{scan} are too few to integrate a phase ({SMALLEST_SCAN}×{SMALLEST_SCAN})"
    return Suggestion("images", "Images only", f"{why_not}; {few}")
