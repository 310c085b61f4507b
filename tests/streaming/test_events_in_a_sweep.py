"""Events in a sweep: given as they are to reductions that take them, made to patterns once a chunk for the others."""

import tracemalloc

import numpy as np
import pytest

import gpu4d
from gpu4d.data import Events, EventSource
from gpu4d.errors import InputError
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


def takers():
    return {
        "mean": gpu4d.MeanPattern(),
        "image": gpu4d.VirtualImage({"disk": disk(6), "rest": ~disk(6)}),
        "round": gpu4d.VirtualImage(gpu4d.detectors.annulus(3, 9)),
        "com": gpu4d.CenterOfMass(detector=disk(15)),
    }


def others():
    origins = np.random.default_rng(1).normal(20, 1, (*SHAPE[:2], 2))
    return {
        "max": gpu4d.MaxPattern(),
        "weighted": gpu4d.MeanPattern(weights=np.linspace(0, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE[:2])),
        "weights": gpu4d.VirtualImage(np.random.default_rng(2).random(SHAPE[2:])),
        "moving": gpu4d.VirtualImage(gpu4d.detectors.disk(5.0), origins),
        "stack": BrightFieldStack(disk(4)),
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
    assert todo.events_only and todo.readers == 0 and "given events as they are: com, image, mean, round" in todo.describe()


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
            for asked in (takers(), takers() | {"max": gpu4d.MaxPattern()})
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
    with pytest.raises(InputError, match="a pixel has 40000 counts, uint8 holds 255 at most"):
        gpu4d.sweep(cube, gpu4d.MaxPattern())


OF_PYTHON = 1_500_000  # bytes of threads, futures, slices and code loaded on the way


@pytest.mark.parametrize("asked", [takers, others], ids=["events", "patterns"])
def test_a_sweep_holds_what_its_plan_says(asked, monkeypatch):
    """Measured by what Python, NumPy included, asks of the system; the events themselves were there before."""
    monkeypatch.setenv("GPU4D_THREADS", "2")
    cube = gpu4d.DataCube(as_events(np.random.default_rng(5).poisson(0.3, SHAPE).astype("uint16"), repeated=True))
    gpu4d.sweep(cube, asked(), device="cpu")  # compiled code is loaded
    todo, running = plan(cube, asked(), device="cpu"), asked()
    tracemalloc.start()
    gpu4d.sweep(cube, running, device="cpu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= todo.bytes + OF_PYTHON, f"{peak / 1e6:.2f} MB held, {todo.bytes / 1e6:.2f} MB promised"
