"""Bragg disks: hybrid correlation with a template, maxima, sub-pixel positions with their standard errors."""

from gpu4d.bragg.apertures import LatticeAperture, lattice_aperture, reflection
from gpu4d.bragg.dark_field import dark_field
from gpu4d.bragg.direct_beam import DirectBeam, direct_beam
from gpu4d.bragg.explain import Candidates, explain_disks
from gpu4d.bragg.find_bragg_disks import BraggDisks, find_bragg_disks
from gpu4d.bragg.friedel import friedel_symmetry
from gpu4d.bragg.hybrid_correlation import hybrid_correlation
from gpu4d.bragg.refine_lattice import refine_lattice
from gpu4d.bragg.template_from_scan.refine_template import refine_template
from gpu4d.bragg.vector_map import bragg_vector_map

__all__ = [
    "BraggDisks",
    "Candidates",
    "DirectBeam",
    "LatticeAperture",
    "bragg_vector_map",
    "dark_field",
    "direct_beam",
    "explain_disks",
    "find_bragg_disks",
    "friedel_symmetry",
    "hybrid_correlation",
    "lattice_aperture",
    "refine_lattice",
    "refine_template",
    "reflection",
]


def __dir__() -> list[str]:
    return list(__all__)
