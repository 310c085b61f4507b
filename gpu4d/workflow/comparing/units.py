"""Convert values of one unit to another: Å and nm, rad and degrees, and products of them such as T nm and V/Å."""

from __future__ import annotations

import re
from collections import Counter

from gpu4d.io.units import parse

PLAIN = ("", "1", "–")  # values without a unit: of these, one may be named and the other not
POWERS = {"²": 2, "³": 3, "^2": 2, "^3": 3, "^-1": -1, "⁻¹": -1}
ALSO = {"°": "deg", "degrees": "deg", "radians": "rad", "%": "percent"}
PERCENT = 0.01  # of 1


def factor(from_unit: str, to_unit: str) -> float | None:
    """Return what values in one unit are multiplied by to be in another. None if the units are of different things.

    A unit that is not named is taken for the other one.

    Examples
    --------
    >>> factor("V/nm", "V/Å"), factor("T Å", "T nm"), factor("%", "1"), factor("px", "1/Å")
    (0.1, 0.1, 0.01, None)
    """
    if from_unit == to_unit or not from_unit or not to_unit:
        return 1.0
    (one, kinds), (other, others) = _parts(from_unit), _parts(to_unit)
    return float(f"{one / other:.12g}") if kinds == others else None


def _parts(unit: str) -> tuple[float, Counter[str]]:
    """Return the size of a unit in basic ones, and the powers of these."""
    size, kinds = 1.0, Counter[str]()
    for n, side in enumerate(unit.split("/")):
        for word in side.replace("·", " ").split():
            ending = next((text for text in POWERS if word.endswith(text)), "")
            power = (-1 if n else 1) * POWERS.get(ending, 1)
            name = ALSO.get(word.removesuffix(ending), word.removesuffix(ending))
            if re.fullmatch(r"1|–", name):
                continue
            known = parse(name)
            if name == "percent":
                size *= PERCENT**power
            else:
                size *= (known[1] if known else 1.0) ** power
                kinds[known[0] if known else name] += power
    return size, Counter({name: power for name, power in kinds.items() if power})
