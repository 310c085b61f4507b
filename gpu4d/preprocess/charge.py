"""How the charge of one electron spreads over the pixels of a direct detector: the model that electrons are fitted with."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gpu4d import arrays
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_number

# Φ as in Abramowitz and Stegun 7.1.26, absolute error 1e-7. Array libraries have exp, but not all have erf.
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
ERF_SCALE = 0.3275911
SQRT_HALF = math.sqrt(0.5)
SQRT_TAU = math.sqrt(2 * math.pi)


class _ChargeModel(NamedTuple):
    spread: float
    noise: float
    energy_spread: float = 0.3
    penalty: float = 14.0


class ChargeModel(_ChargeModel, Storable, stored="spread: [px]; noise: [e]"):
    """What one electron leaves in the pixels of a detector. `gpu4d.preprocess.charge_model` finds it in raw frames.

    Attributes
    ----------
    spread : float
        Standard deviation of the charge about the place of the electron, a normal distribution, in px.
    noise : float
        Standard deviation of a pixel without electrons, in electrons.
    energy_spread : float
        Standard deviation of ln(signal of an electron). A log-normal distribution of mean 1 stands for the Landau distribution of the
        energy that an electron leaves.
    penalty : float
        What one more electron costs, in nats: minus the logarithm of the prior chance of an electron, and of how exactly the frame says
        where it is. With a larger one fewer electrons are split in two that are one.
    """

    __slots__ = ()

    @classmethod
    def of(cls, given: ChargeModel | tuple[float, ...]) -> ChargeModel:
        """Return a model, or a tuple of its numbers, as a model that was checked."""
        if not isinstance(given, tuple) or not 2 <= len(given) <= len(cls._fields):
            raise InputError(f"model is {given!r}: need a ChargeModel, as gpu4d.preprocess.charge_model gives it")
        return cls(*given).checked()

    def checked(self) -> ChargeModel:
        """Return the same model in Python's numbers. Raise InputError for numbers that are none, or not positive."""
        spread, noise, energy, penalty = (real_number(value, name, False) for name, value in zip(self._fields, self))
        if not (0.1 <= spread <= 1.5 and noise > 0 and 0.01 <= energy <= 2 and penalty >= 0 and math.isfinite(noise + penalty)):
            raise InputError(
                f"{self}: need spread from 0.1 to 1.5 px, noise > 0 in electrons, energy_spread from 0.01 to 2, penalty of 0 or more"
            )
        return ChargeModel(spread, noise, energy, penalty)

    @property
    def mean_log(self) -> float:
        """Mean of ln(signal), which makes the mean signal 1."""
        return -(self.energy_spread**2) / 2

    @property
    def least_cost(self) -> float:
        """Least that an electron can cost, with the most probable energy."""
        return self.penalty + math.log(self.energy_spread * SQRT_TAU) + self.mean_log - self.energy_spread**2 / 2


def below(t: Any, density: Any) -> Any:
    """Return the share of a normal distribution below t standard deviations, where `density` is exp(-t² / 2)."""
    xp = arrays.namespace(t)
    k = 1 / (1 + ERF_SCALE * SQRT_HALF * xp.abs(t))
    c1, c2, c3, c4, c5 = ERF
    inside = 1 - k * (c1 + k * (c2 + k * (c3 + k * (c4 + k * c5)))) * density
    return 0.5 * (1 + xp.where(t >= 0, inside, -inside))


def share(distance: Any, spread: float) -> tuple[Any, Any]:
    """Return the share of the charge in a row of pixels, and its derivative.

    Parameters
    ----------
    distance : real
        From the electron to the middle of the row, px.
    spread : float

    Returns
    -------
    share, slope
        Of the shape of `distance`. The slope is by the place of the electron, 1/px.
    """
    xp = arrays.namespace(distance)
    low, high = (distance - 0.5) / spread, (distance + 0.5) / spread
    before, after = xp.exp(-low * low / 2), xp.exp(-high * high / 2)
    return below(high, after) - below(low, before), (before - after) / (spread * SQRT_TAU)
