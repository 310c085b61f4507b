"""Time mean, maximum, four virtual images and centre of mass of a scan in one pass, and compare with reading the same pages.

    python benchmarks/one_pass.py [--scan 128] [--detector 128] [--rounds 9] [--file scan.h5] [--json figures.json]

Answers are checked against NumPy first. Then the cases take turns in every round, so that other work of the machine affects all alike:
reading by one thread, the pass from the file and from memory, and the same reductions one after the other. Medians and smallest times
are wall-clock times. The processor time of all threads is shown too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gpu4d


class Row(NamedTuple):
    """Seconds of one case."""

    case: str
    median: float
    least: float
    processor: float  # median, of all threads


def write_scan(path: Path, scan: int, detector: int) -> None:
    """Poisson counts, mean 5, uint16, in one contiguous HDF5 dataset; rows repeat a few patterns."""
    import h5py

    some = np.random.default_rng(0).poisson(5, (min(scan, 64), detector, detector)).astype("uint16")
    row = np.resize(some, (scan, detector, detector))
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (scan, scan, detector, detector), "uint16")
        for i in range(scan):
            data[i] = np.roll(row, i, axis=0)


def reductions(detector: int) -> dict[str, Any]:
    """What the pass is asked for."""
    step = 5 * detector / 128
    rings = {f"image {i}": gpu4d.detectors.annulus(step * i, step * (i + 2)) for i in range(4)}
    return {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "images": gpu4d.VirtualImage(rings), "com": gpu4d.CenterOfMass()}


def check(patterns: np.ndarray, found: dict[str, Any]) -> None:
    """Compare with NumPy, in 64 bits and row by row."""
    detector = patterns.shape[2:]
    middle = (np.array(detector) - 1) / 2
    masks = np.stack([d.mask(detector, middle) for d in reductions(detector[0])["images"].detectors]).reshape(4, -1)
    x, y = np.indices(detector).reshape(2, -1)
    total, top = np.zeros(detector), np.zeros(detector)
    for i, row in enumerate(patterns):
        flat = row.reshape(len(row), -1).astype(np.float64)
        total += row.sum(axis=0, dtype=np.int64)
        top = np.maximum(top, row.max(axis=0))
        np.testing.assert_array_equal(found["images"].data[:, i], (flat @ masks.T).T)
        np.testing.assert_allclose(found["com"].data[:, i], np.stack([flat @ x, flat @ y]) / flat.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found["mean"].data, total / (patterns.shape[0] * patterns.shape[1]), rtol=1e-14)
    np.testing.assert_array_equal(found["max"].data, top)


def run(path: Path, rounds: int) -> list[Row]:
    """Check and time one file, whose pages are in memory by then."""
    cube = gpu4d.open(path)
    mapped = np.asarray(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1])))
    memory = gpu4d.DataCube(np.array(mapped))
    words = mapped.reshape(-1).view("uint64")
    asked = lambda: reductions(cube.shape[2])  # noqa: E731
    check(mapped, gpu4d.sweep(cube, asked(), device="cpu"))
    cases: dict[str, Callable[[], Any]] = {
        "read, one thread": words.max,
        "one pass, file": lambda: gpu4d.sweep(cube, asked(), device="cpu"),
        "one pass, file just opened": lambda: gpu4d.sweep(gpu4d.open(path), asked(), device="cpu"),
        "one pass, memory": lambda: gpu4d.sweep(memory, asked(), device="cpu"),
        "one after the other, file": lambda: [gpu4d.sweep(cube, one, device="cpu") for one in asked().values()],
    }
    times: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    for turn in range(rounds + 1):
        for case, call in cases.items():
            start = time.perf_counter(), time.process_time()
            call()
            if turn:  # the first warms up
                times[case].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return [Row(c, statistics.median(w for w, _ in t), min(w for w, _ in t), statistics.median(p for _, p in t)) for c, t in times.items()]


def table(rows: list[Row], nbytes: int) -> str:
    """For people: times, rates, and rates over that of the read."""
    read = rows[0]
    lines = [f"{'':28}{'median':>10}{'least':>10}{'processor':>11}{'rate':>12}   of the read's rate: median, least"]
    for row in rows:
        times = f"{1e3 * row.median:7.1f} ms{1e3 * row.least:7.1f} ms{1e3 * row.processor:8.1f} ms{nbytes / row.median / 1e9:7.1f} GB/s"
        lines.append(f"{row.case:28}{times}   {read.median / row.median:.2f}, {read.least / row.least:.2f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=int, default=128)
    parser.add_argument("--detector", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--file", type=Path, help="scan to use; it is written if it does not exist; by default a temporary file")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = given.file or Path(folder) / "scan.h5"
        if not path.exists():
            write_scan(path, given.scan, given.detector)
        cube = gpu4d.open(path)
        rows, nbytes = run(path, given.rounds), cube.nbytes
        print(f"{' x '.join(map(str, cube.shape))} {cube.dtype}, {nbytes / 1e6:.0f} MB, {len(os.sched_getaffinity(0))} cores")
    print(table(rows, nbytes))
    if given.json:
        given.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))


if __name__ == "__main__":
    main()
