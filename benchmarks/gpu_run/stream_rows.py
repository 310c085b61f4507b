"""Sweeps of a file in memory through the link, beside what the link and reading can do alone; each a record as soon as it is known."""

from __future__ import annotations

import faulthandler
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks import kernels, streaming
from gpu4d.benchmarks.gpu_run import records
from gpu4d.benchmarks.gpu_run.settings import STREAMING, Settings
from gpu4d.benchmarks.gpu_run.test_reports import DEVICE_LOST, device_is_lost

import gpu4d
from gpu4d.device.timeline import Timeline

SIZE, SMALL = 4 * 10**9, 10**5  # bytes of the file; of a rehearsal's, whose kernels run on the CPU
ROWS, FEW = 64, 8  # of the scan; of a rehearsal's
DIFFERENT = 64  # patterns
ROUNDS = 3
LIMIT = 60.0  # seconds of one row; beyond it hangs
TRACKS = ("copy", "compute")


class Scan:
    """A file of disks in memory, its probe, and what its mean and maximum are.

    Parameters
    ----------
    folder : Path
    size : int
        Bytes.
    side : int
        Of a pattern.
    rows : int
        Of the scan.
    """

    def __init__(self, folder: Path, size: int, side: int, rows: int):
        small = gpu4d.simulate.bragg_scan((8, 8), (side, side), radius=0.047 * side, spacing=0.17 * side, seed=4)
        patterns = np.asarray(small.cube.source.read(slice(0, 8), slice(0, 8))).reshape(DIFFERENT, side, side)
        columns = -(-size // (rows * patterns[0].nbytes))
        row = np.resize(patterns, (columns, side, side))
        self.path, self.probe = folder / "scan.npy", small.probe
        out = np.lib.format.open_memmap(self.path, "w+", row.dtype, (rows, *row.shape))
        for number in range(rows):
            out[number] = row
        del out
        self.row, self.rows = row, rows
        self.cube = gpu4d.open(self.path)
        self.nbytes = rows * row.nbytes
        self.patterns = rows * columns

    def check(self, found: dict[str, Any]) -> None:
        mean, largest = self.row.sum(0, dtype=np.int64) / len(self.row), self.row.max(0)
        if not np.array_equal(_on_host(found["max"]), largest) or not np.allclose(_on_host(found["mean"]), mean, rtol=1e-12, atol=0):
            raise AssertionError("mean or maximum of the scan is wrong")


def main(settings: Settings) -> bool:
    path = settings.out / STREAMING
    settled = records.settled(path)
    xp, _ = kernels.array_library(gpu4d.device.choose("cuda:0"))
    card = kernels.machine(True)["device"]
    settings.scratch.mkdir(exist_ok=True)
    scan = Scan(settings.scratch, *((SMALL, 64, FEW) if settings.rehearse else (SIZE, 128, ROWS)))
    good = True
    for key, row in rows(scan, xp, settings.rehearse):
        if key in settled:
            continue
        records.record(path, key, "started")
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        try:
            records.record(path, key, "done", card=card, **row())
        except Exception as error:  # whatever it is belongs into the report
            good = False
            records.record(path, key, "failed", card=card, why=f"{type(error).__name__}: {str(error)[:1500]}")
            if device_is_lost():
                sys.exit(DEVICE_LOST)
        finally:
            faulthandler.cancel_dump_traceback_later()
    return good


def rows(scan: Scan, xp: Any, rehearse: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What is measured, in order of its worth."""
    rounds = 1 if rehearse else ROUNDS
    chunk = 1 << 20 if rehearse else 64 << 20
    yield f"link, copies of {chunk >> 20} MiB", partial(_link, chunk, rounds)
    yield "reading, 4 threads", partial(_reading, scan, 4, rounds)
    for name, reductions in (
        ("light sweep", lambda: streaming.light()),
        ("all frame reductions", lambda: _frame_reductions(scan)),
        ("disks, correlation", lambda: streaming.light() | {"disks": gpu4d.BraggDisks(scan.probe, refine="correlation")}),
        ("disks, likelihood", lambda: streaming.light() | {"disks": gpu4d.BraggDisks(scan.probe, refine="likelihood")}),
    ):
        yield f"{name}, file", partial(_swept, scan, lambda: scan.cube, reductions, rounds)
        yield f"{name}, resident", partial(_swept, scan, partial(_resident, scan, xp), reductions, rounds)
    for threads in (1, 2, 8):
        yield f"reading, {threads} threads", partial(_reading, scan, threads, rounds)
    for other in (chunk // 4, chunk * 4):
        yield f"link, copies of {other / 2**20:g} MiB", partial(_link, other, rounds)


def _frame_reductions(scan: Scan) -> dict[str, Any]:
    shape = scan.cube.detector_shape
    away = np.hypot(*(np.indices(shape) - (np.array(shape)[:, None, None] - 1) / 2))
    several = {"bright": away < shape[0] / 16, "dark": (away > shape[0] / 6) & (away < shape[0] / 3)}
    return streaming.light() | {"images": gpu4d.VirtualImage(several), "com": gpu4d.CenterOfMass()}


def _resident(scan: Scan, xp: Any) -> gpu4d.DataCube:
    """The same scan on the device, copied there once and repeated."""
    row = xp.asarray(scan.row[:DIFFERENT])
    columns = len(scan.row)
    whole = xp.tile(row, (-(-columns // len(row)), 1, 1))[:columns]
    return gpu4d.DataCube(xp.tile(whole[None], (scan.rows, 1, 1, 1)))


def _swept(scan: Scan, given: Callable[[], gpu4d.DataCube], made: Callable[[], dict[str, Any]], rounds: int) -> dict[str, Any]:
    """The shortest of some sweeps, after one that was checked; and what was busy for how much of one that was traced."""
    cube = given()
    device = "cuda:0" if cube is scan.cube else "auto"  # where a resident scan lies
    scan.check(gpu4d.sweep(cube, made(), device=device))
    seconds = min(_timed(lambda: gpu4d.sweep(cube, made(), device=device)) for _ in range(rounds))
    timeline = Timeline()
    traced = _timed(lambda: gpu4d.sweep(cube, made(), trace=timeline, device=device))
    tracks = sorted({span.track for span in timeline.events})
    busy = {track: round(timeline.busy(track) / traced, 4) for track in tracks}
    copy, compute = (f"cuda:0 {track}" for track in TRACKS)
    return {
        "seconds": seconds,
        "bytes_per_second": scan.nbytes / seconds,
        "patterns_per_second": scan.patterns / seconds,
        "bytes": scan.nbytes,
        "busy": busy,
        "copy_hidden": round(timeline.overlap(copy, compute) / max(min(timeline.busy(copy), timeline.busy(compute)), 1e-9), 4),
    }


def _timed(call: Callable[[], Any]) -> float:
    """Seconds of a call until the device is through with it."""
    import cupy

    start = time.perf_counter()
    call()
    cupy.cuda.runtime.deviceSynchronize()
    return time.perf_counter() - start


def _on_host(value: Any) -> np.ndarray:
    data = getattr(value, "data", value)
    return data.get() if hasattr(data, "get") else np.asarray(value)


def _link(nbytes: int, rounds: int) -> dict[str, float]:
    from gpu4d.device.processors.cuda import CudaProcessor

    workspace = CudaProcessor(0).workspace(4 * nbytes, 0)
    try:
        return {"bytes_per_second": streaming.link_rate(workspace, nbytes, rounds)}
    finally:
        workspace.close()


def _reading(scan: Scan, threads: int, rounds: int) -> dict[str, float]:
    from gpu4d.device.processors.cuda import CudaProcessor

    processor = CudaProcessor(0)
    largest = streaming.planning.plan(scan.cube, streaming.light(), device=processor).tile_bytes
    workspace = processor.workspace(4 * threads * largest, 0)
    try:
        buffers = [workspace.pinned(largest).view((largest,), np.uint8) for _ in range(2 * threads)]
        return {"bytes_per_second": streaming.reading_rate(scan.cube, buffers, threads, rounds)}
    finally:
        workspace.close()
