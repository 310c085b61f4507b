"""Bring a profile to the scale of one atom: fit the number of atoms in the beam and a smooth background."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.amorphous.mean_atom import MeanAtom
from gpu4d.errors import InputError
from gpu4d.robust import biweight, robust_sigma

ROUNDS = 12  # of reweighting; the scale moves by less than 1e-6 after about eight
EXPONENTS = np.linspace(0.5, 2.5, 17)  # of 1/k^p; steeper is too near to the atoms' own k^-3 to k^-4, and 0 is the constant
DECAYS = np.geomspace(0.15, 2.4, 25)  # 1/Å, of exp(-k/d): shorter ones end before the first ring of a glass
LEAST_FITTED = 6  # rings: three for each of the two heights
SHAPES = ("power", "exponential", "constant")


class Scaled(NamedTuple):
    """Profiles (g, n) on the scale of one atom.

    Attributes
    ----------
    atoms : (g,) float64
        N: counts (or units of the profile) per Å² of ⟨f²⟩.
    background : (g, n) float64
        Fitted, in units of the profile.
    coherent : (g, n) float64
        (I − background) / ⟨f⟩², in units of the profile per Å²; S = 1 + coherent / N − ⟨f²⟩/⟨f⟩².
    response : (g, p, n) float64
        How N and the height of the background follow from I / ⟨f⟩²: for errors.
    shapes : (p, n) float64
        What they are heights of: ⟨f²⟩/⟨f⟩², and the background's form over ⟨f⟩².
    words : str
        What the background is.
    """

    atoms: np.ndarray
    background: np.ndarray
    coherent: np.ndarray
    response: np.ndarray
    shapes: np.ndarray
    words: str

    def structure_factor(self, single: np.ndarray) -> np.ndarray:
        """Return S (g, n); `single` is ⟨f²⟩/⟨f⟩². NaN where no atoms were found."""
        return 1 + self.coherent / self.atoms[:, None] - single


def scaled(intensity: np.ndarray, k: np.ndarray, atom: MeanAtom, fitted: np.ndarray, background: str | None) -> Scaled:
    """Fit I = N ⟨f²⟩ + background over the rings `fitted`, by robust least squares of k (I − N⟨f²⟩ − background) / ⟨f⟩².

    That is the Q (S − 1) of which G(r) is made. Its oscillations are about as high at all k, while those of S − 1 at small k would
    outweigh the tail.

    Parameters
    ----------
    intensity : (g, n) float64
        A row of NaN gives NaN.
    k : (n,) float64
    atom : MeanAtom
    fitted : (n,) bool
    background : {"power", "exponential", "constant"} or None
        Form of a background that is not negative: b/k^p, b exp(−k/d) or b. p or d is the one that leaves the least rms residual
        of the mean profile.

    Raises
    ------
    InputError
        Another form, or too few rings.
    """
    if not (background is None or (isinstance(background, str) and background in SHAPES)):
        raise InputError(f"background={background!r}: need one of {', '.join(map(repr, SHAPES))}, None, or a measured one (n,)")
    if fitted.sum() < LEAST_FITTED:
        raise InputError(f"k_fit holds {int(fitted.sum())} rings: need {LEAST_FITTED} or more")
    importance = np.where(fitted, k, 0.0)
    y, single = intensity / atom.factor**2, atom.square / atom.factor**2
    forms = _forms(background, k)
    filled = y[np.isfinite(y).all(axis=-1)]
    best, words = np.zeros_like(k), "none"
    if forms and len(filled):
        mean = filled.mean(axis=0, keepdims=True)
        left = [_fit(mean, single, form / atom.factor**2, importance).residual[0] for form, _ in forms]
        best, words = forms[int(np.argmin(left))]
    found = _fit(y, single, best / atom.factor**2 if best.any() else None, importance)
    ground = found.heights[:, 1:] * best
    atoms = np.where(found.heights[:, 0] > 0, found.heights[:, 0], np.nan)
    shapes = np.stack([single, best / atom.factor**2])
    return Scaled(atoms, ground, (intensity - ground) / atom.factor**2, found.response, shapes, words)


def _forms(background: str | None, k: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Return the forms that a background may have, each with its words."""
    if background == "power":
        return [(k**-p, f"b / k^{p:.3g}") for p in EXPONENTS]
    if background == "exponential":
        return [(np.exp(-k / d), f"b exp(-k / {d:.2g} 1/Å)") for d in DECAYS]
    return [(np.ones_like(k), "constant")] if background == "constant" else []


class _Fit(NamedTuple):
    """Heights (g, 2) of the atoms and of the background, their response (g, 2, n) to y, the rms residual (g,) over the range."""

    heights: np.ndarray
    response: np.ndarray
    residual: np.ndarray


def _fit(y: np.ndarray, single: np.ndarray, form: np.ndarray | None, importance: np.ndarray) -> _Fit:
    """Fit y = N single + b form with 0 ≤ b ≤ the least y / form: no background is brighter than the profile anywhere in the band."""
    groups, n = y.shape
    alone = _least_squares(y, single[None], importance)
    empty = np.zeros((groups, 1))
    if form is None:
        heights = np.concatenate([alone.heights, np.where(np.isnan(alone.heights), np.nan, empty)], axis=1)
        return _Fit(heights, np.concatenate([alone.response, np.zeros((groups, 1, n))], axis=1), alone.residual)
    both = _least_squares(y, np.stack([single, form]), importance)
    with np.errstate(invalid="ignore"):
        most = (y / form).min(axis=-1)
        height = np.clip(both.heights[:, 1], 0.0, np.maximum(most, 0.0))
    bound = ~(height == both.heights[:, 1])
    held = _least_squares(y - height[:, None] * form, single[None], importance)
    heights = np.stack([np.where(bound, held.heights[:, 0], both.heights[:, 0]), height], axis=1)
    held_response = np.concatenate([held.response, np.zeros((groups, 1, n))], axis=1)
    response = np.where(bound[:, None, None], held_response, both.response)
    return _Fit(heights, response, np.where(bound, held.residual, both.residual))


def _least_squares(y: np.ndarray, shapes: np.ndarray, importance: np.ndarray) -> _Fit:
    """Fit heights (g, p) of shapes (p, n) to y (g, n) by robust least squares of the residual times the importance (n,) of each ring.

    Rings whose importance is 0 take no part. Rows of y with a NaN give NaN.
    """
    part = importance > 0
    known = np.isfinite(y).all(axis=-1)
    data, model = np.where(known[:, None], y, 0.0)[:, part] * importance[part], shapes[:, part] * importance[part]
    scale = np.abs(model).max(axis=-1, keepdims=True)
    model = model / scale
    weight = np.ones_like(data)
    for _ in range(ROUNDS):
        normal = np.einsum("pn,gn,qn->gpq", model, weight, model)
        inverse = np.linalg.pinv(normal, hermitian=True)
        response = np.einsum("gpq,qn,gn->gpn", inverse, model, weight)
        heights = np.einsum("gpn,gn->gp", response, data)
        residual = data - heights @ model
        sigma = robust_sigma(residual, about=0.0, axis=-1)[:, None]
        weight = np.where(sigma > 0, biweight(residual / np.where(sigma > 0, sigma, 1.0)), 1.0)
    out = np.zeros((len(y), *shapes.shape))
    out[:, :, part] = response / scale * importance[part]
    return _Fit(np.where(known[:, None], heights / scale[:, 0], np.nan), out, np.sqrt((residual**2).mean(axis=-1)))
