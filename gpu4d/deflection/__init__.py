"""Deflection of the beam: from the centre of mass to fields, phase and magnetic induction (DPC)."""

from gpu4d.deflection.boundary import boundary_misfit
from gpu4d.deflection.counting_error import CenterOfMassVariance
from gpu4d.deflection.curl_free import curl_free, divergence
from gpu4d.deflection.descan import descan_surface, remove_descan
from gpu4d.deflection.find_shift import ScanShift, find_shift, resampled
from gpu4d.deflection.integrate_gradient import integrate_gradient, integrate_iteratively
from gpu4d.deflection.magnetic import MagneticInduction
from gpu4d.deflection.momentum import share_outside
from gpu4d.deflection.phase_error import curl_free_error, phase_error
from gpu4d.deflection.result import DPC
from gpu4d.deflection.segments import segment_response, segmented_center_of_mass
from gpu4d.deflection.sign import Sign, phase_sign
from gpu4d.deflection.validity import Condition, Validity, potential_validity

__all__ = [
    "DPC",
    "CenterOfMassVariance",
    "Condition",
    "MagneticInduction",
    "ScanShift",
    "Sign",
    "Validity",
    "boundary_misfit",
    "curl_free",
    "curl_free_error",
    "descan_surface",
    "divergence",
    "find_shift",
    "integrate_gradient",
    "integrate_iteratively",
    "phase_error",
    "phase_sign",
    "potential_validity",
    "remove_descan",
    "resampled",
    "segment_response",
    "segmented_center_of_mass",
    "share_outside",
]


def __dir__() -> list[str]:
    return list(__all__)
