"""Table of the formats that scans are converted to. A new one is a line here and a class with the methods of `Writer`."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

from gpu4d.errors import InputError
from gpu4d.io.writing.writer import Writer


@dataclass(frozen=True)
class Target:
    """A format to write.

    Attributes
    ----------
    name : str
        As users give it.
    endings : tuple of str
        Endings of names that stand for it.
    writer : str
        "module:Class" in this folder.
    codecs : tuple of str
        Compressions that it has.
    events : bool
        Counted scans stay events in it.
    """

    name: str
    endings: tuple[str, ...]
    writer: str
    codecs: tuple[str, ...] = ("lz4", "zstd", "none")
    events: bool = False

    def make(self) -> type[Writer]:
        """Return the class that writes it."""
        module, _, name = self.writer.partition(":")
        return getattr(importlib.import_module(f"gpu4d.io.writing.{module}"), name)


TARGETS = (
    Target("emd", (".h5", ".hdf5", ".emd"), "hdf5_files:Emd", events=True),
    Target("hspy", (".hspy",), "hdf5_files:Hspy"),
    Target("zarr", (".zarr",), "zarr_files:Zarr3"),
    Target("zarr2", (), "zarr_files:Zarr2"),
    Target("zspy", (".zspy",), "zarr_files:Zspy"),
    Target("npy", (".npy",), "plain_files:Npy", codecs=("none",)),
    Target("raw", (".raw", ".bin"), "plain_files:Raw", codecs=("none",)),
)


def target_for(path: str, name: str | None) -> Target:
    """Return the format of a file to be written, by its name or by the ending of the file. Raise InputError if there is none."""
    if name is not None:
        found = [target for target in TARGETS if target.name == name]
        if not found:
            raise InputError(f"format is {name!r}: accepted are {', '.join(target.name for target in TARGETS)}")
        return found[0]
    ending = os.path.splitext(path.rstrip("/"))[1].lower()
    for target in TARGETS:
        if ending in target.endings:
            return target
    endings = ", ".join(ending for target in TARGETS for ending in target.endings)
    raise InputError(f"{path}: the ending {ending!r} stands for no format that can be written; accepted are {endings}; or give --to FORMAT")
