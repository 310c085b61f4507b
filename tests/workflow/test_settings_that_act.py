"""Runs whose physics shows that a setting acted: with it, the result is nearer to a known truth, or changes as it must."""

import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.calibrate import ellipse_matrix
from gpu4d.workflow import analyse
from gpu4d.workflow.inputs import open_scan

MIDDLE, ELLIPSE = (58.7, 60.4), (1.03, 1.0, np.radians(25.0))
HALO, SHADOW = 34.0, 16.0  # px: radius of the halo of the specimen, and of a round ring that is none of it


def behind(ellipse):
    v = np.stack(np.indices((120, 120)), axis=-1) - MIDDLE
    return np.hypot(*np.moveaxis(v @ ellipse_matrix(ellipse).T, -1, 0))


@pytest.fixture(scope="module")
def halo_and_round_ring():
    """A glass behind an ellipse. The column scatters into a round ring, which is brighter."""
    expected = 0.2 + np.exp(-(((behind(ELLIPSE) - HALO) / 4) ** 2)) + 2 * np.exp(-(((behind((1.0, 1.0, 0.0)) - SHADOW) / 2.5) ** 2))
    expected += 40 * np.exp(-((behind((1.0, 1.0, 0.0)) / 1.7) ** 4))
    return np.random.default_rng(1).poisson(20 * expected, (4, 5, 120, 120)).astype("uint16")


@pytest.mark.parametrize("annulus, shown", [({}, 1.0), ({"ellipse__inner": 0.42, "ellipse__outer": 0.75}, ELLIPSE[0])])
def test_the_ring_in_the_annulus_gives_the_ellipse(halo_and_round_ring, annulus, shown):
    """The largest radius on the detector is 58.8 px: the annulus from 25 to 44 px holds the halo, and not the brighter ring."""
    asked = recipe(analysis__technique="images", ellipse__measure=True, **annulus)
    fit = analyse(gpu4d.DataCube(halo_and_round_ring), asked)["ellipse"]
    assert fit.radius == pytest.approx(HALO if annulus else SHADOW, abs=1.0)
    assert abs(fit.ellipse[0] - shown) < 4 * fit.ellipse_error[0] < 0.01
    if annulus:
        assert abs(fit.ellipse[2] - ELLIPSE[2]) < 4 * fit.ellipse_error[1] < 0.2


@pytest.fixture(scope="module")
def strong_and_weak():
    """An unstrained crystal: every second disk has a sixteenth of the counts of the others, so that it is known four times worse."""
    shape, g = (72, 72), np.array([[14.0, 1.5], [-1.5, 14.0]])
    expected = np.full(shape, 0.02)
    for h, k in np.mgrid[-2:3, -2:3].reshape(2, -1).T:
        center = tuple(np.array([h, k]) @ g + 35.6)
        expected += (60.0 if (h + k) % 2 == 0 else 3.75) * gpu4d.probe.synthetic(shape, 3.5, center=center)
    return np.random.default_rng(3).poisson(expected, (7, 7, *shape)).astype(np.uint16)


@pytest.mark.slow
def test_weights_by_the_counts_measure_strain_better_than_none(strong_and_weak):
    """The best weight of a disk is 1/variance. √intensity and standard errors are that, and equal weights let weak disks spoil the fit."""
    found = {}
    for weights in ("sqrt", "errors", "uniform"):
        asked = recipe(analysis__technique="bragg", lattice__weights=weights)
        strain = analyse(gpu4d.DataCube(strong_and_weak), asked)["strain"]
        parts = [np.asarray(getattr(strain, name).data) for name in ("exx", "eyy", "exy", "theta")]
        found[weights] = float(np.sqrt(np.mean([np.var(part) for part in parts])))
    assert max(found["sqrt"], found["errors"]) < 0.75 * found["uniform"], found


def test_the_gaussian_of_a_template_is_as_wide_as_the_setting_says():
    """Σ r² of a disk is R²/2, that of a Gaussian 2 σ²: the template, which is their difference, has R²/2 − 2 (width · R)²."""
    made = gpu4d.simulate.bragg_scan((3, 3), (96, 96), spacing=24.0, radius=4.0, dose=200.0, strain_size=0.0, descan=0.0, seed=1)
    counts = {}
    for width in (1.5, 3.0):
        asked = recipe(analysis__technique="bragg", probe__template="gaussian", probe__gaussian_width=width)
        state = analyse(gpu4d.DataCube(made.cube.source.array), asked)
        kernel, radius = np.fft.fftshift(np.asarray(state["template"].kernel, float)), state["template"].radius
        x, y = np.indices(kernel.shape) - np.array(kernel.shape)[:, None, None] // 2
        assert np.sum(kernel * (x**2 + y**2)) == pytest.approx(radius**2 / 2 - 2 * (width * radius) ** 2, rel=0.05), width
        counts[width] = np.asarray(state["braggvectors"].counts)
        found = state["braggvectors"][1, 1]
        true = made.truth["positions"][1, 1]
        off = np.hypot(np.asarray(found.qx)[:, None] - true[:, 0], np.asarray(found.qy)[:, None] - true[:, 1]).min(axis=1)
        assert len(off) >= 9 and off.max() < 0.3, "disks lie where the simulation put them"
    assert counts[1.5].shape == counts[3.0].shape


def test_axes_of_the_scan_are_exchanged(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (3, 5, 6, 7)).astype(np.uint8)
    np.save(tmp_path / "scan.npy", values)
    np.testing.assert_array_equal(np.asarray(open_scan(tmp_path / "scan.npy", recipe(input__swap_scan=True))), values.swapaxes(0, 1))


@pytest.mark.slow
def test_a_least_height_keeps_the_strong_disks():
    """Of the disks that the simulation has, those with the largest amplitude stay."""
    made = gpu4d.simulate.bragg_scan((3, 3), (72, 72), spacing=17.0, radius=4.0, dose=100.0, background=0.0, seed=4)
    kept = {}
    for least in (0.0, 20.0):
        asked = recipe(analysis__technique="bragg", bragg__power=1.0, bragg__min_absolute_intensity=least)
        disks, found = analyse(gpu4d.DataCube(made.cube.source.array), asked)["braggvectors"], []
        for rx, ry in np.ndindex(3, 3):
            true, one = made.truth["positions"][rx, ry], disks[rx, ry]
            off = np.hypot(np.asarray(one.qx)[:, None] - true[:, 0], np.asarray(one.qy)[:, None] - true[:, 1])
            found += list(made.truth["amplitudes"][rx, ry][off.argmin(axis=1)])
        kept[least] = np.sort(found)
    everything, strong = kept[0.0], kept[20.0]
    assert 20 < len(strong) < 0.8 * len(everything)
    assert (strong > 0.45).sum() == (everything > 0.45).sum() > 9, "no strong disk is lost"
    assert (strong < 0.2).sum() == 0 < (everything < 0.2).sum(), "and no weak one is left"
