"""Undo zarr's codecs and filters: what each is called in versions 2 and 3, and the step that undoes it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.codecs import BloscBuffer, Bytes, CodecMissing, DamagedChunk, Inflate, Step, Unshuffle, ZstdFrame, function

CRC32C = "crc32c"
Codec = tuple[str, tuple[tuple[str, Any], ...]]  # name and settings; as a tuple it can be compared and pickled
ACCEPTED = "blosc, zstd, gzip, zlib, lz4, shuffle, delta, crc32c"
ANY_WINDOW = 47  # of zlib: finds out itself whether bytes are gzip or zlib


class InflateAny(Inflate):
    """gzip or zlib."""

    window = ANY_WINDOW


class LZ4Block:
    """The codec lz4 of numcodecs: the number of bytes, four bytes with the lowest first, and one LZ4 block."""

    def __init__(self) -> None:
        self.decompress = function("LZ4_decompress_safe")

    def undo(self, packed: Bytes, out: Bytes) -> None:
        if packed.size < 4:
            raise DamagedChunk(f"{packed.size} bytes are no LZ4 block")
        (size,) = struct.unpack_from("<I", packed)
        if size != out.size:
            raise DamagedChunk(f"it holds {size} bytes, not {out.size}")
        if self.decompress(packed.ctypes.data + 4, out.ctypes.data, packed.size - 4, out.size) != out.size:
            raise DamagedChunk("its LZ4 block cannot be decoded")


class Sums:
    """The filter delta: each value is stored as its difference to the one before."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def undo(self, packed: Bytes, out: Bytes) -> None:
        if packed.size != out.size:
            raise DamagedChunk(f"it holds {packed.size} bytes, not {out.size}")
        native = self.dtype.newbyteorder("=")
        with np.errstate(over="ignore", invalid="ignore"):
            out.view(self.dtype)[...] = np.cumsum(packed.view(self.dtype).astype(native), dtype=native)


def as_codec(given: Any, where: str) -> Codec:
    """Return name and settings of a codec as version 2 or 3 of zarr writes it. Raise InputError if it is neither."""
    if isinstance(given, str):
        given = {"name": given}
    if isinstance(given, Mapping):
        name = given.get("name", given.get("id"))
        settings = given.get("configuration", {}) if "name" in given else {key: value for key, value in given.items() if key != "id"}
        if isinstance(name, str) and isinstance(settings, Mapping | None):
            simple = {str(k): v for k, v in (settings or {}).items() if isinstance(v, str | int | float | bool | None)}
            return name.removeprefix("numcodecs."), tuple(sorted(simple.items()))
    raise InputError(f"{where} has a codec that gpu4d cannot read: it is damaged, copy it again")


def steps(codecs: Sequence[Codec], dtype: np.dtype, where: str) -> tuple[Step, ...]:
    """Return what undoes each codec, in the order they were applied. A checksum at the end is left to `without_crc32c`.

    Raises
    ------
    InputError
        A codec that gpu4d does not have.
    """
    inner = codecs[:-1] if checksummed(codecs) else codecs
    try:
        return tuple(_step(name, dict(settings), dtype, where) for name, settings in inner)
    except CodecMissing as missing:
        raise InputError(f"{where} cannot be decoded here: {missing}") from missing


def checksummed(codecs: Sequence[Codec]) -> bool:
    """Say whether the last codec adds a checksum."""
    return bool(codecs) and codecs[-1][0] == CRC32C


def _step(name: str, settings: Mapping[str, Any], dtype: np.dtype, where: str) -> Step:
    made: dict[str, Callable[[], Step]] = {
        "blosc": lambda: BloscBuffer((), dtype.itemsize),
        "zstd": lambda: ZstdFrame((), dtype.itemsize),
        "gzip": lambda: InflateAny((), dtype.itemsize),
        "zlib": lambda: InflateAny((), dtype.itemsize),
        "lz4": LZ4Block,
        "shuffle": lambda: Unshuffle((_width(settings.get("elementsize", 4), where),), dtype.itemsize),
        "delta": lambda: _sums(settings, dtype, where),
    }
    if name not in made:
        raise InputError(
            f"{where} is encoded with {shown(name)}, which gpu4d does not decode; accepted are {ACCEPTED}: store it anew with one"
        )
    return made[name]()


def _width(given: Any, where: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 255:
        raise InputError(f"{where} is shuffled in values of {shown(str(given))} bytes: it is damaged, copy it again")
    return given


def _sums(settings: Mapping[str, Any], dtype: np.dtype, where: str) -> Step:
    given = {str(settings.get(key, dtype.str)) for key in ("dtype", "astype") if settings.get(key) is not None}
    if given - {dtype.str, dtype.name, dtype.newbyteorder("|").str}:
        raise InputError(
            f"{where} has differences of another type than its values ({shown(', '.join(sorted(given)))}): store it anew without"
        )
    return Sums(dtype)


# ---------------------------------------------------------------- checksums


def without_crc32c(packed: Bytes) -> Bytes:
    """Return the bytes of a chunk before its CRC32C, the last four bytes. Raise DamagedChunk if it is wrong."""
    from gpu4d.io.sources.crc32c import crc32c

    if packed.size < 4:
        raise DamagedChunk(f"{packed.size} bytes have no checksum")
    data, (stored,) = packed[:-4], struct.unpack("<I", packed[-4:].tobytes())
    if crc32c(data) != stored:
        raise DamagedChunk("its checksum is wrong")
    return data


assert zlib.MAX_WBITS + 32 == ANY_WINDOW
