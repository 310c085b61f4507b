"""Hold a radial distribution function, with the structure factor it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.amorphous.shells import Shell
from gpu4d.data.storable import Storable


@dataclass(frozen=True, eq=False)
class RDF(
    Storable,
    stored="k: k [1/Å]; intensity background structure_factor structure_factor_error: ... k; factor: k [Å]; factor_square: k [Å²]; "
    "pair_weights window: k; r: r [Å]; reduced reduced_error: ... r [1/Å²]; density density_error: ... [1/Å³]; "
    "peak peak_error: ... [Å]; atoms coordination coordination_error scale_ratio: ...; gaussian: ... parameter; "
    "shell r_min resolution: [Å]",
):
    """Radial distribution function of one profile, or of groups of them. Leading axes `...` are those of the profiles given.

    Attributes
    ----------
    k : (n,) float64
        1/d of the rings, 1/Å, from the low end of the band to the last ring of the fit.
    intensity : (..., n) float64
        The profile there, without a measured background that was given.
    background : (..., n) float64
        Fitted, in the same units.
    atoms : (...) float64
        Scale N of I = N⟨f²⟩ + N⟨f⟩² (S − 1) + background, units of the profile per Å².
    factor, factor_square : (n,) float64
        ⟨f⟩, Å, and ⟨f²⟩, Å².
    pair_weights : dict of str to (n,) float64
        Faber–Ziman weights by pair of elements, for example "Cu-Zr": g(r) is the sum of partial g(r) with about these weights.
    structure_factor, structure_factor_error : (..., n) float64
        S(k) and its standard error; the error is NaN without errors of the profile.
    window : (n,) float64
        Factor of Q (S − 1) in the transform: cut-offs and damping.
    r : (m,) float64
        Å.
    reduced, reduced_error : (..., m) float64
        G(r) = 4πρr (g − 1) = (2/π) ∫ Q M (S − 1) sin(Qr) dQ, 1/Å², and its standard error.
    density, density_error : (...) float64
        Number density ρ, atoms per Å³: the one given (error 0), or the one that the slope of G(r) below the first shell shows.
    r_min : float
        Å, below which there are no atoms.
    peak, peak_error : (...) float64
        Where G(r) has its first peak, Å.
    shell : (2,) float64
        Between which the atoms of the first shell are counted, Å: from where the RDF grows up to the peak (at least `r_min`), to the
        deepest minimum of g(r) behind it up to 1.65 of its distance; of several profiles, those of their mean.
    coordination, coordination_error : (...) float64
        Atoms of the first shell: the integral of the RDF. Atoms behind the minimum and in front of it are told apart by nothing else.
    gaussian : (..., 3) float64
        Gaussian fitted to the first peak of RDF(r)/r above half of its height: middle, standard deviation (both Å), number of atoms.
    resolution : float
        π / Q at the end of the band, Å: peaks nearer than this are one. The window widens them more.
    scale_ratio : (...) float64
        N that the region below the first shell asks for, over the N used. Far from 1: wrong background, factors or multiple scattering.
    decisions, warnings : tuple of str
    """

    k: np.ndarray
    intensity: np.ndarray
    background: np.ndarray
    atoms: np.ndarray
    factor: np.ndarray
    factor_square: np.ndarray
    pair_weights: dict[str, np.ndarray]
    structure_factor: np.ndarray
    structure_factor_error: np.ndarray
    window: np.ndarray
    r: np.ndarray
    reduced: np.ndarray
    reduced_error: np.ndarray
    density: np.ndarray
    density_error: np.ndarray
    r_min: float
    peak: np.ndarray
    peak_error: np.ndarray
    shell: np.ndarray
    coordination: np.ndarray
    coordination_error: np.ndarray
    gaussian: np.ndarray
    resolution: float
    scale_ratio: np.ndarray
    decisions: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def q(self) -> np.ndarray:
        """Q = 2πk of the rings, (n,), rad/Å."""
        return 2 * np.pi * self.k

    @property
    def reduced_structure_factor(self) -> np.ndarray:
        """F = Q (S − 1), (..., n), 1/Å, without the window."""
        return self.q * (self.structure_factor - 1)

    @property
    def pair_distribution(self) -> np.ndarray:
        """g(r) = 1 + G / (4πρr), (..., m). NaN where the density is not known or not positive."""
        return 1 + self.reduced / (4 * np.pi * self._density * self.r)

    @property
    def distribution(self) -> np.ndarray:
        """RDF(r) = 4πr²ρ g(r) = 4πr²ρ + r G(r), (..., m), atoms per Å of distance."""
        return self.r * (4 * np.pi * self._density * self.r + self.reduced)

    @property
    def _density(self) -> np.ndarray:
        return np.where(self.density > 0, self.density, np.nan)[..., None]

    def __repr__(self) -> str:
        groups = "×".join(map(str, self.peak.shape))
        middle = [float(np.nanmedian(v)) if np.isfinite(v).any() else np.nan for v in (self.peak, self.coordination, self.density)]
        what = f"median of {groups} profiles" if groups else "first shell"
        return f"RDF({what}: {middle[0]:.3f} Å, {middle[1]:.1f} atoms; {middle[2]:.4f} atoms/Å³, resolution {self.resolution:.2f} Å)"


def shell_fields(shell: Shell, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the fields of `RDF` that a shell of flat groups gives, in the shape of the groups."""
    gaussian = np.stack([shell.gaussian_position, shell.gaussian_width, shell.gaussian_atoms], axis=-1)
    return {
        "peak": shell.peak.reshape(shape),
        "shell": np.array([shell.start, shell.end]),
        "coordination": shell.atoms.reshape(shape),
        "gaussian": gaussian.reshape(*shape, 3),
    }
