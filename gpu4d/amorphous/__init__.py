"""Glasses: radial distribution function, fluctuation microscopy and strain from diffuse rings."""

from gpu4d.amorphous._rdf import rdf
from gpu4d.amorphous.grouping import GroupedProfiles, group_profiles
from gpu4d.amorphous.rdf_result import RDF
from gpu4d.amorphous.sine_transform import sine_transform

__all__ = ["RDF", "GroupedProfiles", "group_profiles", "rdf", "sine_transform"]


def __dir__() -> list[str]:
    return list(__all__)
