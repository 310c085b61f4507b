"""
Drift of two scans
==================

A specimen drifts while it is scanned. Two scans with crossing rows show where each position really was.
"""

import numpy as np

import gpu4d

atoms = np.random.default_rng(1).uniform(0, 25.6, (120, 2))  # Å


def glass(x, y):
    """A phase of many atoms, repeated with the cell."""
    near = [(v[..., None] - atoms[:, axis] + 12.8) % 25.6 - 12.8 for axis, v in enumerate((x, y))]
    return 0.3 * np.exp(-(near[0] ** 2 + near[1] ** 2) / (2 * 0.6**2)).sum(-1)


i, j = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
drift = np.array([2.4, -1.6])  # Å while one scan takes place
nominal = 4.0 + 0.4 * np.stack([i, j], -1)
true = nominal + drift * ((i + j / 40) / 40)[..., None], nominal + drift * ((j + i / 40) / 40)[..., None]
optics = {"object": glass, "r_pixel": 0.4, "cell": 25.6, "semiangle": 14.0, "energy": 200e3, "dose": 2e4}
first, second = (gpu4d.simulate.phase_object_scan((40, 40), (40, 40), positions=places, seed=5, **optics).cube for places in true)

found = gpu4d.scan_drift(first, second, angle=0.0, fast_axes=(1, 0))
print(f"positions are off by {np.std(found.positions[0] - true[0]):.2f} Å; without the correction {np.std(true[0] - nominal):.2f} Å")
ring = gpu4d.detectors.annulus(16.0, 30.0, center=(20, 20))
picture = gpu4d.plot.drift(found, [gpu4d.virtual_image(cube, ring) for cube in (first, second)], "Two scans, and their average")
