"""Compare `gpu4d convert` with the slowest of its parts: reading the scan, the codec, and writing, each alone with as many threads.

    python -m benchmarks.convert [--rows 128] [--rounds 5] [--threads 2] [--to h5 zarr npy] [--codec lz4 zstd]

A simulated scan of uint16 counts lies in a `.npy` file, in the page cache. Parts and conversions take turns. The codec is measured on tiles
that are in memory, with the hashes that a conversion makes of every pattern; writing, on the bytes that it writes, to the same
folder. The ratio is that of the conversion's rate to the lowest of the three. Reading the file back to compare is timed apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import gpu4d
from benchmarks.readers import counts
from gpu4d.data.datacube import DataCube
from gpu4d.io.writing.checksum import pattern_hashes
from gpu4d.io.writing.chunks import choose_chunks, tiles
from gpu4d.io.writing.encoders import Bitshuffle, Blosc, Encoder, Plain
from gpu4d.io.writing.pump import tile_bytes

PIECE = 8 << 20  # bytes written at a time


def parts(cube: DataCube, encode: Encoder | None, stored: int, folder: Path, threads: int) -> dict[str, Callable[[], object]]:
    """Return what reads, encodes and writes alone."""
    source = cube.source
    chunks = choose_chunks(source)
    todo = tiles(source, chunks, tile_bytes(source, threads))
    buffers = [np.empty((*_size(todo[0]), *source.shape[2:]), source.dtype) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def read(k: int) -> None:
        for tile in todo[k::threads]:
            buffer = buffers[k][: tile.rows.stop - tile.rows.start, : tile.columns.stop - tile.columns.start]
            np.copyto(buffer, source.read(tile.rows, tile.columns))

    def code(k: int) -> None:
        for tile in todo[k::threads]:
            patterns = buffers[k][: tile.rows.stop - tile.rows.start, : tile.columns.stop - tile.columns.start]
            pattern_hashes(patterns)
            if encode is None:
                continue
            for rows, columns in tile.chunks(chunks):
                part = patterns[rows.start - tile.rows.start : rows.stop - tile.rows.start]
                encode(np.ascontiguousarray(part[:, columns.start - tile.columns.start : columns.stop - tile.columns.start]))

    data = np.random.default_rng(0).bytes(PIECE)

    def write() -> None:
        with open(folder / "bytes", "wb", buffering=0) as file:
            for first in range(0, stored, PIECE):
                file.write(data[: min(PIECE, stored - first)])
            os.fsync(file.fileno())

    def by_all(work: Callable[[int], None]) -> Callable[[], object]:
        return lambda: list(pool.map(work, range(threads)))

    return {"read": by_all(read), "codec": by_all(code), "write": write}


def _size(tile) -> tuple[int, int]:
    return tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start


def measure(cube: DataCube, folder: Path, name: str, codec: str, rounds: int, threads: int) -> str:
    """Return a line: rates of the parts and of the conversion, and the ratio to the slowest part."""
    out = folder / f"out.{name}"
    item = np.dtype(str(cube.dtype)).itemsize
    makers: dict[str, Callable[[], Encoder]] = {"zarr": lambda: Blosc(codec, item), "h5": lambda: Bitshuffle(codec, item)}
    encode = Plain() if codec == "none" and name == "zarr" else None if codec == "none" else makers[name]()

    def convert(verify: bool = False) -> int:
        return gpu4d.convert(cube, out, codec=codec, verify=verify, overwrite=True, threads=threads).stored_bytes

    ways = parts(cube, encode, convert(), folder, threads)
    ways |= {"convert": convert, "and compare": lambda: convert(True)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, call in ways.items():
            start = time.perf_counter()
            call()
            if number:  # the first round warms up
                seconds[way].append(time.perf_counter() - start)
    rates = {way: cube.nbytes / statistics.median(took) / 1e9 for way, took in seconds.items()}
    slowest = [max(seconds[way][i] for way in ("read", "codec", "write")) for i in range(rounds)]
    ratios = sorted(floor / own for floor, own in zip(slowest, seconds["convert"]))
    words = "  ".join(f"{way} {rate:.2f}" for way, rate in rates.items())
    share = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"{name:5} {codec:5} GB/s of patterns: {words}   convert / slowest part {share}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=128, help="rows of 64 patterns of 128×128 uint16, 2 MB each (128)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--to", nargs="+", choices=["h5", "zarr", "npy"], default=["h5", "zarr", "npy"])
    parser.add_argument("--codec", nargs="+", choices=["lz4", "zstd"], default=["lz4", "zstd"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.save(folder / "scan.npy", counts((options.rows, 64, 128, 128)))
        cube = gpu4d.open(folder / "scan.npy")
        for name in options.to:
            for codec in options.codec if name != "npy" else ["none"]:
                print(measure(cube, folder, name, codec, options.rounds, options.threads), flush=True)


if __name__ == "__main__":
    main()
