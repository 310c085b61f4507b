"""Files in which every finished line is on the disk as soon as it is known: a cut may come at any moment.

A record is a line of JSON with at least a key (of a test, of a case) and an outcome: "started", "done", "failed", "skipped", "broke off".
What has begun and not ended when everything was cut is seen from its "started" alone.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LARGEST = 15 << 20  # bytes of a file: no more than 16 MiB of one may be fetched
FINAL = ("done", "failed", "skipped")
BROKE_OFF = "broke off"  # outcome of what was under way when its process ended by itself
TRIES = 2  # of what a process broke off with: the first time something else may have been the reason


def append(path: Path, line: str) -> None:
    """Add one line, complete, in a single write, and wait until the disk has it. Several processes may do so at once."""
    data = (line.replace("\n", " ") + "\n").encode(errors="replace")
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.fstat(file).st_size + len(data) <= LARGEST:
            os.write(file, data)
            os.fsync(file)
    finally:
        os.close(file)


def record(path: Path, key: str, outcome: str, **more: Any) -> None:
    """Add one record."""
    append(path, json.dumps({"key": key, "outcome": outcome, **more}, default=float))


def repair(path: Path) -> None:
    """Take away what an interrupted write left behind the last complete line."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def lines(path: Path, since: int = 0) -> list[str]:
    """Every complete line that begins at this byte or behind it."""
    return path.read_bytes()[since:].decode(errors="replace").split("\n")[:-1] if path.exists() else []


def read(path: Path, since: int = 0) -> Iterator[dict[str, Any]]:
    """Every complete record; a line that is none is passed over."""
    for line in lines(path, since):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("key"), str):
            yield found


def latest(path: Path) -> dict[str, dict[str, Any]]:
    """The last final record of every key."""
    return {one["key"]: one for one in read(path) if one.get("outcome") in FINAL}


def unfinished(path: Path, since: int = 0) -> list[str]:
    """Keys that were started, at this byte or behind it, and have no end."""
    ended = set(latest(path))
    return list(dict.fromkeys(one["key"] for one in read(path, since) if one.get("outcome") == "started" and one["key"] not in ended))


def blame(path: Path, since: int) -> None:
    """Note with what a stage broke off that began to write at this byte; a cut from outside is nothing's fault and is not noted."""
    for key in unfinished(path, since):
        record(path, key, BROKE_OFF)


def settled(path: Path) -> set[str]:
    """Keys that need no further try: ended, or something broke off with them again and again."""
    times = Counter(one["key"] for one in read(path) if one.get("outcome") == BROKE_OFF)
    return set(latest(path)) | {key for key, n in times.items() if n >= TRIES}


def take_over(names: Iterable[str], earlier: Path, out: Path) -> None:
    """Begin with the lines that an earlier run left, where `out` has none of its own."""
    for name in names:
        found = lines(earlier / name)
        if found and not (out / name).exists():
            (out / name).write_text("".join(line + "\n" for line in found))
