"""Write scans into HDF5 files: EMD 1.0, and HyperSpy's `.hspy`."""

from __future__ import annotations

import json
import uuid
from typing import Any, ClassVar

import h5py
import numpy as np

from gpu4d._version import __version__
from gpu4d.data.datacube import DataCube
from gpu4d.io.formats import emd_cube, emd_nodes
from gpu4d.io.formats.carried import Document, decoded
from gpu4d.io.writing import hyperspy
from gpu4d.io.writing.chunks import Tile
from gpu4d.io.writing.encoders import Encoder
from gpu4d.io.writing.journal import Record
from gpu4d.io.writing.packed_hdf5 import CHECKSUM, KIND, make_dataset
from gpu4d.io.writing.plain_files import Block
from gpu4d.io.writing.pump import Done, native
from gpu4d.io.writing.replayed_file import ReplayedFile
from gpu4d.io.writing.writer import Job, StartAgain, record_of
from gpu4d.io.writing.xxh64 import hash_patterns

ROOT = "gpu4d"  # of EMD files


class Hdf5File:
    """A file whose patterns are one dataset: chunks, or one block of values.

    Only groups without attributes, and the dataset, are made before the patterns. So the chunks of an unfinished file lie where they
    would lie if it was written once more, and it can be continued.
    """

    folder: ClassVar = False
    beside: ClassVar = False

    def __init__(self, job: Job):
        self.job, self.cube = job, job.cube
        self.place = None if job.codec != "none" else self._place
        self.encode: Encoder | None = None
        self._safe: ReplayedFile | None = None
        self._file: h5py.File | None = None
        self._block: Block | None = None

    def group_name(self) -> str:
        """Return the path of the group of the scan."""
        raise NotImplementedError

    def describe(self, file: h5py.File, group: h5py.Group, known: Document) -> None:
        """Write everything but the patterns."""
        raise NotImplementedError

    def begin(self, records: list[Record]) -> int:
        self._safe = ReplayedFile(self.job.path)
        self._file = h5py.File(self._safe, "w")
        group = self._file.create_group(self.group_name())
        if self.job.codec == "none":
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            plist.set_obj_track_times(False)
            dtype = native(self.cube.dtype)
            space = h5py.h5s.create_simple(self.cube.shape)
            made = h5py.h5d.create(group.id, b"data", h5py.h5t.py_create(dtype, logical=True), space, dcpl=plist)
            self._block = Block(self.job.path, made.get_offset(), self.cube.shape, dtype.itemsize)
            self._safe.end = self._block.offset + self.cube.nbytes
            return len(records)
        self._dataset, self.encode = make_dataset(group, "data", self.cube.source, self.job.codec)
        return self._replayed(records)

    def _replayed(self, records: list[Record]) -> int:
        """Write the chunks of an earlier process once more. Return the number of tiles whose chunks are all whole."""
        assert self._safe is not None
        for number, record in enumerate(records):
            chunks = [(x, y, at, self._safe.read_at(at, size), mark) for x, y, at, size, mark in record["chunks"]]
            if any(_mark(data) != mark for *_, data, mark in chunks):
                return number
            for x, y, at, data, _ in chunks:
                self._write((x, y), np.frombuffer(data, np.uint8), at)
        return len(records)

    def _write(self, place: tuple[int, int], coded: np.ndarray, expected: int = -1) -> int:
        """Write a chunk. Return where it is in the file."""
        assert self._safe is not None
        self._safe.await_chunk(coded.nbytes, expected)
        self._dataset.id.write_direct_chunk((*place, 0, 0), coded)
        if self._safe.moved or self._safe.placed < 0:
            raise StartAgain
        if self._safe.error is not None:
            raise self._safe.error
        return self._safe.placed

    def _place(self, tile: Tile, patterns: np.ndarray) -> None:
        assert self._block is not None
        self._block.place(tile, patterns)

    def put(self, part: Done) -> list[Record]:
        chunks = [[*place, self._write(place, coded), coded.nbytes, _mark(coded)] for place, coded in part.chunks]
        return [record_of(part, chunks=chunks)]

    def finish(self, known: Document) -> None:
        assert self._file is not None and self._safe is not None
        group = self._file[self.group_name()]
        group["data"].attrs[CHECKSUM], group["data"].attrs[KIND] = known["checksum"], known["checksum_kind"]
        self.describe(self._file, group, known)
        self._file.close()
        self._file = None
        if self._block is not None:
            self._block.close(whole=True)
        self._safe.finish()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._block is not None:
            self._block.close()
        if self._safe is not None:
            self._safe.file.close()


class Emd(Hdf5File):
    """EMD 1.0, as py4DSTEM and emdfile read it."""

    def group_name(self) -> str:
        return f"{ROOT}/{name_of(self.cube)}"

    def describe(self, file: h5py.File, group: h5py.Group, known: Document) -> None:
        header = {"emd_group_type": "file", "version_major": 1, "version_minor": 0, "UUID": str(uuid.uuid4())}
        _attributes(file, {**header, "authoring_program": f"gpu4d {__version__}", "authoring_user": ""})
        _attributes(file[ROOT], {"emd_group_type": "root", "python_class": "Root"})
        _attributes(group, {"emd_group_type": "array", "python_class": "DataCube"})
        emd_cube.describe_cube(group, self.cube)
        keys = emd_nodes.calibration_keys(self.cube.calibration, [f"/{name_of(self.cube)}"])
        emd_nodes.write_metadata(file[ROOT], "calibration", keys, "Calibration")
        if "metadata" in known:
            emd_nodes.write_metadata(file[ROOT], "source", decoded(known["metadata"]))
            _write_document(group, known)  # names with "/" and lists of dictionaries are changed in EMD


class Hspy(Hdf5File):
    """HyperSpy's HDF5."""

    def group_name(self) -> str:
        return f"{hyperspy.TOP}/{name_of(self.cube)}"

    def describe(self, file: h5py.File, group: h5py.Group, known: Document) -> None:
        _attributes(file, {"file_format": "HyperSpy", "file_format_version": hyperspy.VERSION})
        for path, values in hyperspy.groups(self.cube, name_of(self.cube)).items():
            _attributes(group.require_group(path) if path else group, values)
        _write_document(group, known)


def name_of(cube: DataCube) -> str:
    """Return the name of a scan as a group may be called."""
    name = cube.name.replace("/", "_").replace("\0", "")
    return "datacube" if name in ("", ".", "..", "metadatabundle") else name


def _write_document(group: h5py.Group, known: Document) -> None:
    """Write what is known of a scan as text that is no attribute: those may not be longer than 64 kB."""
    group.require_group(hyperspy.OURS).create_dataset("json", data=np.frombuffer(json.dumps(known).encode(), np.uint8))


def _attributes(node: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        node.attrs[key] = value


def _mark(data: bytes | np.ndarray) -> str:
    """Return the XXH64 of the bytes of a chunk."""
    out = np.empty(1, np.uint64)
    hash_patterns(np.frombuffer(data, np.uint8).reshape(1, -1).copy() if isinstance(data, bytes) else data.reshape(1, -1), out)
    return f"{int(out[0]):016x}"
