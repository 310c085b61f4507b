"""Find the disks of many patterns: the operation that `find_bragg_disks` calls, with arrays as arguments."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from gpu4d import arrays, fft
from gpu4d.bragg.correlation_map import powered
from gpu4d.bragg.refine import position_errors, refine_positions
from gpu4d.imaging.neighbours import ABOVE, NOT_BELOW
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, Twin, operation


@dataclass(frozen=True)
class PeakLimits:
    """Limits that a maximum of the correlation must pass to be a disk.

    Attributes
    ----------
    edge : int
        Maxima nearer to the border than this are left out, pixels. `find_disks` itself does not read it: `allowed` is made from it.
    min_spacing : float
        Least distance of two disks, pixels. The stronger one is kept.
    min_significance : float
        Least Poisson significance.
    min_relative : float
        Least height of the hybrid map, relative to the strongest allowed maximum of the pattern.
    min_absolute : float
        Least height of the hybrid map.
    max_peaks : int
        Most disks of a pattern. The strongest are kept.

    Examples
    --------
    >>> PeakLimits(min_spacing=6).min_spacing
    6.0
    """

    edge: int = 1
    min_spacing: float = 0.0
    min_significance: float = 5.0
    min_relative: float = 0.0
    min_absolute: float = 0.0
    max_peaks: int = 70

    def __post_init__(self) -> None:
        for field in fields(self):  # NumPy scalars become Python numbers, as in all options of operations
            whole = field.name in ("edge", "max_peaks")
            object.__setattr__(self, field.name, (int if whole else float)(getattr(self, field.name)))


USUAL_LIMITS = PeakLimits()


@dataclass(frozen=True)
class Refinement:
    """Powers of the correlation maps, and the method that refines positions. All are as in `find_bragg_disks`.

    Attributes
    ----------
    refine : str or None
    power : float
        Power of the hybrid map, on which maxima are found.
    refine_power : float
        Power of the map on which positions are refined.
    upsample : int
        Samples per pixel of refine="upsample".

    Examples
    --------
    >>> Refinement(power=1).climb, Refinement(power=0.85).climb
    (False, True)
    """

    refine: str | None = "correlation"
    power: float = 0.85
    refine_power: float = 1.0
    upsample: int = 16

    def __post_init__(self) -> None:
        for name, kind in (("power", float), ("refine_power", float), ("upsample", int)):  # NumPy scalars become Python numbers
            object.__setattr__(self, name, kind(getattr(self, name)))

    @property
    def climb(self) -> bool:
        """Return True if maxima are found on one map and refined on another."""
        return self.refine_power != self.power


USUAL_REFINEMENT = Refinement()


class Disks(NamedTuple):
    """Disks of n patterns, strongest first. Places after the last disk have NaN.

    Attributes
    ----------
    count : (n,) int64
    qx, qy : (n, max_peaks) float64, pixels
    intensity : (n, max_peaks) float64
        Height of the map on which the position was refined. For the n = 1 map it is in counts per pixel.
    sx, sy : (n, max_peaks) float64, pixels
        Standard errors of the position from the counts.
    """

    count: Any
    qx: Any
    qy: Any
    intensity: Any
    sx: Any
    sy: Any


LEAST_SHARE = 1e-6  # part of the Gaussian that lies on valid pixels; a masked pixel with less is filled with 0
LONGEST = 32767  # pixels: longest side of a detector; the kernels hold squared distances in 32 bits


@operation(
    cpu=Twin("gpu4d.cpu_fallback.find_disks"),
    cuda=Twin("gpu4d.kernels.find_disks", KERNEL_PIXELS, frame=KERNEL_FRAME, longest=LONGEST),
)
def find_disks(
    patterns: Any,
    spectrum: Any,
    moments: Any,
    allowed: Any,
    /,
    *,
    mask: Any = None,
    fill_width: float = 0.0,
    refinement: Refinement = USUAL_REFINEMENT,
    limits: PeakLimits = USUAL_LIMITS,
) -> Disks:
    """Find and refine the disks of many patterns.

    Candidates are the maxima of the hybrid map, compared with their eight neighbours. They must pass, in this order: allowed pixels,
    absolute threshold, threshold relative to the strongest, significance, spacing (strongest first), and count. Then positions are
    refined on the map of `refinement.refine_power`.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
    spectrum : (Qx, Qy // 2 + 1) complex128
        From `template_spectrum`.
    moments : (4, Qx, Qy) float64
        From `template_moments`: K², Kx², Kx Ky, Ky² of the template and its derivatives, corner-centred.
    allowed : (Qx, Qy) bool
        True where a maximum may lie. The outermost pixels must be False.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. Other pixels are filled from their surroundings (`fill_masked`).
    fill_width : float
        Standard deviation of the Gaussian that fills masked pixels, pixels.
    refinement : Refinement
        Its `refine` must be neither "auto" nor "likelihood".
    limits : PeakLimits
        Limits of the maxima. `edge` is not read, because `allowed` has it.

    Returns
    -------
    Disks
        Empty for a pattern with a NaN or an infinity, and for one without counts.
    """
    xp = arrays.namespace(patterns, spectrum, moments, allowed)
    maps = correlation_maps(patterns, spectrum, moments, mask, fill_width, refinement.power, refinement.refine_power)
    score = candidate_scores(maps, allowed, limits)
    px, py, count = strongest_first(score, limits.min_spacing, limits.max_peaks)
    x, y, height = refine_positions(maps.refined, px, py, refinement.refine, refinement.upsample, climb=refinement.climb)
    sx, sy = position_errors(maps, x, y, moments, available=refinement.refine_power == 1.0, grid=refinement.refine is None)
    found = xp.arange(limits.max_peaks, dtype=count.dtype, device=arrays.device(count))[None, :] < count[:, None]
    padded = (xp.where(found, v, xp.full_like(v, float("nan"))) for v in (x, y, height, sx, sy))
    return Disks(count, *padded)


class Maps(NamedTuple):
    """Correlation maps of n patterns, all (n, Qx, Qy) float64."""

    counts: Any  # the patterns, filled where masked
    hybrid: Any
    cross: Any  # map of power n = 1
    refined: Any  # map of power n = refine_power
    noise: Any  # variance of the n = 1 map from the counts


def correlation_maps(patterns: Any, spectrum: Any, moments: Any, mask: Any, fill_width: float, power: float, refine_power: float) -> Maps:
    """Compute the maps on which disks are found, tested and refined."""
    xp = arrays.namespace(patterns)
    x = arrays.as_float64(patterns)
    good = xp.all(xp.isfinite(x), axis=(-2, -1)) if mask is None else xp.all(xp.isfinite(x) | ~mask, axis=(-2, -1))
    x = xp.where(good[:, None, None], x, xp.zeros_like(x))
    if mask is not None:
        x = fill_masked(x, mask, fill_width)
    shape = patterns.shape[-2:]
    f = fft.rfft2(x)
    m = f * spectrum
    cross = fft.irfft2(m, shape)
    hybrid = cross if power == 1.0 else fft.irfft2(powered(m, power), shape)
    refined = cross if refine_power == 1.0 else hybrid if refine_power == power else fft.irfft2(powered(m, refine_power), shape)
    noise = fft.irfft2(f * xp.conj(fft.rfft2(moments[0, ...])), shape)
    return Maps(x, hybrid, cross, refined, xp.where(noise > 0, noise, xp.zeros_like(noise)))


def fill_masked(x: Any, mask: Any, width: float) -> Any:
    """Replace masked pixels by the mean of valid pixels around them, weighted by a Gaussian (normalised convolution)."""
    xp = arrays.namespace(x, mask)
    gauss = xp.astype(fill_spectrum(x.shape[-2:], width, x), x.dtype)
    valid = xp.astype(mask, x.dtype)
    clean = xp.where(mask, x, xp.zeros_like(x))
    near = fft.irfft2(fft.rfft2(clean) * gauss, x.shape[-2:])
    share = fft.irfft2(fft.rfft2(valid) * gauss, x.shape[-2:])
    some = share > LEAST_SHARE
    mean = near / xp.where(some, share, xp.ones_like(share))
    return xp.where(mask, x, xp.where(some, mean, xp.zeros_like(mean)))


def fill_spectrum(shape: tuple[int, int], width: float, beside: Any) -> Any:
    """Return the half-plane transform of the Gaussian of `fill_masked`, whose sum is 1."""
    xp = arrays.namespace(beside)
    kx, ky = fft.frequencies(shape[0], beside=beside), fft.frequencies(shape[1], half=True, beside=beside)
    return xp.exp(-2 * (3.141592653589793 * width) ** 2 * (kx[:, None] ** 2 + ky[None, :] ** 2))


def significance(maps: Maps) -> Any:
    """Return the Poisson significance z = C₁ / √(I ⋆ K²) of every pixel. It is 0 where there are no counts."""
    xp = arrays.namespace(maps.cross)
    some = maps.noise > 1e-9 * xp.max(maps.noise, axis=(-2, -1), keepdims=True)
    return xp.where(some, maps.cross / xp.sqrt(xp.where(some, maps.noise, xp.ones_like(maps.noise))), xp.zeros_like(maps.cross))


def local_maxima(hybrid: Any) -> Any:
    """Return True where a positive pixel exceeds its eight neighbours, those in `ABOVE` strictly. The border wraps."""
    xp = arrays.namespace(hybrid)
    peak = hybrid > 0
    for dx, dy in ABOVE:
        peak = peak & (hybrid > xp.roll(hybrid, (-dx, -dy), axis=(-2, -1)))
    for dx, dy in NOT_BELOW:
        peak = peak & (hybrid >= xp.roll(hybrid, (-dx, -dy), axis=(-2, -1)))
    return peak


def candidate_scores(maps: Maps, allowed: Any, limits: PeakLimits) -> Any:
    """Return the height of the hybrid map at every candidate that passes the thresholds, and -inf elsewhere."""
    xp = arrays.namespace(maps.hybrid, allowed)
    none = xp.full_like(maps.hybrid, -float("inf"))
    score = xp.where(local_maxima(maps.hybrid) & allowed, maps.hybrid, none)
    strongest = xp.max(score, axis=(-2, -1), keepdims=True)
    strongest = xp.where(strongest > 0, strongest, xp.zeros_like(strongest))
    high = (score >= limits.min_absolute) & (score >= limits.min_relative * strongest)
    keep = high & (significance(maps) >= limits.min_significance)
    return xp.where(keep, score, none)


def strongest_first(score: Any, spacing: float, most: int) -> tuple[Any, Any, Any]:
    """Take the strongest candidate, then the strongest that is at least `spacing` away from all taken ones, up to `most`."""
    xp = arrays.namespace(score)
    n, nx, ny = score.shape
    where = arrays.device(score)
    x = xp.arange(nx, dtype=xp.float64, device=where)[None, :, None]
    y = xp.arange(ny, dtype=xp.float64, device=where)[None, None, :]
    xs, ys, found = [], [], []
    for _ in range(most):
        flat = xp.reshape(score, (n, nx * ny))
        best = xp.argmax(flat, axis=-1)
        px, py = xp.astype(best // ny, xp.float64), xp.astype(best % ny, xp.float64)
        near = (x - px[:, None, None]) ** 2 + (y - py[:, None, None]) ** 2
        found.append(xp.max(flat, axis=-1) > -float("inf"))
        xs.append(px)
        ys.append(py)
        score = xp.where((near < spacing * spacing) | (near == 0), xp.full_like(score, -float("inf")), score)
    count = xp.sum(xp.astype(xp.stack(found, axis=-1), xp.int64), axis=-1)
    return xp.stack(xs, axis=-1), xp.stack(ys, axis=-1), count
