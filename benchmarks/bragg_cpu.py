"""Measure Bragg disks on the CPU: patterns per second by detector and refinement, and errors of positions and strain.

    python benchmarks/bragg_cpu.py [--only rates precision strain] [--threads 2] [--seed 1] [--quick] [--gold FILE]

Scans are simulated with seeds and have 21 disks. `--gold` names a file such as au_nbed_strain.h5 (multislice gold with its strain). Rates
are those of the public function on a cube in memory, after a warm-up. In each round all detectors take turns, so that other work of the
machine affects all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpu4d

SHAPES = ((128, 128), (96, 96), (192, 192), (256, 256), (515, 515), (514, 514), (211, 211), (96, 160))
REFINEMENTS = ("correlation", "likelihood")
DOSES = (100.0, 300.0, 1000.0, 3000.0, 20000.0)
REFERENCE = (128, 128)
RATE_PIXELS = 1024 * 128 * 128  # of one timed call
DIFFERENT = 16  # patterns of a rate's scan that are not copies
NEAR = 2.0  # px within which a disk counts as found

Profile = Callable[[np.ndarray], np.ndarray]  # of a disk, by the distance from its centre in pixels


@dataclass
class Scene:
    """A scan with everything known of it."""

    patterns: np.ndarray  # (n, n, Qx, Qy)
    expected: np.ndarray  # its mean, counts
    positions: np.ndarray  # (n, n, disks, 2)
    heights: np.ndarray  # (n, n, disks) counts
    profile: Profile
    reach: float  # px from a centre behind which the profile is flat
    probe: np.ndarray
    truth: dict[str, Any]


def soft(radius: float, edge: float) -> Profile:
    return lambda r: 1 / (1 + np.exp(np.clip(4 * (r - radius) / edge, -60, 60)))


def bullseye(radius: float, edge: float, rings: int = 3, contrast: float = 0.7) -> Profile:
    """A disk with dark rings, all zones of equal breadth."""
    edges = radius * np.arange(1, 2 * rings + 1) / (2 * rings + 1)
    zones = [(soft(a, edge), soft(b, edge)) for a, b in zip(edges[::2], edges[1::2])]
    whole = soft(radius, edge)
    return lambda r: whole(r) - contrast * sum(outer(r) - inner(r) for inner, outer in zones)


def scene(
    seed: int,
    *,
    side: int = 16,
    shape: tuple[int, int] = (128, 128),
    radius: float = 6.0,
    edge: float = 1.0,
    dose: float = 100.0,
    spacing: float = 22.0,
    profile: Profile | None = None,
) -> Scene:
    """Places and amplitudes of `gpu4d.simulate.bragg_scan`, disks of any profile, the same background."""
    f = profile or soft(radius, edge)
    truth = gpu4d.simulate.bragg_scan((side, side), shape, radius=radius, spacing=spacing, noise=False, seed=seed).truth
    positions, heights = truth["positions"], dose * truth["amplitudes"]
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])
    away = np.hypot(x - shape[0] // 2, y - shape[1] // 2)
    expected = np.tile(dose * (0.03 * np.exp(-((away / (1.4 * spacing)) ** 2)) + 0.002), (side, side, 1, 1))
    for i, j in np.ndindex(side, side):
        for (qx, qy), height in zip(positions[i, j], heights[i, j]):
            expected[i, j] += height * f(np.hypot(x - qx, y - qy))
    counts = np.random.default_rng(seed).poisson(expected).astype("uint16")
    return Scene(counts, expected, positions, heights, f, radius + 4 * edge + 2, f(away), truth)


def bounds(s: Scene, positions: int = 8) -> np.ndarray:
    """Cramér–Rao covariance of the place of each disk, all else known: (positions, disks, 2, 2) px², along the scan's diagonal."""
    out = np.empty((positions, s.positions.shape[2], 2, 2))
    e = 1e-3
    for n, i in enumerate(np.linspace(0, len(s.patterns) - 1, positions).astype(int)):
        for k, ((qx, qy), height) in enumerate(zip(s.positions[i, i], s.heights[i, i])):
            px, py = (np.arange(max(0, int(q - s.reach)), min(size, int(q + s.reach) + 2)) for q, size in zip((qx, qy), s.probe.shape))
            x, y = px[:, None] - qx, py - qy
            rate = s.expected[i, i][np.ix_(px, py)]
            slopes = (
                height * (s.profile(np.hypot(x - e, y)) - s.profile(np.hypot(x + e, y))) / (2 * e),
                height * (s.profile(np.hypot(x, y - e)) - s.profile(np.hypot(x, y + e))) / (2 * e),
            )
            out[n, k] = np.linalg.inv([[(a * b / rate).sum() for a in slopes] for b in slopes])
    return out


@dataclass
class Matched:
    """Found disks beside the true ones."""

    error: np.ndarray  # (n, 2) px
    score: np.ndarray  # in units of the reported standard errors
    recall: float
    false: int


def matched(disks: Any, positions: np.ndarray) -> Matched:
    errors, scores, hit, false = [], [], 0, 0
    for found, places in zip(disks, positions.reshape(-1, *positions.shape[-2:])):
        at, sigma = np.stack([found.qx, found.qy], -1), np.stack([found.sx, found.sy], -1)
        apart = np.hypot(*(at[:, None] - places).transpose(2, 0, 1))
        good = apart.min(0, initial=np.inf) < NEAR
        nearest = apart.argmin(0)[good] if len(at) else np.zeros(0, int)
        errors.append(at[nearest] - places[good])
        scores.append(errors[-1] / sigma[nearest])
        hit, false = hit + int(good.sum()), false + int((apart.min(1, initial=np.inf) >= NEAR).sum())
    return Matched(np.concatenate(errors), np.concatenate(scores), hit / positions[..., 0].size, false)


def precision(seed: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Positions over dose, edge and a patterned probe."""
    side = 6 if quick else 16
    cases: list[tuple[str, dict[str, Any]]] = [(f"dose {dose:g}", {"dose": dose}) for dose in DOSES]
    cases += [(f"edge {edge:g} px, dose {dose:g}", {"edge": edge, "dose": dose}) for edge in (0.5, 2.0, 3.0) for dose in (100.0, 2000.0)]
    rings = {"profile": bullseye(9.0, 1.0), "radius": 9.0, "spacing": 28.0, "shape": (160, 160)}
    cases += [(f"bullseye, dose {dose:g}", {**rings, "dose": dose}) for dose in (100.0, 2000.0)]
    for name, options in cases:
        s = scene(seed, side=side, **options)
        least = float(np.sqrt(np.mean(bounds(s).diagonal(axis1=-2, axis2=-1))))
        for refine in REFINEMENTS:
            m = matched(gpu4d.find_bragg_disks(gpu4d.DataCube(s.patterns), s.probe, refine=refine), s.positions)
            rms = float(np.sqrt((m.error**2).mean()))
            yield {
                "case": name,
                "refine": refine,
                "rms": rms,
                "bound": least,
                "ratio": rms / least,
                "bias": float(np.abs(m.error.mean(0)).max()),
                "inside": float((np.abs(m.score) < 1).mean()),
                "recall": m.recall,
                "false": m.false,
            }


def exactness(seed: int, patterns: int = 16) -> dict[str, float]:
    """The compiled refinement beside the definition in float64: largest distance, px, over doses."""
    worst = 0.0
    for dose in (DOSES[0], DOSES[-1]):
        s = scene(seed, side=4, dose=dose)
        some = s.patterns.reshape(-1, *s.probe.shape)[:patterns]
        fast = gpu4d.find_bragg_disks(some, s.probe, refine="correlation", max_peaks=24)
        with gpu4d.using("definition"):
            exact = gpu4d.find_bragg_disks(some, s.probe, refine="correlation", max_peaks=24)
        worst = max(worst, *(float(np.abs(fast.flat(f) - exact.flat(f)).max()) for f in ("qx", "qy")))
    return {"largest_distance": worst}


def strain(seed: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Strain from the disks beside the bound of the lattice fit, relative to its own mean over the scan."""
    for dose in DOSES:
        s = scene(seed, side=8 if quick else 16, dose=dose)
        least = strain_bound(s)
        for refine in REFINEMENTS:
            disks = gpu4d.find_bragg_disks(gpu4d.DataCube(s.patterns), s.probe, refine=refine)
            found = strain_of(disks, [s.truth["g1"], s.truth["g2"]])
            error = {n: getattr(found, n).data - s.truth[n] for n in least}
            ratio = {n: float(error[n].std() / least[n]) for n in least}
            offset = {f"{n}_offset": float(error[n].mean()) for n in least}
            yield {"dose": dose, "refine": refine, **ratio, **offset}


def strain_of(disks: Any, basis: Any = None, **region: Any) -> Any:
    origin = gpu4d.calibrate.origin(disks)
    lattice = gpu4d.find_lattice(disks, origin)
    assert lattice is not None, "a simulated crystal has one"
    fit = gpu4d.fit_lattice(disks, lattice, origin=origin, weights="errors" if np.isfinite(disks.flat("sx")).all() else "sqrt")
    if basis is not None:  # the true reference, in the order and sense of the fitted vectors
        g = np.linalg.inv(np.array(basis)).T @ np.asarray(lattice.matrix).T
        region["lattice"] = np.rint(g.T) @ np.array(basis)
    return gpu4d.strain_map(fit, **region)


def strain_bound(s: Scene) -> dict[str, float]:
    """Standard deviations of exx, eyy, exy: the places' bound through the best lattice fit with a free origin, to first order."""
    hk, basis = s.truth["hk"], np.array([s.truth["g1"], s.truth["g2"]])
    rows = np.concatenate([np.ones((len(hk), 1)), hk], 1)
    variances = []
    for disks in bounds(s):
        fisher = np.zeros((6, 6))
        for row, covariance in zip(rows, disks):
            step = np.kron(row, np.eye(2))  # (2, 6): origin, g1, g2
            fisher += step.T @ np.linalg.inv(covariance) @ step
        g = np.linalg.inv(fisher)[2:, 2:]
        to_beta = np.kron(np.linalg.inv(basis), np.eye(2))  # rows of δβᵀ from rows of δg
        beta = to_beta @ g @ to_beta.T  # of β00, β10, β01, β11; strain is minus its symmetric part
        variances.append([beta[0, 0], beta[3, 3], (beta[1, 1] + beta[2, 2] + 2 * beta[1, 2]) / 4])
    return dict(zip(("exx", "eyy", "exy"), np.sqrt(np.mean(variances, 0))))


def gold(path: Path) -> Iterator[dict[str, Any]]:
    """Strain of the multislice gold against the simulator's truth, relative to its border; there x is the column."""
    import h5py

    with h5py.File(path) as file:
        border, probe = file["truth/state_index"][:] == 0, file["truth/vacuum_probe"][:]
        truth = {"exx": file["truth/eyy"][:], "eyy": file["truth/exx"][:], "exy": file["truth/exy"][:]}
        scans = {dose: file[dose][:] for dose in ("poisson_1e5", "poisson_5e3")}
    for dose, patterns in scans.items():
        for refine in ("correlation", "likelihood", "auto"):
            found = strain_of(gpu4d.find_bragg_disks(patterns, probe, refine=refine), region=border)
            error = {n: getattr(found, n).data - t for n, t in truth.items()}
            yield {
                "dose": dose,
                "refine": refine,
                **{n: float(np.sqrt(np.mean((e - np.median(e[border])) ** 2))) for n, e in error.items()},
            }


def rates(seed: int, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Patterns a second on a cube in memory: best of the rounds, processor time a pattern, and rate · pixels beside 128²'s."""
    jobs = []
    for shape in SHAPES:
        scale = min(shape) / 128
        some = scene(seed, side=4, shape=shape, radius=6 * scale, spacing=22 * scale)
        n = max(DIFFERENT, int(RATE_PIXELS / np.prod(shape)) // (8 if quick else 1) // DIFFERENT * DIFFERENT)
        scan = np.concatenate([some.patterns.reshape(-1, *shape)] * (n // DIFFERENT)).reshape(-1, DIFFERENT, *shape)
        template = gpu4d.probe.template(some.probe)
        jobs += [(shape, refine, gpu4d.DataCube(scan), template) for refine in REFINEMENTS]
    taken: dict[tuple, list[tuple[float, float]]] = {}
    peaks = {}
    for turn in range(rounds + 1):  # the first is the warm-up
        for shape, refine, cube, template in jobs:
            wall, work = time.perf_counter(), time.process_time()
            disks = gpu4d.find_bragg_disks(cube, template, refine=refine)
            passed = time.perf_counter() - wall, time.process_time() - work
            peaks[shape] = float(disks.counts.mean())
            if turn:
                taken.setdefault((shape, refine), []).append(tuple(t / disks.counts.size for t in passed))
    best = {key: 1 / min(t for t, _ in times) for key, times in taken.items()}
    for (shape, refine), times in taken.items():
        yield {
            "detector": shape,
            "refine": refine,
            "peaks": peaks[shape],
            "rate": best[shape, refine],
            "median": 1 / statistics.median(t for t, _ in times),
            "cpu_us": 1e6 * min(t for _, t in times),
            "pixels": best[REFERENCE, refine] * np.prod(REFERENCE) / (best[shape, refine] * np.prod(shape)),
        }


def table(title: str, rows: Iterator[dict[str, Any]]) -> None:
    print(f"\n## {title}\n", flush=True)
    for number, row in enumerate(rows):
        if number == 0:
            print("| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
        print("| " + " | ".join(_text(v) for v in row.values()) + " |", flush=True)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    return value if isinstance(value, str) else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["rates", "precision", "strain"], choices=["rates", "precision", "strain"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--gold", type=Path)
    a = parser.parse_args()
    os.environ["GPU4D_THREADS"] = str(a.threads)
    print(f"gpu4d {gpu4d.__version__}, numpy {np.__version__}, {a.threads} threads, load {os.getloadavg()[0]:.1f}")
    if "rates" in a.only:
        table("Patterns a second; pixels: 128²'s rate · pixels over this one's", rates(a.seed, a.rounds, a.quick))
    if "precision" in a.only:
        table("Positions, px; inside: part of the errors within one reported standard error", precision(a.seed, a.quick))
        table("Compiled refinement beside float64", iter([exactness(a.seed)]))
    if "strain" in a.only:
        table("Strain: scatter over the propagated bound, and what all positions have in common", strain(a.seed, a.quick))
        if a.gold:
            table("Multislice gold: rms of the strain against truth", gold(a.gold))


if __name__ == "__main__":
    main()
