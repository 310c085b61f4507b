"""Convert a file from the command line: `gpu4d convert`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu4d.errors import InputError
from gpu4d.io.converting import Converted, convert
from gpu4d.io.opening import open as open_scan
from gpu4d.workflow.record import Watcher


def convert_file(
    file: str | Path,
    out: str | Path,
    *,
    watcher: Watcher,
    opening: Mapping[str, Any],
    crop: Any = None,
    binned: int | None = None,
    **options: Any,
) -> Converted:
    """Open a scan, crop and bin it if asked, and convert it.

    Parameters
    ----------
    file, out : path
    watcher : Watcher
        Receives the progress.
    opening : mapping
        What `gpu4d.open` is told.
    crop : sequence of int, optional
        Rows A to B and columns C to D of the scan.
    binned : int, optional
        Detector pixels that are summed along each axis.
    **options
        As for `gpu4d.convert`.

    Raises
    ------
    InputError
        As `gpu4d.open` and `gpu4d.convert`, or a crop that is no four numbers.
    """
    cube = open_scan(file, **opening)
    if crop is not None:
        if isinstance(crop, str):
            raise InputError(f"--crop {crop}: need four whole numbers A,B,C,D, for rows A to B - 1 and columns C to D - 1")
        cube = cube.crop(rx=tuple(crop[:2]), ry=tuple(crop[2:]))
    if binned is not None:
        cube = cube.bin(detector=binned)
    stages = _Stages(watcher)
    try:
        return convert(cube, out, progress=stages, **options)
    finally:
        stages.end()


class _Stages:
    """Passes the progress of a conversion to a watcher."""

    def __init__(self, watcher: Watcher):
        self.watcher, self.stage, self.since = watcher, "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.end()
            self.stage, self.since = stage, time.perf_counter()
            self.watcher.begin(stage)
        self.watcher.advance(done, total)

    def end(self) -> None:
        if self.stage:
            self.watcher.end(self.stage, time.perf_counter() - self.since)
            self.stage = ""
