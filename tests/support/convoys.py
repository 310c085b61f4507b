"""Chunks of a source sent through an accounting device by hand."""

import math
from collections import deque

import numpy as np

from gpu4d.testing.accounting import AccountingProcessor

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
