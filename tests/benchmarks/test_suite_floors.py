"""The floors of the benchmark suite: what they move is right, what they count is what they move, and a wrong copy has no rate."""

import contextlib
import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cards import choosing
from gpu4d.benchmarks.suite import attainable, attainable_disk, attainable_links, words
from gpu4d.benchmarks.suite.workload import FLOOR, TIERS, Place, WrongAnswer, answer_digest

from gpu4d.device.choose import cpu_threads

SMALL = {"MiB": 1, "caches": 0}


@pytest.fixture
def place(tmp_path):
    return Place(np, False, "cpu", tmp_path)


def answer(prepared):
    """Call it as a run does, and return the arrays that are checked."""
    if prepared.before:
        prepared.before()
    return prepared.arrays(prepared.call())


def test_words_are_known_without_reading_them():
    made = words.words(np, 3 << 20, seed=5)
    assert made.words == made.array.size == 3 << 17
    assert made.sum == int(made.array.sum(dtype=np.uint64))
    assert int(words.equal_to_made(made.array, 5)) == made.words
    assert int(words.equal_to_made(words.words(np, 3 << 20, seed=6).array, 5)) < 10, "another seed gives other words"
    pages = made.array.reshape(-1, words.PAGE_WORDS)
    assert len(np.unique(pages, axis=0)) == len(pages), "no two pages are the same"


def test_sums_of_words_wrap_around(place):
    rng = np.random.default_rng(0)
    for n in (0, 1, 7, 4097, 100_003):
        array = rng.integers(0, 2**64, n, dtype=np.uint64)
        assert int(words.sum_of_words(place, array)) == sum(map(int, array)) % 2**64


def test_every_tier_has_a_size(place):
    found = attainable.floors(place)
    assert list(found) == ["copy", "read", "fft", "gemm", "gemm64", "host_to_device", "disk_cold", "disk_warm", "decode_lz4"]
    for key, floor in found.items():
        assert floor.key == key and floor.part == FLOOR and floor.unit in ("B/s", "flop/s")
        assert set(floor.sizes) == {"quick", *TIERS}
    assert "no link" in found["host_to_device"].title


def test_arrays_are_beyond_all_caches(place, monkeypatch):
    monkeypatch.setattr(attainable, "caches", lambda: {"L2": {"bytes": 1 << 20, "number": 16}, "L3": {"bytes": 96 << 20, "number": 2}})
    monkeypatch.setattr("gpu4d.device.memory.available_memory", lambda: 1 << 40)
    assert attainable.array_bytes(place, attainable.ARRAYS["S"]) == 4 * 2 * 96 << 20
    assert attainable.array_bytes(place, attainable.ARRAYS["quick"]) == 16 << 20
    monkeypatch.setattr("gpu4d.device.memory.available_memory", lambda: 4 << 30)
    assert attainable.array_bytes(place, attainable.ARRAYS["S"]) == 512 << 20, "an eighth of the free memory at most"


def test_amounts_are_what_is_moved(place):
    assert attainable.copy(place, SMALL, 1).amount == 2 << 20, "read and written"
    assert attainable.read(place, SMALL, 1).amount == 1 << 20
    product = attainable.product("float32")(place, {"rows": 64}, 1)
    assert product.amount == 2 * 64**3
    assert attainable.FFT_FLOPS == 2.5 * 16384 * 14


@pytest.mark.parametrize("key", ["copy", "read", "gemm", "gemm64", "disk_cold", "disk_warm", "decode_lz4"])
def test_a_floor_is_checked_and_answers_the_same_again(place, key):
    small = {"gemm": {"rows": 96}, "gemm64": {"rows": 96}, "decode_lz4": {"chunks": 16}}.get(key, SMALL)
    prepared = attainable.floors(place)[key].make(place, small, 3)
    first, second = answer(prepared), answer(prepared)
    assert prepared.check(first).values > 0
    assert answer_digest(first) == answer_digest(second)
    if prepared.close:
        prepared.close()
    assert not list(place.folder.iterdir()), "no file is left"


def test_the_entry_of_the_result_file(place):
    prepared = attainable.copy(place, SMALL, 1)
    entry = attainable.entry(attainable.FLOORS[0], prepared, [[0.5, 0.25], [0.125]])
    assert entry["value"] == 4 * (2 << 20), "amount over the median of all passes"
    assert entry["unit"] == "B/s" and entry["amount"] == 2 << 20 and entry["samples"] == [[0.5, 0.25], [0.125]]
    measured = attainable.measure(attainable.FLOORS[0], place, "quick", calls=3)
    assert measured["value"] > 0 and len(measured["samples"][0]) == 3


@pytest.mark.slow
def test_transforms_are_checked(place):
    prepared = attainable.fft(place, {"transforms": 8}, 3)
    check = prepared.check(answer(prepared))
    assert check.error < 1e-6
    assert prepared.amount == cpu_threads() * attainable.PLANES * max(1, 8 // (2 * cpu_threads())) * attainable.FFT_FLOPS


# ---------------------------------------------------------------- wrong answers have no rate


def test_a_copy_that_leaves_something_out(place, monkeypatch):
    prepared = attainable.copy(place, SMALL, 1)
    prepared.check(answer(prepared))
    monkeypatch.setattr(attainable, "in_pieces", lambda work, n: work(slice(0, n - words.PAGE_WORDS)))
    with pytest.raises(WrongAnswer, match="word by word"):
        prepared.check(answer(prepared))


def test_a_copy_that_does_nothing_the_second_time(place, monkeypatch):
    prepared = attainable.copy(place, SMALL, 1)
    prepared.check(answer(prepared))
    monkeypatch.setattr(attainable, "in_pieces", lambda work, n: None)
    with pytest.raises(WrongAnswer):
        prepared.check(answer(prepared))


def test_a_sum_that_misses_a_word(place):
    prepared = attainable.read(place, SMALL, 1)
    good = answer(prepared)
    prepared.check(good)
    with pytest.raises(WrongAnswer):
        prepared.check({"sum": good["sum"] + np.uint64(1)})


def test_a_product_at_reduced_precision(place):
    """Ten bits of mantissa, as of TF32, are not single precision."""
    prepared = attainable.product("float32")(place, {"rows": 64}, 1)
    good = answer(prepared)
    prepared.check(good)
    with pytest.raises(WrongAnswer, match="float64"):
        prepared.check({"rows": good["rows"].astype(np.float16)})


def test_a_file_with_a_changed_byte(place):
    prepared = attainable_disk.disk_cold(place, {"MiB": 1}, 1)
    prepared.check(answer(prepared))
    with open(place.folder / "floor-cold.bin", "r+b") as file:
        file.seek(777_777)
        byte = file.read(1)
        file.seek(777_777)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(WrongAnswer):
        prepared.check(answer(prepared))
    prepared.close()


def test_a_file_that_became_shorter(place):
    prepared = attainable_disk.disk_cold(place, {"MiB": 1}, 1)
    os.truncate(place.folder / "floor-cold.bin", 1000)
    prepared.before()
    with pytest.raises(OSError, match="before its 1048576 bytes"):
        prepared.call()
    prepared.close()


@pytest.mark.parametrize("way", attainable_disk.WAYS, ids=str)
def test_every_way_of_reading_reads_all(tmp_path, way):
    from concurrent.futures import ThreadPoolExecutor

    made = words.words(np, 9 << 20, seed=2)
    file = attainable_disk.ColdFile(tmp_path / "a.bin", made.array)
    if way.direct in file._files:
        file.drop()
        with ThreadPoolExecutor(way.threads) as pool:
            assert np.array_equal(file.read(way, pool), made.array)
    file.close()


def test_a_file_system_that_keeps_files_in_memory_is_not_called_cold(place, monkeypatch):
    counter = iter([100, 100])  # bytes that came from a disk, before and after
    monkeypatch.setattr(attainable_disk, "bytes_from_disk", lambda: next(counter))
    prepared = attainable_disk.disk_cold(place, {"MiB": 1}, 1)
    assert prepared.cache == "page cache: this file system does not drop pages"
    prepared.close()


# ---------------------------------------------------------------- on a GPU


@pytest.fixture
def gpu(tmp_path):
    import cupy

    return Place(cupy, True, "cuda:0", Path(tmp_path))


@pytest.mark.gpu
@pytest.mark.parametrize("floor", attainable_links.HOST, ids=lambda floor: floor.key)
def test_links_copy_every_word(gpu, floor):
    prepared = floor.make(gpu, {"MiB": 1}, 1)
    assert prepared.amount == 1 << 20
    assert prepared.check(answer(prepared)).values == 1 << 17
    prepared.check(answer(prepared))


@pytest.mark.gpu
@pytest.mark.parametrize("key", ["copy", "read", "fft", "gemm"])
def test_floors_of_a_gpu(gpu, key, monkeypatch):
    monkeypatch.setattr(attainable, "GPU_TIMES", 1)
    monkeypatch.setattr(words, "GPU_BLOCKS", 1)
    small = {"gemm": {"rows": 96}, "fft": {"transforms": 16}}.get(key, SMALL)
    prepared = attainable.floors(gpu)[key].make(gpu, small, 3)
    prepared.check(answer(prepared))


@pytest.mark.gpu
def test_words_are_the_same_on_a_gpu(gpu):
    here, there = (words.words(xp, 2 << 20, 4) for xp in (np, gpu.xp))
    assert np.array_equal(there.array.get(), here.array) and (here.sum, here.digest) == (there.sum, there.digest)


# ---------------------------------------------------------------- two cards, of host memory


class DeviceArray(np.ndarray):
    """An array whose address is where CuPy has it."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


@pytest.fixture
def two_cards(tmp_path):
    """A place with two cards; `copied` lists (from, to) of the copies between them, and `lost` bytes are left out at the end of each."""
    copied, state = [], SimpleNamespace(lost=0)

    def peer(target, to, source, of, nbytes, stream):
        copied.append((of, to))
        ctypes.memmove(target, source, nbytes - state.lost)

    class Device(contextlib.nullcontext):
        def synchronize(self):
            pass

    runtime = SimpleNamespace(
        memcpyPeerAsync=peer, deviceCanAccessPeer=lambda i, j: 1, deviceEnablePeerAccess=lambda j: None, CUDARuntimeError=RuntimeError
    )
    stream = SimpleNamespace(ptr=0, synchronize=lambda: None)
    cuda = SimpleNamespace(runtime=runtime, Device=Device, get_current_stream=lambda: stream)

    def empty(shape, dtype):
        return np.empty(shape, dtype).view(DeviceArray)

    xp = SimpleNamespace(cuda=cuda, uint64=np.uint64, zeros_like=np.zeros_like, asarray=np.asarray, arange=np.arange, empty=empty)
    return Place(xp, True, "cuda:0", tmp_path), copied, state


def test_cards_copy_to_each_other(two_cards, monkeypatch):
    place, copied, state = two_cards
    monkeypatch.setattr(choosing, "cuda_devices", lambda: 2)
    pairs = [floor for floor in attainable_links.floors() if floor.key.startswith("device_to_device")]
    assert [floor.key for floor in pairs] == ["device_to_device 0-1", "device_to_device 1-0"]
    prepared = pairs[1].make(place, {"MiB": 1}, 1)
    assert prepared.check(answer(prepared)).values == 1 << 17
    assert copied == [(1, 0)] and prepared.implementation.endswith("card to card") and prepared.amount == 1 << 20
    state.lost = 8 * words.PAGE_WORDS
    with pytest.raises(WrongAnswer, match="word by word"):
        prepared.check(answer(prepared))
