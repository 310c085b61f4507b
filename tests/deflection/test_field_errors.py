"""Errors of the centre of mass from the counts, carried to fields and phase; the part of a field without curl."""

import itertools

import numpy as np
import pytest

import gpu4d
from gpu4d.arrays import to_numpy
from gpu4d.deflection import (
    CenterOfMassVariance,
    curl_free,
    curl_free_error,
    descan_surface,
    divergence,
    integrate_gradient,
    phase_error,
    remove_descan,
)
from gpu4d.errors import InputError
from gpu4d.testing.reductions import ReductionTests


class TestVariance(ReductionTests):
    def make(self):
        mask = np.ones((16, 20), bool)
        mask[3:5, 7] = False
        return CenterOfMassVariance(mask)


def formula(pattern, mask):
    """Σ I (q − ⟨q⟩)(q − ⟨q⟩)ᵀ / (Σ I)², written out."""
    counts = np.where(mask, pattern, 0).astype(float)
    q = np.stack(np.indices(pattern.shape), -1).astype(float)
    total = counts.sum()
    d = q - (counts[..., None] * q).sum((0, 1)) / total
    c = np.einsum("xy,xya,xyb->ab", counts, d, d) / total**2
    return c[0, 0], c[0, 1], c[1, 1]


def test_the_variance_is_the_formula_and_empty_patterns_are_nan():
    rng = np.random.default_rng(3)
    patterns = rng.poisson(6.0, (3, 4, 11, 14)).astype("uint16")
    patterns[1, 2] = 0
    mask = rng.random((11, 14)) > 0.2
    floats = patterns.astype("float32")
    floats[2, 1, 4, 4] = np.nan
    mask[4, 4] = True
    found = np.asarray(gpu4d.sweep(gpu4d.DataCube(floats), CenterOfMassVariance(mask)))
    whole = np.asarray(gpu4d.sweep(gpu4d.DataCube(patterns, detector_mask=mask), CenterOfMassVariance()))
    for i, j in itertools.product(range(3), range(4)):
        if (i, j) == (1, 2):
            assert np.isnan(whole[:, i, j]).all() and np.isnan(found[:, i, j]).all()
            continue
        np.testing.assert_allclose(whole[:, i, j], formula(patterns[i, j], mask), rtol=1e-9)
        assert np.isnan(found[:, i, j]).all() == ((i, j) == (2, 1))
    still = np.asarray(gpu4d.sweep(gpu4d.DataCube(patterns), CenterOfMassVariance(), where=np.arange(12).reshape(3, 4) > 3))
    assert np.isnan(still[:, 0]).all() and np.isfinite(still[:, 2]).all()


def test_it_is_the_spread_of_centres_of_mass():
    """Poisson counts of a disk that is longer along one axis: pulls along both."""
    x, y = np.meshgrid(np.arange(24) - 11.2, np.arange(20) - 9.7, indexing="ij")
    mean = 3.0 * (x**2 / 81 + y**2 / 25 < 1)
    patterns = np.random.default_rng(5).poisson(mean, (40, 50, 24, 20)).astype("uint8")
    found = gpu4d.sweep(gpu4d.DataCube(patterns), {"com": gpu4d.CenterOfMass(), "variance": CenterOfMassVariance()})
    true = gpu4d.center_of_mass(mean)
    for i, plane in enumerate(("xx", "yy")):
        pulls = (np.asarray(found["com"])[i] - true[i]) / np.sqrt(found["variance"][plane])
        assert 0.65 < np.mean(np.abs(pulls) < 1) < 0.715
        assert np.std(pulls) == pytest.approx(1, abs=0.05)


# ---------------------------------------------------------------- through the integration


SHAPE, SPREAD = (12, 17), np.array([0.3, 0.5])
NOISE = np.random.default_rng(11).normal(size=(600, *SHAPE, 2)) * SPREAD
VARIANCE = np.broadcast_to(SPREAD**2, (*SHAPE, 2))


@pytest.mark.parametrize("boundary", ["mirror", "periodic"])
@pytest.mark.parametrize(("descan", "damping"), [(None, (0.0, 0.0)), (None, (1e-3, 2.0)), ("mean", (0.0, 0.0)), ("plane", (1e-3, 2.0))])
def test_the_error_of_the_phase_is_that_of_an_ensemble(boundary, damping, descan):
    fields = NOISE if descan is None else np.stack([remove_descan(f, descan)[0] for f in NOISE])
    spread = integrate_gradient(fields, 2.0, *damping, boundary).std(axis=0)
    ratio = spread / phase_error(VARIANCE, 2.0, *damping, boundary, descan=descan)
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert 0.88 < ratio.min() and ratio.max() < 1.12  # 600 fields tell each to 3 %


def test_the_error_with_a_descan_of_some_positions():
    where = np.zeros(SHAPE, bool)
    where[:3] = where[-2:, 4:] = True
    fields = np.stack([remove_descan(f, "plane", where=where)[0] for f in NOISE])
    ratio = integrate_gradient(fields).std(axis=0) / phase_error(VARIANCE, descan="plane", where=where)
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert 0.85 < ratio.min() and ratio.max() < 1.15


def test_pulls_of_a_phase_from_counts():
    """Through all of `gpu4d.dpc`: rotation, units, descan, integration. The share within one standard error is that of a Gaussian."""
    scan = gpu4d.simulate.phase_object_scan((14, 12), (24, 24), r_pixel=0.5, rotation=0.6, transpose=True)
    rng, inside, of_com = np.random.default_rng(2), [], []
    mean = np.asarray(scan.cube)
    mean = np.maximum(mean, 0) * (300 / mean.sum((2, 3)).mean())
    options = {"rotation": 0.6, "transpose": True, "descan": "mean"}
    right = gpu4d.dpc(gpu4d.DataCube(mean, scan.cube.calibration), **options)
    for _ in range(16):
        found = gpu4d.dpc(gpu4d.DataCube(rng.poisson(mean).astype("uint16"), scan.cube.calibration), **options)
        inside.append(np.abs(np.asarray(found.phase) - np.asarray(right.phase)) < np.asarray(found.phase_error))
        shift = np.asarray(found.com) - np.asarray(right.com)
        of_com.append(np.abs(shift - shift.mean((1, 2), keepdims=True)) < np.asarray(found.com_error))
    assert 0.60 < np.mean(inside) < 0.76
    assert 0.65 < np.mean(of_com) < 0.72
    assert found.phase_error.units == "rad" and found.com_error.units == "1/Å"


def test_no_errors_where_values_are_no_electrons():
    scan = gpu4d.simulate.phase_object_scan((12, 12), (24, 24), r_pixel=0.5)
    patterns = np.asarray(scan.cube) / np.asarray(scan.cube).sum((2, 3)).mean()
    found = gpu4d.dpc(gpu4d.DataCube(patterns, scan.cube.calibration), rotation=0.0)
    assert found.com_error is None and found.phase_error is None
    assert any("not electrons" in line for line in found.decisions)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"boundary": "padded"}, "boundary='padded'"),
        ({"descan": "auto"}, "descan='auto'"),
        ({"lambda1": -1.0}, "lambda1=-1"),
        ({"where": np.ones((3, 3), bool)}, "where"),
    ],
)
def test_options_of_the_phase_error_are_checked(options, said):
    with pytest.raises(InputError, match=said):
        phase_error(VARIANCE, **options)
    with pytest.raises(InputError, match="negative"):
        curl_free_error(-VARIANCE)


# ---------------------------------------------------------------- without curl


def test_half_of_the_noise_is_curl():
    parts = np.stack([curl_free(f) for f in NOISE[:300]])
    ratio = parts.std(axis=0) / curl_free_error(VARIANCE)
    assert ratio.mean(axis=(0, 1)) == pytest.approx(1, abs=0.03)
    equal = np.ones((*SHAPE, 2))
    assert np.mean(curl_free_error(equal) ** 2) == pytest.approx(0.5, abs=0.06)


def test_a_gradient_passes_as_it_is_and_nan_stays_where_it_is():
    """No smoothing: also the wave of the shortest wavelengths passes."""
    x, y = (np.pi * (np.arange(n) + 0.5) / n for n in (24, 30))
    field = np.stack(
        [
            -3 * np.sin(3 * x)[:, None] * np.cos(2 * y) - 20 * np.sin(20 * x)[:, None] * np.cos(25 * y),
            (-2 * np.cos(3 * x)[:, None] * np.sin(2 * y) - 25 * np.cos(20 * x)[:, None] * np.sin(25 * y)) * 24 / 30,
        ],
        -1,
    )
    np.testing.assert_allclose(curl_free(field + 7.0), field + 7.0, atol=1e-11)
    holed = field.copy()
    holed[5, 6, 0] = holed[10, 3, 1] = np.nan
    found = curl_free(holed)
    assert np.isnan(found).all(-1).sum() == np.isnan(found).any(-1).sum() == 2
    framed = np.full((30, 33, 2), np.nan)
    framed[4:28, 1:31] = field
    np.testing.assert_allclose(curl_free(framed)[4:28, 1:31], field, atol=1e-11)
    assert np.isnan(curl_free(framed)).sum() == 2 * (30 * 33 - 24 * 30)


def test_divergence_of_a_paraboloid():
    x, y = np.meshgrid(np.arange(7.0), np.arange(6.0), indexing="ij")
    np.testing.assert_allclose(divergence(np.stack([2 * x, 3 * y], -1), step=0.5), 10.0)
    holed = np.stack([2 * x, 3 * y], -1)
    holed[3, 2] = np.nan
    assert np.isnan(divergence(holed)).sum() == 5
    for wrong in (np.zeros((4, 4)), np.zeros((1, 4, 2))):
        with pytest.raises(InputError, match="field"):
            divergence(wrong)


@pytest.mark.parametrize("device", [None, "device1"])
def test_fields_of_another_library_stay_there(device):
    xp = pytest.importorskip("array_api_strict")
    holed = NOISE[0].copy()
    holed[2, 3] = np.nan
    given = xp.asarray(holed, device=xp.Device(device) if device else None)
    where = np.arange(12)[:, None] + 0 * np.arange(17) < 4
    for call in (curl_free, divergence, lambda f: descan_surface(f, 2, where=where), lambda f: remove_descan(f, where=where)[0]):
        found = call(given)
        assert type(found) is type(given) and found.device == given.device
        np.testing.assert_allclose(to_numpy(found), call(holed), atol=1e-12)


# ---------------------------------------------------------------- descan


def test_descan_of_good_positions_spares_what_the_specimen_does():
    """A parabola of phase makes a plane of deflection. It survives if the descan is fitted in vacuum only."""
    x, y = np.meshgrid(np.linspace(-1, 1, 30), np.linspace(-1, 1, 24), indexing="ij")
    specimen = np.where(np.abs(x) < 0.5, x, 0.0)[..., None] * np.array([1.0, 0.0])
    coils = np.stack([4 + 0.7 * x - 0.2 * y, 0.3 * x + y], -1)
    where = np.abs(x) > 0.6
    kept, how = remove_descan(specimen + coils, "plane", where=where)
    np.testing.assert_allclose(kept, specimen, atol=1e-12)
    assert f"a plane of {where.sum()} positions" in how
    assert f"the mean of {where.sum()} positions" in remove_descan(specimen + coils, where=where)[1]
    vacuum = coils + 0.3 * np.stack([x**2, x * y], -1)
    np.testing.assert_allclose(descan_surface(vacuum, order=2), vacuum, atol=1e-12)
    noisy = descan_surface(vacuum + np.random.default_rng(0).normal(0, 0.1, vacuum.shape), order=2)
    assert np.std(noisy - vacuum) < 0.02
    with pytest.raises(InputError, match="positions for a surface"):
        remove_descan(specimen, "plane", where=np.arange(720).reshape(30, 24) < 3)
    with pytest.raises(InputError, match="order=5"):
        descan_surface(vacuum, order=5)
