"""Write orientations for other programs: .ang files, and crystal maps of orix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.text_file import write_text
from gpu4d.orientation.ipf import euler_angles
from gpu4d.orientation.orientations import Orientations
from gpu4d.structures import Structure

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

# Laue group: number in .ang files (of TSL), and point group of its rotations and mirrors for orix
SYMMETRY = {
    "-1": (1, "-1"), "2/m": (2, "2/m"), "mmm": (22, "mmm"), "4/m": (4, "4/m"), "4/mmm": (42, "4/mmm"), "-3": (3, "-3"), "-3m": (32, "-3m"),
    "6/m": (6, "6/m"), "6/mmm": (62, "6/mmm"), "m-3": (23, "m-3"), "m-3m": (43, "m-3m"),
}  # fmt: skip
NOT_INDEXED = 4 * np.pi  # Euler angles of a position without orientation, as the makers of the format write it
UM = 1e-4  # µm of an Å


def save_ang(orientations: Orientations, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the main grain of each position into an .ang file, as orix, MTEX and the programs of EDAX read it.

    Columns: φ₁, Φ, φ₂ (Bunge, rad), x, y (µm), image quality (the share of the grain), confidence (margin m as 1 − exp(−m)), phase (from
    1), detector signal (0), fit (standard error, degrees). Sample axes are the lab axes of gpu4d: x the first axis of the scan, y the
    second, z = x × y along the electrons. x runs fastest, so programs that draw x to the right show the transposed map. Positions without
    an orientation have the angles 4π, phase 0 and confidence −1.

    Parameters
    ----------
    orientations : Orientations
    path : path
    overwrite : bool

    Returns
    -------
    Path

    Raises
    ------
    InputError
        The file exists, or cannot be written.
    """
    grain, shape = orientations.grain, orientations.phase.shape
    step = UM * (orientations.r_pixel or 1 / UM)
    angles = np.where(grain.found[..., None], euler_angles(grain.matrices), NOT_INDEXED)
    x, y = np.meshgrid(np.arange(shape[0]) * step, np.arange(shape[1]) * step, indexing="ij")
    sure = np.where(grain.found, 1 - np.exp(-grain.margin), -1.0)
    columns = [*np.moveaxis(angles, -1, 0), x, y, grain.share, sure, grain.phase + 1.0, 0 * x, np.degrees(grain.error)]
    rows = np.stack([np.nan_to_num(column).T.reshape(-1) for column in columns], axis=-1)  # x runs fastest
    form = "%9.5f %9.5f %9.5f %14.6f %14.6f %7.4f %7.4f %3d %6d %8.4f"
    lines = (f"{form % tuple(row)}\n" for row in rows)
    return write_text(path, _header(orientations, step) + "".join(lines), overwrite=overwrite, encoding="ascii")


def _header(orientations: Orientations, step: float) -> str:
    columns, rows = orientations.phase.shape
    lines = [
        "TEM_PIXperUM          1.000000",
        "x-star                0.000000",
        "y-star                0.000000",
        "z-star                0.000000",
    ]
    lines += ["WorkingDistance       0.000000", ""]
    for number, structure in reversed(list(enumerate(orientations.structures, 1))):
        cell = " ".join(f"{value:8.3f}" for value in structure.cell)
        lines += [f"Phase {number}", f"MaterialName  \t{structure.name}", f"Formula     \t{structure.name}", "Info \t\t"]
        lines += [
            f"Symmetry              {SYMMETRY[structure.laue_group][0]}",
            f"LatticeConstants      {cell}",
            "NumberFamilies        0",
            "",
        ]
    lines += [
        "GRID: SqrGrid",
        f"XSTEP: {step:.6f}",
        f"YSTEP: {step:.6f}",
        f"NCOLS_ODD: {columns}",
        f"NCOLS_EVEN: {columns}",
        f"NROWS: {rows}",
    ]
    lines += ["", "OPERATOR: \tgpu4d", "", "SAMPLEID: \t", "", "SCANID: \t", ""]
    return "".join(f"# {line}\n" for line in lines)


def to_orix(orientations: Orientations) -> CrystalMap:
    """Return the main grain of each position as an `orix.crystal_map.CrystalMap`.

    orix describes an orientation by the rotation from sample to crystal axes, which is Rᵀ. `x` and `y` of the map are lab x and y, as in
    the .ang files of `save_ang`, so orix draws the map transposed, x to the right. Properties: share, margin, correlation, error (rad).
    Positions without an orientation are not indexed (phase −1). orix is under the GPL, so it is not installed with gpu4d.

    Parameters
    ----------
    orientations : Orientations

    Returns
    -------
    orix.crystal_map.CrystalMap

    Raises
    ------
    InputError
        orix is not installed.
    """
    try:
        from orix.crystal_map import CrystalMap, Phase, PhaseList
        from orix.quaternion import Rotation
    except ImportError:
        raise InputError("this needs orix: pip install orix") from None
    grain = orientations.grain
    turns = np.where(grain.found[..., None, None], np.swapaxes(grain.matrices, -1, -2), np.eye(3))
    turns = np.swapaxes(turns, 0, 1).reshape(-1, 3, 3)  # x runs fastest
    y, x = np.indices(grain.phase.shape[::-1])
    size = orientations.r_pixel or 1.0
    phases = PhaseList({number: _phase(Phase, structure) for number, structure in enumerate(orientations.structures)})
    finite = lambda a: np.nan_to_num(a, nan=0.0, posinf=1e9).T.reshape(-1)  # noqa: E731
    return CrystalMap(
        rotations=Rotation.from_matrix(turns), phase_id=grain.phase.T.reshape(-1), x=x.reshape(-1) * size, y=y.reshape(-1) * size,
        phase_list=phases, scan_unit="px" if orientations.r_pixel is None else "Å",
        prop={name: finite(getattr(grain, name)) for name in ("share", "margin", "correlation", "error")},
    )  # fmt: skip


def _phase(make: Any, structure: Structure) -> Any:
    from diffpy.structure import Lattice
    from diffpy.structure import Structure as Cell

    return make(name=structure.name, point_group=SYMMETRY[structure.laue_group][1], structure=Cell(lattice=Lattice(*structure.cell)))
