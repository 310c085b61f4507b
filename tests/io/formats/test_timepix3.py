"""Recordings of Timepix3, written bit by bit from the manual's description, give the hits of every position."""

import pickle

import numpy as np
import pytest

import gpu4d
from gpu4d.cli import run_command
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.timepix3 import Timepix3
from gpu4d.io.timing import ScanTiming
from gpu4d.testing.formats import FormatTests
from gpu4d.workflow.inputs import open_scan
from gpu4d.workflow.recipe import Recipe

NS = 1e-9
SCAN, DWELL = (3, 5), 2000 * NS
ROW = 5 * DWELL + 4000 * NS  # with the way back
BEGIN = 26.84353  # s: the clock of hits begins anew during the scan


def word(value):
    return int(value).to_bytes(8, "little")


def hit(seconds, row, column):
    """A pixel that was struck: clocks of 25 ns in 30 bits, and sixteenths of 25 ns that are counted backwards."""
    ticks = round(seconds / (25 * NS / 16))
    coarse = -(-ticks // 16)
    fine = coarse * 16 - ticks
    coarse %= 1 << 30
    address = (column >> 1) << 9 | (row >> 2) << 3 | (column & 1) << 2 | (row & 3)
    return word(0xB << 60 | address << 44 | (coarse & 0x3FFF) << 30 | 33 << 20 | fine << 16 | coarse >> 14)


def edge(seconds, kind):
    """An edge of a trigger: 35 bits of 3.125 ns, and twelfths of it from 1 on."""
    steps = seconds / (3.125 * NS)
    whole = int(np.floor(steps + 1e-6))
    twelfth = int((steps - whole) * 12 + 1e-6) + 1
    return word(kind << 56 | 7 << 44 | (whole % (1 << 35)) << 9 | twelfth << 5)


def chunk(packets, chip=0):
    body = b"".join(packets)
    return b"TPX3" + bytes([chip, 0]) + len(body).to_bytes(2, "little") + body


def scene(scans=1, seed=0, detector=(256, 256)):
    """Hits (seconds, place in the scan, row, column) and their sums at every position."""
    rng = np.random.default_rng(seed)
    expected = np.zeros((*SCAN, *detector), np.uint16)
    hits = []
    for scan in range(scans):
        for rx in range(SCAN[0]):
            for ry in range(SCAN[1]):
                for _ in range(int(rng.integers(2, 9))):
                    x, y = (int(v) for v in rng.integers(0, detector))
                    t = BEGIN + (scan * SCAN[0] + rx) * ROW + ry * DWELL + rng.uniform(0.01, 0.99) * DWELL
                    hits.append((t, x, y))
                    expected[rx, ry, x, y] += 1
            hits.append((BEGIN + (scan * SCAN[0] + rx) * ROW + 5 * DWELL + 1e-6, 1, 1))  # on the way back
    return hits, expected


def record(path, edges, hits, chip=lambda x, y: (0, x, y)):
    """Write packets in chunks as they come: hits of a chip are late by up to a microsecond, chunks are of one chip."""
    rng = np.random.default_rng(1)
    packets = [(t, 0, edge(t, kind)) for t, kind in edges]
    for t, x, y in hits:
        number, x, y = chip(x, y)
        packets.append((t + rng.uniform(0, 1e-6), number, hit(t, x, y)))
    packets.sort(key=lambda p: p[0])
    chunks = []
    for i in range(0, len(packets), 13):
        part = packets[i : i + 13]
        for number in sorted({p[1] for p in part}):
            chunks.append(chunk([p[2] for p in part if p[1] == number] + [word(0x50 << 56)], number))
    path.write_bytes(b"".join(chunks))


def rows(scans=1, kind=0x6F):
    return [(BEGIN + i * ROW, kind) for i in range(scans * SCAN[0])]


class TestTimepix3(FormatTests):
    format, ending = Timepix3(), ".tpx3"

    def options(self):
        return OpenOptions(scan_shape=SCAN, timing=ScanTiming(dwell=DWELL))

    def write(self, path):
        hits, expected = scene()
        record(path, rows(), hits)
        return expected


def opened(path, **timing):
    return gpu4d.open(path, scan_shape=SCAN, timing=ScanTiming(**timing))


def dense(cube):
    return cube.source.read(slice(0, SCAN[0]), slice(0, SCAN[1]))


@pytest.mark.parametrize("case", ["rows that last", "positions", "one start", "input 2", "no triggers"])
def test_what_a_trigger_may_start(tmp_path, case):
    hits, expected = scene()
    falls = [(t + 5 * DWELL, 0x6A) for t, _ in rows()]
    every = [(BEGIN + i * ROW + j * DWELL, 0x6F) for i in range(3) for j in range(5)]
    edges, timing = {
        "rows that last": (rows() + falls, {}),
        "positions": (every, {"dwell": DWELL}),
        "one start": (rows()[:1], {"dwell": DWELL, "flyback": ROW - 5 * DWELL}),
        "input 2": (rows(kind=0x6E) + rows()[:2], {"dwell": DWELL}),
        "no triggers": ([], {"dwell": DWELL, "flyback": ROW - 5 * DWELL, "start": 3e-6}),
    }[case]
    record(tmp_path / "a", edges, [(BEGIN - 3e-6, 0, 0), *hits])
    np.testing.assert_array_equal(dense(opened(tmp_path / "a", **timing)), expected)


def test_scans_of_one_area_are_added(tmp_path):
    hits, expected = scene(scans=3)
    record(tmp_path / "a", rows(3), hits)
    cube = opened(tmp_path / "a", dwell=DWELL)
    np.testing.assert_array_equal(dense(cube), expected)
    assert cube.metadata["scans_added"] == 3 and cube.metadata["hits_outside"] == 9
    again = pickle.loads(pickle.dumps(cube.source))
    np.testing.assert_array_equal(again.read(slice(1, 3), slice(2, 4)), expected[1:3, 2:4])


def test_four_chips_lie_in_a_square(tmp_path):
    """Chip 3 is upright at the upper left, 0 to its right; the lower ones 2 and 1 are turned by half a turn; 4 pixels between."""
    detector = (516, 516)
    hits, expected = scene(detector=detector)
    between = np.zeros(516, bool)
    between[256:260] = True
    hits = [h for h in hits if not (between[h[1]] or between[h[2]])]
    expected[:, :, between], expected[..., between] = 0, 0

    def chip(x, y):
        upper, left = x < 256, y < 256
        if upper:
            return (3, x, y) if left else (0, x, y - 260)
        return (2, 515 - x, 255 - y) if left else (1, 515 - x, 515 - y)

    record(tmp_path / "a", rows(), hits, chip)
    cube = opened(tmp_path / "a", dwell=DWELL)
    np.testing.assert_array_equal(dense(cube), expected)
    np.testing.assert_array_equal(cube.detector_mask, ~(between[:, None] | between))


def test_events_stay_events(tmp_path):
    hits, expected = scene()
    record(tmp_path / "a", rows(), hits)
    found = gpu4d.sweep(opened(tmp_path / "a", dwell=DWELL), {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()})
    np.testing.assert_allclose(np.asarray(found["mean"]), expected.mean((0, 1)))


@pytest.mark.parametrize(
    "edges, timing, scan, message",
    [
        (rows(), {}, None, "3 triggers on input 1: give the scan's shape"),
        (rows(), {}, SCAN, "how long a position lasts"),
        (rows()[:2], {"dwell": DWELL}, SCAN, "one for each position, 15, each row, 3"),
        ([], {"dwell": DWELL}, SCAN, "no triggers: without triggers"),
        (rows() + rows(kind=0x6E), {"dwell": DWELL}, SCAN, "both fit"),
        ([(t + 9.0, k) for t, k in rows()], {"dwell": DWELL}, SCAN, "none of its .* hits is at a position"),
    ],
)
def test_what_is_not_known_is_said(tmp_path, edges, timing, scan, message):
    record(tmp_path / "a", edges, scene()[0])
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a", scan_shape=scan, timing=ScanTiming(**timing))


@pytest.mark.parametrize(
    "raw, message",
    [
        (chunk([hit(1.0, 3, 4)], 7), "hits of chip 7"),
        (chunk([word(0xA << 60)]), "integrated mode"),
        (chunk([word(0x50 << 56)]), "no hits"),
        (chunk([hit(1.0, 3, 4)]) + word(12), "no header of a chunk at byte 16"),
        (chunk([hit(1.0, 3, 4)] * 2)[:-8], "longer than the file at byte 0"),
        (chunk([hit(1.0, 3, 4)])[:-1], "whole number of packets"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, raw, message):
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "a", dwell=DWELL)


@pytest.mark.parametrize("given", [{"dwell": 0}, {"dwell": -1.0}, {"dwell": float("nan")}, {"starts": "frame"}, {"channel": 3}])
def test_timing_is_checked(given):
    with pytest.raises(InputError, match=r"need seconds|accepted are"):
        ScanTiming(**given)


def test_the_command_line_says_where_the_probe_was(tmp_path, capsys):
    hits, expected = scene()
    record(tmp_path / "a.tpx3", rows()[:1], hits)
    words = ["info", str(tmp_path / "a.tpx3"), "--scan-shape", "3,5", "--dwell", "2us", "--trigger", "scan", "--pause", "4us"]
    assert run_command(words) == 0
    said = capsys.readouterr().out
    assert f"{int(expected.sum())} hits" in said and "--trigger=scan" in said
    recipe = Recipe()
    for name, value in {"scan_shape": [3, 5], "dwell": DWELL, "trigger": "scan", "pause": ROW - 5 * DWELL}.items():
        recipe.set(f"input.{name}", value)
    np.testing.assert_array_equal(dense(open_scan(tmp_path / "a.tpx3", recipe)), expected)
