"""Arrange the patterns of Merlin files in a scan: by what is stated, and by sequence numbers and time stamps in the headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.frame_files import Stretch
from gpu4d.io.sources.layout import FRAMES, decide_scan_shape
from gpu4d.io.sources.triggers import Placed, is_regular, place_by_sequence, place_by_time, shape_by_time
from gpu4d.io.units import log

HEAD = 96  # bytes of a header: up to its time stamp
TIME = 9  # field of the time stamp
SAMPLES = 256  # rows whose first pattern is looked at, to see whether a scan is regular


@dataclass(frozen=True)
class Arranged:
    """A scan of patterns: its shape, the pattern at every position if they do not simply follow each other, and what is said of that."""

    shape: tuple[int, int]
    numbers: np.ndarray | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Stamps:
    """Sequence numbers and time stamps of patterns, read from their headers when they are asked for.

    Parameters
    ----------
    stretches : sequence of Stretch
    header_bytes : int
        That lie before each pattern.
    """

    def __init__(self, stretches: Sequence[Stretch], header_bytes: int):
        self.stretches, self.header_bytes = stretches, header_bytes
        self.frames = sum(s.frames for s in stretches)

    def of(self, patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the sequence numbers of patterns, whose numbers rise, and their time stamps in µs, or None if they cannot be read.

        Raises
        ------
        InputError
            There is no header before a pattern: the file is damaged.
        """
        sequence, stamps, first = [], [], 0
        for s in self.stretches:
            begin, end = np.searchsorted(patterns, (first, first + s.frames))
            inside = patterns[begin:end] - first
            first += s.frames
            if not len(inside):
                continue
            with open(s.path, "rb", buffering=0) as file:
                for number in inside.tolist():
                    file.seek(s.offset - self.header_bytes + number * s.stride)
                    fields = file.read(HEAD).split(b",", TIME + 1)
                    if fields[0] != b"MQ1" or len(fields) <= TIME or not fields[1].strip().isdigit() or len(fields[1]) > 18:
                        raise InputError(
                            f"{shown(s.path)}: pattern {first - s.frames + number} has no header: it is damaged, or patterns were cut out"
                        )
                    sequence.append(int(fields[1]))
                    stamps.append(fields[TIME])
        return np.array(sequence, np.int64), _times(stamps)


def _times(stamps: list[bytes]) -> np.ndarray | None:
    """Return time stamps as µs after the first one; None if they are not written as expected."""
    try:
        found = np.array([stamp.decode("ascii") for stamp in stamps]).astype("datetime64[us]")
    except ValueError:
        return None
    times = found.astype(np.int64)
    return None if np.isnat(found).any() else (times - times[0]).astype(np.float64)


def arrange(stamps: Stamps, given: Any, stated: tuple[int, int] | None, what: str) -> Arranged:
    """Arrange patterns in the scan that the caller gives, or the file states, or the fly-back shows.

    Patterns are at their places if there are as many as positions and the rows begin regularly. Else time stamps of all patterns tell
    which are missing or extra.

    Raises
    ------
    InputError
        The scan shape is not known, or there are more or fewer patterns and their headers do not tell which.
    """
    if given == FRAMES or stamps.frames == 1:
        return Arranged(decide_scan_shape(given, stated, stamps.frames, what))
    shape = stated if given is None else given
    everything: tuple[np.ndarray, np.ndarray | None] | None = None
    metadata: dict[str, Any] = {}
    if shape is None or min(shape) < 1:
        everything = stamps.of(np.arange(stamps.frames))
        shape = None if everything[1] is None else shape_by_time(everything[1])
        if shape is None:
            return Arranged(decide_scan_shape(given, stated, stamps.frames, what))
        metadata["scan_shape_found_by"] = "fly-back between time stamps"
    elif shape[0] * shape[1] == stamps.frames and _regular(stamps, shape):
        return Arranged(shape)
    sequence, times = everything or stamps.of(np.arange(stamps.frames))
    found = place_by_sequence(sequence, shape[0] * shape[1])
    if found is None and times is not None:
        found = place_by_time(times, shape)
    if found is None:  # they do not tell
        return Arranged(decide_scan_shape(given, shape, stamps.frames, what))
    if not len(found.missing) and not len(found.extra):
        return Arranged(shape, metadata=metadata)
    return Arranged(shape, found.numbers, metadata | _said(found, shape, what))


def _regular(stamps: Stamps, shape: tuple[int, int]) -> bool:
    """Say whether rows begin at regular times, and no sequence number is left out up to the last pattern."""
    rows = np.arange(0, shape[0], -(-shape[0] // SAMPLES))
    sequence, times = stamps.of(np.append(rows * shape[1], stamps.frames - 1))
    if int(sequence[-1] - sequence[0]) != stamps.frames - 1:
        return False
    return times is None or is_regular(times[:-1], sequence[:-1], shape[1] * int(rows[1] - rows[0]) if len(rows) > 1 else 1)


def _said(found: Placed, shape: tuple[int, int], what: str) -> dict[str, Any]:
    """Say once which patterns are missing and extra, and return it for the metadata."""
    missing, extra = np.stack(np.divmod(found.missing, shape[1]), axis=-1), found.extra
    log.warning(
        "%s: %d of %d×%d positions have no pattern, they are all zero; %d patterns between positions are left out: "
        "see missing_patterns and extra_patterns of the metadata",
        what, len(missing), *shape, len(extra),
    )  # fmt: skip
    return {"missing_patterns": missing, "extra_patterns": extra}
