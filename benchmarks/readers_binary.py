"""Measure how fast binary files of vendors are read: DigitalMicrograph, MRC, blockfiles, TVIPS, TIA. As `benchmarks.readers` does it.

python -m benchmarks.readers_binary [--only mrc tvips …] [--megabytes 256] [--rounds 7] [--threads 2]
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.readers import Written, case, counts, main, scan_of

SIDE = 256  # pixels of a detector axis


def dm_group(entries: dict[str, bytes | dict[str, Any]]) -> bytes:
    """Return a group of DM4: its number of tags, then kind, name, length and content of each. A dictionary is a group in it."""
    out = b"\1\0" + struct.pack(">Q", len(entries))
    for name, held in entries.items():
        word = name.lstrip("0123456789").encode()  # numbers are places of tags without a name
        inside = dm_group(held) if isinstance(held, dict) else held
        out += struct.pack(">BH", 20 if isinstance(held, dict) else 21, len(word)) + word + struct.pack(">Q", len(inside)) + inside
    return out


def dm_value(kind: int, layout: str, value: float) -> bytes:
    return b"%%%%" + struct.pack(">QQ", 1, kind) + struct.pack(layout, value)


def write_dm4(path: Path, stored: np.ndarray, swapped: bool) -> None:
    """Write an array whose last axis is the file's first."""
    sizes: dict[str, Any] = {str(n): dm_value(5, "<I", size) for n, size in enumerate(stored.shape[::-1])}
    data = b"%%%%" + struct.pack(">QQQQ", 3, 20, 4, stored.size) + stored.tobytes()
    image = {"Data": data, "DataType": dm_value(3, "<i", 10), "Dimensions": sizes}
    meta = {"Meta Data": {"Data Order Swapped": dm_value(8, "<?", swapped)}}
    root = dm_group({"ImageList": {"0": {"ImageData": image, "ImageTags": meta}}})
    path.write_bytes(struct.pack(">IQI", 4, len(root), 1) + root + bytes(8))


@case("digitalmicrograph")
def digitalmicrograph(folder: Path, megabytes: int) -> Written:
    """DM4, patterns one after the other, at an odd byte."""
    values = counts(scan_of(megabytes, (SIDE, SIDE), 2))
    write_dm4(folder / "a.dm4", values, True)
    return folder / "a.dm4", values, {}


@case("digitalmicrograph_scan_first")
def scan_first(folder: Path, megabytes: int) -> Written:
    """DM4, all positions of a detector pixel one after the other."""
    values = counts(scan_of(megabytes, (SIDE, SIDE), 2))
    write_dm4(folder / "a.dm4", np.ascontiguousarray(values.transpose(2, 3, 0, 1)), False)
    return folder / "a.dm4", values, {}


def mrc(folder: Path, values: np.ndarray, stored: bytes, mode: int, order: str = "<") -> Written:
    frames = values.shape[0] * values.shape[1]
    header = bytearray(1024)
    struct.pack_into(f"{order}4i", header, 0, values.shape[3], values.shape[2], frames, mode)
    header[208:214] = b"MAP " + (b"\x44\x44" if order == "<" else b"\x11\x11")
    (folder / "a.mrc").write_bytes(bytes(header) + stored)
    return folder / "a.mrc", values, {"scan_shape": values.shape[:2]}


@case("mrc")
def mrc_16_bit(folder: Path, megabytes: int) -> Written:
    values = counts(scan_of(megabytes, (SIDE, SIDE), 2))
    return mrc(folder, values, values.tobytes(), 6)


@case("mrc_big_endian")
def mrc_big_endian(folder: Path, megabytes: int) -> Written:
    values = counts(scan_of(megabytes, (SIDE, SIDE), 2))
    return mrc(folder, values, values.astype(">u2").tobytes(), 6, ">")


@case("mrc_4_bit")
def mrc_4_bit(folder: Path, megabytes: int) -> Written:
    """Two pixels in a byte; megabytes are those of the patterns that come out."""
    values = np.minimum(counts(scan_of(megabytes, (SIDE, SIDE), 1), "uint8"), 15)
    return mrc(folder, values, (values[..., ::2] | values[..., 1::2] << 4).tobytes(), 101)


def blockfile(folder: Path, values: np.ndarray, version: int, note: bytes) -> Written:
    header = b"IMGBLO" + struct.pack("<HIII", version, 4096, 4096, 0)
    header += struct.pack("<HHHHHddIHId", values.shape[2], 0, values.shape[1], values.shape[0], 0, 1.0, 1.0, 200000, 5000, 2000, 0.0)
    with open(folder / "a.blo", "wb") as file:
        file.write((header.ljust(240, b"\0") + note).ljust(4096, b"\0"))
        for n, frame in enumerate(values.reshape(-1, *values.shape[2:])):
            file.write(struct.pack("<HI", 0x55AA, n) + frame.tobytes())
    return folder / "a.blo", values, {}


@case("blockfile")
def blockfile_8_bit(folder: Path, megabytes: int) -> Written:
    return blockfile(folder, counts(scan_of(megabytes, (144, 144), 1), "uint8"), 0x0102, b"")


@case("blockfile_16_bit")
def blockfile_16_bit(folder: Path, megabytes: int) -> Written:
    return blockfile(folder, counts(scan_of(megabytes, (144, 144), 2)), 0x0103, b"Blo Bit Depth: 16 bits\r\n")


@case("tvips")
def tvips(folder: Path, megabytes: int) -> Written:
    """Two files, and three patterns before the scan."""
    values = counts(scan_of(megabytes, (SIDE, SIDE), 2))
    frames = values.reshape(-1, SIDE, SIDE)
    for part in (0, 1):
        with open(folder / f"a_00{part}.tvips", "wb") as file:
            if part == 0:
                file.write(struct.pack("<13i", 256, 2, SIDE, SIDE, 16, 0, 0, 1, 1, 1, 200, 80, 80).ljust(256, b"\0"))
                file.write((bytes(80) + frames[0].tobytes()) * 3)
            middle = len(frames) // 2
            for n in range(middle) if part == 0 else range(middle, len(frames)):
                y, x = divmod(n, values.shape[1])
                file.write(struct.pack("<12I", *[0] * 12) + struct.pack("<I4f2f", n + 1, 0, 0, 0, 0, x, y) + bytes(4) + frames[n].tobytes())
    return folder / "a_000.tvips", values, {}


@case("tia")
def tia(folder: Path, megabytes: int) -> Written:
    values = counts(scan_of(megabytes, (SIDE, SIDE), 2))
    n, frame = values.shape[0] * values.shape[1], SIDE * SIDE * 2 + 50 + 8
    dimensions = b"".join(struct.pack("<IddIII", size, 0.0, 1e-9, 0, 0, 0) for size in values.shape[1::-1])
    start = 34 + len(dimensions) + 16 * n
    header = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x0220, 0x4122, 0x4152, n, n) + struct.pack("<QI", 34 + len(dimensions), 2)
    firsts = start + frame * np.arange(n, dtype="<u8")
    element = struct.pack("<ddiddihii", 0.0, 4e7, 0, 0.0, 4e7, 0, 2, SIDE, SIDE)
    with open(folder / "a_1.ser", "wb") as file:
        file.write(header + dimensions + firsts.tobytes() + (firsts + frame - 8).tobytes())
        for pattern in values.reshape(-1, SIDE, SIDE):
            file.write(element + pattern[::-1].tobytes() + bytes(8))
    return folder / "a_1.ser", values, {}


if __name__ == "__main__":
    main()
