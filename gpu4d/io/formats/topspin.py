"""Open scans in .app5 files of NanoMEGAS' Topspin: a group of patterns, each a dataset with a description in XML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar
from xml.etree import ElementTree

import h5py
import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.format import Facts, Opened, OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.formats.hdf5_dialect import Hdf5Dialect, has, number
from gpu4d.io.sources import hdf5_text
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Stretch, regular_stretches
from gpu4d.io.sources.hdf5_file import reading
from gpu4d.io.sources.hdf5_members import Piece, addresses, members, piece
from gpu4d.io.sources.hdf5_text import DamagedText, FileBytes
from gpu4d.io.sources.layout import decide_scan_shape, is_usable
from gpu4d.io.sources.links import follow
from gpu4d.io.units import detector_pixel, log
from gpu4d.io.xml_file import parse_xml

LOOKED_AT = 16  # members of the root that are looked at to recognise a file
MOST_GROUPS = 10_000  # that are looked into for series of patterns
MOST_FRAMES = 4_000_000  # patterns of a series that are looked for
DEEPEST = 6  # groups inside each other; exported sessions have two
LONGEST_TEXT = 8 << 20  # bytes of the description of a scan
LONGEST_NOTE = 1 << 16  # bytes of the description of one pattern; Topspin writes 1400
TEXT = 3  # class of HDF5 types that are text of fixed length
POSITION = re.compile(rb"RequestedBeamPosition.{0,400}?<X[^>]{0,99}>([^<]{1,40})</X>.{0,200}?<Y[^>]{0,99}>([^<]{1,40})</Y>", re.DOTALL)
SAME_PLACE = 0.2  # steps: positions are on a grid if none is farther from its place
LISTED = 6  # series that an error lists


@dataclass
class _Series:
    """A group of patterns: where they lie, and what the file says of the first one."""

    path: str
    stretches: list[Stretch]
    storage: Plain
    frames: int
    places: np.ndarray | None  # (frames, 2) x and y of the beam in metres
    first: str  # description of the first pattern


class Topspin(Hdf5Dialect):
    """The .app5 files of NanoMEGAS' Topspin."""

    name: ClassVar = "topspin"
    accepts: ClassVar = "Topspin .app5"
    facts: ClassVar = Facts(
        endings=(".app5",),
        reading="mapped",
        covers=(
            "series of diffraction patterns, with scan shape and step from the positions of the beam, detector pixel and energy. "
            "Rows of the camera are the first axis, and the scan's rows are along the beam's y. Not the virtual images beside them"
        ),
        tried_on="a precession scan of 2×5 positions with patterns of 14×12",
    )

    def claims(self, file: h5py.File) -> bool:
        if not has(file, "Metadata") or not has(file, "Version") or not isinstance(file["Metadata"], h5py.Dataset):
            return False
        return any(_series_groups(file, LOOKED_AT))

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        place = _chosen(file, path, options.dataset)
        with reading(path, place):
            series = _series(file, path, place)
        grid = _grid(series.places)
        shape = decide_scan_shape(options.scan_shape, grid[:2] if grid else None, series.frames, shown(path))
        source = FrameFiles(series.stretches, series.storage, shape, "Topspin")
        said = _settings(_tree(file, "Metadata"))
        return Opened(source, _calibration(series, grid, shape, said, options.energy), _metadata(file, series, said), _title(said))


# ---------------------------------------------------------------- series of patterns


def _series_groups(file: h5py.File, most: int = MOST_GROUPS) -> list[str]:
    """Return the paths of all groups whose members are patterns: "0", "1", …, each with its data."""
    found: list[str] = []
    waiting, seen = [("", file, 0)], 0
    while waiting and seen < most:
        path, group, depth = waiting.pop()
        for name in emd.names(group)[:most]:
            seen += 1
            inside = follow(group, name) if has(group, name) else None
            if not isinstance(inside, h5py.Group):
                continue
            if has(inside, "0", "Data") and isinstance(inside["0/Data"], h5py.Dataset):
                found.append(f"{path}/{name}")
            elif depth < DEEPEST:
                waiting.append((f"{path}/{name}", inside, depth + 1))
    return found


def _chosen(file: h5py.File, path: str, wanted: str | None) -> str:
    """Return the series that is asked for, or the only one of diffraction patterns."""
    places = _series_groups(file)
    listed = ", ".join(map(shown, places[:LISTED])) + (", …" if len(places) > LISTED else "")
    if wanted is not None:
        place = "/" + wanted.strip("/")
        if place not in places:
            raise InputError(f"{shown(path)}: no series {shown(wanted)!r}; it holds {listed}: choose one of them")
        return place
    if len(places) != 1:
        raise InputError(f"{shown(path)}: {len(places)} series of patterns: {listed}. Choose one with --dataset or dataset={places[0]!r}")
    return places[0]


def _series(file: h5py.File, path: str, place: str) -> _Series:
    """Return where the patterns of a series lie. They are datasets of their own, and usually follow each other at one distance."""
    group = follow(file, place)
    frames = sum(name.isdecimal() for name in emd.names(group))
    if frames > MOST_FRAMES or not all(has(group, str(n)) for n in (0, frames - 1)):
        raise InputError(f"{shown(path)}: {shown(place)} has {frames} patterns that are not numbered from 0: it is damaged, copy it again")
    first = group["0/Data"]
    if first.shape is None or first.ndim != 2 or 0 in first.shape or not is_usable(first.dtype):
        raise InputError(
            f"{shown(path)}: the patterns of {shown(place)} are {first.shape} {first.dtype}: need rows × columns of real numbers"
        )
    offsets, places = np.empty(frames, np.int64), np.full((frames, 2), np.nan)
    note_of_first = b""
    with open(path, "rb") as raw, FileBytes(file) as headers:
        known = addresses(group)
        model = _quick(headers, known, 0)
        if model is not None and model[0].offset != _place(first.id):
            model = None  # headers are not as they are understood here
        for n in range(frames):
            quick = None if model is None else _quick(headers, known, n)
            if quick is not None and model is not None and quick[0].kind == model[0].kind and quick[0].nbytes == model[0].nbytes:
                offsets[n], note = quick[0].offset, quick[1]
            else:
                offsets[n], note = _offset(path, place, group, n, first), _note(group, n, raw)
            note_of_first = note if n == 0 else note_of_first
            found = POSITION.search(note)
            if found:
                places[n] = [_float(word) for word in found.groups()]
    storage = Plain(tuple(first.shape), first.dtype.str)
    where = places if np.isfinite(places).all() else None
    return _Series(place, regular_stretches(path, offsets), storage, frames, where, note_of_first.decode("utf-8", "replace"))


def _quick(headers: FileBytes, known: dict[bytes, int], n: int) -> tuple[Piece, bytes] | None:
    """Return where the values of a pattern lie, and its description, without HDF5; None if it has to be asked."""
    address = known.get(b"%d" % n)
    inside = None if address is None else members(headers, address)
    data, note = (None, None) if inside is None else (piece(headers, inside.get(name)) for name in (b"Data", b"Metadata"))
    if data is None or note is None or note.kind[1][0] & 15 != TEXT or note.nbytes > LONGEST_NOTE:
        return None
    try:
        return data, headers.read(note.offset, note.nbytes)
    except DamagedText:
        return None


def _offset(path: str, place: str, group: h5py.Group, n: int, first: h5py.Dataset) -> int:
    """Return the first byte of a pattern, as HDF5 knows it."""
    held = _dataset(group, f"{n}/Data")
    if held is None or held.shape != first.shape or not held.get_type().equal(first.id.get_type()):
        raise InputError(f"{shown(path)}: pattern {n} of {shown(place)} is not there, or not like the first one: copy the file again")
    at = _place(held)
    if at is None:
        raise InputError(
            f"{shown(path)}: pattern {n} of {shown(place)} is compressed, or was never written: undo it with h5repack -f NONE -l CONTI"
        )
    return at


def _dataset(series: h5py.Group, name: str) -> h5py.h5d.DatasetID | None:
    """Return a dataset in a pattern's group by h5py's quick functions: a scan has many. None if it is not there."""
    links, path = series.id.links, name.encode()
    try:
        for part in (path.partition(b"/")[0], path):
            if not links.exists(part) or links.get_info(part).type != h5py.h5l.TYPE_HARD:
                return None
        return h5py.h5d.open(series.id, path)
    except FOREIGN:
        return None


def _place(dataset: h5py.h5d.DatasetID) -> int | None:
    """Return the first byte of a dataset that is stored in one piece; None for others."""
    plist = dataset.get_create_plist()
    if plist.get_layout() != h5py.h5d.CONTIGUOUS or plist.get_external_count() or not dataset.get_storage_size():
        return None
    return dataset.get_offset()


def _note(series: h5py.Group, number_of_it: int, raw: BinaryIO) -> bytes:
    """Return the description of a pattern: text of fixed length, read where it lies."""
    dataset = _dataset(series, f"{number_of_it}/Metadata")
    if dataset is None or dataset.rank or not isinstance(kind := dataset.get_type(), h5py.h5t.TypeStringID) or kind.is_variable_str():
        return b""
    at = _place(dataset)
    if at is None or kind.get_size() > LONGEST_NOTE:
        return b""
    raw.seek(at)
    return raw.read(kind.get_size())


# ---------------------------------------------------------------- descriptions


def _text(group: h5py.Group, name: str) -> bytes:
    """Return the bytes of a description; none if it is not there, or is no text."""
    if not has(group, *name.split("/")):
        return b""
    held = group[name]
    if not isinstance(held, h5py.Dataset) or held.shape != () or held.dtype.kind not in "SO" or held.dtype.itemsize > LONGEST_TEXT:
        return b""
    value = hdf5_text.value(held)
    return value.encode() if isinstance(value, str) else bytes(value) if isinstance(value, bytes) else b""


def _tree(group: h5py.Group, name: str) -> ElementTree.Element | None:
    """Return a description as a tree. The encoding that it names is not that of its bytes, and it needs no entities."""
    try:
        written = re.sub(rb"^\s*<\?xml.*?\?>", b"", _text(group, name), count=1, flags=re.DOTALL).decode("utf-8", "replace").encode()
        return parse_xml(written, f"{shown(group.file.filename)}: its description", LONGEST_TEXT) if written else None
    except FOREIGN as error:
        log.warning("the metadata are left out: %s", error if isinstance(error, InputError) else reason(error))
        return None


def _settings(tree: ElementTree.Element | None) -> dict[str, Any]:
    """Return the description of a scan: its fields, and below ProcedureData and HardwareSettings the items by their names."""
    found: dict[str, Any] = {}
    for node in () if tree is None else tree:
        items = node.findall("Item")
        if items:
            found[node.tag] = {item.findtext("Name", ""): _plain(item.find("Value")) for item in items}
        else:
            found[node.tag] = _plain(node)
    return found


def _plain(node: ElementTree.Element | None, depth: int = 0) -> Any:
    """Return a value as text, or as a dictionary of its parts."""
    if node is None or depth > DEEPEST:
        return None
    return {part.tag: _plain(part, depth + 1) for part in node} if len(node) else node.text or ""


def _metadata(file: h5py.File, series: _Series, said: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"topspin": said, "dataset": series.path, "first_pattern": series.first}
    if series.places is not None:
        found["beam_positions_m"] = series.places
    return found


def _title(said: dict[str, Any]) -> str:
    title = said.get("Title")
    return title if isinstance(title, str) and title.strip() else "datacube"


def _float(word: bytes) -> float:
    try:
        return float(word)
    except ValueError:
        return np.nan


def _grid(places: np.ndarray | None) -> tuple[int, int, float] | None:
    """Return rows, columns and step in metres of positions (n, 2) that are a square grid, turned or not. None for others."""
    if places is None or len(places) < 2:
        return None
    along = places[1] - places[0]
    step = float(np.hypot(*along))
    jumps = np.nonzero(np.hypot(*(np.diff(places, axis=0) - along).T) > step / 2)[0]  # from the end of a row to the next one
    columns = int(jumps[0]) + 1 if len(jumps) else len(places) if abs(along[0]) >= abs(along[1]) else 1
    rows = len(places) // columns
    if step <= 0 or rows * columns != len(places):
        return None
    across = places[columns] - places[0] if rows > 1 else np.zeros(2)
    i, j = np.divmod(np.arange(len(places)), columns)
    even = np.abs(places - places[0] - np.outer(i, across) - np.outer(j, along if columns > 1 else np.zeros(2))).max() <= SAME_PLACE * step
    square = (
        rows == 1 or columns == 1 or (abs(np.hypot(*across) - step) <= SAME_PLACE * step and abs(along @ across) <= SAME_PLACE * step**2)
    )
    return (rows, columns, step) if even and square else None


def _calibration(
    series: _Series, grid: tuple[int, int, float] | None, shape: tuple[int, int], said: dict[str, Any], energy: float | None
) -> Calibration:
    found = Calibration()
    hardware = said.get("HardwareSettings")
    volts = number(hardware.get("GunHighVoltage")) if isinstance(hardware, dict) else None
    emd.set_field(found, "energy", volts, "GunHighVoltage in the file")
    if grid is not None and grid[:2] == shape:
        emd.set_field(found, "r_pixel", grid[2] * 1e10, "positions of the beam in the file")
    elif grid is None and series.places is not None and shape[0] * shape[1] == len(series.places):
        positions = series.places[:, ::-1].reshape(*shape, 2) * 1e10  # y of the beam is along the rows of the scan
        emd.set_field(found, "positions", positions, "positions of the beam in the file")
    sizes = [_scale(series.first, axis) for axis in "YX"]
    if None not in sizes and abs(sizes[0] - sizes[1]) <= 0.01 * sizes[0]:  # type: ignore[operator]
        pixel = detector_pixel(sizes[0], "rad", found.energy or energy)
        emd.set_field(found, "q_pixel", pixel, "scale of the patterns in the file, an angle")
    return found


def _scale(first: str, axis: str) -> float | None:
    """Return the angle of a pixel in radians, from the description of a pattern."""
    pattern = (
        rf"<{axis} [^>]{{0,99}}>.{{0,200}}?<Scale[^>]{{0,99}}>([^<]{{1,40}})</Scale>.{{0,300}}?<Text[^>]{{0,99}}>([^<]{{1,20}})</Text>"
    )
    found = re.search(pattern, first, re.DOTALL)
    return number(found[1]) if found and found[2] == "Angle" else None
