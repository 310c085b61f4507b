"""The simulated scan of a glass: what its truth says of its patterns."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.simulate import amorphous_scan


def test_the_dose_and_the_origin_are_those_that_were_asked_for():
    scan = amorphous_scan((3, 4), (80, 84), radius=22.0, strain=None, dose=3e4, descan=0.0)
    totals = scan.cube.source.array.sum(axis=(2, 3))
    assert np.abs(totals - 3e4).max() < 5 * np.sqrt(3e4) + 0.01 * 3e4  # a beam off the middle lets less fall off the border
    same = amorphous_scan((3, 4), (80, 84), radius=22.0, strain=None, dose=3e4, descan=0.0)
    assert (same.cube.source.array == scan.cube.source.array).all()
    fit = gpu4d.calibrate.fit_halo(scan.cube.source.array.sum(axis=(0, 1)))
    assert np.abs(fit.center - scan.truth["origin"][0, 0]).max() < 0.1


def test_a_strained_pattern_is_the_profile_at_strained_places():
    """|Fᵀ q| is |V q|: with the F of the truth, rotation and all, the pattern is the profile there."""
    scan = amorphous_scan((4, 5), (64, 64), radius=18.0, strain_size=0.05, turn=0.5, noise=False, beam_radius=1.0)
    x, y = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    r, p = scan.truth["profile"].T
    for at in ((0, 1), (3, 4)):
        q = np.stack([x - scan.truth["origin"][at][0], y - scan.truth["origin"][at][1]], axis=-1)
        place = np.linalg.norm(q @ scan.truth["F"][at], axis=-1)
        far = np.linalg.norm(q, axis=-1) > 8
        np.testing.assert_allclose(scan.cube.source.array[at][far], np.interp(place, r, p)[far], rtol=2e-3)


def test_unstrained_rows_thickness_and_wrong_arguments():
    scan = amorphous_scan((4, 4), (48, 48), radius=13.0, unstrained_rows=2, thickness=0.3, seed=3)
    assert np.abs(scan.truth["exx"][:2]).max() < 1e-12 < np.abs(scan.truth["exx"][2:]).max()
    totals = scan.cube.source.array.sum(axis=(2, 3))
    assert totals.max() > 1.3 * totals.min()
    for options in ({"radius": -1.0}, {"dose": 0.0}, {"unstrained_rows": 9}, {"strain": "waves"}, {"ellipse": (1.0, 2.0, 0.0)}):
        with pytest.raises(InputError):
            amorphous_scan((4, 4), (48, 48), **options)
