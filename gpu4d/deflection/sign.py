"""Decide which of two opposite phases is right. The curl of a deflection field leaves 180° open; what atoms do decides it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpu4d import fft
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host

# Low k has more of descan, drift and noise than of atoms. So both tests filter the phase with k² / (λ + k²), λ in cycles² per sample².
HIGH_PASS = (0.0, 1e-4, 1e-3, 1e-2)
KEPT = 0.05  # least share of the variance after the filter; with less, only the edges of the scan are left
DECIDED = 4.0  # standard errors; more than usual, because they are those of a random field, and particles side by side are no such field


@dataclass(frozen=True)
class Sign(Storable):
    """The sign of a phase, and how clear it is.

    Attributes
    ----------
    sign : int
        1 if the phase is right as it is, -1 if its negative is.
    skew, skew_margin : float
        Skewness of the phase as it came in, and its size in standard errors.
    dark_field, dark_field_margin : float
        Correlation of the phase as it came in with the dark field, and its size in standard errors; NaN without a dark field.
    margin : float
        Of the test that decided, standard errors.
    text : str
        The decision and its reasons, as a sentence.
    """

    sign: int
    skew: float
    skew_margin: float
    dark_field: float
    dark_field_margin: float
    margin: float
    text: str

    @property
    def decided(self) -> bool:
        """Whether the test is clear enough to be believed."""
        return self.margin >= DECIDED


@on_host("map")
def phase_sign(phase: ArrayLike, dark_field: ArrayLike | None = None) -> Sign:
    """Decide whether a phase or its negative is that of matter.

    Atoms attract electrons. Their phase is positive, in narrow high maxima on a broad low ground, so it has positive skewness.
    Where there is more matter, more electrons are scattered out of the bright-field disk, so a dark field correlates with the
    phase. Each test is compared with its standard error for a random field of the same spectrum; the clearer one decides.

    Parameters
    ----------
    phase : (Rx, Ry) real
        NaN positions are left out.
    dark_field : (Rx, Ry) real, optional
        Share of the electrons outside the bright-field disk.

    Returns
    -------
    Sign

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.meshgrid(np.arange(48), np.arange(48), indexing="ij")
    >>> atoms = np.exp(-((x % 12 - 6) ** 2 + (y % 12 - 6) ** 2) / 4)
    >>> phase_sign(atoms).sign, phase_sign(-atoms).sign
    (1, -1)
    """
    phase = _image(phase, "phase")
    dark_field = None if dark_field is None else _image(dark_field, "dark_field")
    if dark_field is not None and dark_field.shape != phase.shape:
        raise InputError(f"dark_field is {dark_field.shape}, phase is {phase.shape}: need one value per position")
    passed = [high_pass(phase, cut) for cut in HIGH_PASS]
    telling = [image for image in passed if _variance(image) >= KEPT * _variance(passed[0])]
    skew, skew_margin = max((_skewness(image) for image in telling), key=lambda found: found[1])
    corr, corr_margin = math.nan, math.nan
    if dark_field is not None:
        corr, corr_margin = _correlation(*(high_pass(image, HIGH_PASS[2]) for image in _common(phase, dark_field)))
    by_dark_field = corr_margin > skew_margin
    value, margin = (corr, corr_margin) if by_dark_field else (skew, skew_margin)
    sign = -1 if value < 0 else 1
    facts = [f"skewness of the phase {sign * skew:+.2f} ({skew_margin:.1f} standard errors)"]
    if dark_field is not None:
        facts.append(f"correlation with the dark field {sign * corr:+.2f} ({corr_margin:.1f} standard errors)")
    why = "matter scatters electrons out of the disk" if by_dark_field else "atoms attract electrons"
    verdict = (
        f"180° {'decided' if margin >= DECIDED else 'not decided'} by the {'dark field' if by_dark_field else 'skewness'}, because {why}"
    )
    text = f"{verdict}: {', '.join(facts)}"
    return Sign(sign, skew, skew_margin, corr, corr_margin, margin, text)


def _image(given: ArrayLike, name: str) -> np.ndarray:
    """Return an image over the scan as float64 on the host."""
    image = real_values(given, name, "an image (Rx, Ry)").astype(np.float64)
    if image.ndim != 2 or not image.size:
        raise InputError(f"{name} has shape {image.shape}: need an image (Rx, Ry)")
    return image


def _common(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut two images to the box where both are finite; a position is NaN in both if it is NaN in one."""
    ok = np.isfinite(a) & np.isfinite(b)
    if not ok.any():
        return np.full((1, 1), np.nan), np.full((1, 1), np.nan)
    box = tuple(slice(along.argmax(), len(along) - along[::-1].argmax()) for along in (ok.any(1), ok.any(0)))
    return np.where(ok, a, np.nan)[box], np.where(ok, b, np.nan)[box]


def high_pass(image: np.ndarray, cut: float) -> np.ndarray:
    """Filter an image with k² / (cut + k²), mirrored at its edges; NaN stays NaN, and the filter sees the mean there."""
    ok = np.isfinite(image)
    if not ok.any():
        return np.full(image.shape, np.nan)
    filled = np.where(ok, image, image[ok].mean()) - image[ok].mean()
    tall = np.concatenate([filled, filled[::-1]], axis=0)
    even = np.concatenate([tall, tall[:, ::-1]], axis=1)
    kx, ky = fft.frequencies(even.shape[0]), fft.frequencies(even.shape[1], half=True)
    k2 = kx[:, None] ** 2 + ky**2
    k2[0, 0] = 1.0
    out = fft.irfft2(fft.rfft2(even) * (k2 / (cut + k2)), even.shape)[: image.shape[0], : image.shape[1]]
    return np.where(ok, out, np.nan)


def _variance(image: np.ndarray) -> float:
    return float(np.var(image[np.isfinite(image)])) if np.isfinite(image).any() else 0.0


def _standard(image: np.ndarray) -> np.ndarray:
    """Scale an image to mean 0 and variance 1 over the finite positions, 0 elsewhere; zeros for an image without variation."""
    ok = np.isfinite(image)
    if not ok.any():
        return np.zeros(image.shape)
    centred = np.where(ok, image - image[ok].mean(), 0.0)
    scale = math.sqrt((centred**2).sum() / ok.sum())
    return centred / scale if scale > 0 else centred


def _autocorrelation(image: np.ndarray) -> np.ndarray:
    """Return the autocorrelation of a standard image by lag, padded with zeros so that it does not wrap; 1 at lag 0."""
    shape = tuple(2 * n for n in image.shape)
    padded = np.zeros(shape)
    padded[: image.shape[0], : image.shape[1]] = image
    spectrum = np.abs(fft.rfft2(padded)) ** 2
    rho = fft.irfft2(spectrum, shape)
    return rho / rho[0, 0] if rho[0, 0] > 0 else rho


def _skewness(image: np.ndarray) -> tuple[float, float]:
    """Return the skewness, and its size over √(6 Σρ³ / N), the standard error of a Gaussian field with autocorrelation ρ."""
    z, n = _standard(image), int(np.isfinite(image).sum())
    if not z.any():
        return 0.0, 0.0
    skew = float((z * z * z).sum() / n)
    rho = _autocorrelation(z)
    error = math.sqrt(6 * max(float((rho * rho * rho).sum()), 1.0) / n)
    return skew, abs(skew) / error


def _correlation(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the correlation, and its size over √(Σ ρa ρb / N), the standard error of independent fields (Fisher's z)."""
    za, zb, n = _standard(a), _standard(b), int(np.isfinite(a).sum())
    if not (za.any() and zb.any()):
        return 0.0, 0.0
    corr = float((za * zb).sum() / n)
    error = math.sqrt(max(float((_autocorrelation(za) * _autocorrelation(zb)).sum()), 1.0) / n)
    return corr, abs(math.atanh(min(max(corr, -0.999999), 0.999999))) / error
