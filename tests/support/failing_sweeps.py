"""Small scans, reductions that run out of memory on demand, and what a sweep gave back."""

import threading

import numpy as np
import pytest

import gpu4d
from gpu4d.operation import Operation
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming import BlockSums
from gpu4d.streaming.conveyor import Conveyor
from gpu4d.testing.accounting import AccountingProcessor

SHAPE = (26, 18, 17, 20)


class Stored:
    """A scan in a made-up file."""

    resident, description = False, "made up"

    def __init__(self, data, blocks=(2, 3), before=None):
        self.data, self.shape, self.dtype, self.blocks, self.before = data, data.shape, data.dtype, blocks, before

    def read(self, rows, columns, out=None):
        if self.before is not None:
            self.before((str(rows), str(columns)))
        if out is None:
            return self.data[rows, columns].copy()
        out[...] = self.data[rows, columns]
        return out


def scan(dtype="uint16", shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(4.0, shape)
    return counts.astype(dtype) if np.dtype(dtype).kind in "iu" else (counts * 0.37 + rng.random(shape)).astype(dtype)


def every_reduction(shape=SHAPE):
    rng = np.random.default_rng(1)
    weights = rng.random(shape[:2])
    origin = np.stack(np.meshgrid(np.linspace(7, 9, shape[0]), np.linspace(8, 11, shape[1]), indexing="ij"), -1)
    return {
        "image": gpu4d.VirtualImage({"bf": gpu4d.detectors.disk(4.0), "mask": rng.random(shape[2:]) > 0.5}),
        "weights": gpu4d.VirtualImage(rng.random(shape[2:])),
        "moving": gpu4d.VirtualImage([gpu4d.detectors.disk(4.0), gpu4d.detectors.rectangle(3, 5)], origin),
        "mean": gpu4d.MeanPattern(),
        "weighted": gpu4d.MeanPattern(weights=weights),
        "aligned": gpu4d.MeanPattern(weights=weights, origin=origin),
        "max": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "stack": BrightFieldStack(np.flatnonzero(rng.random(shape[2:]) > 0.8)),
        "disks": gpu4d.BraggDisks(gpu4d.probe.synthetic(shape[2:], 2.5), min_significance=1.0, max_peaks=2),
    }


def as_bytes(result):
    if hasattr(result, "offsets"):
        return (np.asarray(result.offsets).tobytes(), *(np.asarray(result.flat(f)).tobytes() for f in result.fields))
    return np.asarray(getattr(result, "data", result)).tobytes()


def bits(results):
    return {name: as_bytes(result) for name, result in results.items()}


class Trips:
    """Raises at a few calls, drawn from a seed: `least` others or more lie between two, and none is for the same work."""

    def __init__(self, seed, error=MemoryError, least=60, spread=40, times=6):
        self.rng, self.error, self.least, self.spread, self.left = np.random.default_rng(seed), error, least, spread, times
        self.lock, self.next, self.inside, self.tripped = threading.Lock(), 0, threading.local(), set()
        self.rest()

    def rest(self):
        self.next = self.least + int(self.rng.integers(0, self.spread))

    def __call__(self, work):
        with self.lock:
            self.next -= 1
            if self.next > 0 or not self.left or work in self.tripped:
                return
            self.left -= 1
            self.tripped.add(work)
            self.rest()
        raise self.error("as asked")


def trip_reductions(monkeypatch, trips):
    """Before and after every operation and every addition that a reduction makes while it is updated."""

    def guarded(original):
        def call(*args, **options):
            work = getattr(trips.inside, "work", None)
            if work is not None:
                trips(work)
            found = original(*args, **options)
            if work is not None:
                trips(work)
            return found

        return call

    update, made = Conveyor._update, BlockSums.__init__

    def inside(self, step, frames):
        trips.inside.work = (str(step.tiles[0]), id(step.reductions[0]))
        try:
            update(self, step, frames)
        finally:
            trips.inside.work = None

    def combining(self, *args, **options):
        made(self, *args, **options)
        self.combine = guarded(self.combine)

    monkeypatch.setattr(Conveyor, "_update", inside)
    monkeypatch.setattr(Operation, "__call__", guarded(Operation.__call__))
    monkeypatch.setattr(BlockSums, "__init__", combining)


def where_it_runs(kind, data):
    """A cube and a device."""
    if kind == "accounting":
        return gpu4d.DataCube(Stored(data)), AccountingProcessor(readers_in_threads=True)
    if kind == "strict":
        return gpu4d.DataCube(pytest.importorskip("array_api_strict").asarray(data)), "auto"
    return gpu4d.DataCube(data if kind == "cpu in place" else Stored(data)), "cpu"


class Hungry(gpu4d.MaxPattern):
    """Runs out of memory in one of its calls."""

    def __init__(self, call, on=None):
        super().__init__()
        self.call, self.on = call, on

    def _hungry(self, call):
        if call == self.call and self.on in (None, self.device):
            raise MemoryError(f"no room to {call}")

    def start(self, scan, device, pass_=0):
        self.device = device
        self._hungry("start")
        super().start(scan, device, pass_)

    def state(self):
        self._hungry("state")
        return super().state()

    def merge(self, state):
        self._hungry("merge")
        super().merge(state)

    def finish(self):
        self._hungry("finish")
        return super().finish()


def devices(kind):
    """Processors of a kind, and what `sweep` is given."""
    count = {"cpu": 0, "accounting": 1, "threads": 1, "two lanes": 1, "three devices": 3}[kind]
    options = {"readers_in_threads": kind != "accounting", "lanes": 2 if kind == "two lanes" else 1}
    several = [AccountingProcessor(f"accounting:{i}", **options) for i in range(count)]
    return several, "cpu" if not several else several if len(several) > 1 else several[0]


def given_back(several):
    for processor in several:
        assert processor.held == processor.pinned_held == 0 and not processor.faults, processor.faults


KINDS = ("cpu", "accounting", "threads", "two lanes", "three devices")
