"""Scans and results from HyperSpy's signals, and back; and a function for `signal.map`.

HyperSpy is under the GPL. Nothing here imports it: a signal that is given brings its own methods, and `to_hyperspy` imports it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.find_bragg_disks import find_bragg_disks
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.errors import InputError
from gpu4d.interop._to_hyperspy import to_hyperspy
from gpu4d.interop.libraries import is_of, refused
from gpu4d.interop.stated import StatedAxis, cube_of, is_detector, slice_of, stated_calibration, taken_over, turned
from gpu4d.io.units import log
from gpu4d.probe.template_kernel import TemplateLike

if TYPE_CHECKING:
    from hyperspy.signal import BaseSignal

__all__ = ["bragg_disks", "from_hyperspy", "to_hyperspy"]

TEM = "Acquisition_instrument.TEM."
DIFFRACTION = ("Diffraction2D", "CommonDiffraction")  # classes of pyxem whose images are patterns, whatever their units


def __dir__() -> list[str]:
    return list(__all__)


def from_hyperspy(signal: BaseSignal) -> DataCube | Slice | PointListArray:
    """Return a signal of HyperSpy as a scan, an image, or lists of points.

    Axes keep the order of the array: the first navigation axis of the array, HyperSpy's y, is Rx. Scales and units give the pixel sizes
    (angles with the beam energy in the metadata). Offsets of the detector's axes give the origin: the pixel at which both are zero. Beam
    energy (keV) and convergence angle (mrad) are read from ``metadata.Acquisition_instrument.TEM``.

    Parameters
    ----------
    signal : Signal2D, ComplexSignal2D, or a ragged signal that `to_hyperspy` made
        Lazy signals stay lazy: patterns are computed when a sweep needs them. pyxem's signals too; its vectors and beam shifts are
        for `gpu4d.interop.pyxem.from_pyxem`.

    Returns
    -------
    DataCube
        Of two navigation axes, and of one where the images are patterns: then Rx is 1. What a scan had before `to_hyperspy` comes back:
        calibration with history, detector mask, metadata. If the axes were changed since, only energy, semi-angle and rotation do.
        The signal's metadata are in ``cube.metadata["hyperspy"]``.
    RealSlice or DiffractionSlice
        Of an image, or a stack of images. It is a DiffractionSlice if its axes are in 1/Å or the like.
    PointListArray
        Of a ragged signal.

    Raises
    ------
    InputError
        No signal of HyperSpy, spectra, or more than two navigation axes.

    Examples
    --------
    >>> import hyperspy.api as hs  # doctest: +SKIP
    >>> signal = hs.load("scan.hspy", lazy=True)  # doctest: +SKIP
    >>> cube = from_hyperspy(signal)  # doctest: +SKIP
    """
    if not is_of(signal, "hyperspy", "BaseSignal"):
        raise refused(signal, "signal", "a signal of HyperSpy or pyxem, as hyperspy.api.load returns it")
    if getattr(signal, "ragged", False):
        return _points(signal)
    manager = signal.axes_manager
    navigation, shown = manager.navigation_axes[::-1], manager.signal_axes[::-1]  # in the order of the array
    if len(shown) != 2 or len(navigation) > 2:
        what = f"{len(navigation)} navigation and {len(shown)} signal axes"
        raise InputError(
            f"the signal has {what}: need images, at most over two navigation axes (signal.transpose, or signal.inav to choose)"
        )
    order = [axis.index_in_array for axis in (*navigation, *shown)]
    data = signal.data if order == sorted(order) else signal.data.transpose(order)
    named = [_stated(axis) for axis in (*navigation, *shown)]
    stack = str(signal.metadata.get_item("gpu4d.class", "")).endswith("Slice")
    if _is_pattern(signal, named) and len(navigation) == 1 and not stack:
        return _scan(signal, data[None], [named[0], *named])
    return _scan(signal, data, named) if len(navigation) == 2 else _slice(signal, data, named)


def bragg_disks(
    frame: np.ndarray, template: TemplateLike, *, power: float = 0.85, min_significance: float = 5.0, max_peaks: int = 70
) -> np.ndarray:
    """Find the disks of one pattern, for `signal.map` of HyperSpy: an array that a ragged signal can hold.

    For a whole scan `gpu4d.find_bragg_disks(from_hyperspy(signal), template)` is faster, prepares the template once, and decides once how
    positions are refined.

    Parameters
    ----------
    frame : (Qx, Qy) real
    template : Template or (Qx, Qy) array
        As for `gpu4d.find_bragg_disks`. A `Template` is prepared once.
    power, min_significance, max_peaks
        As for `gpu4d.find_bragg_disks`.

    Returns
    -------
    (n, 3) float64
        Rows qx, qy (pixels) and intensity, in this order, the brightest first.

    Examples
    --------
    >>> import gpu4d
    >>> probe = gpu4d.probe.synthetic((48, 48), 4.0)
    >>> bragg_disks(900 * probe, probe).round(2)[:, :2].tolist()
    [[24.0, 24.0]]

    On a signal: ``signal.map(bragg_disks, template=probe, ragged=True, inplace=False)``.
    """
    found = find_bragg_disks(frame, template, power=power, min_significance=min_significance, max_peaks=max_peaks)
    rows = np.stack([arrays.to_numpy(found.flat(field)).astype(np.float64) for field in ("qx", "qy", "intensity")], axis=-1)
    return rows[np.argsort(-rows[:, 2], kind="stable")]


def _stated(axis: Any) -> StatedAxis:
    """Return step, unit and offset of an axis of HyperSpy. An axis that is not even counts pixels."""
    scale = getattr(axis, "scale", None)
    unit = str(axis.units)
    if scale is None or not math.isfinite(scale) or scale == 0:
        log.warning("the %s is not even: its values are left out", axis)
        return StatedAxis(1.0, "px")
    if scale < 0:
        log.warning("the %s has the scale %g: directions follow the array, not the axis", axis, scale)
    return StatedAxis(float(scale), unit, float(axis.offset))


def _is_pattern(signal: Any, axes: list[StatedAxis]) -> bool:
    """Say whether the images of a signal are diffraction patterns."""
    ours = signal.metadata.get_item("gpu4d.class", "")
    if ours:
        return str(ours).endswith(("DiffractionSlice", "DataCube"))
    return is_of(signal, "pyxem", *DIFFRACTION) or any(is_detector(axis.unit) for axis in axes[-2:])


def _beam(signal: Any) -> tuple[float | None, float | None]:
    """Return energy (eV) and semi-angle (mrad) of the metadata."""
    energy, angle = (signal.metadata.get_item(TEM + key, None) for key in ("beam_energy", "convergence_angle"))
    return (1e3 * energy if energy else None), (angle or None)


def _scan(signal: Any, data: Any, axes: list[StatedAxis]) -> DataCube:
    stated = stated_calibration(axes, *_beam(signal), "axes and metadata of the HyperSpy signal", data.shape[2:])
    manager = signal.axes_manager
    names = [str(axis.name) for axis in (*manager.navigation_axes[::-1], *manager.signal_axes[::-1])]
    known = taken_over(signal.metadata.get_item("gpu4d.scan", None), stated, tuple(data.shape), turned(axes, names))
    metadata = signal.metadata.as_dictionary()
    for own in ("gpu4d", "_HyperSpy"):
        metadata.pop(own, None)
    original = signal.original_metadata.as_dictionary()
    held = {**known.metadata, "hyperspy": metadata, **({"original_metadata": original} if original else {})}
    title = str(signal.metadata.get_item("General.title", ""))
    return cube_of(data, known.calibration, held, known.detector_mask, known.name or title or "datacube")


def _slice(signal: Any, data: Any, axes: list[StatedAxis]) -> RealSlice | DiffractionSlice:
    quantity = str(signal.metadata.get_item("Signal.quantity", ""))
    unit = re.search(r"\(([^()]*)\)$", quantity)
    labels = tuple(map(str, signal.metadata.get_item("gpu4d.labels", ()) or ()))
    about = (str(signal.metadata.get_item("General.title", "")), unit[1] if unit else "", labels)
    values = data.compute() if hasattr(data, "compute") else data
    return slice_of(values, axes[-2:], _is_pattern(signal, axes), about, _beam(signal)[0])


def _points(signal: Any) -> PointListArray:
    """Return a ragged signal of (points, fields) arrays, whose fields `to_hyperspy` named."""
    fields = signal.metadata.get_item("gpu4d.fields", None)
    if not fields:
        raise InputError("the ragged signal does not say what its columns are: pyxem's vectors are for gpu4d.interop.pyxem.from_pyxem")
    units = signal.metadata.get_item("gpu4d.units", None)
    named = units.as_dictionary() if hasattr(units, "as_dictionary") else dict(units or {})
    return points_of(signal, [str(field) for field in fields], named)


def points_of(signal: Any, fields: list[str], units: dict[str, str]) -> PointListArray:
    """Return a ragged signal as lists of points, with these names for its columns."""
    held = signal.data.compute() if hasattr(signal.data, "compute") else signal.data
    lists = [np.asarray(rows, np.float64).reshape(-1, len(fields)) for rows in held.reshape(-1)]
    offsets = np.cumsum([0, *map(len, lists)])
    table = np.concatenate(lists) if lists else np.zeros((0, len(fields)))
    return PointListArray(offsets, dict(zip(fields, np.ascontiguousarray(table.T))), held.shape, units)
