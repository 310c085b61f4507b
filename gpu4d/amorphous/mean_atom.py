"""Average the scattering factors over the atoms of a substance: what one atom scatters, and how pairs of elements are weighted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.structures import electron_scattering_factor
from gpu4d.structures.composition import shares

Factor = ArrayLike | Callable[[np.ndarray], ArrayLike]
NEED = "need an array with one factor for each k, a function of k, or for several elements a dictionary of these"


class MeanAtom(NamedTuple):
    """Scattering of the mean atom at each k.

    Attributes
    ----------
    factor : (n,) float64
        ⟨f⟩, Å.
    square : (n,) float64
        ⟨f²⟩, Å².
    pair_weights : dict of str to (n,) float64
        Faber–Ziman weights c_a c_b f_a f_b / ⟨f⟩² of pairs of elements, twice that for pairs of two elements. They add up to 1. Empty if
        the elements are not known.
    """

    factor: np.ndarray
    square: np.ndarray
    pair_weights: dict[str, np.ndarray]


def mean_atom(composition: Any, factor: Factor | Mapping[str, Factor] | None, k: np.ndarray) -> MeanAtom:
    """Return the mean atom of a composition at `k`, with tabulated or given scattering factors.

    Parameters
    ----------
    composition : str, mapping or None
        As `gpu4d.structures.composition.shares` takes it.
    factor : array (n,), function of k, or mapping of element to these, optional
        Instead of tabulated factors. One array without a composition is the factor of the only kind of atom.
    k : (n,) float64

    Raises
    ------
    InputError
        Neither is given, a factor is missing, has another shape, or is not positive.
    """
    if composition is None and factor is None:
        raise InputError(
            "composition= is missing: need the formula of the substance, such as 'Cu50Zr50', or its scattering factor (factor=)"
        )
    parts = {"": 1.0} if composition is None else shares(composition)
    if factor is None:
        factors = {element: electron_scattering_factor(element, k) for element in parts}
    elif isinstance(factor, Mapping):
        if missing := [element for element in parts if element not in factor]:
            raise InputError(f"factor has no {', '.join(missing) or 'composition'}: {NEED}")
        factors = {element: _values(factor[element], k, f"factor[{element!r}]") for element in parts}
    elif len(parts) > 1:
        raise InputError(f"factor is one for {len(parts)} elements ({', '.join(parts)}): {NEED}")
    else:
        factors = dict.fromkeys(parts, _values(factor, k, "factor"))
    mean = sum(parts[element] * f for element, f in factors.items())
    square = sum(parts[element] * f**2 for element, f in factors.items())
    names = [element for element in parts if element]
    weights = {
        f"{a}-{b}": (1 if a == b else 2) * parts[a] * parts[b] * factors[a] * factors[b] / mean**2
        for i, a in enumerate(names)
        for b in names[i:]
    }
    return MeanAtom(np.asarray(mean), np.asarray(square), weights)


def is_function(given: Any) -> bool:
    """Return True for what computes factors of k. A class is no function, though it can be called."""
    return callable(given) and not isinstance(given, type)


def _values(given: Any, k: np.ndarray, name: str) -> np.ndarray:
    values = real_values(given(k) if is_function(given) else given, name, NEED[5:]).astype(np.float64)
    if values.shape != k.shape:
        raise InputError(f"{name} has shape {values.shape}, and there are {len(k)} k: {NEED}")
    if not ((values > 0) & np.isfinite(values)).all():
        raise InputError(f"{name} has a value of {values[~((values > 0) & np.isfinite(values))][0]:g}: need positive factors, Å")
    return values
