"""Crystal structures: cells and atoms from CIF files or a table of standards, symmetry, structure factors, powder rings."""

from gpu4d.structures.reflections import Reflections, Rings
from gpu4d.structures.scattering_factors import electron_scattering_factor
from gpu4d.structures.standards import STANDARDS, Standard
from gpu4d.structures.structure import Site, Structure

__all__ = ["STANDARDS", "Reflections", "Rings", "Site", "Standard", "Structure", "electron_scattering_factor"]


def __dir__() -> list[str]:
    return list(__all__)
