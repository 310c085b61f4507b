"""Scenes of a few disks whose places are known."""

import disk_options
import numpy as np

from gpu4d.probe import synthetic, template


def scene(shape=(64, 64), n=4, seed=0, dose=200.0, radius=5.0, spots=6, edge=1.0, apart=3.0):
    """Poisson patterns with disks at known places, `apart` radii from each other and two from the border."""
    rng = np.random.default_rng(seed)
    patterns, places = [], []
    for _ in range(n):
        centers = []
        while len(centers) < spots:
            c = rng.uniform(2 * radius, np.array(shape) - 2 * radius - 1)
            if all(np.hypot(*(c - d)) > apart * radius for d in centers):
                centers.append(c)
        mean = 0.02 + sum(a * synthetic(shape, radius, tuple(c), edge) for a, c in zip(rng.uniform(0.3, 1, spots), centers))
        patterns.append(rng.poisson(dose * mean))
        places.append(centers)
    return np.array(patterns).astype("uint16"), np.array(places)


def operands(probe, edge=5, mask=None):
    return disk_options.operands(template(probe), edge, mask)


def matched(disks, truth, within=2.0):
    """Errors (n, 2) of found disks, and how many were missed and invented."""
    errors, missed, false = [], 0, 0
    for found, places in zip(disks, truth):
        p = np.stack([found.qx, found.qy], -1)
        d = np.hypot(*np.moveaxis(p[:, None] - places[None], -1, 0))
        near = d.min(0, initial=np.inf) < within
        errors.append((p[d.argmin(0)] - places)[near] if len(p) else np.zeros((0, 2)))
        missed, false = missed + int((~near).sum()), false + int((d.min(1, initial=np.inf) > within).sum())
    return np.concatenate(errors), missed, false
