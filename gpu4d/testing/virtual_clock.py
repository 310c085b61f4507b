"""Order events with vector clocks, and find memory accesses that are not ordered.

An **actor** does one thing after another: the host, a job of a reader, a stream. A **moment** is the work of an actor up to a point.
Others can wait for it (an event, the end of a job, a call that puts work into a stream). A moment holds, for every actor, the number of
its last step that is known to be over. Take two accesses to the same bytes, of which at least one writes. They are a race if neither
actor waited for a moment that holds the other's access. Even if they did not overlap in this run, they may in another.

L. Lamport, Commun. ACM 21, 558 (1978); C. Flanagan and S. N. Freund, PLDI 2009, 121 (FastTrack).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Moment:
    """A point in the work of an actor: its time in seconds, and the steps of all actors that are over by then."""

    time: float
    steps: dict[Actor, int]


class Actor:
    """A host, job or stream. It does one thing after another, on its own clock."""

    def __init__(self, name: str, time: float = 0.0):
        self.name, self.time = name, time
        self.step = 1  # the step it is in now
        self.known: dict[Actor, int] = {}  # last step of every other actor that is over for this one
        self.open: list[Access] = []  # accesses of its current work
        self.doing = "work"  # name of its current work, for messages
        self.at_work = False  # True for a job that is queued or running

    def moment(self) -> Moment:
        """Return the moment of its work so far, for others to wait for."""
        out = Moment(self.time, {**self.known, self: self.step})
        self.step += 1
        return out

    def after(self, moment: Moment) -> None:
        """Let its further work come after the moment."""
        self.time = max(self.time, moment.time)
        for actor, step in moment.steps.items():
            if step > self.known.get(actor, 0):
                self.known[actor] = step

    def knows(self, actor: Actor, step: int) -> bool:
        """Return True if this actor knows that a step of another is over."""
        return actor is self or self.known.get(actor, 0) >= step

    def finish(self) -> None:
        """End its current work, and the accesses of that work."""
        for access in self.open:
            access.end = self.time
        self.open.clear()


@dataclass(eq=False)
class Access:
    """Bytes `first` to `last` read or written by an actor."""

    actor: Actor
    what: str
    write: bool
    first: int
    last: int
    step: int
    start: float
    end: float = field(default=float("inf"))

    def __str__(self) -> str:
        verb = "writes" if self.write else "reads"
        return f"{self.what} on {self.actor.name} {verb} bytes {self.first}…{self.last} from {self.start:.9g} to {self.end:.9g} s"


class Accesses:
    """Accesses to one buffer that can still be part of a race."""

    def __init__(self) -> None:
        self.past: list[Access] = []

    def add(self, new: Access) -> Access | None:
        """Note an access. Return an earlier one that is not ordered with it, or None."""
        race, keep = None, []
        for old in self.past:
            ordered = new.actor.knows(old.actor, old.step)
            if not ordered and (old.write or new.write) and old.first < new.last and new.first < old.last:
                race = old
            # What would race with an access that is forgotten here races with the new one too.
            covered = new.first <= old.first and old.last <= new.last
            stands_for = (new.write and ordered) or (old.actor is new.actor and old.write == new.write)
            if not (covered and stands_for):
                keep.append(old)
        self.past = [*keep, new]
        return race


class Resource:
    """A disk or a link. It serves one request after the other, in the order they are made."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self._lock = threading.Lock()  # a disk may serve several devices

    def take(self, start: float, seconds: float) -> tuple[float, float]:
        """Return start and end of a request that is made at `start` and takes `seconds`."""
        with self._lock:
            start = max(start, self.free_at)
            self.free_at = start + seconds
            return start, self.free_at
