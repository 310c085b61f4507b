"""Record a run: stages with times, decisions with reasons, gates, warnings, key figures."""

from __future__ import annotations

import datetime
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gpu4d.workflow.gates import BY_KEY, FAIL, PASS, WARN, Band, GatePolicy, GateRule, in_words, judged

# What a function of the library calls itself in front of a warning, and the same in words for a reader of the report.
IN_WORDS = {
    "acbf": "corrected bright field",
    "dpc": "DPC",
    "fit_aberrations": "aberrations",
    "hand_over": "export",
    "magnetic_induction": "magnetic map",
    "reconstruct": "ptychography",
    "scan_drift": "scan drift",
    "ssb": "SSB",
    "wdd": "WDD",
}
HYPHEN = re.compile(r"(?<![\w.,)/-])-(?=[\d.])")  # in front of a number, and not between two, in a word or in a flag


class Watcher(Protocol):
    """Receives the progress of a run: a terminal, a notebook, or nothing."""

    def begin(self, stage: str) -> None: ...
    def advance(self, done: int, total: int) -> None: ...
    def end(self, stage: str, seconds: float) -> None: ...


class SilentWatcher:
    """A watcher that ignores what it receives."""

    def begin(self, stage: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        pass

    def end(self, stage: str, seconds: float) -> None:
        pass


@dataclass
class Stage:
    """One timed step of a run. `patterns` is the number of patterns it read, 0 for steps that work on small results."""

    name: str
    seconds: float = 0.0
    patterns: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Decision:
    """A choice of the run, and its reason."""

    what: str
    why: str


@dataclass(frozen=True)
class Gate:
    """A quality gate: a measured value, the expected value, and advice for a failure.

    Attributes
    ----------
    name : str
    passed : bool
        True if there is nothing to look at. False for "warn" and for "fail".
    measured, expected, advice : str
        In words.
    value : float or None
        The number that was compared. None if a file has none.
    unit : str
        Of `value`, `warn` and `fail`.
    warn, fail : (lowest, highest)
        What is accepted; None: no limit.
    failed : bool
        True if the value is outside of `fail`, so that what follows from it is wrong.
    key : str
        Its name in the recipe's section [gates].
    """

    name: str
    passed: bool
    measured: str
    expected: str
    advice: str
    value: float | None = None
    unit: str = ""
    warn: Band = (None, None)
    fail: Band = (None, None)
    failed: bool = False
    key: str = ""

    @property
    def status(self) -> str:
        """Return "pass", "warn" for a value that should be looked at, or "fail" for one that is wrong."""
        return PASS if self.passed else FAIL if self.failed else WARN


@dataclass
class Record:
    """Everything that a run records. All of it goes into the report and the result file."""

    watcher: Watcher = field(default_factory=SilentWatcher)
    stages: list[Stage] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    figures: list[tuple[str, str, str]] = field(default_factory=list)  # (what, value, remark)
    log: list[str] = field(default_factory=list)
    trying: bool = field(default=False, repr=False)  # what the library warns of goes into the log alone
    policy: GatePolicy = field(default_factory=GatePolicy, repr=False)
    stopped: Gate | None = None  # the gate at which the run stops

    def __repr__(self) -> str:
        passed = sum(gate.passed for gate in self.gates)
        parts = f"{len(self.decisions)} decisions, {passed} of {len(self.gates)} gates passed, {len(self.warnings)} warnings"
        return f"Record({len(self.stages)} steps, {parts})"

    def note(self, line: str) -> None:
        """Add a line to the processing log."""
        self.log.append(f"{datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}  {line}")

    def warn(self, line: str) -> None:
        """Add a warning that the user should know before trusting a result. The same text is added once."""
        name, colon, rest = line.partition(": ")
        line = f"{IN_WORDS[name]}: {rest}" if colon and name in IN_WORDS else line
        if line not in self.warnings:
            self.warnings.append(line)
            self.note(f"warning: {line}")

    def decide(self, what: str, why: str) -> None:
        self.decisions.append(Decision(what, why))
        self.note(f"decision: {what}, because {why}")

    def measure(self, rule: str | GateRule, value: float, measured: str, *, name: str = "", expected: str = "", advice: str = "") -> Gate:
        """Compare a number with the limits of a gate, or with the recipe's, and add the gate.

        Parameters
        ----------
        rule : str or GateRule
            The key of a gate in `gpu4d.workflow.gates.RULES`, or a gate of another package: one of the `gates` of its stage.
        value : float
            In the unit of the gate. NaN should be looked at.
        measured : str
            The number, and what belongs to it, in words.
        name, expected, advice : str, optional
            In place of the table's.

        Returns
        -------
        Gate
        """
        rule = BY_KEY[rule] if isinstance(rule, str) else rule
        warn, fail = self.policy.bands(rule)
        status, accepted = judged(float(value), warn, fail), minus(expected or in_words(warn, rule.unit))
        measured = minus(measured)
        words = name or rule.name, status == PASS, measured, accepted, advice or rule.action
        gate = Gate(*words, float(value), rule.unit, warn, fail, status == FAIL, rule.key)
        self._add(gate)
        if self.obey(gate):
            self.warn(f"the run stopped at the gate “{gate.name}”: {measured}, expected {accepted}; {gate.advice}")
        return gate

    def obey(self, gate: Gate) -> bool:
        """Stop the run if this gate failed, the recipe asks for a stop, and no gate stopped it before. Return whether this one does."""
        if not gate.failed or self.stopped is not None or not self.policy.stops(gate.key):
            return False
        self.stopped = gate
        return True

    def _add(self, gate: Gate) -> None:
        self.gates.append(gate)
        word = {PASS: "passed", WARN: "not passed", FAIL: "failed"}[gate.status]
        self.note(f"gate {word}: {gate.name}: {gate.measured} (expected {gate.expected})")

    def figure(self, what: str, value: str, remark: str = "") -> None:
        """Add a key figure for the top of the report."""
        self.figures.append((what, minus(value), minus(remark)))

    @contextmanager
    def stage(self, name: str, patterns: int = 0, nbytes: int = 0) -> Iterator[Callable[[int, int], None]]:
        """Time a step. Yields the function that a sweep reports its progress to."""
        self.watcher.begin(name)
        start = time.perf_counter()
        yield self.watcher.advance
        stage = Stage(name, time.perf_counter() - start, patterns, nbytes)
        self.stages.append(stage)
        self.watcher.end(name, stage.seconds)
        self.note(
            f"{name}: {stage.seconds:.2f} s" + (f", {patterns / stage.seconds:,.0f} patterns/s" if patterns and stage.seconds else "")
        )

    def absorb(self, other: Record, name: str) -> None:
        """Add everything that another run recorded, marked with its name."""
        self.stages += [Stage(f"{name}: {s.name}", s.seconds, s.patterns, s.nbytes) for s in other.stages]
        self.decisions += [Decision(f"{name}: {d.what}", d.why) for d in other.decisions]
        self.gates += [replace(g, name=f"{name}: {g.name}") for g in other.gates]
        self.warnings += [f"{name}: {line}" for line in other.warnings]
        self.figures += [(f"{name}: {what[0].lower()}{what[1:]}", value, remark) for what, value, remark in other.figures]
        self.log += other.log

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record what the library logs inside the block: warnings in `warnings`, the rest in the processing log."""
        handler, logger = _Listener(self), logging.getLogger("gpu4d")
        before = logger.level
        logger.addHandler(handler)
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Keep what the library warns of inside the block out of `warnings`: of a method that is only tried, or that says it itself."""
        before, self.trying = self.trying, True
        try:
            yield
        finally:
            self.trying = before


def minus(text: str) -> str:
    """Return a text whose negative numbers have a minus sign in place of a hyphen.

    Examples
    --------
    >>> minus("-1.4 to +2 %, (-3, -4) px, 5-fold, 1e-3 and --bin 2")
    '−1.4 to +2 %, (−3, −4) px, 5-fold, 1e-3 and --bin 2'
    """
    return HYPHEN.sub("−", text)


def measured(value: float, error: float | None) -> str:
    """Return a value with its standard error.

    The error is rounded to two digits, and the value to the same place. If the error is 100 or more, both are whole numbers. A value
    without an error has four digits, or is a whole number if it has more than four before the point.

    Examples
    --------
    >>> measured(23.41257, 0.0132), measured(9.96, 0.0996), measured(2.0391, 4.0), measured(1234.6, 651.0)
    ('23.413 ± 0.013', '9.96 ± 0.10', '2.0 ± 4.0', '1235 ± 651')
    >>> measured(14.32, None), measured(123456.0, None)
    ('14.32', '123456')
    """
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.0f}" if abs(value) >= 9999.5 else f"{value:.4g}"
    exponent = int(f"{error:.1e}".partition("e")[2])  # of the rounded error: 0.0996 is 0.10
    decimals = max(0, 1 - exponent)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


class _Listener(logging.Handler):
    def __init__(self, record: Record):
        super().__init__(logging.INFO)
        self.to = record

    def emit(self, entry: Any) -> None:
        text = entry.getMessage()
        if entry.levelno >= logging.WARNING and not self.to.trying:
            self.to.warn(text)
        else:
            self.to.note(text)
