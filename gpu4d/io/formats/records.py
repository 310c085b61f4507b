"""Code that formats of plain bytes share: headers of fixed layout, names of files that belong together, steps in units."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.units import detector_pixel, log, parse, scan_step

EQUAL = 0.01  # relative difference up to which the steps of two axes count as one
Step = tuple[Any, str]  # size of a step along an axis, and its units


def read_bytes(path: str, offset: int, length: int, what: str) -> bytes:
    """Return bytes of a file, or raise an error if it ends before.

    Parameters
    ----------
    what : str
        What they are, for the message: "header".
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            found = file.read(length)
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({shown(error.strerror or str(error))})") from error
    if len(found) < length:
        raise InputError(f"{shown(path)}: the file ends within its {what}: it is truncated; copy it again")
    return found


def read_record(path: str, layout: np.dtype, what: str, offset: int = 0) -> np.void:
    """Return a header of a fixed layout, such as `numpy.dtype([("nx", "<i4"), …])`."""
    return np.frombuffer(read_bytes(path, offset, layout.itemsize, what), layout)[0]


def as_written(record: np.void) -> dict[str, Any]:
    """Return a header as a dictionary of Python's own numbers and texts, for metadata."""
    return {name: _plain(record[name]) for name in record.dtype.names or ()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("latin-1")
    return value.tolist()


def refuse_dataset(options: OpenOptions, path: str, what: str) -> None:
    """Raise an error if a dataset is asked for in a format that has none."""
    if options.dataset is not None:
        raise InputError(f"{shown(path)}: {what} holds one scan, there is no dataset {shown(options.dataset)!r}: leave --dataset out")


def check_promised(path: str, promised: int, there: int, options: OpenOptions) -> None:
    """Raise an error if a file has fewer patterns than its header states, unless the caller says what to make of those."""
    if there < promised and (options.scan_shape is None or there == 0):
        raise InputError(
            f"{shown(path)}: the header promises {promised} patterns, the file holds {there}: it is truncated, or the scan was stopped; "
            'copy it again, or open what is there with scan_shape=(Rx, Ry) or scan_shape="frames"'
        )


def check_inside(found: str, given: str) -> None:
    """Raise an error if a file that another one names is a link that leads out of its folder.

    Parameters
    ----------
    found : str
        Path of the file that is named.
    given : str
        Path of the file that names it. Both may be links into one other folder.
    """
    real = os.path.realpath(found)
    for folder in (os.path.realpath(os.path.dirname(given) or "."), os.path.dirname(os.path.realpath(given))):
        if real.startswith(os.path.join(folder, "")):
            return
    raise InputError(f"{shown(found)} is a link that leads to {shown(real)}, out of the folder of {shown(given)}: copy the file there")


def size_of(path: str) -> int:
    """Return the bytes of a file."""
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({shown(error.strerror or str(error))})") from error


def stem(path: str) -> str:
    """Return the name of a file without its folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


def finite(value: Any) -> float | None:
    """Return a positive number of a file, or None for one that says nothing: zero, negative, not finite, no number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def set_field(c: Calibration, how: str, **values: Any) -> None:
    """Set fields that the file states. What is out of range is left out with a warning: it must not prevent opening the scan."""
    for field, value in values.items():
        emd.set_field(c, field, value, how)


def set_steps(c: Calibration, how: str, scan: list[Step], detector: list[Step], energy: float | None) -> None:
    """Set `r_pixel` and `q_pixel` from the steps of the axes, if the file states them in units and both axes agree."""
    r = [scan_step(size, units) for size, units in scan]
    # without the energy an angle gives no 1/Å, and `detector_pixel` warns once
    angles = [units for size, units in detector if (parse(units) or ("",))[0] == "angle"]
    q = [detector_pixel(size, units, energy) for size, units in (detector[:1] if angles and energy is None else detector)]
    for field, sizes in (("r_pixel", r), ("q_pixel", q)):
        known = [size for size in sizes if size is not None]
        if not known:
            continue
        if max(known) - min(known) > EQUAL * max(known):
            log.warning("the file's axes have different steps (%g and %g): %s stays unknown", known[0], known[-1], field)
            continue
        set_field(c, how, **{field: sum(known) / len(known)})
