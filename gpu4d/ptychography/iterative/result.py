"""What iterative ptychography gives: phase, transmission, probes, positions, and how they were found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gpu4d import arrays, fft
from gpu4d.arrays import Array
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.data.storable import Storable
from gpu4d.ptychography.experiment import Experiment
from gpu4d.ptychography.iterative.grid import Grid
from gpu4d.ptychography.iterative.state import State


@dataclass(eq=False)
class Reconstruction(
    Storable,
    stored="corner thickness: [Å]; probes: mode x y; powers: mode; positions corrections: Rx Ry xy [Å]; used: Rx Ry; loss: sweep; "
    "object: slice x y",
):
    """Transmission of an object, the probes that saw it, and how both were found.

    Attributes
    ----------
    phase : RealSlice (X, Y)
        Radians, summed over slices, with mean zero. In scan axes, over the area of the scan; a pixel is 1 / (N q_pixel) Å. Phases
        of more than π in a slice are wrapped.
    transmission : RealSlice (S, X, Y) complex
        Of every slice from the entrance down, on the grid of the phase. Its mean is real.
    corner : (float, float)
        Å: the position, in the frame of `positions`, of pixel [0, 0] of phase and transmission.
    probes : (M, N, N) complex64 or complex128
        Modes of the probe in real space at the entrance of the object, strongest first, in detector axes. The probe's place is
        pixel (N // 2, N // 2). Σ |.|² is in counts.
    powers : (M,) float64
        Part of the intensity in every mode. Their sum is 1.
    positions, corrections : (Rx, Ry, 2) float64
        Of the probes, and how far they were moved from what was given, Å in scan axes. NaN where a position was left out.
    used : (Rx, Ry) bool
        Positions whose patterns took part.
    loss : (sweeps,) float64
        Before each sweep's steps, mean over pixels: deviance 2 Σ (E - n + n ln(n/E)) of Poisson counts, or 2 Σ (√E - √n)².
    object : (S, X', Y') complex
        The whole transmission in detector axes, on the grid that was used, also where no probe was.
    zero : (int, int)
        The pixel of `object` at position (0, 0).
    thickness : float
        Of a slice, Å. 0 for a single one.
    aberrations : dict
        That the probe began with. defocus = -C10, positive is underfocus.
    geometry : Experiment
        Energy, pixel sizes, rotation, origin and radius that were used.
    decisions, warnings : list of str
        Sentences for the user.
    """

    phase: RealSlice
    transmission: RealSlice
    corner: tuple[float, float]
    probes: Array
    powers: np.ndarray
    positions: np.ndarray
    corrections: np.ndarray
    used: np.ndarray
    loss: np.ndarray
    object: Array
    zero: tuple[int, int]
    thickness: float
    aberrations: dict[str, float]
    geometry: Experiment
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_emd(self) -> dict[str, Slice]:
        """Return the slices that `gpu4d.save` stores: the phase, and "modulus", "slices", "probes", "positions", "corrections", "loss"."""
        host = self.transmission.to_host()
        xp_values, step = np.asarray(host.data), self.geometry.r_pixel
        pixel = host.pixel_size
        names = tuple(f"slice {i}" for i in range(len(xp_values)))
        probes = arrays.to_numpy(self.probes)
        modes = [part for mode in probes for part in (np.abs(mode), np.angle(mode))]
        labels = tuple(f"{kind} {i}" for i in range(len(probes)) for kind in ("modulus", "phase"))
        return {
            "": self.phase.to_host(),
            "modulus": RealSlice(np.abs(xp_values), "modulus of the transmission", "1", pixel, "Å", names),
            "slices": RealSlice(np.angle(xp_values), "phase of the slices", "rad", pixel, "Å", names),
            "probes": RealSlice(np.array(modes), "modes of the probe", "1", pixel, "Å", labels),
            "positions": RealSlice.calibrated(np.moveaxis(self.positions, -1, 0), "positions", "Å", step, ("x", "y")),
            "corrections": RealSlice.calibrated(np.moveaxis(self.corrections, -1, 0), "corrections of positions", "Å", step, ("x", "y")),
            "loss": DiffractionSlice(self.loss[None, :], "loss", "1"),
        }

    def __repr__(self) -> str:
        size, n = "×".join(map(str, self.phase.shape)), len(self.warnings)
        slices = f"{len(self.transmission)} slices of {self.thickness:.3g} Å" if len(self.transmission) > 1 else "single slice"
        modes = f"{len(self.powers)} mode{'s' * (len(self.powers) > 1)}"
        words = f", {n} warning{'s' * (n > 1)}" if n else ""
        what = f"phase {self.phase.range_text()}, {slices}, {modes}, {len(self.loss)} sweeps"
        return f"Reconstruction({size} of {self.phase.pixel_size:.3g} Å, {what}{words})"


@dataclass(frozen=True)
class Frame:
    """What a result needs beside the state of a run.

    Attributes
    ----------
    grid : Grid
    geometry : Experiment
    used : (Rx, Ry) bool
    nominal : (n, 2) float64
        Given positions of those that are used, Å.
    area : (2, 2) float64
        Lowest and highest given position, Å.
    """

    grid: Grid
    geometry: Experiment
    used: np.ndarray
    nominal: np.ndarray
    area: np.ndarray
    thickness: float
    aberrations: dict[str, float]
    decisions: list[str]
    warnings: list[str]


def result_of(frame: Frame, state: State) -> Reconstruction:
    """Make the result of a state."""
    grid, like = frame.grid, state.object
    planes = arrays.to_numpy(state.object)
    pixel = min(grid.pixel)
    first = np.ceil(frame.area[0] / pixel - 1e-6).astype(int)
    count = np.floor(frame.area[1] / pixel + 1e-6).astype(int) - first + 1
    seen = on_scan_axes(planes, grid, first * pixel, pixel, (int(count[0]), int(count[1])))
    seen = seen * np.exp(-1j * np.angle(seen.mean(axis=(1, 2), keepdims=True))).astype(seen.dtype)
    phase = np.angle(seen).sum(axis=0)
    phase = phase - phase.mean()
    waves = arrays.to_numpy(state.probes)
    intensity = (np.abs(waves.astype(complex)) ** 2).sum(axis=(1, 2))
    probes = np.fft.fftshift(fft.ifft2(waves), axes=(1, 2)) * math.sqrt(math.prod(grid.patch))
    full = np.full((*frame.used.shape, 2), np.nan)
    moved = full.copy()
    full[frame.used], moved[frame.used] = state.positions, state.positions - frame.nominal
    names = tuple(f"slice {i}" for i in range(len(seen)))
    return Reconstruction(
        RealSlice(arrays.from_numpy(phase, like), "ptychographic phase", "rad", pixel, "Å"),
        RealSlice(arrays.from_numpy(seen, like), "transmission", "1", pixel, "Å", names),
        (float(first[0] * pixel), float(first[1] * pixel)),
        arrays.from_numpy(probes.astype(waves.dtype), like),
        *(intensity / intensity.sum(), full, moved, frame.used.copy(), np.array(state.losses)),
        *(state.object, grid.zero, frame.thickness, dict(frame.aberrations), frame.geometry),
        *(list(frame.decisions), list(frame.warnings)),
    )


def on_scan_axes(planes: np.ndarray, grid: Grid, corner: np.ndarray, pixel: float, shape: tuple[int, int]) -> np.ndarray:
    """Return planes (S, X, Y), which are in detector axes, on a grid in scan axes from `corner` (Å) on, (S, *shape).

    Where both grids coincide, as they do for parallel axes and square detectors, values are copied; else they are interpolated by
    cubic splines.
    """
    from scipy.ndimage import map_coordinates

    points = np.stack(np.meshgrid(*(c + pixel * np.arange(n) for c, n in zip(corner, shape)), indexing="ij"), -1)
    at = points @ grid.matrix / grid.pixel + grid.zero
    nearest = np.rint(at).astype(int)
    if np.abs(at - nearest).max() < 1e-6:
        return planes[:, nearest[..., 0], nearest[..., 1]]
    where = np.moveaxis(at, -1, 0)
    parts = [[map_coordinates(part, where, order=3, mode="nearest") for part in (plane.real, plane.imag)] for plane in planes]
    return np.array([re + 1j * im for re, im in parts]).astype(planes.dtype)
