"""Say how a user gives a quantity of the experiment: its unit, other units it may be written in, and which numbers are accepted.

Calibrations in Python, recipes and the command line use the same ranges, and guess the same unit where a number is out of range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpu4d.errors import InputError

# Words for units, with their size in the unit of the quantity. Case does not matter.
ENERGIES = {"eV": 1.0, "keV": 1e3, "kV": 1e3, "MeV": 1e6}
ANGLES = {"mrad": 1.0, "rad": 1e3, "µrad": 1e-3, "urad": 1e-3}
LENGTHS = {"Å": 1.0, "A": 1.0, "nm": 10.0, "pm": 1e-2, "µm": 1e4, "um": 1e4, "m": 1e10}
FREQUENCIES = {f"1/{unit}": 1 / size for unit, size in LENGTHS.items()}
DEGREES = {"degrees": 1.0, "deg": 1.0, "°": 1.0, "rad": 180 / math.pi}


@dataclass(frozen=True)
class GivenAs:
    """How a user gives a field in a recipe and on the command line.

    Attributes
    ----------
    name : str
        Name in the recipe's section [calibration].
    units : str
    low, high : float or None
        Accepted range, ends included.
    automatic : str
        What happens if it is not given.
    explain : str
        Explanation for the recipe.
    flag : str
        Placeholder of the value after ``--name`` on the command line, "EV". Empty if there is no flag.
    per_unit : float
        Factor from the given unit to the field's unit: π/180 for degrees.
    kind : str
        "number" or "switch".
    known : mapping of str to float
        Words for units in which it may be written, and their size in `units`.
    tune : str
        How to choose the value, in one to three sentences.

    Examples
    --------
    >>> energy = GivenAs("energy", "eV", 1e3, 3e6, known=ENERGIES)
    >>> energy.read("300 keV"), energy.problem(300e3), energy.problem(200)
    (300000.0, None, 'need a number from 1000 to 3e+06 in eV (did you mean 200e3, that is 200 keV?)')
    """

    name: str
    units: str = ""
    low: float | None = None
    high: float | None = None
    automatic: str = "as the file says"
    explain: str = ""
    flag: str = ""
    per_unit: float = 1.0
    kind: str = "number"
    known: Mapping[str, float] = field(default_factory=dict)
    tune: str = ""

    def read(self, text: str, what: str = "") -> float:
        """Return the number in a text such as "300e3" or "300 keV", in `units`. `what` names it in the error."""
        match = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\s*([^\d\s].*?)|\s+(1/.*?))?\s*", text)
        sizes = {word.casefold(): size for word, size in self.known.items()}
        unit = (match.group(2) or match.group(3) or "").replace("Å", "Å").casefold() if match else ""
        unit = f"1{unit}" if unit.startswith("/") else unit
        if match is None or (unit and unit not in sizes):
            also = f", also with a unit: {', '.join(self.known)}" if self.known else ""
            raise InputError(f"{what or self.name} {text!r}: need a number in {self.units}{also}")
        return float(match.group(1)) * sizes.get(unit, 1.0)

    def accepts(self, value: float) -> bool:
        """Return True for a finite number in the accepted range."""
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        return math.isfinite(value) and low <= value <= high

    def problem(self, value: float) -> str | None:
        """Say what is wrong with a number in `units`, and which unit may have been meant; None where nothing is."""
        if self.accepts(value):
            return None
        span = f" from {self.low:g} to {self.high:g}" if self.low is not None and self.high is not None else ""
        return f"need a number{span} in {self.units}{self.meant(value)}"

    def meant(self, value: float) -> str:
        """Return the number in `units` that a number out of range would be in another unit, as the end of a sentence; "" if none fits."""
        for unit, size in self.known.items():
            other = value * size
            if size != 1 and self.accepts(other) and not self.accepts(value):
                short = f"{other / 1e3:g}e3" if abs(other) >= 1e4 else f"{other:g}"
                return f" (did you mean {short}, that is {value:g} {unit}?)"
        return ""
