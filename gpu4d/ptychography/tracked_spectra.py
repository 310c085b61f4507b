"""Compute scan spectra of bright-field pixels under windows that move with the image that the pixel sees."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.data.datacube import DataCube
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.device.threads import in_threads
from gpu4d.errors import InputError
from gpu4d.ptychography.bright_field_stack import bright_field_stacks
from gpu4d.ptychography.experiment import Experiment
from gpu4d.streaming.engine import SweepOptions

TAPER = 0.4  # of the half width: the window falls to 0 over this part of it, as a cosine does
SPARSE = 4  # pixels, of which one tells how strong frequencies are
WAITING = 16  # groups whose results may be in memory at the same time
GROUP = 32  # pixels whose images are transformed at once


@dataclass
class PixelImages:
    """The images of chosen pixels, again and again: kept if they fit into memory together, else read in passes.

    Attributes
    ----------
    cube : DataCube
    pixels : (P,) int64
        Pixel numbers qx · Qy + qy.
    options : SweepOptions
        For every pass.
    bad : (Rx, Ry) bool
        Positions without a pattern; none before `find_bad`.
    """

    cube: DataCube
    pixels: np.ndarray
    options: SweepOptions
    bad: np.ndarray = field(init=False)
    kept: list[tuple[int, Any]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.bad = np.zeros(self.cube.scan_shape, bool)

    @classmethod
    def of_disk(cls, cube: DataCube, pixels: np.ndarray, options: SweepOptions) -> PixelImages:
        """Return the images of pixels in the bright-field disk, with positions without a pattern in `bad`.

        Raises
        ------
        InputError
            No position has counts there.
        """
        images = cls(cube, pixels, options)
        images.find_bad()
        if images.bad.all():
            raise InputError("no position has counts in the bright-field disk: check calibration.origin (px) and the radius of the disk")
        return images

    def groups(self) -> Iterator[tuple[int, Any]]:
        """Yield the first number and the images (n, Rx, Ry) of every group of pixels."""
        if self.kept:
            yield from self.kept
            return
        for part, stack in bright_field_stacks(self.cube, self.pixels, GROUP, **self.options):
            size = stack.shape[0]
            found = [(part.start + i, stack[i : min(i + GROUP, size), :, :]) for i in range(0, size, GROUP)]
            if size == len(self.pixels):
                self.kept = found
            yield from found

    def mapped(self, work: Any) -> Iterator[Any]:
        """Yield work(first, images) of all groups, in order. On the host, threads work on several groups at the same time."""
        waiting: list[tuple[int, Any]] = []
        for group in self.groups():
            if not isinstance(group[1], np.ndarray):
                yield work(*group)
                continue
            waiting.append(group)
            if len(waiting) == WAITING:
                yield from in_threads(work, *zip(*waiting))
                waiting = []
        if waiting:
            yield from in_threads(work, *zip(*waiting))

    def find_bad(self) -> np.ndarray:
        """Find positions without counts or with NaN, keep them in `bad`, and return the counts (Rx, Ry)."""

        def total(first: int, images: Any) -> np.ndarray:
            xp = arrays.namespace(images)
            return arrays.to_numpy(xp.sum(xp.astype(images, xp.float64), axis=0))

        counts = functools.reduce(np.add, self.mapped(total))
        self.bad = ~(np.isfinite(counts) & (counts > 0))
        return counts


def scan_shifts(gradient: np.ndarray, known: Experiment) -> np.ndarray:
    """Return how far the image of a pixel is shifted, in scan steps: pixel k sees at R what the axis sees at R + shift(k).

    Parameters
    ----------
    gradient : (n, 2)
        ∇χ, radians per detector pixel, in detector axes.
    """
    return known.in_steps(gradient @ scan_matrix(known.rotation, known.transpose).T / (2 * np.pi * known.q_pixel))


def windows(shape: tuple[int, int], shifts: np.ndarray) -> list[np.ndarray]:
    """Return windows (n, Rx, 1) and (n, 1, Ry) whose product moves with the image: w(R + shift), cut at the border of the scan."""
    found = []
    for axis in (0, 1):
        half = shape[axis] / 2
        place = np.abs(np.arange(shape[axis]) + 0.5 - half + shifts[:, axis, None]) / half
        fall = np.clip((place - (1 - TAPER)) / TAPER, 0, 1)
        found.append(np.cos(np.pi / 2 * fall) ** 2)
    return [found[0][:, :, None], found[1][:, None, :]]


def windowed_spectra(images: Any, wanted: list[np.ndarray], bad: np.ndarray | None) -> tuple[Any, Any]:
    """Return spectra (n, Rx, Ry // 2 + 1) of windowed images without their mean, and the variances (n,) that counting gives them."""
    xp = arrays.namespace(images)
    images = xp.astype(images, xp.float32)
    window = [arrays.from_numpy(w.astype(np.float32), images) for w in wanted]
    window = window[0] * window[1]
    if bad is not None and bad.any():
        window = xp.where(arrays.from_numpy(bad, images), xp.zeros_like(window), window)
        images = xp.where(arrays.from_numpy(bad, images), xp.zeros_like(images), images)
    area = xp.sum(window, axis=(1, 2), keepdims=True)
    inside = images * window
    mean = xp.sum(inside, axis=(1, 2), keepdims=True) / xp.where(area > 0, area, xp.ones_like(area))
    return fft.rfft2(inside - mean * window), xp.sum(inside * window, axis=(1, 2), dtype=xp.float64)


def mean_power(images: PixelImages) -> np.ndarray:
    """Return the power (Rx, Ry // 2 + 1) of spectra, over what counting alone would give. Every fourth pixel is enough for it."""
    still = windows(images.cube.scan_shape, np.zeros((1, 2)))

    def power(first: int, group: Any) -> np.ndarray:
        spectra, variance = windowed_spectra(group[-first % SPARSE :: SPARSE, :, :], still, images.bad)
        xp = arrays.namespace(spectra)
        weight = xp.astype(1 / xp.where(variance > 0, variance, xp.ones_like(variance)), xp.float32)[:, None, None]
        return arrays.to_numpy(xp.sum(xp.abs(spectra) ** 2 * weight, axis=0, dtype=xp.float64))

    return functools.reduce(np.add, images.mapped(power)) / len(images.pixels[::SPARSE])


def tracked_spectra(images: PixelImages, shifts: np.ndarray, chosen: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return spectra (P, m) at chosen frequencies, numbers in the flat half plane, and their variances (P,)."""

    def picked(first: int, group: Any) -> tuple[Any, np.ndarray]:
        wanted = windows(images.cube.scan_shape, shifts[first : first + group.shape[0]])
        spectra, variance = windowed_spectra(group, wanted, images.bad)
        xp = arrays.namespace(spectra)
        flat = xp.reshape(spectra, (spectra.shape[0], -1))
        return xp.take(flat, arrays.from_numpy(chosen, flat), axis=1), arrays.to_numpy(variance)

    found = list(images.mapped(picked))
    xp = arrays.namespace(found[0][0])
    return xp.concat([spectra for spectra, _ in found], axis=0), np.concatenate([variance for _, variance in found])
