"""Convert a scan into a file of another format: `gpu4d.convert`. It is checked by reading it back, and goes on after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d.arrays import Array
from gpu4d.data.datacube import DataCube
from gpu4d.data.events import events_of
from gpu4d.data.source import Source, View, below_views
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.formats import carried
from gpu4d.io.opening import named
from gpu4d.io.opening import open as open_scan
from gpu4d.io.raw_files import is_replaced, opened_file, raw_files
from gpu4d.io.saving import save
from gpu4d.io.units import log
from gpu4d.io.writing import journal as journals
from gpu4d.io.writing.checksum import NAME, checksum
from gpu4d.io.writing.chunks import choose_chunks, tiles
from gpu4d.io.writing.encoders import check_codec
from gpu4d.io.writing.journal import Journal
from gpu4d.io.writing.pump import native, pump, tile_bytes, usual_threads
from gpu4d.io.writing.targets import Target, target_for
from gpu4d.io.writing.writer import Job, StartAgain, Writer

Progress = Callable[[str, int, int], None]
RETRIED = 2  # tiles of an earlier process that are read again, to see that the scan is the same
WIDER = {np.dtype("bool"): "uint8", np.dtype("float16"): "float32"}  # types of arrays in memory that `gpu4d.open` does not give
NAMED = 5  # rows that an error lists


@dataclass(frozen=True)
class Converted(Storable, stored="nbytes stored_bytes: [B]"):
    """What became of a scan.

    Attributes
    ----------
    path : str
        The file or folder.
    format, codec : str
    checksum : str
        Of the patterns, whatever file they lie in; it stands in the file too.
    nbytes, stored_bytes : int
        Bytes of the patterns, and of the file.
    continued : int
        Patterns that an earlier process had written.
    verified : bool
        The file was read back, and every pattern is the same.
    notes : tuple of str
        What the reader should know: events that became patterns, corrections that were applied, metadata left out.
    """

    path: str
    format: str
    codec: str
    checksum: str
    nbytes: int
    stored_bytes: int
    continued: int
    verified: bool
    notes: tuple[str, ...]


def convert(
    scan: str | os.PathLike[str] | DataCube | Array,
    out: str | os.PathLike[str],
    *,
    codec: str | None = None,
    to: str | None = None,
    dataset: str | None = None,
    scan_shape: tuple[int, int] | None = None,
    overwrite: bool = False,
    drop_metadata: bool = False,
    verify: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Convert a scan into a file of another format.

    Patterns are read, compressed and written a few at a time by several threads. The file is written under another name beside its
    place. Then it is read back and compared, and gets its name. If the process is killed, the same call goes on where it was.

    Parameters
    ----------
    scan : path, DataCube or (Rx, Ry, Qx, Qy) array
        Anything that `gpu4d.open` opens. Views are converted as they are: cropped, binned, corrected.
    out : path
        Its ending says the format: `.h5`, `.hdf5`, `.emd` (EMD 1.0), `.hspy`, `.zspy` (HyperSpy), `.zarr` (version 3), `.npy`, `.raw`.
    codec : {"lz4", "zstd", "none"}, optional
        "lz4" is fast, "zstd" smaller. Both come after bitshuffle. "none" is one plain block, which is mapped. By default "lz4", and
        "none" for `.npy`, `.raw` and events.
    to : str, optional
        Name of the format, for another ending: "emd", "hspy", "zarr", "zarr2", "zspy", "npy", "raw".
    dataset, scan_shape
        As for `gpu4d.open`, if a path is given.
    overwrite : bool
        Replace an existing file or zarr folder.
    drop_metadata : bool
        Leave out what the file says in words of its own. Calibration and detector mask are kept in any case.
    verify : bool
        Read the file back before it gets its name.
    threads : int, optional
        That read and compress. As many as there are cores by default.
    progress : callable (stage, done, total), optional
        Is told the number of patterns in "convert" and in "verify".

    Returns
    -------
    Converted
        With the checksum of the patterns, which stands in the file too.

    Raises
    ------
    InputError
        The scan cannot be opened or read, the file exists or cannot be written, or the file that was read back is not the scan.

    Examples
    --------
    >>> import tempfile
    >>> scan = np.random.default_rng(0).poisson(2, (6, 8, 16, 16)).astype("uint16")
    >>> name = os.path.join(tempfile.mkdtemp(), "scan.h5")
    >>> done = convert(scan, name)
    >>> bool((np.asarray(open_scan(name)) == scan).all()), done.verified
    (True, True)
    """
    if isinstance(scan, str | os.PathLike):
        cube = open_scan(scan, dataset=dataset, scan_shape=scan_shape)
    elif dataset is not None or scan_shape is not None:
        raise InputError("dataset and scan_shape are for files: this scan is open already")
    else:
        cube = scan if isinstance(scan, DataCube) else DataCube(scan)
    if not isinstance(out, str | os.PathLike):
        raise InputError(f"convert takes the path of a file as its second argument, got {type(out).__name__}")
    path = os.path.realpath(os.fsdecode(out))
    target = target_for(path, to)
    given, codec = codec, check_codec(codec if codec is not None else target.codecs[0])
    if codec not in target.codecs:
        raise InputError(f"{target.name} files are not compressed: codec is {codec!r}, accepted is {', '.join(target.codecs)}")
    _check_place(path, target, overwrite, cube)
    dtype = native(cube.dtype)
    if dtype in WIDER:
        raise InputError(f"patterns are {dtype}, which is read from files as {WIDER[dtype]}: convert scan.astype('{WIDER[dtype]}')")
    if target.events and events_of(cube.source) is not None:
        return _events(cube, path, target, given, not drop_metadata, verify, overwrite)
    work = _Conversion(cube, path, target, codec, usual_threads() if threads is None else max(1, threads), progress or _silent)
    return work.run(not drop_metadata, verify, overwrite)


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _check_place(path: str, target: Target, overwrite: bool, cube: DataCube) -> None:
    """Raise an error if something is in the place of the file that must not be replaced."""
    if not os.path.isdir(os.path.dirname(path)):
        raise InputError(f"{os.path.dirname(path)}: no such folder; make it first")
    files, opened = raw_files(cube), opened_file(cube)
    if is_replaced(path, files if opened is None else files | {opened}):
        raise InputError(f"{path} is the scan itself, or holds it: convert it under another name")
    if target.make().beside:
        _check_beside(path + carried.ENDING, overwrite)
    if not os.path.lexists(path):
        return
    folder = target.make().folder
    if os.path.isdir(path) != folder or not (folder or os.path.isfile(path)):
        kind = "a directory" if os.path.isdir(path) else "no directory"
        raise InputError(f"{path} is {kind}, and is not replaced by a scan of the format {target.name}; choose another name")
    if folder and not named("zarr").recognise(path, b""):
        raise InputError(f"{path} is a directory without a zarr store, and is not replaced; choose another name")
    if not overwrite:
        raise InputError(f"{path} exists; choose another name, or allow replacing it with --overwrite or overwrite=True")


def _check_beside(path: str, overwrite: bool) -> None:
    """Raise an error if the file for calibration and metadata would replace one that is no such file."""
    if os.path.lexists(path) and not (overwrite and os.path.isfile(path) and carried.beside(path.removesuffix(carried.ENDING))):
        raise InputError(f"{path} exists, and calibration and metadata would be written there; choose another name")


def _events(cube: DataCube, path: str, target: Target, codec: str | None, with_metadata: bool, verify: bool, overwrite: bool) -> Converted:
    """Write a counted scan as events."""
    if codec not in (None, "none"):
        raise InputError(f"events are not compressed: codec is {codec!r}; leave it out, or choose another format, which keeps patterns")
    given = cube if with_metadata else DataCube(cube.source, cube.calibration, {}, cube.detector_mask, cube.name)
    folder, name = os.path.split(path)
    passing = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.events")
    try:
        save(passing, {"datacube": given}, links="copy")
        hashes = _hashes(cube.source)
        if verify and not np.array_equal(hashes, _hashes(open_scan(passing).source)):
            raise InputError(f"{path}: events were not written as they were read: the disk or memory is faulty; nothing was kept")
        size = os.path.getsize(passing)
        _give_name(passing, path, target, overwrite, cube)
    except InputError as error:
        raise InputError(str(error).replace(passing, path)) from error
    finally:
        _remove(passing)
    notes = ["the scan stays a list of events; this is written in one go, and not continued after a kill"]
    if not with_metadata and carried.kept(cube):
        notes.append(f"metadata were left out: {', '.join(sorted(carried.kept(cube)))}")
    found = checksum(hashes, cube.shape, native(cube.dtype))
    return Converted(path, target.name, "none", found, cube.nbytes, size, 0, verify, tuple(notes))


def _hashes(source: Source, threads: int | None = None) -> np.ndarray:
    """Return the hashes of all patterns, (Rx, Ry) uint64."""
    chunks = choose_chunks(source)
    found = np.zeros(source.shape[:2], np.uint64)
    threads = usual_threads() if threads is None else threads
    for part in pump(source, tiles(source, chunks, tile_bytes(source, threads)), chunks, threads=threads):
        found[part.tile.rows, part.tile.columns] = part.hashes
    return found


class _Conversion:
    """One conversion: the unfinished file, its journal, and the steps."""

    def __init__(self, cube: DataCube, path: str, target: Target, codec: str, threads: int, progress: Progress):
        self.cube, self.path, self.target, self.codec, self.threads, self.progress = cube, path, target, codec, threads, progress
        folder, name = os.path.split(path)
        self.passing = os.path.join(folder, f".{name}.converting")
        self.source = cube.source
        self.chunks = choose_chunks(self.source)
        self.tiles = tiles(self.source, self.chunks, tile_bytes(self.source, threads))
        self.hashes = np.zeros(cube.scan_shape, np.uint64)
        self.total = self.hashes.size

    def run(self, with_metadata: bool, verify: bool, overwrite: bool) -> Converted:
        identity = _identity(self.cube)
        into = [self.target.name, self.codec, list(self.chunks), len(self.tiles), with_metadata]
        carried.document(self.cube, "", NAME, with_metadata)  # refuses what cannot be kept before anything is written
        header: dict[str, Any] = {"from": identity, "to": into, "shape": list(self.cube.shape), "dtype": str(native(self.cube.dtype))}
        if identity is None:
            header["once"] = uuid.uuid4().hex  # no other process knows this scan
        journal = Journal(self.passing + ".log", header)
        kept = identity is not None  # what is there when something fails
        try:
            continued, known = self._written(journal, with_metadata)
            if verify:
                try:
                    self._verify(known)
                except InputError:
                    kept = False  # what is wrong would stay wrong
                    raise
            size, found = _size(self.passing), known["checksum"]
            _give_name(self.passing, self.path, self.target, overwrite, self.cube)
            kept = False
            notes = self._notes(with_metadata)
            return Converted(self.path, self.target.name, self.codec, found, self.cube.nbytes, size, continued, verify, notes)
        except OSError as error:
            more = "the same command goes on then" if kept else "nothing was left behind"
            raise InputError(f"{self.path} cannot be written ({reason(error)}): free some space; {more}") from error
        except InputError as error:
            if not (kept and journal.records):
                kept = False
                raise
            more = f"what is written already is kept in {self.passing}: the same command goes on with it"
            raise InputError(f"{error}; {more}") from error
        finally:
            journal.close(remove=not kept)
            if not kept:
                _remove(self.passing)
                _remove(self.passing + carried.ENDING)

    def _written(self, journal: Journal, with_metadata: bool) -> tuple[int, carried.Document]:
        """Write all tiles that are not there, and complete the file. Return the number of patterns that were there, and what is known."""
        writer, there = self._begin(journal)
        try:
            continued = sum(self._taken(number, journal.records[number]) for number in range(there))
            done = continued
            if continued:
                log.info("%s: %d of %d patterns are there already", shown(self.path), continued, self.total)
            self.progress("convert", done, self.total)
            left = self.tiles[there:]
            for part in pump(self.source, left, self.chunks, writer.encode, place=writer.place, threads=self.threads):
                self.hashes[part.tile.rows, part.tile.columns] = part.hashes
                for record in writer.put(part):
                    journal.add(record)
                done += part.hashes.size
                self.progress("convert", done, self.total)
            found = checksum(self.hashes, self.cube.shape, native(self.cube.dtype))
            known = carried.document(self.cube, found, NAME, with_metadata)
            writer.finish(known)
        finally:
            writer.close()
        if writer.beside:
            with open(self.passing + carried.ENDING, "w", encoding="utf-8") as file:
                json.dump(known, file, indent=1)
        return continued, known

    def _begin(self, journal: Journal) -> tuple[Writer, int]:
        """Return the writer, and the number of tiles that are there."""
        if journal.records and not self._same_scan(journal):
            journal.restart()
        if not journal.records:
            _remove(self.passing)
        for records in (journal.records, []):
            writer = self.target.make()(Job(self.cube, self.codec, self.chunks, self.tiles, self.passing))
            try:
                there = writer.begin(records)
                if there < len(records):
                    journal.keep(there)
                return writer, there
            except (StartAgain, *FOREIGN) as error:
                writer.close()
                if not records:
                    raise
                log.info("%s: the unfinished conversion cannot be continued (%s)", shown(self.path), error)
                journal.restart()
                _remove(self.passing)
        raise AssertionError("the second try has no records")

    def _same_scan(self, journal: Journal) -> bool:
        """Say whether some tiles of the scan are still those that were written."""
        if not os.path.exists(self.passing) or len(journal.records) > len(self.tiles):
            return False
        numbers = sorted({0, len(journal.records) - 1})[:RETRIED]
        for part, number in zip(pump(self.source, [self.tiles[n] for n in numbers], self.chunks, threads=1), numbers):
            if journals.as_text(part.hashes) != journal.records[number]["hashes"]:
                return False
        return True

    def _taken(self, number: int, record: dict[str, Any]) -> int:
        """Take the hashes of a tile from its record. Return the number of its patterns."""
        tile = self.tiles[number]
        part = self.hashes[tile.rows, tile.columns]
        part[...] = journals.from_text(record["hashes"], part.shape)  # type: ignore[arg-type]
        return part.size

    def _verify(self, known: carried.Document) -> None:
        """Read the file back, and compare every pattern, and the metadata."""
        cube = open_scan(self.passing)
        if cube.shape != self.cube.shape or np.dtype(str(cube.dtype)) != native(self.cube.dtype):
            raise InputError(
                f"{self.path} is read back as {cube.shape} {cube.dtype}, and the scan is {self.cube.shape} {self.cube.dtype}: nothing was "
                "kept; choose another format, and report this"
            )
        wrong: set[int] = set()
        done = 0
        chunks = choose_chunks(cube.source)
        for part in pump(cube.source, tiles(cube.source, chunks, tile_bytes(cube.source, self.threads)), chunks, threads=self.threads):
            differ = (self.hashes[part.tile.rows, part.tile.columns] != part.hashes).any(axis=1)
            wrong |= {part.tile.rows.start + int(row) for row in np.nonzero(differ)[0]}
            done += part.hashes.size
            self.progress("verify", done, self.total)
        if carried.coded(cube.metadata.get("source", {})) != known.get("metadata", {}):
            raise InputError(
                f"{self.path}: the metadata are not read back as they were: leave them out with drop_metadata=True or --drop-metadata"
            )
        if wrong:
            rows = ", ".join(map(str, sorted(wrong)[:NAMED])) + (", …" if len(wrong) > NAMED else "")
            raise InputError(f"{self.path}: rows {rows} were not written as they were read: the disk or memory is faulty; nothing was kept")

    def _notes(self, with_metadata: bool) -> tuple[str, ...]:
        notes = []
        if events_of(below_views(self.source)) is not None:
            why = "only a whole scan stays events" if self.target.events else f"{self.target.name} has no events; `.h5` keeps them"
            notes.append(f"the list of events became patterns: {why}")
        if self.cube.corrections.description:
            notes.append(f"corrections were applied to the patterns: {self.cube.corrections.description}")
        if not with_metadata and carried.kept(self.cube):
            notes.append(f"metadata were left out: {', '.join(sorted(carried.kept(self.cube)))}")
        if self.target.make().beside:
            notes.append(f"calibration and metadata are in {os.path.basename(self.path)}{carried.ENDING} beside it")
        return tuple(notes)


def _give_name(passing: str, path: str, target: Target, overwrite: bool, cube: DataCube) -> None:
    """Rename the complete file. A zarr folder that is replaced is moved away first, and then removed."""
    _check_place(path, target, overwrite, cube)
    if target.make().beside:
        os.replace(passing + carried.ENDING, path + carried.ENDING)
    old = None
    if os.path.isdir(path):
        old = f"{path}.{uuid.uuid4().hex[:8]}.replaced"
        os.replace(path, old)
    elif os.path.exists(path):
        os.chmod(passing, stat.S_IMODE(os.stat(path).st_mode))
    os.replace(passing, path)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _identity(cube: DataCube) -> list[Any] | None:
    """Return what tells a scan in files from another one, or from the same files after a change; None for scans that are in no file."""
    source, views = cube.source, []
    while isinstance(source, View):
        ranges = [[r.start, r.stop] for r in getattr(source, "ranges", ())]
        views.append([type(source).__name__, list(source.shape), ranges, getattr(source, "scan", None), getattr(source, "detector", None)])
        source = source.source
    try:
        stamps = [[path, *_stamp(path)] for path in sorted(raw_files(cube))]
    except OSError:
        return None
    return [stamps, getattr(source, "dataset", None), source.description, views] if stamps else None


def _stamp(path: str) -> tuple[int, int, int]:
    """Return the number of files at a path, their bytes, and when the last one was changed (ns)."""
    inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names] if os.path.isdir(path) else [path]
    found = [os.stat(name) for name in inside]
    return len(found), sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


def _size(path: str) -> int:
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
