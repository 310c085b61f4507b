"""Measure the disk that files are on, cold and from the page cache, and the codec that detectors' files are packed with."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.conditions import bytes_from_disk
from gpu4d.benchmarks.suite.page_cache import CAN_ASK, ask_to_drop
from gpu4d.benchmarks.suite.words import copy_made, equal_to_made, in_pieces, spoil, sum_of_words, words
from gpu4d.benchmarks.suite.workload import FLOOR, Check, Place, Prepared, Size, Workload

COLD_MEBIBYTES = {"quick": 8, "S": 64, "M": 1024, "L": 4096}
WARM_MEBIBYTES = {"quick": 16, "S": 128, "M": 512, "L": 2048}  # beyond the caches, as of `attainable`
CHUNKS = {"quick": 32, "S": 512, "M": 2048, "L": 8192}  # of 128 KiB, decoded
CHUNK = (4, 128, 128)  # patterns of uint16: what detectors write as a chunk has this size or more
COLD, UNSURE = "disk: pages are dropped before each call", "unknown: this system cannot drop pages"


class Way(NamedTuple):
    """A way to read a file.

    Attributes
    ----------
    direct : bool
        Past the page cache (O_DIRECT): it saves a copy.
    threads : int
        Requests at a time. Solid-state disks need several, disks behind a network many.
    block : int
        Bytes of a request.
    """

    direct: bool
    threads: int
    block: int

    def __str__(self) -> str:
        return f"{'past' if self.direct else 'through'} the page cache, {self.threads} requests of {self.block >> 20} MiB at a time"


WAYS = (Way(True, 16, 4 << 20), Way(True, 4, 4 << 20), Way(False, 4, 4 << 20), Way(False, 2, 1 << 20))


class ColdFile:
    """A file whose pages are dropped before it is read, and a buffer of its size.

    Parameters
    ----------
    path : Path
    content : np.ndarray
        Words.
    """

    def __init__(self, path: Path, content: np.ndarray):
        content.tofile(path)
        self.path, self.nbytes = path, content.nbytes
        self.buffer = mmap.mmap(-1, self.nbytes)  # begins at a page, as O_DIRECT needs it
        self.words = np.frombuffer(self.buffer, np.uint64)
        self.words[:: mmap.PAGESIZE // 8] = 0  # so that no page is made while it is read into
        self._files = {False: os.open(path, os.O_RDONLY)}
        try:
            self._files[True] = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except (OSError, AttributeError):  # file systems in memory, systems without it
            pass

    def drop(self) -> None:
        """Write the file out and ask the system to forget its pages."""
        ask_to_drop(self.path)

    def read(self, way: Way, pool: ThreadPoolExecutor) -> np.ndarray:
        """Read all of it into the buffer."""
        file, view = self._files[way.direct], memoryview(self.buffer)

        def one(offset: int) -> int:
            done = 0
            while done < min(way.block, self.nbytes - offset):
                got = os.preadv(file, [view[offset + done : min(offset + way.block, self.nbytes)]], offset + done)
                if got == 0:
                    raise OSError(f"{self.path} ends at byte {offset + done}, before its {self.nbytes} bytes")
                done += got
            return done

        list(pool.map(one, range(0, self.nbytes, way.block)))
        return self.words

    def fastest(self) -> tuple[Way, str]:
        """Try all ways once, and return the fastest, and where the bytes came from."""
        seconds: dict[Way, float] = {}
        before = bytes_from_disk()
        ways = [way for way in WAYS if way.direct in self._files]
        for way in ways:
            self.drop()
            with ThreadPoolExecutor(way.threads) as pool:
                start = time.perf_counter()
                self.read(way, pool)
                seconds[way] = time.perf_counter() - start
        after = bytes_from_disk()
        cold = before is None or after is None or after - before > 0.9 * len(ways) * self.nbytes
        where = (COLD if CAN_ASK else UNSURE) if cold else "page cache: this file system does not drop pages"
        return min(seconds, key=lambda way: seconds[way]), where

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files = {}
        self.path.unlink(missing_ok=True)


def disk_cold(place: Place, size: Size, seed: int) -> Prepared:
    """Read a file that is not in memory, the fastest way."""
    given = words(np, size["MiB"] << 20, seed)
    file = ColdFile(place.folder / "floor-cold.bin", given.array)
    way, where = file.fastest()
    pool = ThreadPoolExecutor(way.threads, thread_name_prefix="bench-disk")

    def before() -> None:
        spoil(file.words)
        file.drop()

    def close() -> None:
        pool.shutdown()
        file.close()

    return Prepared(
        lambda: file.read(way, pool),
        lambda found: {"equal": equal_to_made(found, seed)},
        lambda found: copy_made(found, given.words),
        file.nbytes,
        given.digest,
        bytes=float(file.nbytes),
        moved="disk_cold",
        cache=where,
        before=before,
        close=close,
        implementation=str(way),
    )


def disk_warm(place: Place, size: Size, seed: int) -> Prepared:
    """Read a mapped file whose pages are in memory, and add its words up."""
    given = words(np, size["MiB"] << 20, seed)
    path = place.folder / "floor-warm.bin"
    given.array.tofile(path)
    with open(path, "rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint64)

    def check(found: dict[str, np.ndarray]) -> Check:
        return Check(
            float(int(found["sum"]) != given.sum), 0.0, given.words, "the sum of all words modulo 2⁶⁴, worked out from how they are made"
        )

    return Prepared(
        lambda: sum_of_words(place, mapped),
        lambda found: {"sum": np.asarray(found)},
        check,
        mapped.nbytes,
        given.digest,
        bytes=float(mapped.nbytes),
        moved="disk_warm",
        cache="page cache",
        close=lambda: path.unlink(missing_ok=True),
        implementation="mapped pages, compiled sums in threads",
    )


def decode_lz4(place: Place, size: Size, seed: int) -> Prepared:
    """Decode chunks of counts, bitshuffled and packed with LZ4, by all threads."""
    from gpu4d.io.sources.codecs import function

    decompress = function("bshuf_decompress_lz4")
    expected = 0.2 + 4.0 * data.disk(CHUNK[1:], 20.0, (63.5, 63.5))
    patterns = data.counts(np, expected[None], np.zeros(CHUNK[0] * 8, int), seed).reshape(8, -1)
    packed = [_packed(chunk) for chunk in patterns]
    n, values = size["chunks"], patterns.shape[1]
    out = np.zeros((n, values), patterns.dtype)

    def some(part: slice) -> None:
        for k in range(part.start, part.stop):
            if decompress(packed[k % 8].ctypes.data, out[k].ctypes.data, values, 2, 0) != packed[k % 8].size:
                raise ValueError("the codec did not take the whole chunk")

    def check(found: dict[str, np.ndarray]) -> Check:
        wrong = np.count_nonzero(found["patterns"].reshape(-1, 8, values) != patterns[None])
        return Check(wrong / out.size, 0.0, out.size, "the counts that were packed")

    return Prepared(
        lambda: in_pieces(some, n),
        lambda _: {"patterns": out},
        check,
        out.nbytes,
        data.digest(np, patterns),
        bytes=float(out.nbytes),
        cache="packed chunks in the caches of the cores",
        before=lambda: out.fill(0),
        implementation="the bitshuffle library of hdf5plugin in threads",
    )


def _packed(chunk: np.ndarray) -> np.ndarray:
    from gpu4d.io.sources.codecs import function

    room: Callable[..., Any] = function("bshuf_compress_lz4_bound")
    found = np.empty(room(chunk.size, chunk.itemsize, 0), np.uint8)
    length = function("bshuf_compress_lz4")(chunk.ctypes.data, found.ctypes.data, chunk.size, chunk.itemsize, 0)
    return found[:length].copy()


def floors() -> list[Workload]:
    """Return the floors of disk and codec; the codec's only where its library can be called."""
    from gpu4d.io.sources.codecs import CodecMissing, function

    try:
        function("bshuf_decompress_lz4")
    except CodecMissing:
        return [COLD_FILE, WARM_FILE]
    return [COLD_FILE, WARM_FILE, CODEC]


def _sizes(name: str, values: dict[str, int]) -> dict[str, Size]:
    return {tier: {name: value} for tier, value in values.items()}


COLD_FILE = Workload("disk_cold", "a file not in memory, read the fastest way", FLOOR, "B/s", _sizes("MiB", COLD_MEBIBYTES), disk_cold)
WARM_FILE = Workload("disk_warm", "a mapped file in the page cache, read once", FLOOR, "B/s", _sizes("MiB", WARM_MEBIBYTES), disk_warm)
CODEC = Workload("decode_lz4", "bitshuffle-LZ4 decoded by the CPU, decoded bytes", FLOOR, "B/s", _sizes("chunks", CHUNKS), decode_lz4)
