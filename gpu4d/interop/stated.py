"""Read what another library states of a scan: steps, units and offsets of its axes, the beam; and carry what it has no place for."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import DiffractionSlice, RealSlice
from gpu4d.io.formats.carried import coded, decoded
from gpu4d.io.foreign import FOREIGN, reason
from gpu4d.io.formats.zarr_calibration import set_beam, set_steps
from gpu4d.io.units import log, parse

INVARIANT = ("energy", "semiangle", "rotation", "rotation_error", "transpose")  # of a calibration, whatever happens to the pixels
AGREE = 1e-9  # relative difference of a step up to which it is the one that was written


class StatedAxis(NamedTuple):
    """One axis as another library states it: the value at index n is ``offset + n * step``, in `unit`."""

    step: float
    unit: str
    offset: float = 0.0


def stated_calibration(axes: Sequence[StatedAxis], energy: Any, semiangle: Any, how: str) -> Calibration:
    """Return the calibration that four axes (Rx, Ry, Qx, Qy) and the beam state.

    Parameters
    ----------
    axes : four StatedAxis
        Offsets of the detector axes that are not both 0 give the origin: the pixel where they are 0.
    energy, semiangle : float or None
        eV and mrad. An energy is needed for a detector whose unit is an angle.
    how : str
        Who states it, for the history.
    """
    found = Calibration()
    numbers = [None if value is None else float(value) for value in (energy, semiangle)]
    set_beam(found, *numbers, how)
    set_steps(found, [(abs(axis.step), axis.unit) for axis in axes], found.energy)
    offsets = [(axis.offset, axis.step) for axis in axes[2:]]
    if any(offset for offset, _ in offsets) and all(step and math.isfinite(offset / step) for offset, step in offsets):
        found.set(origin=[-offset / step for offset, step in offsets], how=how)
    return found


def is_detector(unit: str) -> bool:
    """Say whether a unit belongs to a detector: 1/Å and its relatives, or an angle."""
    known = parse(unit)
    return known is not None and known[0] in ("frequency", "angle")


def slice_of(values: Any, axes: Sequence[StatedAxis], detector: bool, about: tuple[str, str, tuple[str, ...]], energy: float | None = None):  # type: ignore[no-untyped-def]
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
    kind, size = (DiffractionSlice, steps.q_pixel) if detector else (RealSlice, steps.r_pixel)
    name, units, labels = about
    return kind.calibrated(values, name, units, size, labels)


# ---------------------------------------------------------------- what other libraries have no place for


def carried_text(cube: DataCube) -> str:
    """Return calibration, mask, name and metadata of a scan as a text, which `carried_calibration` reads."""
    known = {
        "shape": list(cube.shape),
        "calibration": coded(cube.calibration.to_parts()),
        "detector_mask": coded(cube.detector_mask),
        "metadata": coded({key: value for key, value in cube.metadata.items() if key != "carried"}),
        "name": cube.name,
    }
    return json.dumps(known, ensure_ascii=False)


class Carried(NamedTuple):
    """What a text carried: the calibration, the mask of the detector, metadata and name."""

    calibration: Calibration
    detector_mask: np.ndarray | None
    metadata: dict[str, Any]
    name: str | None


def taken_over(text: Any, stated: Calibration, shape: tuple[int, ...]) -> Carried:
    """Return what a text carried, as far as it still holds for the axes that came back.

    If the shape or a step has changed, only what does not depend on pixels is taken: energy, semi-angle, rotation.
    """
    try:
        held = json.loads(text) if isinstance(text, str) else {}
        known = Calibration.from_parts(decoded(held["calibration"])) if "calibration" in held else None
        mask, metadata, name = decoded(held.get("detector_mask")), decoded(held.get("metadata", {})), held.get("name")
        same = held.get("shape") == list(shape)
    except (*FOREIGN, AttributeError, RecursionError) as error:
        log.warning("what gpu4d wrote of the scan is left out: %s", reason(error))
        known = None
    if known is None:
        return Carried(stated, None, {}, None)
    if (
        same
        and all(_agree(getattr(known, field), getattr(stated, field)) for field in ("q_pixel", "r_pixel"))
        and _same_origin(known, stated)
    ):
        kept = known
        kept.override(
            stated.only([f for f in stated.known() if f in ("energy", "semiangle") and not _agree(getattr(known, f), stated.known()[f])])
        )
        return Carried(kept, mask, metadata, name)
    kept = known.only(INVARIANT)
    kept.override(stated)
    return Carried(kept, None, metadata, name)


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
