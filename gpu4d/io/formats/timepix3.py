"""Open recordings of Timepix3 detectors, `.tpx3`, as scans of events: their triggers say where the probe was."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.records import refuse_dataset, stem
from gpu4d.io.sources.timepix import CHIP, Sweep, TimepixSource, mapped_words, words
from gpu4d.io.sources.timepix_packets import CHIPS, EDGES, NO_HEADER, OK, TICK, find_edges
from gpu4d.io.timing import ScanTiming

MAGIC = b"TPX3"
GAP = 4  # pixels: what four pixels of double width between two chips of a quad span
FEW_EDGES = 1 << 10  # room for edges that is tried first
FAR = 2.0**62  # ticks: what never comes
RISING, FALLING = (0, 2), (1, 3)  # kinds of edges of inputs 1 and 2


class Timepix3(Format):
    """The format of Timepix3 recordings: packets of 64 bits as the readout board sends them, in chunks (`.tpx3`)."""

    name: ClassVar = "timepix3"
    accepts: ClassVar = "Timepix3 (.tpx3)"
    facts: ClassVar = Facts(
        endings=(".tpx3",),
        reading="events",
        covers="hits with a time of arrival, of one chip or four; positions from triggers of positions, rows or scans. Hits are not joined "
        "into electrons, and time over threshold is not used. Not covered: integrated mode, pauses of more than 13 s without a "
        "packet, other arrangements of chips. Timepix4: no file format for microscopes is published; convert it to raw_csr or EMD events",
        tried_on="files made from its description",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "a Timepix3 file")
        recording = Recording(path)
        timing = options.timing or ScanTiming()
        sweep = recording.sweep(options.scan_shape, timing)
        assert options.scan_shape is not None
        source = TimepixSource(path, sweep, options.scan_shape, recording.chips, GAP)
        if source.offsets[-1] == 0:
            raise InputError(
                f"{shown(path)}: none of its {source.outside} hits is at a position: the dwell time or what a trigger starts is not "
                "as given"
            )
        metadata = {
            "detector": "Timepix3",
            "chips": recording.chips,
            "triggers": {f"{kind} {i + 1}": int(recording.numbers[2 * i + j]) for i in (0, 1) for j, kind in enumerate(("rise", "fall"))},
            "dwell": sweep.dwell_ticks * TICK if sweep.dwell_ticks < FAR else None,
            "scans_added": source.scans,
            "hits_outside": source.outside,
        }
        return Opened(source, metadata=metadata, name=stem(path), detector_mask=_mask(source))


def _mask(source: TimepixSource) -> np.ndarray | None:
    """Return the mask of the pixels that a chip has. None if all have one."""
    if source.table.shape[0] == 1:
        return None
    mask = np.zeros(source.shape[2:], bool)
    mask.reshape(-1)[source.table.ravel()] = True
    return mask


class Recording:
    """What a recording holds: chips, hits, and the edges of triggers.

    Raises
    ------
    InputError
        Damaged, without hits that have a time, or of more chips than are covered.
    """

    def __init__(self, path: str):
        self.path = path
        file = mapped_words(path)
        self.numbers, hits, found = np.zeros(EDGES, np.int64), np.zeros(CHIPS, np.int64), np.zeros(3, np.int64)
        room, status = FEW_EDGES, OK
        while True:
            times = np.zeros((EDGES, room), np.int64)
            status = find_edges(words(file), times, self.numbers, hits, found)
            if status != OK or self.numbers.max() <= room:
                break
            room = int(self.numbers.max())
        file.check()
        if status != OK:
            what = "no header of a chunk" if status == NO_HEADER else "a chunk that is longer than the file"
            raise InputError(f"{shown(path)}: {what} at byte {int(found[2]) * 8}: it is damaged or truncated, copy it again")
        self.times = [times[kind, : self.numbers[kind]] for kind in range(EDGES)]
        self.first_hit = int(found[0])
        if not hits.any():
            mode = f"its {found[1]} hits are of the integrated mode, without times" if found[1] else "it holds no hits"
            raise InputError(f"{shown(path)}: {mode}: a scan needs hits with a time of arrival")
        top = int(np.flatnonzero(hits)[-1])
        if top > 3:
            raise InputError(f"{shown(path)}: hits of chip {top}: accepted are detectors of one chip or four of {CHIP}×{CHIP} pixels")
        self.chips = 1 if top == 0 else 4

    def sweep(self, scan_shape: tuple[int, int] | None, timing: ScanTiming) -> Sweep:
        """Return when which positions begin.

        Raises
        ------
        InputError
            The scan shape is not given, or numbers of triggers do not fit it, or the dwell time is needed.
        """
        if scan_shape is None or min(scan_shape) < 1:
            raise InputError(
                f"{shown(self.path)} records {self._said()}: give the scan's shape with --scan-shape Rx,Ry or scan_shape=(Rx, Ry)"
            )
        channel, starts = self._choose(scan_shape, timing)
        rx, ry = scan_shape
        if channel is None:
            edges = np.array([self.first_hit + round((timing.start or 0.0) / TICK)], np.int64)
            now = self.first_hit
        else:
            edges = np.sort(self.times[RISING[channel]])
            now = min(int(times[0]) for times in self.times if len(times))
        if starts == "position":
            return Sweep(edges, 1, FAR, FAR if timing.dwell is None else timing.dwell / TICK, now)
        dwell = self._dwell(timing, channel, ry if starts == "row" else rx * ry)
        if starts == "row":
            return Sweep(edges, ry, FAR, dwell, now)
        return Sweep(edges, rx * ry, ry * dwell + timing.flyback / TICK, dwell, now)

    def _said(self) -> str:
        """Return the numbers of triggers in words."""
        rising = [int(self.numbers[kind]) for kind in RISING]
        inputs = [f"{n} triggers on input {i + 1}" for i, n in enumerate(rising) if n]
        return " and ".join(inputs) or "no triggers"

    def _choose(self, scan_shape: tuple[int, int], timing: ScanTiming) -> tuple[int | None, str]:
        """Return the input whose triggers are used, 0 or 1, and what each starts. The input is None without triggers."""
        rx, ry = scan_shape
        given = None if timing.channel is None else timing.channel - 1
        channels = [i for i in (0, 1) if self.numbers[RISING[i]] and given in (None, i)]
        if not channels:
            if timing.start is None or timing.dwell is None or given is not None:
                raise InputError(
                    f"{shown(self.path)} records {self._said()}: without triggers, positions follow from timing=ScanTiming(dwell=…, "
                    "start=…), seconds at a position and from the first hit to the first position"
                )
            return None, "scan"
        fits = {}
        for channel in channels:
            n = int(self.numbers[RISING[channel]])
            possible = [("position", n % (rx * ry) == 0), ("row", n % rx == 0), ("scan", n == 1 or timing.starts == "scan")]
            fits[channel] = [word for word, right in possible if right and timing.starts in (None, word)]
        fitting = [channel for channel in channels if fits[channel]]
        if not fitting:
            raise InputError(
                f"{shown(self.path)} records {self._said()}: a scan of {rx}×{ry} positions has one for each position, {rx * ry}, each row, "
                f"{rx}, or one in all, or several times as many; give the scan shape, or timing=ScanTiming(starts=…), that fits"
            )
        if len(fitting) > 1:
            raise InputError(
                f"{shown(self.path)} records {self._said()}: both fit a scan of {rx}×{ry} positions: choose one with "
                "timing=ScanTiming(channel=1)"
            )
        return fitting[0], fits[fitting[0]][0]

    def _dwell(self, timing: ScanTiming, channel: int | None, positions: int) -> float:
        """Return the ticks at a position: as given, or from how long triggers last."""
        if timing.dwell is not None:
            return timing.dwell / TICK
        rising, falling = (self.times[RISING[channel or 0]], self.times[FALLING[channel or 0]])
        lasts = falling - rising if len(rising) == len(falling) else np.zeros(0)
        if not len(lasts) or lasts.min() <= 0:
            raise InputError(
                f"{shown(self.path)} records {self._said()}, which do not say how long a position lasts: give it with --dwell S or "
                "timing=ScanTiming(dwell=…)"
            )
        return float(np.median(lasts)) / positions
