"""Make what `scaling` times: patterns of any shape and dtype where they are computed on, and scans in files of several layouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import Place

import gpu4d

DOSE = 100.0  # counts a pixel in the direct disk
BACKGROUND = 0.03  # of the direct disk: also far from disks there are counts, as in most scans of crystals
RADIUS, SPACING = 6 / 128, 22 / 128  # of disks, over the shorter side of the detector
DIFFERENT = 32  # patterns with noise of their own; more would take longer to make and change no time
ENERGY, SEMIANGLE = 200e3, 25.0  # eV, mrad, of focused probes
STEP = 0.24  # scan step of a focused probe, times the radius of its disk in 1/Å: just fine enough for all that it can resolve
LAYOUTS = ("contiguous", "chunked", "lz4", "gzip")
CHUNK_BYTES = 1 << 20  # of chunks that are not ours: about a megabyte, as h5py's documentation recommends
GZIP_LEVEL = 4  # the default of h5py


def disk_radius(shape: tuple[int, int]) -> float:
    return RADIUS * min(shape)


def expected(shape: tuple[int, int], disks: int, tight: float = 1.0) -> np.ndarray:
    """Return the mean of a pattern: the disks nearest to the middle of a square lattice, the outer ones weaker, on a background.

    Parameters
    ----------
    shape : (int, int)
    disks : int
    tight : float
        Factor of the lattice's spacing: with 0.5 neighbouring disks are fitted together.
    """
    orders = sorted(((h, k) for h in range(-4, 5) for k in range(-4, 5)), key=lambda hk: (hk[0] ** 2 + hk[1] ** 2, hk))[:disks]
    spacing, middle = tight * SPACING * min(shape), [(n - 1) / 2 + 0.2 for n in shape]
    image = np.full(shape, BACKGROUND)
    for h, k in orders:
        image += data.disk(shape, disk_radius(shape), (middle[0] + h * spacing, middle[1] + k * spacing)) / (1 + 0.5 * (h * h + k * k))
    return DOSE * image


def bright_disk(shape: tuple[int, int], radius: float) -> np.ndarray:
    """Return the mean of a pattern of a focused probe: one disk in the middle."""
    return 40.0 * data.disk(shape, radius, (shape[0] / 2, shape[1] / 2)) + 0.02


@dataclass
class Inputs:
    """Arrays and files of one run of measurements. Files are made when they are asked for, and removed by `close`.

    Attributes
    ----------
    place : Place
    seed : int
    stream_bytes : int
        Bytes of scans that are streamed: more than caches hold.
    """

    place: Place
    seed: int
    stream_bytes: int
    _files: dict[str, Path] = field(default_factory=dict)
    _last: tuple[Any, Any] | None = None

    def patterns(self, mean: np.ndarray, n: int, dtype: str = "uint16") -> Any:
        """Return n patterns, where they are computed on. Some of them repeat."""
        xp, few = self.place.xp, min(n, DIFFERENT)
        some = data.counts(xp, mean[None], np.zeros(few, int), self.seed, dtype)
        return xp.tile(some, (-(-n // few), 1, 1))[:n]

    def cube(self, mean: np.ndarray, scan: tuple[int, int], dtype: str = "uint16", **calibration: Any) -> gpu4d.DataCube:
        """Return a scan that lies in the memory of the device. The last one is kept, for the next entry that asks for the same."""
        key = mean.tobytes(), scan, dtype
        if self._last is None or self._last[0] != key:
            self._last = None  # gives its memory back first
            self._last = key, self.patterns(mean, scan[0] * scan[1], dtype).reshape(*scan, *mean.shape)
        return gpu4d.DataCube(self._last[1], gpu4d.Calibration(origin=tuple(n / 2 for n in mean.shape), **calibration))

    def focused(self, scan: tuple[int, int], side: int, radius: float, rotation_known: bool = True) -> gpu4d.DataCube:
        """Return a resident scan with a focused probe whose disk has this radius, px."""
        k0 = gpu4d.physics.angle_to_frequency(SEMIANGLE, ENERGY)
        known: dict[str, Any] = {"energy": ENERGY, "semiangle": SEMIANGLE, "q_pixel": k0 / radius, "r_pixel": STEP / k0}
        if rotation_known:
            known |= {"rotation": 0.0, "transpose": False}
        return self.cube(bright_disk((side, side), radius), scan, **known)

    def file(self, layout: str, side: int, dtype: str, nbytes: int) -> tuple[Path, int]:
        """Return a file in this layout, whose pages are in the page cache, and its number of patterns."""
        rows = 64 if nbytes >= 16 << 20 else 8
        columns = max(1, nbytes // (rows * side * side * np.dtype(dtype).itemsize))
        name = f"{layout}-{side}-{dtype}-{rows}x{columns}"
        if name not in self._files:
            path = self.place.folder / f"scaling-{name}.h5"
            self._files[name] = path
            some = self.patterns(expected((side, side), 21), min(rows * columns, DIFFERENT), dtype)
            write(path, layout, np.resize(self.place.host(some), (rows, columns, side, side)))
        return self._files[name], rows * columns

    def forget(self, path: Path) -> None:
        """Remove a file that is not needed again."""
        self._files = {name: other for name, other in self._files.items() if other != path}
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all files, and give the memory back."""
        self._last = None
        for path in list(self._files.values()):
            self.forget(path)


def write(path: Path, layout: str, patterns: np.ndarray) -> None:
    """Write a scan (Rx, Ry, Qx, Qy) as HDF5 in one of `LAYOUTS`."""
    import h5py

    if layout == "lz4":
        gpu4d.convert(gpu4d.DataCube(patterns), path, codec="lz4", to="hspy", verify=False, overwrite=True)
        return
    frame = patterns[0, 0].nbytes
    together = max(1, min(patterns.shape[1], CHUNK_BYTES // frame))
    chunked = {} if layout == "contiguous" else {"chunks": (1, together, *patterns.shape[2:])}
    packed = {"compression": "gzip", "compression_opts": GZIP_LEVEL} if layout == "gzip" else {}
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=patterns, **chunked, **packed)
