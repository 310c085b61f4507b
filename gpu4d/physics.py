"""Compute quantities of electron optics, in eV, Å, 1/Å (g = 1/d, no 2π), mrad and radians."""

import math

# CODATA 2018. The SI defines the first two and the speed of light exactly.
PLANCK = 6.62607015e-34  # J s
ELEMENTARY_CHARGE = 1.602176634e-19  # C
ELECTRON_MASS = 9.1093837015e-31  # kg
LIGHT_SPEED = 299792458.0  # m/s
REST_ENERGY = ELECTRON_MASS * LIGHT_SPEED**2 / ELEMENTARY_CHARGE  # eV

__all__ = ["angle_to_frequency", "frequency_to_angle", "interaction_constant", "pixel_from_disk", "wavelength"]


def __dir__() -> list[str]:
    return list(__all__)


def wavelength(energy: float) -> float:
    """Return the relativistic wavelength of the beam electrons.

    λ = h c / √(E (E + 2 m c²))

    Parameters
    ----------
    energy : float
        Beam energy, eV (300e3, not 300).

    Returns
    -------
    float
        Wavelength, Å.

    Examples
    --------
    >>> round(wavelength(300e3), 5)
    0.01969
    """
    if not energy > 0:
        from gpu4d.errors import InputError

        raise InputError(f"energy is {energy} eV, need a positive beam energy in eV (for example 300e3)")
    hc = PLANCK * LIGHT_SPEED / ELEMENTARY_CHARGE * 1e10  # eV Å
    return hc / math.sqrt(energy * (energy + 2 * REST_ENERGY))


def interaction_constant(energy: float) -> float:
    """Return σ = 2π m e λ / h² with the relativistic mass: phase per projected potential, rad / (V Å).

    Examples
    --------
    >>> round(interaction_constant(80e3), 6)
    0.001009
    """
    mass = ELECTRON_MASS * (1 + float(energy) / REST_ENERGY)
    return 2 * math.pi * mass * ELEMENTARY_CHARGE * wavelength(energy) * 1e-10 / PLANCK**2 * 1e-10


def angle_to_frequency(angle: float, energy: float) -> float:
    """Convert a scattering angle in mrad to a spatial frequency in 1/Å: q = α / λ (small angles, as detectors are calibrated).

    Examples
    --------
    >>> round(angle_to_frequency(3.0, 200e3), 5)
    0.11962
    """
    return angle * 1e-3 / wavelength(energy)


def frequency_to_angle(frequency: float, energy: float) -> float:
    """Convert a spatial frequency in 1/Å to a scattering angle in mrad: α = λ q."""
    return frequency * wavelength(energy) * 1e3


def pixel_from_disk(radius: float, semiangle: float, energy: float) -> float:
    """Return the size of a detector pixel in 1/Å. The radius of the bright-field disk corresponds to the semi-angle.

    Parameters
    ----------
    radius : float
        Radius of the bright-field disk, detector pixels.
    semiangle : float
        Convergence semi-angle, mrad.
    energy : float
        Beam energy, eV.
    """
    return angle_to_frequency(semiangle, energy) / radius
