"""Fit one ellipse and one scale to Bragg disks that are on known rings, by robust weighted least squares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.calibrate.ring_index import KnownRings
from gpu4d.calibrate.stretch import undone
from gpu4d.errors import InputError
from gpu4d.robust import TUKEY, biweight, robust_sigma

GAP = 0.4  # of the distance to the next ring: a disk farther from its ring is left out
ROUNDS = 30
RESOLVED = 5.0  # times the scatter: where rings are nearer to each other, the nearest ring of a disk may be the wrong one
SETTLED = 4  # rounds until the scatter is known well enough for that


class DiskPoints(NamedTuple):
    """Disks relative to their origin (n, 2), px, intensity, standard errors (n, 2) or zeros, and cluster."""

    v: np.ndarray
    intensity: np.ndarray
    error: np.ndarray
    cluster: np.ndarray


def fitted_disks(points: DiskPoints, rings: KnownRings, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Iterate weighted least squares with the biweight. Return parameters, covariance from clusters, scatter, and how many disks count."""
    tau, resolved = 1.0, np.ones(len(points.v), bool)
    for count in range(ROUNDS):
        off, jacobian, along, gap = disk_residuals(points.v, rings.g, p)
        noise = np.sqrt((points.error**2 * along**2).sum(1))
        if count == SETTLED and (gap > RESOLVED * np.hypot(noise, tau)).sum() >= 10:
            resolved = gap > RESOLVED * np.hypot(noise, tau)
        near = (np.abs(off) < GAP * gap) & resolved
        if near.sum() < 10:
            raise InputError(f"{int(near.sum())} disks lie near a ring of the crystals: need at least 10 for an ellipse")
        tau = _extra(off[near & (np.abs(off) < 3 * max(tau, 0.05))], noise[near & (np.abs(off) < 3 * max(tau, 0.05))])
        variance = noise**2 + tau**2
        sigmas = off / np.sqrt(variance)
        weight = np.where(near, biweight(sigmas), 0.0) / variance
        normal = (jacobian * weight[:, None]).T @ jacobian
        if np.linalg.cond(normal * np.outer(*2 * [1 / np.sqrt(np.diag(normal))])) > 1e10:
            raise InputError("the disks lie in too few directions to fix an ellipse: need three directions, or two lengths in two")
        step = np.linalg.solve(normal, (jacobian * weight[:, None]).T @ -off)
        p = p + step
        if np.abs(step * np.array([1, 1, 100, 100, 100])).max() < 1e-7:
            break
    score = jacobian * (weight * off)[:, None]
    sums = np.stack([np.bincount(points.cluster, c) for c in score.T], axis=1)
    count = int((np.bincount(points.cluster, weight) > 0).sum())
    u = sigmas / TUKEY
    bend = (weight * np.where(np.abs(u) < 1, (1 - 5 * u**2) / np.maximum(1 - u**2, 1e-12), 0.0))[:, None]  # derivative of the score
    inverse = np.linalg.inv((jacobian * bend).T @ jacobian)
    covariance = inverse @ (sums.T @ sums) @ inverse * (count / max(count - 5, 1))
    return p, covariance, float(np.sqrt(np.median(variance[weight > 0]))), int((weight > 0).sum())


def disk_residuals(v: np.ndarray, g: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return r − R of the nearest ring (n,), its derivatives (n, 5), dr by the disk's position (n, 2), and the gap to the next (n,)."""
    inverse, by_1, by_2 = undone(p[2], p[3])
    d = (v - p[:2]).T
    w = inverse @ d
    r = np.maximum(np.hypot(*w), 1e-9)
    unit = w / r
    place = np.exp(p[4]) * g
    nearest = np.searchsorted((place[1:] + place[:-1]) / 2, r)
    bounds = np.concatenate([[0.0], place, [2 * place[-1]]])
    gap = np.minimum(bounds[nearest + 1] - bounds[nearest], bounds[nearest + 2] - bounds[nearest + 1])
    along = (inverse.T @ unit).T
    jacobian = np.stack([-along[:, 0], -along[:, 1], (unit * (by_1 @ d)).sum(0), (unit * (by_2 @ d)).sum(0), -place[nearest]], axis=1)
    return r - place[nearest], jacobian, along, gap


def _extra(off: np.ndarray, noise: np.ndarray) -> float:
    """Return the robust scatter beyond the errors of the disks, px."""
    if not len(off):
        return 1.0
    total = float(robust_sigma(off, 0.0)) ** 2
    return float(np.sqrt(max(total - float(np.median(noise**2)), 1e-8, 0.01 * total)))
