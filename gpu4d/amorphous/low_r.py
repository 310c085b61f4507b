"""Use what is known below the first shell, where there are no atoms: G(r) = -4π ρ r. It gives density and scale, and corrects S."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.amorphous.band import Nodes
from gpu4d.amorphous.normalise import Scaled
from gpu4d.amorphous.sine_transform import sine_matrix

STEP = 0.02  # Å: a tenth of the finest ripple of data up to k = 2.5 1/Å


class LowR(NamedTuple):
    """The region below the first shell.

    Attributes
    ----------
    r : (m,) float64
        Å, from one step to where the shell may begin.
    matrix : (m, nodes) float64
        G(r) of S − 1, with Lorch's window: without ripples of the shells, and with the same slope.
    """

    r: np.ndarray
    matrix: np.ndarray


def low_r(nodes: Nodes, r_min: float) -> LowR:
    """Return the region up to `r_min`, Å."""
    r = np.arange(1, max(round(r_min / STEP), 3) + 1) * STEP
    return LowR(r, nodes.transform(r, lorch=True))


def slope_density(part: LowR, s: np.ndarray) -> np.ndarray:
    """Return the number density (...), 1/Å³, of S (..., nodes): that of the straight line −4πρr that is nearest to G(r)."""
    return (s - 1) @ slope_row(part)


def slope_row(part: LowR) -> np.ndarray:
    """Return the weights (nodes,) that make the density of S − 1."""
    return -(part.r @ part.matrix) / (4 * np.pi * (part.r @ part.r))


def scale_from_low_r(part: LowR, nodes: Nodes, found: Scaled, single: np.ndarray, density: float | None) -> np.ndarray:
    """Return the number of atoms N (g,) with which G(r) is nearest to −4πρr below the first shell.

    In the limit r → 0 this is the sum rule of Krogh-Moe (1956) and Norman (1957), ∫ Q² (S − 1) dQ = −2π²ρ. A fit over all r below the
    shell needs no convergence factor. 1/N and ρ, where it is not known, are linear: S − 1 = coherent/N − ⟨f²⟩/⟨f⟩².
    """
    moving = np.concatenate([nodes.rise * found.coherent[:, :1], found.coherent], axis=-1) @ part.matrix.T
    fixed = np.concatenate([np.full(nodes.extra, single[0]), single]) @ part.matrix.T
    line = 4 * np.pi * part.r
    if density is not None:
        target, free = fixed - density * line, moving
    else:  # what is left of both sides beside the line
        unit = line / np.linalg.norm(line)
        target, free = fixed - (fixed @ unit) * unit, moving - (moving @ unit)[:, None] * unit
    with np.errstate(invalid="ignore", divide="ignore"):
        atoms = np.einsum("gm,gm->g", free, free) / (free @ target)
    return np.where(atoms > 0, atoms, np.nan)


def corrected(nodes: Nodes, part: LowR, s: np.ndarray, density: np.ndarray, rounds: int) -> np.ndarray:
    """Return S (g, nodes) without what makes G(r) differ from −4πρr below the first shell.

    Each round transforms the difference below r_min back into Q (S − 1) and subtracts it (Kaplow, Strong and Averbach, Phys. Rev. 138
    (1965) A1336; Eggert et al., Phys. Rev. B 65 (2002) 174105). What varies slowly with k goes: a wrong background or scale, multiple
    scattering, wrong scattering factors. Ripples of the shells that reach below r_min are subtracted, too. The density (g,) stays as it
    was before: that of the corrected slope would grow from round to round.
    """
    whole = nodes.transform(part.r)  # with the window of the result, whose ripples are in G(r)
    back = sine_matrix(np.concatenate([[0.0], part.r]), nodes.q)[:, 1:]
    q = np.where(nodes.q > 0, nodes.q, 1.0)
    s = s.copy()
    for _ in range(rounds):
        change = ((s - 1) @ whole.T + 4 * np.pi * density[:, None] * part.r) @ back.T / q
        s = s - np.where(nodes.q > 0, change, 0.0)
    return s
