"""Read the tags of DigitalMicrograph files (DM3 and DM4): a tree of named values. Large arrays stay where they are.

A file begins with its version (3 or 4), the length of all tags, and the byte order of values. Then comes a group. A group is two
flags, the number of its tags, and the tags. A tag is its kind (a group or data), its name, in DM4 its length in bytes, and what it
holds. Data begin with "%%%%", then come numbers that describe the type, then values. All of this structure is stored highest byte
first. Only values have the byte order that the header says. DM4 has eight bytes for each length and count where DM3 has four.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown

GROUP, DATA = 20, 21  # kinds of tags
STRUCT, STRING, ARRAY = 15, 18, 20  # types that are made of others
# Types of single values, in the letters of `struct` and NumPy.
SIMPLE = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "?", 9: "b", 10: "B", 11: "q", 12: "Q"}
CHARACTER = "H"  # 16 bits, of which texts are arrays
MARK = b"%%%%"
DEEPEST = 64  # groups inside each other; files of the program have about 12
MOST_TAGS = 1_000_000  # in a file; those of the program have some thousand
MOST_VALUES = 4096  # of an array that becomes a value; longer ones stay in the file
MOST_INFO = 1024  # numbers that describe one type

Tags = dict[Any, Any]  # name (or number, where a tag has no name) -> value, Block or Tags


@dataclass(frozen=True)
class Block:
    """An array in the file that was not read.

    Attributes
    ----------
    offset : int
        Its first byte.
    nbytes : int
    kind : str
        Type of its values, such as "<u2"; "" for structures.
    """

    offset: int
    nbytes: int
    kind: str

    def __repr__(self) -> str:
        return f"<{self.nbytes} bytes of {self.kind or 'structures'} at byte {self.offset}>"


def is_dm(head: bytes) -> bool:
    """Say whether a file with these first bytes is a DM3 or DM4 file."""
    if len(head) < 20 or head[:3] != bytes(3) or head[3] not in (3, 4):
        return False
    at = 8 if head[3] == 3 else 12
    return head[at : at + 3] == bytes(3) and head[at + 3] in (0, 1) and head[at + 4] in (0, 1) and head[at + 5] in (0, 1)


def read_tags(path: str) -> tuple[int, Tags]:
    """Return the version of a file and its tags.

    Raises
    ------
    InputError
        It ends before its tags do, or is damaged: counts beyond its size, groups inside each other without an end, unknown types.
    """
    try:
        with open(path, "rb") as file:
            return _Reader(path, file).read()
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({shown(error.strerror or str(error))})") from error
    except struct.error as error:
        raise InputError(f"{shown(path)}: the file ends within its tags: it is truncated; copy it again") from error


class _Reader:
    """Reads one file from its beginning to its end."""

    def __init__(self, path: str, file: IO[bytes]):
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.tags = 0

    def read(self) -> tuple[int, Tags]:
        version = self._number(">I")
        if version not in (3, 4):
            raise self._damaged(f"version {version} of the format; 3 and 4 are read")
        self.wide = version == 4
        self._count()  # length of the root group: files that were written in pieces have a wrong one
        self.order = "<" if self._number(">I") == 1 else ">"
        return version, self._group(0)

    def _damaged(self, why: str) -> InputError:
        return InputError(f"{shown(self.path)}: not a readable DigitalMicrograph file ({why}): it is damaged, copy it again")

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self.file.read(struct.calcsize(layout)))[0]

    def _count(self) -> int:
        return self._number(">Q" if self.wide else ">I")

    def _left(self) -> int:
        return self.size - self.file.tell()

    def _group(self, depth: int) -> Tags:
        if depth > DEEPEST:
            raise self._damaged(f"more than {DEEPEST} groups inside each other")
        self.file.read(2)  # whether it is sorted, and shown open
        count, found = self._count(), Tags()
        if count > self._left() // 3:  # a tag has at least a kind and a length of its name
            raise self._damaged(f"a group of {count} tags")
        for number in range(count):
            kind, length = struct.unpack(">BH", self.file.read(3))
            if kind not in (GROUP, DATA):
                raise self._damaged(f"a tag of kind {kind}")
            self.tags += 1
            if self.tags > MOST_TAGS:
                raise self._damaged(f"more than {MOST_TAGS} tags")
            name = self.file.read(length).decode("latin-1")
            if self.wide:
                self._count()  # bytes of what follows, which it says by itself
            found[name or number] = self._group(depth + 1) if kind == GROUP else self._data()
        return found

    def _data(self) -> Any:
        if self.file.read(4) != MARK:
            raise self._damaged("a value without its mark")
        n = self._count()
        if not 1 <= n <= MOST_INFO:
            raise self._damaged(f"a type of {n} numbers")
        info = struct.unpack(f">{n}{'Q' if self.wide else 'I'}", self.file.read(n * (8 if self.wide else 4)))
        if info[0] == ARRAY:
            return self._array(info[1:])
        if info[0] == STRUCT:
            return tuple(self._simple(kind) for kind in self._fields(info[1:])[0])
        if info[0] == STRING:
            if len(info) < 2:
                raise self._damaged("a text without a length")
            return self._text(self._values(CHARACTER, info[1]))
        return self._simple(info[0])

    def _simple(self, kind: int) -> Any:
        if kind not in SIMPLE:
            raise self._damaged(f"a value of type {kind}")
        return self._number(self.order + SIMPLE[kind])

    def _fields(self, info: tuple[int, ...]) -> tuple[list[int], int]:
        """Return the types of a structure's fields, and how many numbers describe it."""
        if len(info) < 2 or info[1] > MOST_INFO or len(info) < 2 + 2 * info[1]:
            raise self._damaged("a structure whose description is incomplete")
        kinds = list(info[3 : 2 + 2 * info[1] : 2])
        if any(kind not in SIMPLE for kind in kinds):
            raise self._damaged(f"a structure of types {kinds[:8]}")
        return kinds, 2 + 2 * info[1]

    def _array(self, info: tuple[int, ...]) -> Any:
        """Return a short array as text or a tuple; where it lies, for a long one."""
        if not info:
            raise self._damaged("an array without a type")
        if info[0] == STRUCT:
            kinds, used = self._fields(info[1:])
            width, kind, rest = sum(np.dtype(SIMPLE[k]).itemsize for k in kinds), "", info[1 + used :]
        elif info[0] in SIMPLE:
            kind, rest = SIMPLE[info[0]], info[1:]
            width = np.dtype(kind).itemsize
        else:
            raise self._damaged(f"an array of type {info[0]}")
        if len(rest) != 1:
            raise self._damaged("an array whose description has no length")
        count, left = rest[0], self._left()
        if width * count > left:
            raise InputError(
                f"{shown(self.path)}: an array of {count * width} bytes, of which the file holds {left}: it is truncated; copy it again"
            )
        if kind and count <= MOST_VALUES:
            values = self._values(kind, count)
            return self._text(values) if kind == CHARACTER else tuple(values.tolist())
        block = Block(self.file.tell(), width * count, np.dtype(self.order + kind).str if kind else "")
        self.file.seek(width * count, os.SEEK_CUR)
        return block

    def _values(self, kind: str, count: int) -> np.ndarray:
        dtype = np.dtype(self.order + kind)
        if count > MOST_VALUES or count * dtype.itemsize > self._left():
            raise self._damaged(f"a text of {count} characters")
        return np.frombuffer(self.file.read(count * dtype.itemsize), dtype)

    @staticmethod
    def _text(values: np.ndarray) -> Any:
        """Return the text that 16-bit numbers stand for, or the numbers if they cannot be one. The program stores text like this."""
        try:
            text = values.astype("<u2").tobytes().decode("utf-16-le")
        except UnicodeDecodeError:
            return tuple(values.tolist())
        return text if all(c.isprintable() or c in "\t\r\n" for c in text) else tuple(values.tolist())
