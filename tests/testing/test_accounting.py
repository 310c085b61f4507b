"""The accounting device: times worked out by hand, memory, failures on demand."""

import numpy as np
import pytest
from convoys import convey, device, two_chunks, use_everything

from gpu4d.device.timeline import Timeline
from gpu4d.errors import DeviceError, InputError
from gpu4d.testing.accounting import OPERATIONS, AccountingProcessor, VirtualSource

# ---------------------------------------------------------------- time


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
    convey(w, source, spend=2e-4, slots=4)
    assert p.counts["bytes read"] == p.counts["bytes copied"] == nbytes
    slower = nbytes / min(disk_rate, 50e9)
    assert slower <= w.now() <= 1.02 * slower
    assert timeline.busy("accounting:0 copy") == pytest.approx(2000 * 10e-6 + nbytes / 50e9)
    assert timeline.busy("accounting:0 compute") == pytest.approx(2000 * 2e-4)
    if disk_rate > 50e9:  # the link is never idle
        assert timeline.overlap("accounting:0 copy", "accounting:0 compute") == pytest.approx(1999 * 2e-4)
    w.close()
    assert not p.faults


# ---------------------------------------------------------------- memory


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


# ---------------------------------------------------------------- failures


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


@pytest.mark.parametrize("get", ["allocate", "pinned"])
def test_an_interrupt_while_a_buffer_is_made_loses_no_bytes(get, monkeypatch):
    def interrupted(*_given):
        raise KeyboardInterrupt

    p = device()
    workspace = p.workspace(1 << 20, 1)
    workspace.allocate(100)
    monkeypatch.setattr("gpu4d.testing.accounting_workspace.AccountingBuffer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        getattr(workspace, get)(1000)
    workspace.close()
    assert p.held == p.pinned_held == 0 and len(workspace.leaks()) == 1
