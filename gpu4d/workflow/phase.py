"""From the centre of mass to the phase."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.errors import InputError
from gpu4d.workflow import gates
from gpu4d.workflow.analysis import Analysis


def dpc(a: Analysis) -> None:
    """Phase of a thin object by DPC, with the rotation found where it is not known."""
    import gpu4d

    c, given = a.calibration, a.recipe.dpc
    with a.record.stage("DPC: rotation, integration"):
        try:
            found = gpu4d.dpc(
                a.products["com"],
                energy=c.energy,
                q_pixel=c.q_pixel,
                r_pixel=c.r_pixel,
                rotation=c.rotation,
                transpose=c.transpose,
                dark_field=_dark_field(a),
                lambda1=given.lambda1,
                lambda2=given.lambda2,
            )
        except InputError as error:
            a.record.warn(f"no phase: {error}")
            return
    a.dpc = found
    for line in found.warnings:
        a.record.warn(f"dpc: {line}")
    turn = f"{math.degrees(found.rotation):.1f}°{', detector axes exchanged' if found.transpose else ''}"
    if found.curl is not None:
        a.record.decide(f"Rotation of the detector against the scan: {turn}", "; ".join(found.decisions))
        if found.curl.decided and found.sign is not None and found.sign.decided:  # half a turn off is no calibration
            c.set(rotation=found.rotation, transpose=found.transpose, how="least curl of the centre of mass; 180° by the sign of the phase")
    else:
        a.record.note("; ".join(found.decisions))
    a.products["dpc_phase"], a.products["dpc_com"] = found.phase, found.com
    if found.potential is not None:
        a.products["dpc_potential"] = found.potential
    phase = np.asarray(found.phase)
    low, high = np.nanpercentile(phase, (0.5, 99.5)) if np.isfinite(phase).any() else (np.nan, np.nan)
    a.record.figure("Range of the phase", f"{high - low:.3g} {found.phase.units}", "0.5 to 99.5 percentile")
    a.record.figure("Detector rotation", turn, "found by least curl" if found.curl is not None else "given")
    gates.phase(a)


def _dark_field(a: Analysis) -> np.ndarray | None:
    """Share of the electrons outside the bright-field disk: goes with the amount of matter."""
    if "adf" not in a.products:
        return None
    total = np.asarray(a.products["total"], dtype=np.float64)
    return np.asarray(a.products["adf"], dtype=np.float64) / np.where(total > 0, total, np.nan)
