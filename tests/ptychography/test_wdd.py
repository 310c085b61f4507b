"""Wigner-distribution deconvolution: against truth, against the formula in float64, and what changes no bit."""

import h5py
import numpy as np
import pytest
from ssb_scans import ABERRATIONS, ENERGY, aberrated, aberrated_scan, correlation, edge, low_passed, mos2, random_cube, slope, slope_in

import gpu4d
from gpu4d import arrays, physics
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.probe.wavefunction import wavefunction
from gpu4d.simulate import phase_object_scan

# ---------------------------------------------------------------- against truth


def strong(strength: float, **options):
    scan = phase_object_scan((40, 40), (52, 52), r_pixel=0.25, strength=strength, **options)
    return scan.cube, low_passed(scan.truth["phase"], 0.25, 2 * physics.angle_to_frequency(25.0, ENERGY))


def test_a_strong_phase_is_nearer_to_the_truth_than_that_of_ssb():
    for strength in (1.5, 2.5):
        cube, truth = strong(strength)
        found, other = gpu4d.wdd(cube, origin=(26, 26)), gpu4d.ssb(cube, origin=(26, 26))
        assert 1 - correlation(found.phase, truth) < 0.7 * (1 - correlation(other.phase, truth))
    assert slope(found.phase, truth) > slope(other.phase, truth)


def test_deconvolution_is_what_helps_a_strong_object():
    cube, truth = strong(2.5)
    plain, full = (correlation(gpu4d.wdd(cube, origin=(26, 26), interference=i).phase, truth) for i in (0.0, 30.0))
    assert full > plain + 0.001


@pytest.mark.parametrize("epsilon", [0.003, 0.3])
def test_the_transfer_is_that_of_a_weak_object(epsilon):
    cube, truth = aberrated_scan({}, scan=36, strength=0.002)
    found = gpu4d.wdd(cube, epsilon=epsilon)
    expected, seen = np.fft.rfft2(truth), np.fft.rfft2(np.asarray(found.phase))
    strong = (np.abs(expected) > 0.01 * np.abs(expected).max()) & (found.transfer > 0)
    np.testing.assert_allclose((seen / expected)[strong], found.transfer[strong], atol=0.01)
    assert found.slope == pytest.approx(slope_in(found, truth), rel=0.01)
    assert (found.slope < 0.9) == (epsilon > 0.1)
    assert found.direct == pytest.approx(edge(cube, found), rel=0.01)
    np.testing.assert_allclose(np.angle(np.asarray(found.transmission)), found.phase, atol=1e-12)


def test_an_absorbing_object_has_a_modulus():
    """Frozen: amplitude 1 - a(r) with the phase's spectrum elsewhere; the wave-optical patterns are made here."""
    n, side = 32, 12.0
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    phase, loss = 0.1 * np.cos(2 * np.pi * 3 * x / n), 0.05 * (1 + np.cos(2 * np.pi * 2 * y / n))
    wave = np.fft.ifft2(np.fft.ifftshift(wavefunction(25.0, None, energy=ENERGY, q_pixel=1 / side, shape=(n, n))))
    data = np.empty((n, n, n, n))
    for i, j in np.ndindex(n, n):
        exit_wave = np.roll(wave, (i, j), (0, 1)) * (1 - loss) * np.exp(1j * phase)
        data[i, j] = np.fft.fftshift(np.abs(np.fft.fft2(exit_wave)) ** 2)
    known = gpu4d.Calibration(energy=ENERGY, semiangle=25.0, q_pixel=1 / side, r_pixel=side / n, origin=(n // 2, n // 2))
    found = np.asarray(gpu4d.wdd(gpu4d.DataCube(data / data[0, 0].sum(), known)).transmission)
    truth = (1 - loss) * np.exp(1j * phase)
    truth = truth / truth.mean()
    assert correlation(np.abs(found), np.abs(truth)) > 0.98
    assert correlation(np.angle(found), np.angle(truth)) > 0.99


@pytest.mark.parametrize("rotation", [0.0, np.pi / 2])
def test_strong_aberrations_and_a_turned_detector(rotation):
    cube, truth = aberrated_scan(ABERRATIONS, scan=40, rotation=rotation, strength=0.8)
    good = gpu4d.wdd(cube, aberrations=ABERRATIONS)
    assert correlation(good.phase, low_passed(truth, 0.3, 2 * physics.angle_to_frequency(22.0, ENERGY))) > 0.98
    wrong = gpu4d.wdd(cube, aberrations={"C10": 60.0})
    assert correlation(wrong.phase, truth) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("dose", "least"), [("noisefree", 0.996), ("poisson_1e5", 0.985), ("poisson_1e4", 0.94)])
def test_mos2_in_focus(shared_data, dose, least):
    cube, truth = mos2(shared_data, "infocus", dose)
    found = gpu4d.wdd(cube)
    assert correlation(found.phase, truth, 6) >= max(least, correlation(gpu4d.ssb(cube).phase, truth, 6))


@pytest.mark.slow
def test_aberrated_scans(shared_data):
    cube, truth, aberrations = aberrated(shared_data)
    found = correlation(gpu4d.wdd(cube, aberrations=aberrations).phase, truth, 6)
    assert found >= max(0.974, correlation(gpu4d.ssb(cube, aberrations=aberrations).phase, truth, 6))
    cube, truth = mos2(shared_data, "defocus20nm", "poisson_1e5")
    assert correlation(gpu4d.wdd(cube, aberrations={"defocus": 200.0}).phase, truth, 6) >= 0.95
    assert abs(correlation(gpu4d.wdd(cube, aberrations={"defocus": -200.0}).phase, truth, 6)) < 0.2


# ---------------------------------------------------------------- against the formula


@pytest.mark.parametrize("aberrations", [None, ABERRATIONS])
def test_the_sums_are_those_of_a_dense_matrix(aberrations):
    """The weights solve (1 + s C) w = A with C the circulant covariance of moved side bands, written as a matrix in float64."""
    from gpu4d.ptychography.experiment import experiment
    from gpu4d.ptychography.overlap_geometry import overlap_geometry
    from gpu4d.ptychography.wdd_sums import spread
    from gpu4d.ptychography.wdd_weights import Frequencies, Weights

    cube = random_cube((6, 7), (16, 17), 3.3)
    overlaps = spread(overlap_geometry(cube, experiment(cube), aberrations, None))
    weights = Weights(overlaps, 5.0, np.zeros(0, np.float32))
    n, m = weights.shape
    x, y = np.broadcast_arrays(weights.x.astype(float), weights.y.astype(float))
    for k in Frequencies.of(overlaps).at[[3, 8]]:

        def wave(u, v):
            size = np.clip(overlaps.radius + 0.5 - np.hypot(u, v), 0, 1)
            return size * np.exp(-1j * np.pi * sum(c * u**i * v**j for i, j, c in overlaps.chi))

        a, b = wave(x, y).conj() * wave(x - k[0], y - k[1]), wave(x, y) * wave(x + k[0], y + k[1]).conj()
        moved = [np.roll(one, (i, j), (0, 1)).ravel() for one in (a, b) for i in range(n) for j in range(m)]
        covariance = sum(np.outer(one, one.conj()) for one in moved) / 2
        inverse = np.linalg.inv(np.eye(n * m) + 5.0 / overlaps.intensity.sum() ** 2 * covariance)
        bands, found = weights.of(k[None].astype(np.float32), False)
        for i, one in enumerate((a, b)):
            np.testing.assert_allclose(bands[i, 0], one, atol=2e-5)
            np.testing.assert_allclose(found[i, 0].ravel(), inverse @ one.ravel(), atol=3e-5)
        some = weights.at_pixels(bands, 5, 9)[0, 0]
        np.testing.assert_allclose(some, (wave(*overlaps.at[5:9].T).conj() * wave(*(overlaps.at[5:9] - k).T)), atol=2e-5)


def test_without_interference_a_weak_phase_is_the_weighted_mean_of_ssb():
    """(M + ε) x = y along (1, -1): half the difference of the sums over half that of the matrix, which is Σ G Γ* / (Σ|Γ|² + 2ε …)."""
    cube, _ = strong(0.02)
    ssb = gpu4d.ssb(cube, origin=(26, 26), epsilon=1e-7)
    wdd = gpu4d.wdd(cube, origin=(26, 26), epsilon=1e-7, interference=0.0)
    inside = (ssb.transfer > 0.999) & (wdd.transfer > 0.999)
    a, b = (np.fft.rfft2(np.asarray(one.phase))[inside] for one in (ssb, wdd))
    np.testing.assert_allclose(a, b, atol=0.01 * np.abs(a).max())


def test_a_pupil_array_stands_for_the_disk():
    cube, truth = strong(0.3)
    x, y = np.indices((52, 52)) - 26
    pupil = np.clip(physics.angle_to_frequency(25.0, ENERGY) / cube.calibration.q_pixel + 0.5 - np.hypot(x, y), 0, 1)
    assert correlation(gpu4d.wdd(cube, origin=(26, 26), pupil=pupil).phase, truth) > 0.99


# ---------------------------------------------------------------- what must not change the answer


def test_memory_threads_and_layout_change_no_bit(monkeypatch, tmp_path):
    cube = random_cube((18, 20), (24, 24), 7.3, origin=(11.8, 12.1))
    with h5py.File(tmp_path / "scan.h5", "w") as h:
        h.create_dataset("data", data=cube.source.array, chunks=(1, 20, 24, 24))
    expected = gpu4d.wdd(cube)
    monkeypatch.setenv("GPU4D_THREADS", "1")
    np.testing.assert_array_equal(gpu4d.wdd(cube).phase, expected.phase)
    monkeypatch.setenv("GPU4D_THREADS", "3")
    file = gpu4d.open(tmp_path / "scan.h5")
    file.calibration = cube.calibration
    few = gpu4d.wdd(file, memory="260 kB")
    np.testing.assert_array_equal(few.phase, expected.phase)
    np.testing.assert_array_equal(few.transfer, expected.transfer)
    with pytest.raises(MemoryBudgetError, match="bright-field stack"):
        gpu4d.wdd(cube, memory="20 kB")


def test_positions_without_a_pattern_and_dead_pixels():
    cube, _ = strong(0.5, dose=1e6)
    whole = gpu4d.wdd(cube, origin=(26, 26))
    data = cube.source.array.astype("float32")
    data[3, 4], data[20, 9], data[11, 12, 26, 28] = 0, np.nan, np.nan
    gone = np.zeros((40, 40), bool)
    gone[[3, 20, 11], [4, 9, 12]] = True
    mask = np.ones((52, 52), bool)
    mask[24:26, 22:30] = False
    data[:, :, ~mask] = 1e4
    broken = gpu4d.wdd(gpu4d.DataCube(data, cube.calibration, detector_mask=mask), origin=(26, 26))
    np.testing.assert_array_equal(np.isnan(broken.phase), gone)
    assert np.isnan(np.asarray(broken.transmission)[gone]).all()
    assert "3 of 1600 positions" in broken.warnings[-1]
    assert broken.pixels < whole.pixels
    assert broken.interference == pytest.approx(whole.interference, rel=0.2), "counts in float32 are counts"
    assert correlation(np.where(gone, 0, broken.phase), np.where(gone, 0, whole.phase)) > 0.98
    some = gpu4d.wdd(cube, origin=(26, 26), where=~gone)
    np.testing.assert_array_equal(np.isnan(some.phase), gone)
    assert some.interference == pytest.approx(whole.interference, rel=0.05)


def test_arrays_of_other_libraries_stay_there(need):
    strict = need("array_api_strict")
    cube = random_cube((5, 6), (12, 12), 3.2, origin=(6, 6))
    device = strict.Device("device1")
    other = gpu4d.DataCube(strict.asarray(cube.source.array, device=device), cube.calibration)
    for aberrations in (None, {"defocus": 30.0}):
        options = {"aberrations": aberrations, "interference": 3.0, "epsilon": 0.01, "adf": (10.0, 16.0)}
        found = gpu4d.wdd(other, **options)
        assert arrays.namespace(found.phase.data) is strict
        assert found.phase.data.device == device
        np.testing.assert_allclose(found.phase, gpu4d.wdd(cube, **options).phase, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("aberrations", [None, {"C30": 2e4, "defocus": 30.0}])
def test_on_a_gpu(aberrations, need):
    cupy = need("cupy")
    cube = random_cube((18, 15), (24, 24), 6.3, origin=(11.8, 12.1))
    expected = gpu4d.wdd(cube, aberrations=aberrations)
    found = gpu4d.wdd(gpu4d.DataCube(cupy.asarray(cube.source.array), cube.calibration), aberrations=aberrations)
    assert isinstance(found.phase.data, cupy.ndarray)
    np.testing.assert_allclose(found.phase, expected.phase, atol=1e-4 * np.abs(expected.phase).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -1.0}, "epsilon"),
        ({"interference": float("nan")}, "interference"),
        ({"interference": 31.0}, "from 0 to 30"),
        ({"interference": "strong"}, "need a number"),
        ({"adf": (60.0, 40.0)}, "inner < outer"),
        ({"origin": (-40.0, -40.0)}, "no pixel"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        gpu4d.wdd(random_cube(), **options)


def test_no_cube_is_refused():
    with pytest.raises(InputError, match="DataCube"):
        gpu4d.wdd(np.zeros((2, 2, 4, 4)))
