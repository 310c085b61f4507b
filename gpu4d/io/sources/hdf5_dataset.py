"""Find where the bytes of an HDF5 dataset lie, and choose the source that reads them."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import h5py

from gpu4d.data.source import Source
from gpu4d.errors import InputError
from gpu4d.io.foreign import reason, shown
from gpu4d.io.sources import codecs
from gpu4d.io.sources.chunk_index import chunk_index
from gpu4d.io.sources.chunked import ChunkedSource, LibrarySource
from gpu4d.io.sources.codecs import DEFLATE, Filter
from gpu4d.io.sources.frame_files import FrameFiles, Plain, regular_stretches
from gpu4d.io.sources.frames_last import FramesLast, frames_together
from gpu4d.io.sources.hdf5_file import open_file
from gpu4d.io.sources.layout import ACCEPTED, ReshapedScan, check_scan_shape, is_usable, kept_axes, without_unit_axes
from gpu4d.io.sources.links import dataset_at, path_of, place_of_link
from gpu4d.io.sources.mapped import MappedSource

FILTERS = {
    1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scale-offset", 32000: "lzf", 32001: "blosc",
    32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32026: "blosc2",
}  # fmt: skip
MOST_VIRTUAL = 16  # virtual datasets that consist of virtual datasets, one behind the other


def axes(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the shape of a dataset without axes of length one, where it has more than four."""
    return without_unit_axes(dataset.shape)


def frames(dataset: h5py.Dataset) -> int:
    """Count the patterns of a dataset."""
    return math.prod(axes(dataset)[:-2])


def source_of(file: h5py.File, path: str, dataset: h5py.Dataset, scan_shape: Any, depth: int = 0) -> Source:
    """Return the source for one dataset, by its layout in the file. `depth` counts the virtual datasets above it."""
    where = f"{shown(file.filename)}: {shown(path)}"
    shape = () if dataset.shape is None else axes(dataset)
    if len(shape) not in (3, 4) or 0 in shape:
        words = "empty" if dataset.shape is None else "×".join(map(str, dataset.shape)) or "a single value"
        raise InputError(
            f"{where} is {words} ({len(dataset.shape or ())}D): a scan has four dimensions (Rx, Ry, Qx, Qy), "
            "or three (frames, Qx, Qy) and a scan shape; choose another dataset with --dataset"
        )
    _check_values(dataset, where)
    if len(shape) == 3 and scan_shape is None:
        raise InputError(
            f"{where} is {'×'.join(map(str, dataset.shape))} (3D, frames first): give the scan's shape with --scan-shape Rx,Ry "
            f'or scan_shape=(Rx, Ry), with Rx·Ry = {shape[0]}; for another number, scan_shape="frames" and gpu4d.preprocess.reshape'
        )
    wanted = (shape[0], shape[1]) if scan_shape is None else check_scan_shape(scan_shape, frames(dataset), where)
    source = _plain(dataset) or _whole_link(dataset, depth) or _checked_library(dataset, depth)
    if source.shape[:2] == wanted:
        return source
    return source.reshaped(wanted) if isinstance(source, MappedSource) else ReshapedScan(source, wanted)


def _check_values(dataset: h5py.Dataset, where: str) -> None:
    """Refuse values that are no real numbers, and more of them than a computer can address."""
    try:
        dtype = dataset.dtype
    except TypeError as error:
        raise InputError(f"{where} has values of a type that NumPy does not have ({reason(error)}); accepted are {ACCEPTED}") from error
    if not is_usable(dtype):
        raise InputError(f"{where} has values of type {dtype}; accepted are {ACCEPTED}")
    if dataset.size * dtype.itemsize > sys.maxsize:
        size = f"{'×'.join(map(str, dataset.shape))} {dtype}"
        raise InputError(f"{where} is {size}, more bytes than a computer can address: a size in the file is damaged, copy it again")


def frames_last_source(file: h5py.File, path: str, dataset: h5py.Dataset) -> Source:
    """Return one row of the patterns of a dataset (Qx, Qy, frames). Chunks of one frame are decoded in parallel."""
    where = f"{shown(file.filename)}: {shown(path)}"
    if dataset.shape is None or dataset.ndim != 3 or 0 in dataset.shape:
        words = "empty" if dataset.shape is None else "×".join(map(str, dataset.shape)) or "a single value"
        raise InputError(f"{where} is {words}: need rows × columns × frames")
    _check_values(dataset, where)
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{where} lies in other files: copy it into one with h5repack")
    filters, words = _pipeline(dataset)
    order = (2, 0, 1)
    shape = (1, *(dataset.shape[axis] for axis in order))
    together = frames_together(dataset.shape, dataset.chunks, dataset.dtype.itemsize)
    description = f"HDF5 {f'chunks {dataset.chunks}' if dataset.chunks else 'contiguous'} {words}".rstrip() + ", frames last"
    common = (dataset.file.filename, path_of(dataset), shape, dataset.dtype, (1, together))
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
    if dataset.chunks and dataset.chunks[2] == 1 and _stored_as_is(dataset):
        four = (1, *(dataset.chunks[axis] for axis in order))
        index = chunk_index(dataset, four, order) if _decoded_here(dataset, shape, four, filters) else None
        if index is not None and four == (1, 1, *shape[2:]) and not filters and len(index.offsets) == shape[1]:
            stretches = regular_stretches(dataset.file.filename, index.offsets)  # each chunk is a frame as it is
            return FrameFiles(stretches, Plain(shape[2:], dataset.dtype.str), shape[:2], description)
        if index is not None:
            layout = {"chunks": four, "filters": filters, "fill": dataset.fillvalue, "index": index}
            return ChunkedSource(*common, description, shape[1:], chunk_bytes, **layout)
    return FramesLast(*common, f"{description}, decoded by the HDF5 library", dataset.shape, chunk_bytes)


def _shape4(dataset: h5py.Dataset) -> Any:
    shape = axes(dataset)
    return (1, *shape) if len(shape) == 3 else shape


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
    if plist.get_layout() == h5py.h5d.CONTIGUOUS and dataset.id.get_storage_size() and dataset.id.get_offset() is not None:
        # dataset.file is the file with the data, also if there is an external link; the offset counts from its first byte
        return MappedSource(
            dataset.file.filename, dataset.id.get_offset(), _shape4(dataset), dataset.dtype, "HDF5 contiguous", path_of(dataset)
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
                f"{shown(dataset.file.filename)}: {shown(path_of(dataset))} is compressed with the HDF5 filter {shown(called)} "
                f"(number {number}), which is not installed: pip install hdf5plugin, or rewrite the file with gzip"
            )
        word = FILTERS.get(number, name.decode(errors="replace"))
        words.append(f"gzip {values[0]}" if number == DEFLATE else word)
    return tuple((number, tuple(values)) for number, _, values, _ in steps), " ".join(reversed(words))


def _direct_chunks(dataset: h5py.Dataset) -> Source:
    filters, words = _pipeline(dataset)
    kept = kept_axes(dataset.shape)
    four = (*(1,) * (4 - len(kept)), *(dataset.chunks[axis] for axis in kept))
    description = f"HDF5 chunks {dataset.chunks} {words}".rstrip()
    blocks = (min(four[0], _shape4(dataset)[0]), min(four[1], _shape4(dataset)[1]))
    common = (dataset.file.filename, path_of(dataset), _shape4(dataset), dataset.dtype, blocks)
    chunk_bytes = math.prod(four) * dataset.dtype.itemsize
    index = chunk_index(dataset, four, kept) if _decoded_here(dataset, _shape4(dataset), four, filters) else None
    if index is None:
        return LibrarySource(*common, f"{description}, decoded by the HDF5 library", dataset.shape, chunk_bytes)
    return ChunkedSource(
        *common, description, dataset.shape, chunk_bytes, chunks=four, filters=filters, fill=dataset.fillvalue, index=index
    )


def _decoded_here(dataset: h5py.Dataset, shape: tuple[int, ...], chunks: tuple[int, ...], filters: tuple[Filter, ...]) -> bool:
    """Say whether the chunks can be read and their filters undone without the HDF5 library."""
    if not hasattr(os, "pread") or codecs.steps(filters, dataset.dtype.itemsize) is None:
        return False
    # Chunks over the edge may be stored unfiltered without a mark. Their size shows it, unless filters only reorder bytes.
    ragged = any(n % c for n, c in zip(shape, chunks))
    return not (ragged and filters and not codecs.compresses(filters[-1]))


def _whole_link(dataset: h5py.Dataset, depth: int) -> Source | None:
    """Return the source of a dataset that is a link to all of another one, as `gpu4d.save` writes it. None for others."""
    if dataset.is_virtual:
        parts = dataset.virtual_sources()
        if len(parts) != 1 or parts[0].vspace.get_select_npoints() != dataset.size:
            return None
        raw = _virtual_part(dataset, parts[0].file_name, parts[0].dset_name, depth)
        if raw.size != dataset.size or raw.dtype != dataset.dtype or axes(raw)[-2:] != axes(dataset)[-2:]:
            return None
        return source_of(raw.file, path_of(raw), raw, _shape4(dataset)[:2], depth + 1)
    if dataset.external and len(dataset.external) == 1 and _stored_as_is(dataset):
        _check_external(dataset)
        name, offset, _ = dataset.external[0]
        return MappedSource(name, offset, _shape4(dataset), dataset.dtype, "plain file")
    return None


def _checked_library(dataset: h5py.Dataset, depth: int) -> Source:
    """Read virtual, external, compact and never-written datasets with HDF5. Refuse them if HDF5 would silently fill in zeros."""
    file = dataset.file.filename
    if dataset.is_virtual:
        words = "HDF5 virtual dataset"
        _check_virtual(dataset, depth)
    elif dataset.external:
        words = "HDF5 external storage"
        _check_external(dataset)
    else:
        words = "HDF5, never written (fill value)" if dataset.id.get_storage_size() == 0 else "HDF5 compact"
        _pipeline(dataset)
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks and not dataset.is_virtual else 0
    return LibrarySource(file, path_of(dataset), _shape4(dataset), dataset.dtype, (1, 1), words, dataset.shape, chunk_bytes)


def files_of(dataset: h5py.Dataset, depth: int = 0) -> list[str]:
    """Return the files that the values of a dataset lie in, over links, virtual datasets and external storage, each once."""
    if dataset.is_virtual:
        parts = dict.fromkeys((part.file_name, part.dset_name) for part in dataset.virtual_sources())
        return list(dict.fromkeys(name for part in parts for name in files_of(_virtual_part(dataset, *part, depth), depth + 1)))
    if dataset.external:
        return list(dict.fromkeys(name for name, _, _ in dataset.external))
    return [dataset.file.filename]


def _check_virtual(dataset: h5py.Dataset, depth: int) -> None:
    """Check all parts of a virtual dataset, also of those that it consists of. HDF5 would fill in zeros where one is missing."""
    for file_name, name in dict.fromkeys((part.file_name, part.dset_name) for part in dataset.virtual_sources()):
        part = _virtual_part(dataset, file_name, name, depth)
        if part.is_virtual:
            _check_virtual(part, depth + 1)
        elif part.external:
            _check_external(part)


def _virtual_part(dataset: h5py.Dataset, file_name: str, name: str, depth: int) -> h5py.Dataset:
    """Return the dataset that a part of a virtual dataset is read from. "." is the file of the virtual dataset itself."""
    where = f"{shown(dataset.file.filename)}: {shown(path_of(dataset))}"
    called = f"{shown(name)} in {shown(file_name)}"
    if depth >= MOST_VIRTUAL:
        raise InputError(
            f"{where} is a virtual dataset in a ring, or of more than {MOST_VIRTUAL} one behind the other: open the last of them"
        )
    if "%" in file_name or "%" in name:
        raise InputError(f"{where} is a virtual dataset with numbered sources ({called}): open the source files instead")
    if file_name == ".":
        part = dataset_at(dataset.file, "/" + name)
        if part is None:
            raise InputError(f"{where} is a virtual dataset of {shown(name)}, which is not in the file: copy the file again")
        return part
    found = place_of_link(dataset.file, file_name)
    if found is None or not os.path.exists(found):
        raise InputError(f"{where} is a virtual dataset of {shown(file_name)}, which is not there: put it back, or beside the file")
    part = dataset_at(open_file(found), "/" + name)
    if part is None:
        raise InputError(
            f"{where} is a virtual dataset of {called}, which has no such dataset: it is another file, or damaged; copy it again"
        )
    return part


def _check_external(dataset: h5py.Dataset) -> None:
    where, need = f"{shown(dataset.file.filename)}: the data of {shown(path_of(dataset))}", dataset.nbytes
    for name, offset, size in dataset.external:
        if not os.path.isfile(name):
            kind = "is not a regular file" if os.path.exists(name) else "is not there: put it back, or run in its folder"
            raise InputError(f"{where} are in another file, {shown(name)}, which {kind}")
        there = max(0, os.path.getsize(name) - offset)
        part = need if size == h5py.h5f.UNLIMITED else min(size, need)
        if there < part:
            raise InputError(
                f"{shown(name)}: the file is too short, {there} bytes where {where} need {part}: it is truncated, copy it again"
            )
        need -= part
    if need > 0:
        raise InputError(f"{where} are in external files that hold {need} bytes less than its shape needs: copy these files again")
