"""What the CPU search keeps from one call to the next: never an answer to arrays that have changed."""

import pickle
import weakref

import numpy as np
import pytest
from disk_options import operands
from gpu4d.cpu_fallback import find_disks as twin
from gpu4d.cpu_fallback.plane_transform import padded, panels_of

import gpu4d
from gpu4d.bragg import disk_search, template_transforms
from gpu4d.bragg.find_disks import PeakLimits, find_disks
from gpu4d.bragg.likelihood.fit import Fit
from gpu4d.probe import synthetic, template
from gpu4d.workflow import run

SHAPE = (62, 74)  # 2 · 31, 2 · 37


@pytest.fixture
def patterns():
    rng = np.random.default_rng(3)
    places = [(20.3, 31.6), (40.8, 50.1), (22.0, 55.5)]
    return rng.poisson(sum(60 * synthetic(SHAPE, 4.0, center=at) for at in places) + 0.1, (5, *SHAPE)).astype("uint16")


def found(patterns, spectrum, moments, allowed, mask=None, fill_width=4.0):
    disks = find_disks(patterns, spectrum, moments, allowed, mask=mask, fill_width=fill_width, limits=PeakLimits(min_spacing=6.0))
    assert disks.count.min() >= 3
    return disks


def agree(a, b):
    np.testing.assert_array_equal(a.count, b.count)
    np.testing.assert_allclose(a.qx, b.qx, atol=1e-3)
    np.testing.assert_allclose(a.intensity, b.intensity, rtol=1e-4)


def exact(*given, **options):
    with gpu4d.using("definition"):
        return found(*given, **options)


def given(radius, shape=SHAPE):
    return operands(template(synthetic(shape, radius)))


def test_transforms_of_a_template_are_kept_and_cannot_be_written_to():
    first, second = given(4.0), given(4.0)
    assert first[0] is second[0] and first[1] is second[1]
    assert not any(a.flags.writeable for a in first[:2])
    assert given(5.0)[0] is not first[0]


def test_another_template_of_the_same_shape_is_another_search(patterns):
    for radius in (4.0, 5.0, 4.0):
        agree(found(patterns, *given(radius)), exact(patterns, *given(radius)))


def test_arrays_changed_in_place_are_seen(patterns):
    spectrum, moments, allowed = (a.copy() for a in given(4.0))
    before = found(patterns, spectrum, moments, allowed)
    spectrum *= 2
    moments *= 4
    after = found(patterns, spectrum, moments, allowed)
    agree(after, exact(patterns, spectrum, moments, allowed))
    assert np.nanmin(after.intensity / before.intensity) > 1.9


def test_a_view_of_something_else_is_not_kept(patterns):
    spectrum, moments, allowed = (a.copy() for a in given(4.0))
    views = spectrum[:], moments[:]
    for view in views:
        view.flags.writeable = False
    before = found(patterns, *views, allowed)
    spectrum *= 2
    moments *= 4
    assert np.nanmin(found(patterns, *views, allowed).intensity / before.intensity) > 1.9


def test_masks_are_told_apart(patterns):
    masks = [np.ones(SHAPE, bool) for _ in range(3)]
    masks[1][30:33] = False
    masks[2][:, 40:42] = False
    for mask in (*masks, masks[1]):
        agree(found(patterns, *given(4.0), mask=mask), exact(patterns, *given(4.0), mask=mask))
    masks[0][18:20, 30:33] = False  # in place
    agree(found(patterns, *given(4.0), mask=masks[0]), exact(patterns, *given(4.0), mask=masks[0]))


@pytest.fixture
def prepared(monkeypatch):
    """Counts what is prepared: searches, template transforms, fits."""
    counted = {"searches": 0, "correlations": 0, "fits": 0}
    for kind, name in ((disk_search.DiskSearch, "searches"), (disk_search.Correlation, "correlations"), (Fit, "fits")):

        def counting(*given, name=name, prepare=kind.prepare, **options):
            counted[name] += 1
            return prepare(*given, **options)

        monkeypatch.setattr(kind, "prepare", counting)
    return counted


ONCE = {"searches": 1, "correlations": 1, "fits": 1}


def test_one_call_prepares_once(patterns, prepared):
    gpu4d.find_bragg_disks(patterns, template(synthetic(SHAPE, 4.0)), refine="likelihood")
    assert prepared == ONCE


@pytest.mark.parametrize("more", [{}, {"positions": [(0, 1)]}, {"where": np.arange(20).reshape(1, 20) > 0}], ids=["scan", "tried", "where"])
def test_one_call_on_a_scan_prepares_once(patterns, prepared, more):
    """Its choice of the parameters, and every update, take the same search."""
    mask = np.ones(SHAPE, bool)
    mask[30:33] = False
    cube = gpu4d.DataCube(np.resize(patterns, (1, 20, *SHAPE)), detector_mask=mask)
    gpu4d.find_bragg_disks(cube, template(synthetic(SHAPE, 4.0)), progress=False, **more)
    assert prepared["searches"] == prepared["correlations"] == 1


def test_one_run_prepares_four_times(prepared, tmp_path):
    """Once for the mean pattern, whose disks tell the direct beam, once for the trial, once for the scan, whose template is another,
    and once for faint reflections in sums of patterns. Its pictures take the search of the scan."""
    scan = gpu4d.simulate.bragg_scan((6, 6), (64, 64), radius=4.0, spacing=14.0, descan=0.0, seed=2)
    gpu4d.save(tmp_path / "scan.h5", {"cube": scan.cube})
    prepared["searches"] = prepared["correlations"] = 0
    run(tmp_path / "scan.h5", tmp_path / "out")
    assert (tmp_path / "out" / "disks.png").is_file()
    assert prepared["searches"] == prepared["correlations"] == 4


@pytest.mark.parametrize("refine", ["auto", "likelihood", "correlation"])
def test_one_reduction_prepares_once(patterns, prepared, refine):
    cube = gpu4d.DataCube(np.resize(patterns, (5, 4, *SHAPE)))
    reduction = gpu4d.BraggDisks(template(synthetic(SHAPE, 4.0)), refine=refine)
    found = [gpu4d.sweep(cube, reduction, memory=memory, progress=False) for memory in (None, "4 MB")]
    assert prepared == {**ONCE, "fits": int(refine != "correlation")}
    np.testing.assert_array_equal(found[0].flat("qx"), found[1].flat("qx"))


def test_a_search_is_prepared_anew_where_mask_or_dtype_differ(patterns, prepared):
    mask = np.ones(SHAPE, bool)
    reduction = gpu4d.BraggDisks(template(synthetic(SHAPE, 4.0)))
    first = reduction.prepare(np.dtype("uint16"), mask)
    assert reduction.prepare(np.dtype("int32"), mask.copy()) is first and first.refinement == "likelihood"
    mask[30:33] = False
    second = reduction.prepare(np.dtype("uint16"), mask)
    assert not second.correlation.mask.all() and first.correlation.mask.all()
    assert reduction.prepare(np.dtype("float32"), mask).refinement == "correlation"
    assert prepared["searches"] == 3


def test_a_prepared_reduction_can_be_pickled(patterns):
    reduction = gpu4d.BraggDisks(template(synthetic(SHAPE, 4.0)))
    cube = gpu4d.DataCube(np.resize(patterns, (5, 4, *SHAPE)))
    found = [gpu4d.sweep(cube, r, progress=False) for r in (reduction.choose(cube), pickle.loads(pickle.dumps(reduction)))]
    np.testing.assert_array_equal(found[0].flat("qx"), found[1].flat("qx"))


def test_what_is_made_of_a_template_is_made_once(patterns, monkeypatch):
    made = []
    monkeypatch.setattr(twin, "panels_of", lambda *a: made.append(1) or panels_of(*a))
    a = given(4.5)
    for _ in range(3):
        found(patterns, *a)
    assert len(made) == 1


def test_memory_that_runs_out_leaves_no_scratch_of_another_size(patterns, monkeypatch):
    """A sweep tries again: with less, or with as much."""
    zeros, seen, fail = twin.zeros, [], [True]

    def runs_out(*shape):
        if fail.pop() if fail else False:
            raise MemoryError
        return zeros(*shape)

    find_disks(patterns[:, :40, :40], *given(4.0, (40, 40)))
    monkeypatch.setattr(twin, "zeros", runs_out)
    monkeypatch.setattr(twin, "_find", lambda pixels, search, filling, primes, samples, work, *out: seen.append(work.plane.shape))
    with pytest.raises(MemoryError):
        find_disks(patterns, *given(4.0))
    find_disks(patterns, *given(4.0))
    assert seen == [(SHAPE[0], padded(SHAPE[1]))]


def test_what_is_made_of_a_large_template_goes_with_it(patterns, monkeypatch):
    for module in (twin, template_transforms):
        monkeypatch.setattr(module, "LARGEST_KEPT", 100)
    mask = np.ones(SHAPE, bool)
    mask[30:33] = False
    arrays = given(4.0)
    agree(found(patterns, *arrays, mask=mask), exact(patterns, *arrays, mask=mask))
    made, work = weakref.ref(twin._last_prepared.moments.weights), weakref.ref(twin._last_prepared.arrays.of_thread.work.plane)
    agree(found(patterns, *arrays, mask=mask), exact(patterns, *arrays, mask=mask))
    assert made() is twin._last_prepared.moments.weights and work() is twin._last_prepared.arrays.of_thread.work.plane
    del arrays
    assert (made(), work()) == (None, None)
