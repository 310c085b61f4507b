"""How well and how fast patterns are classified: python benchmarks/classification.py FOLDER_OF_SHARED_DATA

Prints the labels that are right and the rms error of shares on `two_phase.h5`, the number of classes in each pure region alone, and the
times of a factorisation of 100 000 positions and of dark-field images of a million disks.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import h5py
import numpy as np
from scipy.optimize import linear_sum_assignment

import gpu4d


def two_phase(folder: Path) -> None:
    """Compare classes with the truth of the shared file."""
    with h5py.File(folder / "two_phase.h5") as file:
        truth = file["truth/fractions"][:]
        scans = {dose: file[f"poisson_{dose}"][:] for dose in (3000, 300)}
    for dose, data in scans.items():
        cube = gpu4d.DataCube(data)
        mean = gpu4d.sweep(cube, gpu4d.MeanPattern(), progress=False)
        disks = gpu4d.find_bragg_disks(cube, gpu4d.probe.synthetic(cube.shape[2:], gpu4d.probe.measure_disk(mean).radius), progress=False)
        for options in ({}, {"smooth": 0.0}, {"method": "nmf"}, {"method": "domains"}):
            start = time.perf_counter()
            found = gpu4d.classify(disks, cube, progress=False, **options)
            seconds = time.perf_counter() - start
            print(f"{dose} electrons {options}: {_judged(found, truth)}, {found.kinds}, {seconds:.1f} s")
        for k in range(4):
            alone = gpu4d.classify(disks, cube, where=truth[..., k] > 0.98, progress=False)
            print(f"{dose} electrons, region {k} alone: {len(alone)} class, {alone.kinds}")


def _judged(found: gpu4d.classification.Classes, truth: np.ndarray) -> str:
    share, true = np.asarray(found.fractions), np.moveaxis(truth, -1, 0)
    _, order = linear_sum_assignment(-(share.reshape(len(share), -1) @ true.reshape(4, -1).T))
    if len(found) != 4:
        return f"{len(found)} classes"
    right = (found.label == true[order].argmax(0)).mean()
    return f"labels {right:.3f}, shares rms {np.sqrt(((share - true[order]) ** 2).mean()):.4f}"


def factorisation() -> None:
    """Time non-negative matrix factorisation of 100 000 positions with 100 reflections."""
    rng = np.random.default_rng(0)
    profiles = 50 * rng.gamma(0.3, 1, (5, 100))
    counts = rng.poisson(rng.dirichlet(np.full(5, 0.3), 100_000) @ profiles).astype(float)
    start = time.perf_counter()
    seeds = gpu4d.classification.cooccurrence_seeds(counts > 8, counts, 5)
    gpu4d.classification.factorise(counts, 5, start=seeds)
    print(f"100 000 × 100, 5 classes: {time.perf_counter() - start:.1f} s")


def dark_fields() -> None:
    """Time dark-field images of a million disks."""
    rng = np.random.default_rng(0)
    many, shape = 1_000_000, (224, 224)
    counts = rng.multinomial(many, np.full(shape[0] * shape[1], 1 / (shape[0] * shape[1])))
    fields = {"qx": rng.uniform(0, 128, many), "qy": rng.uniform(0, 128, many), "intensity": rng.uniform(1, 9, many)}
    disks = gpu4d.PointListArray(np.r_[0, np.cumsum(counts)], fields, shape)
    origin = 63.5 + rng.normal(0, 0.5, (*shape, 2))
    calibration = gpu4d.Calibration(ellipse=(1.03, 1.0, 0.4))
    apertures: dict[str, gpu4d.detectors.Detector | gpu4d.bragg.LatticeAperture] = {
        "ring": gpu4d.detectors.annulus(20, 30),
        "sector": gpu4d.detectors.segmented(20, 30, 4)[1],
        "pair": gpu4d.bragg.reflection((20.0, 3.0), 4.0),
        "lattice": gpu4d.bragg.lattice_aperture([[20.0, 3.0], [-3.0, 20.0]], 4.0),
    }
    for name, aperture in apertures.items():
        times = []
        for _ in range(11):
            start = time.perf_counter()
            gpu4d.bragg.dark_field(disks, aperture, origin=origin, calibration=calibration)
            times.append(time.perf_counter() - start)
        print(f"dark field, {name}: {1e3 * np.median(times):.0f} ms for a million disks")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    two_phase(Path(sys.argv[1]))
    factorisation()
    dark_fields()
