"""Diffuse scattering: polar transforms and radial profiles."""

from gpu4d.amorphous.polar import polar_transform, radial_profile, radial_sums, radii

__all__ = ["polar_transform", "radial_profile", "radial_sums", "radii"]
