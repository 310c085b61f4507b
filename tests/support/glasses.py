"""Glasses whose structure factor can be written down: hard spheres in the Percus–Yevick approximation, blurred by a Gaussian.

g(r) of hard spheres is exactly 0 below the diameter, so that G(r) = -4π ρ r there. The Gaussian does not change a straight line.
"""

import numpy as np

DIAMETER, FILLED, BLUR = 2.6, 0.46, 0.12  # Å, share of the volume, Å
DENSITY = 6 * FILLED / (np.pi * DIAMETER**3)  # 1/Å³


def structure_factor(k, blur=BLUR):
    """S(k) of the spheres, k = 1/d."""
    s = np.linspace(0, 1, 801)[1:]
    x = 2 * np.pi * np.asarray(k)[..., None] * DIAMETER
    n = FILLED
    alpha, beta = (1 + 2 * n) ** 2 / (1 - n) ** 4, -6 * n * (1 + n / 2) ** 2 / (1 - n) ** 4
    inside = s**2 * (alpha + beta * s + n * alpha / 2 * s**3)
    integral = np.trapezoid(inside * np.sinc(s * x / np.pi), s, axis=-1)
    hard = 1 / (1 + 24 * n * integral)
    return 1 + (hard - 1) * np.exp(-((2 * np.pi * np.asarray(k) * blur) ** 2) / 2)


def factor(k, scale=0.35):
    """A scattering factor, Å."""
    return 8.0 / (1 + (np.asarray(k) / scale) ** 2)
