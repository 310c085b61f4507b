"""Find thresholds for electron counting from raw frames."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import pixel_mask, real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.preprocess.count_electrons import count_electrons
from gpu4d.preprocess.isolated import isolated_squares
from gpu4d.real_arrays import real_array

SAMPLE = 64  # number of frames: they hold some million pixels and ten thousand electrons


class _Thresholds(NamedTuple):
    lower: float
    upper: float
    electron: float
    noise: float


class Thresholds(_Thresholds, Storable, stored="lower upper: [e]; electron noise: [ADU]"):
    """Parameters for `count_electrons`. `lower` and `upper` are in electrons, `electron` and `noise` in the units of the frames (ADU)."""

    __slots__ = ()


@on_host("raw")
def thresholds(
    frames: Array,
    dark: ArrayLike,
    /,
    *,
    gain: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    false_share: float = 3e-4,
    upper: float = 10.0,
) -> Thresholds:
    """Find the thresholds between background, electrons and X-rays in a sample of raw frames.

    The minimum of a histogram between background and electrons is not a good threshold, because pixels that share the charge of an
    electron fill it. Here the background is a normal distribution. Its width comes from its left half, where there is no signal. At
    the lower threshold the background gives at most `false_share` of all counted maxima. The mean signal of an electron is the sum of
    3 × 3 pixels around maxima that have no other maximum within two pixels.

    Parameters
    ----------
    frames : (..., Qx, Qy) real
        Raw frames. 64 of them, evenly spaced, are used.
    dark : (Qx, Qy) real
        Mean of frames without a beam.
    gain, mask : (Qx, Qy), optional
        As in `count_electrons`.
    false_share : float
        Share of the counted electrons that may be background.
    upper : float
        Signal of a pixel, in electrons, from which on it is an X-ray. The guide recommends 10 to 50.

    Returns
    -------
    Thresholds
        `lower` and `upper` in electrons. `electron` (mean signal of one electron) and `noise` (width of the background) in ADU.

    Raises
    ------
    InputError
        No frames, no pixels, no noise (frames that were counted already), or no electrons.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> frames = rng.normal(100, 3, (20, 32, 32))
    >>> frames[np.arange(20), rng.integers(3, 29, 20), 16] += 150
    >>> found = thresholds(frames, np.full((32, 32), 100.0))
    >>> bool(abs(found.noise - 3) < 0.1), bool(abs(found.electron - 150) < 5), bool(3 * 4 < found.lower * found.electron < 3 * 6)
    (True, True, True)
    """
    frames = real_array(frames, "frames", "an array (..., Qx, Qy)")
    if len(frames.shape) < 2 or 0 in frames.shape:
        raise InputError(f"frames have shape {tuple(frames.shape)}: need (..., Qx, Qy) with at least one frame")
    stack = arrays.namespace(frames).reshape(frames, (-1, *frames.shape[-2:]))
    stack = arrays.to_numpy(stack[:: math.ceil(stack.shape[0] / SAMPLE), :, :]).astype(np.float32)
    shape = tuple(frames.shape[-2:])
    ground, valid = _plane(dark, "dark", shape), pixel_mask(mask, shape, "mask")
    gains = None if gain is None else _plane(gain, "gain", shape)
    good = np.isfinite(ground) if valid is None else np.isfinite(ground) & (valid != 0)
    response = np.ones(ground.shape, np.float32) if gains is None else np.where(gains > 0, gains, np.inf).astype(np.float32)
    signal = (stack - ground.astype(np.float32)) / response
    usable = signal[:, good]
    usable = usable[np.isfinite(usable)]
    if not usable.size:
        raise InputError(
            "frames hold no good pixel: every pixel is masked, NaN or infinite, or its dark or gain is. Check mask=, dark= and gain="
        )
    low, middle = np.percentile(usable, (15.865525, 50))
    noise = float(middle - low)
    if not noise > 0:
        raise InputError("the background has no width: these frames are counted already, or hold no good pixel")

    level = _lowest(stack, ground + middle, gains, valid, noise, false_share, upper)
    electron = float(isolated_squares(signal - middle, good, level).sum(axis=(1, 2)).mean())
    return Thresholds(level / electron, float(upper), electron, noise)


def _plane(given: ArrayLike, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return one value per detector pixel on the host."""
    plane = real_values(given, name, "one value per detector pixel")
    if plane.shape != shape:
        raise InputError(f"{name} is {plane.shape}, the frames are {shape}: need one value per detector pixel")
    return plane


def _lowest(stack: Any, dark: Any, gain: Any, mask: Any, noise: float, share: float, upper: float) -> float:
    """Return the lowest level, in ADU, above which the background's share of the maxima is small enough."""
    events = count_electrons(stack, dark, 3.0, np.inf, electron=noise, gain=gain, mask=mask)
    heights = np.sort(events.intensity)
    pixels = stack.size if mask is None else len(stack) * np.count_nonzero(mask)
    for z in np.arange(3.0, 12.0, 0.05):
        maxima = len(heights) - np.searchsorted(heights, z)
        if maxima and pixels * 0.5 * math.erfc(z / math.sqrt(2)) <= share * maxima:
            return float(z * noise)
    raise InputError("no electrons are above the background: need more frames, a beam, or the right dark reference")
