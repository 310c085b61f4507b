"""Prepare the patterns that a crystal is expected to give along its zone axes: the library that measured patterns are compared with."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from gpu4d import physics
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.orientation.symmetry import axis_to_z, zone_axes
from gpu4d.structures import Structure

HARMONICS = 97  # in-plane angles are multiples of 360° / 192; widths below half a degree would need more
NEIGHBOURS = 8  # of a zone axis, in an even arrangement with 6 next ones
RADIAL_POWER, AMPLITUDE_POWER = 1.0, 1.0  # of |g| and of |F| × shape factor, in the weights of the correlation (Ophus et al. 2022: γ, ω)
LEAST_AXES = 16


@dataclass(frozen=True, eq=False)
class OrientationLibrary(
    Storable,
    stored="turns: zone lab crystal; g: reflection xyz [1/Å]; factor: reflection; shells: shells [1/Å]; "
    "real imaginary: harmonic shells zone; neighbours: zone neighbour; energy: [eV]; thickness largest: [Å]; step: [rad]; width: [1/Å]",
):
    """Zone axes of a crystal, and the angular spectra of their patterns.

    Attributes
    ----------
    structure : Structure
    energy : float
        Beam energy, eV.
    thickness : float
        Of the crystal along the beam, Å.
    step : float
        Mean distance of neighbouring zone axes, rad.
    turns : (n, 3, 3) float64
        Orientation of the crystal for each zone axis: the axis lies along the beam.
    g : (m, 3) float64
        Reflections, 1/Å, in crystal axes.
    factor : (m,) float64
        |F| of each over the largest.
    largest : float
        The largest |F|, Å.
    shells : (s,) float64
        Radii at which spectra are kept, 1/Å.
    width : float
        Half width of a shell, 1/Å.
    real, imaginary : (harmonics, s, n) float32
        Angular spectra of the patterns. Each pattern has the norm 1.
    neighbours : (n, 8) int64
        Next zone axes of each.
    """

    structure: Structure
    energy: float
    thickness: float
    step: float
    turns: np.ndarray
    g: np.ndarray
    factor: np.ndarray
    largest: float
    shells: np.ndarray
    width: float
    real: np.ndarray
    imaginary: np.ndarray
    neighbours: np.ndarray

    def __repr__(self) -> str:
        step = math.degrees(self.step)
        return f"OrientationLibrary({self.structure.name}, {len(self.turns)} zone axes {step:.2g}° apart, {len(self.g)} reflections)"

    @property
    def axes(self) -> np.ndarray:
        """Return the zone axes, (n, 3) unit vectors in crystal axes: the direction that the electrons travel."""
        return self.turns[:, 2]


def orientation_library(
    structure: Structure, *, energy: float, thickness: float, g_max: float, step: float = math.radians(2.0)
) -> OrientationLibrary:
    """Compute the expected patterns of a crystal along all zone axes that its symmetry does not repeat.

    For a zone axis, a reflection g lies at the excitation error s = √(k² − q²) − k − g_z from the Ewald sphere, along the beam (k = 1/λ,
    q the part of g across the beam; s > 0 inside the sphere). In the kinematical approximation of a slab of thickness t its intensity is
    |F|² (sin πst / πst)². Here, where zone axes are a step apart, the shape factor is replaced by a Gaussian that is wider by what half
    a step changes s. As in sparse correlation matching, patterns are sums over reflections with weights |g|^γ (|F| × shape)^ω on shells of
    |g|, with a Gaussian in the in-plane angle.

    Zone axes cover the fundamental sector of the Laue group. The axis −v gives the mirror image of the pattern of v, so it needs no
    pattern of its own.

    Parameters
    ----------
    structure : Structure
    energy : float
        eV.
    thickness : float
        Å.
    g_max : float
        Largest |g|, 1/Å.
    step : float
        Mean distance of neighbouring zone axes, rad. 2° suit g up to 1.5 1/Å and thin crystals. The time grows with 1/step².

    Returns
    -------
    OrientationLibrary

    Raises
    ------
    InputError
        A thickness or step that is not positive, or no reflection up to g_max.

    References
    ----------
    C. Ophus et al., Microsc. Microanal. 28 (2022) 390: sparse correlation matching. L. Reimer, H. Kohl, Transmission Electron
    Microscopy (2008), 7.2: kinematical theory.

    Examples
    --------
    >>> from gpu4d.structures import Structure
    >>> orientation_library(Structure.standard("Au"), energy=200e3, thickness=50.0, g_max=1.0)
    OrientationLibrary(Au, 248 zone axes 2° apart, 64 reflections)
    """
    for name, value, unit in (("thickness", thickness, "Å"), ("g_max", g_max, "1/Å"), ("step", step, "rad")):
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value!r}: need a positive number, {unit}")
    found = structure.reflections(g_max)
    if not len(found):
        raise InputError(f"{structure.name} has no reflection up to g_max={g_max:g} 1/Å: need a larger g_max, or another structure")
    size = np.abs(found.structure_factor)
    axes = zone_axes(structure, step)
    turns = axis_to_z(axes)
    shells, width = _shells(found.length)
    spectra = _spectra(turns, found.g, size / size.max(), shells, width, physics.wavelength(energy), thickness, step)
    real, imaginary = (np.array(part, np.float32) for part in (spectra.real, spectra.imag))
    for part in (real, imaginary):
        part.flags.writeable = False  # so that what is made of them can be kept
    return OrientationLibrary(
        structure, energy, thickness, step, turns, found.g, size / size.max(), float(size.max()), shells, width, real, imaginary,
        _neighbours(axes),
    )  # fmt: skip


@on_host("curve")
def excitation_error(g: ArrayLike, wave_number: float) -> np.ndarray:
    """Return s of reflections, 1/Å: the distance to the Ewald sphere along the beam, positive inside.

    s = √(k² − g_x² − g_y²) − k − g_z.

    Parameters
    ----------
    g : (..., 3) real
        Reflections in lab axes, 1/Å; z is the direction that the electrons travel.
    wave_number : float
        k = 1/λ, 1/Å.

    Examples
    --------
    >>> float(excitation_error([0.0, 0.5, -0.003], 40.0).round(6))
    -0.000125
    """
    g = real_values(g, "g", "reflections (..., 3)").astype(np.float64, copy=False)
    if g.ndim < 1 or g.shape[-1] != 3:
        raise InputError(f"g has shape {g.shape}: need reflections (..., 3)")
    across = np.maximum(wave_number**2 - g[..., 0] ** 2 - g[..., 1] ** 2, 0.0)
    return np.sqrt(across) - wave_number - g[..., 2]


def _shells(length: np.ndarray) -> tuple[np.ndarray, float]:
    """Return radii of shells, 1/Å, and their half width. Rings of a crystal closer than the width share a shell."""
    width = 0.04
    rings = np.unique(length.round(6))
    shells = [rings[0]]
    for ring in rings[1:]:
        if ring - shells[-1] > 0.4 * width:
            shells.append(ring)
    return np.array(shells), width


def _spectra(
    turns: np.ndarray, g: np.ndarray, factor: np.ndarray, shells: np.ndarray, width: float, wavelength: float, thickness: float, step: float
) -> np.ndarray:
    """Return angular spectra (harmonics, shells, axes) of the patterns, normalised."""
    order = np.arange(HARMONICS)
    spectra = np.zeros((HARMONICS, len(shells), len(turns)), np.complex128)
    for one, strength in zip(g, factor):
        lab = turns @ one
        q, length = np.hypot(lab[:, 0], lab[:, 1]), np.linalg.norm(one)
        s = excitation_error(lab, 1 / wavelength)
        spread = math.hypot(0.44 / thickness, 0.35 * step * length)  # the slab's central maximum falls to 0.61 at 0.44 / t
        shape = np.exp(-0.5 * (s / spread) ** 2)
        near = np.flatnonzero(shape > 0.02)
        weight = length**RADIAL_POWER * (strength * shape[near]) ** AMPLITUDE_POWER
        angle = np.arctan2(lab[near, 1], lab[near, 0])
        wave = np.exp(-1j * order[:, None] * angle - 0.5 * (order[:, None] * angular_width(step)) ** 2)
        nearby = np.maximum(1 - np.abs(q[near, None] - shells) / width, 0.0)
        for shell in np.flatnonzero(nearby.any(axis=0)):
            spectra[:, shell, near] += weight * nearby[:, shell] * wave
    norm = np.sqrt(np.sum(np.abs(spectra) ** 2 * _twice(HARMONICS)[:, None, None], axis=(0, 1)))
    return spectra / np.where(norm > 0, norm, 1.0)


def _twice(harmonics: int) -> np.ndarray:
    """How often each harmonic of a real function counts."""
    return np.where(np.arange(harmonics) == 0, 1.0, 2.0)


def angular_width(step: float) -> float:
    """Return σ of the in-plane angle, rad: what a zone axis half a step away turns, and no less than the grid of angles resolves."""
    return max(0.7 * step, math.radians(1.4))


def _neighbours(axes: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    count = min(NEIGHBOURS, len(axes) - 1)
    near = cKDTree(axes).query(axes, k=count + 1)[1]
    return np.ascontiguousarray(near[:, 1:], np.int64)


library_of = functools.lru_cache(maxsize=16)(orientation_library)
