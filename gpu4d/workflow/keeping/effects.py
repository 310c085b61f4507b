"""Take down what a stage changed in the state of a run, and do the same to the state of another run."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.workflow.gates import GateRule
from gpu4d.workflow.record import Gate, Record
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason

TIMED = ("watcher", "stages", "log", "warnings", "trying", "said")  # of a record, which are not lists that stages only add to
PROTOCOL = 5  # of pickle: large arrays are written without a copy


class KeptRecord(Record):
    """A record that remembers each warning that was given, also one that another stage had given before.

    It tells which settings a gate reads, because its answer changes with them.
    """

    def measure(self, rule: str | GateRule, value: float, measured: str, **words: str) -> Gate:
        tell, key = self.__dict__.get("tell"), rule if isinstance(rule, str) else rule.key
        if tell is not None:
            for name in (f"{key}_warn", f"{key}_fail", "on_fail", "stop", "proceed"):
                tell(f"gates.{name}")
        return super().measure(rule, value, measured, **words)

    def warn(self, line: str) -> None:
        self.__dict__.setdefault("said", []).append(line)
        super().warn(line)


@dataclass
class Effects:
    """What a stage changed in the state.

    Attributes
    ----------
    reason : Reason or None
        Whether it ran, and why.
    reductions : dict or None
        What it asked for in the next pass. None if it did not run.
    results, products : dict
        Those that it stored.
    calibration : dict
        Fields that it set, with their values.
    history : list
        What it added to the history of the calibration.
    mask : array or None
        Pixels that count, if it changed them.
    added : dict
        What it added to the lists of the record.
    said : list of str
        Its warnings.
    log : list of str
        Its lines of the log, with the times at which they were written.
    """

    reason: Reason | None = None
    reductions: dict[str, Any] | None = None
    results: dict[str, Any] = field(default_factory=dict)
    products: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    history: list[Any] = field(default_factory=list)
    mask: np.ndarray | None = None
    added: dict[str, list[Any]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def repeat(self, state: RunState, stage: str) -> None:
        """Change a state as the stage did."""
        if self.reason is not None:
            state.reasons[stage] = self.reason
        state.results.update(self.results)
        state.products.update(self.products)
        state.calibration._values.update(self.calibration)
        state.calibration.history.extend(self.history)
        if self.mask is not None:
            cube = state.cube
            state.cube = DataCube(cube.source, cube.calibration, cube.metadata, self.mask, cube.name)
        for name, entries in self.added.items():
            getattr(state.record, name).extend(entries)
        for gate in self.added.get("gates", ()):
            state.record.obey(gate)
        new = [line for line in dict.fromkeys(self.said) if line not in state.record.warnings]
        state.record.warnings.extend(new)
        state.record.log.extend(self.log)


@dataclass
class Before:
    """The state before a stage was called, as far as it is needed to see what changed."""

    calibration: dict[str, Any]
    history: int
    mask: Any
    lists: dict[str, int]
    said: int
    log: int

    @classmethod
    def of(cls, state: RunState) -> Before:
        calibration, record = state.calibration, state.record
        lists = {name: len(getattr(record, name)) for name in _lists(record)}
        said = len(record.__dict__.get("said", ()))
        return cls(dict(calibration._values), len(calibration.history), state.cube.detector_mask, lists, said, len(record.log))

    def effects(self, state: RunState, results: set[str], products: set[str]) -> Effects:
        """Return what changed since. `results` and `products` are the names of those that were stored."""
        calibration, record = state.calibration, state.record
        mask = state.cube.detector_mask
        return Effects(
            results={name: state.results[name] for name in sorted(results) if name in state.results},
            products={name: state.products[name] for name in sorted(products) if name in state.products},
            calibration={name: value for name, value in calibration._values.items() if value is not self.calibration.get(name)},
            history=calibration.history[self.history :],
            mask=None if mask is self.mask else mask,
            added={name: getattr(record, name)[start:] for name, start in self.lists.items()},
            said=record.__dict__.get("said", [])[self.said :],
            log=record.log[self.log :],
        )


def _lists(record: Record) -> list[str]:
    """Return the names of the lists that stages add entries to: decisions, gates, figures, and what a record may have besides."""
    names = [entry.name for entry in dataclasses.fields(record) if entry.name not in TIMED]
    return [name for name in names if isinstance(getattr(record, name), list)]


class _Pickler(pickle.Pickler):
    """Writes a name for what the state of the other run has, too: its scan, its calibration, and results that exist already."""

    def __init__(self, file: Any, shared: dict[int, tuple[str, str]]):
        super().__init__(file, PROTOCOL)
        self.shared = shared

    def persistent_id(self, thing: Any) -> tuple[str, str] | None:
        return self.shared.get(id(thing))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, state: RunState):
        super().__init__(file)
        self.state = state

    def persistent_load(self, name: tuple[str, str]) -> Any:
        kind, which = name
        if kind == "result":
            return self.state.results[which]
        return {"cube": self.state.cube, "calibration": self.state.calibration, "source": self.state.cube.source}[kind]


def shared_things(state: RunState, read: set[str]) -> dict[int, tuple[str, str]]:
    """Return what is named and not written, by its id: the scan, the calibration, and the results that the stage has read."""
    things: dict[int, tuple[str, str]] = {}
    for name in read:
        thing = dict.get(state.results, name)
        if not isinstance(thing, str | int | float | bool | tuple | type(None)):  # of these there may be one for several uses
            things[id(thing)] = ("result", name)
    things |= {id(state.cube): ("cube", ""), id(state.cube.calibration): ("calibration", ""), id(state.cube.source): ("source", "")}
    return things


def write_effects(effects: Effects, file: BinaryIO, shared: dict[int, tuple[str, str]]) -> None:
    """Write effects into a file."""
    _Pickler(file, shared).dump(effects)


def read_effects(content: memoryview, state: RunState) -> Effects:
    """Read effects. The content was checked: it is what this program wrote."""
    import io

    found = _Unpickler(io.BytesIO(content), state).load()
    if not isinstance(found, Effects):
        raise ValueError("no effects of a stage")
    return found


class _Sink:
    def __init__(self) -> None:
        self.found = hashlib.sha256()

    def write(self, data: Any) -> None:
        self.found.update(data)


def content_digest(thing: Any, shared: dict[int, tuple[str, str]]) -> str:
    """Return a digest of a result's content. It may differ between equal results, but is never the same for different ones."""
    sink = _Sink()
    _Pickler(sink, {key: name for key, name in shared.items() if key != id(thing)}).dump(thing)
    return sink.found.hexdigest()
