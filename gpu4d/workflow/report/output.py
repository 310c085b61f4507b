"""Make the result folder: written beside its place, and moved there when it is complete."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpu4d.errors import InputError
from gpu4d.io import leftovers

RESULT, REPORT, RECIPE = "result.h5", "report.html", "recipe.toml"
METHODS, REFERENCES = "methods.txt", "references.bib"
FIRST_LINE = "Methods, written by gpu4d"  # of these two: files of these names without it are not ours
SECOND_RESULT = "phase_object.h5"  # the demo's second result
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # values of Linux
TRIES = 20  # to put a result in place while other processes do the same
HEAD = 2048  # bytes of a picture or a text in which the mark of gpu4d stands
HEADER_LINES = 10_000  # of a file of orientations, at most: every structure has eight
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
    try:  # looked at once, because another process may be replacing the result
        mode = os.lstat(out).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not overwrite:
        raise InputError(f"{out} exists: choose another folder with -o, or replace it with --overwrite")
    if not stat.S_ISDIR(mode):
        raise InputError(f"{out} is {'a link' if stat.S_ISLNK(mode) else 'not a folder'}: choose another folder with -o")
    foreign: list[str] = []
    # What is none of ours is looked at again: another process may have removed it, or put the whole new file there, meanwhile.
    with contextlib.suppress(FileNotFoundError):
        foreign = sorted(entry.name for entry in out.iterdir() if not _is_ours(entry) and os.path.lexists(entry) and not _is_ours(entry))
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
    if entry.suffix == ".ang":
        return _is_orientations(entry)
    if entry.name in (METHODS, REFERENCES):
        return _begins_with(entry, FIRST_LINE.encode())
    if entry.suffix == ".svg":
        return _begins_with(entry, b"<dc:title>gpu4d</dc:title>")
    return entry.name in (REPORT, RECIPE) or (entry.suffix == ".png" and _begins_with(entry, b"Software\0gpu4d"))


def _is_result(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "gpu4d" in file
    except OSError:
        return False


def _begins_with(path: Path, mark: bytes) -> bool:
    """Return True if a mark of gpu4d stands near the beginning of a file."""
    try:
        with open(path, "rb") as file:
            return mark in file.read(HEAD)
    except OSError:
        return False


def _is_orientations(path: Path) -> bool:
    """Return True for a file of orientations that names gpu4d as its operator, in the header before the first row."""
    try:
        with open(path, "rb") as file:
            header = itertools.takewhile(lambda line: line.startswith(b"#"), itertools.islice(file, HEADER_LINES))
            return any(line.startswith(b"# OPERATOR") and b"gpu4d" in line for line in header)
    except OSError:
        return False


@contextlib.contextmanager
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
    _tidy(out)
    check_free(out, overwrite, inputs)
    made = _missing_parents(out.parent)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another folder with -o") from error
    try:
        with leftovers.held(new, unfinished=True):
            os.chmod(new, 0o777 & ~_umask())
            yield new
            try:
                _move(new, out, overwrite, inputs)
            except OSError as error:
                raise InputError(f"{out} cannot be written ({error.strerror}): choose another folder with -o") from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        _remove_empty(made)
        raise


def _tidy(out: Path) -> None:
    """Finish what a killed process has left beside `out`: put an earlier result back into its place, and remove unfinished ones."""
    for aside in leftovers.abandoned(out.parent, f".{out.name}.old.", young=0):
        if not os.path.lexists(out) and (aside / out.name).is_dir():  # was moved there by a process that held the folder
            with contextlib.suppress(OSError):
                os.rename(aside / out.name, out)
            _remove_empty([aside])
    for prefix in (f".{out.name}.old.", f".{out.name}."):
        leftovers.remove(leftovers.abandoned(out.parent, prefix))


def _move(new: Path, out: Path, overwrite: bool, inputs: tuple[Path, ...]) -> None:
    """Put the finished folder in place: in one step where the system has one, so that a result is there at any time."""
    for _ in range(TRIES):
        check_free(out, overwrite, inputs)
        try:
            if not os.path.lexists(out):
                os.rename(new, out)
            elif not _exchanged(new, out):
                _moved_aside(new, out)
            break
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):
                raise
    else:
        raise InputError(f"{out} is being replaced by other processes again and again: choose another folder with -o")
    shutil.rmtree(new, ignore_errors=True)  # the earlier result, if the two were exchanged


def _exchanged(new: Path, out: Path) -> bool:
    """Exchange two folders in one step. Return False if the system, or the drive, cannot do it."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if exchange is None:
        return False
    if exchange(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(out), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(out))


def _moved_aside(new: Path, out: Path) -> None:
    """Move the earlier result away first, and back if that fails, unless another process has put its result there.

    If the process is killed between, the next run puts it back.
    """
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    try:
        with leftovers.held(aside):
            os.rename(out, aside / out.name)
            try:
                os.rename(new, out)
            except BaseException:
                with contextlib.suppress(OSError):  # another process has put its result there meanwhile
                    os.rename(aside / out.name, out)
                raise
    except BaseException:
        if os.path.lexists(out):  # the earlier result is back, or a newer one is there
            shutil.rmtree(aside, ignore_errors=True)
        _remove_empty([aside])
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
