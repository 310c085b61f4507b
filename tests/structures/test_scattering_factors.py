"""Electron scattering factors: two independent tables against each other, limits that can be written down, and what is refused."""

import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.structures import Structure, electron_scattering_factor
from gpu4d.structures.composition import shares

gemmi = pytest.importorskip("gemmi")
ELEMENTS = [gemmi.Element(z).name for z in range(1, 99)]
ALKALI = {"Li", "Na", "K", "Rb", "Cs", "Fr"}  # their outer electron falls off so fast that Gaussians fit it badly


def test_two_tables_agree():
    """Fits to electron factors, and fits to X-ray factors by Mott and Bethe. Hydrogen's X-ray table is of the bonded atom."""
    k = np.linspace(0.4, 3.0, 60)
    worst = {}
    for element in ELEMENTS:
        first, second = (electron_scattering_factor(element, k, source=source) for source in ("electron", "x-ray"))
        worst[element] = np.abs(second / first - 1).max()
    wrong = {e: w for e, w in worst.items() if w > (0.2 if e == "H" else 0.08 if e in ALKALI else 0.036)}
    assert not wrong
    assert sum(w < 0.012 for w in worst.values()) > 60, "most agree within a hundredth"


def test_they_fall_with_k_without_steps():
    """A series that is cut too early makes steps in the factors of another program."""
    for element in ELEMENTS:
        f = electron_scattering_factor(element, np.linspace(0, 4, 4001))
        step = np.diff(f)
        assert (step < 0).all() and (f > 0).all(), element
        assert np.abs(np.diff(step)).max() < 3e-4 * f[0], f"{element}: smooth"


def test_free_hydrogen_and_the_limit_of_rutherford():
    """f(0) of hydrogen is the Bohr radius. At large s all elements come near to Z / (8π² a₀ s²)."""
    assert electron_scattering_factor("H", 0.0) == pytest.approx(0.5292, rel=2e-3)
    s = 2.0
    for element, z in (("He", 2), ("C", 6), ("O", 8)):
        assert electron_scattering_factor(element, 2 * s) == pytest.approx(0.0239337 * z / s**2, rel=0.25)


def test_structure_factors_use_the_same_table():
    found = Structure.standard("Au").reflections(1.0)
    np.testing.assert_allclose(np.abs(found.structure_factor), 4 * electron_scattering_factor("Au", found.length), rtol=1e-5)


def test_forms_and_refusals():
    assert electron_scattering_factor("Cu", [[0.1, 0.2]]).shape == (1, 2) and electron_scattering_factor("Cu", []).shape == (0,)
    with pytest.raises(InputError, match=r"4\.5 1/Å: the table 'electron' holds from 0 to 4 1/Å"):
        electron_scattering_factor("Cu", [1.0, 4.5])
    with pytest.raises(InputError, match=r"0\.05 1/Å: the table 'x-ray' holds from 0\.1"):
        electron_scattering_factor("Cu", 0.05, source="x-ray")
    with pytest.raises(InputError, match="value of nan"):
        electron_scattering_factor("Cu", np.nan)
    for wrong in ("cu", "Xx", "X", "", 29, None, "Fm"):
        with pytest.raises(InputError, match="need a chemical symbol from H to Cf"):
            electron_scattering_factor(wrong, 1.0)
    with pytest.raises(InputError, match="need one of 'electron', 'x-ray'"):
        electron_scattering_factor("Cu", 1.0, source="neutron")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Cu50Zr50", {"Cu": 0.5, "Zr": 0.5}),
        ("CuZr", {"Cu": 0.5, "Zr": 0.5}),
        ("Pd 77.5 Si 22.5", {"Pd": 0.775, "Si": 0.225}),
        ("CO2C", {"C": 0.5, "O": 0.5}),
        ({"Si": 1, "O": 2.0}, {"Si": 1 / 3, "O": 2 / 3}),
    ],
)
def test_compositions(given, expected):
    assert shares(given) == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong", ["", "cu", "Cu(Zr)2", "Cu-Zr", "Cu0", {}, {"Cu": -1}, {"Cu": "x"}, {"Cu": np.inf}, {3: 1.0}, 5, None, ["Cu"]]
)
def test_compositions_that_are_none(wrong):
    with pytest.raises(InputError, match="need a formula such as"):
        shares(wrong)
