"""The file formats: one file each, and the table that names them.

A new format is a file in this folder and a line in `FORMATS`. Another package adds its formats by the entry-point group
"gpu4d.formats", whose entries name Format classes.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import entry_points

from gpu4d.io.format import Format

GROUP = "gpu4d.formats"  # of entry points
FORMATS = (  # module: class; asked in this order whether a file is theirs
    "hdf5:Hdf5",
    "npy:Npy",
)


@functools.cache
def known_formats() -> tuple[Format, ...]:
    """Return one format of each class: our own in the order of the table, then those of other packages by their names."""
    own = [_load(f"{__name__}.{entry}") for entry in FORMATS]
    others = [entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name)]
    return tuple(kind() for kind in (*own, *others))


def _load(entry: str) -> type[Format]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
