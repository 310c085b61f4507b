"""Find where the bytes of an HDF5 dataset lie, and choose the source that reads them."""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any

import h5py
import numpy as np

from gpu4d.data.source import Source
from gpu4d.errors import InputError
from gpu4d.io.sources import codecs
from gpu4d.io.sources.chunked import ChunkedSource, LibrarySource
from gpu4d.io.sources.codecs import DEFLATE, Filter
from gpu4d.io.sources.hdf5_file import open_file
from gpu4d.io.sources.layout import ACCEPTED, ReshapedScan, check_scan_shape, is_usable
from gpu4d.io.sources.mapped import MappedSource

FILTERS = {
    1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scale-offset", 32000: "lzf", 32001: "blosc",
    32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32026: "blosc2",
}  # fmt: skip
CHECKED_BYTES = 16 << 20  # bytes: larger chunks are not read only to check their place


def source_of(file: h5py.File, path: str, dataset: h5py.Dataset, scan_shape: Any) -> Source:
    """Return the source for one dataset, by its layout in the file."""
    where = f"{file.filename}: {path}"
    if dataset.shape is None or dataset.ndim not in (3, 4) or 0 in dataset.shape:
        shape = "empty" if dataset.shape is None else "×".join(map(str, dataset.shape)) or "a single value"
        raise InputError(
            f"{where} is {shape} ({len(dataset.shape or ())}D): a scan has four dimensions (Rx, Ry, Qx, Qy), "
            "or three (frames, Qx, Qy) and a scan shape; choose another dataset with --dataset"
        )
    if not is_usable(dataset.dtype):
        raise InputError(f"{where} has values of type {dataset.dtype}; accepted are {ACCEPTED}")
    if dataset.ndim == 3 and scan_shape is None:
        raise InputError(
            f"{where} is {'×'.join(map(str, dataset.shape))} (3D, frames first): give the scan's shape with --scan-shape Rx,Ry "
            f"or scan_shape=(Rx, Ry), with Rx·Ry = {dataset.shape[0]}"
        )
    wanted = tuple(dataset.shape[:2]) if scan_shape is None else check_scan_shape(scan_shape, frames(dataset), where)
    source = _plain(dataset) or _whole_link(dataset) or _checked_library(dataset)
    if source.shape[:2] == wanted:
        return source
    return source.reshaped(wanted) if isinstance(source, MappedSource) else ReshapedScan(source, wanted)


def frames(dataset: h5py.Dataset) -> int:
    """Count the patterns of a dataset."""
    return int(np.prod(dataset.shape[:-2]))


def _shape4(dataset: h5py.Dataset) -> Any:
    return (1, *dataset.shape) if dataset.ndim == 3 else dataset.shape


def _stored_as_is(dataset: h5py.Dataset) -> bool:
    """Say whether the bytes in the file are those of the NumPy dtype (not 12 bits in 16, not an unusual float)."""
    stored = dataset.id.get_type()
    if isinstance(stored, h5py.h5t.TypeEnumID):
        stored = stored.get_super()
        return stored.get_size() == dataset.dtype.itemsize
    return stored.equal(h5py.h5t.py_create(dataset.dtype))


def _plain(dataset: h5py.Dataset) -> Source | None:
    """Return the source of a contiguous dataset, or of chunks whose filters gpu4d undoes; None if only the HDF5 library can read it."""
    if dataset.is_virtual or dataset.external or not _stored_as_is(dataset):
        return None
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.CONTIGUOUS and dataset.id.get_offset() is not None:
        # dataset.file is the file with the data, also if there is an external link; the offset counts from its first byte
        return MappedSource(
            dataset.file.filename, dataset.id.get_offset(), _shape4(dataset), dataset.dtype, "HDF5 contiguous", dataset.name
        )
    if plist.get_layout() == h5py.h5d.CHUNKED:
        return _direct_chunks(dataset)
    return None


def _pipeline(dataset: h5py.Dataset) -> tuple[tuple[Filter, ...], str]:
    plist = dataset.id.get_create_plist()
    steps = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    words = []
    for number, _, values, name in steps:
        if not h5py.h5z.filter_avail(number):
            called = FILTERS.get(number) or name.decode(errors="replace") or "unknown"
            raise InputError(
                f"{dataset.file.filename}: {dataset.name} is compressed with the HDF5 filter {called} (number {number}), which is not "
                "installed: pip install hdf5plugin, or rewrite the file with gzip"
            )
        word = FILTERS.get(number, name.decode(errors="replace"))
        words.append(f"gzip {values[0]}" if number == DEFLATE else word)
    return tuple((number, tuple(values)) for number, _, values, _ in steps), " ".join(reversed(words))


def _direct_chunks(dataset: h5py.Dataset) -> Source:
    filters, words = _pipeline(dataset)
    four = (1, *dataset.chunks) if dataset.ndim == 3 else dataset.chunks
    description = f"HDF5 chunks {dataset.chunks} {words}".rstrip()
    blocks = (min(four[0], _shape4(dataset)[0]), min(four[1], _shape4(dataset)[1]))
    common = (dataset.file.filename, dataset.name, _shape4(dataset), dataset.dtype, blocks)
    chunk_bytes = math.prod(four) * dataset.dtype.itemsize
    index = chunk_index(dataset, four) if _decoded_here(dataset, four, filters) else None
    if index is None:
        return LibrarySource(*common, f"{description}, decoded by the HDF5 library", dataset.ndim == 3, chunk_bytes)
    return ChunkedSource(*common, description, dataset.ndim == 3, chunks=four, filters=filters, fill=dataset.fillvalue, index=index)


def _decoded_here(dataset: h5py.Dataset, chunks: tuple[int, ...], filters: tuple[Filter, ...]) -> bool:
    """Say whether the chunks can be read and their filters undone without the HDF5 library."""
    if not hasattr(os, "pread") or codecs.steps(filters, dataset.dtype.itemsize) is None:
        return False
    # Chunks over the edge may be stored unfiltered without a mark. Their size shows it, unless filters only reorder bytes.
    ragged = any(n % c for n, c in zip(_shape4(dataset), chunks))
    return not (ragged and filters and not codecs.compresses(filters[-1]))


def chunk_index(dataset: h5py.Dataset, chunks: tuple[int, ...]) -> dict[str, np.ndarray] | None:
    """Return place, size and skipped filters of every chunk, as arrays over the grid of chunks; None if HDF5's answer cannot be trusted."""
    unlimited = [axis for axis, most in enumerate(dataset.maxshape) if most is None]
    if len(unlimited) == 1 and unlimited != [0]:
        return None  # HDF5 (2.0 at least) finds these chunks, but reports wrong places for them
    grid = tuple(-(-n // c) for n, c in zip(_shape4(dataset), chunks))
    offsets, sizes, skipped = np.full(grid, -1, np.int64), np.zeros(grid, np.int64), np.zeros(grid, np.uint32)
    found: list[Any] = []

    def note(chunk: Any) -> bool | None:
        places = [divmod(o, c) for o, c in zip(chunk.chunk_offset, chunks[-dataset.ndim :])]
        place = (0,) * (4 - dataset.ndim) + tuple(p for p, _ in places)
        found.append(chunk)
        if any(rest for _, rest in places) or any(p >= n for p, n in zip(place, grid)) or offsets[place] >= 0:
            found.clear()
            return True  # ends the search
        offsets[place], sizes[place], skipped[place] = chunk.byte_offset, chunk.size, chunk.filter_mask
        return None

    if dataset.id.chunk_iter(note):
        return None
    if found:
        # Some HDF5 versions count from the end of the user block, some from the first byte of the file: compare with the data.
        samples = _samples(found)
        shift = next((shift for shift in (0, dataset.file.userblock_size) if _is_there(dataset, samples[0], shift)), None)
        if shift is None or not all(_is_there(dataset, chunk, shift) for chunk in samples[1:]):
            return None
        offsets[offsets >= 0] += shift
    return {"offsets": offsets, "sizes": sizes, "skipped": skipped}


def _samples(found: list[Any]) -> list[Any]:
    """Choose a few chunks to compare with HDF5: the first one, and of the last and two between those that are read quickly."""
    last = len(found) - 1
    others = [found[i] for i in sorted({last, last // 2, last // 3} - {0})]
    return [found[0], *(chunk for chunk in others if chunk.size <= CHECKED_BYTES)]


def _is_there(dataset: h5py.Dataset, chunk: Any, shift: int) -> bool:
    """Say whether the file holds, at the reported place of a chunk, what the HDF5 library reads for it."""
    try:
        skipped, expected = dataset.id.read_direct_chunk(chunk.chunk_offset)
    except (OSError, RuntimeError, ValueError):
        return False
    with open(dataset.file.filename, "rb") as raw:
        raw.seek(chunk.byte_offset + shift)
        return skipped == chunk.filter_mask and raw.read(chunk.size) == bytes(expected)


def _whole_link(dataset: h5py.Dataset) -> Source | None:
    """Return the source of a dataset that is a link to all of another one, as `gpu4d.save` writes it. None for others."""
    if dataset.is_virtual:
        parts = dataset.virtual_sources()
        if len(parts) != 1 or parts[0].vspace.get_select_npoints() != dataset.size:
            return None
        found = _check_virtual(dataset, parts[0].file_name, parts[0].dset_name)
        with open_file(found) if found else contextlib.nullcontext(dataset.file) as other:
            raw = other[parts[0].dset_name]
            if raw.size != dataset.size or raw.dtype != dataset.dtype or raw.shape[-2:] != dataset.shape[-2:]:
                return None
            return source_of(other, raw.name, raw, _shape4(dataset)[:2])
    if dataset.external and len(dataset.external) == 1 and _stored_as_is(dataset):
        _check_external(dataset)
        name, offset, _ = dataset.external[0]
        return MappedSource(name, offset, _shape4(dataset), dataset.dtype, "plain file")
    return None


def _checked_library(dataset: h5py.Dataset) -> Source:
    """Read virtual, external, compact and never-written datasets with HDF5. Refuse them if HDF5 would silently fill in zeros."""
    file = dataset.file.filename
    if dataset.is_virtual:
        words = "HDF5 virtual dataset"
        for part in dataset.virtual_sources():
            _check_virtual(dataset, part.file_name, part.dset_name)
    elif dataset.external:
        words = "HDF5 external file " + ", ".join(name for name, _, _ in dataset.external)
        _check_external(dataset)
    else:
        words = "HDF5, never written (fill value)" if dataset.id.get_storage_size() == 0 else "HDF5 compact"
        _pipeline(dataset)
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks and not dataset.is_virtual else 0
    return LibrarySource(file, dataset.name, _shape4(dataset), dataset.dtype, (1, 1), words, dataset.ndim == 3, chunk_bytes)


def _check_virtual(dataset: h5py.Dataset, file_name: str, name: str) -> str | None:
    """Check the file of a part of a virtual dataset (None: the dataset's own). HDF5 would fill in zeros if the file is missing."""
    file = dataset.file.filename
    if "%" in file_name or "%" in name:
        raise InputError(
            f"{file}: {dataset.name} is a virtual dataset with numbered sources ({file_name}{name}): open the source files instead"
        )
    if file_name == ".":
        if name not in dataset.file:
            raise InputError(f"{file}: {dataset.name} is a virtual dataset of {name}, which is not in the file")
        return None
    places = [os.path.join(os.path.dirname(os.path.abspath(file)), file_name), file_name]
    found = next((p for p in places if os.path.exists(p)), None)
    if found is None:
        raise InputError(f"{file}: {dataset.name} is a virtual dataset of {file_name}, which is not there: put it back, or beside the file")
    with open_file(found) as other:
        if name not in other:
            raise InputError(f"{file}: {dataset.name} is a virtual dataset of {name} in {file_name}, which holds no such dataset")
    return found


def _check_external(dataset: h5py.Dataset) -> None:
    file, need = dataset.file.filename, dataset.nbytes
    for name, offset, size in dataset.external:
        if not os.path.isfile(name):
            raise InputError(
                f"{file}: the data of {dataset.name} are in another file, {name}, which is not there: put it back, or run in its folder"
            )
        there = max(0, os.path.getsize(name) - offset)
        part = need if size == h5py.h5f.UNLIMITED else min(size, need)
        if there < part:
            raise InputError(
                f"{name}: the file is too short, {there} bytes where {file} ({dataset.name}) expects {part}: it is truncated, copy it again"
            )
        need -= part
    if need > 0:
        raise InputError(f"{file}: the external files of {dataset.name} hold {need} bytes less than its shape needs")
