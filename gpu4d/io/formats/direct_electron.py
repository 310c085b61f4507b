"""Read what Direct Electron's server writes beside a movie: the text of all its settings, and the coordinates of scans out of order.

The movie is ``NAME_movie.mrc``, the settings are ``NAME_info.txt``, lines of ``key = value``. Scans along a line after line ("Raster",
"Serpentine") are told by their size. Others need a file of coordinates, ``NAME_scan_coordinates.csv``: x and y of each pattern.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.frame_files import MISSING

LARGEST_INFO = 4 << 20  # bytes; the server writes some 40 kB
LARGEST_POSITION = 1 << 20  # digits of a coordinate beyond this are no position of a scan
MOST_POSITIONS = 1 << 26  # of a scan whose size the text states; larger ones are damage
INFO, COORDINATES = ("_info.txt",), ("_scan_coordinates.csv", "_coordinates.csv")


@dataclass
class Placed:
    """Where the patterns of a movie belong.

    Attributes
    ----------
    scan : (Rx, Ry)
    numbers : (Rx · Ry,) int array or None
        The pattern at every position, for scans that are not simply row after row.
    """

    scan: tuple[int, int]
    numbers: np.ndarray | None = None


def info_of(path: str) -> dict[str, str] | None:
    """Return the settings beside a movie, as they are written; None if there are none."""
    text = _text_beside(path, INFO, LARGEST_INFO)
    if text is None:
        return None
    lines = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in lines if equals}


def placed(path: str, info: dict[str, str], frames: int) -> Placed | str | None:
    """Return where patterns belong, or a reason why that is not known; None if it was no scan."""
    if info.get("Scan - Enable") != "Enable":
        return None
    per_point, repeats = (_whole(info, f"Scan - {key}") for key in ("Camera Frames Per Point", "Repeats"))
    inside = info.get("Scan - ROI Enable") == "Enable"
    size = _whole(info, f"Scan - {'ROI ' if inside else ''}Size Y"), _whole(info, f"Scan - {'ROI ' if inside else ''}Size X")
    kind = info.get("Scan - ROI Type" if inside else "Scan - Type", "")
    if size[0] is None or size[1] is None or size[0] * size[1] > MOST_POSITIONS:
        return None
    scan = size[0], size[1]
    more = [f"{n} {what}" for n, what in ((per_point, "frames per point"), (repeats, "repeats")) if n is not None and n > 1]
    if more:
        return f"its _info.txt states {scan[0]}×{scan[1]} positions with {' and '.join(more)}"
    if kind in ("Raster", "Serpentine"):
        if kind == "Raster" or scan[0] * scan[1] != frames:
            return Placed(scan)
        order = np.arange(frames).reshape(scan)
        order[1::2] = order[1::2, ::-1]
        return Placed(scan, order.ravel())
    coordinates = _coordinates(path, frames)
    if coordinates is None:
        return (
            f"its _info.txt states a scan of {scan[0]}×{scan[1]} positions in an order of its own ({shown(kind)}), and the file of "
            f"its coordinates ({COORDINATES[0]}) is not beside it"
        )
    return _scattered(path, coordinates, scan)


def _scattered(path: str, coordinates: np.ndarray, scan: tuple[int, int]) -> Placed | str:
    """Place patterns by their coordinates (frames, 2) of x and y. Positions that were not visited have none."""
    where = coordinates[:, 1] * scan[1] + coordinates[:, 0]
    if np.any(coordinates < 0) or np.any(coordinates >= (scan[1], scan[0])):
        return f"its coordinates lie outside the scan of {scan[0]}×{scan[1]} positions"
    if len(np.unique(where)) < len(where):
        return "its coordinates name a position more than once"
    numbers = np.full(scan[0] * scan[1], MISSING)
    numbers[where] = np.arange(len(where))
    return Placed(scan, numbers)


def _coordinates(path: str, frames: int) -> np.ndarray | None:
    """Return x and y of each pattern (frames, 2), from the file beside the movie. A line of words at its beginning is a heading."""
    text = _text_beside(path, COORDINATES, 64 * (frames + 16))
    if text is None:
        return None
    numbers = [re.findall(r"-?\d+(?:\.0*)?(?![\d.])", line)[:2] for line in text.splitlines() if not re.search(r"[A-Za-z]", line)]
    pairs = [(int(float(x)), int(float(y))) for x, y in (pair for pair in numbers if len(pair) == 2) if len(x) < 16 and len(y) < 16]
    if len(pairs) != frames:
        raise InputError(f"{shown(path)}: {frames} patterns, and {len(pairs)} lines in its file of coordinates: one of both is damaged")
    return np.clip(np.array(pairs, np.int64).reshape(-1, 2), -1, LARGEST_POSITION)


def _text_beside(path: str, endings: tuple[str, ...], largest: int) -> str | None:
    """Return the text of a file that belongs to a movie, in the same folder; None if there is none."""
    base = re.sub(r"_movie$", "", os.path.splitext(path)[0])
    for start in (base, re.sub(r"_\d+$", "", base)):
        for ending in endings:
            if not os.path.isfile(start + ending):
                continue
            try:
                with open(start + ending, "rb") as file:
                    held = file.read(largest + 1)
            except OSError as error:
                raise InputError(f"{shown(start + ending)}: cannot be read ({shown(error.strerror or str(error))})") from error
            if len(held) > largest:
                raise InputError(f"{shown(start + ending)}: more than {largest} bytes of text: it does not belong to {shown(path)}")
            return held.decode("utf-8", "replace")
    return None


def _whole(info: dict[str, str], key: str) -> int | None:
    """Return a positive whole number of the settings, or None."""
    text = info.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0 else None
