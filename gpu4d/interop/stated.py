"""Read what another library states of a scan: steps, units and offsets of its axes, the beam; and carry what it has no place for."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import DiffractionSlice, RealSlice
from gpu4d.errors import Gpu4dError
from gpu4d.interop.dask import DaskSource
from gpu4d.io.foreign import FOREIGN, reason
from gpu4d.io.formats.carried import coded, decoded
from gpu4d.io.formats.zarr_calibration import set_beam, set_steps
from gpu4d.io.units import log, parse

BEAM = ("energy", "semiangle")  # of a calibration, whatever happens to the pixels
DIRECTIONS = ("rotation", "rotation_error", "transpose")  # the same, as long as no axis is mirrored or swapped with another
ORDERS = (("Rx", "Ry", "Qx", "Qy"), ("y", "x", "ky", "kx"))  # of the axes of a scan that is written: ours, and for pyxem
AGREE = 1e-9  # relative difference of a step up to which it is the one that was written


class StatedAxis(NamedTuple):
    """One axis as another library states it: the value at index n is ``offset + n * step``, in `unit`."""

    step: float
    unit: str
    offset: float = 0.0


def stated_calibration(axes: Sequence[StatedAxis], energy: Any, semiangle: Any, how: str, detector: tuple[int, ...] = ()) -> Calibration:
    """Return the calibration that four axes (Rx, Ry, Qx, Qy) and the beam state.

    Parameters
    ----------
    axes : four StatedAxis
        Where both detector axes are 0 is the origin, unless this is pixel (0, 0), as of axes that only count, or outside the detector, as
        of counting axes that were cropped.
    energy, semiangle : float or None
        eV and mrad. An energy is needed for a detector whose unit is an angle.
    how : str
        Who states it, for the history.
    detector : (int, int)
        Its shape. Without it no origin is read.
    """
    found = Calibration()
    beam = [None if value is None else float(value) for value in (energy, semiangle)]
    set_beam(found, beam[0], beam[1], how)
    set_steps(found, [(abs(axis.step), axis.unit) for axis in axes], found.energy)
    zero = [-axis.offset / axis.step if axis.step else math.nan for axis in axes[2:]]
    alike = is_detector(axes[2].unit) == is_detector(axes[3].unit)  # else one axis was left out, and 0 is no place on it
    if alike and any(zero) and detector and all(0 <= place <= n - 1 for place, n in zip(zero, detector)):
        found.set(origin=zero, how=how)
    return found


def is_detector(unit: str) -> bool:
    """Say whether a unit belongs to a detector: 1/Å and its relatives, or an angle."""
    known = parse(unit)
    return known is not None and known[0] in ("frequency", "angle")


def slice_of(
    values: Any, axes: Sequence[StatedAxis], detector: bool, about: tuple[str, str, tuple[str, ...]], energy: float | None = None
) -> RealSlice | DiffractionSlice:
    """Return an image as a slice, on the scan or on the detector.

    Parameters
    ----------
    values : (..., nx, ny) array
    axes : two StatedAxis
        Of the image.
    detector : bool
    about : (name, units, labels)
    energy : float, optional
        eV, for a detector whose unit is an angle.
    """
    steps = Calibration()
    plain = [(abs(axis.step), axis.unit) for axis in axes]
    none = [(1.0, "px")] * 2
    set_steps(steps, [*none, *plain] if detector else [*plain, *none], energy)
    name, units, labels = about
    if detector:
        return DiffractionSlice.calibrated(values, name, units, steps.q_pixel, labels)
    return RealSlice.calibrated(values, name, units, steps.r_pixel, labels)


def cube_of(array: Any, calibration: Calibration, metadata: Mapping[str, Any], mask: Any, name: str) -> DataCube:
    """Return a scan of an array (Rx, Ry, Qx, Qy) that is in memory, or that Dask computes later."""
    data = DaskSource(array) if type(array).__module__.partition(".")[0] == "dask" else array
    return DataCube(data, calibration, copy.deepcopy(dict(metadata)), mask, name)  # theirs and ours are changed apart


# ---------------------------------------------------------------- what other libraries have no place for


def carried_text(cube: DataCube) -> str:
    """Return calibration, mask, name and metadata of a scan as a text, which `carried` reads."""
    known = {
        "shape": list(cube.shape),
        "calibration": coded(cube.calibration.to_parts()),
        "detector_mask": coded(cube.detector_mask),
        "metadata": coded({key: value for key, value in cube.metadata.items() if key != "carried"}),
        "name": cube.name,
    }
    return json.dumps(known, ensure_ascii=False)


class Carried(NamedTuple):
    """What a text carried: the calibration, the mask of the detector, metadata, name, and the shape of the scan."""

    calibration: Calibration
    detector_mask: np.ndarray | None
    metadata: dict[str, Any]
    name: str | None
    shape: tuple[int, ...]


def carried(text: Any) -> Carried | None:
    """Read what `carried_text` wrote. None without a text, and, with a warning, if it is damaged."""
    if not isinstance(text, str):
        return None
    try:
        held = json.loads(text)
        shape = tuple(int(n) for n in held["shape"])
        mask, metadata, name = decoded(held.get("detector_mask")), dict(decoded(held.get("metadata", {}))), held.get("name")
        if len(shape) != 4 or (mask is not None and mask.shape != shape[2:]):
            raise ValueError(f"no shape of a scan and its mask: {shape}")
        return Carried(Calibration.from_parts(decoded(held["calibration"])), mask, metadata, None if name is None else str(name), shape)
    except (*FOREIGN, AttributeError, RecursionError, Gpu4dError) as error:
        log.warning("the description of the scan that gpu4d wrote is damaged, and left out: %s", reason(error))
        return None


def turned(axes: Sequence[StatedAxis], names: Sequence[str] = ()) -> bool:
    """Say whether axes were mirrored, or swapped with each other, since the scan was written."""
    return any(axis.step < 0 for axis in axes) or any(set(names) == set(order) and tuple(names) != order for order in ORDERS)


def invariant(known: Calibration, is_turned: bool) -> Calibration:
    """Return what of a calibration still holds if pixels were cut, binned or thinned out and, of these, if axes were turned."""
    if is_turned and known.rotation is not None:
        log.warning("axes of the scan were mirrored or swapped: its rotation is left out")
    return known.only(BEAM if is_turned else (*BEAM, *DIRECTIONS))


def taken_over(text: Any, stated: Calibration, shape: tuple[int, ...], is_turned: bool = False) -> Carried:
    """Return what a text carried, as far as it still holds for the axes that came back.

    If the shape or a step has changed, only what does not depend on pixels is taken: energy, semi-angle, rotation. If axes were turned,
    the rotation is left out too.
    """
    found = carried(text)
    if found is None:
        return Carried(stated, None, {}, None, shape)
    known = found.calibration
    steps = all(_agree(getattr(known, field), getattr(stated, field)) for field in ("q_pixel", "r_pixel"))
    if not is_turned and found.shape == shape and steps and _same_origin(known, stated):
        changed = [field for field in ("energy", "semiangle") if not _agree(getattr(known, field), getattr(stated, field))]
        known.override(stated.only(changed))
        return found
    kept = invariant(known, is_turned)
    kept.override(stated)
    return Carried(kept, None, found.metadata, found.name, shape)


def _agree(ours: float | None, theirs: float | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return math.isclose(ours, theirs, rel_tol=AGREE)


def _same_origin(known: Calibration, stated: Calibration) -> bool:
    """Say whether the offsets of the axes are those that the origin gave. Without a pixel size there are none."""
    ours = known.origin_mean if known.q_pixel else None
    theirs = stated.origin_mean
    if ours is None or theirs is None:
        return theirs is None or (ours is None and known.origin is None)
    return bool(np.allclose(ours, theirs, rtol=0, atol=1e-6))
