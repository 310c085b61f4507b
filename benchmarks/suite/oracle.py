"""Judge an answer: choose at random what is compared with the definition, and hold each difference against what is allowed for it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from gpu4d.benchmarks.suite.workload import Check, WrongAnswer

SURE = 8.0  # standard errors from the truth: of 1e8 normal values one is farther with a probability of 1e-7
BY_LOT = "drawn by lot in each run"  # so that nobody can prepare for them


@dataclass(frozen=True)
class Part:
    """One comparison of some values with what they should be.

    Attributes
    ----------
    difference, allowed : array or float
        Largest difference that was found, and that is allowed, in the same unit. Arrays broadcast; the worst ratio counts.
    """

    difference: np.ndarray | float
    allowed: np.ndarray | float

    @property
    def excess(self) -> float:
        """Difference over what is allowed, of the worst value. NaN is infinite."""
        ratio = np.abs(np.asarray(self.difference, float)) / np.asarray(self.allowed, float)
        worst = float(np.max(ratio, initial=0.0))
        return worst if np.isfinite(worst) else float("inf")


def judged(parts: Mapping[str, Part], values: int, oracle: str) -> Check:
    """Return a check whose error is the worst difference over what is allowed for it. The message of a wrong answer names the part."""
    worst = max(parts, key=lambda name: parts[name].excess)
    excess = parts[worst].excess
    if not excess <= 1.0:
        raise WrongAnswer(f"{worst}: {excess:.3g} times the difference that is allowed, compared with {oracle}")
    return Check(excess, 1.0, values, oracle)


def precise(check: Check, scatter: float, bound: float | None, unit: str) -> Check:
    """Add the scatter about the truth, and its bound, to a check."""
    return replace(check, scatter=float(scatter), bound=None if bound is None else float(bound), unit=unit)


def drawn(n: int, most: int) -> np.ndarray:
    """Draw at most `most` of n numbers by lot, in ascending order. No seed repeats the choice."""
    return np.sort(np.random.default_rng(secrets.randbits(128)).permutation(n)[:most]) if n > most else np.arange(n)


def right_shape(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise WrongAnswer if an array has another shape."""
    if value.shape != shape:
        raise WrongAnswer(f"{name} has the shape {value.shape}, {shape} is right")
