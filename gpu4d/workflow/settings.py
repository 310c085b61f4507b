"""Define one setting of a recipe: default, explanation, accepted values, and the range that the 4D-STEM guide recommends."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gpu4d.data.quantities import GivenAs
from gpu4d.device.memory import parse_memory
from gpu4d.errors import InputError, did_you_mean

SettingValue = Any  # a number, a text, a switch, a list or None: the setting's `Rule` says which
Section = Any  # an instance of the dataclass that a stage names as its `settings`
REGION_LENGTH = 4  # rx0, rx1, ry0, ry1


@dataclass(frozen=True)
class Rule:
    """Accepted values and the explanation of a setting.

    Attributes
    ----------
    kind : str
        "number", "whole", "text", "switch", "memory", "wholes" (a list of `length` whole numbers), "file" (FILE or FILE:/dataset;
        relative paths start at the recipe), "region" ([rx0, rx1, ry0, ry1] of the scan), "reference" (a region or a text), "decision"
        (true, false, or "auto") or "names" (a list of `choices` and files; one text is a list of one).
    explain : str
        What the setting does, in one or two sentences.
    units : str
    low, high : float or None
        Accepted range, ends included. None means no limit.
    choices : tuple of str
        Accepted texts.
    guide : (float, float) or None
        Recommended range (guide, section 17).
    length : int
        Length of a list.
    automatic : str
        What happens if it is not set.
    quantity : GivenAs or None
        Reads a number with its unit, and guesses the unit of one out of range.
    """

    kind: str
    explain: str
    units: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    guide: tuple[float, float] | None = None
    length: int = 0
    automatic: str = ""
    quantity: GivenAs | None = None


def setting(default: Any, kind: str, explain: str, **rule: Any) -> Any:
    """Make a dataclass field that carries its rule."""
    return field(default=default, metadata={"rule": Rule(kind, explain, **rule)})


def checked(name: str, value: Any, rule: Rule, origin: str = "") -> Any:
    """Return the value in its own type. Raise an error that says what is accepted if it is not."""
    said = f"{origin}: {name} = {value!r}" if origin and not origin.startswith("--") else f"{origin or name} {value}"
    if rule.kind == "switch":
        if not isinstance(value, bool):
            raise InputError(f"{said}: need true or false")
        return value
    if rule.kind == "decision":
        if not isinstance(value, bool) and value != "auto":
            raise InputError(f'{said}: need true, false or "auto"')
        return value
    if rule.kind == "names":
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or not listed or not all(isinstance(v, str) and v for v in listed):
            raise InputError(f"{said}: need a list of names ({', '.join(rule.choices)}) or of files")
        return list(listed)
    if rule.kind == "memory":
        parse_memory(value)
        return value if isinstance(value, str) else str(value)
    if rule.kind in ("text", "file") or (rule.kind == "reference" and isinstance(value, str)):
        if not isinstance(value, str) or not value or (rule.choices and value not in rule.choices):
            accepted = f"one of {', '.join(rule.choices)}{nearest(str(value), rule.choices)}" if rule.choices else "a text"
            also = " or [rx0, rx1, ry0, ry1]" if rule.kind == "reference" else ""
            raise InputError(f"{said}: need {accepted}{also}")
        return value
    if rule.kind in ("wholes", "region", "reference"):
        length = rule.length if rule.kind == "wholes" else REGION_LENGTH
        if not isinstance(value, list | tuple) or len(value) != length:
            raise InputError(f"{said}: need {length} whole numbers")
        numbers = [_number(said, v, rule, whole=True) for v in value]
        if rule.kind != "wholes" and not (numbers[0] < numbers[1] and numbers[2] < numbers[3]):
            raise InputError(f"{name} = {numbers}: need [rx0, rx1, ry0, ry1] with rx0 < rx1 and ry0 < ry1")
        return numbers
    return _number(said, value, rule, whole=rule.kind == "whole")


def _number(said: str, value: Any, rule: Rule, whole: bool) -> Any:
    accepted = f"need {'a whole number' if whole else 'a number'}{accepted_range(rule)}{f' in {rule.units}' if rule.units else ''}"
    if isinstance(value, str) and rule.quantity is not None:
        value = rule.quantity.read(value, said.partition(" = ")[0])
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max  # False for a NaN
    if not number or (whole and value != int(value)):
        raise InputError(f"{said}: {accepted}")
    if (rule.low is not None and value < rule.low) or (rule.high is not None and value > rule.high):
        raise InputError(f"{said}: {accepted}{rule.quantity.meant(value) if rule.quantity is not None else ''}")
    return int(value) if whole else float(value)


def accepted_range(rule: Rule) -> str:
    """Return which numbers a rule accepts, as the end of a sentence. Empty if all are."""
    if rule.low is not None and rule.high is not None:
        return f" from {rule.low:g} to {rule.high:g}"
    if rule.low is not None:
        return f" of at least {rule.low:g}"
    return ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word nearest to a mistyped one, as the end of a sentence. Empty if none is near."""
    return did_you_mean(word, known, cutoff=0.5)
