"""Find a crystal structure by the name that a recipe gives it."""

from __future__ import annotations

import os

from gpu4d.errors import InputError
from gpu4d.structures import STANDARDS, Structure


def structure_named(name: str) -> Structure:
    """Return a standard, or the structure of a CIF file. Capitals of a standard do not matter.

    Raises
    ------
    InputError
        There is neither a standard nor a file of this name.

    Examples
    --------
    >>> structure_named("Au").name, structure_named("graphite").name, structure_named("au").name
    ('Au', 'graphite', 'Au')
    """
    standards = {known.lower() for known in STANDARDS}
    if name.lower() in standards:
        return Structure.standard(name)
    if os.path.isfile(name):
        return Structure.read_cif(name)
    raise InputError(
        f"structure {os.path.basename(name)}: there is no such standard, and no file {name}; standards are {', '.join(STANDARDS)}"
    )
