"""Rows of the comparison: times, ratios, agreement, targets; as a table, in words and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Check:
    """A figure of agreement or accuracy, and how large it may be; without a limit it is only stated."""

    text: str
    value: float
    limit: float | None = None

    @property
    def ok(self) -> bool:
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.text} {self.value:.3g}" + ("" if self.limit is None else f" ({'' if self.ok else 'NOT '}≤ {self.limit:g})")


@dataclass(frozen=True)
class Target:
    """What is aimed at, and whether a row reaches it."""

    text: str
    met: Callable[[Row], bool]


@dataclass
class Row:
    """One comparison: what the peer does, and what gpu4d does.

    Seconds are of every round; amounts are what a call works through (patterns, positions, or 1 for the whole).
    """

    key: str
    peer: str
    work: str
    ours: str
    unit: str
    peer_amount: int
    amount: int
    one_thread: list[float] = field(default_factory=list)
    default: list[float] = field(default_factory=list)
    gpu4d: list[float] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    targets: dict[str, bool] = field(default_factory=dict)
    problem: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster gpu4d is, per unit, than the peer on one thread."""
        return self._ratio(self.one_thread)

    @property
    def default_ratio(self) -> float:
        """The same against the peer as it is used by default."""
        return self._ratio(self.default)

    @property
    def rate(self) -> float:
        """Of gpu4d, units per second."""
        return self.amount / statistics.median(self.gpu4d)

    @property
    def seconds(self) -> float:
        return statistics.median(self.gpu4d)

    def _ratio(self, theirs: list[float]) -> float:
        return self.rate * statistics.median(theirs) / self.peer_amount if theirs else float("nan")

    def judge(self, targets: tuple[Target, ...]) -> None:
        self.targets = {target.text: bool(target.met(self)) for target in targets}

    @property
    def good(self) -> bool:
        """It ran, and the answers agree."""
        return not self.problem and all(check.ok for check in self.checks)


HEAD = ("peer", "what it does", "on one thread", "by default", "what gpu4d does", "gpu4d", "times faster", "answers agree", "targets")


def table(rows: list[Row]) -> str:
    """A Markdown table of the rows."""
    return aligned([HEAD, *(_cells(row) for row in rows)])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; the first line is its head."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in cells]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    if row.problem:
        return row.peer, row.work, "–", "–", row.ours, "–", "–", "could not be run", "–"
    ratios = [f"{ratio:.3g}" for ratio in (row.ratio, row.default_ratio) if ratio == ratio]
    targets = "; ".join(f"{text}: {'met' if met else 'missed'}" for text, met in row.targets.items()) or "–"
    times = (speed(theirs, row.peer_amount, row.unit) for theirs in (row.one_thread, row.default))
    ours = speed(row.gpu4d, row.amount, row.unit)
    return row.peer, row.work, *times, row.ours, ours, " / ".join(ratios), "yes" if row.good else "NO", targets


def speed(seconds: list[float], amount: int, unit: str) -> str:
    """Seconds of a call that does one thing; else the rate."""
    if not seconds:
        return "–"
    middle = statistics.median(seconds)
    return f"{middle:.3g} s" if amount == 1 else f"{amount / middle:,.0f} {unit}/s".replace(",", " ")


def details(rows: list[Row]) -> str:
    """One line for every row: figures of agreement, or why there are none."""
    return "\n".join(f"{row.key}: {row.problem or '; '.join(map(str, row.checks))}" for row in rows)


SHORT = ("what the peer does", "peer", "it takes", "what gpu4d does", "gpu4d", "times faster")


def short_table(rows: list[Row]) -> str:
    """The table of the project's README: rows that ran and agree, against the faster of the peer's two ways."""
    lines = []
    for row in (row for row in rows if row.good and row.peer != "gpu4d"):
        theirs, ratio = min(
            ((row.one_thread, row.ratio), (row.default, row.default_ratio)), key=lambda way: way[1] if way[0] else float("inf")
        )
        times = speed(theirs, row.peer_amount, row.unit), speed(row.gpu4d, row.amount, row.unit)
        lines.append((row.work, row.peer, times[0], row.ours, times[1], f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"))
    return "\n".join("| " + " | ".join(line) + " |" for line in [SHORT, ("---",) * len(SHORT), *lines])


def as_json(rows: list[Row], about: dict[str, Any]) -> str:
    def plain(row: Row) -> dict[str, Any]:
        ratios = {} if row.problem else {"ratio": row.ratio, "default_ratio": row.default_ratio if row.default else None, "rate": row.rate}
        return asdict(row) | ratios | {"agrees": row.good}

    return json.dumps({"about": about, "rows": [plain(row) for row in rows]}, indent=1)


def from_json(text: str) -> tuple[list[Row], dict[str, Any]]:
    """Rows and what is known about the run, as `as_json` wrote them."""
    stored = json.loads(text)
    names = {f.name for f in fields(Row)}
    rows = [Row(**{name: value for name, value in row.items() if name in names}) for row in stored["rows"]]
    for row in rows:
        row.checks = [Check(**check) for check in row.checks]  # type: ignore[arg-type]
    return rows, stored["about"]
