"""Seeded inputs that every worker loads; the truth stays with them."""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu4d.benchmarks.peers import orientation

import gpu4d
from gpu4d import physics


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    bragg_scan: int  # positions a side of the Bragg set
    bragg_peer: int  # patterns of it that slow peers see
    points_scan: int  # positions a side of the lattice fit
    scan: int  # positions and detector pixels a side of the scan in a file
    radius: float  # of its bright-field disk, detector pixels
    field: int  # positions a side of the centre-of-mass field
    rounds: int


FULL = Sizes(bragg_scan=64, bragg_peer=200, points_scan=64, scan=128, radius=16.0, field=64, rounds=5)
QUICK = Sizes(bragg_scan=16, bragg_peer=32, points_scan=16, scan=48, radius=8.0, field=64, rounds=2)

ENERGY = 80e3  # eV, of the scan in the file
SEMIANGLE = 25.0  # mrad


def write(folder: pathlib.Path, sizes: Sizes) -> None:
    """Everything the tasks read, into `folder`."""
    _bragg(folder, sizes)
    _points(folder, sizes)
    write_scan(folder, sizes)
    _field(folder, sizes)
    _far_from_focus(folder, sizes)
    _near_focus(folder, sizes)
    orientation.write(folder, oriented(sizes)[1])


def oriented(sizes: Sizes) -> tuple[int, int]:
    """How many patterns of known orientation the peer sees, which takes a tenth of a second for one, and gpu4d."""
    return sizes.bragg_peer // 4, sizes.bragg_scan**2 // 4


def _bragg(folder: pathlib.Path, sizes: Sizes) -> None:
    """The Bragg set: 21 disks of 6 px and 100 electrons per pixel on 128 × 128, and the patterns of it that slow peers see."""
    n = sizes.bragg_scan
    scan = gpu4d.simulate.bragg_scan((n, n), (128, 128), seed=1)
    patterns = np.asarray(scan.cube.source.read(slice(0, n), slice(0, n)))
    np.save(folder / "bragg.npy", patterns)
    chosen = np.linspace(0, n * n - 1, sizes.bragg_peer).astype(int)  # all over the scan, so that strain and descan are the same
    np.save(folder / "bragg_chosen.npy", chosen)
    np.save(folder / "bragg_few.npy", patterns.reshape(-1, 128, 128)[chosen][None])
    np.save(folder / "probe.npy", scan.probe)
    truth: dict[str, Any] = {name: scan.truth[name] for name in ("positions", "amplitudes", "origin", "g1", "g2")}
    np.savez(folder / "bragg_truth.npz", **truth)


def _points(folder: pathlib.Path, sizes: Sizes) -> None:
    """Disks as a detection would give them: true positions with 0.03 px of noise, intensity the counts per pixel."""
    n = sizes.points_scan
    scan = gpu4d.simulate.bragg_scan(
        (n, n), (16, 16), seed=2, radius=0.5, noise=False
    )  # only its truth is used: positions scale with nothing
    truth = scan.truth
    centre = np.array([64.0, 64.0]) - 8.0
    rng = np.random.default_rng(3)
    positions = truth["positions"] + centre
    measured = positions + rng.normal(0.0, 0.03, positions.shape)
    g = np.linalg.inv(truth["F"]).swapaxes(-1, -2) @ np.stack([truth["g1"], truth["g2"]], -1)  # g = F⁻ᵀ g_ref, as columns
    np.savez(
        folder / "points.npz", q=measured, intensity=100 * truth["amplitudes"], origin=truth["origin"] + centre,
        g1=truth["g1"], g2=truth["g2"], hk=truth["hk"], local=g,
    )  # fmt: skip


def write_scan(folder: pathlib.Path, sizes: Sizes) -> None:
    """A scan of a phase object in contiguous HDF5, uint16, steps of 1 / (4 k₀); four cells of the object, noise of its own in each."""
    import h5py

    n, half = sizes.scan, sizes.scan // 2
    k0 = physics.angle_to_frequency(SEMIANGLE, ENERGY)
    side = sizes.radius / k0  # makes the disk `radius` pixels
    step = side / half
    scan = gpu4d.simulate.phase_object_scan(
        (half, half), (n, n), r_pixel=step, cell=side, energy=ENERGY, semiangle=SEMIANGLE, strength=0.1, seed=4
    )
    expected = np.asarray(scan.cube.source.read(slice(0, half), slice(0, half))) * 2e4  # electrons in a pattern
    rng = np.random.default_rng(5)
    with h5py.File(folder / "scan.h5", "w") as file:
        data = file.create_dataset("data", (n, n, n, n), "uint16")
        for rx in range(n):
            data[rx] = rng.poisson(np.concatenate([expected[rx % half]] * 2))
    center, rings = (n // 2, n // 2), [(0, n / 8), (n / 8, n / 5), (n / 5, n / 3), (n / 3, n / 2)]
    np.save(
        folder / "masks.npy",
        np.stack([gpu4d.detectors.annulus(inner, outer, center=center).mask((n, n), center) for inner, outer in rings]),
    )
    about: dict[str, Any] = {
        "energy": ENERGY, "semiangle": SEMIANGLE, "q_pixel": 1 / side, "r_pixel": step, "radius": sizes.radius,
        "wavelength": physics.wavelength(ENERGY), "center": center, "rings": rings,
        "sine": physics.wavelength(ENERGY) * k0,  # of the semi-angle, for a peer that takes the sine of what it is given
    }  # fmt: skip
    (folder / "scan.json").write_text(json.dumps(about))


def _far_from_focus(folder: pathlib.Path, sizes: Sizes) -> None:
    """Particles far out of focus at coarse steps, for parallax: images of bright-field pixels are moved by up to 1.7 steps."""
    n, defocus = sizes.field, 1e5
    optics: dict[str, Any] = {"energy": 300e3, "semiangle": 0.5, "r_pixel": 30.0}
    detector = 2 * round(1.2 * n * 30.0 * physics.angle_to_frequency(0.5, 300e3))
    made = gpu4d.simulate.phase_object_scan(
        (n, n), (detector, detector), object="particles", strength=0.5, defocus=defocus, dose=2e4, seed=7, **optics
    )
    _store(folder / "far.npz", made, defocus, optics, "uint16")


def _near_focus(folder: pathlib.Path, sizes: Sizes) -> None:
    """Atoms near focus at fine steps, for iterative ptychography."""
    n, defocus = sizes.field, 150.0
    optics: dict[str, Any] = {"energy": 80e3, "semiangle": 20.0, "r_pixel": 0.4}
    made = gpu4d.simulate.phase_object_scan((n, n), (64, 64), strength=0.3, defocus=defocus, dose=2e4, seed=8, **optics)
    _store(folder / "near.npz", made, defocus, optics, "uint16")


def _store(path: pathlib.Path, made: Any, defocus: float, optics: dict[str, Any], dtype: str) -> None:
    n, m = made.cube.scan_shape
    patterns = np.asarray(made.cube.source.read(slice(0, n), slice(0, m))).astype(dtype)
    np.savez(path, patterns=patterns, phase=made.truth["phase"], defocus=defocus, q_pixel=made.cube.calibration.q_pixel, **optics)


def _field(folder: pathlib.Path, sizes: Sizes) -> None:
    """A band-limited periodic phase and its gradient as a centre of mass, without noise: what is left is the method's error."""
    n, step, q_pixel = sizes.field, 0.5, 0.02
    rng = np.random.default_rng(6)
    u, v = np.meshgrid(np.arange(n) / n, np.arange(n) / n, indexing="ij")
    phase, gradient = np.zeros((n, n)), np.zeros((n, n, 2))
    for h, k in rng.integers(-4, 5, (12, 2)):
        height, angle = 0.25 * rng.normal(), 2 * np.pi * (h * u + k * v) + rng.uniform(0, 2 * np.pi)
        phase += height * np.cos(angle)
        gradient -= (height * np.sin(angle))[..., None] * (2 * np.pi * np.array([h, k]) / (n * step))
    com = gradient / (2 * np.pi * q_pixel)
    np.savez(folder / "field.npz", phase=phase, com=com, gradient=gradient, r_pixel=step, q_pixel=q_pixel)
