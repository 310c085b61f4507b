"""What the race detector reports, in words: which accesses, where in the sources, by which threads."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Access:
    """One of the two accesses of a report."""

    block: int
    thread: int
    writes: bool
    address: int  # in the code, behind the access


@dataclass(frozen=True)
class Report:
    """Two accesses to the same bytes that nothing orders ("RACE"), or a shuffle or vote alone ("WEAK"); "UNSET" is a read of shared
    memory before a thread of the block wrote it."""

    kind: str
    kernel: str
    library: str
    region: str
    offset: int
    bytes: int
    first: Access
    second: Access

    @classmethod
    def parsed(cls, line: str, kernel: str, library: str) -> Report:
        """A line of the detector's `race_reports`."""
        kind, region, offset, count, *rest = line.split("|")
        first, second = (Access(int(b), int(t), w == "1", int(a)) for b, t, w, a in (rest[:4], rest[4:]))
        return cls(kind, kernel, library, region, int(offset), int(count), first, second)

    @property
    def text(self) -> str:
        """Kind, kernel, memory and source lines; the same for all places of an array and all threads."""
        lines = [f"{'write' if a.writes else 'read'} at {places_of(self.library, a.address)}" for a in (self.first, self.second)]
        return f"{self.kind} in {self.kernel}: {self.region}: {lines[0] if self.kind == 'UNSET' else ' / '.join(lines)}"

    @property
    def example(self) -> str:
        """Threads and place of the first such pair."""
        a, b = self.first, self.second
        if self.kind == "UNSET":
            return f"byte {self.offset}, thread {a.thread} of block {a.block}"
        who = f"threads {a.thread} and {b.thread} of block {b.block}" if a.block == b.block else f"blocks {a.block} and {b.block}"
        return f"byte {self.offset}, {who}"


@functools.cache
def places_of(library: str, address: int) -> str:
    """File and line of a code address, and of the functions it was inlined into: "common.cuh:38 < masked_sums.cu:191"."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    begins = min(int(line.partition("-")[0], 16) for line in maps if line.endswith(library))
    command = ["addr2line", "-i", "-e", library, hex(address - begins - 1)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    places = [line.split(" ")[0].rpartition("/")[2] for line in said.splitlines()]
    return " < ".join(place for place in places if not place.startswith(("cuda_on_host", "?")))
