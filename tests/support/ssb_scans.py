"""Scans for single-side-band ptychography, and measures of a phase against truth."""

import h5py
import numpy as np

import gpu4d
from gpu4d import physics
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.probe.wavefunction import wavefunction

ENERGY = 80e3


def correlation(found, truth, border: int = 0) -> float:
    a, b = inner(found, truth, border)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def slope(found, truth, border: int = 0) -> float:
    """Of the found phase against the true one: 1 where radians are radians."""
    a, b = inner(found, truth, border)
    return float((a * b).sum() / (b * b).sum())


def inner(found, truth, border: int) -> list[np.ndarray]:
    inside = np.s_[border : truth.shape[0] - border, border : truth.shape[1] - border]
    return [np.asarray(x, float)[inside] - np.mean(np.asarray(x, float)[inside]) for x in (found, truth)]


def low_passed(phase: np.ndarray, step: float, cut: float) -> np.ndarray:
    """What lies below the information limit of 2 k₀, without the mean."""
    kx, ky = np.fft.fftfreq(phase.shape[0], step)[:, None], np.fft.fftfreq(phase.shape[1], step)
    keep = (np.hypot(kx, ky) < cut) & (np.hypot(kx, ky) > 0)
    return np.fft.ifft2(np.fft.fft2(phase) * keep).real


def cube_of(data: np.ndarray, radius: float, *, step: float = 0.2, q_pixel: float = 0.05, **fields) -> gpu4d.DataCube:
    """A cube whose disk has this radius by calibration."""
    semiangle = radius * q_pixel * physics.wavelength(ENERGY) * 1e3
    fields = {"origin": (data.shape[2] // 2, data.shape[3] // 2), **fields}
    return gpu4d.DataCube(data, gpu4d.Calibration(energy=ENERGY, semiangle=semiangle, q_pixel=q_pixel, r_pixel=step, **fields))


def random_cube(scan=(7, 9), detector=(16, 17), radius: float = 4.3, dtype="uint16", seed: int = 0, **calibration) -> gpu4d.DataCube:
    """Counts without any physics: sums must agree whatever they are of."""
    data = np.random.default_rng(seed).poisson(30, (*scan, *detector)).astype(dtype)
    return cube_of(data, radius, **{"step": 0.9, "origin": (7.8, 8.3), **calibration})


def mos2(shared_data, file: str, name: str) -> tuple[gpu4d.DataCube, np.ndarray]:
    with h5py.File(shared_data / f"mos2_ssb_{file}.h5") as h:
        q, truth, data = h.attrs["detector_pixel_1_per_A"], h["truth/phase_lowpass_2alpha_rad"][()], h[name][()]
    return gpu4d.DataCube(data, gpu4d.Calibration(energy=ENERGY, semiangle=25.0, q_pixel=float(q), r_pixel=0.2)), truth


def published(images: np.ndarray, disk_at, shift: np.ndarray) -> np.ndarray:
    """Transmission function of the double-overlap method, frame of masks by frame of masks.

    For every scan frequency two masks on the detector: the disk times the disk moved to one side, where the disk moved to the
    other side is zero; each normalised to its sum; half their difference; none where a mask holds less than a pixel. The half
    plane is completed by F(-q) = -F(q)*, and F(0) is the mean intensity in the disk.
    """
    rx, ry = images.shape[:2]
    spectra = np.fft.fft2(images.astype(float), axes=(0, 1))
    center = disk_at(0.0, 0.0)
    out = np.zeros((rx, ry), complex)
    for i in range(rx):
        for j in range(ry // 2 + 1):
            if i == j == 0:
                continue
            right, left = disk_at(*shift[i, j]), disk_at(*-shift[i, j])
            masks = [center * right * (left == 0), center * left * (right == 0)]
            sums = [m.sum() for m in masks]
            if min(sums) >= 1:
                out[i, j] = 0.5 * ((spectra[i, j] * masks[0]).sum() / sums[0] - (spectra[i, j] * masks[1]).sum() / sums[1])
    for i in range(rx):
        for j in range(ry // 2 + 1, ry):
            out[i, j] = -np.conj(out[-i % rx, -j % ry])
    out[0, 0] = (spectra[0, 0] * center).sum() / center.sum()
    return np.fft.ifft2(out)


def shifts(shape, step: float, q_pixel: float, rotation: float = 0.0) -> np.ndarray:
    """Scan frequencies in detector pixels and axes, (Rx, Ry, 2)."""
    kx, ky = np.meshgrid(np.fft.fftfreq(shape[0], step) / q_pixel, np.fft.fftfreq(shape[1], step) / q_pixel, indexing="ij")
    c, s = np.cos(rotation), np.sin(rotation)
    return np.stack([c * kx + s * ky, -s * kx + c * ky], -1)


def antialiased_disk(shape, center, radius: float):
    """Function of a shift: a disk whose edge pixels hold the part of them that is inside, along the ray."""
    x, y = np.meshgrid(np.arange(shape[0]) - center[0], np.arange(shape[1]) - center[1], indexing="ij")
    return lambda dx, dy: np.clip(radius + 0.5 - np.hypot(x - dx, y - dy), 0, 1)


ABERRATIONS = {"C10": -60.0, "C12": 25.0, "phi12": 0.4, "C21": 900.0, "phi21": -1.0, "C30": 2e4, "C23": 500.0}


def aberrated_scan(
    aberrations: dict,
    *,
    scan: int = 48,
    detector: int = 32,
    step: float = 0.3,
    strength: float = 0.1,
    dose: float | None = None,
    seed: int = 0,
    rotation: float = 0.0,
    transpose: bool = False,
    energy: float = ENERGY,
    semiangle: float = 22.0,
    blur: float = 0.45,
) -> tuple[gpu4d.DataCube, np.ndarray]:
    """A periodic thin object of smooth noise, seen by a probe with any aberrations, and its phase at the scan positions.

    Patterns are |F{ψ₀(r - R) exp(iφ(r))}|² on a grid as fine as the detector's, over the scan's field. `dose` is in electrons a pattern.
    `blur` is the width of the object's details in Å. A turned detector sees the turned object, at positions that stay periodic only for
    multiples of 90°.
    """
    side = scan * step
    rng = np.random.default_rng(seed)
    q = 1 / side
    k = np.fft.fftfreq(detector, 1 / detector) * q
    kx, ky = np.meshgrid(k, k, indexing="ij")
    envelope = np.exp(-2 * (np.pi * blur) ** 2 * (kx**2 + ky**2)) * (np.hypot(kx, ky) < 0.45 * detector * q)
    phase = np.fft.ifft2(np.fft.fft2(rng.normal(size=(detector, detector))) * envelope).real
    phase *= strength / np.abs(phase).max()
    wave = wavefunction(semiangle, aberrations, energy=energy, q_pixel=q, shape=(detector, detector))
    wave = np.fft.ifftshift(wave)
    matrix = scan_matrix(rotation, transpose)
    index = np.stack(np.meshgrid(np.arange(scan) * step, np.arange(scan) * step, indexing="ij"), -1).reshape(-1, 2)
    places = index @ matrix  # the object in detector axes
    transmitted = np.exp(1j * phase)
    data = np.empty((scan * scan, detector, detector), np.float32)
    spectrum = np.fft.fft2(phase)
    seen = np.empty(scan * scan)
    for first in range(0, scan * scan, 512):
        at = places[first : first + 512]
        ramp = np.exp(-2j * np.pi * (at[:, 0, None, None] * kx + at[:, 1, None, None] * ky))
        exit_wave = np.fft.ifft2(wave * ramp) * transmitted
        data[first : first + 512] = np.fft.fftshift(np.abs(np.fft.fft2(exit_wave)) ** 2, axes=(1, 2))
        seen[first : first + 512] = (spectrum * ramp.conj()).sum((1, 2)).real / detector**2
    data /= data[0].sum()
    if dose is not None:
        data = rng.poisson(data.astype(float) * dose).astype("uint16")
    calibration = gpu4d.Calibration(
        energy=energy, semiangle=semiangle, q_pixel=q, r_pixel=step, origin=(detector // 2,) * 2, rotation=rotation, transpose=transpose
    )
    return gpu4d.DataCube(data.reshape(scan, scan, detector, detector), calibration), seen.reshape(scan, scan)


def aberrated(shared_data) -> tuple[gpu4d.DataCube, np.ndarray, dict[str, float]]:
    """The aberrated scan of the shared data, its true phase below 2 k₀, and its true aberrations."""
    with h5py.File(shared_data / "aberrated_ptycho.h5") as h:
        a, truth, data = dict(h.attrs), h["truth/phase_lowpass_2alpha_rad"][()], h["poisson_1e5"][()]
    known = gpu4d.Calibration(energy=ENERGY, semiangle=22.0, q_pixel=float(a["detector_pixel_1_per_A"]), r_pixel=0.3, origin=(32, 32))
    return gpu4d.DataCube(data, known), truth, {name[6:]: float(a[name]) for name in a if name.startswith("truth_")}


def edge(cube: gpu4d.DataCube, found) -> float:
    """What the edge of a small disk in `aberrated_scan` makes of a phase: a pixel's amplitude, not its intensity, is its part inside."""
    x, y = np.indices(cube.detector_shape) - np.reshape(found.origin, (2, 1, 1))
    part = np.clip(found.radius + 0.5 - np.hypot(x, y), 0, 1)
    return float(part.sum() / (part**2).sum())


def slope_in(found, truth: np.ndarray) -> float:
    """Slope against the truth over the frequencies of which `found.slope` speaks: at least half of the largest transfer."""
    seen, true = np.fft.rfft2(np.asarray(found.phase)), np.fft.rfft2(truth)
    known = found.transfer >= found.transfer.max() / 2
    return float((seen[known] * true[known].conj()).sum().real / (np.abs(true[known]) ** 2).sum())
