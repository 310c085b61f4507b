"""Compare the candidates of close margin by the counts in the patterns, position by position."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointListArray
from gpu4d.device.threads import in_threads
from gpu4d.errors import InputError
from gpu4d.orientation.candidates import Candidates
from gpu4d.orientation.library import OrientationLibrary
from gpu4d.orientation.lookalikes import (
    Spots,
    expected_spots,
    free_pixels,
    radial_background,
)
from gpu4d.orientation.overlap import Overlap
from gpu4d.orientation.peaks import Frame, Peaks
from gpu4d.orientation.spot_likelihood import spot_likelihood

CLOSE = 15.0  # nats: beyond, the disks alone decide
EXPLAINED = 0.1  # of a disk's intensity: below, it belongs to something else, and its pixels are left out
BACKGROUND_ROWS = 16  # scan rows whose patterns give the background


class Looked(NamedTuple):
    """What the patterns say: for each set of candidates, how likely each is in nats (n, k); NaN where patterns were not needed."""

    first: np.ndarray
    one: np.ndarray
    other: np.ndarray


class Look(NamedTuple):
    """What is looked at, and how: patterns, their frame, libraries, the radius of disks (px), the error of the model."""

    cube: DataCube
    frame: Frame
    libraries: list[OrientationLibrary]
    radius: float
    relative: float


class _Case(NamedTuple):
    """Candidates of some positions: their row-major numbers in the scan, and their rows in the table of peaks."""

    candidates: Candidates
    positions: np.ndarray
    rows: np.ndarray


def look_at_patterns(look: Look, disks: PointListArray, positions: np.ndarray, peaks: Peaks, first: Candidates, overlap: Overlap) -> Looked:
    """Return the log likelihood of candidates that the disks hardly tell apart, from the counts in the patterns."""
    if look.cube.scan_shape != disks.shape:
        raise InputError(
            f"patterns has the scan {look.cube.scan_shape}, disks {disks.shape}: need the patterns that the disks were found in"
        )
    single = np.setdiff1d(np.arange(len(positions)), overlap.rows)
    cases = [
        _Case(Candidates(*(f[single] for f in first)), positions[single], single),
        _Case(overlap.first, positions[overlap.rows], overlap.rows),
        _Case(overlap.second, positions[overlap.rows], overlap.rows),
    ]
    table = arrays.to_numpy(peaks.table), arrays.to_numpy(peaks.counts)
    background = _background(look, disks, cases[0])
    found = [np.full(case.candidates.cost.shape, np.nan) for case in cases]

    def work(rx: int) -> None:
        for case, out in zip(cases, found):
            close = 0.5 * (case.candidates.cost - case.candidates.cost[:, :1]) < CLOSE
            close &= case.candidates.phase >= 0
            chosen = np.flatnonzero((case.positions // disks.shape[1] == rx) & (close.sum(axis=1) > 1))
            if len(chosen):
                out[chosen] = _compare(look, case, chosen, close[chosen], table, background)

    for _ in in_threads(work, range(disks.shape[0])):
        pass
    whole = np.full(first.cost.shape, np.nan)
    whole[single] = found[0]
    return Looked(whole, found[1], found[2])


def _patterns_at(cube: DataCube, positions: np.ndarray) -> Any:
    """Return the patterns of positions of one scan row, (n, Qx, Qy), as the source gives them."""
    rx, ry = int(positions[0]) // cube.scan_shape[1], positions % cube.scan_shape[1]
    row = cube.source.read(slice(rx, rx + 1), slice(0, cube.scan_shape[1]))[0, ...]
    return arrays.namespace(row).take(row, arrays.from_numpy(ry, row), axis=0)


def _counting(cube: DataCube) -> np.ndarray:
    """Return (Qx, Qy) bool: the detector mask."""
    return np.ones(cube.detector_shape, bool) if cube.detector_mask is None else cube.detector_mask


def _background(look: Look, disks: PointListArray, case: _Case) -> np.ndarray:
    """Return counts per pixel by distance from the origin, outside of all disks: found ones, and those that candidates expect."""
    cube, frame, libraries, radius = look.cube, look.frame, look.libraries, look.radius
    bins = int(np.hypot(*cube.detector_shape)) + 2
    sums, pixels = np.zeros(bins), np.zeros(bins)
    host, origin = disks.to_host(), frame.origin.reshape(-1, 2)
    found = np.stack([host.flat("qx"), host.flat("qy")], axis=-1)
    for rx in np.unique(np.linspace(0, disks.shape[0] - 1, BACKGROUND_ROWS).astype(int)):
        rows = np.flatnonzero(case.positions // disks.shape[1] == rx)
        if not len(rows):
            continue
        at = case.positions[rows]
        spots = _spots(Candidates(*(f[rows, :2] for f in case.candidates)), libraries, origin[at], frame.matrix, 0.03)
        owners, places = [spots.owner // 2, np.arange(len(rows))], [spots.place, origin[at]]
        for i, position in enumerate(at):
            inside = slice(int(host.offsets[position]), int(host.offsets[position + 1]))
            owners.append(np.full(inside.stop - inside.start, i))
            places.append(found[inside])
        place, owner = np.concatenate(places), np.concatenate(owners)
        good = np.isfinite(place).all(axis=-1)
        free = free_pixels(cube.detector_shape, len(rows), owner[good], place[good], radius) & _counting(cube)
        more = radial_background(_patterns_at(cube, at), free, origin[at], bins)
        sums, pixels = sums + more[0], pixels + more[1]
    known = np.flatnonzero(pixels > 0)
    return np.interp(np.arange(bins), known, sums[known] / pixels[known]) if len(known) else np.zeros(bins)


def _spots(
    candidates: Candidates, libraries: list[OrientationLibrary], origin: np.ndarray, matrix: np.ndarray, least: float = 0.0
) -> Spots:
    """Return the spots of candidates (n, k); owners are n · k numbers. Candidates that are none have none."""
    k = candidates.phase.shape[1]
    phase, turns, scale = candidates.phase.reshape(-1), candidates.turns.reshape(-1, 3, 3), candidates.scale.reshape(-1)
    centre, parts = np.repeat(origin, k, axis=0), []
    for number, library in enumerate(libraries):
        own = np.flatnonzero(phase == number)
        spots = expected_spots(turns[own], scale[own], library, centre[own], matrix, least)
        parts.append((own[spots.owner], spots.place, spots.height))
    return Spots(*(np.concatenate(fields) for fields in zip(*parts)))


def _compare(
    look: Look, case: _Case, chosen: np.ndarray, close: np.ndarray, table: tuple[np.ndarray, np.ndarray], background: np.ndarray
) -> np.ndarray:
    """Return the log likelihood of the close candidates of some positions of one scan row, NaN for the others."""
    cube, frame = look.cube, look.frame
    positions = case.positions[chosen]
    some = Candidates(*(field[chosen] for field in case.candidates))
    some = some._replace(phase=np.where(close, some.phase, -1))
    origin = frame.origin.reshape(-1, 2)[positions]
    peaks, counts = table[0][case.rows[chosen]], table[1][case.rows[chosen]]
    strange = (some.expected[:, 0] <= EXPLAINED * peaks[..., 2]) & (np.arange(peaks.shape[1]) < counts[:, None])
    owner, which = np.nonzero(strange)
    place = peaks[owner, which, :2] @ np.linalg.inv(frame.matrix).T + origin[owner]
    usable = free_pixels(cube.detector_shape, len(chosen), owner, place, look.radius) & _counting(cube)
    k = close.shape[1]
    spots = _spots(some, look.libraries, origin, frame.matrix)
    patterns = _patterns_at(cube, positions)
    beside = (arrays.from_numpy(a, patterns) for a in (usable, spots.owner // k, spots.table, origin, background))
    gain = arrays.to_numpy(spot_likelihood(patterns, *beside, radius=look.radius, relative=look.relative))
    return np.where(close, np.bincount(spots.owner, gain, close.size).reshape(-1, k), np.nan)
