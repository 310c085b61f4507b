"""Orientations of gold from peaks: what is made for both tools, and how their answers are held against the truth."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from gpu4d.benchmarks.peers.table import Check

ENERGY, THICKNESS = 200e3, 40.0  # eV, Å
A, G_MAX = 4.0786, 1.4  # Å, 1/Å
Q_PIXEL, ORIGIN = 0.02, 64.0  # 1/Å, px
LEAST_PEAKS = 12  # of a pattern
BEST, WEAKEST = 300.0, 2.0  # counts/px of the strongest reflection there is, and of the weakest peak
NOISE = 0.03  # px


def write(folder: pathlib.Path, patterns: int) -> None:
    """Peaks of gold in random orientations, kinematical, with noise in positions and intensities, as padded tables."""
    from scipy.spatial.transform import Rotation

    from gpu4d import physics
    from gpu4d.orientation.library import excitation_error
    from gpu4d.structures import Structure

    rng = np.random.default_rng(7)
    found = Structure.standard("Au").reflections(G_MAX)
    strength = found.intensity / found.intensity.max()
    turns: list[np.ndarray] = []
    lists: list[np.ndarray] = []
    while len(turns) < patterns:
        turn = Rotation.random(random_state=rng).as_matrix()
        lab = found.g @ turn.T
        height = BEST * strength * np.sinc(excitation_error(lab, 1 / physics.wavelength(ENERGY)) * THICKNESS) ** 2
        seen = height > WEAKEST
        if seen.sum() < LEAST_PEAKS:
            continue
        counts = rng.poisson(12 * height[seen]) / 12  # a disk of 12 pixels
        place = ORIGIN + lab[seen, :2] / Q_PIXEL + NOISE * rng.normal(size=(seen.sum(), 2))
        direct = [[ORIGIN, ORIGIN, 2 * BEST]]
        lists.append(np.concatenate([direct, np.column_stack([place, counts])]))
        turns.append(turn)
    np.savez(
        folder / "orientation.npz", peaks=np.concatenate(lists), starts=np.cumsum([0, *map(len, lists)]), turns=np.array(turns),
        energy=ENERGY, thickness=THICKNESS, a=A, g_max=G_MAX, q_pixel=Q_PIXEL, origin=ORIGIN,
    )  # fmt: skip


def near_the_truth(folder: pathlib.Path, theirs: dict[str, Any], ours: dict[str, Any]) -> list[Check]:
    """Angles to the truth, by symmetry the smallest. The peer's crystal is turned by 180° about the beam: it counts z the other way."""
    with np.load(folder / "orientation.npz") as stored:
        truth = stored["turns"][: len(theirs["turns"])]
    flipped = np.diag([-1.0, -1.0, 1.0]) @ theirs["turns"]
    mine, other = ours["turns"][: len(truth)], ours["alternatives"][: len(truth)]
    peer, own, alternative, between = (
        np.degrees(angle(a, b)) for a, b in ((truth, flipped), (truth, mine), (truth, other), (flipped, mine))
    )
    doubtful = ours["ambiguous"][: len(truth)]
    wrong = ~(own < 2) & ~(doubtful & (alternative < 2))
    return [
        Check("median angle between the two, degrees", float(np.nanmedian(between)), 4.0),
        Check("median error of gpu4d where it is sure, degrees", float(np.nanmedian(own[~doubtful])), 0.2),
        Check("median error of the peer", float(np.nanmedian(peer))),
        Check("patterns that gpu4d gets wrong by more than 2°, and does not say so", float(wrong.mean()), 0.1),
        Check("patterns that look like another orientation", float(doubtful.mean())),
        Check("patterns that the peer gets wrong by more than 5°", float(np.mean(~(peer < 5)))),
    ]


def angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest angle between orientations of a cubic crystal, rad."""
    from gpu4d.orientation import misorientation
    from gpu4d.structures import Structure

    return misorientation(first, second, Structure.standard("Au"))
