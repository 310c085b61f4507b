"""Glasses: radial distribution function, fluctuation microscopy and strain from diffuse rings."""

from gpu4d.amorphous._fem import FEM, fem
from gpu4d.amorphous.crystallites import Crystallites, find_crystallites
from gpu4d.amorphous.fem_maps import fem_map, fem_regions
from gpu4d.amorphous.fem_variants import Variance
from gpu4d.amorphous.pattern_moments import PatternMoments, PixelSums
from gpu4d.amorphous.spot_fluctuation import SpotFluctuation, SpotRings

__all__ = [
    "FEM",
    "Crystallites",
    "PatternMoments",
    "PixelSums",
    "SpotFluctuation",
    "SpotRings",
    "Variance",
    "fem",
    "fem_map",
    "fem_regions",
    "find_crystallites",
]


def __dir__() -> list[str]:
    return list(__all__)
