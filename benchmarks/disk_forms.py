"""Probes that are not round or not evenly filled, as functions that are known between the pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

TAIL = 8.0  # edge widths behind the farthest corner
STEP = 1e-4  # px, of the differences that make a gradient
FINE = 0.05  # px, of the grid that electrons are counted on

Value = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Form:
    """Intensity of a disk by x and y from its centre, about 1 inside; pixels.

    Parameters
    ----------
    at : callable
    radius, edge : float
        Of about the same circle; `radius` is what relative slopes inside a disk are measured over.
    """

    at: Value
    radius: float
    edge: float = 1.0

    @property
    def tail(self) -> float:
        return 1.5 * self.radius + TAIL * self.edge

    def gradient(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_x, by_y = (self.at(x + i, y + j) - self.at(x - i, y - j) for i, j in ((STEP, 0.0), (0.0, STEP)))
        return by_x / (2 * STEP), by_y / (2 * STEP)

    def image(self, shape: tuple[int, int], center: tuple[float, float]) -> np.ndarray:
        x, y = (np.arange(n) - c for n, c in zip(shape, center))
        return self.at(x[:, None], y[None, :])

    def electrons(self) -> float:
        x = np.arange(-self.tail, self.tail, FINE)
        return float(self.at(x[:, None], x[None, :]).sum()) * FINE**2


def step(distance: np.ndarray, edge: float) -> np.ndarray:
    """The edge of all of them: 1 where the distance, pixels, is far below 0."""
    return expit(-4 * distance / edge)


def ellipse(stretch: float, radius: float = 6.0, edge: float = 1.0) -> Form:
    """Axes radius (1 + stretch) and radius / (1 + stretch)."""
    return Form(lambda x, y: step(np.hypot(x / (1 + stretch), y * (1 + stretch)) - radius, edge), radius, edge)


def polygon(sides: int, inner: float, edge: float = 1.0, turn: float = 0.0) -> Form:
    """Regular, by the radius of its inner circle: the product of its sides' edges, whose corners are rounded as those of an image."""

    def at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        angles = turn + 2 * np.pi * np.arange(sides) / sides
        return np.prod([step(x * np.cos(a) + y * np.sin(a) - inner, edge) for a in angles], 0)

    return Form(at, inner * float(np.sqrt(np.tan(np.pi / sides) * sides / np.pi)), edge)


def sloping(form: Form, slope: float) -> Form:
    """Filling that changes by that share over a radius."""
    return Form(lambda x, y: form.at(x, y) * np.maximum(1 + slope * x / form.radius, 0.0), form.radius, form.edge)


def shaded(form: Form, left: float, angle: float = 0.64, beyond: float = -0.3, width: float = np.inf) -> Form:
    """A strip across the form, from `beyond` px along a direction and `width` px wide, is darkened to what is `left`."""

    def at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = x * np.cos(angle) + y * np.sin(angle) - beyond
        strip = step(-along, form.edge) * (1.0 if np.isinf(width) else step(along - width, form.edge))
        return form.at(x, y) * (1 - (1 - left) * strip)

    return Form(at, form.radius, form.edge)


FORMS: dict[str, Form] = {
    "round": ellipse(0.0),
    "ellipse, axes ± 5 %": ellipse(0.05),
    "ellipse, axes ± 15 %": ellipse(0.15),
    "ellipse ± 15 %, R = 9": ellipse(0.15, 9.0),
    "ellipse ± 5 %, w = 0.5": ellipse(0.05, edge=0.5),
    "20 % of slope inside": sloping(ellipse(0.0), 0.2),
    "square, side 11 px": polygon(4, 5.5),
    "square, side 16 px": polygon(4, 8.0),
    "square, w = 0.5": polygon(4, 5.5, 0.5),
    "hexagon": polygon(6, 5.7, turn=0.2),
    "ellipse, half opaque": shaded(ellipse(0.08), 0.0),
    "ellipse, half at 40 %": shaded(ellipse(0.08), 0.4),
    "ellipse with a dark bar": shaded(ellipse(0.08), 0.1, beyond=-1.2, width=2.4),
}
