"""Memory that runs out anywhere in a sweep: in a reduction, a source, before and after a pass."""

import importlib

import numpy as np
import pytest
from failing_sweeps import SHAPE, Hungry, Stored, Trips, bits, every_reduction, given_back, scan, trip_reductions, where_it_runs

import gpu4d
from gpu4d.errors import MemoryBudgetError
from gpu4d.streaming import BlockSums, ScanInfo, tiles
from gpu4d.streaming.conveyor import _rectangle, _runs
from gpu4d.streaming.tiles import Tile
from gpu4d.testing.accounting import AccountingProcessor, VirtualSource

pytestmark = pytest.mark.usefixtures("small_tiles")


def test_arrays_in_place_are_taken_in_runs(monkeypatch):
    """Parts of rows, several at a time: only what follows in the scan is taken together."""
    xp = pytest.importorskip("array_api_strict")
    for shape in ((26, 18, 5, 4), (7, 150, 5, 4), (9, 3, 5, 4)):
        data = scan("uint16", shape)
        module = importlib.import_module("gpu4d.streaming.plan")
        monkeypatch.setattr(tiles, "TILE_BYTES", 6 * 40)
        for together in (1, 2, 3, 7, 40):
            monkeypatch.setattr(module, "CHUNK_BYTES", together * 6 * 40)
            found = gpu4d.sweep(gpu4d.DataCube(xp.asarray(data)), gpu4d.VirtualImage(np.ones(shape[2:], bool)))
            np.testing.assert_array_equal(np.asarray(found.data), data.sum((2, 3)))


def test_runs_of_tiles_keep_the_order_of_their_positions():
    rng = np.random.default_rng(4)
    for _ in range(200):
        rx, ry, rows, columns = (int(n) for n in rng.integers(1, 9, 4))
        edges = lambda n, step: [slice(i, min(i + step, n)) for i in range(0, n, step)]  # noqa: E731
        tiles = [Tile(r, c) for r in edges(rx, rows) for c in edges(ry, columns)]
        first, last = sorted(int(n) for n in rng.integers(0, len(tiles) + 1, 2))
        chosen = tuple(tile for tile in tiles[first:last] if rng.random() < 0.9)
        runs = [(run, Tile(*_rectangle(run))) for run in _runs(chosen, ry)]
        assert tuple(tile for run, _ in runs for tile in run) == chosen
        for run, whole in runs:
            np.testing.assert_array_equal(whole.positions(), np.concatenate([tile.positions() for tile in run]))


def test_sums_asked_for_too_early_are_in_row_order_too():
    info = ScanInfo((4, 2, 1, 1), np.dtype("float64"), block_rows=(0, 1, 2, 3, 4))
    parts = [1e16, 1.0, -1e16, 1.0]  # order matters to the last bit
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        sums = BlockSums(info)
        for block in order:
            sums.add(np.array([[block, 0]]), parts[block])  # the first of two frames
        assert sums.result() == ((1e16 + 1.0) - 1e16) + 1.0 and sums.folded == 0


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("accounting", "uint16"), ("accounting", "float32"), ("cpu", "uint16"), ("cpu in place", "float32"), ("strict", "uint16")],
)
@pytest.mark.parametrize("names", ["each alone", pytest.param("all together", marks=pytest.mark.slow)])
def test_memory_that_runs_out_inside_a_reduction(kind, dtype, names, monkeypatch):
    """The update that failed took nothing: the answer is the undisturbed one, and progress counts every pattern once."""
    shape = (8, 9, *SHAPE[2:]) if kind == "strict" else SHAPE  # definitions of a strict library are slow
    data = scan(dtype, shape)
    cube, device = where_it_runs(kind, data)
    reductions = every_reduction(shape)
    if kind == "strict":
        del reductions["disks"]  # their definition takes most of the time, and they keep what they have in the same way on every device
    wanted = bits(gpu4d.sweep(cube, reductions, device=device))
    together = [tuple(wanted)] if names == "all together" else [(name,) for name in wanted]
    tripped = 0
    for seed in range(1 if kind == "strict" else 2):
        for chosen in together:
            with monkeypatch.context() as patch:
                least = 2 if kind == "strict" else 12  # its tiles are few updates, with few calls
                trips, calls = Trips(seed, least=least, spread=100 if len(chosen) > 1 else least), []
                trip_reductions(patch, trips)
                asked = {name: r for name, r in every_reduction(shape).items() if name in chosen}
                found = gpu4d.sweep(cube, asked, device=device, progress=lambda *call, calls=calls: calls.append(call))
            assert bits(found) == {name: wanted[name] for name in chosen}, (seed, chosen)
            done = [done for done, _ in calls]
            assert done == sorted(set(done)) and done[-1] == shape[0] * shape[1] and min(done) > 0, (seed, chosen)
            tripped += len(trips.tripped)
    assert tripped >= (2 if kind == "strict" else 3) * len(together), "the test would pass without a failure"


@pytest.mark.parametrize("fused", [("mean", "max", "com"), ("mean", "image"), ("max", "com", "image", "mean")])
def test_one_reading_for_several_is_taken_by_all_or_none(fused, monkeypatch):
    cube = gpu4d.DataCube(Stored(scan()))
    ask = lambda: {name: r for name, r in every_reduction().items() if name in fused}  # noqa: E731
    wanted = bits(gpu4d.sweep(cube, ask()))
    for seed in range(12):
        with monkeypatch.context() as patch:
            trips = Trips(seed, least=5, spread=9, times=12)
            trip_reductions(patch, trips)
            assert bits(gpu4d.sweep(cube, ask(), device=AccountingProcessor())) == wanted
            assert len(trips.tripped) > 2


@pytest.mark.parametrize("device", ["cpu", "accounting"])
def test_memory_that_runs_out_in_a_source(device):
    data = scan()
    wanted = bits(gpu4d.sweep(gpu4d.DataCube(Stored(data)), every_reduction()))
    for seed in range(1, 3):
        trips = Trips(seed, least=8, spread=9)
        cube = gpu4d.DataCube(Stored(data, before=trips))
        processor = "cpu" if device == "cpu" else AccountingProcessor(readers_in_threads=bool(seed % 2))
        assert bits(gpu4d.sweep(cube, every_reduction(), device=processor)) == wanted
        assert len(trips.tripped) > 1


def test_memory_that_never_comes_back_is_an_error_with_three_numbers():
    def never(work):
        raise MemoryError("as asked")

    processor = AccountingProcessor()
    for device in (processor, "cpu"):
        with pytest.raises(MemoryBudgetError, match="single tiles") as error:
            gpu4d.sweep(gpu4d.DataCube(Stored(scan(), before=never)), gpu4d.MeanPattern(), device=device, memory="50 MB")
        assert error.value.cap == 50_000_000 and error.value.free > 0
    assert processor.held == processor.pinned_held == 0 and not processor.faults


@pytest.mark.parametrize("operation", ["allocate", "pinned", "read"])
def test_a_refusal_says_which_memory_ran_out_and_how(operation, monkeypatch):
    """Page-locked and reading memory are the host's: its figure is the one that is free."""
    for module in ("gpu4d.streaming.conveyor", "gpu4d.streaming.plan"):
        monkeypatch.setattr(importlib.import_module(module), "available_memory", lambda: 123_000_000)
    fails = lambda called, number: MemoryError("nobody has any left") if called == operation else None  # noqa: E731
    processor = AccountingProcessor(memory=7e9, failures=fails)
    source = VirtualSource(processor, SHAPE, np.uint16)
    with pytest.raises(MemoryBudgetError, match="memory ran out with: nobody has any left: raise memory=") as error:
        gpu4d.sweep(gpu4d.DataCube(source), gpu4d.MeanPattern(), device=processor, memory="50 MB")
    host = {"allocate": "", "pinned": ", in page-locked memory,", "read": ", in host memory,"}[operation]
    assert f"single tiles{host} needs" in str(error.value)
    assert error.value.free == (123_000_000 if host else 7_000_000_000) and error.value.cap == 50_000_000
    assert 0 < error.value.asked < 50_000_000
    given_back([processor])


@pytest.mark.parametrize(
    "call, where, free",
    [("start", 1, 3_000_000_000), ("state", 1, 3_000_000_000), ("merge", 0, 2_000_000_000), ("finish", 0, 2_000_000_000)],
)
def test_what_cannot_be_done_in_smaller_steps_is_refused_with_the_numbers_of_its_device(call, where, free):
    several = [AccountingProcessor(f"accounting:{i}", memory=m) for i, m in enumerate((2e9, 3e9))]
    reduction = Hungry(call, on=several[where].name if call == "start" else None)
    with pytest.raises(MemoryBudgetError, match=f"memory ran out with: no room to {call}") as error:
        gpu4d.sweep(gpu4d.DataCube(Stored(scan())), reduction, device=several, memory="50 MB")
    assert free - 10_000_000 < error.value.free <= free and error.value.cap == 50_000_000
    assert several[where].name in str(error.value) or call == "finish"
    given_back(several)


@pytest.mark.parametrize("call", ["start", "finish"])
def test_memory_that_runs_out_before_and_after_a_pass_on_the_cpu(call):
    with pytest.raises(MemoryBudgetError, match=f"memory ran out with: no room to {call}"):
        gpu4d.sweep(gpu4d.DataCube(scan()), Hungry(call))


@pytest.mark.parametrize("kind", ["allocate", "pinned"])
@pytest.mark.parametrize("buffers", [1, 2])
def test_a_ring_as_short_as_memory_allows(kind, buffers):
    """A device that has room for one buffer, though it promised more."""
    data = scan()

    def failing(operation, number):
        held = processor.held if kind == "allocate" else processor.pinned_held
        return MemoryError("as asked") if operation == kind and held >= buffers * SHAPE[2] * SHAPE[3] * 2 * 6 else None

    processor = AccountingProcessor(failures=failing)
    found = gpu4d.sweep(gpu4d.DataCube(Stored(data)), gpu4d.MaxPattern(), device=processor)
    np.testing.assert_array_equal(found, data.max((0, 1)))
    given_back([processor])
