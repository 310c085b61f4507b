"""Correct raw frames (CPU twin): one loop over the pixels of a frame. Frames that may have a hit are looked at again, which few are.

Frames of 8 and 16 bits are corrected in single precision, which vectorises twice as wide and holds all their values. Wider ones are
subtracted in double precision.
"""

import math

import numpy as np

from gpu4d.compiled import contiguous, entry, helper, read_only
from gpu4d.data.correct_frames import AROUND, MOST_OF_A_HIT, NEAR


@helper()
def _fill_lines(frame, ground, edge_pixels, shares, clip, axis, counts, lines):
    """Write the mean of the edge pixels of every line, times its share. `counts` is overwritten."""
    ny = frame.shape[1]
    for i in range(lines.size):
        lines[i], counts[i] = 0.0, 0.0
    for k in range(edge_pixels.size):
        x, y = edge_pixels[k] // ny, edge_pixels[k] % ny
        value = np.float64(ground.dtype.type(frame[x, y]) - ground[x, y])
        if abs(value) <= clip:
            line = y if axis == 0 else x
            lines[line] += value * shares[k]
            counts[line] += 1.0
    for i in range(lines.size):
        if counts[i] > 0:
            lines[i] /= counts[i]


@helper()
def _value(frame, ground, gain, lines, axis, x, y):
    """Return one corrected pixel, by the same steps as the loop over all."""
    kind = ground.dtype.type
    line = kind(lines[y]) if axis == 0 else kind(lines[x])
    return np.float32((kind(frame[x, y]) - ground[x, y] - line) / gain[x, y])


@helper()
def _count_bright(frame, ground, gain, lines, axis, certain, x, y, reach):
    count = 0
    for a in range(max(0, x - reach), min(frame.shape[0], x + reach + 1)):
        for b in range(max(0, y - reach), min(frame.shape[1], y + reach + 1)):
            count += _value(frame, ground, gain, lines, axis, a, b) > certain[a, b]
    return count


@helper()
def _remove_hits(frame, ground, gain, lines, axis, hits, out):
    """Replace hits, in a frame that has a bright pixel."""
    for x in range(frame.shape[0]):
        for y in range(frame.shape[1]):
            if not _value(frame, ground, gain, lines, axis, x, y) > hits[2, x, y]:
                continue
            for a in range(max(0, x - NEAR), min(frame.shape[0], x + NEAR + 1)):
                for b in range(max(0, y - NEAR), min(frame.shape[1], y + NEAR + 1)):
                    if _value(frame, ground, gain, lines, axis, a, b) > hits[1, a, b]:
                        if _count_bright(frame, ground, gain, lines, axis, hits[2], a, b, AROUND) <= MOST_OF_A_HIT:
                            out[a, b] = hits[0, a, b]


@entry(allocates=True)
def _correct(frames, ground, gain, edge, clip, axis, hits, moved, out):
    edge_pixels, shares = edge
    to, source = moved
    n, nx, ny = frames.shape
    lines = np.zeros(ny if axis == 0 else nx)
    counts, across = np.zeros(lines.size), np.zeros(ny, ground.dtype)
    for f in range(n):
        frame, bright = frames[f], np.int32(0)
        if edge_pixels.size:
            _fill_lines(frame, ground, edge_pixels, shares, clip, axis, counts, lines)
        if axis == 0:
            for y in range(ny):
                across[y] = lines[y]
        for x in range(nx):
            if axis == 1:
                for y in range(ny):
                    across[y] = lines[x]
            row, level, response, made = frame[x], ground[x], gain[x], out[f, x]
            if hits.shape[1] == 0:
                for y in range(ny):
                    made[y] = (ground.dtype.type(row[y]) - level[y] - across[y]) / response[y]
            else:
                certain = hits[2, x]
                for y in range(ny):
                    value = np.float32((ground.dtype.type(row[y]) - level[y] - across[y]) / response[y])
                    made[y] = value
                    bright += np.int32(value > certain[y])
        if bright:
            _remove_hits(frame, ground, gain, lines, axis, hits, out[f])
        flat = out[f].reshape(nx * ny)
        for k in range(to.size):
            flat[to[k]] = flat[source[k]]


def correct_frames(frames, background, /, *, gain=None, edge=None, clip=math.inf, axis=0, hits=None, taken_from=None):
    shape = frames.shape[-2:]
    wide = frames.dtype.kind == "f" or frames.dtype.itemsize > 2
    ground = contiguous(background, np.float64 if wide else np.float32)
    response = contiguous(np.ones(shape) if gain is None else gain, ground.dtype)
    chosen = np.zeros(0, np.int64) if edge is None else np.flatnonzero(np.asarray(edge) > 0)
    shares = np.zeros(0) if edge is None else np.asarray(edge, np.float64).ravel()[chosen]
    limits = contiguous(np.zeros((3, 0, 0)) if hits is None else hits, np.float32)
    source = np.zeros(0, np.int64) if taken_from is None else np.asarray(taken_from, np.int64).ravel()
    to = np.flatnonzero(source != np.arange(source.size))
    out = np.empty(frames.shape, np.float32)
    given = contiguous(frames.astype(np.uint8) if frames.dtype.kind == "b" else frames).reshape(-1, *shape)
    edge_pixels = read_only(chosen), read_only(shares)
    moved = read_only(to), read_only(np.ascontiguousarray(source[to]))
    _correct(given, ground, response, edge_pixels, float(clip), int(axis), limits, moved, out.reshape(-1, *shape))
    return out
