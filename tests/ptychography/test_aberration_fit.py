"""Aberrations from the data: against truth, against finite differences, and what must not change them."""

import numpy as np
import pytest
from ssb_scans import aberrated, aberrated_scan, correlation, mos2, random_cube

import gpu4d
from gpu4d.errors import InputError
from gpu4d.probe.wavefunction import chi
from gpu4d.ptychography.aberration_parts import Parts
from gpu4d.ptychography.experiment import experiment
from gpu4d.ptychography.sideband_fit import normal_equations
from gpu4d.ptychography.sideband_products import sideband_products

TRUE = {"C10": -150.0, "C12": 40.0, "phi12": 0.5, "C21": 900.0, "phi21": -1.1, "C30": 3e4}
LENS = ("C10", "C12", "C21", "C30")


def cartesian(aberrations, names):
    """The real numbers that a fit has, of named coefficients."""
    found = []
    for name in names:
        size = aberrations.get(name[:3], 0.0)
        turned = int(name[2]) * aberrations.get(f"phi{name[1:3]}", 0.0)
        found.append(size * {"a": np.cos, "b": np.sin}.get(name[3:], lambda _: 1.0)(turned))
    return np.array(found)


def spread(found):
    return np.sqrt(np.diag(found.covariance))


# ---------------------------------------------------------------- against truth


@pytest.mark.slow
def test_all_aberrations_of_a_weak_object_come_out():
    cube, phase = aberrated_scan(TRUE, dose=2e4, scan=64, detector=40, strength=0.2)
    found = gpu4d.fit_aberrations(cube, coefficients=LENS)
    error = found.values - cartesian(TRUE, found.names)
    assert found.names == ("C10", "C12a", "C12b", "C21a", "C21b", "C30")
    assert found.sign == "underfocus" and found.coherence > 5 * found.coherence_of_other_sign
    assert (np.abs(error) < 4 * spread(found)).all() and (spread(found) < [2, 1, 1, 60, 60, 6e3]).all(), error
    assert correlation(gpu4d.ssb(cube, aberrations=found.aberrations).phase, phase) > 0.97
    assert correlation(gpu4d.ssb(cube, aberrations=found.aberrations | {"C10": 150.0}).phase, phase) < 0.3


@pytest.mark.parametrize(
    ("rotation", "transpose", "c10"),
    [
        pytest.param(np.pi / 2, False, 120.0, marks=pytest.mark.slow),
        (0.0, True, -120.0),
        pytest.param(np.pi, True, 120.0, marks=pytest.mark.slow),
    ],
)
def test_a_turned_detector(rotation, transpose, c10):
    """Azimuths are in detector axes, so that the same lens has the same coefficients however the detector is turned."""
    cube, _ = aberrated_scan({"C10": c10, "C12": 30.0, "phi12": 0.4}, dose=2e4, rotation=rotation, transpose=transpose, scan=40)
    found = gpu4d.fit_aberrations(cube, coefficients=["C10", "C12"])
    np.testing.assert_allclose(found.values, [c10, 30 * np.cos(0.8), 30 * np.sin(0.8)], atol=3)
    assert found.sign == ("underfocus" if c10 < 0 else "overfocus")
    half = gpu4d.fit_aberrations(cube, coefficients=["C10"], rotation=rotation + np.pi)
    assert abs(half.aberrations["C10"] + c10) < 10, "a rotation that is wrong by 180° turns the sign"


def test_the_aberrated_scan_of_the_shared_data(shared_data):
    """From nothing, and ptychography with what was found is as good as with the true values."""
    cube, truth, known = aberrated(shared_data)
    found = gpu4d.fit_aberrations(cube)
    true = cartesian(known, found.names)
    error = dict(zip(found.names, found.values - true))
    assert abs(error["C10"]) < 5
    assert abs(found.aberrations["C12"] - known["C12"]) < 3 and np.hypot(error["C12a"], error["C12b"]) < 3
    assert np.hypot(error["C21a"], error["C21b"]) < 0.1 * known["C21"]
    assert abs(error["C30"]) < 2 * found.errors["C30"] < 1e4
    assert found.sign == "underfocus" and not found.warnings
    best = correlation(gpu4d.ssb(cube, aberrations=known).phase, truth)
    assert best - correlation(gpu4d.ssb(cube, aberrations=found.aberrations).phase, truth) < 0.005
    wrong = found.aberrations | {"C10": -found.aberrations["C10"]}
    assert abs(correlation(gpu4d.ssb(cube, aberrations=wrong).phase, truth)) < 0.2


@pytest.mark.slow
def test_mos2_out_of_focus(shared_data):
    cube, truth = mos2(shared_data, "defocus20nm", "poisson_1e5")
    found = gpu4d.fit_aberrations(cube)
    assert abs(found.aberrations["C10"] + 200) < 5
    assert correlation(gpu4d.ssb(cube, aberrations=found.aberrations).phase, truth, 6) >= 0.94
    wrong = found.aberrations | {"C10": -found.aberrations["C10"]}
    assert abs(correlation(gpu4d.ssb(cube, aberrations=wrong).phase, truth, 6)) < 0.2


@pytest.mark.parametrize("draws", [pytest.param(12, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.exhaustive)])
def test_errors_are_honest(draws):
    """Over draws of objects and of counts, C30 is within its standard error in 60 to 76 % of them, or so for 40 draws (± 7 %).

    Twelve draws for each commit: of all coefficients together, errors half as large would hold 38 %, and errors twice as large 95 %.
    """
    inside = []
    for seed in range(draws):
        cube, _ = aberrated_scan(TRUE, dose=1e4, seed=seed, scan=64, detector=40, strength=0.2)
        found = gpu4d.fit_aberrations(cube, coefficients=LENS)
        inside.append(np.abs(found.values - cartesian(TRUE, found.names)) < spread(found))
    share = np.mean(inside, axis=0)
    assert 0.54 <= share[-1] <= 0.82, share
    assert 0.54 <= share.mean() <= 0.82, share


# ---------------------------------------------------------------- against finite differences


def small_problem(parts_of=("C10", "C12", "C30")):
    known = experiment(random_cube(origin=(8, 8)), rotation=0.3)
    parts = Parts.of(parts_of, known)
    rng = np.random.default_rng(3)
    at, frequencies = rng.uniform(-4, 4, (40, 2)), rng.uniform(-4, 4, (6, 2))
    spectra = rng.normal(size=(40, 6)) + 1j * rng.normal(size=(40, 6))
    return parts, (spectra, at, frequencies, rng.uniform(0.5, 2, 40)), known


def test_parts_are_the_aberration_function():
    parts, (_, at, *_), known = small_problem(("C10", "C12", "C21", "C23", "C30"))
    given = {"C10": -30.0, "C12": 20.0, "phi12": 0.7, "C21": 300.0, "phi21": 2.0, "C23": 200.0, "phi23": -0.4, "C30": 1e4}
    vector = parts.scaled(given)
    polynomial = sum(c * at[:, 0] ** i * at[:, 1] ** j for i, j, c in parts.chi(vector)) * np.pi
    np.testing.assert_allclose(polynomial, chi(*(at.T * known.q_pixel), given, known.energy), rtol=1e-10, atol=1e-12)
    moved = [chi(*((at + shift).T * known.q_pixel), given, known.energy) for shift in ([1e-4, 0], [-1e-4, 0], [0, 1e-4], [0, -1e-4])]
    slope = np.stack([moved[0] - moved[1], moved[2] - moved[3]], -1) / 2e-4
    np.testing.assert_allclose(parts.gradient(vector, at), slope, rtol=1e-6, atol=1e-7)
    back, errors = parts.named(vector * parts.unit, np.diag(parts.unit**2))
    assert back.keys() == errors.keys() == given.keys()
    for name, value in given.items():
        assert back[name] == pytest.approx(value, rel=1e-12)


def test_the_gradient_is_that_of_the_misfit():
    """With the object eliminated at every frequency: finite differences of χ² along each coefficient."""
    parts, problem, _ = small_problem()
    vector = np.array([0.4, -0.2, 0.3, 0.1])

    def equations(vector):
        return normal_equations(sideband_products(*problem, radius=4.3, chi=parts.chi(vector), parts=parts.each()))

    here = equations(vector)
    for i, step in enumerate(np.eye(len(vector)) * 1e-5):
        slope = (equations(vector + step).misfit - equations(vector - step).misfit) / 2e-5
        assert slope == pytest.approx(-2 * here.gradient[:, i].sum(), rel=1e-3, abs=1e-3)
    assert 0 < here.coherence < 1
    assert (np.linalg.eigvalsh(here.curvature) > 0).all()


def test_the_misfit_is_what_least_squares_leave():
    """Two free amplitudes at every frequency: `lstsq` on the columns themselves leaves the same residual."""
    parts, (g, at, frequencies, weights), _ = small_problem()
    vector, radius = np.array([0.4, -0.2, 0.3, 0.1]), 4.3
    found = normal_equations(sideband_products(g, at, frequencies, weights, radius=radius, chi=parts.chi(vector)))

    def wave(places):
        turn = np.pi * sum(c * places[..., 0] ** i * places[..., 1] ** j for i, j, c in parts.chi(vector))
        return (np.hypot(*np.moveaxis(places, -1, 0)) < radius) * np.exp(-1j * turn)

    left = 0.0
    for m, k in enumerate(frequencies):
        a, b = wave(at).conj() * wave(at - k), wave(at) * wave(at + k).conj()
        counts = (a != 0) | (b != 0)
        root = np.sqrt(weights[counts])
        columns, aim = np.stack([a, b], -1)[counts] * root[:, None], g[counts, m] * root
        left += (np.abs(aim - columns @ np.linalg.lstsq(columns, aim)[0]) ** 2).sum()
    assert found.misfit == pytest.approx(left, rel=1e-5)


# ---------------------------------------------------------------- what must not change the result


@pytest.fixture(scope="module")
def scan():
    return aberrated_scan({"C10": -120.0, "C12": 20.0}, dose=2e4, scan=32, step=0.35)[0]


def fitted(cube, **options):
    return gpu4d.fit_aberrations(cube, coefficients=["C10", "C12"], **options)


def test_memory_threads_and_files_do_not_change_a_bit(scan, monkeypatch):
    whole = fitted(scan, pixels=100)
    tight = fitted(scan, pixels=100, memory=32 * 32 * 32 * 2 * 2 + 400_000)
    monkeypatch.setenv("GPU4D_THREADS", "1")
    alone = fitted(scan, pixels=100)
    for other in (tight, alone):
        np.testing.assert_array_equal(other.values, whole.values)
        np.testing.assert_array_equal(other.covariance, whole.covariance)


def test_the_definition_gives_the_same(scan):
    fast = fitted(scan, pixels=60, frequencies=40)
    with gpu4d.using("definition"):
        plain = fitted(scan, pixels=60, frequencies=40)
    np.testing.assert_allclose(plain.values, fast.values, atol=1e-4)


@pytest.mark.slow
def test_arrays_of_other_libraries(scan, need):
    strict = need("array_api_strict")
    other = gpu4d.DataCube(strict.asarray(scan.source.array), scan.calibration)
    np.testing.assert_allclose(fitted(other, pixels=60, frequencies=40).values, fitted(scan, pixels=60, frequencies=40).values, atol=1e-3)


def test_missing_positions_and_dead_pixels_take_no_part(scan):
    whole = fitted(scan)
    data = scan.source.array.astype("float32")
    gone = np.zeros((32, 32), bool)
    gone[5, 7:12] = gone[20:23, 20] = True
    data[5, 7:12], data[20:23, 20] = np.nan, 0
    broken = fitted(gpu4d.DataCube(data, scan.calibration))
    assert "8 of 1024 positions" in broken.warnings[-1]
    chosen = fitted(scan, where=~gone)
    np.testing.assert_allclose(chosen.values, broken.values, atol=0.01)
    np.testing.assert_allclose(broken.values, whole.values, atol=3 * spread(whole).max())
    mask = np.ones((32, 32), bool)
    mask[14:18, 15:17] = False
    hot = scan.source.array.copy()
    hot[:, :, ~mask] = 60000
    masked = fitted(gpu4d.DataCube(hot, scan.calibration, detector_mask=mask))
    assert masked.pixels == whole.pixels - 8
    np.testing.assert_allclose(masked.values, whole.values, atol=3 * spread(whole).max())


@pytest.mark.slow
def test_a_start_saves_the_search(scan):
    found = fitted(scan, start={"defocus": 100.0})
    np.testing.assert_allclose(found.values, fitted(scan).values, atol=0.1)
    assert found.sign == "underfocus"
    fixed = gpu4d.fit_aberrations(scan, coefficients=["C12"])
    assert set(fixed.aberrations) == {"C12", "phi12"} and fixed.sign == "undecided"


def test_noise_alone_has_no_sign():
    cube, _ = aberrated_scan({}, dose=300, strength=1e-6, scan=24, step=0.5)
    found = fitted(cube)
    assert found.sign == "undecided"
    assert "sign" in found.warnings[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": ["C1"]}, "C10, C12"),
        ({"coefficients": []}, "C10, C12"),
        ({"coefficients": ["C10", "C10"]}, "different"),
        ({"coefficients": [f"C{n}{m}" for n in range(1, 6) for m in range((n + 1) % 2, n + 2, 2)]}, "at most 14"),
        ({"start": {"C30": 1.0}}, "not fitted"),
        ({"pixels": 2}, "from 3 up"),
        ({"frequencies": 1.5}, "whole number"),
        ({"origin": (-40.0, -40.0)}, "need 3"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        gpu4d.fit_aberrations(random_cube(), **({"coefficients": ["C10"]} | options))
    with pytest.raises(InputError, match="DataCube"):
        gpu4d.fit_aberrations(np.ones((4, 4, 8, 8)))
    empty = random_cube()
    with pytest.raises(InputError, match="no position has counts"):
        gpu4d.fit_aberrations(gpu4d.DataCube(np.zeros_like(empty.source.array), empty.calibration))
