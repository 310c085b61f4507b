"""Keep the parts of a run in a file as they come, so that a run that is cut goes on where it was.

Every line is JSON: a kind ("header", "floor", "workload", "scaling", …), a key, a pass and what was found. The first line says what run
it is. A line is on the disk before the next part begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.gpu_run import records

from gpu4d.errors import InputError

SAME = (
    "tier",
    "for_predict",
    "device",
    "label",
    "threads",
    "code",
    "passes",
    "only",
    "plugins",
)  # of a header: what a run must share with the one it goes on with


class Parts:
    """The parts of one run.

    Parameters
    ----------
    path : Path
        The file. It lies beside the result, and is removed when that is written.
    header : dict
        What run this is.
    resume : bool
        Go on with a run that was cut. Without one, start a new run.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, resume: bool):
        self.path, self.header, self.found = path, header, list[dict[str, Any]]()
        records.repair(path)
        if resume and path.exists() and path.stat().st_size:
            self.header, *self.found = self._read()
            self._check(header)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("", encoding="utf-8")
            records.append(path, json.dumps(header))
        self.resumed = len(self.found)

    def _read(self) -> list[dict[str, Any]]:
        try:
            found = [json.loads(line) for line in records.lines(self.path)]
        except ValueError:
            found = []
        if not found or not all(isinstance(part, dict) and "kind" in part for part in found):
            raise InputError(f"{self.path} holds no parts of a run, or was altered: begin again with --overwrite and without --resume")
        return found

    def _check(self, header: dict[str, Any]) -> None:
        """Refuse to go on with another kind of run, on another machine, or with other code."""
        other = [name for name in SAME if self.header.get(name) != header.get(name)]
        if self.header.get("seed_is") != header["seed_is"]:
            other.append("seed_is")
        elif header["seed_is"] != "drawn" and self.header.get("seed") != header["seed"]:
            other.append("seed")
        if other:
            shown = "; ".join(f"{name} was {self.header.get(name)}, is {header.get(name)}" for name in other)
            again = "repeat its options, or begin again with --overwrite and without --resume"
            raise InputError(f"{self.path}: this is another run ({shown}): {again}")

    def add(self, kind: str, key: str, number: int, **found: Any) -> None:
        """Add one part, and wait until the disk has it."""
        part = {"kind": kind, "key": key, "pass": number, **found}
        records.append(self.path, json.dumps(part))
        self.found.append(part)

    def has(self, kind: str, key: str, number: int) -> bool:
        """Return True if this part is there. What failed or was skipped is not tried again."""
        same = [part for part in self.of(kind) if part["key"] == key]
        return any(part["pass"] == number or "failed" in part or "skipped" in part for part in same)

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the parts of a kind, in the order in which they came."""
        return (part for part in self.found if part["kind"] == kind)

    def remove(self) -> None:
        """Remove the file: the result holds everything."""
        self.path.unlink(missing_ok=True)


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of a workload or a floor from its parts: samples of all passes beside what was said once."""
    whole: dict[str, Any] = {"samples": [], "between": []}
    for part in sorted(parts, key=lambda one: one["pass"]):
        if "failed" in part or "skipped" in part:
            return {name: part[name] for name in ("title", "part", "failed", "skipped") if name in part}
        whole["samples"].append(part["samples"])
        whole["between"].append(part["between"])
        whole |= {name: value for name, value in part.items() if name not in ("kind", "key", "pass", "samples", "between")}
    return whole
