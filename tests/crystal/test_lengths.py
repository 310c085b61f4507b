"""Lengths of lattice vectors with standard errors: against the scatter of many scans, and what a run says of them."""

import numpy as np
import pytest

import gpu4d
from gpu4d.crystal import Lengths, fit_lattice, lattice_lengths
from gpu4d.crystal.lattice import canonical
from gpu4d.data import PointListArray
from gpu4d.workflow.record import measured

TRUE = np.array([[20.0, 3.0], [-8.0, 22.0]])
ORDERS = np.stack(np.mgrid[-2:3, -2:3], -1).reshape(-1, 2)


def scan(rng, shape=(4, 5), sigma=0.05):
    """Disks of a scan of one lattice, with known errors that differ from disk to disk and between the axes."""
    n = shape[0] * shape[1]
    errors = sigma * rng.uniform(0.5, 2.0, (n, len(ORDERS), 2)) * np.array([1.0, 0.6])
    q = 60 + ORDERS @ TRUE + rng.normal(size=errors.shape) * errors
    fields = {"qx": q[..., 0], "qy": q[..., 1], "intensity": 1 / errors.mean(-1) ** 2, "sx": errors[..., 0], "sy": errors[..., 1]}
    offsets = np.arange(n + 1) * len(ORDERS)
    return PointListArray(offsets, {name: values.ravel() for name, values in fields.items()}, shape)


def fitted(rng, **options):
    return fit_lattice(scan(rng, **options), TRUE, origin=(60.0, 60.0), weights="errors")


def test_reported_errors_are_the_scatter_of_many_scans():
    rng = np.random.default_rng(3)
    found = [lattice_lengths(fitted(rng)) for _ in range(150)]
    lengths, angles = np.array([f.lengths for f in found]), np.array([f.angle for f in found])
    said = np.sqrt(np.mean([np.square(f.errors) for f in found], axis=0))
    np.testing.assert_allclose(lengths.std(axis=0) / said, 1.0, atol=0.18)  # 150 values know their scatter to 6 %
    np.testing.assert_allclose(angles.std() / np.mean([f.angle_error for f in found]), 1.0, atol=0.18)
    np.testing.assert_allclose(lengths.mean(axis=0), np.hypot(*TRUE.T), atol=4 * said.max() / 150**0.5)
    assert abs(angles.mean() - np.arccos(TRUE[0] @ TRUE[1] / np.prod(np.hypot(*TRUE.T)))) < 4 * found[0].angle_error / 150**0.5


def test_a_mean_of_n_positions_is_known_better_than_one():
    rng = np.random.default_rng(5)
    fit = fitted(rng, shape=(12, 12))
    all_of_them = lattice_lengths(fit)
    assert all_of_them.positions == 144
    np.testing.assert_allclose(np.divide(all_of_them.errors, all_of_them.at_one_position), 1 / 12, rtol=0.1)


def test_positions_without_a_fit_do_not_count():
    rng = np.random.default_rng(6)
    disks = scan(rng, shape=(2, 3))
    few = np.concatenate([disks.offsets[:-1], disks.offsets[-2:-1] + 2])  # the last position has two disks
    cut = PointListArray(few, {name: disks.flat(name)[: few[-1]] for name in disks.fields}, (2, 3))
    assert lattice_lengths(fit_lattice(cut, TRUE, origin=(60.0, 60.0))).positions == 5
    none = PointListArray(np.zeros(7, int), {name: np.zeros(0) for name in disks.fields}, (2, 3))
    assert lattice_lengths(fit_lattice(none, TRUE, origin=(60.0, 60.0))) is None


def test_the_calibration_adds_its_error_to_the_spacings():
    found = Lengths((20.0, 25.0), (0.03, 0.05), (0.3, 0.5), 1.5, 0.01, 100)
    d, error = found.spacings(0.02, 0.0004)
    np.testing.assert_allclose(d, [2.5, 2.0])
    np.testing.assert_allclose(error, [2.5 * np.hypot(0.0015, 0.02), 2.0 * np.hypot(0.002, 0.02)])
    np.testing.assert_allclose(found.spacings(0.02)[1], [2.5 * 0.0015, 2.0 * 0.002])
    with pytest.raises(gpu4d.errors.InputError, match="q_pixel=0"):
        found.spacings(0.0)


@pytest.mark.parametrize(
    "value, error, text",
    [
        (2.04, 0.0, "2.04"),
        (2.04, None, "2.04"),
        (2.04, np.nan, "2.04"),
        (2.0391, 0.0913, "2.039 ± 0.091"),
        (1e-3, 2e-5, "0.001000 ± 0.000020"),
        (71.0, 14.0, "71 ± 14"),
        (9.96, 0.0996, "9.96 ± 0.10"),
        (0.0123, 0.000996, "0.0123 ± 0.0010"),
        (1234.6, 99.4, "1235 ± 99"),
        (1234.6, 651.2, "1235 ± 651"),
        (123456.0, None, "123456"),
        (9999.6, 0.0, "10000"),
    ],
)
def test_a_value_has_the_places_of_its_error(value, error, text):
    assert measured(value, error) == text


def test_a_run_says_how_well_lengths_and_spacings_are_known():
    """With the true probe, the true lattice lies within the error that is reported, and the spacing has the error of the pixel."""
    made = gpu4d.simulate.bragg_scan((10, 10), (128, 128), dose=300, seed=4)
    made.cube.calibration.set(q_pixel=0.02, q_pixel_error=0.0002)
    state = gpu4d.workflow.analyse(made.cube, probe=made.probe)
    ((value, remark),) = [(value, remark) for what, value, remark in state.record.figures if what == "Lattice"]
    lengths = [tuple(float(n) for n in part.removesuffix(" px").split(" ± ")) for part in value.split(", ")]
    moved = made.truth["positions"] - made.truth["origin"][:, :, None]
    local = np.einsum("hk,xykc->xyhc", np.linalg.pinv(made.truth["hk"]), moved)  # the lattice vectors of every position
    for (length, error), true in zip(lengths, np.linalg.norm(canonical(local.mean(axis=(0, 1))), axis=-1)):
        assert 0 < error < 0.01 and abs(length - true) < 5 * error
    spacing, error = (float(n) for n in remark.split("d = ")[1].split(" and ")[0].split(" ± "))
    assert spacing == pytest.approx(50 / lengths[0][0], rel=0.01) and error == pytest.approx(0.01 * spacing, rel=0.1)
    assert "mean of 100 positions" in remark and "° apart" in remark
