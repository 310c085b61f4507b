"""Ellipse and pixel size from Bragg disks: of one lattice, of many grains; and from the lattices of a scan."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.calibrate import ellipse_matrix, fit_peaks, lattice_ellipse, visible_ellipse
from gpu4d.data import PointListArray
from gpu4d.errors import InputError
from gpu4d.structures import Structure

ELLIPSE = (1.03, 1.0, np.radians(25))
STRETCH = np.linalg.inv(ellipse_matrix(ELLIPSE))
ORDERS = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)])


def lists(vectors, noise, shape, seed=0):
    """Lists of disks from vectors of every position (n, m, 2), px relative to (64, 63), distorted and with noise."""
    rng = np.random.default_rng(seed)
    count = [len(v) for v in vectors]
    q = np.concatenate([v @ STRETCH.T for v in vectors]) + np.array([64.0, 63.0])
    q = q + rng.normal(0, noise, q.shape)
    fields = {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(len(q)), "sx": np.full(len(q), noise), "sy": np.full(len(q), noise)}
    return PointListArray(np.concatenate([[0], np.cumsum(count)]), fields, shape)


def lattice_scan(g1, g2, strain=0.0, noise=0.05, seed=0):
    """8 × 8 positions of one lattice, strained by zero mean."""
    rng = np.random.default_rng(seed)
    strains = rng.normal(0, strain, (64, 2, 2)) if strain else np.zeros((64, 2, 2))
    strains = (strains + np.swapaxes(strains, 1, 2)) / 2
    strains -= strains.mean(axis=0)
    return lists([ORDERS @ np.stack([g1, g2]) @ (np.eye(2) - s) for s in strains], noise, (8, 8), seed)


def pulls(found):
    return np.array(
        [
            (found.ellipse[0] - ELLIPSE[0]) / found.ellipse_error[0],
            (found.ellipse[1] - 1.0),
            (found.ellipse[2] - ELLIPSE[2]) / found.ellipse_error[1],
        ]
    )


@pytest.mark.parametrize("shape, angle", [("square", np.pi / 2), ("hexagonal", np.pi / 3)])
def test_lattices_of_known_symmetry(shape, angle):
    g1 = 22.0 * np.array([np.cos(0.3), np.sin(0.3)])
    g2 = 22.0 * np.array([np.cos(0.3 + angle), np.sin(0.3 + angle)])
    disks = lattice_scan(g1, g2, strain=0.003)
    found = fit_peaks(disks, shape, origin=(64, 63))
    assert np.abs(pulls(found)).max() < 3.5 and found.ellipse_error[0] < 1e-3 and found.relative
    assert found.q_pixel == pytest.approx(1 / 22, rel=1e-3)
    fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, (64, 63)), origin=(64, 63))
    mean = lattice_ellipse(fit, shape, spacing=2.0)
    assert np.abs(pulls(mean)).max() < 3.5 and mean.ellipse_error[0] < 2e-3
    assert abs(mean.length - 22) < 4 * mean.length_error and mean.q_pixel == pytest.approx(0.5 / mean.length)
    seen = visible_ellipse(fit)
    assert seen.shape == shape and seen.ellipse == mean.ellipse
    straight = gpu4d.crystal.lattice_lengths(fit, mean.ellipse)
    assert straight.lengths == pytest.approx((22, 22), rel=1e-3) and np.isclose(straight.angle, angle, atol=2e-3)


def test_no_ellipse_is_seen_where_there_is_none():
    square = lattice_scan(np.linalg.solve(STRETCH, [20.0, 0.0]), np.linalg.solve(STRETCH, [0.0, 20.0]))
    assert visible_ellipse(gpu4d.fit_lattice(square, [[20.0, 0.0], [0.0, 20.0]], origin=(64, 63))) is None
    other = lattice_scan(np.array([20.0, 0.0]), np.array([0.0, 26.0]))  # a rectangular crystal
    assert visible_ellipse(gpu4d.fit_lattice(other, gpu4d.find_lattice(other, (64, 63)), origin=(64, 63))) is None


@pytest.mark.parametrize("ratio, seen", [(1.03, True), (1.059, False)])
def test_more_than_detectors_have_is_another_lattice(ratio, seen):
    """Detectors have 1 to 3 %. A crystal that is oblique by 5.9 % is no square one behind an ellipse."""
    true = [np.linalg.solve(STRETCH, [20.0 * ratio, 0.0]), np.linalg.solve(STRETCH, [0.0, 20.0])]
    fit = gpu4d.fit_lattice(lattice_scan(*true), [[20.0 * ratio, 0.0], [0.0, 20.0]], origin=(64, 63))
    assert (visible_ellipse(fit) is not None) == seen
    assert lattice_ellipse(fit, "square").ellipse[0] == pytest.approx(ratio, abs=1e-3)


def test_exact_data_give_no_errors():
    """An error of 0 is none: a calibration takes the values without it."""
    q = np.array([[h, k] for h in (-1, 0, 1) for k in (-1, 0, 1)]) * 20.0 + 40
    disks = PointListArray([0, 9], {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(9)}, (1, 1))
    found = lattice_ellipse(gpu4d.fit_lattice(disks, [[20.0, 0.0], [0.0, 20.0]], origin=(40.0, 40.0)), spacing=2.0)
    assert found.q_pixel_error == 0
    calibration = gpu4d.Calibration()
    found.apply(calibration)
    assert calibration.q_pixel == pytest.approx(0.025) and calibration.q_pixel_error is None


def test_many_grains_of_a_crystal():
    """Each position shows one grain in any orientation, strained by itself: the ellipse is that of the mean."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(3)
    reflections = Structure.standard("Au").reflections(1.2)
    vectors = []
    for _ in range(100):
        g = reflections.g @ Rotation.random(random_state=rng).as_matrix().T
        near = np.abs(g[:, 2] + 0.0125 * (g[:, :2] ** 2).sum(1)) < 0.03
        strain = rng.normal(0, 0.003, (2, 2))
        vectors.append(g[near, :2] @ (np.eye(2) - (strain + strain.T) / 2) / 0.0125)
    disks = lists(vectors, 0.05, (10, 10))
    found = fit_peaks(disks, "Au", origin=(64.05, 63), q_pixel=0.0128)
    assert np.abs(pulls(found)).max() < 3.5 and found.ellipse_error[0] < 1.5e-3
    assert abs(found.q_pixel - 0.0125) < 4 * found.q_pixel_error < 1e-4
    assert abs(found.shift[0] + 0.05) < 4 * found.shift_error[0]
    calibration = gpu4d.Calibration()
    found.apply(calibration)
    assert calibration.q_pixel == found.q_pixel and calibration.ellipse_error == found.ellipse_error
    replace(found, q_pixel_error=0.0).apply(calibration)
    assert calibration.q_pixel == found.q_pixel and calibration.q_pixel_error is None
    with pytest.raises(InputError, match="crystal"):
        fit_peaks(disks, "Si", origin=(64, 63), q_pixel=0.0125)


def test_a_wrong_pixel_size_gives_no_absurd_ellipse():
    """Square gold behind an ellipse of 3 %: another zone axis behind one of 28 % has its disks in the same places."""
    g = 2 / 4.0786 / 0.02 * np.array([np.cos(0.2), np.sin(0.2)])
    disks = lattice_scan(g, np.array([-g[1], g[0]]), noise=0.03)
    for prior in (None, 0.0180, 0.0220):
        found = fit_peaks(disks, "Au", origin=(64, 63), q_pixel=prior)
        assert np.abs(pulls(found)).max() < 3.5 and abs(found.q_pixel - 0.02) < 3.5 * found.q_pixel_error
    for prior in (0.0236, 0.0170, 0.015):
        with pytest.raises(InputError, match=r"a pixel of 0\.02 1/Å and an ellipse a/b 1\.030, but q_pixel=.* to 12 %"):
            fit_peaks(disks, "Au", origin=(64, 63), q_pixel=prior)


@pytest.mark.parametrize("crystal, axis, prior", [("Si", (1, 1, 2), 0.019), ("Si", (1, 1, 1), 0.022), ("Au", (1, 1, 2), 0.018)])
def test_zone_axes_are_not_taken_for_each_other(crystal, axis, prior):
    """Cases in which the histogram of distances alone prefers other rings: the fits of the disks tell."""
    along = np.array(axis) / np.linalg.norm(axis)
    across = np.cross(along, [0.3, 0.5, 0.8]) / np.linalg.norm(np.cross(along, [0.3, 0.5, 0.8]))
    g = Structure.standard(crystal).reflections(1.0).g
    g = g[np.abs(g @ along) < 1e-6] @ np.stack([across, np.cross(along, across)], axis=1)
    found = fit_peaks(lists([g / 0.02] * 36, 0.03, (6, 6)), crystal, origin=(64, 63), q_pixel=prior)
    assert np.abs(pulls(found)).max() < 4 and found.scatter < 0.04
    assert abs(found.q_pixel - 0.02) < 4 * found.q_pixel_error < 2e-5


def test_what_no_detector_shows_is_refused():
    turn = np.pi / 3 * np.arange(6)
    ring = lists([22.0 * np.stack([np.cos(turn), np.sin(turn)], -1)] * 9, 0.03, (3, 3))
    with pytest.raises(InputError, match="all disks lie on one ring"):
        fit_peaks(ring, "Au", origin=(64, 63))
    wide = lists([v @ np.diag([1.2, 1.0]) for v in [ORDERS * 20.0] * 9], 0.03, (3, 3))
    with pytest.raises(InputError, match=r"ellipse a/b 1\.\d+ .* but detectors stay below"):
        fit_peaks(wide, "square", origin=(64, 63))


AXES = [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 2), (0, 1, 2), (0, 1, 3), (1, 1, 3), (1, 2, 2), (1, 2, 3), (1, 3, 3), (1, 1, 4), (0, 2, 3)]
NAMES = ["Au", "Al", "Cu", "Si", "Ge", "GaAs", "MgO", "NaCl", "Fe", "W", "SrTiO3", "diamond", "Pt", "LaB6", "TlCl"]


def zone(crystal, axis, q_pixel, ellipse, rng, noise=0.03, strain=0.0):
    """A scan of 6 × 6 positions of a crystal along a zone axis, turned at random. A tenth of the disks is missing."""
    along = np.array(axis) / np.linalg.norm(axis)
    across = np.cross(along, [0.3, 0.5, 0.8]) / np.linalg.norm(np.cross(along, [0.3, 0.5, 0.8]))
    g = Structure.standard(crystal).reflections(min(1.4, 60 * q_pixel)).g
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    g = g[np.abs(g @ along) < 1e-6] @ np.stack([across, np.cross(along, across)], axis=1) @ turn.T
    strains = rng.normal(0, strain, (36, 2, 2)) if strain else np.zeros((36, 2, 2))
    distort = np.linalg.solve(STRETCH, np.linalg.inv(ellipse_matrix(ellipse))).T  # `lists` adds the ellipse of this file
    vectors = [g[rng.random(len(g)) > 0.1] @ (np.eye(2) - (s + s.T) / 2) / q_pixel @ distort for s in strains]
    return lists(vectors, noise, (6, 6), seed=int(rng.integers(1 << 30)))


@pytest.mark.parametrize(
    "crystal, axis, ratio, prior",
    [
        ("Au", (0, 1, 3), 1.06, 0.93),  # by lengths alone it is another lattice behind a rounder ellipse
        ("SrTiO3", (1, 1, 4), 1.004, 0.964),  # disks of reflections too weak for a powder
        ("NaCl", (1, 2, 3), 1.03, 1.0),
    ],
)
def test_the_reflections_of_a_zone_axis_decide(crystal, axis, ratio, prior):
    """Lengths of these fit other rings as well, but no zone axis has such reflections, and not the ones that are missing."""
    disks = zone(crystal, axis, 0.021, (ratio, 1.0, 0.4), np.random.default_rng(0))
    found = fit_peaks(disks, crystal, origin=(64, 63), q_pixel=0.021 * prior)
    assert found.sure and found.warnings == () and found.doubt < 0.05
    assert abs(found.q_pixel / 0.021 - 1) < 1e-3 and found.ellipse[0] == pytest.approx(ratio, abs=2e-3)


def test_double_diffraction_and_missing_disks_do_not_mislead():
    """{200} of silicon is forbidden, and shows along 011. A crystal that is tilted lacks some disks, and others are false."""
    along, across = np.array([0.0, 1, 1]) / 2**0.5, np.array([1.0, 0, 0])
    reflections = Structure.standard("Si").reflections(1.0)
    g = reflections.g[np.abs(reflections.g @ along) < 1e-6]
    g = np.concatenate([g, 2 / 5.431 * np.array([[1.0, 0, 0], [-1.0, 0, 0]])]) @ np.stack([across, np.cross(along, across)], axis=1)
    g = g[g @ [0.8, 0.6] > -0.45]
    rng = np.random.default_rng(1)
    shown = [np.concatenate([g[rng.random(len(g)) > 0.3] / 0.02, rng.uniform(-50, 50, (1, 2))]) for _ in range(36)]
    found = fit_peaks(lists(shown, 0.05, (6, 6)), "Si", origin=(64, 63), q_pixel=0.0212)
    assert found.sure and np.abs(pulls(found)).max() < 4 and abs(found.q_pixel - 0.02) < 4 * found.q_pixel_error


def test_a_pixel_size_that_is_wrong_is_refused():
    disks = zone("Al", (0, 1, 2), 0.021, (1.028, 1.0, 0.4), np.random.default_rng(0))
    with pytest.raises(InputError, match=r"a pixel of 0\.021 1/Å and an ellipse a/b 1\.028, but q_pixel=.* to 12 %"):
        fit_peaks(disks, "Al", origin=(64, 63), q_pixel=0.021 * 0.805)
    with pytest.raises(InputError, match="too few directions"):
        fit_peaks(zone("Au", (1, 3, 3), 0.021, (1.02, 1.0, 0.4), np.random.default_rng(0)), "Au", origin=(64, 63), q_pixel=0.022)


def random_crystal(seed, off):
    """Disks of a random crystal, zone axis, ellipse to 6 % and pixel size, with the truth and a pixel size that is off by a part."""
    rng = np.random.default_rng([seed, int(100 * off[1])])
    crystal, axis = NAMES[rng.integers(len(NAMES))], AXES[rng.integers(len(AXES))]
    ellipse, q = (1 + rng.uniform(0, 0.06), 1.0, rng.uniform(0, np.pi)), rng.uniform(0.012, 0.03)
    disks = zone(crystal, axis, q, ellipse, rng, noise=rng.choice([0.02, 0.05, 0.1]), strain=rng.choice([0.0, 0.003]))
    return crystal, disks, ellipse[0], q, q * (1 + rng.choice([-1, 1]) * rng.uniform(*off))


def test_rivals_are_named_and_a_better_pixel_size_settles_it():
    """A fine zone axis of TlCl that shows the places of other ones behind ellipses of 4 to 6 %."""
    crystal, disks, ratio, q, prior = random_crystal(22, (0.0, 0.1))
    found = fit_peaks(disks, crystal, origin=(64, 63), q_pixel=prior)
    all_ways = [(found.q_pixel, found.ellipse[0]), *((rival.q_pixel, rival.ratio) for rival in found.rivals)]
    assert not found.sure and 0.05 < found.doubt < 0.8 and found.doubt == pytest.approx(sum(r.probability for r in found.rivals))
    assert any(abs(one / q - 1) < 1e-3 and abs(oval - ratio) < 2e-3 for one, oval in all_ways)
    assert "not sure" in found.warnings[0] and "better q_pixel" in found.warnings[0] and "indexed wrongly" in repr(found)
    better = fit_peaks(disks, crystal, origin=(64, 63), q_pixel=1.002 * q, tolerance=0.01)
    assert better.sure and abs(better.q_pixel / q - 1) < 1e-3 and better.ellipse[0] == pytest.approx(ratio, abs=2e-3)
    for wrong in (0.0, 0.5, -1, np.nan):
        with pytest.raises(InputError, match="tolerance"):
            fit_peaks(disks, crystal, origin=(64, 63), q_pixel=q, tolerance=wrong)


@pytest.mark.slow
@pytest.mark.parametrize("off, tolerance, right", [((0.0, 0.1), 0.12, 0.95), ((0.15, 0.2), 0.2, 0.75)])
def test_no_crystal_is_indexed_wrongly_without_a_word(off, tolerance, right):
    """An answer that is wrong says that it is not sure. Probabilities are such: those of all answers add up to the number of right ones."""
    good, expected = [], []
    for seed in range(60):
        crystal, disks, ratio, q, prior = random_crystal(seed, off)
        try:
            found = fit_peaks(disks, crystal, origin=(64, 63), q_pixel=prior, tolerance=tolerance)
        except InputError as error:
            assert "too few" in str(error), (seed, error)
            continue
        good.append(abs(found.q_pixel / q - 1) < 6e-3 and abs(found.ellipse[0] - ratio) < 0.02)
        expected.append(1 - found.doubt)
        assert good[-1] or not found.sure, (seed, crystal, found)
    assert np.mean(good) >= right
    assert abs(np.mean(good) - np.mean(expected)) < 3 * np.sqrt(np.mean(np.multiply(expected, np.subtract(1, expected))) / len(good)) + 0.02


def test_arguments_are_checked():
    one = lists([np.array([[20.0, 0.0], [-20.0, 0.0]])], 0.01, (1, 1))
    with pytest.raises(InputError, match="too few"):
        fit_peaks(one, "square", origin=(64, 63))
    fit = gpu4d.fit_lattice(lattice_scan(np.array([20.0, 0]), np.array([0, 20.0])), [[20.0, 0.0], [0.0, 20.0]], origin=(64, 63))
    with pytest.raises(InputError, match="'square', 'hexagonal'"):
        lattice_ellipse(fit, "cubic")
    with pytest.raises(InputError, match="no position"):
        lattice_ellipse(fit, where=np.zeros((8, 8), bool))


def test_strained_gold_of_the_shared_data_behind_an_ellipse(shared_data):
    """The chain is told the lattice constant and the unstrained border, and finds the rest: limits of the project."""
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        truth = file["truth"]
        g = np.stack([truth[name][()][..., ::-1] for name in ("g200_xy_px", "g020_xy_px")], axis=-2).reshape(-1, 2, 2).astype(float)
        strain = np.stack([truth[name][()] for name in ("eyy", "exx", "exy")])  # their x is our y
        border, q = truth["state_index"][()] == 0, file.attrs["detector_pixel_1_per_A"]
    inside = border.copy()
    inside[1:-1, 1:-1] = False
    disks = lists([ORDERS @ one for one in g], 0.02, (24, 24))
    fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, (64, 63)), origin=(64, 63), weights="errors")
    for where in (inside, None):  # the robust mean finds the unstrained positions itself
        found = lattice_ellipse(fit, "square", where=where, spacing=4.078 / 2)
        assert abs(found.ellipse[0] - 1.03) < 1e-3 and abs(found.ellipse[2] - ELLIPSE[2]) < np.radians(1)
        assert abs(found.q_pixel / q - 1) < 1e-3
    calibration = gpu4d.Calibration()
    lattice_ellipse(fit, "square", where=inside, spacing=4.078 / 2).apply(calibration)
    maps = gpu4d.strain_map(fit, calibration=calibration, region=inside)
    for one, right in zip((maps.exx, maps.eyy, maps.exy), strain):
        assert np.sqrt(np.mean((np.asarray(one.data) - right) ** 2)) < 5e-4
    seen = visible_ellipse(fit)
    assert seen.shape == "square" and abs(seen.ellipse[0] - 1.03) < 1e-3  # what a run without a calibration warns of
