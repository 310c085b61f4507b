"""Check a result against schema.json, the published form of the file.

Only the keywords that schema.json uses are known here. So the core needs no package for it, and what is published is what is checked.
The tests compare with the package `jsonschema` where it is installed.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
KNOWN = {"$schema", "$defs", "$ref", "title", "description", "type", "const", "enum", "required", "properties", "additionalProperties"} | {
    *("items", "minItems", "minimum", "exclusiveMinimum", "pattern", "if", "then", "else")
}


@functools.cache
def schema() -> dict[str, Any]:
    """Return the published schema."""
    return json.loads(files("gpu4d.benchmarks.suite").joinpath("schema.json").read_text(encoding="utf-8"))


def problems(result: object) -> list[str]:
    """Return what in a result is not as the schema says: "suite.tier: 'X' is none of 'S', 'M', 'L'"."""
    return list(_problems(result, schema(), ""))


def _problems(value: Any, rule: dict[str, Any], at: str) -> Iterator[str]:
    if "$ref" in rule:
        yield from _problems(value, schema()["$defs"][rule["$ref"].rpartition("/")[2]], at)
    if "if" in rule:
        holds = not any(True for _ in _problems(value, rule["if"], at))
        yield from _problems(value, rule["then" if holds else "else"], at)
    here = at or "the file"
    if "const" in rule and (value != rule["const"] or type(value) is not type(rule["const"])):
        yield f"{here}: {value!r} is not {rule['const']!r}"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{here}: {value!r} is none of {', '.join(map(repr, rule['enum']))}"
    if "type" in rule and not _is(value, rule["type"]):
        yield f"{here}: {_shown(value)} is no {' or '.join([rule['type']] if isinstance(rule['type'], str) else rule['type'])}"
        return
    if isinstance(value, dict):
        yield from _of_object(value, rule, at)
    elif isinstance(value, list):
        if len(value) < rule.get("minItems", 0):
            yield f"{here}: has {len(value)} items, needs {rule['minItems']}"
        for number, item in enumerate(value):
            yield from _problems(item, rule.get("items", {}), f"{at}[{number}]")
    elif isinstance(value, str):
        if "pattern" in rule and not re.search(rule["pattern"], value):
            yield f"{here}: {value!r} is not of the form {rule['pattern']}"
    elif _is(value, "number"):
        if "minimum" in rule and value < rule["minimum"]:
            yield f"{here}: {value!r} is below {rule['minimum']}"
        if "exclusiveMinimum" in rule and value <= rule["exclusiveMinimum"]:
            yield f"{here}: {value!r} is not above {rule['exclusiveMinimum']}"


def _of_object(value: dict[str, Any], rule: dict[str, Any], at: str) -> Iterator[str]:
    missing = [name for name in rule.get("required", ()) if name not in value]
    if missing:
        yield f"{at or 'the file'}: {', '.join(missing)} missing"
    others = rule.get("additionalProperties", {})
    for name, item in value.items():
        yield from _problems(item, rule.get("properties", {}).get(name, others), f"{at}.{name}" if at else name)


def _is(value: object, kind: str | list[str]) -> bool:
    """Return True for a value of a type of JSON. True and False are no numbers; 1.0 is an integer, as JSON Schema has it."""
    if isinstance(kind, list):
        return any(_is(value, one) for one in kind)
    if isinstance(value, bool):
        return False
    return isinstance(value, TYPES[kind]) or (kind == "integer" and isinstance(value, float) and value.is_integer())


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]} …"
