"""Find lattices in Bragg disks, and measure the strain of the crystal at every position."""

from gpu4d.crystal.brightness import Together, strain_and_brightness
from gpu4d.crystal.cepstral_lattice import CepstralFit, CepstralVectors, cepstral_lattice
from gpu4d.crystal.cepstral_nodes import Nodes
from gpu4d.crystal.cepstrum import power_cepstrum
from gpu4d.crystal.dilation import Dilation, dilation_and_spacing
from gpu4d.crystal.find_lattice import find_lattice
from gpu4d.crystal.find_lattices import find_lattices
from gpu4d.crystal.fit_lattice import LatticeFit, fit_lattice
from gpu4d.crystal.fit_lattices import LatticesFit, fit_lattices
from gpu4d.crystal.free_of_origin import lattice_free_of_origin
from gpu4d.crystal.lattice import Lattice
from gpu4d.crystal.lengths import Lengths, lattice_lengths
from gpu4d.crystal.mean_cepstrum import MeanCepstrum, mean_cepstrum
from gpu4d.crystal.relation import Relation
from gpu4d.crystal.several_lattices import Lattices
from gpu4d.crystal.strain import Strain, strain_map
from gpu4d.crystal.technique import Suggestion, suggest_technique

__all__ = [
    "CepstralFit",
    "CepstralVectors",
    "Dilation",
    "Lattice",
    "LatticeFit",
    "Lattices",
    "LatticesFit",
    "Lengths",
    "MeanCepstrum",
    "Nodes",
    "Relation",
    "Strain",
    "Suggestion",
    "Together",
    "cepstral_lattice",
    "dilation_and_spacing",
    "find_lattice",
    "find_lattices",
    "fit_lattice",
    "fit_lattices",
    "lattice_free_of_origin",
    "lattice_lengths",
    "mean_cepstrum",
    "power_cepstrum",
    "strain_and_brightness",
    "strain_map",
    "suggest_technique",
]


def __dir__() -> list[str]:
    return list(__all__)
