"""The shape of a disk between the pixels."""

import numpy as np

from gpu4d.probe.shape.disk_shape import FINE, _Tabulated


def test_a_tabulated_profile_is_numpys_interpolation_to_the_last_bit():
    rng = np.random.default_rng(0)
    at = np.arange(0.0, 37.3, FINE)
    tabulated = _Tabulated(at, lambda r: 1 / (1 + np.exp(4 * (r - 5.8) / 0.7)))
    radii = np.concatenate([rng.uniform(0, 45, 200_000), at, np.nextafter(at, 99), np.nextafter(at[1:], -1), [at[-1] + 1e-9, 1e6]])
    assert tabulated(radii).tobytes() == np.interp(radii, at, tabulated.values).tobytes()
