"""Open series of TIA (`.ser`, with `.emi` beside it), which FEI microscopes write: patterns anywhere in the file, listed by their bytes.

TIA counts rows of an image from below. Rows are therefore exchanged, so that an image appears as in the program.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.records import (
    as_written,
    check_promised,
    finite,
    read_bytes,
    read_record,
    refuse_dataset,
    set_field,
    set_steps,
    size_of,
    stem,
)
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Stretch, regular_stretches
from gpu4d.io.sources.layout import FRAMES, decide_scan_shape
from gpu4d.io.units import log
from gpu4d.io.xml_file import parse_xml

SERIES, EMI = b"II\x97\x01", b"JK"  # first bytes of both kinds of files
IMAGES, SPECTRA = 0x4122, 0x4120  # what a series holds
WITH_POSITIONS = 0x4142  # tags with time and position
KINDS = {1: "u1", 2: "u2", 3: "u4", 4: "i1", 5: "i2", 6: "i4", 7: "f4", 8: "f8"}
ELEMENT = np.dtype([
    ("offset_x", "<f8"), ("delta_x", "<f8"), ("element_x", "<i4"), ("offset_y", "<f8"), ("delta_y", "<f8"), ("element_y", "<i4"),
    ("kind", "<i2"), ("columns", "<i4"), ("rows", "<i4"),
])  # fmt: skip
TAG = np.dtype([("kind", "<u2"), ("weight", "<u2"), ("time", "<u4"), ("x", "<f8"), ("y", "<f8")])
MOST_DIMENSIONS, LARGEST_TEXT = 8, 4096  # of a series, and bytes of the name of one
DEEPEST = 32  # elements inside each other in an .emi
LARGEST_EMI = 64 << 20  # bytes
MOST_CHECKED = 256  # patterns whose type and size are compared with the first one's
# From here on a calibration is one in 1/m, and below it one in m: TIA does not say which. A pixel is far below a metre on the specimen,
# and above 1000 1/m = 1e-7 1/Å on the detector.
RECIPROCAL = 1e3
HOW = "TIA series"


class Tia(Format):
    """Series of TIA."""

    name: ClassVar = "tia"
    accepts: ClassVar = "TIA .ser, .emi"
    facts: ClassVar = Facts(
        endings=(".ser", ".emi"),
        reading="mapped, the rows of a pattern in reverse order",
        covers="series of images of any real type, lines and areas, with the metadata of the .emi; patterns appear as in TIA, whose first "
        "row is at the bottom. An .emi opens the series beside it",
        tried_on="a series of five patterns (Talos, Ceta), and files made from the description (scans)",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return head.startswith(SERIES) or (head.startswith(EMI) and path.lower().endswith(".emi"))

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "a TIA series")
        series = Series.of(_series_beside(path) if read_bytes(path, 0, 2, "header") == EMI else path)
        metadata = _metadata(series.path)
        scan = _scan(series, options)
        source = FrameFiles(series.stretches, series.storage, scan, f"TIA series, {series.storage.dtype.name}")
        calibration = Calibration()
        conditions = metadata.get("ExperimentalConditions", {}).get("MicroscopeConditions", {})
        set_field(calibration, HOW, energy=finite(conditions.get("AcceleratingVoltage")))
        steps = [(d.delta, _unit(d.unit)) for d in series.dimensions]
        delta = [(float(series.element[f"delta_{axis}"]), "1/m") for axis in "yx"]
        set_steps(calibration, HOW, steps, delta if min(size for size, _ in delta) > RECIPROCAL else [], None)
        held = {"series": series.header, "element": as_written(series.element), "emi": metadata}
        return Opened(source, calibration, held, stem(series.path))


def _unit(word: str) -> str:
    return {"meters": "m", "meter": "m"}.get(word.strip().lower(), word)


@dataclass
class Dimension:
    size: int
    delta: float
    text: str
    unit: str


@dataclass
class Series:
    """The images of a series.

    Attributes
    ----------
    path : str
    header : dict
    dimensions : list of Dimension
        Of the scan, the fast one first unless tags say otherwise.
    element : record of `ELEMENT`
        Header of the first image.
    storage : Plain
    stretches : list of Stretch
    tags : (n,) int array
        Bytes at which the tags of the images begin.
    """

    path: str
    header: dict[str, Any]
    dimensions: list[Dimension]
    element: np.void
    storage: Plain
    stretches: list[Stretch]
    tags: np.ndarray

    @classmethod
    def of(cls, path: str) -> Series:
        header, wide = _header(path)
        what, promised, valid = (int(header[name]) for name in ("holds", "promised", "valid"))
        if what != IMAGES:
            raise InputError(f"{shown(path)}: it holds {'spectra' if what == SPECTRA else f'data of kind {what:#x}'}: need images")
        dimensions = _dimensions(path, header.dtype.itemsize, int(header["dimensions"]))
        there = min(valid, promised)
        if there == 0:
            raise InputError(f"{shown(path)}: the series has no images: the scan was stopped before the first one")
        offsets, tags = _offsets(path, int(header["offsets_at"]), promised, there, wide)
        element = read_record(path, ELEMENT, "first image", int(offsets[0]))
        rows, columns, kind = (int(element[name]) for name in ("rows", "columns", "kind"))
        if kind not in KINDS or rows <= 0 or columns <= 0:
            words = f"images of {rows}×{columns}, data of type {kind}"
            raise InputError(f"{shown(path)}: {words}: need real numbers; it holds others, or is damaged")
        storage = Plain((rows, columns), "<" + KINDS[kind], flipped=(True, False))
        stretches = regular_stretches(path, offsets + ELEMENT.itemsize)
        _check_elements(path, offsets, element)
        return cls(path, as_written(header), dimensions, element, storage, stretches, tags)

    @property
    def frames(self) -> int:
        return sum(s.frames for s in self.stretches)


def _header(path: str) -> tuple[np.void, bool]:
    """Return the header, and whether offsets have eight bytes."""
    version = int.from_bytes(read_bytes(path, 4, 2, "header"), "little")
    if read_bytes(path, 0, 4, "header") != SERIES or version not in (0x0210, 0x0220):
        raise InputError(f"{shown(path)}: not a readable TIA series (version {version:#x}): it is damaged, or of another program")
    wide = version == 0x0220
    layout = [
        ("id", "<u4"), ("version", "<u2"), ("holds", "<u4"), ("tags", "<u4"), ("promised", "<u4"), ("valid", "<u4"),
        ("offsets_at", "<u8" if wide else "<u4"), ("dimensions", "<u4"),
    ]  # fmt: skip
    return read_record(path, np.dtype(layout), "header"), wide


def _dimensions(path: str, at: int, count: int) -> list[Dimension]:
    if count > MOST_DIMENSIONS:
        raise InputError(f"{shown(path)}: not a readable TIA series ({count} dimensions): it is damaged, copy it again")
    found = []
    for _ in range(count):
        d = read_record(path, np.dtype([("size", "<u4"), ("offset", "<f8"), ("delta", "<f8"), ("element", "<u4")]), "header", at)
        at += d.dtype.itemsize
        texts = []
        for _ in range(2):
            length = int.from_bytes(read_bytes(path, at, 4, "header"), "little")
            if length > LARGEST_TEXT:
                raise InputError(f"{shown(path)}: not a readable TIA series (a text of {length} bytes): it is damaged, copy it again")
            texts.append(read_bytes(path, at + 4, length, "header").decode("latin-1"))
            at += 4 + length
        found.append(Dimension(int(d["size"]), float(d["delta"]), *texts))
    return found


def _offsets(path: str, at: int, promised: int, there: int, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the first bytes of the images and of their tags, after they were compared with the size of the file."""
    kind, size = np.dtype("<u8" if wide else "<u4"), size_of(path)
    if at + 2 * promised * kind.itemsize > size:
        raise InputError(f"{shown(path)}: a list of {promised} images, of which the file ends within: it is truncated; copy it again")
    images, tags = (
        np.frombuffer(read_bytes(path, at + part * promised * kind.itemsize, there * kind.itemsize, "header"), kind) for part in (0, 1)
    )
    if np.any(images >= size):
        raise InputError(f"{shown(path)}: images begin behind the end of the file: it is truncated; copy it again")
    return images.astype(np.int64), np.minimum(tags, size).astype(np.int64)


def _check_elements(path: str, offsets: np.ndarray, first: np.void) -> None:
    """Raise an error if images differ in type or size. Some are looked at, the last one among them."""
    for n in np.unique(np.linspace(0, len(offsets) - 1, MOST_CHECKED).astype(int)):
        other = read_record(path, ELEMENT, "images", int(offsets[n]))
        if any(other[name] != first[name] for name in ("kind", "rows", "columns")):
            raise InputError(f"{shown(path)}: image {n} has another type or size than the first one: need patterns that are all alike")


def _scan(series: Series, options: OpenOptions) -> tuple[int, int]:
    sizes = [d.size for d in series.dimensions]
    promised = int(series.header["promised"])
    check_promised(series.path, promised, series.frames, options)
    stated: tuple[int, int] | None = None
    if len(sizes) == 2:
        fast, slow = sizes if _first_is_fast(series) else sizes[::-1]
        stated = slow, fast
    elif len(sizes) == 1 and _unit(series.dimensions[0].unit) != "":
        stated = 1, sizes[0]  # along a line, not a series in time
    if options.scan_shape == FRAMES:
        return 1, series.frames
    return decide_scan_shape(options.scan_shape, stated, series.frames, shown(series.path))


def _first_is_fast(series: Series) -> bool:
    """Say whether the first dimension is the fast one. Positions in the tags decide, if there are some; else it is."""
    sizes = [d.size for d in series.dimensions]
    if int(series.header["tags"]) != WITH_POSITIONS or sizes[0] == sizes[1] or series.frames < max(sizes) + 1:
        return True
    try:
        tags = [read_record(series.path, TAG, "tags", int(series.tags[n])) for n in (0, 1, *sizes)]
    except InputError:
        log.warning("%s: its tags are left out: they lie behind the end of the file", shown(series.path))
        return True
    x, y = (np.array([float(tag[axis]) for tag in tags]) for axis in "xy")
    fast, slow = (x, y) if abs(x[1] - x[0]) > abs(y[1] - y[0]) else (y, x)
    back = [abs(fast[2 + i] - fast[0]) < abs(fast[1] - fast[0]) / 2 and slow[2 + i] != slow[0] for i in (0, 1)]
    return back[0] or not back[1]


# ---------------------------------------------------------------- metadata beside the series


def _series_beside(path: str) -> str:
    """Return the series that belongs to an `.emi`: ``NAME_1.ser`` for ``NAME.emi``."""
    base = glob.escape(os.path.splitext(path)[0])
    names = sorted(name for name in glob.glob(f"{base}_*.[sS][eE][rR]") if re.search(r"_\d+\.ser$", name, re.IGNORECASE))
    names = [name for name in names if os.path.isfile(name)]
    if len(names) != 1:
        listed = ", ".join(shown(os.path.basename(name)) for name in names) or "none"
        raise InputError(f"{shown(path)}: patterns are in the .ser files beside it; there are: {listed}; give the one to open")
    return names[0]


def _metadata(path: str) -> dict[str, Any]:
    """Return what the `.emi` beside a series says, as nested texts; empty without one."""
    beside = re.sub(r"_\d+\.ser$", ".emi", path, flags=re.IGNORECASE)
    if beside == path or not os.path.isfile(beside):
        return {}
    try:
        with open(beside, "rb") as file:
            held = file.read(LARGEST_EMI)
    except OSError as error:
        log.warning("%s is left out: %s", shown(beside), shown(error.strerror or str(error)))
        return {}
    start, stop = held.find(b"<ObjectInfo>"), held.find(b"</ObjectInfo>")
    part = held[start : stop + len(b"</ObjectInfo>")]
    if start < 0 or stop < start:
        return {}
    try:
        return _texts(parse_xml(part.decode("latin-1").encode(), f"{shown(beside)}: its description"), 0)
    except InputError as error:
        log.warning("the metadata are left out: %s", error)
        return {}


def _texts(element: Any, depth: int) -> dict[str, Any]:
    """Return the elements inside another one: a text or a dictionary for each name, Label and Value as one entry."""
    out: dict[str, Any] = {}
    for child in element:
        label, value, unit = (child.findtext(name) for name in ("Label", "Value", "Unit"))
        if label is not None:
            out[label] = f"{value or ''} {unit or ''}".strip()
        elif len(child) and depth < DEEPEST:
            out[child.tag] = _texts(child, depth + 1)
        else:
            out[child.tag] = child.text or ""
    return out
