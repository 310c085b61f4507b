"""List crystals whose lattice constants are well known, with the source of each value.

Lattice constants are in Å at room temperature. Positions of atoms are those of the structure type.

All values but those of Ni, Pd, graphite and TlCl were compared with the tables of xrayutilities 1.8.0: they
agree within 3e-4. The largest differences are Pt (3.9242 there), Ag (4.0853) and W (3.1652). Measured values
scatter by as much, so a pixel size has such an uncertainty beside its error.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpu4d.data.storable import Storable

Sites = tuple[tuple[str, tuple[float, float, float]], ...]

SWANSON = "Swanson & Tatge (1953), NBS Circular 539"
FCC, BCC, DIAMOND = "F m -3 m", "I m -3 m", "F d -3 m:1"
CUBE = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Standard(Storable):
    """A crystal of the table.

    Attributes
    ----------
    cell : tuple of float
        a, b, c in Å, then alpha, beta, gamma in degrees.
    space_group : str
        Hermann–Mauguin symbol.
    sites : tuple of (str, (x, y, z))
        Element and fractional position of each atom of the asymmetric unit.
    source : str
        Where the lattice constants come from.
    """

    cell: tuple[float, float, float, float, float, float]
    space_group: str
    sites: Sites
    source: str


def _cubic(a: float, space_group: str, sites: Sites, source: str) -> Standard:
    return Standard((a, a, a, 90.0, 90.0, 90.0), space_group, sites, source)


def _element(symbol: str, a: float, space_group: str, source: str) -> Standard:
    return _cubic(a, space_group, ((symbol, CUBE),), source)


def _two(first: str, second: str, at: float, a: float, space_group: str, source: str) -> Standard:
    return _cubic(a, space_group, ((first, CUBE), (second, (at, at, at))), source)


_CARBON: Sites = (("C", (0.0, 0.0, 0.25)), ("C", (1 / 3, 2 / 3, 0.25)))
_BORIDE: Sites = (("La", CUBE), ("B", (0.1993, 0.5, 0.5)))
_PEROVSKITE: Sites = (("Sr", CUBE), ("Ti", (0.5, 0.5, 0.5)), ("O", (0.5, 0.5, 0.0)))

STANDARDS: dict[str, Standard] = {
    "Au": _element("Au", 4.0786, FCC, f"{SWANSON} I, 33; PDF 4-784, 26 °C"),
    "Ag": _element("Ag", 4.0862, FCC, f"{SWANSON} I, 23; PDF 4-783, 26 °C"),
    "Al": _element("Al", 4.0494, FCC, f"{SWANSON} I, 11; PDF 4-787, 25 °C"),
    "Cu": _element("Cu", 3.6150, FCC, f"{SWANSON} I, 15; PDF 4-836, 26 °C"),
    "Ni": _element("Ni", 3.5238, FCC, f"{SWANSON} I, 13; PDF 4-850, 26 °C"),
    "Pd": _element("Pd", 3.8898, FCC, f"{SWANSON} I, 21; PDF 5-681, 25 °C"),
    "Pt": _element("Pt", 3.9231, FCC, f"{SWANSON} I, 31; PDF 4-802, 25 °C"),
    "Fe": _element("Fe", 2.8664, BCC, f"{SWANSON} IV, 3; PDF 6-696, 25 °C"),
    "W": _element("W", 3.1648, BCC, f"{SWANSON} I, 28; PDF 4-806, 25 °C"),
    "Si": _element("Si", 5.431020511, DIAMOND, "CODATA 2018, 22.5 °C, in vacuum"),
    "Ge": _element("Ge", 5.6576, DIAMOND, f"{SWANSON} I, 18; PDF 4-545, 25 °C"),
    "diamond": _element("C", 3.5667, DIAMOND, f"{SWANSON} II, 5; PDF 6-675, 25 °C"),
    "graphite": Standard(
        (2.464, 2.464, 6.711, 90.0, 90.0, 120.0),
        "P 63/m m c",
        _CARBON,
        "Trucano & Chen (1975), Nature 258, 136: 2.464(2), 6.711(4)",
    ),
    "MgO": _two("Mg", "O", 0.5, 4.2112, FCC, "PDF 45-946, 25 °C"),
    "NaCl": _two("Na", "Cl", 0.5, 5.6402, FCC, f"{SWANSON} II, 41; PDF 5-628, 26 °C"),
    "GaAs": _two("Ga", "As", 0.25, 5.6533, "F -4 3 m", "Blakemore (1982), J. Appl. Phys. 53, R123: 5.65325 at 300 K"),
    "TlCl": _two("Tl", "Cl", 0.5, 3.8427, "P m -3 m", f"{SWANSON} IV, 51; PDF 6-486, 25 °C"),
    "SrTiO3": _cubic(3.9050, "P m -3 m", _PEROVSKITE, "PDF 35-734, 25 °C"),
    "LaB6": _cubic(4.156826, "P m -3 m", _BORIDE, "NIST SRM 660c, 22.5 °C"),
}
