"""Write a calibration into a TOML file that people can read, and read it again: values, standard errors, how and from what."""

from __future__ import annotations

import os
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d._version import __version__
from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import ERRORS, FIELDS
from gpu4d.data.calibration_order import MEASURED, ORDER, CalibrationOrderWarning
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError, did_you_mean
from gpu4d.io.text_file import write_text
from gpu4d.io.toml import literal

HEAD = """\
# A gpu4d calibration: `gpu4d run SCAN --calibration THIS`. Flags and the recipe's [calibration] override it.
# Values were found in the order origin, ellipse, rotation, pixel size. `error` is the standard error, in the unit of its value
# (of an ellipse: of a/b, and of the angle). A part that is deleted counts as not known.
"""
SURFACE = 1e-3  # px: an origin that departs from its quadratic surface by less is written as this surface
POWERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))  # of the scan coordinates, scaled to −1 … 1: terms of a surface
LEFT_OUT = ("origin_measured", "positions")  # they have a value for each position, and belong to the result of their scan


@dataclass(frozen=True)
class MeasuredOn(Storable):
    """What a calibration was measured on, as far as it is known.

    Attributes
    ----------
    file, dataset : str
        The file with its folder, and the path of the scan in it.
    scan_shape, detector_shape : (int, int) or None
    standard : str
        The known crystal.
    """

    file: str = ""
    dataset: str = ""
    scan_shape: tuple[int, int] | None = None
    detector_shape: tuple[int, int] | None = None
    standard: str = ""


@dataclass
class CalibrationFile(Storable):
    """A calibration, and what it was measured on.

    Attributes
    ----------
    calibration : Calibration
    about : MeasuredOn
    path : str
        The file it was read from. Empty if it was not read.
    """

    calibration: Calibration
    about: MeasuredOn = MeasuredOn()
    path: str = ""


def save_calibration(
    path: str | os.PathLike[str], calibration: Calibration, about: MeasuredOn | None = None, *, overwrite: bool = False
) -> None:
    """Write a calibration as TOML. The file is written beside its place, and renamed when it is complete.

    Parameters
    ----------
    path : str or path
    calibration : Calibration
        Every known field is written, with its error and how it was found. An origin that varies over the scan is written as a quadratic
        surface. If no such surface is near enough, its mean is written.
    about : MeasuredOn, optional
        What it was measured on.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    InputError
        The file exists, or cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "calibration.toml")
    >>> c = Calibration()
    >>> c.measured(q_pixel=0.02, q_pixel_error=1e-5, how="rings of Au")
    >>> save_calibration(name, c)
    >>> load_calibration(name).calibration.q_pixel_error
    1e-05
    """
    write_text(path, as_toml(calibration, about), overwrite=overwrite)


def as_toml(calibration: Calibration, about: MeasuredOn | None = None) -> str:
    """Return the text of a calibration file."""
    told = {name: value for name, value in vars(about or MeasuredOn()).items() if value}
    lines = [HEAD, "[about]", *(f"{name} = {literal(_plain(value))}" for name, value in told.items()), f'gpu4d = "{__version__}"', ""]
    entries = {entry.field: entry for entry in calibration.history}
    for name, value in sorted(calibration.known().items(), key=lambda item: (*ORDER, item[0]).index(item[0])):
        row = FIELDS[name]
        if row.error_of or name in LEFT_OUT:
            continue
        written, departs = _value_lines(value)
        lines += [f"# {row.what}", f"[{name}]", *written]
        error = getattr(calibration, ERRORS[name]) if name in ERRORS else None
        error = departs or error  # of a mean, how far the values are from it
        if error is not None:
            lines.append(f"error = {literal(_plain(error))}")
        if row.units:
            lines.append(f"units = {literal(row.units)}")
        if name in entries:
            lines += [f"how = {literal(entries[name].how)}", f"when = {literal(entries[name].when)}"]
        if name in calibration.outdated:
            lines.append("outdated = true # what it rests on was measured later: measure it again")
        lines.append("")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Return a value of a calibration in types that TOML has."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(v) for v in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return int(value) if isinstance(value, int | np.integer) else float(value)


def _value_lines(value: Any) -> tuple[list[str], float]:
    """Return the lines of a value. One that varies over the scan becomes a surface, or its mean with the rms distance of its values."""
    if np.ndim(value) != 3:
        return [f"value = {literal(_plain(value))}"], 0.0
    mean = np.nanmean(value, axis=(0, 1))
    lines = [f"value = {literal(_plain(mean))}", f"scan_shape = {literal(list(value.shape[:2]))}"]
    coefficients, off = _surface(value)
    if off < SURFACE:
        return [*lines, f"surface = {literal(_plain(coefficients))}"], 0.0
    departs = float(np.sqrt(np.nanmean((value - mean) ** 2)))  # of a coordinate
    told = f"# It departs from a quadratic surface by {off:.2g} px: the mean alone is written."
    lines += [told, "# Its error is the rms distance of the values from it."]
    return lines, departs


def _terms(shape: tuple[int, int]) -> np.ndarray:
    x, y = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape)
    return np.stack([np.outer(x**i, y**j) for i, j in POWERS], axis=-1)


def _surface(value: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the coefficients (2, 6) of the quadratic surface, and its largest distance from the values."""
    terms = _terms(value.shape[:2])
    ok = np.isfinite(value).all(axis=-1)
    coefficients = np.linalg.lstsq(terms[ok], value[ok], rcond=None)[0]
    return coefficients.T, float(np.abs(terms[ok] @ coefficients - value[ok]).max()) if ok.all() else np.inf


def load_calibration(path: str | os.PathLike[str]) -> CalibrationFile:
    """Read a calibration that `save_calibration` or `gpu4d calibrate` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    CalibrationFile
        Its calibration keeps how values were found. They count as measured elsewhere, so a scan that takes them may measure its own
        origin without a warning.

    Warns
    -----
    CalibrationOrderWarning
        A value was outdated when the file was written: what it rests on had been measured after it.

    Raises
    ------
    InputError
        The file cannot be read, is not TOML, or has a part or a value that no calibration has.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file that `gpu4d calibrate` wrote") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML ({error}): `gpu4d calibrate` writes such a file") from None
    calibration, about = Calibration(), _about(table.pop("about", {}), os.fspath(path))
    fields = [name for name, row in FIELDS.items() if not row.error_of and name not in LEFT_OUT]
    for name, part in table.items():
        if name not in fields:
            raise InputError(f"{path}: there is no part [{name}]{did_you_mean(name, fields)}; parts are about, {', '.join(fields)}")
        if not isinstance(part, Mapping) or "value" not in part:
            raise InputError(f"{path}: [{name}] needs a line `value = …`")
        if part.get("units", FIELDS[name].units) != FIELDS[name].units:
            raise InputError(f"{path}: [{name}] has units {part['units']!r}: need {FIELDS[name].units!r}, and the value in it")
        values = {name: _read_value(part, f"{path}: [{name}]")}
        if "error" in part:
            if name not in ERRORS:
                raise InputError(f"{path}: [{name}] takes no error: remove the line")
            values[ERRORS[name]] = part["error"]
        if part.get("outdated"):
            warnings.warn(
                f"{path}: [{name}] is outdated: what it rests on was measured later. Measure it again", CalibrationOrderWarning, 2
            )
        how = str(part.get("how", "given")).removeprefix(MEASURED)
        try:
            calibration.set(**values, how=f"{how} ({Path(path).name})")
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return CalibrationFile(calibration, about, os.fspath(path))


def _about(part: Any, path: str) -> MeasuredOn:
    """Read what a calibration was measured on. A line of another kind is none of ours, and left out."""
    if not isinstance(part, Mapping):
        raise InputError(f"{path}: about is a part: write [about], and its lines below")
    file, dataset, standard = (str(part.get(name, "")) for name in ("file", "dataset", "standard"))
    return MeasuredOn(file, dataset, _shape(part, "scan_shape", path), _shape(part, "detector_shape", path), standard)


def _shape(part: Mapping[str, Any], name: str, path: str) -> tuple[int, int] | None:
    if name not in part:
        return None
    try:
        first, second = (int(n) for n in part[name])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {name} in [about] is {part[name]!r}: need two whole numbers") from error
    return first, second


def _read_value(part: Mapping[str, Any], place: str) -> Any:
    """Return the value of a part, or the map of its surface."""
    value, shape, surface = part["value"], part.get("scan_shape"), part.get("surface")
    if shape is None or surface is None:
        return value
    try:
        terms = _terms((int(shape[0]), int(shape[1])))
        coefficients = np.asarray(surface, np.float64)
        if coefficients.shape != (2, len(POWERS)) or min(terms.shape) < 1:
            raise ValueError(f"shape {coefficients.shape}")
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{place}: surface needs two lists of {len(POWERS)} numbers, and scan_shape two whole numbers ({error})") from None
    return terms @ coefficients.T
