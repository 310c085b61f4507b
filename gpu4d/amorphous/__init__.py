"""Diffuse scattering: polar transforms and radial profiles."""

from gpu4d.amorphous.polar_transform import radial_sums, radii
from gpu4d.amorphous.profiles import RadialProfile, polar_transform, radial_profile

__all__ = ["RadialProfile", "polar_transform", "radial_profile", "radial_sums", "radii"]


def __dir__() -> list[str]:
    return list(__all__)
