"""Write float32 images as TIFF in the form of ImageJ, which Fiji opens with the size and the unit of a pixel.

One block of bytes holds all planes one after the other, as ImageJ expects; each has a directory of its own, for other readers. TIFF 6.0
says what the tags are; ImageJ's are the lines of the description, and two private tags with the names of the planes.
"""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np

from gpu4d._version import __version__
from gpu4d.errors import InputError

LARGEST = 4_000_000_000  # bytes: offsets have 32 bits
SHORT, LONG, RATIONAL, BYTE, ASCII = 3, 4, 5, 1, 2  # types of values
NANOMETRES = {"Å": (0.1, "nm"), "1/Å": (10.0, "1/nm"), "nm": (1.0, "nm")}  # of units, because ImageJ's texts are ASCII
Tag = tuple[int, int, int, bytes]  # number, type, count, values


def imagej_tiff(planes: np.ndarray, labels: tuple[str, ...], pixel_size: float, unit: str, title: str = "", value_unit: str = "") -> bytes:
    """Return a TIFF file of planes (n, nx, ny). The first axis of a plane is down.

    Parameters
    ----------
    planes : (n, nx, ny) real array
        Written as float32.
    labels : tuple of str
        Names of the planes.
    pixel_size, unit : float, str
        Å is written as nm, and 1/Å as 1/nm. Other units stand for pixels.
    title, value_unit : str
        For the description.

    Raises
    ------
    InputError
        More than 4 GB.

    Examples
    --------
    >>> imagej_tiff(np.zeros((1, 2, 3)), ("",), 5.0, "Å")[:4]
    b'II*\\x00'
    """
    values = np.ascontiguousarray(planes, dtype="<f4")
    if values.nbytes > LARGEST:
        raise InputError(f"the planes have {values.nbytes} bytes, and a TIFF file holds at most 4 GB: save them as .h5")
    factor, name = NANOMETRES.get(unit, (0.0, "pixel"))
    step = pixel_size * factor
    described = _description(values, name, title, value_unit)
    resolution = _rational(1.0 / step if step > 0 else 1.0)
    data_at = 8
    out = bytearray(struct.pack("<2sHI", b"II", 42, data_at + values.nbytes))
    out += values.tobytes()
    n, rows, columns = values.shape
    for i in range(n):
        tags: list[Tag] = [
            (256, LONG, 1, struct.pack("<I", columns)),
            (257, LONG, 1, struct.pack("<I", rows)),
            (258, SHORT, 1, struct.pack("<H", 32)),
            (259, SHORT, 1, struct.pack("<H", 1)),  # not compressed
            (262, SHORT, 1, struct.pack("<H", 1)),  # black is zero
            (273, LONG, 1, struct.pack("<I", data_at + i * rows * columns * 4)),
            (277, SHORT, 1, struct.pack("<H", 1)),
            (278, LONG, 1, struct.pack("<I", rows)),
            (279, LONG, 1, struct.pack("<I", rows * columns * 4)),
            (282, RATIONAL, 1, resolution),
            (283, RATIONAL, 1, resolution),
            (296, SHORT, 1, struct.pack("<H", 1)),  # no unit of TIFF's own: the description has it
            (339, SHORT, 1, struct.pack("<H", 3)),  # floats
        ]
        if i == 0:
            tags += [(270, ASCII, len(described), described), (305, ASCII, *_text(f"gpu4d {__version__}")), *_names_of_planes(labels)]
        _directory(out, sorted(tags), last=i == n - 1)
    return bytes(out)


def _text(text: str) -> tuple[int, bytes]:
    value = text.encode("ascii", "replace") + b"\0"
    return len(value), value


def _description(values: np.ndarray, unit: str, title: str, value_unit: str) -> bytes:
    """Return the lines that ImageJ looks for, and what the values are."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    n = len(values)
    lines = [
        "ImageJ=1.54f",
        *([f"images={n}", f"slices={n}", "loop=false"] if n > 1 else []),
        f"unit={unit}",
        f"min={low!r}",
        f"max={high!r}",
    ]
    lines += [f"title={title}"] * bool(title) + [f"values={value_unit}"] * bool(value_unit)
    escaped = [line.encode("ascii", "backslashreplace").replace(b"\n", b" ") for line in lines]
    return b"\n".join(escaped) + b"\n\0"


def _rational(value: float) -> bytes:
    """Return a positive number as two 32-bit integers."""
    largest = 2**32 - 1
    if value > 1:  # the numerator is the larger one
        inverse = Fraction(1 / value).limit_denominator(largest)
        fraction = Fraction(inverse.denominator, inverse.numerator) if inverse else Fraction(largest)
    else:
        fraction = Fraction(value).limit_denominator(largest) or Fraction(1, largest)
    return struct.pack("<II", fraction.numerator, fraction.denominator)


def _names_of_planes(labels: tuple[str, ...]) -> list[Tag]:
    """Return ImageJ's private tags: numbers of bytes, and the block of names."""
    if not any(labels):
        return []
    texts = [label.encode("utf-16-le") for label in labels]
    header = struct.pack("<4s4sI", b"JIJI", b"lbal", len(texts))  # "IJIJ" and "labl" as numbers of this byte order
    counts = [len(header), *map(len, texts)]
    block = header + b"".join(texts)
    return [(50838, LONG, len(counts), struct.pack(f"<{len(counts)}I", *counts)), (50839, BYTE, len(block), block)]


def _directory(out: bytearray, tags: list[Tag], last: bool) -> None:
    """Append a directory and the values that are too long for it."""
    start = len(out)
    behind = start + 2 + 12 * len(tags) + 4
    entries, values = bytearray(struct.pack("<H", len(tags))), bytearray()
    for number, kind, count, value in tags:
        entries += struct.pack("<HHI", number, kind, count)
        if len(value) <= 4:
            entries += value.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", behind + len(values))
            values += value + b"\0" * (len(value) % 2)
    entries += struct.pack("<I", 0 if last else behind + len(values))
    out += entries + values
