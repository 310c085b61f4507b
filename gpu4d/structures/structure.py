"""Hold a crystal structure: its cell, symmetry and atoms. Structure factors and symmetry are computed by gemmi."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gpu4d.data.storable import Storable
from gpu4d.errors import InputError, did_you_mean
from gpu4d.structures.reflections import Reflections, Rings, rings_of
from gpu4d.structures.standards import STANDARDS

MOST_REFLECTIONS = 200_000  # of a large cell; gemmi computes about 1e5 structure factors of a few atoms in a second


def gemmi() -> ModuleType:
    """Return the library gemmi, or raise an error that says how to install it."""
    try:
        import gemmi
    except ImportError:
        raise InputError("crystal structures need gemmi: pip install 'gpu4d[crystal]'") from None
    return gemmi


@dataclass(frozen=True)
class Site(Storable, stored="u_iso u_aniso: [Å²]"):
    """An atom of the asymmetric unit.

    Attributes
    ----------
    element : str
    position : (float, float, float)
        Fractional coordinates.
    occupancy : float
        Chemical occupancy: 1 for a full site, wherever it is.
    u_iso : float
        Mean square displacement, Å².
    u_aniso : tuple of six float
        u11, u22, u33, u12, u13, u23 of the CIF, Å². If any is not 0, they count instead of `u_iso`.
    """

    element: str
    position: tuple[float, float, float]
    occupancy: float = 1.0
    u_iso: float = 0.0
    u_aniso: tuple[float, ...] = (0.0,) * 6


@dataclass(frozen=True)
class Structure(Storable):
    """A crystal structure.

    Cartesian crystal axes are those of gemmi and of the Protein Data Bank: a along x, b in the plane of x and y.

    Parameters
    ----------
    name : str
    cell : sequence of six float
        a, b, c in Å, then alpha, beta, gamma in degrees.
    space_group : str or int
        Hermann–Mauguin symbol such as "F m -3 m", or number.
    sites : sequence of Site
        Atoms of the asymmetric unit.
    source : str
        Where cell and atoms come from.

    Raises
    ------
    InputError
        The cell is no cell, the space group or an element is not known, the lengths and angles do not have the symmetry of the space
        group, or gemmi is not installed.

    Examples
    --------
    >>> gold = Structure.standard("Au")
    >>> gold
    Structure('Au', F m -3 m, a 4.0786, b 4.0786, c 4.0786 Å, 90, 90, 90°)
    >>> gold.rings(0.6).hkl.tolist()
    [[1, 1, 1], [2, 0, 0]]
    """

    name: str
    cell: tuple[float, ...]
    space_group: str | int
    sites: tuple[Site, ...]
    source: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        library = gemmi()
        object.__setattr__(self, "cell", _six_numbers(self.cell))
        object.__setattr__(self, "sites", tuple(self.sites))
        group = library.find_spacegroup_by_number(self.space_group) if isinstance(self.space_group, int) else None
        group = group or library.find_spacegroup_by_name(str(self.space_group))
        if group is None:
            raise InputError(f"space_group={self.space_group!r} is not known: need a symbol such as 'F m -3 m', or a number")
        object.__setattr__(self, "space_group", group.xhm())
        if not library.UnitCell(*self.cell).is_compatible_with_spacegroup(group, 0.01):
            raise InputError(
                f"the cell {_cell_text(self.cell)} does not have the symmetry of {group.xhm()}: give the cell or the space group that fits"
            )
        if not self.sites:
            raise InputError(f"{self.name} has no atoms: need at least one Site")
        for site in self.sites:
            if library.Element(site.element).atomic_number == 0:
                raise InputError(f"element={site.element!r} is not known: need a chemical symbol such as 'Au'")

    def __repr__(self) -> str:
        return f"Structure({self.name!r}, {self.space_group}, {_cell_text(self.cell)})"

    @classmethod
    def standard(cls, name: str) -> Structure:
        """Return a crystal of the table `gpu4d.structures.STANDARDS`, such as "Au", "Si" or "graphite". Capitals do not matter.

        Its `source` says where the lattice constants come from. Atoms do not vibrate (u_iso = 0).

        Raises
        ------
        InputError
            The table has no such name.

        Examples
        --------
        >>> Structure.standard("Si").source
        'CODATA 2018, 22.5 °C, in vacuum'
        """
        names = {known.lower(): known for known in STANDARDS}
        given, name = name, names.get(str(name).lower(), "")
        if not name:
            near = did_you_mean(str(given), STANDARDS)
            raise InputError(f"no standard is called {given!r}{near}: need one of {', '.join(STANDARDS)}, or a CIF file")
        entry = STANDARDS[name]
        return cls(name, entry.cell, entry.space_group, tuple(Site(*site) for site in entry.sites), entry.source)

    @classmethod
    def read_cif(cls, path: str | os.PathLike[str], name: str | None = None) -> Structure:
        """Read a structure from a CIF file: cell, space group, and atoms with occupancies and displacements.

        Parameters
        ----------
        path : path
        name : str, optional
            None: the name of the file without its ending.

        Raises
        ------
        InputError
            The file is absent, is no CIF, or has no cell, space group or atoms.
        """
        place = Path(path)
        if not place.is_file():
            raise InputError(f"{place} is no file: need a CIF file, or a name of a standard ({', '.join(STANDARDS)})")
        try:
            small = gemmi().read_small_structure(str(place))
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{place} cannot be read as a CIF file: {error}") from None
        group = small.spacegroup or gemmi().find_spacegroup_by_name(small.spacegroup_hm, small.cell.alpha, small.cell.gamma)
        lacking = [word for word, there in (("cell", small.cell.a > 1), ("space group", group), ("atoms", len(small.sites))) if not there]
        if lacking:
            raise InputError(f"{place} has no {' and no '.join(lacking)}: need a CIF file of a crystal structure")
        sites = tuple(_site(site) for site in small.sites)
        return cls(name or place.stem, tuple(small.cell.parameters), group.xhm(), sites, f"CIF file {place.name}")

    @functools.cached_property
    def basis(self) -> np.ndarray:
        """Return the reciprocal vectors a*, b*, c* as rows of a (3, 3) array, 1/Å: g = h a* + k b* + l c* is `hkl @ basis`."""
        return np.array(self._unit_cell.frac.mat.tolist())

    @functools.cached_property
    def rotations(self) -> np.ndarray:
        """Return the proper rotations of the Laue group, in cartesian crystal axes, (m, 3, 3): 24 for m-3m, 1 for -1. Identity first."""
        turns = np.array([op.rot for op in self._group.operations().sym_ops], np.float64) / self._group.operations().sym_ops[0].DEN
        orthogonal = np.linalg.inv(self.basis) @ turns @ self.basis
        proper = np.unique((orthogonal * np.linalg.det(orthogonal)[:, None, None]).round(9) + 0.0, axis=0)
        first = np.argsort([np.abs(turn - np.eye(3)).max() > 1e-6 for turn in proper], kind="stable")
        return proper[first]

    @property
    def laue_group(self) -> str:
        """Return the symbol of the Laue group, for example "m-3m"."""
        return str(self._group.laue_str())

    @property
    def volume(self) -> float:
        """Return the volume of the cell, Å³."""
        return float(self._unit_cell.volume)

    def reflections(self, g_max: float, *, g_min: float = 0.0, least: float = 1e-6) -> Reflections:
        """Return all reflections up to a length, with structure factors for electrons.

        F(g) = Σ f(s) o exp(-2π² ⟨(u·g)²⟩) exp(2πi g·r) over the atoms of the cell, with the electron scattering factors f of gemmi
        (International Tables C, table 4.3.2.2: five Gaussians up to s = |g|/2 = 2 1/Å).

        Parameters
        ----------
        g_max : float
            Largest |g|, 1/Å.
        g_min : float
            Smallest |g|, 1/Å. The unscattered beam (|g| = 0) is never in the list.
        least : float
            Reflections with |F|² below this part of the largest are left out: those that symmetry or chance forbids.

        Raises
        ------
        InputError
            Limits without room for a reflection, or more than 200 000 reflections.
        """
        if not 0 <= g_min < g_max:
            raise InputError(f"g_min={g_min!r}, g_max={g_max!r}: need 0 <= g_min < g_max, in 1/Å")
        if 4.19 * g_max**3 * self.volume > MOST_REFLECTIONS:
            raise InputError(f"g_max={g_max:g} 1/Å gives more than {MOST_REFLECTIONS} reflections of {self.name}: need a smaller g_max")
        hkl = gemmi().make_miller_array(self._unit_cell, gemmi().SpaceGroup(1), 1 / g_max, 1 / g_min if g_min > 0 else 0.0, unique=True)
        hkl = np.array(hkl, np.int64).reshape(-1, 3)
        hkl = hkl[~self._group.operations().systematic_absences(hkl.astype(np.int32))] if len(hkl) else hkl
        small = self._small
        calculator = gemmi().StructureFactorCalculatorE(small.cell)  # its symmetry mates count, so not the bare cell
        factor = np.array([calculator.calculate_sf_from_small_structure(small, one) for one in hkl.tolist()], np.complex128)
        hkl, factor = np.concatenate([hkl, -hkl]), np.concatenate([factor, factor.conj()])
        strength = np.abs(factor) ** 2
        keep = strength >= least * strength.max(initial=0.0)
        hkl, factor = hkl[keep], factor[keep]
        g = hkl @ self.basis
        order = np.lexsort((*hkl.T, np.linalg.norm(g, axis=-1).round(9)))
        return Reflections(hkl[order], g[order], factor[order])

    def rings(self, g_max: float, *, g_min: float = 0.0, least: float = 1e-6) -> Rings:
        """Return the powder rings up to a radius. Parameters are those of `reflections`."""
        return rings_of(self.reflections(g_max, g_min=g_min, least=least))

    @functools.cached_property
    def _unit_cell(self) -> Any:
        return gemmi().UnitCell(*self.cell)

    @property
    def _group(self) -> Any:
        return gemmi().find_spacegroup_by_name(self.space_group)

    @property
    def _small(self) -> Any:
        """Return the structure in gemmi's form, with its symmetry mates."""
        small = gemmi().SmallStructure()
        small.cell, small.spacegroup = gemmi().UnitCell(*self.cell), self._group
        for site in self.sites:
            small.add_site(_gemmi_site(site))
        small.setup_cell_images()
        small.change_occupancies_to_crystallographic()
        return small

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is computed, since gemmi's objects cannot be pickled."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def _site(site: Any) -> Site:
    tensor = tuple(float(getattr(site.aniso, name)) for name in ("u11", "u22", "u33", "u12", "u13", "u23"))
    return Site(site.element.name, tuple(site.fract.tolist()), float(site.occ), float(site.u_iso), tensor)


def _gemmi_site(site: Site) -> Any:
    library = gemmi()
    made = library.SmallStructure.Site()
    made.label = made.type_symbol = site.element
    made.element, made.fract = library.Element(site.element), library.Fractional(*site.position)
    made.occ, made.u_iso = site.occupancy, site.u_iso
    made.aniso = library.SMat33d(*site.u_aniso)
    return made


def _six_numbers(cell: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in cell)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 6 or not min(numbers) > 0 or max(numbers[3:]) >= 180:
        raise InputError(f"cell={cell!r}: need a, b, c in Å and alpha, beta, gamma in degrees")
    return numbers


def _cell_text(cell: tuple[float, ...]) -> str:
    lengths = ", ".join(f"{name} {value:g}" for name, value in zip("abc", cell))
    return f"{lengths} Å, {', '.join(f'{value:g}' for value in cell[3:])}°"
