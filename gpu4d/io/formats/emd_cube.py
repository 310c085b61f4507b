"""Write a scan into an EMD 1.0 file: as a link to its file, as it is, or compressed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import h5py

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.named_axes import cube_axes
from gpu4d.data.source import check_whole
from gpu4d.errors import InputError
from gpu4d.io.formats.emd_nodes import node, write_dims, write_metadata
from gpu4d.io.formats.emd_reference import is_only_named, reference
from gpu4d.io.formats.emd_values import encoded
from gpu4d.io.sources.hdf5_file import open_file
from gpu4d.io.sources.links import follow
from gpu4d.io.writing.packed_hdf5 import write_patterns

STREAM_BYTES = 32 << 20  # of patterns that are read and written at a time
OF_THIS_FILE = ("attributes", "calibration", "corrections", "counted", "detector", "raw", "log", "settings", "versions", "scan_metadata")


def write_cube(parent: h5py.Group, name: str, cube: DataCube, links: str, target: str, check: Callable[[], None]) -> None:
    """Link the scan to its file, or write it a few rows at a time.

    The group of a linked or compressed cube is marked `custom_array`. emdfile and py4DSTEM then read it only if it is named by its path.
    So they do not load the whole raw scan together with the results.

    Parameters
    ----------
    parent : h5py.Group
    name : str
    cube : DataCube
    links : {"external", "copy", "bundle"}
        Link a scan that is in a file; write all patterns; write them compressed, without loss.
    target : str
        Path of the file that is written.
    check : callable
        Raises the first error of writing.
    """
    if links == "external" and is_only_named(cube.source):
        write_metadata(parent, name, reference(cube, target))
        return
    group = _write_link(parent, name, cube, target) if links == "external" else None
    if group is None:
        group = node(parent, name, "custom_array" if links == "bundle" else "array", "DataCube")
        if links == "bundle":
            write_patterns(group, "data", cube.source, memory=STREAM_BYTES, check=check)
        else:
            _write_patterns(group, cube, check)
        _write_place(group, cube)
    describe_cube(group, cube)


def describe_cube(group: h5py.Group, cube: DataCube) -> None:
    """Write units and axes of the patterns in a group, the detector mask, and what was corrected."""
    group["data"].attrs["units"] = "counts"
    write_dims(group, cube_axes(cube))
    if cube.detector_mask is not None:
        write_metadata(group, "detector", {"mask": cube.detector_mask})
    applied = [text for text in (earlier_corrections(cube), cube.corrections.description) if text]
    if applied:  # the patterns written are corrected ones, now or when they were written before
        write_metadata(group, "corrections", {"applied": ", ".join(applied)})


def write_about(group: h5py.Group, cube: DataCube, linked: bool) -> None:
    """Write the name of a scan, and what is known of it beyond what its file says: of the file that it was opened from, and of the user.

    Attributes of a file that is linked stay there, and are not read: damaged text in a file can stop HDF5 for ever.
    """
    group.attrs["gpu4d_name"] = cube.name
    said = _own_metadata(cube, ("path", "dataset", "metadata", *(["attributes"] if linked else [])))
    if said:
        write_metadata(group, "scan_metadata", said)


def earlier_corrections(cube: DataCube) -> str:
    """Return what was corrected in the patterns of the file that a cube was opened from; empty if nothing was."""
    kept = cube.metadata.get("metadata")
    found = kept.get("corrections") if isinstance(kept, Mapping) else None
    return str(found.get("applied", "")) if isinstance(found, Mapping) else ""


def _own_metadata(cube: DataCube, without: tuple[str, ...]) -> dict[str, Any]:
    """Return the metadata of a scan without those that its new file states anew."""
    said = {key: value for key, value in cube.metadata.items() if key not in without}
    kept = cube.metadata.get("metadata")
    of_file = {key: value for key, value in kept.items() if key not in OF_THIS_FILE} if isinstance(kept, Mapping) else {}
    found: dict[str, Any] = {}
    for key, value in {**said, "metadata": of_file}.items():
        if isinstance(value, Mapping) and not value:
            continue
        try:
            found[key] = encoded(value, key)
        except InputError:  # what a file has that EMD does not: its text is better than nothing
            found[key] = str(value)
    return found


def _write_place(group: h5py.Group, cube: DataCube) -> None:
    """Write where the patterns of a copy come from, if that is a file."""
    path = getattr(cube.source, "path", None)
    if path is not None:
        place = {"file": path, "dataset": getattr(cube.source, "dataset", None), "layout": cube.source.description}
        write_metadata(group, "raw", place)


def _write_link(parent: h5py.Group, name: str, cube: DataCube, target: str) -> h5py.Group | None:
    """Link by a virtual dataset (HDF5 file) or by external storage (mapped `.npy`). Return None for a cube that is in no file."""
    source: Any = cube.source
    path, dataset = getattr(source, "path", None), getattr(source, "dataset", None)
    if path is None:
        return None
    group = node(parent, name, "custom_array", "DataCube")
    if dataset is None:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_external(os.fsencode(path), source.offset, source.nbytes)
        create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space, kind = h5py.h5s.create_simple(cube.shape), h5py.h5t.py_create(source.stored, logical=True)
        h5py.h5d.create(group.id, b"data", kind, space, dcpl=create)
    else:
        with open_file(path) as raw:
            stored = follow(raw, dataset)
            shape, dtype = stored.shape, stored.dtype
        layout = h5py.VirtualLayout(cube.shape, dtype)
        layout[...] = h5py.VirtualSource(relative(path, target), dataset, shape)
        group.create_virtual_dataset("data", layout)
    _write_place(group, cube)
    return group


def relative(path: str, target: str) -> str:
    """Return the path of the raw file relative to the folder of the results, so that both can be moved together."""
    try:
        return os.path.relpath(os.path.realpath(path), os.path.dirname(os.path.realpath(target)))
    except ValueError:  # it is on another drive
        return path


def _write_patterns(group: h5py.Group, cube: DataCube, check: Callable[[], None]) -> None:
    """Write all patterns, some rows, or parts of one row, at a time."""
    rx, ry = cube.scan_shape
    source = cube.source
    first = arrays.to_numpy(source.read(slice(0, 1), slice(0, 1)))
    frame = first.nbytes
    block_rows, block_columns = source.blocks
    data = group.create_dataset("data", cube.shape, first.dtype)
    columns = (
        ry if frame * ry * block_rows <= STREAM_BYTES else max(STREAM_BYTES // (frame * block_rows) // block_columns, 1) * block_columns
    )
    rows = max(STREAM_BYTES // (frame * min(columns, ry)) // block_rows, 1) * block_rows
    for x in range(0, rx, rows):
        for y in range(0, ry, columns):
            cut = slice(x, min(x + rows, rx)), slice(y, min(y + columns, ry))
            data[cut] = arrays.to_numpy(source.read(*cut))
            check_whole(source)
            check()
