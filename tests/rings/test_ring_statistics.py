"""Statistics of rings at every position: against NumPy, errors against the scatter of simulated patterns, events, ellipses, memory."""

import numpy as np
import pytest
from watched import watched

import gpu4d
from gpu4d.data.events import EventSource
from gpu4d.errors import InputError, MemoryBudgetError

SHAPE, CENTER = (30, 34), (14.3, 17.1)


def scan(shape=(5, 7), level=2.0, seed=0):
    x, y = (np.arange(n) - c for n, c in zip(SHAPE, CENTER))
    halo = level * (0.2 + np.exp(-(((np.hypot(x[:, None], y) - 9) / 2) ** 2)))
    return np.random.default_rng(seed).poisson(halo, (*shape, *SHAPE)).astype("uint16")


def as_events(data, repeated=True):
    """The same counts as events in any order, one for each count; else one for each pixel, with its count."""
    rng, flat = np.random.default_rng(1), data.reshape(-1, SHAPE[0] * SHAPE[1])
    struck = [rng.permutation(np.repeat(np.arange(flat.shape[1]), f) if repeated else np.flatnonzero(f)) for f in flat]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in struck])])
    counts = None if repeated else np.concatenate([f[s] for f, s in zip(flat, struck)])
    return gpu4d.DataCube(EventSource(offsets, np.concatenate(struck), data.shape[:2], SHAPE, counts))


def everywhere(shape=(5, 7)):
    rng = np.random.default_rng(6)
    origins = CENTER + rng.normal(0, 0.7, (*shape, 2))
    origins[1, 2] = np.nan
    return origins, np.eye(2) + rng.normal(0, 0.05, (*shape, 2, 2))


def test_they_are_those_of_the_pixels():
    data = scan()
    cube = gpu4d.DataCube(data, gpu4d.Calibration(origin=CENTER, q_pixel=0.02))
    found = gpu4d.sweep(cube, gpu4d.RingStatistics(r_max=23.0, median=True))
    ring = np.floor(np.hypot(*(np.indices(SHAPE) - np.array(CENTER)[:, None, None])))
    for k in (1, 8, 20):
        values = data[..., ring == k].astype(float)
        np.testing.assert_allclose(found.mean[..., k], values.mean(-1), rtol=1e-12)
        np.testing.assert_allclose(found.variance[..., k], values.var(-1), rtol=1e-9)
        np.testing.assert_allclose(found.mean_square[..., k], (values**2).mean(-1), rtol=1e-12)
        np.testing.assert_allclose(found.median[..., k], np.median(values, axis=-1))
        np.testing.assert_allclose(found.error[..., k], values.std(-1, ddof=1) / np.sqrt(values.shape[-1]), rtol=1e-9)
    assert repr(found) == "RingProfiles(5×7 positions, 23 rings up to 0.46 1/Å, with medians)"
    np.testing.assert_allclose(found.q, 0.02 * found.radius)


def test_errors_are_the_scatter_of_patterns():
    found = gpu4d.sweep(gpu4d.DataCube(scan((40, 40))), gpu4d.RingStatistics(CENTER))
    scatter = found.mean.std(axis=(0, 1), ddof=1)
    for error in (found.error, found.counting_error):  # a standard deviation of 1600 values is known to 1.8 %
        np.testing.assert_allclose(np.sqrt((error**2).mean(axis=(0, 1)))[2:], scatter[2:], rtol=0.09)


def test_every_position_has_its_origin_and_ellipse():
    data, (origins, ellipses) = scan(), everywhere()
    found = gpu4d.sweep(gpu4d.DataCube(data), gpu4d.RingStatistics(origins, n_r=11, ellipse=ellipses, median=True))
    for at in ((0, 0), (4, 6), (2, 3)):
        alone = gpu4d.rings.ring_moments(data[at], origins[at], n_r=11, ellipse=ellipses[at], median=True)
        for name, values in zip(("pixels", "sums", "squares", "median"), alone):
            np.testing.assert_array_equal(getattr(found, name)[at], values)
    assert np.isnan(found.mean[1, 2]).all() and np.isfinite(found.mean[1, 3]).all()


@pytest.mark.parametrize("repeated", [True, False])
def test_events_give_the_same_bits(repeated):
    data, (origins, ellipses) = scan(level=0.4), everywhere()
    mask = np.random.default_rng(2).random(SHAPE) > 0.1
    dense, events = gpu4d.DataCube(data, detector_mask=mask), as_events(data, repeated)
    events.detector_mask = mask
    for make in (
        lambda: gpu4d.RingStatistics(origins, r_max=22.0, ellipse=ellipses),
        lambda: gpu4d.RingStatistics(CENTER),
        lambda: gpu4d.RingStatistics(CENTER, median=True),  # of patterns made of the events
        lambda: gpu4d.RadialProfile(origins, ellipse=(1.1, 1.0, 0.3), kind="sum"),
        lambda: gpu4d.rings.RadialVariance(origins, n_r=9),
    ):
        a, b = (gpu4d.sweep(cube, make()) for cube in (dense, events))
        fields = [name for name in ("pixels", "sums", "squares", "median", "mean", "variance", "noise") if hasattr(a, name)]
        for x, y in [(getattr(a, f), getattr(b, f)) for f in fields] if not isinstance(a, np.ndarray) else [(a, b)]:
            np.testing.assert_array_equal(x, y)


def test_no_pattern_is_made_of_events():
    events = as_events(scan(level=0.4))
    events.source.read = None  # what a sweep makes patterns with
    found = gpu4d.sweep(events, {"rings": gpu4d.RingStatistics(CENTER), "profile": gpu4d.RadialProfile(CENTER)})
    np.testing.assert_array_equal(found["rings"].mean, found["profile"])


def test_where_leaves_positions_out():
    where = np.zeros((5, 7), bool)
    where[1:3, 2:5] = True
    found = gpu4d.sweep(gpu4d.DataCube(scan()), gpu4d.RingStatistics(CENTER), where=where)
    assert (np.isfinite(found.sums).all(axis=-1) == where).all()


@pytest.mark.parametrize("median", [False, True])
def test_a_large_scan_has_the_same_bits_within_the_memory_of_its_plan(tmp_path, median):
    np.save(tmp_path / "scan.npy", scan((24, 20)))
    cube = gpu4d.DataCube(gpu4d.open(tmp_path / "scan.npy").source, gpu4d.Calibration(origin=CENTER))
    with pytest.raises(MemoryBudgetError) as refused:
        gpu4d.sweep(cube, gpu4d.RingStatistics(median=median), device=watched("cpu"), memory=1000)
    processor, least = watched("cpu"), refused.value.asked
    found = gpu4d.sweep(cube, gpu4d.RingStatistics(median=median), device=processor, memory=least)
    assert processor.opened[0].peak <= least
    whole = gpu4d.sweep(gpu4d.DataCube(scan((24, 20))), gpu4d.RingStatistics(CENTER, median=median))
    for name in ("pixels", "sums", "squares", "median")[: 3 + median]:
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


def test_wrong_arguments_are_refused():
    cube = gpu4d.DataCube(scan())
    with pytest.raises(InputError, match="origin is not known"):
        gpu4d.sweep(cube, gpu4d.RingStatistics())
    with pytest.raises(InputError, match="ellipse is"):
        gpu4d.sweep(cube, gpu4d.RingStatistics(CENTER, ellipse=np.ones((4, 3))))
    with pytest.raises(InputError, match="a ≥ b"):
        gpu4d.sweep(cube, gpu4d.RingStatistics(CENTER, ellipse=(1.0, 2.0, 0.0)))
