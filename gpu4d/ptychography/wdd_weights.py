"""Compute the weights of Wigner-distribution deconvolution for blocks of scan frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.ptychography.overlap_geometry import Overlaps
from gpu4d.ptychography.ssb_sum import aperture_wave

BLOCK_VALUES = {"cpu": 1 << 16, "cuda": 1 << 21, "definition": 1 << 16}  # of a block's weights: on CPUs they stay in the cache


@dataclass(frozen=True)
class Frequencies:
    """Scan frequencies whose disks overlap, in the order of the flat half plane. The first is zero.

    Attributes
    ----------
    index : (F,) int64
        Numbers in the flat half plane (Rx, Ry // 2 + 1).
    at : (F, 2) float64
        K, detector pixels.
    """

    index: np.ndarray
    at: np.ndarray

    @classmethod
    def of(cls, overlaps: Overlaps) -> Frequencies:
        places = (overlaps.rows[:, None] + overlaps.columns).reshape(-1, 2)
        if overlaps.pupil is None:
            reach = 2 * overlaps.radius + 1
        else:  # the largest distance of two pixels that the pupil reaches
            spread = np.ptp(overlaps.at, axis=0) + 2
            reach = float(np.hypot(*spread))
        index = np.flatnonzero(np.hypot(*places.T) < reach)
        return cls(index, places[index])


class Weights:
    """Weights of the pixels at scan frequencies, for both side bands.

    G(k, K) = X₀ A + X_K B + all other interference. A = Ψ₀*(k) Ψ₀(k - K), B = Ψ₀(k) Ψ₀*(k + K). The other waves b contribute moved
    copies of A. With equal power for all b their covariance is diagonal in the Fourier transform over k, where it is |F{A}|². So the best
    weights are F⁻¹[F{A} / (1 + interference · |F{A}|² / (Σ|Ψ₀|²)²)]: a Wiener deconvolution.

    Parameters
    ----------
    overlaps : Overlaps
    interference : float
        Power of the interference of scattered with scattered waves over that of the counting noise. 0 gives A and B themselves.
    sample : array
        The arrays' library and device.
    """

    def __init__(self, overlaps: Overlaps, interference: float, sample: Any):
        self.overlaps, self.interference = overlaps, float(interference)
        lowest = np.floor(overlaps.at.min(0)).astype(int) - 1
        shape = [fft.next_fast_len(int(n)) for n in np.ceil(np.ptp(overlaps.at, axis=0)).astype(int) + 3]
        offset = overlaps.at[0] - np.rint(overlaps.at[0] - lowest)  # the place of box pixel (0, 0), so that pixels of both fall together
        self.shape = (shape[0], shape[1])
        place = np.rint(overlaps.at - offset).astype(np.int64)
        self.pixels = arrays.from_numpy(place[:, 0] * shape[1] + place[:, 1], sample)
        x, y = (offset[axis] + np.arange(shape[axis]) for axis in (0, 1))
        self.x = arrays.from_numpy(x.astype(np.float32)[:, None], sample)
        self.y = arrays.from_numpy(y.astype(np.float32)[None, :], sample)
        self.pupil = None if overlaps.pupil is None else arrays.from_numpy(overlaps.pupil, sample)
        own = np.zeros(shape)
        own.reshape(-1)[place[:, 0] * shape[1] + place[:, 1]] = overlaps.intensity
        self.disk = arrays.from_numpy(own.astype(np.float32), sample)
        self.area = float(overlaps.intensity.sum())
        self.own = self._wave(self.x, self.y)

    def of(self, at: Any, zero_first: bool) -> tuple[Any, Any]:
        """Return both side bands, A and B, and their weights over the box of the disk, for frequencies (m, 2): each (2, m, nx, ny).

        They are real for a round disk without aberrations. At K = 0 both are |Ψ₀|².
        """
        xp = arrays.namespace(self.own)
        kx, ky = (xp.astype(at[:, axis], xp.float32)[:, None, None] for axis in (0, 1))
        minus, plus = self._wave(self.x - kx, self.y - ky), self._wave(self.x + kx, self.y + ky)
        if self._real:
            bands = xp.stack([self.own * minus, self.own * plus])
        else:
            bands = xp.stack([xp.conj(self.own) * minus, self.own * xp.conj(plus)])
        if zero_first:
            same = xp.broadcast_to(xp.astype(self.disk, bands.dtype), (2, 1, *self.shape))
            bands = xp.concat([same, bands[:, 1:, :, :]], axis=1)
        return bands, bands if not self.interference else self._real_deconvolved(bands) if self._real else self._deconvolved(bands)

    @property
    def _real(self) -> bool:
        return self.overlaps.pupil is None and not self.overlaps.chi

    def _wave(self, x: Any, y: Any) -> Any:
        overlaps, pupil = self.overlaps, self.pupil
        found = aperture_wave(arrays.namespace(x), x, y, radius=overlaps.radius, pupil=pupil, center=overlaps.origin, chi=overlaps.chi)
        xp = arrays.namespace(found)
        return xp.astype(found, xp.float32 if self._real else xp.complex64, copy=False)

    def _damping(self, power: Any) -> Any:
        """Return 1 / (1 + interference · power / area²)."""
        return 1 / (1 + (self.interference / self.area**2) * power)

    def _deconvolved(self, bands: Any) -> Any:
        xp = arrays.namespace(bands)
        spectra = fft.fft2(bands)
        power = xp.real(spectra) ** 2 + xp.imag(spectra) ** 2
        return fft.ifft2(spectra * self._damping((power[0, ...] + power[1, ...]) / 2))

    def _real_deconvolved(self, bands: Any) -> Any:
        """Do both real side bands in one transform of A + iB."""
        xp = arrays.namespace(bands)
        spectrum = fft.fft2(bands[0, ...] + 1j * bands[1, ...])
        power = xp.real(spectrum) ** 2 + xp.imag(spectrum) ** 2
        mirrored = xp.roll(xp.flip(power, axis=(-2, -1)), (1, 1), axis=(-2, -1))  # |F(-r)|²: |F{A}|² + |F{B}|² is half the sum of both
        both = fft.ifft2(spectrum * self._damping((power + mirrored) / 4))
        return xp.stack([xp.real(both), xp.imag(both)])

    def at_pixels(self, values: Any, first: int, last: int) -> Any:
        """Return values (2, m, nx, ny) at some of the pixels, (2, m, last - first)."""
        xp = arrays.namespace(values)
        flat = xp.reshape(values, (*values.shape[:2], self.shape[0] * self.shape[1]))
        return xp.take(flat, self.pixels[first:last], axis=2)
