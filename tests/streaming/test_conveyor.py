"""The conveyor on a device made of counters (`gpu4d.testing.accounting`): what it holds, what it gives back, and that its answer is the
definition's whatever the memory, the devices and what fails on the way."""

import importlib
import json
import time

import numpy as np
import pytest
from threads_left import passing_threads

import gpu4d
from gpu4d.data.source import ArraySource
from gpu4d.device.timeline import Timeline
from gpu4d.errors import DeviceError, InputError, MemoryBudgetError
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming import tiles
from gpu4d.streaming.plan import scan_info
from gpu4d.testing.accounting import AccountingProcessor, VirtualSource

DTYPES = ("uint8", "uint16", "int32", "float32", "float64")


class Stored:
    """A scan in a made-up file: chunks of its own, reads into the caller's buffer, on the device's disk."""

    resident, description = False, "made up"

    def __init__(self, data, blocks, processor=None):
        self.data, self.shape, self.dtype, self.blocks, self.processor = data, data.shape, data.dtype, blocks, processor

    def read(self, rows, columns, out=None):
        found = self.data[rows, columns]
        if self.processor is not None:
            self.processor.read_from_disk(found.nbytes)
        if out is None:
            return found.copy()
        out[...] = found
        return out


class Slow(Stored):
    """So slow that no conveyor has done all before another begins."""

    def read(self, rows, columns, out=None):
        time.sleep(0.002)
        return super().read(rows, columns, out)


class Mapped(ArraySource):
    """A scan whose pages are mapped: `read` is a view."""


def frames(rng, shape, dtype):
    counts = rng.poisson(3.0, shape)
    return counts.astype(dtype) if np.dtype(dtype).kind in "iu" else (counts * rng.uniform(0.5, 1.5)).astype(dtype)


def reductions(shape, names):
    disk = np.hypot(*(np.indices(shape[2:]) - np.array(shape[2:])[:, None, None] // 2)) < 3
    every = {
        "mean": gpu4d.MeanPattern(),
        "weighted": gpu4d.MeanPattern(weights=np.linspace(0, 1, shape[0] * shape[1]).reshape(shape[:2])),
        "max": gpu4d.MaxPattern(),
        "image": gpu4d.VirtualImage({"disk": disk, "rest": ~disk}),
        "com": gpu4d.CenterOfMass(),
        "stack": BrightFieldStack(np.flatnonzero(disk)),
    }
    return {name: every[name] for name in names}


NAMES = ("mean", "weighted", "max", "image", "com", "stack")


def definition(data, names, where=None):
    """Each result in float64 (integers exact), straight from the whole scan in memory."""
    rx, ry, qx, qy = data.shape
    seen = np.ones((rx, ry), bool) if where is None else where
    disk = np.hypot(*(np.indices((qx, qy)) - np.array((qx, qy))[:, None, None] // 2)) < 3
    flat = data[seen].astype(np.float64)
    weights = np.linspace(0, 1, rx * ry).reshape(rx, ry)[seen]
    none = len(flat) == 0
    nan = np.full((qx, qy), np.nan)
    maps = {"image": np.full((2, rx, ry), np.nan), "com": np.full((2, rx, ry), np.nan)}
    maps["image"][:, seen] = [flat[:, disk].sum(1), flat[:, ~disk].sum(1)]
    total = flat.sum((1, 2))
    with np.errstate(invalid="ignore"):
        maps["com"][:, seen] = [(flat * i).sum((1, 2)) / total for i in np.indices((qx, qy))]
    stack = np.where(seen, np.moveaxis(data[:, :, disk], 2, 0), np.array(np.nan if data.dtype.kind == "f" else 0, data.dtype))
    out = {
        "mean": nan if none else flat.mean(0),
        "weighted": nan if none or not weights.any() else np.tensordot(weights, flat, 1) / weights.sum(),
        "max": nan if none else flat.max(0),
        "stack": stack.astype(data.dtype),
        **maps,
    }
    return {name: out[name] for name in names}


def check(results, data, where=None):
    exact = data.dtype.kind in "iu"
    for name, want in definition(data, results, where).items():
        got = np.asarray(results[name])
        if name == "stack" or (exact and name in ("max", "image")):
            np.testing.assert_array_equal(got, want, err_msg=name)
        else:  # sums of integers are exact too; one division is left
            np.testing.assert_allclose(got, want, rtol=1e-15 if exact and name in ("mean", "com") else 1e-12, atol=1e-12, err_msg=name)


def case(seed):
    """One scan, cap, device and what is to go wrong, from a number."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in (rng.integers(1, 14), rng.integers(1, 14), rng.integers(5, 20), rng.integers(5, 20)))
    data = frames(rng, shape, rng.choice(DTYPES))
    names = tuple(n for n in NAMES if rng.random() < 0.4) or ("mean",)
    where = rng.random(shape[:2]) < rng.choice([0.05, 0.5, 0.95]) if rng.random() < 0.3 else None
    blocks = (1, 1) if rng.random() < 0.4 else (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    return rng, data, names, where, blocks


def small_tiles(monkeypatch, rng, data):
    """Tiles of a few patterns, so that a small scan is a long one."""
    plan = importlib.import_module("gpu4d.streaming.plan")  # the package has a function of that name
    tile = int(rng.integers(1, 9)) * data[0, 0].nbytes
    monkeypatch.setattr(tiles, "TILE_BYTES", tile)
    monkeypatch.setattr(plan, "CHUNK_BYTES", tile * int(rng.integers(1, 9)))
    monkeypatch.setattr(plan, "RING", int(rng.integers(2, 5)))
    monkeypatch.setattr(tiles, "MOST_BLOCKS", int(rng.integers(1, 12)))
    monkeypatch.setattr(plan, "available_memory", lambda: 1 << 33)  # of the host: two files are read to know


def cube_on_cpu(data, blocks):
    return gpu4d.DataCube(Stored(data, blocks))


def same_bits(one, two):
    for name in one:
        assert np.asarray(one[name]).tobytes() == np.asarray(two[name]).tobytes(), name


FAILURES = ("allocate", "pinned", "copy", "record", "wait", "compute", "submit", "job", "read")


def failures(rng):
    """None mostly; else one or two calls that fail: in memory, the device, a read, or the user's patience."""
    if rng.random() < 0.5:
        return ()
    found = []
    for _ in range(int(rng.integers(1, 4))):
        operation, number = str(rng.choice(FAILURES)), int(rng.integers(1, 25))
        kind = rng.random()
        error = MemoryError if kind < 0.7 else DeviceError if kind < 0.8 else InputError if kind < 0.9 else KeyboardInterrupt
        found.append((operation, number, error("as asked")))
    return tuple(found)


def plans(monkeypatch):
    """What sweeps plan from here on."""
    engine, made = importlib.import_module("gpu4d.streaming.engine"), []
    original = engine.plan
    monkeypatch.setattr(engine, "plan", lambda *args, **options: made.append(original(*args, **options)) or made[-1])
    return made


def counted(calls, total):
    """Whether progress was told of every pattern once."""
    done = [0, *(done for done, _ in calls)]
    return done == sorted(set(done)) and done[-1] == total and all(of == total for _, of in calls)


def fuzz(seed, monkeypatch, threads=False):
    """One case; gives what became of it."""
    rng, data, names, where, blocks = case(seed)
    with monkeypatch.context() as patch:
        small_tiles(patch, rng, data)
        planned, made, calls = failures(rng), plans(patch), []
        processor = AccountingProcessor(memory=8e6, failures=planned, readers_in_threads=threads)
        source = Mapped(data) if blocks == (1, 1) and rng.random() < 0.5 else Stored(data, blocks, processor)
        cube, asked = gpu4d.DataCube(source), reductions(data.shape, names)
        same = cube if type(source) is Mapped else cube_on_cpu(data, blocks)
        info, _ = scan_info(cube, where)
        least = sum(r.bytes_needed(info, info.update_frames) for r in asked.values())
        cap = least + int(rng.integers(1, 40)) * data[0, 0].nbytes
        others = int(rng.integers(0, 2)) * (processor.memory - int(rng.integers(1, 200)) * data[0, 0].nbytes - least)
        processor.held_by_others = max(0, others)
        before = passing_threads()
        try:
            results = gpu4d.sweep(
                cube, asked, device=processor, memory=cap, where=where, progress=lambda done, total: calls.append((done, total))
            )
            outcome = "done"
            check(results, data, where)
            assert counted(calls, data.shape[0] * data.shape[1] if where is None else where.sum())
            if seed % 4 == 0:
                patch.setenv("GPU4D_THREADS", str(1 + seed // 4 % 2))
                same_bits(results, gpu4d.sweep(same, reductions(data.shape, names), device="cpu", where=where))
        except MemoryBudgetError as error:
            outcome = "refused"
            assert error.cap == cap and error.asked > 0 and "free" in str(error)
        except (DeviceError, InputError, KeyboardInterrupt) as error:
            outcome = type(error).__name__
            assert any(isinstance(asked_for, type(error)) for _, _, asked_for in planned) or processor.lost
        assert passing_threads() == before
    assert not processor.faults, processor.faults
    assert processor.held == processor.pinned_held == 0
    assert processor.peak <= cap and processor.pinned_peak <= cap
    if made:
        assert processor.peak <= made[0].bytes - made[0].held_bytes and processor.pinned_peak <= made[0].staging_bytes
    if outcome == "done":
        assert not processor.leaks()
        if not planned:
            assert processor.counts["bytes copied"] <= 2 * data.nbytes
    return outcome


CASES = 2_500
BATCH = 250
MARKS = ((), pytest.mark.slow, *[pytest.mark.exhaustive] * (CASES // BATCH - 2))  # a batch in every run, another for each commit


@pytest.mark.parametrize("batch", [pytest.param(k, marks=mark) for k, mark in enumerate(MARKS)])
def test_any_scan_through_any_memory(batch, monkeypatch):
    """Peak at most the cap, the definition's answer, nothing left behind, no buffer used by two at once, whatever fails."""
    outcomes = {}
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        try:
            outcome = fuzz(seed, monkeypatch)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["done"] > BATCH // 2 and outcomes["refused"] > 0 and outcomes["DeviceError"] > 0, outcomes


@pytest.mark.parametrize("seeds", [range(20_000, 20_120), pytest.param(range(20_120, 20_500), marks=pytest.mark.slow)])
def test_readers_in_threads(seeds, monkeypatch):
    """The same with readers that really run beside each other."""
    for seed in seeds:
        try:
            fuzz(seed, monkeypatch, threads=True)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("seeds", [range(30_000, 30_120), pytest.param(range(30_120, 30_300), marks=pytest.mark.slow)])
def test_several_devices_give_the_bits_of_one(seeds, monkeypatch):
    for seed in seeds:
        rng, data, names, where, blocks = case(seed)
        with monkeypatch.context() as patch:
            small_tiles(patch, rng, data)
            cube, several = cube_on_cpu(data, blocks), [AccountingProcessor(f"accounting:{i}") for i in range(int(rng.integers(2, 4)))]
            shared = gpu4d.sweep(cube, reductions(data.shape, names), device=several, where=where)
            same_bits(shared, gpu4d.sweep(cube, reductions(data.shape, names), device=AccountingProcessor(), where=where))
        for processor in several:
            assert not processor.faults and not processor.leaks() and processor.held == 0


def test_each_device_has_its_share():
    data = frames(np.random.default_rng(1), (64, 8, 16, 16), "uint16")
    several = [AccountingProcessor(f"accounting:{i}") for i in range(2)]
    gpu4d.sweep(gpu4d.DataCube(Slow(data, (1, 1))), gpu4d.MeanPattern(), device=several)
    copied = [p.counts["bytes copied"] for p in several]
    assert sum(copied) == data.nbytes and min(copied) > 0


class Costs:
    """A reduction that takes virtual time, and remembers only how many frames came."""

    def __init__(self, processor, rate):
        self.processor, self.rate, self.frames = processor, rate, 0

    def bytes_needed(self, scan, n_frames):
        return 0

    def passes(self, scan, budget):
        return 1

    def start(self, scan, device, pass_=0):
        self.frame_bytes = scan.shape[2] * scan.shape[3] * np.dtype(scan.dtype).itemsize

    def in_tiles(self):
        return False

    def update(self, frames, positions):
        self.processor.spend(len(positions) * self.frame_bytes / self.rate)
        self.frames += len(positions)

    def state(self):
        return {}

    def restore(self, state): ...

    def merge(self, state): ...

    def finish(self):
        return self.frames


@pytest.mark.parametrize("slowest", ["disk", "link", "kernel"])
def test_a_scan_of_64_gb_takes_the_time_of_the_slowest(slowest, tmp_path):
    """H200-like rates, 256 MB: the pass takes what disk, link or kernel alone would take, and at most 8 % more."""
    rates = {"disk": 100e9, "link": 55e9, "kernel": 3e12} | {slowest: {"disk": 7e9, "link": 55e9, "kernel": 20e9}[slowest]}
    processor = AccountingProcessor(memory=141e9, link_rate=rates["link"], disk_rate=rates["disk"], moves_bytes=False)
    source = VirtualSource(processor, (512, 488, 358, 358), np.uint16)
    size = 512 * 488 * 358 * 358 * 2
    assert size > 64e9
    trace = tmp_path / "trace.json"
    frames = gpu4d.sweep(gpu4d.DataCube(source), Costs(processor, rates["kernel"]), device=processor, memory="256 MB", trace=trace)
    assert frames == 512 * 488 and processor.peak <= 256e6 and processor.pinned_peak <= 256e6
    took, floor = processor.over, size / rates[slowest]
    assert floor <= took <= 1.08 * floor, f"{took / floor:.3f}"
    events = json.loads(trace.read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    timeline = Timeline()
    for e in spans:
        timeline.span(names[e["tid"]], e["name"], e["ts"], e["ts"] + e["dur"])
    copy, compute = f"{processor.name} copy", f"{processor.name} compute"
    assert timeline.overlap(copy, compute) > 0.9 * min(timeline.busy(copy), timeline.busy(compute))
