"""A scan of a thin phase object whose every wave is known, and what its counts permit to be known.

The object is periodic over 16 × 16 positions. So cosines of sixteenths of a turn are all that is needed: square roots give them, with
the same bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import Place, Size

import gpu4d

PERIOD = 16  # scan positions
WAVES = 10  # in each half plane
STRENGTH = 0.012  # rad, the largest amplitude of a wave
COUNTS = 30.0  # of a pixel in the middle of the disk
ENERGY, SEMIANGLE = 200e3, 20.0  # eV, mrad
EIGHTH = (1.0, math.sqrt(2 + math.sqrt(2)) / 2, math.sqrt(0.5), math.sqrt(2 - math.sqrt(2)) / 2, 0.0)  # cos(2π j/16), j = 0 … 4
COSINES = np.array([*EIGHTH, *(-c for c in EIGHTH[3::-1]), *(-c for c in EIGHTH[1:4]), 0.0, *EIGHTH[3:0:-1]])
TURNS = COSINES - 1j * np.roll(COSINES, 4)  # exp(-2πi j/16)
SAFE = 6.0  # rms errors of a complex number: one in 10¹⁵ lies farther out by chance


@dataclass(frozen=True)
class WeakObject:
    """Patterns of a thin object with the transmission 1 + iφ, in counts.

    Attributes
    ----------
    patterns : (n, n, Q, Q) uint16
        Where the place computes.
    radius : int
        Of the bright-field disk about pixel Q // 2, px.
    orders : (m, 2) int
        Waves of the object in cycles a period, both signs.
    amplitudes : (m,) complex128
        Their amplitudes, rad: φ(R) = Σ c exp(2πi order · R / 16).
    """

    place: Place
    patterns: Any
    radius: int
    orders: np.ndarray
    amplitudes: np.ndarray

    @classmethod
    def make(cls, place: Place, size: Size, seed: int) -> WeakObject:
        """Make a scan of n × n positions, n a multiple of 16."""
        n, side, radius = size["scan"], size["detector"], size["radius"]
        orders, amplitudes = waves(seed)
        expected = COUNTS * expected_patterns(side, radius, orders, amplitudes).reshape(-1, side, side)
        cell = np.arange(PERIOD * PERIOD).reshape(PERIOD, PERIOD)
        which = np.tile(cell, (n // PERIOD, n // PERIOD)).reshape(-1)
        patterns = data.counts(place.xp, expected, which, seed)
        return cls(place, patterns.reshape(n, n, side, side), radius, orders, amplitudes)

    @property
    def scan(self) -> int:
        return int(self.patterns.shape[0])

    def cube(self) -> gpu4d.DataCube:
        """Return the scan with its calibration. A step is a quarter of the reciprocal radius: no frequency of the disks is lost."""
        middle = self.patterns.shape[2] // 2
        edge = gpu4d.physics.angle_to_frequency(SEMIANGLE, ENERGY)
        known = gpu4d.Calibration(energy=ENERGY, semiangle=SEMIANGLE, r_pixel=1 / (4 * edge), q_pixel=edge / self.radius)
        known.set(origin=(float(middle), float(middle)), rotation=0.0, transpose=False, how="simulation")
        return gpu4d.DataCube(self.patterns, known)

    def inputs(self) -> dict[str, np.ndarray]:
        """Return the patterns and their optics by name, for other tools."""
        known = self.cube().calibration
        optics = {name: np.asarray(getattr(known, name)) for name in ("energy", "semiangle", "q_pixel", "r_pixel")}
        return {"patterns": self.place.host(self.patterns), "origin": np.full(2, self.patterns.shape[2] // 2), **optics}

    @cached_property
    def pixels(self) -> np.ndarray:
        """Pixels of the disk from its middle, (p, 2)."""
        reach = np.arange(-self.radius - 1, self.radius + 2)
        at = np.stack(np.meshgrid(reach, reach, indexing="ij"), -1).reshape(-1, 2)
        return at[disk(self.radius, at) > 0]

    def shift(self, frequencies: np.ndarray) -> np.ndarray:
        """Return how far scan frequencies, cycles a scan, move a disk, px."""
        return frequencies * (4.0 * self.radius / self.scan)

    def truth(self) -> np.ndarray:
        """Return the spectrum of the phase over the scan, (n, n) complex128, divided by the number of positions."""
        out = np.zeros((self.scan, self.scan), complex)
        step = self.scan // PERIOD
        out[self.orders[:, 0] * step, self.orders[:, 1] * step] = self.amplitudes
        return out

    def blocks(self) -> Iterator[tuple[int, Any]]:
        """Yield the first row of some scan rows, and the counts of the disk's pixels there, (rows · n, p) float64, on the device."""
        xp, side = self.place.xp, self.patterns.shape[2]
        number = xp.asarray((self.pixels + side // 2) @ np.array([side, 1]))
        rows = max(1, (1 << 24) // (self.scan * len(self.pixels)))
        for first in range(0, self.scan, rows):
            part = self.patterns[first : first + rows].reshape(-1, side * side)
            yield first, part[:, number].astype(np.float64)

    def spectra(self, frequencies: np.ndarray) -> np.ndarray:
        """Return the scan spectra of the disk's pixels at some frequencies (m, 2), by their definition in float64: (m, p) complex128."""
        xp, n = self.place.xp, self.scan
        total = xp.zeros((len(frequencies), len(self.pixels)), complex)
        y = np.arange(n)
        for first, values in self.blocks():
            x = np.arange(first, first + len(values) // n)
            turns = frequencies[:, 0, None, None] * x[:, None] + frequencies[:, 1, None, None] * y
            wave = xp.asarray(np.exp(-2j * np.pi / n * (turns % n)).reshape(len(frequencies), -1))
            total += wave.real @ values + 1j * (wave.imag @ values)
        return self.place.host(total)

    def total(self) -> float:
        """Return the counts of all pixels of the disk at all positions."""
        return sum(float(values.sum()) for _, values in self.blocks())

    def sums(self, power: int) -> np.ndarray:
        """Return Σ |Ψ₀(k)|²ᵖ |Ψ₀(k - K) - Ψ₀(k + K)|² over the disk at every scan frequency K, (n, n).

        p = 1 is Σ |Γ|², the weight of `gpu4d.ssb`. A wave c exp(2πi K·R) of the phase changes the counts of pixel k by up to
        2 |c| |Ψ₀(k)| |Ψ₀(k - K) - Ψ₀(k + K)|, and the counts are |Ψ₀(k)|²: p = 0 is the Fisher information of c over the counts of a pixel.
        """
        xp, n = self.place.xp, self.scan
        shift = xp.asarray(self.shift(np.fft.fftfreq(n, 1 / n)))
        own = disk(self.radius, self.pixels) ** (2 * power)
        total = xp.zeros((n, n))
        for (x, y), weight in zip(self.pixels.tolist(), own.tolist()):
            minus, plus = (_disk(xp, self.radius, x + s * shift[:, None], y + s * shift) for s in (-1.0, 1.0))
            total += weight * (minus - plus) ** 2
        return self.place.host(total)

    def bound(self) -> np.ndarray:
        """Return the Cramér–Rao bound on the rms error of every wave of the phase, (n, n) rad; ∞ where there is no information."""
        with np.errstate(divide="ignore"):
            return np.sqrt(1 / (COUNTS * self.scan**2 * self.sums(0)))

    def noise(self) -> np.ndarray:
        """Return the rms of Σ G Γ* by counting noise over that of a wave of 1 rad in a single pixel, (n, n).

        Electrons that the object scatters count in the disk's edge, too: they are as many as the square of the phase, everywhere.
        """
        scattered = float((np.abs(self.amplitudes) ** 2).sum())
        return np.sqrt((self.sums(2) + scattered * self.sums(1)) / (COUNTS * self.scan**2))


def waves(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return orders and amplitudes of a real phase: ten waves of a half plane, between a quarter and 1.6 radii away, and their mirrors."""
    j = np.arange(-PERIOD // 2 + 1, PERIOD // 2)
    every = np.stack(np.meshgrid(j, j, indexing="ij"), -1).reshape(-1, 2)
    away = (every**2).sum(1)
    half = every[((every[:, 0] > 0) | ((every[:, 0] == 0) & (every[:, 1] > 0))) & (away >= 1) & (away <= 40)]  # 16 (radii/4)² ≈ 1.6²
    random = data.uniform(seed, len(half) + 2 * WAVES)
    chosen = half[np.argsort(random[: len(half)], kind="stable")[:WAVES]]
    c = STRENGTH * (2 * random[len(half) :].reshape(2, WAVES) - 1)
    values = c[0] + 1j * c[1]
    return np.concatenate([chosen, -chosen]), np.concatenate([values, values.conj()])


def expected_patterns(side: int, radius: int, orders: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Return |Ψ₀(k) + i Σ c exp(2πi order · R / 16) Ψ₀(k - K)|² over one period, (16, 16, Q, Q)."""
    at = np.stack(np.meshgrid(*[np.arange(side) - side // 2] * 2, indexing="ij"), -1)
    moved = np.stack([disk(radius, at - order * (4.0 * radius / PERIOD)) for order in orders])
    x, y = np.arange(PERIOD)[:, None], np.arange(PERIOD)
    real, imaginary = np.zeros((2, PERIOD, PERIOD, side, side))
    real += disk(radius, at)
    for order, c, wave in zip(orders, amplitudes, moved):  # one after the other: products of matrices round differently elsewhere
        turn = 1j * c * TURNS[-(order[0] * x + order[1] * y) % PERIOD]
        real += turn.real[:, :, None, None] * wave
        imaginary += turn.imag[:, :, None, None] * wave
    return real * real + imaginary * imaginary


def disk(radius: float, at: np.ndarray) -> np.ndarray:
    """Return the wave Ψ₀ in the aperture at places (…, 2), px: 1, falling to 0 over the pixel at its radius."""
    return _disk(np, radius, at[..., 0], at[..., 1])


def _disk(xp: Any, radius: float, x: Any, y: Any) -> Any:
    return xp.clip(radius + 0.5 - xp.sqrt(x * x + y * y), 0.0, 1.0)
