"""Mean radii of rings: against plain means of distances, and what they are for."""

import numpy as np
import pytest

import gpu4d
from gpu4d.calibrate import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.rings import mean_radii, radii

SHAPE, CENTER = (41, 36), (19.7, 17.2)


@pytest.mark.parametrize("ellipse", [None, (1.2, 1.0, 0.5)])
def test_they_are_means_of_distances(ellipse):
    mask = np.ones(SHAPE, bool)
    mask[15:25, :18] = False
    v = np.moveaxis(np.indices(SHAPE), 0, -1) - CENTER
    r = np.hypot(*np.moveaxis(v if ellipse is None else v @ ellipse_matrix(ellipse).T, -1, 0))
    found = mean_radii(SHAPE, CENTER, n_r=24, r_max=18.0, ellipse=ellipse, mask=mask)
    for i in range(24):
        ring = mask & (r >= i * 0.75) & (r < (i + 1) * 0.75)
        assert (np.isnan(found[i]) and not ring.any()) or found[i] == pytest.approx(r[ring].mean(), rel=1e-9)


def test_a_straight_profile_is_exact_at_the_mean_radii_only():
    """The middles of the rings are off by a tenth of a pixel and more."""
    x, y = np.indices((81, 81)) - 40.0
    profile = gpu4d.radial_profile(3 * np.hypot(x, y), (40, 40), n_r=40, r_max=40.0)
    found = mean_radii((81, 81), (40, 40), n_r=40, r_max=40.0)
    np.testing.assert_allclose(profile, 3 * found, rtol=1e-12)
    off = np.abs(found - radii(40, 40.0))[2:]
    assert off.max() > 0.05 and off.max() < 0.3


def test_many_origins_are_averaged_and_missing_ones_are_left_out():
    origins = CENTER + np.random.default_rng(0).uniform(-1, 1, (20, 20, 2))
    found = mean_radii(SHAPE, origins, n_r=16, r_max=16.0)
    assert np.abs(found - radii(16, 16.0))[3:].max() < 0.02, "pixels lie everywhere in the rings"
    origins[1:] = np.nan
    one_row = mean_radii(SHAPE, origins, n_r=16, r_max=16.0)
    np.testing.assert_allclose(one_row, mean_radii(SHAPE, origins[:1], n_r=16, r_max=16.0))


def test_what_is_refused():
    with pytest.raises(InputError, match="no finite origin"):
        mean_radii(SHAPE, (np.nan, 3.0))
    with pytest.raises(InputError, match="two whole numbers"):
        mean_radii((3,), CENTER)
    with pytest.raises(InputError, match="mask is"):
        mean_radii(SHAPE, CENTER, mask=np.ones((3, 3), bool))
    with pytest.raises(InputError, match="need positive numbers"):
        mean_radii(SHAPE, CENTER, n_r=0)
    with pytest.raises(InputError, match="a ≥ b > 0"):
        mean_radii(SHAPE, CENTER, ellipse=(1.0, 2.0, 0.0))
