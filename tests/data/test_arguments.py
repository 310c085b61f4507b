"""Arguments that many public calls share: the same forms are taken, and the same mistakes refused, everywhere."""

import numpy as np
import pytest

import gpu4d
from gpu4d.bragg import friedel_symmetry
from gpu4d.data.arguments import host_image, origins, pixel_mask, scan_mask
from gpu4d.data.scan_axes import scan_matrix, to_scan_axes
from gpu4d.errors import InputError

SCAN, DETECTOR = (3, 4), (16, 12)
CENTRE = (7.5, 5.5)


@pytest.fixture
def cube():
    return gpu4d.DataCube(np.random.default_rng(0).poisson(9, (*SCAN, *DETECTOR)).astype("u2"))


@pytest.fixture
def disks():
    rng = np.random.default_rng(1)
    number = SCAN[0] * SCAN[1]
    qx, qy = (rng.uniform(2, n - 3, 3 * number) for n in DETECTOR)
    return gpu4d.PointListArray(np.arange(number + 1) * 3, {"qx": qx, "qy": qy, "intensity": np.ones(3 * number)}, SCAN)


FORMS = {
    "tuple": CENTRE,
    "list": list(CENTRE),
    "array": np.array(CENTRE),
    "map": np.full((*SCAN, 2), CENTRE),
    "nested list": np.full((*SCAN, 2), CENTRE).tolist(),
    "Origin": gpu4d.calibrate.origin(np.full((*SCAN, 2), CENTRE), fit="constant"),
    "RealSlice": gpu4d.RealSlice(np.full((*SCAN, 2), CENTRE).transpose(2, 0, 1), labels=("com_x", "com_y")),
}
LATTICE = [[4.0, 0.0], [0.0, 4.0]]
TAKE_AN_ORIGIN = {
    "MeanPattern": lambda cube, disks, o: gpu4d.sweep(cube, gpu4d.MeanPattern(origin=o)),
    "VirtualImage": lambda cube, disks, o: gpu4d.virtual_image(cube, gpu4d.detectors.annulus(1, 4), o),
    "bragg_vector_map": lambda cube, disks, o: gpu4d.bragg_vector_map(disks, DETECTOR, origin=o),
    "find_lattice": lambda cube, disks, o: gpu4d.find_lattice(disks, o),
    "find_lattices": lambda cube, disks, o: gpu4d.crystal.find_lattices(disks, o).matrices,
    "fit_lattices": lambda cube, disks, o: gpu4d.crystal.fit_lattices(disks, [LATTICE], origin=o)[0].g1,
    "friedel_symmetry": lambda cube, disks, o: friedel_symmetry(disks, o, DETECTOR, 1.0),
    "fit_lattice": lambda cube, disks, o: gpu4d.fit_lattice(disks, LATTICE, origin=o).g1,
    "calibrate.origin": lambda cube, disks, o: gpu4d.calibrate.origin(disks, guess=o, radius=20.0).fitted,
    "RadialProfile": lambda cube, disks, o: gpu4d.sweep(cube, gpu4d.RadialProfile(o)),
    "radial_profile": lambda cube, disks, o: gpu4d.radial_profile(cube, o),
    "radial_profile of an array": lambda cube, disks, o: gpu4d.radial_profile(cube.source.array, o),
    "polar_transform": lambda cube, disks, o: gpu4d.polar_transform(cube, o, n_theta=6),
    "polar_transform of an array": lambda cube, disks, o: gpu4d.polar_transform(cube.source.array, o, n_theta=6),
    "Calibration": lambda cube, disks, o: gpu4d.DataCube(cube.source, gpu4d.Calibration(origin=o)).calibration.origin_mean,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", TAKE_AN_ORIGIN)
def test_an_origin_in_every_form_means_the_same(cube, disks, call, form):
    take = TAKE_AN_ORIGIN[call]
    if " of an array" in call and form == "RealSlice":
        pytest.skip("a stack has its components in front, patterns behind: an array is meant")
    found, expected = take(cube, disks, FORMS[form]), take(cube, disks, FORMS["map"])
    if expected is None:
        assert found is None
    else:
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "wrong", [np.full((5, 6, 2), 6.0), np.full((4, 3, 2), 6.0), np.ones((1, 1, 2)), np.arange(7.0), "middle", [[1, 2], [3]]]
)
@pytest.mark.parametrize("call", TAKE_AN_ORIGIN)
def test_an_origin_of_another_scan_is_refused(cube, disks, call, wrong):
    with pytest.raises(InputError, match="need"):
        TAKE_AN_ORIGIN[call](cube, disks, wrong)


def test_an_origin_set_later_is_of_the_scan_too(cube):
    cube.calibration.set(origin=np.zeros((9, 9, 2)), how="by mistake")
    with pytest.raises(InputError, match=r"calibration.origin is \(9, 9, 2\)"):
        gpu4d.virtual_image(cube, gpu4d.detectors.disk(2.0))


TAKE_POSITIONS = {
    "sweep": lambda cube, disks, w: gpu4d.sweep(cube, gpu4d.MeanPattern(), where=w),
    "bragg_vector_map": lambda cube, disks, w: gpu4d.bragg_vector_map(disks, DETECTOR, where=w),
    "find_lattice": lambda cube, disks, w: gpu4d.find_lattice(disks, where=w),
    "find_lattices": lambda cube, disks, w: gpu4d.crystal.find_lattices(disks, CENTRE, where=w),
    "fit_lattices": lambda cube, disks, w: gpu4d.crystal.fit_lattices(disks, [LATTICE], origin=CENTRE, where=w),
    "find_lattice with an origin": lambda cube, disks, w: gpu4d.find_lattice(disks, CENTRE, where=w),
    "calibrate.origin": lambda cube, disks, w: gpu4d.calibrate.origin(disks, where=w),
    "calibrate.rotation": lambda cube, disks, w: gpu4d.calibrate.rotation(np.ones((*SCAN, 2)), where=w),
    "strain_map": lambda cube, disks, w: gpu4d.strain_map(gpu4d.fit_lattice(disks, LATTICE, origin=CENTRE), region=w),
    "probe.from_vacuum": lambda cube, disks, w: gpu4d.probe.from_vacuum(cube, w),
    "dpc": lambda cube, disks, w: gpu4d.dpc(cube, where=w),
    "ssb": lambda cube, disks, w: gpu4d.ssb(cube, energy=2e5, r_pixel=0.2, semiangle=20.0, q_pixel=0.5, origin=CENTRE, where=w),
    "radial_profile": lambda cube, disks, w: gpu4d.radial_profile(cube, CENTRE, where=w),
}


@pytest.mark.parametrize("shape", [(4, 3), (12,), (4, 4), (1, 1), (3, 4, 1)])
@pytest.mark.parametrize("call", TAKE_POSITIONS)
def test_a_mask_of_positions_of_another_shape_is_refused(cube, disks, call, shape):
    with pytest.raises(InputError, match=rf"(where|region) is .*the scan is \({SCAN[0]}, {SCAN[1]}\)"):
        TAKE_POSITIONS[call](cube, disks, np.ones(shape, bool))


def test_masks_and_images():
    assert scan_mask(None, (2, 2)) is None and pixel_mask(None, (2, 2)) is None
    assert scan_mask([[1, 0.5], [0, 0]], (2, 2)).tolist() == [[True, True], [False, False]]
    for take in (scan_mask, pixel_mask):
        with pytest.raises(InputError, match="one bool"):
            take([["a", "b"]], (1, 2))
        with pytest.raises(InputError, match="NaN"):
            take([[np.nan]], (1, 1))
    with pytest.raises(InputError, match="one image"):
        host_image(np.ones(3))
    image = 50 * gpu4d.probe.synthetic((24, 20), 4.0)
    for mask in (np.ones((24, 1), bool), np.array(True)):
        with pytest.raises(InputError, match="one bool per detector pixel"):
            gpu4d.probe.measure_disk(image, mask)
    assert origins(CENTRE).dtype == np.float64


def test_slices_are_arrays(cube):
    pattern = cube[0, 0]
    plain = np.asarray(pattern)
    np.testing.assert_array_equal(gpu4d.center_of_mass(pattern), gpu4d.center_of_mass(plain))
    probe = gpu4d.DiffractionSlice(gpu4d.probe.synthetic((48, 48), 4.0))
    image = gpu4d.DiffractionSlice(100 * gpu4d.probe.synthetic((48, 48), 4.0, center=(20.3, 30.6)))
    found, expected = gpu4d.find_bragg_disks(image, probe), gpu4d.find_bragg_disks(image.data, probe.data)
    assert len(found) == 1 and found.flat("qx").tolist() == expected.flat("qx").tolist()
    assert gpu4d.probe.measure_disk(image) == gpu4d.probe.measure_disk(image.data)
    np.testing.assert_array_equal(gpu4d.radial_profile(pattern, CENTRE), gpu4d.radial_profile(plain, CENTRE))
    detector = gpu4d.DiffractionSlice(np.eye(*DETECTOR) > 0)
    np.testing.assert_array_equal(gpu4d.virtual_image(cube, detector), gpu4d.virtual_image(cube, detector.data))


@pytest.mark.parametrize("transpose", [False, True])
def test_one_formula_leads_to_scan_axes(transpose):
    v = np.random.default_rng(0).normal(size=(5, 2))
    c, s = np.cos(0.7), np.sin(0.7)
    expected = (v[:, ::-1] if transpose else v) @ np.array([[c, -s], [s, c]]).T
    np.testing.assert_allclose(to_scan_axes(v, 0.7, transpose), expected, atol=1e-15)
    np.testing.assert_allclose(v @ scan_matrix(0.7, transpose).T, expected, atol=1e-15)
    np.testing.assert_allclose(expected @ scan_matrix(0.7, transpose), v, atol=1e-15)


def test_a_calibrated_rotation_is_used_by_ssb_and_dpc():
    scan = gpu4d.simulate.phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=0.1, rotation=1.2, seed=1)
    scan.cube.calibration.set(rotation=1.2, transpose=False, how="known")
    truth = np.ravel(scan.truth["phase"])
    for found in (gpu4d.dpc(scan.cube), gpu4d.ssb(scan.cube)):
        assert found.rotation == 1.2
        assert np.corrcoef(np.ravel(np.asarray(found.phase)), truth)[0, 1] > 0.9
