"""Make the result of a scan from the candidates of its positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.orientation.candidates import DISTINCT, Candidates
from gpu4d.orientation.library import OrientationLibrary
from gpu4d.orientation.orientations import Grain, Orientations
from gpu4d.orientation.overlap import Overlap, amount
from gpu4d.orientation.symmetry import misorientation, smallest_turn
from gpu4d.structures import Structure

if TYPE_CHECKING:
    from gpu4d.orientation.choose import Looked


def assemble(
    shape: tuple[int, ...], rows: np.ndarray, first: Candidates, overlap: Overlap, looked: Looked | None,
    libraries: list[OrientationLibrary], structures: tuple[Structure, ...], known: Calibration,
) -> Orientations:  # fmt: skip
    """Return orientations in the shape of the scan. `rows` are the positions of the candidates."""
    main, second = _empty(shape), _empty(shape)
    one, other = overlap.first, overlap.second
    if looked is not None:
        first, one, other = (_by_counts(c, said) for c, said in zip((first, one, other), looked))
    _put(main, rows, first, np.ones(len(rows)), None, structures)
    if len(overlap.rows):
        amounts = np.stack([amount(one, libraries), amount(other, libraries)])
        share = amounts / amounts.sum(axis=0)
        larger = share[0] >= share[1]
        for grain, swap in ((main, ~larger), (second, larger)):
            for own, rival, part, wanted in ((one, other, share[0], ~swap), (other, one, share[1], swap)):
                chosen = np.flatnonzero(wanted)
                pick = lambda c, chosen=chosen: Candidates(*(f[chosen] for f in c))  # noqa: E731
                _put(grain, rows[overlap.rows[chosen]], pick(own), part[chosen], pick(rival), structures)
    axes = "detector" if known.rotation is None else "scan"
    warnings = (
        () if known.rotation is not None else ("the rotation between scan and detector is not calibrated: lab x and y are the detector's",)
    )
    thickness = tuple(library.thickness for library in libraries)
    return Orientations(Grain(**main), Grain(**second), structures, thickness, known.r_pixel, axes, warnings)


def _empty(shape: tuple[int, ...]) -> dict[str, Any]:
    nan = lambda *more: np.full((*shape, *more), np.nan)  # noqa: E731
    return {
        "matrices": nan(3, 3), "phase": np.full(shape, -1), "correlation": nan(), "share": nan(), "margin": nan(),
        "alternative": nan(3, 3), "alternative_phase": np.full(shape, -1), "covariance": nan(3, 3),
    }  # fmt: skip


def _by_counts(candidates: Candidates, said: np.ndarray) -> Candidates:
    """Order candidates by what the patterns say, where they were looked at: costs become −2 × log likelihood."""
    looked = np.isfinite(said)
    cost = np.where(looked, -2 * np.where(looked, said, 0.0), candidates.cost)
    any_looked = looked.any(axis=1)
    # Candidates that were not compared keep their distance from the best of those that were.
    top = np.where(looked, cost, np.inf).min(axis=1)
    shift = np.where(any_looked, top - candidates.cost[:, 0], 0.0)[:, None]
    cost = np.where(looked, cost, candidates.cost + shift)
    order = np.argsort(np.where(np.isfinite(cost), cost, np.inf), axis=1, kind="stable")
    number = np.arange(len(order))[:, None]
    return Candidates(*(field[number, order] for field in candidates._replace(cost=cost)))


def _put(
    grain: dict[str, Any],
    positions: np.ndarray,
    own: Candidates,
    share: np.ndarray,
    rival: Candidates | None,
    structures: tuple[Structure, ...],
) -> None:
    """Write one grain of some positions. The other grain at a position is no alternative."""
    shape = grain["phase"].shape
    good = np.flatnonzero(own.phase[:, 0] >= 0) if len(positions) else np.zeros(0, np.int64)
    at = np.unravel_index(positions[good], shape)
    own = Candidates(*(field[good] for field in own))
    rival = None if rival is None else Candidates(*(field[good] for field in rival))
    margin, alternative, phase = _margin(own, rival, structures)
    for number, structure in enumerate(structures):
        mine, theirs = own.phase[:, 0] == number, phase == number
        own.turns[mine, 0] = smallest_turn(own.turns[mine, 0], structure)
        alternative[theirs] = smallest_turn(alternative[theirs], structure)
    values = {
        "matrices": own.turns[:, 0], "phase": own.phase[:, 0], "correlation": own.correlation[:, 0], "share": share[good], "margin": margin,
        "alternative": alternative, "alternative_phase": phase, "covariance": _covariance(own.normal[:, 0]),
    }  # fmt: skip
    for name, value in values.items():
        grain[name][at] = value


def _margin(own: Candidates, rival: Candidates | None, structures: tuple[Structure, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return margin, orientation and phase of the best alternative: inf, NaN and −1 where there is none."""
    cost = np.where(own.phase >= 0, own.cost, np.inf)
    if rival is not None:
        for number, structure in enumerate(structures):
            same = (own.phase == number) & (rival.phase[:, :1] == number)
            angle = misorientation(own.turns, rival.turns[:, :1], structure)
            cost = np.where(same & (angle < DISTINCT), np.inf, cost)
        cost[:, 0] = own.cost[:, 0]
    rows = np.arange(len(cost))
    best = cost[:, 1:].argmin(axis=1) + 1 if cost.shape[1] > 1 else np.zeros(len(cost), np.int64)
    margin = 0.5 * (cost[rows, best] - cost[:, 0]) if cost.shape[1] > 1 else np.full(len(cost), np.inf)
    none = ~np.isfinite(margin)
    alternative, phase = own.turns[rows, best].copy(), own.phase[rows, best].copy()
    alternative[none], phase[none] = np.nan, -1
    return np.where(none, np.inf, margin), alternative, phase


def _covariance(normal: np.ndarray) -> np.ndarray:
    """Return the covariance of the three turns, (n, 3, 3), from normal matrices of turns and scale; NaN where one is singular."""
    size = np.sqrt(np.clip(np.diagonal(normal, axis1=-2, axis2=-1), 1e-300, None))
    scaled = normal / (size[:, :, None] * size[:, None, :])
    regular = np.abs(np.linalg.det(scaled)) > 1e-12
    inverse = np.linalg.inv(np.where(regular[:, None, None], scaled, np.eye(normal.shape[-1]))) / (size[:, :, None] * size[:, None, :])
    return np.where(regular[:, None, None], inverse, np.nan)[:, :3, :3]
