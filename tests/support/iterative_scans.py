"""Scans for iterative ptychography, simulated without the code under test, and measures against truth."""

from dataclasses import dataclass

import h5py
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

import gpu4d
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.probe.wavefunction import wavefunction

ENERGY = 80e3
BAND = (0.35, 2.0)  # Å: the truth of the shared data is compared between blurs of these widths


@dataclass
class Scan:
    """A simulated scan: the cube, the object's phase as a function of places (Å, scan axes), and the probe's modes in real space."""

    cube: gpu4d.DataCube
    phase: object
    modes: np.ndarray
    positions: np.ndarray
    aberrations: dict


def smooth_phase(strength=0.5, seed=0, size=160, sample=0.15, blur=0.5):
    """Phase of smooth noise as a function of places in Å: a field of `size` samples about (0, 0), continued periodically."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), blur / sample, mode="wrap")
    values *= strength / np.abs(values).max()

    def phase(points):
        return map_coordinates(values, np.moveaxis(np.asarray(points) / sample, -1, 0), order=3, mode="grid-wrap")

    return phase


def simulated(
    n=10,
    pattern=32,
    *,
    step=0.6,
    dose=None,
    seed=0,
    rotation=0.0,
    transpose=False,
    origin=(0.0, 0.0),
    weights=(1.0,),
    errors=0.0,
    strength=0.5,
    blur=0.5,
) -> Scan:
    """A scan of a thin object by the plain sum over pixels, with the object evaluated where each probe is.

    Patterns are |F{ψ(r) exp(iφ(R + r))}|², r on the grid that belongs to the detector. A second mode is the probe 1 Å away, made
    orthogonal to the first. `origin` is the place of the optical axis in pixels from the middle of the detector.
    """
    q = 1 / (pattern * 0.32)
    aberrations = {"C10": -90.0, "C12": 15.0, "phi12": 0.4}
    wave = wavefunction(22.0, aberrations, energy=ENERGY, q_pixel=q, shape=(pattern,) * 2, center=tuple(pattern // 2 + o for o in origin))
    wave = np.sqrt(np.abs(wave)) * np.exp(1j * np.angle(wave))  # of a pixel at the aperture's edge a share of the intensity is lit
    grid = (np.arange(pattern) - pattern // 2) * 0.32
    k = (np.arange(pattern) - pattern // 2) * q
    jumps = np.exp(-2j * np.pi * (0.9 * k[:, None] + 0.5 * k[None, :]))  # to a place 1 Å away
    modes = [np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(w))) for w in (wave, wave * jumps)[: len(weights)]]
    for i, mode in enumerate(modes):
        for other in modes[:i]:
            mode = mode - other * np.vdot(other, mode) / np.vdot(other, other)
        modes[i] = mode / np.linalg.norm(mode)
    modes = np.array(modes) * np.sqrt(np.array(weights) / sum(weights))[:, None, None]
    rng = np.random.default_rng(seed)
    nominal = np.stack(np.meshgrid(np.arange(n) * step, np.arange(n) * step, indexing="ij"), -1)
    true = nominal + rng.normal(0, errors, nominal.shape) if errors else nominal
    phase = smooth_phase(strength, seed, blur=blur)
    around = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1) @ scan_matrix(rotation, transpose).T
    data = np.empty((n, n, pattern, pattern))
    for i in range(n):
        for j in range(n):
            seen = np.exp(1j * phase(true[i, j] + around))
            data[i, j] = (np.abs(np.fft.fftshift(np.fft.fft2(modes * seen), axes=(1, 2))) ** 2).sum(0) / pattern**2
    if dose is not None:
        data = rng.poisson(data * dose)
    middle = tuple(pattern // 2 + o for o in origin)
    known = gpu4d.Calibration(energy=ENERGY, semiangle=22.0, q_pixel=q, r_pixel=step, origin=middle, rotation=rotation, transpose=transpose)
    return Scan(gpu4d.DataCube(data.astype("float32" if dose is None else "uint16"), known), phase, modes, true, aberrations)


def against(found, phase, border=0) -> float:
    """Correlation of a phase with a function of places, over the area of the scan without a border of pixels."""
    values, pixel = np.asarray(found.phase), found.phase.pixel_size
    points = np.stack(np.meshgrid(*(c + pixel * np.arange(n) for c, n in zip(found.corner, values.shape)), indexing="ij"), -1)
    inside = np.s_[border : values.shape[0] - border, border : values.shape[1] - border]
    return float(np.corrcoef(values[inside].ravel(), phase(points)[inside].ravel())[0, 1])


# ---------------------------------------------------------------- the shared data


@dataclass
class Shared:
    """A scan of the shared data: the cube, its attributes, the object's phase on samples, where sample [0, 0] is, and true positions."""

    cube: gpu4d.DataCube
    attributes: dict
    phase: np.ndarray
    sample: float
    offset: float
    positions: np.ndarray | None

    @property
    def aberrations(self) -> dict:
        return {name[6:]: float(v) for name, v in self.attributes.items() if name.startswith("truth_") and "sigma" not in name}


def shared_scan(folder, name: str, crop: int | None = None) -> Shared:
    with h5py.File(folder / f"{name}.h5") as h:
        a = dict(h.attrs)
        data = h["poisson_4e4" if "thick" in name else "poisson_1e5"][:crop, :crop]
        if "thick" in name:
            of = h["truth/slab_potentials_V_A"]
            phase, offset, positions = of[()].sum(0) * a["interaction_sigma_rad_per_V_A"], of.attrs["offset_A"], None
        else:
            of = h["truth/object_phase_rad"]
            phase, offset, positions = of[()], of.attrs["offset_A"][0], h["truth/positions_A"][:crop, :crop].astype(float)
        sample = float(of.attrs["sample_A"])
    energy = float(a["energy_eV"])
    semiangle = float(a["semiangle_mrad"]) if "semiangle_mrad" in a else 24.0
    middle = data.shape[2] // 2
    known = gpu4d.Calibration(
        energy=energy,
        semiangle=semiangle,
        q_pixel=float(a["detector_pixel_1_per_A"]),
        r_pixel=float(a["scan_step_A"]),
        origin=(middle, middle),
    )
    return Shared(gpu4d.DataCube(data, known), a, phase, sample, float(offset), positions)


def band_correlation(found, truth: Shared) -> float:
    """Correlation with the truth between blurs of 0.35 and 2 Å, over the area of the scan, on the truth's samples."""
    at = np.arange(truth.phase.shape[0]) * truth.sample + truth.offset
    pixel = found.phase.pixel_size
    corner, size = found.corner, np.array(found.phase.shape)
    where = np.meshgrid(*((at - c) / pixel for c in corner), indexing="ij")
    seen = map_coordinates(np.asarray(found.phase, float), where, order=3, mode="nearest")
    inside = [(at >= c) & (at <= c + (n - 1) * pixel) for c, n in zip(corner, size)]
    a, b = (
        (gaussian_filter(v, BAND[0] / truth.sample) - gaussian_filter(v, BAND[1] / truth.sample))[np.ix_(*inside)].ravel()
        for v in (truth.phase, seen)
    )
    return float(np.corrcoef(a, b)[0, 1])
