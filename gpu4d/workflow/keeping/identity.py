"""Identify what the results of a run follow from: the content of files, the code, and the computer."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import gpu4d
from gpu4d._version import __version__
from gpu4d.io.reading import split_path
from gpu4d.workflow.stages import known_stages

WHOLE = 64 << 20  # bytes: a smaller file is read as a whole, which takes a tenth of a second
BLOCK, BLOCKS = 64 << 10, 128  # bytes and number of the blocks that are read of a larger one: 8 MiB, evenly spread, with both ends
CODE = (".py", ".cu", ".cuh")  # endings of files with code
PARTS = ("_master", "_data", "_meta")  # ends of the names of a scan in several files: the rest is common to them
OF_THE_SCAN = ("input", "corrections")  # sections of a recipe that decide how a scan is opened
READ_LATER = ("input.calibration", "input.scan_mask", "input.bad_pixels")  # these do not: stages, or the calibration, have them


def digest(value: object) -> str:
    """Return a digest of a value of a recipe or a calibration: a number, a text, a list of these, or an array."""
    if isinstance(value, np.ndarray):
        return hashlib.sha256(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


def identity_of(path: str | os.PathLike[str], exact: bool = False) -> str:
    """Return a digest of the content of a file, or of all files in a folder.

    A file of up to 64 MiB is read as a whole. Of a larger one the size, the time of its last change, and 128 blocks of 64 KiB count, which
    are spread evenly, with the beginning and the end. A program that changes a large file in other places, and sets back its time, is
    not noticed: `exact` reads everything.

    Parameters
    ----------
    path : path
    exact : bool
        Read large files as a whole, too.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    found = hashlib.sha256()
    if os.path.isdir(path):
        for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
            found.update(f"{file.relative_to(path)} {identity_of(file, exact)}\n".encode(errors="surrogateescape"))
        return found.hexdigest()
    about = os.stat(path)
    found.update(str(about.st_size).encode())
    with open(path, "rb", buffering=0) as opened:
        if exact or about.st_size <= WHOLE:
            while part := opened.read(1 << 20):
                found.update(part)
        else:
            found.update(str(about.st_mtime_ns).encode())
            for number in range(BLOCKS):
                opened.seek((about.st_size - BLOCK) * number // (BLOCKS - 1))
                found.update(opened.read(BLOCK))
    return found.hexdigest()


def scan_identity(path: Path, source: object, recipe: Any, exact: bool = False) -> str:
    """Return a digest of a scan as it is analysed: its files, and the settings with which they are opened.

    Parameters
    ----------
    path : Path
    source : gpu4d.data.source.Source
        Of the opened scan, for its shape and type.
    recipe : Recipe
    exact : bool
        As of `identity_of`.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    lines = [f"{type(source).__name__} {getattr(source, 'shape', '')} {getattr(source, 'dtype', '')}"]
    for file in files_of_scan(path):
        lines.append(f"{'' if file == path else file.name} {identity_of(file, exact)}")
    for name, value, rule in recipe.values():
        if name.partition(".")[0] in OF_THE_SCAN and name not in READ_LATER:
            lines.append(f"{name} {setting_digest(value, rule.kind, rule.choices)}")
    return digest("\n".join(lines))


def setting_digest(value: Any, kind: str, choices: Iterable[str] = ()) -> str:
    """Return a digest of a setting. If it names files, their content counts."""
    if value is None or kind not in ("file", "names", "reference"):
        return digest(value)
    named = [value] if isinstance(value, str) else [v for v in value if isinstance(v, str)]
    return digest([value, *(_named_file(text) for text in named if text not in choices)])


def _named_file(text: str) -> str:
    """Return the identity of FILE, of FILE in FILE:/dataset, or of the result in a folder. Empty if there is no such file."""
    path = Path(text if os.path.exists(text) else split_path(text)[0])
    try:
        inside = path / "result.h5"
        return identity_of(inside if inside.is_file() else path)
    except (OSError, ValueError):
        return ""


def files_of_scan(path: Path) -> list[Path]:
    """Return the files of a scan: the one that was named, and those beside it whose names begin like it."""
    begin = path.stem
    for part in PARTS:
        begin = begin.removesuffix(part)
    beside = [p for p in path.parent.iterdir() if p != path and p.name.startswith(begin) and p.is_file()] if begin else []
    return [path, *sorted(p for p in beside if _belongs(p.name[len(begin) :]))]


def _belongs(rest: str) -> bool:
    """Say whether what follows the common part of a name is that of a further part of a scan: _data_000001.h5, .raw, _x256.raw, _1.ser."""
    return rest.startswith((".", *PARTS)) or rest.rpartition(".")[2] in ("raw", "ser", "hdr", "xml", "emi")


@functools.cache
def code_identity() -> str:
    """Return a digest of all code that makes results: gpu4d's files, those of stages of other packages, and versions of libraries."""
    import h5py
    import numba
    import scipy

    folder = Path(gpu4d.__file__).parent
    found = hashlib.sha256("\n".join([__version__, np.__version__, scipy.__version__, numba.__version__, h5py.__version__]).encode())
    files = sorted(p for p in folder.rglob("*") if p.suffix in CODE)
    others = {inspect.getfile(type(stage)) for stage in known_stages()}
    for file in [*files, *sorted(Path(p) for p in others if folder not in Path(p).parents)]:
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


@functools.cache
def computer_identity(device: str) -> str:
    """Return a digest of what else decides the last bits: the processor, whose instructions compiled code uses, Python, and the device."""
    from llvmlite import binding

    from gpu4d.device.choose import choose_all

    kinds = sorted({f"{getattr(one, 'kind', one)} {getattr(one, 'name', '')}" for one in choose_all(device)})
    return digest([platform.machine(), platform.system(), platform.python_version(), binding.get_host_cpu_name(), kinds])
