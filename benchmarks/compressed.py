"""Compare gpu4d's parallel decoding of compressed HDF5 chunks with h5py reading the same dataset.

    python benchmarks/compressed.py [--rows 64] [--chunk 8] [--rounds 7] [--threads 2] [--only "bitshuffle-LZ4" ...]

A simulated scan is written with each compression in turn. h5py reads it along its chunks into a buffer that is reused.
gpu4d reads the tiles of a sweep, also into reused buffers, with one thread and with several. Rounds are
interleaved, the file is in the page cache, and every value is compared with what was written before anything is timed.
"""

from __future__ import annotations

import argparse
import itertools
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

import gpu4d
from gpu4d.data.source import Source
from gpu4d.streaming.tiles import cut

COLUMNS, DETECTOR = 128, (128, 128)
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "bitshuffle-LZ4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "shuffle + gzip": {"compression": "gzip", "shuffle": True},
    "LZ4": dict(hdf5plugin.LZ4()),
    "Zstd": dict(hdf5plugin.Zstd()),
}
Block = tuple[slice, slice]


def scan(rows: int) -> np.ndarray:
    """Poisson counts of a bright-field disk that wanders over the detector, with a tail of high angles, uint16."""
    generator = np.random.default_rng(0)
    x, y = np.meshgrid(*(np.arange(n) - n // 2 for n in DETECTOR), indexing="ij")
    counts = np.empty((rows, COLUMNS, *DETECTOR), np.uint16)
    for row, column in np.ndindex(rows, COLUMNS):
        angle = np.hypot(x - 2 * np.sin(row / 9), y - 2 * np.cos(column / 7))
        counts[row, column] = generator.poisson(20.0 * (angle < 14) + 3.0 * np.exp(-angle / 20))
    return counts


def blocks(shape: tuple[int, ...], rows: int, columns: int) -> Iterator[Block]:
    for row, column in itertools.product(range(0, shape[0], rows), range(0, shape[1], columns)):
        yield slice(row, min(row + rows, shape[0])), slice(column, min(column + columns, shape[1]))


def by_h5py(dataset: h5py.Dataset) -> Callable[[], None]:
    buffer = np.empty((*dataset.chunks[:2], *dataset.shape[2:]), dataset.dtype)
    pieces = list(blocks(dataset.shape, *dataset.chunks[:2]))

    def read() -> None:
        for rows, columns in pieces:
            dataset.read_direct(buffer[: rows.stop - rows.start, : columns.stop - columns.start], np.s_[rows, columns])

    return read


def by_gpu4d(source: Source, threads: int) -> Callable[[], None]:
    pieces = cut(source.shape, int(np.prod(source.shape[2:])) * source.dtype.itemsize, source.blocks)
    tiles = list(blocks(source.shape, pieces.rows, pieces.columns))
    buffers: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    for _ in range(threads):
        buffers.put(np.empty((pieces.rows, pieces.columns, *source.shape[2:]), source.dtype))
    pool = ThreadPoolExecutor(threads)

    def one(tile: Block) -> None:
        buffer, (rows, columns) = buffers.get(), tile
        source.read(rows, columns, buffer[: rows.stop - rows.start, : columns.stop - columns.start])
        buffers.put(buffer)

    return lambda: [*pool.map(one, tiles)].clear()


def medians(calls: list[Callable[[], None]], rounds: int) -> list[float]:
    """Seconds of each call, in rounds that go through all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, seconds in zip(calls, times):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in times]  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64, help="number of scan rows with 128 patterns of 128×128 pixels each (64)")
    parser.add_argument("--chunk", type=int, default=8, help="rows and columns of scan positions in a chunk (8, which is 2 MB)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=COMPRESSIONS, nargs="+", default=list(COMPRESSIONS), metavar="NAME")
    options = parser.parse_args()
    data = scan(options.rows)
    print(f"{data.nbytes / 1e6:.0f} MB in chunks of {options.chunk**2 * data[0, 0].nbytes / 1e6:.3g} MB, GB/s of decoded values")
    print(f"{'':16}{'ratio':>6}{'h5py':>8}{'1 thread':>10}{f'{options.threads} threads':>11}{'/ h5py':>8}{'/ h5py':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            path = Path(folder) / "scan.h5"
            with h5py.File(path, "w") as file:
                file.create_dataset("scan", data=data, chunks=(options.chunk, options.chunk, *DETECTOR), **COMPRESSIONS[name])
            source = gpu4d.open(path).source
            for rows, columns in blocks(source.shape, 5, 50):  # not along the chunks
                np.testing.assert_array_equal(source.read(rows, columns), data[rows, columns])
            with h5py.File(path) as file:
                dataset = file["scan"]
                calls = [by_h5py(dataset), by_gpu4d(source, 1), by_gpu4d(source, options.threads)]
                seconds = medians(calls, options.rounds)
                ratio = data.nbytes / dataset.id.get_storage_size()
            h5, one, several = (data.nbytes / s / 1e9 for s in seconds)
            print(f"{name:16}{ratio:6.1f}{h5:8.2f}{one:10.2f}{several:11.2f}{one / h5:8.2f}{several / h5:8.2f}", flush=True)


if __name__ == "__main__":
    main()
