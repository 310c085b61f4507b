"""Structures: symmetry, structure factors and rings against what can be written down, and against files."""

import math
import pickle

import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.structures import STANDARDS, Site, Structure

NACL_CIF = """data_salt
_cell_length_a 5.6402
_cell_length_b 5.6402
_cell_length_c 5.6402
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_U_iso_or_equiv
Na1 Na 0 0 0 1 0.02
Cl1 Cl 0.5 0.5 0.5 1 0.02
"""


def factors(structure, g_max=1.0):
    found = structure.reflections(g_max)
    return {tuple(hkl): value for hkl, value in zip(found.hkl.tolist(), found.structure_factor)}


def test_fcc_has_its_rings_and_four_times_the_atom():
    gold = Structure.standard("Au")
    rings = gold.rings(1.0)
    assert rings.hkl.tolist() == [[1, 1, 1], [2, 0, 0], [2, 2, 0], [3, 1, 1], [2, 2, 2], [4, 0, 0]]
    assert rings.multiplicity.tolist() == [8, 6, 12, 24, 8, 6]
    np.testing.assert_allclose(rings.d, 4.0786 / np.sqrt([3, 4, 8, 11, 12, 16]), rtol=1e-9)
    found = gold.reflections(1.0)
    np.testing.assert_allclose(rings.intensity.sum(), found.intensity.sum())
    np.testing.assert_allclose(found.g, found.hkl / 4.0786, atol=1e-12)
    import gemmi

    single = np.array([gemmi.Element("Au").c4322.calculate_sf(length**2 / 4) for length in found.length])
    np.testing.assert_allclose(np.abs(found.structure_factor), 4 * single, rtol=1e-5)


def test_friedel_mates_are_conjugate_also_without_a_centre():
    found = factors(Structure.standard("GaAs"))
    assert all(found[-h, -k, -l] == value.conjugate() for (h, k, l), value in found.items())
    assert abs(found[1, 1, 1].imag) > 1
    assert (2, 0, 0) in found and (1, 0, 0) not in found  # weak, Ga - As, but not forbidden


def test_forbidden_reflections_of_diamond_are_left_out():
    found = factors(Structure.standard("Si"))
    assert (2, 0, 0) not in found and (2, 2, 2) not in found and (1, 1, 1) in found and (2, 2, 0) in found


def test_one_cell_of_many_names_is_one_crystal():
    """Sodium chloride in its space group, and every atom written down in P 1."""
    corners = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    atoms = [Site("Na", c) for c in corners] + [Site("Cl", tuple((x + 0.5) % 1 for x in c)) for c in corners]
    plain, named = Structure("salt", (5.6402,) * 3 + (90,) * 3, 1, tuple(atoms)), Structure.standard("NaCl")
    one, other = factors(plain), factors(named)
    assert one.keys() == other.keys()
    np.testing.assert_allclose([one[k] for k in other], list(other.values()), atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("Au", 24), ("graphite", 12)])
def test_rotations_are_a_group_that_keeps_the_intensities(name, count):
    crystal = Structure.standard(name)
    turns = crystal.rotations
    assert len(turns) == count and np.allclose(turns[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    products = (turns[:, None] @ turns[None]).reshape(-1, 9)
    assert all(np.abs(turns.reshape(-1, 9) - p).max(-1).min() < 1e-8 for p in products)
    found = crystal.reflections(0.9)
    for turn in turns:
        away = np.linalg.norm((found.g @ turn.T)[:, None] - found.g[None], axis=-1)
        assert away.min(1).max() < 1e-8
        np.testing.assert_allclose(found.intensity[away.argmin(1)], found.intensity, rtol=1e-4, atol=1e-4)


def test_basis_of_an_oblique_cell_is_dual_to_its_axes():
    cell = (4.0, 5.5, 7.0, 80.0, 95.0, 105.0)
    crystal = Structure("oblique", cell, "P -1", (Site("Si", (0.1, 0.2, 0.3)),))
    axes = np.linalg.inv(crystal.basis).T  # rows a, b, c
    lengths = np.linalg.norm(axes, axis=1)
    np.testing.assert_allclose(lengths, cell[:3])
    np.testing.assert_allclose(axes[0], [4.0, 0, 0], atol=1e-12)
    assert abs(axes[1, 2]) < 1e-12
    cosine = [axes[i] @ axes[j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))]
    np.testing.assert_allclose(np.degrees(np.arccos(cosine)), cell[3:])
    assert len(crystal.rotations) == 1
    np.testing.assert_allclose(crystal.volume, np.linalg.det(axes))


def test_a_cif_file_is_read_with_its_displacements(tmp_path):
    path = tmp_path / "salt.cif"
    path.write_text(NACL_CIF)
    crystal = Structure.read_cif(path)
    assert crystal.name == "salt" and crystal.laue_group == "m-3m" and crystal.source == "CIF file salt.cif"
    moved, still = factors(crystal), factors(Structure.standard("NaCl"))
    for hkl, value in moved.items():
        square = (np.array(hkl) ** 2).sum() / 5.6402**2
        # here both have the same sites, and the Debye-Waller factor is exp(-2 pi^2 u g^2)
        assert abs(value - still[hkl] * math.exp(-2 * math.pi**2 * 0.02 * square)) < 1e-3 * abs(still[hkl]) + 1e-4


def test_a_cif_file_of_a_hexagonal_crystal(tmp_path):
    path = tmp_path / "graphite.cif"
    path.write_text(
        NACL_CIF.replace("length_a 5.6402", "length_a 2.464").replace("length_b 5.6402", "length_b 2.464")
        .replace("length_c 5.6402", "length_c 6.711").replace("gamma 90", "gamma 120").replace("F m -3 m", "P 63/m m c")
        .replace("Na1 Na 0 0 0 1 0.02", "C1 C 0 0 0.25 1 0").replace("Cl1 Cl 0.5 0.5 0.5 1 0.02", "C2 C 0.3333333 0.6666667 0.25 1 0")
    )  # fmt: skip
    one, other = factors(Structure.read_cif(path)), factors(Structure.standard("graphite"))
    assert one.keys() == other.keys()
    np.testing.assert_allclose(np.abs(list(one.values())), np.abs([other[k] for k in one]), atol=1e-3)


def test_every_standard_has_reflections_and_a_source():
    for name, entry in STANDARDS.items():
        crystal = Structure.standard(name)
        assert entry.source and Structure.standard(name.upper()) == crystal and crystal.source == entry.source
        assert len(crystal.rings(1.0)) >= 2


def test_limits_of_rings():
    gold = Structure.standard("Au")
    assert gold.rings(0.6, g_min=0.45).hkl.tolist() == [[2, 0, 0]]
    assert len(gold.rings(0.1)) == 0 and len(gold.reflections(0.1)) == 0


def test_a_structure_is_pickled_and_compared():
    gold = Structure.standard("Au")
    gold.basis.sum()
    again = pickle.loads(pickle.dumps(gold))
    assert again == gold and len(again.reflections(0.5)) == 14


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Structure.standard("Gold"), "need one of"),
        (lambda: Structure.standard("graphit"), "did you mean 'graphite'"),
        (lambda: Structure("x", (4, 4, 4, 90, 90), "P 1", (Site("Au", (0, 0, 0)),)), "need a, b, c in Å"),
        (lambda: Structure("x", (4, 4, 5, 90, 90, 90), "F m -3 m", (Site("Au", (0, 0, 0)),)), "symmetry of F m -3 m"),
        (lambda: Structure("x", (4, 4, 4, 90, 90, 90), "F q", (Site("Au", (0, 0, 0)),)), "need a symbol such as"),
        (lambda: Structure("x", (4, 4, 4, 90, 90, 90), "P 1", ()), "has no atoms"),
        (lambda: Structure("x", (4, 4, 4, 90, 90, 90), "P 1", (Site("Qq", (0, 0, 0)),)), "chemical symbol"),
        (lambda: Structure.standard("Au").reflections(0.0), "need 0 <= g_min < g_max"),
        (lambda: Structure.standard("Au").reflections(60.0), "smaller g_max"),
        (lambda: Structure.read_cif("absent.cif"), "is no file"),
    ],
)
def test_errors_say_what_to_do(call, text):
    with pytest.raises(InputError, match=text):
        call()


def test_a_file_that_is_no_crystal(tmp_path):
    path = tmp_path / "bad.cif"
    path.write_text("not a cif")
    with pytest.raises(InputError, match="cannot be read"):
        Structure.read_cif(path)
    path.write_text("data_x\n_a 1\n")
    with pytest.raises(InputError, match="has no cell"):
        Structure.read_cif(path)


def test_without_gemmi_the_message_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gemmi", None)
    with pytest.raises(InputError, match=r"gpu4d\[crystal\]"):
        Structure.standard("Au")
