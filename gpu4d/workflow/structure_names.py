"""Find a crystal structure by the name that a recipe gives it."""

from __future__ import annotations

import os

from gpu4d.errors import InputError
from gpu4d.structures import STANDARDS, Structure


def structure_named(name: str) -> Structure:
    """Return a standard, or the structure of a CIF file.

    Raises
    ------
    InputError
        There is neither a standard nor a file of this name.

    Examples
    --------
    >>> structure_named("Au").name
    'Au'
    """
    if name in STANDARDS:
        return Structure.standard(name)
    if not os.path.isfile(name):
        raise InputError(f"structure {os.path.basename(name)}: there is no such standard, and no file {name}; standards are "
                         f"{', '.join(STANDARDS)}")  # fmt: skip
    return Structure.read_cif(name)
