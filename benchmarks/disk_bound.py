"""How well counts can locate a disk: Fisher information of the Poisson model, in double precision, and its closed form.

Independent of the estimators: nothing of `gpu4d.bragg` is used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

TAIL = 8.0  # edge widths behind the radius at which the logistic is 1e-14


@dataclass(frozen=True)
class Profile:
    """Intensity of a round disk over the distance from its centre: logistic steps, 1 on the plateau.

    Parameters
    ----------
    steps : tuple of (height, radius)
        Each adds height / (1 + exp(4 (r - radius) / edge)); the first is the disk's rim. Pixels.
    edge : float
        Width of every step, pixels.
    """

    steps: tuple[tuple[float, float], ...]
    edge: float = 1.0

    @property
    def radius(self) -> float:
        return self.steps[0][1]

    @property
    def tail(self) -> float:
        """Distance from the centre behind which nothing is left, pixels."""
        return self.radius + TAIL * self.edge

    def value(self, r: np.ndarray) -> np.ndarray:
        return sum(h * expit(4 * (R - r) / self.edge) for h, R in self.steps)  # type: ignore[return-value]

    def slope(self, r: np.ndarray) -> np.ndarray:
        e = [(h, expit(4 * (R - r) / self.edge)) for h, R in self.steps]
        return sum(-4 / self.edge * h * f * (1 - f) for h, f in e)  # type: ignore[return-value]

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.value(np.hypot(x, y))

    def gradient(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = np.maximum(np.hypot(x, y), 1e-12)
        slope = self.slope(r)
        return slope * x / r, slope * y / r

    def image(self, shape: tuple[int, int], center: tuple[float, float]) -> np.ndarray:
        x, y = (np.arange(n) - c for n, c in zip(shape, center))
        return self.at(x[:, None], y[None, :])

    def electrons(self) -> float:
        """Of a disk of height 1: ∫ 2πr D dr."""
        r = np.linspace(0, self.tail, 4001)
        return float(np.trapezoid(2 * np.pi * r * self.value(r), r))


def soft(radius: float = 6.0, edge: float = 1.0) -> Profile:
    return Profile(((1.0, radius),), edge)


def bullseye(radius: float = 9.0, edge: float = 1.0, rings: int = 3, contrast: float = 0.7) -> Profile:
    """A disk with dark rings, all zones of equal breadth."""
    at = radius * np.arange(1, 2 * rings + 1) / (2 * rings + 1)
    dark = [(sign * contrast, float(r)) for i, r in enumerate(at) for sign in [1.0 if i % 2 == 0 else -1.0]]
    return Profile(((1.0, radius), *dark), edge)


def fisher(
    profile: Any,
    expected: np.ndarray,
    positions: np.ndarray,
    heights: np.ndarray,
    parameters: int,
    reach: float | None = None,
    tilts: np.ndarray | None = None,
) -> np.ndarray:
    """Fisher information Σ ∇λ ∇λᵀ / λ of every disk of one pattern, summed over the pixels of its window.

    λ(q) = b + bx u + by v + (a + cx u + cy v) D(q - r), with u, v the distance from the centre over the radius.

    Parameters
    ----------
    profile : Profile or disk_forms.Form
        D.
    expected : (Qx, Qy) float64
        λ: mean counts, whatever they come from.
    positions, heights : (K, 2), (K,)
        r in pixels, a in counts.
    parameters : {2, 4, 6, 8}
        How many are free: r; a, b; bx, by; cx, cy.
    reach : float, optional
        Radius of the window about the pixel nearest to the centre; by default all of the disk.
    tilts : (K, 2), optional
        cx / a, cy / a; 0 by default.

    Returns
    -------
    (K, parameters, parameters) float64
    """
    if parameters not in (2, 4, 6, 8):
        raise ValueError(f"parameters={parameters}: need 2, 4, 6 or 8")
    far = profile.tail if reach is None else reach
    half = int(np.ceil(far))
    d = np.arange(-half, half + 1)
    near = np.hypot(d[:, None], d[None, :]) <= far
    dx, dy = (a[near] for a in np.meshgrid(d, d, indexing="ij"))
    middle = np.rint(positions).astype(int)
    i, j = middle[:, :1] + dx, middle[:, 1:] + dy
    inside = (i >= 0) & (j >= 0) & (i < expected.shape[0]) & (j < expected.shape[1])
    mean = np.where(inside, expected[np.clip(i, 0, expected.shape[0] - 1), np.clip(j, 0, expected.shape[1] - 1)], np.inf)
    x, y = i - positions[:, :1], j - positions[:, 1:]
    u, v = x / profile.radius, y / profile.radius
    disk, slope, one = profile.at(x, y), profile.gradient(x, y), np.ones_like(x)
    a = heights[:, None]
    tx, ty = (np.zeros_like(a) for _ in range(2)) if tilts is None else (tilts[:, :1], tilts[:, 1:])
    height = a * (1 + tx * u + ty * v)
    by_x = -height * slope[0] - a * tx / profile.radius * disk
    by_y = -height * slope[1] - a * ty / profile.radius * disk
    gradient = np.stack([by_x, by_y, disk, one, u, v, u * disk, v * disk][:parameters], 1)
    return np.matmul(gradient / mean[:, None, :], gradient.swapaxes(1, 2))


def variances(information: np.ndarray) -> np.ndarray:
    """Cramér-Rao bound on the variance of x and of y, with all other parameters unknown: (…, 2)."""
    scale = 1 / np.sqrt(np.diagonal(information, axis1=-2, axis2=-1))
    unit = information * scale[..., :, None] * scale[..., None, :]
    return np.diagonal(np.linalg.inv(unit), axis1=-2, axis2=-1)[..., :2] * scale[..., :2] ** 2


def edge_factor(background: float) -> float:
    """K(β) = ∫₀¹ f (1 - f) / (f + β) df = ½ + β - β (1 + β) ln(1 + 1/β), β the background over the disk's height."""
    b = float(background)
    if b == 0:
        return 0.5
    if b > 1e3:
        return 1 / (6 * b) - 1 / (12 * b * b)  # the terms of the closed form cancel
    return 0.5 + b - b * (1 + b) * float(np.log1p(1 / b))


def closed_form(radius: float, edge: float, height: float, background: float = 0.0) -> float:
    """Bound on the standard deviation per axis of an evenly filled disk, pixels: √(w / (4π R a K(β))).

    The information of a logistic edge of width w « R, spread along the rim: I = ∮ cos²θ R dθ ∫ (a f')² / (b + a f) dr. Without a
    background, and with N = π R² a electrons in the disk, it is √(w R / 2N).

    Parameters
    ----------
    radius, edge : float
        R, w in pixels.
    height, background : float
        a and b, counts a pixel.
    """
    return float(np.sqrt(edge / (4 * np.pi * radius * height * edge_factor(background / height))))
