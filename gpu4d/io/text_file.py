"""Write a text file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from gpu4d.errors import InputError


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool = False, encoding: str = "utf-8") -> Path:
    """Write a text beside its place, and rename the file when it is complete. An existing file is replaced only with `overwrite`.

    Raises
    ------
    InputError
        The file exists, or cannot be written. Then nothing is left behind, and an existing file is unchanged.

    Examples
    --------
    >>> import tempfile
    >>> write_text(Path(tempfile.mkdtemp()) / "a.txt", "text").read_text()
    'text'
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists: choose another name, or allow replacing it with --overwrite or overwrite=True")
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding=encoding, errors="replace", newline="\n")
        os.replace(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(f"{target} cannot be written ({error.strerror}): choose another name") from error
    return target
