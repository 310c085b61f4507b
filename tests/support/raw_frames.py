"""Raw frames of a detector with an offset, streaks, gain and defects, of which everything is known."""

from dataclasses import dataclass

import numpy as np

ADU = 20.0  # of an electron
NOISE = 2.5  # ADU of a pixel


@dataclass(frozen=True)
class RawFrames:
    """A scan (Rx, Ry, Qx, Qy) of raw frames, frames without a beam, and what both are made of."""

    raw: np.ndarray
    darks: np.ndarray
    electrons: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    streak: np.ndarray  # (Qy,): stays through the scan, not in the darks
    hot: np.ndarray  # (Qx, Qy) bool
    dead: np.ndarray

    @property
    def clean(self) -> np.ndarray:
        """What a detector without noise and defects would give, ADU."""
        return ADU * self.electrons


def raw_frames(electrons: np.ndarray, seed: int = 0, darks: int = 12, jitter: float = 1.5) -> RawFrames:
    """Record a scan of electrons (Rx, Ry, Qx, Qy) as uint16, and some frames without a beam."""
    rng = np.random.default_rng(seed)
    *scan, nx, ny = electrons.shape
    offset = 120 + rng.normal(0, 2, (nx, ny)) + rng.normal(0, 3, ny)
    gain = rng.normal(1, 0.05, (nx, ny))
    streak = rng.normal(0, 4, ny)
    hot, dead = np.zeros((nx, ny), bool), np.zeros((nx, ny), bool)
    places = rng.choice(nx * ny, 12, replace=False)
    hot.ravel()[places[:7]], dead.ravel()[places[7:]] = True, True

    def recorded(signal, lines):
        frames = signal * gain + offset + lines + rng.normal(0, NOISE, signal.shape)
        frames = np.where(hot, frames + 300, np.where(dead, 40.0, frames))
        return np.clip(np.rint(frames), 0, 65535).astype("uint16")

    lines = streak + rng.normal(0, jitter, (*scan, 1, ny))
    raw = recorded(ADU * electrons, lines)
    return RawFrames(raw, recorded(np.zeros((darks, nx, ny)), 0.0), electrons, gain, offset, streak, hot, dead)


def inside(shape: tuple[int, int], radius: float) -> np.ndarray:
    """The pixels that a round hole of this radius, over half the shorter side, lets the beam reach."""
    x, y = (np.arange(n) - (n - 1) / 2 for n in shape)
    return np.hypot(x[:, None], y) < radius * min(shape) / 2
