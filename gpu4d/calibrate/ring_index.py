"""Say which ring is which: the scale at which the rings of known crystals fall on the peaks of a radial profile.

Host by design: a few peaks and some dozen rings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu4d import physics
from gpu4d.arrays import ArrayLike
from gpu4d.calibrate.ring_start import Peak, Profile
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.structures import Structure

Crystals = str | Structure | Sequence[str | Structure] | ArrayLike  # known crystals, their names, or |g|

MOST_RINGS = 400  # of all crystals together; more lie closer than any pattern can show
WEAK = 2e-3  # of the strongest ring of its crystal, per area: such rings are left out
TRIED_PEAKS, TRIED_RINGS = 6, 15  # each of these peaks may be each of these rings
BESIDE = 0.6  # px: how far from its place a ring may be brightest
SEEN = 4.0  # standard errors over the ground: a ring is there
SAME = 0.004  # of the scale: nearer ones become the same when they are improved
AROUND = 0.06  # of the scale: how far the peaks may have misled it, where rings are one peak
PRIOR = 0.12  # how far a given pixel size may be off
UNEXPLAINED = 0.08  # of the intensity of all peaks, in peaks that are no ring of the crystals: more is another crystal
MISSING = 0.65  # of the expected rings, weighted by the root of their intensity: so many must be there


class KnownRings(NamedTuple):
    """Rings of known crystals from small g to large: |g| (K,), 1/Å, expected intensity per area (K,), names, and the crystal's number (K,).

    Without structures, intensities are not known. They are then ∝ 1/g², and no ring is left out for being weak.
    """

    g: np.ndarray
    intensity: np.ndarray
    names: tuple[str, ...]
    crystal: np.ndarray

    def upto(self, g_max: float) -> KnownRings:
        keep = self.g <= g_max
        return KnownRings(self.g[keep], self.intensity[keep], tuple(n for n, k in zip(self.names, keep) if k), self.crystal[keep])


def known_rings(crystals: Crystals, g_max: float, energy: float | None = None, weak: float = WEAK) -> KnownRings:
    """Return the rings of one or several crystals up to |g| = g_max, 1/Å.

    Parameters
    ----------
    crystals : Structure, str, (K,) array of |g|, or a sequence of Structures and names
        A name is one of `gpu4d.structures.STANDARDS`.
    g_max : float
        1/Å. Does not cut an array.
    energy : float, optional
        eV. If given, |g| becomes tan(2θ)/λ: where a flat detector shows the ring.
    weak : float
        Rings weaker than this part of the strongest one of their crystal, per area, are left out.
    """
    parts = [_of_lengths(crystals)] if is_lengths(crystals) else [_of_structure(s, g_max, weak) for s in structures(crystals)]
    g, intensity = np.concatenate([p.g for p in parts]), np.concatenate([p.intensity for p in parts])
    crystal = np.repeat(np.arange(len(parts)), [len(p.g) for p in parts])
    names = [n for p in parts for n in p.names]
    order = np.argsort(g, kind="stable")[:MOST_RINGS]
    g = g[order]
    if energy is not None:
        wave = physics.wavelength(energy)
        g = np.tan(2 * np.arcsin(np.minimum(wave * g / 2, 0.7))) / wave
    return KnownRings(g, intensity[order], tuple(names[i] for i in order), crystal[order])


def is_lengths(crystals: Crystals) -> bool:
    if isinstance(crystals, str | Structure):
        return False
    return not (isinstance(crystals, Sequence) and any(isinstance(c, str | Structure) for c in crystals))


def structures(crystals: Any) -> list[Structure]:
    given = [crystals] if isinstance(crystals, str | Structure) else list(crystals)
    found = [Structure.standard(c) if isinstance(c, str) else c for c in given]
    if wrong := [type(c).__name__ for c in found if not isinstance(c, Structure)]:
        raise InputError(f"crystals holds a {wrong[0]}: need Structures or names of gpu4d.structures.STANDARDS, or an array of |g| in 1/Å")
    return found


def _of_structure(crystal: Structure, g_max: float, weak: float) -> KnownRings:
    rings = crystal.rings(g_max)
    if not len(rings):
        raise InputError(f"{crystal.name} has no ring below {g_max:g} 1/Å: give a larger g_max, or another crystal")
    per_area = rings.intensity / rings.g**2  # a ring is shared by its circumference, and by the orientations that excite it, each ∝ g
    keep = per_area > weak * per_area.max()
    names = [f"{crystal.name} {' '.join(map(str, hkl))}" for hkl in rings.hkl[keep]]
    return KnownRings(rings.g[keep], per_area[keep] / per_area.max(), tuple(names), np.zeros(len(names), np.int64))


def _of_lengths(lengths: Any) -> KnownRings:
    g = np.unique(np.atleast_1d(real_values(lengths, "crystals", "Structures, names, or |g| in 1/Å")).astype(np.float64))
    if not g.size or not (np.isfinite(g).all() and (g > 0).all()):
        raise InputError(
            f"crystals has {g.size} values, not all positive: need Structures, names of gpu4d.structures.STANDARDS, or |g| in 1/Å"
        )
    return KnownRings(g, (g[0] / g) ** 2, tuple(f"{1 / v:.4g} Å" for v in g), np.zeros(len(g), np.int64))


class Indexed(NamedTuple):
    """Scale, px · Å; how much of the peaks' intensity inside of the last ring lies on rings; how much of the rings of each crystal is
    there, at least; the peaks that lie on none; and how well all agrees."""

    scale: float
    explained: float
    found: float
    strangers: tuple[float, ...]
    score: float
    chance: float


def index_peaks(rings: KnownRings, peaks: Sequence[Peak], r: np.ndarray, height: np.ndarray, q_pixel: float | None) -> Indexed:
    """Return the scale at which most peaks lie on rings, and most rings have a peak.

    Parameters
    ----------
    rings : KnownRings
    peaks : sequence of Peak
    r, height : (m,) array
        Radial profile over its ground, in standard errors.
    q_pixel : float, optional
        1/Å, known to 12 %.
    """
    return index_trials(rings, peaks, r, height, q_pixel)[0]


def index_trials(
    rings: KnownRings, peaks: Sequence[Peak], r: np.ndarray, height: np.ndarray, q_pixel: float | None, tolerance: float = PRIOR
) -> list[Indexed]:
    """Return all scales that `index_peaks` judges, the best first. `tolerance` is the part by which `q_pixel` may be off."""
    if not peaks:
        raise InputError("no ring stands out of the pattern: need a powder of small crystals, and counts enough to see its rings")
    strong = sorted(peaks, key=lambda p: -p.height * p.r)[:TRIED_PEAKS]
    scales = np.array([p.r / g for p in strong for g in rings.g[:TRIED_RINGS]])
    if q_pixel is not None:
        scales = scales[np.abs(scales * q_pixel - 1) < tolerance]
        if not scales.size:
            raise InputError(f"with q_pixel = {q_pixel:g} 1/Å no ring of the crystals is near a peak of the pattern: check both")
    one_of_each = np.unique(np.rint(np.log(scales) / SAME), return_index=True)[1]
    return sorted((judged_scale(rings, peaks, r, height, scale) for scale in scales[one_of_each]), key=lambda i: -i.score)


def judged_scale(rings: KnownRings, peaks: Sequence[Peak], r: np.ndarray, height: np.ndarray, scale: float) -> Indexed:
    """Judge a scale after improving it by the peaks near a ring."""
    place = np.array([p.r for p in peaks])
    near = np.array([max(1.0, 0.3 * p.width) for p in peaks])
    strength = np.array([p.height * p.r for p in peaks])
    for _ in range(2):
        nearest = rings.g[np.argmin(np.abs(place[:, None] - scale * rings.g), axis=1)]
        off = (place - scale * nearest) / near
        weight = strength * np.exp(-0.5 * off**2)
        if weight.sum() > 0:
            scale = float((weight * nearest * place).sum() / (weight * nearest**2).sum())
    off = np.min(np.abs(place[:, None] - scale * rings.g), axis=1) / near
    on = np.exp(-0.5 * np.maximum(off - 1, 0) ** 2)
    view = (scale * rings.g > max(r[0], 0.8 * place.min())) & (scale * rings.g < place.max() + 1)
    there = np.array([height[np.abs(r - x) <= BESIDE].max(initial=0.0) > SEEN for x in scale * rings.g[view]])
    expected = np.sqrt(rings.intensity[view])
    of = rings.crystal[view]
    found = min(float((expected * there)[of == i].sum() / max(expected[of == i].sum(), 1e-300)) for i in range(rings.crystal.max() + 1))
    explained = float((strength * on).sum() / strength.sum())
    chance = _covered(scale * rings.g, place, near)
    close = float((strength * np.exp(-0.5 * off**2)).sum() / strength.sum())
    score = (explained - chance) / max(1 - chance, 0.05) * found * (0.7 + 0.3 * close)  # of scales that explain all, the nearest
    strength = strength * (place < scale * rings.g[-1] + near)  # those farther out may be rings that were not listed
    total = max(float(strength.sum()), 1e-300)
    strangers = tuple(float(p.r) for p, share, o in zip(peaks, strength / total, off) if o > 2.5 and share > 0.01)
    return Indexed(scale, float((strength * on).sum()) / total, found, strangers, score, chance)


def refined_scale(rings: KnownRings, profile: Profile, over: np.ndarray, width: float, scale: float) -> float:
    """Return the scale near a first one at which Gaussian rings fit the profile over its ground best: two rings may be one peak."""
    from scipy.optimize import nnls

    inside = (profile.r > 0.7 * scale * rings.g[0]) & (profile.seen > 0.25)
    weight = 1 / np.maximum(profile.error[inside], 1e-12)

    def misfit(trial: float) -> float:
        place = trial * rings.g[trial * rings.g < profile.r[-1]]
        shapes = np.exp2(-((2 * (profile.r[inside, None] - place) / width) ** 2))
        return float(nnls(shapes * weight[:, None], over[inside] * weight)[1])

    return min((scale * step for step in np.linspace(1 - AROUND, 1 + AROUND, 49)), key=misfit)


def _covered(on_ring: np.ndarray, place: np.ndarray, near: np.ndarray) -> float:
    """Return the part of the radii, from the first peak to the last, as near to a ring as a peak has to be: what chance explains."""
    radii = np.linspace(0.8 * place.min(), place.max() + 1, 200)
    room = np.interp(radii, place, near)
    return float((np.abs(radii[:, None] - on_ring).min(axis=1) < 1.5 * room).mean())


def check_indexed(found: Indexed, rings: KnownRings, missing: float = MISSING) -> None:
    """Raise InputError if the pattern is not one of these crystals. Of the expected rings the part `missing` must be there."""
    whose = ", ".join(dict.fromkeys(n.split()[0] for n in rings.names)) if not rings.names[0].endswith("Å") else "the given spacings"
    if 1 - found.explained > UNEXPLAINED:
        where = f", at {', '.join(f'{x:.1f}' for x in found.strangers[:6])} px," if found.strangers else ""
        raise InputError(
            f"the pattern does not fit {whose}: even at the best scale {100 * (1 - found.explained):.0f} % of the rings' intensity{where}"
            " lies on none of its rings: give the right crystal, or all crystals of the specimen"
        )
    if found.found < missing:
        raise InputError(
            f"the pattern does not fit {whose}: even at the best scale only {100 * found.found:.0f} % of the expected rings"
            f"{' of one of them' if rings.crystal.max() else ''} are there: give the right crystals, or the |g| of the rings that are seen"
        )
