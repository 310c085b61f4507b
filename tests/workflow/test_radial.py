"""The radial profile of amorphous scans in a run: result, pictures, and why other scans have none."""

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe
from spot_scenes import disk

import gpu4d
from gpu4d import DataCube
from gpu4d.rings import RadialVariance
from gpu4d.workflow import analyse, run
from gpu4d.workflow.pipeline import found

SHAPE, CENTER = (96, 96), (47.7, 46.2)


def glass(factors, beam=None, seed=0):
    """A diffuse ring of 26 px about a small beam, with another thickness at every position."""
    x, y = (np.arange(n) - c for n, c in zip(SHAPE, CENTER))
    r = np.hypot(x[:, None], y)
    ring = 5 * np.exp(-(((r - 26) / 4) ** 2)) + 0.3
    mean = np.asarray(factors)[..., None, None] * ring + (2000 * disk(SHAPE, CENTER, 1.6) if beam is None else beam(r))
    return np.random.default_rng(seed).poisson(mean).astype("uint16")


@pytest.fixture(scope="module")
def factors():
    return np.random.default_rng(5).uniform(0.7, 1.3, (10, 9))


def test_a_glass_has_a_radial_profile_in_a_pass_with_its_images(factors):
    a = analyse(DataCube(glass(factors)))
    profile = a["radial_profile"]
    assert a["technique"] == "amorphous" and "a diffuse ring" in found(a)
    (shared,) = [s.name for s in a.record.stages if "radial profile" in s.name and s.name.startswith("pass")]
    assert "virtual images" in shared
    bright = int(np.argmax(np.where(profile.radius > 10, profile.mean, 0)))
    assert abs(profile.radius[bright] - 26) < 1 and profile.mean[bright] == pytest.approx(5.3 * factors.mean(), rel=0.03)
    expected = factors.var() / factors.mean() ** 2
    ring = slice(bright - 3, bright + 4)
    np.testing.assert_allclose((profile.variance - profile.noise)[ring], expected, rtol=0.15)
    ((value, remark),) = [(value, remark) for what, value, remark in a.record.figures if what == "Normalised variance at the ring"]
    assert float(value) == pytest.approx(expected, rel=0.15) and "90 positions" in remark


def test_images_that_were_asked_for_have_the_profile_too(factors):
    a = analyse(DataCube(glass(factors)), recipe(analysis__technique="images"))
    assert a["ring"].radius == pytest.approx(26, abs=1) and a["radial_profile"].positions.max() == 90
    assert "trial" not in a, "no disks are searched for it"
    without_disk = DataCube(glass(factors, beam=lambda r: 2000.0 * (r < 1.1)))
    a = analyse(without_disk, recipe(analysis__technique="bragg"))
    assert a["technique"] == "images" and "radial_profile" in a, "without a template images are left, and the ring"


def test_a_technique_beside_the_images_has_none(factors):
    a = analyse(DataCube(glass(factors)), recipe(analysis__technique="dpc"))
    assert "radial_profile" not in a and "the technique is dpc" in a.reasons["radial"].why


def test_unusable_positions_and_masked_pixels_do_not_count(factors):
    data = glass(factors)
    data[3, 4] = 0  # blank
    mask = np.ones(SHAPE, bool)
    mask[:44, 40:50] = False
    data[..., ~mask] = 60000
    a = analyse(DataCube(data, gpu4d.Calibration(origin=CENTER), detector_mask=mask))
    alone = gpu4d.sweep(DataCube(data, detector_mask=mask), RadialVariance(CENTER, where=~a["unusable"]))
    assert a["unusable"][3, 4] and a["radial_profile"].positions.max() == 89
    np.testing.assert_allclose(a["radial_profile"].variance, alone.variance, rtol=1e-12)
    assert a["radial_profile"].mean.max() < 3000


def test_without_a_disk_the_ring_is_the_centre(factors):
    """A beam of few pixels, whose centre and radius cannot be measured."""
    a = analyse(DataCube(glass(factors, beam=lambda r: 2000.0 * (r < 1.1))))
    assert a.calibration.origin is None and "disk" not in a
    (decided,) = [d for d in a.record.decisions if d.what.startswith("Centre of the radial profile")]
    x, y = (float(n) for n in decided.what.split("(")[1].split(")")[0].split(", "))
    assert np.hypot(x - CENTER[0], y - CENTER[1]) < 0.2 and "ring" in decided.why


def test_the_folder_has_both_pictures_and_the_numbers(tmp_path, factors, blank_pictures):
    with h5py.File(tmp_path / "glass.h5", "w") as file:
        file["scan"] = glass(factors)
    made = run(tmp_path / "glass.h5", tmp_path / "out", recipe=recipe(calibration__q_pixel=0.02))
    assert {"radial_profile.png", "radial_variance.png"} <= {p.name for p in (tmp_path / "out").iterdir()}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Variance of the radial profile" in page and "q = 1/d" in page
    saved = gpu4d.io.read_emd(tmp_path / "out" / "result.h5")["radial_profile"]
    np.testing.assert_allclose(saved["q"], 0.02 * made.state["radial_profile"].radius)
    np.testing.assert_allclose(saved["variance"], made.state["radial_profile"].variance)


def test_a_crystal_has_none_and_says_why(crystal):
    a = analyse(crystal.cube)
    assert "radial_profile" not in a and not a.reasons["radial"].wanted and "the technique is bragg" in a.reasons["radial"].why
    a = analyse(crystal.cube, recipe(analysis__technique="images"))
    assert "radial_profile" not in a and "no ring" in a.reasons["radial"].why
