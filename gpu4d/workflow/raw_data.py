"""Say whether a result still has its raw scan: in the same file, linked, or lost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py

from gpu4d.errors import InputError
from gpu4d.io.formats.emd import read_metadata
from gpu4d.io.formats.emd_reference import is_reference
from gpu4d.io.sources.hdf5_file import open_file, opening
from gpu4d.io.sources.links import dataset_at, group_at

GROUPS = ("datacube", "raw_datacube")  # of the root, which hold the scan or link to it
BUNDLED, LINKED, MISSING, NONE = "bundled", "linked", "missing", "none"


class RawData(NamedTuple):
    """Where the raw scan of a result is.

    Attributes
    ----------
    status : {"bundled", "linked", "missing", "none"}
        In the result file, in a file that is there, in a file that is not there any more, or not named.
    file : str
        The file that is linked, or empty.
    """

    status: str
    file: str = ""

    def __str__(self) -> str:
        return {
            BUNDLED: "the raw scan is in the result file",
            LINKED: f"the raw scan is in {self.file}, to which the result links: keep both together, or run with --bundle",
            MISSING: f"the raw scan is lost: the result links to {self.file}, which is not there. Put it back, or only these results "
            "are left of the experiment",
            NONE: "the result names no raw scan: it cannot be analysed in another way",
        }[self.status]


def raw_data_of(result: str | os.PathLike[str]) -> RawData:
    """Look where the raw scan of a result is. The scan itself is not read.

    Parameters
    ----------
    result : path
        A result folder, or a file that `gpu4d.save` wrote.

    Returns
    -------
    RawData

    Raises
    ------
    InputError
        The file is not there, or no HDF5.
    """
    path = Path(result)
    path = path / "result.h5" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file: give the folder that `gpu4d run` wrote, or its result.h5")
    with opening(str(path)), open_file(str(path)) as file:
        roots = [root for root in (file.get(name) for name in file) if isinstance(root, h5py.Group)]
        found = [one for root in roots for one in _in_root(root, path.absolute().parent)]
    lost = [one for one in found if one.status == MISSING]
    return (lost or found or [RawData(NONE)])[0]


def _in_root(root: h5py.Group, folder: Path) -> Iterator[RawData]:
    """Look at the scans in one root: as data, as links of HDF5, and as names of files that HDF5 cannot link to."""
    for name in GROUPS:
        held = dataset_at(root, f"{name}/data")
        if held is not None:
            yield _stored(held, folder)
        named = group_at(root, f"metadatabundle/{name}")
        if named is not None:
            values = read_metadata(named)
            if is_reference(values):
                yield _at([str(values.get("relative")), str(values.get("file"))], folder)


def _stored(held: h5py.Dataset, folder: Path) -> RawData:
    files = (
        [part.file_name for part in held.virtual_sources()] if held.is_virtual else [os.fsdecode(part[0]) for part in held.external or ()]
    )
    linked = [_at([name], folder) for name in dict.fromkeys(files) if name != "."]
    lost = [one for one in linked if one.status == MISSING]
    return (lost or linked or [RawData(BUNDLED)])[0]


def _at(names: Sequence[str], folder: Path) -> RawData:
    """Return the first of some names of a file that is there."""
    places = [os.path.normpath(folder / name) for name in names]  # a name with a root stands alone
    there = [place for place in places if os.path.exists(place)]
    return RawData(LINKED, there[0]) if there else RawData(MISSING, places[0])
