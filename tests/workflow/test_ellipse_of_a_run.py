"""An elliptical distortion in `gpu4d run`: named if a lattice shows it, measured on rings of the scan, removed if it is known."""

import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.calibrate import ellipse_matrix
from gpu4d.cli_flags import with_flags
from gpu4d.workflow.analyse import analyse
from gpu4d.workflow.inputs import open_scan
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.stages import known_stages

ELLIPSE = (1.03, 1.0, np.deg2rad(25))
SQUARE = np.array([[17.0, 3.0], [-3.0, 17.0]])


@pytest.fixture(scope="module")
def distorted():
    """A scan of a square lattice, seen through an ellipse of 3 % at 25°."""
    g1, g2 = SQUARE @ np.linalg.inv(ellipse_matrix(ELLIPSE)).T
    return gpu4d.simulate.bragg_scan((8, 8), (96, 96), radius=4.0, g1=tuple(g1), g2=tuple(g2), dose=60.0, strain_size=1e-3, seed=1).cube


def state_of(cube, ellipse=None):
    cube = gpu4d.DataCube(cube.source, gpu4d.Calibration(ellipse=ellipse))
    return analyse(cube, Recipe())


def test_without_a_calibration_it_is_named_with_its_size(distorted):
    (warning,) = [line for line in state_of(distorted).record.warnings if "ellipse is visible" in line]
    assert "square but for a stretch of 3.0" in warning or "square but for a stretch of 2.9" in warning
    assert "along 25." in warning or "along 24." in warning
    assert "gpu4d calibrate" in warning


def test_with_a_calibration_there_is_nothing_to_name(distorted):
    state = state_of(distorted, ELLIPSE)
    assert not [line for line in state.record.warnings if "ellipse" in line]
    found = gpu4d.crystal.lattice_lengths(state["lattice_fit"], ELLIPSE)
    assert found.lengths[0] == pytest.approx(found.lengths[1], rel=1e-3) and np.degrees(found.angle) == pytest.approx(90, abs=0.1)


# Rings of the scan itself.

GOLD = 4.0786 / np.sqrt([3, 4, 8, 11, 12, 16])  # Å, spacings of Au
Q_PIXEL, MIDDLE = 0.019, (58.7, 60.4)


def rings_of_gold(ellipse=ELLIPSE, dose=30.0, seed=3, scan=(4, 5)):
    """A scan of fine-grained gold about a small beam. Its rings are behind an ellipse."""
    r = radius_behind(ellipse)
    expected = 0.2 + sum(np.exp(-(((r - 1 / (d * Q_PIXEL)) / 1.5) ** 2)) for d in GOLD) + 40 * np.exp(-((r / 1.7) ** 4))
    return gpu4d.DataCube(np.random.default_rng(seed).poisson(dose * expected, (*scan, *r.shape)).astype("uint16"))


def radius_behind(ellipse):
    v = np.stack(np.indices((120, 120)), axis=-1) - MIDDLE
    return np.hypot(*np.moveaxis(v @ ellipse_matrix(ellipse).T, -1, 0))


def glass(ellipse, dose=20.0, seed=1):
    r = radius_behind(ellipse)
    expected = 0.2 + np.exp(-(((r - 30) / 5) ** 2)) + 40 * np.exp(-((r / 1.7) ** 4))
    return gpu4d.DataCube(np.random.default_rng(seed).poisson(dose * expected, (4, 5, *r.shape)).astype("uint16"))


@pytest.fixture(scope="module")
def gold():
    return analyse(rings_of_gold(), recipe(analysis__technique="images", orientation__structures=["Au"]))


def test_sharp_rings_are_of_crystals_and_not_of_a_glass():
    """A standard without a word of what it is: no radial distribution function of a glass, and the command that measures it."""
    state = analyse(rings_of_gold(), recipe(ellipse__measure=False))
    assert state["technique"] == "images" and "gpu4d calibrate" in state["kind_of_data"]
    assert "glass" not in state and any("too sharp for a glass" in d.why for d in state.record.decisions)
    assert analyse(glass((1.0, 1.0, 0.0)), recipe(ellipse__measure=False, analysis__trial_positions=4))["technique"] == "amorphous"


def test_rings_of_a_known_crystal_give_ellipse_and_pixel_size(gold):
    c = gold.calibration
    assert abs(c.ellipse[0] - 1.03) < 4 * c.ellipse_error[0] < 0.004 and abs(c.ellipse[2] - ELLIPSE[2]) < 4 * c.ellipse_error[1]
    assert abs(c.q_pixel - Q_PIXEL) < 4 * c.q_pixel_error < 4e-5, "it holds along the minor axis"
    gates = {g.name: g for g in gold.record.gates}
    assert gates["Significance of the ellipse"].passed and gates["Rings on their ellipse"].passed
    item = gold.products["ellipse"]
    assert item.q_pixel[0] == c.q_pixel and item.ratio[0] == c.ellipse[0] and item.var_e1[0] > 0
    assert abs(item.qx[0] - MIDDLE[0]) < 4 * item.qx_error[0] and item.cov_ratio_q_pixel[0] != 0


def test_what_follows_uses_it(gold):
    """Rings of the radial profile are as sharp as behind no ellipse, and detectors are ellipses."""
    r, mean = gold["radial_profile"].radius, gold["radial_profile"].mean
    at = 1 / (GOLD[2] * Q_PIXEL)
    near = np.abs(r - at) < 4
    assert abs(r[near][np.argmax(mean[near])] - at) <= 0.5
    without = analyse(rings_of_gold(), recipe(analysis__technique="images", ellipse__measure=False))
    assert without.calibration.ellipse is None and without.reasons["ellipse"].why == "the recipe asks for none"
    blurred = without["radial_profile"]
    near_blurred = np.abs(blurred.radius - at) < 4
    assert mean[near].max() > 1.1 * blurred.mean[near_blurred].max()
    adf, cube = np.asarray(gold["adf"]), rings_of_gold()
    inside = radius_behind(gold.calibration.ellipse)
    _, inner, outer = gold["radii"]
    expected = np.asarray(cube).sum((0, 1))[(inside > inner) & (inside <= outer)].sum()
    assert adf.sum() == pytest.approx(expected, rel=0.01), "an annulus behind the ellipse; a pixel on its edge may differ"
    assert outer * 1.03 < 60, "it ends where the detector does, along the major axis too"


def test_the_picture_shows_the_ellipse_on_the_rings(gold):
    (stage,) = [s for s in known_stages() if s.name == "ellipse"]
    ((picture, made),) = list(stage.pictures(gold))
    assert "It is removed from what follows" in picture.caption
    lines = [line for line in made.lines if (line.get_gid() or "").startswith("ring")]
    assert len(lines) == len(GOLD)
    for line in lines:
        v = line.get_xydata()[:, ::-1] - MIDDLE
        r = np.hypot(*(v @ ellipse_matrix(ELLIPSE).T).T)
        assert np.ptp(r) < 0.1 and np.abs(r.mean() - 1 / (GOLD * Q_PIXEL)).min() < 0.1


def test_spots_of_many_grains_whose_crystal_is_not_known(shared_data):
    cube = gpu4d.open(shared_data / "polycrystal_rings.h5", dataset="/scan_poisson_20000")
    state = analyse(cube, recipe(analysis__technique="images"))
    c = state.calibration
    assert "rings of spots" in state.reasons["ellipse"].why
    assert abs(c.ellipse[0] - 1.031) < 2 * c.ellipse_error[0] < 0.01 and abs(np.rad2deg(c.ellipse[2]) + 38) < 2 * np.rad2deg(
        c.ellipse_error[1]
    )
    assert c.q_pixel is None, "the size of a ring of an unknown crystal says nothing"
    assert c.history[-1].how == "the brightest ring of this scan"


def test_the_halo_of_a_glass():
    """An ellipse of 3 % is the detector's. One of 0.3 % may be strain of the glass, and is left."""
    c = analyse(glass(ELLIPSE), recipe(analysis__technique="images")).calibration
    assert abs(c.ellipse[0] - 1.03) < 4 * c.ellipse_error[0] < 0.01
    state = analyse(glass((1.003, 1.0, 0.4), dose=400.0), recipe(analysis__technique="images"))
    assert state.calibration.ellipse is None
    (said,) = [d for d in state.record.decisions if d.what == "Ellipse: none"]
    assert "as far as a strained glass tells" in said.why and state.products["ellipse"].ratio[0] == pytest.approx(1.003, abs=1e-3)


def test_an_ellipse_that_is_not_known_is_not_applied():
    state = analyse(glass((1.01, 1.0, 0.4), dose=0.3), recipe(analysis__technique="images"))
    gates = {g.name: g for g in state.record.gates}
    assert state.calibration.ellipse is None
    assert not gates["Significance of the ellipse"].passed, "1.2 ± 0.5 % is neither an ellipse nor round"
    assert [d for d in state.record.decisions if d.what == "Ellipse: not applied"]


def test_disks_of_a_crystal_are_no_rings(distorted):
    state = state_of(distorted)
    assert "of the disks lie on one lattice" in state.reasons["ellipse"].why and state.calibration.ellipse is None


def test_a_known_ellipse_counts_before_a_measured_one(tmp_path):
    cube = rings_of_gold()
    cube.calibration.set(ellipse=(1.05, 1.0, 0.1), how="rings of Al")
    state = analyse(cube, recipe(analysis__technique="images"))
    assert state.calibration.ellipse == (1.05, 1.0, 0.1) and "known (rings of Al)" in state.reasons["ellipse"].why
    np.save(tmp_path / "scan.npy", np.asarray(cube))
    opened = open_scan(tmp_path / "scan.npy", with_flags(None, {"ellipse": [1.02, 30.0]})).calibration
    assert opened.ellipse == (1.02, 1.0, np.deg2rad(30)) and opened.history[-1].how == "given (--ellipse)"


def test_a_given_pixel_size_is_kept_and_compared(gold):
    cube = rings_of_gold()
    cube.calibration.set(q_pixel=0.0195)
    state = analyse(cube, recipe(analysis__technique="images", orientation__structures=["Au"]))
    (gate,) = [g for g in state.record.gates if g.name == "Pixel size and rings"]
    assert state.calibration.q_pixel == 0.0195 and not gate.passed and "−2.5" in gate.measured
