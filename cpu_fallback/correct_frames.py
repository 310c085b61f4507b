"""Correct raw frames (CPU twin). Frames that may have a hit are looked at again, which few are.

All frames of the call are worked through row by row of the detector, so that the tables of a row stay in the first-level cache. Values
are computed in double precision. Gains are multiplied with as their inverse.
"""

import math

import numpy as np

from gpu4d.compiled import contiguous, entry, helper, read_only
from gpu4d.data.correct_frames import AROUND, MOST_OF_A_HIT, NEAR


@helper()
def _fill_lines(pixels, levels, edge, clip, axis, counts, lines):
    """Write the mean of the edge pixels of every line, times its share. `counts` is overwritten."""
    starts, stops, line_of, shares = edge
    for i in range(lines.size):
        lines[i], counts[i] = 0.0, 0.0
    for r in range(starts.size):
        first, length, line = starts[r], stops[r] - starts[r], line_of[r]
        run, level, share = pixels[first : stops[r]], levels[first : stops[r]], shares[first : stops[r]]
        if axis == 0:  # every pixel of the run is of another line
            total, count = lines[line : line + length], counts[line : line + length]
            for k in range(length):
                value = np.float64(run[k]) - level[k]
                used = np.float64(abs(value) <= clip)
                total[k] += value * share[k] if used > 0 else 0.0
                count[k] += used
        else:
            for k in range(length):
                value = np.float64(run[k]) - level[k]
                used = np.float64(abs(value) <= clip)
                lines[line] += value * share[k] if used > 0 else 0.0
                counts[line] += used
    for i in range(lines.size):
        if counts[i] > 0:
            lines[i] /= counts[i]


@helper()
def _value(frame, ground, factor, line, x, y):
    """Return one corrected pixel, by the same steps as the loop over all."""
    return np.float32((np.float64(frame[x, y]) - ground[x, y] - line) * factor[x, y])


@helper()
def _count_bright(frame, ground, factor, lines, axis, certain, x, y):
    count = 0
    for a in range(max(0, x - AROUND), min(frame.shape[0], x + AROUND + 1)):
        for b in range(max(0, y - AROUND), min(frame.shape[1], y + AROUND + 1)):
            count += _value(frame, ground, factor, lines[b if axis == 0 else a], a, b) > certain[a, b]
    return count


@helper()
def _remove_hits(frame, ground, factor, lines, axis, hits, out):
    """Replace hits, in a frame that has a bright pixel."""
    for x in range(frame.shape[0]):
        for y in range(frame.shape[1]):
            if not _value(frame, ground, factor, lines[y if axis == 0 else x], x, y) > hits[2, x, y]:
                continue
            for a in range(max(0, x - NEAR), min(frame.shape[0], x + NEAR + 1)):
                for b in range(max(0, y - NEAR), min(frame.shape[1], y + NEAR + 1)):
                    if _value(frame, ground, factor, lines[b if axis == 0 else a], a, b) > hits[1, a, b]:
                        if _count_bright(frame, ground, factor, lines, axis, hits[2], a, b) <= MOST_OF_A_HIT:
                            out[a, b] = hits[0, a, b]


@entry(allocates=True)
def _correct(frames, ground, factor, edge, clip, axis, hits, moved, out):
    to, source = moved
    n, nx, ny = frames.shape
    lines = np.zeros((n, ny if axis == 0 else nx))
    counts, bright, kept = np.zeros(lines.shape[1]), np.zeros(n, np.int64), np.zeros(to.size, np.float32)
    if edge[0].size:
        for f in range(n):
            _fill_lines(frames[f].reshape(nx * ny), ground.reshape(nx * ny), edge, clip, axis, counts, lines[f])
    for x in range(nx):
        level, scale = ground[x], factor[x]
        for f in range(n):
            row, made = frames[f, x], out[f, x]
            if axis == 0:
                across = lines[f]
                for y in range(ny):
                    made[y] = (np.float64(row[y]) - level[y] - across[y]) * scale[y]
            else:
                line = lines[f, x]
                for y in range(ny):
                    made[y] = (np.float64(row[y]) - level[y] - line) * scale[y]
            if hits.shape[1]:
                certain, number = hits[2, x], np.int32(0)
                for y in range(ny):
                    number += np.int32(made[y] > certain[y])
                bright[f] += number
    for f in range(n):
        if bright[f]:
            _remove_hits(frames[f], ground, factor, lines[f], axis, hits, out[f])
        flat = out[f].reshape(nx * ny)
        for k in range(to.size):
            kept[k] = flat[source[k]]
        for k in range(to.size):
            flat[to[k]] = kept[k]


def correct_frames(frames, background, /, *, gain=None, edge=None, clip=math.inf, axis=0, hits=None, taken_from=None):
    shape = frames.shape[-2:]
    ground = contiguous(background, np.float64)
    factor = contiguous(1.0 / (np.ones(shape) if gain is None else np.asarray(gain, np.float64)))
    limits = contiguous(np.zeros((3, 0, 0)) if hits is None else hits, np.float32)
    source = np.zeros(0, np.int64) if taken_from is None else np.asarray(taken_from, np.int64).ravel()
    to = np.flatnonzero(source != np.arange(source.size))
    moved = read_only(to), read_only(np.ascontiguousarray(source[to]))
    out = np.empty(frames.shape, np.float32)
    given = contiguous(frames.astype(np.uint8) if frames.dtype.kind == "b" else frames).reshape(-1, *shape)
    _correct(given, ground, factor, _kept_runs(edge, axis), float(clip), int(axis), limits, moved, out.reshape(-1, *shape))
    return out


def _edge_runs(edge, axis):
    """Return the runs of edge pixels along the rows: first place, place behind the last, line of the first; and the shares."""
    share = np.zeros(0) if edge is None else np.asarray(edge, np.float64)
    if edge is None:
        none = read_only(np.zeros(0, np.int64))
        return none, none, none, read_only(share)
    ends = np.flatnonzero(np.diff(np.pad(share > 0, ((0, 0), (1, 1))).astype(np.int8), axis=1))
    row, column = np.divmod(ends, share.shape[1] + 1)
    places = row * share.shape[1] + column
    lines = (column if axis == 0 else row)[::2]
    return tuple(read_only(np.ascontiguousarray(part)) for part in (places[::2], places[1::2], lines, share.ravel()))


def _kept_runs(edge, axis):
    """Return the runs. They are kept for the next call, which usually has the same edge."""
    kept, kept_axis, runs = _last_runs[0]
    same = edge is not None and kept is not None and axis == kept_axis and np.array_equal(edge, kept)
    if not same:
        runs = _edge_runs(edge, axis)
        if edge is not None:
            _last_runs[0] = np.array(edge), axis, runs
    return runs


_last_runs = [(None, 0, None)]  # edge, axis, and their runs
