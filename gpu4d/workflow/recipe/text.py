"""Write a recipe as text for readers: a commented TOML file, and an explanation of each setting."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping

from gpu4d.io.toml import literal
from gpu4d.workflow.recipe.recipe import Recipe, default
from gpu4d.workflow.reference_text import ACCEPTED
from gpu4d.workflow.settings import Rule, accepted_range

HEAD = """\
# A gpu4d recipe: `gpu4d run FILE --recipe THIS`. Flags on the command line override it.
# `gpu4d recipe explain` says more about each setting, `gpu4d recipe check THIS` finds mistakes.
# A setting in a line that starts with "#" is decided automatically.
"""


def to_toml(recipe: Recipe, comments: bool = True) -> str:
    """Write the recipe as TOML. Reading it gives the same settings.

    Parameters
    ----------
    recipe : Recipe
    comments : bool
        True writes all settings, each with an explanation. False writes only settings that differ from the defaults.
    """
    parts = [HEAD] if comments else ["# Settings of a run that differ from the defaults.\n"]
    for section in recipe.sections:
        lines = []
        for key, rule in recipe.rules(section):
            value = getattr(recipe[section], key)
            if comments:
                lines += ["# " + line for line in textwrap.wrap(describe(rule), 108)]
                lines.append(f"{key} = {literal(value)}" if value is not None else f"# {key} = {example(rule)}")
            elif value != default(f"{section}.{key}"):
                lines.append(f"{key} = {literal(value)}")
        if lines:
            title = f"# {inspect.getdoc(type(recipe[section]))}\n" if comments else ""
            parts.append(f"{title}[{section}]\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def explain(recipe: Recipe, only: str | None = None, suggested: Mapping[str, str] | None = None) -> str:
    """Describe every setting: its value, what it does, what it accepts, what is recommended, and how to tune it.

    Parameters
    ----------
    recipe : Recipe
    only : str, optional
        A section, or one setting, "section.key".
    suggested : mapping of str to str, optional
        What a scan suggests, by the names of settings.
    """
    blocks = []
    for name, value, rule in recipe.values():
        section, _, _ = name.partition(".")
        if only is not None and only not in (section, name):
            continue
        shown = literal(value) if value is not None else f"automatic ({rule.automatic or 'none'})"
        origin = f"   [{recipe.given[name]}]" if name in recipe.given else ""
        said = [describe(rule, automatic=False)]
        if rule.tune:
            said.append(f"How to tune: {rule.tune}")
        if name in (suggested or {}):
            said.append(f"Your scan: {(suggested or {})[name]}.")
        body = "\n".join(textwrap.fill(part, 100, initial_indent="    ", subsequent_indent="    ") for part in said)
        blocks.append(f"{name} = {shown}{origin}\n{body}")
    return "\n".join(blocks)


def describe(rule: Rule, automatic: bool = True) -> str:
    """Describe what a setting does, its units, what it accepts, what the guide recommends, and what happens without it."""
    said = [rule.explain]
    if rule.units:
        said.append(f"In {rule.units}.")
    if rule.kind == "decision":
        said.append('Accepts "auto", true or false.')
    elif rule.choices:
        numbers = f", or a number{accepted_range(rule)}"
        more = {"reference": f"; {ACCEPTED}", "names": ", and files", "number or word": numbers}.get(rule.kind, "")
        said.append(f"Accepts {', '.join(rule.choices)}{more}.")
    elif bounds := accepted_range(rule):
        said.append(f"Accepts {'whole numbers' if rule.kind in ('whole', 'wholes') else 'numbers'}{bounds}.")
    if rule.guide is not None:
        table = f" (guide, table {rule.table})" if rule.table else ""
        said.append(f"Recommended: {rule.guide[0]:g} – {rule.guide[1]:g}{table}.")
    elif rule.table:
        said.append(f"Guide: table {rule.table}.")
    if automatic and rule.automatic:
        said.append(f"Not set: {rule.automatic}.")
    return " ".join(said)


def example(rule: Rule) -> str:
    """Return an example value for a setting that is not set."""
    if rule.kind == "switch":
        return "true"
    if rule.kind in ("text", "file"):
        return '"…"'
    if rule.kind in ("names", "words"):
        return literal(list(rule.choices[:1]))
    if rule.kind in ("region", "reference"):
        return literal([0, 8, 0, 8])
    if rule.kind == "wholes":
        return literal([64] * rule.length)
    if rule.kind in ("numbers", "rows"):
        numbers = [rule.low or 0.0] * rule.length
        return literal(numbers if rule.kind == "numbers" else [numbers])
    return "…"
