"""Strain of a glass over a scan: against what the simulation knows, against a crystal with the same deformation, and at the bound."""

import numpy as np
import pytest

import gpu4d
from gpu4d.amorphous import HaloReference, RingStrain, halo_reference
from gpu4d.calibrate import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.simulate import amorphous_scan

SHAPE, DETECTOR = (8, 9), (72, 76)
REGION = np.zeros(SHAPE, bool)
REGION[:3] = True
SCENE = {"radius": 21.0, "width": 2.4, "unstrained_rows": 3}


def components(strain):
    return np.stack([np.asarray(strain.exx), np.asarray(strain.eyy), np.asarray(strain.exy)])


def truth(scan):
    return np.stack([scan.truth[name] for name in ("exx", "eyy", "exy")])


def scene(**options):
    return amorphous_scan(SHAPE, DETECTOR, **{**SCENE, **options})


@pytest.fixture(scope="module")
def counted():
    return scene(seed=1)


@pytest.fixture(scope="module")
def exact():
    return scene(noise=False, strain_size=0.03, turn=0.4)


def test_the_truth_is_found_without_noise(exact):
    """To 3e-4 of 3 %: what the spline through the rings of the reference leaves. A rotation by 0.4 rad in the last row has no effect."""
    found = gpu4d.amorphous_strain(exact.cube, reference=REGION, origin=exact.truth["origin"], ellipse=(1, 1, 0))
    assert np.abs(components(found) - truth(exact)).max() < 3e-4
    assert np.abs(found.origin - exact.truth["origin"]).max() < 5e-3 and found.mask.all()
    assert np.abs(exact.truth["rotation"]).max() > 0.35


@pytest.mark.parametrize("given", ["origin", "nothing", "surface", "exact"])
def test_errors_are_those_of_the_counts(counted, given):
    options = {
        "origin": {"origin": counted.truth["origin"] + 0.6, "ellipse": (1, 1, 0)},
        "nothing": {},
        "surface": {"center": "surface", "ellipse": (1, 1, 0)},
        "exact": {"origin": counted.truth["origin"], "center": "given", "ellipse": (1, 1, 0)},
    }[given]
    found = gpu4d.amorphous_strain(counted.cube, reference=REGION, **options)
    pulls = (components(found) - truth(counted)) / np.asarray(found.uncertainty)
    assert np.abs(pulls).max() < 5 and abs(pulls.std() - 1) < 0.25  # 216 values: 1 ± 0.05, and the reference's own error beside
    assert found.mask.all() and abs(np.median(found.residual) - 1) < 0.03
    expected = np.sqrt(np.diagonal(found.covariance, axis1=2, axis2=3)).transpose(2, 0, 1)
    np.testing.assert_allclose(np.asarray(found.uncertainty), expected)
    if given == "surface":
        assert np.abs(found.origin - counted.truth["origin"]).max() < 0.06


def test_tension_makes_the_ring_smaller():
    def stretched(x, y):
        return np.where((x < 3)[..., None, None], np.eye(2), np.diag([1.08, 1.0]))

    scan = scene(strain=stretched, noise=False, descan=0.0)
    found = gpu4d.amorphous_strain(scan.cube, reference=REGION, ellipse=(1, 1, 0))
    assert np.abs(components(found)[:, 5, 5] - [0.08, 0, 0]).max() < 8e-4
    middle = np.rint(scan.truth["origin"][5, 5]).astype(int) + 14  # past the beam, along x and along y
    pattern = scan.cube.source.array[5, 5]
    along = np.argmax(pattern[middle[0] :, middle[1] - 14]), np.argmax(pattern[middle[0] - 14, middle[1] :])
    assert along[0] < along[1]


@pytest.mark.parametrize(("rotation", "transpose"), [(0.0, False), (0.5, True)])
def test_a_crystal_with_the_same_deformation_has_the_same_strain(rotation, transpose):
    """The same F gives the same sign and value in the same axes: U − 1 of a crystal and V − 1 of a glass where F is symmetric."""

    def pure(x, y):
        f = np.broadcast_to(np.eye(2), (*x.shape, 2, 2)).copy()
        rest = x >= 3
        f[rest] += np.stack([np.stack([0.02 * y / 8, 0.01 + 0 * y], -1), np.stack([0.01 + 0 * y, -0.015 * y / 8], -1)], -2)[rest]
        return f

    axes = {"rotation": rotation, "transpose": transpose}
    glass = scene(strain=pure, noise=False, **axes)
    crystal = gpu4d.simulate.bragg_scan(SHAPE, (64, 64), spacing=12.0, radius=2.0, strain=pure, **axes)
    at = crystal.truth["positions"]
    n = at.shape[2]
    disks = gpu4d.PointListArray(
        np.arange(at.shape[0] * at.shape[1] + 1) * n,
        {"qx": at[..., 0].ravel(), "qy": at[..., 1].ravel(), "intensity": np.ones(at[..., 0].size)},
        SHAPE,
    )
    basis = np.stack([crystal.truth["g1"], crystal.truth["g2"]])
    lattices = gpu4d.fit_lattice(disks, basis, origin=crystal.truth["origin"])
    known = gpu4d.Calibration(rotation=rotation, transpose=transpose)
    expected = components(gpu4d.strain_map(lattices, lattice=basis, calibration=known))
    cube = gpu4d.DataCube(glass.cube.source.array, known)
    found = gpu4d.amorphous_strain(cube, reference=REGION, origin=glass.truth["origin"], ellipse=(1, 1, 0))
    assert found.axes.frame == "scan" and not found.warnings
    assert np.abs(components(found) - expected).max() < 3e-4
    assert np.abs(expected).max() > 0.01


def test_an_ellipse_of_the_detector_is_composed_with_the_strain():
    """a/b of 1.12 and 4 % of strain: subtracting the ellipse's own strain from that of the whole leaves far more than the fit."""
    ellipse = (1.12, 1.0, 0.6)
    scan = scene(noise=False, strain_size=0.04, ellipse=ellipse)
    found = gpu4d.amorphous_strain(scan.cube, reference=REGION, origin=scan.truth["origin"])
    assert found.reference.ellipse[0] / found.reference.ellipse[1] == pytest.approx(1.12, abs=2e-3)
    known = gpu4d.DataCube(scan.cube.source.array, gpu4d.Calibration(ellipse=ellipse))
    exact = gpu4d.amorphous_strain(known, reference=REGION, origin=scan.truth["origin"])
    assert np.abs(components(exact) - truth(scan)).max() < 5e-4
    whole = np.array([[1 + truth(scan)[0], truth(scan)[2]], [truth(scan)[2], 1 + truth(scan)[1]]]).transpose(2, 3, 0, 1)
    t = ellipse_matrix(ellipse)
    form = t @ whole @ whole @ t  # of the ring as it is measured
    measured = np.array(gpu4d.amorphous.ellipse_to_strain(form[..., 0, 0], 2 * form[..., 0, 1], form[..., 1, 1]))
    form = t @ t
    own = np.array(gpu4d.amorphous.ellipse_to_strain(form[0, 0], 2 * form[0, 1], form[1, 1]))
    assert np.abs(measured - own[:, None, None] - truth(scan)).max() > 2e-3


def test_a_drift_of_the_camera_length_is_removed():
    columns = np.zeros(SHAPE, bool)
    columns[:, :3] = True

    def side(x, y):
        return np.where((y < 3)[..., None, None], np.eye(2), np.array([[1.01, 0.004], [0.004, 0.99]]))

    scan = scene(strain=side, unstrained_rows=0, radius_drift=0.02, noise=False)
    options = {"reference": columns, "origin": scan.truth["origin"], "ellipse": (1, 1, 0)}
    with_it, without = gpu4d.amorphous_strain(scan.cube, **options), gpu4d.amorphous_strain(scan.cube, drift=2, **options)
    assert np.abs(components(with_it) - truth(scan)).max() > 8e-3
    assert np.abs(components(without) - truth(scan)).max() < 4e-4
    assert np.ptp(without.drift) == pytest.approx(0.02, rel=0.05) and with_it.drift is None
    again = without.rotated(0.3).rotated(-0.3)
    np.testing.assert_allclose(components(again), components(without), atol=1e-12)
    for wrong, words in ((-1, "order"), (2.5, "drift"), (9, "order")):
        with pytest.raises(InputError, match=words):
            gpu4d.amorphous_strain(scan.cube, drift=wrong, **options)
    two_rows = np.zeros(SHAPE, bool)
    two_rows[:2] = True
    with pytest.raises(InputError, match="2 scan rows"):
        gpu4d.amorphous_strain(scan.cube, **{**options, "reference": two_rows, "drift": 2})


def test_every_form_of_a_reference(counted):
    origin = counted.truth["origin"]
    first = gpu4d.amorphous_strain(counted.cube, reference=REGION, origin=origin, ellipse=(1, 1, 0))
    again = gpu4d.amorphous_strain(counted.cube, reference=first, origin=origin)
    named = gpu4d.amorphous_strain(counted.cube, reference=first.reference, origin=origin)
    for other in (again, named):
        np.testing.assert_array_equal(components(other), components(first))
    r, p = counted.truth["profile"][::10].T
    given = gpu4d.amorphous_strain(counted.cube, reference=(r[r < 45], p[r < 45]), origin=origin, ellipse=(1, 1, 0))
    shift = components(given) - components(first)
    assert np.abs(shift.mean(axis=(1, 2))).max() < 4 * np.nanmedian(first.uncertainty) / np.sqrt(27), "the error of the region"
    assert shift.std(axis=(1, 2)).max() < 0.3 * np.nanmedian(first.uncertainty)
    mean = gpu4d.amorphous_strain(counted.cube, origin=origin, ellipse=(1, 1, 0))
    shift = components(mean) - components(first)
    assert shift.std(axis=(1, 2)).max() < 0.3 * np.nanmedian(first.uncertainty)
    assert abs(components(mean)[:2].mean()) < 5e-4, "relative to the mean of all"
    narrow = gpu4d.amorphous_strain(counted.cube, reference=first, origin=origin, radii=(17.0, 25.0))
    assert narrow.reference.radii == (17.0, 25.0) and np.nanmedian(np.asarray(narrow.uncertainty) / np.asarray(first.uncertainty)) > 1.01


def test_masks_bad_patterns_and_positions(counted):
    """A beam stop and dead pixels that hold nonsense, an empty pattern, a NaN on the ring and one beneath the stop."""
    data, mask = counted.cube.source.array.astype("float32"), np.ones(DETECTOR, bool)
    mask[33:40, :40] = mask[:, 50] = False
    data[..., ~mask] = 1e6
    data[2, 2] = 0
    data[4, 4, 36, 38 + 21] = np.nan
    data[5, 5, 36, 20] = np.nan
    where = np.ones(SHAPE, bool)
    where[7, 3:5] = False
    data.flags.writeable = False
    options = {"reference": REGION, "origin": counted.truth["origin"], "ellipse": (1, 1, 0), "where": where}
    found = gpu4d.amorphous_strain(gpu4d.DataCube(data, detector_mask=mask), **options)
    other = gpu4d.amorphous_strain(data, mask=mask, **options)
    np.testing.assert_array_equal(components(found), components(other))
    expected = where.copy()
    expected[2, 2] = expected[4, 4] = False
    np.testing.assert_array_equal(np.asarray(found.mask), expected)
    assert any("2 positions without strain" in text for text in found.warnings)
    pulls = ((components(found) - truth(counted)) / np.asarray(found.uncertainty))[:, expected]
    assert abs(pulls.std() - 1) < 0.25 and np.abs(pulls).max() < 5


def test_one_position_and_none():
    scan = amorphous_scan((1, 1), (61, 64), radius=18.0, strain=None, seed=2)
    found = gpu4d.amorphous_strain(scan.cube, ellipse=(1, 1, 0))
    strain = components(found)[:, 0, 0]
    assert (np.abs(strain) < 4 * np.asarray(found.uncertainty)[:, 0, 0]).all()
    assert abs(strain[:2].mean()) < 1e-3, "relative to itself, it is no larger"
    with pytest.raises(InputError, match="no position of the reference"):
        gpu4d.amorphous_strain(scan.cube, reference=np.zeros((1, 1), bool))
    with pytest.raises(InputError):
        gpu4d.amorphous_strain(np.zeros((2, 2, 40, 40), "uint16"))
    with pytest.raises(InputError):
        gpu4d.amorphous_strain(np.full((2, 2, 40, 40), np.nan))


def test_wrong_arguments_are_refused(counted):
    call = gpu4d.amorphous_strain
    for words, options in (
        ("center=", {"center": "fitted"}),
        ("needs an origin", {"center": "given"}),
        ("reference='median'", {"reference": "median"}),
        ("terms", {"terms": 4}),
        ("max_strain", {"max_strain": -1.0}),
        ("radii", {"radii": (30.0, 20.0)}),
        ("region", {"reference": np.ones((3, 3), bool)}),
        ("profile", {"reference": (np.arange(5.0), np.ones(5))}),
        ("rotation", {"rotation": 90.0, "reference": REGION}),
    ):
        with pytest.raises(InputError, match=words):
            call(counted.cube, **options)
    with pytest.raises(InputError, match="DataCube or"):
        call(np.ones((4, 40, 40)))
    with pytest.raises(InputError, match="no ring stands out"):
        call(np.full((2, 2, 60, 60), 5, "uint16"), origin=(30, 30), ellipse=(1, 1, 0))


def test_a_strain_in_other_axes_and_along_a_direction(counted):
    found = gpu4d.amorphous_strain(counted.cube, reference=REGION, origin=counted.truth["origin"], ellipse=(1, 1, 0))
    turned = found.rotated(np.pi / 2)
    np.testing.assert_allclose(components(turned), components(found)[[1, 0, 2]] * np.array([1, 1, -1])[:, None, None], atol=1e-12)
    np.testing.assert_allclose(np.asarray(found.along((2.0, 0.0))), np.asarray(found.exx), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(found.along((1.0, 1.0))), np.asarray(found.rotated(np.pi / 4).exx), atol=1e-12)
    assert "detector axes" in repr(found) and found.warnings, "the rotation is not calibrated"
    with pytest.raises(InputError, match="direction"):
        found.along((0.0, 0.0))
    stored = found.to_emd()[""]
    assert stored.labels == ("e_xx", "e_yy", "e_xy", "mask") and stored.shape == (4, *SHAPE)


def test_results_can_be_saved_and_opened(counted, tmp_path):
    import h5py

    found = gpu4d.amorphous_strain(counted.cube, reference=REGION, origin=counted.truth["origin"], ellipse=(1, 1, 0))
    gpu4d.save(tmp_path / "out.h5", {"strain": found})
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["gpu4d/strain/data"][0], found.exx, err_msg="the stack that py4DSTEM reads")
    back = gpu4d.read_emd(tmp_path / "out.h5")["strain"]
    np.testing.assert_array_equal(back.rotated(0.3).exy, found.rotated(0.3).exy)


@pytest.mark.shared
def test_the_shared_glass_is_measured_at_its_bound(shared_data):
    """Counts of a whole scan: rms within 1.1 of the bound, slope 1, honest errors; rotations up to 2.5° do not show."""
    import h5py

    with h5py.File(shared_data / "amorphous_strain.h5") as file:
        data, known = file["poisson_45000"][()], file["truth"]
        expected = np.stack([known[name][()] for name in ("e_xx", "e_yy", "e_xy")]).astype(float)
        origin, rotation = known["origin_px"][()].astype(float), known["rotation_rad"][()]
    region = np.zeros((24, 24), bool)
    region[:4] = True
    for options in ({"origin": origin, "ellipse": (1, 1, 0)}, {}):
        found = gpu4d.amorphous_strain(data, reference=region, **options)
        off = components(found) - expected
        rms = np.sqrt((off**2).mean(axis=(1, 2)))
        assert (rms <= 1.1 * np.array([2.0e-3, 2.0e-3, 1.6e-3])).all(), rms
        slope = (components(found) * expected).sum() / (expected**2).sum()
        assert abs(slope - 1) < 0.005
        inside = np.abs(off / np.asarray(found.uncertainty)) < 1
        assert 0.65 < inside.mean() < 0.71
        assert all(abs(np.corrcoef(o.ravel(), rotation.ravel())[0, 1]) < 4 / 24 for o in off)


def test_a_reference_is_made_apart_and_shown(counted):
    found = halo_reference(counted.cube, region=REGION, origin=counted.truth["origin"])
    assert isinstance(found, HaloReference) and "ring at" in repr(found)
    assert found.peak == pytest.approx(20.7, abs=0.5) and found.ellipse[0] / found.ellipse[1] < 1.003
    r, p = counted.truth["profile"].T
    inside = (found.radius > found.radii[0]) & (found.radius < found.radii[1])
    expected = np.interp(found.radius[inside], r, p)
    brightness = (found.profile[inside] * expected).sum() / (expected**2).sum()
    assert np.abs(found.profile[inside] / brightness - expected).max() < 0.03 * expected.max()
    swept = gpu4d.sweep(counted.cube, RingStrain(found, counted.truth["origin"]))
    called = gpu4d.amorphous_strain(counted.cube, reference=found, origin=counted.truth["origin"])
    np.testing.assert_array_equal(components(swept), components(called))
    with pytest.raises(InputError, match="HaloReference"):
        RingStrain("mean")
    with pytest.raises(InputError, match="radii"):
        found.between(30.0, 20.0)
