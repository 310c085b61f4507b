"""Watch what a stage reads and writes: settings, results, products, and fields of the calibration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gpu4d.data.calibration import Calibration
from gpu4d.workflow.recipe import Recipe

RESULT, PRODUCT, FIELD, HOW = "result", "product", "calibration", "how"  # a field of the calibration, and how it was found
SETTING, ORIGIN = "setting", "given"  # of a recipe, and where a setting was given
HISTORY, ORDER = "history", "measured"  # of the calibration: all of it, and which values were measured in which order
CHECK = "check_origin"  # a sweep calls it before it begins: no result follows from it


class Watch:
    """What was read since `begin`, with the digest that it had then, and what was written.

    Parameters
    ----------
    digest : function
        Returns the digest of what a name stands for now.
    """

    def __init__(self, digest: Callable[[str], str]):
        self.digest = digest
        self.on = False
        self.reads: dict[str, str] = {}
        self.written: set[str] = set()
        self.passing: dict[str, Sequence[object]] = {}  # stages that share the pass that is watched: their reductions
        self.pass_reads: dict[str, dict[str, str]] = {}  # of each of them

    def begin(self) -> None:
        self.on, self.reads, self.written = True, {}, set()

    def end(self) -> None:
        self.on = False

    def read(self, kind: str, name: str = "") -> None:
        """Remember that something was read. What the stage wrote itself does not count."""
        called = f"{kind} {name}"
        if self.on and self.passing:
            for stage in _readers(self.passing):
                if called not in self.pass_reads[stage]:
                    self.pass_reads[stage][called] = self.digest(called)
        elif self.on and called not in self.reads and called not in self.written:
            self.reads[called] = self.digest(called)

    def wrote(self, kind: str, name: str) -> None:
        if self.on:
            self.written.add(f"{kind} {name}")


def _readers(passing: dict[str, Sequence[object]]) -> list[str]:
    """Return the stages for which a pass is reading now: those of the reduction that calls, or all if it cannot be told."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == CHECK:
            return []
        caller = frame.f_locals.get("self")
        found = [stage for stage, reductions in passing.items() if any(one is caller for one in reductions)]
        if not found:  # a copy of a reduction, for a device
            found = [stage for stage, reductions in passing.items() if type(caller) in map(type, reductions)]
        if found:
            return found
        frame = frame.f_back  # type: ignore[assignment]
    return list(passing)


class WatchedItems(dict[str, Any]):
    """A dictionary that tells a watch which entries are read and written."""

    def __init__(self, items: dict[str, Any], watch: Watch, kind: str):
        super().__init__(items)
        self.watch, self.kind = watch, kind

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.plain(),)  # a copy is not watched

    def plain(self) -> dict[str, Any]:
        """Return the entries, unwatched."""
        return {name: super(WatchedItems, self).__getitem__(name) for name in dict.keys(self)}

    def __getitem__(self, name: str) -> Any:
        self.watch.read(self.kind, name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.watch.read(self.kind, str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.watch.read(self.kind, name)
        return super().get(name, default)

    def __setitem__(self, name: str, value: Any) -> None:
        self.watch.wrote(self.kind, name)
        super().__setitem__(name, value)

    def update(self, *given: Any, **named: Any) -> None:
        for name, value in dict(*given, **named).items():
            self[name] = value

    def __ior__(self, other: Any) -> WatchedItems:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __iter__(self) -> Iterator[str]:
        self._read_all()
        return super().__iter__()

    def keys(self) -> Any:
        self._read_all()
        return super().keys()

    def values(self) -> Any:
        self._read_all()
        return super().values()

    def items(self) -> Any:
        self._read_all()
        return super().items()

    def _read_all(self) -> None:
        self.watch.read(f"all {self.kind}")


class WatchedRecipe(Recipe):
    """A recipe that tells a watch which settings are read. `unwatched` is the recipe itself."""

    def __init__(self, recipe: Recipe, watch: Watch):
        self.unwatched = recipe
        self._sections = {name: _watched_section(recipe[name], name, watch) for name in recipe.sections}
        self.given = WatchedItems(recipe.given, watch, ORIGIN)


def _watched_section(section: Any, name: str, watch: Watch) -> Any:
    """Return a section of the same class, whose settings are watched."""
    kind = type(section)
    keys = frozenset(section.__dataclass_fields__)

    class Watched(kind):  # type: ignore[misc,valid-type]
        __doc__ = kind.__doc__

        def __getattribute__(self, key: str) -> Any:
            if key in keys:
                watch.read(SETTING, f"{name}.{key}")
            return super().__getattribute__(key)

    made = object.__new__(Watched)
    made.__dict__.update(section.__dict__)
    return made


class WatchedCalibration(Calibration):
    """A calibration that tells a watch which fields are read. A calibration becomes one in place, so that all its users share it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _plain_calibration, (dict(self._values), list(self.__dict__["history"]))  # a copy is not watched

    def __getattribute__(self, name: str) -> Any:
        if name == "history":
            _watch_of(self).read(HISTORY)
        return super().__getattribute__(name)

    def how_known(self, field: str) -> str | None:
        if f"{FIELD} {field}" not in _watch_of(self).written:
            _watch_of(self).read(HOW, field)
        return self._unwatched_history(super().how_known, field)

    def set(self, **values: Any) -> None:  # type: ignore[override]
        _watch_of(self).read(ORDER)
        self._unwatched_history(super().set, **values)

    def _unwatched_history(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call a method of the calibration. What it reads of the history was told to the watch more exactly."""
        watch = _watch_of(self)
        told = f"{HISTORY} " in watch.reads
        found = call(*given, **named)
        if not told:
            watch.reads.pop(f"{HISTORY} ", None)
        return found


def _watch_of(calibration: Calibration) -> Watch:
    watch: Watch = calibration.__dict__["_values"].watch
    return watch


def _plain_calibration(values: dict[str, Any], history: Iterable[Any]) -> Calibration:
    made = Calibration()
    made._values.update(values)
    made.history = list(history)
    return made


def watch_calibration(calibration: Calibration, watch: Watch) -> None:
    """Make a calibration tell a watch which fields are read."""
    calibration.__dict__["_values"] = WatchedItems(calibration._values, watch, FIELD)
    object.__setattr__(calibration, "__class__", WatchedCalibration)


def unwatch_calibration(calibration: Calibration) -> None:
    """Make a watched calibration a plain one again."""
    if isinstance(calibration, WatchedCalibration):
        object.__setattr__(calibration, "__class__", Calibration)
        calibration.__dict__["_values"] = calibration._values.plain()  # type: ignore[attr-defined]
