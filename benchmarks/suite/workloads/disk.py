"""Streaming: a sweep over patterns that are not where it computes, in host memory or in a file whose pages were dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite.page_cache import drop
from gpu4d.benchmarks.suite.workload import DISK, TRANSFER, Place, Prepared, Size, Workload, implementations, pattern_sizes
from gpu4d.benchmarks.suite.workloads.repeated import RepeatedScan

import gpu4d

OPERATIONS = ("frame_reductions",)  # one kernel makes all of them
PATH = "/scan"  # of the dataset in the file


def stream(place: Place, size: Size, seed: int) -> Prepared:
    """Sweep over patterns in pageable host memory, which a GPU must fetch. Every byte crosses once; results are written."""
    scan = RepeatedScan.make(place, size, seed)
    patterns = scan.whole()
    cube, wanted = gpu4d.DataCube(patterns), scan.reductions()

    def call() -> Any:
        return gpu4d.sweep(cube, wanted, device=place.device, progress=False)

    return Prepared(
        call,
        lambda found: host_arrays(place, found),
        scan.check,
        scan.patterns,
        scan.digest(),
        bytes=float(scan.nbytes) + (0.0 if place.on_gpu else scan.least_bytes_of_results()),
        moved="host_to_device" if place.on_gpu else "read",
        cache="host memory",
        implementation=implementations(place.xp.asarray(scan.block[:1]), *OPERATIONS),
        inputs=lambda: {"patterns": patterns, "masks": scan.masks()},
    )


def disk_cold(place: Place, size: Size, seed: int) -> Prepared:
    """Open a file that is on the disk alone, and sweep over it. Every byte of the patterns is read from the disk once."""
    scan = RepeatedScan.make(place, size, seed)
    path = place.folder / f"disk-cold-{scan.patterns}-{seed}.h5"
    write(path, scan)
    try:
        drop(path)
    except BaseException:
        path.unlink()
        raise
    wanted = scan.reductions()

    def call() -> Any:
        return gpu4d.sweep(gpu4d.open(path), wanted, device=place.device, progress=False)

    return Prepared(
        call,
        lambda found: host_arrays(place, found),
        scan.check,
        scan.patterns,
        scan.digest(),
        bytes=float(scan.nbytes),
        moved="disk_cold",
        cache="disk: pages are dropped before each call",
        before=lambda: drop(path),
        close=lambda: path.unlink(missing_ok=True),
        implementation=implementations(place.xp.asarray(scan.block[:1]), *OPERATIONS),
        inputs=lambda: {"patterns": scan.whole(), "masks": scan.masks()},
    )


def write(path: Path, scan: RepeatedScan) -> None:
    """Write a scan as one plain block of an HDF5 file."""
    import h5py

    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(PATH, scan.shape, scan.block.dtype)
        step = scan.shape[0] // scan.times
        for first, rows in zip(range(0, scan.shape[0], step), scan.rows()):
            dataset[first : first + step] = rows


def host_arrays(place: Place, found: Any) -> dict[str, np.ndarray]:
    """Return the results of a sweep by name, on the host."""
    return {name: place.host(value) for name, value in found.items()}


WORKLOADS = [
    Workload(
        "stream",
        "one pass over patterns in host memory",
        TRANSFER,
        "patterns",
        pattern_sizes(quick=128, S=4096, M=32768, L=262144),
        stream,
        "The reductions of `one-pass` over patterns that lie in host memory: on a GPU every byte crosses the link while the GPU computes.",
    ),
    Workload(
        "disk-cold",
        "one pass over a file on the disk",
        DISK,
        "patterns",
        pattern_sizes(quick=128, S=2048, M=32768, L=229376),
        disk_cold,
        "The same reductions of a file that is not in memory: the first look at a scan of the day before, and every scan that is "
        "larger than the memory.",
    ),
]
