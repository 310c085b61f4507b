"""Electron optics against tabulated values and against each other."""

import math

import pytest
from scipy import constants

from gpu4d import physics
from gpu4d.errors import InputError


@pytest.mark.parametrize(
    ("energy", "angstrom"), [(80e3, 0.041757), (100e3, 0.037014), (200e3, 0.025079), (300e3, 0.019687)]
)  # Reimer & Kohl, Transmission Electron Microscopy, table of electron wavelengths
def test_wavelength_is_the_tabulated_one(energy, angstrom):
    assert physics.wavelength(energy) == pytest.approx(angstrom, abs=1e-6)


def test_wavelength_is_h_over_relativistic_momentum():
    energy, m, c, e = 200e3, constants.m_e, constants.c, constants.e
    momentum = math.sqrt((energy * e + m * c**2) ** 2 - (m * c**2) ** 2) / c
    assert physics.wavelength(energy) == pytest.approx(constants.h / momentum * 1e10, rel=1e-9)


def test_slow_electrons_follow_the_classical_formula():
    assert physics.wavelength(1.0) == pytest.approx(12.2643, rel=1e-4)  # h / √(2 m e V) at 1 V


@pytest.mark.parametrize("energy", [0, -1.0, float("nan")])
def test_energy_must_be_positive(energy):
    with pytest.raises(InputError, match="positive beam energy in eV"):
        physics.wavelength(energy)


def test_interaction_constant():
    """σ = 2π m e λ / h² = (2π / λV)(mc² + eV)/(2mc² + eV): Kirkland's form (Advanced Computing in Electron Microscopy, eq. 5.6)."""
    for energy in (80e3, 300e3):
        rest = constants.m_e * constants.c**2 / constants.e
        kirkland = 2 * math.pi / (physics.wavelength(energy) * energy) * (rest + energy) / (2 * rest + energy)
        assert physics.interaction_constant(energy) == pytest.approx(kirkland, rel=1e-8)


def test_angles_and_frequencies_are_inverse():
    q = physics.angle_to_frequency(25.0, 80e3)
    assert q == pytest.approx(25e-3 / 0.041757, rel=1e-4)
    assert physics.frequency_to_angle(q, 80e3) == pytest.approx(25.0)


def test_pixel_from_disk():
    assert physics.pixel_from_disk(6.0, 3.0, 200e3) == pytest.approx(3e-3 / 0.025079 / 6, rel=1e-4)
