"""Inputs of the cases of orientation matching: a face-centred cubic crystal like gold in random orientations, by arithmetic alone."""

from __future__ import annotations

from typing import Any

import numpy as np

A, G_MAX, WAVE_NUMBER, THICKNESS = 4.08, 1.4, 39.87, 40.0  # Å, 1/Å, 1/Å at 200 kV, Å
HARMONICS, SHELLS, AXES = 97, 12, 248  # of a library of gold with steps of 2°
PEAKS, CANDIDATES = 24, 12
Q_MIN, RADIUS = 0.2, 0.05  # 1/Å
UNIT, RELATIVE, LEAST = 0.08, 0.2, 0.3


def turns_of(rng: np.random.Generator, shape: tuple[int, ...], spread: float | None = None) -> np.ndarray:
    """Random orientations (…, 3, 3), or random turns of about `spread` rad."""
    from scipy.spatial.transform import Rotation

    n = int(np.prod(shape))
    made = Rotation.random(n, random_state=rng) if spread is None else Rotation.from_rotvec(spread * rng.normal(size=(n, 3)))
    return made.as_matrix().reshape(*shape, 3, 3)


def reflections() -> tuple[np.ndarray, np.ndarray]:
    """Reflections (m, 3), 1/Å, and their amplitudes over the largest."""
    side = np.arange(-6, 7)
    h = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)
    g = h[(h % 2 == h[:, :1] % 2).all(axis=1) & (h != 0).any(axis=1)] / A
    g = g[np.linalg.norm(g, axis=1) <= G_MAX]
    size = np.exp(-1.2 * np.linalg.norm(g, axis=1))
    return g, size / size.max()


def peak_tables(rng: np.random.Generator, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peaks (n, 24, 5) of orientations, kinematical, with noise, and how many there are: the strongest."""
    g, factor = reflections()
    lab = np.swapaxes(turns @ g.T, -1, -2)
    s = np.sqrt(WAVE_NUMBER**2 - lab[..., 0] ** 2 - lab[..., 1] ** 2) - WAVE_NUMBER - lab[..., 2]
    height = 100 * factor**2 * np.sinc(s * THICKNESS) ** 2
    order = np.argsort(-height, axis=1)[:, :PEAKS]
    m = np.maximum(np.take_along_axis(height, order, axis=1), LEAST)
    place = np.take_along_axis(lab, order[..., None], axis=1)[..., :2] + 6e-4 * rng.normal(size=(*m.shape, 2))
    table = np.concatenate([place, np.stack([m, UNIT * m + (RELATIVE * m) ** 2, np.full(m.shape, 2e-3)], axis=-1)], axis=-1)
    return table, (m > LEAST).sum(axis=1)


def library_spectra(n: int) -> tuple[tuple, dict[str, Any]]:
    """Peaks of n patterns, and spectra of zone axes of which nothing but their size matters."""
    rng = np.random.default_rng(3)
    table, counts = peak_tables(rng, turns_of(rng, (n,)))
    weight = np.where(np.arange(PEAKS) < counts[:, None], np.hypot(table[..., 0], table[..., 1]) * np.sqrt(table[..., 2]), 0.0)
    fall = np.exp(-0.5 * (0.0244 * np.arange(HARMONICS)) ** 2)[:, None, None] / 30
    parts = [(fall * rng.normal(size=(HARMONICS, SHELLS, AXES))).astype(np.float32) for _ in range(2)]
    return (np.dstack([table[..., :2], weight]), np.linspace(0.4, G_MAX, SHELLS), *parts), {"width": 0.04}


def refined_candidates(n: int) -> tuple[tuple, dict[str, Any]]:
    """Candidates half a degree off, as the maxima of a correlation are."""
    rng = np.random.default_rng(4)
    truth = turns_of(rng, (n,))
    table, counts = peak_tables(rng, truth)
    turns = turns_of(rng, (n, CANDIDATES), 0.006) @ truth[:, None]
    numbers = {
        "wave_number": WAVE_NUMBER, "thickness": THICKNESS, "radius": RADIUS, "reach": 3 / THICKNESS, "least": LEAST, "q_max": 1.35,
        "q_min": Q_MIN, "unit": UNIT, "relative": RELATIVE, "steps": 4,
    }  # fmt: skip
    return (turns, table, counts, *reflections()), numbers


def several_candidates(n: int) -> tuple[tuple, dict[str, Any]]:
    """Twenty-four candidates of eight orientations, as equivalents of a cubic crystal."""
    from scipy.spatial.transform import Rotation

    rng, cubic = np.random.default_rng(5), Rotation.create_group("O").as_matrix()
    which = rng.integers(0, 8, (n, 24))
    turns = np.take_along_axis(turns_of(rng, (n, 8)), which[..., None, None], axis=1) @ cubic[rng.integers(0, 24, (n, 24))]
    zero = np.zeros((n, 24), np.int64)
    return (turns, rng.uniform(10, 500, (n, 24)), zero, cubic, np.zeros(24, np.int64)), {"angle": 0.05, "count": 4}


def expected_disks(n: int) -> tuple[tuple, dict[str, Any]]:
    """n disks on 64 patterns of few counts."""
    rng = np.random.default_rng(6)
    patterns = rng.poisson(0.3, (64, 128, 128)).astype(np.uint16)
    spots = np.concatenate([rng.uniform(5, 122, (n, 2)), rng.uniform(0.01, 2, (n, 1))], axis=-1)
    background = np.exp(-0.02 * np.arange(182.0))
    given = patterns, np.ones(patterns.shape, bool), rng.integers(0, 64, n), spots, np.full((64, 2), 63.5), background
    return given, {"radius": 2.5, "relative": 0.2}
