"""Drift of scans: positions against those that a simulation took, and against the shared pair of scans with their truth."""

import logging

import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree

import gpu4d
from gpu4d.drift.coarse_search import search
from gpu4d.drift.evidence import Prior, best_prior, log_evidence, posterior
from gpu4d.drift.scan_frame import ScanFrame, slope
from gpu4d.drift.spectrum import noise_of, spectrum_of, without_plane
from gpu4d.errors import InputError


def seen(places, spots, width):
    """A picture of Gaussian spots at places (..., 2)."""
    flat, tree = places.reshape(-1, 2), cKDTree(spots)
    near = tree.query_ball_point(flat, 5 * width)
    values = [np.exp(-((place - spots[i]) ** 2).sum(-1) / (2 * width**2)).sum() for place, i in zip(flat, near)]
    return np.array(values).reshape(places.shape[:-1])


def nominal(n):
    i = np.arange(n) - (n - 1) / 2
    return np.stack(np.meshgrid(i, i, indexing="ij"), -1)


def pair(n=40, seed=0, walk=0.0, width=1.5, noise=0.3, drift=(4.0, -3.0)):
    """Two pictures of one drifting specimen, rows along y and along x, and the places they show."""
    rng = np.random.default_rng(seed)
    spots = rng.uniform(-n, n, (n * n // 5, 2))
    at = nominal(n)
    t = (at + at[:, :, ::-1] / n) / n  # of rows along y, and of rows along x
    rows = np.cumsum(rng.normal(0, walk, (2, n, 2)), axis=1) if walk else np.zeros((2, n, 2))
    places = (
        at + np.asarray(drift) * t[..., :1] + rows[0][:, None],
        at + (2.0, 1.0) + np.asarray(drift) * t[..., 1:] + rows[1][None, :],
    )
    return [seen(p, spots, width) + rng.normal(0, noise, (n, n)) for p in places], places


def off(found, true):
    """Positions off the truth, without the mean of each scan."""
    wrong = [p - q for p, q in zip(found, true)]
    return [w - w.mean((0, 1)) for w in wrong]


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def shared_pair(shared_data):
    with h5py.File(shared_data / "drift.h5") as file:
        known = {"r_pixel": float(file.attrs["scan_step_A"]), "energy": float(file.attrs["energy_eV"])}
        known |= {"semiangle": float(file.attrs["semiangle_mrad"]), "q_pixel": float(file.attrs["detector_pixel_1_per_A"])}
        cubes = [gpu4d.DataCube(file[f"{name}_poisson_2500"][()], gpu4d.Calibration(**known)) for name in ("first", "second")]
        return cubes, [file[f"truth/{name}/positions_A"][()].astype(float) for name in ("first", "second")]


def test_the_shared_pair(shared_data):
    """Uncorrected 0.48 and 0.35 Å; the file's author reached 0.07 and 0.13 by velocity and acceleration."""
    cubes, true = shared_pair(shared_data)
    found = gpu4d.scan_drift(*cubes, angle=0.0, fast_axes=(1, 0))
    left = [rms(each) for each in off(found.positions, true)]
    assert left[0] < 0.05 and left[1] < 0.05
    assert 0.7 < rms(found.errors[0]) / left[0] < 1.5 and 0.7 < rms(found.errors[1]) / left[1] < 1.5
    assert "com_x" in found.pictures and "dark field" in found.pictures and not found.warnings
    assert found.walk == pytest.approx(0.04, rel=0.4) and found.gained > 50  # the truth's rows step by 0.033 to 0.035 Å


def test_one_dark_field_of_the_shared_pair_is_enough_for_steady_drift(shared_data):
    cubes, true = shared_pair(shared_data)
    ring = gpu4d.detectors.annulus(11.2, 30.0, (16.0, 16.0))
    found = gpu4d.scan_drift(*(gpu4d.virtual_image(cube, ring) for cube in cubes), angle=0.0, fast_axes=(1, 0))
    left = [rms(each) for each in off(found.positions, true)]
    assert found.units == "Å" and left[0] < 0.07 and left[1] < 0.13


def test_a_picture_without_contrast_is_not_believed(shared_data, caplog):
    cubes, _ = shared_pair(shared_data)
    disk = gpu4d.detectors.disk(9.0, (16.0, 16.0))
    with caplog.at_level(logging.WARNING):
        found = gpu4d.scan_drift(*cubes, detector=disk, angle=0.0, fast_axes=(1, 0))
    assert found.significance < 5 and any("not to be believed" in line for line in found.warnings)


@pytest.mark.parametrize("walk", [0.0, pytest.param(0.15, marks=pytest.mark.slow)])
def test_positions_and_their_errors(walk):
    """Over a few specimens positions are off by what the errors say."""
    wrongs, errors = [], []
    for seed in range(6):
        pictures, true = pair(n=32, seed=seed, walk=walk)
        found = gpu4d.scan_drift(*pictures, angle=0.0, fast_axes=(1, 0))
        wrong = off(found.positions, true)
        assert max(map(rms, wrong)) < (0.16 if walk == 0 else 0.35)
        assert rms(off([nominal(32)] * 2, true)) > 0.7
        wrongs, errors = [*wrongs, *wrong], [*errors, *found.errors]
        assert found.gained < 3 if walk == 0 else found.walk > 0
    assert 0.7 < rms(wrongs) / rms(errors) < 1.5


def test_steady_drift_within_its_errors():
    pictures, _ = pair(seed=5)
    found = gpu4d.scan_drift(*pictures, angle=0.0, fast_axes=(1, 0), r_pixel=2.0)
    for drift, error in zip(found.drift, found.drift_error):
        assert (np.abs(drift - (8.0, -6.0)) < 4 * error).all() and error.max() < 0.5  # Å: a quarter of a step
    assert found.units == "Å"


def test_a_scan_turned_by_90_degrees():
    """R(90°) (x, y) = (-y, x). Both arrays are written row by row, as microscopes do."""
    rng, at = np.random.default_rng(2), nominal(40)
    spots, drift = rng.uniform(-40, 40, (320, 2)), np.array([4.0, -3.0])
    late = ((at[..., :1] + at[..., 1:] / 40) / 40) * drift
    places = at + late, np.stack([-at[..., 1], at[..., 0]], -1) + late
    pictures = [seen(p, spots, 1.5) + rng.normal(0, 0.3, (40, 40)) for p in places]
    found = gpu4d.scan_drift(*pictures)
    assert max(map(rms, off(found.positions, places))) < 0.12 and not found.warnings
    own = found.positions_in_own_axes(1)
    assert rms(off([own], [at + late @ np.array([[0.0, -1.0], [1.0, 0.0]])])) < 0.12 and own.mean() == pytest.approx(19.5)


def test_the_corrected_pictures_agree_better():
    pictures, _ = pair(seed=3, walk=0.1)
    found = gpu4d.scan_drift(*pictures, angle=0.0, fast_axes=(1, 0))
    one, two = (np.asarray(found.corrected(p, scan)) for scan, p in enumerate(pictures))
    both = np.isfinite(one) & np.isfinite(two)
    assert np.corrcoef(one[both], two[both])[0, 1] > np.corrcoef(pictures[0].ravel(), pictures[1].ravel())[0, 1] + 0.3
    mean = found.average(*pictures)
    assert mean.shape == (40, 40) and found.coverage()[15:25, 15:25].mean() == pytest.approx(2, abs=0.1)
    planes = found.corrected(np.stack([pictures[0]] * 2, -1))
    assert planes.shape == (2, 40, 40) and np.array_equal(planes[0], one, equal_nan=True)


def test_jitter_of_one_scan_and_no_jitter():
    rng = np.random.default_rng(4)
    spots, at = rng.uniform(-30, 30, (250, 2)), nominal(48)
    shifts = rng.normal(0, 0.4, (48, 2))
    shaken = seen(at + shifts[:, None], spots, 1.8) + rng.normal(0, 0.15, (48, 48))
    found = gpu4d.scan_drift(shaken)
    assert found.gained > 20 and 0.2 < found.jitter < 0.6
    assert np.std(found.shifts[0] - shifts, axis=0).max() < 0.8 * shifts.std(0).max()
    assert np.corrcoef(found.shifts[0].ravel(), shifts.ravel())[0, 1] > 0.7
    still = gpu4d.scan_drift(seen(at, spots, 1.8) + rng.normal(0, 0.15, (48, 48)))
    assert still.jitter == 0 and np.abs(still.shifts[0]).max() == 0 and np.isnan(still.drift[0]).all()


def test_missing_positions_take_no_part():
    pictures, true = pair(seed=6)
    holes = [p.copy() for p in pictures]
    holes[0][10:14, 5:20] = np.nan
    holes[1][30, :] = np.nan
    found = gpu4d.scan_drift(*holes, angle=0.0, fast_axes=(1, 0))
    assert all(np.isfinite(p).all() for p in found.positions)
    assert max(map(rms, off(found.positions, true))) < 0.15


def test_a_drift_is_found_from_scratch():
    pictures, _ = pair(n=72, seed=7, drift=(9.0, 6.0))  # more than 64 a side: binned first
    frames = [ScanFrame((72, 72), 1.0, 0.0, 1), ScanFrame((72, 72), 1.0, 0.0, 0)]
    found = search(frames, [(p - p.mean())[..., None] for p in pictures], 18.0)
    assert np.abs(found.drift - (9, 6)).max() <= 1.5 and np.abs(found.displacement - (2, 1)).max() <= 1.5 and found.rival < 0.6


def test_rows_that_run_the_same_way_are_warned_of():
    pictures, _ = pair(n=24, seed=1)
    assert any("parallel" in line for line in gpu4d.scan_drift(pictures[0], pictures[0], angle=0.0).warnings)


def test_noise_and_spectrum_of_known_pictures():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2.0, (64, 64, 1)) + 0.3 * np.arange(64)[:, None, None]
    flat = without_plane(noise)
    assert noise_of(flat)[0] == pytest.approx(2.0, rel=0.06)
    assert spectrum_of([flat / 2.0]).power.max() < 0.6
    kernel = spectrum_of([without_plane(seen(nominal(64), rng.uniform(-40, 40, (400, 2)), 1.5)[..., None] / 0.1)]).row_kernel(30)
    assert kernel[0] == kernel.max() and abs(kernel[0] + 2 * kernel[1:].sum() - 1) < 0.1


def test_the_evidence_is_that_of_a_gaussian():
    """Two rows measured directly, y = δ + noise: the probability of y has the covariance prior + noise."""
    prior = Prior([slice(0, 2)], steady=False, jitter=0.7)
    curvature, measured = np.diag([4.0, 4.0, 1.0, 1.0]), np.array([0.5, -0.2, 1.1, 0.3])
    variance = 0.7**2 + 1 / np.diag(curvature)
    expected = -0.5 * (measured**2 / variance + np.log(variance)).sum()
    none = -0.5 * (measured**2 * np.diag(curvature) - np.log(np.diag(curvature))).sum()
    still = Prior([slice(0, 2)], steady=False)
    pull = curvature @ measured
    assert log_evidence(prior, curvature, pull) - log_evidence(still, curvature, pull) == pytest.approx(expected - none, abs=1e-6)
    shifts, covariance = posterior(prior, curvature, pull)
    assert shifts.ravel() == pytest.approx(measured * 0.49 / variance, abs=1e-9)
    assert np.einsum("iaia->ia", covariance).ravel() == pytest.approx(1 / (np.diag(curvature) + 1 / 0.49), abs=1e-9)


def test_the_size_of_a_walk_is_that_of_the_rows():
    rng = np.random.default_rng(3)
    shifts = np.cumsum(rng.normal(0, 0.2, (60, 2)), axis=0)
    curvature = np.eye(120) / 0.05**2
    prior, gained = best_prior(Prior([slice(0, 60)], steady=True), curvature, curvature @ shifts.ravel())
    assert prior.walk == pytest.approx(0.2, rel=0.3) and gained > 100
    assert slope(np.outer(np.arange(5.0), [2.0, -1.0])) == pytest.approx([2.0, -1.0])


def test_a_scattered_average_of_a_regular_grid_is_the_picture():
    at = np.stack(np.meshgrid(np.arange(12.0), np.arange(9.0), indexing="ij"), -1)
    ramp = at @ (2.0, -1.0)
    average, coverage = gpu4d.drift.scattered_average(ramp, 3 * at, step=3.0, shape=(12, 9))
    assert average[2:-2, 2:-2] == pytest.approx(ramp[2:-2, 2:-2]) and coverage[2:-2, 2:-2] == pytest.approx(1, abs=0.03)
    few, thin = gpu4d.drift.scattered_average(np.array([5.0]), np.array([[4.0, 4.0]]), step=1.0, shape=(9, 9))
    assert few[4, 4] == 5 and np.isnan(few[0, 0]) and thin[0, 0] == 0


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((np.zeros((4, 4)),), {}, "8 positions"),
        ((np.zeros((16, 16)),), {}, "are the same at all positions"),
        ((np.full((16, 16), np.nan),), {}, "a NaN at every position"),
        ((np.eye(16),), {"fast_axes": (1, 2)}, "fast_axes"),
        ((np.eye(16),), {"angle": 90.0}, "radians"),
        ((np.eye(16),), {"r_pixel": -1.0}, "r_pixel"),
        ((np.random.default_rng(0).normal(size=(16, 16)),) * 2, {"max_drift": 99.0}, "max_drift"),
    ],
)
def test_what_is_refused(arguments, options, words):
    with pytest.raises(InputError, match=words):
        gpu4d.scan_drift(*arguments, **options)


def test_results_refuse_what_is_not_of_their_scans():
    pictures, _ = pair(n=24)
    found = gpu4d.scan_drift(pictures[0])
    with pytest.raises(InputError, match="two scans"):
        found.average(pictures[0], pictures[0])
    with pytest.raises(InputError, match="not of a scan"):
        found.corrected(np.zeros((3, 3)))
    with pytest.raises(InputError, match="scan=1"):
        found.corrected(pictures[0], 1)
    with pytest.raises(InputError, match="step"):
        gpu4d.drift.scattered_average(np.zeros(3), np.zeros((3, 2)), step=0.0, shape=(3, 3))
