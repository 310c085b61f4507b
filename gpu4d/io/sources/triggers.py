"""Find from time stamps which pattern belongs to which position, where triggers were missed or came too often, and the scan shape.

A scan is regular: patterns of a row are one period apart, rows one line period, which is longer where the beam flies back. A missed
trigger leaves a gap of two periods. A trigger too many falls between two places of this grid, or into the fly-back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MISSING = -1  # in `numbers`
MOST_POSITIONS = 2  # for each pattern: a scan of more is not complete in any sense
NEAR = 0.25  # of a period: how far from its place in the grid a pattern may come; a quarter tells a place from the middle of two
FOLLOW = 0.3  # of the deviation of a pattern by which the grid is moved, so that it follows a clock that drifts
MOST_WRONG = 0.05  # of all positions that may be missing or extra: with more, time stamps do not tell the scan
WHOLE_ROWS, MANY_ROWS = 0.9, 16  # share of rows that must be whole, and rows, to find a shape although patterns are missing


@dataclass(frozen=True)
class Placed:
    """Patterns at the positions of a scan.

    Attributes
    ----------
    numbers : (Rx · Ry,) int64
        The pattern at every position, counted from 0; -1 where none was recorded.
    missing : (m,) int64
        Positions without a pattern, rx · Ry + ry.
    extra : (e,) int64
        Patterns that belong to no position.
    """

    numbers: np.ndarray
    missing: np.ndarray
    extra: np.ndarray


def placed(numbers: np.ndarray, patterns: int) -> Placed:
    """Return what is missing and what is extra, from the pattern at every position."""
    extra = np.setdiff1d(np.arange(patterns), numbers)
    return Placed(numbers, np.nonzero(numbers == MISSING)[0], extra)


def place_by_sequence(sequence: np.ndarray, positions: int) -> Placed | None:
    """Place patterns by their sequence numbers, where the readout counted those that it lost.

    Returns
    -------
    Placed or None
        None if the numbers do not rise, none is left out, or they do not span as many positions as the scan has.

    Examples
    --------
    >>> place_by_sequence(np.array([1, 2, 4]), 4).numbers.tolist()
    [0, 1, -1, 2]
    """
    index = sequence - sequence[0]
    if (np.diff(index) < 1).any() or index[-1] != positions - 1 or not len(index) < positions <= MOST_POSITIONS * len(index):
        return None
    numbers = np.full(positions, MISSING, np.int64)
    numbers[index] = np.arange(len(index))
    return placed(numbers, len(index))


def place_by_time(times: np.ndarray, scan_shape: tuple[int, int]) -> Placed | None:
    """Place patterns by their time stamps on the grid of a scan.

    Parameters
    ----------
    times : (n,) float
        In any unit, rising.
    scan_shape : (int, int)

    Returns
    -------
    Placed or None
        None if the time stamps are not those of a scan of this shape, or it ends before its last row.

    Examples
    --------
    >>> place_by_time(np.array([0, 1, 2, 10, 12, 20, 21, 22, 30, 31, 31.5, 32]), (4, 3)).numbers.tolist()
    [0, 1, 2, 3, -1, 4, 5, 6, 7, 8, 9, 11]
    """
    rows, columns = scan_shape
    if rows * columns > MOST_POSITIONS * len(times):
        return None
    grid = _grid(times, columns) if rows > 1 else _row(times)
    if grid is None:
        return None
    places = _places(times.tolist(), grid, columns, MOST_POSITIONS * rows * columns)
    numbers = np.full(rows * columns, MISSING, np.int64)
    inside = (places >= 0) & (places < len(numbers))
    numbers[places[inside]] = np.nonzero(inside)[0]
    found = placed(numbers, len(times))
    reached = int(places.max(initial=-1)) // columns  # if rows are behind the last one, this is another scan
    wrong = max(len(found.missing), len(found.extra))
    return None if reached != rows - 1 or wrong > max(1, MOST_WRONG * len(numbers)) else found


def shape_by_time(times: np.ndarray) -> tuple[int, int] | None:
    """Return the scan shape that the fly-back shows: the time between two patterns is longer where a row ends.

    Returns
    -------
    (int, int) or None
        None if there is no fly-back, or it does not come regularly.

    Examples
    --------
    >>> shape_by_time(np.array([0, 1, 2, 10, 11, 12, 20, 21, 22.0]))
    (3, 3)
    """
    if len(times) < 6:
        return None
    steps = np.diff(times)
    period = float(np.median(steps))
    ends = np.nonzero(steps > (2 - NEAR) * period)[0]
    lengths = np.diff(ends)
    if period <= 0 or len(ends) < 1:
        return None
    columns = int(np.bincount(lengths).argmax()) if len(lengths) else int(ends[0]) + 1
    grid = _grid(times, columns) if 2 <= columns < len(times) else None
    if grid is None or grid[1] < (columns + NEAR) * grid[0]:
        return None
    rows = round((times[-1] - grid[2] - (columns - 1) * grid[0]) / grid[1]) + 1
    whole = float((lengths == columns).mean()) if len(lengths) else 0.0
    sure = (whole == 1 and rows >= 3 and rows * columns == len(times)) or (whole >= WHOLE_ROWS and rows >= MANY_ROWS)
    return (rows, columns) if sure and place_by_time(times, (rows, columns)) is not None else None


def is_regular(starts: np.ndarray, sequence: np.ndarray, columns: int) -> bool:
    """Say whether the first patterns of rows, a whole number of rows apart, are what a scan without gaps gives.

    Parameters
    ----------
    starts, sequence : (k,) float, (k,) int
        Time stamps and sequence numbers of patterns that are as many positions apart as the next argument says.
    columns : int
        Positions between two of them.
    """
    steps = np.diff(starts)
    if len(steps) == 0:
        return True
    usual = float(np.median(steps))
    return bool((np.diff(sequence) == columns).all() and (np.abs(steps - usual) < usual / columns / 2).all())


def _row(times: np.ndarray) -> tuple[float, float, float] | None:
    """Return period, line period and begin of a scan of one row."""
    period = float(np.median(np.diff(times))) if len(times) > 2 else 0.0
    return (period, float("inf"), float(times[0])) if period > 0 else None


def _grid(times: np.ndarray, columns: int) -> tuple[float, float, float] | None:
    """Return the period of a pattern, that of a row, and when the first row begins."""
    if len(times) < columns + 2:
        return None
    period = float(np.median(np.diff(times)))
    line = _usual(times[columns:] - times[:-columns], NEAR * period)
    if period <= 0 or line < (columns - NEAR) * period:
        return None
    flight = line - (columns - 1) * period
    if flight < (1 + NEAR) * period:  # no fly-back that could be seen: the first pattern is taken for the first position
        return line / columns, line, float(times[0])
    early = times[: 8 * columns]  # a few rows: the period of all is not known so well that it holds for thousands
    phase = np.sort((early - times[0]) % line)
    dark = np.diff(np.append(phase, phase[0] + line))
    widest = int(dark.argmax())
    begin = float(phase[(widest + 1) % len(phase)])
    return period, line, float(times[0]) + (begin - line if begin > line - (columns - 0.5) * period and begin > NEAR * period else begin)


def _usual(values: np.ndarray, width: float) -> float:
    """Return the value around which most of them lie: windows with a missing pattern in them differ by a whole period."""
    values = np.sort(values)
    behind = np.searchsorted(values, values + width, side="right")
    first = int((behind - np.arange(len(values))).argmax())
    return float(np.median(values[first : behind[first]]))


def _places(times: list[float], grid: tuple[float, float, float], columns: int, most: int) -> np.ndarray:
    """Return the position of every pattern, -1 for those that are extra, and those behind position number `most`."""
    period, line, start = grid
    found = np.full(len(times), MISSING, np.int64)
    row, last, last_off, last_at = 0, -1, 0.0, -1
    for at, time in enumerate(times):
        ahead = max(0, int((time - start + period / 2) // line))
        begin = start + ahead * line if ahead else start  # of the row, by the rows before it
        column = round((time - begin) / period)
        off, place = time - begin - column * period, (row + ahead) * columns + column
        if not 0 <= column < columns or abs(off) > NEAR * period or place < last or place >= most:
            continue
        if place == last:  # two patterns near one place: the nearer one is of it
            if abs(off) >= abs(last_off):
                continue
            found[last_at] = MISSING
        found[at] = place
        row, start = row + ahead, begin + FOLLOW * off
        last, last_off, last_at = place, off, at
    return found
