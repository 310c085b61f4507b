"""Table of the file formats. Each format has its own file.

A new format is a file in this folder and a line in `FORMATS`. Another package adds its formats by the entry-point group
"gpu4d.formats", whose entries name Format classes.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from gpu4d.errors import InputError
from gpu4d.extensions import check_class, check_free, extensions
from gpu4d.io.format import Format

GROUP = "gpu4d.formats"  # of entry points
FORMATS = (  # module: class, in the order in which formats are asked to recognise a file
    "dectris:Dectris",
    "velox:Velox",
    "topspin:Topspin",
    "hyperspy:HyperSpy",
    "prismatic:Prismatic",
    "abtem:AbTem",
    "nexus:NeXus",
    "stempy:Stempy",
    "hdf5:Hdf5",
    "npy:Npy",
    "merlin:Merlin",
    "empad:Empad",
    "raw_csr:RawCsr",
    "digitalmicrograph:DigitalMicrograph",
    "mrc:Mrc",
    "blockfile:Blockfile",
    "tia:Tia",
    "tvips:Tvips",
    "timepix3:Timepix3",
    "zarr:Zarr",
    "zarr:ZarrZip",
    "described:Described",
    "raw:Raw",  # never recognised: its layout is given
)
LAST = "rosettasciio:RosettaSciIO"  # asked after all others, those of other packages too: it knows a file by its ending alone


@functools.cache
def known_formats() -> tuple[Format, ...]:
    """Return one format of each class: gpu4d's own in the order of the table, those of other packages by name, and the last resort.

    A format of another package that cannot be used is left out, with a warning.
    """
    own, last = [_load(f"{__name__}.{entry}")() for entry in FORMATS], _load(f"{__name__}.{LAST}")()
    taken = {known.name for known in (*own, last)}

    def accept(entry: str, found: Any, package: str) -> Format:
        check_class(found, Format, "a subclass of gpu4d.io.format.Format")
        if not all(isinstance(getattr(found, word, None), str) for word in ("name", "accepts")):
            raise InputError(f"{found.__name__} lacks a text: name and accepts")
        check_free(found.name, taken, "format")
        made = found()
        taken.add(found.name)
        return made

    return (*own, *extensions(GROUP, accept), last)


def from_elsewhere(known: Format) -> bool:
    """Say whether a format comes from another package."""
    return not type(known).__module__.startswith(f"{__name__}.")


def _load(entry: str) -> type[Format]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
