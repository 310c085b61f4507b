"""Write aberrations as a sum of parts with one real number each, as a fit needs them, and back as Krivanek coefficients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gpu4d import physics
from gpu4d.errors import InputError
from gpu4d.probe.wavefunction import COEFFICIENTS, aberration_terms, chi_polynomial
from gpu4d.ptychography.experiment import Experiment
from gpu4d.ptychography.sideband_products import MOST_PARTS
from gpu4d.ptychography.ssb_sum import Chi


@dataclass(frozen=True)
class Parts:
    """The parts χ_p of an aberration function: χ = Σ c_p χ_p. Each is scaled to 1 rad at the edge of the aperture.

    Attributes
    ----------
    names : tuple of str
        C10, C30, …; two for a coefficient with an angle: C12a = C12 cos 2 phi12 and C12b = C12 sin 2 phi12.
    unit : (p,) float64
        Å: the coefficient that makes 1 rad at the edge.
    polynomials : (p, 7, 7) float64
        χ_p / π, coefficients of xⁱ yʲ in detector pixels.
    """

    coefficients: tuple[str, ...]
    names: tuple[str, ...]
    unit: np.ndarray
    polynomials: np.ndarray

    @classmethod
    def of(cls, coefficients: Iterable[str], known: Experiment) -> Parts:
        """Make the parts of named coefficients."""
        given = tuple(coefficients)
        if not given or len(set(given)) < len(given) or not set(given) <= COEFFICIENTS.keys():
            raise InputError(f"coefficients={given!r}: need different ones of {', '.join(COEFFICIENTS)}")
        wavelength, edge = physics.wavelength(known.energy), known.radius * known.q_pixel
        names, unit, polynomials = [], [], []
        for name in given:
            n, m = COEFFICIENTS[name]
            size = (n + 1) / (2 * math.pi * wavelength**n * edge ** (n + 1))
            for angle, letter in ((0.0, "a"), (math.pi / (2 * m), "b")) if m else ((0.0, ""),):
                names.append(name + letter)
                unit.append(size)
                polynomial = chi_polynomial({name: size, **({f"phi{n}{m}": angle} if m else {})}, known.energy, known.q_pixel)
                assert polynomial is not None
                polynomials.append(polynomial)
        if len(names) > MOST_PARTS:
            raise InputError(f"coefficients={given!r} are {len(names)} real numbers: need at most {MOST_PARTS}")
        return cls(given, tuple(names), np.array(unit), np.array(polynomials))

    def chi(self, vector: np.ndarray) -> Chi:
        """Return χ / π of scaled coefficients (p,) as terms (i, j, c)."""
        return _terms(self.polynomial(vector))

    def polynomial(self, vector: np.ndarray) -> np.ndarray:
        """Return χ / π of scaled coefficients (p,): coefficients (7, 7) of xⁱ yʲ in detector pixels."""
        return np.tensordot(vector, self.polynomials, 1)

    def each(self) -> tuple[Chi, ...]:
        """Return every part as terms."""
        return tuple(_terms(polynomial) for polynomial in self.polynomials)

    def gradient(self, vector: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return ∇χ at pixels (n, 2) from the axis, radians per pixel."""
        total = self.polynomial(vector) * math.pi
        powers = np.arange(total.shape[0])
        x, y = (at[:, axis, None] ** powers for axis in (0, 1))
        dx, dy = (np.concatenate([np.zeros((len(at), 1)), powers[1:] * v[:, :-1]], axis=1) for v in (x, y))
        return np.stack([np.einsum("ni,ij,nj->n", dx, total, y), np.einsum("ni,ij,nj->n", x, total, dy)], -1)

    def scaled(self, aberrations: Mapping[str, float] | None) -> np.ndarray:
        """Return the scaled coefficients (p,) of named ones. Names that have no part are refused."""
        found = dict.fromkeys(self.names, 0.0)
        for n, m, size, angle in aberration_terms(aberrations):
            name = f"C{n}{m}"
            if name not in self.coefficients:
                raise InputError(f"start has {name}, which is not fitted: coefficients={self.coefficients!r}")
            for letter, value in (("a", math.cos(m * angle)), ("b", math.sin(m * angle))) if m else (("", 1.0),):
                found[name + letter] = size * value
        return np.array([found[name] for name in self.names]) / self.unit

    def named(self, values: np.ndarray, covariance: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
        """Return Krivanek coefficients of values (p,) in Å, and their standard errors: C ≥ 0 with an angle where there is one."""
        found, errors = {}, {}
        for name in self.coefficients:
            n, m = COEFFICIENTS[name]
            if m == 0:
                at = self.names.index(name)
                found[name], errors[name] = float(values[at]), math.sqrt(covariance[at, at])
                continue
            at = self.names.index(name + "a")
            a, b = values[at : at + 2]
            size = math.hypot(a, b)
            along = np.array([a, b]) / size if size else np.array([1.0, 0.0])
            both = covariance[at : at + 2, at : at + 2]
            across = np.array([-along[1], along[0]])
            found[name], errors[name] = size, math.sqrt(along @ both @ along)
            found[f"phi{n}{m}"] = math.atan2(b, a) / m
            spread = math.sqrt(across @ both @ across) / (m * size) if size else math.inf
            errors[f"phi{n}{m}"] = min(spread, math.pi / m)
        return found, errors


def _terms(polynomial: np.ndarray) -> Chi:
    return tuple((int(i), int(j), float(polynomial[i, j])) for i, j in np.argwhere(polynomial))
