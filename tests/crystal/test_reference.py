"""References of the strain: regions, vectors, the least strained region, another result, a crystal."""

import numpy as np
import pytest
from lattice_points import SQUARE, disks_of

import gpu4d
from gpu4d.errors import InputError
from gpu4d.structures import Site, Structure

SHAPE = (20, 24)
ORIGIN = (64.0, 64.0)
HALF = np.indices(SHAPE)[1] >= 12


def fit_of(f, basis=SQUARE, sigma=0.0, seed=0):
    """The fit of a scan whose lattice is deformed by F (Rx, Ry, 2, 2): g = F⁻ᵀ g_ref."""
    lists, rng = [], np.random.default_rng(seed)
    h, k = np.mgrid[-2:3, -2:3].reshape(2, -1)
    places = []
    for position in np.ndindex(SHAPE):
        rows = basis @ np.linalg.inv(f[position])
        places.append(np.stack([h, k], -1) @ rows + ORIGIN + rng.normal(0, sigma, (25, 2)))
    lists = np.concatenate(places)
    fields = {"qx": lists[:, 0], "qy": lists[:, 1], "intensity": np.full(len(lists), 100.0)}
    disks = gpu4d.PointListArray(np.arange(np.prod(SHAPE) + 1) * 25, fields, SHAPE)
    return gpu4d.fit_lattice(
        disks, np.median([basis @ np.linalg.inv(m) for m in f.reshape(-1, 2, 2)], axis=0), origin=ORIGIN, tolerance=0.45
    )


def stretched(exx, where):
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    f[where, 0, 0] += exx
    return f


def test_tension_is_positive_also_of_half_the_length():
    """A crystal stretched by 50 % along x: disks move inwards along qx."""
    whole = fit_of(stretched(0.5, np.ones(SHAPE, bool)))
    strain = gpu4d.strain_map(whole, reference=SQUARE, max_strain=0.6)
    np.testing.assert_allclose(strain.exx.data, 0.5, atol=1e-9)
    np.testing.assert_allclose([strain.eyy.data, strain.exy.data, strain.theta.data], 0, atol=1e-9)


@pytest.mark.parametrize("degrees", [0, 33, 120])
def test_a_rotated_reference_gives_the_rotation_and_the_same_strain(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[c, -s], [s, c]])
    f = turn @ np.array([[1.5, 0.0], [0.0, 1.0]])
    strain = gpu4d.strain_map(fit_of(np.broadcast_to(f, (*SHAPE, 2, 2))), reference=SQUARE, max_strain=0.6)
    np.testing.assert_allclose(strain.exx.data, 0.5, atol=1e-9)
    np.testing.assert_allclose(strain.rotation.data, np.deg2rad(degrees), atol=1e-9)


def test_the_least_strained_region_is_found():
    """Half of the scan is unstrained; in the other half strain grows. The median lies between them."""
    ramp = np.where(HALF, (np.indices(SHAPE)[1] - 11) * 2e-3, 0.0)
    f = stretched(0.0, HALF)
    f[..., 0, 0] += ramp
    fit = fit_of(f, sigma=0.01)
    strain = gpu4d.strain_map(fit, reference="auto")
    assert strain.reference.region[:, :11].mean() > 0.9 and not strain.reference.region[:, 14:].any()
    assert "least strained region" in strain.reference.how and "columns 0" in strain.reference.how
    assert abs(np.mean(strain.exx.data - ramp)) < 1e-4
    assert abs(np.mean(gpu4d.strain_map(fit).exx.data - ramp)) > 5e-4, "the median of the scan is strained"


def test_a_region_vectors_a_lattice_another_scan_and_another_result_agree():
    fit = fit_of(stretched(0.02, HALF))
    wanted = gpu4d.strain_map(fit, region=~HALF)
    np.testing.assert_allclose(wanted.exx.data, np.where(HALF, 0.02, 0), atol=1e-9)
    other = fit_of(stretched(0.0, HALF))
    for reference in (~HALF, SQUARE, gpu4d.crystal.Lattice(*SQUARE), other, wanted):
        found = gpu4d.strain_map(fit, reference=reference)
        np.testing.assert_allclose(found.exx.data, wanted.exx.data, atol=1e-9)
    np.testing.assert_array_equal(gpu4d.strain_map(fit, reference=~HALF).reference.region, ~HALF)


def test_a_reference_of_another_result_has_the_ellipse_that_is_calibrated_now():
    ellipse = (1.03, 1.0, 0.4)
    seen = SQUARE @ np.linalg.inv(gpu4d.calibrate.ellipse_matrix(ellipse)).T
    fit = fit_of(stretched(0.0, HALF), seen)
    calibrated = gpu4d.Calibration(ellipse=ellipse)
    for first, second in ((None, calibrated), (calibrated, calibrated), (calibrated, None)):
        strain = gpu4d.strain_map(fit, reference=gpu4d.strain_map(fit, calibration=first), calibration=second)
        np.testing.assert_allclose([strain.exx.data, strain.eyy.data], 0, atol=1e-9)


def test_a_crystal_gives_absolute_strain():
    """Simple cubic, 4 Å, along [001]: |g| = 0.25 1/Å is 20 px of 0.0125 1/Å."""
    crystal = Structure("cubic", (4.0, 4.0, 4.0, 90.0, 90.0, 90.0), "P m -3 m", (Site("Cu", (0, 0, 0)),))
    length = float(np.hypot(*SQUARE[0]))
    calibration = gpu4d.Calibration(q_pixel=0.25 / length)
    strain = gpu4d.strain_map(fit_of(stretched(0.015, np.ones(SHAPE, bool))), reference=crystal, calibration=calibration)
    np.testing.assert_allclose([strain.exx.data, strain.eyy.data], [np.full(SHAPE, 0.015), np.zeros(SHAPE)], atol=1e-6)
    np.testing.assert_allclose(strain.theta.data, 0, atol=1e-6)
    assert strain.reference.how.startswith("lattice of cubic")
    with pytest.raises(InputError, match="the pixel size must be known"):
        gpu4d.strain_map(fit_of(stretched(0.0, HALF)), reference=crystal)
    with pytest.raises(InputError, match=r"no lattice planes within 10 %|no zone axis"):
        gpu4d.strain_map(fit_of(stretched(0.0, HALF)), reference=crystal, calibration=gpu4d.Calibration(q_pixel=0.18 / length))


def test_strain_along_a_reflection():
    fit = fit_of(stretched(0.02, HALF))
    strain = gpu4d.strain_map(fit, reference=SQUARE)
    for g in ("g1", "g2"):
        vector = SQUARE[0] if g == "g1" else SQUARE[1]
        n = vector / np.hypot(*vector)
        np.testing.assert_allclose(strain.along(g).data, np.where(HALF, 0.02 * n[0] ** 2, 0), atol=1e-9)
        np.testing.assert_allclose(strain.along(vector).data, strain.along(g).data)
        np.testing.assert_allclose(strain.rotated(0.7).along(g).data, strain.along(g).data, atol=1e-12)
    with pytest.raises(InputError, match="need 'g1', 'g2' or a vector"):
        strain.along("g3")
    with pytest.raises(InputError, match="a vector with a direction"):
        strain.along((0.0, 0.0))


def test_what_is_refused():
    fit = fit_of(stretched(0.0, HALF))
    with pytest.raises(InputError, match="reference='middle': need 'median', 'mean', 'auto', a region"):
        gpu4d.strain_map(fit, reference="middle")
    with pytest.raises(InputError, match="the reference is a list: leave out one of both"):
        gpu4d.strain_map(fit, region=HALF, reference=[[12.0, 0.0], [0.0, 12.0]])
    with pytest.raises(InputError, match="reference= and lattice= are both given"):
        gpu4d.strain_map(fit, reference=HALF, lattice=[[12.0, 0.0], [0.0, 12.0]])
    with pytest.raises(InputError, match="another basis"):
        gpu4d.strain_map(fit, reference=SQUARE[::-1].copy())
    few = disks_of(SQUARE, origin=np.full((2, 2, 2), 64.0), shape=(2, 2))
    with pytest.raises(InputError, match="'auto' needs 9 positions"):
        gpu4d.strain_map(gpu4d.fit_lattice(few, SQUARE, origin=ORIGIN), reference="auto")
