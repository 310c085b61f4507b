"""Suggest which technique suits a scan, from the disks of a few patterns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.crystal.lattice import Lattice
from gpu4d.data.arguments import real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.rings.find_ring import Ring

LEAST_DISKS = 4  # disks of a pattern that shows a lattice: the unscattered one and three others
LEAST_SHARE = 0.10  # of the patterns
SMALLEST_DISK = 4.0  # px: the centre of mass of a smaller disk says little about its deflection
FINE_GRAINED = 0.15  # unevenness of a ring, from which on it is made of spots
SMALLEST_SCAN = 8  # positions along an axis, for an integration of the phase


class _Suggestion(NamedTuple):
    technique: str  # "bragg", "dpc", "amorphous" or "images"
    title: str
    why: str
    sentence: str = ""  # what kind of data these are, for the top of a report; empty if the technique says it


class Suggestion(_Suggestion, Storable):
    """A technique, and why it fits."""

    __slots__ = ()


@on_host("map")
def suggest_technique(
    counts: ArrayLike,
    lattice: Lattice | None,
    radius: float,
    scan_shape: tuple[int, int],
    ring: Ring | None = None,
    patterned: bool = False,
    known_probe: bool = False,
) -> Suggestion:
    """Choose between Bragg disks with strain, a bright-field disk with its phase, and images alone.

    Bragg disks are chosen if at least a tenth of the patterns has four disks or more, a lattice explains them, and disks of
    neighbouring reflections do not overlap, or overlap by less than a radius and can be told apart: by a pattern in each, or because
    their shape is known from an image of the probe. The phase is chosen if there is a bright-field disk of at least 4 px without such disks
    about it, and the scan has at least 8×8 positions. A diffuse ring without a lattice is that of an amorphous specimen. Other data get
    images alone: rings of spots, spots of many grains, a beam that is too small.

    Parameters
    ----------
    counts : (n,) int
        Disks of each pattern.
    lattice : Lattice or None
        Result of `find_lattice` for these disks.
    radius : float
        Of the template, pixels.
    scan_shape : (Rx, Ry)
    ring : Ring, optional
        Ring of the mean pattern (`gpu4d.rings.find_ring`).
    patterned : bool
        True if the template is that of a patterned probe, such as a bullseye.
    known_probe : bool
        True if the template was made of an image of the probe in vacuum. Of overlapping disks nothing else shows radius and edge.

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
    counts = real_values(counts, "counts", "the number of disks of each pattern").ravel()
    if not counts.size:
        raise InputError("counts is empty: need the number of disks of each trial pattern")
    n, rich = len(counts), int((counts >= LEAST_DISKS).sum())
    middle = f"a median of {np.median(counts):.0f} disk{'' if np.median(counts) == 1 else 's'}"
    seen = f"{n} trial patterns have {middle}, {rich} of them {LEAST_DISKS} or more"
    sentence = ""
    many = rich >= max(2, LEAST_SHARE * n)
    if lattice is not None and many:
        shortest = min(lattice.lengths)
        lies = f"{100 * lattice.indexed_fraction:.0f} % of the disks lie on one lattice (chance: {100 * lattice.chance:.0f} %)"
        against = f"its shortest vector ({shortest:.1f} px) is {{}} than a disk is wide ({2 * radius:.1f} px)"
        if shortest >= 2 * radius:
            return Suggestion("bragg", "Bragg disks and strain", f"{seen}; {lies}; {against.format('longer')}: no overlap")
        if patterned and shortest >= radius:
            why = f"{seen}; {lies}; {against.format('shorter')}, but the probe is patterned, so that disks which overlap can be told apart"
            return Suggestion("bragg", "Bragg disks and strain", why)
        if known_probe and shortest >= radius:
            why = f"{seen}; {lies}; {against.format('shorter')}, but the probe in vacuum is known, so that overlapping disks can be fitted"
            return Suggestion("bragg", "Bragg disks that overlap, and strain", why)
        why_not = f"{seen}; {lies}, but {against.format('shorter')}: overlap"
        near = shortest < radius
        sentence = f"Bragg disks that overlap{' by more than a radius' if near else ''}, so no strain was measured. "
        sentence += "" if near else "An image of the probe in vacuum (--probe) lets a run fit them together. "
    elif ring is not None and (many or radius < SMALLEST_DISK):
        return of_ring(ring, seen)
    elif many:
        why = f"{seen}, but no single lattice explains them, so no strain is measured; a phase needs a beam without disks about it"
        return Suggestion("images", "Images only: spots without one lattice", why, "Many spots, but no single lattice explains them: "
                          "several grains or phases. Virtual images were made; neither strain nor a phase was computed.")  # fmt: skip
    elif radius < SMALLEST_DISK:
        why = f"{seen}: too few for a lattice; the beam's disk ({radius:.1f} px) is too small for a phase, which needs {SMALLEST_DISK:g} px"
        return Suggestion("images", "Images only: a small beam and too few disks", why, "A small beam spot and too few Bragg disks for a "
                          "lattice. Virtual images were made; neither strain nor a phase was computed.")  # fmt: skip
    elif lattice is None:
        why_not = f"{seen}, and no lattice explains them: there is a bright-field disk only"
    else:
        why_not = f"{seen}: too few for a lattice"
    scan = f"{scan_shape[0]}×{scan_shape[1]} positions"
    if min(scan_shape) >= SMALLEST_SCAN:
        sentence += "The phase was integrated from the centre of mass, which means something for a thin specimen only." if sentence else ""
        return Suggestion("dpc", "Bright-field disk and DPC", f"{why_not}; its centre of mass over {scan} gives the phase", sentence)
    few = f"{scan} are too few to integrate a phase ({SMALLEST_SCAN}×{SMALLEST_SCAN})"
    sentence = sentence or "A bright-field disk without separate Bragg disks. "
    return Suggestion("images", "Images only", f"{why_not}; {few}", f"{sentence}Virtual images were made; {few}.")


def of_ring(ring: Ring, seen: str = "") -> Suggestion:
    """Return the suggestion for a scan whose mean pattern has a ring and whose disks lie on no lattice.

    Parameters
    ----------
    ring : Ring
    seen : str
        What the trial patterns have, for the reason.

    Examples
    --------
    >>> of_ring(Ring(30.0, contrast=1.5, unevenness=0.02)).title
    'Amorphous: a diffuse ring'
    """
    crystals = of_crystals(ring)
    why = f"the mean pattern has a ring of {ring.radius:.0f} px, even to {100 * ring.unevenness:.0f} %, and no lattice was found"
    why = f"{seen}; {why}" if seen else why
    at = f"at {ring.radius:.0f} px, no single lattice)."
    if not crystals:
        return Suggestion("amorphous", "Amorphous: a diffuse ring", why, f"The specimen looks amorphous (a diffuse ring {at}")
    if ring.sharp:
        why += f"; the ring is {ring.width:.1f} px wide, {100 * ring.width / ring.radius:.0f} % of its radius: too sharp for a glass"
    kind = kind_of(ring)
    sentence = f"The specimen looks made of many small crystals ({kind} {at} Virtual images and the radial profile were made; neither "
    sentence += "strain nor a phase was computed. `gpu4d calibrate FILE --standard Au` measures the calibration, if it is a known standard."
    return Suggestion("images", f"Images only: {kind}, as of many small crystals", why, sentence)


def kind_of(ring: Ring) -> str:
    """Say in words what a ring looks like: that of a glass, or those of many small crystals."""
    return "rings of spots" if ring.unevenness >= FINE_GRAINED else "sharp rings" if ring.sharp else "a diffuse ring"


def of_crystals(ring: Ring) -> bool:
    """Return True if a ring is that of many small crystals: it is made of spots, or too sharp for a glass.

    Examples
    --------
    >>> of_crystals(Ring(30.0, 1.5, 0.02, width=2.4)), of_crystals(Ring(30.0, 1.5, 0.02, width=6.0)), of_crystals(Ring(30.0, 1.5, 0.2))
    (True, False, True)
    """
    return ring.unevenness >= FINE_GRAINED or ring.sharp
