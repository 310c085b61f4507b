"""Disk positions from lattices that are written down: what the tests of origin, lattice and strain share."""

from __future__ import annotations

import numpy as np

from gpu4d.data.pointlist import PointListArray

SQUARE = np.array([[20.0, 3.0], [-3.0, 20.0]])
HEXAGONAL = 21.0 * np.array([[np.cos(0.2), np.sin(0.2)], [np.cos(0.2 + np.pi / 3), np.sin(0.2 + np.pi / 3)]])
OBLIQUE = np.array([[15.0, -2.0], [6.0, 24.0]])


def turn(angle):
    """R, which turns column vectors from x to y."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def disks_of(basis, f=None, origin=(63.0, 64.5), shape=(6, 7), *, sigma=0.0, missing=0.0, false=0.0, absent=(), reach=62.0, seed=0):
    """Disks at origin + h g1 + k g2 with g = F⁻ᵀ g_ref: rows of basis @ F⁻¹.

    `f` is (Rx, Ry, 2, 2) or None; sigma the error (px, per axis) of a disk of intensity 100, going with 1/√intensity; missing and false are
    fractions of the disks; absent are orders that never appear.
    """
    rng = np.random.default_rng(seed)
    f = np.broadcast_to(np.eye(2) if f is None else f, (*shape, 2, 2)).reshape(-1, 2, 2)
    origin = np.broadcast_to(origin, (*shape, 2)).reshape(-1, 2)
    orders = np.stack(np.meshgrid(np.arange(-9, 10), np.arange(-9, 10), indexing="ij"), axis=-1).reshape(-1, 2)
    away = np.linalg.norm(orders @ basis, axis=-1)
    keep = (away < reach) & ~np.array([tuple(o) in absent for o in orders.tolist()])
    orders, away = orders[keep], away[keep]
    lists = []
    for at, gradient in zip(origin, f):
        light = np.where(away == 0, 2000.0, 150 * np.exp(-away / 40)) * rng.uniform(0.6, 1.4, away.size)
        error = sigma * np.sqrt(100 / light)
        q = at + orders @ basis @ np.linalg.inv(gradient) + rng.normal(size=(away.size, 2)) * error[:, None]
        there = rng.random(away.size) >= missing
        n = rng.binomial(away.size, false)
        points = np.column_stack([q, light, error, error])[there]
        wrong = np.column_stack([rng.uniform(2, 125, (n, 2)), rng.uniform(2, 20, n), np.full((n, 2), max(sigma, 0.05))])
        points = np.concatenate([points, wrong])
        lists.append(points[np.argsort(-points[:, 2], kind="stable")])
    return from_lists(lists, shape)


def from_lists(lists, shape):
    """A PointListArray from one (n, 5) array (qx, qy, intensity, sx, sy) a position."""
    offsets = np.cumsum([0, *map(len, lists)])
    flat = np.concatenate(lists) if lists else np.zeros((0, 5))
    return PointListArray(offsets, dict(zip(("qx", "qy", "intensity", "sx", "sy"), flat.T.copy())), shape)


def in_namespace(disks, xp, device=None):
    """The same disks with arrays of another library."""
    place = lambda a: xp.asarray(a.copy(), device=device)  # noqa: E731
    return PointListArray(place(disks.offsets), {n: place(disks.flat(n)) for n in disks.fields}, disks.shape)


def small_gradients(shape, size, seed):
    """1 + Gaussian displacement gradients of one standard deviation `size`."""
    return np.eye(2) + size * np.random.default_rng(seed).normal(size=(*shape, 2, 2))
