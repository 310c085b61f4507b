"""Compressed HDF5 chunks decoded without the HDF5 library: equal to what was written, each read once."""

import ctypes
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from chunked_files import CHUNKINGS, COMPRESSING, FILTERS, SHAPE, check, chunks_of, counts, hdf5plugin, write

import gpu4d
from gpu4d.io.sources import chunked, codecs, scratch
from gpu4d.streaming.tiles import cut

# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", ["bool", "u1", "u2", "i4", "f4", "f8", ">u2", ">f2", ">f4"])
@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
def test_values_are_those_that_were_written(tmp_path, name, dtype, chunks):
    data = counts(dtype=dtype)
    source = write(tmp_path / "a.h5", data, chunks, name)
    ragged = any(n % c for n, c in zip(SHAPE, chunks))
    assert type(source).__name__ == ("LibrarySource" if ragged and name == "bitshuffle" else "ChunkedSource")
    assert source.blocks == chunks[:2]
    check(source, data)


@pytest.mark.parametrize("name", ["bitshuffle lz4", "bitshuffle zstd", "lz4", "shuffle gzip"])
@pytest.mark.parametrize("chunks", [(1, 16, 20), (7, 16, 20), (16, 16, 8)], ids=str)
def test_frames_with_a_scan_shape(tmp_path, name, chunks):
    data = counts((60, 16, 20))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("scan", data=data, chunks=chunks, **FILTERS[name]())
    check(gpu4d.open(tmp_path / "a.h5", scan_shape=(6, 10)).source, data.reshape(6, 10, 16, 20))


@pytest.mark.parametrize("name", ["bitshuffle lz4", "bitshuffle zstd"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_whole_blocks_are_decoded_where_they_belong(tmp_path, monkeypatch, name, dtype):
    """Patterns of whole bitshuffle blocks (8 KiB) need no buffer, whatever the cut; others do, and are as right."""
    data = counts((5, 6, 64, 128), dtype)
    source = write(tmp_path / "a.h5", data, (2, 4, 64, 128), name)
    asked = []
    original = scratch.Scratch.bytes
    monkeypatch.setattr(scratch.Scratch, "bytes", lambda self, kind, size: asked.append(kind) or original(self, kind, size))
    for rows, columns in [(slice(0, 5), slice(0, 6)), (slice(1, 4), slice(3, 5)), (slice(4, 5), slice(5, 6))]:
        np.testing.assert_array_equal(source.read(rows, columns), data[rows, columns])
    assert set(asked) == {"packed"}


@pytest.mark.parametrize("name", COMPRESSING)
def test_blocks_larger_than_a_tile_are_read_in_parts(tmp_path, name):
    data = counts((9, 11, 16, 16))
    source = write(tmp_path / "a.h5", data, (8, 8, 16, 16), name)
    for row in range(9):
        for columns in (slice(0, 3), slice(3, 11)):
            np.testing.assert_array_equal(source.read(slice(row, row + 1), columns), data[row : row + 1, columns])


@pytest.mark.parametrize("userblock", [512, 4096])
def test_user_block(tmp_path, userblock):
    data = counts()
    check(write(tmp_path / "a.h5", data, (4, 4, 8, 12), userblock_size=userblock), data)


@pytest.mark.parametrize("name", COMPRESSING)
def test_chunks_without_their_filters_and_chunks_never_written(tmp_path, name):
    expected = np.full(SHAPE, 5, np.uint16)
    expected[:4, :4], expected[4:, 8:] = counts((4, 4, 8, 12)), 2
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("scan", SHAPE, "u2", chunks=(4, 4, 8, 12), fillvalue=5, **FILTERS[name]())
        dataset[4:, 8:] = 2
        every = (1 << dataset.id.get_create_plist().get_nfilters()) - 1
        dataset.id.write_direct_chunk((0, 0, 0, 0), expected[:4, :4].tobytes(), filter_mask=every)
    check(gpu4d.open(tmp_path / "a.h5").source, expected)


def test_one_filter_of_two_left_out(tmp_path):
    expected = counts((2, 2, 8, 12))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("scan", expected.shape, "u2", chunks=(1, 2, 8, 12), shuffle=True, **hdf5plugin.LZ4())
        dataset[0] = expected[0]
        shuffled = np.ascontiguousarray(expected[1:].reshape(-1, 1).view(np.uint8).T).tobytes()
        dataset.id.write_direct_chunk((1, 0, 0, 0), shuffled, filter_mask=0b10)
    np.testing.assert_array_equal(gpu4d.open(tmp_path / "a.h5").source.read(slice(0, 2), slice(0, 2)), expected)


@pytest.mark.parametrize("name", ["shuffle gzip", "bitshuffle lz4", "bitshuffle", "shuffle lz4"])
def test_chunks_over_the_edge_stored_without_filters(tmp_path, name):
    """A dataset may be created so; its chunks do not say it."""
    try:
        set_options = ctypes.CDLL(h5py.h5z.__file__).H5Pset_chunk_opts
    except (OSError, AttributeError):
        pytest.skip("this build of h5py does not let ctypes call the HDF5 library")
    set_options.argtypes = [ctypes.c_int64, ctypes.c_uint]
    data = counts()
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        like = file.create_dataset("like", SHAPE, "u2", chunks=(4, 4, 8, 12), **FILTERS[name]())
        plist = like.id.get_create_plist()
        assert set_options(plist.id, 2) >= 0
        dataset = h5py.h5d.create(file.id, b"scan", h5py.h5t.NATIVE_UINT16, h5py.h5s.create_simple(SHAPE), dcpl=plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data)
    sizes = {offset: size for offset, _, size in chunks_of(tmp_path / "a.h5")}
    assert sizes[(4, 8, 0, 0)] == 4 * 4 * 8 * 12 * 2
    check(gpu4d.open(tmp_path / "a.h5", dataset="scan").source, data)


def test_without_the_codec_the_hdf5_library_reads_and_says_so(tmp_path, monkeypatch):
    def missing(name):
        raise codecs.CodecMissing(name)

    monkeypatch.setattr(codecs, "function", missing)
    source = write(tmp_path / "a.h5", data := counts(), (4, 4, 8, 12))
    assert type(source).__name__ == "LibrarySource" and "decoded by the HDF5 library" in source.description
    check(source, data)


def test_functions_that_are_not_there_are_missing(monkeypatch):
    monkeypatch.setitem(codecs.FUNCTIONS, "no_such_function", ("bshuf", ctypes.c_int, ()))
    monkeypatch.setitem(codecs.FUNCTIONS, "in_no_library", ("nothing", ctypes.c_int, ()))
    for name in ("no_such_function", "in_no_library"):
        with pytest.raises(codecs.CodecMissing, match=name):
            codecs.function(name)


# ---------------------------------------------------------------- each chunk once, many threads


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="reads are counted where the system has preadv")
@pytest.mark.parametrize("name", ["bitshuffle lz4", "lz4", "shuffle gzip", None])
@pytest.mark.parametrize("chunks", [(1, 1, 16, 16), (4, 4, 16, 16), (3, 5, 8, 16)], ids=str)
def test_every_byte_of_every_chunk_is_read_once_a_pass(tmp_path, monkeypatch, name, chunks):
    data = counts((12, 15, 16, 16))
    monkeypatch.setitem(FILTERS, None, dict)
    source = write(tmp_path / "a.h5", data, chunks, name)
    read = []

    def count(descriptor, buffers, offset, original=os.preadv):
        read.append((offset, sum(map(len, buffers))))
        return original(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", count)
    pieces = cut(source.shape, 16 * 16 * 2, source.blocks)
    for row in range(0, 12, pieces.rows):
        for column in range(0, 15, pieces.columns):
            rows, columns = slice(row, min(12, row + pieces.rows)), slice(column, min(15, column + pieces.columns))
            np.testing.assert_array_equal(source.read(rows, columns), data[rows, columns])
    times = np.zeros(os.path.getsize(tmp_path / "a.h5"), int)
    for offset, length in read:
        times[offset : offset + length] += 1
    expected = np.zeros_like(times)
    for _, offset, size in chunks_of(tmp_path / "a.h5"):
        expected[offset : offset + size] = 1
    if name is None and any(n % c for n, c in zip(data.shape, chunks)):
        assert (times <= expected).all()  # of plain chunks over the edge, only the part that is there
    else:
        np.testing.assert_array_equal(times, expected)


@pytest.mark.parametrize("name", ["bitshuffle lz4", "bitshuffle zstd", "lz4", "zstd", "blosc", "shuffle gzip"])
def test_many_threads_at_once(tmp_path, name):
    data = counts((32, 12, 16, 16))
    source = write(tmp_path / "a.h5", data, (4, 4, 16, 16), name)

    def right(i):
        rows, columns = slice(i % 32, i % 32 + 1), slice(i % 5, 12 - i % 3)
        return np.array_equal(source.read(rows, columns), data[rows, columns])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(256)))


def test_threads_keep_buffers_of_their_own_and_use_them_again():
    first = chunked.scratch.bytes("packed", 1000)
    assert np.shares_memory(first, chunked.scratch.bytes("packed", 500))
    with ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(first, pool.submit(chunked.scratch.bytes, "packed", 1000).result())


@pytest.mark.parametrize("name", FILTERS)
def test_sources_travel_by_pickle(tmp_path, name):
    data = counts()
    source = write(tmp_path / "a.h5", data, (3, 5, 8, 12), name)
    check(pickle.loads(pickle.dumps(source)), data)
