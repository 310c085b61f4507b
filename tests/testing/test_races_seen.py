"""The accounting device finds races whatever the latencies, and its source of patterns."""

import random
import time

import numpy as np
import pytest
from convoys import convey, device

from gpu4d.data.source import Source
from gpu4d.device.processors.processor import Processor
from gpu4d.testing.accounting import AccountingProcessor, VirtualSource

# ---------------------------------------------------------------- races


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


# ---------------------------------------------------------------- the source


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
