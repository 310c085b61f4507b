"""Time SSB and WDD of a large scan of graphene, with the private memory that they need, beside the time of the work no method can avoid.

    python benchmarks/direct_ptychography.py [--radius 16] [--scan 512] [--memory "1.4 GB"] [--file graphene.h5] [--json figures.json]

The scan is made in pieces and written into one contiguous HDF5 file, if the file does not exist. Its step is λ/4α, so that every scan
frequency shifts the disks by less than their diameter: the most work. A phase is checked against the truth before its time counts. Each
case runs in a process of its own. Its peak of anonymous memory is read every 10 ms: pages of the mapped file do not count.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpu4d
from gpu4d import fft, physics

ENERGY, SEMIANGLE, DETECTOR = 80e3, 25.0, 96
LATTICE = 2.46  # Å, graphene
DOSE = 4e5  # electrons per Å²
REALISATIONS = 4  # of the counting noise of each place; the scan repeats its places, and takes one of them each time
LEAST_CORRELATION = 0.9


def graphene(side: float):
    """Return the phase of graphene in a square cell, stretched to be periodic in it: Gaussians of 0.35 Å, 0.15 rad at an atom."""
    across, along = round(side / LATTICE), round(side / (LATTICE * 3**0.5))
    a, b = side / across, side / along
    motif = ((0, 0), (0, 1 / 3), (0.5, 0.5), (0.5, 5 / 6))
    atoms = np.array([((i + u) * a, (j + v) * b) for i in range(across) for j in range(along) for u, v in motif])

    def phase(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total = np.zeros(np.broadcast(x, y).shape)
        for u, v in atoms:
            dx, dy = ((d - side / 2) % side - side / 2 for d in (x - u + side / 2 + side / 2, y - v + side / 2 + side / 2))
            total += 0.15 * np.exp(-(dx**2 + dy**2) / (2 * 0.35**2))
        return total

    return phase


def write_scan(path: Path, scan: int, radius: int) -> None:
    """Write the scan, and the phase at its positions below 2 k₀. The disk has `radius` detector pixels."""
    import h5py

    k0 = physics.angle_to_frequency(SEMIANGLE, ENERGY)
    side, places = radius / k0, 4 * radius
    step = side / places
    one = gpu4d.simulate.phase_object_scan(
        (places, places), (DETECTOR, DETECTOR), object=graphene(side), r_pixel=step, cell=side, energy=ENERGY, semiangle=SEMIANGLE
    )
    rng, patterns = np.random.default_rng(0), np.asarray(one.cube.source.read(slice(0, places), slice(0, places)))
    few = patterns.max() * DOSE * step**2 < 180  # then five standard deviations more fit into 8 bits
    noisy = np.empty((REALISATIONS, *one.cube.shape), np.uint8 if few else np.uint16)
    for i in range(REALISATIONS):
        for row in range(places):
            noisy[i, row] = rng.poisson(patterns[row].astype(float) * (DOSE * step**2))
    truth = fft.fft2(one.truth["phase"])
    k = fft.frequencies(places, step)
    truth = fft.ifft2(np.where(np.hypot(k[:, None], k) < 2 * k0, truth, 0)).real
    at = np.arange(scan) % places
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (scan, scan, DETECTOR, DETECTOR), noisy.dtype)
        for row in range(scan):
            data[row] = noisy[rng.integers(0, REALISATIONS, scan), at[row], at]
        file["truth"] = truth[np.ix_(at, at)]
        file.attrs.update(q_pixel=1 / side, r_pixel=step)


def cube_of(path: Path) -> tuple[gpu4d.DataCube, np.ndarray]:
    import h5py

    with h5py.File(path) as file:
        fields: dict[str, Any] = {name: float(file.attrs[name]) for name in ("q_pixel", "r_pixel")}
        truth = file["truth"][()]
    cube = gpu4d.open(path, dataset="/data")
    cube.calibration = gpu4d.Calibration(energy=ENERGY, semiangle=SEMIANGLE, origin=(DETECTOR // 2,) * 2, **fields)
    return cube, truth


class Peak:
    """The largest anonymous memory of this process while it runs."""

    def __init__(self) -> None:
        self.bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.bytes = max(self.bytes, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))


def timed(path: Path, case: str, memory: str) -> dict[str, Any]:
    """Run one case and return its figures."""
    cube, truth = cube_of(path)
    options: dict[str, Any] = {"memory": memory, "device": "cpu"}
    aberrations = {"C10": -50.0, "C30": 1e4} if "aberrations" in case else None
    small = gpu4d.DataCube(np.array(cube.source.read(slice(0, 8), slice(0, 8))), cube.calibration)
    call = gpu4d.ssb if case.startswith("ssb") else gpu4d.wdd
    call(small, aberrations=aberrations)  # compiles
    with Peak() as peak:
        start = time.perf_counter(), time.process_time()
        if case == "read":
            whole = np.asarray(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1])))
            figures: dict[str, Any] = {"largest": int(whole.view("uint64").max())}
        elif case == "floor":
            figures = floor(cube, options)
        else:
            found = call(cube, aberrations=aberrations, **options)
            phase, true = np.asarray(found.phase) - np.mean(found.phase), truth - truth.mean()
            corr = float(np.corrcoef(phase.ravel(), true.ravel())[0, 1])
            slope = float((phase * true).sum() / (true * true).sum())
            figures = {"pixels": found.pixels}
            if aberrations is None:  # the scan has none: with some, only the time counts
                figures |= {"correlation": corr, "slope": slope, "claimed slope": found.slope}
                if corr < LEAST_CORRELATION:
                    raise RuntimeError(f"{case}: the phase correlates with the truth by {corr:.3f} only")
        seconds, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    return {"case": case, "seconds": seconds, "processor": processor, "memory": peak.bytes, **figures}


def floor(cube: gpu4d.DataCube, options: dict[str, Any]) -> dict[str, Any]:
    """Gather the pixels of the disk and transform each over the scan: what every direct method does."""
    from gpu4d.device.threads import in_threads
    from gpu4d.ptychography.bright_field_stack import bright_field_stacks

    x, y = np.indices(cube.detector_shape) - DETECTOR // 2
    radius = physics.angle_to_frequency(SEMIANGLE, ENERGY) / cube.calibration.require("q_pixel")
    pixels = np.flatnonzero(np.hypot(x, y) < radius + 0.5)

    def transform(images: np.ndarray) -> float:
        return float(abs(fft.rfft2(images.astype(np.float32))[0, 0, 0]))

    for _, stack in bright_field_stacks(cube, pixels, 32, **options):
        for first in range(0, len(stack), 512):
            list(in_threads(transform, [stack[i : i + 32] for i in range(first, min(first + 512, len(stack)), 32)]))
    return {"pixels": len(pixels)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=int, default=512)
    parser.add_argument("--radius", type=int, default=16, help="of the disk, detector pixels")
    parser.add_argument("--memory", default="1.4 GB")
    parser.add_argument("--file", type=Path, default=Path(tempfile.gettempdir()) / "graphene.h5")
    parser.add_argument("--cases", nargs="+", default=["read", "floor", "ssb", "ssb, aberrations", "wdd", "wdd, aberrations"])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args(arguments)
    if not given.file.exists():
        write_scan(given.file, given.scan, given.radius)
    rows = []
    for case in given.cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(timed, (given.file, case, given.memory)))
        row = rows[-1]
        more = ", ".join(f"{name} {row[name]:.4g}" for name in ("pixels", "correlation", "slope", "claimed slope") if name in row)
        print(f"{case:20}{row['seconds']:8.2f} s{row['processor']:8.2f} s processor{row['memory'] / 1e9:7.2f} GB   {more}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
