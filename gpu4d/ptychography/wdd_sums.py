"""Sum scan spectra of bright-field pixels with the weights of Wigner-distribution deconvolution."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.ptychography.overlap_geometry import Overlaps
from gpu4d.ptychography.pixel_groups import PixelSource, filled, group_size, in_order
from gpu4d.ptychography.side_band_sums import incident_counts, reported, without_pattern
from gpu4d.ptychography.wdd_weights import BLOCK_VALUES, Frequencies, Weights

SAMPLED = 32  # pixels, evenly spread over the disk, that tell how strong the object and the counting noise are
INTERFERENCE = 30.0  # at most: more gains nothing on strong objects, and costs what noise is left
LEAST_CONTRAST = 1e-4  # of images of single pixels: less cannot be told from counting noise
EPSILON = (0.003, 0.03)  # of the sum of weights: with less, noise grows at high frequencies, with more the phase falls below 0.8


@dataclass(frozen=True)
class WDDSums:
    """Weighted sums of all pixels.

    Attributes
    ----------
    bands : (F, 2) complex128
        Σ w* G for both side bands.
    matrix : (F, 2, 2) complex128
        Σ w* A and Σ w* B: what a unit of each side band gives in both sums.
    frequencies : Frequencies
    missing : (Rx, Ry) bool or None
    incident : float
        |Ψ₀|² per pixel in the middle of the disk, counts.
    interference, epsilon : float
        As taken: given, or from the counts.
    """

    bands: Any
    matrix: Any
    frequencies: Frequencies
    missing: np.ndarray | None
    incident: float
    interference: float
    epsilon: float


@dataclass(frozen=True)
class Prior:
    """How strong scattering is, relative to counting noise: given, or to be measured. `cell`: (q_pixel · r_pixel)²."""

    interference: float | None
    epsilon: float | None
    cell: float
    where: np.ndarray | None

    def measured(self, images: Any, bad: np.ndarray | None) -> tuple[float, float]:
        """Return the interference, and the power of noise over that of the object, for images (n, Rx, Ry) of at most a group of pixels.

        V is the variance of the transmission function: that of the images over the square of their mean, less what counting explains.
        With n counts a pixel and position, and V spread evenly below 2 k₀, counting noise has 4 cell / (n V) of the power of the object
        at a frequency. Twice that is taken, because spectra have peaks, and most frequencies have less than the mean. The interference
        of scattered with scattered waves has V / 4 of the power of that with the direct beam.
        """
        sample = arrays.to_numpy(images).astype(np.float64)
        good = np.isfinite(sample).all(0)
        for mask in (self.where, None if bad is None else ~bad):
            good &= True if mask is None else mask
        values = sample[:, good]
        mean = values.mean(1) if values.size else np.zeros(1)
        square = float((mean**2).sum())
        if not square:
            interference, noise = 0.0, math.inf
        elif not (values == np.rint(values)).all():  # no counts: their noise is not known
            interference, noise = INTERFERENCE, 0.0
        else:
            contrast = max(LEAST_CONTRAST, float((values.var(1) - mean).sum()) / square)
            noise = 8 * self.cell * float(mean.sum()) / (square * contrast)
            interference = min(INTERFERENCE, contrast / (2 * noise))
        return (interference if self.interference is None else self.interference), noise


def wdd_sums(source: PixelSource, overlaps: Overlaps, prior: Prior, warnings: list[str]) -> WDDSums:
    """Return the weighted sums of all pixels, whose order in `overlaps` begins with `SAMPLED` evenly spread ones."""
    frequencies = Frequencies.of(overlaps)
    found = _one_round(source, overlaps, frequencies, prior, None)
    bad = without_pattern(found[2], None)
    if bad.any():
        found = _one_round(source, overlaps, frequencies, prior, bad)
    bands, matrix, counts, (interference, noise) = found
    epsilon = prior.epsilon
    if epsilon is None:  # noise is relative to the sum of weights without interference, which is the disk's area
        xp = arrays.namespace(matrix)
        largest = float(xp.max(xp.abs(matrix[0, 0, :])))
        epsilon = float(np.clip(noise * float(overlaps.intensity.sum()) / largest if largest > 0 else math.inf, *EPSILON))
    incident = incident_counts(counts, bad, overlaps)
    return WDDSums(bands, matrix, frequencies, reported(bad, warnings), incident, interference, epsilon)


def spread(overlaps: Overlaps) -> Overlaps:
    """Return the same disk with its pixels in another order: the first `SAMPLED` are evenly spread."""
    n = len(overlaps.pixels)
    order = np.argsort(np.arange(n) % max(1, -(-n // SAMPLED)), kind="stable")
    fields = {name: getattr(overlaps, name)[order] for name in ("pixels", "at", "intensity")}
    return Overlaps(**{**{name: getattr(overlaps, name) for name in overlaps.__dataclass_fields__}, **fields})


def _one_round(
    source: PixelSource, overlaps: Overlaps, frequencies: Frequencies, prior: Prior, bad: np.ndarray | None
) -> tuple[Any, Any, np.ndarray, tuple[float, float]]:
    """Return sums, matrix, counts of every position, and the interference and noise that were taken."""
    group, each = group_size(source), 8 * len(frequencies.index)
    work: _Blocks | None = None
    for part, stack in source.parts(group, held=each * (1 if source.kind == "cpu" else 2)):
        if work is None:
            work = _Blocks.of(source, overlaps, frequencies, prior, bad, group, stack)
        spectra = work.transformed(stack)
        del stack
        work.add(spectra, part)
        del spectra
    assert work is not None
    return work.bands, work.matrix, arrays.to_numpy(work.counts), work.strengths


@dataclass
class _Blocks:
    """Sums over pixels for blocks of frequencies, in a fixed order: groups of pixels one after the other."""

    source: PixelSource
    weights: Weights
    places: Any
    index: Any
    block: int
    group: int
    bad: Any
    strengths: tuple[float, float]
    bands: Any = None
    matrix: Any = None
    counts: Any = None

    @classmethod
    def of(
        cls, source: PixelSource, overlaps: Overlaps, frequencies: Frequencies, prior: Prior, bad: np.ndarray | None, group: int, stack: Any
    ) -> _Blocks:
        xp = arrays.namespace(stack)
        strengths = prior.measured(stack[: min(SAMPLED, group, stack.shape[0]), :, :], bad)
        sample = xp.empty((0,), dtype=xp.float32, device=arrays.device(stack))
        weights = Weights(overlaps, strengths[0], sample)
        block = max(1, BLOCK_VALUES[source.kind] // math.prod(weights.shape))
        places = arrays.from_numpy(frequencies.at.astype(np.float32), sample)
        missing = None if bad is None else arrays.from_numpy(bad, sample)
        return cls(source, weights, places, arrays.from_numpy(frequencies.index, sample), block, group, missing, strengths)

    def transformed(self, stack: Any) -> Any:
        """Return the spectra (p, F) complex64 of images, and add the images to the counts."""
        xp = arrays.namespace(stack)
        firsts = range(0, stack.shape[0], self.group)
        pieces = [stack[i : min(i + self.group, stack.shape[0]), :, :] for i in firsts]
        out = np.empty((stack.shape[0], self.index.shape[0]), np.complex64) if isinstance(stack, np.ndarray) else None

        def one(images: Any, first: int) -> tuple[Any, Any]:
            images = xp.astype(images, xp.float32, copy=False)
            if self.bad is not None:
                images = filled(xp, images, self.bad)
            whole = fft.rfft2(images)
            found = xp.take(xp.reshape(whole, (whole.shape[0], -1)), self.index, axis=1)
            if out is not None:
                out[first : first + found.shape[0]] = found
            return None if out is not None else found, xp.sum(images, axis=0, dtype=xp.float64)

        found = []
        for spectra, counts in in_order(self.source, one, pieces, firsts):
            found.append(spectra)
            self.counts = counts if self.counts is None else self.counts + counts
        return out if out is not None else xp.concat(found, axis=0)

    def add(self, spectra: Any, part: slice) -> None:
        """Add the pixels of a part to the sums of all blocks of frequencies."""
        xp = arrays.namespace(spectra)
        firsts = range(0, self.places.shape[0], self.block)
        found = list(in_order(self.source, functools.partial(self._one, spectra=spectra, part=part), firsts))
        self.bands = xp.concat([bands for bands, _ in found], axis=1)
        if self.matrix is None:
            self.matrix = xp.concat([matrix for _, matrix in found], axis=2)

    def _one(self, first: int, *, spectra: Any, part: slice) -> tuple[Any, Any]:
        """Return the sums (2, m) of a block with this part added, and in the first part its matrix (2, 2, m)."""
        xp = arrays.namespace(spectra)
        last = min(first + self.block, self.places.shape[0])
        bands, weights = self.weights.of(self.places[first:last, :], first == 0)
        own = _conjugate(self.weights.at_pixels(weights, part.start, part.stop))
        if self.bands is None:
            total = xp.zeros((2, last - first), dtype=xp.complex128, device=arrays.device(spectra))
        else:
            total = self.bands[:, first:last]
        images = xp.asarray(xp.permute_dims(spectra[:, first:last], (1, 0)), copy=True)
        total = _added(total, images[None, ...] * own, self.group)
        if self.matrix is not None:
            return total, None
        whole = self.weights.pixels.shape[0]
        bands, weights = self.weights.at_pixels(bands, 0, whole), _conjugate(self.weights.at_pixels(weights, 0, whole))
        cross = xp.sum(weights[:, None, :, :] * bands[None, :, :, :], axis=3)
        return total, xp.astype(cross, xp.complex128)


def _conjugate(values: Any) -> Any:
    xp = arrays.namespace(values)
    return xp.conj(values) if xp.isdtype(values.dtype, "complex floating") else values


def _added(total: Any, terms: Any, group: int) -> Any:
    """Add terms (2, m, p) to sums (2, m): over each group of pixels in single precision, then group by group in double precision."""
    xp = arrays.namespace(terms)
    bands, m, p = terms.shape
    whole = p // group
    parts = xp.sum(xp.reshape(terms[:, :, : whole * group], (bands, m, whole, group)), axis=3)
    for i in range(whole):
        total = total + xp.astype(parts[:, :, i], xp.complex128)
    return total if whole * group == p else total + xp.astype(xp.sum(terms[:, :, whole * group :], axis=2), xp.complex128)
