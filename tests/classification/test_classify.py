"""Classes of scans whose truth is known: simulated ones, and the shared file of two phases."""

import functools

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.classification import Classes, ClassPatterns, SpotCounts, cooccurrence_seeds, disk_features, factorise, vector_map_maxima
from gpu4d.classification.fractions import shares, standard_errors
from gpu4d.errors import InputError
from gpu4d.testing.reductions import ReductionTests

RADIUS = 3.19


@functools.cache
def two_phase(file, dose):
    """Cube, disks, true fractions (N, 4) and labels. Patterns with many counts are searched without the likelihood, which takes longer."""
    with h5py.File(file) as f:
        cube = gpu4d.DataCube(f[f"poisson_{dose}"][:])
        truth = f["truth/fractions"][:]
    disks = gpu4d.find_bragg_disks(cube, gpu4d.probe.synthetic((96, 96), RADIUS), refine="parabola")
    return cube, disks, truth


def judged(found: Classes, truth):
    """Share of right labels and rms of fractions, with the classes in the order of the truth."""
    from scipy.optimize import linear_sum_assignment

    share = np.asarray(found.fractions).reshape(len(found), -1)
    assert len(found) == truth.shape[-1]
    _, order = linear_sum_assignment(-(share @ truth.reshape(-1, truth.shape[-1])))
    moved = np.moveaxis(truth, -1, 0)[order]
    return (found.label == moved.argmax(0)).mean(), np.sqrt(((np.asarray(found.fractions) - moved) ** 2).mean()), order


@pytest.mark.parametrize(("dose", "labels", "fractions"), [(300, 0.88, 0.06), pytest.param(3000, 0.95, 0.06, marks=pytest.mark.slow)])
def test_two_phases_an_orientation_and_a_glass(shared_data, need, dose, labels, fractions):
    need("sklearn")
    cube, disks, truth = two_phase(shared_data / "two_phase.h5", dose)
    found = gpu4d.classify(disks, cube, radius=RADIUS)
    right, rms, order = judged(found, truth)
    assert right >= labels and rms <= fractions
    assert [found.kinds[j] == "amorphous" for j in range(4)] == (order == 3).tolist()
    assert not found.warnings and "not by physics" in repr(found) and found.caveat in found.report()
    between = (np.moveaxis(truth, -1, 0)[order] > 0.1) & (np.moveaxis(truth, -1, 0)[order] < 0.9)
    off = (np.asarray(found.fractions) - np.moveaxis(truth, -1, 0)[order]) / np.asarray(found.errors)
    assert 0.7 < np.sqrt((off[between] ** 2).mean()) < 1.5, "errors are as large as stated"


@pytest.mark.parametrize("pure", [0, 2])
def test_one_bent_phase_stays_one_class(shared_data, need, pure):
    need("sklearn")
    cube, disks, truth = two_phase(shared_data / "two_phase.h5", 300)
    found = gpu4d.classify(disks, cube, radius=RADIUS, where=truth[..., pure] > 0.98)
    assert len(found) == 1 and found.kinds == ("crystal",)
    assert (found.label[truth[..., pure] <= 0.98] == -1).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nmf", "domains"])
def test_other_ways_to_split_find_the_same(shared_data, need, method):
    need("sklearn")
    cube, disks, truth = two_phase(shared_data / "two_phase.h5", 300)
    right, rms, _ = judged(gpu4d.classify(disks, cube, radius=RADIUS, method=method), truth)
    assert right >= 0.95 and rms <= 0.06


@functools.cache
def foil():
    """A foil of random amplitudes and uneven thickness, beside vacuum."""
    scan = gpu4d.simulate.bragg_scan((10, 10), (64, 64), radius=3.5, spacing=15.0, thickness=0.4, vacuum_rows=3, dose=40.0, seed=4)
    return scan, gpu4d.find_bragg_disks(scan.cube, scan.probe)


def test_a_foil_beside_vacuum(need):
    need("sklearn")
    scan, disks = foil()
    found = gpu4d.classify(disks, scan.cube, template=scan.probe, parts=4)
    assert found.kinds == ("crystal", "no disks")
    np.testing.assert_array_equal(found.label == 0, scan.truth["specimen"])
    np.testing.assert_allclose(np.asarray(found.fractions).sum(0), 1.0)
    length = np.hypot(*(scan.truth["hk"] @ np.stack([scan.truth["g1"], scan.truth["g2"]])).T)
    inside = np.sort(length[(length > 0) & (length < 25)])  # of the others the detector sees a part
    np.testing.assert_allclose(np.sort(np.hypot(*found.spots.T))[: len(inside)], inside, atol=0.5)
    assert found.patterns.shape == (2, 64, 64)


def test_disks_alone_split_by_hand_and_joined_again(need):
    need("sklearn")
    scan, disks = foil()
    found = gpu4d.classify(disks, radius=3.5, parts=2)
    assert found.kinds == ("crystal", "no disks") and found.patterns is None and "only found disks" in found.report()
    np.testing.assert_array_equal(found.label == 0, scan.truth["specimen"])
    split = found.split(0)
    assert len(split) == 3 and "one phase" in split.warnings[-1]
    joined = split.merge(1, 2).with_patterns(scan.cube)
    assert len(joined) == 2 and set(joined.label.ravel()) == {0, 1}
    np.testing.assert_allclose(np.asarray(joined.fractions).sum(0), 1.0)
    assert np.isfinite(np.asarray(joined.patterns)).all()
    for wrong in (lambda: found.merge(0), lambda: found.merge(0, 7), lambda: found.split(3)):
        with pytest.raises(InputError, match=r"name at least two|numbers from 0"):
            wrong()


def test_more_classes_than_there_are_is_said(need):
    need("sklearn")
    scan, disks = foil()
    found = gpu4d.classify(disks, scan.cube, template=scan.probe, classes=2, parts=3, where=scan.truth["specimen"])
    assert len(found) == 2 and any("one phase may have been split" in text for text in found.warnings)


def test_classes_that_cannot_be_made_are_said(need):
    need("sklearn")
    scan, disks = foil()
    found = gpu4d.classify(disks, scan.cube, template=scan.probe, classes=50, parts=3)
    assert len(found) < 50 and f"50 classes were asked for and {len(found)} could be made" in found.warnings[0]
    assert found.warnings[0] in found.report()


def test_errors_say_what_to_do(need, monkeypatch):
    need("sklearn")
    scan, disks = foil()
    for options, says in (
        ({"method": "cluster"}, "did you mean 'clusters'"),
        ({"smooth": -1.0}, "need 'auto'"),
        ({"classes": 0}, "classes=0: need at least 1"),
        ({"classes": -2}, "need at least 1"),
        ({"classes": 2.5}, "whole number"),
        ({}, "give radius="),
        ({"cube": scan.cube.crop(rx=slice(0, 3))}, "need the cube in which they were found"),
        ({"radius": 0.0}, "positive number"),
    ):
        with pytest.raises(InputError, match=says):
            gpu4d.classify(disks, **options)
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(InputError, match=r"pip install 'gpu4d\[classify\]'"):
        gpu4d.classify(disks, radius=3.0)


def test_maxima_and_features_of_disks():
    spots = np.array([[12.0, 3.0], [-12.0, -3.0], [3.0, -12.0]])
    rng = np.random.default_rng(0)
    q = np.concatenate([np.zeros((1, 2)), spots]) + 32.0
    where = np.tile(q, (20, 1)) + rng.normal(0, 0.2, (80, 2))
    disks = gpu4d.PointListArray(
        np.arange(21) * 4, {"qx": where[:, 0], "qy": where[:, 1], "intensity": np.tile([9.0, 1, 2, 3], 20)}, (4, 5)
    )
    found = vector_map_maxima(disks, 3.0, origin=(32.0, 32.0))
    assert found.shape == (3, 2)
    order = [int(np.argmin(np.hypot(*(found - s).T))) for s in spots]
    np.testing.assert_allclose(found[order], spots, atol=0.2)
    values = disk_features(disks, found[order], origin=(32.0, 32.0))
    np.testing.assert_array_equal(values, np.broadcast_to([1.0, 2.0, 3.0], (4, 5, 3)))
    shown = disk_features(disks, found[order], origin=(32.0, 32.0), reach=0.01, kind="boolean")
    assert set(np.unique(shown)) <= {0.0, 1.0} and shown.mean() < 0.2


def test_the_guides_factorisation_finds_phases_that_share_spots(need):
    need("sklearn")
    rng = np.random.default_rng(2)
    profiles = np.array([[9.0, 9, 9, 0, 0, 0, 0, 0], [9, 9, 9, 4, 4, 0, 0, 0], [0, 0, 0, 0, 0, 7, 7, 7]]) * 10
    label = np.repeat([0, 1, 2], 60)
    counts = rng.poisson(profiles[label]).astype(float)
    weights, found = factorise(counts, 3, start=cooccurrence_seeds(counts > 8, counts, 3))
    largest = np.argmax(weights * found.sum(1), axis=1)
    assert all(len(set(largest[label == k])) == 1 for k in (0, 2)) and len(set(largest)) >= 2
    assert np.sqrt(((weights @ found - profiles[label]) ** 2).mean()) < 6
    with pytest.raises(InputError, match="not negative"):
        factorise(-counts, 3)


def test_shares_are_most_probable_and_their_errors_true():
    rng = np.random.default_rng(1)
    profiles = np.array([[100.0, 5, 20, 0], [100, 40, 20, 0], [3, 3, 10, 90], [0, 0, 0, 0]])
    true = np.broadcast_to([0.5, 0.3, 0.2, 0.0], (4000, 4))
    counts = rng.poisson(true @ profiles).astype(float)
    found = shares(counts, profiles)
    share = found / found.sum(1, keepdims=True)
    np.testing.assert_allclose(share.mean(0), true[0], atol=0.01)
    error = standard_errors(found, profiles, 1.0)
    np.testing.assert_allclose(share.std(0)[:3], np.sqrt((error**2).mean(0))[:3], rtol=0.08)
    model = found @ profiles
    slope = (counts / np.maximum(model, 1e-12) - 1) @ profiles[:3].T / profiles[:3].sum(1)
    assert (slope < 1e-2).all(), "no share can be raised"


class TestSpotCounts(ReductionTests):
    def make(self):
        return SpotCounts([[3.0, 1.0], [-2.0, -3.0]], [1.5, 2.0], origin=(4.0, 4.0))


class TestClassPatterns(ReductionTests):
    def make(self):
        return ClassPatterns(np.random.default_rng(0).random((2, 13, 9)), (4.0, 4.0))


def test_classes_without_counts_have_shares_without_errors():
    assert (standard_errors(np.ones((3, 2)), np.zeros((2, 4)), 1.0) == 0).all()
