"""Patterns of disks and sharp spots with known places, for tests."""

import numpy as np

FINE = 15  # points along a side of a pixel that integrates over its area


def disk(shape, center, radius, edge=0.8, integrated=False):
    """A disk with a soft edge: its values at the centres of the pixels, or their means over the pixels."""
    part = (np.arange(FINE) - (FINE - 1) / 2) / FINE if integrated else np.zeros(1)
    x, y = ((np.arange(n)[:, None] + part).ravel() - c for n, c in zip(shape, center))
    values = 1 / (1 + np.exp(np.clip(4 * (np.hypot(x[:, None], y) - radius) / edge, -60, 60)))
    return values.reshape(shape[0], len(part), shape[1], len(part)).mean((1, 3))


def lattice(center, g1, g2, orders=2):
    """Places h g1 + k g2 about a centre, and their (h, k)."""
    hk = [(h, k) for h in range(-orders, orders + 1) for k in range(-orders, orders + 1)]
    return np.array([np.asarray(center) + h * np.asarray(g1) + k * np.asarray(g2) for h, k in hk]), hk


def crystal(shape=(96, 96), center=(47.7, 47.2), radius=5.0, top=200.0, strong=None, background=0.05):
    """Mean pattern of a crystal with disks on a lattice. `strong` is the brightness of the disk (1, 0), in that of the direct beam."""
    places, orders = lattice(center, (17.0, 2.0), (-2.0, 17.0))
    mean = np.full(shape, background)
    for at, (h, k) in zip(places, orders):
        weight = 1.0 if h == k == 0 else 0.25 * np.exp(-0.15 * (h * h + k * k))
        mean += top * (strong if strong and (h, k) == (1, 0) else weight) * disk(shape, at, radius)
    return mean
