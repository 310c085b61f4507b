"""Walk through the packets of a Timepix3 recording: triggers, and the scan position of every hit (numba).

A recording is a sequence of chunks. A chunk is one word of 64 bits, lowest byte first, with "TPX3", the chip and the number of bytes that
follow, and then as many words. The four highest bits of a word say what it is (manual of SERVAL, appendix "TPX3 raw file format"):

* 0xb, a hit: pixel address (16 bits from bit 44), time of arrival (14 bits from 30, 25 ns), time over threshold (10 bits from 20), fine
  time of arrival (4 bits from 16, 1.5625 ns, counted backwards), and the clock of the readout board (16 bits from 0, 2¹⁴ · 25 ns).
* 0x6, an edge of a trigger: 0x6f and 0x6a rise and fall on input 1, 0x6e and 0x6b on input 2. Time in 35 bits from 9 (3.125 ns), and its
  twelfths in 4 bits from 5, from 1 on.

Other words are of no use here. All times are in ticks of 1.5625 ns. Clocks of hits begin anew every 2³⁴ ticks (26.8 s), those of triggers
every 2³⁶; `_nearest` finds the turn.
"""

import numpy as np

from gpu4d.compiled import entry, helper

TICK = 1.5625e-9  # s
HIT_TURN = np.int64(1) << 34  # ticks
EDGE_TURN = np.int64(1) << 36  # ticks
HEADER = np.uint64(0x33585054)  # "TPX3"
LOW = np.uint64(0xFFFFFFFF)
CHIPS = 256  # that a header can name
EDGES = 4  # kinds: rising 1, falling 1, rising 2, falling 2
OK, NO_HEADER, CUT_SHORT, TOO_MANY = 0, 1, 2, 3


@helper()
def _bits(word, first, number):
    return np.int64((word >> np.uint64(first)) & ((np.uint64(1) << np.uint64(number)) - np.uint64(1)))


@helper()
def _nearest(raw, now, turn):
    """Return the time next to `now` at which a clock that begins anew every `turn` shows `raw`."""
    return raw + (now - raw + turn // 2) // turn * turn


@helper()
def _hit_time(word):
    return ((_bits(word, 0, 16) << 14 | _bits(word, 30, 14)) << 4) - _bits(word, 16, 4)


@helper()
def _edge_time(word):
    twelfths = _bits(word, 5, 4)
    return _bits(word, 9, 35) * 2 + (1 if twelfths > 6 else 0)


@helper()
def _edge_kind(word):
    """Return 0 … 3 for an edge of a trigger, -1 for other words."""
    kind = _bits(word, 56, 8)
    return 0 if kind == 0x6F else 1 if kind == 0x6A else 2 if kind == 0x6E else 3 if kind == 0x6B else -1


@entry()
def find_edges(words, times, numbers, hits, found):
    """Find the edges of triggers, and count hits.

    Parameters
    ----------
    words : (n,) uint64
    times : (4, m) int64
        Receives ticks of the edges of each kind; what does not fit is counted only.
    numbers : (4,) int64
        Receives how many edges of each kind there are.
    hits : (256,) int64
        Receives hits of each chip.
    found : (3,) int64
        Receives the clock of the first hit, the number of hits without a time, and the word where the file is damaged.

    Returns
    -------
    int
        OK, NO_HEADER or CUT_SHORT.
    """
    i, now, begun = 0, np.int64(0), False
    numbers[:] = 0
    hits[:] = 0
    found[0], found[1] = -1, 0
    while i < words.size:
        found[2] = i
        if words[i] & LOW != HEADER:
            return NO_HEADER
        chip, length = _bits(words[i], 32, 8), _bits(words[i], 48, 16) // 8
        if length > words.size - i - 1:
            return CUT_SHORT
        for j in range(i + 1, i + 1 + length):
            word = words[j]
            what = _bits(word, 60, 4)
            if what == 0xB:
                if found[0] < 0:
                    found[0] = _hit_time(word)
                hits[chip] += 1
            elif what == 0xA:
                found[1] += 1
            elif what == 0x6:
                kind = _edge_kind(word)
                if kind >= 0:
                    raw = _edge_time(word)
                    now = _nearest(raw, now, EDGE_TURN) if begun else raw
                    begun = True
                    if numbers[kind] < times.shape[1]:
                        times[kind, numbers[kind]] = now
                    numbers[kind] += 1
        i += 1 + length
    return OK


@helper()
def _pixel(table, chip, word):
    return np.int64(table[chip, _bits(word, 44, 16)]) if chip < table.shape[0] else np.int64(-1)


@helper()
def _place(time, k, edges, per_edge, row_ticks, dwell_ticks, width):
    """Return the position of a hit, counted over all scans, and its edge (the last one before it); -1 for a hit between positions."""
    while k + 1 < edges.size and edges[k + 1] <= time:
        k += 1
    while k >= 0 and edges[k] > time:
        k -= 1
    if k < 0:
        return np.int64(-1), k
    since = np.float64(time - edges[k])
    row = np.int64(since / row_ticks)
    column = np.int64((since - row * row_ticks) / dwell_ticks)
    inside = row * width + column
    if column >= min(width, per_edge) or inside >= per_edge:
        return np.int64(-1), k
    return k * per_edge + inside, k


@entry()
def index_hits(words, now, table, edges, per_edge, row_ticks, dwell_ticks, shape, counts, rows):
    """Count the hits at every position, and find for every row which words hold its hits.

    Parameters
    ----------
    words : (n,) uint64
        Whole chunks.
    now : int
        Time of the first edge, which tells the turn of the clock of hits.
    table : (chips, 65536) int32
        Pixel of every address; -1 for none.
    edges : (k,) int64
        Sorted.
    per_edge : int
        Positions that follow an edge.
    row_ticks, dwell_ticks : float
    shape : (2,) int64
        (Rx, Ry).
    counts : (Rx · Ry,) int64
        Receives the hits at every position, of all scans.
    rows : (scans · Rx, 3) int64
        Receives for every row of every scan the first word of its first chunk, the word behind its last hit, and the time at the
        first one. Unchanged where a row has no hit.

    Returns
    -------
    int
        Hits that are in no position.
    """
    i, k, outside = 0, np.int64(0), 0
    positions = shape[0] * shape[1]
    while i < words.size:
        chip, length = _bits(words[i], 32, 8), _bits(words[i], 48, 16) // 8
        before = now
        for j in range(i + 1, min(i + 1 + length, words.size)):  # it may be changed meanwhile
            word = words[j]
            if _bits(word, 60, 4) == 0x6:
                if _edge_kind(word) >= 0:
                    now = _nearest(_edge_time(word), now, EDGE_TURN)
            elif _bits(word, 60, 4) == 0xB:
                now = _nearest(_hit_time(word), now, HIT_TURN)
                place, k = _place(now, k, edges, per_edge, row_ticks, dwell_ticks, shape[1])
                row = place // shape[1]
                if place < 0 or _pixel(table, chip, word) < 0 or row >= rows.shape[0]:
                    outside += 1
                    continue
                counts[place % positions] += 1
                if rows[row, 1] == 0:
                    rows[row, 0], rows[row, 2] = i, before
                rows[row, 1] = j + 1
        i += 1 + length
    return outside


@entry()
def collect_hits(words, now, last, table, edges, per_edge, row_ticks, dwell_ticks, shape, window, cursors, pixels):
    """Write the pixels of hits of some positions, position by position.

    Parameters
    ----------
    words, now, table, edges, per_edge, row_ticks, dwell_ticks, shape
        As in `index_hits`; `words` begin with a chunk, and `now` is the time there.
    last : int
        Word behind the last one to look at.
    window : (5,) int64
        Number of the scan, first row, row behind the last, first column, column behind the last.
    cursors : (positions of the window, 2) int64
        Where in `pixels` the next hit of each goes, and where those of the next position begin. The first is moved on.
    pixels : (m,) int64

    Returns
    -------
    int
        OK, or TOO_MANY if a position has more hits than were counted.
    """
    i, k = 0, np.int64(0)
    positions, columns = shape[0] * shape[1], window[4] - window[3]
    while i < last:
        chip, length = _bits(words[i], 32, 8), _bits(words[i], 48, 16) // 8
        for j in range(i + 1, min(i + 1 + length, last, words.size)):
            word = words[j]
            if _bits(word, 60, 4) == 0x6:
                if _edge_kind(word) >= 0:
                    now = _nearest(_edge_time(word), now, EDGE_TURN)
            elif _bits(word, 60, 4) == 0xB:
                now = _nearest(_hit_time(word), now, HIT_TURN)
                place, k = _place(now, k, edges, per_edge, row_ticks, dwell_ticks, shape[1])
                pixel = _pixel(table, chip, word)
                if place < 0 or pixel < 0 or place // positions != window[0]:
                    continue
                row, column = place % positions // shape[1], place % shape[1]
                if row < window[1] or row >= window[2] or column < window[3] or column >= window[4]:
                    continue
                at = (row - window[1]) * columns + column - window[3]
                if cursors[at, 0] >= cursors[at, 1]:
                    return TOO_MANY
                pixels[cursors[at, 0]] = pixel
                cursors[at, 0] += 1
        i += 1 + length
    return OK
