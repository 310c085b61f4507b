"""Phase: direct ptychography of a thin object whose waves are known, from counts to maps."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import COMPUTE, Check, Place, Prepared, Size, Workload, WrongAnswer, implementations, relative_error
from gpu4d.benchmarks.suite.workloads.weak_object import SAFE, WeakObject, disk

import gpu4d
from gpu4d import fft

EPSILON = 0.003  # of ssb's Wiener mean
INTERFERENCE, RIDGE = 5.0, 0.01  # of wdd, given and not measured, so that the oracle has the same
DRAWN = 16  # scan frequencies, drawn in the run, at which the oracle computes the answer from the counts
TOLERANCE = 1e-5  # of the largest wave or value: spectra and weights are in single precision, sums over pixels in double
SYSTEMATIC = 0.02  # of a wave: the rounding of expected counts to the steps of the table, and squares of the phase
EDGES = 0.05  # of a wave, for disks from 8 px: other parts of the wave than of the intensity lie in the pixels of a disk's edge
WIDER = 1.2  # errors of the deconvolution over the least that counts permit, at most
WELL_MEASURED = 0.5  # transfer from which on frequencies count for the scatter


def ssb(place: Place, size: Size, seed: int) -> Prepared:
    """Single side band of resident counts.

    Of a pixel of the disk its counts are read, and its images are transformed: 2.5 N log2 N, to half of the frequencies. There each takes a
    distance to two disks, a product and a sum: 20 operations.
    """
    scan = WeakObject.make(place, size, seed)
    cube, n, pixels = scan.cube(), scan.scan, len(scan.pixels)

    def call() -> Any:
        return gpu4d.ssb(cube, epsilon=EPSILON, device=place.device, progress=False)

    return Prepared(
        call,
        lambda found: {"phase": place.host(found.phase.data)},
        lambda found: check_ssb(scan, found["phase"]),
        n * n,
        data.digest(place.xp, scan.patterns),
        bytes=float(pixels * n * n * 2 + 8 * n * n),
        flops=float(pixels * n * n * (2.5 * math.log2(n * n) + 10)),
        implementation=implementations(place.xp.empty((1, n, n // 2 + 1), "complex64"), "ssb_sum"),
        inputs=scan.for_peers,
    )


def check_ssb(scan: WeakObject, phase: np.ndarray) -> Check:
    """Compare a phase with sums in float64 and with the object."""
    n = scan.scan
    spectrum = np.fft.fft2(phase) / phase.size
    full, bound = scan.sums[1], scan.bound()
    damped = full + EPSILON * full.max()
    transfer = full / damped
    drawn = drawn_frequencies(n, full > 0)
    _, inside, minus, plus = disks_at(scan, drawn)
    sums = (scan.spectra(drawn) * inside * (minus - plus)).sum(1)
    wanted = -1j * sums / damped[tuple(drawn.T)] / incident(scan, inside) / phase.size
    factor = inside.sum() / (inside**2).sum()  # the counts of an edge pixel are taken for the part of it that is in the disk
    away = spectrum - factor * transfer * scan.truth()
    allowed = SAFE * factor * scan.noise() / damped + SYSTEMATIC * np.abs(scan.truth())
    expect_within(np.abs(away), allowed, full > 0)
    seen = transfer > WELL_MEASURED
    return Check(
        max(drawn_error(spectrum, wanted, drawn), outside_error(spectrum, full > 0, phase)),
        TOLERANCE,
        phase.size,
        f"sums over the disks in float64 at {DRAWN} scan frequencies drawn in the run, zeros at all that no disks overlap at, and the "
        f"true waves at all others",
        scatter=float(np.sqrt((np.abs(away[seen] / transfer[seen] / factor) ** 2).sum())),
        bound=float(np.sqrt((bound[seen] ** 2).sum())),
        unit="rad",
    )


def wdd(place: Place, size: Size, seed: int) -> Prepared:
    """Wigner-distribution deconvolution of resident counts.

    As single side band, and a transform of both side bands over the disk and back at every frequency of half the plane, 5 M log2 M each.
    """
    scan = WeakObject.make(place, size, seed)
    cube, n, pixels = scan.cube(), scan.scan, len(scan.pixels)
    deconvolution = Deconvolution(scan)
    box = deconvolution.side**2

    def call() -> Any:
        return gpu4d.wdd(cube, interference=INTERFERENCE, epsilon=RIDGE, device=place.device, progress=False)

    return Prepared(
        call,
        lambda found: {"phase": place.host(found.phase.data), "transmission": place.host(found.transmission.data)},
        lambda found: check_wdd(scan, deconvolution, found["transmission"], found["phase"]),
        n * n,
        data.digest(place.xp, scan.patterns),
        bytes=float(pixels * n * n * 2 + 24 * n * n),
        flops=float(pixels * n * n * (2.5 * math.log2(n * n) + 20) + n * n / 2 * 0.78 * 2 * 5 * box * math.log2(box)),
        implementation="cpu" if not place.on_gpu else "cuda",
        inputs=scan.for_peers,
    )


def check_wdd(scan: WeakObject, deconvolution: Deconvolution, transmission: np.ndarray, phase: np.ndarray) -> Check:
    """Compare a transmission and its phase with the deconvolution in float64 and with the object."""
    n = scan.scan
    spectrum = np.fft.fft2(transmission - 1) / phase.size
    reached = reach(scan) < 2 * scan.radius + 1
    drawn = np.concatenate([drawn_frequencies(n, reached), scan.orders * (n // 16)]) % n
    wanted, transfer = deconvolution.solve(drawn)
    imaginary = np.fft.fft2(transmission.imag) / phase.size
    away = imaginary - scan.truth()
    known = tuple(drawn[DRAWN:].T)
    away[known] = imaginary[known] - transfer[DRAWN:] * scan.truth()[known]
    allowed = WIDER * SAFE * scan.bound() + EDGES * np.abs(scan.truth())
    expect_within(np.abs(away), allowed, reached)
    errors = (
        drawn_error(spectrum, wanted, drawn),
        outside_error(spectrum, reached, transmission - 1),
        relative_error(phase, np.angle(transmission)),
    )
    return Check(
        max(errors),
        TOLERANCE,
        2 * phase.size,
        f"the deconvolution in float64 at {DRAWN} scan frequencies drawn in the run and at those of the object, zeros at all that no "
        "disks overlap at, and the true waves at all others",
    )


def incident(scan: WeakObject, inside: np.ndarray) -> float:
    """Return the counts of a pixel in the middle of the disk, of a position."""
    return scan.total() / scan.scan**2 / float(inside.sum())


def disks_at(scan: WeakObject, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return shifts (m, 2), and the waves of the disk (p,) and of those at k - K and k + K (m, p) at its pixels."""
    n = scan.scan
    shifts = scan.shift((frequencies + n // 2) % n - n // 2.0)
    minus, plus = (disk(scan.radius, scan.pixels + s * shifts[:, None]) for s in (-1.0, 1.0))
    return shifts, disk(scan.radius, scan.pixels), minus, plus


def reach(scan: WeakObject) -> np.ndarray:
    """Return by how many pixels scan frequencies move a disk, (n, n)."""
    shift = scan.shift(np.fft.fftfreq(scan.scan, 1 / scan.scan))
    return np.hypot(shift[:, None], shift)


def drawn_frequencies(n: int, among: np.ndarray) -> np.ndarray:
    """Return scan frequencies (m, 2) that nobody knows before: of those wanted, without the first column and the middle one."""
    allowed = among.copy()
    allowed[n // 2], allowed[:, [0, n // 2]] = False, False  # where the half plane holds both signs
    places = np.argwhere(allowed)
    return places[np.frombuffer(os.urandom(8 * DRAWN), np.uint64) % np.uint64(len(places))]


def drawn_error(spectrum: np.ndarray, wanted: np.ndarray, drawn: np.ndarray) -> float:
    """Return the largest distance from the oracle over the largest wave of the answer."""
    return float(np.abs(spectrum[tuple(drawn.T)] - wanted).max() / np.abs(spectrum).max())


def outside_error(spectrum: np.ndarray, inside: np.ndarray, values: np.ndarray) -> float:
    """Return what an answer has at zero and at frequencies that hold nothing, over its largest value: a wrong value is all over them."""
    inside = inside.copy()
    inside[0, 0] = False
    mirrored = inside | np.roll(inside[::-1, ::-1], (1, 1), (0, 1))
    rest = np.fft.ifft2(np.where(mirrored, 0.0, spectrum)) * spectrum.size
    return float(np.abs(rest).max() / np.abs(values).max())


def expect_within(away: np.ndarray, allowed: np.ndarray, where: np.ndarray) -> None:
    """Raise an error if waves are farther from the truth than counting noise permits."""
    wrong = where & ~(away <= allowed)
    wrong[0, 0] = False
    if wrong.any():
        i, j = np.argwhere(wrong)[0]
        here = f"({i}, {j}) is {away[i, j]:.2g} rad from the truth, allowed {allowed[i, j]:.2g}"
        raise WrongAnswer(f"{int(wrong.sum())} waves of the object are wrong: {here}")


class Deconvolution:
    """The formulas of `gpu4d.wdd` in float64, for some scan frequencies of a `WeakObject`."""

    def __init__(self, scan: WeakObject):
        reach = int(np.abs(scan.pixels).max())
        self.scan, self.side = scan, int(fft.next_fast_len(2 * reach + 3))
        self.at = np.stack(np.meshgrid(*[np.arange(self.side) - reach - 1] * 2, indexing="ij"), -1)
        self.own = disk(scan.radius, self.at)
        self.pixel = tuple((scan.pixels + reach + 1).T)

    def matrix(self, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights of both side bands at the disk's pixels (2, p), and Σ w A of each with each (2, 2)."""
        bands = np.stack([self.own * (disk(self.scan.radius, self.at + s * shift) if shift.any() else 1.0) for s in (-1.0, 1.0)])
        spectra = np.fft.fft2(bands)
        damping = 1 + INTERFERENCE * (np.abs(spectra) ** 2).mean(0) / self.own.sum() ** 2
        weights = np.fft.ifft2(spectra / damping).real[:, *self.pixel]
        return weights, weights @ bands[:, *self.pixel].T

    def ridge(self) -> float:
        """Return ε times the largest Σ w A of all frequencies. The disk is round: an eighth of them has all values."""
        n = self.scan.scan
        shift = self.scan.shift(np.arange(n // 2 + 1.0))
        near = [(x, y) for x in shift for y in shift[shift <= x] if math.hypot(x, y) < 2 * self.scan.radius + 1]
        return RIDGE * max(abs(self.matrix(np.array(pair))[1][0, 0]) for pair in near)

    def solve(self, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the spectrum of the transmission less 1 at frequencies (m, 2), and the transfer of a phase."""
        both = np.concatenate([np.zeros((1, 2), int), frequencies])
        shifts, inside, *_ = disks_at(self.scan, both)
        spectra, light, ridge = self.scan.spectra(both), incident(self.scan, inside), self.ridge()
        out, transfer = np.empty(len(both), complex), np.empty(len(both))
        for i, shift in enumerate(shifts):
            weights, matrix = self.matrix(shift)
            full = matrix + ridge * np.eye(2)
            out[i] = np.linalg.solve(full, weights @ spectra[i] / light)[0]
            transfer[i] = np.linalg.solve(full, matrix @ [1.0, -1.0]) @ [0.5, -0.5]
            if i == 0:
                direct = float((weights[0] @ spectra[0]).real / light / matrix[0, 0])
        return out[1:] / direct, transfer[1:]


def ptychography_sizes(**sizes: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    return {tier: dict(zip(("scan", "detector", "radius"), size)) for tier, size in sizes.items()}


WORKLOADS = [
    Workload(
        "ssb",
        "single-side-band ptychography",
        COMPUTE,
        "positions",
        ptychography_sizes(quick=(32, 24, 8), S=(112, 32, 10), M=(256, 64, 16), L=(512, 128, 24)),
        ssb,
        "The phase of a thin object from the overlaps of the disks, counts to map: what is looked at while the sample is in the beam.",
    ),
    Workload(
        "wdd",
        "Wigner-distribution deconvolution",
        COMPUTE,
        "positions",
        ptychography_sizes(quick=(32, 24, 8), S=(64, 24, 8), M=(256, 64, 12), L=(512, 128, 16)),
        wdd,
        "The wave behind a thin object, counts to map: the most demanding of the direct methods.",
    ),
]
