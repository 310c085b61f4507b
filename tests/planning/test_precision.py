"""The predicted precision against what a Poisson fit of simulated disks reaches."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.planning import disk_precision, strain_precision
from gpu4d.simulate.bragg import soft_disk

AREA = soft_disk((65, 65), (32, 32), 6.0, 1.0).sum()  # pixels of a disk of height 1


def predicted(made, dose, background):
    """The prediction for a simulated scan, from its mean amplitudes and the background under each disk."""
    t = made.truth
    g = np.stack([t["g1"], t["g2"]])
    away = np.linalg.norm(t["hk"] @ g, axis=1) / (1.4 * np.linalg.norm(g[0]))
    below = dose * (background * np.exp(-(away**2)) + 0.002)
    return g, strain_precision(g, t["hk"], dose * AREA * t["amplitudes"].mean((0, 1)), 6.0, background=below)


@pytest.mark.parametrize(
    ("dose", "background"),
    [(20.0, 0.03), pytest.param(300.0, 0.1, marks=pytest.mark.slow), pytest.param(100.0, 0.03, marks=pytest.mark.slow)],
)
def test_strain_of_a_simulated_scan_scatters_as_predicted(dose, background):
    """An unstrained lattice: the scatter over the positions is the error. 576 positions tell it to 3 %, four components together to 2 %."""
    made = gpu4d.simulate.bragg_scan((24, 24), (112, 112), strain=None, descan=0.0, spacing=20.0, dose=dose, background=background, seed=3)
    g, expected = predicted(made, dose, background)
    disks = gpu4d.find_bragg_disks(made.cube, made.probe, refine="likelihood")
    strain = gpu4d.strain_map(gpu4d.fit_lattice(disks, g, origin=made.truth["origin"]))
    ratio = [np.nanstd(np.asarray(getattr(strain, name))) / getattr(expected, name) for name in ("exx", "eyy", "exy", "theta")]
    assert np.sqrt(np.mean(np.square(ratio))) == pytest.approx(1.02, abs=0.05), ratio
    stated = np.nanmedian(np.asarray(strain.uncertainty), axis=(1, 2))
    np.testing.assert_allclose(stated, [expected.exx, expected.eyy, expected.exy, expected.theta], rtol=0.05)


@pytest.mark.parametrize(("electrons", "background"), [(300.0, 0.05), (5000.0, 1.0)])
def test_the_bound_of_a_disk_is_the_inverse_fisher_information(electrons, background):
    """Against the sum over the pixels of one pattern, with derivatives by differences, and all positions between pixels."""
    height, errors = electrons / AREA, []
    x, y = np.meshgrid(np.arange(-10, 11), np.arange(-10, 11), indexing="ij")
    window = np.hypot(x, y) <= 6 + 3.3
    for shift in ((0.0, 0.0), (0.3, -0.4), (0.5, 0.25)):
        at = lambda dx, dy, shift=shift: soft_disk((21, 21), (10 + shift[0] + dx, 10 + shift[1] + dy), 6.0, 1.0)[window]  # noqa: E731
        h = 1e-3
        terms = [height * (at(h, 0) - at(-h, 0)) / (2 * h), height * (at(0, h) - at(0, -h)) / (2 * h), at(0, 0), np.ones(window.sum())]
        terms += [x[window].astype(float), y[window].astype(float)]
        model = height * at(0, 0) + background
        fisher = np.array([[(a * b / model).sum() for a in terms] for b in terms])
        errors.append(np.linalg.inv(fisher)[:2, :2].diagonal().mean())
    assert disk_precision(electrons, 6.0, background=background)[0] == pytest.approx(np.sqrt(np.mean(errors)), rel=0.02)


def test_more_electrons_and_less_background_are_more_precise():
    one, four = disk_precision([1e4, 4e4], 6.0, background=[0.0, 0.0])
    assert one / four == pytest.approx(2, rel=0.01)
    assert (np.diff(disk_precision(500.0, 6.0, background=np.array([0.0, 0.1, 1.0, 10.0]))) > 0).all()
    assert disk_precision(500.0, 6.0, background=0.5, parameters=4)[0] < disk_precision(500.0, 6.0, background=0.5)[0]
    assert np.isnan(disk_precision(0.0, 6.0)[0])


def test_known_ratios_of_strain():
    """A square lattice of four equal disks about the origin: the shear has half of the variance of a normal strain."""
    orders = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    near, far = (strain_precision(np.eye(2) * g, orders, 1000.0, 5.0) for g in (20.0, 40.0))
    assert near.exx == pytest.approx(near.eyy) == pytest.approx(2 * far.exx)
    assert near.exy == pytest.approx(near.exx / np.sqrt(2)) and near.theta == pytest.approx(near.exy)
    sigma = disk_precision(1000.0, 5.0)[0]
    assert near.exx == pytest.approx(sigma / np.sqrt(2) / 20), "two opposite disks give g"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: disk_precision(100.0, 0.0), "positive"),
        (lambda: disk_precision(-1.0, 5.0), "from 0 on"),
        (lambda: disk_precision(100.0, 5.0, parameters=8), "4 or 6"),
        (lambda: disk_precision(np.nan, 5.0), "from 0 on"),
        (lambda: strain_precision(np.eye(2) * 20, [(0, 0), (1, 0)], 1e3, 5.0), "three disks"),
        (lambda: strain_precision(np.eye(2) * 20, [(0, 0), (1, 0), (2, 0)], 1e3, 5.0), "not on a line"),
        (lambda: strain_precision(np.eye(2) * 20, [(0, 0, 1)], 1e3, 5.0), "pairs"),
        (lambda: strain_precision(np.eye(2) * 20, [(0, 0), (1, 0), (0, 1)], [1e3, 1e3], 5.0), "one for each of 3"),
        (lambda: strain_precision([[1, 2]], [(0, 0), (1, 0), (0, 1)], 1e3, 5.0), "g1 and g2"),
        (lambda: strain_precision([[9, 0], [18, 0]], [(0, 0), (1, 0), (0, 1)], 1e3, 5.0), "parallel"),
    ],
)
def test_what_is_impossible_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
