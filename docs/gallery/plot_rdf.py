"""
Distances of the atoms in a glass
=================================

The pair distribution of a glass and its first shell of neighbours are computed from a scan. The glass is simulated as hard spheres.
"""

import numpy as np

import gpu4d


def structure_factor(k, diameter=2.6, filled=0.46, blur=0.12):
    """S(k) of hard spheres, blurred as by vibration."""
    s, x = np.linspace(0, 1, 401)[1:], 2 * np.pi * k[..., None] * diameter
    a, b = (1 + 2 * filled) ** 2 / (1 - filled) ** 4, -6 * filled * (1 + filled / 2) ** 2 / (1 - filled) ** 4
    integral = np.trapezoid(s**2 * (a + b * s + filled * a / 2 * s**3) * np.sinc(s * x / np.pi), s, axis=-1)
    return 1 + (1 / (1 + 24 * filled * integral) - 1) * np.exp(-((2 * np.pi * k * blur) ** 2) / 2)


fine = np.linspace(0, 3, 601)  # 1/Å
intensity = gpu4d.structures.electron_scattering_factor("Cu", fine) ** 2 * structure_factor(fine)
k = 0.03 * np.hypot(*(np.indices((128, 128)) - 63.5))
counts = np.random.default_rng(0).poisson(60 * np.interp(k, fine, intensity) + 8 / (k + 0.1), (6, 6, 128, 128)).astype("uint16")
cube = gpu4d.DataCube(counts, gpu4d.Calibration(q_pixel=0.03, origin=(63.5, 63.5), semiangle=0.3, energy=200e3))

found = gpu4d.rdf(cube, composition="Cu")
print(f"first peak at {found.peak:.3f} ± {found.peak_error:.3f} Å, {found.coordination:.1f} atoms in the first shell")
picture = gpu4d.plot.pair_distribution(found)
