"""One line of a plan: what was computed, what is wanted, whether it suits, what to change, and where the guide says so."""

from __future__ import annotations

from dataclasses import dataclass

from gpu4d.data.storable import Storable


@dataclass(frozen=True)
class Check(Storable):
    """One condition on a scan.

    Attributes
    ----------
    topic : str
        "scan", or a technique of `gpu4d.planning.TECHNIQUES`.
    name : str
    passed : bool or None
        None where it is told and not judged.
    value : float or None
        The number that is judged.
    text : str
        The number with its unit and its limit.
    advice : str
        What to change; empty if nothing.
    reference : str
        Section or pitfall of the guide.
    """

    topic: str
    name: str
    passed: bool | None
    value: float | None
    text: str
    advice: str
    reference: str

    @property
    def verdict(self) -> str:
        """Return "pass", "WARN", or "" where nothing is judged."""
        return {True: "pass", False: "WARN", None: ""}[self.passed]

    def __str__(self) -> str:
        advice = f": {self.advice}" if self.advice and self.passed is False else ""
        return f"{self.topic}, {self.name}: {self.text}{f' [{self.verdict}]' if self.verdict else ''}{advice} ({self.reference})"


def length(angstroms: float) -> str:
    """Write a length in the unit in which it is read easily.

    Examples
    --------
    >>> length(0.5), length(36.0), length(25000.0)
    ('0.5 Å', '36 Å', '2.5 µm')
    """
    scale, unit = next(((s, u) for s, u, most in ((1.0, "Å", 100), (10.0, "nm", 1e4)) if abs(angstroms) < most), (1e4, "µm"))
    return f"{angstroms / scale:.3g} {unit}"
