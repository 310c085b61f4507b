"""Peaks of a crystal in known orientations, by the kinematical theory of a slab."""

import numpy as np

from gpu4d import physics
from gpu4d.data import PointListArray
from gpu4d.orientation.library import excitation_error

ENERGY, Q_PIXEL, ORIGIN = 200e3, 0.02, 64.0  # eV, 1/Å, px


def spots(structure, turn, *, thickness=40.0, g_max=1.3, least=1e-3, height=100.0):
    """Positions in lab axes (n, 2), 1/Å, and intensities (n,) of the reflections that one orientation shows."""
    found = structure.reflections(g_max)
    lab = found.g @ np.asarray(turn).T
    s = excitation_error(lab, 1 / physics.wavelength(ENERGY))
    intensity = found.intensity / found.intensity.max() * np.sinc(s * thickness) ** 2
    seen = intensity > least
    return lab[seen, :2], height * intensity[seen]


def disks_of(patterns, *, matrix=None, shape=None, direct=True):
    """Lists of disks in detector pixels of patterns [(positions in lab axes, intensities), …]; v_det = matrix v_lab."""
    lists = []
    for place, intensity in patterns:
        if direct:
            place, intensity = np.concatenate([[[0.0, 0.0]], place]), np.append(500.0, intensity)
        detector = place if matrix is None else place @ np.asarray(matrix).T
        lists.append(np.column_stack([ORIGIN + detector / Q_PIXEL, intensity]))
    table = np.concatenate(lists) if lists else np.zeros((0, 3))
    fields = dict(zip(("qx", "qy", "intensity"), table.T))
    fields |= {"sx": np.full(len(table), 0.02), "sy": np.full(len(table), 0.02)}
    return PointListArray(np.cumsum([0, *map(len, lists)]), fields, shape or (1, len(lists)))
