"""Make a radial distribution function of mean intensities by ring: scale, transform, density, first shell, errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from gpu4d.amorphous.band import Band, Nodes
from gpu4d.amorphous.low_r import LowR, corrected, low_r, scale_from_low_r, slope_density, slope_row
from gpu4d.amorphous.mean_atom import MeanAtom
from gpu4d.amorphous.normalise import Scaled, scaled
from gpu4d.amorphous.propagate import Propagation
from gpu4d.amorphous.rdf_result import RDF, shell_fields
from gpu4d.amorphous.ring_means import RingMeans
from gpu4d.amorphous.shells import Shell, first_peak, first_shell, shell_limits, shell_weights

FOOT = 0.7  # of the first peak's distance: no atom is nearer. Shells of metallic glasses begin at 0.83 of it
NORMALIZE = ("tail", "low r")
LEAST_LEFT = 0.3  # of G(r), by disk and rings: more than the rest would be noise, multiplied
UNLIKE = 0.05  # part by which the scale of low r may differ from that of the tail before it is a warning


class Choice(NamedTuple):
    """Options of a radial distribution function, checked."""

    k_fit: tuple[float, float]
    background: str | None
    normalize: str
    density: float | None
    r: np.ndarray
    r_min: float | None
    shell: tuple[float, float]
    limits: tuple[float, float] | None
    rounds: int
    disk_radius: float
    ring_width: float


def rdf_of_rings(means: RingMeans, atom: MeanAtom, limits: Band, choice: Choice, shape: tuple[int, ...]) -> RDF:
    """Make the result of profiles (g, n), whose groups have `shape`."""
    single = atom.square / atom.factor**2
    nodes = Nodes(means.k, single, limits)
    left = instrument(choice.r, choice.disk_radius, choice.ring_width)[:, None]
    transform = nodes.transform(choice.r) / left
    fitted = (means.k >= choice.k_fit[0]) & (means.k <= choice.k_fit[1])
    found = scaled(means.mean, means.k, atom, fitted, choice.background)
    s = nodes.structure_factor(found.structure_factor(single))
    r_min = choice.r_min or FOOT * _median(first_peak(choice.r, (s - 1) @ transform.T, choice.shell), choice.shell[0] / FOOT)
    part = low_r(nodes, r_min)
    asked = scale_from_low_r(part, nodes, found, single, choice.density)
    ratio = asked / found.atoms
    if choice.normalize == "low r":
        found = found._replace(atoms=asked)
        s = nodes.structure_factor(found.structure_factor(single))
    density = slope_density(part, s) if choice.density is None else np.where(np.isfinite(s[:, -1]), choice.density, np.nan)
    s = corrected(nodes, part, s, density, choice.rounds)
    reduced = (s - 1) @ transform.T
    smooth = (s - 1) @ (nodes.transform(choice.r, lorch=True) / left).T
    limits_of_shell = choice.limits or _limits(choice, reduced, smooth, density, r_min)
    shell = first_shell(choice.r, reduced, density, first_peak(choice.r, reduced, choice.shell), limits_of_shell)
    spread = Propagation(nodes, found, s[:, nodes.extra :], means.error / atom.factor**2)
    by_ring = {
        "intensity": means.mean,
        "background": found.background,
        "structure_factor": s[:, nodes.extra :],
        "structure_factor_error": spread.of_rings(),
        "reduced": reduced,
        "reduced_error": spread.of_matrix(transform),
    }
    numbers = {"atoms": found.atoms, "density": density, "scale_ratio": ratio, **_errors(spread, transform, s, (part, choice, shell))}
    return RDF(
        k=means.k,
        factor=atom.factor,
        factor_square=atom.square,
        pair_weights=atom.pair_weights,
        window=nodes.window[nodes.extra :],
        r=choice.r,
        r_min=float(r_min),
        resolution=1 / (2 * min(limits.high, float(means.k[-1]))),
        decisions=_decisions(limits, choice, found, r_min),
        warnings=_warnings(ratio, density, limits, choice),
        **{name: value.reshape(*shape, value.shape[-1]) for name, value in by_ring.items()},
        **{name: value.reshape(shape) for name, value in numbers.items()},
        **shell_fields(shell, shape),
    )


def _limits(choice: Choice, reduced: np.ndarray, smooth: np.ndarray, density: np.ndarray, r_min: float) -> tuple[float, float]:
    """Return the limits of the first shell, Å, of the mean of all profiles, so that their atoms can be compared."""
    known = np.isfinite(reduced).all(axis=-1) & (density > 0)
    if not known.any():
        return np.nan, np.nan
    mean, rho = reduced[known].mean(axis=0), float(density[known].mean())
    return shell_limits(choice.r, mean, smooth[known].mean(axis=0), rho, float(first_peak(choice.r, mean[None], choice.shell)[0]), r_min)


def instrument(r: np.ndarray, disk_radius: float, ring_width: float) -> np.ndarray:
    """Return the factor (m,) by which the measurement makes G(r) smaller.

    Averaging over rings of width w gives sinc(w r). A bright-field disk of radius a gives 2 J₁(x)/x, x = 2π a r: two atoms interfere as
    far as the probe's wave is coherent between them. Both hold for the vectors r along q, which make most of S at large Qr.
    """
    x = 2 * np.pi * disk_radius * r
    disk = np.where(x > 1e-6, 2 * scipy.special.j1(np.maximum(x, 1e-6)) / np.maximum(x, 1e-6), 1.0)
    return np.maximum(disk * np.sinc(ring_width * r), LEAST_LEFT)


def _errors(spread: Propagation, transform: np.ndarray, s: np.ndarray, measured: tuple[LowR, Choice, Shell]) -> dict[str, np.ndarray]:
    """Return the errors (g,) of density, peak and coordination. The limits of the shell are taken as fixed."""
    part, choice, shell = measured
    r, groups = choice.r, len(s)
    rows = np.tile(slope_row(part) if choice.density is None else np.zeros(transform.shape[1]), (groups, 1))
    known = np.isfinite(shell.peak)
    at = np.clip(np.searchsorted(r, np.where(known, shell.peak, r[1])), 1, len(r) - 2)
    step = r[1] - r[0]
    slope = (transform[at + 1] - transform[at - 1]) / (2 * step)
    bend = np.einsum("gn,gn->g", (transform[at + 1] - 2 * transform[at] + transform[at - 1]) / step**2, s - 1)
    counted = shell_weights(r, shell.start, shell.end) if np.isfinite(shell.end) else np.full_like(r, np.nan)
    atoms = counted @ transform + 4 * np.pi * (counted @ r) * rows
    with np.errstate(invalid="ignore", divide="ignore"):
        peak = np.where(known, spread.of_rows(slope) / np.abs(bend), np.nan)
    return {"density_error": spread.of_rows(rows), "peak_error": peak, "coordination_error": spread.of_rows(atoms)}


def _decisions(limits: Band, choice: Choice, found: Scaled, r_min: float) -> tuple[str, ...]:
    end = "the largest k" if np.isinf(choice.k_fit[1]) else f"{choice.k_fit[1]:.3g} 1/Å"
    below = "k² to zero" if limits.low_k == "extend" else "a sigmoid"
    said = [
        f"scale from {choice.k_fit[0]:.3g} 1/Å to {end}; background: {found.words}",
        f"band from {limits.low:.3g} to {limits.high:.3g} 1/Å; below it the structure factor is continued by {below}",
        f"no atoms below {r_min:.2f} Å" + ("" if choice.r_min else f", {FOOT:g} of the distance of the first peak"),
    ]
    widths = f"{choice.ring_width:.3g} 1/Å" + (f", and of that of the disk, {choice.disk_radius:.3g} 1/Å" if choice.disk_radius else "")
    said.append(f"G(r) is freed of the width of the rings, {widths}")
    if choice.normalize == "low r":
        said.append("scale from the region without atoms")
    if choice.rounds:
        said.append(f"{choice.rounds} rounds of correction in the region without atoms")
    return tuple(said)


def _warnings(ratio: np.ndarray, density: np.ndarray, limits: Band, choice: Choice) -> tuple[str, ...]:
    said = []
    known = ratio[np.isfinite(ratio)]
    if len(known) and abs(np.median(known) - 1) > UNLIKE and choice.normalize == "tail" and not choice.rounds:
        said.append(
            f"the region without atoms asks for {np.median(known):.2f} times the scale: background, scattering factors or multiple "
            "scattering are not as assumed. Look at S(k) with its fit; 8 rounds of the correction at small r (low_r_rounds) take off what "
            "varies slowly"
        )
    if choice.density is None and limits.low_k == "cut":
        said.append("the density is that of a line which the cut at low k bends: give density=, or take low_k='extend'")
    if (density <= 0).any():
        said.append(f"{int((density <= 0).sum())} profiles show no positive density: there is no g(r)")
    return tuple(said)


def _median(values: np.ndarray, otherwise: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else otherwise
