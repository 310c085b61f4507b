"""Judge a fit of rings: where each ring lies, how many counts lie elsewhere, and whether every crystal is there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.calibrate.ring_index import KnownRings
from gpu4d.calibrate.ring_likelihood import Fitted
from gpu4d.calibrate.ring_model import Pixels, RingModel
from gpu4d.errors import InputError

MISFIT = 3e-3  # of its radius: how far rings may lie, rms, from where the crystals have them
MISPLACED = 0.04  # of the counts in rings may lie elsewhere in the radial profile than in the fit; in right fits it is 0.01
PRESENT = 0.02  # of the height of all rings: a crystal whose own rings have less is not there


class RingPlace(NamedTuple):
    """One ring of a fit.

    Attributes
    ----------
    name : str
        Crystal and order, or the spacing.
    g : float
        1/Å.
    radius : float
        Fitted radius with the ellipse removed, px of the minor axis.
    intensity, intensity_error : float
        Height over the background, mean over the directions, in the unit of the pattern.
    off, off_error : float
        How much farther out the ring lies than the fit has it, px. It is judged with all else kept.
    """

    name: str
    g: float
    radius: float
    intensity: float
    intensity_error: float
    off: float
    off_error: float


class FittedRings(NamedTuple):
    """A fit, its model and pixels, and the rings that took part."""

    fitted: Fitted
    model: RingModel
    pixels: Pixels
    chosen: KnownRings


def ring_places(result: FittedRings, minor: float, unit: float) -> tuple[RingPlace, ...]:
    """Return the rings inside the fitted pixels, each with what is left of its shift when all else is kept.

    `minor` is the stretch of the minor axis, and `unit` the unit of the pattern over a count.
    """
    found, model, pixels = result.fitted, result.model, result.pixels
    radius, width = model.places(found.p)
    r = model.radius(found.p, pixels.x, pixels.y)[0]
    weight = 1 / found.mu
    out = []
    for k, name in enumerate(result.chosen.names):
        if not r.min() < radius[k] < r.max():
            continue
        at = np.flatnonzero(np.abs(r - radius[k]) < 2 * width[k])
        by = -found.amplitude[pixels.sector[at], k] * model._ring(found.p, k, (r[at] - radius[k]) / width[k], width[k])[1]
        score, information = (weight[at] * by * (pixels.counts[at] - found.mu[at])), float((weight[at] * by**2).sum())
        sectors = np.bincount(pixels.sector[at] % max(pixels.sectors // 2, 1), score)
        off, error = (
            (float(score.sum() / information), float(np.sqrt((sectors**2).sum()) / information)) if information > 0 else (np.nan, np.nan)
        )
        inside = found.amplitude_error[:, k] < np.inf
        height = float(found.amplitude[inside, k].mean())
        height_error = float(np.sqrt((found.amplitude_error[inside, k] ** 2).sum()) / max(int(inside.sum()), 1))
        heights = (height * unit, height_error * unit)
        out.append(RingPlace(name, float(result.chosen.g[k]), float(radius[k] / minor), *heights, off, error))
    return tuple(out)


def checked_misfit(result: FittedRings) -> float:
    """Return the part of the rings' counts that lies elsewhere in the radial profile than in the fit. Raise InputError if it is large."""
    found, model, pixels = result.fitted, result.model, result.pixels
    r, phi = model.radius(found.p, pixels.x, pixels.y)
    which = (r / (model.places(found.p)[1].min() / 2)).astype(np.int64)
    off = pixels.counts - found.mu
    in_rings = max(float((found.mu - model.background(found.p, r, phi)[0]).sum()), 1e-300)
    misfit = float(np.abs(np.bincount(which, off)).sum()) / in_rings
    chance = 0.8 * float(np.sqrt(np.bincount(which, off**2)).sum()) / in_rings  # mean of |x| of a Gaussian
    if misfit > MISPLACED + chance:
        raise InputError(
            f"the rings do not fit the crystals: {100 * misfit:.0f} % of the counts in rings lie elsewhere than in the best fit:"
            " give the right crystals, and mask= for shadows"
        )
    return misfit


def check_present(result: FittedRings) -> None:
    """Raise InputError if one of several crystals shows none of the rings that it does not share with the others."""
    chosen, amplitude = result.chosen, result.fitted.amplitude
    place, width = result.model.places(result.fitted.p)
    own = [i for i in range(len(place)) if (np.abs(place - place[i])[chosen.crystal != chosen.crystal[i]] > width[i]).all()]
    height = amplitude.mean(axis=0)
    for crystal in np.unique(chosen.crystal):
        mine = [i for i in own if chosen.crystal[i] == crystal]
        if mine and height[mine].sum() < PRESENT * height.sum():
            name = chosen.names[mine[0]].split()[0]
            raise InputError(
                f"{name} is not in the pattern: the rings that are its own have {100 * height[mine].sum() / height.sum():.1f} % of the"
                " height of all: give the right crystals, without it"
            )


def check_places(places: tuple[RingPlace, ...]) -> None:
    """Raise InputError if rings lie elsewhere than their crystal has them."""
    known = [p for p in places if np.isfinite(p.off) and p.off_error > 0 and p.off_error < 0.5 * MISFIT * p.radius]
    far = [p for p in known if abs(p.off) > MISFIT * p.radius and abs(p.off) > 5 * p.off_error]
    if far:
        worst = max(far, key=lambda p: abs(p.off) / p.radius)
        raise InputError(
            f"the rings do not lie where the crystals have them: {worst.name} is {100 * worst.off / worst.radius:+.2f} % of its radius"
            f" ({worst.off:+.2f} ± {worst.off_error:.2f} px) away: give the right crystal, and mask= for shadows"
        )
