"""Smooth fields whose integral is known, and what a turned detector measures of them."""

import numpy as np


def turned(field: np.ndarray, angle: float, transpose: bool = False) -> np.ndarray:
    """What a detector turned by `angle` (and transposed) measures of a field along the scan axes: v_scan = R(angle) v_det."""
    c, s = np.cos(angle), np.sin(angle)
    v = field @ np.array([[c, -s], [s, c]])
    return v[..., ::-1] if transpose else v


def smooth_field(period: int, shape: tuple[int, int], cut: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random band-limited function and its exact gradient, of a larger period than the piece that is returned."""
    k = np.fft.fftfreq(period)
    spectrum = np.fft.fft2(np.random.default_rng(seed).normal(size=(period, period)))
    spectrum *= np.exp(-((k[:, None] ** 2 + k**2) / cut**2)) * (np.abs(k) < 0.5) * (np.abs(k) < 0.5)[:, None]
    back = [np.fft.ifft2(spectrum * f).real for f in (1.0, 2j * np.pi * k[:, None], 2j * np.pi * k)]
    v, gx, gy = (b[: shape[0], : shape[1]] / back[0].std() for b in back)
    return v - v.mean(), np.stack([gx, gy], -1)


def residual(found, truth, border: int = 0, scale: bool = False) -> float:
    """rms difference over the rms of truth, both without their mean; after the best scale where asked."""
    inside = np.s_[border : truth.shape[0] - border, border : truth.shape[1] - border]
    a, b = (np.asarray(x, float)[inside] - np.mean(np.asarray(x, float)[inside]) for x in (found, truth))
    a = a * (a * b).sum() / (a * a).sum() if scale else a
    return float(np.sqrt(((a - b) ** 2).sum() / (b * b).sum()))
