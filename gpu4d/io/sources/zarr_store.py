"""Read the files of a zarr store: a folder, or a zip file. Nothing outside the store is opened."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown

MOST_TEXT = 64 << 20  # bytes of one file of metadata
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a file in a zip file: signature, lengths of its name and of what follows it
SIGNATURE = b"PK\x03\x04"
Key = str  # names with "/" between them, as zarr counts them: "Experiments/scan/data/.zarray"


class Place(NamedTuple):
    """Where the bytes of a key lie."""

    file: str
    offset: int
    size: int


class Store(Protocol):
    """Finds keys. Can be pickled, and used by several threads at a time."""

    path: str

    def groups(self, key: Key) -> list[str]:
        """Return the names below a key that have names below themselves, in order."""
        ...

    def locate(self, key: Key) -> Place | None:
        """Return where the bytes of a key lie; None if it is not there."""
        ...

    def stored(self, key: Key) -> Iterator[int]:
        """Return the sizes of all files below a key, one after the other."""
        ...


def text_of(store: Store, key: Key) -> bytes | None:
    """Return the bytes of a small file; None if it is not there."""
    place = store.locate(key)
    if place is None:
        return None
    if place.size > MOST_TEXT:
        raise InputError(
            f"{shown(store.path)}: {shown(key)} has {place.size} bytes, too many for a file of metadata: it is damaged, copy it again"
        )
    try:
        with open(place.file, "rb") as file:
            file.seek(place.offset)
            return file.read(place.size)
    except OSError as error:
        raise InputError(f"{shown(place.file)}: cannot be read ({reason(error)})") from error


class FolderStore:
    """A folder. Links in it may lead to other places in it, and nowhere else."""

    def __init__(self, path: str):
        self.path = os.path.abspath(path)
        self._root = os.path.realpath(path)
        self._inside = {self._root}  # folders that were checked

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.path,)

    def groups(self, key: Key) -> list[str]:
        folder = os.path.join(self._root, *key.split("/"))
        self._check(folder)
        try:
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except OSError as error:
            raise InputError(f"{shown(folder)}: cannot be read ({reason(error)})") from error

    def locate(self, key: Key) -> Place | None:
        file = os.path.join(self._root, *key.split("/"))
        try:
            found = os.lstat(file)
            self._check(os.path.dirname(file))
            if stat.S_ISLNK(found.st_mode):
                self._check(file)
                found = os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{shown(file)}: cannot be read ({reason(error)})") from error
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{shown(file)} is not a regular file: the zarr store is damaged, copy it again")
        return Place(file, 0, found.st_size)

    def stored(self, key: Key) -> Iterator[int]:
        waiting = [os.path.join(self._root, *key.split("/"))]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        elif entry.is_file():
                            yield entry.stat().st_size
            except OSError:
                continue  # reading says what is wrong with it

    def _check(self, name: str) -> None:
        """Raise an error if a name leads out of the store."""
        if name in self._inside:
            return
        real = os.path.realpath(name)
        if os.path.commonpath([real, self._root]) != self._root:
            raise InputError(f"{shown(name)} is a link that leads out of the zarr store {shown(self.path)}: copy what it leads to into it")
        if os.path.isdir(name):
            self._inside.add(name)


class ZipStore:
    """A zip file whose members are not compressed, as zarr writes it."""

    def __init__(self, path: str):
        self.path = os.path.abspath(path)
        try:
            with zipfile.ZipFile(path) as held:
                members = held.infolist()
        except (*FOREIGN, zipfile.BadZipFile, NotImplementedError) as error:
            raise InputError(
                f"{shown(path)}: not a readable zip file ({reason(error)}): it is truncated or damaged, copy it again"
            ) from error
        self._size = os.path.getsize(path)
        self._members = {member.filename.strip("/"): member for member in members if not member.is_dir()}
        self._groups: dict[str, dict[str, None]] = {}
        for name in self._members:
            parts = name.split("/")
            for depth in range(min(len(parts) - 1, MOST_DEPTH)):
                self._groups.setdefault("/".join(parts[:depth]), {})[parts[depth]] = None

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.path,)

    def groups(self, key: Key) -> list[str]:
        return sorted(self._groups.get(key.strip("/"), ()))

    def locate(self, key: Key) -> Place | None:
        member = self._members.get(key.strip("/"))
        if member is None:
            return None
        where = f"{shown(self.path)}: {shown(key)}"
        if member.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{where} is compressed once more by the zip file: unpack it into a folder, and open that")
        try:
            with open(self.path, "rb") as file:
                file.seek(member.header_offset)
                signature, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        except (OSError, struct.error, ValueError) as error:
            raise InputError(f"{where} cannot be read ({reason(error)}): the zip file is damaged, copy it again") from error
        offset = member.header_offset + LOCAL_HEADER.size + name + extra
        if signature != SIGNATURE or member.file_size != member.compress_size or offset + member.file_size > self._size:
            raise InputError(f"{where} does not lie where the zip file says: it is damaged, copy it again")
        return Place(self.path, offset, member.file_size)

    def stored(self, key: Key) -> Iterator[int]:
        below = key.strip("/") + "/" if key.strip("/") else ""
        yield from (member.file_size for name, member in self._members.items() if name.startswith(below))


MOST_DEPTH = 32  # groups inside each other
