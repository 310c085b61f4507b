"""How good strain from the cepstrum is beside strain from disks, and how fast: python benchmarks/cepstrum.py FOLDER_OF_SHARED_DATA

Prints rms and median errors of the components on the shared scans with truth, relative to their reference, for the cepstrum and for
disks by correlation and by likelihood. Then patterns per second on the same scan, beside a plain loop of scipy.fft over the patterns, which
computes no more than the cepstrum at whole pixels.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import scipy.fft

import gpu4d

COMPONENTS = ("exx", "eyy", "exy", "theta")
ROUNDS = 5


class Scan(NamedTuple):
    """A shared scan with its truth."""

    name: str
    data: np.ndarray
    probe: np.ndarray | None
    f: np.ndarray  # (Rx, Ry, 2, 2)
    reference: np.ndarray  # (Rx, Ry) bool
    mask: np.ndarray | None = None


def scans(folder: Path) -> list[Scan]:
    """Read the shared scans."""
    found = []
    with h5py.File(folder / "au_nbed_strain.h5") as file:
        f = file["truth/deformation_gradient_F"][:].astype(float)[..., ::-1, ::-1]  # there x is the column
        border, probe = file["truth/state_index"][:] == 0, file["truth/vacuum_probe"][:]
        found += [Scan(f"gold, multislice, {name[8:]} e", file[name][:], probe, f, border) for name in ("poisson_1e5", "poisson_5e3")]
    with h5py.File(folder / "patterned_probe.h5") as file:
        f = file["truth/F"][:].astype(float)
        for probe_name in ("bullseye", "plain"):
            data, probe = file[f"{probe_name}_poisson_12000"][:], file[f"truth/{probe_name}_vacuum_probe"][:]
            found.append(Scan(f"overlapping disks, {probe_name}, 1.2e4 e", data, probe, f, np.ones(f.shape[:2], bool)))
    with h5py.File(folder / "beam_stop_bragg.h5") as file:
        f, mask = file["truth/F"][:].astype(float), file["truth/beam_stop_mask"][:].astype(bool)
        mask = mask if mask.mean() > 0.5 else ~mask
        for dose in (10000, 2000, 500):
            found.append(Scan(f"beam stop, moving origin, {dose} e", file[f"poisson_{dose}"][:], None, f, np.ones(f.shape[:2], bool), mask))
    return found


def components_of(f: np.ndarray) -> np.ndarray:
    """Return exx, eyy, exy, theta (4, Rx, Ry) of deformation gradients."""
    u, s, v = np.linalg.svd(f)
    stretch, turn = np.swapaxes(v, -1, -2) * s[..., None, :] @ v, u @ v
    theta = -np.arctan2(turn[..., 1, 0], turn[..., 0, 0])
    return np.stack([stretch[..., 0, 0] - 1, stretch[..., 1, 1] - 1, stretch[..., 0, 1], theta])


def from_cepstrum(scan: Scan) -> gpu4d.crystal.LatticeFit:
    return gpu4d.crystal.cepstral_lattice(gpu4d.DataCube(scan.data, detector_mask=scan.mask))


def from_disks(refine: str) -> Callable[[Scan], gpu4d.crystal.LatticeFit]:
    """Return the chain by disks with one kind of refinement."""

    def chain(scan: Scan) -> gpu4d.crystal.LatticeFit:
        assert scan.probe is not None
        disks = gpu4d.find_bragg_disks(gpu4d.DataCube(scan.data), gpu4d.probe.template(scan.probe), refine=refine)
        origin = gpu4d.calibrate.origin(disks)
        return gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)

    return chain


def errors(scan: Scan, fit: gpu4d.crystal.LatticeFit) -> str:
    """Compare the strain of a fit with the truth, both relative to the reference."""
    strain = gpu4d.strain_map(fit, reference=scan.reference)
    truth = components_of(scan.f @ np.linalg.inv(np.median(scan.f[scan.reference], axis=0)))
    error = np.stack([np.asarray(getattr(strain, name)) for name in COMPONENTS]) - truth
    error = error[:, np.isfinite(error).all(axis=0)]
    in_all = error.shape[1] / scan.reference.size
    rms, median = np.sqrt(np.mean(error**2, axis=1)), np.median(np.abs(error), axis=1)
    show = lambda values: " ".join(f"{1e4 * v:6.1f}" for v in values)  # noqa: E731
    return f"{100 * in_all:5.1f} %   rms {show(rms)}   median {show(median)}"


def accuracy(found: list[Scan]) -> None:
    """Print the table of errors."""
    print("errors of exx, eyy, exy, theta in 1e-4")
    for scan in found:
        ways: dict[str, Callable[[Scan], gpu4d.crystal.LatticeFit]] = {"cepstrum": from_cepstrum}
        if scan.probe is not None:
            ways |= {"disks, correlation": from_disks("correlation"), "disks, auto": from_disks("auto")}
        for name, chain in ways.items():
            try:
                print(f"{scan.name:38s} {name:18s} {errors(scan, chain(scan))}")
            except gpu4d.errors.InputError as error:
                print(f"{scan.name:38s} {name:18s} {error}")


def speed(scan: Scan) -> None:
    """Print patterns per second: best of several rounds, in turn."""
    assert scan.probe is not None, "a scan with an image of its probe is timed"
    cube, template = gpu4d.DataCube(scan.data), gpu4d.probe.template(scan.probe)
    window = np.outer(*[np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in cube.detector_shape]).astype(np.float32)

    def plain() -> None:
        for row in scan.data:
            for pattern in row:
                logs = np.log(pattern + np.float32(1))
                scipy.fft.rfft2(window * (logs - np.mean(logs)))

    found = gpu4d.crystal.mean_cepstrum(cube)
    work: dict[str, Callable[[], object]] = {
        "plain loop, scipy.fft alone": plain,
        "cepstral_lattice": lambda: gpu4d.crystal.cepstral_lattice(cube),
        "  without its mean cepstrum": lambda: gpu4d.sweep(cube, gpu4d.crystal.CepstralVectors(found)),
        "find_bragg_disks, correlation": lambda: gpu4d.find_bragg_disks(cube, template, refine="correlation"),
        "find_bragg_disks, auto": lambda: gpu4d.find_bragg_disks(cube, template),
    }
    best = dict.fromkeys(work, float("inf"))
    for _ in range(ROUNDS):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    patterns = int(np.prod(cube.scan_shape))
    print(f"\n{scan.name}: {patterns} patterns of {' × '.join(map(str, cube.detector_shape))}, best of {ROUNDS}")
    for name, seconds in best.items():
        print(f"{name:32s} {patterns / seconds:8.0f} patterns/s")


def thick(folder: Path) -> None:
    """Say whether the cepstrum of the thick multislice scan shows its lattice: disks of 33 px radius every 7 px."""
    with h5py.File(folder / "thick_multislice.h5") as file:
        data = file["poisson_4e4"][:]
    try:
        print(f"\nthick perovskite, 24 mrad: {gpu4d.crystal.cepstral_lattice(data)}")
    except gpu4d.errors.InputError as error:
        print(f"\nthick perovskite, 24 mrad: {error}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    shared = scans(Path(sys.argv[1]))
    accuracy(shared)
    thick(Path(sys.argv[1]))
    speed(shared[0])
