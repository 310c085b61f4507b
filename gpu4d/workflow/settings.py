"""Define one setting of a recipe: default, explanation, accepted values, and the range that the 4D-STEM guide recommends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gpu4d.data.quantities import GivenAs
from gpu4d.device.memory import parse_memory
from gpu4d.errors import InputError, did_you_mean
from gpu4d.workflow.reference_text import REGION_LENGTH, read_reference

SettingValue = Any  # a number, a text, a switch, a list or None: the setting's `Rule` says which
Section = Any  # an instance of the dataclass that a stage names as its `settings`


@dataclass(frozen=True)
class Rule:
    """Accepted values and the explanation of a setting.

    Attributes
    ----------
    kind : str
        "number", "whole", "text", "switch", "memory", "wholes" (a list of `length` whole numbers), "file" (FILE or FILE:/dataset;
        relative paths start at the recipe), "region" ([rx0, rx1, ry0, ry1] of the scan), "reference" (what
        `gpu4d.workflow.reference_text` reads), "decision" (true, false, or "auto"), "names" (a list of `choices` and files; one text is
        a list of one), "words" (a list of `choices` alone; one text is a list of one), "numbers" (a list of `length` numbers), "rows"
        (a list of such lists) or "number or word" (a number, or one of `choices`).
    explain : str
        What the setting does, in one or two sentences.
    units : str
    low, high : float or None
        Accepted range, ends included. None means no limit.
    choices : tuple of str
        Accepted texts.
    guide : (float, float) or None
        Recommended range (guide, section 17).
    table : str
        Table of the guide that has the setting, "17.3". Empty if none has.
    tune : str
        How to choose the value, in one to three sentences.
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
    table: str = ""
    tune: str = ""
    length: int = 0
    automatic: str = ""
    quantity: GivenAs | None = None


def setting(default: Any, kind: str, explain: str, **rule: Any) -> Any:
    """Make a dataclass field that carries its rule."""
    return field(default=default, metadata={"rule": Rule(kind, explain, **rule)})


def checked(name: str, value: Any, rule: Rule, origin: str = "") -> Any:
    """Return the value in its own type. Raise an error that says what is accepted if it is not."""
    said = f"{origin}: {name} = {value!r}" if origin and not origin.startswith("--") else f"{origin or name} {value}"
    return KINDS[rule.kind](said, value, rule)


def _switch(said: str, value: Any, rule: Rule) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{said}: need true or false")
    return value


def _decision(said: str, value: Any, rule: Rule) -> bool | str:
    if not isinstance(value, bool) and value != "auto":
        raise InputError(f'{said}: need true, false or "auto"')
    return value


def _names(said: str, value: Any, rule: Rule) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    names = [v for v in listed if isinstance(v, str) and v] if isinstance(listed, list | tuple) else []
    if not names or len(names) < len(listed):
        raise InputError(f"{said}: need a list of names ({', '.join(rule.choices)}) or of files")
    written = {choice.lower(): choice for choice in rule.choices}  # capitals of a choice do not matter
    return [written.get(name.lower(), name) for name in names]


def _words(said: str, value: Any, rule: Rule) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise InputError(f"{said}: need a list of {', '.join(rule.choices)}")
    words = [str(word).strip().lower().replace(" ", "_") for word in listed]  # "peak count" is peak_count
    for given, word in zip(listed, words):
        if word not in rule.choices:
            raise InputError(f"{said}: there is no {given!r}{nearest(word, rule.choices)}; accepted are {', '.join(rule.choices)}")
    return list(dict.fromkeys(words))


def _memory(said: str, value: Any, rule: Rule) -> str:
    parse_memory(value)
    return value if isinstance(value, str) else str(value)


def _text(said: str, value: Any, rule: Rule) -> str:
    if not isinstance(value, str) or not value or (rule.choices and value not in rule.choices):
        accepted = f"one of {', '.join(rule.choices)}{nearest(str(value), rule.choices)}" if rule.choices else "a text"
        raise InputError(f"{said}: need {accepted}")
    return value


def _wholes(said: str, value: Any, rule: Rule) -> list[int]:
    if not isinstance(value, list | tuple) or len(value) != rule.length:
        raise InputError(f"{said}: need {rule.length} whole numbers")
    return [_number(said, v, rule, whole=True) for v in value]


def _region(said: str, value: Any, rule: Rule) -> list[int]:
    if not isinstance(value, list | tuple) or len(value) != REGION_LENGTH:
        raise InputError(f"{said}: need {REGION_LENGTH} whole numbers")
    numbers = [_number(said, v, rule, whole=True) for v in value]
    if not (numbers[0] < numbers[1] and numbers[2] < numbers[3]):
        raise InputError(f"{said}: need [rx0, rx1, ry0, ry1] with rx0 < rx1 and ry0 < ry1")
    return numbers


def _numbers(said: str, value: Any, rule: Rule) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != rule.length:
        raise InputError(f"{said}: need {rule.length} numbers{f' ({rule.units})' if rule.units else ''}")
    return [_number(said, v, rule, whole=False) for v in value]


def _rows(said: str, value: Any, rule: Rule) -> list[list[float]]:
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{said}: need a list of rows of {rule.length} numbers each{f' ({rule.units})' if rule.units else ''}")
    rows = value if isinstance(value[0], list | tuple) else [value]  # one row may stand alone
    return [_numbers(said, row, rule) for row in rows]


def _number_or_word(said: str, value: Any, rule: Rule) -> float | str:
    if isinstance(value, str) and value in rule.choices:
        return value
    try:
        return _number(said, float(value) if isinstance(value, str) else value, rule, whole=False)
    except ValueError:  # InputError, or a text that is no number
        accepted = f"a number{accepted_range(rule)} in {rule.units}, or {' or '.join(rule.choices)}"
        raise InputError(f"{said}: need {accepted}{nearest(str(value), rule.choices)}") from None


def _reference(said: str, value: Any, rule: Rule) -> list[int] | str:
    return read_reference(said, value, rule.choices)


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


KINDS: dict[str, Callable[[str, Any, Rule], Any]] = {
    "switch": _switch,
    "decision": _decision,
    "names": _names,
    "words": _words,
    "memory": _memory,
    "text": _text,
    "file": _text,
    "wholes": _wholes,
    "region": _region,
    "numbers": _numbers,
    "rows": _rows,
    "number or word": _number_or_word,
    "reference": _reference,
    "number": lambda said, value, rule: _number(said, value, rule, whole=False),
    "whole": lambda said, value, rule: _number(said, value, rule, whole=True),
}
