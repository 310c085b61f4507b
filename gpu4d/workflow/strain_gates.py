"""Compare a strain map with what a real one is: continuous, compatible, near zero where the crystal is not strained."""

from __future__ import annotations

import numpy as np

from gpu4d.crystal.strain import Strain
from gpu4d.crystal.strain_checks import incompatibility, jumps, reference_strain
from gpu4d.workflow.record import Record

INDEPENDENT = "Compare the strain with an independent measurement"
LISTED = 3  # positions of jumps that are named


def strain_gates(record: Record, strain: Strain) -> None:
    """Record the gates of the guide's question 19 that follow from the map itself, and the advice that does not."""
    _continuity(record, strain)
    _compatibility(record, strain)
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


def _reference(record: Record, strain: Strain) -> None:
    found = reference_strain(strain)
    if found is None:
        record.note("strain of the reference region was not measured: the reference is no region of this scan")
        return
    region = int(np.asarray(strain.reference.region).sum())
    said = f"{100 * found:.2g} % rms in the {region:,} positions of the reference"
    record.measure("strain_reference", 100 * found, said)
