"""Backend that runs kernels on the host shim with the race detector looking on, and collects what it reports."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np
from cuda_on_host import HostBackend

from racecheck import instrumented
from racecheck.reports import Report


@dataclass
class Found:
    """What the detector saw: how many accesses, and which of them nothing orders."""

    accesses: int = 0
    reports: list[Report] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """One line for each pair of source lines."""
        return sorted({report.text for report in self.reports})


class RaceBackend(HostBackend):
    """The host shim, instrumented; `found` holds what all its launches together gave.

    Parameters
    ----------
    seed, sources, **options
        Of `HostBackend`. The order of threads does not matter for what is reported.
    yield_every : int
        Let a thread step aside at about every n-th access to shared memory, so that values, too, depend on what no barrier keeps
        apart; 0 for never.
    """

    def __init__(self, seed: int = 0, *, yield_every: int = 0, found: Found | None = None, **options):
        super().__init__(seed, **options)
        self.yield_every = yield_every
        self.found = Found() if found is None else found

    def library(self, text, file, options):
        return instrumented.library(text, file, options)

    def launch(self, function, grid, block, args, shared):
        library = function.library
        library.race_begin(ctypes.c_uint(self.yield_every))
        for number, a in enumerate(args):
            if isinstance(a, np.ndarray) and a.ndim and a.nbytes:
                name = f"argument {number}".encode()
                library.race_watch(ctypes.c_void_p(a.ctypes.data), ctypes.c_size_t(a.nbytes), name, ctypes.c_bool(False))
        try:
            super().launch(function, grid, block, args, shared)
        finally:  # a race may well end a launch
            self.found.accesses += library.race_accesses()
            for line in library.race_reports().decode().splitlines():
                self.found.reports.append(Report.parsed(line, function.kernel_name, library._name))
