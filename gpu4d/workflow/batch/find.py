"""Find the scans among files: recognised by content, each once, with the reason for files that are none."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpu4d.errors import InputError
from gpu4d.io.formats import known_formats
from gpu4d.io.opening import open as open_scan
from gpu4d.io.opening import recognise
from gpu4d.io.raw_files import raw_files
from gpu4d.workflow.report.output import REPORT

if TYPE_CHECKING:
    import h5py

    from gpu4d.data.datacube import DataCube

ONE_FILE = ("hdf5", "emd", "npy", "hyperspy", "nexus", "prismatic", "abtem", "stempy", "velox")  # formats whose scans are one file each
PART = re.compile(r"(_master|_data_\d+|_meta)$")  # at the end of the names of a scan's files: x_master.h5, x_data_000001.h5
SERIES = re.compile(r"_\d+$")  # of TIA: x.emi, x_1.ser
NUMBERED = re.compile(r"_\d{3}$")  # of TVIPS: x_000.tvips, x_001.tvips
TABLE = "batch.json"  # a folder with it holds the results of a batch
LARGER = re.compile(r"_data_\d+$")  # a part that a master file opens


@dataclass(frozen=True)
class Found:
    """A file that was looked at.

    Attributes
    ----------
    path : Path
    under : str
        Its path under the folder or pattern that was given.
    format : str
        Name of its format. Empty if it is no scan.
    dataset : str
        Path of the scan inside the file, if it has several.
    skipped : str
        Why it is no scan of its own. Empty for a scan.
    error : str
        Why it cannot be opened although it should be a scan.
    about : str
        Its shape and the type of its numbers. Empty if it cannot be opened without settings.
    complaint : str
        Why it cannot be opened without settings, such as a shape of the scan.
    reads : frozenset of str
        Real paths of the files with its patterns.
    """

    path: Path
    under: str
    format: str = ""
    dataset: str = ""
    skipped: str = ""
    error: str = ""
    about: str = ""
    complaint: str = ""
    reads: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Name for tables and messages."""
        return f"{self.under}{f':{self.dataset}' if self.dataset else ''}"


def files_of(given: Iterable[str], out: Path, recursive: bool = False) -> dict[Path, str]:
    """Return the files that folders and patterns name, each once, with their names. Hidden ones and results are left out.

    Parameters
    ----------
    given : iterable of str
        A folder stands for what is directly in it. A pattern such as "day1/*.mib" or "day1/**/*.h5" for what it matches.
    out : Path
        Folder of the results, which is not looked into.
    recursive : bool
        A folder stands for everything under it. Links to folders are not followed.

    Returns
    -------
    dict of Path and str
        Files, and folders that are scans, in their order. The name is the path under the folder, or under the part of a pattern before
        its first wildcard. If several folders are given, the name begins with that of the folder.

    Raises
    ------
    InputError
        A name that is neither a file, a folder nor a pattern.
    """
    found: dict[Path, Path] = {}  # with the folder that each is under
    roots = set()
    for text in given:
        path = Path(text)
        if path.is_dir() and not _is_scan_folder(path):
            root, listed = path, _under(path, out) if recursive else _listed(path)
        elif path.exists():
            root, listed = path.parent, [path]
        elif glob.has_magic(text):
            root, listed = _before_wildcards(path), sorted(Path(one) for one in glob.glob(text, recursive=True))
            listed = [one for one in listed if not _holds_results(one.parent)]
        else:
            raise InputError(f"{text}: there is no such file or folder; give a folder, files, or a pattern in quotes such as 'day1/*.h5'")
        roots.add(root)
        for one in listed:
            if _is_input(one, out):
                found.setdefault(one, root)
    return {path: (Path(root.name if len(roots) > 1 else "") / path.relative_to(root)).as_posix() for path, root in found.items()}


def folders_not_looked_into(given: Iterable[str], out: Path) -> list[Path]:
    """Return the folders directly in given ones that are no scans, results or hidden: without `recursive` their files are left out."""
    inside = [one for text in given if Path(text).is_dir() and not _is_scan_folder(Path(text)) for one in _listed(Path(text))]
    return [one for one in inside if _may_hold_scans(one, out) and not _is_scan_folder(one)]


def _under(folder: Path, out: Path) -> Iterator[Path]:
    """Give what lies in a folder and in those under it, by name. A folder that is a scan is given itself, not what is in it."""
    for one in _listed(folder):
        if one.is_symlink() and one.is_dir():
            continue
        if _may_hold_scans(one, out) and not _is_scan_folder(one):
            yield from _under(one, out)
        else:
            yield one


def _listed(folder: Path) -> list[Path]:
    """Return what is directly in a folder, by name."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:  # it was removed while the batch looks
        return []
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror}): give folders that you may read") from error


def _may_hold_scans(path: Path, out: Path) -> bool:
    """Say whether a path is a folder, and neither hidden nor a result of a run or a batch."""
    return path.is_dir() and not path.name.startswith(".") and not _holds_results(path) and path.resolve() != out.resolve()


def _holds_results(folder: Path) -> bool:
    return (folder / REPORT).is_file() or (folder / TABLE).is_file()


def _before_wildcards(pattern: Path) -> Path:
    """Return the folder that the part of a pattern before its first wildcard names.

    Examples
    --------
    >>> _before_wildcards(Path("day1/**/*.h5")).as_posix(), _before_wildcards(Path("day*/scan.h5")).as_posix()
    ('day1', '.')
    """
    first = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    return Path(*pattern.parts[:first])


def _is_scan_folder(path: Path) -> bool:
    try:
        recognise(str(path))
    except InputError:
        return False
    return True


def _is_input(path: Path, out: Path) -> bool:
    place = path.resolve()
    hidden, result = path.name.startswith("."), _holds_results(path)
    inside = place == out.resolve() or out.resolve() in place.parents
    return not hidden and not result and not inside and (path.is_file() or (path.is_dir() and _is_scan_folder(path)))


def look_at(files: Mapping[Path, str]) -> list[Found]:
    """Say of each file of `files_of` whether it is a scan. Files of one scan give one entry, and the others are skipped with the reason."""
    looked = [_one(path, under) for path, under in files.items()]
    quiet = logging.NullHandler()  # what opening a scan logs is in its report
    logging.getLogger("gpu4d").addHandler(quiet)
    try:
        return _grouped(looked)
    finally:
        logging.getLogger("gpu4d").removeHandler(quiet)


def _grouped(looked: list[Found]) -> list[Found]:
    """Return the scans, and the other files of each with the reason why they are skipped."""
    groups: dict[tuple[Path, str], list[Found]] = {}
    for found in looked:
        groups.setdefault((found.path.parent, _common(found.path)), []).append(found)
    mains = {key: _main(group) for key, group in groups.items() if len(group) > 1}
    done: list[Found] = []
    for found in looked:
        main = mains.get((found.path.parent, _common(found.path)))
        if main is not None and main is not found and _belongs(found, main):
            done.append(Found(found.path, found.under, skipped=f"belongs to {main.path.name}"))
        else:
            done += _datasets(found)
    return _read_once(done)


def _read_once(looked: list[Found]) -> list[Found]:
    """Skip scans whose patterns are in the same files as those of an earlier one, such as the further files of one series."""
    first: dict[frozenset[str], Found] = {}
    done = []
    for found in looked:
        by = first.setdefault(found.reads, found) if found.reads else found
        done.append(found if by is found else Found(found.path, found.under, skipped=f"belongs to {by.path.name}"))
    return done


def _common(path: Path) -> str:
    """Return the part of a name that the files of one scan share."""
    if path.suffix.lower() == ".tvips":
        return NUMBERED.sub("", path.stem)
    return SERIES.sub("", path.stem) if path.suffix.lower() == ".ser" else PART.sub("", path.stem)


def _one(path: Path, under: str) -> Found:
    """Recognise one file."""
    try:
        return Found(path, under, recognise(str(path)).name)
    except InputError as error:
        text = str(error)
        endings = {ending for known in known_formats() if known.facts for ending in known.facts.endings}
        if path.suffix.lower() in endings | {".h5"}:
            return Found(path, under, error=text.split("; accepted")[0])
        return Found(path, under, skipped="not a scan: " + text.removeprefix(f"{path} ").removeprefix("is ").split(";")[0])


def _main(group: list[Found]) -> Found:
    """Return the file of a group by which the scan is opened: a master file, else the largest one that is recognised."""
    known = [found for found in group if found.format] or group
    masters = [found for found in known if found.path.stem.endswith("_master")]
    if known[0].format == "tvips":  # numbered files of one scan, of which the first has the header
        return min(known, key=lambda found: found.path.name)
    return (masters or sorted(known, key=lambda found: -_size(found.path)))[0]


def _belongs(found: Found, main: Found) -> bool:
    """Say whether a file is a part of the scan of another one, and no scan of its own with a similar name."""
    if main.format == "tvips" and found.path.suffix == main.path.suffix:
        return True
    if LARGER.search(found.path.stem):
        return main.path.stem.endswith("_master")
    if main.path.stem == f"{found.path.stem}_master":  # metadata that a DECTRIS detector writes beside its master file
        return True
    alike = found.format == main.format and main.format not in ONE_FILE and found.path.suffix != main.path.suffix
    return alike or (not found.format and main.format not in ("", *ONE_FILE) and found.path.stem == main.path.stem)


def _datasets(found: Found) -> list[Found]:
    """Return one entry for each scan in a file."""
    if not found.format:
        return [found]
    try:
        cube = open_scan(found.path)
        return [replace(found, about=_about(cube), reads=frozenset(raw_files(cube)))]
    except InputError as error:
        if "could be the scan" in str(error) and found.path.is_file():
            import h5py

            from gpu4d.io.formats.choose_dataset import possible_scans

            with h5py.File(found.path, "r") as file:
                return [replace(found, dataset=dataset, about=_about(file[dataset])) for dataset in possible_scans(file)]
        return [replace(found, complaint=str(error))]
    except Exception as error:  # of a library that reads a damaged file: the run says it, too
        return [replace(found, error=f"{type(error).__name__}: {error}")]


def _about(scan: DataCube | h5py.Dataset) -> str:
    return f"{'×'.join(map(str, scan.shape))} {scan.dtype}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
