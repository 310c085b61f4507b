"""Decoding: a sweep over an HDF5 file whose chunks are compressed by bitshuffle and LZ4, as DECTRIS detectors write them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite.workload import DISK, Check, Place, Prepared, Size, Workload, WrongAnswer, implementations, pattern_sizes
from gpu4d.benchmarks.suite.workloads.disk import OPERATIONS, PATH, host_arrays
from gpu4d.benchmarks.suite.workloads.repeated import COLUMNS, RepeatedScan

import gpu4d

LOOKED_AT = 32  # patterns, drawn in the run, whose decoded values are compared one by one


def decode_lz4(place: Place, size: Size, seed: int) -> Prepared:
    """Open a compressed file that is in the page cache, and sweep over it.

    Each compressed byte is read once. Nothing else must touch memory: a decoder may keep decoded values in the cache of its core.
    """
    scan = RepeatedScan.make(place, size, seed)
    path = place.folder / f"decode-lz4-{scan.patterns}-{seed}.h5"
    packed_bytes = write_compressed(path, scan)
    wanted = scan.reductions()

    def call() -> Any:
        return gpu4d.sweep(gpu4d.open(path), wanted, device=place.device, progress=False)

    def check(found: dict[str, np.ndarray]) -> Check:
        sums = scan.check(found)
        oracle = f"{sums.oracle}, and every value of {LOOKED_AT} patterns drawn in the run"
        return Check(sums.error, sums.tolerance, sums.values + compare_values(path, scan), oracle)

    return Prepared(
        call,
        lambda found: host_arrays(place, found),
        check,
        scan.patterns,
        scan.digest(),
        bytes=packed_bytes,
        moved="disk_warm",
        more={"host_to_device": packed_bytes} if place.on_gpu else {},
        cache="page cache",
        close=lambda: path.unlink(missing_ok=True),
        implementation=implementations(place.xp.asarray(scan.block[:1]), *OPERATIONS),
    )


def write_compressed(path: Path, scan: RepeatedScan) -> float:
    """Write a scan with a chunk for every pattern, and return the bytes of all chunks. A block's chunks are encoded once."""
    import h5py

    from gpu4d.io.writing.encoders import Bitshuffle

    encode = Bitshuffle("lz4", scan.block.itemsize)
    with ThreadPoolExecutor() as threads:
        chunks = [chunk.tobytes() for chunk in threads.map(encode, scan.block)]
    number, options = encode.filter
    with h5py.File(path, "w") as file:
        kind = {"chunks": (1, 1, *scan.shape[2:]), "compression": number, "compression_opts": options}
        dataset = file.create_dataset(PATH, scan.shape, scan.block.dtype, **kind).id
        for i in range(scan.patterns):
            dataset.write_direct_chunk((*divmod(i, COLUMNS), 0, 0), chunks[i % len(chunks)])
    return float(sum(map(len, chunks)) * scan.times)


def compare_values(path: Path, scan: RepeatedScan) -> int:
    """Compare decoded patterns, drawn at random in this run, with what was written. Return how many values they are."""
    source = gpu4d.open(path).source
    drawn = np.frombuffer(os.urandom(8 * LOOKED_AT), np.uint64) % np.uint64(scan.patterns)
    for i in map(int, drawn):
        x, y = divmod(i, COLUMNS)
        got = np.asarray(source.read(slice(x, x + 1), slice(y, y + 1)))[0, 0]
        if not np.array_equal(got, scan.block[i % len(scan.block)]):
            raise WrongAnswer(f"pattern {i} is decoded to other values than were written")
    return LOOKED_AT * scan.block[0].size


WORKLOADS = [
    Workload(
        "decode-lz4",
        "bitshuffle and LZ4, decoded and reduced",
        DISK,
        "patterns",
        pattern_sizes(quick=128, S=1024, M=32768, L=229376),
        decode_lz4,
        "One pass over a compressed file that is in memory already: files of fast detectors are decoded each time they are read.",
    ),
]
