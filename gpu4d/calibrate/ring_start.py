"""Find where the rings of a pattern are, before they are fitted: centre, ellipse, and the radial profile with its peaks.

Nothing is known of the rings here but that they are concentric, have one ellipse, and look the same from both sides of the centre.
Host by design: one pattern.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d import fft
from gpu4d.calibrate.stretch import undone
from gpu4d.errors import InputError

LARGEST_SIDE = 256  # px: of a larger pattern, blocks of pixels are summed for the start
SMOOTH = 1.0  # px: of the image in which rings are looked for
WIDE = 0.04  # of the shorter side: what is wider than this is no ring but its background
OVERLAP = 0.3  # of the pixels must have a mate on the other side of a centre
STRETCHES = 0.12  # |e|: a / b up to 1.27
STEP = 0.02  # of |e| in the first search: moves a ring of 100 px by 2 px
MOST_COUNTS = 1e9  # a pattern without noise is fitted as if it had so many
BIN = 0.5  # px of the radial profile
GRID_PIXELS = 12_000  # are looked at in the first search
CLIP = 5.0  # times the scatter: nothing in the image weighs more, so that spots and the direct beam do not decide


def checked_counts(image: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, float]:
    """Return counts with zeros at pixels that are not measured, and the unit they are in. Raise InputError if they are no counts.

    The unit is 1 for whole numbers. A mean of n patterns has a variance of 1/n of itself: its unit is 1/n, found from the differences of
    neighbours along the second axis in the darker half of the pattern.
    """
    if not good.any():
        raise InputError("no pixel of the pattern counts: it is masked or NaN everywhere")
    counts = np.where(good, image, 0.0)
    if counts.sum() <= 0 or counts.min() < -0.01 * counts.max():
        raise InputError(
            "pattern has no positive or large negative values: need counts, or a mean of counts, without background subtraction"
        )
    counts = np.maximum(counts, 0.0)
    if (counts == np.rint(counts)).all():
        return counts, 1.0
    pair = good[..., 1:] & good[..., :-1]
    sums, steps = (counts[..., 1:] + counts[..., :-1])[pair], (counts[..., 1:] - counts[..., :-1])[pair]
    dark = (sums > 0) & (sums <= np.median(sums[sums > 0])) if (sums > 0).any() else np.zeros(sums.shape, bool)
    unit = float((steps[dark] ** 2).sum() / sums[dark].sum()) if dark.any() else 1.0
    unit = max(unit, float(counts.sum()) / MOST_COUNTS)
    return counts / unit, unit


class Start(NamedTuple):
    """Centre (2,), px, and (e1, e2) of the ellipse."""

    center: np.ndarray
    stretch: np.ndarray


def find_start(image: np.ndarray, good: np.ndarray, center: np.ndarray | None = None, *, round_first: bool = False) -> Start:
    """Return centre and ellipse with which the radial profile is sharpest.

    Parameters
    ----------
    image : (Qx, Qy) float64
        Zero where `good` is False.
    good : (Qx, Qy) bool
    center : (2,), optional
        Near the centre. None: the point about which the pattern is symmetric.
    round_first : bool
        Do not look for an ellipse.
    """
    times = int(np.ceil(max(image.shape) / LARGEST_SIDE))
    small, seen = _blocks(image, good, times)
    contrast = _without_ground(small, seen)
    at = _symmetry_center(contrast, seen) if center is None else (np.asarray(center, np.float64) - (times - 1) / 2) / times
    x, y = (axis.astype(np.float64) for axis in np.nonzero(seen))
    value = contrast[seen]
    best = np.array([*at, 0.0, 0.0])
    if not round_first:
        steps = np.arange(-STRETCHES, STRETCHES + STEP / 2, STEP)
        trials = [np.array([*at, e1, e2]) for e1 in steps for e2 in steps if np.hypot(e1, e2) <= STRETCHES + 1e-9]
        few = slice(None, None, int(np.ceil(len(x) / GRID_PIXELS)))
        best = max(trials, key=lambda p: _sharpness(p, x[few], y[few], value[few]))
    found = _polished(best, lambda p: _sharpness(p, x, y, value), 2 if round_first else 4)
    return Start(found[:2] * times + (times - 1) / 2, found[2:])


def _blocks(image: np.ndarray, good: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Return means over blocks of pixels, and which of them have a measured pixel."""
    if times == 1:
        return image, good
    shape = [n // times for n in image.shape]
    cut = tuple(slice(n * times) for n in shape)
    sums, counts = (a[cut].reshape(shape[0], times, shape[1], times).sum(axis=(1, 3)) for a in (image, good.astype(np.float64)))
    return sums / np.maximum(counts, 1), counts > 0


def _without_ground(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the square root of the image, in which counts scatter evenly, smoothed and without what is wide; 0 where masked."""
    from scipy import ndimage

    root = np.sqrt(np.maximum(image, 0.0))
    wide = max(WIDE * min(image.shape), 3 * SMOOTH)

    def blurred(sigma: float) -> np.ndarray:
        weight = ndimage.gaussian_filter(good.astype(np.float64), sigma, mode="constant")
        return ndimage.gaussian_filter(root * good, sigma, mode="constant") / np.maximum(weight, 1e-6)

    out = np.where(good, blurred(SMOOTH) - blurred(wide), 0.0)
    scatter = float(np.median(np.abs(out[good]))) / 0.67 if good.any() else 0.0
    return np.clip(out, -CLIP * scatter, CLIP * scatter)


def _symmetry_center(contrast: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the point about which the image agrees best with its own inversion, to half a pixel and a parabola."""
    shape = (2 * contrast.shape[0], 2 * contrast.shape[1])
    padded = np.zeros((2, *shape))
    padded[0, : contrast.shape[0], : contrast.shape[1]] = contrast
    padded[1, : contrast.shape[0], : contrast.shape[1]] = good
    image, mask = fft.rfft2(padded)
    power = fft.rfft2((padded[0] ** 2)[None])[0]
    both, pairs, size = (fft.irfft2(a[None], shape)[0] for a in (image * image, mask * mask, power * mask))
    likeness = np.where(pairs > OVERLAP * good.sum(), both / np.maximum(size, 1e-9 * max(float(size.max()), 1e-300)), -1.0)
    if likeness.max() <= 0:
        raise InputError("no centre of symmetry was found in the pattern: give center=(qx, qy), near the centre of the rings")
    at = np.array(np.unravel_index(int(np.argmax(likeness)), shape))
    return (at + [_vertex(likeness, at, axis) for axis in (0, 1)]) / 2


def _vertex(likeness: np.ndarray, at: np.ndarray, axis: int) -> float:
    step = np.eye(2, dtype=int)[axis]
    low, mid, high = (likeness[tuple((at + i * step) % likeness.shape)] for i in (-1, 0, 1))
    bend = low - 2 * mid + high
    return float(np.clip((low - high) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def _sharpness(p: np.ndarray, x: np.ndarray, y: np.ndarray, value: np.ndarray) -> float:
    """Return how much of the image's contrast its mean over the rings about a centre keeps."""
    inverse = undone(p[2], p[3])[0]
    dx, dy = x - p[0], y - p[1]
    r = np.hypot(inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy)
    low = r.astype(np.int64)
    part = r - low  # shared between two bins, so that the sharpness is a continuous function of the centre
    size = int(low.max()) + 2
    sums = np.bincount(low, value * (1 - part), size) + np.bincount(low + 1, value * part, size)
    pixels = np.bincount(low, 1 - part, size) + np.bincount(low + 1, part, size)
    return float((sums**2 / np.maximum(pixels, 1.0)).sum())


def _polished(start: np.ndarray, sharpness: object, free: int) -> np.ndarray:
    from scipy.optimize import minimize

    call = lambda p: -sharpness(np.concatenate([p, start[free:]]))  # type: ignore[operator]  # noqa: E731
    steps = np.array([1.0, 1.0, 0.01, 0.01])[:free]
    simplex = np.concatenate([start[None, :free], start[:free] + np.diag(steps)])
    found = minimize(
        call, start[:free], method="Nelder-Mead", options={"initial_simplex": simplex, "maxfev": 200, "xatol": 1e-3, "fatol": 0}
    )
    return np.concatenate([found.x, start[free:]])


class Profile(NamedTuple):
    """Radial profile with the ellipse removed: r (m,), mean counts (m,), its standard error, and the share of each ring on the detector."""

    r: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    seen: np.ndarray


def radial_profile_of(image: np.ndarray, good: np.ndarray, start: Start) -> Profile:
    """Return the profile in bins of half a pixel. Errors are those of the pixels' scatter, or of Poisson counts if that is larger."""
    inverse = undone(*start.stretch)[0]
    x, y = np.indices(image.shape)
    v = np.tensordot(inverse, np.stack([x - start.center[0], y - start.center[1]]), 1)
    which = (np.hypot(*v) / BIN).astype(np.int64)[good]
    size = int(which.max()) + 1
    pixels = np.bincount(which, minlength=size)
    count = np.maximum(pixels, 1)
    mean = np.bincount(which, image[good], size) / count
    square = np.bincount(which, image[good] ** 2, size) / count
    r = (np.arange(size) + 0.5) * BIN
    variance = np.maximum(square - mean**2, mean)
    return Profile(r, mean, np.sqrt(variance / count), pixels / (2 * np.pi * r * BIN))


class Peak(NamedTuple):
    """A peak of the profile: its place and full width, px, its height over the ground beside it, and that in standard errors."""

    r: float
    width: float
    height: float
    significance: float


def ring_peaks(profile: Profile, *, least_seen: float = 0.25, significance: float = 6.0) -> tuple[list[Peak], np.ndarray]:
    """Return the peaks of the profile outside of the direct beam, and the profile over its ground (m,).

    The ground is the lower envelope of the profile's logarithm, by repeated clipping to the mean of both sides (the SNIP method).
    """
    from scipy.signal import find_peaks, peak_widths

    whole = np.flatnonzero(profile.seen > least_seen)
    if whole.size < 20:
        raise InputError("too few pixels show a whole ring: the mask or the edge of the detector hides them")
    inside = slice(int(whole[0]), int(whole[-1]) + 1)
    log = np.log(np.maximum(profile.mean, 0.0) + 0.5 * max(float(np.median(profile.mean[inside])), 1e-12) * 0.1)[inside]
    ground = log.copy()
    for width in range(int(0.06 * 2 * log.size), 0, -1):
        both = (ground[2 * width :] + ground[: -2 * width]) / 2 if 2 * width < ground.size else None
        if both is not None:
            ground[width:-width] = np.minimum(ground[width:-width], both)
    over = np.zeros_like(profile.mean)
    floor = np.exp(ground) - np.exp(log) + profile.mean[inside]
    over[inside] = profile.mean[inside] - floor
    high = over / np.maximum(profile.error, 1e-12)
    places = find_peaks(over, prominence=4 * profile.error, distance=4)[0]
    places = places[(high[places] > significance) & (places > whole[0] + 2) & (places < whole[-1] - 2)]
    widths = peak_widths(over, places, rel_height=0.5)[0] * BIN
    found = [Peak(float(profile.r[i]), float(w), float(over[i]), float(high[i])) for i, w in zip(places, widths)]
    return [p for p in found if p.r > 2 * p.width], over
