"""
An orientation map
==================

The orientations of three grains of gold are found from the positions and intensities of their Bragg disks. The legend is the sector of the
crystal's directions.
"""

import numpy as np

import gpu4d
from gpu4d import orientation

gold = gpu4d.structures.Structure.standard("Au")  # or Structure.read_cif("gold.cif")
turns = orientation.matrices_of(np.array([[0.4, 0.06, 1.0], [2.0, 0.74, 4.75], [1.0, 0.95, 0.75]]))


def disks_of(turn):
    """Positions and intensities of the reflections of a thin crystal, in place of `gpu4d.find_bragg_disks`."""
    reflections = gold.reflections(1.3)
    lab = reflections.g @ turn.T  # 1/Å
    s = orientation.excitation_error(lab, 1 / gpu4d.physics.wavelength(200e3))
    intensity = 100 * reflections.intensity / reflections.intensity.max() * np.sinc(40.0 * s) ** 2
    seen = intensity > 0.1
    return np.column_stack([64 + lab[seen, :2] / 0.02, intensity[seen]])


x, y = np.mgrid[:24, :32]
grain = np.argmin([np.hypot(x - a, y - b) for a, b in ((5, 7), (17, 13), (8, 25))], axis=0)
lists = [disks_of(turns[number]) for number in grain.ravel()]
fields = dict(zip(("qx", "qy", "intensity"), np.concatenate(lists).T))
disks = gpu4d.PointListArray(np.cumsum([0, *map(len, lists)]), fields, grain.shape)
calibration = gpu4d.Calibration(energy=200e3, q_pixel=0.02, origin=(64, 64), r_pixel=20.0, probe_radius=2.0)
found = orientation.match_orientations(disks, gold, calibration=calibration, thickness=40.0)
print("largest error, degrees:", np.degrees(found.angle_to(turns[grain])).max().round(3))
picture = gpu4d.plot.orientation_map(found, (0, 0, 1))
