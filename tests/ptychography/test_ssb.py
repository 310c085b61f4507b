"""Single-side-band ptychography: the phase against truth, the published definition, and plain sums in float64."""

import numpy as np
import pytest
from ssb_scans import ABERRATIONS, ENERGY, antialiased_disk, correlation, low_passed, mos2, published, random_cube, shifts, slope

import gpu4d
from gpu4d import physics
from gpu4d.probe.wavefunction import wavefunction
from gpu4d.ptychography.ssb_sum import ssb_sum
from gpu4d.simulate import phase_object_scan

# ---------------------------------------------------------------- the phase against truth


def test_a_weak_phase_comes_out_in_radians():
    scan = phase_object_scan((48, 48), (40, 40), r_pixel=0.25, strength=0.02)
    found = gpu4d.ssb(scan.cube, origin=(20, 20), epsilon=1e-6)
    k0 = physics.angle_to_frequency(25.0, ENERGY)
    truth = low_passed(scan.truth["phase"], 0.25, 2 * k0)
    assert correlation(found.phase, truth) > 0.999
    assert 0.97 < slope(found.phase, truth) < 1.03  # the edge of so small a disk counts
    np.testing.assert_allclose(np.asarray(found.transmission), 1 + 1j * np.asarray(found.phase), rtol=1e-14)
    assert found.phase.units == "rad"
    assert found.phase.pixel_size == 0.25


@pytest.mark.parametrize("mode", ["weighted", "exact"])
def test_defocus_has_the_right_sign(mode):
    scan = phase_object_scan((40, 40), (40, 40), r_pixel=0.25, strength=0.05, defocus=80.0)
    good = gpu4d.ssb(scan.cube, origin=(20, 20), aberrations={"defocus": 80.0}, mode=mode)
    same = gpu4d.ssb(scan.cube, origin=(20, 20), aberrations={"C10": -80.0}, mode=mode)
    wrong = gpu4d.ssb(scan.cube, origin=(20, 20), aberrations={"defocus": -80.0}, mode=mode)
    truth = low_passed(scan.truth["phase"], 0.25, 2 * physics.angle_to_frequency(25.0, ENERGY))
    assert correlation(good.phase, truth) > 0.97
    assert correlation(wrong.phase, truth) < 0.7
    np.testing.assert_array_equal(good.phase, same.phase)


@pytest.mark.parametrize(("rotation", "transpose"), [(0.0, False), (0.7, False), (0.0, True), (-2.2, True)])
def test_a_turned_detector(rotation, transpose):
    # The scan is a piece of the cell, as a turned grid has no period: its border is left out.
    scan = phase_object_scan((40, 33), (36, 36), r_pixel=0.25, cell=12.0, strength=0.1, rotation=rotation, transpose=transpose)
    found = gpu4d.ssb(scan.cube, origin=(18, 18), rotation=rotation, transpose=transpose)
    truth = scan.truth["phase"]
    assert correlation(found.phase, truth, 6) > 0.98
    inverted = gpu4d.ssb(scan.cube, origin=(18, 18), rotation=rotation + np.pi, transpose=transpose)
    assert correlation(inverted.phase, truth, 6) < -0.95
    flipped = gpu4d.ssb(scan.cube, origin=(18, 18), rotation=rotation, transpose=not transpose)
    assert abs(correlation(flipped.phase, truth, 6)) < 0.5
    scan.cube.calibration.set(rotation=rotation, transpose=transpose, how="known")
    calibrated = gpu4d.ssb(scan.cube, origin=(18, 18), rotation=None, transpose=None)
    np.testing.assert_array_equal(calibrated.phase, found.phase)
    assert not calibrated.warnings


@pytest.mark.parametrize("mode", ["weighted", "exact"])
def test_quarter_turns_of_the_detector_are_exact(mode):
    """Counts moved to where a turned detector has them: v_scan = R(rotation) v_det after the swap."""
    cube = random_cube((8, 9), (17, 17), 4.3, origin=(8, 8))
    data, expected = cube.source.array, np.asarray(gpu4d.ssb(cube, mode=mode).phase)
    x, y = np.meshgrid(np.arange(-8, 9), np.arange(-8, 9), indexing="ij")
    for quarter in range(4):
        for transpose in (False, True):
            u, v = (y, x) if transpose else (x, y)
            for _ in range(quarter):
                u, v = -v, u
            turned = gpu4d.DataCube(data[:, :, u + 8, v + 8], cube.calibration)
            found = gpu4d.ssb(turned, rotation=quarter * np.pi / 2, transpose=transpose, mode=mode)
            np.testing.assert_allclose(found.phase, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("dose", "weighted", "exact"), [("noisefree", 0.995, 0.993), ("poisson_1e5", 0.975, 0.98), ("poisson_1e4", 0.86, 0.9)]
)
def test_mos2_in_focus(shared_data, dose, weighted, exact):
    """abTEM multislice of a layer whose phase reaches 0.85 rad; the border is left out, as the scan is not periodic."""
    cube, truth = mos2(shared_data, "infocus", dose)
    found = gpu4d.ssb(cube)
    assert np.hypot(*np.subtract(found.origin, np.array(cube.detector_shape) // 2)) < 0.02
    assert correlation(found.phase, truth, 6) >= weighted
    assert 0.88 < slope(found.phase, truth, 6) < 1.0  # a single measured value of sin φ
    assert correlation(gpu4d.ssb(cube, mode="exact").phase, truth, 6) >= exact


def test_mos2_out_of_focus(shared_data):
    cube, truth = mos2(shared_data, "defocus20nm", "poisson_1e5")
    assert correlation(gpu4d.ssb(cube, aberrations={"defocus": 200.0}).phase, truth, 6) >= 0.94
    assert correlation(gpu4d.ssb(cube, aberrations={"C10": -200.0}, mode="exact").phase, truth, 6) >= 0.94
    assert abs(correlation(gpu4d.ssb(cube, aberrations={"defocus": -200.0}).phase, truth, 6)) < 0.2


def test_any_scan_size():
    scan = phase_object_scan((130, 97), (26, 26), r_pixel=0.35, strength=0.05, semiangle=10.0, energy=ENERGY, cell=45.5)
    found = gpu4d.ssb(scan.cube, origin=(13, 13))
    assert found.phase.shape == (130, 97)
    assert correlation(found.phase, scan.truth["phase"], 8) > 0.93


# ---------------------------------------------------------------- the published definition, and plain sums


@pytest.mark.parametrize("rotation", [0.0, 0.45])
def test_exact_mode_is_the_published_definition(rotation):
    cube = random_cube((11, 13), (18, 17))
    found = gpu4d.ssb(cube, mode="exact", rotation=rotation)
    disk_at = antialiased_disk((18, 17), (7.8, 8.3), 4.3)
    expected = published(cube.source.array, disk_at, shifts((11, 13), 0.9, 0.05, rotation))
    mean = expected.mean()  # the direct beam, which is 1 in ours
    mine = np.asarray(found.transmission - 1) * found.incident
    np.testing.assert_allclose(mine, expected - mean, atol=1e-6 * np.abs(expected - mean).max())


def test_exact_mode_on_mos2_is_the_published_definition(shared_data):
    cube, _ = mos2(shared_data, "infocus", "noisefree")
    cube = gpu4d.DataCube(cube.source.array[:32, :32], cube.calibration)
    radius = physics.angle_to_frequency(25.0, ENERGY) / cube.calibration.q_pixel
    found = gpu4d.ssb(cube, mode="exact", origin=(24, 24))
    expected = published(cube.source.array, antialiased_disk((48, 48), (24, 24), radius), shifts((32, 32), 0.2, cube.calibration.q_pixel))
    mine = np.asarray(found.transmission - 1) * found.incident
    np.testing.assert_allclose(mine, expected - expected.mean(), atol=1e-6 * np.abs(expected - expected.mean()).max())


def test_exact_mode_takes_the_same_pupil_array():
    """Scan frequencies that are whole pixels: the array moves without interpolation."""
    n, q = 9, 1 / (9 * 0.9)
    cube = random_cube((n, n), (24, 24), 5.0, q_pixel=q, origin=(12, 12))
    rng = np.random.default_rng(3)
    pupil = antialiased_disk((24, 24), (12, 12), 5.0)(0, 0) * rng.uniform(0.7, 1.0, (24, 24))
    pupil /= pupil.max()
    found = gpu4d.ssb(cube, mode="exact", pupil=7.0 * pupil)
    expected = published(cube.source.array, lambda dx, dy: np.roll(pupil, np.rint([dx, dy]).astype(int), (0, 1)), shifts((n, n), 0.9, q))
    mine = np.asarray(found.transmission - 1) * found.incident
    np.testing.assert_allclose(mine, expected - expected.mean(), atol=1e-6 * np.abs(expected - expected.mean()).max())


@pytest.mark.parametrize("aberrations", [None, ABERRATIONS])
def test_weighted_mode_is_the_wiener_mean(aberrations):
    """Plain sums over whole waves in the aperture, each made anew at its place, in float64."""
    cube, rotation, epsilon = random_cube((6, 7), (17, 16), step=0.7), 0.3, 0.01
    known, shape = cube.calibration, (6, 7)
    images = cube.source.array.astype(float)
    options = {"energy": ENERGY, "q_pixel": known.q_pixel, "shape": (17, 16)}
    k = shifts(shape, 0.7, known.q_pixel, rotation)
    own = wavefunction(known.semiangle, aberrations, center=(7.8, 8.3), **options)
    incident = images.mean((0, 1))[own != 0].sum() / np.abs(own).sum()  # coverage of the edge pixels
    spectra = np.fft.fft2(images, axes=(0, 1))
    top, bottom = np.zeros(shape, complex), np.zeros(shape)
    for i, j in np.ndindex(*shape):
        moved = [
            wavefunction(known.semiangle, aberrations, center=(7.8 + s * k[i, j, 0], 8.3 + s * k[i, j, 1]), **options) for s in (1, -1)
        ]
        gamma = np.conj(own) * moved[0] - own * np.conj(moved[1])
        top[i, j], bottom[i, j] = (spectra[i, j] * np.conj(gamma)).sum(), (np.abs(gamma) ** 2).sum()
    half = (top / (bottom + epsilon * bottom[:, : shape[1] // 2 + 1].max()))[:, : shape[1] // 2 + 1] / incident
    expected = np.fft.irfft2(-1j * half, s=shape)
    found = gpu4d.ssb(cube, rotation=rotation, aberrations=aberrations, epsilon=epsilon)
    np.testing.assert_allclose(found.incident, incident, rtol=1e-6)
    np.testing.assert_allclose(found.phase, expected, atol=2e-6 * np.abs(expected).max())


def test_a_pupil_array_between_pixels_is_bilinear():
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(5)
    pupil = np.zeros((12, 14), complex)
    pupil[3:9, 4:11] = rng.normal(size=(6, 7)) + 1j * rng.normal(size=(6, 7))
    at, k = rng.uniform(-3, 3, (4, 2)), rng.uniform(-3, 3, (5, 2))
    spectra = rng.normal(size=(4, 5, 1)) + 1j * rng.normal(size=(4, 5, 1))

    def psi(points):
        where = (points + np.array([6.2, 7.1])).T
        return sum(f * map_coordinates(part, where, order=1, mode="constant") for f, part in ((1, pupil.real), (1j, pupil.imag)))

    found = ssb_sum(spectra, at, k, np.zeros((1, 2)), radius=1.0, pupil=pupil, center=(6.2, 7.1))
    for i in range(5):
        gamma = np.conj(psi(at)) * psi(at - k[i]) - psi(at) * np.conj(psi(at + k[i]))
        np.testing.assert_allclose(found.overlap[0, i, 0], (spectra[:, i, 0] * np.conj(gamma)).sum(), rtol=1e-10)
        np.testing.assert_allclose(found.weight[0, i, 0], (np.abs(gamma) ** 2).sum(), rtol=1e-10)
