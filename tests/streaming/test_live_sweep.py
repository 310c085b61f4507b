"""A live sweep: the bits of a sweep whatever portions and order patterns come in, results at any time, and nothing lost if it is slow."""

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
from small_sweeps import TwoPasses, all_reductions, as_bytes, scan
from threads_left import passing_threads

import gpu4d
from gpu4d.data import live_scan
from gpu4d.errors import BrokenScanError, InputError, MemoryBudgetError
from gpu4d.streaming import LiveSweep, PerPositionReduction, tiles
from gpu4d.testing.accounting import AccountingProcessor

FRAME = 17 * 20 * 2  # bytes of a pattern of `scan`
ORDER = np.random.default_rng(0).permutation(13 * 9)


@pytest.fixture(autouse=True)
def parts_of_rows(monkeypatch):
    """Segments of four patterns: a row of nine has three of them. No thread may be left behind."""
    monkeypatch.setattr(tiles, "TILE_BYTES", 4 * tiles.SEGMENTS * FRAME)
    before = passing_threads()
    yield
    assert passing_threads() == before


def reductions():
    rings = gpu4d.RingStatistics(origin=(8.0, 9.5))
    disks = gpu4d.BraggDisks(gpu4d.probe.synthetic((17, 20), 2.5), min_significance=2.5)
    return {**all_reductions(), "disks": disks, "rings": rings, "profile": gpu4d.RadialProfile(origin=(8.0, 9.5))}


def same(got, want):
    for name, result in want.items():
        if name == "rings":
            pairs = [(got[name].sums, result.sums), (got[name].squares, result.squares), (got[name].pixels, result.pixels)]
            assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs), name
        else:
            assert as_bytes(got[name]) == as_bytes(result), name


def positions(numbers):
    return np.stack(np.divmod(numbers, 9), -1)


def feed(live, data, order=None, sizes=(1, 7, 2, 13)):
    """Feed all patterns in portions of odd sizes."""
    flat, first, turn = data.reshape(-1, *data.shape[2:]), 0, 0
    while first < len(flat):
        last = min(first + sizes[turn % len(sizes)], len(flat))
        if order is None:
            live.feed(flat[first:last])
        else:
            live.feed(flat[order[first:last]], positions(order[first:last]))
        first, turn = last, turn + 1


class Gated(PerPositionReduction):
    """The sum of every pattern, as slow as the test wants."""

    def __init__(self):
        self.open, self.entered = threading.Event(), threading.Event()

    def __getstate__(self):
        return {}

    def bytes_needed(self, scan, n_frames):
        return self.held_bytes(scan, n_frames)

    def update(self, frames, positions):
        self.entered.set()
        self.open.wait(30)
        self.put(positions, frames.sum((1, 2), dtype=np.float64)[:, None])

    def finish(self):
        return self.values.result()[0]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_bits_are_those_of_a_sweep(dtype):
    """In order, out of order, with corrections, a detector mask and `where`, and in little memory."""
    data = scan(dtype)
    want = gpu4d.sweep(gpu4d.DataCube(data), reductions())
    for order in (None, ORDER):
        with LiveSweep(live_scan(data.shape, dtype), reductions()) as live:
            feed(live, data, order)
        same(live.results(), want)
    assert live.arrived == live.reduced == 117
    mask = np.random.default_rng(2).random((17, 20)) > 0.1
    where = np.random.default_rng(3).random((13, 9)) > 0.3
    where[4] = False
    dark, bad = np.full((17, 20), 0.25), np.zeros((17, 20), bool)
    bad[3, 5] = True
    cube = gpu4d.DataCube(data, detector_mask=mask).corrected(dark=dark, bad_pixels=bad)
    want = gpu4d.sweep(cube, reductions(), where=where)
    for order in (None, ORDER):
        with LiveSweep(
            live_scan(data.shape, dtype, detector_mask=mask).corrected(dark=dark, bad_pixels=bad), reductions(), where=where
        ) as live:
            feed(live, data, order)
        same(live.results(), want)


def test_on_a_device_with_a_link():
    """The bits, the memory and the order of work, on a device that counts them."""
    data = scan("float32")
    device, budget = AccountingProcessor(failures=[("compute", 3)]), "40 MB"
    want = gpu4d.sweep(gpu4d.DataCube(data), reductions(), device=AccountingProcessor())
    for order in (None, ORDER):
        with LiveSweep(live_scan(data.shape, "float32"), reductions(), device=device, memory=budget) as live:
            feed(live, data[:5], None if order is None else ORDER[ORDER < 45])
            middle = live.results(wait=True)
            feed(live, data if order is not None else data[5:], None if order is None else ORDER[ORDER >= 45])
        same(live.results(), want)
        came = np.isfinite(np.asarray(middle["com"]))
        assert not came[:, 5:].any() and came[:, :4].all(), "of the last row, whose parts may not be complete, some are not there yet"
    assert device.peak <= 40e6 and device.pinned_peak <= 40e6 and not device.leaks() and not device.faults


def test_results_at_any_time():
    """Another thread looks while patterns come. What it got does not change, and at the end all are there."""
    data = scan()
    seen, stop = [], threading.Event()
    with LiveSweep(live_scan(data.shape, data.dtype), reductions()) as live:
        assert np.isnan(np.asarray(live.results()["com"])).all(), "nothing came"

        def look():
            while not stop.is_set():
                one = live.results()
                seen.append((one, as_bytes(one["com"]), as_bytes(one["max"]), as_bytes(one["image"]["bf"])))
                time.sleep(0.01)

        viewer = threading.Thread(target=look)
        viewer.start()
        feed(live, data)
        stop.set()
        viewer.join()
        live.results(wait=True)
    want = gpu4d.sweep(gpu4d.DataCube(data), reductions())
    same(live.results(), want)
    whole = np.asarray(want["com"])
    counts = []
    for one, *bits in seen:
        assert [as_bytes(one["com"]), as_bytes(one["max"]), as_bytes(one["image"]["bf"])] == bits
        com = np.asarray(one["com"])
        there = np.isfinite(com)
        assert (com[there] == whole[there]).all()
        counts.append(int(there.sum()))
    assert counts == sorted(counts)


def test_a_scan_that_ends_early():
    """Positions without a pattern are NaN or empty; the others are as a sweep of them has them."""
    data = scan("float32")
    with LiveSweep(live_scan(data.shape, data.dtype), reductions()) as live:
        live.feed(data.reshape(-1, 17, 20)[:50])
    where = np.arange(117).reshape(13, 9) < 50
    same(live.results(), gpu4d.sweep(gpu4d.DataCube(data), reductions(), where=where))
    assert np.isnan(np.asarray(live.results()["com"])[:, ~where]).all() and live.results()["disks"].counts[~where].sum() == 0
    with pytest.raises(InputError, match="closed: make another one"):
        live.feed(data[0])


def test_a_slow_reduction_slows_the_source():
    """While nothing is reduced, no more is taken than the memory holds. Then all of it arrives."""
    data, slow = scan(), Gated()
    least = gpu4d.streaming.plan(gpu4d.DataCube(data), {"slow": slow, "mean": gpu4d.MeanPattern()}, device="cpu", memory="1 GB").held_bytes
    memory = least + 40 * FRAME
    live = LiveSweep(live_scan(data.shape, data.dtype), {"slow": slow, "mean": gpu4d.MeanPattern()}, memory=memory, device="cpu")
    feeder = threading.Thread(target=feed, args=(live, data))
    feeder.start()
    slow.entered.wait()
    while not live.waits:
        time.sleep(0.01)
    assert feeder.is_alive() and live.reduced == 0 and 0 < live.arrived <= 40, "the memory holds 40 patterns"
    slow.open.set()
    feeder.join()
    live.close()
    assert live.arrived == live.reduced == 117
    np.testing.assert_array_equal(live.results()["slow"], data.sum((2, 3)))
    assert as_bytes(live.results()["mean"]) == as_bytes(gpu4d.sweep(gpu4d.DataCube(data), gpu4d.MeanPattern()))


def test_out_of_order_in_little_memory():
    """Where order does not matter, parts of rows are reduced to make room. Where it does, an error says what is missing."""
    for dtype, fits in (("uint16", True), ("float32", False)):
        data = scan(dtype)
        asked = {"max": gpu4d.MaxPattern(), "com": gpu4d.CenterOfMass(), "mean": gpu4d.MeanPattern()}
        cube = gpu4d.DataCube(data)
        plan = gpu4d.streaming.plan(cube, asked, device="cpu")
        open_rows = dataclasses.replace(plan.scan, open_rows=13, open_blocks=26)  # sums of all rows at once
        held = plan.held_bytes + sum(one.bytes_needed(open_rows, 1) - one.bytes_needed(plan.scan, 1) for one in asked.values())
        with LiveSweep(live_scan(data.shape, dtype), asked, memory=held + 20 * data[0, 0].nbytes, device="cpu") as live:
            if fits:
                feed(live, data, ORDER)
            else:
                with pytest.raises(MemoryBudgetError, match="out of order"):
                    feed(live, data, ORDER)
        if fits:
            same(live.results(), gpu4d.sweep(cube, asked))


def test_frames_and_positions_that_do_not_fit():
    data = scan()
    live = LiveSweep(live_scan(data.shape, data.dtype), gpu4d.MaxPattern())
    for frames, where, message in (
        (data[0, :, :5], None, r"frames are \(9, 5, 20\): need \(n, 17, 20\)"),
        (data[0].astype("int32"), None, r"frames are int32, the scan is uint16.*astype\('uint16'\)"),
        (np.zeros((118, 17, 20), "uint16"), None, "118 patterns after 0 of a scan of 13×9"),
        (data[0, :2], [(0, 0)], r"positions are \(1, 2\).*need whole numbers \(2, 2\) inside a scan of \(13, 9\)"),
        (data[0, :1], [(13, 0)], "inside a scan"),
        (data[0, :2], [(1, 1), (1, 1)], "second time"),
    ):
        with pytest.raises(InputError, match=message):
            live.feed(frames, where)
    live.feed(data[0, 0], (3, 2))
    with pytest.raises(InputError, match=r"\(3, 2\) or another comes for the second time"):
        live.feed(data[0, :2], [(0, 1), (3, 2)])
    live.feed(data[0, 0], (3, 1))
    with pytest.raises(InputError, match="follow the last ones, and some of these places have one"):
        live.feed(data[0, 0])
    assert live.arrived == 2
    live.close()
    np.testing.assert_array_equal(np.asarray(live.results()), data[0, 0])
    for what, message in (
        (lambda: LiveSweep(data, gpu4d.MaxPattern()), "need a DataCube: gpu4d.data.live_scan"),
        (lambda: LiveSweep(live_scan(data.shape, "u2"), {"x": TwoPasses()}), "x needs several passes, and a live scan comes once"),
        (lambda: LiveSweep(live_scan(data.shape, "u2"), gpu4d.MaxPattern), "is the class MaxPattern: call it"),
        (lambda: LiveSweep(live_scan(data.shape, "u2"), gpu4d.MaxPattern(), memory="1 kB"), "needs"),
        (lambda: live_scan((3, 4, 5), "u2"), "need four whole numbers"),
        (lambda: live_scan((3, 4, 5, 0), "u2"), "each from 1 on"),
        (lambda: live_scan((3, 4, 5, 6), "complex64"), "need bool, integers, or floats"),
        (lambda: np.asarray(live_scan((3, 4, 5, 6), "u2")), "cannot be read: feed them"),
        (lambda: gpu4d.live(iter(data), gpu4d.MaxPattern()), "give scan=gpu4d.data.live_scan"),
        (lambda: gpu4d.live(3, gpu4d.MaxPattern(), live_scan(data.shape, "u2")), "need an iterable"),
        (lambda: gpu4d.live(gpu4d.DataCube(data), gpu4d.MaxPattern()), r"gpu4d.sweep\(cube, reductions\) reduces them"),
        (lambda: gpu4d.live("tcp://host:1", gpu4d.MaxPattern()), "SocketSource"),
    ):
        with pytest.raises((InputError, MemoryBudgetError), match=message) as raised:
            what()
        assert "\n" not in str(raised.value)


def test_closed_while_another_thread_feeds():
    """Who feeds is told; nothing is written to buffers that are given back, and what was taken is counted."""
    data = scan()
    flat, told = data.reshape(-1, *data.shape[2:]), []

    def camera(live):
        try:
            while True:
                live.feed(flat[live.arrived % len(flat)])
        except Exception as error:
            told.append(str(error))

    for turn in range(40):
        live = LiveSweep(live_scan((4000, *data.shape[1:]), data.dtype), gpu4d.MaxPattern(), device="cpu")
        thread = threading.Thread(target=camera, args=(live,))
        thread.start()
        while not live.arrived > turn:
            time.sleep(0)
        live.close(reduce_rest=False)
        thread.join(30)
        assert not thread.is_alive() and 0 <= live.reduced <= live.arrived
    assert told == ["the live sweep is closed: make another one for the next scan"] * 40


def test_a_portion_that_is_half_taken_is_counted():
    """Where memory ends in the middle of a portion, the patterns before are in the results, and may not come again."""
    data = scan().astype("float32")
    shape = data.shape[2:]
    live = LiveSweep(live_scan(data.shape, data.dtype), gpu4d.MeanPattern(), device="cpu")
    live._allow_any_order()
    live._patterns.most = 2  # segments
    numbers = np.array([8, 17, 26, 35])  # last columns, which wait for the others of their rows
    with pytest.raises(MemoryBudgetError, match="out of order"):
        live.feed(data.reshape(-1, *shape)[numbers], positions(numbers))
    assert live.arrived == 2
    with pytest.raises(InputError, match="second time"):
        live.feed(data[0, 8], (0, 8))
    live.close()
    np.testing.assert_allclose(np.asarray(live.results()), data[:2, 8].astype(float).mean(0), rtol=1e-6)


class Fails(Gated):
    """Raises an error at some update."""

    def __init__(self, at, error):
        super().__init__()
        self.open.set()
        self.at, self.error, self.calls = at, error, 0

    def update(self, frames, positions):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        super().update(frames, positions)


def test_a_reduction_that_fails_ends_it():
    data = scan()
    with pytest.raises(ZeroDivisionError):
        gpu4d.live(iter(data), Fails(2, ZeroDivisionError()), live_scan(data.shape, data.dtype), device="cpu")
    once = Fails(2, MemoryError())
    got = gpu4d.live(iter(data), once, live_scan(data.shape, data.dtype), device="cpu")
    np.testing.assert_array_equal(got, data.sum((2, 3)))


def test_a_source_that_fails_leaves_the_results_so_far():
    data, calls = scan(), []

    def camera():
        yield from data[:4]
        raise OSError("the cable is out")

    with pytest.raises(BrokenScanError, match="failed after 36 of 117 patterns: the cable is out; the results so far") as raised:
        gpu4d.live(
            camera(), {"com": gpu4d.CenterOfMass()}, live_scan(data.shape, data.dtype), progress=lambda n, total: calls.append((n, total))
        )
    where = np.arange(117).reshape(13, 9) < 36
    want = gpu4d.sweep(gpu4d.DataCube(data), gpu4d.CenterOfMass(), where=where)
    assert as_bytes(raised.value.results["com"]) == as_bytes(want) and raised.value.arrived == 36
    assert calls == [(9, 117), (18, 117), (27, 117), (36, 117)]


def test_it_is_watched():
    data, seen = scan(), []
    pairs = ((positions(ORDER[i : i + 13]), data.reshape(-1, 17, 20)[ORDER[i : i + 13]]) for i in range(0, 117, 13))

    def watch(live):
        seen.append(int(np.isfinite(np.asarray(live.results(wait=True))).sum()))

    got = gpu4d.live(pairs, Fails(0, None), live_scan(data.shape, data.dtype), watch=watch, every=0.0, device="cpu")
    np.testing.assert_array_equal(got, data.sum((2, 3)))
    assert len(seen) == 9 and seen == sorted(seen) and seen[-1] == 117


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_it():
    """Also while the source waits for room. Threads and memory are given back; what was reduced can be had."""
    data, slow = scan(), Gated()
    held = gpu4d.streaming.plan(gpu4d.DataCube(data), {"slow": slow}, device="cpu").held_bytes
    live = LiveSweep(live_scan(data.shape, data.dtype), {"slow": slow}, memory=held + 20 * FRAME, device="cpu")

    def press():
        while not live.waits:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        slow.open.set()

    user, before = threading.Thread(target=press), (signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Python's own: a test before may have left those of the command line
    try:
        user.start()
        with pytest.raises(KeyboardInterrupt), live:
            feed(live, data)
        user.join()
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.set_wakeup_fd(before[1])
    assert live.arrived < 117
    got = live.results()["slow"]
    there = np.isfinite(got)
    assert (got[there] == data.sum((2, 3))[there]).all()


def test_ssb_beside_it():
    """The same portions feed a live phase."""
    made = gpu4d.simulate.phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=0.1)
    cube, frames = made.cube, np.asarray(made.cube)
    phase = gpu4d.ptychography.SSBLive((32, 32), (32, 32), cube.calibration, origin=(16, 16))
    with LiveSweep(cube, {"com": gpu4d.CenterOfMass()}) as live:
        for row in range(32):
            live.feed(frames[row])
            phase.update(frames[row])
    assert as_bytes(live.results()["com"]) == as_bytes(gpu4d.sweep(cube, gpu4d.CenterOfMass()))
    assert as_bytes(phase.result().phase) == as_bytes(gpu4d.ssb(cube, origin=(16, 16)).phase)


@pytest.mark.slow
def test_random_portions_orders_and_memories(request):
    """With somebody who looks all the time: no deadlock, the bits of a sweep, and the memory is kept."""
    rng = np.random.default_rng(7)
    scans = [scan(dtype) for dtype in ("uint16", "float32")]

    def asked():
        return {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "max": gpu4d.MaxPattern()}

    wants = [gpu4d.sweep(gpu4d.DataCube(data), asked()) for data in scans]
    waits = 0
    for run in range(request.config.getoption("--cases") or 24):
        data, want = scans[run % 2], wants[run % 2]
        ordered = bool(run % 2 or rng.random() < 0.5)  # floats out of order need memory for all rows
        least = gpu4d.streaming.plan(gpu4d.DataCube(data), asked(), device="cpu").held_bytes
        memory = least + int(rng.integers(4, 40)) * data[0, 0].nbytes + (0 if ordered else 300_000)
        stop = threading.Event()
        with LiveSweep(live_scan(data.shape, data.dtype), asked(), memory=memory, device="cpu") as live:

            def look(live=live, stop=stop, wait=run % 3 == 0):
                while not stop.is_set():
                    live.results(wait=wait)

            viewer = threading.Thread(target=look)
            viewer.start()
            feed(live, data, None if ordered else rng.permutation(117), rng.integers(1, 30, 5))
            stop.set()
            viewer.join()
        same(live.results(), want)
        waits += live.waits
        assert live._workspace.peak <= memory
    assert waits
