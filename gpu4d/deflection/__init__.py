"""Deflection of the beam: from the centre of mass to fields and phase (DPC)."""

from gpu4d.deflection.boundary import boundary_misfit
from gpu4d.deflection.descan import remove_descan
from gpu4d.deflection.dpc import DPC
from gpu4d.deflection.integrate_gradient import integrate_gradient, integrate_iteratively
from gpu4d.deflection.sign import Sign, phase_sign

__all__ = ["DPC", "Sign", "boundary_misfit", "integrate_gradient", "integrate_iteratively", "phase_sign", "remove_descan"]


def __dir__() -> list[str]:
    return list(__all__)
