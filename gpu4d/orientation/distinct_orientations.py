"""Choose the cheapest candidates of each pattern that are distinct orientations: an operation."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation

MOST = 1400  # candidates of a pattern whose costs fit into the shared memory that a block of the kernel has on every card


def _too_many(turns: Any, cost: Any, *_: Any, **options: Any) -> str | None:
    """Return why the kernel cannot take so many candidates, or None."""
    return None if cost.shape[1] <= MOST else f"it takes up to {MOST} candidates of a pattern, not {cost.shape[1]}"


@operation(cuda=Twin("gpu4d.kernels.distinct_orientations", check=_too_many), cpu=Twin("gpu4d.cpu_fallback.distinct_orientations"))
def distinct_orientations(turns: Any, cost: Any, phase: Any, rotations: Any, owner: Any, /, *, angle: float, count: int) -> Any:
    """Return the numbers of the cheapest candidates of each pattern, without those that are nearly a cheaper one.

    R and R P are one orientation for each rotation P of the crystal, so that two of one phase are the smallest angle of all P apart:
    tr(Rᵀ R' P) = 1 + 2 cos α.

    Parameters
    ----------
    turns : (n, c, 3, 3) real
        Candidates, v_lab = R v_crystal.
    cost : (n, c) real
        What is not finite is no candidate.
    phase : (n, c) int
        Number of the crystal of each.
    rotations : (r, 3, 3) real
        Rotations of all crystals that leave them as they are, with the identity.
    owner : (r,) int
        Crystal of each rotation.
    angle : float
        Candidates of one phase that are less than this apart are one, rad.
    count : int
        Most candidates of a pattern.

    Returns
    -------
    (n, count) int64
        The cheapest first; −1 where there are fewer.

    Raises
    ------
    InputError
        Shapes that do not fit each other.
    """
    checked(turns, cost, phase, rotations, owner)
    xp = arrays.namespace(turns, cost, phase, rotations, owner)
    n, candidates = cost.shape
    none = xp.full((n,), -1, dtype=xp.int64, device=arrays.device(cost))
    if not candidates:
        return xp.stack(count * [none], axis=1)
    turns, cost, rotations = (arrays.as_float64(a) for a in (turns, cost, rotations))
    turns = xp.where(xp.isfinite(turns), turns, xp.zeros_like(turns))  # no candidates
    images = xp.reshape(xp.matrix_transpose(rotations), (-1, 9))
    left, picks = xp.where(xp.isfinite(cost), cost, xp.full_like(cost, math.inf)), []
    for _ in range(count):
        best = xp.argmin(left, axis=1, keepdims=True)
        picks.append(xp.where(xp.isfinite(xp.take_along_axis(left, best, axis=1)), best, none[:, None])[:, 0])
        own = xp.take_along_axis(phase, best, axis=1)
        turn = xp.take_along_axis(turns, xp.broadcast_to(best[..., None, None], (n, 1, 3, 3)), axis=1)
        between = xp.reshape(xp.matmul(xp.matrix_transpose(turn), turns), (n, candidates, 9))
        trace = xp.matmul(between, images.T)
        trace = xp.max(xp.where((owner == own)[:, None, :], trace, xp.full_like(trace, -math.inf)), axis=-1)
        near = (phase == own) & (trace > 1 + 2 * math.cos(angle))
        left = xp.where(near, xp.full_like(left, math.inf), left)
    return xp.astype(xp.stack(picks, axis=1), xp.int64)


def checked(turns: Any, cost: Any, phase: Any, rotations: Any, owner: Any) -> None:
    """Raise InputError if shapes do not fit each other."""
    fit = cost.ndim == 2 and turns.shape == (*cost.shape, 3, 3) and phase.shape == cost.shape
    if not fit or rotations.ndim != 3 or rotations.shape[1:] != (3, 3) or owner.shape != rotations.shape[:1]:
        named = zip(("turns", "cost", "phase", "rotations", "owner"), (turns, cost, phase, rotations, owner))
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in named)
        raise InputError(f"{shapes}: need turns (n, c, 3, 3), cost and phase (n, c), rotations (r, 3, 3), owner (r,)")
