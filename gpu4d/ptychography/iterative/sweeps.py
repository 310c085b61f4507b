"""Improve object, probes and positions, sweep by sweep over the patterns."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.device.threads import in_threads
from gpu4d.ptychography.iterative.add_patches import add_patches, take_patches
from gpu4d.ptychography.iterative.depth import depth_filtered
from gpu4d.ptychography.iterative.grid import Grid
from gpu4d.ptychography.iterative.likelihood import STEP
from gpu4d.ptychography.iterative.positions import position_equations
from gpu4d.ptychography.iterative.probes import orthogonal
from gpu4d.ptychography.iterative.state import State
from gpu4d.ptychography.iterative.wave_model import Gradients, WaveModel, gradients, ramps

GROUP_BYTES = {"host": 1 << 19, "device": 1 << 27}  # of one wave array: it stays in a core's cache, or fills a GPU. Sums depend on it
ADDED = 256  # positions whose patches are added to the object together
LEAST_LIGHT = 1e-6  # of the brightest place: less would make steps where no light is


@dataclass(frozen=True)
class Settings:
    """How a reconstruction goes on. The public call explains them."""

    batch: int
    object_step: float
    probe_step: float
    momentum: float
    damping: float
    object_kind: str
    depth_filter: float
    thickness: float
    probe_from: int
    positions_from: int | None
    position_error: float
    seed: int


@dataclass(frozen=True)
class Patterns:
    """Patterns of the used positions on their device, in the detector's dtype, and how they are read.

    Attributes
    ----------
    frames : (m, Qx, Qy)
    number : (n,) int
        Where in `frames` the pattern of each used position is.
    rows, columns : (N,) int arrays beside the frames
        Zero frequency first; 0 for what is outside of the detector.
    measured : (N, N) real or None
    plain : bool
        True if all values are counts: no NaN, nothing below 0.
    """

    frames: Any
    number: np.ndarray
    rows: Any
    columns: Any
    measured: Any
    plain: bool

    def of(self, index: np.ndarray, dtype: Any) -> Any:
        """Return patterns (n, N, N) of the chosen positions, real, zero frequency first."""
        xp = arrays.namespace(self.frames)
        number = self.number[index]
        on_host = isinstance(self.frames, np.ndarray)
        found = self.frames[number] if on_host else xp.take(self.frames, arrays.from_numpy(number, self.frames), axis=0)
        found = xp.astype(xp.take(xp.take(found, self.rows, axis=1), self.columns, axis=2), dtype)
        if self.measured is not None:
            found = xp.where(self.measured > 0, found, xp.zeros_like(found))
        return found if self.plain else xp.clip(found, 0)


class Sweeps:
    """A reconstruction on its way.

    Parameters
    ----------
    model : WaveModel
    grid : Grid
    patterns : Patterns
    settings : Settings
    aperture : (N, N) real or None
        Where probes may differ from zero.
    nominal : (n, 2) float64
        Positions that corrections start from, Å.
    """

    def __init__(self, model: WaveModel, grid: Grid, patterns: Patterns, settings: Settings, aperture: Any, nominal: np.ndarray):
        self.model, self.grid, self.patterns, self.settings = model, grid, patterns, settings
        self.aperture, self.nominal = aperture, nominal
        self.pixels = len(nominal) * (math.prod(model.shape) if model.measured is None else int(model.measured.sum()))

    def sweep(self, state: State) -> State:
        """Return the state after one sweep over all positions, in random batches that follow from the seed and the number of the sweep."""
        number = len(state.losses)
        order = np.random.default_rng([self.settings.seed, number]).permutation(len(self.nominal))
        loss = 0.0
        for first in range(0, len(order), self.settings.batch):
            loss += self.step(state, np.sort(order[first : first + self.settings.batch]), number >= self.settings.probe_from)
        state.probes = orthogonal(state.probes)
        if self.settings.depth_filter and state.object.shape[0] > 1:
            state.object = depth_filtered(state.object, self.settings.depth_filter, self.settings.thickness, self.grid.pixel)
        if self.settings.positions_from is not None and number >= self.settings.positions_from:
            state.positions = self._better_positions(state)
        state.losses.append(2 * loss / self.pixels)
        return state

    def step(self, state: State, index: np.ndarray, of_probes: bool) -> float:
        """Improve object and probes by one batch of positions, in place. Return its misfit before."""
        xp = arrays.namespace(state.object)
        settings, slices = self.settings, state.object.shape[0]
        length = STEP[self.model.likelihood]
        loss, wanted, light, of_probe = self._summed(state, index, of_probes)
        brightest = xp.max(light, axis=(1, 2), keepdims=True)
        light = (1 - settings.damping) * light + max(settings.damping, LEAST_LIGHT) * brightest
        step = wanted * ((-length * settings.object_step / slices) / light)
        if settings.object_kind == "phase":
            step = 1j * xp.imag(step * xp.conj(state.object)) * state.object
        state.object_momentum = settings.momentum * state.object_momentum + step
        state.object = state.object + state.object_momentum
        if settings.object_kind == "phase":
            state.object = state.object / xp.astype(xp.abs(state.object), state.object.dtype)
        if of_probes:
            step = of_probe * (-length * settings.probe_step / len(index))
            state.probe_momentum = settings.momentum * state.probe_momentum + step
            state.probes = state.probes + state.probe_momentum
            if self.aperture is not None:
                state.probes = state.probes * self.aperture
        return loss

    def _summed(self, state: State, index: np.ndarray, of_probes: bool) -> tuple[float, Any, Any, Any]:
        """Return misfit, object gradient / N², illumination and probe gradient, summed over positions in a fixed order."""
        shape = self.grid.shape
        loss, wanted, light, of_probe = 0.0, None, None, None
        corners = self.grid.places(state.positions[index])[0]
        kept: list[Gradients] = []
        begin, done = 0, 0
        groups = list(self._groups(index, state))
        for part, found in zip(groups, self._map(functools.partial(self._gradients, state, of_probes), groups)):
            loss += float(found.misfit)
            of_probe = found.probes if of_probe is None else of_probe + found.probes
            kept.append(found)
            done += len(part)
            if done - begin >= ADDED or done == len(index):
                xp = arrays.namespace(found.patches)
                at = arrays.from_numpy(corners[begin:done], found.patches)
                here = [
                    add_patches(values[0] if len(values) == 1 else xp.concat(values, axis=1), at, shape=shape)
                    for values in ([k.patches for k in kept], [k.illumination for k in kept])
                ]
                wanted, light = here if wanted is None else (wanted + here[0], light + here[1])
                kept, begin = [], done
        return loss, wanted, light, of_probe

    def _gradients(self, state: State, of_probes: bool, part: np.ndarray) -> Gradients:
        return gradients(self.model, *self._inputs(state, part), of_probes=of_probes)

    def _inputs(self, state: State, part: np.ndarray) -> tuple[Any, Any, Any, Any]:
        """Return patches, probes, ramps and counts of some positions."""
        corners, places = self.grid.places(state.positions[part])
        patches = take_patches(state.object, arrays.from_numpy(corners, state.object), self.grid.patch)
        ramp = ramps(places, self.grid.patch, state.probes)
        real = arrays.namespace(state.object).real(state.probes[:1, :1, :1]).dtype
        return patches, state.probes, ramp, self.patterns.of(part, real)

    def _groups(self, index: np.ndarray, state: State) -> Iterator[np.ndarray]:
        """Yield positions that are worked on together. Their number follows from shapes alone."""
        kind = "host" if isinstance(state.object, np.ndarray) else "device"
        size = max(1, GROUP_BYTES[kind] // (math.prod(state.probes.shape) * 8))
        for first in range(0, len(index), size):
            yield index[first : first + size]

    def _map(self, work: Any, groups: list[np.ndarray]) -> Iterator[Any]:
        return in_threads(work, groups) if isinstance(self.patterns.frames, np.ndarray) else map(work, groups)

    def _better_positions(self, state: State) -> np.ndarray:
        """Return positions after one step of Fisher scoring, with a Gaussian prior about the nominal ones."""
        everything = np.arange(len(self.nominal))
        groups = list(self._groups(everything, state))
        found = [
            tuple(arrays.to_numpy(part) for part in pair)
            for pair in self._map(lambda part: position_equations(self.model, *self._inputs(state, part)), groups)
        ]
        score, information = (np.concatenate(parts) for parts in zip(*found))
        pixel = np.array(self.grid.pixel)
        prior = np.diag((pixel / self.settings.position_error) ** 2)
        away = (state.positions - self.nominal) @ self.grid.matrix / pixel
        steps = np.linalg.solve(information + prior, (score - away @ prior)[..., None])[..., 0]
        length = np.hypot(*steps.T)[:, None]
        steps *= np.minimum(1, 0.5 / np.maximum(length, 1e-12))  # half a pixel: beyond it the wave is not linear in the shift
        moved = away + steps
        moved -= moved.mean(axis=0)  # a shift of all positions is a shift of the object
        return self.nominal + (moved * pixel) @ self.grid.matrix.T
