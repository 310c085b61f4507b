"""Give results to HyperSpy: signals with axes, units and metadata; a scan as a lazy signal.

HyperSpy is under the GPL. It is imported in one function, and never needed by gpu4d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.named_axes import Axis
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import Slice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.interop.libraries import library
from gpu4d.interop.stated import carried_text
from gpu4d.interop.variables import Variable, Variables

if TYPE_CHECKING:
    from hyperspy.signal import BaseSignal

PLANES = (("Rx", "Ry"), ("Qx", "Qy"), ("Kx", "Ky"), ("x", "y"))  # pairs of axes that are an image


def to_hyperspy(result: Storable) -> BaseSignal | dict[str, BaseSignal]:
    """Return a result as a signal of HyperSpy.

    Parameters
    ----------
    result : any result, slice, scan or lists of points

    Returns
    -------
    hyperspy signal, or dict of str to signal
        A slice is a Signal2D (ComplexSignal2D), a stack with its planes as navigation axis and their labels in
        ``metadata.gpu4d.labels``. A scan is a Signal2D with the positions as navigation axes, lazy if Dask is installed.
        Its detector axes are zero at the mean origin, where origin and pixel are known. ``metadata.gpu4d.scan`` has all that is known of
        it as text, so that `gpu4d.interop.hyperspy.from_hyperspy` gives back the whole calibration and the mask.
        A PointListArray is a ragged signal of (points, fields) arrays, the fields named in ``metadata.gpu4d.fields``. Other results
        give a dictionary: an image for each array that ends with two axes of a plane, and spectra along the last axis for the others.
        Numbers and texts of the result are in ``metadata.gpu4d`` of each.

    Raises
    ------
    InputError
        HyperSpy is not installed, or the result has numbers and texts only.

    Examples
    --------
    >>> import gpu4d
    >>> bf = gpu4d.RealSlice(np.ones((2, 3)), "bf", "counts", 5.0, "Å")
    >>> bf.to_hyperspy()  # doctest: +SKIP
    <Signal2D, title: bf, dimensions: (|3, 2)>
    """
    hs = library("hyperspy.api", "to_hyperspy", "HyperSpy", "hyperspy")
    if not isinstance(result, Storable):
        raise InputError(f"result is a {type(result).__name__}: need a result of gpu4d, for an array use gpu4d.RealSlice(array)")
    held = Variables(result)
    about = {**held.attributes, "class": result.stored_name()}
    if isinstance(result, PointListArray):
        return _ragged(hs, result, about)
    if isinstance(result, Slice | DataCube):
        variable = held.variables[held.name]
        if not isinstance(result, DataCube):
            return _signal(hs, held.name, variable, about)
        made = _signal(hs, held.name, _about_origin(variable, result), {**about, "scan": carried_text(result)})
        _microscope(made, result)
        return made
    if not held.variables:
        raise InputError(f"{type(result).__name__} has no arrays, only numbers and texts: to_xarray() has them as attributes")
    return {name: _signal(hs, name, variable, about) for name, variable in held.variables.items()}


def _about_origin(variable: Variable, cube: DataCube) -> Variable:
    """Return the patterns with the zero of the detector's axes at the mean origin, where it and the pixel are known."""
    origin, step = cube.calibration.origin_mean, cube.calibration.q_pixel
    if origin is None or step is None:
        return variable
    moved = [axis._replace(values=axis.values - place * step) for axis, place in zip(variable.axes[2:], origin)]
    return variable._replace(axes=(*variable.axes[:2], *moved))


def _signal(hs: Any, name: str, variable: Variable, about: dict[str, Any]) -> Any:
    names = tuple(axis.name for axis in variable.axes)
    image = names[-2:] in PLANES
    labels = [axis.values.tolist() for axis in variable.axes if axis.values.dtype.kind == "U"]
    values = variable.values
    is_complex = values.dtype.kind == "c"
    kinds = {
        (True, False): hs.signals.Signal2D,
        (True, True): hs.signals.ComplexSignal2D,
        (False, False): hs.signals.Signal1D,
        (False, True): hs.signals.ComplexSignal1D,
    }
    inner = 2 if image else 1
    axes = [_axis(axis, navigate=n < len(names) - inner) for n, axis in enumerate(variable.axes)]
    metadata = {
        "General": {"title": variable.title or name},
        "Signal": {"quantity": f"{name} ({variable.unit})" if variable.unit else name},
        "gpu4d": {**about, **({"labels": labels[0]} if labels else {})},
    }
    made = kinds[image, is_complex](values, axes=axes, metadata=metadata)
    return made if isinstance(values, np.ndarray) else made.as_lazy()


def _axis(axis: Axis, navigate: bool) -> dict[str, Any]:
    """Return an axis as HyperSpy describes it: even, or by its values; by number if these do not grow."""
    common = {"name": axis.name, "size": len(axis.values), "navigate": navigate, "units": "" if axis.unit == "px" else axis.unit}
    values = axis.values
    if values.dtype.kind not in "iuf":
        return {**common, "units": "", "scale": 1.0, "offset": 0.0}
    steps = np.diff(values.astype(np.float64))
    if len(steps) == 0 or np.allclose(steps, steps[0], rtol=1e-6, atol=0):
        step = float(steps[0]) if len(steps) and steps[0] else axis.step or 1.0
        return {**common, "scale": step, "offset": float(values[0]) if len(values) else 0.0}
    if (steps > 0).all():
        return {key: held for key, held in common.items() if key != "size"} | {"axis": values}
    return {**common, "units": "", "scale": 1.0, "offset": 0.0}


def _ragged(hs: Any, points: PointListArray, about: dict[str, Any]) -> Any:
    table = np.stack([arrays.to_numpy(points.flat(field)).astype(np.float64) for field in points.fields], axis=-1)
    offsets = arrays.to_numpy(points.offsets)
    lists = np.empty(len(offsets) - 1, object)
    for i in range(len(lists)):
        lists[i] = table[offsets[i] : offsets[i + 1]]
    metadata = {"General": {"title": "points"}, "gpu4d": {**about, "fields": list(points.fields), "units": dict(points.units)}}
    made = hs.signals.BaseSignal(lists.reshape(points.shape), ragged=True, metadata=metadata)
    for axis, name in zip(made.axes_manager.navigation_axes[::-1], ("Rx", "Ry")):
        axis.name = name
    return made


def _microscope(signal: Any, cube: DataCube) -> None:
    """Write what HyperSpy and pyxem look for: beam energy in keV, semi-angle in mrad."""
    for key, value in (("beam_energy", cube.calibration.energy), ("convergence_angle", cube.calibration.semiangle)):
        if value is not None:
            signal.metadata.set_item(f"Acquisition_instrument.TEM.{key}", value / 1e3 if key == "beam_energy" else value)
