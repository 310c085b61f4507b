"""Strain beside its bound: what the counts of all disks of a pattern say about the lattice, and what the whole chain makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gpu4d.benchmarks.disk_bound import fisher
from gpu4d.benchmarks.disk_scenes import Scene, lattice

import gpu4d
from gpu4d.crystal import Strain
from gpu4d.probe import template

SIZE = 0.02  # of the largest strain
REFERENCE = 0.3  # of the scan is not strained
REGULAR_STEP = 1e-6  # of F, for the slope of the strain
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "likelihood": ({"refine": "likelihood"}, {}),
    "likelihood, weights by errors": ({"refine": "likelihood"}, {"weights": "errors"}),
    "correlation": ({"refine": "correlation"}, {}),
}


def field(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """F that is 1 in the first rows and grows into waves of every component and a rotation behind them."""
    u, v = (c / max(c.max(), 1.0) for c in (x, y))
    grown = SIZE * np.clip((u - REFERENCE) / (1 - REFERENCE), 0, None)
    exx, eyy, exy, turn = (grown * w for w in (np.cos(5 * v), -0.75 * np.cos(9 * u), 0.4 * np.cos(3 * v), 0.5 * np.sin(4 * v)))
    return np.stack([np.stack([1 + exx, exy - turn], -1), np.stack([exy + turn, 1 + eyy], -1)], -2)


def components(f: np.ndarray) -> np.ndarray:
    """e_xx, e_yy, e_xy of U - 1 and the rotation of the polar decomposition F = R U, (…, 4), by its singular values."""
    w, s, vt = np.linalg.svd(f)
    v = np.swapaxes(vt, -1, -2)
    u, r = np.matmul(v * s[..., None, :], vt), np.matmul(w, vt)
    return np.stack([u[..., 0, 0] - 1, u[..., 1, 1] - 1, u[..., 0, 1], np.arctan2(r[..., 1, 0], r[..., 0, 0])], -1)


def strain_variances(some: Scene, hk: np.ndarray, f: np.ndarray, reference: np.ndarray, parameters: int, reach: float | None) -> np.ndarray:
    """Cramér-Rao bound on the variances of the four components at every position (n, 4).

    The information about a position with all other parameters of its disk unknown is the inverse of the first 2 × 2 of the
    inverse; q = x₀ + h g1 + k g2 makes Σ ρρᵀ ⊗ I of those of a pattern, ρ = (1, h, k), and its inverse, without x₀, the
    covariance of the lattice; F = G⁻¹ G_ref carries that to the strain.

    Parameters
    ----------
    some : Scene
    hk : (K, 2) int
        Orders of the disks.
    f : (n, 2, 2) float64
        F.
    reference : (2, 2) float64
        Unstrained g1, g2 as rows, pixels.
    parameters, reach
        Of `fisher`.
    """
    rho = np.concatenate([np.ones((len(hk), 1)), hk], 1)
    g = np.matmul(reference, np.linalg.inv(f))
    out = np.empty((len(f), 4))
    for i, (expected, positions, heights) in enumerate(zip(some.expected, some.positions, some.heights)):
        full = fisher(some.profile, expected, positions, heights, parameters, reach)
        size = 1 / np.sqrt(np.diagonal(full, axis1=1, axis2=2))
        covariance = np.linalg.inv(full * size[:, :, None] * size[:, None, :])[:, :2, :2] * size[:, :2, None] * size[:, None, :2]
        lattice_information = np.einsum("ka,kb,kcd->acbd", rho, rho, np.linalg.inv(covariance)).reshape(6, 6)
        of_vectors = np.linalg.inv(lattice_information)[2:, 2:]
        slopes = []
        for j in range(4):
            d = np.zeros(4)
            d[j] = REGULAR_STEP
            change = -np.linalg.inv(g[i]) @ d.reshape(2, 2) @ f[i]
            slopes.append((components(f[i] + change) - components(f[i] - change)) / (2 * REGULAR_STEP))
        slope = np.stack(slopes, 1)
        out[i] = np.einsum("ci,ij,cj->c", slope, of_vectors, slope)
    return out


def strain(patterns: int) -> Iterator[dict[str, Any]]:
    """Strain by the whole chain, relative to an unstrained region; electrons a pixel of the direct disk."""
    scan = max(8, round((2.5 * patterns) ** 0.5))
    for dose in (100.0, 300.0, 1000.0, 3000.0, 20000.0):
        some, truth = (
            lattice(dose, scan=scan, strain=field),
            gpu4d.simulate.bragg_scan((scan, scan), (8, 8), strain=field, noise=False).truth,
        )
        f, hk, reference = truth["F"].reshape(-1, 2, 2), truth["hk"], np.stack([truth["g1"], truth["g2"]])
        region = (np.abs(f - np.eye(2)).max((1, 2)) == 0).reshape(scan, scan)
        reach = some.profile.radius + max(3.0, 2.0 + 1.3 * some.profile.edge)
        bounds = {free: strain_variances(some, hk, f, reference, free, None if free == 2 else reach) for free in (2, 4, 6)}
        for name, (search, fit) in METHODS.items():
            found = measured(some, region, search, fit)
            yield {"dose": dose, "method": name, **judged(found, components(f), bounds, region.ravel())}


def measured(some: Scene, region: np.ndarray, search: dict[str, Any], fit: dict[str, Any]) -> Strain:
    cube = gpu4d.DataCube(some.patterns.reshape(*region.shape, *some.patterns.shape[1:]))
    disks = gpu4d.find_bragg_disks(cube, template(some.probe()), progress=False, **search).to_host()
    origin = gpu4d.calibrate.origin(disks)
    local = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin, **fit)
    return gpu4d.strain_map(local, region=region)


def judged(found: Strain, true: np.ndarray, bounds: dict[int, np.ndarray], region: np.ndarray) -> dict[str, Any]:
    """Outside the region. The reference is known no better than the mean of its positions: the bounds have that in."""
    planes = [found.exx.data, found.eyy.data, found.exy.data, found.rotation.data]
    errors = (np.stack(planes, -1).reshape(-1, 4) - true)[~region]
    sigmas = np.moveaxis(np.asarray(found.uncertainty.data), 0, -1).reshape(-1, 4)[~region]
    seen = np.isfinite(errors).all(1)
    limits = {free: np.sqrt((v[~region][seen] + v[region].mean(0) / region.sum()).mean(0)) for free, v in bounds.items()}
    errors, sigmas = errors[seen], sigmas[seen]
    rms = np.sqrt((errors**2).mean(0))
    out: dict[str, Any] = {"positions": len(errors), "fitted": float(seen.mean()), "rms": float(np.sqrt((rms[:3] ** 2).mean()))}
    out |= {f"bound {free}": float(np.sqrt((v[:3] ** 2).mean())) for free, v in limits.items()}
    out["ratio"] = out["rms"] / out["bound 2"]
    out["ratio error"] = out["ratio"] * float(np.std(errors[:, :3] ** 2)) / (2 * out["rms"] ** 2 * np.sqrt(errors[:, :3].size))
    out |= {f"ratio {name}": float(r / b) for name, r, b in zip(("xx", "yy", "xy", "rotation"), rms, limits[2])}
    out["bias, largest"] = float(np.abs(errors.mean(0)).max())
    out["inside 1 sigma"] = float((np.abs(errors) <= sigmas).mean())
    out["sigma over error"] = float(np.sqrt((sigmas**2).mean() / (errors**2).mean()))
    return out
