"""Open a scan: `gpu4d.open`. The format is recognised by the content of the file."""

from __future__ import annotations

import builtins
import os
from dataclasses import asdict
from typing import Literal

from gpu4d.data.arguments import two_sizes
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.errors import Gpu4dError, InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.format import Format, Opened, OpenOptions
from gpu4d.io.formats import from_elsewhere, known_formats
from gpu4d.io.formats.unsupported import instead
from gpu4d.io.raw_layout import RawLayout
from gpu4d.io.sources.layout import FRAMES
from gpu4d.io.timing import ScanTiming
from gpu4d.io.units import log

LAYOUT = 'layout=gpu4d.RawLayout((Qx, Qy), "uint16")'
HEAD_BYTES = 512  # bytes at the start of a file that a format may be recognised by


def open(
    path: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    scan_shape: tuple[int, int] | Literal["frames"] | None = None,
    calibration: Calibration | None = None,
    format: str | None = None,
    timing: ScanTiming | None = None,
    layout: RawLayout | None = None,
) -> DataCube:
    """Open a scan without loading it. The content of the file decides its format, not its name. The file stays read-only.

    Parameters
    ----------
    path : str or path
        The file of a detector or program in the table of `docs/how-to/formats.md`, HDF5 or `.npy`. HDF5 files may be EMD 1.0 as
        py4DSTEM writes it, EMD 0.x, or any file with a dataset of four dimensions, or of three dimensions and `scan_shape`.
        Of more than four, axes of length one are left away. Contiguous data are mapped. Chunks are read as a whole, and once if
        the memory of a sweep allows it.
    dataset : str, optional
        Path inside an HDF5 file. Needed if several datasets could be the scan, or if it has fewer than 4 pixels along a detector axis.
    scan_shape : (int, int) or "frames", optional
        (Rx, Ry), whose product is the number of frames. Needed for a dataset (frames, Qx, Qy). With "frames" all of them are one row,
        (1, n), for `gpu4d.preprocess.reshape`, which leaves out frames of the fly-back and finds a shape that is not known.
    calibration : Calibration, optional
        Values that replace those of the file. Fields that are not set come from the file.
    format : str, optional
        Name of the format, such as "merlin", where the content alone would be taken for another one.
    timing : ScanTiming, optional
        How the times of events become scan positions, for files of event detectors: dwell time, and what a trigger starts.
    layout : RawLayout, optional
        How patterns lie in a file of plain numbers, which nothing in it says: `gpu4d.RawLayout`. The file is not looked into for a format.

    Returns
    -------
    DataCube
        (Rx, Ry, Qx, Qy). Integers and floats keep their type, in this machine's byte order. Bool is read as uint8, and float16
        as float32. The calibration is read if the file states it in a standard way: as its format does, py4DSTEM's calibration, EMD
        dimension vectors, or HDF5 dimension scales with units. Other attributes are passed on in `metadata` only.

    Raises
    ------
    InputError
        The file is missing, damaged, truncated or unsupported, the dataset is unknown or ambiguous, the scan shape is wrong, or
        values are not real numbers. If a mapped file is cut short later, reading patterns raises it.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> name = os.path.join(tempfile.mkdtemp(), "scan.npy")
    >>> np.save(name, np.ones((6, 8, 8), "uint16"))
    >>> open(name, scan_shape=(2, 3)).shape
    (2, 3, 8, 8)
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"open takes the path of a file, got {type(path).__name__}: for an array in memory use gpu4d.DataCube(array)")
    path = os.fsdecode(path)
    if isinstance(scan_shape, str) and scan_shape != "frames":
        raise InputError(f'scan_shape is {scan_shape!r}: need two whole numbers (Rx, Ry), or "frames" for one row of all frames')
    shape = None if scan_shape is None else FRAMES if isinstance(scan_shape, str) else two_sizes(scan_shape, "scan_shape")
    energy = calibration.energy if calibration is not None else None
    if layout is not None and not isinstance(layout, RawLayout):
        raise InputError(f"layout is a {type(layout).__name__}: need {LAYOUT}")
    if layout is not None and format not in (None, "raw"):
        raise InputError(f"layout describes plain numbers, and format is {format!r}: give one of the two")
    known = recognise(path, format if layout is None else "raw")
    opened = _opened(known, path, OpenOptions(dataset, shape, energy, timing, layout))
    found = opened.calibration
    if calibration is not None:
        found.override(calibration)
    try:
        found.complete()
    except ArithmeticError as error:
        log.warning("%s: energy, semi-angle and disk radius do not fit together: %s", shown(path), error)
    metadata = {"path": path, "dataset": getattr(opened.source, "dataset", None), **opened.metadata}
    if format or timing or layout:  # what results must know to open the scan again
        given = {"format": format, "timing": timing and asdict(timing), "layout": layout and asdict(layout)}
        metadata["opened_as"] = {key: value for key, value in given.items() if value}
    return DataCube(opened.source, found, metadata, opened.detector_mask, opened.name)


def recognise(path: str, format: str | None = None) -> Format:
    """Return the format of a file or folder, found by its content, or by name. Raise an error of one line for others."""
    accepted = f"accepted are {', '.join(known.accepts for known in known_formats())}"
    name, wanted = shown(path), None if format is None else named(format)
    try:
        if not os.path.exists(path):
            raise InputError(f"{name}: no such file; give the path of a scan ({accepted if wanted is None else wanted.accepts})")
        folder = os.path.isdir(path)
        if not folder and not os.path.isfile(path):
            raise InputError(f"{name} is not a regular file; {accepted if wanted is None else f'accepted are {wanted.accepts}'}")
        if wanted is not None:
            if folder != wanted.folders:
                words = ("a folder", "files") if folder else ("a file", "folders")
                raise InputError(f"{name} is {words[0]}: the format {wanted.name} reads {words[1]}; give another path or format")
            if not folder and not os.path.getsize(path):
                raise InputError(f"{name} is empty: the scan was not written, or not copied")
            return wanted
        head = b""
        if not folder:
            with builtins.open(path, "rb") as file:
                head = file.read(HEAD_BYTES)
        for known in known_formats():
            if known.folders == folder and _recognises(known, path, head):
                return known
        if folder:
            raise InputError(f"{name} is a directory, and no scan by itself; give one file ({accepted})")
    except PermissionError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); check its permissions") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({reason(error)}): its disk or network drive failed, or the file is gone") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} cannot be the name of a file ({error})") from error
    if not head:
        raise InputError(f"{name} is empty; {accepted}")
    text = all(c in b"\t\n\r\f\b" or c >= 32 for c in head[:64])
    if text:
        raise InputError(f"{name} is a text file, whatever its name says{instead(path)}; {accepted}")
    describe = f"{LAYOUT}, or --shape Qx,Qy --dtype uint16"
    raise InputError(
        f"{name} is of an unknown format, whatever its name says{instead(path)}; if it is plain numbers, describe them: {describe}; "
        f"{accepted}"
    )


def _recognises(known: Format, path: str, head: bytes) -> bool:
    """Ask a format whether a file is its own. What a format of another package cannot read must not hide the file from the others."""
    try:
        return known.recognise(path, head)
    except Exception as error:
        if not from_elsewhere(known):
            raise
        log.warning("the format %r of %s failed on %s: %r; update that package", known.name, type(known).__module__, shown(path), error)
        return False


def _opened(known: Format, path: str, options: OpenOptions) -> Opened:
    """Let a format open its file. An error that a format of another package does not put into words gets its name."""
    try:
        return known.open(path, options)
    except FOREIGN as error:
        if isinstance(error, Gpu4dError) or not from_elsewhere(known):
            raise
        who = f"the format {known.name!r} of {type(known).__module__}"
        raise InputError(f"{shown(path)}: {who} cannot open it ({reason(error)}): the file is damaged, or that package is wrong") from error


def named(name: str) -> Format:
    """Return the format with this name."""
    for known in known_formats():
        if known.name == name:
            return known
    raise InputError(f"format is {name!r}: accepted are {', '.join(known.name for known in known_formats())}")
