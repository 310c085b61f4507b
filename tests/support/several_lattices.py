"""Disks of scans with several lattices whose places are known: twins, a film on a substrate, a precipitate, grains."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
from lattice_points import from_lists, turn

import gpu4d
from gpu4d.crystal import find_lattices, fit_lattices
from gpu4d.crystal.lattice import canonical
from gpu4d.simulate.deformation import deformation_gradient

ORIGIN = np.array([63.0, 64.5])
REACH = 60.0


def nodes_of(basis, reach=REACH):
    """Nodes of a lattice within a distance of the origin, the origin included, (n, 2)."""
    orders = np.mgrid[-14:15, -14:15].reshape(2, -1).T
    nodes = orders @ basis
    return nodes[np.linalg.norm(nodes, axis=-1) <= reach]


def disks_with(bases, present, f=None, *, sigma=0.05, missing=0.1, false=1.0, merged=0.0, origin=ORIGIN, seed=0, extra=None):
    """Disks of lattices `bases` (K, 2, 2) where `present` (K, Rx, Ry) says that they are, deformed by `f` (K, Rx, Ry, 2, 2).

    `false` is the mean number of random disks of a pattern. Disks nearer than `merged` (px) become one between them, weighted by their
    brightness. `extra(rx, ry)` gives further places (n, 2) relative to the origin. A disk of 100 counts has the error `sigma`.
    """
    rng = np.random.default_rng(seed)
    present = np.asarray(present, bool)
    shape = present.shape[1:]
    f = np.broadcast_to(np.eye(2), (*present.shape, 2, 2)) if f is None else f
    nodes = [np.rint(nodes_of(b) @ np.linalg.inv(b)) for b in bases]
    lists = []
    for at in np.ndindex(shape):
        q = [np.zeros((1, 2))]
        for k, basis in enumerate(bases):
            if present[(k, *at)]:
                kept = nodes[k][(nodes[k] != 0).any(-1) & (rng.random(len(nodes[k])) >= missing)]
                q.append(kept @ basis @ np.linalg.inv(f[(k, *at)]))
        if extra is not None:
            q.append(extra(*at))
        q = np.concatenate(q)
        away = np.linalg.norm(q, axis=-1)
        light = np.where(away == 0, 2000.0, 150 * np.exp(-away / 40)) * rng.uniform(0.6, 1.4, away.size)
        q, light = together(q, light, merged)
        error = sigma * np.sqrt(100 / light)
        q = q + rng.normal(size=q.shape) * error[:, None]
        n = rng.poisson(false)
        wrong = np.column_stack([rng.uniform(-60, 60, (n, 2)), rng.uniform(5, 30, n), np.full((n, 2), max(sigma, 0.05))])
        points = np.concatenate([np.column_stack([q, light, error, error]), wrong])
        points[:, :2] += np.broadcast_to(origin, (*shape, 2))[at]
        lists.append(points[np.argsort(-points[:, 2], kind="stable")])
    return from_lists(lists, shape)


def together(q, light, merged):
    """Merge points nearer than `merged` with the brighter one, at their common centre of mass."""
    if merged <= 0:
        return q, light
    order = np.argsort(-light, kind="stable")
    q, light, kept = q[order], light[order], []
    for i in range(len(q)):
        near = next((j for j in kept if np.hypot(*(q[i] - q[j])) < merged), None)
        if near is None:
            kept.append(i)
        elif np.hypot(*q[near]) > 0:
            q[near] = (light[near] * q[near] + light[i] * q[i]) / (light[near] + light[i])
            light[near] += light[i]
    return q[kept], light[kept]


def mirrored(basis, row):
    """The lattice mirrored in the line along the vector `row`."""
    n = np.asarray(row) / np.hypot(*row)
    return basis @ (2 * np.outer(n, n) - np.eye(2))


RECTANGLE = np.array([[16.0, 0.0], [0.0, 22.6]]) @ turn(0.3).T  # as fcc seen along [110]: centred
CENTRED = np.array([[1, 0], [0.5, 0.5]]) @ np.array([[23.1, 0.0], [0.0, 16.3]]) @ turn(0.3).T  # {111} spots of fcc along [110]
CUBE = np.array([[17.0, 2.0], [-2.0, 17.0]])


def twins(shape=(12, 14), border=6):
    """Two fcc twins seen along [110], side by side, both in one column of positions. Return bases and where they are."""
    present = np.zeros((2, *shape), bool)
    present[0, :, : border + 1], present[1, :, border:] = True, True
    g = CENTRED[1]
    return np.stack([CENTRED, mirrored(CENTRED, g)]), present


def film(shape=(12, 14), misfit=0.03):
    """A film with larger spacing on a substrate: film alone, both, substrate alone."""
    present = np.zeros((2, *shape), bool)
    present[0, :, :9], present[1, :, 5:] = True, True
    return np.stack([CUBE, CUBE / (1 + misfit)]), present


def precipitate(shape=(16, 20)):
    """A small precipitate (5 % of the positions) of another lattice in a matrix that is not seen there."""
    present = np.zeros((2, *shape), bool)
    present[0] = True
    present[1, 5:9, 8:12] = True
    present[0, 5:9, 8:12] = False
    return np.stack([CUBE, np.array([[14.0, 5.0], [-7.0, 19.0]])]), present


def grains(shape=(14, 14)):
    """Four grains of one crystal, turned by 0, 17, 33 and 70°, with an overlap of two columns and rows."""
    present = np.zeros((4, *shape), bool)
    half = shape[0] // 2
    for k, (a, b) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        rows = slice(0, half) if a == 0 else slice(half, None)
        columns = slice(0, half + 1) if b == 0 else slice(half, None)
        present[k, rows, columns] = True
    hexagon = 17 * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    return np.stack([hexagon @ turn(np.radians(a)).T for a in (3, 20, 36, 48)]), present


SCENES = {"twins": (3.0, 0.006), "film": (1.4, 0.002), "precipitate": (3.0, 0.006), "grains": (3.0, 0.008)}  # nearest disks, strain


@cache
def solved(name):
    """A strained scene with what is found in it: bases, present, f, mean (of the true local lattices), found, fits, which, label.

    `which[k]` is the number of the found lattice that is nearest to the true one k, and `label` the map with the true numbers.
    """
    merged, size = SCENES[name]
    bases, present = globals()[name]()
    f = np.stack([deformation_gradient("smooth", present.shape[1:], size * (-1) ** k)[0] for k in range(len(bases))])
    disks = disks_with(bases, present, f, merged=merged, false=2.0)
    mean = np.stack([canonical(b @ np.linalg.inv(f[k][present[k]]).mean(axis=0)) for k, b in enumerate(bases)])
    found = find_lattices(disks, ORIGIN)
    fits = fit_lattices(disks, found, origin=ORIGIN)
    which = [int(np.argmin([np.abs(one.matrix - m).max() for one in found])) for m in mean]
    back = np.array([*(which.index(k) if k in which else -2 for k in range(len(found))), -1])
    return SimpleNamespace(
        name=name, bases=bases, present=present, f=f, mean=mean, found=found, fits=fits, which=which, label=back[fits.label]
    )


def poisson_twins(shape=(6, 8), border=3, seed=0):
    """Patterns of twins with Poisson noise: one of them at each position, half of each in one column. Cube, probe, present, bases."""
    bases, present = twins(shape, border)
    bases = bases * 1.6
    known = {"radius": 3.0, "reach": 2.3, "strain": None, "descan": 0.0, "noise": False}
    scans = [
        gpu4d.simulate.bragg_scan(shape, (128, 128), g1=tuple(b[0]), g2=tuple(b[1]), seed=seed + k, **known) for k, b in enumerate(bases)
    ]
    share = present / present.sum(axis=0)
    expected = sum(w[..., None, None] * np.asarray(scan.cube.source.array) for w, scan in zip(share, scans))
    cube = gpu4d.DataCube(np.random.default_rng(seed).poisson(3 * expected).astype(np.uint16))
    return cube, scans[0].probe, present, bases


def patterns_of(bases, present, f, radius, counts, seed=0, size=128):
    """Patterns of round disks of lattices with Poisson noise, for `disks_of_patterns`. Return counts and the centres (Rx, Ry, 2).

    Brightness is drawn evenly from 0.3 to 1.7, so neighbours of both lattices mix in all proportions. Their intensities add up.
    """
    rng = np.random.default_rng(seed)
    shape, axis = present.shape[1:], np.arange(size)
    expected, centres = np.full((*shape, size, size), 0.02), ORIGIN + rng.normal(0, 0.3, (*shape, 2))
    for at in np.ndindex(shape):
        spots = [(centres[at], 20.0)]
        for k, basis in enumerate(bases):
            if present[(k, *at)]:
                nodes = np.rint(nodes_of(basis, 58.0) @ np.linalg.inv(basis))
                q = nodes[(nodes != 0).any(-1)] @ basis @ np.linalg.inv(f[(k, *at)])
                light = 2 * rng.uniform(0.3, 1.7, len(q)) * np.exp(-np.linalg.norm(q, axis=-1) / 40)
                spots += list(zip(centres[at] + q, light))
        for q, light in spots:
            low, high = np.maximum(np.floor(q - radius - 1).astype(int), 0), np.minimum(np.ceil(q + radius + 2).astype(int), size)
            x, y = axis[low[0] : high[0]], axis[low[1] : high[1]]
            expected[at][low[0] : high[0], low[1] : high[1]] += light * np.clip(radius - np.hypot(x[:, None] - q[0], y - q[1]) + 0.5, 0, 1)
    return rng.poisson(counts * expected).astype(np.uint16), centres


def overlapping(kind, shape=(8, 12), strain=0.003, seed=0):
    """Two lattices that overlap in the middle half of a scan, with random strain: bases, present, f. `kind` is a misfit in % or a name."""
    rng = np.random.default_rng(seed + 99)
    film_of = CUBE * 1.2
    bases = {"twins": twins()[0] * 1.6, "precipitate": precipitate()[0] * 1.1}.get(kind)
    bases = np.stack([film_of, film_of / (1 + kind / 100)]) if bases is None else bases
    present = np.ones((2, *shape), bool)
    present[1, :, : shape[1] // 4] = False
    present[0, :, -(shape[1] // 4) :] = kind == "precipitate"
    if kind == "precipitate":
        present[1, :, -(shape[1] // 4) :] = False
    return bases, present, np.eye(2) + rng.normal(0, strain, (2, *shape, 2, 2))


def pulls_of(kind, radius, counts, seed=0, **options):
    """Errors of both lattices in units of their standard errors where there is a fit: alone, overlapping; fits; present."""
    bases, present, f = overlapping(kind, seed=seed, **options)
    patterns, centres = patterns_of(bases, present, f, radius, counts, seed)
    disks = gpu4d.find_bragg_disks(gpu4d.DataCube(patterns), gpu4d.probe.synthetic(patterns.shape[2:], radius), progress=False)
    fits, both, out = fit_lattices(disks, bases, origin=centres), present.all(axis=0), ([], [])
    for k, fit in enumerate(fits):
        true = bases[k] @ np.linalg.inv(f[k])
        variance = np.stack([fit.covariance[..., :, 0, 0], fit.covariance[..., :, 1, 1]], axis=-2)
        away = (np.stack([fit.g1, fit.g2], axis=-2) - true) / np.sqrt(variance)
        for where, values in zip((present[k] & ~both, present[k] & both), out):
            values.extend(away[where & fit.mask].ravel())
    return np.array(out[0]), np.array(out[1]), fits, present
