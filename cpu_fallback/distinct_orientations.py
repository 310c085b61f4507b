"""Choose distinct orientations (CPU twin): one pattern after the other, and no angle to a candidate that is already left out."""

import numpy as np

from gpu4d.compiled import contiguous, entry, helper
from gpu4d.orientation.distinct_orientations import checked


@helper()
def _near(between, rotations, owner, own, limit):
    """Say whether two orientations of a crystal are one: whether tr(Rᵀ R' P) passes a limit for one of its rotations P."""
    for k in range(len(owner)):
        if owner[k] == own:
            trace = 0.0
            for i in range(9):
                trace += between[i] * rotations[k, i]
            if trace > limit:
                return True
    return False


@helper()
def _turn_between(one, other, between):
    """Write Rᵀ R'."""
    for i in range(3):
        for j in range(3):
            between[3 * i + j] = one[0, i] * other[0, j] + one[1, i] * other[1, j] + one[2, i] * other[2, j]


@entry()
def _choose(turns, cost, phase, rotations, owner, limit, order, left, between):
    for b in range(cost.shape[0]):
        for c in range(cost.shape[1]):
            left[c] = cost[b, c] if np.isfinite(cost[b, c]) else np.inf
        for place in range(order.shape[1]):
            best = 0
            for c in range(cost.shape[1]):
                if left[c] < left[best]:
                    best = c
            if cost.shape[1] == 0 or left[best] == np.inf:
                order[b, place] = -1
                continue
            order[b, place] = best
            own = phase[b, best]
            for c in range(cost.shape[1]):
                if left[c] < np.inf and phase[b, c] == own:
                    _turn_between(turns[b, best], turns[b, c], between)
                    if c == best or _near(between, rotations, owner, own, limit):
                        left[c] = np.inf


def distinct_orientations(turns, cost, phase, rotations, owner, /, *, angle, count):
    checked(turns, cost, phase, rotations, owner)
    order = np.empty((cost.shape[0], count), np.int64)
    turns, cost = contiguous(turns, np.float64), contiguous(cost, np.float64)
    images = contiguous(np.swapaxes(rotations, 1, 2).reshape(-1, 9), np.float64)
    phase, owner = contiguous(phase, np.int64), contiguous(owner, np.int64)
    _choose(turns, cost, phase, images, owner, 1.0 + 2.0 * np.cos(angle), order, np.empty(cost.shape[1]), np.empty(9))
    return order
