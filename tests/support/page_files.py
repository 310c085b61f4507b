"""The files of which pages speak: small simulated scans under the names on the page, and what goes with them."""

import functools
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from page_commands import CHECKOUT

import gpu4d
from gpu4d.simulate import Simulated

Maker = Callable[[Path], object]


@functools.cache
def _strained(seed: int) -> Simulated:
    """A crystal whose disks have the spacing of pages: (200) of gold at 0.0199 1/Å."""
    return gpu4d.simulate.bragg_scan(
        (10, 34), (96, 96), radius=6.0, g1=(24.6, 0.3), g2=(-0.3, 24.6), strain_size=0.01, descan=0.5, seed=seed
    )


@functools.cache
def _thin() -> Simulated:
    """A thin object with the beam and the step that pages of phases give: 80 kV, 25 mrad, 0.3 Å."""
    return gpu4d.simulate.phase_object_scan((16, 16), (32, 32), r_pixel=0.3, dose=1e5, rotation=np.radians(40), seed=1)


@functools.cache
def _amorphous() -> Simulated:
    return gpu4d.simulate.amorphous_scan((10, 9), (64, 64), radius=18.0, dose=3e4, unstrained_rows=3, seed=2)


def _write(path: Path, made: Simulated, **others: np.ndarray) -> None:
    """Write a scan beside what the simulation knows of it."""
    with h5py.File(path, "w") as file:
        file["scan"] = made.cube.source.array
        for name in ("exx", "eyy", "exy", "theta"):
            if name in made.truth:
                file[f"truth/{name}"] = made.truth[name]
        for name, value in others.items():
            file[name] = value


def none(path: Path) -> None:
    """No file: a command of the page writes it."""


def crystal(path: Path) -> None:
    """A strained crystal, with its truth."""
    _write(path, _strained(3))


def two_ways(path: Path) -> None:
    """The truth of a scan that was recorded forward and in reverse, a part for each."""
    with h5py.File(path, "w") as file:
        for part, name in itertools.product(("forward", "reversed"), ("exx", "eyy", "exy", "theta")):
            file[f"truth/{part}/{name}"] = _strained(3).truth[name]


def second_crystal(path: Path) -> None:
    """Another scan of the same crystal."""
    _write(path, _strained(5))


def thin_object(path: Path) -> None:
    """A thin object, for DPC and ptychography."""
    _write(path, _thin())


def known_object(path: Path) -> None:
    """A thin object in an EMD file that says energy, semi-angle and step."""
    gpu4d.save(path, {"datacube": _thin().cube})


def glass(path: Path) -> None:
    """A glass: a diffuse ring."""
    _write(path, _amorphous())


def vacuum(path: Path) -> None:
    """The probe in vacuum."""
    x, y = np.arange(96)[:, None] - 47.5, np.arange(96) - 47.5
    with h5py.File(path, "w") as file:
        file["probe"] = 1 / (1 + np.exp((np.hypot(x, y) - 6.0) / 0.3))


def raw_frames(path: Path) -> None:
    """Frames of a camera with offset and gain, and dark ones of it."""
    rng = np.random.default_rng(0)
    shape = (6, 8, 64, 64)
    x, y = np.arange(64)[:, None] - 31.5, np.arange(64) - 31.5
    electrons = rng.poisson(6.0 / (1 + np.exp(2 * (np.hypot(x, y) - 8.0))), shape)
    offset = rng.normal(100, 2, shape[2:])
    with h5py.File(path, "w") as file:
        file["scan"] = np.rint(14 * electrons + offset + rng.normal(0, 2.5, shape)).astype(np.uint16)
        file["dark_frames"] = np.rint(offset + rng.normal(0, 2.5, (16, *shape[2:]))).astype(np.uint16)


def dark(path: Path) -> None:
    """The dark frames alone."""
    raw_frames(path)
    with h5py.File(path, "a") as file:
        del file["scan"]


def gain(path: Path) -> None:
    """The gain of each pixel of these frames."""
    with h5py.File(path, "w") as file:
        file["gain"] = np.random.default_rng(1).normal(1, 0.02, (64, 64))


def stop(shape: tuple[int, int]) -> Maker:
    """Detector pixels that count, beside a beam stop that comes from the left edge."""

    def make(path: Path) -> None:
        mask = np.ones(shape, bool)
        mask[shape[0] // 2 - 1 : shape[0] // 2 + 1, : shape[1] // 2 - 8] = False
        np.save(path, mask)

    return make


def row_of_frames(path: Path) -> None:
    """A scan of 40 × 48 positions whose rows end with 3 frames of fly-back, as one row of frames."""
    rng = np.random.default_rng(0)
    where = np.zeros((40, 51, 16, 16))
    where[..., 5:11, 5:11] = 4 + 3 * np.sin(np.arange(40) / 6)[:, None, None, None] * np.cos(np.arange(51) / 7)[:, None, None]
    where[:, 48:] = where[:, 47::-16][:, :3]  # the beam goes back
    np.save(path, rng.poisson(where).astype(np.uint16).reshape(-1, 16, 16))


def rings(path: Path) -> None:
    """Rings of polycrystalline gold, the detector and its pixels as those of the crystal."""
    rng = np.random.default_rng(0)
    x, y = np.arange(96)[:, None] - 47.5, np.arange(96) - 47.5
    r = np.hypot(x, y)
    expected = 40 * np.exp(-((r / 2.5) ** 8)) + 0.02
    for root, strength in ((3, 1.0), (4, 0.6), (8, 0.5), (11, 0.5)):
        expected = expected + 1.5 * strength * np.exp(-(((r - np.sqrt(root) / 4.0782 / 0.0199) / 1.6) ** 2))
    with h5py.File(path, "w") as file:
        file["scan"] = rng.poisson(expected, (6, 6, 96, 96)).astype(np.uint16)


def merlin(path: Path, tiles: int = 1) -> None:
    """A scan of the phase object as Merlin writes it: big numbers first, the last row of each pattern first, text beside it."""
    scan = np.tile(_thin().cube.source.array, (tiles, tiles, 1, 1))
    rows, columns, height, width = scan.shape
    with open(path, "wb") as file:
        for number, pattern in enumerate(scan.reshape(-1, height, width), 1):
            fields = f"MQ1,{number:06d},00384,01,{width:04d},{height:04d},U16,   1x1,01,2026-12-01 10:00:{number / 1000:09.6f},0.001000,"
            file.write((fields + "0,0,0,0,").encode().ljust(384, b"\0") + pattern[::-1].astype(">u2").tobytes())
    lines = ["HDR,\t", f"Frames in Acquisition (Number):\t{rows * columns}", f"Frames per Trigger (Number):\t{columns}", "End\t"]
    path.with_suffix(".hdr").write_bytes("\r\n".join(lines).encode().ljust(2048))


def large_merlin(path: Path) -> None:
    """One of 64 × 64 positions."""
    merlin(path, tiles=4)


def plain_numbers(path: Path) -> None:
    """Patterns of 256 × 256 behind a header of 1024 bytes, 8 × 8 of them."""
    pattern = np.zeros((256, 256), np.uint16)
    pattern[118:138, 118:138] = 9
    path.write_bytes(bytes(1024) + 64 * pattern.tobytes())


def events(path: Path) -> None:
    """Hits of a Timepix3 in a scan of 16 × 16, whose rows begin with an edge of a trigger."""
    packets = []
    for row in range(16):
        begin = 0.01 + row * 20e-6  # seconds
        packets.append(0x6F << 56 | 7 << 44 | round(begin / 3.125e-9) << 9 | 1 << 5)
        for column in range(16):
            ticks = round((begin + (column + 0.5) * 1e-6) / 25e-9)
            for place in range(120, 136):
                address = (place >> 1) << 9 | (place >> 2) << 3 | (place & 1) << 2 | (place & 3)
                packets.append(0xB << 60 | address << 44 | (ticks & 0x3FFF) << 30 | 33 << 20 | ticks >> 14)
    body = b"".join(packet.to_bytes(8, "little") for packet in packets)
    path.write_bytes(b"TPX3" + bytes([0, 0]) + len(body).to_bytes(2, "little") + body)


def text(content: str) -> Maker:
    """A file with this text."""

    def make(path: Path) -> None:
        path.write_text(content, encoding="utf-8")

    return make


def copy_of(original: Path) -> Maker:
    """A copy of a file of the checkout."""

    def make(path: Path) -> None:
        path.write_bytes(original.read_bytes())

    return make


def other_machine(original: Path, label: str) -> Maker:
    """A result of the benchmark as another machine would give it."""

    def make(path: Path) -> None:
        from gpu4d.benchmarks.suite.result import own_hash

        result = json.loads(original.read_text(encoding="utf-8"))
        result["machine"]["label"] = label
        path.write_text(json.dumps(result | {"hash": own_hash(result)}), encoding="utf-8")

    return make


def block_of(page: str, begin: str) -> Maker:
    """The block of a page that begins with these words."""

    def make(path: Path) -> None:
        blocks = re.findall(r"```\w*\n(.*?)```", (CHECKOUT / page).read_text(encoding="utf-8"), re.S)
        (content,) = [block for block in blocks if block.startswith(begin)]
        path.write_text(content, encoding="utf-8")

    return make


OXIDE = text(
    """data_MgO
_cell_length_a 4.212
_cell_length_b 4.212
_cell_length_c 4.212
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Mg1 Mg 0 0 0
O1 O 0.5 0.5 0.5
"""
)
