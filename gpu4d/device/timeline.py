"""Record spans of time on named tracks, and write them as a trace that chrome://tracing and ui.perfetto.dev draw.

A track is a row of the drawing: the passes of sweeps ("passes"), a reader thread ("read 0"), the copies of a device
("cuda:0 copy"), or its kernels ("cuda:0 compute").
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

from gpu4d.errors import InputError

MOST_SPANS = 200_000  # limit for long sweeps: viewers do not draw larger traces, and memory must not fill up

Detail = float | str | bool | None  # what JSON holds


class Span(NamedTuple):
    """A piece of work on a track. Times are in seconds."""

    track: str
    name: str
    start: float
    end: float
    details: dict[str, Detail]


class Timeline:
    """Collects spans, from any thread.

    Parameters
    ----------
    most : int
        Number of spans that are kept. Later ones are counted only, in `dropped` and in the written file.

    Examples
    --------
    >>> timeline = Timeline()
    >>> timeline.span("cuda:0 copy", "chunk 1", 0.0, 2.0)
    >>> timeline.span("cuda:0 compute", "chunk 0", 1.0, 4.0, frames=64)
    >>> timeline.busy("cuda:0 compute"), timeline.overlap("cuda:0 copy", "cuda:0 compute")
    (3.0, 1.0)
    """

    def __init__(self, most: int = MOST_SPANS):
        self.events: list[Span] = []
        self.most, self.dropped = most, 0
        self._lock = threading.Lock()

    def span(self, track: str, name: str, start: float, end: float, **details: Detail) -> None:
        """Record a span from `start` to `end` seconds. `details` appear beside it in the trace."""
        with self._lock:
            if len(self.events) < self.most:
                self.events.append(Span(track, name, float(start), float(end), details))
            else:
                self.dropped += 1

    def busy(self, track: str) -> float:
        """Return the seconds in which at least one span of the track is under way."""
        return sum(end - start for start, end in self._covered(track))

    def overlap(self, track_a: str, track_b: str) -> float:
        """Return the seconds in which both tracks are busy."""
        a, b = self._covered(track_a), self._covered(track_b)
        i = j = 0
        seconds = 0.0
        while i < len(a) and j < len(b):
            seconds += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
            if a[i][1] < b[j][1]:
                i += 1
            else:
                j += 1
        return seconds

    def _covered(self, track: str) -> list[tuple[float, float]]:
        """Return the times a track is busy, in order. Spans that touch or overlap are joined."""
        with self._lock:
            spans = sorted((span.start, span.end) for span in self.events if span.track == track)
        joined: list[tuple[float, float]] = []
        for start, end in spans:
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], end))
            else:
                joined.append((start, end))
        return joined

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as JSON in the Chrome trace event format. A file of that name is replaced as a whole or not at all.

        Raises
        ------
        OSError
            The folder is not there or cannot be written to.
        """
        with self._lock:
            events, dropped = list(self.events), self.dropped
        begun = sorted(events, key=lambda span: (span.start, -span.end))  # rows are drawn in this order; outer spans come first
        rows = {track: row for row, track in enumerate(dict.fromkeys(span.track for span in begun))}
        trace: list[dict[str, Any]] = [{"ph": "M", "pid": 0, "name": "process_name", "args": {"name": "gpu4d"}}]
        for track, row in rows.items():
            trace.append({"ph": "M", "pid": 0, "tid": row, "name": "thread_name", "args": {"name": track}})
            trace.append({"ph": "M", "pid": 0, "tid": row, "name": "thread_sort_index", "args": {"sort_index": row}})
        for span in events:
            start, duration = span.start * 1e6, (span.end - span.start) * 1e6  # microseconds
            row = rows[span.track]
            trace.append({"ph": "X", "pid": 0, "tid": row, "name": span.name, "ts": start, "dur": duration, "args": span.details})
        import json  # importing gpu4d is cheap: few runs are traced

        text = json.dumps({"traceEvents": trace, "displayTimeUnit": "ms", "otherData": {"dropped_spans": dropped}}, default=str)
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def place_of_trace(path: str | os.PathLike[str], said: str) -> Path:
    """Return the absolute path of a trace to be written. Refuse a place that cannot be written to or holds another file.

    An earlier trace and an empty file may be replaced.

    Parameters
    ----------
    path : str or path
    said : str
        How the user gave the path. Messages begin with it.

    Raises
    ------
    InputError
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or not os.fspath(path) or "\0" in os.fspath(path):
        raise InputError(f"{said}: need the name of a file to write")
    place = Path(os.path.abspath(path))
    try:
        if place.is_dir():
            raise InputError(f"{said} is a folder: give the name of a file")
        if not place.parent.is_dir() or not os.access(place.parent, os.W_OK):
            raise InputError(f"{said}: there is no folder {place.parent} that can be written to: choose another place")
        if place.exists() and not (place.is_file() and _holds_a_trace(place)):
            raise InputError(f"{said} is a file that is not a trace, and is not replaced: choose another name")
    except OSError as error:
        raise InputError(f"{said} cannot be used ({error.strerror or error}): choose another place") from error
    return place


def _holds_a_trace(place: Path) -> bool:
    """Return True if the file is a trace or empty."""
    with place.open("rb") as file:
        return file.read(15) in (b"", b'{"traceEvents":')
