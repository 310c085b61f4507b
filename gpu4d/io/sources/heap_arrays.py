"""Read arrays of different lengths from HDF5 files, without HDF5: it runs for ever where the heap they lie in is damaged.

A dataset of such arrays holds a reference for each: its length, the address of a *collection* of objects, and its number in it. This module
knows datasets that lie in the file as they are, in one block or in chunks, and global heap collections of version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import h5py
import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import reason, shown

REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("number", "<u4")])
OBJECT = np.dtype([("number", "<u2"), ("used", "<u2"), ("reserved", "<u4"), ("size", "<u8")])  # before each object of a collection
USUAL_COLLECTION = 1 << 20  # bytes: HDF5 makes them 4096 long, or as long as an object that does not fit; a larger size is damage


@dataclass(frozen=True)
class HeapArrays:
    """Arrays of different lengths in an HDF5 file. Can be pickled.

    Attributes
    ----------
    path, dataset : str
    references : (n,) structured array
        In memory: where each array lies.
    dtype : numpy.dtype
        Of the values, as stored.
    shift : int
        Bytes of the user block, from whose end addresses count.
    """

    path: str
    dataset: str
    references: np.ndarray
    dtype: np.dtype
    shift: int

    @classmethod
    def of(cls, dataset: h5py.Dataset, path: str, name: str) -> HeapArrays:
        """Read where the arrays of a one-dimensional dataset lie.

        Raises
        ------
        InputError
            It holds no arrays of whole numbers, or it is stored in another way than as it is.
        """
        kind = h5py.check_vlen_dtype(dataset.dtype)
        if not isinstance(kind, np.dtype) or kind.kind not in "iu" or dataset.ndim != 1 or dataset.is_virtual or dataset.external:
            raise InputError(
                f"{shown(path)}: {shown(name)} is no list of arrays of whole numbers: the file is damaged, or of another version"
            )
        if dataset.file.id.get_create_plist().get_sizes() != (8, 8):
            raise InputError(f"{shown(path)}: addresses in it are not of the usual 8 bytes: write the file again")
        return cls(path, name, _references(dataset, path, name), kind, dataset.file.userblock_size)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64."""
        return self.references["length"].astype(np.int64)

    def read(self, arrays: np.ndarray) -> np.ndarray:
        """Return the values of some arrays, one after the other, in native byte order.

        Raises
        ------
        InputError
            An array is not where the file says.
        """
        wanted = self.references[arrays]
        lengths = wanted["length"].astype(np.int64)
        out = np.empty(int(lengths.sum()), self.dtype.newbyteorder("="))
        held, address, places = b"", -1, {}
        try:
            with open(self.path, "rb", buffering=0) as file:
                stop = 0
                for length, at, number in zip(lengths.tolist(), wanted["address"].tolist(), wanted["number"].tolist()):
                    if not length:
                        continue
                    if at != address:  # arrays that follow each other often lie in one collection
                        held, address = self._collection(file, at, length * self.dtype.itemsize), at
                        places = _objects(held)
                    first, size = places.get(number, (0, 0))
                    if length * self.dtype.itemsize > size:
                        raise self._damaged(f"array {number} at byte {at} is not there, or longer than its place")
                    out[stop : stop + length] = np.frombuffer(held, self.dtype, length, first)
                    stop += length
        except OSError as error:
            raise InputError(f"{shown(self.path)}: cannot be read ({reason(error)})") from error
        return out

    def _collection(self, file: BinaryIO, address: int, least: int) -> bytes:
        """Return the bytes of a collection that holds an object of at least so many."""
        try:
            file.seek(self.shift + address)
            head = file.read(16)
            size = int.from_bytes(head[8:], "little")
            if head[:5] != b"GCOL\x01" or not 16 < size <= max(USUAL_COLLECTION, 2 * least):
                raise self._damaged(f"there are no arrays at byte {address}")
            found = head + file.read(size - 16)
        except (OverflowError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise self._damaged(f"there is no byte {address}") from error
        if len(found) != size:
            raise self._damaged(f"the file ends inside the arrays at byte {address}")
        return found

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"{shown(self.path)}: {shown(self.dataset)} cannot be read ({why}): the file is truncated or damaged, copy it again"
        )


def _references(dataset: h5py.Dataset, path: str, name: str) -> np.ndarray:
    """Return the references that a dataset holds."""
    plist, size = dataset.id.get_create_plist(), dataset.id.get_storage_size()
    layout = plist.get_layout()
    if len(dataset) == 0 or size < len(dataset) * REFERENCE.itemsize:
        raise InputError(
            f"{shown(path)}: {shown(name)} has {len(dataset)} arrays, and {size} bytes of references to them: not all are written"
        )
    if layout == h5py.h5d.CONTIGUOUS:
        read = np.fromfile(path, REFERENCE, len(dataset), offset=dataset.id.get_offset())
        if len(read) != len(dataset):
            raise InputError(
                f"{shown(path)}: {shown(name)} ends after {len(read)} of {len(dataset)} arrays: the file is truncated, copy it again"
            )
        return read
    if layout != h5py.h5d.CHUNKED or plist.get_nfilters():
        raise InputError(f"{shown(path)}: {shown(name)} is compressed, or stored in a way that is not read: write it without compression")
    found = np.zeros(len(dataset), REFERENCE)
    for k in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(k)
        data = dataset.id.read_direct_chunk(chunk.chunk_offset)[1]
        first = chunk.chunk_offset[0]
        part = np.frombuffer(data, REFERENCE, len(data) // REFERENCE.itemsize)[: len(dataset) - first]
        found[first : first + len(part)] = part
    return found


def _objects(collection: bytes) -> dict[int, tuple[int, int]]:
    """Return first byte and size of every object in a collection, by its number."""
    found, at = {}, 16
    while at + OBJECT.itemsize <= len(collection):
        number = int.from_bytes(collection[at : at + 2], "little")
        size = int.from_bytes(collection[at + 8 : at + 16], "little")
        if number == 0 or size > len(collection) - at - 16:
            break  # the rest is free
        found[number] = at + 16, size
        at += 16 + (size + 7) // 8 * 8
    return found
