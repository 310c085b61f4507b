"""Read calibration and metadata of zarr stores: those of gpu4d, HyperSpy and abTEM; attributes of others are passed on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Shape4
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.formats import carried
from gpu4d.io.sources.layout import kept_axes
from gpu4d.io.sources.zarr_array import ZarrArray
from gpu4d.io.sources.zarr_store import MOST_DEPTH, Store
from gpu4d.io.units import detector_pixel, log, scan_step
from gpu4d.io.writing import hyperspy

AttributesOf = Callable[[Store, str], dict[str, Any]]
Axis = tuple[Any, str]  # step, units
HYPERSPY = "Experiments"
MOST_GROUPS = 10_000  # of metadata
UNEVEN = 0.01  # relative difference of the steps of two axes from which on a common one is not known


def described(
    store: Store, array: ZarrArray, shape: Shape4, energy: float | None, attributes_of: AttributesOf
) -> tuple[Calibration, dict[str, Any], str, np.ndarray | None]:
    """Return calibration, metadata, name and detector mask of a scan.

    Parameters
    ----------
    energy : float or None
        Beam energy in eV, if the caller knows it. It converts angles into 1/Å.
    attributes_of : callable (store, key) -> dict
    """
    parts, above = _above(store, array, attributes_of)
    metadata: dict[str, Any] = {"attributes": {f"/{key}": held for key, held in above.items() if held}}
    name = parts[-1] if parts else os.path.splitext(os.path.basename(store.path))[0]
    if parts and parts[-1] in ("data", "datacube") and len(parts) > 1:
        name = parts[-2]
    known = carried.opened(_carried(store, array, above, attributes_of), shape, shown(store.path))
    if known is not None:
        return known[0], {**metadata, **known[1]}, *known[2:]
    c = Calibration()
    try:
        if parts[:1] == [HYPERSPY] and len(parts) == 3:
            _hyperspy(c, store, array, energy, attributes_of, metadata)
        elif parts and parts[-1].startswith("array"):
            _abtem(c, above["/".join(parts[:-1])].get("metadata" + parts[-1].removeprefix("array")), energy)
    except FOREIGN as error:
        log.warning("%s: its calibration is left out: %s", shown(store.path), reason(error))
    return c, metadata, name, None


def is_converted(store: Store, array: ZarrArray, attributes_of: AttributesOf) -> bool:
    """Say whether `gpu4d convert` wrote an array, with the shape that it has now."""
    found = _carried(store, array, _above(store, array, attributes_of)[1], attributes_of)
    return isinstance(found, Mapping) and found.get("shape") == list(array.shape)


def _above(store: Store, array: ZarrArray, attributes_of: AttributesOf) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the parts of the key of an array, and the attributes of all groups above it and of itself."""
    parts = array.key.split("/") if array.key else []
    return parts, {key: attributes_of(store, key) for key in ("/".join(parts[:n]) for n in range(len(parts) + 1))}


def _carried(store: Store, array: ZarrArray, above: Mapping[str, Any], attributes_of: AttributesOf) -> Any:
    """Return what `gpu4d convert` wrote of a scan: among the attributes of its array, or in HyperSpy's metadata."""
    held = above[array.key]
    if carried.MARK in held:
        return held[carried.MARK]
    signal = array.key.rpartition("/")[0]
    if signal not in above or hyperspy.WRITER not in above[signal]:
        return None
    text = attributes_of(store, f"{signal}/{hyperspy.OURS}".strip("/")).get("json")
    return carried.read_text(text) if isinstance(text, str) else None


def _hyperspy(c: Calibration, store: Store, array: ZarrArray, energy: float | None, attributes_of: AttributesOf, metadata: dict) -> None:
    """Read the axes and the microscope of a HyperSpy signal."""
    above = array.key.rpartition("/")[0]
    for name in ("metadata", "original_metadata"):
        metadata[name] = _tree(store, f"{above}/{name}", attributes_of)
    axes = [attributes_of(store, f"{above}/axis-{n}") for n in range(len(array.shape))]
    metadata["axes"] = axes
    microscope = _inside(metadata["metadata"], "Acquisition_instrument", "TEM")
    set_beam(c, _times(microscope.get("beam_energy"), 1e3), microscope.get("convergence_angle"), "HyperSpy's metadata in the file")
    kept = [axes[axis] for axis in kept_axes(array.shape)]
    set_steps(c, [(axis.get("scale"), str(axis.get("units"))) for axis in kept], c.energy or energy)


def _tree(store: Store, key: str, attributes_of: AttributesOf) -> dict[str, Any]:
    """Return the attributes of a group and of the groups in it, as one dictionary."""
    root: dict[str, Any] = {}
    waiting, seen = [(key, root, 0)], 0
    while waiting:
        key, into, depth = waiting.pop()
        into.update(attributes_of(store, key))
        seen += 1
        for name in store.groups(key) if depth < MOST_DEPTH and seen < MOST_GROUPS and store.locate(f"{key}/.zgroup") else ():
            inner: dict[str, Any] = {}
            if store.locate(f"{key}/{name}/.zarray"):
                into.setdefault(name, f"array in the file: /{key}/{name}")
                continue
            into.setdefault(name, inner)
            waiting.append((f"{key}/{name}", inner, depth + 1))
    return root


def _abtem(c: Calibration, held: Any, energy: float | None) -> None:
    """Read what abTEM says of its diffraction patterns."""
    held = held if isinstance(held, Mapping) else {}
    how = "abTEM's metadata in the file"
    set_beam(c, _times(held.get("energy"), 1.0), held.get("semiangle_cutoff"), how)
    stated = held.get("axes")
    axes = [stated.get(f"axis_{n}", {}) for n in range(len(stated))] if isinstance(stated, Mapping) else []
    if len(axes) != 4 or not all(isinstance(axis, Mapping) for axis in axes):
        return
    set_steps(c, [(axis.get("sampling"), str(axis.get("units"))) for axis in axes], c.energy or energy)
    first = [(axis.get("offset"), axis.get("sampling")) for axis in axes[2:]]
    if all(isinstance(n, int | float) and np.isfinite(n) for pair in first for n in pair) and all(step > 0 for _, step in first):
        c.set(origin=[-offset / step for offset, step in first], how=how)


# ---------------------------------------------------------------- common to all


def set_beam(c: Calibration, energy: float | None, semiangle: Any, how: str) -> None:
    """Set energy in eV and semi-angle in mrad, where they are numbers that can be."""
    for field, value in (("energy", energy), ("semiangle", semiangle)):
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            try:
                c.set(**{field: float(value)}, how=how)  # type: ignore[arg-type]
            except (ValueError, ArithmeticError) as error:
                log.warning("the file's %s is left out: %s", field, error)


def set_steps(c: Calibration, axes: list[Axis], energy: float | None) -> None:
    """Set scan step and detector pixel from the steps of the axes, the last two of which are those of the detector."""
    for field, both in (("r_pixel", axes[:-2]), ("q_pixel", axes[-2:])):
        known = [v for step, units in both if (v := scan_step(step, units) if field == "r_pixel" else detector_pixel(step, units, energy))]
        if len(known) == 2 and abs(known[0] - known[1]) > UNEVEN * known[0]:
            log.warning("the file's axes have different steps (%g and %g): %s stays unknown", *known, field)
        elif known:
            c.set(**{field: float(np.mean(known))}, how="units of the axes in the file")  # type: ignore[arg-type]


def _times(value: Any, factor: float) -> float | None:
    return float(value) * factor if isinstance(value, int | float) and not isinstance(value, bool) else None


def _inside(tree: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        below = tree.get(name)
        tree = below if isinstance(below, Mapping) else {}
    return tree
