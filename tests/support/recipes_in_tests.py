"""Recipes by their settings."""

import numpy as np

from gpu4d.crystal.lattice import Lattice
from gpu4d.workflow import Recipe


def recipe(**settings):
    """recipe(bragg__power=0.9)"""
    made = Recipe()
    for name, value in settings.items():
        made.set(name.replace("__", "."), value, origin="test")
    made.check()
    return made


def lattice(g, fraction=0.98):
    return Lattice(np.array([g, 0.0]), np.array([0.0, g + 1]), indexed_fraction=fraction, chance=0.12)
