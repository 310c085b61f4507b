"""Make the JSON Schema of a recipe from the rules of its settings, for editors that complete and check TOML."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import TypeAlias

from gpu4d._version import __version__
from gpu4d.device.memory import UNITS as MEMORY_UNITS
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.recipe.text import describe
from gpu4d.workflow.reference_text import ENDINGS, UNITS
from gpu4d.workflow.settings import Rule

Json: TypeAlias = "str | float | bool | list[Json] | dict[str, Json] | None"
Schema: TypeAlias = dict[str, Json]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"


def recipe_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a recipe: all sections, those of stages of other packages among them.

    It refuses what `Recipe.load` refuses, but for what JSON Schema cannot say: settings that contradict each other, the order of the
    numbers of a region, numbers written as texts whose unit takes them out of range, and NaN, which JSON has not.

    Examples
    --------
    >>> schema = recipe_schema()
    >>> schema["properties"]["bragg"]["properties"]["power"]["maximum"]
    1
    """
    recipe = Recipe()
    sections: dict[str, Json] = {}
    for section in recipe.sections:
        entries: dict[str, Json] = {}
        for key, rule in recipe.rules(section):
            entry: Schema = {"description": " ".join(filter(None, [describe(rule), rule.tune])), **KINDS[rule.kind](rule)}
            value = getattr(recipe[section], key)
            entries[key] = entry if value is None else {**entry, "default": value}
        title = (inspect.getdoc(type(recipe[section])) or "").partition("\n")[0]
        sections[section] = {"type": "object", "description": title, "properties": entries, "additionalProperties": False}
    return {
        "$schema": DIALECT,
        "title": "A recipe of gpu4d",
        "description": f"Settings of `gpu4d run`, version {__version__}.",
        "type": "object",
        "properties": sections,
        "additionalProperties": False,
    }


def _number(rule: Rule, kind: str = "number") -> Schema:
    """Return the form of a number in the rule's range. Infinite ones are refused, too."""
    return {
        "type": kind,
        "minimum": -sys.float_info.max if rule.low is None else rule.low,
        "maximum": sys.float_info.max if rule.high is None else rule.high,
    }


def _quantity(rule: Rule) -> Schema:
    """Return the form of a number that may be a text with its unit."""
    if rule.quantity is None:
        return _number(rule)
    units = "|".join(_any_case(unit) for unit in sorted(rule.quantity.known, key=len, reverse=True))
    text = rf"^\s*{NUMBER}(\s*({units}))?\s*$" if units else rf"^\s*{NUMBER}\s*$"
    return {"anyOf": [_number(rule), {"type": "string", "pattern": text}]}


def _any_case(word: str) -> str:
    """Return a pattern for a word whose capitals do not matter. JSON Schema has no switch for that."""
    return "".join(f"[{c.lower()}{c.upper()}]" if c.lower() != c.upper() else re.escape(c) for c in word)


def _list(items: Schema, length: int) -> Schema:
    return {"type": "array", "items": items, "minItems": length, "maxItems": length}


def _text(rule: Rule) -> Schema:
    return {"enum": list(rule.choices)} if rule.choices else {"type": "string", "minLength": 1}


def _names(rule: Rule) -> Schema:
    name: Schema = {"type": "string", "minLength": 1}
    return {"anyOf": [name, {"type": "array", "items": name, "minItems": 1}]}


def _words(rule: Rule) -> Schema:
    word: Schema = {"enum": list(rule.choices)}
    return {"anyOf": [word, {"type": "array", "items": word, "minItems": 1}]}


def _memory(rule: Rule) -> Schema:
    units = "|".join(_any_case(unit) for unit in sorted(MEMORY_UNITS, key=len, reverse=True))
    text = rf"^\s*[0-9]*\.?[0-9]+\s*({units})?\s*$"
    return {"anyOf": [{"type": "number", "minimum": 1, "maximum": sys.float_info.max}, {"type": "string", "pattern": text}]}


def _rows(rule: Rule) -> Schema:
    row = _list(_number(rule), rule.length)
    return {"anyOf": [row, {"type": "array", "items": row, "minItems": 1}]}


def _number_or_word(rule: Rule) -> Schema:
    return {"anyOf": [_number(rule), {"enum": list(rule.choices)}, {"type": "string", "pattern": rf"^\s*{NUMBER}\s*$"}]}


def _reference(rule: Rule) -> Schema:
    units = "|".join(re.escape(unit) for unit in UNITS)
    vectors = rf"^[\s,;\[\]()]*({NUMBER}[\s,;\[\]()]+){{3}}{NUMBER}[\s,;\[\]()]*\s*({units})\s*$"
    path = rf"({'|'.join(_any_case(ending) for ending in ENDINGS)})$|/|\\"
    region = _list({"type": "integer", "minimum": 0, "maximum": sys.float_info.max}, 4)
    texts: list[Json] = [{"type": "string", "pattern": vectors}, {"type": "string", "pattern": path}]
    return {"anyOf": [{"enum": list(rule.choices)}, region, *texts]}


KINDS: Mapping[str, Callable[[Rule], Schema]] = {
    "switch": lambda rule: {"type": "boolean"},
    "decision": lambda rule: {"enum": [True, False, "auto"]},
    "names": _names,
    "words": _words,
    "memory": _memory,
    "text": _text,
    "file": _text,
    "wholes": lambda rule: _list(_number(rule, "integer"), rule.length),
    "region": lambda rule: _list(_number(rule, "integer"), 4),
    "numbers": lambda rule: _list(_number(rule), rule.length),
    "rows": _rows,
    "number or word": _number_or_word,
    "reference": _reference,
    "number": _quantity,
    "whole": lambda rule: _number(rule, "integer"),
}
