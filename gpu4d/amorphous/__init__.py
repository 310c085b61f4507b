"""Glasses: radial distribution function, fluctuation microscopy and strain from diffuse rings."""

from gpu4d.amorphous._rdf import rdf
from gpu4d.amorphous.rdf_result import RDF
from gpu4d.amorphous.sine_transform import sine_transform

__all__ = ["RDF", "rdf", "sine_transform"]


def __dir__() -> list[str]:
    return list(__all__)
