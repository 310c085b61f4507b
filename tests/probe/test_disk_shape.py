"""The shape of a disk between the pixels."""

import numpy as np

from gpu4d.probe.shape.disk_shape import FINE, tabulated


def test_a_tabulated_profile_is_numpys_interpolation_to_the_last_bit():
    def edge(r):
        return 1 / (1 + np.exp(4 * (r - 5.8) / 0.7))

    rng, at = np.random.default_rng(0), np.arange(0.0, 37.3, FINE)
    radii = np.concatenate([rng.uniform(0, 45, 200_000), at, np.nextafter(at, 99), np.nextafter(at[1:], -1), [at[-1] + 1e-9, 1e6]])
    assert tabulated(edge, 37.3)(radii).tobytes() == np.interp(radii, at, edge(at)).tobytes()
