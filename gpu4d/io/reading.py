"""Read all items of an EMD 1.0 file, and single images from files of any format."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import h5py
import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.formats import emd, emd_reference
from gpu4d.io.formats.choose_dataset import Contents, listed, value_type
from gpu4d.io.formats.emd_reference import is_reference
from gpu4d.io.formats.emd_results import is_result, read_result
from gpu4d.io.items import ItemReader, has_bragg
from gpu4d.io.opening import recognise
from gpu4d.io.sources.hdf5_file import open_file, opening, reading
from gpu4d.io.sources.links import MOST_MEMBERS, found, group_at, names

DEEPEST_TREE = 64  # groups of results inside each other

Stored = Any  # an item of a file: a slice, a list of points, an array, a calibration or a mapping, as it was saved


def read_emd(path: str | os.PathLike[str], only: Collection[str] | None = None) -> dict[str, Stored]:
    """Read all items of an EMD 1.0 file that `gpu4d.save`, py4DSTEM or emdfile wrote.

    Parameters
    ----------
    path : str or path
    only : collection of str, optional
        Names of the items to read, as they stand in the root. Metadata is read in any case. None reads all items.

    Returns
    -------
    dict of str to object
        Keys are paths under the file's root ("bf", "datacube/braggvectors"). With several roots they begin with the root's name.
        Values are what `gpu4d.save` was given: results of any class, DataCube (lazy, also a link or a counted scan), RealSlice,
        DiffractionSlice, Slice, PointListArray (Bragg vectors: fields qx, qy, intensity and all others in the file) and PointList.
        A result whose class is not known here, or that is damaged, is read as its parts ("strain/exx") with a warning. Metadata of the
        root have their own names: "calibration" is a Calibration, others are dictionaries. Slices of other programs without units take
        the pixel size from the calibration. A cube whose raw file is missing is left out with a warning.

    Raises
    ------
    InputError
        Not an EMD 1.0 file, or damaged.

    Examples
    --------
    >>> import gpu4d, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "disk.h5")
    >>> gpu4d.save(name, {"disk": gpu4d.probe.Disk(11.5, 9.5, 3.0, 0.5, 0.02)})
    >>> read_emd(name)["disk"].radius
    3.0
    """
    path = os.fspath(path)
    known = recognise(path)
    if known.name != "hdf5":
        raise InputError(f"{shown(path)} is a file of the format {known.name}, not EMD 1.0: open its scan with gpu4d.open")
    items: dict[str, Any] = {}
    with opening(path), open_file(path) as file:
        groups = {name: group_at(file, name) for name in names(file)}
        roots = {name: group for name, group in groups.items() if group is not None and emd.group_type(group) == "root"}
        if not roots:
            raise InputError(f"{path}: HDF5, but not EMD 1.0 (no group marked 'root'): open its scan with gpu4d.open")
        for name, root in roots.items():
            prefix = f"{name}/" if len(roots) > 1 else ""
            metadata = emd.bundle(root)
            keys = metadata.pop("calibration", None)
            calibration = None if keys is None else emd.from_keys(keys, None)
            named = {key: emd_reference.referred(value, os.path.dirname(path)) for key, value in metadata.items() if is_reference(value)}
            items |= {prefix + key: value for key, value in {**metadata, **named}.items() if value is not None}
            if calibration is not None:
                items[f"{prefix}calibration"] = calibration
            with reading(path, name):
                _walk(root, prefix, calibration or Calibration(), path, items, _others(root, only))
    return items


def _others(root: h5py.Group, only: Collection[str] | None) -> set[int]:
    """Return what `_walk` must not read: the root itself, and the items that are not asked for."""
    left_out = [] if only is None else [group_at(root, name) for name in names(root) if name not in only]
    return {hash(root), *(hash(group) for group in left_out if group is not None)}


def _walk(group: h5py.Group, prefix: str, calibration: Calibration, path: str, items: dict[str, Any], seen: set[int]) -> None:
    """Read the items in a group and in the groups below it. A group that several names lead to is read once."""
    reader = ItemReader(path, calibration)
    for name in names(group):
        item = group_at(group, name)
        if item is None or name == "metadatabundle" or hash(item) in seen:
            continue
        seen.add(hash(item))
        if is_result(item):
            try:
                items[prefix + name] = read_result(item, reader.read)
                continue
            except (*FOREIGN, AttributeError, MemoryError) as error:  # its parts are items like others
                emd.log.warning("%s: %s is read as its parts: %s", shown(path), shown(name), reason(error))
        try:
            found = reader.read(item)
        except InputError as error:
            if emd.group_type(item) != "custom_array":
                raise
            emd.log.warning("%s is left out: %s", shown(name), error)  # results are useful without their raw file
            found = None
        if found is not None:
            items[prefix + name] = found
        if emd.group_type(item) and not has_bragg(item):
            if len(seen) > MOST_MEMBERS or prefix.count("/") > DEEPEST_TREE:
                raise InputError(f"{shown(path)}: {shown(prefix + name)} lies too deep: groups inside each other")
            _walk(item, f"{prefix}{name}/", calibration, path, items, seen)


def load_image(spec: str) -> np.ndarray:
    """Read one image from a file, named as for the command line's ``--probe FILE[:/path]``.

    Parameters
    ----------
    spec : str
        A `.npy` file or an HDF5 file. If the HDF5 file holds several images, write the dataset's path after a colon. From a stack
        of two planes, as py4DSTEM stores a probe with its kernel, the first is read.

    Returns
    -------
    (nx, ny) array
        Real, native byte order.

    Raises
    ------
    InputError
        No such file or dataset, not an image, several images and no path.
    """
    path, inside = split_path(os.fspath(spec))
    if recognise(path).name == "npy":
        if inside:
            raise InputError(f"{spec}: a .npy file holds one array: leave {inside!r} out")
        try:
            image = np.load(path, allow_pickle=False)
        except (*FOREIGN, MemoryError) as error:
            raise InputError(f"{path}: not a readable .npy file ({reason(error)})") from error
    else:
        with opening(path), open_file(path) as file, reading(path, inside or "/"):
            image = _image_dataset(file, inside)[()]
    if image.ndim == 3 and image.shape[0] <= 2:
        image = image[0]
    if image.ndim != 2 or image.dtype.kind not in "biuf":
        raise InputError(
            f"{spec} is {'×'.join(map(str, image.shape)) or 'a single value'} {image.dtype}: need an image, two-dimensional and real "
            "(or a stack of a probe and its kernel)"
        )
    return np.ascontiguousarray(image.astype(image.dtype.newbyteorder("=")))


def load_images(spec: str, most: int = 1000) -> np.ndarray:
    """Read one image or a few from a file, named as ``FILE[:/path]``.

    Parameters
    ----------
    spec : str
        A `.npy` file or an HDF5 file with an image (nx, ny), a stack (n, nx, ny), or a scan (Rx, Ry, nx, ny). If the HDF5 file holds
        several, write the dataset's path after a colon; the only image needs none, and without images the only stack or scan.
    most : int
        Largest number of images, so that a scan named by mistake does not fill the memory.

    Returns
    -------
    (n, nx, ny) array
        Real, native byte order. Images of a scan are in the order of its rows.

    Raises
    ------
    InputError
        No such file or dataset, neither image nor stack, or more images than `most`.

    Examples
    --------
    >>> import tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "images.npy")
    >>> np.save(name, np.zeros((2, 3, 8, 8)))
    >>> load_images(name).shape
    (6, 8, 8)
    """
    path, inside = split_path(os.fspath(spec))
    if recognise(path).name == "npy":
        if inside:
            raise InputError(f"{spec}: a .npy file holds one array: leave {inside!r} out")
        try:
            data: Any = np.load(path, allow_pickle=False, mmap_mode="r")
        except (*FOREIGN, MemoryError) as error:
            raise InputError(f"{path}: not a readable .npy file ({reason(error)})") from error
        return _as_images(data, spec, most)
    with opening(path), open_file(path) as file, reading(path, inside or "/"):
        return _as_images(_image_dataset(file, inside, stacks=True), spec, most)


def _as_images(data: Any, spec: str, most: int) -> np.ndarray:
    """Return an array or dataset of two to four dimensions as (n, nx, ny). Nothing is read of one that is refused."""
    shape = "×".join(map(str, data.shape)) or "a single value"
    if data.ndim not in (2, 3, 4) or data.dtype.kind not in "biuf" or 0 in data.shape:
        raise InputError(f"{spec} is {shape} {data.dtype}: need an image, a stack of images (n, nx, ny) or a scan, of real numbers")
    number = int(np.prod(data.shape[:-2]))
    if number > most:
        raise InputError(f"{spec} has {number} images ({shape}), more than {most}: name a file or dataset with a few")
    values = data[()].reshape(-1, *data.shape[-2:])
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))


def split_path(spec: str) -> tuple[str, str]:
    """Split "FILE:/path" into FILE and /path. A colon that is not followed by "/" belongs to the name of the file."""
    head, colon, tail = spec.rpartition(":/")
    return (head, "/" + tail) if colon and len(head) > 1 and not os.path.exists(spec) else (spec, "")


def _image_dataset(file: h5py.File, inside: str, stacks: bool = False) -> h5py.Dataset:
    """Return the dataset of this path, or the only image. With `stacks`, the only stack or scan of a file without an image, too."""
    where = shown(file.filename)
    if inside:
        item = found(file, inside)
        if isinstance(item, h5py.Group):
            item = found(item, "data")
        if not isinstance(item, h5py.Dataset):
            raise InputError(f"{where}: no dataset {inside!r}; {Contents.of(file).words()}")
        return item
    held = Contents.of(file)
    numbers = {
        p: d for p, d in held.datasets.items() if d.shape is not None and (kind := value_type(d)) is not None and kind.kind in "biuf"
    }
    images = {p: d for p, d in numbers.items() if d.ndim == 2}
    if stacks and not images:
        images = {p: d for p, d in numbers.items() if d.ndim in (3, 4)}
    if len(images) != 1:
        what = f"{len(images)} images: {listed(images)}" if images else f"no image: {held.words()}"
        raise InputError(f"{where} holds {what}. Name one as {where}:/path")
    return next(iter(images.values()))
