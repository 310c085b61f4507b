"""Understand what a zarr array says of itself: version 2 (`.zarray`) and version 3 (`zarr.json`)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.layout import ACCEPTED, is_usable
from gpu4d.io.sources.zarr_codecs import CRC32C, Codec, as_codec
from gpu4d.io.sources.zarr_store import Key, Store, text_of

MOST_CHUNK = (1 << 31) - 1  # bytes: Blosc and LZ4 have no larger ones
MOST_AXES = 32
FEW_BYTES, MANY_CHUNKS = 4096, 1 << 18  # so many chunks of less bytes would take minutes to read
INDEX_ENTRY = 16  # bytes in the index of a shard: offset and length


@dataclass(frozen=True)
class Shards:
    """How several chunks lie in one file.

    Attributes
    ----------
    chunks : tuple of int
        Number of chunks along each axis of a shard.
    order : {"<", ">"}
        Byte order of the index.
    checksummed : bool
        The index ends with a CRC32C.
    at_end : bool
        Where the index lies: at the end of the file, or at its beginning.
    """

    chunks: tuple[int, ...]
    order: str
    checksummed: bool
    at_end: bool

    @property
    def index_bytes(self) -> int:
        return math.prod(self.chunks) * INDEX_ENTRY + 4 * self.checksummed


@dataclass(frozen=True)
class ZarrArray:
    """An array in a zarr store, and how its chunks are stored.

    Attributes
    ----------
    key : str
        Where it is in the store; "" for a store that is one array.
    shape, chunks : tuple of int
        Chunks are those that are encoded, also within shards.
    dtype : numpy.dtype
        With its byte order.
    fill : number
        Value where no chunk is stored.
    codecs : tuple
        In the order in which they were applied to the bytes of a chunk.
    axes : tuple of int
        Axes of the array in the order in which they lie in a chunk.
    prefix, separator : str
        Names of chunks: prefix, and their numbers along all axes with the separator between them.
    shards : Shards or None
    version : int
    """

    key: Key
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    fill: Any
    codecs: tuple[Codec, ...]
    axes: tuple[int, ...]
    prefix: str
    separator: str
    shards: Shards | None
    version: int

    def file_of(self, place: Sequence[int]) -> Key:
        """Return the key of a chunk, or of a shard, by its numbers along all axes."""
        name = self.prefix + self.separator.join(map(str, place))
        return f"{self.key}/{name}" if self.key else name

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def words(self) -> str:
        """Describe chunks and codecs."""
        together = "" if self.shards is None else f" in shards of {tuple(c * n for c, n in zip(self.chunks, self.shards.chunks))}"
        return f"zarr {self.version}, chunks {self.chunks}{together} {' '.join(name for name, _ in reversed(self.codecs))}".rstrip()


def json_of(store: Store, key: Key) -> dict[str, Any] | None:
    """Return a JSON object in the store; None if the key is not there."""
    text = text_of(store, key)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(store.path)}: {shown(key)} is no JSON: it is truncated or damaged, copy it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{shown(store.path)}: {shown(key)} is no JSON object: it is damaged, copy it again")
    return found


def array_at(store: Store, key: Key, given: Mapping[str, Any]) -> ZarrArray:
    """Return the array that a `.zarray`, or a `zarr.json` of node type "array", describes.

    Raises
    ------
    InputError
        Damaged, or of a kind that gpu4d does not read. The error says which.
    """
    where = f"{shown(store.path)}: {shown(key or 'the array')}"
    made = _version2(key, given, where) if given.get("zarr_format") == 2 else _version3(key, given, where)
    count = math.prod(-(-n // c) for n, c in zip(made.shape, made.chunks))
    if math.prod(made.shape) * made.dtype.itemsize > sys.maxsize:
        raise InputError(f"{where} has more bytes than a computer can address: a size in it is damaged, copy it again")
    if made.chunk_bytes > MOST_CHUNK:
        raise InputError(f"{where} has chunks of {made.chunk_bytes} bytes, more than {MOST_CHUNK}: store it in smaller ones")
    if made.chunk_bytes < FEW_BYTES and count > MANY_CHUNKS:
        raise InputError(f"{where} has {count} chunks of {made.chunk_bytes} bytes, too small to be read: store it in larger ones")
    return made


def _version2(key: Key, given: Mapping[str, Any], where: str) -> ZarrArray:
    shape, chunks = _sizes(given.get("shape"), "shape", where), _sizes(given.get("chunks"), "chunks", where)
    if len(shape) != len(chunks) or given.get("order", "C") not in ("C", "F"):
        raise InputError(f"{where} has chunks or an order that do not fit its shape: it is damaged, copy it again")
    dtype = _dtype2(given.get("dtype"), where)
    compressor, filters = given.get("compressor"), given.get("filters") or []
    if not isinstance(filters, list):
        raise InputError(f"{where} has filters that are no list: it is damaged, copy it again")
    codecs = tuple(as_codec(codec, where) for codec in [*filters, *([] if compressor is None else [compressor])])
    order = tuple(range(len(shape)))
    fill = _fill(given.get("fill_value"), dtype, where)
    separator = _separator(given.get("dimension_separator", "."), where)
    return ZarrArray(key, shape, chunks, dtype, fill, codecs, order[::-1] if given.get("order") == "F" else order, "", separator, None, 2)


def _version3(key: Key, given: Mapping[str, Any], where: str) -> ZarrArray:
    if given.get("zarr_format") != 3 or given.get("node_type") != "array" or given.get("storage_transformers"):
        raise InputError(f"{where} is no zarr array of version 2 or 3 that gpu4d reads (storage transformers are not)")
    shape = _sizes(given.get("shape"), "shape", where)
    stored = _sizes(_configured(given.get("chunk_grid"), "regular", where).get("chunk_shape"), "chunk shape", where)
    if len(stored) != len(shape):
        raise InputError(f"{where} has chunks of {len(stored)} axes, and {len(shape)} of its own: it is damaged, copy it again")
    dtype = _dtype3(given.get("data_type"), where)
    naming = given.get("chunk_key_encoding")
    naming = naming if isinstance(naming, Mapping) else {"name": naming}
    default = naming.get("name") == "default"
    if not default and naming.get("name") != "v2":
        raise InputError(f"{where} names its chunks in a way that gpu4d does not know: {shown(str(naming.get('name')))}")
    settings = naming.get("configuration") or {}
    separator = _separator(settings.get("separator", "/" if default else ".") if isinstance(settings, Mapping) else None, where)
    codecs = given.get("codecs")
    chunks, shards = stored, None
    if isinstance(codecs, list) and any(isinstance(c, Mapping) and c.get("name") == "sharding_indexed" for c in codecs):
        chunks, shards, codecs = _sharded(codecs, stored, where)
    axes, dtype, packed = _chain(codecs, len(shape), dtype, where)
    fill = _fill(given.get("fill_value"), dtype, where)
    return ZarrArray(key, shape, chunks, dtype, fill, packed, axes, f"c{separator}" if default else "", separator, shards, 3)


def _sharded(codecs: list[Any], stored: tuple[int, ...], where: str) -> tuple[tuple[int, ...], Shards, Any]:
    """Return the chunks in a shard, where they lie in it, and what they are encoded with."""
    if len(codecs) != 1:
        raise InputError(f"{where} has codecs beside its shards, so that whole shards would be read for a pattern: store it anew")
    settings = _configured(codecs[0], "sharding_indexed", where)
    chunks = _sizes(settings.get("chunk_shape"), "chunk shape", where)
    if len(chunks) != len(stored) or any(n % c for n, c in zip(stored, chunks)):
        raise InputError(f"{where} has shards of {stored}, which are no whole chunks of {chunks}: it is damaged, copy it again")
    index = settings.get("index_codecs")
    names = [as_codec(codec, where) for codec in index] if isinstance(index, list) else []
    if not names or names[0][0] != "bytes" or [name for name, _ in names[1:]] not in ([], [CRC32C]):
        raise InputError(f"{where} has an index of its shards that gpu4d does not read: accepted are bytes, and crc32c")
    order = {"little": "<", "big": ">"}.get(str(dict(names[0][1]).get("endian", "little")))
    place = settings.get("index_location", "end")
    if order is None or place not in ("start", "end"):
        raise InputError(f"{where} has an index of its shards in an order or place that does not exist: it is damaged, copy it again")
    return chunks, Shards(tuple(n // c for n, c in zip(stored, chunks)), order, len(names) > 1, place == "end"), settings.get("codecs")


def _chain(codecs: Any, axes: int, dtype: np.dtype, where: str) -> tuple[tuple[int, ...], np.dtype, tuple[Codec, ...]]:
    """Return the order of the axes in a chunk, the dtype as stored, and what its bytes are encoded with."""
    order, packed = tuple(range(axes)), []
    if not isinstance(codecs, list):
        raise InputError(f"{where} has no list of codecs: it is damaged, copy it again")
    for given in codecs:
        name, settings = as_codec(given, where)
        if name == "transpose":
            order = _transposed(order, given, where)
        elif name == "bytes":
            endian = dict(settings).get("endian", "little")
            if endian not in ("little", "big"):
                raise InputError(f"{where} has values in the byte order {shown(str(endian))}: it is damaged, copy it again")
            dtype = dtype.newbyteorder("<" if endian == "little" else ">")
        elif name == "sharding_indexed":
            raise InputError(f"{where} has shards inside shards, which gpu4d does not read: store it with one kind")
        else:
            packed.append((name, settings))
    return order, dtype, tuple(packed)


def _transposed(order: tuple[int, ...], given: Any, where: str) -> tuple[int, ...]:
    settings = given.get("configuration") if isinstance(given, Mapping) else None
    turned = settings.get("order") if isinstance(settings, Mapping) else None
    if not isinstance(turned, list) or not all(type(n) is int for n in turned) or sorted(turned) != list(range(len(order))):
        raise InputError(f"{where} has axes exchanged in an order that gpu4d cannot read: it is damaged, copy it again")
    return tuple(order[n] for n in turned)


def _configured(given: Any, name: str, where: str) -> Mapping[str, Any]:
    """Return the settings of a named part."""
    settings = given.get("configuration") if isinstance(given, Mapping) and given.get("name") == name else None
    if not isinstance(settings, Mapping):
        raise InputError(f"{where} is stored in a way that gpu4d does not know: {name} is missing or another")
    return settings


def _sizes(given: Any, what: str, where: str) -> tuple[int, ...]:
    if not isinstance(given, list) or len(given) > MOST_AXES or not all(type(n) is int and n >= 0 for n in given):
        raise InputError(f"{where} has no {what} of whole numbers: it is damaged, copy it again")
    if what != "shape" and 0 in given:
        raise InputError(f"{where} has a {what} of {given}: it is damaged, copy it again")
    return tuple(given)


def _separator(given: Any, where: str) -> str:
    if given not in (".", "/"):
        raise InputError(f"{where} has names of chunks with {shown(str(given))} between their numbers: accepted are '.' and '/'")
    return str(given)


def _dtype2(given: Any, where: str) -> np.dtype:
    try:
        dtype = np.dtype(given) if isinstance(given, str) else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or not is_usable(dtype):
        raise InputError(f"{where} has values of type {shown(str(given))[:60]}; accepted are {ACCEPTED}")
    return dtype


def _dtype3(given: Any, where: str) -> np.dtype:
    names = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16", "float32", "float64")
    if given not in names:
        raise InputError(f"{where} has values of type {shown(str(given))[:60]}; accepted are {ACCEPTED}")
    return np.dtype(given)


def _fill(given: Any, dtype: np.dtype, where: str) -> Any:
    """Return the fill value as a value of the array. Version 2 may have none: then it is zero."""
    special = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    native = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
    try:
        if given is None:
            return native.type(0)
        if isinstance(given, str) and given.startswith("0x") and dtype.kind == "f":
            return np.array(int(given, 16), f"u{dtype.itemsize}").view(native)[()]
        if isinstance(given, str):
            given = special[given]
        if not isinstance(given, int | float) or (dtype.kind != "f" and int(given) != given):
            raise ValueError
        return native.type(given)
    except (ValueError, KeyError, OverflowError, TypeError) as error:
        raise InputError(
            f"{where} has the fill value {shown(str(given))[:60]}, which is no {dtype.name}: it is damaged, copy it again"
        ) from error
