"""Compare a strain map with what a real one is: continuous, compatible, near zero where the crystal is not strained."""

from __future__ import annotations

import numpy as np

from gpu4d.crystal.mechanism import trace_of_strain
from gpu4d.crystal.strain import Strain
from gpu4d.crystal.strain_checks import incompatibility, jumps, reference_strain
from gpu4d.workflow.record import Record

INDEPENDENT = "Compare the strain with an independent measurement"
LISTED = 3  # positions of jumps that are named
ANY = "any"  # mechanism: none is known
WORDS = {
    "shear": "shear (slip, twins)",
    "uniaxial": "stress along one direction",
    "layer": "a layer seen from its side",
    "dilation": "growth in all directions (heat, composition)",
}


def strain_gates(record: Record, strain: Strain, mechanism: str = ANY) -> None:
    """Record the gates of the guide's question 19 that follow from the map itself, and the advice that does not.

    `mechanism` is one of `gpu4d.crystal.mechanism.MECHANISMS`, with which the trace is compared, or "any".
    """
    _continuity(record, strain)
    _compatibility(record, strain)
    _trace(record, strain, mechanism)
    _reference(record, strain)
    why = "no check of the map itself shows a wrong pixel size or reference, but X-ray diffraction, Raman, DFT or another method does; "
    record.decide(INDEPENDENT, f"{why}`gpu4d compare RESULT OTHER` compares two maps (guide, Q19)")


def _continuity(record: Record, strain: Strain) -> None:
    found = jumps(strain)
    if found is None:
        return
    places = [f"({x}, {y})" for x, y in np.argwhere(found.where)[:LISTED]]
    more = ", …" * (int(found.where.sum()) > LISTED)
    where = f": {', '.join(places)}{more}" if places else ""
    record.measure(
        "strain_continuity",
        100 * found.share,
        f"{int(found.where.sum())} of {found.positions:,} positions differ from their neighbours{where}",
    )


def _compatibility(record: Record, strain: Strain) -> None:
    found = incompatibility(strain)
    if found is None:
        record.note("compatibility of strain was not measured: the rotation is not known, or the gradients are not larger than their noise")
        return
    said = f"{found.share:.2f} of the gradients of the deformation have a curl ({found.positions:,} positions)"
    record.measure("strain_compatibility", found.share, said)


def _trace(record: Record, strain: Strain, mechanism: str) -> None:
    """Compare the trace with mechanisms of deformation (guide, Q19, check 3)."""
    found = trace_of_strain(strain)
    if found is None:
        return
    said = f"{100 * found.dilation:.2g} % in all directions alike, beyond three standard errors"
    record.measure("strain_dilation", 100 * found.dilation, said)
    if found.best is None:
        record.note(
            f"the mechanism of the strain was not compared: only {found.positions} positions are strained by more than their errors"
        )
        return
    poisson = f", Poisson's ratio {found.poisson:.2f}"
    shares = {name: f"{WORDS[name]}{poisson * (name == 'uniaxial')}: {100 * (1 - left):.0f} %" for name, left in found.unexplained.items()}
    best = WORDS[found.best].partition(" (")[0]
    why = f"share of the squared strain whose trace is that of {'; '.join(shares.values())} ({found.positions:,} strained positions)"
    record.decide(f"Mechanism of the strain: {best} suits best", why)
    if mechanism != ANY:
        left = 100 * found.unexplained[mechanism]
        record.measure("strain_mechanism", left, f"{left:.0f} % of the squared strain has not the trace of {WORDS[mechanism]}")


def _reference(record: Record, strain: Strain) -> None:
    found = reference_strain(strain)
    if found is None:
        record.note("strain of the reference region was not measured: the reference is no region of this scan")
        return
    region = int(np.asarray(strain.reference.region).sum())
    said = f"{100 * found:.2g} % rms in the {region:,} positions of the reference"
    record.measure("strain_reference", 100 * found, said)
