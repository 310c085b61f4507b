"""Open HDF5 files: list their datasets, and find the one that is the scan."""

from __future__ import annotations

from typing import Any, ClassVar

import h5py
import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.format import Format, Opened, OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.sources.hdf5_dataset import frames, source_of
from gpu4d.io.sources.hdf5_file import open_file
from gpu4d.io.sources.layout import is_usable

SIGNATURE = b"\x89HDF\r\n\x1a\n"
USER_BLOCK = 512  # bytes of the smallest user block; HDF5's signature is at byte 0 or at 1, 2, 4, … times this
LISTED = 8  # number of datasets that an error names


class Hdf5(Format):
    """The HDF5 format: EMD 1.0 as py4DSTEM writes it, EMD 0.x, and any other file with a dataset of four dimensions."""

    name: ClassVar = "hdf5"
    accepts: ClassVar = "HDF5 (EMD, py4DSTEM, or any file with a 4D dataset)"

    def recognise(self, path: str, head: bytes) -> bool:
        with open(path, "rb") as file:
            size, at = file.seek(0, 2), 0
            while at < size:
                file.seek(at)
                if file.read(len(SIGNATURE)) == SIGNATURE:
                    return True
                at = max(USER_BLOCK, 2 * at)
        return False

    def open(self, path: str, options: OpenOptions) -> Opened:
        with open_file(path) as file:
            name, chosen = choose(file, options.dataset, options.scan_shape)
            source = source_of(file, name, chosen, options.scan_shape)
            calibration = emd.calibration_of(file, name, chosen, source.shape, options.energy)
            metadata = emd.metadata_of(file, name, chosen)
        mask = metadata.get("metadata", {}).get("detector", {}).get("mask")
        return Opened(source, calibration, metadata, emd.cube_name(path, name), mask)


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return every dataset by its path. Links are followed, and each stored object appears once."""
    found: dict[str, h5py.Dataset] = {}
    seen: set[tuple[int, int]] = set()

    def walk(group: h5py.Group, above: str) -> None:
        for name in group:
            try:
                item = group[name]
            except (KeyError, OSError):
                continue  # a broken link: an error only if this dataset is asked for
            info = h5py.h5o.get_info(item.id)
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            path = f"{above}/{name}"
            if isinstance(item, h5py.Group):
                walk(item, path)
            elif isinstance(item, h5py.Dataset):
                found[path] = item

    walk(file, "")
    return found


def describe(path: str, dataset: h5py.Dataset) -> str:
    """Return path, shape and dtype of a dataset in one line."""
    return f"{path} {'×'.join(map(str, dataset.shape))} {dataset.dtype}"


def choose(file: h5py.File, name: str | None, scan_shape: Any) -> tuple[str, h5py.Dataset]:
    """Return the dataset that holds the scan. If that is not clear, raise an error that lists the datasets."""
    if name is not None:
        return _named(file, name)
    found = {path: d for path, d in datasets(file).items() if d.shape is not None and d.ndim in (3, 4)}
    four = {path: d for path, d in found.items() if d.ndim == 4}
    three = {path: d for path, d in found.items() if d.ndim == 3}
    usable = {path: d for path, d in four.items() if is_usable(d.dtype)} or four
    if scan_shape is not None:
        fitting = {path: d for path, d in found.items() if is_usable(d.dtype) and frames(d) == _positions(scan_shape)}
        usable = fitting or usable or three
    if len(usable) == 1:
        return next(iter(usable.items()))
    if usable:
        raise InputError(
            f"{file.filename}: {len(usable)} datasets could be the scan: {_listed(usable)}. "
            f"Choose one with --dataset {next(iter(usable))} or dataset={next(iter(usable))!r}"
        )
    if three:
        raise InputError(
            f"{file.filename}: no four-dimensional dataset (Rx, Ry, Qx, Qy), but {_listed(three)}. If the first axis counts frames, "
            "give the scan's shape with --scan-shape Rx,Ry or scan_shape=(Rx, Ry)"
        )
    raise InputError(f"{file.filename}: {others(file)}; need a dataset with four dimensions (Rx, Ry, Qx, Qy), or three and a scan shape")


def _named(file: h5py.File, name: str) -> tuple[str, h5py.Dataset]:
    path = "/" + name.strip("/")
    try:
        item = file[path]
    except (KeyError, OSError) as error:
        raise InputError(f"{file.filename}: no dataset {name!r}; {others(file)}. Choose one with --dataset or dataset=") from error
    if isinstance(item, h5py.Group):
        inside = {k: v for k, v in datasets(file).items() if k.startswith(path.rstrip("/") + "/") and v.shape is not None and v.ndim == 4}
        if len(inside) != 1:
            raise InputError(f"{file.filename}: {name!r} is a group, not a dataset; {others(file)}. Choose one with --dataset or dataset=")
        return next(iter(inside.items()))
    return path, item


def _positions(scan_shape: Any) -> int | None:
    """Return the number of positions of a scan shape, or None if it is not one (`check_scan_shape` reports that)."""
    try:
        return int(np.prod([int(n) for n in scan_shape]))
    except (TypeError, ValueError):
        return None


def _listed(found: dict[str, h5py.Dataset]) -> str:
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return "; ".join(describe(path, d) for path, d in list(found.items())[:LISTED]) + more


def others(file: h5py.File) -> str:
    """Say which datasets a file holds."""
    found = {path: d for path, d in datasets(file).items() if d.shape is not None}
    if not found:
        return "the file holds no dataset at all"
    return f"the file holds {_listed(dict(sorted(found.items(), key=lambda kv: -kv[1].ndim)))}"
