"""Make the result folder: written beside its place, and moved there when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu4d.errors import InputError

RESULT, REPORT, RECIPE = "result.h5", "report.html", "recipe.toml"
SECOND_RESULT = "phase_object.h5"  # the demo's second result
SIMULATED_SCANS = ("scan.h5", "phase_object_scan.h5")  # scans that the demo writes into its folder


def default_folder(path: str | Path) -> Path:
    """Return `<FILE stem>-gpu4d` in the current folder."""
    return Path.cwd() / f"{Path(path).stem or 'scan'}-gpu4d"


def check_free(out: Path, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse a place that cannot be used, before any work is done.

    Raises
    ------
    InputError
        `out` exists and `overwrite` is not set, or it holds an input, or it holds files that gpu4d did not write. Such files are
        never deleted.
    """
    place = Path(os.path.realpath(out))
    for path in inputs:
        source = Path(os.path.realpath(path))
        if place == source or (path.exists() and place in source.parents):
            raise InputError(f"{out} holds the input {path}: choose another folder with -o")
    if not out.is_symlink() and not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists: choose another folder with -o, or replace it with --overwrite")
    if out.is_symlink() or not out.is_dir():
        raise InputError(f"{out} is {'a link' if out.is_symlink() else 'not a folder'}: choose another folder with -o")
    foreign = sorted(entry.name for entry in out.iterdir() if not _is_ours(entry))
    if foreign:
        raise InputError(
            f"{out} holds files gpu4d did not write ({', '.join(foreign[:3])}{', …' * (len(foreign) > 3)}): choose another folder with -o"
        )


def _is_ours(entry: Path) -> bool:
    """Return True if gpu4d wrote a file. Scans and pictures are recognised by their content, because users have such files too."""
    if entry.is_symlink() or not entry.is_file():
        return False
    if entry.name in SIMULATED_SCANS:
        return _is_result(entry.with_name(SECOND_RESULT))
    if entry.name in (RESULT, SECOND_RESULT):
        return _is_result(entry)
    return entry.name in (REPORT, RECIPE) or (entry.suffix == ".png" and _is_picture(entry))


def _is_result(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "gpu4d" in file
    except OSError:
        return False


def _is_picture(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b"Software\0gpu4d" in file.read(256)
    except OSError:
        return False


@contextmanager
def folder(out: Path, overwrite: bool = False, inputs: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Make a new folder beside `out`, and rename it to `out` at the end. After an error nothing of it is left.

    Parameters
    ----------
    out : Path
        Missing parent folders are made, and removed again if the work fails.
    overwrite : bool
        Replace an earlier result. It stays unchanged until the new one is complete.
    inputs : tuple of Path
        Files that are read. They must not be inside `out`.

    Raises
    ------
    InputError
        The place cannot be used or written.
    """
    out = Path(os.path.abspath(out))
    check_free(out, overwrite, inputs)
    made = _missing_parents(out.parent)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another folder with -o") from error
    try:
        os.chmod(new, 0o777 & ~_umask())
        yield new
        _move(new, out, overwrite, inputs)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        _remove_empty(made)
        raise


def _move(new: Path, out: Path, overwrite: bool, inputs: tuple[Path, ...]) -> None:
    """Put the finished folder in place. An earlier result is moved away first, and moved back if that fails."""
    check_free(out, overwrite, inputs)
    if not out.exists():
        os.rename(new, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    os.rename(out, aside / out.name)
    try:
        os.rename(new, out)
    except BaseException:
        os.rename(aside / out.name, out)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _missing_parents(path: Path) -> list[Path]:
    """Return the folders that do not exist yet, the innermost first."""
    missing = []
    while not path.exists() and path != path.parent:
        missing.append(path)
        path = path.parent
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:
        try:
            path.rmdir()
        except OSError:
            return


def _umask() -> int:
    now = os.umask(0o022)
    os.umask(now)
    return now
