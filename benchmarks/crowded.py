"""Two disks close to each other: how well each can be located, and how well it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gpu4d.benchmarks.disk_bound import Profile, soft
from gpu4d.benchmarks.disk_forms import Form
from gpu4d.benchmarks.disk_scenes import Found, Scene, drawn, find

from gpu4d.probe import template

SHAPE = (96, 96)
DOSES = (30.0, 300.0, 3000.0, 20000.0)  # electrons per pixel of the bright disk
RATIOS = (1.0, 5.0, 20.0, 100.0)  # bright over weak
SEPARATIONS = (1.6, 2.0, 2.4, 2.8, 3.4)  # radii
BACKGROUND = 0.004  # of the bright disk's height
SLOPE = 20.0  # px, scale of the background's slopes in the bound; it does not change the bound of positions
BOUNDED = 40  # patterns whose bound is computed; it hardly varies


def pairs(dose: float, ratio: float, separation: float, patterns: int, seed: int = 0) -> Scene:
    """A bright and a weak disk, anywhere within a pixel and in any direction, on an even background."""
    rng = np.random.default_rng(seed)
    profile = soft()
    middle = np.asarray(SHAPE) / 2 + rng.uniform(-2, 2, (patterns, 2))
    angle = rng.uniform(0, 2 * np.pi, patterns)
    away = separation * profile.radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    positions = np.stack([middle, middle + away], 1)
    heights = np.broadcast_to(np.asarray([dose, dose / ratio]), positions.shape[:2]).copy()
    return drawn(profile, np.full(SHAPE, BACKGROUND * dose), positions, heights, np.zeros_like(positions), rng)


def joint_variances(profile: Profile | Form, expected: np.ndarray, positions: np.ndarray, heights: np.ndarray, reach: float) -> np.ndarray:
    """Cramér-Rao bound on the variance of x and of y of every disk of a pattern, (K, 2), with the others unknown.

    Unknown are position and height of all disks, and the height and slopes of one background. Every pixel of the windows counts once.
    """
    x, y = (np.arange(n, dtype=float) for n in expected.shape)
    far = [np.stack(np.broadcast_arrays(x[:, None] - px, y[None, :] - py)) for px, py in positions]
    near = np.any([np.hypot(*d) <= reach for d in far], axis=0)
    rows = []
    for (dx, dy), height in zip(far, heights):
        slope = profile.gradient(dx[near], dy[near])
        rows += [-height * slope[0], -height * slope[1], profile.at(dx[near], dy[near])]
    u, v = (np.broadcast_to(a, expected.shape)[near] / SLOPE for a in (x[:, None] - x.mean(), y[None, :] - y.mean()))
    gradient = np.stack([*rows, np.ones(near.sum()), u, v])
    information = (gradient / expected[near]) @ gradient.T
    scale = 1 / np.sqrt(np.diagonal(information))
    variance = np.diagonal(np.linalg.inv(information * scale[:, None] * scale)) * scale**2
    return variance[: 3 * len(positions)].reshape(-1, 3)[:, :2]


def bound(some: Scene, reach: float) -> np.ndarray:
    """Root mean square of the joint bound over axes and patterns, one number for each disk."""
    parts = zip(some.expected[:BOUNDED], some.positions, some.heights)
    return np.sqrt(np.mean([joint_variances(some.profile, e, p, h, reach) for e, p, h in parts], axis=(0, 2)))


METHODS: dict[str, dict[str, Any]] = {"likelihood": {"refine": "likelihood"}, "correlation": {"refine": "correlation"}}


def pair_scenes(patterns: int) -> Iterator[tuple[dict[str, Any], Scene]]:
    """Every dose, ratio of heights and distance, with its scene; electrons per pixel of the bright disk, distances in radii."""
    for dose in DOSES:
        for ratio in RATIOS:
            for separation in SEPARATIONS:
                labels = {"dose": dose, "bright / weak": ratio, "separation": separation}
                yield labels, pairs(dose, ratio, separation, patterns)


def window(some: Scene) -> float:
    """Radius of the windows whose pixels the bound counts."""
    return some.profile.radius + max(3.0, 2.0 + 1.3 * some.profile.edge)


def judged_pair(some: Scene, found: Found, least: np.ndarray) -> dict[str, Any]:
    """What was made of both disks: how many were found, rms over the bound, mean error away from the other disk."""
    along = some.positions[:, 1] - some.positions[:, 0]
    along /= np.hypot(*along.T)[:, None]
    row: dict[str, Any] = {"false": found.false / len(found.seen)}
    for disk, number in (("bright", 0), ("weak", 1)):
        seen = found.seen[:, number]
        errors, sigmas = found.errors[seen, number], found.sigmas[seen, number]
        row[f"{disk}: found"] = float(seen.mean())
        row[f"{disk}: bound"] = float(least[number])
        if seen.sum() < 5:
            continue
        row[f"{disk}: ratio"] = float(np.sqrt((errors**2).mean()) / least[number])
        if np.isfinite(sigmas).any():
            row[f"{disk}: inside 1 sigma"] = float((np.abs(errors) <= sigmas).mean())
        row[f"{disk}: outwards"] = float((errors * along[seen]).sum(-1).mean())
    return row


def crowded(patterns: int) -> Iterator[dict[str, Any]]:
    """Two disks, bright and weak: errors of both over the joint bound; electrons per pixel of the bright disk."""
    for labels, some in pair_scenes(patterns):
        least = bound(some, window(some))
        for name, options in METHODS.items():
            yield {**labels, "method": name, **judged_pair(some, find(some, template(some.probe()), **options), least)}


def dense_scenes(patterns: int) -> Iterator[tuple[dict[str, Any], Scene]]:
    """Every lattice and its spacing in radii, with its scene; an eighth of the patterns is enough, as each has 25 disks."""
    rng = np.random.default_rng(1)
    profile, middle, number = soft(5.0, 0.8), np.asarray([55.7, 55.2]), max(6, patterns // 8)
    orders = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3), indexing="ij"), -1).reshape(-1, 2)
    for angle in (90.0, 60.0):
        for spacing in (1.9, 2.2, 2.5):
            length = spacing * profile.radius
            lattice = np.asarray([[length, 0.7], [length * np.cos(np.radians(angle)), length * np.sin(np.radians(angle))]])
            positions = np.broadcast_to(middle + orders @ lattice, (number, len(orders), 2)) + rng.uniform(-0.5, 0.5, (number, 1, 2))
            heights = rng.uniform(40, 250, positions.shape[:2])
            heights[:, 12] = 600.0
            labels = {"angle": angle, "spacing": spacing}
            yield labels, drawn(profile, np.full((112, 112), 0.05), positions, heights, np.zeros_like(positions), rng)


def judged_lattice(found: Found) -> dict[str, Any]:
    """What was made of 25 disks: how many were found, and their errors."""
    error, sigma = found.errors[found.seen], found.sigmas[found.seen]
    row = {"found": float(found.seen.mean()), "false": found.false / len(found.seen), "median error": float(np.median(np.abs(error)))}
    if np.isfinite(sigma).any():
        row["median sigma"] = float(np.nanmedian(sigma))
        row["beyond 4 sigma"] = float((np.abs(error) > 4 * sigma + 0.01).any(-1).mean())
    return row


def dense(patterns: int) -> Iterator[dict[str, Any]]:
    """25 disks of random heights on a lattice that overlaps or nearly touches; spacing in radii. A part of the patterns is enough."""
    for labels, some in dense_scenes(patterns):
        for name, options in METHODS.items():
            yield {**labels, "method": name, **judged_lattice(find(some, template(some.probe()), **options))}
