"""Patterned probes through the chain, and the lattice of a whole pattern, against truth."""

import numpy as np
import pytest

import gpu4d
from gpu4d.bragg import refine_lattice
from gpu4d.bragg.likelihood.poisson_fit import disk_profile
from gpu4d.bragg.likelihood.tied_fit import _Model, _Theta, overlapping, tied_fit
from gpu4d.errors import InputError

ORDERS = np.mgrid[-1:2, -1:2].reshape(2, -1).T
TRUE = np.array([[15.3, 0.6], [-0.4, 14.8]])
MIDDLE = (31.6, 32.3)


def pattern(dose=3.0, coherence=0.0, radius=9.0, seed=0, noise=True):
    """A pattern of nine overlapping disks of different heights, whose fields interfere with random phases."""
    rng = np.random.default_rng(seed)
    shapes = [gpu4d.probe.synthetic((64, 64), radius, center=tuple(c)) for c in ORDERS @ TRUE + MIDDLE]
    heights = dose * rng.uniform(0.4, 1.0, 9)
    mean = sum(h * s for h, s in zip(heights, shapes)) + 0.01 * dose
    for i, j in overlapping(ORDERS, TRUE, radius).T:
        mean = mean + 2 * coherence * np.sqrt(heights[i] * heights[j]) * np.cos(rng.uniform(0, 2 * np.pi)) * shapes[i] * shapes[j]
    return rng.poisson(mean) if noise else mean


def start(shape=(1, 1), off=0.0):
    """A fit whose lattice is wrong by `off` pixels."""
    fields = {"qx": [], "qy": [], "intensity": []}
    at = ORDERS @ (TRUE + off) + MIDDLE
    many = int(np.prod(shape))
    fields = {"qx": np.tile(at[:, 0], many), "qy": np.tile(at[:, 1], many), "intensity": np.ones(9 * many)}
    return gpu4d.fit_lattice(gpu4d.PointListArray(np.arange(many + 1) * 9, fields, shape), TRUE + off, origin=MIDDLE)


def probe(radius=9.0):
    return 1e5 * gpu4d.probe.synthetic((64, 64), radius)


def errors(fit):
    return np.stack([np.asarray(fit.g1) - TRUE[0], np.asarray(fit.g2) - TRUE[1]], -2)


def test_the_lattice_is_found_from_a_start_half_a_pixel_off():
    counts = pattern(dose=1e4, noise=False)[None, None]
    found = refine_lattice(counts, probe(), start(off=0.4), orders=ORDERS)
    assert np.abs(errors(found)).max() < 2e-3
    assert np.abs(np.asarray(found.origin)[0, 0] - MIDDLE).max() < 5e-3
    assert found.mask.all() and found.weights == "likelihood"


def test_the_standard_errors_are_those_of_the_scatter():
    counts = np.stack([pattern(seed=s) for s in range(30)])[None]
    found = refine_lattice(counts, probe(), start((1, 30), off=0.1), orders=ORDERS, overlaps=False)
    variance = np.stack([np.stack([found.covariance[..., c, i, i] for c in (0, 1)], -1) for i in (0, 1)], -2)
    z = errors(found) / np.sqrt(variance)
    assert 0.75 < np.sqrt(np.mean(z**2)) < 1.3  # 120 numbers
    assert found.error_scale == pytest.approx(1.0, abs=0.05)


def test_patterns_without_a_background_are_fitted_as_precisely_as_the_counts_allow():
    """Values of the background and heights of disks that are not there end at the smallest value, and hold up nothing."""
    rng, radius = np.random.default_rng(5), 6.0
    shapes = [gpu4d.probe.synthetic((64, 64), radius, center=tuple(c)) for c in ORDERS @ TRUE + MIDDLE]
    heights = np.array([3.0, 0, 2, 4, 5, 0, 2, 3, 0])
    counts = rng.poisson(np.tensordot(heights, shapes, 1), (20, 64, 64))
    begin = np.tile([*MIDDLE, *TRUE.ravel()], (20, 1)) + rng.uniform(-0.3, 0.3, (20, 6))
    profile = disk_profile(probe(radius))
    found = tied_fit(counts, begin, ORDERS, np.zeros((2, 0), int), profile.table, profile.pixels)
    away = found.geometry - [*MIDDLE, *TRUE.ravel()]
    z = np.einsum("ni,nij,nj->n", away, np.linalg.inv(found.covariance), away)  # 6 degrees of freedom
    assert found.ok.all() and 4.5 < z.mean() < 7.5  # 6 ± 0.8
    assert np.abs(found.amplitude[:, heights == 0]).max() < 0.2


def test_orders_on_one_axis_do_not_tell_the_lattice():
    profile = disk_profile(probe())
    begin = np.array([[*MIDDLE, *TRUE.ravel()]])
    found = tied_fit(pattern(20.0)[None], begin, ORDERS[3:6], np.zeros((2, 0), int), profile.table, profile.pixels)
    assert not found.ok[0] and np.isnan(found.geometry).all() and np.isnan(found.covariance).all()


def test_interference_does_not_move_the_lattice():
    """Coherent overlaps at 2000 counts a pixel: the model without them is wrong, and its lattice, too."""
    counts = np.stack([pattern(2000.0, coherence=0.8, seed=s) for s in range(6)])[None]
    modelled, ignored = (refine_lattice(counts, probe(), start((1, 6)), orders=ORDERS, overlaps=o) for o in (True, False))
    right, wrong = (np.sqrt(np.mean(errors(f) ** 2)) for f in (modelled, ignored))
    assert right < 0.01 and wrong > 3 * right
    assert ignored.error_scale > 3 > modelled.error_scale


def test_a_pattern_without_counts_or_with_a_nan_has_no_lattice():
    good = pattern(20.0).astype(float)
    nan = good.copy()
    nan[5, 5] = np.nan
    counts = np.stack([good, np.zeros_like(good), nan])[None]
    found = refine_lattice(counts, probe(), start((1, 3)), orders=ORDERS, overlaps=False)
    assert found.mask.tolist() == [[True, False, False]]
    assert np.isnan(found.g1[0, 1:]).all() and np.isnan(found.covariance[0, 1:]).all()
    alone = refine_lattice(counts[:, :1], probe(), start(), orders=ORDERS, overlaps=False)
    assert np.array_equal(alone.g1[0, 0], found.g1[0, 0])  # the others do not change it


def test_masked_pixels_are_not_used():
    counts = pattern(50.0)
    spoiled, mask = counts.copy(), np.ones(counts.shape, bool)
    spoiled[20:26, 30:44] = 5000
    mask[20:26, 30:44] = False
    cube = gpu4d.DataCube(spoiled[None, None], detector_mask=mask)
    found = refine_lattice(cube, probe(), start(), orders=ORDERS, overlaps=False, progress=False)
    assert np.abs(errors(found)).max() < 0.05


def test_the_gradient_is_the_slope_of_the_likelihood():
    profile = disk_profile(probe())
    pairs = overlapping(ORDERS, TRUE, profile.radius)
    counts = pattern(20.0, coherence=0.5)[None].astype(float)
    model = _Model(counts, ORDERS.astype(float), pairs, profile.table, profile.pixels, None)
    rng = np.random.default_rng(3)
    geometry = np.concatenate([MIDDLE, TRUE.ravel()])[None] + 0.05
    theta = _Theta(geometry, rng.uniform(5, 15, (1, 9)), np.array([[0.5, 0.6, 0.3, 0.4]]), rng.uniform(-3, 3, (1, pairs.shape[1])))
    gradient = model.equations(theta, model.at(theta), False)[1][0]
    for k in (0, 3, 5, 6, 10, 15):  # origin, g1, g2, two amplitudes, level
        step = 0.04 if k < 6 else 1e-4  # the template is tabulated at sixteenths of a pixel
        shifted = []
        for sign in (1, -1):
            flat = np.concatenate([theta.geometry, theta.amplitude, theta.ground], -1)
            flat[0, k] += sign * step
            at = model.at(_Theta(flat[:, :6], flat[:, 6:15], flat[:, 15:], theta.interference))
            shifted.append(float((model.counts * np.log(at.model) - at.model).sum()))
        slope = (shifted[0] - shifted[1]) / (2 * step)
        assert gradient[k] == pytest.approx(slope, rel=0.03, abs=0.02 * np.abs(gradient).max())


def test_what_does_not_fit_together_is_refused():
    counts = pattern()[None, None]
    with pytest.raises(InputError, match="need the scan"):
        refine_lattice(counts, probe(), start((1, 2)))
    with pytest.raises(InputError, match="Rx, Ry"):
        refine_lattice(counts[0], probe(), start())
    with pytest.raises(InputError, match="whole numbers"):
        refine_lattice(counts, probe(), start(), orders=ORDERS + 0.5)
    profile = disk_profile(probe())
    with pytest.raises(InputError, match=r"start \(n, 6\)"):
        tied_fit(counts[0], np.zeros((1, 5)), ORDERS, np.zeros((2, 0), int), profile.table, profile.pixels)
    with pytest.raises(InputError, match="3 to 120"):
        refine_lattice(counts, probe(), start(), orders=[[0, 0], [0, 1]])


@pytest.mark.parametrize(("name", "share", "median"), [("bullseye", 0.9, 0.09), ("plain", 0.6, 0.3)])
def test_overlapping_disks_of_the_shared_scan(shared_data, name, share, median):
    """Positions and F of a crop: simple correlation reaches 0.13 px and 1.7e-3 with the bullseye, 0.63 px and 6e-3 without."""
    import h5py

    with h5py.File(shared_data / "patterned_probe.h5") as file:
        truth, where = file["truth"], np.s_[3:6, 4:7]
        counts, vacuum = file[f"{name}_poisson_12000"][where], truth[f"{name}_vacuum_probe"][()].astype(float)
        places, deformation, basis = truth["positions_px"][where], truth["F"][where], truth["g_ref_px"][()]
        origin = truth["origin_px"][where]
    disks = gpu4d.find_bragg_disks(counts, 1e6 * vacuum)
    near = []
    for i, j in np.ndindex(3, 3):
        found = np.stack([disks[i, j].qx, disks[i, j].qy], -1)
        near.append(np.linalg.norm(places[i, j][:, None] - found[None], axis=-1).min(1))
    near = np.concatenate(near)
    assert (near < 3).mean() > share
    assert np.median(near[near < 3]) < median
    first = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin=origin), origin=origin)
    if name == "bullseye":
        assert _rms(first, basis, deformation) < 6e-4
    else:
        better = refine_lattice(counts, 1e6 * vacuum, first, overlaps=False)
        assert _rms(better, basis, deformation) < min(1.6e-3, _rms(first, basis, deformation))  # the bound is 1.2e-3


def _rms(fit, basis, deformation):
    g = np.stack([np.asarray(fit.g1), np.asarray(fit.g2)], -1)
    named = basis @ np.rint(np.linalg.inv(basis) @ np.median(g, axis=(0, 1)))
    found = np.linalg.inv(np.swapaxes(g @ np.linalg.inv(named), -1, -2))
    return np.sqrt(np.mean((found - deformation) ** 2))
