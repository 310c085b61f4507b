"""Example inputs of `integrate_iteratively`: those of `integrate_gradient`."""

from operations.examples.integrate_gradient import examples

__all__ = ["examples"]
