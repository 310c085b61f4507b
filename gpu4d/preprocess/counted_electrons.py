"""Count electrons as a scan of raw frames is read: a reduction whose result is a scan of events."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data.events import EventSource
from gpu4d.data.pointlist import PointListArray
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.preprocess._counting_setup import CountingSetup
from gpu4d.preprocess.count_electrons import count_electrons
from gpu4d.preprocess.electrons import Electrons, event_pixels
from gpu4d.preprocess.fit_electrons import MOST, fit_electrons
from gpu4d.streaming.reduction import ScanInfo, State, defined
from gpu4d.streaming.sums import OnePass

MODES = ("maxima", "places", "likelihood")
EVENT_BYTES = 2 * (4 + 3 * 4)  # of an event: pixel and place, in pieces and joined
FITTED_BYTES = 2 * (12 * 8 + 4) + 24  # of a group on a device: two fits of four electrons, and lists
BLOCK_PIXELS = 1 << 17  # of whose signals and groups the CPU twin of fit_electrons holds planes at a time, or one frame
DEFINITION_BYTES = 12 * 8  # of a pixel: planes of 64 bits that the definitions hold


class CountedElectrons(OnePass):
    """Reduction: electrons of raw frames, as a scan kept as events.

    Parameters
    ----------
    setup : CountingSetup
        From `counting_setup`.
    mode : {"maxima", "places", "likelihood"}
        Local maxima; the same, fitted to a part of a pixel; or `fit_electrons`, which finds electrons in neighbouring pixels too.
    upsample : int
        Pixels of the events in each pixel of the detector, along each axis. For places and likelihood.
    places : bool
        Whether `finish` gives places and signals of all electrons as well.
    per_frame : float
        Electrons expected in a frame. Memory plans use it.

    Notes
    -----
    `finish` returns an `EventSource`, and with `places` the pair of it and a `PointListArray` with qx, qy (px) and intensity
    (electrons). Positions that were not visited have no events.

    Examples
    --------
    >>> import gpu4d
    >>> from gpu4d.preprocess import counting_setup
    >>> raw = gpu4d.simulate.raw_frames((3, 4), (64, 64), occupancy=0.005, seed=2)
    >>> source = gpu4d.sweep(raw.cube, CountedElectrons(counting_setup(raw.cube.source.array, raw.darks)))
    >>> source.shape
    (3, 4, 64, 64)
    """

    def __init__(self, setup: CountingSetup, mode: str = "maxima", *, upsample: int = 1, places: bool = False, per_frame: float = 1000.0):
        if mode not in MODES:
            raise InputError(f"mode={mode!r}: need one of {', '.join(map(repr, MODES))}")
        if mode == "maxima" and (upsample != 1 or places):
            raise InputError("local maxima are whole pixels: for upsample or places take mode='places' or mode='likelihood'")
        self.setup, self.mode, self.upsample, self.places, self.per_frame = setup, mode, upsample, places, per_frame
        self.pieces: dict[int, tuple[np.ndarray, ...]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def in_tiles(self) -> bool:
        """Return False: frames are counted one by one."""
        return False

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        positions, pixels = scan.shape[0] * scan.shape[1], scan.shape[2] * scan.shape[3]
        operation = count_electrons if self.mode == "maxima" else fit_electrons
        per_pixel = DEFINITION_BYTES if defined(operation, scan) else 0 if scan.on_host else 5
        scratch = 20 * max(pixels, BLOCK_PIXELS) if self.mode != "maxima" and not per_pixel else 0
        fitted = FITTED_BYTES * self.per_frame * n_frames
        return (
            int(EVENT_BYTES * self.per_frame * positions + 24 * positions + per_pixel * pixels * n_frames + fitted) + scratch + 32 * pixels
        )

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        """Begin without electrons."""
        super().start(scan, device, pass_)
        if tuple(scan.shape[2:]) != self.setup.dark.shape:
            raise InputError(f"the setup is for frames of {self.setup.dark.shape}, the scan has {tuple(scan.shape[2:])}: make one of it")
        valid = scan.detector_mask
        self.valid = self.setup.mask if valid is None else self.setup.mask & (valid != 0)
        self.pieces = {}

    def update(self, frames: Array, positions: np.ndarray) -> None:
        """Count the electrons of some frames."""
        setup = self.setup
        dark = tables.beside(setup.dark, frames)
        gain, mask = (None if a is None else tables.beside(a, frames) for a in (setup.gain, self.valid))
        options: dict[str, Any] = {"electron": setup.electron, "gain": gain, "mask": mask}
        found: Electrons
        if self.mode == "maxima":
            found = count_electrons(frames, dark, setup.lower, setup.upper, **options)
        else:
            most = 1 if self.mode == "places" else MOST
            found = fit_electrons(frames, dark, setup.lower, setup.upper, setup.model, most=most, **options)
        on_host: list[Any] = [arrays.to_numpy(a) for a in found]
        host = Electrons(*on_host)
        numbers = positions[:, 0] * self.scan.shape[1] + positions[:, 1]
        columns = [event_pixels(host, self.setup.dark.shape, self.upsample)]
        columns += [host.qx, host.qy, host.intensity] if self.places else []
        with self._lock:
            self.pieces[int(numbers[0])] = (numbers, np.diff(host.offsets), *columns)

    def finish(self) -> EventSource | tuple[EventSource, PointListArray]:
        """Return the electrons so far."""
        shape = self.scan.shape
        with self._lock:
            pieces = [self.pieces[at] for at in sorted(self.pieces)]
        counts = np.zeros(shape[0] * shape[1], np.int64)
        for numbers, sizes, *_ in pieces:
            counts[numbers] = sizes
        offsets = np.concatenate([[0], np.cumsum(counts)])
        pixels, *rest = self._in_order(pieces, offsets)
        fine = shape[2] * self.upsample, shape[3] * self.upsample
        source = EventSource(offsets, pixels, shape[:2], fine, dtype="uint8")
        if not self.places:
            return source
        units = {"qx": "px", "qy": "px", "intensity": "electrons"}
        return source, PointListArray(offsets, dict(zip(units, rest)), shape[:2], units)

    def _in_order(self, pieces: list[tuple[np.ndarray, ...]], offsets: np.ndarray) -> list[np.ndarray]:
        """Put the columns of all pieces in the order of the positions."""
        kinds = [np.uint32, *([np.float32] * 3 if self.places else [])]
        columns = [np.empty(int(offsets[-1]), kind) for kind in kinds]
        for numbers, sizes, *values in pieces:
            begins = offsets[numbers] - np.concatenate([[0], np.cumsum(sizes)[:-1]])
            place = np.repeat(begins, sizes) + np.arange(int(sizes.sum()))
            for column, value in zip(columns, values):
                column[place] = value
        return columns

    def state(self) -> State:
        """Return plain arrays from which `restore` continues."""
        with self._lock:
            return {"pieces": dict(self.pieces)}

    def restore(self, state: State) -> None:
        """Continue from a state."""
        self.pieces = dict(state["pieces"])

    def merge(self, state: State) -> None:
        """Add the electrons of another worker, which had other row blocks."""
        with self._lock:
            self.pieces |= state["pieces"]
