"""Choose the dataset of an HDF5 file that is the scan, or say which ones could be it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import h5py
import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.formats.emd import label
from gpu4d.io.sources.hdf5_dataset import axes, frames
from gpu4d.io.sources.layout import FRAMES, is_usable
from gpu4d.io.sources.links import BrokenLink, follow, visit
from gpu4d.io.units import log

LISTED = 8  # number of datasets or files that an error names
LEAST_DETECTOR = 4  # pixels along each axis; smaller arrays beside a scan are tables: tensors, positions, pairs of numbers

Datasets = dict[str, h5py.Dataset]


@dataclass
class Contents:
    """The datasets of a file by their paths, and the links in it that lead nowhere."""

    datasets: Datasets = field(default_factory=dict)
    lost: dict[str, BrokenLink] = field(default_factory=dict)

    @classmethod
    def of(cls, file: h5py.File) -> Contents:
        """List a file. Links are followed, and each stored object appears once."""
        found = cls()
        found.datasets = dict(visit(file, found.lost))
        return found

    @property
    def missing(self) -> list[str]:
        """Names of the files that links lead to and that cannot be opened, with the reason, each once."""
        return list(dict.fromkeys(broken.missing for broken in self.lost.values() if broken.missing is not None))

    def words(self) -> str:
        """Say in a few words which datasets there are, and which linked files are missing."""
        found = {path: d for path, d in self.datasets.items() if d.shape is not None}
        text = "the file holds no dataset at all"
        if found:
            text = f"the file holds {listed(dict(sorted(found.items(), key=lambda kv: -kv[1].ndim)))}"
        return text + self.missing_words()

    def missing_words(self) -> str:
        """Say which linked files are missing; "" if none is."""
        missing = self.missing
        if not missing:
            return ""
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        names = ", ".join(map(shown, missing[:LISTED])) + more
        return f"; files that it links to cannot be opened: {names}: put {'it' if len(missing) == 1 else 'them'} beside it"


def value_type(dataset: h5py.Dataset) -> np.dtype | None:
    """Return the dtype of a dataset; None if NumPy has no such type, as for integers of 24 bits."""
    try:
        return dataset.dtype
    except (TypeError, ValueError):
        return None


def describe(path: str, dataset: h5py.Dataset) -> str:
    """Return path, shape and dtype of a dataset in one line."""
    return f"{shown(path)} {'×'.join(map(str, dataset.shape))} {value_type(dataset) or 'of a type that NumPy does not have'}"


def listed(found: Datasets) -> str:
    """Describe some datasets, at most `LISTED` of them."""
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return "; ".join(describe(path, d) for path, d in list(found.items())[:LISTED]) + more


def choose(file: h5py.File, name: str | None, scan_shape: tuple[int, int] | None) -> tuple[str, h5py.Dataset]:
    """Return the dataset that holds the scan. If that is not clear, raise an error that lists the datasets.

    A scan has real numbers, four axes (more if those are of length one), and a detector of at least `LEAST_DETECTOR` pixels along
    each axis, unless the file calls it a DataCube. Of three axes it is one only with a scan shape. A dataset that is named may be any.
    """
    if name is not None:
        return _named(file, name)
    held = Contents.of(file)
    arrays = {path: d for path, d in held.datasets.items() if d.shape is not None and len(axes(d)) in (3, 4)}
    scans = {path: d for path, d in arrays.items() if _is_plausible(d)}
    four = {path: d for path, d in scans.items() if len(axes(d)) == 4}
    stacks = {path: d for path, d in scans.items() if len(axes(d)) == 3}
    likely = four
    if scan_shape == FRAMES:
        likely = stacks or four
    elif scan_shape is not None:
        wanted = math.prod(scan_shape)
        likely = {path: d for path, d in scans.items() if frames(d) == wanted} or four or stacks
    elif len(four) == 1 and any(d.size > next(iter(four.values())).size for d in stacks.values()):
        likely = {**four, **stacks}  # a few patterns beside a longer stack of frames: either may be meant
    if not scans:
        likely = {path: d for path, d in arrays.items() if len(axes(d)) == 4 and not _is_number(d)}  # opening it says what is wrong
    if len(likely) == 1:
        if held.missing:
            log.warning("%s%s", shown(file.filename), held.missing_words())
        passed = {path: d for path, d in arrays.items() if path not in likely and len(axes(d)) == 4}
        if passed:
            log.info("%s: %s is the scan, and not %s", shown(file.filename), listed(likely), listed(passed))
        return next(iter(likely.items()))
    raise _unclear(file, likely, arrays, held)


def _unclear(file: h5py.File, likely: Datasets, arrays: Datasets, held: Contents) -> InputError:
    """Say why none of the datasets, or not one alone, is taken as the scan."""
    name, missing = shown(file.filename), held.missing_words()
    if likely:
        first = shown(next(iter(likely)))
        return InputError(
            f"{name}: {len(likely)} datasets could be the scan: {listed(likely)}. "
            f"Choose one with --dataset {first} or dataset={first!r}{missing}"
        )
    three = {path: d for path, d in arrays.items() if len(axes(d)) == 3 and _is_plausible(d)}
    if three:
        return InputError(
            f"{name}: no four-dimensional dataset (Rx, Ry, Qx, Qy), but {listed(three)}. If the first axis counts frames, "
            f"give the scan's shape with --scan-shape Rx,Ry or scan_shape=(Rx, Ry){missing}"
        )
    small = {path: d for path, d in arrays.items() if _is_number(d) and len(axes(d)) == 4}
    if small:
        return InputError(
            f"{name}: no scan, but {listed(small)}, whose last two axes are shorter than {LEAST_DETECTOR} pixels or have no values. "
            f"If it is the scan, name it with --dataset or dataset={shown(next(iter(small)))!r}{missing}"
        )
    return InputError(f"{name}: {held.words()}; need a dataset with four dimensions (Rx, Ry, Qx, Qy), or three and a scan shape")


def _is_number(dataset: h5py.Dataset) -> bool:
    dtype = value_type(dataset)
    return dtype is not None and is_usable(dtype)


def _is_plausible(dataset: h5py.Dataset) -> bool:
    shape = axes(dataset)
    if not _is_number(dataset) or 0 in shape:
        return False
    return min(shape[-2:]) >= LEAST_DETECTOR or label(dataset.parent, "python_class") == "DataCube"


def _named(file: h5py.File, name: str) -> tuple[str, h5py.Dataset]:
    path, where = "/" + name.strip("/"), shown(file.filename)
    try:
        item = follow(file, path)
    except BrokenLink as broken:
        held = Contents.of(file)
        if broken.missing is not None or path in held.lost:
            raise InputError(str(broken)) from None
        raise InputError(f"{where}: no dataset {name!r}; {held.words()}. Choose one with --dataset or dataset=") from broken
    if isinstance(item, h5py.Dataset):
        return path, item
    held = Contents.of(file)
    under = {k: v for k, v in held.datasets.items() if k.startswith(path.rstrip("/") + "/") and v.shape is not None and _is_plausible(v)}
    inside = {k: v for k, v in under.items() if len(axes(v)) == 4}
    if len(inside) != 1:
        raise InputError(f"{where}: {name!r} is a group, not a dataset; {held.words()}. Choose one with --dataset or dataset=")
    return next(iter(inside.items()))


def possible_scans(file: h5py.File) -> list[str]:
    """Return the paths of all datasets of four axes that `choose` takes if they are named and not tables."""
    found = {path: d for path, d in Contents.of(file).datasets.items() if d.shape is not None and len(axes(d)) == 4}
    return [path for path, dataset in found.items() if _is_plausible(dataset)]
