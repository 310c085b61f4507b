"""Read the composition of a substance: which elements, and how many atoms of each in a hundred."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from gpu4d.errors import InputError

_PART = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")
NEED = "need a formula such as 'Cu50Zr50' or 'SiO2', or a dictionary of element and share such as {'Cu': 0.5, 'Zr': 0.5}"


def shares(composition: Any) -> dict[str, float]:
    """Return the share of every element among the atoms; the shares add up to 1.

    Parameters
    ----------
    composition : str or mapping of str to float
        A formula without brackets, or shares in any unit.

    Raises
    ------
    InputError
        It is neither, an element has no positive share, or a share is not finite.

    Examples
    --------
    >>> shares("SiO2"), shares({"Cu": 64, "Zr": 36})
    ({'Si': 0.3333333333333333, 'O': 0.6666666666666666}, {'Cu': 0.64, 'Zr': 0.36})
    """
    if isinstance(composition, str):
        formula = composition.replace(" ", "")
        parts = _PART.findall(formula)
        if not parts or "".join(a + b for a, b in parts) != formula:
            raise InputError(f"composition={composition!r}: {NEED}")
        pairs = [(symbol, number or 1) for symbol, number in parts]
    elif isinstance(composition, Mapping):
        pairs = list(composition.items())
    else:
        raise InputError(f"composition is a {type(composition).__name__}: {NEED}")
    found: dict[str, float] = {}
    for symbol, number in pairs:
        try:
            found[symbol] = found.get(symbol, 0.0) + float(number)
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"composition has the share {number!r} of {symbol!r}: {NEED}") from None
        if not (isinstance(symbol, str) and 0 < found[symbol] < math.inf):
            raise InputError(f"composition has the share {number!r} of {symbol!r}: {NEED}")
    if not found:
        raise InputError(f"composition={composition!r}: {NEED}")
    total = sum(found.values())
    return {symbol: share / total for symbol, share in found.items()}
