"""Write scans as zarr: version 3 with shards, version 2 with a file for each chunk, and HyperSpy's `.zspy`."""

from __future__ import annotations

import json
import os
import struct
from typing import Any, ClassVar

import numpy as np

from gpu4d.io.formats.carried import MARK, Document
from gpu4d.io.sources.crc32c import crc32c
from gpu4d.io.sources.zarr_source import NOWHERE
from gpu4d.io.writing import hyperspy
from gpu4d.io.writing.chunks import Chunks, frame_bytes
from gpu4d.io.writing.encoders import Blosc, Encoder, Plain
from gpu4d.io.writing.hdf5_files import name_of
from gpu4d.io.writing.journal import Record
from gpu4d.io.writing.pump import Done, native
from gpu4d.io.writing.writer import Job, record_of

SHARD_BYTES = 128 << 20  # of patterns: few files, and each can be copied and cached as a whole
AXES = ("Rx", "Ry", "Qx", "Qy")


class ZarrFolder:
    """A folder with files of chunks."""

    folder: ClassVar = True
    beside: ClassVar = False
    place = None
    key = ""  # of the array in the store

    def __init__(self, job: Job):
        self.job, self.cube = job, job.cube
        self.dtype = native(job.cube.dtype)
        self.encode: Encoder = Plain() if job.codec == "none" else Blosc(job.codec, self.dtype.itemsize)
        self.chunks = (*job.chunks, *job.cube.detector_shape)

    def begin(self, records: list[Record]) -> int:
        os.makedirs(self.job.path, exist_ok=True)
        return len(records)

    def put(self, part: Done) -> list[Record]:
        for place, coded in part.chunks:
            write_file(self._file(self.name_of_chunk([p // c for p, c in zip(place, self.job.chunks)] + [0, 0])), coded)
        return [record_of(part)]

    def name_of_chunk(self, numbers: list[int]) -> str:
        return "/".join(map(str, numbers))

    def describe(self, known: Document) -> None:
        """Write the files that say what is in the store."""
        raise NotImplementedError

    def finish(self, known: Document) -> None:
        self.describe(known)

    def close(self) -> None:
        pass

    def _file(self, name: str) -> str:
        path = os.path.join(self.job.path, *self.key.split("/"), *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def _json(self, name: str, content: Any) -> None:
        path = os.path.join(self.job.path, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_file(path, json.dumps(content, indent=1).encode())


class Zarr3(ZarrFolder):
    """One array of version 3, in shards of whole rows of the scan."""

    def __init__(self, job: Job):
        super().__init__(job)
        rx, ry = job.cube.scan_shape
        down = job.tiles[0].rows.stop - job.tiles[0].rows.start
        down = -(-down // job.chunks[0]) * job.chunks[0]  # rows of a tile, in whole chunks
        row = ry * frame_bytes(job.cube.shape, self.dtype.itemsize)
        rows = min(down * max(1, SHARD_BYTES // (down * row)), -(-rx // job.chunks[0]) * job.chunks[0])
        self.shard: Chunks = rows, -(-ry // job.chunks[1]) * job.chunks[1]
        self.inside = self.shard[0] // job.chunks[0], self.shard[1] // job.chunks[1]
        self._writing: Any = None
        self._waiting: list[Record] = []

    def begin(self, records: list[Record]) -> int:
        super().begin(records)
        return len(records)

    def put(self, part: Done) -> list[Record]:
        number = part.tile.rows.start // self.shard[0]
        if self._writing is None:
            self._name = self._file(f"c/{number}/0/0/0")
            self._writing, self._at = open(self._name + ".part", "wb"), 0
            self._index = np.full((*self.inside, 2), NOWHERE, "<u8")
        for (x, y), coded in part.chunks:
            self._index[x // self.job.chunks[0] % self.inside[0], y // self.job.chunks[1]] = self._at, coded.nbytes
            self._writing.write(coded)
            self._at += coded.nbytes
        self._waiting.append(record_of(part))
        rx, ry = self.cube.scan_shape
        whole_rows = part.tile.rows.stop == rx or part.tile.rows.stop == (number + 1) * self.shard[0]
        if part.tile.columns.stop < ry or not whole_rows:
            return []
        self._complete()
        done, self._waiting = self._waiting, []
        return done

    def _complete(self) -> None:
        """Write the index of a shard, and give the file its name."""
        index = np.frombuffer(self._index.tobytes(), np.uint8)
        self._writing.write(index)
        self._writing.write(struct.pack("<I", crc32c(index)))
        self._writing.flush()
        os.fsync(self._writing.fileno())
        self._writing.close()
        self._writing = None
        os.replace(self._name + ".part", self._name)

    def close(self) -> None:
        if self._writing is not None:
            self._writing.close()
            os.unlink(self._name + ".part")
            self._writing = None

    def describe(self, known: Document) -> None:
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        codecs: list[Any] = [little]
        if isinstance(self.encode, Blosc):
            settings = {"typesize": self.dtype.itemsize, "cname": self.encode.name, "clevel": self.encode.level}
            codecs.append({"name": "blosc", "configuration": {**settings, "shuffle": "bitshuffle", "blocksize": 0}})
        sharding = {"chunk_shape": self.chunks, "codecs": codecs, "index_codecs": [little, {"name": "crc32c"}], "index_location": "end"}
        node = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.cube.shape,
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": (*self.shard, *self.cube.detector_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": False if self.dtype.kind == "b" else 0.0 if self.dtype.kind == "f" else 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": AXES,
            "attributes": {MARK: known},
        }
        self._json("zarr.json", node)


class Zarr2(ZarrFolder):
    """One array of version 2, a file for each chunk."""

    def describe(self, known: Document) -> None:
        self.describe_array({MARK: known, "_ARRAY_DIMENSIONS": AXES})

    def describe_array(self, attributes: Any) -> None:
        """Write `.zarray` and `.zattrs`."""
        compressor = None
        if isinstance(self.encode, Blosc):
            compressor = {"id": "blosc", "cname": self.encode.name, "clevel": self.encode.level, "shuffle": 2, "blocksize": 0}
        given = {
            "zarr_format": 2,
            "shape": self.cube.shape,
            "chunks": self.chunks,
            "dtype": self.dtype.newbyteorder("<").str,
            "compressor": compressor,
            "fill_value": 0,
            "order": "C",
            "filters": None,
            "dimension_separator": "/",
        }
        prefix = f"{self.key}/" if self.key else ""
        self._json(f"{prefix}.zarray", given)
        self._json(f"{prefix}.zattrs", attributes)


class Zspy(Zarr2):
    """HyperSpy's zarr: version 2, in its groups."""

    def __init__(self, job: Job):
        super().__init__(job)
        self.above = f"{hyperspy.TOP}/{name_of(job.cube)}"
        self.key = f"{self.above}/data"

    def describe(self, known: Document) -> None:
        self.describe_array({})
        top = {"": {"file_format": "ZSpy", "file_format_version": hyperspy.VERSION}, hyperspy.TOP: {}}
        held = {f"{self.above}/{path}".strip("/"): values for path, values in hyperspy.groups(self.cube, name_of(self.cube)).items()}
        held |= {f"{self.above}/{hyperspy.OURS}": {"json": json.dumps(known)}}
        for path, values in {**top, **held}.items():
            parts = path.split("/") if path else []
            for depth in range(len(parts) + 1):
                self._json("/".join([*parts[:depth], ".zgroup"]), {"zarr_format": 2})
            self._json("/".join([*parts, ".zattrs"]), values)


def write_file(path: str, content: Any) -> None:
    """Write a file beside its place, and rename it."""
    with open(path + ".part", "wb") as file:
        file.write(content)
    os.replace(path + ".part", path)
