"""Read text of any length in HDF5 files, without HDF5: damaged text makes HDF5 run for ever, or crash.

Such text does not lie in its attribute or dataset, but in a *heap*: the attribute holds length, address of a collection, and number in it.
This module finds the attribute in the header of its object, and checks everything that it follows. It knows what HDF5's file format
specification calls object headers of version 1 and 2, attribute messages of version 1 to 3, and global heap collections of version 1.
What it does not find there, as attributes that are stored apart because there are many, HDF5 reads.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import reason

REFERENCE = struct.Struct("<IQI")  # length of a text, address of its collection, number in it
MOST_TEXTS = 4096  # in one attribute or dataset
LONGEST = 16 << 20  # bytes of one collection: HDF5 makes them as long as their longest text, and 4096 at least
MOST_HEADER = 1 << 20  # bytes of one part of an object header
MOST_PARTS = 256  # of an object header
BLOCK = 1 << 15  # bytes that are read at a time
ATTRIBUTE, CONTINUED = 0x0C, 0x10  # kinds of messages in object headers


class DamagedText(InputError):
    """A text is not where the file says, or longer than it can be."""


def is_text(kind: Any) -> bool:
    """Say whether an HDF5 type is text of any length."""
    return isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()


def attribute(node: Any, name: str) -> Any:
    """Return the value of an attribute as h5py does; text as str, or an array of them.

    Raises
    ------
    DamagedText
        Text that cannot be read. What h5py raises for other values is passed on.
    KeyError
        There is no such attribute.
    """
    held = node.attrs.get_id(name)
    if not is_text(held.get_type()):
        _check_fixed(held.get_type())
        return node.attrs[name]
    with FileBytes(node.file) as file:
        references = file.attribute(h5py.h5o.get_info(node.id).addr, name)
        if references is None:
            return node.attrs[name]
        return file.texts(references, held.shape)


def value(dataset: h5py.Dataset) -> Any:
    """Return all of a dataset as h5py does; text as str, or an array of them. For small datasets."""
    if not is_text(dataset.id.get_type()):
        _check_fixed(dataset.id.get_type())
        return dataset[()]
    with FileBytes(dataset.file) as file:
        return file.texts(_stored(dataset, file), dataset.shape)


def _check_fixed(kind: Any) -> None:
    """Refuse values of any length that are no text. They lie in heaps too, and nothing that gpu4d needs is stored so."""
    if isinstance(kind, h5py.h5t.TypeCompoundID) or kind.detect_class(h5py.h5t.VLEN) or kind.detect_class(h5py.h5t.REFERENCE):
        members = [kind.get_member_type(n) for n in range(kind.get_nmembers())] if isinstance(kind, h5py.h5t.TypeCompoundID) else [kind]
        if any(m.detect_class(h5py.h5t.VLEN) or m.detect_class(h5py.h5t.REFERENCE) or is_text(m) for m in members):
            raise InputError("it holds values of any length, or references")


def _stored(dataset: h5py.Dataset, file: FileBytes) -> bytes:
    """Return the references to texts that a dataset holds."""
    plist, size = dataset.id.get_create_plist(), REFERENCE.size * dataset.size
    if dataset.size > MOST_TEXTS or dataset.is_virtual or dataset.external:
        raise DamagedText(f"it holds {dataset.size} texts, or lies in other files")
    if plist.get_layout() == h5py.h5d.CONTIGUOUS:
        at = dataset.id.get_offset() if dataset.id.get_storage_size() else None  # behind a user block, 1023 means "never written"
        return b"" if at is None else file.read(at, size)
    if plist.get_layout() == h5py.h5d.CHUNKED and plist.get_nfilters() == 0 and dataset.id.get_num_chunks() == 1:
        if all(n <= c for n, c in zip(dataset.shape, dataset.chunks)) and dataset.ndim == 1:
            return dataset.id.read_direct_chunk((0,))[1][:size]
    raise DamagedText("it is stored in a way in which texts are not read")


class FileBytes:
    """The bytes of an HDF5 file, read where it says that something lies."""

    def __init__(self, file: h5py.File):
        self.shift = file.userblock_size  # addresses count from the end of the user block
        self.usual = file.id.get_create_plist().get_sizes() == (8, 8)
        self._first, self._block = 0, b""  # what was read last: parts of an object lie near each other
        self.descriptor = os.open(file.filename, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))

    def __enter__(self) -> FileBytes:
        return self

    def __exit__(self, *_: Any) -> None:
        os.close(self.descriptor)

    def read(self, at: int, size: int) -> bytes:
        """Return bytes of the file, counted from its first one. Fewer mean that the file is damaged."""
        inside = at - self._first
        if 0 <= inside <= len(self._block) - size:
            return self._block[inside : inside + size]
        first = at - min(max(at, 0), BLOCK // 2) if size <= BLOCK // 2 else at
        try:
            os.lseek(self.descriptor, first, os.SEEK_SET)
            self._first, self._block = first, os.read(self.descriptor, max(BLOCK, size))
            found = self._block[at - first : at - first + size]
        except (OSError, OverflowError) as error:  # a place that no file has
            raise DamagedText(f"{size} bytes at {at} cannot be read ({reason(error)})") from error
        if len(found) != size:
            raise DamagedText(f"the file ends inside {size} bytes at {at}")
        return found

    def attribute(self, address: int, name: str) -> bytes | None:
        """Return the value of an attribute as it is stored; None if it is not found in the header at an address."""
        if not self.usual:
            return None
        for kind, flags, body in self.messages(address):
            if kind == ATTRIBUTE and not flags & 2:
                found = _attribute(body, name.encode("utf-8", "surrogateescape"))
                if found is not None:
                    return found
        return None

    def messages(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        """Return kind, flags and bytes of all messages of an object header."""
        start = self.read(self.shift + address, 16)
        if start[:4] == b"OHDR":
            flags = start[5]
            at = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            size = int.from_bytes(self.read(self.shift + address + at, width), "little")
            waiting = [(address + at + width, size)]
            head, newer = 6 if flags & 4 else 4, True
        elif start[0] == 1:
            waiting, head, newer = [(address + 16, int.from_bytes(start[8:12], "little"))], 8, False
        else:
            return
        for part in range(MOST_PARTS):
            if part == len(waiting):
                return
            first, size = waiting[part]
            if size > MOST_HEADER:
                raise DamagedText(f"an object header has a part of {size} bytes")
            block, at = self.read(self.shift + first, size), 0
            if newer and part:
                block, at = block[:-4], 4  # a signature before, a checksum behind
            while at + head <= len(block):
                kind, length = (block[at], struct.unpack_from("<H", block, at + 1)[0]) if newer else struct.unpack_from("<HH", block, at)
                body = block[at + head : at + head + length]
                if len(body) < length:
                    break
                if kind == CONTINUED and length >= 16:
                    waiting.append(struct.unpack_from("<QQ", body))
                yield kind, block[at + 3] if newer else block[at + 4], body
                at += head + length

    def texts(self, references: bytes, shape: tuple[int, ...]) -> Any:
        """Return one text for shape (), else an array of them."""
        number = int(np.prod(shape, dtype=np.int64))
        if number > MOST_TEXTS or (references and len(references) < number * REFERENCE.size):
            raise DamagedText(f"it holds {number} texts")
        found = [self._text(*REFERENCE.unpack_from(references, k * REFERENCE.size)) if references else "" for k in range(number)]
        return found[0] if shape == () else np.array(found, object).reshape(shape)

    def _text(self, length: int, address: int, number: int) -> str:
        if length == 0 or address == 0:
            return ""
        head = self.read(self.shift + address, 16)
        size = int.from_bytes(head[8:], "little")
        if head[:5] != b"GCOL\x01" or not 16 < size <= LONGEST:
            raise DamagedText(f"there is no text at byte {address}")
        heap, at = self.read(self.shift + address, size), 16
        while at + 16 <= size:
            index, _, _, held = struct.unpack_from("<HHIQ", heap, at)
            if index == 0 or held > size - at - 16:
                break
            if index == number:
                if length > held:
                    break
                return heap[at + 16 : at + 16 + length].split(b"\0")[0].decode("utf-8", errors="replace")
            at += 16 + (held + 7) // 8 * 8
        raise DamagedText(f"text {number} at byte {address} is not there, or longer than its place")


def _attribute(body: bytes, wanted: bytes) -> bytes | None:
    """Return the value in an attribute message if it has this name. None for others, and for those that are stored in another way."""
    if len(body) < 9 or body[0] not in (1, 2, 3):
        return None
    version = body[0]
    lengths = struct.unpack_from("<HHH", body, 2)
    if version > 1 and body[1] & 3:
        return None  # its type is stored apart
    at = 9 if version == 3 else 8
    if body[at : at + lengths[0]].rstrip(b"\0") != wanted:
        return None
    return body[at + sum((n + 7) // 8 * 8 if version == 1 else n for n in lengths) :]
