"""Example inputs of `second_moments`: those of `center_of_mass`."""

from operations.examples.center_of_mass import examples

__all__ = ["examples"]
