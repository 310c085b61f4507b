"""ASE's atoms and our structures: the same atoms, the same structure factors."""

import sys

import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.interop.ase import from_ase, to_ase
from gpu4d.structures import Structure


@pytest.fixture
def ase(need):
    need("gemmi")
    return need("ase")


@pytest.mark.parametrize(("name", "atoms"), [("Au", 4), ("Si", 8), ("graphite", 4)])
def test_structures_go_there_and_back(ase, name, atoms):
    given = Structure.standard(name)
    there = to_ase(given)
    assert len(there) == atoms and all(there.pbc)
    for group in (given.space_group, None, "P 1"):
        back = from_ase(there, space_group=group)
        assert len(back.sites) == (atoms if group == "P 1" else len(given.sites)) and back.name == given.name
        np.testing.assert_allclose(back.cell, given.cell, atol=1e-9)
        a, b = given.reflections(1.0), back.reflections(1.0)
        order = [np.lexsort(one.hkl.T) for one in (a, b)]
        np.testing.assert_array_equal(a.hkl[order[0]], b.hkl[order[1]])
        np.testing.assert_allclose(a.structure_factor[order[0]], b.structure_factor[order[1]], atol=1e-6)


def test_places_are_ases(ase):
    """A cell without right angles, in an orientation of its own: distances between atoms are those of ASE."""
    turned = ase.Atoms("CuZrO", scaled_positions=[(0, 0, 0), (0.3, 0.2, 0.7), (0.6, 0.9, 0.1)], cell=[4.1, 5.2, 6.3, 80, 95, 110], pbc=True)
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    found = from_ase(turned)
    assert found.space_group == "P 1" and [site.element for site in found.sites] == ["Cu", "Zr", "O"]
    places = np.array([site.position for site in found.sites]) @ np.linalg.inv(found.basis).T
    np.testing.assert_allclose(np.linalg.norm(places[:, None] - places, axis=-1), turned.get_all_distances(), atol=1e-9)


def test_the_space_group_that_ase_noted_is_used(ase, need):
    crystal = need("ase.spacegroup").crystal("Si", [(0, 0, 0)], spacegroup=227, cellpar=[5.43] * 3 + [90] * 3)
    found = from_ase(crystal)
    assert found.laue_group == "m-3m" and len(found.sites) == 1 and found.name == "Si8"
    crystal.positions[3] += 0.3
    assert from_ase(crystal).space_group == "P 1", "its atoms have moved since"
    strained = to_ase(Structure.standard("Si"))
    strained.set_cell(strained.cell.array * [[1.02], [1], [1]], scale_atoms=True)
    assert from_ase(strained).space_group == "P 1", "its cell is no cube any more"


def test_what_is_refused(ase, need):
    build = need("ase.build")
    salt = build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    with pytest.raises(InputError, match=r"do not have the symmetry F d -3 m.*Na at"):
        from_ase(salt, space_group="F d -3 m")
    with pytest.raises(InputError, match="does not have the symmetry of P 63/m m c"):
        from_ase(salt, space_group="P 63/m m c")
    with pytest.raises(InputError, match="have 0 lattice vectors"):
        from_ase(build.molecule("H2O"))
    with pytest.raises(InputError, match="partly occupied"):
        from_ase(need("ase.spacegroup").crystal(["Au"], [(0, 0, 0)], spacegroup=225, cellpar=[4] * 3 + [90] * 3, occupancies=[0.5]))
    from gpu4d.structures import Site

    alloy = Structure("CuZr", (3.3,) * 3 + (90.0,) * 3, "P m -3 m", (Site("Cu", (0.0, 0.0, 0.0), 0.5),))
    with pytest.raises(InputError, match=r"partly occupied sites \(Cu\)"):
        to_ase(alloy)


def test_without_the_library_one_line_says_what_to_install(monkeypatch, need):
    need("gemmi")
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(InputError, match="to_ase needs ASE beside gpu4d: pip install ase"):
        to_ase(Structure.standard("Au"))
    with pytest.raises(InputError, match=r"atoms is a numpy.ndarray: need Atoms of ASE"):
        from_ase(np.ones(3))
