"""Describe a scan whose time is to be predicted: one in a file, or one that is written as 512x512x256x256:uint16:lz4."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite.scaling_inputs import LAYOUTS, RADIUS, SPACING

from gpu4d.errors import InputError

SHRINK = {"contiguous": 1.0, "chunked": 1.0, "lz4": 4.0, "gzip": 5.0}  # bytes of patterns over stored bytes, where nothing is known
BRIGHT_FIELD = 0.2  # radius of the bright-field disk of a focused probe over the shorter side of the detector, where nothing is known
DISKS = 21
FORM = re.compile(r"(\d+)[x×](\d+)[x×](\d+)[x×](\d+)(?::([a-z0-9]+))?(?::([a-z0-9]+))?")
USE = "write it as 512x512x256x256:uint16, or with :contiguous, :chunked, :lz4 or :gzip behind it"


@dataclass(frozen=True)
class Scan:
    """A scan, by all that its time depends on.

    Attributes
    ----------
    scan_shape, detector_shape : (int, int)
    dtype : str
    layout : {"contiguous", "chunked", "lz4", "gzip"}
        Of the file.
    stored : int or None
        Bytes of the file. None: from the shape, with a usual compression.
    name : str
        Of the file, or what was written.
    disks : float
        Bragg disks of a pattern.
    radius, spacing : float or None
        Of Bragg disks, px: radius, and distance of neighbours. None: 6 and 22 px on 128 px, as in the measurements.
    bright_field : float or None
        Radius of the bright-field disk of a focused probe, px. None: a fifth of the detector's shorter side.
    """

    scan_shape: tuple[int, int]
    detector_shape: tuple[int, int]
    dtype: str = "uint16"
    layout: str = "contiguous"
    stored: int | None = None
    name: str = ""
    disks: float = DISKS
    radius: float | None = None
    spacing: float | None = None
    bright_field: float | None = None

    def __post_init__(self) -> None:
        if not all(n > 0 for n in (*self.scan_shape, *self.detector_shape)):
            raise InputError(f"the scan {self} has no patterns or no pixels: {USE}")
        for name in ("disks", "radius", "spacing", "bright_field"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise InputError(f"{name} of a scan is {value}: give a number above 0, or nothing for the usual one")
        if self.layout not in LAYOUTS:
            raise InputError(f"the layout {self.layout!r} of a file is not known: need one of {', '.join(LAYOUTS)}")

    @classmethod
    def parse(cls, text: str) -> Scan:
        """Read a scan from a text.

        Raises
        ------
        InputError
            It has another form, or the dtype is not known.

        Examples
        --------
        >>> scan = Scan.parse("512x512x256x256:uint16:lz4")
        >>> scan.scan_shape, scan.dtype, scan.layout, scan.nbytes
        ((512, 512), 'uint16', 'lz4', 34359738368)
        """
        match = FORM.fullmatch(text.strip().lower())
        if match is None:
            raise InputError(f"--scan {text!r} is not the shape of a scan: {USE}")
        rx, ry, qx, qy = (int(n) for n in match.groups()[:4])
        kind, layout = match.groups()[4:]
        if kind in LAYOUTS and layout is None:  # 512x512x256x256:lz4
            kind, layout = None, kind
        try:
            dtype = np.dtype(kind or "uint16")
        except TypeError:
            raise InputError(f"--scan {text!r}: {kind!r} is no type of values; need uint8, uint16, uint32, float32 or alike") from None
        if dtype.kind not in "buif":
            raise InputError(f"--scan {text!r}: patterns of {dtype} are not real numbers; need uint8, uint16, uint32, float32 or alike")
        return cls((rx, ry), (qx, qy), dtype.name, layout or "contiguous", name=text.strip())

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> Scan:
        """Look at a file that gpu4d opens: its shape, type, layout and stored bytes."""
        import gpu4d
        from gpu4d.io.raw_files import raw_files

        cube = gpu4d.open(path)
        source = cube.source
        stored = sum(_bytes_of(Path(one)) for one in raw_files(cube))
        return cls(cube.scan_shape, cube.detector_shape, np.dtype(cube.dtype).name, layout_of(source), stored or None, Path(path).name)

    @property
    def positions(self) -> int:
        return math.prod(self.scan_shape)

    @property
    def pattern_bytes(self) -> int:
        return math.prod(self.detector_shape) * np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the patterns."""
        return self.positions * self.pattern_bytes

    @property
    def on_disk(self) -> int:
        """Bytes of the file."""
        return self.stored if self.stored is not None else int(self.nbytes / SHRINK[self.layout])

    @property
    def disk_radius(self) -> float:
        return RADIUS * min(self.detector_shape) if self.radius is None else self.radius

    @property
    def disk_spacing(self) -> float:
        return self.disk_radius * SPACING / RADIUS if self.spacing is None else self.spacing

    @property
    def bright_pixels(self) -> int:
        """Pixels inside the bright-field disk."""
        radius = BRIGHT_FIELD * min(self.detector_shape) if self.bright_field is None else self.bright_field
        return max(1, round(math.pi * radius**2))

    def __str__(self) -> str:
        shape = "×".join(map(str, (*self.scan_shape, *self.detector_shape)))
        return f"{shape} {self.dtype}, {self.layout}"


def layout_of(source: Any) -> str:
    """Return which of the measured layouts a source is most like, from how it is read and how it describes itself."""
    about = " ".join(one.description for one in _below(source)).lower()
    if "gzip" in about or "deflate" in about:
        return "gzip"
    if any(word in about for word in ("bitshuffle", "lz4", "blosc", "zstd")):
        return "lz4"
    return "contiguous" if source.resident else "chunked"


def _below(source: Any) -> Iterator[Any]:
    """Yield a source, and those that it is made of."""
    yield source
    for name in ("source", "base"):
        if hasattr(inner := getattr(source, name, None), "description"):
            yield from _below(inner)
    for inner in getattr(source, "sources", ()):
        yield from _below(inner)


def _bytes_of(path: Path) -> int:
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) if path.is_dir() else path.stat().st_size
