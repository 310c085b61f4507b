"""Mean profiles of neighbourhoods and labels against plain loops, their errors against repeated measurements, maps of distances."""

import numpy as np
import pytest
from glasses import factor, structure_factor

from gpu4d.amorphous import group_profiles, rdf
from gpu4d.errors import InputError

RNG = np.random.default_rng(0)
PROFILES = RNG.uniform(1, 2, (7, 5, 4))
PROFILES[2, 3] = np.nan
PROFILES[4, 1, 2] = np.nan
WHERE = np.ones((7, 5), bool)
WHERE[0, 0] = WHERE[6, 4] = False
WEIGHTS = RNG.uniform(0, 2, (7, 5))


@pytest.mark.parametrize("window", [1, 3, 5, 99])
def test_neighbourhoods(window):
    found = group_profiles(PROFILES, window=window, where=WHERE, weights=WEIGHTS)
    values = np.where(WHERE[..., None], PROFILES, np.nan)
    half = window // 2
    for x in range(7):
        for y in range(5):
            part = (slice(max(x - half, 0), x + half + 1), slice(max(y - half, 0), y + half + 1))
            w = np.where(np.isfinite(values[part]), WEIGHTS[part][..., None], 0.0)
            with np.errstate(invalid="ignore"):
                expected = (w * np.nan_to_num(values[part])).sum(axis=(0, 1)) / w.sum(axis=(0, 1))
            np.testing.assert_allclose(found.mean[x, y], expected, rtol=1e-9)
            assert found.positions[x, y] == np.isfinite(values[part]).sum(axis=(0, 1)).max()
    assert found.mean.shape == (7, 5, 4) and found.labels.shape == (0,)


def test_labels():
    labels = np.array(["aabbc"] * 7)
    labels = np.array([[ord(letter) - 96 for letter in row] for row in labels])
    labels[:, 4] = -1
    found = group_profiles(PROFILES, labels=labels, where=WHERE)
    assert found.labels.tolist() == [1, 2]
    for i, label in enumerate((1, 2)):
        np.testing.assert_allclose(found.mean[i], np.nanmean(PROFILES[(labels == label) & WHERE], axis=0))
    assert found.positions.tolist() == [13, 13] and "2 groups, 4 rings" in repr(found)


def test_errors_are_the_scatter_without_that_of_the_thickness():
    true = np.array([100.0, 60.0, 30.0, 20.0])
    thickness = RNG.uniform(0.5, 1.5, (40, 50, 1))
    profiles = thickness * true + RNG.normal(size=(40, 50, 4)) * np.sqrt(true)
    labels = np.arange(2000).reshape(40, 50) // 20
    found = group_profiles(profiles, labels=labels)
    light = thickness.reshape(100, 20).mean(axis=1)[:, None]
    scatter = (found.mean / light).std(axis=0)
    np.testing.assert_allclose(np.sqrt((found.error**2).mean(axis=0)), scatter, rtol=0.25)
    even = group_profiles(profiles, labels=labels, weights=np.ones((40, 50)))
    np.testing.assert_allclose(even.error, found.error)


def test_a_map_of_distances():
    """Two glasses side by side, one of spheres 3 % smaller: what each neighbourhood shows, and what is masked does not count."""
    k = np.arange(0.01, 2.4, 0.03)
    sizes = np.where(np.arange(12) < 6, 1.0, 0.97)
    true = np.array([structure_factor(k * size) for size in sizes])
    profiles = 1e5 * factor(k) ** 2 * np.repeat(true[:, None], 5, axis=1)
    profiles[3, 2] *= 1 + 5 * (np.abs(k - 0.6) < 0.05)  # a crystal
    where = np.ones((12, 5), bool)
    where[3, 2] = False
    grouped = group_profiles(profiles, window=3, where=where)
    found = rdf(grouped.mean, error=grouped.error, k=k, factor=factor, background=None)
    assert found.peak.shape == (12, 5)
    np.testing.assert_allclose(found.peak[:5], found.peak[0, 0], atol=1e-6)
    np.testing.assert_allclose(found.peak[7:] / found.peak[0, 0], 0.97, atol=4e-3)
    np.testing.assert_allclose(found.density[7:] / found.density[0, 0], 0.97**-3, rtol=0.03)


def test_empty_scans_and_groups():
    assert group_profiles(np.zeros((0, 3, 4)), window=3).mean.shape == (0, 3, 4)
    assert group_profiles(np.zeros((2, 3, 4)), labels=-np.ones((2, 3))).mean.shape == (0, 4)
    nothing = group_profiles(np.full((2, 3, 4), np.nan), window=3)
    assert np.isnan(nothing.mean).all() and np.isnan(nothing.error).all() and (nothing.positions == 0).all()
    one = group_profiles(np.ones((1, 1, 4)), window=1)
    assert one.mean.tolist() == [[[1.0] * 4]] and np.isnan(one.error).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "need one of window="),
        ({"window": 3, "labels": np.zeros((7, 5))}, "need one of window="),
        ({"window": 2}, "need an odd whole number"),
        ({"window": -1}, "need an odd whole number"),
        ({"labels": np.zeros((5, 7))}, "labels has shape"),
        ({"labels": np.full((7, 5), 0.5)}, "no whole numbers"),
        ({"labels": np.full((7, 5), np.nan)}, "no whole numbers"),
        ({"window": 3, "weights": -WEIGHTS}, "one finite weight"),
        ({"window": 3, "where": WHERE[1:]}, "where is"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        group_profiles(PROFILES, **options)
    with pytest.raises(InputError, match="need \\(Rx, Ry, n\\)"):
        group_profiles(PROFILES[0], window=3)
