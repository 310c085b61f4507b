"""Corrections, loaded cubes and events on a GPU (`pytest -m gpu`). The same tests run on the CPU, which shows that they can pass."""

import numpy as np
import pytest
from watched import watched

import gpu4d
from gpu4d.data import BadPixelCorrection, EventSource
from gpu4d.errors import MemoryBudgetError
from gpu4d.preprocess import fill_from_neighbours
from gpu4d.streaming import load_cube, plan

EITHER = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
SHAPE = (40, 30, 64, 48)


def counts():
    return np.random.default_rng(0).poisson(3.0, SHAPE).astype("uint16")


def bad_mask():
    return np.random.default_rng(1).random(SHAPE[2:]) < 0.02


def stored(tmp_path, data):
    np.save(tmp_path / "scan.npy", data)
    return gpu4d.open(tmp_path / "scan.npy")


def reductions():
    disk = np.hypot(*(np.indices(SHAPE[2:]) - 24)) < 8
    images = gpu4d.VirtualImage({"disk": disk, "rest": ~disk})
    return {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "image": images, "com": gpu4d.CenterOfMass()}


def same(found, expected):
    for name in expected:
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(expected[name]), rtol=1e-12, err_msg=name)


class Counted(BadPixelCorrection):
    """Notes how many patterns were corrected, and where they lay."""

    calls: list = []  # noqa: RUF012

    def apply(self, frames):
        self.calls.append((type(frames).__module__.partition(".")[0], len(frames)))
        return super().apply(frames)


@EITHER
def test_raw_patterns_are_corrected_where_they_are_reduced(device, tmp_path):
    processor, expected = watched(device), gpu4d.sweep(gpu4d.DataCube(fill_from_neighbours(counts(), ~bad_mask())), reductions())
    Counted.calls.clear()
    cube = stored(tmp_path, counts()).corrected(Counted(bad_mask()))
    same(gpu4d.sweep(cube, reductions(), device=processor, memory="40 MB"), expected)
    assert sum(n for _, n in Counted.calls) == SHAPE[0] * SHAPE[1]
    assert {library for library, _ in Counted.calls} == {"numpy" if device == "cpu" else "cupy"}
    assert processor.opened[0].peak <= 40_000_000


@EITHER
def test_the_least_memory_is_kept(device, tmp_path):
    """What the plan counts for corrected patterns is what they take."""
    cube = stored(tmp_path, counts()).corrected(bad_pixels=bad_mask())
    with pytest.raises(MemoryBudgetError) as refused:
        gpu4d.sweep(cube, reductions(), device=watched(device), memory=1000)
    processor, least = watched(device), refused.value.asked
    same(gpu4d.sweep(cube, reductions(), device=processor, memory=least), gpu4d.sweep(cube, reductions(), device="cpu"))
    assert processor.opened[0].peak <= least


@EITHER
@pytest.mark.parametrize("masked", [False, True])
def test_a_scan_is_loaded(device, masked, tmp_path):
    cube, clean = stored(tmp_path, counts()).corrected(bad_pixels=bad_mask()), fill_from_neighbours(counts(), ~bad_mask())
    where = np.random.default_rng(2).random(SHAPE[:2]) < 0.4 if masked else None
    with pytest.raises(MemoryBudgetError) as refused:
        load_cube(cube, device=watched(device), memory=1000, where=where)
    processor, least = watched(device), refused.value.asked
    found = load_cube(cube, device=processor, memory=least + (4 << 20), where=where)
    assert type(found).__module__.partition(".")[0] == ("numpy" if device == "cpu" else "cupy") and found.dtype == np.uint16
    np.testing.assert_array_equal(gpu4d.arrays.to_numpy(found), clean if where is None else clean[where])
    assert processor.opened[0].peak <= least + (4 << 20)


@EITHER
def test_an_array_that_is_there_already(device):
    xp = np if device == "cpu" else pytest.importorskip("cupy")
    there = xp.asarray(counts())
    cube = gpu4d.DataCube(there)
    assert load_cube(cube) is there
    found = load_cube(cube.corrected(bad_pixels=bad_mask()))
    assert type(found) is type(there)
    np.testing.assert_array_equal(gpu4d.arrays.to_numpy(found), fill_from_neighbours(counts(), ~bad_mask()))
    same(
        {name: gpu4d.arrays.to_numpy(r.data) for name, r in gpu4d.sweep(cube.corrected(bad_pixels=bad_mask()), reductions()).items()},
        gpu4d.sweep(gpu4d.DataCube(fill_from_neighbours(counts(), ~bad_mask())), reductions()),
    )


@EITHER
def test_events_reach_a_device_as_patterns(device):
    few = np.where(np.random.default_rng(4).random(SHAPE) < 0.01, counts(), 0)
    position, pixels = np.nonzero(few.reshape(-1, SHAPE[2] * SHAPE[3]))
    times = few.reshape(-1, SHAPE[2] * SHAPE[3])[position, pixels]
    source = EventSource(np.searchsorted(position, np.arange(SHAPE[0] * SHAPE[1] + 1)), pixels, SHAPE[:2], SHAPE[2:], times)
    processor = watched(device)
    assert plan(gpu4d.DataCube(source), reductions(), device=processor).given_events == (
        {"mean", "image", "com", "max"} if device == "cpu" else set()
    )
    same(gpu4d.sweep(gpu4d.DataCube(source), reductions(), device=processor), gpu4d.sweep(gpu4d.DataCube(few), reductions()))


@EITHER
def test_a_live_scan(device):
    """Out of order, corrected, with `where`, and looked at in between: the bits of a sweep on the same device."""
    data, where = counts(), np.random.default_rng(2).random(SHAPE[:2]) > 0.2
    cube = gpu4d.DataCube(data).corrected(bad_pixels=bad_mask())
    want = gpu4d.sweep(cube, reductions(), device=device, where=where)
    order = np.random.default_rng(3).permutation(SHAPE[0] * SHAPE[1])
    with gpu4d.streaming.LiveSweep(cube, reductions(), device=device, memory="64 MB", where=where) as live:
        for some in np.array_split(order, 23):
            live.feed(data.reshape(-1, *SHAPE[2:])[some], np.stack(np.divmod(some, SHAPE[1]), -1))
            assert np.asarray(live.results()["com"]).shape == (2, *SHAPE[:2])
    assert live.reduced == len(order)
    for name in want:
        assert np.asarray(live.results()[name]).tobytes() == np.asarray(want[name]).tobytes(), name
