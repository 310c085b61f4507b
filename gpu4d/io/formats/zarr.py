"""Open zarr stores of version 2 and 3, as folders or zip files: HyperSpy's `.zspy`, abTEM's `.zarr`, and any other with a scan."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from typing import Any, ClassVar

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.zarr_calibration import described, is_converted
from gpu4d.io.sources.layout import FRAMES, ReshapedScan, check_scan_shape, without_unit_axes
from gpu4d.io.sources.zarr_array import ZarrArray, array_at, json_of
from gpu4d.io.sources.zarr_source import ZarrSource
from gpu4d.io.sources.zarr_store import MOST_DEPTH, FolderStore, Store, ZipStore

ARRAY2, GROUP2, ATTRIBUTES2, NODE3 = ".zarray", ".zgroup", ".zattrs", "zarr.json"
MOST_NODES = 100_000  # groups and arrays that are looked at
LEAST_DETECTOR = 4  # pixels along each axis; smaller arrays beside a scan are tables
LISTED = 8
SMALL_BYTES = 32 << 20  # a scan of this size may be mostly missing chunks
MOST_RATIO = 4096  # of the bytes of a larger scan to those of all its files: no counted scan is that empty
ZIP, HEAD_NAMES = b"PK\x03\x04", (b"zarr.json", b".zgroup", b".zarray", b".zattrs", b".zmetadata")


class Zarr(Format):
    """A zarr store in a folder."""

    name: ClassVar = "zarr"
    accepts: ClassVar = "zarr (folders and .zip; HyperSpy's .zspy, abTEM)"
    folders: ClassVar = True
    facts: ClassVar = Facts(
        endings=(".zarr", ".zspy"),
        reading="chunks, decoded in parallel",
        covers="versions 2 and 3, shards, codecs blosc, zstd, gzip, zlib, lz4, shuffle, delta, crc32c; HyperSpy's and abTEM's calibration",
        tried_on="files of zarr-python 2 and 3, HyperSpy 2.5, abTEM 1.0.11",
        writes=True,
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return any(os.path.isfile(os.path.join(path, name)) for name in (NODE3, GROUP2, ARRAY2))

    def open(self, path: str, options: OpenOptions) -> Opened:
        return open_store(FolderStore(path), options)


class ZarrZip(Format):
    """A zarr store in a zip file."""

    name: ClassVar = "zarr_zip"
    accepts: ClassVar = "zarr in .zip"

    def recognise(self, path: str, head: bytes) -> bool:
        if not head.startswith(ZIP):
            return False
        try:
            store = ZipStore(path)
        except InputError:
            return any(name in head for name in HEAD_NAMES)
        return any(_there(store, name) for name in (NODE3, GROUP2, ARRAY2))

    def open(self, path: str, options: OpenOptions) -> Opened:
        return open_store(ZipStore(path), options)


def open_store(store: Store, options: OpenOptions) -> Opened:
    """Open the scan in a store."""
    array = _chosen(store, options)
    where = f"{shown(store.path)}: {shown(array.key or 'the array')}"
    axes = without_unit_axes(array.shape)
    if len(axes) == 3 and options.scan_shape is None:
        raise InputError(
            f"{where} is {_words(array)} (3D, frames first): give the scan's shape with --scan-shape Rx,Ry or scan_shape=(Rx, Ry), "
            f'with Rx·Ry = {axes[0]}; for another number, scan_shape="frames" and gpu4d.preprocess.reshape'
        )
    shape: Any = (1, *axes) if len(axes) == 3 else axes
    _check_held(store, array, where)
    source: Any = ZarrSource(store, array, shape)
    if options.scan_shape is not None:
        wanted = check_scan_shape(options.scan_shape, shape[0] * shape[1], where)
        source = source if wanted == shape[:2] else ReshapedScan(source, wanted)
    return Opened(source, *described(store, array, source.shape, options.energy, attributes_of))


def _chosen(store: Store, options: OpenOptions) -> ZarrArray:
    """Return the array that holds the scan, or say which ones could."""
    if options.dataset is not None:
        return _named(store, options.dataset)
    usable, wrong = _usable(store)
    four, stacks = ([array for array in usable if len(without_unit_axes(array.shape)) == n] for n in (4, 3))
    likely = four
    if options.scan_shape == FRAMES:
        likely = stacks or four
    elif options.scan_shape is not None:
        wanted = math.prod(options.scan_shape)
        likely = [array for array in usable if math.prod(without_unit_axes(array.shape)[:-2]) == wanted] or usable
    if not likely and len(stacks) == 1:
        likely = stacks  # opening it says what is missing
    if len(likely) == 1:
        return likely[0]
    if not likely and wrong:
        raise wrong[0]
    listed = "; ".join(f"/{shown(array.key)} {_words(array)}" for array in (likely or usable)[:LISTED])
    if not likely:
        raise InputError(f"{shown(store.path)}: no array with four dimensions (Rx, Ry, Qx, Qy)" + (f", but {listed}" if listed else ""))
    raise InputError(
        f"{shown(store.path)}: {len(likely)} arrays could be the scan: {listed}. Choose one with --dataset or "
        f"dataset={'/' + shown(likely[0].key)!r}"
    )


def _named(store: Store, dataset: str) -> ZarrArray:
    key = "/".join(part for part in dataset.split("/") if part)
    given = None if ".." in key.split("/") else _description(store, key)
    if given is None or "shape" not in given:
        there = ", ".join(shown(f"/{key}") for key, _ in itertools.islice(_arrays(store), LISTED)) or "none"
        raise InputError(f"{shown(store.path)}: no array {shown(dataset)!r}; its arrays: {there}")
    array = array_at(store, key, given)
    axes = without_unit_axes(array.shape)
    if len(axes) not in (3, 4) or 0 in axes:
        raise InputError(
            f"{shown(store.path)}: {shown(dataset)} is {_words(array)}: a scan has four dimensions (Rx, Ry, Qx, Qy), or three "
            "(frames, Qx, Qy) and a scan shape; choose another array with --dataset"
        )
    return array


def _usable(store: Store) -> tuple[list[ZarrArray], list[InputError]]:
    """Return all arrays that could be a scan, and what is wrong with arrays that cannot be read."""
    usable, wrong = [], []
    for key, given in _arrays(store):
        try:
            array = array_at(store, key, given)
        except InputError as error:
            wrong.append(error)
            continue
        axes = without_unit_axes(array.shape)
        if 0 in axes or len(axes) not in (3, 4):
            continue
        if min(axes[-2:]) >= LEAST_DETECTOR or is_converted(store, array, attributes_of):
            usable.append(array)
    return usable, wrong


def _words(array: ZarrArray) -> str:
    return f"{'×'.join(map(str, array.shape)) or 'a single value'} {array.dtype.name}"


def _check_held(store: Store, array: ZarrArray, where: str) -> None:
    """Refuse a scan that is many times larger than all its files.

    Chunks may be missing: they are filled with one value. So a damaged shape may promise anything.
    """
    need, held = math.prod(array.shape) * array.dtype.itemsize, 0
    if need <= SMALL_BYTES:
        return
    for size in store.stored(array.key):
        held += size
        if held * MOST_RATIO >= need:
            return
    if is_converted(store, array, attributes_of):  # an empty scan
        return
    raise InputError(f"{where} is {_words(array)}, {need} bytes, and its files hold {held}: its shape is damaged, or it was never written")


# ---------------------------------------------------------------- the tree


def _arrays(store: Store) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return key and description of every array in a store."""
    waiting, seen = [""], 0
    while waiting:
        key = waiting.pop()
        seen += 1
        if seen > MOST_NODES or key.count("/") > MOST_DEPTH:
            raise InputError(f"{shown(store.path)}: too many groups, or groups inside each other: name the scan with --dataset or dataset=")
        found = _description(store, key)
        if found is None:
            continue
        if "shape" in found:
            yield key, found
        else:
            waiting.extend(f"{key}/{name}".strip("/") for name in reversed(store.groups(key)))


def _description(store: Store, key: str) -> dict[str, Any] | None:
    """Return what the store says of an array or a group; None if there is neither."""
    for name in (NODE3, ARRAY2, GROUP2):
        found = json_of(store, f"{key}/{name}" if key else name)
        if found is not None:
            return found
    return None


def attributes_of(store: Store, key: str) -> dict[str, Any]:
    """Return the attributes of a group or array, as they are."""
    node = json_of(store, f"{key}/{NODE3}" if key else NODE3)
    if node is not None:
        held = node.get("attributes", {})
        return held if isinstance(held, dict) else {}
    return json_of(store, f"{key}/{ATTRIBUTES2}" if key else ATTRIBUTES2) or {}


def _there(store: Store, key: str) -> bool:
    try:
        return store.locate(key) is not None
    except InputError:
        return True
