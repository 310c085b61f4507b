"""Events in a sweep: given as they are to reductions that take them, made to patterns once a chunk for the others."""

import importlib
import tracemalloc

import numpy as np
import pytest

import gpu4d
from gpu4d.data import Events, EventSource
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming import TakesEvents, plan
from gpu4d.testing.accounting import AccountingProcessor

SHAPE = (26, 18, 40, 48)


def counts():
    """Sparse, with empty patterns, and with pixels that were struck often."""
    data = np.random.default_rng(0).poisson(0.02, SHAPE).astype("uint16")
    data[3:6, 2:9] = 0
    data[10, :, 20, 20] = 40_000
    return data


def as_events(data, repeated=False, dtype="uint16"):
    """One event for each pixel with its count, or one for each electron."""
    flat = data.reshape(-1, SHAPE[2] * SHAPE[3])
    position, pixels = np.nonzero(flat)
    times = flat[position, pixels].astype(np.uint16)
    if repeated:
        position, pixels, times = np.repeat(position, times), np.repeat(pixels, times).astype("uint16"), None
    return EventSource(np.searchsorted(position, np.arange(len(flat) + 1)), pixels, SHAPE[:2], SHAPE[2:], times, dtype)


def disk(radius):
    return np.hypot(*(np.indices(SHAPE[2:]) - 20)) < radius


def origins():
    found = np.random.default_rng(1).normal(20, 1, (*SHAPE[:2], 2))
    found[2, 3] = np.nan
    return found


def takers():
    return {
        "mean": gpu4d.MeanPattern(),
        "image": gpu4d.VirtualImage({"disk": disk(6), "rest": ~disk(6)}),
        "round": gpu4d.VirtualImage(gpu4d.detectors.annulus(3, 9)),
        "com": gpu4d.CenterOfMass(detector=disk(15)),
        "max": gpu4d.MaxPattern(),
        "moving": gpu4d.VirtualImage([gpu4d.detectors.disk(5.0), gpu4d.detectors.annulus(6.0, 11.0)], origins()),
        "stack": BrightFieldStack(disk(4)),
        "pixels": BrightFieldStack([900, 7, 900]),
    }


def others():
    return {
        "weighted": gpu4d.MeanPattern(weights=np.linspace(0, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE[:2])),
        "weights": gpu4d.VirtualImage(np.random.default_rng(2).random(SHAPE[2:])),
        "squares": gpu4d.VirtualImage(gpu4d.detectors.rectangle(9.0, 5.0), origins()),
    }


def as_bytes(results):
    return {name: np.asarray(result).tobytes() for name, result in results.items()}


@pytest.fixture
def dense(monkeypatch):
    """How many patterns were made of events, by call."""
    made, original = [], Events.dense
    monkeypatch.setattr(Events, "dense", lambda self, dtype, out=None: made.append(len(self)) or original(self, dtype, out))
    return made


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("asked", [takers, others, lambda: takers() | others()], ids=["takers", "others", "all"])
@pytest.mark.parametrize("masked", [False, True])
def test_results_are_those_of_the_patterns_to_the_last_bit(repeated, asked, masked):
    where = np.random.default_rng(3).random(SHAPE[:2]) < 0.4 if masked else None
    valid = np.random.default_rng(4).random(SHAPE[2:]) > 0.1 if masked else None
    expected = as_bytes(gpu4d.sweep(gpu4d.DataCube(counts(), detector_mask=valid), asked(), where=where))
    cube = gpu4d.DataCube(as_events(counts(), repeated), detector_mask=valid)
    assert as_bytes(gpu4d.sweep(cube, asked(), where=where)) == expected


def test_no_pattern_is_made_where_all_take_events(dense):
    cube = gpu4d.DataCube(as_events(counts()))
    gpu4d.sweep(cube, takers())
    assert not dense
    todo = plan(cube, takers(), device="cpu")
    assert (
        todo.events_only
        and todo.readers == 0
        and "given events as they are: com, image, max, mean, moving, pixels, round, stack" in todo.describe()
    )


def test_patterns_are_made_once_for_all_that_need_them(dense):
    cube = gpu4d.DataCube(as_events(counts()))
    gpu4d.sweep(cube, takers() | others(), device="cpu")
    assert sum(dense) == SHAPE[0] * SHAPE[1]
    todo = plan(cube, takers() | others(), device="cpu")
    assert todo.given_events == set(takers()) and not todo.events_only


class Noted(gpu4d.MeanPattern):
    """Notes which way it was updated."""

    def __init__(self):
        super().__init__()
        self.ways = set()

    def joins(self):
        return None

    def update(self, frames, positions):
        self.ways.add("patterns")
        super().update(frames, positions)

    def update_events(self, events, positions):
        self.ways.add("events")
        assert len(events) == len(positions) and events.detector_shape == SHAPE[2:]
        super().update_events(events, positions)


def test_corrections_views_and_a_link_want_patterns():
    source, bad = as_events(counts()), disk(1.5)
    for cube, device, way in (
        (gpu4d.DataCube(source), "cpu", "events"),
        (gpu4d.DataCube(source).corrected(bad_pixels=bad), "cpu", "patterns"),
        (gpu4d.DataCube(source).crop(rx=(2, 9)), "cpu", "patterns"),
        (gpu4d.DataCube(source), AccountingProcessor(), "patterns"),
    ):
        reduction = Noted()
        assert isinstance(reduction, TakesEvents)
        found = gpu4d.sweep(cube, reduction, device=device)
        assert reduction.ways == {way}
        np.testing.assert_array_equal(np.asarray(found), cube.load().source.array.mean((0, 1), dtype=np.float64))


def test_memory_and_threads_change_nothing(monkeypatch):
    found = []
    for threads, memory in (("1", "100 MB"), ("3", "100 MB"), ("2", "6 MB")):
        monkeypatch.setenv("GPU4D_THREADS", threads)
        found += [
            as_bytes(gpu4d.sweep(gpu4d.DataCube(as_events(counts())), asked, memory=memory, device="cpu"))
            for asked in (takers(), takers() | {"weighted": others()["weighted"]})
        ]
    for other in found[1:]:
        assert {name: other[name] for name in takers()} == found[0]


def test_memory_that_runs_out_in_an_update(monkeypatch):
    """Events come again, as patterns do."""
    monkeypatch.setenv("GPU4D_THREADS", "1")

    class Fails(gpu4d.MeanPattern):
        calls = 0

        def update_events(self, events, positions):
            Fails.calls += 1
            if Fails.calls in (1, 3):
                raise MemoryError("as asked")
            super().update_events(events, positions)

    expected = gpu4d.sweep(gpu4d.DataCube(counts()), gpu4d.MeanPattern())
    found = gpu4d.sweep(gpu4d.DataCube(as_events(counts())), {"mean": Fails(), "image": takers()["image"]}, device="cpu")
    assert Fails.calls > 3 and np.asarray(found["mean"]).tobytes() == np.asarray(expected).tobytes()


def test_a_count_that_the_dtype_does_not_hold_ends_the_sweep():
    cube = gpu4d.DataCube(as_events(counts(), dtype="uint8"))
    for asked in (others()["weighted"], gpu4d.MaxPattern(), BrightFieldStack([20 * SHAPE[3] + 20])):
        with pytest.raises(InputError, match="a pixel has 40000 counts, uint8 holds 255 at most"):
            gpu4d.sweep(cube, asked)


def test_a_count_that_the_dtype_does_not_hold_is_added_where_no_pattern_is_made():
    """Sums of events do not pass through the dtype of patterns."""
    found = gpu4d.sweep(gpu4d.DataCube(as_events(counts(), dtype="uint8")), gpu4d.MeanPattern(), device="cpu")
    np.testing.assert_array_equal(np.asarray(found), counts().mean((0, 1), dtype=np.float64))


def refused_below(cube, asked):
    """The least memory of a sweep."""
    with pytest.raises(MemoryBudgetError) as refused:
        plan(cube, asked, device="cpu", memory=1000)
    return refused.value.asked


class Patterns:
    """Patterns made of events, by a source that does not say that it keeps events."""

    def __init__(self, source):
        self.read, self.scratch_bytes, self.description = source.read, source.scratch_bytes, source.description
        self.shape, self.dtype, self.blocks, self.resident = source.shape, source.dtype, source.blocks, source.resident


def full_counts(mean):
    return np.random.default_rng(5).poisson(mean, SHAPE).astype("uint16")


@pytest.mark.parametrize("asked", [takers, lambda: takers() | others()], ids=["takers", "all"])
def test_a_full_scan_needs_no_more_memory_than_patterns(asked, dense, monkeypatch):
    """More events than pixels take more memory than patterns, and are given where there is so much."""
    monkeypatch.setenv("GPU4D_THREADS", "2")
    data = full_counts(3.0)
    cube = gpu4d.DataCube(as_events(data, repeated=True))
    assert plan(cube, asked(), device="cpu", memory="1 GB").given_events == set(takers())
    assert not plan(cube, asked(), device="cpu", memory=refused_below(cube, asked())).given_events
    least = refused_below(cube, asked())
    assert least == refused_below(gpu4d.DataCube(Patterns(cube.source)), asked())
    found = as_bytes(gpu4d.sweep(cube, asked(), device="cpu", memory=least))
    assert found == as_bytes(gpu4d.sweep(gpu4d.DataCube(data), asked())) and sum(dense) == SHAPE[0] * SHAPE[1]


@pytest.mark.parametrize("asked", [takers, lambda: takers() | others()], ids=["takers", "all"])
def test_events_that_do_not_fit_are_given_as_patterns(asked, monkeypatch):
    """Events of a tile take less than a ring of patterns here, but more than a single buffer of them."""
    monkeypatch.setenv("GPU4D_THREADS", "1")
    data = full_counts(0.08)
    cube = gpu4d.DataCube(as_events(data))
    assert plan(cube, asked(), device="cpu", memory="100 MB").given_events == set(takers())
    least = refused_below(cube, asked())
    todo = plan(cube, asked(), device="cpu", memory=least)
    assert not todo.given_events and (todo.bytes, todo.ring) == (least, 1)
    assert as_bytes(gpu4d.sweep(cube, asked(), device="cpu", memory=least)) == as_bytes(gpu4d.sweep(gpu4d.DataCube(data), asked()))


def test_the_least_memory_of_few_events(monkeypatch):
    """It is that of events, and a byte less is refused."""
    monkeypatch.setenv("GPU4D_THREADS", "1")
    cube = gpu4d.DataCube(as_events(counts()))
    least = refused_below(cube, takers())
    todo = plan(cube, takers(), device="cpu", memory=least)
    assert todo.events_only and todo.bytes == least
    with pytest.raises(MemoryBudgetError):
        plan(cube, takers(), device="cpu", memory=least - 1)


def test_the_plan_counts_the_events_of_the_fullest_tile():
    """Every event more in it takes as much as a reduction may take for one, and pixel, count and place besides."""
    struck = np.zeros(SHAPE, "uint16")
    struck[..., 20, 20] = 1
    more = struck.copy()
    more[13, 7, :5, :30] = 1
    without, with_more = (plan(gpu4d.DataCube(as_events(data)), takers(), device="cpu") for data in (struck, more))
    assert without.events_only and with_more.events_only and with_more.lanes == without.lanes
    assert with_more.bytes - without.bytes >= 150 * 96 * without.lanes


def test_events_of_several_tiles_come_in_one_update(monkeypatch):
    """A call costs more than the few events of a tile. Sums of whole numbers do not depend on it."""
    monkeypatch.setattr(importlib.import_module("gpu4d.streaming.tiles"), "TILE_BYTES", 6 * SHAPE[2] * SHAPE[3] * 2)
    reduction, sizes = gpu4d.MeanPattern(), []
    original = reduction.update_events
    reduction.update_events = lambda events, positions: sizes.append(len(events)) or original(events, positions)
    found = gpu4d.sweep(gpu4d.DataCube(as_events(counts())), reduction, device="cpu")
    np.testing.assert_array_equal(np.asarray(found), counts().mean((0, 1), dtype=np.float64))
    assert sum(sizes) == SHAPE[0] * SHAPE[1] and min(sizes) == SHAPE[1], "three tiles, a row of the scan, in each update"


OF_PYTHON = 1_500_000  # bytes of threads, futures, slices and code loaded on the way


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("asked", [takers, others], ids=["events", "patterns"])
def test_a_sweep_holds_what_its_plan_says(asked, repeated, masked, monkeypatch):
    """Measured by what Python, NumPy included, asks of the system; the events themselves were there before.

    Tiles of whole rows are four times as large as elsewhere, so that their events weigh more than what is Python's own.
    """
    monkeypatch.setenv("GPU4D_THREADS", "2")
    monkeypatch.setattr(importlib.import_module("gpu4d.streaming.tiles"), "LEAST_BLOCKS", 2)
    where = np.random.default_rng(3).random(SHAPE[:2]) < 0.9 if masked else None
    mean = 0.05 if asked is takers else 3.0
    cube = gpu4d.DataCube(as_events(full_counts(mean), repeated))
    gpu4d.sweep(cube, asked(), device="cpu", where=where)  # compiled code is loaded
    todo, running = plan(cube, asked(), device="cpu", where=where), asked()
    assert todo.events_only == (asked is takers)
    tracemalloc.start()
    gpu4d.sweep(cube, running, device="cpu", where=where)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= todo.bytes + OF_PYTHON, f"{peak / 1e6:.2f} MB held, {todo.bytes / 1e6:.2f} MB promised"
