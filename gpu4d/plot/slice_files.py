"""Write a slice as a picture: .png, .svg and .pdf with a scale bar, .tif with its values and the size of a pixel for ImageJ."""

from __future__ import annotations

import math
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpu4d import arrays
from gpu4d.data.slices import DiffractionSlice, Slice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.detector import diffraction
from gpu4d.plot.imagej import imagej_tiff
from gpu4d.plot.maps import image
from gpu4d.plot.place import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 25  # of a picture; the planes of a larger stack are too small to see


def save_slice(result: Storable, path: str | os.PathLike[str], *, name: str = "", overwrite: bool = False) -> None:
    """Write a slice as a picture: the work of `RealSlice.save` and `DiffractionSlice.save`.

    Parameters
    ----------
    result : Slice
        A stack has a panel, or in TIFF a plane, for each of its planes. Complex values are shown as amplitude and phase.
    path : path
        Ends in .png, .svg, .pdf, .tif or .tiff. It is written beside its place and renamed.
    name : str
        Title. By default the slice's.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    InputError
        Not a slice, another ending, or a file that exists.

    Examples
    --------
    >>> import gpu4d, tempfile
    >>> bf = gpu4d.RealSlice(np.eye(8), "bf", "counts", 5.0, "Å")
    >>> path = Path(tempfile.mkdtemp()) / "bf.tif"
    >>> bf.save(path)
    >>> path.read_bytes()[:2]
    b'II'
    """
    path = Path(path)
    if not isinstance(result, Slice):
        raise InputError(
            f"{path.name}: a {type(result).__name__} is no picture: save it as .h5, save one of its slices, or draw it with gpu4d.plot"
        )
    if path.suffix.lower() not in canvas.FORMATS:
        raise InputError(f"{path.name}: a picture is written as {', '.join(canvas.FORMATS)}: give it one of these endings")
    if os.path.lexists(path) and not (overwrite and path.is_file()):
        raise InputError(f"{path} exists; choose another name, or allow replacing it with overwrite=True")
    title = name or result.name
    passing = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            passing.write_bytes(imagej_tiff(*_planes(result), result.pixel_size, result.pixel_units, title, result.units))
        else:
            canvas.save(_drawn(result, title), passing)
        os.replace(passing, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): choose another folder") from error
    finally:
        with suppress(FileNotFoundError):
            passing.unlink()


def _planes(item: Slice) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return real planes (n, nx, ny) and their names."""
    data = arrays.to_numpy(item.data)
    if data.ndim not in (2, 3) or 0 in data.shape:
        raise InputError(f"{item.name or 'the slice'} has shape {data.shape}: a picture shows (nx, ny), or a stack (n, nx, ny)")
    stack = data if data.ndim == 3 else data[None]
    named = (*item.labels, *(f"plane {i}" for i in range(len(item.labels), len(stack))))[: len(stack)]
    labels = named if data.ndim == 3 else ("",)
    if np.iscomplexobj(stack):
        parts = [part for plane in stack for part in (np.abs(plane), np.angle(plane))]
        return np.stack(parts), tuple(f"{label} {kind}".strip() for label in labels for kind in ("amplitude", "phase"))
    return stack, labels


def _drawn(item: Slice, title: str) -> Axes | np.ndarray:
    planes, labels = _planes(item)
    if len(planes) > MOST_PANELS:
        raise InputError(f"{title or 'the slice'} has {len(planes)} planes: a picture shows {MOST_PANELS} at most; save some, or a .tif")
    if len(planes) > 1:
        return _panels(item, planes, tuple(f"{title} {label}".strip() for label in labels))
    plane = item.of_same_grid(planes[0], title, item.units)
    if isinstance(item, DiffractionSlice):
        return diffraction(plane)
    return image(plane, symmetric=_is_signed(planes[0]))


def _is_signed(values: np.ndarray) -> bool:
    """Say whether values lie on both sides of zero, so that a diverging colour map shows them."""
    finite = values[np.isfinite(values)]
    return bool(finite.size) and bool(finite.min() < 0 < finite.max())


@canvas.styled
def _panels(item: Slice, planes: np.ndarray, titles: tuple[str, ...]) -> np.ndarray:
    columns = math.ceil(math.sqrt(len(planes)))
    rows = math.ceil(len(planes) / columns)
    place = Place(planes.shape[-2:], rows, columns, count=len(planes))
    for ax, values, title in zip(place.panels, planes.astype(np.float64), titles):
        half = canvas.symmetric_range(values)
        signed = _is_signed(values)
        units = "rad" if title.endswith("phase") and np.iscomplexobj(item.data) else item.units
        limits = (-half, half) if signed else canvas.robust_range(values)
        canvas.show(ax, values, title, units, "RdBu_r" if signed else "gray", limits)
        canvas.scale_bar(ax, values.shape, item.pixel_size, item.pixel_units)
        canvas.note_missing(ax, values)
    return place.result
