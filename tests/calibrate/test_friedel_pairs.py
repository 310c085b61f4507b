"""The origin from Friedel pairs: patterns that are written down, and simulated scans behind a beam stop."""

import importlib

import h5py
import numpy as np
import pytest
from lattice_points import HEXAGONAL, SQUARE, disks_of, from_lists

import gpu4d
from gpu4d.crystal.free_of_origin import lattice_free_of_origin
from gpu4d.errors import InputError

X, Y = np.mgrid[:9, :10].astype(float)
PLANE = np.stack([60 + 0.5 * X - 0.2 * Y, 65 - 0.1 * X + 0.25 * Y], axis=-1)


def hidden(disks, radius, origin=PLANE):
    """The same without the disks that a round beam stop about the origin covers."""
    q = np.stack([disks.flat("qx"), disks.flat("qy")], -1)
    return disks.where(np.linalg.norm(q - origin.reshape(-1, 2)[disks.positions], axis=-1) > radius)


@pytest.mark.parametrize("basis", [SQUARE, HEXAGONAL], ids=["square", "hexagonal"])
def test_hidden_beam_is_found_exactly(basis):
    disks = hidden(disks_of(basis, origin=PLANE, shape=(9, 10)), 5)
    o = gpu4d.calibrate.origin(disks, method="friedel")
    np.testing.assert_allclose(o.measured, PLANE, atol=1e-7)
    assert o.method == "Friedel pairs on the lattice" and o.findings == ()


def test_unsymmetric_patterns_are_not_half_a_lattice_vector_off():
    """A third of the disks is missing at every position, and intensities differ between g and -g."""
    rng = np.random.default_rng(2)
    disks = hidden(disks_of(SQUARE, origin=PLANE, shape=(9, 10), sigma=0.05, seed=2), 5)
    disks = disks.with_fields({"intensity": disks.flat("intensity") * rng.uniform(0.3, 1, len(disks.flat("qx")))})
    disks = disks.where(rng.random(len(disks.flat("qx"))) > 0.33)
    o = gpu4d.calibrate.origin(disks, method="friedel")
    assert np.nanmax(np.linalg.norm(o.measured - PLANE, axis=-1)) < 0.3


def test_many_grains_have_no_lattice():
    """Each position has two grains at random: the middles of pairs agree at the origin alone."""
    rng = np.random.default_rng(5)
    lists = []
    for x, y in np.ndindex(9, 10):
        q = []
        for _ in range(2):
            t, length = rng.uniform(0, np.pi), rng.uniform(9, 16)
            g = length * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
            hk = np.array([(1, 0), (0, 1), (1, 1), (1, -1)])
            q += [hk @ g, -hk @ g]
        q = np.concatenate(q) + PLANE[x, y] + rng.normal(0, 0.05, (16, 2))
        lists.append(np.column_stack([q, rng.uniform(50, 100, 16)]))
    o = gpu4d.calibrate.origin(from_lists(lists, (9, 10)), method="friedel", lattice=None)
    assert np.linalg.norm(o.fitted - PLANE, axis=-1).max() < 0.1


def test_jumped_patterns_keep_their_origin():
    moved = PLANE.copy()
    moved[2, 3] += (4.0, -2.0)
    moved[7, 1] += (-1.0, 3.0)
    disks = disks_of(SQUARE, origin=moved, shape=(9, 10), sigma=0.03, seed=1)
    for method, given in (("brightest", disks), ("friedel", hidden(disks, 5, moved))):
        o = gpu4d.calibrate.origin(given, method=method)
        assert [tuple(p) for p in np.argwhere(o.jumped)] == [(2, 3), (7, 1)]
        assert np.abs(o.fitted - moved).max() < 0.1
        (said,) = o.findings
        assert said.startswith("the beam jumped at 2 positions: (2, 3) by (+4.0, -2.0) px")


def test_another_grain_is_no_jump():
    """Four columns of a grain turned by 20°: its nodes lie elsewhere, but the beam does not."""
    turn = np.array([[np.cos(0.35), -np.sin(0.35)], [np.sin(0.35), np.cos(0.35)]])
    own, other = (disks_of(b, origin=PLANE, shape=(9, 10), sigma=0.03, seed=1) for b in (SQUARE, SQUARE @ turn))
    lists = []
    for x, y in np.ndindex(9, 10):
        part = (other if y >= 6 else own)[x, y]
        lists.append(np.stack([part[f] for f in ("qx", "qy", "intensity", "sx", "sy")], -1))
    o = gpu4d.calibrate.origin(hidden(from_lists(lists, (9, 10)), 5), method="friedel", lattice=SQUARE)
    assert not o.jumped.any() and np.linalg.norm(o.fitted - PLANE, axis=-1).max() < 0.1


def test_pairs_of_many_patterns_are_formed_in_blocks(monkeypatch):
    disks = hidden(disks_of(SQUARE, origin=PLANE, shape=(9, 10), sigma=0.05, seed=4), 5)
    whole = gpu4d.calibrate.origin(disks, method="friedel").measured
    monkeypatch.setattr(importlib.import_module("gpu4d.calibrate.friedel_pairs"), "BLOCK", 7)
    np.testing.assert_array_equal(gpu4d.calibrate.origin(disks, method="friedel").measured, whole)


def test_equal_intensities_of_many_disks():
    """Of 48 disks 40 form pairs: those nearest to the middle."""
    disks = hidden(disks_of(SQUARE, origin=PLANE, shape=(9, 10), reach=75), 5)
    disks = disks.with_fields({"intensity": np.ones(len(disks.flat("qx")))})
    assert disks.counts.min() > 40
    np.testing.assert_allclose(gpu4d.calibrate.origin(disks, method="friedel").measured, PLANE, atol=1e-6)


def test_disks_beyond_any_detector_are_not_there():
    moved = PLANE.copy()
    moved[2, 3] += (4.0, -2.0)
    disks = disks_of(SQUARE, origin=moved, shape=(9, 10), sigma=0.03, seed=1)
    for far in (np.inf, 1e9):
        qx = disks.flat("qx").copy()
        qx[5] = far
        assert gpu4d.calibrate.origin(disks.with_fields({"qx": qx})).jumped.sum() == 1


def test_a_lattice_may_be_given():
    disks = hidden(disks_of(SQUARE, origin=PLANE, shape=(9, 10)), 5)
    o = gpu4d.calibrate.origin(disks, method="friedel", lattice=SQUARE, guess=PLANE.mean((0, 1)))
    np.testing.assert_allclose(o.measured, PLANE, atol=1e-7)


def test_positions_without_pairs_have_nan():
    disks = hidden(disks_of(SQUARE, origin=PLANE, shape=(9, 10)), 5)
    disks = disks.where((disks.positions != 13) | (np.cumsum(disks.positions == 13) <= 1))  # one disk is left there
    o = gpu4d.calibrate.origin(disks, method="friedel")
    assert np.isnan(o.measured[1, 3]).all() and np.isfinite(o.fitted).all()


def test_what_is_refused():
    disks = disks_of(SQUARE, origin=PLANE, shape=(9, 10))
    with pytest.raises(InputError, match="method='pairs': need one of 'brightest', 'friedel'"):
        gpu4d.calibrate.origin(disks, method="pairs")
    with pytest.raises(InputError, match="measured origins have no pairs"):
        gpu4d.calibrate.origin(PLANE, method="friedel")
    with pytest.raises(InputError, match="no position has a Friedel pair"):
        gpu4d.calibrate.origin(disks.where(np.zeros(len(disks.flat("qx")), bool)), method="friedel")


def test_lattice_without_an_origin():
    found = lattice_free_of_origin(hidden(disks_of(HEXAGONAL, origin=PLANE, shape=(9, 10)), 5))
    np.testing.assert_allclose(abs(np.linalg.det(found.matrix)), abs(np.linalg.det(HEXAGONAL)), rtol=1e-6)
    empty = disks_of(SQUARE, origin=PLANE, shape=(9, 10))
    assert lattice_free_of_origin(empty.where(np.zeros(len(empty.flat("qx")), bool))) is None


@pytest.fixture(scope="module")
def drifting(shared_data):
    """The scan with quadratic descan, a step and nine jumps: truth, and disks of the open scan and of that behind a beam stop."""
    with h5py.File(shared_data / "origin_drift.h5") as file:
        truth = {name: file["truth"][name][:] for name in ("origin_px", "origin_smooth_px", "jumped", "beam_stop_mask")}
        scans = {"open": (file["open_poisson_4000"][:], None), "stop": (file["beam_stop_poisson_4000"][:], ~truth["beam_stop_mask"])}
    template = gpu4d.probe.template(gpu4d.probe.synthetic((96, 96), 3.6))
    disks = {name: gpu4d.find_bragg_disks(gpu4d.DataCube(data, detector_mask=mask), template) for name, (data, mask) in scans.items()}
    return truth, disks


@pytest.mark.parametrize(("scan", "method", "limit"), [("open", "brightest", 0.05), ("open", "friedel", 0.05), ("stop", "friedel", 0.07)])
def test_drift_step_and_jumps_of_a_simulated_scan(drifting, scan, method, limit):
    truth, disks = drifting
    o = gpu4d.calibrate.origin(disks[scan], method=method, fit="quadratic")
    off = np.linalg.norm(o.measured - truth["origin_px"], axis=-1)
    assert np.median(off) < limit and off.max() < 1, "no position is half a lattice vector off"
    assert (o.jumped == truth["jumped"]).all()
    assert o.findings[0].startswith("step at scan row 15") and len(o.steps) == 1
    smooth = np.linalg.norm(o.fitted - truth["origin_smooth_px"], axis=-1)[~o.jumped]
    assert np.sqrt(np.mean(smooth**2)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("electrons", "limit"), [(500, 0.14), (2000, 0.05), (10000, 0.025)])
def test_doses_behind_a_beam_stop(shared_data, electrons, limit):
    """Faint disks need a lower threshold: at 500 electrons a disk has eight."""
    with h5py.File(shared_data / "beam_stop_bragg.h5") as file:
        mask, true = ~file["truth/beam_stop_mask"][:], file["truth/origin_px"][:]
        cube = gpu4d.DataCube(file[f"poisson_{electrons}"][:], detector_mask=mask)
    disks = gpu4d.find_bragg_disks(cube, gpu4d.probe.template(gpu4d.probe.synthetic((96, 96), 2.9)), min_significance=2.0)
    o = gpu4d.calibrate.origin(disks, method="friedel", fit="quadratic")
    off = o.measured - true
    assert np.sqrt(np.mean(off**2)) < limit, "rms of a coordinate"
    assert np.linalg.norm(off, axis=-1).max() < 1
    assert gpu4d.fit_lattice(disks, lattice_free_of_origin(disks), origin=o).mask.all()
