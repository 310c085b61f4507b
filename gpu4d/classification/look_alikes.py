"""Find classes of patterns that are probably one phase: the same reflections, brighter or fainter, or the same ones turned."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from gpu4d.classification.classes import Classes

ALIKE = 0.8  # share of the reflections of both classes that must agree; the rest may be too faint in one of them
LEAST = 4  # reflections of a class: fewer agree with others by chance
DIGITS = 3  # of an angle in rad: turns that differ by less move no reflection of a detector by a pixel
NEAR = 1.5  # px: distance up to which two reflections are one, after the turn


class LookAlikes(NamedTuple):
    """Two classes with the same reflections.

    Attributes
    ----------
    first, second : int
        Their numbers.
    turn : float
        By which the reflections of the first must be turned, rad, from x to y. 0 where they are in the same places.
    agree : float
        Share of the reflections of both that agree then.
    """

    first: int
    second: int
    turn: float
    agree: float

    def __str__(self) -> str:
        which = f"classes {self.first} and {self.second} show the same reflections"
        if self.turn == 0:
            return f"{which}, brighter or fainter: they may be one phase that is thicker, tilted, or split by noise"
        return f"{which}, turned by {math.degrees(self.turn):.1f}°: they may be one phase in two orientations"


def look_alikes(classes: Classes) -> list[LookAlikes]:
    """Compare the reflections of all pairs of crystalline classes, turned against each other.

    Parameters
    ----------
    classes : Classes

    Returns
    -------
    list of LookAlikes
        Pairs whose reflections agree, in the same places or after a turn.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.bragg_scan((6, 6), (64, 64), spacing=15.0, radius=4.0, strain=None, seed=2)
    >>> disks = gpu4d.find_bragg_disks(scan.cube, scan.probe)
    >>> look_alikes(gpu4d.classify(disks, scan.cube, template=scan.probe))
    []
    """
    spots = np.asarray(classes.spots, dtype=np.float64)
    lengths = np.hypot(*spots.T)
    # A turn moves reflections from the corners of the detector off it: beyond the circle in it, sets of one phase differ.
    circle = float(np.abs(spots).max(axis=0).min()) + NEAR if len(spots) else 0.0
    sets = [spots[np.asarray(shown) & (lengths > NEAR) & (lengths < circle)] for shown in classes.shown]
    crystals = [j for j, kind in enumerate(classes.kinds) if kind == "crystal" and len(sets[j]) >= LEAST]
    found = []
    for i, j in itertools.combinations(crystals, 2):
        turn, agree = _best_turn(sets[i], sets[j])
        if agree >= ALIKE:
            found.append(LookAlikes(i, j, turn, agree))
    return found


def _best_turn(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the turn from one set of reflections to the other, and the share that agrees then. No turn is preferred, then a small one."""
    same = _agreement(first, second)
    if same >= ALIKE:
        return 0.0, same
    away, other = np.hypot(*first.T), np.hypot(*second.T)
    pairs = np.argwhere(np.abs(away[:, None] - other[None]) < NEAR)
    angle, partner = (np.arctan2(points[:, 1], points[:, 0]) for points in (first, second))
    turns = (partner[pairs[:, 1]] - angle[pairs[:, 0]] + np.pi) % (2 * np.pi) - np.pi
    best = (0.0, same)
    for turn in sorted(np.unique(np.round(turns, DIGITS)), key=abs):
        c, s = math.cos(turn), math.sin(turn)
        agree = _agreement(first @ np.array([[c, s], [-s, c]]), second)
        if agree > best[1] + 1e-9:
            best = (float(turn), agree)
    return best


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of the reflections of both sets that have a partner in the other."""
    near = np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1)) < NEAR
    return float((near.any(axis=1).sum() + near.any(axis=0).sum()) / (len(first) + len(second)))
