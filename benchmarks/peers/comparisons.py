"""What is compared with whom, how the answers are held against each other, and what is aimed at."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu4d.benchmarks.peers.inputs import Sizes, oriented
from gpu4d.benchmarks.peers.orientation import near_the_truth
from gpu4d.benchmarks.peers.table import Check, Row, Target

Arrays = dict[str, np.ndarray]
Agreement = Callable[[pathlib.Path, Arrays, Arrays], list[Check]]
MATCH = 2.0  # px: a point this near to a true disk is that disk
OURS = "gpu4d"  # as a peer: a task of our own that is a floor


@dataclass(frozen=True)
class Comparison:
    """A task of a peer beside one of gpu4d; amounts are what a call of each works through, 1 for the whole."""

    key: str
    peer: str
    work: tuple[str, str]  # what the peer does, and what gpu4d does
    task: tuple[str, dict[str, Any]]
    ours: tuple[str, dict[str, Any]]
    agree: Agreement
    unit: str = "calls"
    peer_amount: int = 1
    amount: int = 1
    targets: tuple[Target, ...] = ()
    rounds: int = 5
    one_thread_only: bool = False
    precise: tuple[str, dict[str, Any]] | None = None  # the peer's task for its answer, where its usual one works in less precision

    def row(self) -> Row:
        return Row(self.key, self.peer, *self.work, self.unit, self.peer_amount, self.amount)


def comparisons(sizes: Sizes) -> list[Comparison]:
    """All, in the order in which they run."""
    return [*_bragg(sizes), *_lattice(sizes), *_orientation(sizes), *_one_pass(), *_phase()]


# ---------------------------------------------------------------- Bragg disks


def _bragg(sizes: Sizes) -> list[Comparison]:
    amounts: dict[str, Any] = {"unit": "patterns", "peer_amount": sizes.bragg_peer, "amount": sizes.bragg_scan**2}
    exact = Target("≥ 10 000 patterns/s", lambda row: row.rate >= 10_000)
    likely = Target("≥ 8 000 patterns/s", lambda row: row.rate >= 8_000)
    hundred = Target("≥ 100 times py4DSTEM", lambda row: row.ratio >= 100)

    def py4dstem(subpixel: str, power: float, smooth: float) -> tuple[str, dict[str, Any]]:
        return "bragg", {"subpixel": subpixel, "power": power, "smooth": smooth}

    def ours(refine: str | None) -> tuple[str, dict[str, Any]]:
        return "bragg", {"refine": refine}

    upsampled, exact_maximum = "disks, maximum sampled at 1/16 px", "disks, exact maximum of the correlation"
    told = "disks around given nodes"
    return [
        Comparison(
            "multicorr", "py4DSTEM", (f"{upsampled}, n = 0.85", exact_maximum), py4dstem("multicorr", 0.85, 2.0), ours("correlation"),
            near(0.1), targets=(exact, hundred), rounds=3, **amounts,
        ),
        Comparison(
            "multicorr, power 1", "py4DSTEM", (f"{upsampled}, n = 1", "disks, Poisson likelihood"), py4dstem("multicorr", 1.0, 2.0),
            ours("likelihood"), near(0.1), targets=(likely, hundred), rounds=3, **amounts,
        ),
        Comparison(
            "poly", "py4DSTEM", ("disks, parabola", exact_maximum), py4dstem("poly", 0.85, 2.0), ours("correlation"), near(0.2), rounds=3,
            **amounts,
        ),
        Comparison(
            "pixel", "py4DSTEM", ("disks, whole pixels", "the same"), py4dstem("pixel", 0.85, 0.0), ours(None), near(0.5), rounds=3,
            **amounts,
        ),
        Comparison(
            "blobfinder", "LiberTEM", (told, exact_maximum), ("bragg", {"upsample": False}), ours("correlation"), near(0.25), rounds=3,
            **amounts,
        ),
        Comparison(
            "blobfinder, upsampled", "LiberTEM", (f"{told}, sampled at 1/20 px", exact_maximum), ("bragg", {"upsample": 20}),
            ours("correlation"), near(0.25), rounds=3, **amounts,
        ),
        Comparison(
            "quantem disks", "quantem", (f"{upsampled}, n = 1", exact_maximum), ("bragg", {"subpixel": "upsample"}), ours("correlation"),
            near(0.1), rounds=3, **amounts,
        ),
    ]  # fmt: skip


def near(limit: float) -> Agreement:
    """Positions against the truth, and against each other within `limit` px rms per axis."""

    def agree(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
        with np.load(folder / "bragg_truth.npz") as stored:
            truth = stored["positions"].reshape(-1, *stored["positions"].shape[2:])[np.load(folder / "bragg_chosen.npy")]
        mine, other = (_of_disks(found, truth) for found in (ours, theirs))
        between = mine.positions - other.positions
        return [
            Check("rms distance between the two, px per axis", _rms(between), limit),
            Check("rms error of gpu4d", _rms(mine.positions - truth)),
            Check("rms error of the peer", _rms(other.positions - truth)),
            Check("disks that gpu4d misses", mine.missed / truth[..., 0].size, 1e-3),
            Check("false disks of gpu4d", mine.false, 0),
            Check("missed by the peer", other.missed / truth[..., 0].size),
            Check("false disks of the peer", other.false),
        ]

    return agree


@dataclass
class _Found:
    positions: np.ndarray  # of every true disk, NaN where it was missed
    missed: int
    false: int


def _of_disks(found: Arrays, truth: np.ndarray) -> _Found:
    """The found point nearest to each true disk of every pattern, truth (patterns, disks, 2)."""
    positions, false = np.full(truth.shape, np.nan), 0
    for i, true in enumerate(truth):
        points = found["points"][found["starts"][i] : found["starts"][i + 1]]
        if not len(points):
            continue
        distance = np.linalg.norm(points[:, None] - true, axis=-1)
        nearest = distance.argmin(0)
        hit = distance[nearest, np.arange(len(true))] < MATCH
        positions[i, hit] = points[nearest[hit]]
        false += len(points) - len(set(nearest[hit]))
    return _Found(positions, int(np.isnan(positions[..., 0]).sum()), false)


def _rms(differences: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(np.asarray(differences) ** 2)))


# ---------------------------------------------------------------- lattice and strain


def _lattice(sizes: Sizes) -> list[Comparison]:
    n = sizes.points_scan**2
    target = Target("≥ 20 000 positions/s", lambda row: row.rate >= 20_000)
    return [
        Comparison(
            f"{peer} lattice", peer, ("origin measured and fitted, local lattices, strain", "the same"), ("lattice", {}), ("lattice", {}),
            same_lattices, "positions", n, n, (target,), rounds=3,
        )
        for peer in ("py4DSTEM", "quantem")
    ]  # fmt: skip


def same_lattices(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    with np.load(folder / "points.npz") as truth:
        true = {"g1": truth["local"][..., 0], "g2": truth["local"][..., 1], "origin": truth["origin"]}
    checks = [Check(f"{name} between the two, px rms", _rms(ours[name] - theirs[name]), 0.02) for name in true]
    for who, found in (("gpu4d", ours), ("the peer", theirs)):
        error = np.concatenate([found[name] - true[name] for name in ("g1", "g2")], -1)
        checks.append(Check(f"lattice vectors of {who} off by", _rms(error)))
        checks.append(Check(f"positions that {who} leaves out", float((~np.isfinite(error).all(-1)).mean())))
    if "exx" in theirs:
        checks += [Check(f"{name} between the two", _rms(ours[name] - theirs[name]), 1e-3) for name in ("exx", "eyy", "exy", "theta")]
    return checks


# ---------------------------------------------------------------- orientation


def _orientation(sizes: Sizes) -> list[Comparison]:
    few, many = oriented(sizes)
    return [
        Comparison(
            "orientation", "py4DSTEM", ("orientations, zone axes 2° apart", "orientations, refined"), ("orientation", {"count": few}),
            ("orientation", {}), near_the_truth, "patterns", few, many,
            targets=(
                Target("≥ 1 500 patterns/s", lambda row: row.rate >= 1500),
                Target("≥ 20 times py4DSTEM", lambda row: row.ratio >= 20),
            ),
            rounds=3,
        )
    ]  # fmt: skip


# ---------------------------------------------------------------- one pass over a file


def _one_pass() -> list[Comparison]:
    third = Target("≤ 1/3 of its time", lambda row: row.ratio >= 3)
    half = Target("≥ 0.5 of the rate of reading", lambda row: row.ratio >= 0.5)
    everything = "mean, maximum, four images, CoM in one pass"

    def libertem(key: str, work: str, products: list[str], *targets: Target) -> Comparison:
        return Comparison(
            key, "LiberTEM", (work, everything), ("one pass", {"products": products}), ("one pass", {}), same_images, targets=targets
        )

    return [
        libertem("CoM", "CoM alone", ["com"], third),
        libertem("sum", "sum of the patterns alone", ["sum"]),
        libertem("masks", "four images alone", ["masks"]),
        libertem("all in one", "sum, four images, CoM in one run", ["sum", "masks", "com"]),
        Comparison(
            "quantem images", "quantem", ("four images, mean, maximum, from memory", f"{everything}, from the file"), ("images", {}),
            ("one pass", {}), same_images, rounds=3,
        ),
        Comparison(
            "read", OURS, ("no peer: one thread reads the same pages", everything), ("read", {}), ("one pass", {}), largest_word,
            targets=(half,), rounds=9, one_thread_only=True,
        ),
    ]  # fmt: skip


def same_images(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Sums of counts are whole numbers: they are equal or wrong. A centre of mass in float32 is not."""
    checks = []
    if "com" in theirs:
        checks.append(Check("CoM differs by, px", float(np.abs(theirs["com"] - ours["com"]).max()), 2e-4))
    for name in ("images", "max"):
        if name in theirs:
            checks.append(Check(f"{name} differ by, counts", float(np.abs(theirs[name].astype(float) - ours[name]).max()), 0))
    for name in ("sum", "mean"):
        if name in theirs:
            patterns = ours["com"][0].size
            scale = patterns if name == "mean" else 1
            off = np.abs(theirs[name].astype(float) * scale - ours["mean"].astype(float) * patterns).max()
            checks.append(Check(f"{name} differs by, of the largest", float(off / (ours["mean"].max() * patterns)), 2e-7))
    return checks


def largest_word(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """It read the file's numbers: the largest little-endian word begins with the highest of every fourth count."""
    highest = int(theirs["largest"]) >> 48
    return [Check("highest count that was read, more than the maximum by", float(highest - int(ours["max"].max())), 0)]


# ---------------------------------------------------------------- phase


def _phase() -> list[Comparison]:
    return [
        Comparison(
            "SSB", "LiberTEM", ("SSB_UDF, its masks made beforehand", "single-side-band ptychography"), ("ssb", {}), ("ssb", {}),
            same_side_bands,
            targets=(
                Target("≤ 0.15 s", lambda row: row.seconds <= 0.15),
                Target("≥ 50 times SSB_UDF", lambda row: row.ratio >= 50),
                Target("equal to 1e-6", lambda row: row.checks[0].value <= 1e-6),
            ),
            rounds=3, precise=("ssb", {"dtype": "float64"}),
        ),
        Comparison(
            "DPC", "py4DSTEM", ("phase from a centre of mass, 64 iterations", "phase from the same"), ("dpc", {}), ("dpc", {}),
            better_phase,
            targets=(
                Target("better residual", lambda row: all(check.ok for check in row.checks)),
                Target("≥ 10 times as fast", lambda row: row.ratio >= 10),
            ),
        ),
        Comparison(
            "parallax", "py4DSTEM", ("stack, alignment, fit of the defocus", "aligned image with its defocus"), ("parallax", {}),
            ("parallax", {}), nearer_defocus, rounds=1,
        ),
        Comparison(
            "iterative ptychography", "py4DSTEM", ("10 sweeps, gradient descent", "10 sweeps, Poisson likelihood"),
            ("iterative", {"sweeps": 10}), ("iterative", {"sweeps": 10}), nearer_phase, rounds=1,
        ),
    ]  # fmt: skip


def nearer_phase(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Both against the phase of the simulation at the pixel of the reconstructions, each at its best place."""
    with np.load(folder / "near.npz") as stored:
        truth, step = stored["phase"].astype(float), float(stored["r_pixel"])
    mine, other = (1 - best_correlation(found["phase"], float(np.ravel(found["pixel"])[0]), truth, step) for found in (ours, theirs))
    return [Check("1 - correlation with the truth, against the peer's", mine, other)]


def best_correlation(phase: np.ndarray, pixel: float, truth: np.ndarray, step: float) -> float:
    """Return the correlation with a truth that repeats itself, at the best of all places of the phase.

    The truth is resampled to the pixel of the phase by its Fourier series. The outer eighth of the phase is left out.
    """
    n, side = len(truth), len(truth) * step
    x = np.arange(0, side, pixel / 2)
    waves = np.exp(2j * np.pi * np.outer(x, np.fft.fftfreq(n, step)))
    limit = np.abs(np.fft.fftfreq(n, step)) < 0.5 / pixel
    fine = (waves @ (np.fft.fft2(truth) * limit[:, None] * limit) @ waves.T).real / n**2
    cut = [slice(size // 8, size - size // 8) for size in phase.shape]
    seen = phase[cut[0], cut[1]]
    rows, columns = (np.arange(size) * 2 for size in seen.shape)
    best = -1.0
    for i in range(len(x)):
        for j in range(len(x)):
            other = fine[np.ix_((rows + i) % len(x), (columns + j) % len(x))]
            best = max(best, float(np.corrcoef(seen.ravel(), other.ravel())[0, 1]))
    return best


def nearer_defocus(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Both against the defocus of the simulation."""
    with np.load(folder / "far.npz") as stored:
        true = -float(stored["defocus"])
    mine, other = (abs(float(found["C10"]) / true - 1) for found in (ours, theirs))
    return [Check("error of C10, a part of it, against the peer's", mine, other)]


def same_side_bands(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Side-band spectra on the half plane, over the largest; without the direct beam, and without frequencies ±1/2.

    At these a side band at +1/2 and one at -1/2 are the same sample of the scan's spectrum, and which of them it is taken for is
    anybody's choice: the two programs choose differently.
    """
    mine, other = np.fft.fft2(ours["transmission"]) * ours["incident"], np.array(theirs["transmission"], np.complex128)
    n, m = mine.shape
    keep = np.ones((n // 2 + 1, m), bool)
    keep[0, 0] = False
    keep[n // 2 if n % 2 == 0 else n :] = False
    keep[:, m // 2 if m % 2 == 0 else m : m // 2 + 1] = False
    a, b = mine[: n // 2 + 1][keep], other[: n // 2 + 1][keep]
    return [
        Check("side bands differ by, of the largest", float(np.abs(a - b).max() / np.abs(b).max()), 1e-6),
        Check("correlation", correlation(a, b)),
    ]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b)))


def better_phase(folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    """Both by the same measures, after the best scale (the peer's phase is φ / 2π)."""
    with np.load(folder / "field.npz") as stored:
        truth = dict(stored)
    step = float(truth["r_pixel"])
    mine, other = (gradient_residual(found["phase"], truth["gradient"], step) for found in (ours, theirs))
    errors = [phase_error(found["phase"], truth["phase"]) for found in (ours, theirs)]
    return [
        Check("residual of the gradient equation, against the peer's", mine, other),
        Check("error of the phase, against the peer's", errors[0], errors[1]),
    ]


def gradient_residual(phase: np.ndarray, gradient: np.ndarray, step: float) -> float:
    """‖s ∇φ − g‖ / ‖g‖ over the scan but three positions at its border, s the best scale; ∇ by differences of sixth order."""
    weights = np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * step)
    n, m = phase.shape
    down = sum(w * phase[i : n - 6 + i, 3 : m - 3] for i, w in enumerate(weights))
    right = sum(w * phase[3 : n - 3, i : m - 6 + i] for i, w in enumerate(weights))
    found, true = np.stack([down, right], -1), gradient[3:-3, 3:-3]
    return _misfit(found, true)


def phase_error(phase: np.ndarray, truth: np.ndarray) -> float:
    """‖s φ − φ_true‖ / ‖φ_true‖ without their means, s the best scale."""
    return _misfit(phase - phase.mean(), truth - truth.mean())


def _misfit(found: np.ndarray, true: np.ndarray) -> float:
    scale = float((found * true).sum() / (found * found).sum())
    return float(np.linalg.norm(scale * found - true) / np.linalg.norm(true))
