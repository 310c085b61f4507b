"""Orientations of a gold crystal at many positions, from lists of disks whose orientation is known."""

from __future__ import annotations

import importlib.util
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.oracle import BY_LOT, SURE, Part, drawn, judged, precise, right_shape
from gpu4d.benchmarks.suite.workload import COMPUTE, Check, Place, Prepared, Size, Unavailable, Workload, WrongAnswer, implementations

import gpu4d
from gpu4d import physics

ENERGY, THICKNESS, Q_PIXEL, ORIGIN = 200e3, 20.0, 0.02, 64.0  # eV, Å, 1/Å, px
G_MAX, PEAKS = 1.3, 24  # 1/Å; the strongest reflections that a search would list
LEAST = 3.0  # electrons: fainter reflections are no disks
STRONGEST = 2e4  # electrons of a reflection of the largest structure factor on the Ewald sphere
UNLIKE = 0.35  # part of the light by which g and −g differ: below 0.32 an orientation and its half turn about the beam look alike
CANDIDATES, BATCH = 4, 4096  # orientations that are drawn for each position, of which two in five are kept; and looked at at a time
RADIUS, ERROR = 3.0, 0.03  # px: of a disk, and standard error of its position
RELATIVE = 0.1  # standard error of an intensity, beside that of counting
TERMS = 14  # of the series of the sine: +, − and × alone, so that intensities are the same everywhere
AXES, SHELLS, HARMONICS = 248, 10, 97  # of the library that such disks ask for
DEFINED = 2  # positions that are compared with the definition, which takes 0.1 s for each
TURN = math.radians(0.01)  # rad: largest angle to the definition
FARTHEST = math.radians(1.0)  # rad from the truth, whatever the error says: half the distance of zone axes in the library
BOUNDED, SMALL = 1024, 1e-5  # positions of which the bound is the mean; rad, of the differences in it
SMALLEST, LARGEST = 1e-4, 1e-2  # rad: standard errors that such peaks can have


@dataclass(frozen=True, eq=False)
class Gold:
    """Disks of n positions of a gold crystal.

    Attributes
    ----------
    turns : (n, 3, 3) float64
        True orientations: v_lab = R v_crystal.
    counts : (n,) int64
        Disks of each position, the direct disk included.
    disks : dict of str to (m,) float64
        Fields of all disks, one position after the other.
    g, factor : (n, 24, 3), (n, 24) float64
        The reflections, 1/Å in crystal axes, and their structure factors over the largest.
    """

    turns: np.ndarray
    counts: np.ndarray
    disks: dict[str, np.ndarray]
    g: np.ndarray
    factor: np.ndarray

    @classmethod
    def make(cls, structure: gpu4d.structures.Structure, n: int, seed: int) -> Gold:
        """Compute the strongest reflections by the kinematical theory of a slab, and add errors."""
        found = structure.reflections(G_MAX)
        g, factor = np.round(found.g, 9), np.round(np.abs(found.structure_factor) / np.abs(found.structure_factor).max(), 6)
        candidates = rotations(4.0 * data.uniform(seed + 1, 4 * CANDIDATES * n).reshape(-1, 4) - 2.0)
        parts = [_spots(some, g, factor) for some in np.array_split(candidates, max(1, len(candidates) // BATCH))]
        turns, order = (np.concatenate(column)[:n] for column in zip(*parts, strict=True))
        assert len(turns) == n, "two of five orientations are kept"
        lab = _lab(turns, g[order])
        place, light = lab[..., :2], _light(lab, factor[order])
        noise = [np.sqrt(1.5) * (data.uniform(seed + 2 + i, light.size * 2) * 2.0 - 1.0).reshape(*light.shape, 2).sum(-1) for i in range(3)]
        seen = light > LEAST
        light = np.maximum(light + np.sqrt(_variance(light)) * noise[2], 0.5 * LEAST)
        area = math.pi * RADIUS * RADIUS  # what a search calls intensity is in counts a pixel
        direct = np.ones((n, 1))
        fields = {
            "qx": np.hstack([ORIGIN * direct, ORIGIN + place[..., 0] / Q_PIXEL + ERROR * noise[0]]),
            "qy": np.hstack([ORIGIN * direct, ORIGIN + place[..., 1] / Q_PIXEL + ERROR * noise[1]]),
            "intensity": np.hstack([5.0 * STRONGEST * direct, light]) / area,
        }
        fields |= {name: np.full(fields["qx"].shape, ERROR) for name in ("sx", "sy")}
        kept = np.hstack([direct > 0, seen])
        return cls(turns, kept.sum(1), {name: values[kept] for name, values in fields.items()}, g[order], factor[order])

    def bound(self) -> float:
        """Return the least rms angle to the truth, rad: the Cramér–Rao bound for normal errors of these variances."""
        some = slice(0, BOUNDED)
        lab, factor = _lab(self.turns[some], self.g[some]), self.factor[some]
        slopes = []
        for axis in np.eye(3):
            turned = SMALL * np.cross(axis, lab)
            far, near = lab + turned, lab - turned
            light = (_light(far, factor) - _light(near, factor)) / np.sqrt(_variance(np.maximum(_light(lab, factor), LEAST)))
            slopes.append(np.concatenate([(far - near)[..., :2] / (ERROR * Q_PIXEL), light[..., None]], -1) / (2 * SMALL))
        information = np.einsum("anmf,bnmf->nab", slopes, slopes)
        return float(np.sqrt(np.trace(np.linalg.inv(information), axis1=1, axis2=2).mean()))

    def lists(self, xp: Any, shape: tuple[int, int]) -> gpu4d.PointListArray:
        """Return the disks as arrays of `xp`."""
        offsets = np.concatenate([[0], np.cumsum(self.counts)])
        return gpu4d.PointListArray(xp.asarray(offsets), {name: xp.asarray(values) for name, values in self.disks.items()}, shape)


def _spots(turns: np.ndarray, g: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the orientations whose patterns are not alike after half a turn, and the numbers of their strongest reflections."""
    lab = _lab(turns, g)
    light, mates = _light(lab, factor), _light(-lab, factor)
    kept = np.abs(light - mates).sum(1) > UNLIKE * (light + mates).sum(1)
    return turns[kept], np.argsort(-light[kept], axis=1, kind="stable")[:, :PEAKS]


def _lab(turns: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return reflections (m, 3) or (n, m, 3) in lab axes, (n, m, 3), by sums in a fixed order."""
    return np.stack([sum(turns[:, i, j, None] * g[..., j] for j in range(3)) for i in range(3)], -1)


def _light(lab: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the expected electrons of reflections in lab axes, by the kinematical theory of a slab."""
    k = 1.0 / physics.wavelength(ENERGY)
    s = np.sqrt(k * k - lab[..., 0] * lab[..., 0] - lab[..., 1] * lab[..., 1]) - k - lab[..., 2]
    return STRONGEST * factor * factor * _slab(s * THICKNESS)


def _variance(light: np.ndarray) -> np.ndarray:
    """Return the variance of intensities: of counting, and of a theory that is not exact."""
    return light + RELATIVE * RELATIVE * light * light


def rotations(q: np.ndarray) -> np.ndarray:
    """Return the rotation matrices (n, 3, 3) of quaternions (n, 4) that need not have the length 1. Zero is no turn."""
    q = np.where((q * q).sum(1, keepdims=True) > 1e-6, q, [1.0, 0.0, 0.0, 0.0])
    a, x, y, z = (q / np.sqrt((q * q).sum(1, keepdims=True))).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - a * z), 2 * (x * z + a * y)],
        [2 * (x * y + a * z), 1 - 2 * (x * x + z * z), 2 * (y * z - a * x)],
        [2 * (x * z - a * y), 2 * (y * z + a * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], 1)


def _slab(x: np.ndarray) -> np.ndarray:
    """Return (sin πx / πx)², by the series of the sine about the nearest whole number."""
    part = x - np.rint(x)
    square = (math.pi * part) * (math.pi * part)
    term, total = np.ones_like(x), np.ones_like(x)
    for i in range(1, TERMS):
        term = term * square / (-2.0 * i * (2.0 * i + 1.0))
        total = total + term
    ratio = np.where(np.abs(x) < 0.5, 1.0, part / np.where(x == 0.0, 1.0, x))
    return total * total * ratio * ratio


def cubic() -> np.ndarray:
    """Return the 24 rotations of a cube: permutations of the axes with signs, of determinant 1."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            found.append(matrix)
    return np.stack([m for m in found if np.linalg.det(m) > 0])


def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the smallest angle between orientations (n, 3, 3) of a cubic crystal, rad, from the distance of their matrices."""
    chords = np.stack([((first - second @ turn) ** 2).sum((-2, -1)) for turn in cubic()], -1).min(-1)
    return 2 * np.arcsin(np.minimum(np.sqrt(chords / 8), 1.0))


def orientation(place: Place, size: Size, seed: int) -> Prepared:
    """Match the disks of every position with a library of gold, and refine the best candidates.

    Least bytes: five numbers of each disk are read, 32 are written for each position. Least flops: the correlation of 24 peaks with the
    angular spectra of 248 zone axes on 10 shells at 97 harmonics, 8 flops each.
    """
    if importlib.util.find_spec("gemmi") is None:
        raise Unavailable("structure factors need gemmi: pip install 'gpu4d[crystal]'")
    structure = gpu4d.structures.Structure.standard("Au")
    n = size["positions"]
    known = Gold.make(structure, n, seed)
    shape = (n // 64, 64)
    disks = known.lists(place.xp, shape)

    def call() -> Any:
        return match(disks, structure)

    def arrays(found: Any) -> dict[str, np.ndarray]:
        return {"matrices": found.grain.matrices, "phase": found.grain.phase, "error": found.grain.error}

    def check(found: dict[str, np.ndarray]) -> Check:
        return _check(known, structure, shape, found)

    table = place.xp.zeros((1, PEAKS, 5))
    return Prepared(
        call,
        arrays,
        check,
        n,
        data.digest(place.xp, disks.offsets, *(disks.flat(name) for name in known.disks)),
        bytes=float(40 * len(disks) + 32 * 8 * n),
        flops=8.0 * n * AXES * SHELLS * HARMONICS,
        rate="gemm",
        implementation=implementations(table, "correlate_orientations", "refine_orientations"),
        inputs=lambda: {
            "peaks": np.stack([known.disks[name] for name in ("qx", "qy", "intensity")], -1),
            "starts": np.concatenate([[0], np.cumsum(known.counts)]),
            "turns": known.turns,
            **{
                name: np.asarray(value)
                for name, value in {"energy": ENERGY, "thickness": THICKNESS, "g_max": G_MAX, "q_pixel": Q_PIXEL, "origin": ORIGIN}.items()
            },
        },
    )


def match(disks: gpu4d.PointListArray, structure: gpu4d.structures.Structure, where: np.ndarray | None = None) -> Any:
    """Call `gpu4d.match_orientations` as the workload does, for all positions or for some."""
    return gpu4d.orientation.match_orientations(
        disks,
        structure,
        origin=(ORIGIN, ORIGIN),
        energy=ENERGY,
        q_pixel=Q_PIXEL,
        disk_radius=RADIUS,
        thickness=THICKNESS,
        intensity_error=RELATIVE,
        overlaps=False,
        where=where,
    )


def _check(known: Gold, structure: gpu4d.structures.Structure, shape: tuple[int, int], found: dict[str, np.ndarray]) -> Check:
    """Compare all orientations with the truth, and those of a few positions with the definition."""
    n = math.prod(shape)
    for name, inner in (("matrices", (3, 3)), ("phase", ()), ("error", ())):
        right_shape(name, found[name], (*shape, *inner))
    matrices, error = found["matrices"].reshape(n, 3, 3), found["error"].reshape(n)
    if (found["phase"] != 0).any():
        raise WrongAnswer(f"phase: {int((found['phase'] != 0).sum())} positions have no orientation, or another phase")
    angle = apart(matrices, known.turns)
    parts = {
        "matrices": Part(angle, np.minimum(SURE * error, FARTHEST)),
        "matrices are rotations": Part(np.abs(matrices @ matrices.swapaxes(1, 2) - np.eye(3)).max((1, 2)), 1e-6),
        "error": Part(np.abs(np.log(error / np.sqrt(SMALLEST * LARGEST))), np.log(LARGEST / SMALLEST) / 2),
    }
    some = drawn(n, DEFINED)
    where = np.zeros(n, bool)
    where[some] = True
    with gpu4d.using("definition"):  # of all disks, because they decide how far the library reaches
        grain = match(known.lists(np, shape), structure, where.reshape(shape)).grain
    parts["matrices (definition)"] = Part(apart(matrices[some], grain.matrices.reshape(n, 3, 3)[some]), TURN)
    parts["error (definition)"] = Part(error[some] / grain.error.reshape(n)[some] - 1, 1e-2)
    oracle = f"the true orientation for all positions, and the definition in float64 for {DEFINED} positions {BY_LOT}"
    check = judged(parts, sum(v.size for v in found.values()), oracle)
    return precise(check, 1e3 * np.sqrt((angle**2).mean()), 1e3 * known.bound(), "mrad")


WORKLOADS = [
    Workload(
        "orientation",
        "orientation matching",
        COMPUTE,
        "positions",
        {tier: {"positions": n} for tier, n in (("quick", 64), ("S", 128), ("M", 8192), ("L", 32768))},
        orientation,
        "The orientation of a gold crystal at every position from some 20 disks: correlation with 248 zone axes, and a fit to positions "
        "and intensities.",
    ),
]
