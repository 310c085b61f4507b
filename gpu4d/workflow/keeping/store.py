"""Keep entries in the user's folder for caches: written beside and renamed, checked when they are read, bounded, and cleared."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gpu4d.device.memory import parse_memory
from gpu4d.errors import InputError
from gpu4d.io import leftovers
from gpu4d.sizes import format_bytes

VARIABLE = "GPU4D_CACHE"  # of the environment: a folder, or "off"
FOLDER = "runs"  # beside the folder of compiled code
LIMIT_FILE = "limit"
LIMIT = 5_000_000_000  # bytes: some runs of scans with a hundred thousand patterns
LARGEST = 0.5  # of the limit: one entry that is larger would push out nearly everything else
MAGIC = b"gpu4d kept 1\n"
LEAST_FREE = 2_000_000_000  # bytes of the drive that are left to others
ENDING = ".kept"
DIGEST = 32  # bytes of the digest at the end of an entry


@dataclass(frozen=True)
class Entry:
    """One entry: its file, and what it follows from, by name with digests."""

    path: Path
    head: dict[str, Any]


class Store:
    """The kept entries of all runs.

    Parameters
    ----------
    folder : Path
    limit : int
        Bytes. The entries that were not used for the longest time are removed when there are more.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    def entries(self, scan: str, name: str) -> list[Entry]:
        """Return the entries of a scan with a name, the one that was used last first. What cannot be read is left out."""
        found = []
        for path in sorted(_files(self.folder / scan, f"{name}."), key=_age):
            with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
                if file.readline() == MAGIC:
                    found.append(Entry(path, json.loads(file.readline())))
        return found

    def read(self, entry: Entry) -> memoryview | None:
        """Return the content of an entry. None if it is damaged or gone: it is removed then."""
        try:
            whole = memoryview(entry.path.read_bytes())
            if hashlib.sha256(whole[:-DIGEST]).digest() == whole[-DIGEST:]:
                os.utime(entry.path)
                return whole[_end_of_head(whole) : -DIGEST]
        except (OSError, ValueError, MemoryError):
            pass
        with contextlib.suppress(OSError):
            entry.path.unlink()
        return None

    def put(self, scan: str, name: str, key: str, head: dict[str, Any], write: Callable[[BinaryIO], None]) -> None:
        """Write an entry beside its place, and rename it.

        Raises
        ------
        OSError
            It cannot be written, is too large, or the drive is nearly full. Nothing of it is left.
        """
        place = self.folder / scan
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.disk_usage(self.folder).free < LEAST_FREE:
            raise OSError(f"the drive of {self.folder} has less than {format_bytes(LEAST_FREE)} free")
        place.mkdir(exist_ok=True, mode=0o700)
        descriptor, unfinished = tempfile.mkstemp(prefix=".", suffix=".new", dir=place)
        try:
            with leftovers.held(unfinished, unfinished=True), open(descriptor, "wb") as file:
                hashed = _Hashed(file, int(LARGEST * self.limit))
                hashed.write(MAGIC + json.dumps(head, sort_keys=True).encode() + b"\n")
                write(hashed)  # type: ignore[arg-type]
                file.write(hashed.digest())
                file.flush()
                os.replace(unfinished, place / f"{name}.{key}{ENDING}")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise

    def tidy(self) -> None:
        """Remove the entries that were not used for the longest time until the others are within the limit, and unfinished ones."""
        with contextlib.suppress(OSError):
            files = sorted(_files(self.folder, "", deep=True), key=_age)
            total = 0
            for path in files:
                total += path.stat().st_size
                if total > self.limit:
                    path.unlink()
            for place in self.folder.iterdir():
                if place.is_dir():
                    leftovers.remove(leftovers.abandoned(place, ".", ".new"))

    def clear(self) -> tuple[int, int]:
        """Remove all entries. Return how many there were, and their bytes."""
        files = _files(self.folder, "", deep=True)
        size = sum(_size(path) for path in files)
        for place in self.folder.iterdir() if self.folder.is_dir() else ():
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
        return len(files), size

    def scans(self) -> Iterator[tuple[str, int, int, float]]:
        """Yield for every scan its name in the last entry, the number of entries, their bytes, and when one was last used, s."""
        for place in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            files = sorted(_files(place, ""), key=_age)
            if files:
                with contextlib.suppress(OSError, ValueError), open(files[0], "rb") as file:
                    file.readline()
                    title = str(json.loads(file.readline()).get("scan file", ""))
                    yield title, len(files), sum(_size(path) for path in files), files[0].stat().st_mtime


class _Hashed:
    """A file that is written, with the digest of what was written. Refuses to become too large."""

    def __init__(self, file: BinaryIO, most: int):
        self.file, self.left, self.found = file, most, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.left -= memoryview(data).nbytes
        if self.left < 0:
            raise OSError("an entry would take more than half of the cache")
        self.found.update(data)
        return self.file.write(data)

    def digest(self) -> bytes:
        return self.found.digest()


def _end_of_head(whole: memoryview) -> int:
    return bytes(whole[: len(MAGIC) + (1 << 20)]).index(b"\n", len(MAGIC)) + 1


def _files(folder: Path, prefix: str, deep: bool = False) -> list[Path]:
    try:
        return list(folder.glob(f"*/*{ENDING}" if deep else f"{prefix}*{ENDING}"))
    except OSError:
        return []


def _age(path: Path) -> float:
    """Return minus the time of the last use, so that the newest comes first."""
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def cache_folder() -> Path | None:
    """Return the folder of the entries: GPU4D_CACHE, or one in the user's folder for caches. None if GPU4D_CACHE is "off"."""
    named = os.environ.get(VARIABLE, "")
    if named.lower() == "off":
        return None
    if named:
        return Path(named).expanduser() / FOLDER
    from numba.misc.appdirs import AppDirs

    return Path(AppDirs(appname="gpu4d", appauthor=False).user_cache_dir) / FOLDER


def open_store() -> Store | None:
    """Return the user's store with its limit. None if GPU4D_CACHE is "off"."""
    folder = cache_folder()
    if folder is None:
        return None
    limit = LIMIT
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / LIMIT_FILE).read_text())
    return Store(folder, limit)


def set_limit(store: Store, text: str) -> int:
    """Keep a new limit, such as "20 GB", for all later runs. Return it in bytes.

    Raises
    ------
    InputError
        It is no size, or cannot be written.
    """
    limit = int(parse_memory(text))
    try:
        store.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (store.folder / LIMIT_FILE).write_text(str(limit))
    except OSError as error:
        raise InputError(f"{store.folder} cannot be written ({error.strerror}): set {VARIABLE} to another folder") from error
    store.limit = limit
    store.tidy()
    return limit
