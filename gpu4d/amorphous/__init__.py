"""Glasses: radial distribution function, fluctuation microscopy and strain from diffuse rings."""

from gpu4d.amorphous._amorphous_strain import amorphous_strain
from gpu4d.amorphous._fem import FEM, fem
from gpu4d.amorphous._halo_reference import halo_reference
from gpu4d.amorphous._rdf import rdf
from gpu4d.amorphous.crystallites import Crystallites, find_crystallites
from gpu4d.amorphous.ellipse_strain import ellipse_to_strain
from gpu4d.amorphous.fem_maps import fem_map, fem_regions
from gpu4d.amorphous.fem_variants import Variance
from gpu4d.amorphous.grouping import GroupedProfiles, group_profiles
from gpu4d.amorphous.pattern_moments import PatternMoments, PixelSums
from gpu4d.amorphous.rdf_result import RDF
from gpu4d.amorphous.reference_ring import HaloReference
from gpu4d.amorphous.result import AmorphousStrain
from gpu4d.amorphous.ring_strain import RingStrain
from gpu4d.amorphous.sine_transform import sine_transform
from gpu4d.amorphous.spot_fluctuation import SpotFluctuation, SpotRings

__all__ = [
    "FEM",
    "RDF",
    "AmorphousStrain",
    "Crystallites",
    "GroupedProfiles",
    "HaloReference",
    "PatternMoments",
    "PixelSums",
    "RingStrain",
    "SpotFluctuation",
    "SpotRings",
    "Variance",
    "amorphous_strain",
    "ellipse_to_strain",
    "fem",
    "fem_map",
    "fem_regions",
    "find_crystallites",
    "group_profiles",
    "halo_reference",
    "rdf",
    "sine_transform",
]


def __dir__() -> list[str]:
    return list(__all__)
