"""Cubes that lie on a device in order: how they are cut, what the plan counts, and that results do not depend on it.

Arrays of a library that is neither NumPy nor on a GPU stand for them here; those of CuPy are in `test_launch_counts.py`.
"""

import importlib

import numpy as np
import pytest

import gpu4d
from gpu4d.device import memory
from gpu4d.errors import MemoryBudgetError
from gpu4d.streaming import tiles
from gpu4d.streaming.place import in_order
from gpu4d.streaming.plan import plan
from gpu4d.streaming.tiles import cut

planning = importlib.import_module("gpu4d.streaming.plan")
FRAME = 16 * 12 * 2


@pytest.fixture
def resident(monkeypatch):
    """A function that makes a cube of an array that counts as one on a device; tiles hold 4 patterns, updates up to `bytes_`."""
    xp = pytest.importorskip("array_api_strict")

    def make(data, bytes_=40 * FRAME):
        monkeypatch.setattr(tiles, "TILE_BYTES", 4 * FRAME)
        monkeypatch.setattr(planning, "CHUNK_BYTES", 8 * FRAME)
        monkeypatch.setattr(planning, "RESIDENT_BYTES", bytes_)
        monkeypatch.setattr(planning, "in_order", lambda cube: True)
        return gpu4d.DataCube(xp.asarray(data))

    return make


def counts(shape=(12, 10, 16, 12), dtype="uint16"):
    return np.random.default_rng(0).poisson(5, shape).astype(dtype)


class Seen:
    """A reduction that notes what it is given."""

    def __init__(self, least=0):
        self.updates, self.rooms, self.least = [], [], least

    def bytes_needed(self, scan, n_frames):
        return self.least * n_frames

    def passes(self, scan, budget):
        return 1

    def in_tiles(self):
        return False

    def start(self, scan, device, pass_=0):
        self.scan = scan

    def update(self, frames, positions):
        self.updates.append(positions)
        self.rooms.append(memory.room())

    def state(self):
        return {}

    def restore(self, state):
        pass

    def merge(self, state):
        pass

    def finish(self):
        return self.updates


def test_row_blocks_of_a_cube_on_a_device_are_as_long_as_an_update():
    shape, frame = (512, 512, 128, 128), 128 * 128 * 2
    alone, there = cut(shape, frame, (1, 1)), cut(shape, frame, (1, 1), 1 << 30)
    assert (alone.rows, alone.columns) == (there.rows, there.columns), "tiles are what sums of floats are made over"
    assert alone.block_rows * 512 * frame == 134_217_728 and there.block_rows * 512 * frame == 1 << 30
    small = cut((20, 30, 8, 8), 128, (1, 1), 1 << 30)
    assert 20 <= small.block_rows < 20 + small.rows, "no more tiles than there are"
    huge = cut((64, 256, 2048, 2048), 8 << 20, (1, 1), 1 << 30)
    assert huge.block_rows == cut((64, 256, 2048, 2048), 8 << 20, (1, 1)).block_rows == 1


def test_updates_are_whole_scan_rows(resident):
    """Ten patterns a row, tiles of four, four and two: an update has four rows."""
    seen = Seen()
    positions = np.concatenate(gpu4d.sweep(resident(counts()), seen))
    np.testing.assert_array_equal(positions, np.argwhere(np.ones((12, 10))))
    assert [len(one) for one in seen.updates] == [40, 40, 40]
    few = Seen()
    gpu4d.sweep(resident(counts()), few, where=np.arange(120).reshape(12, 10) != 57)
    assert [len(one) for one in few.updates] == [40, 39, 40]


def test_frames_that_are_not_copied_do_not_count(resident):
    cube = resident(counts())
    todo = plan(cube, {"seen": Seen()}, memory=10_000)
    assert todo.chunk_bytes >= 40 * FRAME > 10_000 and todo.bytes == todo.held_bytes < 10_000 and not todo.copied
    assert todo.room == 10_000 - todo.bytes


def test_what_updates_need_decides_how_long_they_are(resident):
    """1000 bytes a pattern: 40 of them, or fewer patterns at a time, down to one segment."""
    cube = resident(counts())
    for budget, most in ((60_000, 40), (30_000, 20), (5_000, 4), (3_000, 2)):
        seen = Seen(least=1000)
        gpu4d.sweep(cube, seen, memory=budget)
        assert max(len(one) for one in seen.updates) <= most and sum(map(len, seen.updates)) == 120
        assert most < 40 or len(seen.updates) == 3
    with pytest.raises(MemoryBudgetError):
        gpu4d.sweep(cube, Seen(least=1000), memory=900)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_results_have_the_same_bits_however_long_updates_are(resident, dtype):
    cube = resident(counts(dtype=dtype))
    asked = lambda: {"image": gpu4d.VirtualImage(np.ones((16, 12), bool)), "mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()}  # noqa: E731
    results, lengths = [], []
    for budget in ("1 GB", "300 kB", "200 kB"):
        lengths.append(plan(cube, asked(), memory=budget).chunk_tiles)
        results.append(gpu4d.sweep(cube, asked(), memory=budget))
    tiles_in_a_row = 3 if dtype == "uint16" else 5
    assert lengths[0] > lengths[2] and lengths[0] % tiles_in_a_row == 0, "whole rows where there is memory"
    for name in asked():
        first, *others = (np.asarray(found[name].data) for found in results)
        assert all(first.tobytes() == other.tobytes() for other in others), name


def test_arrays_on_the_host_and_files_are_not_resident_on_a_device():
    assert not in_order(gpu4d.DataCube(counts()))
    torch = pytest.importorskip("torch")
    assert not in_order(gpu4d.DataCube(torch.zeros((2, 2, 4, 4))))


def test_updates_are_told_what_the_plan_leaves_them():
    cube, seen = gpu4d.DataCube(counts()), Seen()
    gpu4d.sweep(cube, seen, memory="10 MB", device="cpu")
    todo = plan(cube, {"seen": Seen()}, memory="10 MB", device="cpu")
    assert todo.room == 10_000_000 - todo.bytes and set(seen.rooms) == {todo.room // todo.lanes}
    assert memory.room() is None, "nothing is said outside of a sweep"
