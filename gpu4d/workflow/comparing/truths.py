"""Map what a simulator calls its truth to the names of result files, with axes and signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import h5py
import numpy as np

from gpu4d.io.sources.links import dataset_at, names
from gpu4d.workflow.comparing.quantity import CONSTANT, CURVE, LABEL, OBJECT, ROTATION, SHARE, VALUE, Quantity
from gpu4d.workflow.comparing.results import ellipse_quantities

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


MAPS = {  # (Rx, Ry) in x-first axes
    **{f"{prefix}{part}": (Known(f"strain/e_{part}", "1"),) for prefix in ("", "e_") for part in ("xx", "yy", "xy")},
    **{f"e{part}": (Known(f"strain/e_{part}", "1"),) for part in ("xx", "yy", "xy")},
    "theta": (Known("strain/theta", "rad"),),
    "theta_rad": (Known("strain/theta", "rad"),),
    "rotation_rad": (Known("strain/theta", "rad", VALUE, _minus),),
    "phase_conv": (Known("dpc_phase", "rad", CONSTANT),),
    "phase_conv_probe_intensity_rad": (Known("dpc_phase", "rad", CONSTANT),),
    "phase_total_conv_probe_rad": (Known("dpc_phase", "rad", CONSTANT),),
    "phase_lowpass_2alpha_rad": (Known("ssb_phase", "rad", CONSTANT), Known("wdd_phase", "rad", CONSTANT)),
    "projected_potential_V_nm": (Known("dpc_potential", "V nm", CONSTANT),),
    "label": (Known("class_label", "", LABEL),),
}
VECTORS = {  # (Rx, Ry, 2), along x and y
    "com_noisefree_1_per_A": (Known("dpc_com/com_x", "1/Å", CONSTANT), Known("dpc_com/com_y", "1/Å", CONSTANT)),
    "E_t_V": (Known("dpc_field/E_x t", "V"), Known("dpc_field/E_y t", "V")),
    "E_probe_averaged_V_per_nm": (Known("dpc_field/E_x", "V/nm"), Known("dpc_field/E_y", "V/nm")),
    "Bt_probe_averaged_T_nm": (Known("induction/Bx_t", "T nm", CONSTANT), Known("induction/By_t", "T nm", CONSTANT)),
    "k_electric_1_per_A": (Known("electric_momentum/k_x", "1/Å", CONSTANT), Known("electric_momentum/k_y", "1/Å", CONSTANT)),
    "positions_A": (Known("positions/x", "Å", CONSTANT), Known("positions/y", "Å", CONSTANT)),
    "origin_px": (Known("origin/qx", "px"), Known("origin/qy", "px")),
}
CURVES = {  # dataset: (where it was taken, what that is divided by to be in 1/Å or Å, what it is)
    "S_k": ("k_1_per_A", 1.0, Known("structure_factor/structure_factor", "1", CURVE)),
    "S_Q": ("Q_rad_per_A", 2 * np.pi, Known("structure_factor/structure_factor", "1", CURVE)),
    "g_total_at_k08": ("r_A", 1.0, Known("pair_distribution/pair_distribution", "1", CURVE)),
    "g_r": ("r_A", 1.0, Known("pair_distribution/pair_distribution", "1", CURVE)),
}
ROTATIONS = {"rotation": Known("orientation_matrices", "", ROTATION)}
FRACTIONS = "fractions"  # (Rx, Ry, n): share of each class
OBJECTS = {"object_phase_rad": Known("ptychography/phase", "rad", OBJECT)}  # (X, Y), with attributes sample_A and offset_A
GRADIENT = "F"  # (Rx, Ry, 2, 2): deformation gradient, of which strain and rotation are parts
NUMBERS = {"rotation_rad": Known("calibration/rotation", "rad"), "transpose": Known("calibration/transpose")}
ATTRIBUTES = {"detector_pixel_1_per_A": Known("calibration/q_pixel", "1/Å")}  # of the file
OF_GLASS = "first_ring_k_1_per_A"  # attribute of a glass, whose strain is another result and which shows no rotation


def has_truth(file: h5py.File) -> bool:
    """Say whether a file has a group of this name."""
    return isinstance(file.get(GROUP), h5py.Group)


def parts_of(file: h5py.File) -> list[str]:
    """Return the groups in a truth: of several scans, each has its own."""
    group = file[GROUP]
    return [name for name in names(group) if isinstance(group.get(name), h5py.Group)]


def part_of(file: h5py.File, dataset: str) -> str:
    """Return the part of a truth that belongs to a scan: "forward" to the dataset forward_poisson_20000. Empty if there is none."""
    scan = dataset.rpartition("/")[2]
    fitting = [name for name in parts_of(file) if scan == name or scan.startswith(f"{name}_")]
    return max(fitting, key=len, default="")


def truth_quantities(file: h5py.File, part: str = "", dataset: str = "") -> list[Quantity]:
    """Return the quantities of a truth under the names of results.

    Datasets that are not in the tables keep their own names, and are compared if a result has the same. If the file's attribute `axes`
    says that x is the column, components and vectors are exchanged: in gpu4d x is the first axis.

    Parameters
    ----------
    file : h5py.File
    part : str
        The group in truth/ whose quantities count beside those of truth/ itself.
    dataset : str
        Path of the scan. "plain_rotation_rad" is `rotation_rad` for a scan whose name begins with "plain_".
    """
    columns = any(mark in str(file.attrs.get("axes", "")) for mark in COLUMNS)
    glass = OF_GLASS in file.attrs
    before = f"{dataset.rpartition('/')[2].partition('_')[0]}_"
    found: dict[str, Quantity] = {}
    for group in [file[GROUP], *([file[GROUP][part]] if part else [])]:
        for name in names(group):
            held = dataset_at(group, name)
            if held is None or held.dtype.kind not in "biufc" or held.size == 0:
                continue
            for one in _quantities(group, name, name.removeprefix(before), columns):
                own = one.name.replace("strain/", "amorphous_strain/") if glass else one.name
                if not (glass and (own.endswith("theta") or name == GRADIENT)):
                    found[own] = replace(one, name=own)
    for one in _of_attributes(file, found):
        found[one.name] = one
    return list(found.values())


def _quantities(group: Any, stored: str, name: str, columns: bool) -> Iterator[Quantity]:
    """Return what one dataset is."""
    held: Any = dataset_at(group, stored)
    values = np.asarray(held[()])
    if name in CURVES and values.ndim == 1:
        place, divisor, known = CURVES[name]
        at = dataset_at(group, place)
        if at is not None:
            where = np.asarray(at[()], np.float64) / divisor
            yield Quantity(known.name, values.astype(np.float64), known.unit, CURVE, None, where)
    elif name in VECTORS and values.ndim == 3 and values.shape[-1] == 2:
        for i, known in enumerate(VECTORS[name]):
            yield _made(known, values[..., 1 - i if columns else i])
    elif name in ROTATIONS and values.ndim == 4:
        yield _made(ROTATIONS[name], values)
    elif name == GRADIENT and values.ndim == 4 and values.shape[-2:] == (2, 2) and not columns:
        yield from _of_gradient(values.astype(np.float64))
    elif name == FRACTIONS and values.ndim == 3:
        for i in range(values.shape[-1]):
            yield _made(Known(f"class_fractions/class {i}", "1", SHARE), values[..., i])
    elif name in OBJECTS and values.ndim == 2 and "sample_A" in held.attrs:
        corner = np.broadcast_to(np.asarray(held.attrs.get("offset_A", 0.0), np.float64), 2)
        made = _made(OBJECTS[name], values)
        yield replace(made, pixel=float(held.attrs["sample_A"]), corner=(float(corner[0]), float(corner[1])))
    elif name in NUMBERS and values.ndim == 0:
        yield _made(NUMBERS[name], values)
    elif name == "ellipse" and values.shape == (3,):
        yield from ellipse_quantities(*map(float, values))
    elif name == "rotation" and values.ndim == 2:
        yield from (_made(known, values) for known in MAPS["rotation_rad"])
    elif name in MAPS and values.ndim == 2:
        exchanged = {"strain/e_xx": "strain/e_yy", "strain/e_yy": "strain/e_xx"} if columns else {}
        for known in MAPS[name]:
            yield _made(known._replace(name=exchanged.get(known.name, known.name)), values)
    else:
        yield Quantity(stored, values.astype(np.complex128 if values.dtype.kind == "c" else np.float64))


def _of_gradient(gradient: np.ndarray) -> Iterator[Quantity]:
    """Return the strain U − 1 of F = R U, and θ, the angle of R from x to y with the sign of results."""
    left, stretch, right = np.linalg.svd(gradient)
    u = np.swapaxes(right, -1, -2) @ (stretch[..., None] * right)
    r = left @ right
    for part, (i, j) in (("xx", (0, 0)), ("yy", (1, 1)), ("xy", (0, 1))):
        yield Quantity(f"strain/e_{part}", u[..., i, j] - (i == j), "1")
    yield Quantity("strain/theta", -np.arctan2(r[..., 1, 0], r[..., 0, 0]), "rad")


def _of_attributes(file: h5py.File, found: Mapping[str, Quantity]) -> Iterator[Quantity]:
    """Return what follows from attributes of the file: sizes of pixels, and fields times the thickness."""
    for name, known in ATTRIBUTES.items():
        if np.ndim(file.attrs.get(name, ())) == 0 and name in file.attrs:
            yield _made(known, np.asarray(file.attrs[name]))
    thickness = file.attrs.get("thickness_nm")
    for axis in "xy":  # what a centre of mass gives is averaged over the probe: this comes before the field at the point
        field = found.get(f"dpc_field/E_{axis}")
        if field is not None and field.unit == "V/nm" and np.ndim(thickness) == 0 and thickness is not None:
            yield Quantity(f"dpc_field/E_{axis} t", field.values * float(thickness), "V")


def _made(known: Known, values: np.ndarray) -> Quantity:
    held = values.astype(np.float64)
    return Quantity(known.name, held if known.change is None else known.change(held), known.unit, known.kind)
