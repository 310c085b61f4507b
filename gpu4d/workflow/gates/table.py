"""Table of the quality gates of all parts of the work, and what a recipe says about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpu4d.workflow.gates import recording, techniques
from gpu4d.workflow.gates.rule import FAIL, WARN, Band, GateRule, in_words

RULES: tuple[GateRule, ...] = (*recording.RULES, *techniques.RULES)
BY_KEY: dict[str, GateRule] = {rule.key: rule for rule in RULES}
CONTINUE, STOP = "continue", "stop"


@dataclass(frozen=True)
class GatePolicy:
    """Limits of the gates, and which of them stop a run that they fail.

    Attributes
    ----------
    limits : mapping of str to (warn, fail)
        By key, for gates whose limits are not those of the table.
    on_fail : {"continue", "stop"}
    stop, proceed : frozenset of str
        Keys of gates that stop the run, or do not, whatever `on_fail` says.
    """

    limits: Mapping[str, tuple[Band, Band]] = field(default_factory=dict)
    on_fail: str = CONTINUE
    stop: frozenset[str] = frozenset()
    proceed: frozenset[str] = frozenset()

    def bands(self, rule: GateRule) -> tuple[Band, Band]:
        """Return the limits of a gate: for "warn", and for "fail"."""
        return self.limits.get(rule.key, (rule.warn, rule.fail))

    def stops(self, key: str) -> bool:
        """Return whether the run stops if this gate fails."""
        return key in self.stop or (self.on_fail == STOP and key not in self.proceed)


def policy_of(settings: Any, rules: Iterable[GateRule] = RULES) -> GatePolicy:
    """Return the policy that the section [gates] of a recipe describes, for these gates."""
    limits = {}
    for rule in rules:
        given = [getattr(settings, f"{rule.key}_{word}") for word in (WARN, FAIL)]
        if given != [None, None]:
            warn, fail = (usual if one is None else rule.band(one) for one, usual in zip(given, (rule.warn, rule.fail)))
            limits[rule.key] = (warn, fail)
    return GatePolicy(limits, settings.on_fail, frozenset(settings.stop or ()), frozenset(settings.proceed or ()))


def markdown() -> str:
    """Return the table of docs/reference/gates.md."""
    lines = ["| gate | number | warns outside of | fails outside of | what to do | why these limits | guide |", "| --- " * 7 + "|"]
    for rule in RULES:
        limits, source = f"{in_words(rule.warn, rule.unit)} | {in_words(rule.fail, rule.unit)}", rule.source or "–"
        lines.append(
            f"| {rule.place}: **{rule.name}**, `{rule.key}` | {rule.quantity} | {limits} | {rule.action} | {rule.reason} | {source} |"
        )
    return "\n".join(lines)
