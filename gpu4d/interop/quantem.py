"""Scans, disks, images and strain from quantem's data structures, and back.

quantem (MIT) needs torch. It is imported in the function that makes its objects.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.crystal.deformation import COMPONENTS
from gpu4d.crystal.strain import Strain
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.slices import Slice
from gpu4d.errors import InputError
from gpu4d.interop.libraries import is_of, library, refused
from gpu4d.interop.stated import StatedAxis, carried_text, cube_of, is_detector, slice_of, stated_calibration, taken_over, turned

if TYPE_CHECKING:
    from quantem.core.datastructures import Dataset2d, Dataset4dstem, Vector
    from quantem.diffraction.bragg_vectors import BraggVectors
    from quantem.diffraction.strain import StrainMap

__all__ = ["from_quantem", "to_quantem"]

STRUCTURES = "quantem.core.datastructures"
INSTALL = "torch torchvision quantem"
UNITS = {"Å": "A", "1/Å": "A^-1", "px": "pixels"}  # as quantem writes them
FIELDS = {"qx": "q_row", "qy": "q_col"}
ROTATION, TRANSPOSE, OURS = "q_to_r_rotation_ccw_deg", "q_transpose", "gpu4d"  # entries of a dataset's metadata
COUNTED = "counts"


def __dir__() -> list[str]:
    return list(__all__)


def to_quantem(result: DataCube | PointListArray | Slice | Strain) -> Dataset4dstem | Dataset2d | Vector | StrainMap:
    """Return a scan or a result as an object of quantem.

    Parameters
    ----------
    result : DataCube, PointListArray, Strain, or slice of two dimensions

    Returns
    -------
    Dataset4dstem
        Of a scan, which is loaded, because quantem keeps arrays in memory. Its origin is the place of pixel (0, 0) when the mean origin
        is zero. Rotation and transpose are in its metadata under quantem's names; both libraries mean the same by them. Its
        ``metadata["gpu4d"]`` is a text with everything that is known of the scan.
    Vector
        Of disks: q_row, q_col (detector pixels, as quantem's `detect_disks` gives them), and the other fields, as float64.
    StrainMap
        Of strain: quantem computes it from the same lattice vectors and reference. Its definition is `definition="infinitesimal"`.
    Dataset2d
        Of an image or a pattern.

    Raises
    ------
    InputError
        quantem is not installed, or it has no such object.
    MemoryBudgetError
        The scan does not fit into memory.

    Examples
    --------
    >>> import gpu4d  # doctest: +SKIP
    >>> to_quantem(gpu4d.open("scan.h5"))  # doctest: +SKIP
    """
    if not isinstance(result, DataCube | PointListArray | Strain | Slice):
        raise refused(result, "result", "a DataCube, disks (PointListArray), a Strain or a slice")
    structures = library(STRUCTURES, "to_quantem", "quantem", INSTALL)
    if isinstance(result, DataCube):
        return _dataset(structures, result)
    if isinstance(result, PointListArray):
        return _vector(structures, result)
    if isinstance(result, Strain):
        return _strain_map(result)
    if result.ndim != 2 or arrays.is_complex(result.data):
        raise InputError(f"the slice is {result.shape} {result.dtype}: quantem's Dataset2d takes real images of two dimensions, one plane")
    unit = UNITS.get(result.pixel_units, result.pixel_units)
    return structures.Dataset2d.from_array(
        arrays.to_numpy(result.data), result.name, sampling=(result.pixel_size,) * 2, units=[unit] * 2, signal_units=result.units or "1"
    )


def from_quantem(thing: Dataset4dstem | Dataset2d | Vector | BraggVectors | StrainMap) -> DataCube | Slice | PointListArray:
    """Return an object of quantem as a scan or a result.

    Parameters
    ----------
    thing : Dataset4dstem, Dataset4d, Dataset2d, Vector, BraggVectors, or StrainMap
        Arrays are used in place, also those on a device.

    Returns
    -------
    DataCube
        Of four axes (row, column, q_row, q_col), with pixel sizes, origin, rotation and transpose. What a scan had before `to_quantem`
        comes back.
    PointListArray
        Of a Vector, or the peaks of BraggVectors: q_row and q_col are called qx and qy. Units as quantem says them.
    RealSlice or DiffractionSlice
        Of a Dataset2d, by its units.
    RealSlice (4, Rx, Ry)
        Of a StrainMap: e_xx, e_yy, e_xy, theta. quantem's `phi` is our rotation, −theta.

    Raises
    ------
    InputError
        Another kind of object, or BraggVectors without peaks.
    """
    if is_of(thing, "quantem", "BraggVectors"):
        peaks = thing.peaks  # type: ignore[union-attr]
        if peaks is None:
            raise InputError("the BraggVectors have no peaks yet: call detect_disks() first")
        return _points(peaks)
    if is_of(thing, "quantem", "Vector"):
        return _points(thing)
    if is_of(thing, "quantem", "StrainMap"):
        return _tensor(thing)
    if is_of(thing, "quantem", "Dataset4d", "Dataset4dstem"):
        return _scan(thing)
    if is_of(thing, "quantem", "Dataset2d"):
        axes = _axes(thing)
        about = (str(thing.name), str(thing.signal_units), ())  # type: ignore[union-attr]
        return slice_of(thing.array, axes, is_detector(axes[0].unit), about)  # type: ignore[union-attr]
    raise refused(thing, "the object", "a Dataset4dstem, Dataset2d, Vector, BraggVectors or StrainMap of quantem")


# ---------------------------------------------------------------- to quantem


def _dataset(structures: Any, cube: DataCube) -> Any:
    c = cube.calibration
    steps = [(c.r_pixel, "Å")] * 2 + [(c.q_pixel, "1/Å")] * 2
    centre = c.origin_mean
    shift = [0.0, 0.0] if centre is None else [-float(place) * (c.q_pixel or 1.0) for place in centre]
    made = structures.Dataset4dstem.from_array(
        np.asarray(cube),
        cube.name,
        origin=[0.0, 0.0, *shift],
        sampling=[step or 1.0 for step, _ in steps],
        units=[UNITS[unit if step else "px"] for step, unit in steps],
        signal_units=COUNTED,
    )
    if c.rotation is not None:
        made.metadata[ROTATION] = math.degrees(c.rotation)
    if c.transpose is not None:
        made.metadata[TRANSPOSE] = bool(c.transpose)
    made.metadata[OURS] = carried_text(cube)
    return made


def _vector(structures: Any, points: PointListArray) -> Any:
    import torch  # quantem is there, and needs it

    host = points.to_host()
    table = np.column_stack([host.flat(field).astype(np.float64) for field in host.fields])
    cells = [table[start:stop] for start, stop in zip(host.offsets[:-1], host.offsets[1:])]
    nested: list[Any] = cells
    for n in reversed(host.shape[1:]):
        nested = [nested[i : i + n] for i in range(0, len(nested), n)]
    units = [UNITS.get(host.units.get(field, ""), host.units.get(field, "") or "none") for field in host.fields]
    names = [FIELDS.get(field, field) for field in host.fields]
    return structures.Vector.from_data(nested, fields=names, units=units, name="disks", dtype=torch.float64)


def _strain_map(strain: Strain) -> Any:
    module = library("quantem.diffraction.strain", "to_quantem", "quantem", INSTALL)
    held = strain._inputs
    g = arrays.to_numpy(held.g)
    turned = np.asarray(held.to_frame)
    transpose = bool(np.linalg.det(turned) < 0)
    plain = turned[:, ::-1] if transpose else turned
    step, unit = strain.exx.pixel_size, strain.exx.pixel_units
    return module.StrainMap(
        g[..., 0, :].copy(),
        g[..., 1, :].copy(),
        g.shape[:2],
        real_space=False,
        g1_ref=np.asarray(strain.reference.g1),
        g2_ref=np.asarray(strain.reference.g2),
        mask=arrays.to_numpy(strain.mask).astype(float),
        ds_sampling=step,
        ds_units=UNITS.get(unit, unit),
        q_to_r_rotation_ccw_deg=math.degrees(math.atan2(plain[1, 0], plain[0, 0])),
        q_transpose=transpose,
    )


# ---------------------------------------------------------------- from quantem


def _axes(dataset: Any) -> list[StatedAxis]:
    origin = np.broadcast_to(np.asarray(dataset.origin, np.float64), len(dataset.sampling))
    return [StatedAxis(float(step), str(unit), float(start)) for step, unit, start in zip(dataset.sampling, dataset.units, origin)]


def _scan(dataset: Any) -> DataCube:
    axes, metadata = _axes(dataset), dict(getattr(dataset, "metadata", None) or {})
    stated = stated_calibration(axes, None, None, "quantem's dataset", tuple(dataset.array.shape)[2:])
    known = taken_over(metadata.pop(OURS, None), stated, tuple(dataset.array.shape), turned(axes))
    c = known.calibration
    rotation, transpose = metadata.get(ROTATION), metadata.get(TRANSPOSE)
    if rotation is not None and (c.rotation is None or abs(math.degrees(c.rotation) - rotation) > 1e-9):
        c.set(rotation=math.radians(rotation), how=f"{ROTATION} of quantem's dataset")
    if transpose is not None and c.transpose != bool(transpose):
        c.set(transpose=bool(transpose), how=f"{TRANSPOSE} of quantem's dataset")
    held = {**known.metadata, "quantem": {key: value for key, value in metadata.items() if value is not None}}
    return cube_of(dataset.array, c, held, known.detector_mask, known.name or str(dataset.name))


def _points(vector: Any) -> PointListArray:
    ours = {theirs: field for field, theirs in FIELDS.items()}
    names = [ours.get(str(field), str(field)) for field in vector.fields]
    table = vector.flatten().detach().cpu().numpy()
    counts = np.asarray(vector.row_counts()).reshape(-1)
    shape = tuple(vector.shape) or (1,)
    back = {theirs: unit for unit, theirs in UNITS.items()}
    units = {name: back.get(str(unit), str(unit)) for name, unit in zip(names, vector.units) if str(unit) != "none"}
    columns = {name: np.ascontiguousarray(column) for name, column in zip(names, table.T)}
    return PointListArray(np.concatenate([[0], np.cumsum(counts)]), columns, shape, units)


def _tensor(strain: Any) -> Slice:
    planes = np.stack([np.asarray(getattr(strain, name).array, np.float64) for name in ("e_rr", "e_cc", "e_rc", "phi")])
    planes[3] *= -1
    axes = [StatedAxis(float(strain.ds_sampling), str(strain.ds_units))] * 2
    return slice_of(planes, axes, False, ("strain", "1", COMPONENTS))
