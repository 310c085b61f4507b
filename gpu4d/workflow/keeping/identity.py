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
from gpu4d.workflow.content import Contents
from gpu4d.workflow.stages import known_stages

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

    What is read of a large file says `gpu4d.workflow.content.content_of`; the time of its last change counts, too. A program that changes
    a large file in places that are not read, and sets back its time, is not noticed: `exact` reads everything.

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
    return _identity(Path(path), Contents(exact))


def _identity(path: Path, contents: Contents) -> str:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return digest([f"{file.relative_to(path)} {_identity(file, contents)}" for file in files])
    content = contents.of(path)
    return f"{content.digest} {content.changed}" if content.changed else content.digest


def scan_identity(path: Path, source: object, recipe: Any, contents: Contents) -> str:
    """Return a digest of a scan as it is analysed: its files, and the settings with which they are opened.

    Parameters
    ----------
    path : Path
    source : gpu4d.data.source.Source
        Of the opened scan, for its shape and type.
    recipe : Recipe
    contents : Contents
        Of the files of the run.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    lines = [f"{type(source).__name__} {getattr(source, 'shape', '')} {getattr(source, 'dtype', '')}"]
    for file in files_of_scan(path):
        lines.append(f"{'' if file == path else file.name} {_identity(file, contents)}")
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
