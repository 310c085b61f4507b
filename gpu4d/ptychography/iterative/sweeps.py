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
from gpu4d.ptychography.iterative.add_patches import take_patches
from gpu4d.ptychography.iterative.depth import depth_filtered
from gpu4d.ptychography.iterative.grid import Grid
from gpu4d.ptychography.iterative.positions import position_equations
from gpu4d.ptychography.iterative.probes import mixed, mixing
from gpu4d.ptychography.iterative.state import State
from gpu4d.ptychography.iterative.wave_gradients import wave_gradients
from gpu4d.ptychography.iterative.wave_model import Ramps, WaveModel, ramps

GROUP_BYTES = {"host": 1 << 21, "device": 1 << 27}  # of the waves in all slices: little Python, but still in a core's cache; a full GPU
MOST = 65535  # positions that are worked on together: a launch takes no more
STEP = {"poisson": 0.5, "amplitude": 1.0}  # a full step along the gradient: one over the curvature of the misfit for a wave's modulus
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
        if isinstance(self.frames, np.ndarray):
            found = np.empty((len(number), len(self.rows), len(self.columns)), dtype)
            for to, rows in runs(self.rows):  # blocks of neighbours, as a detector has four about its middle
                for across, columns in runs(self.columns):
                    found[:, to, across] = self.frames[number, rows, columns]
        else:
            found = xp.take(self.frames, arrays.from_numpy(number, self.frames), axis=0)
            found = xp.astype(xp.take(xp.take(found, self.rows, axis=1), self.columns, axis=2), dtype)
        if self.measured is not None:
            found = xp.where(self.measured > 0, found, xp.zeros_like(found))
        return found if self.plain else xp.clip(found, 0)


def runs(index: np.ndarray) -> list[tuple[slice, slice]]:
    """Split rising numbers into runs of neighbours: where they stand, and what they are.

    Examples
    --------
    >>> runs(np.array([2, 3, 0, 1]))
    [(slice(0, 2, None), slice(2, 4, None)), (slice(2, 4, None), slice(0, 2, None))]
    """
    ends = [*(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
    begins = [0, *ends[:-1]]
    return [(slice(a, b), slice(int(index[a]), int(index[a]) + b - a)) for a, b in zip(begins, ends)]


@dataclass
class Sums:
    """Sums over positions: the misfit, the object's gradient / N² and the light on it (S, X, Y), and the probes' gradient."""

    misfit: float
    wanted: Any
    light: Any
    probes: Any
    box: tuple[slice, ...] | None

    def added(self, other: Sums) -> Sums:
        """Return the sum with those of other positions, which may cover a part of the object. Arrays of the host are changed in place."""
        probes = self.probes + other.probes
        if other.box is None:
            return Sums(self.misfit + other.misfit, self.wanted + other.wanted, self.light + other.light, probes, None)
        self.wanted[other.box] += other.wanted
        self.light[other.box] += other.light
        return Sums(self.misfit + other.misfit, self.wanted, self.light, probes, None)


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
        if state.probes.shape[0] > 1:
            turn = mixing(state.probes)
            state.probes, state.probe_momentum = mixed(state.probes, turn), mixed(state.probe_momentum, turn)
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
        sums = self._summed(state, index, of_probes)
        light = sums.light
        brightest = xp.max(light, axis=(1, 2), keepdims=True)
        light = (1 - settings.damping) * light + max(settings.damping, LEAST_LIGHT) * brightest
        step = sums.wanted * ((-length * settings.object_step / slices) / light)
        if settings.object_kind == "phase":
            step = 1j * xp.imag(step * xp.conj(state.object)) * state.object
        state.object_momentum = settings.momentum * state.object_momentum + step
        state.object = state.object + state.object_momentum
        if settings.object_kind == "phase":
            state.object = state.object / xp.astype(xp.abs(state.object), state.object.dtype)
        if of_probes:
            step = sums.probes * (-length * settings.probe_step / len(index))
            state.probe_momentum = settings.momentum * state.probe_momentum + step
            state.probes = state.probes + state.probe_momentum
            if self.aperture is not None:
                state.probes = state.probes * self.aperture
        return sums.misfit

    def _summed(self, state: State, index: np.ndarray, of_probes: bool) -> Sums:
        """Return sums over positions, in a fixed order: groups may be worked on at the same time, but are added one after the other."""
        parts = self._map(functools.partial(self._group_sums, state, of_probes), list(self._groups(index, state)))
        total: Sums | None = None
        if isinstance(state.object, np.ndarray):
            light = np.zeros(state.object.shape, state.object.real.dtype)
            total = Sums(0.0, np.zeros_like(state.object), light, np.zeros_like(state.probes), None)
        for part in parts:
            total = part if total is None else total.added(part)
        assert total is not None
        return total

    def _group_sums(self, state: State, of_probes: bool, part: np.ndarray) -> Sums:
        """Return sums over a group of positions. On the host they cover the part of the object that the group sees."""
        corners, places = self.grid.places(state.positions[part])
        planes, box = state.object, None
        if isinstance(planes, np.ndarray):
            low, high = corners.min(axis=0), corners.max(axis=0) + self.grid.patch
            box = (slice(None), slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])))
            planes, corners = planes[box], corners - low
        real = arrays.namespace(planes).real(planes[:1, :1, :1]).dtype
        ramp = ramps(places, self.grid.patch, state.probes)
        inputs = planes, arrays.from_numpy(corners, planes), state.probes, *ramp, self.patterns.of(part, real)
        options: dict[str, Any] = {"likelihood": self.model.likelihood, "background": self.model.background, "of_probes": of_probes}
        found = wave_gradients(*inputs, self.model.measured, self.model.propagator, **options)
        return Sums(float(arrays.namespace(found.misfit).sum(found.misfit)), found.wanted, found.light, found.probes, box)

    def _inputs(self, state: State, part: np.ndarray) -> tuple[Any, Any, Ramps, Any]:
        """Return patches, probes, ramps and counts of some positions."""
        corners, places = self.grid.places(state.positions[part])
        patches = take_patches(state.object, arrays.from_numpy(corners, state.object), self.grid.patch)
        ramp = ramps(places, self.grid.patch, state.probes)
        real = arrays.namespace(state.object).real(state.probes[:1, :1, :1]).dtype
        return patches, state.probes, ramp, self.patterns.of(part, real)

    def _groups(self, index: np.ndarray, state: State) -> Iterator[np.ndarray]:
        """Yield positions that are worked on together. Their number follows from shapes alone."""
        kind = "host" if isinstance(state.object, np.ndarray) else "device"
        size = min(MOST, max(1, GROUP_BYTES[kind] // (math.prod(state.probes.shape) * 8 * state.object.shape[0])))
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
