"""Judge a fit of rings: where each ring lies, how many counts lie elsewhere, and whether every crystal is there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.calibrate.ring_index import KnownRings
from gpu4d.calibrate.ring_likelihood import Fitted
from gpu4d.calibrate.ring_model import Pixels, RingModel
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError

MISFIT = 3e-3  # of its radius: how far rings may lie, rms, from where the crystals have them
MISPLACED = 0.04  # of the counts in rings may lie elsewhere in the radial profile than in the fit; in right fits it is 0.01
PRESENT = 0.03  # of the height of all rings: a crystal that has less, by its own rings, is not there; tails of other rings give 0.02
OWN = 0.1  # of a crystal's expected intensity: with less in rings of its own, these do not show whether it is there


class _RingPlace(NamedTuple):
    name: str
    g: float
    radius: float
    intensity: float
    intensity_error: float
    off: float
    off_error: float


class RingPlace(_RingPlace, Storable, stored="g: [1/Å]; radius off off_error: [px]"):
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

    __slots__ = ()


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


def check_present(result: FittedRings, rings: KnownRings) -> None:
    """Raise InputError if one of several crystals is not in the pattern, or has no rings of its own that could say so.

    A ring is a crystal's own if it is a full width at half maximum or more away from all rings of the others. `rings` are those of all
    crystals, before neighbours became one.
    """
    if not rings.crystal.any():
        return
    place, width = result.model.places(result.fitted.p)
    rings = rings.upto(float(result.chosen.g[-1]) * (1 + 1e-12))
    at = np.interp(rings.g, result.chosen.g, place)
    nearest = np.argmin(np.abs(at[:, None] - place), axis=1)
    height = result.fitted.amplitude.mean(axis=0)
    crystals = np.unique(rings.crystal)
    for crystal in crystals:
        of, apart = rings.crystal == crystal, np.abs(at[:, None] - at[rings.crystal != crystal]).min(axis=1, initial=np.inf)
        mine = of & (apart > width[nearest])
        name = next(n for n, i in zip(rings.names, of) if i).split()[0]
        part = float(rings.intensity[mine].sum() / rings.intensity[of].sum())
        if part < OWN:
            beside = np.unique(rings.crystal[~of][np.abs(at[~of][:, None] - at[of]).min(axis=1) <= width[nearest[~of]]])
            others = ", ".join(dict.fromkeys(rings.names[int(np.argmax(rings.crystal == i))].split()[0] for i in beside))
            raise InputError(
                f"{name} cannot be told from {others}: rings of its own, a width of {float(np.median(width)):.1f} px or more from theirs,"
                f" would have {100 * part:.0f} % of its intensity, and the pixel size depends on which crystal the rings are of:"
                " leave one of them out"
            )
        whole = height[np.unique(nearest[mine])].sum() / part
        if whole < PRESENT * height.sum():
            raise InputError(
                f"{name} is not in the pattern: by the rings that are its own it would have {100 * whole / height.sum():.1f} % of the"
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
