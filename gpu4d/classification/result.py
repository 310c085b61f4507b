"""Measure the classes that were kept: their shares at every position, their profiles and mean patterns."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from gpu4d.classification.classes import Classes, maps
from gpu4d.classification.distinct import Kept
from gpu4d.classification.features import Features, summed
from gpu4d.classification.fractions import best_blur, comparable, groups, pure_profiles, shown_spots, smoothed_shares
from gpu4d.classification.search import Search
from gpu4d.classification.totals import Totals, totals
from gpu4d.data import DiffractionSlice, RealSlice
from gpu4d.rings.find_ring import find_ring

log = logging.getLogger("gpu4d")


def measured_classes(
    search: Search, features: Features, kept: Kept, smooth: float | str, tolerance: float, wanted: int | None = None
) -> Classes:
    """Return the classes that were kept, the largest first."""
    profiles, pure = pure_profiles(features, kept.totals.rows(kept.kept))
    patterns = None if search.cube is None else search.mean_patterns(np.moveaxis(features.on_scan(pure, 0.0), -1, 0))
    sums = totals(features, pure, patterns, search.middle)
    group = groups(shown_spots(sums), features.diffuse.shape[1])
    rows, model = summed(features.columns, group), comparable(summed(profiles, group))
    blur = best_blur(features, rows, model) if smooth == "auto" else float(smooth)
    share, error = smoothed_shares(features, rows, model, blur)
    if search.cube is None:
        share, error = _empty_alone(features, share, error, profiles.sum(1))
    order = np.argsort(-np.bincount(np.argmax(np.nan_to_num(share), axis=1), minlength=len(sums)), kind="stable")
    warnings = _warnings(kept, np.argsort(order), wanted)
    for text in warnings:
        log.warning("classification: %s", text)
    step = None if search.cube is None else search.cube.calibration.r_pixel
    on_scan = [np.moveaxis(features.on_scan(rows[:, order]), -1, 0) for rows in (share, error)]
    return Classes(
        **maps(on_scan[0], on_scan[1], RealSlice.calibrated(np.zeros((1, 1)), "", "1", step)),
        **_profiles(features, sums.rows(list(order)), pure[:, order]),
        patterns=None if patterns is None else _slice(patterns[order], search),
        kinds=kinds_of(sums.rows(list(order)), None if patterns is None else patterns[order], search),
        spots=features.spots,
        blur=blur,
        story=(*_story(kept), *_about(search, features)),
        warnings=warnings,
        tolerance=tolerance,
        features=features,
        origin=search.center,
    )


def _profiles(features: Features, sums: Totals, pure: np.ndarray) -> dict[str, Any]:
    """Return the counts of every reflection in pure positions without the diffuse ones, their standard errors, and which are shown."""
    pair = features.pair_of_spot
    counts, positions = pure.T @ features.counts, np.maximum(pure.sum(0), 1e-300)[:, None]
    diffuse = (sums.background / np.maximum(sums.pairs, 1e-300))[:, pair]
    return {
        "profiles": counts * (1 - diffuse) / positions * features.gain,
        "profile_errors": np.sqrt((pure**2).T @ features.counts) / positions * features.gain,
        "shown": shown_spots(sums)[:, pair],
    }


def _slice(patterns: np.ndarray, search: Search) -> DiffractionSlice:
    pixel = None if search.cube is None else search.cube.calibration.q_pixel
    return DiffractionSlice.calibrated(patterns, "class patterns", "counts", pixel, tuple(f"class {j}" for j in range(len(patterns))))


def _empty_alone(features: Features, share: np.ndarray, error: np.ndarray, net: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give positions without disks to the class without counts, if there is one."""
    empty, nothing = features.pairs.sum(1) <= 0, np.flatnonzero(net <= 0)
    if len(nothing):
        share[empty], error[empty] = 0.0, 0.0
        share[empty, nothing[0]] = 1.0
    return share, error


def kinds_of(sums: Totals, patterns: np.ndarray | None, search: Search) -> tuple[str, ...]:
    """Say of every class whether it shows disks, or a halo, or neither."""
    kinds = []
    shown = shown_spots(sums)
    for j in range(len(sums)):
        shows, ring = bool(shown[j].any()), None
        if not shows and patterns is not None and np.isfinite(patterns[j]).all():
            ring = find_ring(patterns[j], (float(search.middle[0]), float(search.middle[1])), 2 * search.radius)
        kinds.append("crystal" if shows else "no disks" if ring is None else "amorphous")
    return tuple(kinds)


def _story(kept: Kept) -> tuple[str, ...]:
    """Say in sentences what became of the parts."""
    if not kept.same and not kept.mixtures:
        return ()
    return (
        f"{len(kept.kept) + len(kept.same) + len(kept.mixtures)} parts were compared: {len(kept.same)} were joined with another, because "
        f"bending, thickness and noise explain the difference, and {len(kept.mixtures)} are mixtures of others",
    )


def _about(search: Search, features: Features) -> tuple[str, ...]:
    """Say what was assumed about the counts."""
    if search.cube is None:
        return (
            "only found disks were counted: phases that differ in fainter ones are one class, positions with few disks may be classes of "
            "their own, and standard errors are too small; with the cube all counts are used",
        )
    if features.gain != 1.0:
        return (f"one electron was taken as {features.gain:.3g} counts, from the noise of the diffuse scattering",)
    return ()


def _warnings(kept: Kept, place: np.ndarray, wanted: int | None) -> tuple[str, ...]:
    """Say what was decided against the statistics. `place` has the number of each kept part among the classes."""
    texts = []
    if wanted is not None and len(kept.kept) < wanted:
        texts.append(f"{wanted} classes were asked for and {len(kept.kept)} could be made, as many as the scan was split into")
    for part, how in kept.forced:
        if part in kept.kept:
            number = int(place[kept.kept.index(part)])
            texts.append(f"class {number} is explained by the others up to bending, thickness and noise: one phase may have been split")
        else:
            texts.append(
                f"a part that is a class of its own ({how.unexplained:.0%} of its counts unexplained, {int(how.missing.sum())} pairs of "
                "reflections differ) was given up for the number of classes asked for"
            )
    return tuple(texts)
