"""Crystal structures from ASE's atoms, and back. ASE (LGPL) is imported when atoms are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.interop.libraries import is_of, library, refused
from gpu4d.structures.structure import Site, Structure, gemmi

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["from_ase", "to_ase"]

NEAR = 0.02  # Å, at most, between an atom and the place where symmetry puts it


def __dir__() -> list[str]:
    return list(__all__)


def from_ase(atoms: Atoms, *, name: str | None = None, space_group: str | int | None = None) -> Structure:
    """Return the atoms of a periodic cell as a crystal structure.

    Fractional coordinates are kept. The cell stands as gpu4d has it, a along x and b in the plane of x and y, whatever its
    orientation in `atoms`.

    Parameters
    ----------
    atoms : ase.Atoms
        Of one cell with three lattice vectors.
    name : str, optional
        None: the one that `to_ase` noted, else the chemical formula.
    space_group : str or int, optional
        Symbol or number. The atoms must have this symmetry, in this setting of the cell. None: the space group that `to_ase` or
        `ase.spacegroup.crystal` noted, if the atoms still have it, else "P 1": correct structure factors, but orientations and colours
        do not know the symmetry.

    Returns
    -------
    Structure
        With the atoms that symmetry does not make from others.

    Raises
    ------
    InputError
        No cell, sites that are partly occupied (read the CIF file by `gpu4d.structures.Structure.read_cif`), or atoms that
        do not have the symmetry.

    Examples
    --------
    >>> from ase.build import bulk  # doctest: +SKIP
    >>> from_ase(bulk("Au", cubic=True), space_group="F m -3 m")  # doctest: +SKIP
    Structure('Au4', F m -3 m, a 4.0800, b 4.0800, c 4.0800 Å, 90, 90, 90°)
    """
    if not is_of(atoms, "ase", "Atoms"):
        raise refused(atoms, "atoms", "Atoms of ASE")
    if atoms.cell.rank != 3:
        raise InputError(f"the atoms have {atoms.cell.rank} lattice vectors: need a cell with three, as of a crystal")
    if any(value < 1 for site in (atoms.info.get("occupancy") or {}).values() for value in site.values()):
        raise InputError("sites of the atoms are partly occupied: read the CIF file by gpu4d.structures.Structure.read_cif")
    cell = tuple(float(n) for n in atoms.cell.cellpar())
    elements, places = list(atoms.get_chemical_symbols()), np.asarray(atoms.get_scaled_positions(), np.float64)
    noted = atoms.info.get("space_group") or getattr(atoms.info.get("spacegroup"), "no", None)
    group = space_group if space_group is not None else noted
    sites = tuple(Site(element, tuple(place.tolist())) for element, place in zip(elements, places))
    title = name or str(atoms.info.get("name") or atoms.get_chemical_formula())
    without = Structure(title, cell, "P 1", sites, "atoms of ASE")
    if group is None:
        return without
    try:
        whole = Structure(title, cell, group, sites, "atoms of ASE")  # refuses a cell that does not have the symmetry
    except InputError:
        if space_group is not None:
            raise
        return without  # the cell was changed since the space group was noted
    unique = _asymmetric(elements, places, whole, required=space_group is not None)
    return Structure(title, cell, group, unique, "atoms of ASE") if unique else without


def to_ase(structure: Structure) -> Atoms:
    """Return all atoms of a cell, for ASE and through it for abTEM.

    Parameters
    ----------
    structure : Structure

    Returns
    -------
    ase.Atoms
        Periodic, a along x. ``info`` has name, space group and source. Displacements are not part of ASE's atoms.

    Raises
    ------
    InputError
        ASE is not installed, or a site is partly occupied, which `ase.Atoms` cannot hold.

    Examples
    --------
    >>> from gpu4d.structures import Structure
    >>> len(to_ase(Structure.standard("Si")))  # doctest: +SKIP
    8
    """
    if not isinstance(structure, Structure):
        raise refused(structure, "structure", "a Structure of gpu4d.structures")
    ase = library("ase", "to_ase", "ASE", "ase")
    partly = [site.element for site in structure.sites if site.occupancy < 1]
    if partly:
        raise InputError(f"{structure.name} has partly occupied sites ({', '.join(sorted(set(partly)))}): ASE's atoms are whole")
    sites = structure._small.get_all_unit_cell_sites()
    info = {"name": structure.name, "space_group": structure.space_group, "source": structure.source}
    return ase.Atoms(
        [site.element.name for site in sites],
        scaled_positions=[site.fract.tolist() for site in sites],
        cell=list(structure.cell),
        pbc=True,
        info=info,
    )


def _asymmetric(elements: list[str], places: np.ndarray, structure: Structure, required: bool) -> tuple[Site, ...]:
    """Return one atom of each orbit of the space group. Without them all being there: an error, or nothing."""
    lattice = np.linalg.inv(structure.basis).T  # rows are a, b, c
    operations = list(gemmi().find_spacegroup_by_name(structure.space_group).operations())
    left, kept = set(range(len(places))), []
    while left:
        first = min(left)
        kept.append(Site(elements[first], tuple(places[first].tolist())))
        orbit = {_atom_at(np.array(op.apply_to_xyz(places[first].tolist())), places, lattice) for op in operations}
        if None in orbit or any(elements[i] != elements[first] for i in orbit if i is not None):
            if not required:
                return ()
            where = ", ".join(f"{n:.3f}" for n in places[first])
            raise InputError(f"the atoms do not have the symmetry {structure.space_group}: {elements[first]} at ({where}) lacks its images")
        left -= orbit  # type: ignore[operator]
    return tuple(kept)


def _atom_at(place: np.ndarray, places: np.ndarray, lattice: np.ndarray) -> int | None:
    """Return the number of the atom at a fractional place; None if there is none."""
    apart: Any = places - place
    distance = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1)
    nearest = int(distance.argmin())
    return nearest if distance[nearest] < NEAR else None
