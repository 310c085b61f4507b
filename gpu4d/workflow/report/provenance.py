"""Say where results come from: the file and its content, its own metadata, the software, the machine, the command."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

import gpu4d
from gpu4d._version import __version__
from gpu4d.device.listing import devices
from gpu4d.sizes import format_bytes
from gpu4d.workflow.content import Contents

MOST_FILES = 20_000  # of a folder whose names and sizes are hashed: listing more takes seconds on a network drive
MOST_METADATA, LONGEST = 200, 300  # rows of a file's own metadata, and characters of one value


class Provenance(NamedTuple):
    """What a result comes from, as rows (what, value).

    Attributes
    ----------
    rows : tuple of (str, str)
    metadata : tuple of (str, str)
        What the scan's file says itself.
    """

    rows: tuple[tuple[str, str], ...]
    metadata: tuple[tuple[str, str], ...]


def provenance(
    path: Path | None, metadata: Mapping[str, object], device: str, command: str, contents: Contents | None = None
) -> Provenance:
    """Collect the provenance of a run.

    Parameters
    ----------
    path : Path or None
        The scan's file or folder. None if the scan was in memory.
    metadata : mapping
        The file's own metadata, nested or not.
    device : str
        What `compute.device` of the recipe says.
    command : str
        The command line; empty if the run was started from Python.
    contents : Contents, optional
        Of the files of the run, if some were read before.
    """
    rows = [*_of_input(path, Contents() if contents is None else contents), *software(), *_of_machine(device)]
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    rows += [("date", now), ("command", command or "called from Python")]
    flat = [(name, value) for name, value in _flat(metadata)]
    if len(flat) > MOST_METADATA:
        flat = [*flat[:MOST_METADATA], ("…", f"{len(flat) - MOST_METADATA} more in the file")]
    return Provenance(tuple(rows), tuple(flat))


def _of_input(path: Path | None, contents: Contents) -> list[tuple[str, str]]:
    if path is None:
        return [("input", "a scan in memory")]
    rows = [("input", os.path.abspath(path))]
    try:
        about = path.stat()
        changed = datetime.datetime.fromtimestamp(about.st_mtime).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        size = sum(f.stat().st_size for f in _files(path)) if path.is_dir() else about.st_size
        rows += [("size", f"{format_bytes(size)} ({size:,} bytes), changed {changed}")]
        digest, of = _listing(path) if path.is_dir() else contents.of(path)[:2]
        rows += [("hash of the content", f"{digest} ({of})")]
    except OSError as error:
        rows += [("hash of the content", f"none: the file cannot be read any more ({error.strerror})")]
    return rows


def _listing(folder: Path) -> tuple[str, str]:
    """Return a digest of the names and sizes of the files in a folder, and what it is of."""
    lines = [f"{file.relative_to(folder).as_posix()} {file.stat().st_size}" for file in sorted(_files(folder))]
    found = hashlib.blake2b("\n".join(lines).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return found, f"BLAKE2b-128 of the names and sizes of its {len(lines)} files"


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder and of those inside it, at most so many as are listed quickly."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(parent) / name for name in sorted(names)]
        if len(found) > MOST_FILES:
            break
    return found[:MOST_FILES]


def software() -> list[tuple[str, str]]:
    """Return the versions of gpu4d, with its commit if it runs from a checkout, and of the libraries that computed."""
    import h5py
    import scipy

    commit = commit_of(Path(gpu4d.__file__).resolve().parents[1])
    rows = [("gpu4d", f"{__version__}{f', commit {commit}' if commit else ''}"), ("Python", platform.python_version())]
    rows += [("NumPy, SciPy, h5py", f"{np.__version__}, {scipy.__version__}, {h5py.__version__} (HDF5 {h5py.version.hdf5_version})")]
    loaded = [(name, sys.modules.get(name)) for name in ("numba", "cupy")]  # what this run did not use is not loaded
    rows += [(name, str(getattr(module, "__version__", "unknown"))) for name, module in loaded if module is not None]
    return rows


def commit_of(checkout: Path) -> str:
    """Return the commit that a checkout is at, 40 digits. Empty if the folder is no checkout.

    The files of git are read, so that git itself is not needed. Changes that are not committed are not seen.
    """
    git = checkout / ".git"
    try:
        if git.is_file():  # a worktree: the file names its folder
            git = checkout / git.read_text().partition("gitdir:")[2].strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.partition("ref:")[2].strip()
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        for place in (git, common):
            if (place / name).is_file():
                return (place / name).read_text().strip()
        packed = (common / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except OSError:
        return ""


def _of_machine(device: str) -> list[tuple[str, str]]:
    """Return the devices that the run may have used, with the threads of the CPU."""
    listed = devices()
    cards = [one for one in listed if one.name != "cpu"]
    names = [name.strip() for name in device.split(",")]
    used = [one for one in listed if one.name in names or (one.name == "cuda:0" and "cuda" in names)]
    if "auto" in names:
        used = cards or listed[:1]
    said = "; ".join(f"{one.name}: {one.model}{f', {one.threads} threads' if one.threads else ''}" for one in used or listed[:1])
    return [("device", f"{said} (compute.device = {device})"), ("system", f"{platform.system()} {platform.release()} {platform.machine()}")]


def _flat(metadata: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Return nested metadata as rows "part.part", value. Long values are cut, and arrays are described by shape and type."""
    for key, value in metadata.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, np.ndarray) and value.size > 16:
            yield name, f"array {value.shape} of {value.dtype}"
        else:
            text = " ".join(str(value.decode("utf-8", "replace") if isinstance(value, bytes) else value).split())
            yield name, text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
