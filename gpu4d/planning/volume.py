"""Predict size and duration of a scan, the memory of its analysis, and what a smaller form of it would save."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.data.source import Shape4
from gpu4d.data.storable import Storable
from gpu4d.data.views import binned_dtype
from gpu4d.imaging.com_map import CenterOfMass
from gpu4d.imaging.patterns import MeanPattern
from gpu4d.planning.acquisition import Acquisition
from gpu4d.sizes import format_bytes
from gpu4d.streaming.plan import plan

METADATA = 0.1  # of the volume: images, results and metadata in the same file (the guide's 4.1: 7 to 12 %)
DISK_RATE = 1e9  # bytes/s: what the guide asks of a disk for streaming (Q24)
MARGIN = 1.1  # of the radius of the bright-field disk, for a crop to it


@dataclass(frozen=True)
class Saving(Storable, stored="bytes: [B]; seconds: [s]"):
    """A smaller form of a scan.

    Attributes
    ----------
    what : str
    shape : (Rx, Ry, Qx, Qy)
    dtype : str
    bytes : int
    seconds : float
        To read or write it once at 1 GB/s.
    price : str
        What is lost.
    """

    what: str
    shape: Shape4
    dtype: str
    bytes: int
    seconds: float
    price: str


@dataclass(frozen=True)
class Volume(Storable, stored="bytes with_metadata pattern_bytes memory: [B]; seconds read_seconds: [s]; rate: [B/s]"):
    """Size and duration of a scan.

    Attributes
    ----------
    bytes, with_metadata : int
        Of the patterns, and of a file with metadata and results beside them: a tenth more.
    pattern_bytes : int
    seconds : float or None
        Of recording: positions × dwell time, and the time lost in each row.
    rate : float or None
        Bytes per second, mean over the recording.
    read_seconds : float
        To read or write it once at 1 GB/s.
    memory : int
        Bytes that one pass of an analysis holds, within its budget: maps and a few patterns, never the whole scan.
    savings : tuple of Saving
    """

    bytes: int
    with_metadata: int
    pattern_bytes: int
    seconds: float | None
    rate: float | None
    read_seconds: float
    memory: int
    savings: tuple[Saving, ...]

    def __str__(self) -> str:
        took = "" if self.seconds is None or self.rate is None else f", {duration(self.seconds)} at {format_bytes(self.rate)}/s"
        return f"{binary(self.bytes)} ({format_bytes(self.bytes)}){took}"


class Unrecorded:
    """A source of patterns that do not exist yet. It has the sizes that a plan of memory needs, and refuses to be read."""

    blocks, resident, description = (1, 1), False, "not recorded yet"

    def __init__(self, shape: Shape4, dtype: str):
        self.shape, self.dtype = shape, np.dtype(dtype)

    def read(self, rows: slice, columns: slice, out: Any = None) -> Any:
        raise RuntimeError("this scan is planned: there are no patterns to read")


def volume_of(acquisition: Acquisition, memory: int | float | str | None = None) -> Volume:
    """Predict size and duration of a scan.

    Parameters
    ----------
    acquisition : Acquisition
    memory : int or str, optional
        Budget of an analysis, as for `gpu4d.sweep`.

    Returns
    -------
    Volume

    Raises
    ------
    MemoryBudgetError
        The budget does not hold even a few patterns.

    Examples
    --------
    >>> scan = Acquisition(scan_shape=(512, 512), detector_shape=(512, 512), dwell=1e-3)
    >>> print(volume_of(scan))
    128 GiB (137 GB), 4.4 min at 524 MB/s
    """
    a = acquisition
    shape: Shape4 = (*a.scan_shape, *a.detector_shape)
    dtype = str(a.dtype)
    pattern = prod(a.detector_shape) * np.dtype(dtype).itemsize
    total = prod(a.scan_shape) * pattern
    seconds = None if a.dwell is None else prod(a.scan_shape) * a.dwell + a.scan_shape[0] * a.row_time
    todo = plan(DataCube(Unrecorded(shape, dtype)), {"mean": MeanPattern(), "com": CenterOfMass()}, device="cpu", memory=memory)
    return Volume(
        total,
        round(total * (1 + METADATA)),
        pattern,
        seconds,
        None if seconds is None else total / seconds,
        total / DISK_RATE,
        todo.bytes,
        tuple(_savings(a, shape)),
    )


def _savings(a: Acquisition, shape: Shape4) -> list[Saving]:
    """List smaller forms of a scan: binned, cropped to the bright-field disk, with fewer positions."""
    rx, ry, qx, qy = shape
    found = []
    for n in (2, 4):
        if min(qx, qy) >= 4 * n:
            price = f"{n}× coarser angles" + (f", a disk of {a.disk_radius / n:.3g} px" if a.disk_radius else "")
            found.append(_saving(f"detector binned {n}×{n}", (rx, ry, qx // n, qy // n), _binned(a, n * n), price))
    if a.disk_radius is not None:
        side = 2 * int(np.ceil(MARGIN * a.disk_radius)) + 1
        if side < min(qx, qy):
            price = "diffracted disks and dark field; the phase from the bright-field disk loses nothing"
            found.append(_saving("cropped to the bright-field disk", (rx, ry, side, side), str(a.dtype), price))
    if min(rx, ry) >= 4:
        found.append(
            _saving("every 2nd position", (-(-rx // 2), -(-ry // 2), qx, qy), str(a.dtype), "2× coarser steps, a fourth of the dose")
        )
    if min(rx, ry) >= 16 and min(qx, qy) >= 16:
        price = "a preview, to choose settings (4.2)"
        found.append(_saving("every 4th position, binned 4×4", (-(-rx // 4), -(-ry // 4), qx // 4, qy // 4), _binned(a, 16), price))
    return found


def _saving(what: str, shape: Shape4, dtype: str, price: str) -> Saving:
    size = prod(shape) * np.dtype(dtype).itemsize
    return Saving(what, shape, dtype, size, size / DISK_RATE, price)


def _binned(a: Acquisition, count: int) -> str:
    """Return the dtype of sums of pixels: the native one if no sum of this scan can exceed it, because a pattern has no more electrons."""
    native, electrons = np.dtype(str(a.dtype)), a.electrons_of_pattern
    if native.kind == "u" and electrons is not None and electrons + 10 * electrons**0.5 < np.iinfo(native).max:
        return native.name
    return str(np.dtype(binned_dtype(native, count)).name)


def binary(count: float) -> str:
    """Write a number of bytes with a binary unit, as sizes of scans are usually told: 256² × 256² × 16 bit is 8 GiB.

    Examples
    --------
    >>> binary(8 * 2**30), binary(2**41), binary(1536)
    ('8 GiB', '2 TiB', '1.5 KiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def duration(seconds: float) -> str:
    """Write a time in the unit in which it is read easily.

    Examples
    --------
    >>> duration(0.02), duration(0.537), duration(262.144), duration(7200)
    ('20 ms', '540 ms', '4.4 min', '2 h')
    """
    for size, unit in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size * (1 if unit != "min" else 2):
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds * 1e6:.2g}'):g} µs"
