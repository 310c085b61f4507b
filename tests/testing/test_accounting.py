"""The accounting device: times worked out by hand, counters, failures on demand, and races found whatever the latencies."""

import math
import random
import time
from collections import deque

import numpy as np
import pytest

from gpu4d.data.source import Source
from gpu4d.device.processors.processor import Processor
from gpu4d.device.timeline import Timeline
from gpu4d.errors import DeviceError, InputError
from gpu4d.testing.accounting import OPERATIONS, AccountingProcessor, VirtualSource

SECONDS = {"link_rate": 1000.0, "link_latency": 1.0, "disk_rate": 1000.0, "disk_latency": 0.5, "launch_latency": 0.0}  # easy to add up


def device(**options):
    return AccountingProcessor(**{**SECONDS, **options})


def convey(workspace, source, spend=0.0, slots=2, forget=()):
    """Sum over the rows of a scan on a device, as a conveyor would; `forget` names what it does not wait for."""
    p, (rows, columns, *frame), dtype = workspace.processor, source.shape, source.dtype
    nbytes = columns * math.prod(frame) * dtype.itemsize
    copy, compute = workspace.stream("copy"), workspace.stream("compute")
    staging = deque((workspace.pinned(nbytes), None) for _ in range(slots))
    ring = deque((workspace.allocate(nbytes), None) for _ in range(slots))
    reading, total = deque(), np.zeros(frame, dtype=np.int64)

    def read(row, buffer, used):
        if used is not None and "copy before refill" not in forget:
            used.wait()
        source.read(slice(row, row + 1), slice(0, columns), buffer.view((1, columns, *frame), dtype))

    row = 0
    while row < rows or reading:
        while staging and row < rows:
            buffer, used = staging.popleft()
            reading.append((buffer, workspace.submit(read, row, buffer, used)))
            row += 1
        host, pending = reading.popleft()
        if "read before copy" not in forget:
            pending.result()
        there, used = ring.popleft()
        if used is not None and "compute before copy" not in forget:
            copy.wait(used)
        workspace.copy(there, host, nbytes, copy)
        arrived = copy.record()
        staging.append((host, arrived))
        if "copy before compute" not in forget:
            compute.wait(arrived)
        frames = there.view((columns, *frame), dtype)
        with workspace.computing(compute, "sum"):
            if p.moves_bytes:
                total = total + frames.sum(0, dtype=np.int64)
            p.spend(spend)
        ring.append((there, compute.record()))
    if "compute before free" not in forget:
        compute.synchronize()
    for buffer, _ in [*staging, *ring]:
        buffer.free()
    return total


# -------------------------------------------------------------------- time


def two_chunks(p, timeline, wait):
    """Two copies of 2 s each and two computations of 3 s."""
    w = p.workspace(10_000, 0, timeline)
    copy, compute = w.stream("copy"), w.stream("compute")
    for name in ("a", "b"):
        host, there = w.pinned(1000), w.allocate(1000)
        w.copy(there, host, 1000, copy)
        compute.wait(copy.record())
        frames = there.view((1000,), "u1")
        with w.computing(compute, name):
            p.spend(3.0)
        assert frames.size == 1000
        if wait:
            compute.synchronize()
    at_work = w.now()
    compute.synchronize()
    return w, at_work


def test_copies_and_computing_overlap_with_events():
    p, timeline = device(), Timeline()
    w, at_work = two_chunks(p, timeline, wait=False)
    assert at_work == 0.0, "putting work into streams does not wait for it"
    assert w.now() == 8.0
    spans = [(s.track, s.name, s.start, s.end) for s in timeline.events]
    assert spans == [
        ("accounting:0 copy", "copy 1", 0.0, 2.0),
        ("accounting:0 compute", "a", 2.0, 5.0),
        ("accounting:0 copy", "copy 2", 2.0, 4.0),
        ("accounting:0 compute", "b", 5.0, 8.0),
    ]
    assert timeline.overlap("accounting:0 copy", "accounting:0 compute") == 2.0


def test_waiting_for_every_chunk_takes_the_sum_of_the_times():
    p, timeline = device(), Timeline()
    w, _ = two_chunks(p, timeline, wait=True)
    assert w.now() == 2 + 3 + 2 + 3
    assert timeline.overlap("accounting:0 copy", "accounting:0 compute") == 0.0


def test_the_link_serves_one_copy_after_the_other_and_launching_costs_the_host():
    p, timeline = device(launch_latency=0.25), Timeline()
    w = p.workspace(10_000, 0, timeline)
    for name in ("one", "two"):
        w.copy(w.allocate(1000), w.pinned(1000), 1000, w.stream(name))
    assert w.now() == 0.5
    assert [(s.start, s.end) for s in timeline.events] == [(0.25, 2.25), (2.25, 4.25)]
    w.trim()
    assert w.now() == 4.25


def test_readers_share_the_disk_but_not_its_latency():
    p, timeline = device(), Timeline()
    w = p.workspace(10_000, 2, timeline)
    pending = [w.submit(p.read_from_disk, 1000) for _ in range(3)]
    assert w.now() == 0.0
    # 0.5 + 1 s; the second waits for the disk until 1.5 s; the third begins at 1.5 s on the first reader, has the disk at 2.5 s
    assert [(s.track, s.start, s.end) for s in timeline.events] == [("read 0", 0.0, 1.5), ("read 1", 0.0, 2.5), ("read 0", 1.5, 3.5)]
    pending[1].result()
    assert w.now() == 2.5
    assert w.submit(w.now).result() == 2.5, "a job cannot begin before it is submitted"
    assert w.submit(p.spend, 4.0).result() is None and w.now() == 6.5, "decoding takes the reader's time"


def test_a_sweep_behind_another_begins_when_it_has_ended():
    p = device()
    w, _ = two_chunks(p, None, wait=False)
    w.close()
    assert p.workspace(1, 0).now() == 8.0


@pytest.mark.parametrize("disk_rate", [30e9, 100e9])
def test_a_source_of_64_gb_in_virtual_time(disk_rate):
    p, timeline = AccountingProcessor(moves_bytes=False, disk_rate=disk_rate), Timeline()
    source = VirtualSource(p, (2000, 2000, 128, 64), "uint16")  # 65.5 GB
    nbytes = 65_536_000_000
    w = p.workspace(256_000_000, 4, timeline)
    begun = time.perf_counter()
    convey(w, source, spend=2e-4, slots=4)
    assert time.perf_counter() - begun < 10
    assert p.counts["bytes read"] == p.counts["bytes copied"] == nbytes
    slower = nbytes / min(disk_rate, 50e9)
    assert slower <= w.now() <= 1.02 * slower
    assert timeline.busy("accounting:0 copy") == pytest.approx(2000 * 10e-6 + nbytes / 50e9)
    assert timeline.busy("accounting:0 compute") == pytest.approx(2000 * 2e-4)
    if disk_rate > 50e9:  # the link is never idle
        assert timeline.overlap("accounting:0 copy", "accounting:0 compute") == pytest.approx(1999 * 2e-4)
    w.close()
    assert not p.faults


# -------------------------------------------------------------------- memory


def test_cap_peak_and_what_others_hold():
    p = device(memory=1000, pinned=300)
    w = p.workspace(700, 0)
    a, b = w.allocate(400), w.allocate(300)
    with pytest.raises(MemoryError, match="cap"):
        w.allocate(1)
    a.free()
    w.allocate(100)
    assert (w.peak, p.held, p.free_memory()) == (700, 400, 600)
    p.held_by_others = 550
    with pytest.raises(MemoryError):
        w.allocate(51)
    assert p.free_memory() == 50
    w.allocate(50)
    w.pinned(200)
    with pytest.raises(MemoryError, match="pinned"):
        w.pinned(101)
    second = p.workspace(10**6, 0)
    with pytest.raises(MemoryError):  # one device, whoever holds its memory
        second.allocate(1)
    b.free()
    b.free()  # does nothing
    assert (p.held, p.pinned_held, p.pinned_peak) == (150, 200, 200)
    w.close()
    w.close()
    assert p.held == p.pinned_held == 0
    assert p.leaks() == ["device buffer 4 of 100 B", "device buffer 6 of 50 B", "pinned buffer 1 of 200 B"]
    assert not p.faults


def test_memory_that_work_needs_for_a_while_counts():
    p = device()
    w = p.workspace(1000, 0)
    w.allocate(600)
    with w.computing(w.stream("compute"), "fft"):
        with p.reserve(400):
            assert p.held == 1000
        with pytest.raises(MemoryError), p.reserve(401):
            pass
    assert (w.held, w.peak) == (600, 1000)
    with pytest.raises(AssertionError, match="outside computing"), p.reserve(1):
        pass


def test_bytes_travel_and_freed_ones_are_poisoned():
    p = device()
    w = p.workspace(1000, 0)
    host, there = w.pinned(64), w.allocate(64)
    host.view((8,), "f8")[:] = np.arange(8)
    w.copy(there, host, 32, w.stream("copy"))
    seen = there.view((2, 2), "f8")
    assert seen.tolist() == [[0, 1], [2, 3]]
    assert there.view((1,), "f8", 24)[0] == 3 and there.view((32,), "u1", 32).tolist() == [0xA5] * 32
    w.trim()
    there.free()
    assert (seen.view("u1") == 0xDB).all()
    with pytest.raises(AssertionError, match="after it was freed"):
        there.view((1,), "u1")
    with pytest.raises(AssertionError, match="after it was freed"):
        w.copy(there, host, 1, w.stream("copy"))
    with pytest.raises(AssertionError, match="after it was freed"):
        p.touch(seen)
    assert len(p.faults) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda w, host, there: w.copy(there, host, 65, w.stream("copy")),
        lambda w, host, there: w.copy(host, there, 64, w.stream("copy")),
        lambda w, host, there: there.view((9,), "f8"),
        lambda w, host, there: there.view((1,), "f8", 60),
        lambda w, host, there: there.view((1,), "f8", 4),
        lambda w, host, there: w.submit(print).result(),
        lambda w, host, there: (w.close(), w.allocate(1)),
    ],
    ids=["copy beyond the end", "copy back", "view beyond the end", "view across the end", "unaligned", "no reader", "closed"],
)
def test_misuse_is_told(wrong):
    p = device()
    w = p.workspace(1000, 0)
    with pytest.raises(AssertionError, match="misuse"):
        wrong(w, w.pinned(64), w.allocate(64))
    assert len(p.faults) == 1


def test_bytes_that_do_not_move_cannot_be_written():
    p = device(moves_bytes=False)
    w = p.workspace(10**12, 1)
    view = w.allocate(60 * 10**9).view((10**6, 60, 500), "u2")  # more than this machine has
    assert view.shape == (10**6, 60, 500) and view.flags.c_contiguous and not view.flags.writeable
    w.close()


# -------------------------------------------------------------------- failures


def use_everything(p):
    w = p.workspace(1000, 1)
    try:
        host, there, copy = w.pinned(100), w.allocate(100), w.stream("copy")
        w.submit(p.read_from_disk, 100).result()
        w.copy(there, host, 100, copy)
        copy.record().wait()
        with w.computing(copy, "work"), p.reserve(10):
            pass
        w.trim()
        return "done"
    finally:
        w.close()


DEFAULT = {"copy": DeviceError, "record": DeviceError, "wait": DeviceError, "trim": DeviceError, "job": InputError, "read": InputError}


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_fails_on_demand(operation, threads):
    p = device(failures=[(operation, 1)], readers_in_threads=threads)
    with pytest.raises(DEFAULT.get(operation, MemoryError)):
        use_everything(p)
    assert p.held == p.pinned_held == 0
    assert p.lost == (DEFAULT.get(operation) is DeviceError)
    for error in (KeyboardInterrupt, OSError("the disk is gone")):
        p = device(failures=[(operation, 2, error)], readers_in_threads=threads)
        assert use_everything(p) == "done"
        with pytest.raises(error if isinstance(error, type) else OSError):
            use_everything(p)
        assert p.held == p.pinned_held == 0 and not p.lost and not p.faults


def test_a_callable_decides():
    p = device(failures=lambda operation, number: MemoryError("full") if operation == "allocate" and number % 2 else None)
    w = p.workspace(1000, 0)
    with pytest.raises(MemoryError, match="full"):
        w.allocate(1)
    w.allocate(1)


def test_a_misspelt_failure_is_refused():
    with pytest.raises(InputError, match="alocate"):
        device(failures=[("alocate", 1)])


def test_a_lost_device_answers_nothing_but_close():
    p = device(failures=[("record", 1)])
    w = p.workspace(1000, 1)
    stream, buffer = w.stream("copy"), w.allocate(10)
    with pytest.raises(DeviceError, match="stopped answering"):
        stream.record()
    calls = [p.free_memory, w.trim, stream.synchronize, stream.record, lambda: p.workspace(1, 0), lambda: w.submit(print)]
    calls += [lambda: w.allocate(1), lambda: w.pinned(1), lambda: w.computing(stream, "work").__enter__()]
    for call in calls:
        with pytest.raises(DeviceError, match="stopped answering"):
            call()
    buffer.free()
    w.close()
    assert p.held == 0 and not p.faults


# -------------------------------------------------------------------- races

FORGET = ["read before copy", "copy before compute", "compute before copy", "copy before refill", "compute before free"]
NEVER_AT_ONCE = {"launch_latency": 1e3}  # on the virtual clock nothing overlaps: only what is known can tell a race


@pytest.mark.parametrize("times", [{}, NEVER_AT_ONCE], ids=["overlapping", "never at once"])
def test_the_right_program_has_no_race(times):
    p = device(**times)
    source = VirtualSource(p, (7, 3, 4, 5), "uint16")
    w = p.workspace(10_000, 2)
    assert (convey(w, source, spend=0.1) == source.whole.sum((0, 1))).all()
    w.close()
    assert not p.faults and not p.leaks()


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("times", [{}, NEVER_AT_ONCE], ids=["overlapping", "never at once"])
@pytest.mark.parametrize("forget", FORGET)
def test_what_is_not_waited_for_is_a_race(forget, times, threads):
    p = device(readers_in_threads=threads, **times)
    w = p.workspace(10_000, 2)
    with pytest.raises(AssertionError, match=r"race: .* buffer \d+ of"):
        convey(w, VirtualSource(p, (7, 3, 4, 5), "uint16"), spend=0.1, forget=[forget])
    w.close()
    assert p.faults and p.held == p.pinned_held == 0


def test_a_race_names_both_sides():
    p = device()
    w = p.workspace(1000, 0)
    host, there, copy, compute = w.pinned(80), w.allocate(80), w.stream("in"), w.stream("work")
    w.copy(there, host, 80, copy)
    with pytest.raises(AssertionError) as error, w.computing(compute, "blur"):
        there.view((4,), "f8", 8)
    assert "device buffer 1" in str(error.value)
    assert "copy 1 on stream 'in' writes bytes 0…80 from 0 to 1.08 s" in str(error.value)
    assert "compute 'blur' on stream 'work' reads bytes 8…40" in str(error.value)


def test_an_access_is_remembered_as_long_as_it_can_race():
    def start():
        w = device().workspace(1000, 1)
        host, there, streams = w.pinned(80), w.allocate(80), [w.stream(f"{i}") for i in range(3)]
        return w, host, there, streams

    def read(w, buffer, stream):
        with w.computing(stream, "work"):
            buffer.view((80,), "u1")

    w, host, there, (one, two, _) = start()  # its own stream has read what was copied, another may not yet
    w.copy(there, host, 80, one)
    read(w, there, one)
    with pytest.raises(AssertionError, match=r"race: .* copy 1 on stream '0' writes"):
        read(w, there, two)

    w, host, there, (one, two, three) = start()  # one that waited has read it, another may not yet
    w.copy(there, host, 80, one)
    two.wait(one.record())
    read(w, there, two)
    with pytest.raises(AssertionError, match=r"race: .* copy 1 on stream '0' writes"):
        read(w, there, three)

    w, host, there, (one, two, three) = start()  # two read it, and only the second is waited for
    read(w, there, one)
    read(w, there, two)
    three.wait(two.record())
    with pytest.raises(AssertionError, match=r"race: .* stream '0' reads .* copy 1 on stream '2' writes"):
        w.copy(there, host, 80, three)

    w, host, there, (one, two, _) = start()  # the second copy is of the first half only
    w.copy(there, host, 80, one)
    w.copy(there, host, 40, one)
    with pytest.raises(AssertionError, match=r"race: .* copy 1 on stream '0' writes"), w.computing(two, "work"):
        there.view((40,), "u1", 40)


def test_readers_may_fill_parts_of_one_buffer():
    p = device()
    w = p.workspace(1000, 3)
    buffer = w.pinned(90)
    parts = [w.submit(np.copyto, buffer.view((30,), "u1", 30 * i), np.uint8(i)) for i in range(3)]
    for part in parts:
        part.result()
    assert buffer.view((90,), "u1").tolist() == [0] * 30 + [1] * 30 + [2] * 30
    pending = w.submit(np.copyto, buffer.view((40,), "u1"), np.uint8(9))
    assert w.submit(np.copyto, buffer.view((50,), "u1")[40:], np.uint8(9)).result() is None
    with pytest.raises(AssertionError, match="race"):
        w.submit(np.copyto, buffer.view((50,), "u1")[39:], np.uint8(9)).result()
    pending.result()


def test_no_false_alarm_with_threads():
    def fill(rows, columns):
        time.sleep(random.random() * 2e-4)
        return np.full((rows.stop - rows.start, columns.stop - columns.start, 4, 4), rows.start, dtype=np.uint16)

    for seed in range(200):
        draw = random.Random(seed)
        p = AccountingProcessor(readers_in_threads=True)
        rows = draw.randrange(1, 12)
        w = p.workspace(10_000, draw.randrange(1, 5))
        total = convey(w, VirtualSource(p, (rows, 2, 4, 4), "uint16", fill=fill), slots=draw.randrange(1, 5))
        w.close()
        assert (total == rows * (rows - 1)).all()
        assert not p.faults and not p.leaks()


class Graph:
    """What comes after what, as a graph of operations: a race is two conflicting accesses without a path from one to the other."""

    def __init__(self):
        self.before, self.last, self.accesses = [], {}, []

    def step(self, actor, after=(), accesses=()):
        """A step of an actor, after others and after the host put it there; answers its number and whether an access of it races."""
        found = {number for number in (self.last.get(actor), self.last.get("host"), *after) if number is not None}
        for number in list(found):
            found |= self.before[number]
        new = len(self.before)
        race = any(
            b == buffer and (w or write) and f < last and first < l and number not in found
            for number, b, w, f, l in self.accesses
            for buffer, write, first, last in accesses
        )
        return new, race, found, [(new, *access) for access in accesses]

    def take(self, actor, step):
        new, _, found, accesses = step
        self.before.append(found)
        self.accesses += accesses
        self.last[actor] = new


def test_races_are_those_of_the_graph_of_all_operations():
    raced, long = 0, 0
    for seed in range(400):
        draw = random.Random(seed)
        care = draw.choice([0.5, 0.95, 1.0])  # how often what would race is left out
        p, graph = AccountingProcessor(), Graph()
        w = p.workspace(10_000, 2)
        hosts, theres = [w.pinned(100) for _ in range(2)], [w.allocate(100) for _ in range(2)]
        streams, events, jobs = [w.stream(f"{i}") for i in range(3)], [], []
        for moment in range(100):
            stream = draw.randrange(3)
            what = draw.choice(["copy", "copy", "compute", "record", "record", "wait", "wait", "host", "submit", "result"])
            i, j, last = draw.randrange(2), draw.randrange(2), draw.randrange(1, 101)
            first, after, accesses, actor = draw.randrange(last), [], [], stream
            if draw.random() < 0.5:
                first, last = 0, 100
            if what in ("wait", "host", "result"):
                waited = jobs if what == "result" else events
                if not waited:
                    continue
                thing, number = draw.choice(waited[-4:])
                after = [number]
                actor = stream if what == "wait" else "host"
            elif what == "copy":
                accesses = [(f"host {i}", False, 0, last), (f"there {j}", True, 0, last)]
            elif what == "compute":
                accesses = [(f"there {j}", False, first, last)]
            elif what == "submit":
                actor, accesses = f"job {moment}", [(f"host {i}", True, first, last)]
            step = graph.step(actor, after, accesses)
            if step[1] and draw.random() < care:
                continue
            graph.take(actor, step)
            try:
                if what == "copy":
                    w.copy(theres[j], hosts[i], last, streams[stream])
                elif what == "compute":
                    with w.computing(streams[stream], "work"):
                        theres[j].view((last - first,), "u1", first)
                elif what == "record":
                    events.append((streams[stream].record(), step[0]))
                elif what == "wait":
                    streams[stream].wait(thing)
                elif what == "host":
                    thing.wait()
                elif what == "submit":
                    jobs.append((w.submit(hosts[i].view, (last - first,), "u1", first), step[0]))
                else:
                    thing.result()
            except AssertionError:
                pass
            assert bool(p.faults) == step[1], (seed, what, p.faults)
            if p.faults:
                raced += 1
                break
        else:
            long += 1
        w.close()
    assert raced > 100 and long > 100


# -------------------------------------------------------------------- the source


def test_protocols_and_the_source():
    p = device()
    source = VirtualSource(p, (3, 4, 5, 6), "uint8", blocks=(2, 2))
    assert isinstance(p, Processor) and isinstance(source, Source) and not source.resident
    part = source.read(slice(1, 3), slice(2, 4))
    out = np.empty((2, 2, 5, 6), dtype=np.uint8)
    assert source.read(slice(1, 3), slice(2, 4), out) is out
    assert (part == source.whole[1:3, 2:4]).all() and (out == part).all()
    assert source.whole.dtype == np.uint8 and len(np.unique(source.whole)) > 50
    assert p.counts["bytes read"] == 2 * part.nbytes


def test_a_source_says_what_it_writes_even_where_the_job_hides_it():
    p = device()
    w = p.workspace(1000, 2)
    buffer, source = w.pinned(24), VirtualSource(p, (1, 1, 4, 6), "uint8")
    view = buffer.view((1, 1, 4, 6), "uint8")
    w.submit(lambda: source.read(slice(0, 1), slice(0, 1), view))
    with pytest.raises(AssertionError, match="race"):
        w.copy(w.allocate(24), buffer, 24, w.stream("copy"))
