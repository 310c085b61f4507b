"""Table of the file formats. Each format has its own file.

A new format is a file in this folder and a line in `FORMATS`. Another package adds its formats by the entry-point group
"gpu4d.formats", whose entries name Format classes.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import entry_points

from gpu4d.io.format import Format

GROUP = "gpu4d.formats"  # of entry points
FORMATS = (  # module: class, in the order in which formats are asked to recognise a file
    "hdf5:Hdf5",
    "npy:Npy",
    "zarr:Zarr",
    "zarr:ZarrZip",
    "timepix3:Timepix3",
    "described:Described",
)


@functools.cache
def known_formats() -> tuple[Format, ...]:
    """Return one format of each class: gpu4d's own in the order of the table, then those of other packages by name."""
    own = [_load(f"{__name__}.{entry}") for entry in FORMATS]
    others = [entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name)]
    return tuple(kind() for kind in (*own, *others))


def _load(entry: str) -> type[Format]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
