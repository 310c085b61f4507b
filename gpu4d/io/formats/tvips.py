"""Open image streams of TVIPS cameras (`.tvips`): a series header, then patterns behind headers of their own, in one file or several.

Only the first file, ``NAME_000.tvips``, has the series header; ``NAME_001.tvips`` and so on go on with the next pattern. The camera runs
before the scan begins and after it ends. A pattern's header may have the scan coordinates, or only the number of the scan point
("rotator index"), from which the patterns of the scan are found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.records import as_written, finite, read_record, refuse_dataset, set_field, size_of, stem
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Stretch
from gpu4d.io.sources.layout import FRAMES, decide_scan_shape

SERIES_BYTES = 256
SERIES = np.dtype([
    ("size", "<i4"), ("version", "<i4"), ("xdim", "<i4"), ("ydim", "<i4"), ("bits", "<i4"), ("xoff", "<i4"), ("yoff", "<i4"),
    ("xbin", "<i4"), ("ybin", "<i4"), ("pixelsize_nm", "<i4"), ("high_tension_kv", "<i4"), ("magnification", "<i4"),
    ("frame_header_bytes", "<i4"),
])  # fmt: skip
FRAME = [  # of a pattern; each has four bytes, and a header may end after any of them
    ("counter", "<u4"), ("time", "<u4"), ("ms", "<u4"), ("lut", "<u4"), ("faraday", "<f4"), ("magnification", "<u4"),
    ("mode", "<u4"), ("stage_x", "<f4"), ("stage_y", "<f4"), ("stage_z", "<f4"), ("alpha", "<f4"), ("beta", "<f4"), ("rotator", "<u4"),
    ("temperature", "<f4"), ("temperature_set", "<f4"), ("power", "<f4"), ("objective", "<f4"), ("scan_x", "<f4"), ("scan_y", "<f4"),
]  # fmt: skip
ROTATOR_END, SCAN_END = 52, 76  # bytes of a frame header that it must have for the rotator index, and for scan coordinates
V1_FRAME_HEADER = 12  # bytes
LARGEST_FRAME_HEADER = 1 << 20  # bytes
MOST_FILES = 1000  # three digits
SEARCHED = 4096  # patterns at the beginning that are looked at for the start of the scan, and then for the end of its first row
NAME = re.compile(r"(.*_)\d{3}(\.tvips)", re.IGNORECASE | re.DOTALL)
HOW = "series header of TVIPS"


class Tvips(Format):
    """Image streams of TVIPS cameras."""

    name: ClassVar = "tvips"
    accepts: ClassVar = "TVIPS .tvips"
    facts: ClassVar = Facts(
        endings=(".tvips",),
        reading="mapped; copied where headers leave numbers unaligned or the series has several files",
        covers="8 and 16 bit, versions 1 and 2, series of several files; the start of the scan, and its shape where the headers have scan "
        "coordinates. Patterns lie as the camera stores them",
        tried_on="three series with values that are known, one of several files, and files made from the description (scan coordinates)",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return _is_series(head) or _is_series(_head(_first_file(path)))

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "a TVIPS series")
        series = Series.of(path)
        scan, first = _scan(series, options)
        frames = scan[0] * scan[1]
        source = FrameFiles(_from(series.stretches, first, frames), series.storage, scan, f"TVIPS, {series.storage.dtype.name}")
        calibration = Calibration()
        kilovolts = finite(series.header["high_tension_kv"])
        set_field(calibration, HOW, energy=kilovolts and kilovolts * 1e3)
        metadata = {"series": as_written(series.header), "first_frame": first, "frames": series.frames}
        if series.frame_header_bytes >= ROTATOR_END:
            metadata["first_frame_header"] = series.frame(first)
        return Opened(source, calibration, metadata, stem(path))


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(SERIES.itemsize)
    except OSError:
        return b""


def _is_series(head: bytes) -> bool:
    """Say whether a file with these first bytes begins a series."""
    if len(head) < SERIES.itemsize:
        return False
    h = np.frombuffer(head[: SERIES.itemsize], SERIES)[0]
    return bool(h["size"] == SERIES_BYTES and h["version"] in (1, 2) and h["bits"] in (8, 16) and h["xdim"] > 0 and h["ydim"] > 0)


def _first_file(path: str) -> str:
    """Return the path of the file that a series begins with: this one, if its name has no number."""
    numbered = NAME.fullmatch(path)
    first = f"{numbered[1]}000{numbered[2]}" if numbered else path
    return first if os.path.isfile(first) else path


@dataclass
class Series:
    """The patterns of a series.

    Attributes
    ----------
    header : record of `SERIES`
    frame_header_bytes : int
    storage : Plain
    stretches : list of Stretch
    """

    header: np.void
    frame_header_bytes: int
    storage: Plain
    stretches: list[Stretch]

    @property
    def frames(self) -> int:
        return sum(s.frames for s in self.stretches)

    @classmethod
    def of(cls, path: str) -> Series:
        first = _first_file(path)
        header = read_record(first, SERIES, "series header")
        if not _is_series(header.tobytes()):
            raise InputError(f"{shown(first)}: not a readable TVIPS series (its header has other numbers): it is damaged, copy it again")
        extra = V1_FRAME_HEADER if header["version"] == 1 else int(header["frame_header_bytes"])
        if not V1_FRAME_HEADER <= extra <= LARGEST_FRAME_HEADER:
            raise InputError(f"{shown(first)}: not a readable TVIPS series (headers of {extra} bytes): it is damaged, copy it again")
        storage = Plain((int(header["ydim"]), int(header["xdim"])), f"<u{int(header['bits']) // 8}")
        stretches = []
        for n, file in enumerate(_files(first)):
            before = SERIES_BYTES if n == 0 else 0
            frames, rest = divmod(size_of(file) - before, extra + storage.nbytes)
            if rest or frames < 0:
                raise InputError(
                    f"{shown(file)}: {max(frames, 0)} patterns of {storage.nbytes} bytes and {rest} bytes more: it is truncated, or its "
                    "header is damaged; copy it again"
                )
            stretches.append(Stretch(file, before + extra, extra + storage.nbytes, frames))
        return cls(header, extra, storage, stretches)

    def frame(self, n: int) -> dict[str, float]:
        """Return the header of a pattern, as far as it goes."""
        for s in self.stretches:
            if n < s.frames:
                at = s.offset - self.frame_header_bytes + n * s.stride
                return as_written(read_record(s.path, np.dtype(FRAME[: self.frame_header_bytes // 4]), "header of a pattern", at))
            n -= s.frames
        raise IndexError(n)


def _files(first: str) -> list[str]:
    """Return the files of a series. A number that is missing ends it, unless a later one is there: then it is an error."""
    numbered = NAME.fullmatch(first)
    if numbered is None:
        return [first]
    names = [f"{numbered[1]}{n:03d}{numbered[2]}" for n in range(1, MOST_FILES)]
    there = [os.path.isfile(name) for name in names]
    count = there.index(False) if False in there else len(there)
    if any(there[count:]):
        raise InputError(f"{shown(names[count])} of the series is missing, later files are there: put it back")
    return [first, *names[:count]]


def _from(stretches: list[Stretch], first: int, frames: int) -> list[Stretch]:
    """Return the stretches of `frames` patterns from the pattern `first`."""
    out = []
    for s in stretches:
        skipped = min(first, s.frames)
        taken = min(s.frames - skipped, frames)
        if taken:
            out.append(Stretch(s.path, s.offset + skipped * s.stride, s.stride, taken))
        first, frames = first - skipped, frames - taken
    return out


def _scan(series: Series, options: OpenOptions) -> tuple[tuple[int, int], int]:
    """Return the scan shape and the number of the first pattern of the scan."""
    name = shown(series.stretches[0].path)
    if series.frames == 0:
        raise InputError(f"{name}: the series has no patterns")
    found = (_by_coordinates(series) if series.frame_header_bytes >= SCAN_END else None) or _by_rotator(series)
    given = options.scan_shape
    if given == FRAMES or found is None:
        return decide_scan_shape(given, None, series.frames, name), 0
    scan, first, frames = found
    if given is not None:
        if given[0] * given[1] == series.frames and first <= 1:  # some count scan points from 0, as patterns before the scan do
            return given, 0
        return decide_scan_shape(given, None, frames, f"{name} (from its pattern {first} to {first + frames - 1})"), first
    return decide_scan_shape(None, scan, frames, f"the scan in {name} (from its pattern {first})"), first


Found = tuple[tuple[int, int] | None, int, int]  # scan shape, first pattern, number of patterns


def _by_coordinates(series: Series) -> Found | None:
    """Find the scan by the coordinates of its points: (0, 0) and then (1, 0) begin it, a smaller x ends a row."""

    def at(n: int) -> tuple[float, float]:
        held = series.frame(n)
        return held["scan_x"], held["scan_y"]

    last = min(SEARCHED, series.frames - 1)
    start = next((n for n in range(last) if at(n) == (0, 0) and at(n + 1) == (1, 0)), None)
    if start is None:
        return None
    width, most = 1, min(SEARCHED, series.frames - start)
    while width < most and at(start + width) == (width, 0):
        width += 1
    rows = 1
    while (rows + 1) * width <= series.frames - start and at(start + rows * width) == (0, rows):
        rows += 1
    return (rows, width), start, rows * width


def _by_rotator(series: Series) -> Found | None:
    """Find the patterns of the scan by the numbers of its points, 1, 2, 3, …, before and after which the number stays as it is."""
    if series.frame_header_bytes < ROTATOR_END:
        return None
    last = min(SEARCHED, series.frames - 1)
    start = next((n for n in range(last) if _rotator(series, n) == 1 and _rotator(series, n + 1) == 2), None)
    if start is None:
        return None
    return None, start, _last_true(lambda n: _rotator(series, start + n) == n + 1, series.frames - start) + 1


def _rotator(series: Series, n: int) -> int:
    return int(series.frame(n)["rotator"])


def _last_true(holds: Callable[[int], bool], stop: int) -> int:
    """Return the last number below `stop` for which something holds that holds up to it, and not behind it. It holds for 0."""
    low, high = 0, stop
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
