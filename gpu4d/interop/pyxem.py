"""Scans, disks, beam shifts and strain from pyxem's signals, and back, in the units, axes and signs of each.

pyxem is under the GPL. It is imported in the functions that make its signals, and never needed by gpu4d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.crystal.deformation import COMPONENTS
from gpu4d.crystal.strain import Strain
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import RealSlice, Slice
from gpu4d.errors import InputError
from gpu4d.interop.hyperspy import from_hyperspy, points_of
from gpu4d.interop.libraries import is_of, library, refused
from gpu4d.interop.stated import StatedAxis, slice_of, stated_calibration

if TYPE_CHECKING:
    from hyperspy.signal import BaseSignal

__all__ = ["from_pyxem", "to_pyxem"]

UNIT = "$A^{-1}$"  # as pyxem writes 1/Å
COM = ("com_x", "com_y")  # planes of a centre of mass
STRAIN_SIGNS = np.array([1.0, 1.0, -1.0, -1.0])  # of e11, e22, e12, theta in pyxem, whose second axis points the other way


def __dir__() -> list[str]:
    return list(__all__)


def to_pyxem(result: DataCube | PointListArray | Slice | Strain, *, calibration: Calibration | None = None) -> BaseSignal:
    """Return a scan or a result as a signal of pyxem.

    Parameters
    ----------
    result : DataCube, PointListArray, Strain, centre of mass, or slice
    calibration : Calibration, optional
        Of the scan that disks or a centre of mass belong to. Disks need its origin; with q_pixel they are in 1/Å, else in pixels.

    Returns
    -------
    ElectronDiffraction2D
        Of a scan; lazy if Dask is installed. Axes x, y, kx, ky. pyxem takes pixel (0, 0) for the centre if the origin is not known.
    DiffractionVectors
        Of disks: ragged, columns ky, kx, intensity and the others, relative to the origin of each position: ky is along Qx, the first
        axis. `scales` and `offsets` say where they were on the detector.
    StrainMap
        Of strain: (4 | Rx, Ry), e11, e22, e12, theta as pyxem's `get_strain_maps` gives them for the same disks. e12 and theta have the
        opposite sign there.
    BeamShift
        Of a centre of mass: the shift that brings the beam to the middle of the detector or, if `calibration` has an origin, to it; x
        before y, in pixels.
    Signal2D, VirtualDarkFieldImage
        Of other slices: images over the scan are of the second kind.

    Raises
    ------
    InputError
        pyxem is not installed, disks have no origin, or the result is of another kind.

    Examples
    --------
    >>> import gpu4d  # doctest: +SKIP
    >>> vectors = to_pyxem(disks, calibration=cube.calibration)  # doctest: +SKIP
    """
    if isinstance(result, DataCube):
        library("pyxem", "to_pyxem", "pyxem", "pyxem")
        return _scan(result)
    if not isinstance(result, PointListArray | Strain | Slice):
        raise refused(result, "result", "a DataCube, disks (PointListArray), a Strain or a slice")
    signals = library("pyxem.signals", "to_pyxem", "pyxem", "pyxem")
    if isinstance(result, PointListArray):
        return _vectors(signals, result, calibration or Calibration())
    if isinstance(result, Strain):
        return _strain(signals, result)
    if isinstance(result, RealSlice) and result.labels == COM:
        return _shifts(signals, result, calibration or Calibration())
    made: Any = result.to_hyperspy()
    if isinstance(result, RealSlice) and result.ndim == 2 and not arrays.is_complex(result.data):
        made.set_signal_type("virtual_dark_field")
    return made


def from_pyxem(signal: BaseSignal, *, calibration: Calibration | None = None) -> DataCube | Slice | PointListArray:
    """Return a signal of pyxem as a scan or a result.

    Parameters
    ----------
    signal : Diffraction2D, ElectronDiffraction2D, DiffractionVectors, BeamShift, StrainMap, or a virtual image
        Lazy or not.
    calibration : Calibration, optional
        For vectors that do not say their `scales` and `offsets`: its q_pixel and origin say where they were on the detector.

    Returns
    -------
    DataCube, RealSlice
        As `gpu4d.interop.hyperspy.from_hyperspy` returns it.
    PointListArray
        Of DiffractionVectors: qx, qy in detector pixels, and the further columns. qx is along ky. Positions are exact; pyxem's
        `get_pixel_vectors` rounds them. Vectors that pyxem made from peaks without naming the columns have them as (x, y), although the
        first is along the first axis: they are taken as they are, unless the names are "kx", "ky" in this order.
    RealSlice (2, Rx, Ry)
        Of a BeamShift: the centre of mass, com_x along the first axis, in pixels. It is on the detector if the signal says how large that
        was, else relative to its middle.
    RealSlice (4, Rx, Ry)
        Of a StrainMap: e_xx, e_yy, e_xy, theta with the signs of gpu4d.

    Raises
    ------
    InputError
        No signal of pyxem or HyperSpy, or vectors whose pixels are not known.
    """
    if is_of(signal, "pyxem", "BeamShift"):  # before vectors: pyxem's class is made from them
        return _center_of_mass(signal)
    if is_of(signal, "pyxem", "DiffractionVectors") and getattr(signal, "ragged", False):
        return _disks(signal, calibration)
    if is_of(signal, "pyxem", "StrainMap"):
        return _tensor(signal)
    return from_hyperspy(signal)


# ---------------------------------------------------------------- to pyxem


def _scan(cube: DataCube) -> Any:
    made: Any = cube.to_hyperspy()
    for axis, name in zip(made.axes_manager.navigation_axes, ("x", "y")):
        axis.name = name
    for axis, name in zip(made.axes_manager.signal_axes, ("kx", "ky")):
        axis.name = name
        axis.units = UNIT if axis.units == "1/Å" else axis.units
    made.set_signal_type("electron_diffraction")
    return made


def _vectors(signals: Any, disks: PointListArray, known: Calibration) -> Any:
    fields = ("qx", "qy")
    if not set(fields) <= set(disks.fields):
        raise InputError(f"the points have the fields {', '.join(disks.fields)}: disks have qx and qy, in pixels")
    if known.origin is None:
        raise InputError("pyxem's vectors begin at the unscattered beam: give calibration=, with an origin (gpu4d.calibrate.origin)")
    host = disks.to_host()
    step = known.q_pixel or 1.0
    positions = np.stack(np.unravel_index(host.positions, host.shape), -1) if len(host.shape) == 2 else np.zeros((len(host), 2), int)
    places = np.stack([host.flat(field) for field in fields], -1).astype(np.float64)
    own: Any = known.origin_at(positions)
    others = [field for field in host.fields if field not in fields]
    others.sort(key=lambda field: field != "intensity")  # pyxem looks for it in the third column
    table = np.column_stack([(places - own) * step, *(host.flat(field).astype(np.float64) for field in others)])
    lists = np.empty(len(host.offsets) - 1, object)
    for i in range(len(lists)):
        lists[i] = table[host.offsets[i] : host.offsets[i + 1]]
    made = signals.DiffractionVectors(lists.reshape(host.shape), ragged=True)
    unit = UNIT if known.q_pixel else "px"
    made.column_names = ["ky", "kx", *others]
    made.units = [unit, unit, *(host.units.get(field) or "a.u." for field in others)]
    mean = known.origin_mean
    assert mean is not None  # the origin was checked above
    made.scales = np.array([step, step, *(1.0 for _ in others)])
    made.offsets = np.array([*(-mean * step), *(0.0 for _ in others)])
    if known.origin.ndim == 3:
        made.metadata.set_item("gpu4d.origin", known.origin)
    for axis, name in zip(made.axes_manager.navigation_axes, ("x", "y")):
        axis.name, axis.scale, axis.units = name, known.r_pixel or 1.0, "Å" if known.r_pixel else "px"
    return made


def _strain(signals: Any, strain: Strain) -> Any:
    planes = np.stack([arrays.to_numpy(getattr(strain, name).data) for name in ("exx", "eyy", "exy", "theta")])
    made = signals.StrainMap(planes * STRAIN_SIGNS[:, None, None])
    for axis, name in zip(made.axes_manager.signal_axes, ("x", "y")):
        axis.name, axis.scale = name, strain.exx.pixel_size
        axis.units = strain.exx.pixel_units
    made.metadata.set_item("General.title", "strain")
    made.metadata.set_item("gpu4d.axes", str(strain.axes))
    return made


def _shifts(signals: Any, com: RealSlice, known: Calibration) -> Any:
    held = arrays.to_numpy(com.data)
    origin = known.origin
    if com.units != "px" or origin is None:
        raise InputError(f"the centre of mass is in {com.units!r}: give one in px, and calibration= with the origin that it is shifted to")
    away = np.moveaxis(held, 0, -1) - origin
    made = signals.BeamShift(-away[..., ::-1])
    for axis, name in zip(made.axes_manager.navigation_axes, ("x", "y")):
        axis.name, axis.scale, axis.units = name, com.pixel_size, com.pixel_units
    made.metadata.set_item("gpu4d.origin", np.asarray(origin))
    return made


# ---------------------------------------------------------------- from pyxem


def _disks(signal: Any, calibration: Calibration | None) -> PointListArray:
    names = [str(name) for name in (signal.column_names or ("ky", "kx"))]
    width = signal.data.reshape(-1)[0].shape[-1] if signal.data.size and not signal._lazy else len(names)
    names += [f"column_{i}" for i in range(len(names), width)]
    found = points_of(signal, [str(i) for i in range(len(names))], {})
    first, second = (1, 0) if names[:2] == ["kx", "ky"] else (0, 1)
    scales, offsets = signal.scales, signal.offsets
    if calibration is not None and calibration.q_pixel and calibration.origin is not None:
        step, origin = (calibration.q_pixel,) * 2, calibration.origin
    elif scales is not None and offsets is not None:
        step = tuple(float(scales[i]) for i in (first, second))  # type: ignore[assignment]
        origin = np.array([-float(offsets[i]) / float(scales[i]) for i in (first, second)])
        kept = signal.metadata.get_item("gpu4d.origin", None)
        if kept is not None and np.shape(kept) == (*found.shape, 2) and np.allclose(np.nanmean(kept, axis=(0, 1)), origin):
            origin = np.asarray(kept)
    else:
        raise InputError("the vectors do not say their scales and offsets: give calibration= with q_pixel and origin")
    where = np.stack(np.unravel_index(found.positions, found.shape), -1) if origin.ndim == 3 else None
    own = origin if where is None else origin[where[:, 0], where[:, 1]]
    table = np.stack([found.flat(str(i)) for i in (first, second)], -1) / np.array(step) + own
    units = [str(unit) for unit in (signal.units or ())]
    fields = {"qx": table[:, 0].copy(), "qy": table[:, 1].copy()}
    stated = {"qx": "px", "qy": "px"}
    for i in range(2, len(names)):
        fields[names[i]] = found.flat(str(i))
        if i < len(units) and units[i] not in ("", "a.u."):
            stated[names[i]] = units[i]
    return PointListArray(found.offsets, fields, found.shape, stated)


def _center_of_mass(signal: Any) -> RealSlice:
    held = signal.data.compute() if hasattr(signal.data, "compute") else signal.data
    if held.ndim != 3:
        raise InputError(f"the beam shifts are {held.shape}: need two navigation axes")
    com = -np.asarray(held, np.float64)[..., ::-1]
    kept, axes = (signal.metadata.get_item(key, None) for key in ("gpu4d.origin", "Shifts.signal_axes"))
    if kept is not None:
        com = com + np.asarray(kept)
    elif axes is not None:
        com = com + [axis.size / 2 for axis in axes[::-1]]  # pyxem's middle of the detector
    stated = [StatedAxis(float(axis.scale), str(axis.units)) for axis in signal.axes_manager.navigation_axes[::-1]]
    step = stated_calibration([*stated, *[StatedAxis(1.0, "px")] * 2], None, None, "").r_pixel
    return RealSlice.calibrated(np.moveaxis(com, -1, 0), "com", "px", step, COM)


def _tensor(signal: Any) -> Slice:
    held = np.asarray(signal.data, np.float64)
    if held.ndim != 3 or len(held) != 4:
        raise InputError(f"the strain map is {held.shape}: need (4, Rx, Ry), e11, e22, e12, theta")
    axes = [StatedAxis(float(axis.scale), str(axis.units)) for axis in signal.axes_manager.signal_axes[::-1]]
    return slice_of(held * STRAIN_SIGNS[:, None, None], axes, False, ("strain", "1", COMPONENTS))
