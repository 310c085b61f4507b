"""All patterns in memory at once: what is given, on which device, within which memory."""

import tracemalloc

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.preprocess import fill_from_neighbours
from gpu4d.streaming import load_cube, plan, tiles
from gpu4d.streaming.load_cube import LoadedPatterns
from gpu4d.testing.accounting import AccountingProcessor, VirtualSource
from gpu4d.testing.reductions import ReductionTests

SHAPE = (14, 11, 24, 20)
OF_PYTHON = 1_500_000  # bytes of threads, futures, slices and code loaded on the way


def counts(dtype="uint16"):
    return np.random.default_rng(0).poisson(3.0, SHAPE).astype(dtype)


def stored(tmp_path, data, **options):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("scan", data=data, **options)
    return gpu4d.open(tmp_path / "scan.h5")


class TestLoadedPatterns(ReductionTests):
    def make(self):
        return LoadedPatterns()


@pytest.mark.parametrize("options", [{}, {"chunks": (3, 4, 24, 20), "compression": "gzip"}])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_it_is_the_scan(tmp_path, options, dtype):
    found = load_cube(stored(tmp_path, counts(dtype), **options), device="cpu")
    assert type(found) is np.ndarray and found.dtype == dtype and found.flags.writeable
    np.testing.assert_array_equal(found, counts(dtype))


def test_views_corrections_and_positions(tmp_path):
    bad = np.random.default_rng(1).random(SHAPE[2:]) < 0.1
    cube = stored(tmp_path, counts(), chunks=(3, 4, 24, 20)).corrected(bad_pixels=bad)
    clean, where = fill_from_neighbours(counts(), ~bad), np.random.default_rng(2).random(SHAPE[:2]) < 0.4
    np.testing.assert_array_equal(load_cube(cube), clean)
    np.testing.assert_array_equal(load_cube(cube.crop(rx=(2, 9), qy=(3, 17))), clean[2:9, :, :, 3:17])
    np.testing.assert_array_equal(load_cube(cube, where=where), clean[where])
    assert load_cube(cube, where=np.zeros(SHAPE[:2], bool)).shape == (0, *SHAPE[2:])


@pytest.mark.parametrize("memory", ["20 MB", "2 MB", "400 kB"])
def test_memory_and_threads_change_nothing(memory, monkeypatch, tmp_path):
    monkeypatch.setenv("GPU4D_THREADS", "3")
    monkeypatch.setattr(tiles, "TILE_BYTES", 4 * counts()[0, 0].nbytes)
    np.testing.assert_array_equal(load_cube(stored(tmp_path, counts(), chunks=(3, 4, 24, 20)), memory=memory), counts())


def test_arrays_where_they_lie_are_given_as_they_are(need):
    data = counts()
    assert load_cube(gpu4d.DataCube(data)) is data
    xp = need("array_api_strict")
    there = xp.asarray(counts("int32"))
    assert load_cube(gpu4d.DataCube(there)) is there
    part = load_cube(gpu4d.DataCube(there).crop(qx=(2, 9)), where=np.eye(*SHAPE[:2]) > 0)
    assert type(part) is type(there)
    np.testing.assert_array_equal(np.asarray(part), counts("int32")[np.eye(*SHAPE[:2]) > 0][:, 2:9])


@pytest.mark.parametrize("name", ["torch", "jax.numpy", "array_api_strict"])
def test_patterns_of_other_libraries_stay_there(name, need):
    """Those of JAX cannot be written to, and are joined."""
    xp = need(name)
    there, bad = xp.asarray(counts("int32")), np.eye(*SHAPE[2:]) > 0
    found = load_cube(gpu4d.DataCube(there).corrected(bad_pixels=bad))
    assert type(found) is type(there) and found.dtype == there.dtype
    np.testing.assert_array_equal(gpu4d.arrays.to_numpy(found), fill_from_neighbours(counts("int32"), ~bad))


def test_what_is_held_is_the_cube_and_the_buffers_on_the_way():
    """To the byte on the device; what Python asks of the system for the whole of it."""
    device, shape = AccountingProcessor(), (64, 48, 64, 64)
    data = np.random.default_rng(0).integers(0, 1000, shape, "uint16")
    load_cube(gpu4d.DataCube(VirtualSource(device, (4, 4, 64, 64), "uint16")), device=device)
    source = VirtualSource(device, shape, "uint16", fill=lambda rows, columns: data[rows, columns])
    tracemalloc.start()
    found = load_cube(gpu4d.DataCube(source), device=device, memory=data.nbytes + (12 << 20))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, data)
    assert 8 << 20 <= device.peak <= 12 << 20 and not device.faults and not device.leaks()
    assert held <= data.nbytes + device.peak + device.pinned_peak + OF_PYTHON, f"{held / 1e6:.2f} MB"
    assert device.counts["bytes copied"] == data.nbytes + 16 * 64 * 64 * 2


def test_the_least_memory_and_a_byte_less():
    device = AccountingProcessor()
    cube = gpu4d.DataCube(VirtualSource(device, (64, 48, 64, 64), "uint16"))
    with pytest.raises(MemoryBudgetError, match=r"loading 3072 patterns of 64×64 uint16 on accounting:0 needs .* crop or bin") as refused:
        load_cube(cube, device=device, memory="1 MB")
    least = refused.value.asked
    tile = plan(cube, {"all": LoadedPatterns()}, device=device, memory=least).tile_bytes
    assert cube.nbytes + tile <= least <= cube.nbytes + tile + 100_000, "the cube, one tile on the way, tables"
    assert device.counts["bytes read"] == 0, "nothing is read before it is known to fit"
    np.testing.assert_array_equal(load_cube(cube, device=device, memory=least), cube.source.whole)
    assert device.peak == tile
    with pytest.raises(MemoryBudgetError) as refused:
        load_cube(cube, device=device, memory=least - 1)
    assert (refused.value.asked, refused.value.cap) == (least, least - 1) and refused.value.free > least


def test_a_device_with_too_little_memory_refuses_by_default():
    """Without memory= half of what is free may be taken."""
    device = AccountingProcessor(memory=40e6)
    cube = gpu4d.DataCube(VirtualSource(device, (64, 48, 64, 64), "uint16"))
    with pytest.raises(MemoryBudgetError) as refused:
        load_cube(cube, device=device)
    assert refused.value.cap == 20_000_000 and refused.value.free == 40_000_000
    assert load_cube(cube.crop(rx=(0, 24)), device=device).shape == (24, 48, 64, 64)


def test_memory_that_runs_out_on_the_way():
    device = AccountingProcessor(failures=[("compute", 2), ("allocate", 4), ("copy", 3, MemoryError("as asked"))])
    source = VirtualSource(device, (64, 48, 64, 64), "uint16")
    np.testing.assert_array_equal(load_cube(gpu4d.DataCube(source), device=device), source.whole)
    assert not device.faults and not device.leaks()


def test_what_is_refused():
    with pytest.raises(InputError, match=r"the scan is a ndarray, need a DataCube"):
        load_cube(counts())
    with pytest.raises(InputError, match="one array lies on one device; name one"):
        load_cube(gpu4d.DataCube(counts()), device=[AccountingProcessor("a"), AccountingProcessor("b")])
    with pytest.raises(InputError, match=r"where is \(2, 2\), the scan is \(14, 11\)"):
        load_cube(gpu4d.DataCube(counts()), where=np.ones((2, 2), bool))
