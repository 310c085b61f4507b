"""Iterative ptychography: against truth, against itself on other arrays, and what must not change it."""

import h5py
import numpy as np
import pytest
from iterative_scans import against, band_correlation, shared_scan, simulated

import gpu4d
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.ptychography import reconstruct
from gpu4d.testing.results import differences


def found(scan, **options):
    return reconstruct(scan.cube, **{"aberrations": scan.aberrations, "sweeps": 8, **options})


@pytest.fixture(scope="module")
def scan():
    return simulated(dose=2000)


# ---------------------------------------------------------------- against truth


@pytest.mark.parametrize(
    "options",
    [{}, {"rotation": 0.5}, {"rotation": -2.0, "transpose": True}, {"transpose": True}, {"origin": (0.4, -0.3)}, {"pattern": 31}],
    ids=["plain", "rotated", "rotated and transposed", "transposed", "axis between pixels", "odd"],
)
def test_the_phase_is_found_however_the_detector_is_turned(options):
    one = simulated(dose=4000, **options)
    result = found(one)
    assert against(result, one.phase) > 0.96
    assert result.phase.units == "rad" and result.phase.pixel_size == pytest.approx(0.32 * 32 / options.get("pattern", 32), rel=0.04)


def test_radians_are_radians():
    """Without noise, with the probe known and with one that has to be found: what is left is not yet converged."""
    one = simulated(12, step=0.5, blur=0.7)
    cube = gpu4d.DataCube(np.asarray(one.cube) * 1e5, one.cube.calibration)
    for probe_step, momentum, least in ((0.0, 0.5, 0.9999), (0.5, 0.9, 0.9995)):
        options = {"aberrations": one.aberrations, "precision": "double", "background": 1e-3}
        result = reconstruct(cube, sweeps=40, probe_step=probe_step, momentum=momentum, **options)
        values = np.asarray(result.phase)
        points = np.stack(np.meshgrid(*(np.arange(n) * result.phase.pixel_size for n in values.shape), indexing="ij"), -1)
        slope = np.polyfit(one.phase(points).ravel(), values.ravel(), 1)[0]
        assert against(result, one.phase) > least and slope == pytest.approx(1, abs=0.005)


def test_two_modes_are_found_with_their_powers():
    one = simulated(14, step=0.5, dose=1e4, weights=(0.7, 0.3), strength=1.5, blur=0.3)
    result = found(one, modes=2, sweeps=25, probe_step=1.0)
    assert np.abs(result.powers - [0.7, 0.3]).max() < 0.03
    overlaps = [abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(result.probes, one.modes)]
    assert min(overlaps) > 0.97
    single = found(one, sweeps=25, probe_step=1.0)
    assert single.loss[-1] > 1.2 * result.loss[-1] and against(result, one.phase) > against(single, one.phase)


def test_positions_are_corrected():
    one = simulated(12, step=0.5, dose=1e4, errors=0.15, strength=1.0)
    result = found(one, sweeps=15, correct_positions=0.2)
    error = result.positions - one.positions
    error -= error.mean(axis=(0, 1))
    assert error.std() < 0.3 * 0.15
    assert against(result, one.phase) > against(found(one, sweeps=15), one.phase)
    given = found(one, sweeps=15, positions=one.positions)
    assert not given.corrections.any() and abs(against(given, one.phase) - against(result, one.phase)) < 0.01


# ---------------------------------------------------------------- what takes no part, and what must not change a bit


def test_blank_and_nan_patterns_are_left_out(scan):
    data = np.asarray(scan.cube).astype("float32")
    where = np.ones(scan.cube.scan_shape, bool)
    where[2, 3] = where[4, 5] = where[0, 0] = False
    plain = found(scan, where=where)
    data[2, 3] = 0
    data[4, 5, 7, 7] = np.nan
    data[0, 0] = -np.inf
    result = reconstruct(gpu4d.DataCube(data, scan.cube.calibration), aberrations=scan.aberrations, sweeps=8)
    assert result.used.sum() == 97 and np.isnan(result.positions[~result.used]).all() and np.isfinite(result.positions[result.used]).all()
    np.testing.assert_array_equal(result.phase, plain.phase)
    assert "3 of 100 positions" in result.warnings[0]
    positions = plain.positions.copy()
    np.testing.assert_array_equal(found(scan, positions=positions).phase, plain.phase)


def test_a_masked_pixel_is_never_looked_at(scan):
    mask = np.ones(scan.cube.detector_shape, bool)
    mask[16, 18] = mask[3, 4] = False
    phases = []
    for value in (0, np.nan, 1e5):
        data = np.asarray(scan.cube).astype("float32")
        data[..., ~mask] = value
        cube = gpu4d.DataCube(data, scan.cube.calibration, detector_mask=mask)
        phases.append(np.asarray(reconstruct(cube, aberrations=scan.aberrations, sweeps=6).phase))
    np.testing.assert_array_equal(phases[0], phases[1])
    np.testing.assert_array_equal(phases[0], phases[2])


def test_patterns_are_cropped_and_padded(scan):
    """Padding makes finer pixels of the object; what a detector does not see is free."""
    result = found(scan, size=40)
    assert result.phase.pixel_size == pytest.approx(0.32 * 32 / 40) and against(result, scan.phase) > 0.9
    whole, cut = found(scan, size=28), gpu4d.DataCube(np.asarray(scan.cube)[:, :, 2:30, 2:30], scan.cube.calibration)
    result = reconstruct(cut, aberrations=scan.aberrations, sweeps=8, origin=(14, 14))
    np.testing.assert_array_equal(result.phase, whole.phase)


def test_threads_and_memory_change_no_bit(scan, monkeypatch):
    phases = []
    for threads in ("1", "3"):
        monkeypatch.setenv("GPU4D_THREADS", threads)
        phases.append(np.asarray(found(scan, correct_positions=True, memory="1 GB" if threads == "1" else "2 GB").phase))
    np.testing.assert_array_equal(*phases)
    assert not np.array_equal(found(scan, seed=1).phase, phases[0])


def test_a_run_that_was_broken_off_gives_the_same_numbers(scan, tmp_path):
    file = tmp_path / "run.npz"
    whole = found(scan, modes=2, correct_positions=True)
    seen = []

    def stop(result):
        seen.append(len(result.loss))
        return len(result.loss) < 4

    found(scan, modes=2, correct_positions=True, checkpoint=file, callback=stop)
    assert seen == [1, 2, 3, 4] and [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    result = found(scan, modes=2, correct_positions=True, resume=file)
    np.testing.assert_array_equal(result.phase, whole.phase)
    np.testing.assert_array_equal(result.probes, whole.probes)
    np.testing.assert_array_equal(result.positions, whole.positions)
    np.testing.assert_array_equal(result.loss, whole.loss)
    with pytest.raises(InputError, match=r"other settings .modes was 2, now 3"):
        found(scan, modes=3, correct_positions=True, resume=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="no checkpoint"):
        found(scan, resume=file)


# ---------------------------------------------------------------- arrays of every library


@pytest.mark.parametrize("library", ["torch", "jax.numpy", "array_api_strict"])
def test_every_array_library(library, need):
    """Single precision differs by rounding only, which steps make larger by some hundred times in a few sweeps."""
    xp = need(library)
    one = simulated(7, dose=3000)
    options = {"aberrations": one.aberrations, "sweeps": 3, "slices": 2, "thickness": 20.0, "modes": 2, "correct_positions": True}
    options |= {"positions_from": 1, "depth_filter": 0.5, "precision": "double", "momentum": 0.5}
    data = np.asarray(one.cube)
    result = reconstruct(gpu4d.DataCube(xp.asarray(data), one.cube.calibration), **options)
    own = reconstruct(one.cube, **options)
    assert type(result.phase.data) is type(xp.asarray(data))
    np.testing.assert_allclose(np.asarray(result.phase), np.asarray(own.phase), atol=1e-8)
    np.testing.assert_allclose(result.loss, own.loss, rtol=1e-9)


# ---------------------------------------------------------------- results and errors


def test_a_result_is_saved(scan, tmp_path):
    result = found(scan, sweeps=2, modes=2)
    gpu4d.save(tmp_path / "out.h5", {"ptychography": result})
    back = gpu4d.read_emd(tmp_path / "out.h5")["ptychography"]
    assert type(back) is type(result) and differences(back, result) == []
    assert back.phase.pixel_units == "Å" and back.phase.pixel_size == pytest.approx(0.32)
    np.testing.assert_allclose(np.sum(np.abs(back.probes) ** 2), np.asarray(scan.cube).sum() / 100, rtol=0.1)
    with h5py.File(tmp_path / "out.h5") as file:  # what other programs see: the phase, and real maps beside complex ones
        np.testing.assert_array_equal(file["gpu4d/ptychography/data"], result.phase)
        np.testing.assert_allclose(file["gpu4d/ptychography/slices/data"], np.angle(result.transmission), atol=1e-6)
    assert "2 modes, 2 sweeps" in repr(result) and "single slice" in repr(result)


def test_values_that_are_no_counts(scan):
    """The background follows the values, so that their unit does not matter to least squares of their roots."""
    data = np.asarray(scan.cube).astype("float32")
    phases = []
    for scale in (1.0, 1e-6):
        cube = gpu4d.DataCube(data * np.float32(scale), scan.cube.calibration)
        result = reconstruct(cube, aberrations=scan.aberrations, sweeps=4, likelihood="amplitude", precision="double")
        assert not result.warnings
        phases.append(np.asarray(result.phase))
    np.testing.assert_allclose(*phases, atol=1e-6)
    assert any("if these are no electrons" in w for w in reconstruct(cube, aberrations=scan.aberrations, sweeps=1).warnings)


def test_doubts_are_said():
    one = simulated(6, step=3.0, dose=500)
    result = found(one, sweeps=1, aberrations={"defocus": 400.0})
    assert any("overlap by less than" in w for w in found(one, sweeps=1, aberrations={}).warnings)
    assert any("border of the field" in w for w in result.warnings)
    assert any("by a rehearsal" in d for d in result.decisions) and any("memory" in d for d in result.decisions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweeps": -1}, "sweeps=-1: need a whole number from 0 up"),
        ({"thickness": 30.0}, "no effect"),
        ({"slices": 3}, "thickness=None with 3 slices"),
        ({"modes": 40}, "at most 10"),
        ({"likelihood": "gauss"}, "need one of 'poisson', 'amplitude'"),
        ({"background": 0}, "would outweigh"),
        ({"step": 3}, "from 0 to 2"),
        ({"positions": np.zeros((2, 2, 2))}, "need .10, 10, 2."),
        ({"probe": np.ones((3, 3))}, "probe is .3, 3., need .32, 32."),
        ({"probe": np.zeros((32, 32))}, "no pixel of the aperture"),
        ({"aberrations": {"C99": 1.0}}, "C99"),
        ({"positions": np.full((10, 10, 2), np.nan)}, "NaN everywhere"),
    ],
)
def test_options_that_are_refused(scan, options, message):
    with pytest.raises(InputError, match=message):
        found(scan, **options)


def test_what_does_not_fit_is_refused_before_it_begins(scan):
    with pytest.raises(MemoryBudgetError, match=r"iterative ptychography of 100 patterns of 32×32 uint16 on cpu needs .* allows 1 MB"):
        found(scan, memory="1 MB")
    with pytest.raises(InputError, match="takes a DataCube, not a ndarray"):
        reconstruct(np.zeros((2, 2, 4, 4)))
    with pytest.raises(InputError, match="no position has counts"):
        reconstruct(gpu4d.DataCube(np.zeros((2, 2, 32, 32)), scan.cube.calibration))


# ---------------------------------------------------------------- the shared data


@pytest.mark.slow
def test_the_aberrated_scan_from_its_own_aberrations(shared_data):
    """0.915 by plain ePIE with the probe known. The probe is found here, and details finer than 1 / 2α Å are seen."""
    truth = shared_scan(shared_data, "aberrated_ptycho")
    fit = gpu4d.fit_aberrations(truth.cube)
    result = reconstruct(truth.cube, aberrations=fit.aberrations, sweeps=6)
    assert band_correlation(result, truth) > 0.96
    values = np.asarray(result.phase)
    power = np.abs(np.fft.fft2((values - values.mean()) * np.hanning(len(values)) * np.hanning(len(values))[:, None])) ** 2
    k = np.fft.fftfreq(len(values), result.phase.pixel_size)
    radius = np.hypot(k[:, None], k[None, :])
    limit = 2 * result.geometry.radius * result.geometry.q_pixel
    beyond = power[(radius > limit) & (radius < 1.1 * limit)]
    assert beyond.max() > 20 * np.median(beyond)


@pytest.mark.slow
def test_wrong_positions_of_the_shared_data(shared_data):
    """0.900 by ePIE from nominal positions, 0.942 from true ones."""
    truth = shared_scan(shared_data, "aberrated_ptycho_positions")
    result = reconstruct(truth.cube, aberrations=truth.aberrations, sweeps=10, correct_positions=True)
    assert band_correlation(result, truth) > 0.95
    error, was = (v - v.mean((0, 1)) for v in (result.positions - truth.positions, result.positions - result.corrections - truth.positions))
    assert error.std() < 0.3 * was.std()


@pytest.mark.slow
def test_a_wide_source_of_the_shared_data(shared_data):
    """0.889 by ePIE without knowing of it. With the source's modes the contrast is larger than with one mode."""
    truth = shared_scan(shared_data, "aberrated_ptycho_source")
    result = reconstruct(truth.cube, aberrations=truth.aberrations, sweeps=6, source=0.3)
    assert band_correlation(result, truth) > 0.95 and len(result.powers) == 6


@pytest.mark.slow
def test_slices_of_a_thick_specimen_of_the_shared_data(shared_data):
    truth = shared_scan(shared_data, "thick_multislice", crop=20)
    single = reconstruct(truth.cube, sweeps=4)
    several = reconstruct(truth.cube, sweeps=6, slices=5, thickness=199.155)
    assert band_correlation(several, truth) > 0.9 > band_correlation(single, truth) + 0.1
    assert several.loss[-1] < single.loss[-1]


class OutOfPlace:
    """A backend of scipy.fft that leaves its input alone, and gives new arrays."""

    __ua_domain__ = "numpy.scipy.fft"

    @staticmethod
    def __ua_function__(method, args, options):
        function = {"fftn": np.fft.fftn, "ifftn": np.fft.ifftn}.get(method.__name__)
        return NotImplemented if function is None else function(*args, axes=options["axes"])


def test_a_users_fft_library_may_work_in_place_or_not(monkeypatch):
    import scipy.fft

    monkeypatch.setenv("GPU4D_THREADS", "1")  # the backend holds for this thread
    one = simulated(5, dose=2000)
    options = {"aberrations": one.aberrations, "sweeps": 2, "slices": 2, "thickness": 20.0, "precision": "double"}
    own = reconstruct(one.cube, **options)
    with scipy.fft.set_backend(OutOfPlace):
        np.testing.assert_allclose(reconstruct(one.cube, **options).phase, own.phase, atol=1e-10)


@pytest.mark.gpu
def test_on_a_gpu(need):
    """The same as on the CPU, for an array of CuPy and for a scan that is brought to the device."""
    cupy = need("cupy")
    one = simulated(5, dose=3000)
    options = {"aberrations": one.aberrations, "sweeps": 2, "slices": 2, "thickness": 20.0, "modes": 2, "correct_positions": True}
    options |= {"positions_from": 1, "precision": "double", "momentum": 0.5}
    own = reconstruct(one.cube, **options)
    on_device = gpu4d.DataCube(cupy.asarray(np.asarray(one.cube)), one.cube.calibration)
    for result in (reconstruct(on_device, **options), reconstruct(one.cube, device="cuda", **options)):
        assert isinstance(result.phase.data, cupy.ndarray)
        np.testing.assert_allclose(result.phase, own.phase, atol=1e-8)
    single = options | {"precision": "single"}
    np.testing.assert_allclose(reconstruct(on_device, **single).phase, reconstruct(one.cube, **single).phase, atol=1e-3)
