"""Map what a simulator calls its truth to the names of result files, with axes and signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from gpu4d.io.sources.links import dataset_at, names
from gpu4d.workflow.comparing.quantity import CONSTANT, CURVE, LABEL, ROTATION, VALUE, Quantity

GROUP = "truth"  # of a file with a simulated scan
COLUMNS = ("x=col", "scan_col=x", "vectors given as (x=col")  # in its attribute `axes`: x is the second axis, as nowhere in gpu4d

Change = Callable[[np.ndarray], np.ndarray]


class Known(NamedTuple):
    """What one dataset of a truth is in a result."""

    name: str
    unit: str = ""
    kind: str = VALUE
    change: Change | None = None


def _minus(values: np.ndarray) -> np.ndarray:
    return -values


def _per_angstrom(values: np.ndarray) -> np.ndarray:
    return values / 10


MAPS = {  # (Rx, Ry) in x-first axes
    **{f"{prefix}{part}": Known(f"strain/e_{part}", "1") for prefix in ("", "e_") for part in ("xx", "yy", "xy")},
    **{f"e{part}": Known(f"strain/e_{part}", "1") for part in ("xx", "yy", "xy")},
    "theta": Known("strain/theta", "rad"),
    "theta_rad": Known("strain/theta", "rad"),
    "rotation_rad": Known("strain/theta", "rad", VALUE, _minus),
    "phase_conv": Known("dpc_phase", "rad", CONSTANT),
    "phase_conv_probe_intensity_rad": Known("dpc_phase", "rad", CONSTANT),
    "phase_lowpass_2alpha_rad": Known("ssb_phase", "rad", CONSTANT),
    "label": Known("class_label", "", LABEL),
}
VECTORS = {  # (Rx, Ry, 2), along x and y
    "com_noisefree_1_per_A": (Known("dpc_com/com_x", "1/Å", CONSTANT), Known("dpc_com/com_y", "1/Å", CONSTANT)),
    "E_t_V": (Known("dpc_field/E_x t", "V"), Known("dpc_field/E_y t", "V")),
    "E_probe_averaged_V_per_nm": tuple(Known(f"dpc_field/E_{a}", "V/Å", VALUE, _per_angstrom) for a in "xy"),
    "origin_px": (Known("origin/qx", "px"), Known("origin/qy", "px")),
}
CURVES = {  # dataset: (where it was taken, what it is)
    "S_k": ("k_1_per_A", Known("structure_factor/structure_factor", "1", CURVE)),
    "g_total_at_k08": ("r_A", Known("pair_distribution/pair_distribution", "1", CURVE)),
}
ROTATIONS = {"rotation": Known("orientation_matrices", "", ROTATION)}
OF_GLASS = "first_ring_k_1_per_A"  # attribute of a glass, whose strain is another result and which shows no rotation


def has_truth(file: h5py.File) -> bool:
    """Say whether a file has a group of this name."""
    return isinstance(file.get(GROUP), h5py.Group)


def truth_quantities(file: h5py.File) -> list[Quantity]:
    """Return the quantities of a truth under the names of results.

    Datasets that are not in the tables keep their own names, and are compared if a result has the same. If the file's attribute `axes`
    says that x is the column, components and vectors are exchanged: in gpu4d x is the first axis.
    """
    columns = any(mark in str(file.attrs.get("axes", "")) for mark in COLUMNS)
    glass = OF_GLASS in file.attrs
    group = file[GROUP]
    found: dict[str, Quantity] = {}
    for name in names(group):
        held = dataset_at(group, name)
        if held is None or held.dtype.kind not in "biuf" or held.size == 0:
            continue
        for one in _quantities(group, name, np.asarray(held[()]), columns):
            own = one.name.replace("strain/", "amorphous_strain/") if glass else one.name
            if not (glass and own.endswith("theta")):
                found[own] = Quantity(own, one.values, one.unit, one.kind, one.errors, one.at)
    return list(found.values())


def _quantities(group: Any, name: str, values: np.ndarray, columns: bool) -> Iterator[Quantity]:
    """Return what one dataset is."""
    if name in CURVES and values.ndim == 1:
        place, known = CURVES[name]
        at = dataset_at(group, place)
        if at is not None:
            yield Quantity(known.name, values.astype(np.float64), known.unit, CURVE, None, np.asarray(at[()], np.float64))
    elif name in VECTORS and values.ndim == 3 and values.shape[-1] == 2:
        for i, known in enumerate(VECTORS[name]):
            yield _made(known, values[..., 1 - i if columns else i])
    elif name in ROTATIONS and values.ndim == 4:
        yield _made(ROTATIONS[name], values)
    elif name == "rotation" and values.ndim == 2:
        yield _made(MAPS["rotation_rad"], values)
    elif name in MAPS and values.ndim == 2:
        known = MAPS[name]
        swapped = {"strain/e_xx": "strain/e_yy", "strain/e_yy": "strain/e_xx"}.get(known.name, known.name) if columns else known.name
        yield _made(known._replace(name=swapped), values)
    else:
        yield Quantity(name, values.astype(np.float64))


def _made(known: Known, values: np.ndarray) -> Quantity:
    held = values.astype(np.float64)
    return Quantity(known.name, held if known.change is None else known.change(held), known.unit, known.kind)
