"""Measure how fast scans in files stream through a device, and compare with link, page cache and memory in the same run.

    python benchmarks/streaming.py [--device cuda:0] [--size "4 GB"] [--folder DIR] [--quick] [--json FILE]

Writes a scan into a temporary file, which is then in the page cache, and checks the answer before anything is timed. On a GPU it times
copies from page-locked memory for several chunk sizes, reading for several numbers of threads, and sweeps for both. The fraction shown
is relative to the slower of link and reading. On the CPU it times sweeps of files (mapped, and in chunks of HDF5) with memory of an
eighth of their size, and of the same scan in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import gpu4d
from gpu4d.device import choose, format_bytes, parse_memory
from gpu4d.device.choose import cpu_threads

planning = importlib.import_module("gpu4d.streaming.plan")  # its package gives the function of this name
CHUNKS = (16 << 20, 64 << 20, 256 << 20)
READERS = (1, 2, 4, 8)
ROWS = 64  # of the scan: as many row blocks
DETECTOR = (256, 256)
DISK_BLOCK = 16 << 20  # bytes asked for at once where the disk is measured


def run(device: str = "auto", *, size: int | None = None, folder: str | None = None, quick: bool = False) -> dict[str, Any]:
    """Check, then measure.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda:N"}
    size : int, optional
        Bytes of the file. A chunk is at most a row block, a 64th of it: chunks of 256 MB need a file of 16 GB.
    folder : str, optional
        Where the file is written.
    quick : bool
        A small file and few rounds: to see that it runs.

    Returns
    -------
    dict
        Rates in bytes per second, and what was measured on.
    """
    where = choose(device)
    on_gpu = where.kind == "cuda"
    size = size or (64 * 10**6 if quick else 4 * 10**9 if on_gpu else 512 * 10**6)
    rounds = 2 if quick else 3 if size > 8 * 10**9 else 5
    found: dict[str, Any] = {"device": str(where), "threads": cpu_threads(), "gpu4d": gpu4d.__version__}
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        path = Path(beside) / "scan.npy"
        expected = write(path, size, DETECTOR if size >= ROWS << 20 else (64, 64))
        found["bytes"] = path.stat().st_size
        found["disk"] = disk_rate(path, max(READERS))
        cube = gpu4d.open(path)
        check(cube, str(where), expected)
        if on_gpu:
            found |= through_a_link(cube, where.index, rounds)
        else:
            found["files"] = files_beside_memory(path, cube, expected, rounds)
    return found


# ---------------------------------------------------------------- the scan


def write(path: Path, size: int, detector: tuple[int, int]) -> dict[str, np.ndarray]:
    """A scan of counts in a .npy file, and its mean and maximum, made from what was written."""
    columns = max(1, size // (ROWS * 2 * detector[0] * detector[1]))
    row = np.random.default_rng(0).integers(0, 4096, (columns, *detector), dtype="uint16")
    out = np.lib.format.open_memmap(path, "w+", "uint16", (ROWS, *row.shape))
    for number in range(ROWS):
        out[number] = row
        out[number, :, 0, 0] = number
    out.flush()
    total, largest = ROWS * row.sum(0, dtype=np.int64), row.max(0)
    total[0, 0], largest[0, 0] = columns * sum(range(ROWS)), ROWS - 1
    return {"mean": total / (ROWS * columns), "max": largest}


def light() -> dict[str, Any]:
    """Two sums over every pixel: little enough work to see the transport."""
    return {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()}


def check(cube: gpu4d.DataCube, device: str, expected: dict[str, np.ndarray]) -> None:
    found = gpu4d.sweep(cube, light(), device=device)
    for name, value in expected.items():
        if not np.array_equal(np.asarray(found[name]), value):
            raise AssertionError(f"{name} of {cube.source.description} on {device} is wrong; nothing was timed")


# ---------------------------------------------------------------- what the machine can do


def disk_rate(path: Path, threads: int) -> dict[str, float]:
    """Bytes per second of plain reads by threads: after the file was pushed out of the page cache where that is possible, and from it."""
    rates: dict[str, float] = {}
    nbytes = path.stat().st_size
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(threads) as pool:
        os.fsync(file.fileno())

        def read(offset: int) -> int:
            return len(os.pread(file.fileno(), DISK_BLOCK, offset))

        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # a request: what others map stays
        for name in ("first", "again"):
            start = time.perf_counter()
            done = sum(pool.map(read, range(0, nbytes, DISK_BLOCK)))
            rates[name] = done / (time.perf_counter() - start)
    return rates


def link_rate(workspace: Any, nbytes: int, rounds: int) -> float:
    """Bytes per second from page-locked memory, two buffers in turn in one stream."""
    stream = workspace.stream("copy")
    pairs = [(workspace.allocate(nbytes), workspace.pinned(nbytes)) for _ in range(2)]
    for there, here in pairs:
        here.view((nbytes,), "uint8")[...] = 1
        workspace.copy(there, here, nbytes, stream)
    stream.synchronize()
    repeat = max(4, (1 << 30) // nbytes)

    def copies() -> None:
        for number in range(repeat):
            workspace.copy(*pairs[number % 2], nbytes, stream)
        stream.synchronize()

    rate = repeat * nbytes / median_time(copies, rounds)
    for pair in pairs:
        for buffer in pair:
            buffer.free()
    return rate


def reading_rate(cube: gpu4d.DataCube, buffers: list[np.ndarray], threads: int, rounds: int) -> float:
    """Bytes per second from the file's pages into buffers, by threads that take tiles in turn, as readers of a sweep do."""
    todo = planning.plan(cube, light(), device="cpu")
    tiles = [tile for block in range(todo.scan.blocks) for tile in todo.tiles(block)]

    def read(number: int) -> None:
        tile, into = tiles[number], buffers[number % len(buffers)]
        frames = np.asarray(cube.source.read(tile.rows, tile.columns))
        np.copyto(into[: frames.nbytes].view(frames.dtype).reshape(frames.shape), frames)

    with ThreadPoolExecutor(threads) as pool:
        seconds = median_time(lambda: list(pool.map(read, range(len(tiles)))), rounds)
    return float(np.prod(cube.shape)) * cube.dtype.itemsize / seconds


def median_time(call: Callable[[], Any], rounds: int) -> float:
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# ---------------------------------------------------------------- sweeps


def through_a_link(cube: gpu4d.DataCube, index: int, rounds: int) -> dict[str, Any]:
    from gpu4d.device.processors.cuda import CudaProcessor

    processor = CudaProcessor(index)
    nbytes = float(np.prod(cube.shape)) * cube.dtype.itemsize
    largest = planning.plan(cube, light(), device=processor).tile_bytes
    workspace = processor.workspace(2 * max(CHUNKS) + 2 * max(READERS) * largest, 0)
    try:
        link = {chunk: link_rate(workspace, chunk, rounds) for chunk in CHUNKS}
        buffers = [workspace.pinned(largest).view((largest,), np.uint8) for _ in range(2 * max(READERS))]
        reading = {threads: reading_rate(cube, buffers, threads, rounds) for threads in READERS}
    finally:
        workspace.close()
    sweeps = []
    for chunk in CHUNKS:
        for readers in READERS:
            with constants(CHUNK_BYTES=chunk, MOST_READERS=readers):
                todo = planning.plan(cube, light(), device=processor)
                seconds = median_time(lambda: gpu4d.sweep(cube, light(), device=processor), rounds)
            bound = min(link[chunk], reading[readers])
            figures = {"asked": chunk, "chunk": todo.chunk_bytes, "readers": todo.readers, "seconds": seconds, "rate": nbytes / seconds}
            sweeps.append(figures | {"of_link": nbytes / seconds / link[chunk], "of_bound": nbytes / seconds / bound})
    return {"link": link, "reading": reading, "sweeps": sweeps}


def files_beside_memory(path: Path, cube: gpu4d.DataCube, expected: dict[str, np.ndarray], rounds: int) -> list[dict[str, Any]]:
    """Rates of files and of the same scan in memory, timed in turn."""
    nbytes = float(np.prod(cube.shape)) * cube.dtype.itemsize
    memory = gpu4d.DataCube(np.load(path))
    files = {"npy, mapped": cube, "HDF5 in chunks": in_chunks(path.with_suffix(".h5"), memory)}
    budget = max(int(nbytes) // 8, 64 << 20)
    found = []
    for name, file in files.items():
        check(file, "cpu", expected)
        times: dict[str, list[float]] = {"file": [], "memory": []}
        for _ in range(rounds):
            for which, one in (("file", file), ("memory", memory)):
                start = time.perf_counter()
                gpu4d.sweep(one, light(), device="cpu", memory=budget)
                times[which].append(time.perf_counter() - start)
        file_rate, memory_rate = (nbytes / statistics.median(times[which]) for which in ("file", "memory"))
        found.append({"file": name, "budget": budget, "rate": file_rate, "in_memory": memory_rate, "ratio": file_rate / memory_rate})
    return found


def in_chunks(path: Path, cube: gpu4d.DataCube) -> gpu4d.DataCube:
    """The scan in an HDF5 file, uncompressed, in chunks of about two megabytes."""
    import h5py

    frames = max(1, (2 << 20) // (2 * int(np.prod(cube.detector_shape))))
    with h5py.File(path, "w") as file:
        chunks = (1, min(frames, cube.shape[1]), *cube.detector_shape)
        file.create_dataset("data", data=cube.source.array, chunks=chunks)  # type: ignore[attr-defined]
    return gpu4d.open(path)


@contextlib.contextmanager
def constants(**values: int) -> Iterator[None]:
    """Other constants of the plan for a while: what no user sets."""
    before = {name: getattr(planning, name) for name in values}
    try:
        for name, value in values.items():
            setattr(planning, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(planning, name, value)


# ---------------------------------------------------------------- what is said


def table(found: dict[str, Any]) -> str:
    """For people."""

    def rate(value: float) -> str:
        return f"{value / 1e9:6.2f} GB/s"

    lines = [
        f"{found['device']}, {found['threads']} threads, gpu4d {found['gpu4d']}; a file of {format_bytes(found['bytes'])}, "
        f"read plainly at {rate(found['disk']['first'])} after eviction was asked for, {rate(found['disk']['again'])} again"
    ]
    for chunk, value in found.get("link", {}).items():
        lines.append(f"copies of {format_bytes(chunk):>6s} from page-locked memory  {rate(value)}")
    for threads, value in found.get("reading", {}).items():
        lines.append(f"{threads} threads from the page cache into page-locked memory  {rate(value)}")
    for one in found.get("sweeps", []):
        lines.append(
            f"sweep, chunks of {format_bytes(one['chunk']):>6s}, {one['readers']} readers: {rate(one['rate'])}, "
            f"{one['of_link']:.2f} of the link, {one['of_bound']:.2f} of the slower of link and reading"
        )
    for one in found.get("files", []):
        lines.append(
            f"{one['file']:15s} through {format_bytes(one['budget'])}: {rate(one['rate'])}, "
            f"in memory {rate(one['in_memory'])}, ratio {one['ratio']:.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=parse_memory, help='size of the file, "4 GB"')
    parser.add_argument("--folder", help="folder in which the file is written")
    parser.add_argument("--quick", action="store_true", help="use a small file and few rounds, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    found = run(given.device, size=given.size, folder=given.folder, quick=given.quick)
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
